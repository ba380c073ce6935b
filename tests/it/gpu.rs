//! The probe over a stand-in for NVIDIA's library: no machine that builds has the real one.

use crate::nvml::{Card, Driver, EVERY, Fault, Memory, Presence, Process};
use sovereign::config;
use sovereign::gpu::{self, Probe, Snapshot};

const MIB: u64 = 1 << 20;

fn probe(driver: &Driver) -> Probe {
    Probe::new(&config::Gpu { nvml_library: Some(driver.library()), ..config::Gpu::default() })
}

/// A card at work.
fn busy() -> Card {
    Card {
        memory: Some(Memory { total: 8188 * MIB, reserved: 228 * MIB, other: 24 * MIB }),
        utilisation: Some((37, 12)),
        power: Some(87_400),
        celsius: Some(43),
        processes: Some(vec![
            Process { pid: 1, bytes: Some(300 * MIB), computes: true, draws: true },
            Process { pid: 4_000_000_000, bytes: Some(700 * MIB), computes: true, draws: false },
        ]),
        ..Card::new("GPU-1", 0)
    }
}

#[test]
fn cards_are_read_and_lost_and_found() {
    let driver =
        Driver::new(vec![Card { power_limit: None, fans: None, throttle: None, ..busy() }, Card::silent("GPU-2")]);
    driver.change(|script| script.log_calls = true);
    let mut probe = probe(&driver);

    let cards = probe.read();
    let [first, second] = &cards[..] else { panic!("{cards:?}") };
    assert_eq!((first.name.as_str(), first.uuid.as_str()), ("NVIDIA GeForce RTX 5060", "GPU-1"));
    let memory = first.memory.unwrap();
    assert_eq!((memory.total, memory.used, memory.free), (8188 * MIB, 1024 * MIB, 6936 * MIB));
    assert_eq!((first.utilisation, first.power_watts, first.celsius), (Some(37.0), Some(87.4), Some(43.0)));
    // What a card lacks is absent, not zero.
    assert_eq!((first.power_limit_watts, first.fan_percent, &first.throttle), (None, None, &None));
    let process = |pid, bytes| gpu::Process { pid, name: None, bytes: Some(bytes) };
    assert_eq!(first.processes[0], process(4_000_000_000, 700 * MIB));
    assert_eq!((first.processes[1].pid, first.processes[1].name.is_some()), (1, true));
    assert_eq!(first.processes.len(), 2, "what computes and draws is one process");
    let silent = Snapshot { name: "NVIDIA T1000".into(), uuid: "GPU-2".into(), ..Snapshot::default() };
    assert_eq!(*second, silent);

    // The list of processes outlives the readings that do not ask for it.
    driver.change(|script| script.cards[0].celsius = Some(71));
    let cards = probe.read();
    assert_eq!((cards[0].celsius, cards[0].processes.len()), (Some(71.0), 2));

    driver.change(|script| script.cards[0].presence = Presence::Lost);
    let cards = probe.read();
    assert!(cards[0].problem.as_ref().unwrap().contains("reboot"), "{cards:?}");
    assert_eq!((cards[0].uuid.as_str(), cards[0].memory, cards[0].celsius), ("GPU-1", None, None));
    assert_eq!(cards[1], silent);

    driver.change(|script| script.cards[0].presence = Presence::Present);
    assert_eq!(probe.read()[0].celsius, Some(71.0));
    // Each card was asked once whether it has fans.
    assert_eq!(driver.calls("nvmlDeviceGetNumFans"), 2);
}

#[test]
fn what_a_process_holds_is_in_use() {
    let driver = Driver::new(vec![Card::new("GPU-1", 8 << 30)]);
    let mut probe = probe(&driver);
    let mut used = || {
        let card = probe.read().remove(0);
        (card.memory.unwrap().used, card.processes)
    };
    assert_eq!(used(), (0, vec![]));
    assert!(driver.hold("GPU-1", 4_000_000_000, 5 << 30));
    // There is not so much; nothing changes.
    assert!(!driver.hold("GPU-1", 4_000_000_001, 4 << 30));
    assert_eq!(used().0, 5 << 30);
    assert!(driver.hold("GPU-1", 4_000_000_001, 3 << 30));
    assert!(driver.hold("GPU-1", 4_000_000_000, 0));
    assert_eq!(used().0, 3 << 30);
}

#[test]
fn a_driver_that_is_not_loaded_shows_no_cards() {
    for fault in [Fault::DriverNotLoaded, Fault::VersionMismatch, Fault::Unknown] {
        let driver = Driver::new(vec![Card::new("GPU-1", 8 << 30)]);
        driver.change(|script| script.faults.insert(EVERY.into(), fault));
        assert_eq!(probe(&driver).read(), [], "{fault:?}");
    }
}
