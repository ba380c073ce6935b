//! One card, as the NVIDIA driver tells of it. Every figure may be missing; one that the card says it does not have is
//! not asked for again.

use super::cgroup;
use super::probe::{program, sort};
use super::{Capability, Container, Memory, Pcie, Process, Severity, Snapshot, Throttle, Xid};
use crate::db;
use nvml_wrapper::Device;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, PcieUtilCounter, PerformanceState, TemperatureSensor};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// How often the traffic between card and machine is measured: the driver looks at it for 20 ms in each direction.
const TRAFFIC_EVERY: Duration = Duration::from_secs(10);
/// Errors that are kept.
const XIDS: usize = 16;
/// How long an error explains that a card is lost, in seconds.
const EXPLAINS: i64 = 600;

/// What is kept of a card between readings.
#[derive(Debug)]
pub(super) struct Card {
    name: String,
    uuid: String,
    /// The driver's version when it was last seen.
    driver: Option<String>,
    /// Figures that it does not have.
    lacks: BTreeSet<&'static str>,
    traffic: Option<Traffic>,
    /// Newest first.
    xids: VecDeque<Xid>,
    lost: bool,
}

/// KB/s that went over the link.
#[derive(Debug, Clone, Copy)]
struct Traffic {
    at: Instant,
    sent: Option<u32>,
    received: Option<u32>,
}

/// One reading.
struct Reading<'a> {
    lacks: &'a mut BTreeSet<&'static str>,
    /// How the card was lost meanwhile, and what to do about it.
    lost: Option<(&'static str, &'static str)>,
}

impl Reading<'_> {
    /// A figure, unless it is one that the card lacks.
    fn ask<T>(&mut self, name: &'static str, figure: impl FnOnce() -> Result<T, NvmlError>) -> Option<T> {
        if self.lost.is_some() || self.lacks.contains(name) {
            return None;
        }
        match figure() {
            Ok(value) => return Some(value),
            Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_)) => {
                self.lacks.insert(name);
            }
            Err(NvmlError::GpuLost) => self.lost = Some(("it fell off the bus", "a reboot brings it back")),
            Err(NvmlError::ResetRequired) => {
                self.lost =
                    Some(("it waits for a reset", "stop what uses it and run `nvidia-smi --gpu-reset`, or reboot"));
            }
            Err(error) => tracing::debug!(name, %error, "a figure could not be read"),
        }
        None
    }
}

impl Card {
    pub(super) fn new(name: String, uuid: String) -> Self {
        let (lacks, xids) = (BTreeSet::new(), VecDeque::new());
        Self { name, uuid, driver: None, lacks, traffic: None, xids, lost: false }
    }

    pub(super) fn uuid(&self) -> &str {
        &self.uuid
    }

    /// The library was opened anew: another driver may know more.
    pub(super) fn reopened(&mut self) {
        self.lacks.clear();
        self.traffic = None;
    }

    /// The driver told of an error.
    pub(super) fn tell(&mut self, xid: Xid) {
        let Xid { code, meaning, advice, .. } = &xid;
        if xid.severity == Severity::Program {
            tracing::warn!(card = self.name, xid = code, "{meaning}; what to do: {advice}");
        } else {
            tracing::error!(card = self.name, xid = code, "{meaning}; what to do: {advice}");
        }
        self.xids.push_front(xid);
        self.xids.truncate(XIDS);
    }

    /// Everything about it, now.
    pub(super) fn read(&mut self, device: &Device<'_>, driver: Option<&str>) -> Snapshot {
        self.driver = driver.map(Into::into);
        let mut snapshot = self.bare();
        let mut reading = Reading { lacks: &mut self.lacks, lost: None };
        let mut ask = Figures { reading: &mut reading, device };
        snapshot.memory = ask.memory();
        (snapshot.utilisation, snapshot.memory_utilisation) = ask.utilisation();
        (snapshot.encoder, snapshot.decoder) = ask.video();
        snapshot.power_watts = ask.reading.ask("power", || device.power_usage()).map(watts);
        snapshot.power_limit_watts = ask.reading.ask("power limit", || device.enforced_power_limit()).map(watts);
        snapshot.energy_millijoules = ask.reading.ask("energy", || device.total_energy_consumption());
        let celsius = ask.reading.ask("temperature", || device.temperature(TemperatureSensor::Gpu));
        snapshot.celsius = celsius.map(|celsius| celsius as f32);
        snapshot.fan_percent = ask.fan();
        snapshot.clock_mhz = ask.reading.ask("clock", || device.clock_info(Clock::SM));
        snapshot.memory_clock_mhz = ask.reading.ask("memory clock", || device.clock_info(Clock::Memory));
        snapshot.throttle = ask.reading.ask("throttle", || device.current_throttle_reasons()).map(throttles);
        snapshot.performance_state =
            ask.reading.ask("performance state", || device.performance_state()).and_then(number_of);
        snapshot.compute_capability = ask.capability();
        let traffic = match self.traffic {
            Some(traffic) if traffic.at.elapsed() < TRAFFIC_EVERY => traffic,
            _ => ask.traffic(),
        };
        self.traffic = Some(traffic);
        snapshot.pcie = ask.pcie(traffic);
        snapshot.processes = ask.processes();
        if let Some((how, advice)) = reading.lost {
            return self.lost(how, advice);
        }
        if std::mem::take(&mut self.lost) {
            tracing::info!(card = self.name, "the card is back");
        }
        snapshot
    }

