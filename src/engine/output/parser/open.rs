//! A call on its way: what of it is known, what can be told, and that it may turn out to be text.

use super::{Parser, Piece, State};
use crate::engine::output::call::{self, Call, Head, Scan};
use crate::engine::output::marks::Form;
use std::mem;

/// The longest name of a tool with what stands around it.
const LONGEST_NAME: usize = 256;
/// Where a block of code ends.
const FENCE: &str = "```";

/// A call on its way.
#[derive(Debug)]
pub(super) struct Open {
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
    pub(super) fn open(&mut self, form: Form, body: usize) {
        let arguments = if self.incremental { Arguments::Unknown } else { Arguments::Whole };
        self.state = State::Call(Open { form, raw: String::new(), body, scan: Scan::at(body), arguments });
    }

    pub(super) fn call(&mut self, mut open: Open) -> bool {
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
                    let calls = self.tools.block(&body[..len]);
                    self.close(open, end, calls)
                }
                None if self.tools.may_be_block(begun) => {
                    self.state = State::Call(open);
                    false
                }
                None => self.is_text(open),
            },
            Form::List => match open.scan.end(&open.raw, true) {
                Some(end) => {
                    let calls = self.tools.block(&open.raw[open.body..end]);
                    self.close(open, end, calls)
                }
                None if self.tools.may_be_list(begun) => {
                    self.state = State::Call(open);
                    false
                }
                None => self.is_text(open),
            },
        }
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
                    if !self.tools.has(&name) {
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
                let call = call::read(&open.raw[open.body..end]).filter(|call| self.tools.has(&call.name));
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
            if !self.tools.has(&name) {
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

    pub(super) fn finish_call(&mut self, open: Open) {
        let body = open.raw[open.body..].trim();
        let calls = match (&open.arguments, open.form) {
            // What came of it was told.
            (Arguments::Told { .. }, _) => return,
            (_, Form::Rest) => self.tools.block(body).or_else(|| self.tools.code(body)),
            (_, Form::Fenced | Form::List) => self.tools.block(body),
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
}
