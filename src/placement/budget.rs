use crate::config::Config;
use crate::runtime::Claim;
use anyhow::Context;

/// All that tenants may hold together: what `placement.host_memory` says, or half of the machine's memory.
///
/// # Errors
/// When the configuration says nothing and the machine's memory cannot be told.
pub fn budget(config: &Config) -> anyhow::Result<Claim> {
    let ram = match config.placement.host_memory {
        Some(bytes) => bytes.0,
        None => host_memory().context("cannot tell how much memory this machine has; set placement.host_memory")? / 2,
    };
    Ok(Claim { ram, threads: std::thread::available_parallelism().map_or(1, usize::from), ..Claim::default() })
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

    #[test]
    fn the_machine_has_memory() {
        assert_eq!(total("MemTotal:       16316412 kB\nMemFree: 1 kB\n"), Some(16_316_412 * 1024));
        assert_eq!(total("MemFree: 1 kB\n"), None);
        assert!(host_memory().unwrap() > 1 << 28);
    }

    #[test]
    fn the_configuration_wins() {
        let mut config = Config::default();
        assert_eq!(budget(&config).unwrap().ram, host_memory().unwrap() / 2);
        config.placement.host_memory = Some(crate::config::Bytes(7));
        assert_eq!(budget(&config).unwrap().ram, 7);
    }
}