    /// What is left of it when it cannot be read: `how` that came, and what to do unless an error of its says better.
    pub(super) fn lost(&mut self, how: &str, advice: &str) -> Snapshot {
        let told = self.xids.iter().find(|xid| xid.severity >= Severity::Reset && db::now() - xid.at < EXPLAINS);
        let problem = match told {
            Some(xid) => format!("{how} (Xid {}: {}); {}", xid.code, xid.meaning, xid.advice),
            None => format!("{how}; {advice}"),
        };
        if !std::mem::replace(&mut self.lost, true) {
            tracing::error!(card = self.name, "the card is lost: {problem}");
        }
        self.bare().without_figures(problem)
    }

    /// What is known without asking.
    fn bare(&self) -> Snapshot {
        Snapshot {
            name: self.name.clone(),
            uuid: self.uuid.clone(),
            driver: self.driver.clone(),
            xids: self.xids.iter().cloned().collect(),
            ..Snapshot::default()
        }
    }
}

/// Figures that are made of several answers.
struct Figures<'a, 'b, 'nvml> {
    reading: &'a mut Reading<'b>,
    device: &'a Device<'nvml>,
}

impl Figures<'_, '_, '_> {
    fn memory(&mut self) -> Option<Memory> {
        let memory = self.reading.ask("memory", || self.device.memory_info())?;
        Some(Memory { total: memory.total, used: memory.used, free: memory.free })
    }

    /// Of the processor, and of the memory.
    fn utilisation(&mut self) -> (Option<f32>, Option<f32>) {
        let rates = self.reading.ask("utilisation", || self.device.utilization_rates());
        rates.map_or((None, None), |rates| (Some(rates.gpu as f32), Some(rates.memory as f32)))
    }

    /// Of the encoder, and of the decoder.
    fn video(&mut self) -> (Option<f32>, Option<f32>) {
        let encoder = self.reading.ask("encoder", || self.device.encoder_utilization());
        let decoder = self.reading.ask("decoder", || self.device.decoder_utilization());
        (encoder.map(|use_of| use_of.utilization as f32), decoder.map(|use_of| use_of.utilization as f32))
    }

    /// The fastest.
    fn fan(&mut self) -> Option<f32> {
        let fans = self.reading.ask("fans", || self.device.num_fans())?;
        let speeds = (0..fans).filter_map(|fan| self.reading.ask("fan", || self.device.fan_speed(fan)));
        speeds.max().map(|percent| percent as f32)
    }

    fn capability(&mut self) -> Option<Capability> {
        let known = self.reading.ask("capability", || self.device.cuda_compute_capability())?;
        Some(Capability { major: known.major.try_into().ok()?, minor: known.minor.try_into().ok()? })
    }

    fn traffic(&mut self) -> Traffic {
        let at = Instant::now();
        let sent = self.reading.ask("sent", || self.device.pcie_throughput(PcieUtilCounter::Send));
        let received = self.reading.ask("received", || self.device.pcie_throughput(PcieUtilCounter::Receive));
        Traffic { at, sent, received }
    }

    fn pcie(&mut self, traffic: Traffic) -> Option<Pcie> {
        let Self { reading, device } = self;
        let bytes = |kilobytes: Option<u32>| kilobytes.map(|kilobytes| u64::from(kilobytes) * 1000);
        let pcie = Pcie {
            generation: reading.ask("generation", || device.current_pcie_link_gen()),
            max_generation: reading.ask("highest generation", || device.max_pcie_link_gen()),
            width: reading.ask("width", || device.current_pcie_link_width()),
            max_width: reading.ask("most width", || device.max_pcie_link_width()),
            replays: reading.ask("replays", || device.pcie_replay_counter()),
            sent: bytes(traffic.sent),
            received: bytes(traffic.received),
        };
        Some(pcie).filter(|pcie| *pcie != Pcie::default())
    }

    /// With the memory, each time: what is nobody's is the difference of the two.
    fn processes(&mut self) -> Vec<Process> {
        let lists: [Option<Vec<ProcessInfo>>; 2] = [
            self.reading.ask("compute processes", || self.device.running_compute_processes()),
            self.reading.ask("graphics processes", || self.device.running_graphics_processes()),
        ];
        let mut seen: Vec<Process> = Vec::new();
        for info in lists.into_iter().flatten().flatten() {
            // A program that computes and draws is in both lists, with the same figure.
            if seen.iter().any(|process| process.pid == info.pid) {
                continue;
            }
            let bytes = match info.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some(bytes),
                UsedGpuMemory::Unavailable => None,
            };
            seen.push(Process { pid: info.pid, bytes, ..Process::default() });
        }
        // Elsewhere the driver's numbers mean other processes, or none.
        if cgroup::sees_host() {
            seen.iter_mut().for_each(look_up);
        }
        sort(&mut seen);
        seen
    }
}

/// What the machine tells of a process.
fn look_up(process: &mut Process) {
    process.name = program(process.pid);
    let mut ids = cgroup::containers_of(process.pid).into_iter();
    process.container = ids.next().map(|id| Container { id, within: ids.collect(), ..Container::default() });
}

fn watts(milliwatts: u32) -> f32 {
    milliwatts as f32 / 1000.0
}

fn number_of(state: PerformanceState) -> Option<u8> {
    u8::try_from(state.as_c()).ok().filter(|number| *number < 16)
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
