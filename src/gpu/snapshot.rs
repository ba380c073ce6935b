use super::Xid;
use serde::{Deserialize, Serialize};
use std::fmt;

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
    /// Percent of the last moments in which its memory was read or written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_utilisation: Option<f32>,
    /// Percent of its video encoder's time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<f32>,
    /// Percent of its video decoder's time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder: Option<f32>,
    /// What it draws.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_watts: Option<f32>,
    /// What it may draw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_limit_watts: Option<f32>,
    /// What it has drawn since its driver was loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_millijoules: Option<u64>,
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
    /// How fast it may run now: 0 is the fastest, 15 the slowest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub performance_state: Option<u8>,
    /// Its link to the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pcie: Option<Pcie>,
    /// What its processor can do, as CUDA counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_capability: Option<Capability>,
    /// The version of the driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// The last errors that its driver told of, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xids: Vec<Xid>,
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

impl Snapshot {
    /// The card without its figures, because of `problem`.
    pub fn without_figures(&self, problem: String) -> Self {
        Self {
            name: self.name.clone(),
            uuid: self.uuid.clone(),
            driver: self.driver.clone(),
            xids: self.xids.clone(),
            problem: Some(problem),
            ..Self::default()
        }
    }
}

/// A card's link to the machine. An idle card lowers its generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pcie {
    /// The generation now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// The highest that card and slot reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_generation: Option<u32>,
    /// Lanes now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// The most that card and slot have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_width: Option<u32>,
    /// Transfers that had to be repeated since the driver was loaded: many speak of a bad slot or riser.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replays: Option<u32>,
    /// Bytes a second that the card sends; measured every ten seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<u64>,
    /// Bytes a second that the card receives; measured every ten seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
}

/// What a card's processor can do, as CUDA counts: 8.9 has FP8, 12.0 has NVFP4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capability {
    /// The generation of its processors.
    pub major: u32,
    /// The variant of it.
    pub minor: u32,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A process that occupies a card's memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// The container that it is in; none for a program of the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// The model that it serves for us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// A container that a process is in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// Its identifier, 64 hex digits.
    pub id: String,
    /// The stack that it belongs to, where it is ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    /// The service that it runs, where it is ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The identifiers of the containers around it, innermost first.
    #[serde(skip)]
    pub within: Vec<String>,
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
