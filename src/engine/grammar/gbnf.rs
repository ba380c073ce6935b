//! llama.cpp's notation for grammars, GBNF, as Lark.
//!
//! GBNF knows characters alone, Lark has terminals, which are matched as far as they go. So a rule becomes a terminal
//! where that makes no difference, which is where it does not lead back to itself, and so does what stands beside such
//! rules in a sequence.

use super::Error;
use std::collections::HashMap;
use std::fmt::Write;

/// A part of a rule.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    /// One character of a class, or those of a literal one after the other, as a regular expression.
    Characters(String),
    Rule(usize),
    /// A token by its name, as Lark writes it.
    Token(String),
    Sequence(Vec<Node>),
    Choice(Vec<Node>),
    Repeat(Box<Node>, u32, Option<u32>),
}

/// Rewrites a grammar.
///
/// # Errors
/// It is no GBNF: the message has the line.
pub(super) fn to_lark(gbnf: &str) -> Result<String, Error> {
    let parser = Parser { text: gbnf, at: 0, names: HashMap::new(), rules: Vec::new() };
    let rules = parser.grammar()?;
    let Some(root) = rules.names.get("root") else {
        return Err(Error { place: String::new(), message: "it has no rule that is named root".into() });
    };
    let mut writer = Writer { terminal: terminals(&rules.rules), lark: String::new(), terminals: 0 };
    let _ = writeln!(writer.lark, "start: {}", writer.name(*root));
    for (at, rule) in rules.rules.iter().enumerate() {
        let name = writer.name(at);
        let body = writer.node(rule, writer.terminal[at]);
        let _ = writeln!(writer.lark, "{name}: {body}");
    }
    Ok(writer.lark)
}

struct Rules<'t> {
    names: HashMap<&'t str, usize>,
    rules: Vec<Node>,
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    names: HashMap<&'t str, usize>,
    /// By number; none for those that were named only.
    rules: Vec<Option<Node>>,
}

