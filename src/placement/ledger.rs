//! Who holds what. No clock and no I/O: times are spans since an arbitrary start, given by the caller.

use super::event::{InstanceId, RequestId, Want};
use crate::runtime::Claim;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Everything that holds memory, from before its start until its exit is known.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// All that may be held together.
    pub budget: Claim,
    /// By instance, so that iteration has one order.
    pub entries: BTreeMap<InstanceId, Entry>,
}

/// One instance of a tenant.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What it serves and occupies.
    pub want: Want,
    /// What it does.
    pub state: State,
    /// Requests being answered.
    pub leases: usize,
    /// When its start began.
    pub started: Duration,
    /// When it last gained a lease, or became ready.
    pub granted: Duration,
    /// When its last lease ended, or it became ready.
    pub released: Duration,
    /// The youngest request there was when it became ready. Those who waited for a load are served by it even when
    /// somebody older wants the room, or interleaved requests for two models would swap once a request.
    pub batch: RequestId,
    /// It makes room for somebody older: no younger request is admitted.
    pub closed: bool,
    /// It ends with its last lease, whoever asks.
    pub retired: bool,
    /// It starts, and those who waited for it have left. It goes on, unless somebody else wants the room.
    pub abandoned: bool,
}

/// What an instance does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It starts.
    Loading,
    /// It answers.
    Ready,
    /// It was told to stop and has not ended yet.
    Stopping,
}

impl Entry {
    /// An instance whose start begins now.
    pub fn loading(want: Want, now: Duration) -> Self {
        Self {
            want,
            state: State::Loading,
            leases: 0,
            started: now,
            granted: now,
            released: now,
            batch: 0,
            closed: false,
            retired: false,
            abandoned: false,
        }
    }

    /// It was told to stop.
    pub fn stop(&mut self) {
        self.state = State::Stopping;
        self.abandoned = false;
    }

    /// Whether nobody uses it, so that it could be stopped at once.
    pub fn is_idle(&self) -> bool {
        self.abandoned || (self.state == State::Ready && self.leases == 0)
    }

    /// Whether its memory is on the way back already.
    pub fn is_going(&self) -> bool {
        self.state == State::Stopping || self.retired
    }

    /// Whether a request could be served at once, as long as nobody older minds.
    pub fn has_slot(&self) -> bool {
        self.state == State::Ready && !self.retired && self.leases < self.want.slots
    }
}

impl Ledger {
    /// The instance that serves `want`, or soon will.
    pub fn live(&self, want: &Want) -> Option<(InstanceId, &Entry)> {
        self.entries
            .iter()
            .find(|(_, entry)| entry.want.is_same(want) && !entry.is_going())
            .map(|(id, entry)| (*id, entry))
    }

    /// What all instances hold, except those in `without`.
    pub fn held(&self, without: &BTreeSet<InstanceId>) -> Claim {
        let mut held = Claim::default();
        for (_, entry) in self.entries.iter().filter(|(id, _)| !without.contains(id)) {
            held.add(&entry.want.claim);
        }
        held
    }

    /// What nobody holds.
    pub fn free(&self) -> Claim {
        let mut free = self.budget.clone();
        free.take(&self.held(&BTreeSet::new()));
        free
    }

    /// Which instances must go so that `need` fits, besides those in `going`: idle ones first, the longest idle of
    /// them first; then busy ones, the one that gained no lease for the longest time first. None when that is not
    /// enough.
    ///
    /// Busy ones go by their last gain, not by their last end: a closed one gains no more, so it stays the first
    /// choice until it is idle, and two busy ones do not take turns at draining.
    pub fn victims(&self, need: &Claim, going: &BTreeSet<InstanceId>) -> Option<Vec<InstanceId>> {
        let mut candidates: Vec<_> = self
            .entries
            .iter()
            .filter(|(id, entry)| (entry.state == State::Ready || entry.abandoned) && !going.contains(id))
            .map(|(id, entry)| (entry.leases > 0, if entry.leases > 0 { entry.granted } else { entry.released }, *id))
            .collect();
        candidates.sort_unstable();
        let mut candidates = candidates.into_iter().map(|(_, _, id)| id);

        let mut gone = going.clone();
        let mut chosen = Vec::new();
        let fits = |gone: &BTreeSet<InstanceId>| {
            let mut total = self.held(gone);
            total.add(need);
            total.fits(&self.budget)
        };
        while !fits(&gone) {
            let next = candidates.next()?;
            gone.insert(next);
            chosen.push(next);
        }
        // A later, larger victim may have made an earlier one's sacrifice pointless; spare the last used first.
        for id in chosen.clone().into_iter().rev() {
            gone.remove(&id);
            if fits(&gone) {
                chosen.retain(|kept| *kept != id);
            } else {
                gone.insert(id);
            }
        }
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Instances of (ram, leases, granted or released) under a budget; which go so that `need` fits?
    #[track_caller]
    fn check(budget: u64, instances: &[(u64, usize, u64)], need: u64, expected: Option<&[InstanceId]>) {
        let mut ledger = Ledger { budget: Claim { ram: budget, ..Claim::default() }, ..Ledger::default() };
        for (id, (ram, leases, at)) in instances.iter().enumerate() {
            let claim = Claim { ram: *ram, ..Claim::default() };
            let want = Want { model: id.to_string().into(), version: "".into(), claim, slots: 4 };
            let at = Duration::from_secs(*at);
            let entry = Entry { state: State::Ready, leases: *leases, ..Entry::loading(want, at) };
            ledger.entries.insert(id as InstanceId, entry);
        }
        let need = Claim { ram: need, ..Claim::default() };
        assert_eq!(ledger.victims(&need, &BTreeSet::new()).as_deref(), expected);
    }

    #[test]
    fn what_goes_to_make_room() {
        // Nothing, where it fits.
        check(10, &[(5, 0, 1)], 5, Some(&[]));
        // The longest idle.
        check(10, &[(5, 0, 2), (5, 0, 1)], 5, Some(&[1]));
        // Idle before busy, whatever the age.
        check(10, &[(5, 1, 1), (5, 0, 9)], 5, Some(&[1]));
        // Busy where it must be.
        check(10, &[(5, 1, 1), (5, 0, 9)], 6, Some(&[1, 0]));
        // Not the small old one, when the large one has to go anyway.
        check(10, &[(1, 0, 1), (9, 0, 2)], 9, Some(&[1]));
        // Not possible.
        check(10, &[(5, 0, 1)], 11, None);
    }
}
