//! The machine around the card, from `/proc`.

use serde::{Deserialize, Serialize};
use std::fs;

/// The host at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Bytes of memory.
    pub memory_total: u64,
    /// Bytes of memory that could not be had without taking them from somebody; the page cache does not count.
    pub memory_used: u64,
    /// Percent of all processors' time since the sample before; absent in the first.
    pub cpu_percent: Option<f32>,
    /// Processors that programs see.
    pub cpus: usize,
}

/// Reads the host; remembers the processors' times, since use is a difference.
#[derive(Debug, Default)]
pub(super) struct Reader {
    before: Option<Times>,
}

impl Reader {
    /// The host now. What cannot be read is zero, or absent.
    pub(super) fn read(&mut self) -> Host {
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let times = fs::read_to_string("/proc/stat").ok().and_then(|text| Times::parse(&text));
        let cpu_percent = self.before.zip(times).and_then(|(before, now)| now.busy_since(before));
        self.before = times;
        let (memory_total, available) = memory_of(&memory);
        Host {
            memory_total,
            memory_used: memory_total.saturating_sub(available),
            cpu_percent,
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// Total and available bytes, of the text of `/proc/meminfo`.
fn memory_of(meminfo: &str) -> (u64, u64) {
    let bytes = |key: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let kib: u64 = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default();
        kib.saturating_mul(1024)
    };
    (bytes("MemTotal"), bytes("MemAvailable"))
}

/// The processors' time since the start, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Times {
    total: u64,
    idle: u64,
}

impl Times {
    /// Of the text of `/proc/stat`, whose first line sums up all processors.
    fn parse(stat: &str) -> Option<Self> {
        let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
        // user nice system idle iowait irq softirq steal; what follows is contained in the first two.
        let fields: Vec<u64> = fields.take(8).map_while(|field| field.parse().ok()).collect();
        let [_, _, _, idle, waiting, ..] = fields[..] else { return None };
        Some(Self { total: fields.iter().sum(), idle: idle + waiting })
    }

    fn busy_since(self, before: Self) -> Option<f32> {
        let total = self.total.checked_sub(before.total).filter(|total| *total > 0)?;
        // The kernel's count of idle time may step back a little.
        let idle = self.idle.saturating_sub(before.idle).min(total);
        Some((total - idle) as f32 * 100.0 / total as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_is_not_available() {
        let text = "MemTotal:       16384 kB\nMemFree:  100 kB\nMemAvailable:   12288 kB\n";
        assert_eq!(memory_of(text), (16384 << 10, 12288 << 10));
        assert_eq!(memory_of("nonsense"), (0, 0));
    }

    #[test]
    fn use_is_a_difference() {
        let check = |before: &str, now: &str, expected: Option<f32>| {
            let busy = Times::parse(before).zip(Times::parse(now)).and_then(|(before, now)| now.busy_since(before));
            assert_eq!(busy, expected, "{before} -> {now}");
        };
        check("cpu  10 0 10 70 10 0 0 0 0 0\n", "cpu  30 0 20 130 20 0 0 0 5 5\n", Some(30.0));
        check("cpu  10 0 10 70 10 0 0 0 0 0\n", "cpu  10 0 10 70 10 0 0 0 0 0\n", None);
        check("cpu  10 0 10 70 10 0 0 0\n", "cpu  20 0 20 69 10 0 0 0\n", Some(100.0));
        check("cpu0 1 2 3 4 5\n", "cpu  1 2 3 4 5\n", None);
        check("", "cpu  1 2 3\n", None);
    }

    #[test]
    fn this_machine_is_read() {
        let mut reader = Reader::default();
        let host = reader.read();
        assert!(host.memory_total > host.memory_used && host.memory_used > 0 && host.cpus > 0, "{host:?}");
        assert_eq!(host.cpu_percent, None);
    }
}
