//! What there is, and who uses it.

use super::event::{InstanceId, Observed, Seen};
use crate::config::Config;
use crate::gpu::{Container, Monitor, Process, Reading, Snapshot};
use crate::runtime::{Attribution, Claim};
use anyhow::Context;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// A driver that has not answered for so long has lost its cards.
const SILENT: Duration = Duration::from_secs(10);
/// For how long cards are read as often as they can be once something has changed.
const HURRY: Duration = Duration::from_secs(2);

/// What there is, and who uses it, at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// When looking began: what happened later is not in it.
    pub at: Instant,
    /// Bytes of host memory that tenants may hold together.
    pub ram: u64,
    /// Threads that there are.
    pub threads: usize,
    /// Cards, by UUID; those that do not tell how much they have are not among them.
    pub cards: BTreeMap<String, CardUse>,
}

/// One card.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CardUse {
    /// Bytes that may be planned with when nobody else uses it.
    pub budget: u64,
    /// Bytes in use; none where that is not watched.
    pub used: Option<u64>,
    /// Who uses them.
    pub holders: Vec<Holder>,
    /// All bytes that it has.
    pub memory: u64,
    /// Its compute capability, where it tells.
    pub capability: Option<(i32, i32)>,
}

/// A process that uses a card.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// The identifiers of the container that it is in, and of those around that.
    pub containers: Vec<String>,
    /// Bytes, where the driver tells.
    pub bytes: Option<u64>,
}

impl Holder {
    fn of(process: &Process) -> Self {
        let within = |container: &Container| [std::slice::from_ref(&container.id), &container.within].concat();
        let containers = process.container.as_ref().map(within).unwrap_or_default();
        Self { pid: process.pid, containers, bytes: process.bytes }
    }

    /// Whether it is an instance's.
    fn is(&self, who: &Attribution) -> bool {
        match who {
            Attribution::Process(pid) => *pid == self.pid,
            Attribution::Container(id) => self.containers.contains(id),
            Attribution::Daemon | Attribution::Nobody => false,
        }
    }
}

/// Where observations come from.
#[derive(Debug, Clone)]
pub struct Sight {
    observations: watch::Receiver<Arc<Observation>>,
    monitor: Option<Monitor>,
}

impl Sight {
    /// Follows what the probe reads.
    ///
    /// # Errors
    /// When the configuration says nothing and the machine's memory cannot be told.
    pub fn follow(config: &Config, monitor: &Monitor) -> anyhow::Result<Self> {
        let mut readings = monitor.readings();
        let ram = ram(config)?;
        let reserve = config.gpu.reserve.0;
        let first = Observation::of(ram, reserve, &readings.borrow_and_update());
        let (publish, observations) = watch::channel(Arc::new(first));
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = publish.closed() => return,
                    changed = readings.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(SILENT) => {
                        let lost = Reading { at: Instant::now(), cards: Vec::new() };
                        publish.send_replace(Arc::new(Observation::of(ram, reserve, &lost)));
                        continue;
                    }
                }
                let seen = Observation::of(ram, reserve, &readings.borrow_and_update());
                publish.send_if_modified(|last| {
                    // Where there is no card, nothing is news.
                    let news = !(seen.cards.is_empty() && last.cards.is_empty());
                    *last = Arc::new(seen);
                    news
                });
            }
        });
        Ok(Self { observations, monitor: Some(monitor.clone()) })
    }

    /// Observations of the caller's choice.
    pub fn with(observations: watch::Receiver<Arc<Observation>>) -> Self {
        Self { observations, monitor: None }
    }

    pub(super) fn latest(&mut self) -> Arc<Observation> {
        self.observations.borrow_and_update().clone()
    }

    /// Returns at the next observation; false when there will be none.
    pub(super) async fn changed(&mut self) -> bool {
        self.observations.changed().await.is_ok()
    }

    /// Somebody waits for memory to be free.
    pub(super) fn hurry(&self) {
        if let Some(monitor) = &self.monitor {
            monitor.hurry(HURRY);
        }
    }
}

