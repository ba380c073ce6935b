//! The planner: events in, effects out. Pure: no clock, no I/O, and the same events at the same times always have the
//! same effects. Times are spans since an arbitrary start.
//!
//! Waiting requests are looked at from the oldest to the youngest, after every event. One whose model is ready is
//! served; one whose model is not gets it loaded, or woken, as soon as it fits. Where it does not fit, room is made: idle
//! models rest or are stopped, and busy ones, after a patience that grows with what a swap costs, are closed to requests
//! younger than the one that waits, so that a model that is asked for without end cannot keep another out. What an older
//! request is promised, a younger one cannot take.

mod decide;
mod ends;
mod enforce;
mod limits;

pub use limits::Limits;

use super::Refusal;
use super::event::{Effect, Event, Hold, InstanceId, ModelName, RequestId, Want};
use super::ledger::{Entry, Ledger, NOTHING, State, sum};
use super::queue::{Queue, Waiter};
use super::record::{Record, Records};
use super::room::{Room, Way};
use crate::runtime::{Claim, Variant};
use decide::Decision;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Failures in a row after which a model is left alone.
const FAILURES: u32 = 3;
/// How long it is left alone.
const COOL_DOWN: Duration = Duration::from_secs(60);
/// A tenant that ran for this long before it ended begins a new row of failures.
const STABLE: Duration = Duration::from_secs(60);
/// For how long a model whose better variant failed is not tried with it again.
const REDUCED_FOR: Duration = Duration::from_secs(600);
/// For how long what a failed start displaced is tried to be brought back.
const RESTORE_WITHIN: Duration = Duration::from_secs(30);
/// Swaps may take a fifth of the time of busy models, no more.
const PATIENCE: u32 = 4;

/// The planner's state.
#[derive(Debug, Clone)]
pub struct Plan {
    limits: Limits,
    ledger: Ledger,
    queue: Queue,
    failures: BTreeMap<ModelName, Failures>,
    /// How long the last starts of a model took.
    costs: BTreeMap<ModelName, Duration>,
    /// Models whose better variants failed: from which on they are tried, until when, and what was said.
    reduced: BTreeMap<ModelName, Reduced>,
    /// What made room for a model that has not begun to start.
    displaced: BTreeMap<ModelName, Vec<Arc<Want>>>,
    /// What was displaced by a start that failed, and since when it is to come back.
    restoring: Vec<(Duration, Arc<Want>)>,
    records: Records,
    youngest: RequestId,
    next_instance: InstanceId,
    closing: bool,
    /// When something will be due although nothing happens.
    due: Option<Duration>,
}

#[derive(Debug, Clone)]
struct Failures {
    in_a_row: u32,
    last: Duration,
    reason: String,
}

#[derive(Debug, Clone)]
struct Reduced {
    variant: usize,
    until: Duration,
    reason: String,
}

/// What one look at the waiting requests has decided so far.
#[derive(Debug)]
struct Pass {
    now: Duration,
    /// Instances whose memory is on its way back, all of it.
    going: BTreeSet<InstanceId>,
    /// Those, and instances whose room somebody older waits for without disturbing them yet.
    spoken: BTreeSet<InstanceId>,
    /// What will be held once what goes has gone, and what those that wait for memory were promised.
    soon: Claim,
    /// What may be held, as far as that is lasting.
    steady: Claim,
    /// What cannot go whoever asks.
    pinned: Claim,
    /// Models that were promised.
    planned: BTreeSet<ModelName>,
    /// What serves a model, or soon will.
    live: HashMap<ModelName, InstanceId>,
    /// Looked for when it is first needed.
    room: Option<Room>,
    /// Somebody was promised more than there is: nobody younger has others evicted.
    blocked: bool,
    /// When the next thing is due.
    due: Option<Duration>,
}

impl Pass {
    /// Something is due at `at`, if that is not past.
    fn due(&mut self, at: Duration) {
        if at > self.now {
            self.due = Some(self.due.map_or(at, |due| due.min(at)));
        }
    }
}