impl<'t> Parser<'t> {
    fn grammar(mut self) -> Result<Rules<'t>, Error> {
        self.space(true);
        while self.at < self.text.len() {
            let name = self.name().ok_or_else(|| self.error("a rule must begin with its name"))?;
            let rule = self.number(name);
            self.space(false);
            if !self.eat("::=") {
                return Err(self.error("after a rule's name ::= must follow"));
            }
            if self.rules[rule].is_some() {
                return Err(self.error(&format!("the rule {name} is there twice")));
            }
            self.space(true);
            self.rules[rule] = Some(self.choice(false)?);
            self.space(true);
        }
        let missing = self.names.iter().find(|(_, rule)| self.rules[**rule].is_none());
        if let Some((name, _)) = missing {
            return Err(Error { place: String::new(), message: format!("there is no rule {name}") });
        }
        Ok(Rules { names: self.names, rules: self.rules.into_iter().flatten().collect() })
    }

    fn choice(&mut self, nested: bool) -> Result<Node, Error> {
        let mut choices = vec![self.sequence(nested)?];
        while self.eat("|") {
            self.space(true);
            choices.push(self.sequence(nested)?);
        }
        Ok(if choices.len() == 1 { choices.remove(0) } else { Node::Choice(choices) })
    }

    fn sequence(&mut self, nested: bool) -> Result<Node, Error> {
        let mut parts = Vec::new();
        while let Some(part) = self.element()? {
            let part = self.repeated(part)?;
            parts.push(part);
            self.space(nested);
        }
        Ok(Node::Sequence(parts))
    }

    fn element(&mut self) -> Result<Option<Node>, Error> {
        if let Some(name) = self.name() {
            return Ok(Some(Node::Rule(self.number(name))));
        }
        let node = match self.rest().chars().next() {
            Some('"') => self.literal()?,
            Some('[') => self.class()?,
            Some('.') => {
                self.at += 1;
                Node::Characters("(?s:.)".into())
            }
            Some('<') => {
                let len = self.rest().find('>').ok_or_else(|| self.error("a token has no end"))? + 1;
                let token = self.rest()[..len].to_string();
                self.at += len;
                Node::Token(token)
            }
            Some('(') => {
                self.at += 1;
                self.space(true);
                let inner = self.choice(true)?;
                if !self.eat(")") {
                    return Err(self.error("a group has no end"));
                }
                inner
            }
            _ => return Ok(None),
        };
        Ok(Some(node))
    }

    fn repeated(&mut self, node: Node) -> Result<Node, Error> {
        let (least, most) = match self.rest().chars().next() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => {
                let len = self.rest().find('}').ok_or_else(|| self.error("a repetition has no end"))?;
                let range = &self.rest()[1..len];
                let (least, most) = range.split_once(',').unwrap_or((range, range));
                let number = |text: &str| text.trim().parse::<u32>().ok();
                let least = number(least).ok_or_else(|| self.error("a repetition must have a number"))?;
                let most = match most.trim() {
                    "" => None,
                    most => Some(number(most).ok_or_else(|| self.error("a repetition must have a number"))?),
                };
                self.at += len;
                (least, most)
            }
            _ => return Ok(node),
        };
        self.at += 1;
        Ok(Node::Repeat(Box::new(node), least, most))
    }

    fn literal(&mut self) -> Result<Node, Error> {
        self.at += 1;
        let mut regex = String::new();
        loop {
            match self.rest().chars().next() {
                Some('"') => break,
                Some(_) => push(&mut regex, self.character()?),
                None => return Err(self.error("a literal has no end")),
            }
        }
        self.at += 1;
        Ok(Node::Characters(regex))
    }

    fn class(&mut self) -> Result<Node, Error> {
        self.at += 1;
        let mut regex = String::from(if self.eat("^") { "[^" } else { "[" });
        let begun = regex.len();
        loop {
            match self.rest().chars().next() {
                Some(']') => break,
                Some(_) => push(&mut regex, self.character()?),
                None => return Err(self.error("a class of characters has no end")),
            }
            if self.rest().starts_with('-') && !self.rest().starts_with("-]") {
                self.at += 1;
                regex.push('-');
                push(&mut regex, self.character()?);
            }
        }
        if regex.len() == begun {
            return Err(self.error("a class of characters is empty"));
        }
        self.at += 1;
        regex.push(']');
        Ok(Node::Characters(regex))
    }

    /// A character, which may be escaped.
    fn character(&mut self) -> Result<char, Error> {
        let mut chars = self.rest().chars();
        let (first, second) = (chars.next(), chars.next());
        let (char, len) = match (first, second) {
            (Some('\\'), Some(kind)) => {
                let digits = match kind {
                    'x' => 2,
                    'u' => 4,
                    'U' => 8,
                    _ => 0,
                };
                let char = match kind {
                    'n' => Some('\n'),
                    'r' => Some('\r'),
                    't' => Some('\t'),
                    '\\' | '"' | '[' | ']' | '-' | '^' => Some(kind),
                    'x' | 'u' | 'U' => {
                        let digits = self.rest().get(2..2 + digits);
                        digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).and_then(char::from_u32)
                    }
                    _ => None,
                };
                (char, 1 + kind.len_utf8() + digits)
            }
            (char, _) => (char, char.map_or(0, char::len_utf8)),
        };
        let char = char.ok_or_else(|| self.error("this is no escaped character"))?;
        self.at += len;
        Ok(char)
    }

    fn name(&mut self) -> Option<&'t str> {
        let rest = self.rest();
        let len = rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)).count();
        self.at += len;
        Some(&rest[..len]).filter(|name| !name.is_empty())
    }

    fn number(&mut self, name: &'t str) -> usize {
        let next = self.rules.len();
        let number = *self.names.entry(name).or_insert(next);
        if number == next {
            self.rules.push(None);
        }
        number
    }

    /// Skips spaces and comments; line breaks too where a rule goes on after them.
    fn space(&mut self, lines: bool) {
        loop {
            match self.rest().bytes().next() {
                Some(b' ' | b'\t') => self.at += 1,
                Some(b'#') => self.at += self.rest().find(['\n', '\r']).unwrap_or(self.rest().len()),
                Some(b'\n' | b'\r') if lines => self.at += 1,
                _ => return,
            }
        }
    }

    fn eat(&mut self, expected: &str) -> bool {
        let found = self.rest().starts_with(expected);
        self.at += if found { expected.len() } else { 0 };
        found
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn error(&self, message: &str) -> Error {
        let line = self.text[..self.at].matches('\n').count() + 1;
        let rest: String = self.rest().chars().take(20).collect();
        Error { place: String::new(), message: format!("line {line}, before {rest:?}: {message}") }
    }
}

