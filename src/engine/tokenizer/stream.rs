/// Makes text of bytes that come in pieces: a character may begin in one and end in the next.
#[derive(Debug, Default)]
pub struct Utf8Stream {
    /// The beginning of a character, three bytes at most.
    pending: Vec<u8>,
}

impl Utf8Stream {
    /// Takes more bytes and adds the text that is complete to `text`. What can be no text becomes U+FFFD.
    pub fn push(&mut self, bytes: &[u8], text: &mut String) {
        self.pending.extend(bytes);
        let mut rest = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            rest += chunk.valid().len();
            let invalid = chunk.invalid();
            // The last chunk may be a character that is not yet complete.
            if rest + invalid.len() == self.pending.len() && may_continue(invalid) {
                break;
            }
            if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
                rest += invalid.len();
            }
        }
        self.pending.drain(..rest);
    }

    /// The text of what is left when no more bytes come: U+FFFD for a character that was not completed.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }

    /// Whether a character was begun and not yet completed.
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }
}

/// Whether `bytes`, which are no text, begin a character.
fn may_continue(bytes: &[u8]) -> bool {
    matches!(str::from_utf8(bytes), Err(error) if error.valid_up_to() == 0 && error.error_len().is_none())
}
