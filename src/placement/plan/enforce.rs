//! What is done to those who hold more than they may, to those who stand in the way of others' use of the card, and to
//! those who do not do what they are told.

use super::*;
use crate::placement::ledger::{Excess, Step};
use crate::placement::record::Cause;
use crate::runtime::{Rest, Rung};

impl Plan {
    /// Stops what ran on a card that is lost.
    pub(super) fn lose(&mut self, pass: &mut Pass, effects: &mut Vec<Effect>) {
        let lost_after = self.limits.lost_after;
        let mut lost = BTreeSet::new();
        for (gpu, card) in &self.ledger.cards {
            if let Some(since) = card.missing {
                pass.due(since + lost_after);
                if pass.now >= since + lost_after {
                    lost.insert(gpu.clone());
                }
            }
        }
        for (id, entry) in self.ledger.entries.iter_mut().filter(|(_, entry)| entry.state != State::Stopping) {
            if entry.variant().claim.vram.keys().any(|gpu| lost.contains(gpu)) {
                pass.soon.take(&entry.soon());
                pass.going.insert(*id);
                pass.spoken.insert(*id);
                pass.live.remove(&entry.want.model);
                entry.enter(State::Stopping, pass.now);
                self.records.add(pass.now, &entry.want.model, Rung::Stop, Cause::Lost);
                effects.push(Effect::Stop(*id));
            }
        }
        let held = |gpu: &String| self.ledger.entries.values().any(|entry| entry.variant().claim.on(gpu) > 0);
        lost.retain(|gpu| !held(gpu));
        self.ledger.cards.retain(|gpu, _| !lost.contains(gpu));
    }

    /// Makes room for others, who use so much of a card, or for a budget that has shrunk.
    pub(super) fn relieve(&mut self, pass: &mut Pass, effects: &mut Vec<Effect>) {
        let mut steady = pass.steady.clone();
        // What is missing may be back at the next reading; if it is not, it is lost.
        for (gpu, _) in self.ledger.cards.iter().filter(|(_, card)| card.missing.is_some()) {
            steady.vram.insert(gpu.clone(), u64::MAX);
        }
        if pass.soon.fits(&steady) {
            return;
        }
        let room = Room::new(&self.ledger, &self.costs, &self.limits, pass.now);
        // Where it is not enough, what is pinned or still loads holds the rest.
        let evict = room.make(&Claim::default(), &pass.soon, &steady, &pass.spoken, false).unwrap_or_default();
        for (id, way) in &evict {
            let Some(entry) = self.ledger.entries.get(id).filter(|entry| entry.is_idle()) else { continue };
            let rung = match way {
                Way::Rest(rung) => *rung,
                Way::End => Rung::Stop,
            };
            self.records.add(pass.now, &entry.want.model, rung, Cause::Pressure);
        }
        self.evict(&evict, pass, effects);
    }

    /// Walks those who hold more than they may down their rungs, and those who are deaf too.
    pub(super) fn enforce(&mut self, pass: &mut Pass, effects: &mut Vec<Effect>) {
        let Limits { grace, confirm, .. } = self.limits;
        let ids: Vec<InstanceId> = self.ledger.entries.keys().copied().collect();
        for id in ids {
            let Some(entry) = self.ledger.entries.get(&id) else { continue };
            match entry.state {
                State::Stopping if entry.killed => {}
                State::Stopping | State::Settling(_) | State::Waking => {
                    let until = entry.since + confirm;
                    pass.due(until);
                    if pass.now >= until {
                        self.insist(id, pass, effects);
                    }
                }
                _ => {
                    let Some(excess) = &entry.excess else { continue };
                    let until = excess.step.map_or(excess.since + grace, |step| step.at + confirm);
                    pass.due(until);
                    if pass.now >= until {
                        self.step_down(id, pass, effects);
                    }
                }
            }
        }
    }

