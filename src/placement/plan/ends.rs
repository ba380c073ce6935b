//! How instances end: by themselves, because somebody asked, because nobody asks any more.

use super::*;
use crate::runtime::Rest;

impl Plan {
    pub(super) fn ended(&mut self, id: InstanceId, reason: &str, now: Duration, effects: &mut Vec<Effect>) {
        let Some(entry) = self.ledger.entries.remove(&id) else { return };
        let want = entry.want.clone();
        self.ledger.gave_back(&want.variants[entry.variant].claim, now);
        if let Some(step) = entry.excess.as_ref().and_then(|excess| excess.step) {
            self.records.ended(step.record, now);
        }
        if entry.state == State::Stopping || want.hold != Hold::Leased {
            // As we asked. That it had to be asked because it held too much is a failure all the same.
            if entry.excess.is_none() {
                self.failures.remove(&want.model);
            }
            return;
        }
        if entry.state == State::Loading && self.reduce(&entry, reason, now) {
            return;
        }
        let row = self.failures.get(&want.model).map_or(0, |failures| failures.in_a_row);
        let stable = entry.state == State::Ready && now.saturating_sub(entry.started) >= STABLE;
        let in_a_row = if stable { 1 } else { row + 1 };
        let earlier = self.reduced.get(&want.model).map(|reduced| reduced.reason.as_str());
        let reason = match earlier.filter(|_| entry.state == State::Loading) {
            Some(earlier) => format!("{reason}; before that, {earlier}"),
            None => reason.to_string(),
        };
        self.failures.insert(want.model.clone(), Failures { in_a_row, last: now, reason: reason.clone() });
        if entry.state == State::Loading {
            let refusal = Refusal::Failed { model: want.model.to_string(), reason };
            self.refuse(effects, &refusal, &want.model);
            self.reduced.remove(&want.model);
            self.restoring.extend(entry.displaced.into_iter().map(|want| (now, want)));
        }
    }

    /// What does not need the card that failed serves the model for a while.
    pub(super) fn card_failed(&mut self, id: InstanceId, reason: &str, now: Duration) {
        let Some(entry) = self.ledger.entries.get(&id) else { return };
        if let Some(variant) = without_cards(&entry.want, entry.variant) {
            let reason = format!("{}: {reason}", entry.variant().setting);
            self.reduced.insert(entry.want.model.clone(), Reduced { variant, until: now + REDUCED_FOR, reason });
        }
    }

    /// Whether a start that failed is tried once more with a smaller variant; and after that without a card, if it can run so.
    fn reduce(&mut self, entry: &Entry, reason: &str, now: Duration) -> bool {
        let model = &entry.want.model;
        let known = self.reduced.get(model).filter(|reduced| now < reduced.until);
        let next = match known {
            Some(reduced) if reduced.variant > entry.variant => Some(reduced.variant),
            Some(_) => without_cards(&entry.want, entry.variant),
            None => Some(entry.variant + 1).filter(|next| *next < entry.want.variants.len()),
        };
        let Some(variant) = next.filter(|_| self.queue.is_wanted(&entry.want)) else { return false };
        let reason = format!("{}: {reason}", entry.variant().setting);
        let reduced = Reduced { variant, until: now + REDUCED_FOR, reason };
        self.reduced.insert(model.clone(), reduced);
        self.displaced.entry(model.clone()).or_default().extend(entry.displaced.iter().cloned());
        true
    }

    pub(super) fn unload(&mut self, model: &ModelName, now: Duration, effects: &mut Vec<Effect>) {
        self.retire(now, effects, |entry| entry.want.model == *model);
        self.restoring.retain(|(_, want)| want.model != *model);
        let refusal = Refusal::Unloaded { model: model.to_string() };
        self.refuse(effects, &refusal, model);
    }

    pub(super) fn close(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        self.closing = true;
        self.restoring.clear();
        for (id, entry) in self.ledger.entries.iter_mut().filter(|(_, entry)| entry.state != State::Stopping) {
            entry.enter(State::Stopping, now);
            effects.push(Effect::Stop(*id));
        }
        let waiting: Vec<RequestId> = self.queue.iter().map(|waiter| waiter.id).collect();
        for request in waiting {
            self.queue.remove(request);
            effects.push(Effect::Refuse { request, refusal: Refusal::Closing });
        }
    }

