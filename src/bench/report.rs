use super::{Machine, Protocol};
use serde::{Deserialize, Serialize};

/// The version of the form. A reader refuses others.
pub const SCHEMA: u32 = 1;

/// What one run measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The version of this form.
    pub schema: u32,
    /// The version of the program.
    pub sovereign: String,
    /// When, by RFC 3339.
    pub date: String,
    /// Where.
    pub machine: Machine,
    /// Of which model.
    pub model: Subject,
    /// By which protocol.
    pub protocol: Protocol,
    /// Seconds from nothing to a model that is ready, its file being in memory or not.
    pub load_seconds: f64,
    /// What came out.
    pub results: Vec<Measurement>,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The file's path.
    pub file: String,
    /// Its architecture.
    pub architecture: String,
    /// How its weights are stored.
    pub quantisation: String,
    /// How many there are.
    pub parameters: u64,
    /// Bytes of weights that a pass reads.
    pub bytes: u64,
}

/// What the time was taken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Test {
    /// Reading a prompt.
    Prefill,
    /// Writing, a token at a time.
    Decode,
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Of what.
    pub test: Test,
    /// Tokens of each stream that were timed.
    pub tokens: usize,
    /// Tokens that lay in the cache before.
    pub depth: usize,
    /// Streams at once.
    pub streams: usize,
    /// Of all streams together: the median of the repetitions.
    pub tokens_per_second: f64,
    /// The fastest less the slowest repetition, as a part of the median.
    pub spread: f64,
    /// Weights, keys and values that are read for a token.
    pub bytes_per_token: f64,
    /// Tokens a second if there were nothing to do but to read those bytes as fast as memory gives them, or to compute as fast
    /// as the processor's instructions go, whichever takes longer; absent where either is not known, as on cards.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub roofline: Option<f64>,
    /// What part of that was reached.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub roofline_fraction: Option<f64>,
}

impl Report {
    /// Reads a report.
    ///
    /// # Errors
    /// When it is none, or of another version.
    pub fn parse(text: &str) -> Result<Report, String> {
        #[derive(Deserialize)]
        struct Versioned {
            schema: u32,
        }
        let Versioned { schema } = serde_json::from_str(text).map_err(|error| format!("no report: {error}"))?;
        if schema != SCHEMA {
            return Err(format!("a report of version {schema}; this program reads version {SCHEMA}"));
        }
        serde_json::from_str(text).map_err(|error| format!("no report: {error}"))
    }
}

/// A figure in two reports.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// In the first.
    pub before: Measurement,
    /// In the second.
    pub after: Measurement,
}

impl Change {
    /// How many times as fast the second is.
    pub fn ratio(&self) -> f64 {
        self.after.tokens_per_second / self.before.tokens_per_second
    }
}

/// The figures that both reports have, in the order of the first.
pub fn compare(before: &Report, after: &Report) -> Vec<Change> {
    let key = |row: &Measurement| (row.test as u8, row.tokens, row.depth, row.streams);
    let pair = |row: &Measurement| {
        let after = after.results.iter().find(|other| key(other) == key(row))?;
        Some(Change { before: row.clone(), after: after.clone() })
    };
    before.results.iter().filter_map(pair).collect()
}
