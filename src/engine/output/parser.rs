use super::call::{self, Call, Head, Scan};
use super::marks::{Form, marks, may_become};
use super::{Calls, Format, Opening, THINK, python};
use std::mem;

/// What a model that is given code calls it.
const CODE_TOOLS: [&str; 3] = ["python", "code_interpreter", "ipython"];
/// The longest name of a tool with what stands around it.
const LONGEST_NAME: usize = 256;
/// Where a block of code ends.
const FENCE: &str = "```";

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// More of what the model thinks.
    Reasoning(String),
    /// More of what it says.
    Text(String),
    /// A tool is called: its name.
    Call(String),
    /// More of the arguments of that call, which are JSON.
    Arguments(String),
}

/// Tells the parts of an answer that comes piece by piece.
///
/// What looks like a call and is none stays text. Where arguments are told as they come, a call whose end is broken was
/// told already; its caller finds that its arguments are no JSON.
#[derive(Debug)]
pub struct Parser {
    /// None where the model was told of no tools.
    calls: Option<Calls>,
    tools: Vec<String>,
    /// Whether arguments are told as they come, or calls when they are complete.
    incremental: bool,
    state: State,
    /// What is not decided.
    held: String,
    /// Whether no text came yet: there, spaces may be those after a thought, and a bracket may begin a call.
    fresh: bool,
    after_thought: bool,
    called: bool,
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum State {
    /// The answer has not begun, and may begin with a thought.
    Opening,
    Reasoning,
    Text,
    Call(Open),
    /// After a call, before what closes it or separates it from the next.
    After(Form),
}

/// A call on its way.
#[derive(Debug)]
struct Open {
    form: Form,
    /// All of it, to be text if it is no call.
    raw: String,
    /// Where what is scanned begins.
    body: usize,
    scan: Scan,
    arguments: Arguments,
}

/// What is known of the arguments.
#[derive(Debug)]
enum Arguments {
    /// Nothing yet.
    Unknown,
    /// They are known when the call is complete.
    Whole,
    /// They are told up to a place in the call, and end where the scan does.
    Told { upto: usize, scan: Scan, done: bool },
}

impl Parser {
    /// For an answer in this format to a prompt that offers `tools`, by their names.
    pub fn new(format: Format, opening: Opening, tools: Vec<String>, incremental: bool) -> Self {
        let state = match opening {
            Opening::Plain => State::Text,
            Opening::MayReason => State::Opening,
            Opening::Reasoning => State::Reasoning,
        };
        Self {
            calls: (!tools.is_empty()).then_some(format.calls),
            tools,
            incremental,
            state,
            held: String::new(),
            fresh: true,
            after_thought: false,
            called: false,
            pieces: Vec::new(),
        }
    }

    /// Whether a tool was called.
    pub fn has_called(&self) -> bool {
        self.called
    }

    /// Takes more of the answer and tells what is decided.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        while self.step() {}
        mem::take(&mut self.pieces)
    }

    /// Tells what was held back at the answer's end.
    pub fn finish(&mut self) -> Vec<Piece> {
        let held = mem::take(&mut self.held);
        match mem::replace(&mut self.state, State::Text) {
            State::Opening => self.text(&held),
            State::Reasoning => self.reasoning(held.trim_end()),
            // Spaces between and after calls are of no interest.
            State::Text | State::After(_) if self.called && held.trim().is_empty() => {}
            State::Text | State::After(_) => self.text(&held),
            State::Call(open) => self.finish_call(open),
        }
        mem::take(&mut self.pieces)
    }

    /// Goes on; says whether more may follow from what is held.
    fn step(&mut self) -> bool {
        match mem::replace(&mut self.state, State::Text) {
            State::Opening => self.opening(),
            State::Reasoning => self.reason(),
            State::Text => self.find_call(),
            State::Call(open) => self.call(open),
            State::After(form) => self.after(form),
        }
    }

    fn opening(&mut self) -> bool {
        let begun = self.held.trim_start();
        if let Some(rest) = begun.strip_prefix(THINK[0]) {
            self.held = rest.to_string();
            self.state = State::Reasoning;
        } else if THINK[0].starts_with(begun) {
            self.state = State::Opening;
            return false;
        }
        true
    }

