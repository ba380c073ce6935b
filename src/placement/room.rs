//! What goes to make room, and how far.

use super::event::{InstanceId, ModelName};
use super::ledger::{Entry, Ledger, NOTHING, State};
use super::plan::Limits;
use crate::runtime::{Claim, Rung};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How an instance makes room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It rests.
    Rest(Rung),
    /// It ends: at once when it is idle, after its last lease when it is not.
    End,
}

/// One that could make room.
#[derive(Debug)]
struct Candidate {
    id: InstanceId,
    busy: bool,
    embeds: bool,
    holds: Claim,
    /// Its ways, the one that is undone soonest first, with what it would hold then.
    ways: Vec<(Way, Claim)>,
}

/// Who could make room, in the order in which they would: idle ones first, by how long they are idle over what bringing
/// them back costs; then busy ones, the one that gained no lease for the longest time first.
///
/// Busy ones go by their last gain, not by their last end: a closed one gains no more, so it stays the first choice until
/// it is idle, and two busy ones do not take turns at draining.
#[derive(Debug)]
pub struct Room {
    candidates: Vec<Candidate>,
}

impl Room {
    /// Looks at who holds what.
    pub fn new(ledger: &Ledger, costs: &BTreeMap<ModelName, Duration>, limits: &Limits, now: Duration) -> Self {
        let mut sorted: Vec<(InstanceId, &Entry)> = ledger.entries.iter().map(|(id, entry)| (*id, entry)).collect();
        sorted.retain(|(_, entry)| {
            let can = matches!(entry.state, State::Ready | State::Resting(_)) || entry.is_idle();
            can && !entry.is_going() && !entry.want.pinned
        });
        sorted.sort_by(|(a_id, a), (b_id, b)| match (a.is_idle(), b.is_idle()) {
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => (a.granted, a_id).cmp(&(b.granted, b_id)),
            // The largest quotient first.
            (true, true) => {
                let (idle, dear) = score(a, costs, now);
                let (other_idle, other_dear) = score(b, costs, now);
                (other_idle * dear).cmp(&(idle * other_dear)).then(a.released.cmp(&b.released)).then(a_id.cmp(b_id))
            }
        });
        let resting: u64 =
            ledger.entries.values().filter(|entry| is_resting(entry)).map(|entry| entry.soon().ram).sum();
        // Who rests takes host memory, and there is none to be taken while it is overdrawn.
        let overdrawn = ledger.entries.values().map(|entry| entry.soon().ram).sum::<u64>() > ledger.ram;
        let for_rests = if overdrawn { 0 } else { limits.parked_memory.saturating_sub(resting) };
        let candidate = |(id, entry): (InstanceId, &Entry)| Candidate {
            id,
            busy: !entry.is_idle(),
            embeds: entry.want.embeds,
            holds: entry.held().into_owned(),
            ways: ways(entry, for_rests).into_iter().map(|way| (way, entry.after(way).clone())).collect(),
        };
        Self { candidates: sorted.into_iter().map(candidate).collect() }
    }

    /// Who must make room, and how, so that `need` fits into `budget` beside what will be held `soon`, without those that
    /// are `spoken` for. None when that is not enough. For a model of vectors none of answers has to go.
    pub fn make(
        &self,
        need: &Claim,
        soon: &Claim,
        budget: &Claim,
        spoken: &BTreeSet<InstanceId>,
        for_vectors: bool,
    ) -> Option<Vec<(InstanceId, Way)>> {
        let mut total = soon.clone();
        // Who rests takes host memory for what it gives back of a card; that must be there too.
        let most = budget.ram.max(soon.ram);
        let fits = |total: &Claim| match need.is_nothing() {
            true => total.fits(budget),
            false => total.ram <= most && need.fits_beside(total, budget),
        };
        if fits(&total) {
            return Some(Vec::new());
        }
        let candidates: Vec<&Candidate> = self
            .candidates
            .iter()
            .filter(|candidate| !spoken.contains(&candidate.id) && (!for_vectors || candidate.embeds))
            .filter(|candidate| overlaps(&candidate.holds, need))
            .collect();
        // By place among `candidates`: which of its ways, and what it holds then.
        let mut chosen: BTreeMap<usize, usize> = BTreeMap::new();
        let deepest = candidates.iter().map(|candidate| candidate.ways.len()).max().unwrap_or_default();
        'rounds: for round in 0..deepest {
            for (at, candidate) in candidates.iter().enumerate() {
                let Some((_, after)) = candidate.ways.get(round) else { continue };
                total.take(candidate.held_by(chosen.get(&at)));
                total.add(after);
                chosen.insert(at, round);
                if fits(&total) {
                    break 'rounds;
                }
            }
        }
        if !fits(&total) {
            return None;
        }
        // A later, larger one may have made an earlier one's sacrifice pointless; the last chosen is spared first.
        for at in chosen.keys().copied().collect::<Vec<_>>().into_iter().rev() {
            let mut spared = total.clone();
            spared.take(candidates[at].held_by(chosen.get(&at)));
            spared.add(&candidates[at].holds);
            if fits(&spared) {
                total = spared;
                chosen.remove(&at);
            }
        }
        Some(chosen.into_iter().map(|(at, way)| (candidates[at].id, candidates[at].ways[way].0)).collect())
    }

    /// Whether one of those would be closed to requests.
    pub fn disturbs(&self, chosen: &[(InstanceId, Way)]) -> bool {
        self.candidates.iter().any(|one| one.busy && chosen.iter().any(|(id, _)| *id == one.id))
    }
}

impl Candidate {
    fn held_by(&self, way: Option<&usize>) -> &Claim {
        way.map_or(&self.holds, |way| &self.ways[*way].1)
    }
}

impl Entry {
    /// What it holds once it has gone that way.
    pub fn after(&self, way: Way) -> &Claim {
        match way {
            Way::Rest(rung) => self.residue(rung),
            Way::End => &NOTHING,
        }
    }
}

/// How an instance can make room, with at most `for_rests` bytes of host memory while it rests.
pub fn ways(entry: &Entry, for_rests: u64) -> Vec<Way> {
    let deeper = |rung: Rung| match entry.state {
        State::Resting(now) => rung > now,
        State::Ready => entry.leases == 0,
        _ => false,
    };
    let rests = entry.variant().rests.iter().filter(|rest| deeper(rest.rung) && rest.residue.ram <= for_rests);
    rests.map(|rest| Way::Rest(rest.rung)).chain([Way::End]).collect()
}

fn is_resting(entry: &Entry) -> bool {
    matches!(entry.state, State::Resting(_) | State::Settling(_))
}

fn overlaps(holds: &Claim, need: &Claim) -> bool {
    need.is_nothing()
        || (need.ram > 0 && holds.ram > 0)
        || need.vram.iter().any(|(gpu, bytes)| *bytes > 0 && holds.on(gpu) > 0)
}

/// For how long it is idle, and how dear bringing it back is. In milliseconds, and never nothing.
fn score(entry: &Entry, costs: &BTreeMap<ModelName, Duration>, now: Duration) -> (u128, u128) {
    let cost = costs.get(&entry.want.model).copied().unwrap_or(entry.want.cost);
    let idle = now.saturating_sub(entry.released).as_millis() + 1;
    (idle, cost.as_millis().max(1) * u128::from(entry.want.weight.max(1)))
}
