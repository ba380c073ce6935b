use crate::runtime::Rung;
use std::collections::VecDeque;
use std::time::Duration;

/// Records that are kept.
const KEPT: usize = 50;

/// Something that was done to a tenant which it did not ask for.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its number.
    pub id: u64,
    /// When.
    pub at: Duration,
    /// To whom.
    pub model: String,
    /// What.
    pub rung: Rung,
    /// Why.
    pub cause: Cause,
    /// When the memory was seen to be free; none while it is not.
    pub confirmed: Option<Duration>,
}

/// Why something was done.
#[derive(Debug, Clone, PartialEq)]
pub enum Cause {
    /// It held more than it may.
    Excess {
        /// Bytes that it was seen to hold.
        measured: u64,
        /// Bytes that it may hold.
        granted: u64,
    },
    /// Others use so much that our own does not fit any more.
    Pressure,
    /// The card is not there any more.
    Lost,
    /// It did not do what it was told in time.
    Deaf,
}

/// What was done of late, the newest first.
#[derive(Debug, Clone, Default)]
pub struct Records {
    last: u64,
    kept: VecDeque<Record>,
    /// Records of those that have ended, whose memory was not seen to be free yet.
    ended: Vec<(u64, Duration)>,
}

impl Records {
    /// Adds one, and says its number.
    pub fn add(&mut self, at: Duration, model: &str, rung: Rung, cause: Cause) -> u64 {
        self.last += 1;
        let record = Record { id: self.last, at, model: model.to_string(), rung, cause, confirmed: None };
        self.kept.push_front(record);
        self.kept.truncate(KEPT);
        self.last
    }

    /// The newest first.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.kept.iter()
    }

    /// What the record is about has ended at `now`.
    pub fn ended(&mut self, id: u64, now: Duration) {
        self.ended.push((id, now));
    }

    /// The memory was seen to be free.
    pub fn confirm(&mut self, id: u64, now: Duration) {
        if let Some(record) = self.kept.iter_mut().find(|record| record.id == id) {
            record.confirmed.get_or_insert(now);
        }
    }

    /// All that ended before the cards were last seen settled is confirmed.
    pub fn settle(&mut self, now: Duration) {
        for (id, _) in std::mem::take(&mut self.ended) {
            self.confirm(id, now);
        }
    }
}