    fn reason(&mut self) -> bool {
        if self.fresh {
            self.held = self.held.trim_start().to_string();
        }
        let end = self.held.find(THINK[1]);
        let length = end.unwrap_or_else(|| self.held.len() - may_become(&self.held, &[THINK[1]]));
        // Spaces before the mark are the mark's.
        let thought = self.held[..length].trim_end().to_string();
        self.held.drain(..thought.len());
        self.reasoning(&thought);
        match end {
            Some(_) => {
                self.held = self.held.trim_start()[THINK[1].len()..].to_string();
                (self.fresh, self.after_thought) = (true, true);
            }
            None => self.state = State::Reasoning,
        }
        end.is_some()
    }

    fn find_call(&mut self) -> bool {
        if self.fresh && self.after_thought {
            self.held = self.held.trim_start().to_string();
        }
        let Some(calls) = self.calls else {
            let held = mem::take(&mut self.held);
            self.text(&held);
            return false;
        };
        if self.fresh || self.called {
            let begun = self.held.trim_start();
            let form = match (begun.chars().next(), calls) {
                // Spaces may lead to a call.
                (None, _) => return false,
                (Some('{'), Calls::Hermes | Calls::Llama | Calls::Json) if self.fresh => Some(Form::Object("")),
                (Some('['), Calls::Json) if self.fresh => Some(Form::List),
                _ => None,
            };
            if let Some(form) = form {
                self.open(form, self.held.len() - begun.len());
                return true;
            }
        }
        let marks = marks(calls);
        let found = marks.iter().filter_map(|(mark, form)| Some((self.held.find(mark)?, *mark, *form)));
        if let Some((at, mark, form)) = found.min_by_key(|(at, mark, _)| (*at, usize::MAX - mark.len())) {
            // Spaces before a call are of no interest, but before what turns out to be none.
            let before: String = self.held.drain(..self.held[..at].trim_end().len()).collect();
            self.text(&before);
            self.open(form, at - before.len() + mark.len());
            return true;
        }
        let marks: Vec<&str> = marks.iter().map(|(mark, _)| *mark).collect();
        let kept = self.held.len() - may_become(&self.held, &marks);
        let length = self.held[..kept].trim_end().len();
        let text: String = self.held.drain(..length).collect();
        self.text(&text);
        false
    }

    fn open(&mut self, form: Form, body: usize) {
        let arguments = if self.incremental { Arguments::Unknown } else { Arguments::Whole };
        self.state = State::Call(Open { form, raw: String::new(), body, scan: Scan::at(body), arguments });
    }

    fn call(&mut self, mut open: Open) -> bool {
        open.raw.push_str(&mem::take(&mut self.held));
        let body = &open.raw[open.body..];
        let begun = body.trim_start();
        let Some(first) = begun.chars().next() else {
            self.state = State::Call(open);
            return false;
        };
        match open.form {
            Form::Marked => {
                let (form, skipped) = match first {
                    '[' => (Form::Listed, 1),
                    '{' => (Form::Object(""), 0),
                    _ => (Form::Named(""), 0),
                };
                open.form = form;
                open.body = open.raw.len() - begun.len() + skipped;
                open.scan = Scan::at(open.body);
                self.held = String::new();
                self.state = State::Call(open);
                true
            }
            Form::Object(_) | Form::Listed => self.object(open, first),
            Form::Named(close) => self.named(open, close),
            Form::Rest if first == '{' => {
                open.form = Form::Object("");
                self.object(open, first)
            }
            Form::Rest => {
                self.state = State::Call(open);
                false
            }
            Form::Fenced => match body.find(FENCE) {
                Some(len) => {
                    let end = open.body + len + FENCE.len();
                    let calls = self.block(&body[..len]);
                    self.close(open, end, calls)
                }
                None if self.may_be_block(begun) => {
                    self.state = State::Call(open);
                    false
                }
                None => self.is_text(open),
            },
            Form::List => match open.scan.end(&open.raw, true) {
                Some(end) => {
                    let calls = self.block(&open.raw[open.body..end]);
                    self.close(open, end, calls)
                }
                None if self.may_be_list(begun) => {
                    self.state = State::Call(open);
                    false
                }
                None => self.is_text(open),
            },
        }
    }

