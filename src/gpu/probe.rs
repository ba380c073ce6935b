use super::card::Card;
use super::cgroup;
use super::nvml::Nvml;
use super::{Process, Snapshot};
use crate::config;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long it takes until a driver that was not there is looked for again; also the most for a card that was lost.
const RETRY: Duration = Duration::from_secs(60);
/// How long it takes at first, with a card that was lost a moment ago; each further time it takes twice as long.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// Where figures about cards come from. Its calls block.
#[derive(Debug)]
pub enum Probe {
    /// The NVIDIA driver.
    Nvml(Driver),
    /// A JSON list of snapshots in a file, read at every sample.
    Fixed(Fixed),
}

impl Probe {
    /// The probe that `config` asks for. Nothing is opened before the first reading.
    pub fn new(config: &config::Gpu) -> Self {
        match &config.probe {
            config::ProbeKind::Nvml => Self::Nvml(Driver::new(config.nvml_library.clone())),
            config::ProbeKind::Fixed(file) => Self::Fixed(Fixed { file: file.clone(), problem: None }),
        }
    }

    /// The cards now; none where there is no driver.
    pub fn read(&mut self) -> Vec<Snapshot> {
        match self {
            Self::Nvml(driver) => driver.read(),
            Self::Fixed(fixed) => fixed.read(),
        }
    }
}

/// The NVIDIA driver, there or not.
#[derive(Debug)]
pub struct Driver {
    library: Option<PathBuf>,
    open: Option<Box<Nvml>>,
    /// Every card that was ever seen: one that is lost stays.
    cards: Vec<Card>,
    /// When the library is opened anew, and after how long the time after; none while all is well.
    retry: Option<(Instant, Duration)>,
    /// Its version, which is logged when it is another one.
    version: Option<String>,
    /// Why there is no driver, which is logged once.
    problem: Option<String>,
}

impl Driver {
    fn new(library: Option<PathBuf>) -> Self {
        Self { library, open: None, cards: Vec::new(), retry: None, version: None, problem: None }
    }

    fn read(&mut self) -> Vec<Snapshot> {
        let is_due = self.retry.is_none_or(|(at, _)| at <= Instant::now());
        if self.retry.is_some() && is_due {
            // What was opened before a card was lost does not see it come back, and keeps its driver from being reset.
            self.open = None;
        }
        let read = match self.open {
            None if !is_due => return self.absent(),
            _ => self.try_read(),
        };
        let is_well = read.as_ref().is_ok_and(|cards| cards.iter().all(|card| card.problem.is_none()));
        if is_well {
            self.retry = None;
        } else if is_due {
            let wait = match (self.cards.is_empty(), self.retry) {
                (true, _) => RETRY,
                (false, Some((_, wait))) => wait,
                (false, None) => FIRST_RETRY,
            };
            self.retry = Some((Instant::now() + wait, (wait * 2).min(RETRY)));
        }
        match read {
            Ok(cards) => {
                self.problem = None;
                cards
            }
            Err(problem) => {
                self.open = None;
                if self.problem.as_ref() != Some(&problem) && self.cards.is_empty() {
                    tracing::info!("no NVIDIA card can be seen ({problem}); everything runs on the processor");
                }
                self.problem = Some(problem);
                self.absent()
            }
        }
    }

    /// The cards while there is no driver: those that were seen are lost.
    fn absent(&mut self) -> Vec<Snapshot> {
        let problem = self.problem.as_deref().unwrap_or("the NVIDIA driver does not answer");
        self.cards.iter_mut().map(|card| card.lost(problem, "it is looked for again every minute")).collect()
    }

    fn try_read(&mut self) -> Result<Vec<Snapshot>, String> {
        let nvml = match &mut self.open {
            Some(open) => open,
            none => {
                let opened = Nvml::open(self.library.as_deref())?;
                self.cards.iter_mut().for_each(Card::reopened);
                let version = opened.version().map(Into::into);
                if self.version != version {
                    tracing::info!(version, "the NVIDIA driver answers");
                    self.version = version;
                    if !cgroup::sees_host() {
                        tracing::warn!(
                            "this daemon runs in a container that does not see the host's processes, so that it cannot \
                             tell who holds the card: run it with `pid: host`"
                        );
                    }
                }
                none.insert(Box::new(opened))
            }
        };
        nvml.read(&mut self.cards)
    }
}

/// Snapshots in a file.
#[derive(Debug)]
pub struct Fixed {
    file: PathBuf,
    problem: Option<String>,
}

impl Fixed {
    fn read(&mut self) -> Vec<Snapshot> {
        match parse(&self.file) {
            Ok(cards) => {
                self.problem = None;
                cards
            }
            Err(problem) => {
                if self.problem.as_ref() != Some(&problem) {
                    tracing::warn!("the snapshot {} cannot be used: {problem}", self.file.display());
                    self.problem = Some(problem);
                }
                Vec::new()
            }
        }
    }
}

fn parse(file: &Path) -> Result<Vec<Snapshot>, String> {
    let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

/// The name of a process's program, where it is among those that we see.
pub(super) fn program(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned()).filter(|name| !name.is_empty())
}

/// The largest first, since nobody reads a list of forty to its end.
pub(super) fn sort(processes: &mut [Process]) {
    processes.sort_by_key(|process| (std::cmp::Reverse(process.bytes), process.pid));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Memory;

    fn fixed(file: &Path) -> Probe {
        Probe::new(&config::Gpu { probe: config::ProbeKind::Fixed(file.into()), ..config::Gpu::default() })
    }

    #[test]
    fn a_fixed_snapshot_is_read_at_every_sample() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("card.json");
        let mut probe = fixed(&file);
        assert_eq!(probe.read(), []);
        fs::write(&file, r#"[{"name": "A", "uuid": "GPU-1", "memory": {"total": 8, "used": 3, "free": 5}}]"#).unwrap();
        let memory = Some(Memory { total: 8, used: 3, free: 5 });
        let card = Snapshot { name: "A".into(), uuid: "GPU-1".into(), memory, ..Snapshot::default() };
        assert_eq!(probe.read(), [card]);
        fs::write(&file, r#"[{"name": "A", "uuid": "GPU-1", "celcius": 3}]"#).unwrap();
        assert_eq!(probe.read(), []);
    }

    #[test]
    fn no_driver_is_no_failure() {
        let library = Some(PathBuf::from("/nonexistent/libnvidia-ml.so.1"));
        let mut probe = Probe::new(&config::Gpu { nvml_library: library, ..config::Gpu::default() });
        assert_eq!(probe.read(), []);
        assert_eq!(probe.read(), []);
    }
}
