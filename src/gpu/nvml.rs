//! The NVIDIA driver's figures, through its library. Every figure may be missing; one that the card says it does not
//! have is not asked for again.

use super::probe::{program, sort};
use super::{Memory, Process, Snapshot, Throttle};
use nvml_wrapper::Device;
use nvml_wrapper::bitmasks::InitFlags;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;

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
    library: nvml_wrapper::Nvml,
    cards: Vec<Card>,
}

/// What is kept of a card between readings.
#[derive(Debug)]
struct Card {
    name: String,
    uuid: String,
    /// Figures that it does not have.
    lacks: BTreeSet<&'static str>,
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
        let library = library.map_err(|error| explain(&error))?;
        match library.sys_driver_version() {
            Ok(version) => tracing::info!(version, "the NVIDIA driver answers"),
            Err(error) => tracing::info!(%error, "the NVIDIA driver answers, but does not tell its version"),
        }
        Ok(Self { library, cards: Vec::new() })
    }

    /// All cards.
    pub(super) fn read(&mut self) -> Result<Vec<Snapshot>, String> {
        let count = self.library.device_count().map_err(|error| explain(&error))?;
        let mut snapshots = Vec::new();
        for index in 0..count {
            match self.library.device_by_index(index) {
                Ok(device) => snapshots.extend(read(&mut self.cards, &device)),
                // A card that fell off the bus is still counted, but has no handle. What was known of it goes on.
                Err(error) => tracing::debug!(index, %error, "a card cannot be opened"),
            }
        }
        let gone = |card: &&Card| !snapshots.iter().any(|seen| seen.uuid == card.uuid);
        let lost: Vec<Snapshot> =
            self.cards.iter().filter(gone).map(|card| card.lost("the driver has lost it")).collect();
        snapshots.extend(lost);
        Ok(snapshots)
    }
}

/// One card; none while not even its identity is known.
fn read(cards: &mut Vec<Card>, device: &Device<'_>) -> Option<Snapshot> {
    let uuid = match device.uuid() {
        Ok(uuid) => uuid,
        Err(error) => {
            tracing::debug!(%error, "a card does not tell its UUID");
            return None;
        }
    };
    let at = cards.iter().position(|card| card.uuid == uuid).unwrap_or_else(|| {
        let name = device.name().unwrap_or_else(|_| "NVIDIA card".into());
        cards.push(Card { name, uuid, lacks: BTreeSet::new() });
        cards.len() - 1
    });
    Some(cards[at].read(device))
}

impl Card {
    fn read(&mut self, device: &Device<'_>) -> Snapshot {
        let mut lost = false;
        let mut snapshot = Snapshot { name: self.name.clone(), uuid: self.uuid.clone(), ..Snapshot::default() };
        // The macro, rather than a function, lets each figure have its own type.
        macro_rules! figure {
            ($name:literal, $call:expr) => {
                if lost || self.lacks.contains($name) {
                    None
                } else {
                    match $call {
                        Ok(value) => Some(value),
                        Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_)) => {
                            self.lacks.insert($name);
                            None
                        }
                        Err(error) => {
                            lost |= matches!(error, NvmlError::GpuLost);
                            None
                        }
                    }
                }
            };
        }
        snapshot.memory = figure!("memory", device.memory_info()).map(|memory| Memory {
            total: memory.total,
            used: memory.used,
            free: memory.free,
        });
        snapshot.utilisation = figure!("utilisation", device.utilization_rates()).map(|rates| rates.gpu as f32);
        snapshot.power_watts = figure!("power", device.power_usage()).map(watts);
        snapshot.power_limit_watts = figure!("power limit", device.enforced_power_limit()).map(watts);
        snapshot.celsius =
            figure!("temperature", device.temperature(TemperatureSensor::Gpu)).map(|celsius| celsius as f32);
        snapshot.fan_percent = figure!("fans", device.num_fans())
            .and_then(|fans| (0..fans).filter_map(|fan| figure!("fan", device.fan_speed(fan))).max())
            .map(|percent| percent as f32);
        snapshot.clock_mhz = figure!("clock", device.clock_info(Clock::Graphics));
        snapshot.memory_clock_mhz = figure!("memory clock", device.clock_info(Clock::Memory));
        snapshot.throttle = figure!("throttle", device.current_throttle_reasons()).map(throttles);
        // With the memory, each time: what is nobody's is the difference of the two.
        let mut seen: Vec<Process> = Vec::new();
        let lists = [
            figure!("compute processes", device.running_compute_processes()),
            figure!("graphics processes", device.running_graphics_processes()),
        ];
        for info in lists.into_iter().flatten().flatten() {
            // A program that computes and draws is in both lists, with the same figure.
            if seen.iter().any(|process| process.pid == info.pid) {
                continue;
            }
            let bytes = match info.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some(bytes),
                UsedGpuMemory::Unavailable => None,
            };
            seen.push(Process { pid: info.pid, name: program(info.pid), bytes });
        }
        sort(&mut seen);
        snapshot.processes = seen;
        if lost {
            return self.lost("it fell off the bus");
        }
        snapshot
    }

    fn lost(&self, how: &str) -> Snapshot {
        let problem = Some(format!("{how}; a reboot brings it back"));
        Snapshot { name: self.name.clone(), uuid: self.uuid.clone(), problem, ..Snapshot::default() }
    }
}

fn watts(milliwatts: u32) -> f32 {
    milliwatts as f32 / 1000.0
}

fn throttles(reasons: ThrottleReasons) -> Vec<Throttle> {
    let mut found = Vec::new();
    let mut add = |reason, any: ThrottleReasons| {
        if reasons.intersects(any) {
            found.push(reason);
        }
    };
    add(Throttle::Power, ThrottleReasons::SW_POWER_CAP);
    add(Throttle::Heat, ThrottleReasons::SW_THERMAL_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN);
    add(Throttle::PowerBrake, ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN);
    // Set along with one of the causes above on cards that know them.
    if found.is_empty() && reasons.intersects(ThrottleReasons::HW_SLOWDOWN) {
        found.push(Throttle::Hardware);
    }
    found
}

/// What an error means for the owner.
fn explain(error: &NvmlError) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_for_slowing_down() {
        let check = |reasons, expected: &[Throttle]| assert_eq!(throttles(reasons), expected, "{reasons:?}");
        check(ThrottleReasons::NONE, &[]);
        check(ThrottleReasons::GPU_IDLE, &[]);
        check(ThrottleReasons::SW_POWER_CAP, &[Throttle::Power]);
        check(ThrottleReasons::HW_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN, &[Throttle::Heat]);
        check(ThrottleReasons::HW_SLOWDOWN, &[Throttle::Hardware]);
    }
}
