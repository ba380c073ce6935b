//! An answer that streams, looked at as it passes.

use axum::body::Bytes;
use serde::Deserialize;

/// Bytes of one event that are held back until its end is seen. A longer one passes unseen.
const LONGEST: usize = 1 << 20;

/// Cuts a stream into its events.
#[derive(Debug)]
pub(super) struct Events {
    /// The beginning of an event.
    held: Vec<u8>,
    /// Whether the event that only tells the usage is kept from the caller.
    strip_usage: bool,
}

/// What was seen of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The tokens, as the runtime counted them.
    pub tokens: Option<Tokens>,
    /// Events that carried text. Of an answer that is cut off nobody tells the tokens; the native engine sends one a
    /// token, so they are the best count there is.
    pub pieces: u32,
    /// Whether it came to its proper end.
    pub done: bool,
    /// Whether the runtime itself said that it failed.
    pub failed: bool,
}

/// Usage, as far as we read it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Tokens {
    /// Of the prompt.
    #[serde(default)]
    pub prompt_tokens: u32,
    /// Of the answer.
    #[serde(default)]
    pub completion_tokens: u32,
}

/// An answer that came whole, or one event of a stream, as far as we read it.
#[derive(Debug, Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Tokens>,
    error: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    delta: Option<Delta>,
    text: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Delta {
    content: Option<String>,
    reasoning: Option<String>,
    tool_calls: Option<serde::de::IgnoredAny>,
}

impl Choice {
    fn has_text(&self) -> bool {
        let delta = self.delta.as_ref();
        let texts = delta.into_iter().flat_map(|delta| [&delta.content, &delta.reasoning]).flatten();
        self.text.iter().chain(texts).any(|text| !text.is_empty())
            || delta.is_some_and(|delta| delta.tool_calls.is_some())
    }
}

impl Events {
    /// A stream that has not begun.
    pub(super) fn new(strip_usage: bool) -> Self {
        Self { held: Vec::new(), strip_usage }
    }

    /// Takes what arrived and returns what may be passed on: the events that are complete.
    pub(super) fn pass(&mut self, arrived: &[u8], seen: &mut Seen) -> Bytes {
        self.held.extend_from_slice(arrived);
        let mut passed = Vec::with_capacity(self.held.len());
        let mut at = 0;
        while let Some(length) = event_length(&self.held[at..]) {
            let event = &self.held[at..at + length];
            if !seen.look(event) || !self.strip_usage {
                passed.extend_from_slice(event);
            }
            at += length;
        }
        self.held.drain(..at);
        if self.held.len() > LONGEST {
            passed.append(&mut self.held);
        }
        passed.into()
    }

    /// What is left when the stream has ended in the middle of an event.
    pub(super) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.held).into()
    }
}

impl Seen {
    /// Reads an answer that came whole.
    pub(super) fn whole(body: &[u8]) -> Self {
        let chunk: Option<Chunk> = serde_json::from_slice(body).ok();
        Self { tokens: chunk.and_then(|chunk| chunk.usage), done: true, ..Self::default() }
    }

    /// Looks at one event, and returns whether it tells the usage and nothing else.
    fn look(&mut self, event: &[u8]) -> bool {
        let lines = event.split(|byte| *byte == b'\n');
        let mut data = lines.filter_map(|line| line.strip_prefix(b"data:")).map(<[u8]>::trim_ascii);
        // OpenAI's events have one line of data each.
        let Some(data) = data.next() else { return false };
        if data == b"[DONE]" {
            self.done = true;
            return false;
        }
        let Ok(chunk) = serde_json::from_slice::<Chunk>(data) else { return false };
        self.tokens = chunk.usage.or(self.tokens);
        self.failed |= chunk.error.is_some();
        self.pieces = self.pieces.saturating_add(u32::from(chunk.choices.iter().any(Choice::has_text)));
        chunk.usage.is_some() && chunk.choices.is_empty()
    }
}

