use serde::{Deserialize, Serialize};

/// One card at one moment. What a card does not report is absent: a fan that stands still and one that is not there
/// are not the same.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// What the vendor calls it.
    pub name: String,
    /// What it is known by, across reboots and slots.
    pub uuid: String,
    /// Its memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Percent of the last moments in which it computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilisation: Option<f32>,
    /// What it draws.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_watts: Option<f32>,
    /// What it may draw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_limit_watts: Option<f32>,
    /// The temperature of its processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub celsius: Option<f32>,
    /// Percent of its fan's full speed, the fastest where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fan_percent: Option<f32>,
    /// The clock of its processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_mhz: Option<u32>,
    /// The clock of its memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_clock_mhz: Option<u32>,
    /// What slows it down; empty when nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle: Option<Vec<Throttle>>,
    /// Who occupies its memory, the largest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<Process>,
    /// Why figures are missing that should be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The memory of a card, in bytes. What the driver keeps for itself is in neither `used` nor `free`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What is occupied.
    pub used: u64,
    /// What is not.
    pub free: u64,
}

/// A process that occupies a card's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its number, as the host counts.
    pub pid: u32,
    /// Its program's name; absent when it is not among the processes that we see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Bytes that it occupies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// Why a card runs below its clock. That it idles, or was told to, is no reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Throttle {
    /// It reached the power that it may draw.
    Power,
    /// It is too hot.
    Heat,
    /// The power supply asked it to slow down.
    PowerBrake,
    /// The hardware slowed it down, for heat or power.
    Hardware,
}
