//! What becomes of one waiting request.

use super::*;

/// What becomes of one waiting request.
#[derive(Debug)]
pub(super) enum Decision {
    Serve(InstanceId),
    /// Its model is on its way, or all its slots are taken, or its turn has not come.
    Wait,
    /// Its model is to be loaded, or woken, once these have made room and it fits.
    Make {
        variant: usize,
        evict: Vec<(InstanceId, Way)>,
        /// They are left in peace for a while.
        peace: bool,
    },
    Refuse(Refusal),
}

impl Plan {
    pub(super) fn decide(&self, waiter: &Waiter, pass: &mut Pass) -> Decision {
        let want = &waiter.want;
        let live = pass.live.get(&want.model).copied();
        let live = live.and_then(|id| Some((id, self.ledger.entries.get(&id)?)));
        let live = live.filter(|(_, entry)| entry.want.is_same(want));
        if let Some((id, entry)) = live
            && entry.has_slot()
            && (!pass.going.contains(&id) || waiter.id <= entry.batch)
        {
            return Decision::Serve(id);
        }
        let waited = pass.now.saturating_sub(waiter.since);
        if waited >= self.limits.max_wait {
            return Decision::Refuse(Refusal::Waited {
                model: want.model.to_string(),
                waited,
                need: self.least(want).clone(),
                free: self.ledger.free(),
                busy: self.ledger.entries.values().map(|entry| entry.leases).sum(),
            });
        }
        let is_there = |gpu: &String| self.ledger.cards.get(gpu).is_some_and(|card| card.missing.is_none());
        if want.hold == Hold::Held && live.is_none() && want.variants[0].claim.vram.keys().all(is_there) {
            return Decision::Make { variant: 0, evict: Vec::new(), peace: false };
        }
        let variant = match live {
            Some((_, entry)) if matches!(entry.state, State::Resting(_)) => entry.variant,
            Some(_) => return Decision::Wait,
            None if pass.planned.contains(&want.model) => return Decision::Wait,
            None => {
                if let Some(refusal) = self.crashing(&want.model, pass.now) {
                    return Decision::Refuse(refusal);
                }
                match self.choose(want, pass) {
                    Ok(variant) => variant,
                    Err(decision) => return *decision,
                }
            }
        };
        let need = self.more(want, variant, live.map(|(id, _)| id));
        if pass.blocked && !need.fits_beside(&pass.soon, &pass.steady) {
            return Decision::Wait;
        }
        let room = pass.room.get_or_insert_with(|| Room::new(&self.ledger, &self.costs, &self.limits, pass.now));
        let Some(evict) = room.make(&need, &pass.soon, &pass.steady, &pass.spoken, want.embeds) else {
            // Something still loads, or is promised to somebody older: it will be there to make room another time.
            pass.blocked = true;
            return Decision::Make { variant, evict: Vec::new(), peace: false };
        };
        if room.disturbs(&evict) {
            let until = waiter.since + self.patience(want, &evict);
            if pass.now < until {
                pass.due(until);
                return Decision::Make { variant, evict, peace: true };
            }
        }
        Decision::Make { variant, evict, peace: false }
    }

    /// The best variant for which there could be room, now or later.
    fn choose(&self, want: &Want, pass: &Pass) -> Result<usize, Box<Decision>> {
        let reduced = self.reduced.get(&want.model).filter(|reduced| pass.now < reduced.until);
        let from = reduced.map_or(0, |reduced| reduced.variant).min(want.variants.len().saturating_sub(1));
        let mut beside = pass.pinned.clone();
        if want.embeds {
            // None of them goes for the sake of vectors.
            beside = sum(self.ledger.entries.values().filter(|entry| !entry.want.embeds).map(Entry::soon));
        }
        let fits = |variant: &Variant| variant.claim.fits_beside(&beside, &pass.steady);
        if let Some(variant) = want.variants.iter().skip(from).position(fits) {
            return Ok(from + variant);
        }
        let model = want.model.to_string();
        let need = self.least(want).clone();
        if !need.fits(&self.ledger.steady()) {
            let refusal = Refusal::TooLarge { model, need, budget: self.ledger.steady() };
            return Err(Box::new(Decision::Refuse(refusal)));
        }
        if want.embeds {
            return Err(Box::new(Decision::Wait));
        }
        let pinned = self.ledger.entries.values().filter(|entry| entry.want.pinned && !entry.is_going());
        let pinned = pinned.map(|entry| entry.want.model.to_string()).collect::<Vec<_>>().join(", ");
        let budget = self.ledger.steady();
        Err(Box::new(Decision::Refuse(Refusal::Pinned { model, need, pinned, budget })))
    }

    /// What the smallest variant takes.
    fn least<'a>(&self, want: &'a Want) -> &'a Claim {
        want.variants.last().map_or(&NOTHING, |variant| &variant.claim)
    }

    /// How long a request for one model leaves busy ones in peace: a swap that pays for itself only if many requests
    /// are answered between two of them is not made for each.
    fn patience(&self, want: &Want, evict: &[(InstanceId, Way)]) -> Duration {
        let cost = |want: &Want| self.costs.get(&want.model).copied().unwrap_or(want.cost);
        let back = evict.iter().filter_map(|(id, _)| self.ledger.entries.get(id)).map(|entry| cost(&entry.want));
        (PATIENCE * (cost(want) + back.sum::<Duration>())).min(self.limits.patience)
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
}
