//! What placement knows, told to people.

use super::event::InstanceId;
use super::ledger::{Entry, State};
use super::plan::Plan;
use super::record::{Cause, Record};
use super::task::Instance;
use super::{Enforced, Status, Swap, SwapTotal, TenantState, TenantStatus, Waiting};
use crate::config::Bytes;
use crate::runtime::Rung;
use jiff::Timestamp;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// The planner's time zero, by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// By the one that only goes forward.
    pub begun: Instant,
    begun_at: Timestamp,
}

impl Clock {
    /// Now is zero.
    pub fn start() -> Self {
        Self { begun: Instant::now(), begun_at: Timestamp::now() }
    }

    fn wall(&self, at: Duration) -> Timestamp {
        self.begun_at.checked_add(at).unwrap_or(self.begun_at)
    }
}

/// All that is known.
pub fn status(
    plan: &Plan,
    instances: &BTreeMap<InstanceId, Instance>,
    swaps: &VecDeque<Swap>,
    totals: &[SwapTotal],
    clock: &Clock,
) -> Status {
    let ledger = plan.ledger();
    let tenants = instances.iter().filter_map(|(id, known)| Some(tenant(known, ledger.entries.get(id)?, clock)));
    Status {
        budget: ledger.whole(),
        foreign: ledger.cards.iter().map(|(gpu, card)| (gpu.clone(), card.foreign())).collect(),
        held: ledger.held(),
        tenants: tenants.collect(),
        waiting: waiting(plan, clock),
        swaps: swaps.iter().cloned().collect(),
        totals: totals.to_vec(),
        enforced: plan.records().map(|record| enforced(record, clock)).collect(),
    }
}

fn tenant(known: &Instance, entry: &Entry, clock: &Clock) -> TenantStatus {
    let variant = entry.variant();
    TenantStatus {
        model: known.tenant.name().to_string(),
        runtime: known.tenant.runtime(&variant.setting).to_string(),
        quant: known.tenant.spec().map(|spec| spec.quantisation.clone()).unwrap_or_default(),
        setting: variant.setting.clone(),
        state: match entry.state {
            State::Loading => TenantState::Loading,
            State::Ready if entry.closed || entry.retired => TenantState::Draining,
            State::Ready => TenantState::Ready,
            State::Settling(_) => TenantState::Settling,
            State::Resting(Rung::Park) => TenantState::Parked,
            State::Resting(_) => TenantState::Asleep,
            State::Waking => TenantState::Waking,
            State::Stopping => TenantState::Stopping,
        },
        pinned: entry.want.pinned,
        predicted: variant.claim.clone(),
        granted: entry.grant().clone(),
        measured_ram: known.measured_ram,
        measured_vram: entry.measured.clone(),
        who: known.who.clone(),
        leases: entry.leases,
        slots: variant.slots,
        started: clock.wall(entry.started),
        idle_since: entry.is_idle().then(|| clock.wall(entry.released)),
    }
}

fn waiting(plan: &Plan, clock: &Clock) -> Vec<Waiting> {
    let mut waiting: BTreeMap<&str, (usize, Duration)> = BTreeMap::new();
    for waiter in plan.waiting() {
        let (requests, since) = waiting.entry(&waiter.want.model).or_insert((0, waiter.since));
        *requests += 1;
        *since = waiter.since.min(*since);
    }
    let waiting = waiting.into_iter();
    waiting
        .map(|(model, (requests, since))| Waiting { model: model.into(), requests, since: clock.wall(since) })
        .collect()
}

fn enforced(record: &Record, clock: &Clock) -> Enforced {
    Enforced {
        at: clock.wall(record.at),
        model: record.model.clone(),
        rung: record.rung,
        cause: match record.cause {
            Cause::Excess { measured, granted } => {
                format!("it held {} of a card and may hold {}", Bytes(measured), Bytes(granted))
            }
            Cause::Pressure => "others use so much of the card that it does not fit any more".into(),
            Cause::Lost => "its card is not there any more".into(),
            Cause::Deaf => "it did not do in time what it was told".into(),
        },
        confirmed_ms: record.confirmed.map(|at| at.saturating_sub(record.at).as_millis() as u64),
    }
}
