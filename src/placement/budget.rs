use crate::config::Config;
use crate::gpu::{Sample, Snapshot};
use crate::runtime::Claim;
use anyhow::Context;
use std::sync::Arc;
use tokio::sync::watch;

/// All that tenants may hold together: of each card what is not reserved; of the host's memory what
/// `placement.host_memory` says, or half.
///
/// # Errors
/// When the configuration says nothing and the machine's memory cannot be told.
pub fn budget(config: &Config, cards: &[Snapshot]) -> anyhow::Result<Claim> {
    let ram = match config.placement.host_memory {
        Some(bytes) => bytes.0,
        None => host_memory().context("cannot tell how much memory this machine has; set placement.host_memory")? / 2,
    };
    Ok(Claim {
        ram,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        vram: vram(config, cards).collect(),
    })
}

/// The budget, now and after every change: cards come and go.
///
/// # Errors
/// As [`budget`].
pub fn follow(config: &Config, mut samples: watch::Receiver<Arc<Sample>>) -> anyhow::Result<watch::Receiver<Claim>> {
    let (publish, budget) = watch::channel(budget(config, &samples.borrow_and_update().cards)?);
    let config = config.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = publish.closed() => return,
                changed = samples.changed() => if changed.is_err() { return },
            }
            let vram = vram(&config, &samples.borrow_and_update().cards).collect();
            publish.send_if_modified(|budget| std::mem::replace(&mut budget.vram, vram) != budget.vram);
        }
    });
    Ok(budget)
}

/// Bytes of each card that may be planned with. A card that does not say how much it has is not planned with.
fn vram<'a>(config: &Config, cards: &'a [Snapshot]) -> impl Iterator<Item = (String, u64)> + use<'a> {
    let reserve = config.gpu.reserve.0;
    cards.iter().filter_map(move |card| Some((card.uuid.clone(), card.memory?.total.saturating_sub(reserve))))
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

    #[tokio::test]
    async fn cards_come_and_go() {
        let card = |total: Option<u64>| Snapshot {
            uuid: "GPU-1".into(),
            memory: total.map(|total| Memory { total, ..Memory::default() }),
            ..Snapshot::default()
        };
        let config = Config::default();
        let (publish, samples) = watch::channel(Arc::new(Sample::default()));
        let mut budget = follow(&config, samples).unwrap();
        assert!(budget.borrow_and_update().vram.is_empty());
        publish.send_replace(Arc::new(Sample { cards: vec![card(Some(8 << 30))], ..Sample::default() }));
        let there = budget.wait_for(|budget| !budget.vram.is_empty()).await.unwrap().clone();
        assert_eq!(there.vram["GPU-1"], (8 << 30) - config.gpu.reserve.0);
        publish.send_replace(Arc::new(Sample { cards: vec![card(None)], ..Sample::default() }));
        budget.wait_for(|budget| budget.vram.is_empty()).await.unwrap();
    }
}