    /// Lets instances end with their last lease, and gives up their starts.
    pub(super) fn retire(&mut self, now: Duration, effects: &mut Vec<Effect>, which: impl Fn(&Entry) -> bool) {
        for (id, entry) in self.ledger.entries.iter_mut().filter(|(_, entry)| which(entry)) {
            entry.retired = true;
            if entry.state == State::Loading {
                entry.enter(State::Stopping, now);
                effects.push(Effect::Stop(*id));
            }
        }
    }

    fn refuse(&mut self, effects: &mut Vec<Effect>, refusal: &Refusal, model: &ModelName) {
        for request in self.queue.of(model) {
            self.queue.remove(request);
            effects.push(Effect::Refuse { request, refusal: refusal.clone() });
        }
    }

    /// Lets those rest, or stop, for whom nobody has asked for long enough.
    pub(super) fn expire(&mut self, pass: &mut Pass, effects: &mut Vec<Effect>) {
        let resting = self.ledger.entries.values().filter(|entry| is_resting(entry)).map(|entry| entry.soon().ram);
        let mut for_rests = self.limits.parked_memory.saturating_sub(resting.sum());
        let mut soon = self.ledger.ram.saturating_sub(pass.soon.ram.max(self.ledger.soon().ram));
        let mut spare = self.ledger.ram.saturating_sub(self.ledger.held_ram());
        for (id, entry) in self.ledger.entries.iter_mut().filter(|(_, entry)| entry.is_idle()) {
            let keeps = match entry.state {
                // Whoever wanted the room went away before he had it.
                _ if entry.want.hold != Hold::Leased => Duration::ZERO,
                State::Resting(_) => self.limits.park_for,
                _ => entry.want.keep_alive.unwrap_or(self.limits.keep_alive),
            };
            let until = entry.released.saturating_add(keeps);
            let stays = entry.want.pinned && entry.want.hold == Hold::Leased;
            if !entry.retired && (stays || pass.now < until) {
                if !stays {
                    pass.due(until);
                }
                continue;
            }
            // The deepest rest: nobody is expected soon.
            let fits = |rest: &&Rest| rest.residue.ram <= for_rests && entry.more_ram(rest.rung) <= soon;
            let rest = entry.variant().rests.iter().rev().find(fits);
            match rest.map(|rest| rest.rung).filter(|_| !entry.retired && entry.state == State::Ready) {
                // Its host memory is on its way back from others; their ends are looked at again.
                Some(rung) if entry.more_ram(rung) > spare => {}
                Some(rung) => {
                    let more = entry.more_ram(rung);
                    for_rests = for_rests.saturating_sub(entry.residue(rung).ram);
                    (soon, spare) = (soon.saturating_sub(more), spare.saturating_sub(more));
                    entry.settle(rung, pass.now);
                    effects.push(Effect::Rest { instance: *id, rung });
                }
                None => {
                    entry.enter(State::Stopping, pass.now);
                    effects.push(Effect::Stop(*id));
                }
            }
        }
    }

    /// Brings back what a start displaced that then failed, where there is room without making any.
    pub(super) fn restore(&mut self, pass: &mut Pass, effects: &mut Vec<Effect>) {
        for (since, want) in std::mem::take(&mut self.restoring) {
            if self.closing || pass.live.contains_key(&want.model) || pass.now >= since + RESTORE_WITHIN {
                continue;
            }
            let variant = want.variants.iter().position(|variant| variant.claim.fits_beside(&pass.soon, &pass.steady));
            let Some(variant) = variant else { continue };
            self.load(&want, variant, pass, effects);
            if !pass.live.contains_key(&want.model) {
                // It will fit once the driver has taken back what the failed one held.
                pass.due(since + RESTORE_WITHIN);
                self.restoring.push((since, want));
            }
        }
    }
}

/// The best variant after this one that takes nothing of a card.
fn without_cards(want: &Want, after: usize) -> Option<usize> {
    (after + 1..want.variants.len()).find(|&at| want.variants[at].claim.on_cards() == 0)
}

fn is_resting(entry: &Entry) -> bool {
    matches!(entry.state, State::Resting(_) | State::Settling(_))
}