/// How long the first event is, its empty line included.
fn event_length(bytes: &[u8]) -> Option<usize> {
    let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    let mut line = 0;
    for end in ends {
        if matches!(&bytes[line..end], b"\n" | b"\r\n") {
            return Some(end);
        }
        line = end;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROLE: &str = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}],\"usage\":null}\n\n";
    const HI: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}]}\n\n";
    const TEXT: &str = ": keep-alive\n\ndata: {\"choices\":[{\"text\":\"Hi\"}]}\r\n\r\n";
    const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":1,\"x\":[]}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    /// Passes a stream in pieces that end at these places.
    fn pass(stream: &str, cuts: &[usize], strip: bool) -> (String, Seen) {
        let (mut events, mut seen, mut passed) = (Events::new(strip), Seen::default(), Vec::new());
        let mut at = 0;
        for cut in cuts.iter().copied().chain([stream.len()]) {
            passed.extend_from_slice(&events.pass(&stream.as_bytes()[at..cut.max(at)], &mut seen));
            at = cut.max(at);
        }
        passed.extend_from_slice(&events.rest());
        (String::from_utf8(passed).unwrap(), seen)
    }

    #[test]
    fn usage_is_seen_and_stripped() {
        let stream = [ROLE, HI, TEXT, USAGE, DONE].concat();
        let tokens = Some(Tokens { prompt_tokens: 5, completion_tokens: 1 });
        let seen = Seen { tokens, pieces: 2, done: true, failed: false };
        assert_eq!(pass(&stream, &[], false), (stream.clone(), seen));
        assert_eq!(pass(&stream, &[], true), ([ROLE, HI, TEXT, DONE].concat(), seen));
    }

    #[test]
    fn thoughts_and_calls_are_pieces_too() {
        let piece = |delta: &str| format!("data: {{\"choices\":[{{\"delta\":{delta}}}]}}\n\n");
        let thought = piece(r#"{"reasoning":"Hm","reasoning_content":"Hm"}"#);
        let call = piece(r#"{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}"#);
        let stream = [&*thought, &call, &piece("{}"), &piece(r#"{"content":null}"#), DONE].concat();
        assert_eq!(pass(&stream, &[], true), (stream.clone(), Seen { pieces: 2, done: true, ..Seen::default() }));
    }

    #[test]
    fn ends_are_told_apart() {
        let check = |stream: &str, expected: Seen| assert_eq!(pass(stream, &[], true), (stream.to_string(), expected));
        check("", Seen::default());
        check("data: {\"choi", Seen::default());
        check("data: {\"error\":{\"message\":\"x\"}}\n\n", Seen { failed: true, ..Seen::default() });
        check("data: not JSON\n\nevent: x\n\n\n", Seen::default());
        check(HI, Seen { pieces: 1, ..Seen::default() });
    }

    #[test]
    fn an_event_without_end_is_not_held_for_ever() {
        let (mut events, mut seen) = (Events::new(true), Seen::default());
        let long = vec![b'x'; LONGEST];
        assert_eq!(events.pass(&long, &mut seen).len(), 0);
        assert_eq!(events.pass(b"x", &mut seen).len(), LONGEST + 1);
    }

    proptest! {
        #[test]
        fn where_it_is_cut_does_not_matter(mut cuts in proptest::collection::vec(0..300_usize, 0..20), strip: bool) {
            let stream = [ROLE, HI, TEXT, USAGE, DONE].concat();
            cuts.iter_mut().for_each(|cut| *cut = (*cut).min(stream.len()));
            cuts.sort_unstable();
            prop_assert_eq!(pass(&stream, &cuts, strip), pass(&stream, &[], strip));
        }

        #[test]
        fn random_bytes_pass(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (mut events, mut seen) = (Events::new(true), Seen::default());
            let passed = [events.pass(&bytes, &mut seen), events.rest()].concat();
            prop_assert_eq!(passed, bytes);
        }
    }
}
