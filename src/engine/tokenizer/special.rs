use super::vocabulary::{Role, Vocabulary};
use super::{Special, Token};

/// Finds tokens that stand for themselves in a text: a trie over their spellings.
#[derive(Debug)]
pub(super) struct Specials {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    /// Sorted by byte.
    children: Vec<(u8, u32)>,
    token: Option<(Token, Role)>,
}

/// A part of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fragment<'t> {
    Token(Token),
    Text(&'t str),
}

impl Specials {
    pub(super) fn new(vocabulary: &Vocabulary) -> Specials {
        let mut specials = Specials { nodes: vec![Node::default()] };
        for token in vocabulary.tokens() {
            let role = vocabulary.role(token);
            let spelling = vocabulary.spelling(token);
            // A spelling that is no UTF-8 could cut a character in two.
            if matches!(role, Role::Control | Role::UserDefined | Role::Unknown) && str::from_utf8(spelling).is_ok() {
                specials.insert(spelling, token, role);
            }
        }
        specials
    }

    fn insert(&mut self, spelling: &[u8], token: Token, role: Role) {
        // An empty spelling would be found everywhere.
        if spelling.is_empty() {
            return;
        }
        let mut node = 0;
        for &byte in spelling {
            let children = &self.nodes[node].children;
            node = match children.binary_search_by_key(&byte, |&(byte, _)| byte) {
                Ok(at) => children[at].1 as usize,
                Err(at) => {
                    let new = self.nodes.len();
                    self.nodes[node].children.insert(at, (byte, new as u32));
                    self.nodes.push(Node::default());
                    new
                }
            };
        }
        self.nodes[node].token.get_or_insert((token, role));
    }

    /// The text in parts: of special tokens that overlap the leftmost, of those the longest. Plain text has user-defined
    /// tokens only.
    pub(super) fn split<'t>(&self, text: &'t str, special: Special) -> Vec<Fragment<'t>> {
        let mut fragments = Vec::new();
        let (mut start, mut at) = (0, 0);
        while at < text.len() {
            match self.longest(&text.as_bytes()[at..], special) {
                Some((token, len)) => {
                    if start < at {
                        fragments.push(Fragment::Text(&text[start..at]));
                    }
                    fragments.push(Fragment::Token(token));
                    at += len;
                    start = at;
                }
                None => at += 1,
            }
        }
        if start < text.len() {
            fragments.push(Fragment::Text(&text[start..]));
        }
        fragments
    }

    /// The longest token that `bytes` begin with, and its length.
    fn longest(&self, bytes: &[u8], special: Special) -> Option<(Token, usize)> {
        let mut node = &self.nodes[0];
        let mut found = None;
        for (at, byte) in bytes.iter().enumerate() {
            let Ok(child) = node.children.binary_search_by_key(byte, |&(byte, _)| byte) else { break };
            node = &self.nodes[node.children[child].1 as usize];
            match node.token {
                Some((token, role)) if special == Special::Parse || role == Role::UserDefined => {
                    found = Some((token, at + 1));
                }
                _ => {}
            }
        }
        found
    }
}
