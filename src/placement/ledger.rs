//! Who holds what. No clock and no I/O: times are spans since an arbitrary start, given by the caller.

use super::card::Card;
use super::event::{InstanceId, Observed, RequestId, Want};
use crate::runtime::{Claim, Rung, Variant};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// No memory at all.
pub static NOTHING: Claim = Claim { vram: BTreeMap::new(), ram: 0, threads: 0 };

/// Everything that holds memory, from before its start until its exit is known.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Bytes of host memory that may be held together.
    pub ram: u64,
    /// Threads that there are.
    pub threads: usize,
    /// The cards, by UUID.
    pub cards: BTreeMap<String, Card>,
    /// By instance, so that iteration has one order.
    pub entries: BTreeMap<InstanceId, Entry>,
}

/// One instance of a tenant.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What it serves.
    pub want: Arc<Want>,
    /// Which of the wanted variants it is.
    pub variant: usize,
    /// What it does.
    pub state: State,
    /// Since when.
    pub since: Duration,
    /// How it rests, or rested until it was told to rest more deeply or to stop.
    pub rested: Option<Rung>,
    /// What it may hold on its way to a rest, or from one: as much as at either end.
    pub between: Option<Claim>,
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
    /// Bytes of each card that it was seen to use.
    pub measured: BTreeMap<String, u64>,
    /// What was stopped to make room for it, to be brought back if its start fails.
    pub displaced: Vec<Arc<Want>>,
    /// It did not stop in time, and was killed.
    pub killed: bool,
    /// The steps by which it is made to give back what it holds beyond its grant.
    pub excess: Option<Excess>,
}

/// What an instance does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It starts.
    Loading,
    /// It answers.
    Ready,
    /// It is on its way to a rest.
    Settling(Rung),
    /// It rests.
    Resting(Rung),
    /// It comes back from its rest.
    Waking,
    /// It was told to stop and has not ended yet.
    Stopping,
}

/// A tenant that was seen to hold more than its grant.
#[derive(Debug, Clone, PartialEq)]
pub struct Excess {
    /// Since when.
    pub since: Duration,
    /// The step that was taken last: its place among the tenant's rungs, when, and under which number it is recorded.
    pub step: Option<Step>,
}

/// One step down.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Its place among the tenant's rungs.
    pub rung: usize,
    /// When it was taken.
    pub at: Duration,
    /// The number of its record.
    pub record: u64,
}

impl Entry {
    /// An instance whose start begins now.
    pub fn loading(want: Arc<Want>, variant: usize, now: Duration) -> Self {
        Self {
            want,
            variant,
            state: State::Loading,
            since: now,
            rested: None,
            between: None,
            leases: 0,
            started: now,
            granted: now,
            released: now,
            batch: 0,
            closed: false,
            retired: false,
            abandoned: false,
            measured: BTreeMap::new(),
            displaced: Vec::new(),
            killed: false,
            excess: None,
        }
    }

    /// How it runs.
    pub fn variant(&self) -> &Variant {
        &self.want.variants[self.variant]
    }

    /// It does something else from now on.
    pub fn enter(&mut self, state: State, now: Duration) {
        self.state = state;
        self.since = now;
        self.abandoned = false;
    }

    /// Goes to its rest. It must be idle, and what it takes more of host memory must be there.
    pub fn settle(&mut self, rung: Rung, now: Duration) {
        self.between = Some(self.both(rung));
        self.enter(State::Settling(rung), now);
    }

    /// Comes back from its rest.
    pub fn wake(&mut self, now: Duration) {
        self.between = self.rested.take().map(|rung| self.both(rung));
        self.enter(State::Waking, now);
    }

    fn both(&self, rung: Rung) -> Claim {
        let mut both = self.grant().clone();
        both.raise(self.residue(rung));
        both
    }

    /// What it may occupy in the state in which it is.
    pub fn grant(&self) -> &Claim {
        match (&self.between, self.rested) {
            (Some(both), _) => both,
            (None, Some(rung)) => self.residue(rung),
            (None, None) => &self.variant().claim,
        }
    }