    /// Takes note of who holds more than it may, and of who does not any more.
    pub(super) fn confirm(&mut self, now: Duration) {
        for entry in self.ledger.entries.values_mut() {
            let beyond = beyond(entry, self.limits.tolerance);
            match (&mut entry.excess, beyond) {
                (None, Some(_)) => entry.excess = Some(Excess { since: now, step: None }),
                (Some(excess), None) if entry.state != State::Stopping => {
                    if let Some(step) = excess.step {
                        self.records.confirm(step.record, now);
                    }
                    entry.excess = None;
                }
                _ => {}
            }
        }
        if self.ledger.cards.values().all(super::super::card::Card::is_settled) {
            self.records.settle(now);
        }
    }

    /// The next rung for one that holds more than it may.
    fn step_down(&mut self, id: InstanceId, pass: &mut Pass, effects: &mut Vec<Effect>) {
        let spare = self.ledger.ram.saturating_sub(self.ledger.held_ram());
        let Some(entry) = self.ledger.entries.get_mut(&id) else { return };
        let Some((measured, granted)) = beyond(entry, self.limits.tolerance) else { return };
        let next = entry.excess.as_ref().and_then(|excess| excess.step).map_or(0, |step| step.rung + 1);
        let can = |rung: &Rung| match rung {
            Rung::Sleep | Rung::Park => {
                let can = |rest: &Rest| rest.rung == *rung && entry.more_ram(*rung) <= spare;
                entry.variant().rests.iter().any(can) && entry.state == State::Ready && entry.leases == 0
            }
            Rung::Shrink | Rung::Free => entry.state == State::Ready,
            Rung::Stop | Rung::Kill => true,
        };
        let rungs = entry.want.rungs;
        let at = (next..rungs.len()).find(|at| can(&rungs[*at]));
        let (at, rung) = at.map_or((rungs.len(), Rung::Stop), |at| (at, rungs[at]));
        let record = self.records.add(pass.now, &entry.want.model, rung, Cause::Excess { measured, granted });
        if let Some(excess) = &mut entry.excess {
            excess.step = Some(Step { rung: at, at: pass.now, record });
        }
        pass.due(pass.now + self.limits.confirm);
        match rung {
            Rung::Shrink | Rung::Free => effects.push(Effect::Ease { instance: id, rung }),
            Rung::Sleep | Rung::Park => {
                entry.settle(rung, pass.now);
                effects.push(Effect::Rest { instance: id, rung });
            }
            Rung::Stop | Rung::Kill => {
                entry.enter(State::Stopping, pass.now);
                effects.push(Effect::Stop(id));
            }
        }
    }

    /// More firmly, for one that has not done what it was told.
    fn insist(&mut self, id: InstanceId, pass: &mut Pass, effects: &mut Vec<Effect>) {
        let Some(entry) = self.ledger.entries.get_mut(&id) else { return };
        let rung = if entry.state == State::Stopping { Rung::Kill } else { Rung::Stop };
        let record = self.records.add(pass.now, &entry.want.model, rung, Cause::Deaf);
        if let Some(excess) = &mut entry.excess {
            excess.step = Some(Step { rung: entry.want.rungs.len(), at: pass.now, record });
        }
        if rung == Rung::Kill {
            entry.killed = true;
            effects.push(Effect::Kill(id));
        } else {
            entry.enter(State::Stopping, pass.now);
            effects.push(Effect::Stop(id));
            pass.due(pass.now + self.limits.confirm);
        }
    }
}

/// What an instance was seen to hold of a card and what it may hold, where that is too much.
fn beyond(entry: &Entry, tolerance: u64) -> Option<(u64, u64)> {
    if entry.want.elastic {
        return None;
    }
    let grant = entry.grant();
    entry
        .measured
        .iter()
        .map(|(gpu, measured)| (*measured, grant.on(gpu)))
        .find(|(measured, granted)| *measured > granted.saturating_add(tolerance))
}