impl Plan {
    /// A planner with nothing to plan with yet: `Event::Observed` tells it.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ledger: Ledger::default(),
            queue: Queue::default(),
            failures: BTreeMap::new(),
            costs: BTreeMap::new(),
            reduced: BTreeMap::new(),
            displaced: BTreeMap::new(),
            restoring: Vec::new(),
            records: Records::default(),
            youngest: 0,
            next_instance: 1,
            closing: false,
            due: None,
        }
    }

    /// Takes in what happened and says what is to be done.
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Request { id, want } => self.request(id, want, now, &mut effects),
            Event::Cancelled(id) => drop(self.queue.remove(id)),
            Event::Released(id) => {
                if let Some(entry) = self.ledger.entries.get_mut(&id) {
                    entry.leases = entry.leases.saturating_sub(1);
                    entry.released = now;
                }
            }
            Event::Ready(id) => self.ready(id, now),
            Event::Rested(id) => self.rested(id, now),
            Event::Failed { instance, reason } | Event::Exited { instance, reason } => {
                self.ended(instance, &reason, now, &mut effects);
            }
            Event::CardFailed { instance, reason } => self.card_failed(instance, &reason, now),
            Event::Unload(model) => self.unload(&model, now, &mut effects),
            Event::Observed(observed) => {
                self.ledger.observe(&observed, self.limits.settles);
                self.confirm(now);
            }
            Event::Closing => self.close(now, &mut effects),
            Event::Tick => {}
        }
        self.look(now, &mut effects);
        effects
    }

    /// When something will be due although nothing happens.
    pub fn next_tick(&self) -> Option<Duration> {
        self.due
    }

    /// Who holds what.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Who waits.
    pub fn waiting(&self) -> impl Iterator<Item = &Waiter> {
        self.queue.iter()
    }

    /// What was done to those who held more than they may, or stood in the way; the newest first.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.iter()
    }

    /// Whether the daemon stops and nothing is left.
    pub fn is_closed(&self) -> bool {
        self.closing && self.ledger.entries.is_empty()
    }

    fn request(&mut self, id: RequestId, want: Arc<Want>, now: Duration, effects: &mut Vec<Effect>) {
        self.youngest = self.youngest.max(id);
        if self.closing {
            effects.push(Effect::Refuse { request: id, refusal: Refusal::Closing });
            return;
        }
        let served_at_once = self.ledger.live(&want).is_some_and(|(_, entry)| entry.has_slot() && !entry.closed);
        if !served_at_once && self.queue.len() >= self.limits.max_queue {
            // As long as the oldest has waited already is the best guess at how long the next would.
            let waited = self.queue.oldest().map_or(Duration::ZERO, |oldest| now.saturating_sub(oldest.since));
            let retry_after = Duration::from_secs(waited.as_secs().clamp(1, 30));
            let refusal = Refusal::QueueFull { waiting: self.queue.len(), retry_after };
            effects.push(Effect::Refuse { request: id, refusal });
            return;
        }
        // The file behind the name has changed: whoever serves the old one ends.
        self.retire(now, effects, |entry| entry.want.model == want.model && entry.want.version != want.version);
        self.queue.push(id, want, now);
    }

    fn ready(&mut self, id: InstanceId, now: Duration) {
        let Some(entry) = self.ledger.entries.get_mut(&id) else { return };
        if entry.state == State::Loading {
            // The mean of what was known and what was seen follows a change and forgives one slow disk.
            let took = now.saturating_sub(entry.started);
            let cost = self.costs.entry(entry.want.model.clone()).or_insert(took);
            *cost = (*cost + took) / 2;
        }
        if matches!(entry.state, State::Loading | State::Waking) {
            entry.enter(State::Ready, now);
            entry.between = None;
            entry.displaced.clear();
            (entry.granted, entry.released) = (now, now);
            entry.batch = self.youngest;
        }
    }

    fn rested(&mut self, id: InstanceId, now: Duration) {
        let Some(entry) = self.ledger.entries.get_mut(&id) else { return };
        if let State::Settling(rung) = entry.state {
            let claim = entry.held().into_owned();
            entry.enter(State::Resting(rung), now);
            (entry.rested, entry.between) = (Some(rung), None);
            entry.measured.clear();
            self.ledger.gave_back(&claim, now);
        }
    }

    /// Looks at every waiting request, oldest first, and then at what nobody needs any more.
    fn look(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let mut pass = self.pass(now);
        self.lose(&mut pass, effects);
        self.relieve(&mut pass, effects);
        let mut from = 0;
        while let Some(waiter) = self.queue.head_from(from).cloned() {
            from = waiter.arrival + 1;
            match self.decide(&waiter, &mut pass) {
                Decision::Serve(instance) => {
                    self.queue.remove(waiter.id);
                    if let Some(entry) = self.ledger.entries.get_mut(&instance) {
                        entry.leases += 1;
                        entry.granted = now;
                    }
                    effects.push(Effect::Serve { request: waiter.id, instance });
                }
                Decision::Refuse(refusal) => {
                    self.queue.remove(waiter.id);
                    effects.push(Effect::Refuse { request: waiter.id, refusal });
                }
                Decision::Wait => pass.due(waiter.since + self.limits.max_wait),
                Decision::Make { variant, evict, peace: true } => {
                    pass.due(waiter.since + self.limits.max_wait);
                    for (id, way) in &evict {
                        let Some(entry) = self.ledger.entries.get(id) else { continue };
                        pass.soon.take(&entry.soon());
                        pass.soon.add(entry.after(*way));
                        pass.spoken.insert(*id);
                    }
                    self.load(&waiter.want, variant, &mut pass, effects);
                }
                Decision::Make { variant, evict, peace: false } => {
                    pass.due(waiter.since + self.limits.max_wait);
                    let displaced = self.evict(&evict, &mut pass, effects);
                    self.displaced.entry(waiter.want.model.clone()).or_default().extend(displaced);
                    self.load(&waiter.want, variant, &mut pass, effects);
                }
            }
        }
        self.restore(&mut pass, effects);
        self.expire(&mut pass, effects);
        self.enforce(&mut pass, effects);
        self.due = pass.due;
    }

    fn pass(&mut self, now: Duration) -> Pass {
        let mut going = BTreeSet::new();
        let mut live = HashMap::with_capacity(self.ledger.entries.len());
        for (id, entry) in &mut self.ledger.entries {
            entry.closed = false;
            entry.abandoned = entry.state == State::Loading && !self.queue.is_wanted(&entry.want);
            if entry.is_going() {
                going.insert(*id);
            } else {
                live.insert(entry.want.model.clone(), *id);
            }
        }
        self.displaced.retain(|model, _| self.queue.is_asked_for(model));
        let pinned = self.ledger.entries.values().filter(|entry| entry.want.pinned && !entry.is_going());
        Pass {
            now,
            spoken: going.clone(),
            going,
            soon: self.ledger.soon(),
            steady: self.ledger.steady(),
            pinned: sum(pinned.map(Entry::soon)),
            planned: BTreeSet::new(),
            live,
            room: None,
            blocked: false,
            due: None,
        }
    }

    /// Makes room: the idle rest or stop, the busy are closed. Says what does not serve any more.
    fn evict(&mut self, evict: &[(InstanceId, Way)], pass: &mut Pass, effects: &mut Vec<Effect>) -> Vec<Arc<Want>> {
        let mut displaced = Vec::new();
        let rests = evict.iter().any(|(_, way)| matches!(way, Way::Rest(_)));
        let mut held = if rests { self.ledger.held_ram() } else { 0 };
        for (id, way) in evict {
            let Some(entry) = self.ledger.entries.get_mut(id) else { continue };
            if !entry.abandoned && !matches!(entry.state, State::Resting(_)) {
                displaced.push(entry.want.clone());
            }
            pass.soon.take(&entry.soon());
            pass.spoken.insert(*id);
            pass.soon.add(entry.after(*way));
            let waits = match way {
                // The host memory for its rest may be on its way back from others still.
                Way::Rest(rung) => held + entry.more_ram(*rung) > self.ledger.ram && entry.more_ram(*rung) > 0,
                Way::End => false,
            };
            if waits || !entry.is_idle() {
                entry.closed = true;
                pass.going.insert(*id);
                continue;
            }
            match way {
                Way::Rest(rung) => {
                    held += entry.more_ram(*rung);
                    entry.settle(*rung, pass.now);
                    effects.push(Effect::Rest { instance: *id, rung: *rung });
                }
                Way::End => {
                    entry.enter(State::Stopping, pass.now);
                    pass.going.insert(*id);
                    pass.live.remove(&entry.want.model);
                    effects.push(Effect::Stop(*id));
                }
            }
            pass.room = None;
        }
        displaced
    }

    /// Starts or wakes what is wanted if it fits now, beside what older ones were promised; promises it otherwise.
    fn load(&mut self, want: &Arc<Want>, variant: usize, pass: &mut Pass, effects: &mut Vec<Effect>) {
        let rests = pass.live.get(&want.model).copied();
        let more = self.more(want, variant, rests);
        let fits = more.fits_beside(&pass.soon, &pass.steady)
            && more.fits_beside(&self.ledger.held(), &self.ledger.budget())
            && self.ledger.is_settled(&more);
        let fits = fits || want.hold == Hold::Held;
        pass.soon.add(&more);
        if !fits {
            pass.planned.insert(want.model.clone());
            return;
        }
        let displaced = self.displaced.remove(&want.model).unwrap_or_default();
        if let Some(id) = rests
            && let Some(entry) = self.ledger.entries.get_mut(&id)
        {
            entry.wake(pass.now);
            entry.displaced = displaced;
            effects.push(Effect::Wake(id));
            return;
        }
        let instance = self.next_instance;
        self.next_instance += 1;
        let entry = Entry { displaced, ..Entry::loading(want.clone(), variant, pass.now) };
        effects.push(Effect::Start { instance, want: want.clone(), variant: entry.variant().clone() });
        self.ledger.entries.insert(instance, entry);
        pass.live.insert(want.model.clone(), instance);
    }

    /// What `variant` of `want` takes beyond what its resting instance holds.
    fn more<'a>(&self, want: &'a Want, variant: usize, rests: Option<InstanceId>) -> Cow<'a, Claim> {
        match rests.and_then(|id| self.ledger.entries.get(&id)) {
            Some(entry) => {
                let mut more = entry.variant().claim.clone();
                more.take(&entry.soon());
                Cow::Owned(more)
            }
            None => Cow::Borrowed(&want.variants[variant].claim),
        }
    }
}

#[cfg(test)]
mod tests;
