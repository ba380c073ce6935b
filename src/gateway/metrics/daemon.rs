//! What we do: who holds memory and how much of it was foretold, who waits, and what was answered.

use super::exposition::{Exposition, Kind, Labels};
use crate::db::usage::Totals;
use crate::gpu::Host;
use crate::placement::{Status, SwapTotal, TenantStatus};
use crate::runtime::Claim;
use std::collections::BTreeMap;

/// What host memory is called among the UUIDs of cards.
const HOST: &str = "host";

/// Adds what the daemon is and has done since its start.
pub(super) fn add(to: &mut Exposition, placement: &Status, totals: &Totals, uptime: f64) {
    let version = [(vec![("version", env!("CARGO_PKG_VERSION"))], 1.0)];
    to.family("sovereign_build_info", Kind::Gauge, "The program's version.", version);
    to.family("sovereign_uptime_seconds", Kind::Gauge, "Since the daemon's start.", [(vec![], uptime)]);
    memory(to, placement);
    measured(to, placement);
    let by_model = |figure: fn(&TenantStatus) -> f64| {
        placement.tenants.iter().map(move |tenant| (vec![("model", &*tenant.model)], figure(tenant)))
    };
    to.family("sovereign_tenant_requests", Kind::Gauge, "Requests being answered.", by_model(|t| t.leases as f64));
    to.family("sovereign_tenant_slots", Kind::Gauge, "Requests answered at once.", by_model(|t| t.slots as f64));
    let waiting = placement.waiting.iter().map(|waiting| (vec![("model", &*waiting.model)], waiting.requests as f64));
    to.family("sovereign_requests_waiting", Kind::Gauge, "Requests that wait for their model.", waiting);
    swaps(to, placement);
    usage(to, totals);
}

/// The last of each kind, of each model.
fn swaps(to: &mut Exposition, placement: &Status) {
    let mut last: BTreeMap<(&str, &'static str), f64> = BTreeMap::new();
    for swap in placement.swaps.iter().filter(|swap| swap.problem.is_none()) {
        last.entry((&swap.model, swap.kind.name())).or_insert(swap.took_ms as f64 / 1000.0);
    }
    let figures = last.into_iter().map(|((model, kind), seconds)| (vec![("model", model), ("kind", kind)], seconds));
    to.family("sovereign_last_swap_seconds", Kind::Gauge, "How long the last swap of a model took.", figures);
    let totals = |figure: fn(&SwapTotal) -> f64| {
        placement.totals.iter().map(move |total| (vec![("kind", total.kind.name())], figure(total)))
    };
    to.family("sovereign_swaps_total", Kind::Counter, "Swaps that succeeded.", totals(|total| total.done as f64));
    to.family(
        "sovereign_swap_failures_total",
        Kind::Counter,
        "Swaps that failed.",
        totals(|total| total.failed as f64),
    );
    let seconds = totals(|total| total.took_ms as f64 / 1000.0);
    to.family("sovereign_swap_seconds_total", Kind::Counter, "How long swaps took that succeeded.", seconds);
}

fn memory(to: &mut Exposition, placement: &Status) {
    to.family("sovereign_budget_bytes", Kind::Gauge, "Memory that models may hold together.", parts(&placement.budget));
    to.family("sovereign_held_bytes", Kind::Gauge, "Memory that is held for models.", parts(&placement.held));
    let of_tenants = |claim: fn(&TenantStatus) -> Option<&Claim>| {
        placement.tenants.iter().flat_map(move |tenant| {
            let parts = claim(tenant).into_iter().flat_map(parts);
            parts.map(|(labels, bytes)| (with_model(&tenant.model, &labels), bytes))
        })
    };
    let predicted = of_tenants(|tenant| Some(&tenant.predicted));
    to.family("sovereign_tenant_predicted_bytes", Kind::Gauge, "Memory foretold for a model.", predicted);
    let granted = of_tenants(|tenant| Some(&tenant.granted));
    to.family("sovereign_tenant_granted_bytes", Kind::Gauge, "Memory that a model may hold.", granted);
}

fn measured(to: &mut Exposition, placement: &Status) {
    let figures = placement.tenants.iter().flat_map(|tenant| {
        let host = tenant.measured_ram.map(|bytes| (HOST, bytes));
        let cards = tenant.measured_vram.iter().map(|(uuid, bytes)| (uuid.as_str(), *bytes));
        host.into_iter().chain(cards).map(|(of, bytes)| (vec![("model", &*tenant.model), ("of", of)], bytes as f64))
    });
    to.family("sovereign_tenant_measured_bytes", Kind::Gauge, "Memory that a model was seen to hold.", figures);
    let foreign = placement.foreign.iter().map(|(uuid, bytes)| (vec![("of", uuid.as_str())], *bytes as f64));
    to.family("sovereign_foreign_bytes", Kind::Gauge, "Memory of the card that others hold.", foreign);
}

fn with_model<'a>(model: &'a str, labels: &[(&'static str, &'a str)]) -> Labels<'a> {
    std::iter::once(("model", model)).chain(labels.iter().copied()).collect()
}

/// A claim's memory: of the host, and of each card.
fn parts(claim: &Claim) -> impl Iterator<Item = (Labels<'_>, f64)> {
    let cards = claim.vram.iter().map(|(uuid, bytes)| (vec![("of", uuid.as_str())], *bytes as f64));
    std::iter::once((vec![("of", HOST)], claim.ram as f64)).chain(cards)
}

fn usage(to: &mut Exposition, totals: &Totals) {
    let requests = totals.iter().flat_map(|((model, runtime), total)| {
        let by_status = total.requests.iter();
        by_status.map(move |(status, count)| {
            (vec![("model", &**model), ("runtime", *runtime), ("status", &**status)], *count as f64)
        })
    });
    to.family("sovereign_requests_total", Kind::Counter, "Requests that ended, by HTTP status.", requests);
    let tokens = |kind: &'static str, count: fn(&crate::db::usage::Total) -> u64| {
        totals.iter().map(move |((model, runtime), total)| {
            (vec![("model", &**model), ("runtime", *runtime), ("kind", kind)], count(total) as f64)
        })
    };
    let both = tokens("prompt", |total| total.prompt_tokens).chain(tokens("generated", |t| t.generated_tokens));
    to.family("sovereign_tokens_total", Kind::Counter, "Tokens of prompts and of answers.", both);
}

/// Adds what the machine around the cards does.
pub(super) fn add_host(to: &mut Exposition, host: &Host) {
    let memory = |name, help, bytes: u64| (name, help, bytes as f64);
    for (name, help, value) in [
        memory("sovereign_host_memory_bytes", "Memory of this machine.", host.memory_total),
        memory("sovereign_host_memory_used_bytes", "Memory of this machine in use.", host.memory_used),
    ] {
        to.family(name, Kind::Gauge, help, [(vec![], value)]);
    }
    let busy = host.cpu_percent.map(|percent| (vec![], f64::from(percent) / 100.0));
    to.family("sovereign_host_cpu_ratio", Kind::Gauge, "Share of the processors' time in use.", busy);
}