    /// Whether what a block begins with can be a call, so that other code flows.
    fn may_be_block(&self, block: &str) -> bool {
        let begins = |name: &str| name.starts_with(block) || block.starts_with(name);
        match block.as_bytes().first() {
            Some(b'{') => call::head(block) != Head::None,
            Some(b'[') => self.may_be_list(block),
            _ => begins("print(") || self.tools.iter().any(|tool| begins(tool)),
        }
    }

    /// Whether a list can be one of calls.
    fn may_be_list(&self, list: &str) -> bool {
        let inner = list[1..].trim_start();
        let begins = |name: &String| name.starts_with(inner) || inner.starts_with(name.as_str());
        inner.is_empty() || inner.starts_with('{') || self.tools.iter().any(begins)
    }

    fn object(&mut self, mut open: Open, first: char) -> bool {
        if first != '{' {
            return self.is_text(open);
        }
        let end = open.scan.end(&open.raw, false);
        if let Arguments::Unknown | Arguments::Whole = open.arguments {
            match call::head(&open.raw[open.body..]) {
                Head::None => return self.is_text(open),
                Head::Arguments(name, at) if self.incremental => {
                    if !self.tools.contains(&name) {
                        return self.is_text(open);
                    }
                    self.tell(Piece::Call(name));
                    let upto = open.body + at;
                    open.arguments = Arguments::Told { upto, scan: Scan::at(upto), done: false };
                }
                _ => {}
            }
        }
        self.tell_arguments(&mut open);
        match (end, &open.arguments) {
            (Some(end), Arguments::Told { .. }) => self.go_on(open, end),
            (Some(end), _) => {
                let call = call::read(&open.raw[open.body..end]).filter(|call| self.tools.contains(&call.name));
                self.close(open, end, call.map(|call| vec![call]))
            }
            (None, _) => {
                self.state = State::Call(open);
                false
            }
        }
    }

    /// `name[ARGS]{...}` and `name>{...}`.
    fn named(&mut self, mut open: Open, close: &'static str) -> bool {
        if let Arguments::Unknown | Arguments::Whole = open.arguments {
            let body = &open.raw[open.body..];
            let Some(at) = body.find('{') else {
                if body.len() > LONGEST_NAME {
                    return self.is_text(open);
                }
                self.state = State::Call(open);
                return false;
            };
            let name = body[..at].split(['[', '>']).next().unwrap_or_default().trim().to_string();
            if !self.tools.contains(&name) {
                return self.is_text(open);
            }
            let upto = open.body + at;
            if self.incremental {
                self.tell(Piece::Call(name));
                open.arguments = Arguments::Told { upto, scan: Scan::at(upto), done: false };
            } else {
                let Some(end) = Scan::at(upto).end(&open.raw, false) else {
                    self.state = State::Call(open);
                    return false;
                };
                let arguments = open.raw[upto..end].to_string();
                let valid = serde_json::from_str::<serde::de::IgnoredAny>(&arguments).is_ok();
                return self.close(open, end, valid.then(|| vec![Call { name, arguments }]));
            }
        }
        match (self.tell_arguments(&mut open), close) {
            (Some(end), _) => self.go_on(open, end),
            (None, _) => {
                self.state = State::Call(open);
                false
            }
        }
    }

    /// Tells what came of arguments that are told as they come; returns where they end, once they do.
    fn tell_arguments(&mut self, open: &mut Open) -> Option<usize> {
        let Arguments::Told { upto, scan, done: done @ false } = &mut open.arguments else { return None };
        let end = scan.end(&open.raw, false);
        let more = open.raw[*upto..end.unwrap_or(open.raw.len())].to_string();
        *upto += more.len();
        *done = end.is_some();
        if !more.is_empty() {
            self.tell(Piece::Arguments(more));
        }
        end
    }

