//! What an entry says, and the arithmetic of the chain.

use crate::config::Mode;
use crate::egress::consent::Scope;
use crate::egress::policy::Basis;
use crate::egress::wish::{Class, Initiator};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::net::IpAddr;

/// A SHA-256.
pub type Hash = [u8; 32];

/// What the first entry's hash covers in the place of the one before.
pub const GENESIS: Hash = [0; 32];

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// A name's addresses were asked for: written before the question leaves.
    LookedUp(Contact),
    /// A connection was begun: written before its first packet leaves.
    Opened {
        /// With whom, and for whom.
        #[serde(flatten)]
        contact: Contact,
        /// The address that was checked and dialled; none where somebody else (the Docker engine) dials for us.
        address: Option<IpAddr>,
        /// The entry of the question that gave the address, where it was a name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        looked_up: Option<u64>,
        /// SHA-256 of the body that was sent, where it was one that we held.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sent: Option<String>,
        /// Whether that body's text lay beside the ledger at first.
        #[serde(default, skip_serializing_if = "is_false")]
        text: bool,
    },
    /// A connection ended.
    Closed {
        /// The entry that opened it.
        opened: u64,
        /// Bytes that left, as the transport's payload.
        bytes_out: u64,
        /// Bytes that came.
        bytes_in: u64,
        /// How it ended.
        how: String,
    },
    /// Something wanted out and was not let.
    Refused {
        /// With whom, and for whom.
        #[serde(flatten)]
        contact: Contact,
        /// Why not.
        reason: String,
    },
    /// The owner allowed something.
    Allowed(Decision),
    /// The owner forbade something.
    Denied(Decision),
    /// The owner took a decision back.
    Revoked {
        /// The entry of the decision.
        decision: u64,
    },
    /// The switch was turned off: nothing leaves.
    Offline,
    /// The switch was turned on again.
    Online,
    /// The owner changed a class.
    Set {
        /// The class.
        class: Class,
        /// What it became.
        mode: Mode,
        /// What the configuration said then. When that says something else, it counts again.
        instead_of: Mode,
    },
    /// The text of what was sent was erased; its digest stays.
    Erased {
        /// The entry that it lay beside.
        opened: u64,
    },
}

/// Whom something is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// What for.
    pub class: Class,
    /// Who wanted it.
    pub initiator: Initiator,
    /// The host's name, or its address where it was asked for by that.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Why it could pass; none where it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<Basis>,
    /// What it is about, in a few words.
    pub what: String,
}

/// A decision of the owner's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// What it is about.
    #[serde(flatten)]
    pub scope: Scope,
    /// How long it holds.
    pub lasting: Lasting,
}

/// How long a decision holds, as the ledger has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lasting {
    /// For the undertaking that asked.
    Once,
    /// Until then, in milliseconds since 1970.
    Until(i64),
    /// Until it is revoked.
    Always,
}

fn is_false(it: &bool) -> bool {
    !it
}

impl Event {
    /// What its column is called.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::LookedUp(_) => "looked_up",
            Self::Opened { .. } => "opened",
            Self::Closed { .. } => "closed",
            Self::Refused { .. } => "refused",
            Self::Allowed(_) => "allowed",
            Self::Denied(_) => "denied",
            Self::Revoked { .. } => "revoked",
            Self::Offline => "offline",
            Self::Online => "online",
            Self::Set { .. } => "set",
            Self::Erased { .. } => "erased",
        }
    }
}

/// An event and its time: the body of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Milliseconds since 1970.
    pub at: i64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// A row of the ledger as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// 1, 2, 3, without a gap.
    pub seq: u64,
    /// The event's kind.
    pub kind: String,
    /// An [`Entry`] in JSON. Its bytes count, not what they mean.
    pub body: String,
    /// What [`link`] makes of the row.
    pub hash: Hash,
}

impl Row {
    /// What it says.
    ///
    /// # Errors
    /// When that is no entry.
    pub fn entry(&self) -> Result<Entry, serde_json::Error> {
        serde_json::from_str(&self.body)
    }
}

/// The hash of a row: of the one before it, of its place and of all that it says.
pub fn link(before: &Hash, seq: u64, body: &str) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update(before);
    hasher.update(seq.to_be_bytes());
    hasher.update(body.as_bytes());
    hasher.finalize().into()
}

/// The end of a chain: how many rows it has, and the last one's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Rows.
    pub count: u64,
    /// The last one's hash.
    pub hash: Hash,
}

impl Default for Head {
    fn default() -> Self {
        Self { count: 0, hash: GENESIS }
    }
}

impl Head {
    /// The next row, and the chain's end with it.
    pub fn next(&self, entry: &Entry) -> Result<Row, serde_json::Error> {
        let body = serde_json::to_string(entry)?;
        let seq = self.count + 1;
        Ok(Row { seq, kind: entry.event.kind().into(), hash: link(&self.hash, seq, &body), body })
    }
}

impl From<&Row> for Head {
    fn from(row: &Row) -> Self {
        Self { count: row.seq, hash: row.hash }
    }
}

/// Bytes as lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The hash that [`hex`] wrote.
pub fn unhex(text: &str) -> Option<Hash> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    let bytes: Vec<u8> = digits?.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
    if text.len() == 64 { bytes.try_into().ok() } else { None }
}
