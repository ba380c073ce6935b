use super::{Peak, sweep};
use serde::{Deserialize, Serialize};

/// Where something was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Threads that computed.
    pub threads: usize,
    /// Memory in bytes.
    pub memory: u64,
    /// Kernel and architecture.
    pub system: String,
    /// What computed: cpu, or cuda with the card's number.
    pub device: String,
    /// Bytes a second that as many threads read from memory in the same run, doing nothing else.
    pub read_bytes_per_second: Option<f64>,
    /// Operations a second that they did on registers; absent in older reports and where they were not counted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub operations_per_second: Option<Peak>,
}

impl Machine {
    /// This one. With `sweep` the speeds of its memory and of its threads are measured, which takes a second.
    pub fn here(threads: usize, device: String, sweep: bool) -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_string())
        };
        let cpu = field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".into());
        let memory = field(&read("/proc/meminfo"), "MemTotal")
            .and_then(|memory| memory.split(' ').next()?.parse::<u64>().ok())
            .unwrap_or(0);
        let kernel = read("/proc/sys/kernel/osrelease");
        Machine {
            cpu,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            threads,
            memory: memory * 1024,
            system: format!("Linux {} {}", kernel.trim(), std::env::consts::ARCH),
            device,
            read_bytes_per_second: sweep.then(|| sweep::bytes_per_second(threads)),
            operations_per_second: sweep.then(|| Peak::measure(threads)).flatten(),
        }
    }
}
