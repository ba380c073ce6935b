//! The planner: events in, effects out. Pure: no clock, no I/O, and the same events at the same times always have the
//! same effects. Times are spans since an arbitrary start.
//!
//! Waiting requests are looked at from the oldest to the youngest, after every event. One whose model is ready is
//! served; one whose model is not gets it loaded as soon as it fits. Where it does not fit, room is made: idle models
//! are stopped, and busy ones are closed to requests younger than the one that waits, so that a model that is asked
//! for without end cannot keep another out. What an older request is promised, a younger one cannot take.

use super::Refusal;
use super::event::{Effect, Event, InstanceId, ModelName, RequestId, Want};
use super::ledger::{Entry, Ledger, State};
use crate::config::Config;
use crate::runtime::Claim;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Failures in a row after which a model is left alone.
const FAILURES: u32 = 3;
/// How long it is left alone.
const COOL_DOWN: Duration = Duration::from_secs(60);
/// A tenant that ran for this long before it ended begins a new row of failures.
const STABLE: Duration = Duration::from_secs(60);

/// How long is too long, how many are too many.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long an idle model stays loaded.
    pub keep_alive: Duration,
    /// How long a request waits for its model.
    pub max_wait: Duration,
    /// Requests that may wait.
    pub max_queue: usize,
}

impl Limits {
    /// The limits that `config` sets.
    pub fn new(config: &Config) -> Self {
        let placement = &config.placement;
        Self {
            keep_alive: placement.keep_alive.duration(),
            max_wait: placement.max_wait.duration(),
            max_queue: placement.max_queue,
        }
    }
}

/// The planner's state.
#[derive(Debug, Clone)]
pub struct Plan {
    limits: Limits,
    ledger: Ledger,
    /// Oldest first.
    waiting: VecDeque<Waiter>,
    failures: BTreeMap<ModelName, Failures>,
    youngest: RequestId,
    next_instance: InstanceId,
    closing: bool,
}

/// A request that waits.
#[derive(Debug, Clone)]
pub struct Waiter {
    /// Which one.
    pub id: RequestId,
    /// What it waits for.
    pub want: Want,
    /// Since when.
    pub since: Duration,
}

#[derive(Debug, Clone)]
struct Failures {
    in_a_row: u32,
    last: Duration,
    reason: String,
}

/// What becomes of one waiting request.
#[derive(Debug)]
enum Decision {
    Serve(InstanceId),
    /// Its model is on its way, or all its slots are taken.
    Wait,
    /// Its model is to be loaded, once these have gone and it fits.
    Load {
        evict: Vec<InstanceId>,
    },
    Refuse(Refusal),
}

/// What one look at the waiting requests has decided so far.
#[derive(Debug, Default)]
struct Pass {
    /// Instances whose memory is on its way back.
    going: BTreeSet<InstanceId>,
    /// What those that wait for memory were promised.
    promised: Claim,
    /// Models that were promised.
    planned: BTreeSet<ModelName>,
}