    /// What it occupies, as far as that is known: its grant, and what it was seen to hold beyond.
    pub fn held(&self) -> Cow<'_, Claim> {
        self.at_least_measured(Cow::Borrowed(self.grant()))
    }

    fn at_least_measured<'a>(&self, mut held: Cow<'a, Claim>) -> Cow<'a, Claim> {
        for (gpu, measured) in &self.measured {
            if *measured > held.on(gpu) && held.vram.contains_key(gpu) {
                held.to_mut().vram.insert(gpu.clone(), *measured);
            }
        }
        held
    }

    /// What it will occupy once it has done what it was told.
    pub fn soon(&self) -> Cow<'_, Claim> {
        match self.state {
            State::Settling(rung) => Cow::Borrowed(self.residue(rung)),
            State::Stopping => Cow::Borrowed(&NOTHING),
            _ if self.retired => Cow::Borrowed(&NOTHING),
            State::Waking => self.at_least_measured(Cow::Borrowed(&self.variant().claim)),
            _ => self.held(),
        }
    }

    /// Bytes of host memory that going to rest so takes beyond what it holds.
    pub fn more_ram(&self, rung: Rung) -> u64 {
        self.residue(rung).ram.saturating_sub(self.held().ram)
    }

    /// What it occupies while it rests so.
    pub fn residue(&self, rung: Rung) -> &Claim {
        let rest = self.variant().rests.iter().find(|rest| rest.rung == rung);
        rest.map_or(&NOTHING, |rest| &rest.residue)
    }

    /// Whether nobody uses it, so that it could be stopped at once.
    pub fn is_idle(&self) -> bool {
        match self.state {
            State::Loading => self.abandoned,
            State::Ready => self.leases == 0,
            State::Resting(_) => true,
            State::Settling(_) | State::Waking | State::Stopping => false,
        }
    }

    /// Whether its memory is on the way back already, all of it.
    pub fn is_going(&self) -> bool {
        self.state == State::Stopping || self.retired
    }

    /// Whether a request could be served at once, as long as nobody older minds.
    pub fn has_slot(&self) -> bool {
        self.state == State::Ready && !self.retired && self.leases < self.variant().slots
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

    /// What all instances hold.
    pub fn held(&self) -> Claim {
        sum(self.entries.values().map(Entry::held))
    }

    /// Bytes of host memory that all instances hold.
    pub fn held_ram(&self) -> u64 {
        self.entries.values().map(|entry| entry.held().ram).sum()
    }

    /// What all instances will hold once they have done what they were told.
    pub fn soon(&self) -> Claim {
        sum(self.entries.values().map(Entry::soon))
    }

    /// What may be held now: what others use of the cards is not ours.
    pub fn budget(&self) -> Claim {
        self.claim(Card::budget)
    }

    /// What may be held as far as that is lasting: memory that a process has just given up shows as somebody else's until
    /// the driver has taken it back, and a plan must not rest on that.
    pub fn steady(&self) -> Claim {
        self.claim(Card::steady)
    }

    /// What may be held when nobody else uses the cards.
    pub fn whole(&self) -> Claim {
        self.claim(|card| card.whole)
    }

    fn claim(&self, of: impl Fn(&Card) -> u64) -> Claim {
        let vram = self.cards.iter().map(|(gpu, card)| (gpu.clone(), of(card))).collect();
        Claim { ram: self.ram, threads: self.threads, vram }
    }

    /// What nobody holds now.
    pub fn free(&self) -> Claim {
        let mut free = self.budget();
        free.take(&self.held());
        free
    }

    /// Takes in what was seen. Memory that others hold for less than `settles` may be on its way back.
    pub fn observe(&mut self, observed: &Observed, settles: Duration) {
        let Observed { taken, ram, threads, cards } = observed;
        (self.ram, self.threads) = (*ram, *threads);
        for (gpu, seen) in cards {
            let mut ours = 0_u64;
            for (id, entry) in &mut self.entries {
                // What was seen before it came to rest says nothing about its rest.
                let fresh = !matches!(entry.state, State::Resting(_)) || *taken > entry.since;
                let bytes = seen.measured.get(id).copied().filter(|_| fresh);
                match bytes {
                    Some(bytes) => drop(entry.measured.insert(gpu.clone(), bytes)),
                    None => drop(entry.measured.remove(gpu)),
                }
                // Of one that the card says nothing about, the grant is the best guess.
                ours = ours.saturating_add(bytes.unwrap_or_else(|| entry.grant().on(gpu)));
            }
            let foreign = seen.used.map_or(0, |used| used.saturating_sub(ours));
            self.cards.entry(gpu.clone()).or_default().see(seen.budget, foreign, *taken, settles);
        }
        for (gpu, card) in &mut self.cards {
            if !cards.contains_key(gpu) {
                card.miss(*taken);
            }
        }
    }

    /// Notes that memory was given back: what was seen before does not tell how much is free.
    pub fn gave_back(&mut self, claim: &Claim, now: Duration) {
        for gpu in claim.vram.keys() {
            if let Some(card) = self.cards.get_mut(gpu) {
                card.changed = Some(now);
            }
        }
    }

    /// Whether what is known of the cards in `claim` was seen after the last change.
    pub fn is_settled(&self, claim: &Claim) -> bool {
        claim.vram.keys().all(|gpu| self.cards.get(gpu).is_some_and(Card::is_settled))
    }
}

/// All together.
pub fn sum<'a>(claims: impl Iterator<Item = Cow<'a, Claim>>) -> Claim {
    let mut sum = Claim::default();
    claims.for_each(|claim| sum.add(&claim));
    sum
}