    /// The call is complete, and is told unless it is none.
    fn close(&mut self, open: Open, end: usize, calls: Option<Vec<Call>>) -> bool {
        let Some(calls) = calls else { return self.is_text(open) };
        for call in calls {
            self.tell(Piece::Call(call.name));
            self.tell(Piece::Arguments(call.arguments));
        }
        self.go_on(open, end)
    }

    fn go_on(&mut self, open: Open, end: usize) -> bool {
        self.held = open.raw[end..].to_string();
        self.state = State::After(open.form);
        true
    }

    fn after(&mut self, form: Form) -> bool {
        let rest = self.held.trim_start();
        let close = match form {
            Form::Object(close) | Form::Named(close) => close,
            Form::Listed => "]",
            _ => "",
        };
        let next = match (rest.chars().next(), form) {
            (None, _) => {
                self.state = State::After(form);
                return false;
            }
            (Some(','), Form::Listed) => Some(Form::Listed),
            // Llama separates so, and some forget to.
            (Some(';' | ','), Form::Object("")) => Some(Form::Object("")),
            _ => None,
        };
        if let Some(form) = next {
            self.held = rest.to_string();
            self.open(form, 1);
            return true;
        }
        if let Some(rest) = rest.strip_prefix(close) {
            self.held = rest.to_string();
        } else if close.starts_with(rest) {
            self.state = State::After(form);
            return false;
        }
        self.fresh = close.is_empty() && self.held.trim_start().starts_with('{');
        true
    }

    /// It is no call: its mark or bracket is text, and a call may begin in what follows, however it was cut.
    fn is_text(&mut self, open: Open) -> bool {
        let mut end = open.body;
        if open.raw[..end].trim().is_empty() {
            let begun = open.raw.trim_start();
            end = open.raw.len() - begun.len() + begun.chars().next().map_or(0, char::len_utf8);
        }
        self.text(&open.raw[..end]);
        self.held = open.raw[end..].to_string();
        true
    }

    fn finish_call(&mut self, open: Open) {
        let body = open.raw[open.body..].trim();
        let calls = match (&open.arguments, open.form) {
            // What came of it was told.
            (Arguments::Told { .. }, _) => return,
            (_, Form::Rest) => self.block(body).or_else(|| self.code(body)),
            (_, Form::Fenced | Form::List) => self.block(body),
            _ => None,
        };
        match calls {
            Some(calls) => calls.into_iter().for_each(|call| {
                self.tell(Piece::Call(call.name));
                self.tell(Piece::Arguments(call.arguments));
            }),
            None => self.text(&open.raw),
        }
    }

    /// The calls in a block, if all are such.
    fn block(&self, text: &str) -> Option<Vec<Call>> {
        let calls = call::read_all(text.trim()).or_else(|| python::read(text.trim()))?;
        calls.iter().all(|call| self.tools.contains(&call.name)).then_some(calls)
    }

    /// Code, where there is a tool that runs it.
    fn code(&self, text: &str) -> Option<Vec<Call>> {
        let tool = CODE_TOOLS.iter().find(|tool| self.tools.iter().any(|known| known == *tool))?;
        let arguments = serde_json::json!({ "code": text }).to_string();
        Some(vec![Call { name: (*tool).into(), arguments }])
    }

    fn reasoning(&mut self, text: &str) {
        if !text.is_empty() {
            self.fresh = false;
            self.tell(Piece::Reasoning(text.into()));
        }
    }

    fn text(&mut self, text: &str) {
        if !text.is_empty() {
            self.fresh = false;
            self.tell(Piece::Text(text.into()));
        }
    }

    /// Adds a piece, to the one before it where both are alike.
    fn tell(&mut self, piece: Piece) {
        self.called |= matches!(piece, Piece::Call(_));
        match (self.pieces.last_mut(), piece) {
            (Some(Piece::Text(last)), Piece::Text(more))
            | (Some(Piece::Reasoning(last)), Piece::Reasoning(more))
            | (Some(Piece::Arguments(last)), Piece::Arguments(more)) => last.push_str(&more),
            (_, piece) => self.pieces.push(piece),
        }
    }
}