impl Observation {
    /// What `reading` tells, beside `ram` bytes of host memory; of each card `reserve` is never planned with.
    pub fn of(ram: u64, reserve: u64, reading: &Reading) -> Self {
        let card = |card: &Snapshot| {
            let memory = card.memory?;
            let use_ = CardUse {
                budget: memory.total.saturating_sub(reserve),
                used: Some(memory.used),
                holders: card.processes.iter().map(Holder::of).collect(),
                memory: memory.total,
                capability: card.compute_capability.map(|found| (found.major as i32, found.minor as i32)),
            };
            Some((card.uuid.clone(), use_))
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { at: reading.at, ram, threads, cards: reading.cards.iter().filter_map(card).collect() }
    }

    /// A fixed amount of everything, of which nobody else uses anything.
    pub fn fixed(claim: &Claim) -> Self {
        let cards = claim.vram.iter();
        let cards =
            cards.map(|(gpu, bytes)| (gpu.clone(), CardUse { budget: *bytes, memory: *bytes, ..CardUse::default() }));
        Self { at: Instant::now(), ram: claim.ram, threads: claim.threads, cards: cards.collect() }
    }

    /// As the planner is told, which knows instances: `who` runs as what, and `begun` is its time zero.
    pub(super) fn seen<'a>(
        &self,
        begun: Instant,
        who: impl Iterator<Item = (InstanceId, Option<&'a Attribution>)> + Clone,
    ) -> Observed {
        let seen = |card: &CardUse| {
            let mut measured = BTreeMap::new();
            for (instance, who) in who.clone() {
                // A driver that names nobody hides them all.
                if card.holders.is_empty() {
                    continue;
                }
                // One that has no process yet holds nothing: its grant must not hide what others hold.
                let mine = card.holders.iter().filter(|holder| who.is_some_and(|who| holder.is(who)));
                let bytes: Vec<Option<u64>> = mine.map(|holder| holder.bytes).collect();
                // One whose bytes the driver hides makes the sum unknown; one that is not there holds nothing.
                if let Some(bytes) = bytes.into_iter().sum::<Option<u64>>() {
                    measured.insert(instance, bytes);
                }
            }
            Seen {
                budget: card.budget,
                used: card.used,
                measured: if card.used.is_some() { measured } else { BTreeMap::new() },
            }
        };
        Observed {
            taken: self.at.saturating_duration_since(begun),
            ram: self.ram,
            threads: self.threads,
            cards: self.cards.iter().map(|(gpu, card)| (gpu.clone(), seen(card))).collect(),
        }
    }
}

/// All that tenants may hold together: of each card what is not reserved; of the host's memory what
/// `placement.host_memory` says, or half.
///
/// # Errors
/// When the configuration says nothing and the machine's memory cannot be told.
pub fn budget(config: &Config, cards: &[Snapshot]) -> anyhow::Result<Claim> {
    let reading = Reading { at: Instant::now(), cards: cards.to_vec() };
    let seen = Observation::of(ram(config)?, config.gpu.reserve.0, &reading);
    let vram = seen.cards.into_iter().map(|(gpu, card)| (gpu, card.budget)).collect();
    Ok(Claim { ram: seen.ram, threads: seen.threads, vram })
}

fn ram(config: &Config) -> anyhow::Result<u64> {
    match config.placement.host_memory {
        Some(bytes) => Ok(bytes.0),
        None => {
            Ok(host_memory().context("cannot tell how much memory this machine has; set placement.host_memory")? / 2)
        }
    }
}

/// Bytes of memory that this machine has, or that our control group may use of them.
fn host_memory() -> anyhow::Result<u64> {
    let machine = total(&std::fs::read_to_string("/proc/meminfo")?).context("/proc/meminfo has no line MemTotal")?;
    // A container's own limit; absent outside of containers, and `max` where there is none.
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    Ok(limit.map_or(machine, |limit: u64| limit.min(machine)))
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Bytes;
    use crate::gpu::Memory;

    #[test]
    fn the_machine_has_memory() {
        assert_eq!(total("MemTotal:       16316412 kB\nMemFree: 1 kB\n"), Some(16_316_412 * 1024));
        assert_eq!(total("MemFree: 1 kB\n"), None);
        assert!(host_memory().unwrap() > 1 << 28);
    }

    #[test]
    fn the_configuration_wins() {
        let mut config = Config::default();
        assert_eq!(budget(&config, &[]).unwrap().ram, host_memory().unwrap() / 2);
        config.placement.host_memory = Some(Bytes(7));
        assert_eq!(budget(&config, &[]).unwrap().ram, 7);
    }

    #[test]
    fn what_is_ours_is_told_by_process() {
        let process = |pid, bytes| Process { pid, bytes, ..Process::default() };
        let container = |id: &str| Container { id: id.into(), ..Container::default() };
        let inside = Process { container: Some(container("vllm")), ..process(11, Some(15)) };
        let card = Snapshot {
            uuid: "GPU-1".into(),
            memory: Some(Memory { total: 100, used: 60, free: 40 }),
            processes: vec![process(7, Some(20)), process(8, Some(15)), process(9, None), inside],
            ..Snapshot::default()
        };
        let silent = Snapshot { uuid: "GPU-2".into(), ..Snapshot::default() };
        let begun = Instant::now();
        let reading = Reading { at: begun + Duration::from_secs(3), cards: vec![card, silent] };
        let container = Attribution::Container("vllm".into());
        let who = [Attribution::Process(7), Attribution::Process(9), Attribution::Process(10), container];
        let who = who.iter().enumerate().map(|(at, who)| (at as InstanceId, Some(who)));
        let who = who.chain([(9, None)]);
        let observed = Observation::of(5, 10, &reading).seen(begun, who);
        let seen = Seen { budget: 90, used: Some(60), measured: BTreeMap::from([(0, 20), (2, 0), (3, 15), (9, 0)]) };
        assert_eq!((observed.taken, observed.ram), (Duration::from_secs(3), 5));
        assert_eq!(observed.cards, BTreeMap::from([("GPU-1".into(), seen)]));
    }
}
