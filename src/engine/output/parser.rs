mod open;

use super::marks::{Form, marks, may_become};
use super::tools::Tools;
use super::{Calls, Format, Opening, THINK};
use open::Open;
use std::mem;

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
    tools: Tools,
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
            tools: Tools::new(tools),
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
