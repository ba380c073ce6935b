//! Cards, under the names, units and labels of NVIDIA's DCGM exporter, so that dashboards made for it work.

use super::exposition::{Exposition, Kind, Labels};
use crate::gpu::{Holder, HolderKind, Sample, Snapshot};
use std::collections::BTreeMap;

const MIB: u64 = 1 << 20;

/// A figure of a card, none where the card does not tell.
type Figure = fn(&Snapshot) -> Option<f64>;

/// Name, kind, help (with the unit) and the figure itself.
const FAMILIES: &[(&str, Kind, &str, Figure)] = &[
    ("DCGM_FI_DEV_SM_CLOCK", Kind::Gauge, "SM clock frequency (in MHz).", |card| card.clock_mhz.map(f64::from)),
    ("DCGM_FI_DEV_MEM_CLOCK", Kind::Gauge, "Memory clock frequency (in MHz).", |card| {
        card.memory_clock_mhz.map(f64::from)
    }),
    ("DCGM_FI_DEV_GPU_TEMP", Kind::Gauge, "GPU temperature (in C).", |card| card.celsius.map(f64::from)),
    ("DCGM_FI_DEV_POWER_USAGE", Kind::Gauge, "Power draw (in W).", |card| card.power_watts.map(decimal)),
    ("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", Kind::Gauge, "Effective power limit (in W).", |card| {
        card.power_limit_watts.map(decimal)
    }),
    ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", Kind::Counter, "Total energy consumption since boot (in mJ).", |card| {
        card.energy_millijoules.map(|energy| energy as f64)
    }),
    ("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", Kind::Counter, "Total number of PCIe retries.", |card| {
        card.pcie?.replays.map(f64::from)
    }),
    ("DCGM_FI_DEV_PCIE_LINK_GEN", Kind::Gauge, "PCIe current link generation.", |card| {
        card.pcie?.generation.map(f64::from)
    }),
    ("DCGM_FI_DEV_PCIE_LINK_WIDTH", Kind::Gauge, "PCIe current link width.", |card| card.pcie?.width.map(f64::from)),
    ("DCGM_FI_DEV_GPU_UTIL", Kind::Gauge, "GPU utilization (in %).", |card| card.utilisation.map(f64::from)),
    ("DCGM_FI_DEV_MEM_COPY_UTIL", Kind::Gauge, "Memory utilization (in %).", |card| {
        card.memory_utilisation.map(f64::from)
    }),
    ("DCGM_FI_DEV_ENC_UTIL", Kind::Gauge, "Encoder utilization (in %).", |card| card.encoder.map(f64::from)),
    ("DCGM_FI_DEV_DEC_UTIL", Kind::Gauge, "Decoder utilization (in %).", |card| card.decoder.map(f64::from)),
    ("DCGM_FI_DEV_FAN_SPEED", Kind::Gauge, "Fan speed (in %).", |card| card.fan_percent.map(f64::from)),
    ("DCGM_FI_DEV_PSTATE", Kind::Gauge, "Performance state (0 is the fastest).", |card| {
        card.performance_state.map(f64::from)
    }),
    // A card that tells nothing any more still tells this: alerts are made of it.
    ("DCGM_FI_DEV_XID_ERRORS", Kind::Gauge, "Value of the last XID error encountered.", |card| {
        Some(card.xids.first().map_or(0.0, |xid| xid.code as f64))
    }),
    ("DCGM_FI_DEV_FB_FREE", Kind::Gauge, "Framebuffer memory free (in MiB).", |card| {
        card.memory.map(|memory| (memory.free / MIB) as f64)
    }),
    ("DCGM_FI_DEV_FB_USED", Kind::Gauge, "Framebuffer memory used (in MiB).", |card| {
        card.memory.map(|memory| (memory.used / MIB) as f64)
    }),
    ("DCGM_FI_DEV_FB_RESERVED", Kind::Gauge, "Framebuffer memory reserved (in MiB).", |card| {
        card.memory.map(|memory| (memory.total.saturating_sub(memory.used).saturating_sub(memory.free) / MIB) as f64)
    }),
    ("sovereign_gpu_up", Kind::Gauge, "Whether the card can be read: 0 when it or its driver is lost.", |card| {
        Some(if card.problem.is_none() { 1.0 } else { 0.0 })
    }),
];

/// Adds what the cards of `sample` tell, on the machine `host`, and what each drew since the daemon's start.
pub(super) fn add(to: &mut Exposition, sample: &Sample, joules: &BTreeMap<String, f64>, host: &str) {
    let numbers: Vec<String> = (0..sample.cards.len()).map(|at| at.to_string()).collect();
    let devices: Vec<String> = numbers.iter().map(|number| format!("nvidia{number}")).collect();
    let labels = |at: usize| -> Labels<'_> {
        let card: &Snapshot = &sample.cards[at];
        let mut labels = vec![
            ("gpu", numbers[at].as_str()),
            ("UUID", card.uuid.as_str()),
            ("device", devices[at].as_str()),
            ("modelName", card.name.as_str()),
            ("Hostname", host),
        ];
        labels.extend(card.driver.as_deref().map(|version| ("DCGM_FI_DRIVER_VERSION", version)));
        labels
    };
    for (name, kind, help, figure) in FAMILIES {
        let figures = sample.cards.iter().enumerate().filter_map(|(at, card)| Some((labels(at), figure(card)?)));
        to.family(name, *kind, help, figures);
    }
    let drawn = joules.iter().map(|(uuid, joules)| (vec![("UUID", uuid.as_str())], *joules));
    to.family(
        "sovereign_gpu_energy_joules_total",
        Kind::Counter,
        "Energy that the card drew since the daemon's start, as far as it was measured.",
        drawn,
    );
    let holders: Vec<Holder> = sample.cards.iter().flat_map(Holder::of).collect();
    let held = holders.iter().filter_map(|holder| {
        let labels = vec![("UUID", &*holder.card), ("kind", kind_of(holder)), ("holder", &*holder.name)];
        Some((labels, holder.bytes? as f64))
    });
    to.family("sovereign_gpu_held_bytes", Kind::Gauge, "Memory of the card, by who holds it.", held);
}

fn kind_of(holder: &Holder) -> &'static str {
    match holder.kind {
        HolderKind::Model => "model",
        HolderKind::Service => "service",
        HolderKind::Container => "container",
        HolderKind::Host => "host",
        HolderKind::Rest => "rest",
    }
}

/// Without the digits that a `f32` does not have.
fn decimal(value: f32) -> f64 {
    (f64::from(value) * 1000.0).round() / 1000.0
}
