//! `sovereign status`.

use super::Global;
use super::client::{Client, block_on};
use super::table::{Table, span};
use crate::admin;
use crate::config::Bytes;
use crate::gpu::{Day, Holder, Snapshot};
use crate::placement::{SwapKind, TenantState, TenantStatus};
use std::fmt::Write;
use std::process::ExitCode;

/// Show what the daemon runs and what holds the card.
///
/// Asks the daemon. It fails when none runs, so that scripts can wait for one.
#[derive(Debug, clap::Args)]
pub struct Status {
    /// Print all that is known, as JSON.
    #[arg(long)]
    json: bool,
}

impl Status {
    pub fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let client = Client::new(global)?;
        block_on(async {
            if self.json {
                let status: serde_json::Value = client.get("/admin/v1/status").await?;
                println!("{status:#}");
            } else {
                let status: admin::Status = client.get("/admin/v1/status").await?;
                print!("{}", text(&status)?);
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

/// The status for a person.
fn text(status: &admin::Status) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let now = jiff::Timestamp::now();
    writeln!(out, "Sovereign {}, process {}, up for {}", status.version, status.pid, span(status.uptime))?;
    let host = &status.now.host;
    writeln!(out, "Host      {} of {} in use", Bytes(host.memory_used), Bytes(host.memory_total))?;
    for card in &status.now.cards {
        writeln!(out, "Card      {}", card_line(card))?;
        let holders = status.holders.iter().filter(|holder| holder.card == card.uuid).map(holder_words);
        let holders = holders.collect::<Vec<_>>().join(", ");
        if !holders.is_empty() {
            writeln!(out, "          held by {holders}")?;
        }
        if let Some(xid) = card.xids.first() {
            let since = span(now.as_second().saturating_sub(xid.at).max(0).unsigned_abs());
            writeln!(out, "          Xid {}, {since} ago: {}; {}", xid.code, xid.meaning, xid.advice)?;
        }
    }
    if let Some(day) = &status.energy {
        writeln!(out, "Energy    {}", energy_line(day))?;
    }
    let placement = &status.placement;
    writeln!(out, "Memory    {} held by models, of the budget of {}", Bytes(placement.held.ram), placement.budget)?;
    writeln!(out, "Models    {} installed, {} loaded", status.models, placement.tenants.len())?;
    writeln!(out, "Docker    {}", docker_line(&status.docker))?;

    if placement.tenants.is_empty() {
        writeln!(out, "\nNo model is loaded; the first question loads one.")?;
    } else {
        let mut table = Table::new(["MODEL", "QUANT", "RUNTIME", "STATE", "REQUESTS", "PREDICTED", "MEASURED"]);
        for tenant in &placement.tenants {
            table.row([
                tenant.model.clone(),
                tenant.quant.clone(),
                tenant.runtime.clone(),
                state(tenant, now),
                format!("{} of {}", tenant.leases, tenant.slots),
                predicted(tenant),
                measured(tenant),
            ]);
        }
        write!(out, "\n{table}")?;
    }
    for (gpu, bytes) in placement.foreign.iter().filter(|(_, bytes)| **bytes > 0) {
        writeln!(out, "Others use {} of {gpu}", Bytes(*bytes))?;
    }
    for waiting in &placement.waiting {
        let since = span(now.duration_since(waiting.since).as_secs().max(0).unsigned_abs());
        writeln!(out, "{} requests wait for {}, the oldest for {since}", waiting.requests, waiting.model)?;
    }
    if !placement.swaps.is_empty() {
        writeln!(out, "\nLast swaps")?;
    }
    for swap in placement.swaps.iter().take(5) {
        let ago = span(now.duration_since(swap.at).as_secs().max(0).unsigned_abs());
        let what = match swap.kind {
            SwapKind::Load => "loaded",
            SwapKind::Wake => "woke",
            SwapKind::Sleep => "fell asleep",
            SwapKind::Park => "was parked",
            SwapKind::Stop => "was stopped",
        };
        let end = swap.problem.as_ref().map_or(String::new(), |problem| format!(", and failed: {problem}"));
        writeln!(out, "  {} {what} in {} ms, {ago} ago{end}", swap.model, swap.took_ms)?;
    }
    for enforced in placement.enforced.iter().take(5) {
        let ago = span(now.duration_since(enforced.at).as_secs().max(0).unsigned_abs());
        let free = match enforced.confirmed_ms {
            Some(ms) => format!("its memory was free after {ms} ms"),
            None => "its memory has not been seen to be free".into(),
        };
        writeln!(out, "  {} was made to {:?}, {ago} ago: {}; {free}", enforced.model, enforced.rung, enforced.cause)?;
    }
    Ok(out)
}

/// What it was predicted to hold where it runs.
fn predicted(tenant: &TenantStatus) -> String {
    match tenant.predicted.on_cards() {
        0 => Bytes(tenant.predicted.ram).to_string(),
        bytes => Bytes(bytes).to_string(),
    }
}

/// What it was seen to hold where it runs.
fn measured(tenant: &TenantStatus) -> String {
    let on_cards: u64 = tenant.measured_vram.values().sum();
    match (tenant.predicted.on_cards(), tenant.measured_ram) {
        (0, None) => "-".into(),
        (0, Some(bytes)) => Bytes(bytes).to_string(),
        _ => Bytes(on_cards).to_string(),
    }
}

fn docker_line(docker: &admin::Docker) -> String {
    match (&docker.version, &docker.problem) {
        (Some(version), _) => format!("{version}, {} containers of ours", docker.containers),
        (None, Some(problem)) => problem.clone(),
        (None, None) => "absent".into(),
    }
}

fn holder_words(holder: &Holder) -> String {
    match holder.bytes {
        Some(bytes) => format!("{} ({})", holder.label(), Bytes(bytes)),
        None => holder.label(),
    }
}

fn energy_line(day: &Day) -> String {
    let mut facts = vec![format!("{:.0} Wh on {}", day.watt_hours, day.date)];
    facts.extend(day.cost());
    let told = day.tokens_per_joule.filter(|_| day.generated_tokens > 0);
    facts.extend(told.map(|tokens| format!("{tokens:.2} tokens per joule")));
    facts.join(", ")
}

fn card_line(card: &Snapshot) -> String {
    let mut facts = vec![card.name.clone()];
    if let Some(memory) = &card.memory {
        facts.push(format!("{} of {} in use", Bytes(memory.used), Bytes(memory.total)));
    }
    facts.extend(card.utilisation.map(|percent| format!("{percent:.0}% busy")));
    facts.extend(card.power_watts.map(|watts| format!("{watts:.0} W")));
    facts.extend(card.celsius.map(|celsius| format!("{celsius:.0} °C")));
    facts.extend(card.problem.clone());
    facts.join(", ")
}

fn state(tenant: &TenantStatus, now: jiff::Timestamp) -> String {
    match (tenant.state, tenant.idle_since) {
        (TenantState::Loading, _) => "loading".into(),
        (TenantState::Ready, Some(since)) => {
            format!("idle for {}", span(now.duration_since(since).as_secs().max(0).unsigned_abs()))
        }
        (TenantState::Ready, None) => "answering".into(),
        (TenantState::Draining, _) => "making room".into(),
        (TenantState::Settling, _) => "going to rest".into(),
        (TenantState::Asleep, _) => "asleep".into(),
        (TenantState::Parked, _) => "parked in host memory".into(),
        (TenantState::Waking, _) => "waking".into(),
        (TenantState::Stopping, _) => "stopping".into(),
    }
}
