//! Constrained decoding: an answer is what a JSON schema, a regular expression or a grammar allows.
//!
//! `llguidance` does the work: it compiles a grammar, and tells after each token which may be next. What is ours is to
//! bound it ([`Grammars`]: the size of a grammar, the number that are kept, the time until one is ready; [`overlap`]: what meets in
//! it; [`masks`]: the time of a step), to keep its work beside the forward pass ([`Constraint`]), and to say where a schema is
//! wrong ([`place`]).

mod constraint;
mod gbnf;
mod masks;
mod overlap;
mod place;
mod trie;

#[cfg(test)]
pub(super) mod tests;

pub use constraint::Constraint;

use super::stack;
use super::tokenizer::{Token, Tokenizer};
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::{Matcher, ParserFactory};
use masks::Masks;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The most bytes of a schema as JSON: OpenAI's allow about half of it.
const MAX_SCHEMA: usize = 256 << 10;
/// The most bytes of an expression or a grammar, without the schemas in it: what a long one takes grows with the square.
const MAX_GRAMMAR: usize = 32 << 10;
/// How long whoever asks for a grammar waits for it. Real ones take milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most levels of a schema: what is written out by programs has some twenty.
const MAX_DEPTH: usize = 100;
/// Compiled grammars that are kept. They were not used yet, so that each is little more than its text.
const KEPT: usize = 64;
/// The most characters of a message, which may quote a grammar.
const MAX_MESSAGE: usize = 200;
/// Lexer states of one answer, of about 1 KiB each.
const MAX_STATES: usize = 50_000;

/// A grammar as it was asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// JSON that this schema allows.
    Schema(Value),
    /// Text that this regular expression matches from its beginning to its end.
    Regex(String),
    /// Text that a grammar in `llguidance`'s variant of Lark derives from `start`.
    Lark(String),
    /// Text that a grammar in llama.cpp's notation derives from `root`.
    Gbnf(String),
}

/// Why a grammar cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Where in a schema, such as `.properties.age`; empty for the whole.
    pub place: String,
    /// What is wrong there.
    pub message: String,
}

/// What compiles the grammars of one model, and keeps those that were used last.
pub struct Grammars {
    shared: Arc<Shared>,
    patience: Duration,
}

/// What those share who ask and those who compile.
struct Shared {
    tokenizer: Arc<Tokenizer>,
    /// Made when the first grammar comes: it takes a part of a second, and most models never see one.
    factory: OnceLock<Result<Factory, String>>,
    /// The one used last at the end.
    kept: Mutex<VecDeque<(String, Arc<Grammar>)>>,
    /// Whether one is compiled: many at once would take more memory than one.
    busy: Mutex<bool>,
    free: Condvar,
}

/// The right to compile.
struct Turn(Arc<Shared>);

struct Factory {
    parsers: ParserFactory,
    masks: Masks,
}

/// A grammar that is ready for answers.
pub struct Grammar {
    start: Mutex<Matcher>,
    masks: Masks,
}

/// What follows a token that may come anywhere in an answer, such as that by which a model begins a call of a tool.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The token.
    pub mark: Token,
    /// What follows, each time that it comes.
    pub grammar: Arc<Grammar>,
    /// Whether the answer is complete with the first.
    pub once: bool,
}

impl Grammars {
    /// For a model of this vocabulary.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        let (factory, kept, busy, free) = (OnceLock::new(), Mutex::default(), Mutex::default(), Condvar::new());
        Self { shared: Arc::new(Shared { tokenizer, factory, kept, busy, free }), patience: PATIENCE }
    }

    /// The model's tokens.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.shared.tokenizer
    }

    /// Makes a grammar ready, or finds it where it was used a short while ago. Takes milliseconds, and more for the
    /// first one; one that takes too long is refused, and kept if it comes to its end nevertheless.
    ///
    /// # Errors
    /// It is wrong, too large, takes too long, or needs what is not supported.
    pub fn compile(&self, source: &Source) -> Result<Arc<Grammar>, Error> {
        let key = source.key();
        for (bytes, most) in [(key.len(), MAX_SCHEMA), (source.grammar_bytes(), MAX_GRAMMAR)] {
            if bytes > most {
                let message = format!("it has {bytes} bytes, more than the {most} that are supported");
                return Err(Error::whole(&message));
            }
        }
        if let Source::Schema(schema) = source {
            place::check_depth(schema, MAX_DEPTH)?;
        }
        if let Some(grammar) = self.shared.find(&key) {
            return Ok(grammar);
        }
        let deadline = Instant::now() + self.patience;
        let late = |what: &str| Error::whole(&format!("{what} longer than the {:?} that are supported", self.patience));
        let turn = Turn::take(&self.shared, deadline).ok_or_else(|| late("others are being made ready for"))?;
        // Somebody else may have been at it.
        if let Some(grammar) = self.shared.find(&key) {
            return Ok(grammar);
        }
        let source = source.clone();
        let compile = move || turn.0.make(key, &source);
        let made = stack::with_room_until("grammar", deadline, compile).map_err(|problem| Error::whole(&problem))?;
        made.unwrap_or_else(|| Err(late("to make it ready takes")))
    }
}