/// Adds a character so that it stands for itself in an expression, within brackets and without, and between slashes.
fn push(regex: &mut String, char: char) {
    match char {
        'a'..='z' | 'A'..='Z' | '0'..='9' => regex.push(char),
        char => {
            let _ = write!(regex, "\\x{{{:X}}}", u32::from(char));
        }
    }
}

/// Which rules are terminals: those that lead to such rules alone, and not back to themselves.
fn terminals(rules: &[Node]) -> Vec<bool> {
    /// Of one rule: unknown yet while its own parts are looked at.
    fn visit(rules: &[Node], at: usize, known: &mut [Option<bool>]) -> bool {
        if let Some(known) = known[at] {
            return known;
        }
        known[at] = Some(false);
        let terminal = node(rules, &rules[at], known);
        known[at] = Some(terminal);
        terminal
    }
    fn node(rules: &[Node], part: &Node, known: &mut [Option<bool>]) -> bool {
        match part {
            Node::Characters(_) => true,
            Node::Token(_) => false,
            Node::Rule(rule) => visit(rules, *rule, known),
            Node::Repeat(inner, ..) => node(rules, inner, known),
            Node::Sequence(parts) | Node::Choice(parts) => parts.iter().all(|part| node(rules, part, known)),
        }
    }
    let mut known = vec![None; rules.len()];
    (0..rules.len()).map(|at| visit(rules, at, &mut known)).collect()
}

struct Writer {
    /// Which rules are terminals.
    terminal: Vec<bool>,
    lark: String,
    /// How many there are that have no rule.
    terminals: usize,
}

impl Writer {
    fn name(&self, rule: usize) -> String {
        format!("{}{rule}", if self.terminal[rule] { "R" } else { "r" })
    }

    fn is_terminal(&self, node: &Node) -> bool {
        match node {
            Node::Characters(_) => true,
            Node::Token(_) => false,
            Node::Rule(rule) => self.terminal[*rule],
            Node::Repeat(inner, ..) => self.is_terminal(inner),
            Node::Sequence(parts) | Node::Choice(parts) => parts.iter().all(|part| self.is_terminal(part)),
        }
    }

    /// A part as Lark writes it, `within` a terminal or not.
    fn node(&mut self, node: &Node, within: bool) -> String {
        if !within && self.is_terminal(node) && !matches!(node, Node::Rule(_)) {
            return self.separate(node);
        }
        match node {
            Node::Characters(regex) if regex.is_empty() => "\"\"".into(),
            Node::Characters(regex) => format!("/{regex}/"),
            Node::Rule(rule) => self.name(*rule),
            Node::Token(token) => token.clone(),
            Node::Sequence(parts) if parts.is_empty() => "\"\"".into(),
            Node::Sequence(parts) if within => {
                parts.iter().map(|part| self.node(part, true)).collect::<Vec<_>>().join(" ")
            }
            Node::Sequence(parts) => {
                let beside = |one: &Node, other: &Node| self.is_terminal(one) && self.is_terminal(other);
                let runs: Vec<&[Node]> = parts.chunk_by(beside).collect();
                let run = |run: &[Node]| match run {
                    [one] => self.node(one, false),
                    run => self.separate(&Node::Sequence(run.to_vec())),
                };
                runs.into_iter().map(run).collect::<Vec<_>>().join(" ")
            }
            Node::Choice(parts) => {
                let parts: Vec<String> = parts.iter().map(|part| self.node(part, within)).collect();
                format!("({})", parts.join(" | "))
            }
            Node::Repeat(inner, least, most) => {
                let inner = self.node(inner, within);
                match (least, most) {
                    (0, None) => format!("({inner})*"),
                    (1, None) => format!("({inner})+"),
                    (0, Some(1)) => format!("({inner})?"),
                    (least, None) => format!("({inner}){{{least},}}"),
                    (least, Some(most)) => format!("({inner}){{{least},{most}}}"),
                }
            }
        }
    }

    /// The name of a terminal of its own for a part.
    fn separate(&mut self, node: &Node) -> String {
        let body = self.node(node, true);
        self.terminals += 1;
        let name = format!("T{}", self.terminals);
        let _ = writeln!(self.lark, "{name}: {body}");
        name
    }
}
