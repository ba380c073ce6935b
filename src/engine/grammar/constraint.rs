use super::masks::{Done, Masks};
use crate::engine::{Error, tokenizer::Token};
use llguidance::Matcher;
use std::fmt;
use std::sync::mpsc::Receiver;

/// Which tokens may come next in one answer.
///
/// That takes up to some milliseconds to find out, so a thread does it while the model computes how probable they are.
pub struct Constraint {
    state: State,
    masks: Masks,
}

enum State {
    Here(Box<Matcher>),
    Away(Receiver<Done>),
    /// The thread that had it is no more.
    Lost,
}

impl Constraint {
    pub(super) fn new(matcher: Matcher, masks: Masks) -> Self {
        let state = State::Away(masks.ask(Box::new(matcher)));
        Self { state, masks }
    }

    /// Makes impossible in `row` (`[vocabulary]`) what may not come next. To be called once before each
    /// [`accept`](Self::accept).
    ///
    /// # Errors
    /// The grammar became too complex, or the model has no token for what must follow.
    pub fn restrict(&mut self, row: &mut [f32]) -> Result<(), Error> {
        let State::Away(done) = std::mem::replace(&mut self.state, State::Lost) else {
            return Err(Error::Request("the grammar was lost".into()));
        };
        let done = self.masks.wait(&done);
        let (matcher, mask) = done.ok_or_else(|| Error::Request("the grammar's thread died".into()))?;
        self.state = State::Here(matcher);
        let mask =
            mask.map_err(|problem| Error::Request(format!("the answer cannot follow its grammar: {problem}")))?;
        let mut left = false;
        for (at, logit) in row.iter_mut().enumerate() {
            if at < mask.len() && mask.is_allowed(at as Token) {
                left = true;
            } else {
                *logit = f32::NEG_INFINITY;
            }
        }
        match left {
            true => Ok(()),
            false => Err(Error::Request("no token of the model goes on as the grammar demands".into())),
        }
    }

    /// Notes that `token` was chosen. Returns whether the answer is complete, so that nothing may follow.
    ///
    /// # Errors
    /// The token was not allowed.
    pub fn accept(&mut self, token: Token) -> Result<bool, Error> {
        let State::Here(mut matcher) = std::mem::replace(&mut self.state, State::Lost) else {
            return Err(Error::Request("the grammar was lost".into()));
        };
        let accepted = matcher.consume_token(token);
        accepted.map_err(|error| Error::Request(format!("the grammar fails: {}", super::brief(&error.to_string()))))?;
        let over = matcher.is_stopped();
        self.state = if over { State::Here(matcher) } else { State::Away(self.masks.ask(matcher)) };
        Ok(over)
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Constraint").finish_non_exhaustive()
    }
}
