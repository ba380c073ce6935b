//! What the stand-in says: the whole state of a driver and its cards, as tests write it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// In place of a function's name: all of them.
pub const EVERY: &str = "*";

/// A driver and its cards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// The driver's version.
    pub version: String,
    /// How often the driver was loaded anew. What was opened before sees every card as lost, as with the real one.
    pub reloads: u64,
    /// What functions fail with, by name. [`EVERY`] is a driver that is not there.
    pub faults: BTreeMap<String, Fault>,
    /// Milliseconds that functions take, by name.
    pub slow: BTreeMap<String, u64>,
    /// Errors of cards, oldest first. Whoever opens the library is told of those that come after.
    pub xids: Vec<Xid>,
    /// Whether the name of each function that is called is added, as a line, to `<library>.calls`.
    pub log_calls: bool,
    /// The cards, in the driver's order.
    pub cards: Vec<Card>,
}

/// A card. What is none it does not support.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// What the vendor calls it.
    pub name: String,
    /// What it is known by.
    pub uuid: String,
    /// Whether it is there.
    pub presence: Presence,
    /// What functions fail with on this card alone, by name.
    pub faults: BTreeMap<String, Fault>,
    /// Its memory.
    pub memory: Option<Memory>,
    /// Percent of the time in which it computed, and in which its memory was read or written.
    pub utilisation: Option<(u32, u32)>,
    /// Percent of its encoder's time.
    pub encoder: Option<u32>,
    /// Percent of its decoder's time.
    pub decoder: Option<u32>,
    /// What it draws, in milliwatts.
    pub power: Option<u32>,
    /// What it may draw, in milliwatts.
    pub power_limit: Option<u32>,
    /// What it has drawn since the driver was loaded, in millijoules.
    pub energy: Option<u64>,
    /// The temperature of its processor.
    pub celsius: Option<u32>,
    /// Percent of the full speed of each fan.
    pub fans: Option<Vec<u32>>,
    /// The clocks of its processor and of its memory, in MHz.
    pub clocks: Option<(u32, u32)>,
    /// NVML's bits of what slows it down.
    pub throttle: Option<u64>,
    /// 0 is the fastest, 15 the slowest.
    pub performance_state: Option<u32>,
    /// Its link to the machine.
    pub pcie: Option<Pcie>,
    /// What its processor can do, as CUDA counts.
    pub capability: Option<(i32, i32)>,
    /// Who occupies its memory. None: it does not tell.
    pub processes: Option<Vec<Process>>,
}

/// Whether a card is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    /// It is.
    Present,
    /// It fell off the bus: it is still counted and tells its name, and nothing else.
    Lost,
    /// It is not counted any more.
    Gone,
}

/// Bytes of a card's memory. In use is what processes occupy, and `other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What the driver keeps for itself.
    pub reserved: u64,
    /// What is in use, and nobody's.
    pub other: u64,
}

/// A card's link to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pcie {
    /// The generation now, and the highest.
    pub generation: (u32, u32),
    /// Lanes now, and the most.
    pub width: (u32, u32),
    /// KB/s that the card sends and receives.
    pub throughput: (u32, u32),
    /// Transfers that were repeated.
    pub replays: u32,
}

/// A process on a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// What it occupies; none where the driver does not say.
    pub bytes: Option<u64>,
    /// Whether it is in the list of what computes.
    pub computes: bool,
    /// Whether it is in the list of what draws.
    pub draws: bool,
}

/// An error of a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xid {
    /// The card.
    pub uuid: String,
    /// NVIDIA's number of it.
    pub code: u64,
}

/// What a function fails with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// The library was not opened.
    Uninitialised = 1,
    /// There is no such card.
    InvalidArgument = 2,
    /// The card does not do this.
    NotSupported = 3,
    /// Not for this user.
    NoPermission = 4,
    /// There is no such thing.
    NotFound = 6,
    /// The caller's buffer is too small.
    InsufficientSize = 7,
    /// The kernel's part of the driver is not loaded.
    DriverNotLoaded = 9,
    /// Nothing came in time.
    Timeout = 10,
    /// The card fell off the bus.
    GpuLost = 15,
    /// The card waits for a reset.
    ResetRequired = 16,
    /// The library and the kernel's part are not of one version.
    VersionMismatch = 18,
    /// Anything else.
    Unknown = 999,
}

impl Card {
    /// Bytes in use.
    pub fn used(&self) -> u64 {
        let held = self.processes.iter().flatten().filter_map(|process| process.bytes);
        held.fold(self.memory.map_or(0, |memory| memory.other), u64::saturating_add)
    }
}