impl Shared {
    fn make(&self, key: String, source: &Source) -> Result<Arc<Grammar>, Error> {
        match source {
            Source::Schema(schema) => overlap::check_schema(schema)?,
            Source::Lark(lark) => overlap::check_lark(lark)?,
            Source::Regex(_) | Source::Gbnf(_) => {}
        }
        let factory = self.factory.get_or_init(|| Factory::new(&self.tokenizer));
        let factory = factory.as_ref().map_err(|problem| Error::whole(problem))?;
        let start = match (factory.compile(source), source) {
            (Err(error), Source::Schema(schema)) => {
                Err(place::locate(schema, &error.message, |part| factory.check(part)))
            }
            (compiled, _) => compiled,
        }?;
        let grammar = Arc::new(Grammar { start: Mutex::new(start), masks: factory.masks.clone() });
        let mut kept = lock(&self.kept);
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back((key, grammar.clone()));
        Ok(grammar)
    }

    fn find(&self, key: &str) -> Option<Arc<Grammar>> {
        let mut kept = lock(&self.kept);
        let at = kept.iter().position(|(kept, _)| kept == key)?;
        let found = kept.remove(at)?;
        let grammar = found.1.clone();
        kept.push_back(found);
        Some(grammar)
    }
}

impl Turn {
    /// Waits for it; none if it does not come in time.
    fn take(shared: &Arc<Shared>, deadline: Instant) -> Option<Self> {
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = shared.free.wait_timeout_while(lock(&shared.busy), left, |busy| *busy);
        let (mut busy, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let is_free = !std::mem::replace(&mut *busy, true);
        is_free.then(|| Self(shared.clone()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *lock(&self.0.busy) = false;
        self.0.free.notify_one();
    }
}

impl Error {
    /// That the whole is wrong.
    fn whole(message: &str) -> Self {
        Self { place: String::new(), message: message.to_string() }
    }
}

impl Source {
    /// A grammar in either notation.
    pub fn of_grammar(text: &str) -> Self {
        if text.contains("::=") { Self::Gbnf(text.into()) } else { Self::Lark(text.into()) }
    }

    /// What tells grammars apart.
    fn key(&self) -> String {
        match self {
            Source::Schema(schema) => format!("schema {schema}"),
            Source::Regex(regex) => format!("regex {regex}"),
            Source::Lark(lark) => format!("lark {lark}"),
            Source::Gbnf(gbnf) => format!("gbnf {gbnf}"),
        }
    }

    /// The bytes of what is no schema.
    fn grammar_bytes(&self) -> usize {
        match self {
            Source::Schema(_) => 0,
            Source::Regex(text) | Source::Gbnf(text) => text.len(),
            Source::Lark(lark) => {
                lark.len().saturating_sub(overlap::within(lark).map(|(_, bytes)| bytes).sum::<usize>())
            }
        }
    }

    fn grammar(&self) -> Result<TopLevelGrammar, Error> {
        Ok(TopLevelGrammar::from_grammar(match self {
            Source::Schema(schema) => GrammarWithLexer::from_json_schema(with_options(schema)),
            Source::Regex(regex) => GrammarWithLexer::from_regex(unanchored(regex)),
            Source::Lark(lark) => GrammarWithLexer::from_lark(lark.clone()),
            Source::Gbnf(gbnf) => GrammarWithLexer::from_lark(gbnf::to_lark(gbnf)?),
        }))
    }
}

/// The schema with how it is to be read: at most a line break and an indentation between two tokens, as a model that
/// has lost its way writes spaces for ever; and of `oneOf` any.
pub(super) fn with_options(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Value::Object(fields) = &mut schema {
        let options = json!({"whitespace_pattern": "[\\x20\\x0A\\x0D\\x09]{1,48}", "coerce_one_of": true});
        fields.insert("x-guidance".into(), options);
    }
    schema
}

/// The expression without `^` and `$` around it, which say what goes without saying.
pub(super) fn unanchored(regex: &str) -> &str {
    let regex = regex.strip_prefix('^').unwrap_or(regex);
    match regex.strip_suffix('$') {
        Some(rest) if rest.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 0 => rest,
        _ => regex,
    }
}

impl Factory {
    fn new(tokenizer: &Tokenizer) -> Result<Self, String> {
        let mut parsers =
            ParserFactory::new_simple(&trie::environment(tokenizer)).map_err(|error| error.to_string())?;
        parsers.quiet();
        let limits = parsers.limits_mut();
        limits.verbose_errors = false;
        limits.max_lexer_states = MAX_STATES;
        let masks = Masks::start().map_err(|error| format!("no thread for masks: {error}"))?;
        Ok(Self { parsers, masks })
    }

    fn compile(&self, source: &Source) -> Result<Matcher, Error> {
        let matcher = Matcher::new(self.parsers.create_parser(source.grammar()?));
        match matcher.get_error() {
            Some(error) => Err(Error { place: String::new(), message: brief(&error) }),
            None => Ok(matcher.into_cancellable()),
        }
    }

    /// What is wrong with a part of a schema.
    fn check(&self, schema: &Value) -> Option<String> {
        self.compile(&Source::Schema(schema.clone())).err().map(|error| error.message)
    }
}

/// The first line, as what follows is a trace or a picture, with the error that stands under a picture.
fn brief(message: &str) -> String {
    let mut lines = message.trim().lines();
    let first: String = lines.next().unwrap_or("it cannot be read").chars().take(MAX_MESSAGE).collect();
    match lines.find_map(|line| line.strip_prefix("error: ")) {
        Some(error) => format!("{first} {error}"),
        None => first,
    }
}

impl Grammar {
    /// The state of an answer that has not begun.
    pub fn begin(&self) -> Constraint {
        // Not shared: what the lexer learns in one answer is forgotten with it, so that memory stays bounded.
        Constraint::new(lock(&self.start).deep_clone(), self.masks.clone())
    }
}

/// A compiled grammar is whole whatever happened to whoever held it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Grammars {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Grammars").field("kept", &lock(&self.shared.kept).len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Grammar").finish_non_exhaustive()
    }
}