impl Plan {
    /// A planner with nothing to plan with yet: `Event::Budget` tells it.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ledger: Ledger::default(),
            waiting: VecDeque::new(),
            failures: BTreeMap::new(),
            youngest: 0,
            next_instance: 1,
            closing: false,
        }
    }

    /// Takes in what happened and says what is to be done.
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Request { id, want } => self.request(id, want, now, &mut effects),
            Event::Cancelled(id) => self.waiting.retain(|waiter| waiter.id != id),
            Event::Released(id) => {
                if let Some(entry) = self.ledger.entries.get_mut(&id) {
                    entry.leases = entry.leases.saturating_sub(1);
                    entry.released = now;
                }
            }
            Event::Loaded(id) => self.loaded(id, now),
            Event::Failed { instance, reason } | Event::Exited { instance, reason } => {
                self.ended(instance, &reason, now, &mut effects);
            }
            Event::Unload(model) => self.unload(&model, &mut effects),
            Event::Budget(budget) => self.ledger.budget = budget,
            Event::Closing => self.close(&mut effects),
            Event::Tick => {}
        }
        self.look(now, &mut effects);
        effects
    }

    /// When something will be due although nothing happens.
    pub fn next_tick(&self) -> Option<Duration> {
        // All requests wait equally long, so the oldest is the first that has waited too long.
        let deadline = self.waiting.front().map(|waiter| waiter.since + self.limits.max_wait);
        let idle = self.ledger.entries.values().filter(|entry| entry.is_idle());
        let expiry = idle.map(|entry| entry.released + self.limits.keep_alive).min();
        deadline.into_iter().chain(expiry).min()
    }

    /// Who holds what.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Who waits, oldest first.
    pub fn waiting(&self) -> impl Iterator<Item = &Waiter> {
        self.waiting.iter()
    }

    /// Whether the daemon stops and nothing is left.
    pub fn is_closed(&self) -> bool {
        self.closing && self.ledger.entries.is_empty()
    }

    fn request(&mut self, id: RequestId, want: Want, now: Duration, effects: &mut Vec<Effect>) {
        self.youngest = self.youngest.max(id);
        if self.closing {
            effects.push(Effect::Refuse { request: id, refusal: Refusal::Closing });
            return;
        }
        let served_at_once = self.ledger.live(&want).is_some_and(|(_, entry)| entry.has_slot() && !entry.closed);
        if !served_at_once && self.waiting.len() >= self.limits.max_queue {
            // As long as the oldest has waited already is the best guess at how long the next would.
            let waited = self.waiting.front().map_or(Duration::ZERO, |oldest| now.saturating_sub(oldest.since));
            let retry_after = Duration::from_secs(waited.as_secs().clamp(1, 30));
            let refusal = Refusal::QueueFull { waiting: self.waiting.len(), retry_after };
            effects.push(Effect::Refuse { request: id, refusal });
            return;
        }
        // The file behind the name has changed: whoever serves the old one ends.
        self.retire(effects, |entry| entry.want.model == want.model && entry.want.version != want.version);
        self.waiting.push_back(Waiter { id, want, since: now });
    }

    fn loaded(&mut self, id: InstanceId, now: Duration) {
        if let Some(entry) = self.ledger.entries.get_mut(&id)
            && entry.state == State::Loading
        {
            entry.state = State::Ready;
            entry.granted = now;
            entry.released = now;
            entry.batch = self.youngest;
        }
    }

    fn ended(&mut self, id: InstanceId, reason: &str, now: Duration, effects: &mut Vec<Effect>) {
        let Some(entry) = self.ledger.entries.remove(&id) else { return };
        let model = entry.want.model.clone();
        if entry.state == State::Stopping {
            // As we asked.
            self.failures.remove(&model);
            return;
        }
        let row = self.failures.get(&model).map_or(0, |failures| failures.in_a_row);
        let stable = entry.state == State::Ready && now.saturating_sub(entry.started) >= STABLE;
        let in_a_row = if stable { 1 } else { row + 1 };
        self.failures.insert(model.clone(), Failures { in_a_row, last: now, reason: reason.to_string() });
        if entry.state == State::Loading {
            let refusal = Refusal::Failed { model: model.to_string(), reason: reason.to_string() };
            self.refuse(effects, &refusal, |waiter| waiter.want.model == model);
        }
    }

    fn unload(&mut self, model: &ModelName, effects: &mut Vec<Effect>) {
        self.retire(effects, |entry| entry.want.model == *model);
        let refusal = Refusal::Unloaded { model: model.to_string() };
        self.refuse(effects, &refusal, |waiter| waiter.want.model == *model);
    }

    fn close(&mut self, effects: &mut Vec<Effect>) {
        self.closing = true;
        for (id, entry) in self.ledger.entries.iter_mut().filter(|(_, entry)| entry.state != State::Stopping) {
            entry.stop();
            effects.push(Effect::Stop(*id));
        }
        self.refuse(effects, &Refusal::Closing, |_| true);
    }

    /// Lets instances end with their last lease, and gives up their starts.
    fn retire(&mut self, effects: &mut Vec<Effect>, which: impl Fn(&Entry) -> bool) {
        for (id, entry) in self.ledger.entries.iter_mut().filter(|(_, entry)| which(entry)) {
            entry.retired = true;
            if entry.state == State::Loading {
                entry.stop();
                effects.push(Effect::Stop(*id));
            }
        }
    }

    fn refuse(&mut self, effects: &mut Vec<Effect>, refusal: &Refusal, which: impl Fn(&Waiter) -> bool) {
        self.waiting.retain(|waiter| {
            let refused = which(waiter);
            if refused {
                effects.push(Effect::Refuse { request: waiter.id, refusal: refusal.clone() });
            }
            !refused
        });
    }

    /// Looks at every waiting request, oldest first, and then at what nobody needs any more.
    fn look(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let mut pass = Pass::default();
        for (id, entry) in &mut self.ledger.entries {
            entry.closed = false;
            let is_wanted = || self.waiting.iter().any(|waiter| entry.want.is_same(&waiter.want));
            entry.abandoned = entry.state == State::Loading && !is_wanted();
            if entry.is_going() {
                pass.going.insert(*id);
            }
        }
        // The budget may have shrunk below what is held.
        if let Some(evict) = self.ledger.victims(&Claim::default(), &pass.going) {
            self.evict(evict, &mut pass, effects);
        }
        for waiter in std::mem::take(&mut self.waiting) {
            match self.decide(&waiter, &pass, now) {
                Decision::Serve(instance) => {
                    if let Some(entry) = self.ledger.entries.get_mut(&instance) {
                        entry.leases += 1;
                        entry.granted = now;
                    }
                    effects.push(Effect::Serve { request: waiter.id, instance });
                }
                Decision::Refuse(refusal) => effects.push(Effect::Refuse { request: waiter.id, refusal }),
                Decision::Wait => self.waiting.push_back(waiter),
                Decision::Load { evict } => {
                    self.evict(evict, &mut pass, effects);
                    self.load(&waiter, &mut pass, now, effects);
                    self.waiting.push_back(waiter);
                }
            }
        }
        let keep_alive = self.limits.keep_alive;
        for (id, entry) in self.ledger.entries.iter_mut().filter(|(_, entry)| entry.is_idle()) {
            if entry.retired || now.saturating_sub(entry.released) >= keep_alive {
                entry.stop();
                effects.push(Effect::Stop(*id));
            }
        }
    }

    fn decide(&self, waiter: &Waiter, pass: &Pass, now: Duration) -> Decision {
        let want = &waiter.want;
        if let Some((id, entry)) = self.ledger.live(want)
            && entry.has_slot()
            && (!pass.going.contains(&id) || waiter.id <= entry.batch)
        {
            return Decision::Serve(id);
        }
        let waited = now.saturating_sub(waiter.since);
        if waited >= self.limits.max_wait {
            return Decision::Refuse(Refusal::Waited {
                model: want.model.to_string(),
                waited,
                need: want.claim.clone(),
                free: self.ledger.free(),
                busy: self.ledger.entries.values().map(|entry| entry.leases).sum(),
            });
        }
        if self.ledger.live(want).is_some() || pass.planned.contains(&want.model) {
            return Decision::Wait;
        }
        if !want.claim.fits(&self.ledger.budget) {
            return Decision::Refuse(Refusal::TooLarge {
                model: want.model.to_string(),
                need: want.claim.clone(),
                budget: self.ledger.budget.clone(),
            });
        }
        if let Some(refusal) = self.crashing(&want.model, now) {
            return Decision::Refuse(refusal);
        }
        let mut need = pass.promised.clone();
        need.add(&want.claim);
        // Where even that is not enough, something still loads: it will be a candidate once it has.
        Decision::Load { evict: self.ledger.victims(&need, &pass.going).unwrap_or_default() }
    }

    fn crashing(&self, model: &ModelName, now: Duration) -> Option<Refusal> {
        let failures = self.failures.get(model).filter(|failures| failures.in_a_row >= FAILURES)?;
        let retry_after = (failures.last + COOL_DOWN).checked_sub(now).filter(|left| !left.is_zero())?;
        Some(Refusal::Crashing {
            model: model.to_string(),
            failures: failures.in_a_row,
            reason: failures.reason.clone(),
            retry_after,
        })
    }

    /// Stops the idle and closes the busy.
    fn evict(&mut self, evict: Vec<InstanceId>, pass: &mut Pass, effects: &mut Vec<Effect>) {
        for id in evict {
            pass.going.insert(id);
            let Some(entry) = self.ledger.entries.get_mut(&id) else { continue };
            if entry.is_idle() {
                entry.stop();
                effects.push(Effect::Stop(id));
            } else {
                entry.closed = true;
            }
        }
    }

    /// Starts what `waiter` wants if it fits now, beside what older ones were promised; promises it otherwise.
    fn load(&mut self, waiter: &Waiter, pass: &mut Pass, now: Duration, effects: &mut Vec<Effect>) {
        let claim = &waiter.want.claim;
        let mut soon = self.ledger.held(&pass.going);
        soon.add(&pass.promised);
        soon.add(claim);
        if claim.fits(&self.ledger.free()) && soon.fits(&self.ledger.budget) {
            let instance = self.next_instance;
            self.next_instance += 1;
            self.ledger.entries.insert(instance, Entry::loading(waiter.want.clone(), now));
            effects.push(Effect::Start { instance, request: waiter.id, claim: claim.clone() });
        } else {
            pass.promised.add(claim);
            pass.planned.insert(waiter.want.model.clone());
        }
    }
}

#[cfg(test)]
mod tests;
