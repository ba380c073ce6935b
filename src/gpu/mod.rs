//! What the card does: its figures once a second, beside the host's.
//!
//! A [`Probe`] reads, on a thread of its own, since calls into a driver block and may hang. One task publishes what was
//! read last, keeps an hour of it in memory and minutes of it in `metrics.db`. No driver is no failure: the list of
//! cards is empty, one line in the log says so, and the host's figures go on.

mod card;
mod cgroup;
mod energy;
mod events;
mod history;
mod holder;
mod host;
mod meter;
mod minutes;
mod monitor;
mod nvml;
mod probe;
mod snapshot;
mod xid;

pub use energy::{Day, Energy};
pub use history::{CardPoint, History, Point};
pub use holder::{Holder, HolderKind, Owners, Service};
pub use host::Host;
pub use monitor::{Monitor, Reading, Sample};
pub use probe::Probe;
pub use snapshot::{Capability, Container, Memory, Pcie, Process, Snapshot, Throttle};
pub use xid::{Severity, Xid};
