//! The NVIDIA driver, through its library.

use super::card::Card;
use super::events::Events;
use super::{Snapshot, Xid};
use nvml_wrapper::Device;
use nvml_wrapper::bitmasks::InitFlags;
use nvml_wrapper::error::NvmlError;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

/// Where the library is when the loader does not know: Unraid's place, and WSL's.
const ELSEWHERE: [&str; 4] = [
    "libnvidia-ml.so.1",
    "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
    "/usr/lib64/libnvidia-ml.so.1",
    "/usr/lib/wsl/lib/libnvidia-ml.so.1",
];

/// The opened library.
#[derive(Debug)]
pub(super) struct Nvml {
    /// Before the library, which is closed after it.
    events: Events,
    library: Arc<nvml_wrapper::Nvml>,
    version: Option<String>,
}

impl Nvml {
    /// Loads the library and starts it.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, String> {
        let start = |path: &OsStr| nvml_wrapper::Nvml::builder().lib_path(path).flags(InitFlags::NO_GPUS).init();
        let library = match path {
            Some(path) => start(path.as_os_str()),
            None => {
                // The first error that is not "no such file" is the one that helps.
                let mut result = start(OsStr::new(ELSEWHERE[0]));
                for path in &ELSEWHERE[1..] {
                    if !matches!(result, Err(NvmlError::LibloadingError(_))) {
                        break;
                    }
                    result = start(OsStr::new(path));
                }
                result
            }
        };
        let library = Arc::new(library.map_err(|error| explain(&error))?);
        let version = library.sys_driver_version().inspect_err(|error| tracing::debug!(%error, "no version")).ok();
        Ok(Self { events: Events::watch(library.clone()), library, version })
    }

    /// The driver's version.
    pub(super) fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// All cards, those that `cards` knows and those that come to it.
    pub(super) fn read(&self, cards: &mut Vec<Card>) -> Result<Vec<Snapshot>, String> {
        let count = self.library.device_count().map_err(|error| explain(&error))?;
        for told in self.events.take() {
            if let Some(card) = cards.iter_mut().find(|card| card.uuid() == told.uuid) {
                card.tell(Xid::new(told.at, told.code));
            }
        }
        let mut snapshots: Vec<Snapshot> = Vec::new();
        for index in 0..count {
            match self.library.device_by_index(index) {
                Ok(device) => snapshots.extend(self.read_card(cards, &device)),
                // A card that fell off the bus is still counted, but has no handle. What was known of it goes on.
                Err(error) => tracing::debug!(index, %error, "a card cannot be opened"),
            }
        }
        for card in cards {
            if !snapshots.iter().any(|seen| seen.uuid == card.uuid()) {
                snapshots.push(card.lost("the driver has lost it", "a reboot brings it back"));
            }
        }
        Ok(snapshots)
    }

    /// One card; none while not even its identity is known.
    fn read_card(&self, cards: &mut Vec<Card>, device: &Device<'_>) -> Option<Snapshot> {
        let uuid = match device.uuid() {
            Ok(uuid) => uuid,
            Err(error) => {
                tracing::debug!(%error, "a card does not tell its UUID");
                return None;
            }
        };
        let at = cards.iter().position(|card| card.uuid() == uuid).unwrap_or_else(|| {
            let name = device.name().unwrap_or_else(|_| "NVIDIA card".into());
            cards.push(Card::new(name, uuid));
            cards.len() - 1
        });
        Some(cards[at].read(device, self.version()))
    }
}

/// What an error means for the owner.
pub(super) fn explain(error: &NvmlError) -> String {
    match error {
        NvmlError::LibloadingError(_) => {
            "no NVIDIA driver is installed, or its library is not where it is looked for".into()
        }
        NvmlError::DriverNotLoaded => "the NVIDIA driver is installed, but not loaded".into(),
        NvmlError::LibRmVersionMismatch => "the NVIDIA driver was updated; the machine needs a reboot".into(),
        NvmlError::NoPermission => "this user may not speak with the NVIDIA driver".into(),
        other => format!("the NVIDIA driver says: {other}"),
    }
}
