use super::nvml::Nvml;
use super::{Process, Snapshot};
use crate::config;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a driver that was not there, or broke, is looked for again.
const RETRY: Duration = Duration::from_secs(60);

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
    retry_at: Option<Instant>,
    /// What was said about its absence, which is said once.
    problem: Option<String>,
}

impl Driver {
    fn new(library: Option<PathBuf>) -> Self {
        Self { library, open: None, retry_at: None, problem: None }
    }

    fn read(&mut self) -> Vec<Snapshot> {
        if self.open.is_none() && self.retry_at.is_some_and(|at| Instant::now() < at) {
            return Vec::new();
        }
        let cards = self.try_read();
        match cards {
            Ok(cards) => {
                self.problem = None;
                cards
            }
            Err(problem) => {
                self.open = None;
                self.retry_at = Some(Instant::now() + RETRY);
                if self.problem.as_ref() != Some(&problem) {
                    tracing::info!("no NVIDIA card can be seen ({problem}); everything runs on the processor");
                    self.problem = Some(problem);
                }
                Vec::new()
            }
        }
    }

    fn try_read(&mut self) -> Result<Vec<Snapshot>, String> {
        let nvml = match &mut self.open {
            Some(open) => open,
            none => {
                let opened = Nvml::open(self.library.as_deref())?;
                none.insert(Box::new(opened))
            }
        };
        nvml.read()
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
