//! The probe over a stand-in for NVIDIA's library: no machine that builds has the real one.

use crate::nvml::{Card, Driver, EVERY, Fault, Memory, Pcie, Presence, Process, Xid};
use crate::stacks::engine::{Engine, IMAGE};
use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use sovereign::app::App;
use sovereign::config::{self, Config};
use sovereign::db::Db;
use sovereign::gpu::{self, Capability, Monitor, Probe, Severity, Snapshot, Throttle};
use std::time::{Duration, Instant};
use tower::ServiceExt;

const MIB: u64 = 1 << 20;

fn config(driver: &Driver) -> config::Gpu {
    config::Gpu { nvml_library: Some(driver.library()), ..config::Gpu::default() }
}

fn probe(driver: &Driver) -> Probe {
    Probe::new(&config(driver))
}

/// Reads until the first card is so. A library is opened anew a second after a card was lost, and later and later.
#[track_caller]
fn until(probe: &mut Probe, what: &str, is: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let cards = probe.read();
        match cards.first() {
            Some(card) if is(card) => return card.clone(),
            _ if Instant::now() > deadline => panic!("waited for {what}; {cards:?}"),
            _ => std::thread::yield_now(),
        }
    }
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
    let process = |pid, bytes| gpu::Process { pid, bytes: Some(bytes), ..gpu::Process::default() };
    assert_eq!(first.processes[0], process(4_000_000_000, 700 * MIB));
    assert_eq!((first.processes[1].pid, first.processes[1].name.is_some()), (1, true));
    assert_eq!(first.processes.len(), 2, "what computes and draws is one process");
    let driver_version = Some("580.95.05".into());
    let silent =
        Snapshot { name: "NVIDIA T1000".into(), uuid: "GPU-2".into(), driver: driver_version, ..Snapshot::default() };
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
fn everything_that_a_card_tells() {
    let driver = Driver::new(vec![Card {
        encoder: Some(21),
        decoder: Some(22),
        power_limit: Some(145_000),
        energy: Some(123_456_789),
        fans: Some(vec![30, 45]),
        clocks: Some((2_407, 14_001)),
        throttle: Some(4),
        performance_state: Some(2),
        pcie: Some(Pcie { generation: (4, 5), width: (8, 8), throughput: (1_500, 2_500), replays: 3 }),
        ..busy()
    }]);
    driver.change(|script| script.log_calls = true);
    let mut probe = probe(&driver);
    let card = probe.read().remove(0);
    let percents = (card.utilisation, card.memory_utilisation, card.encoder, card.decoder, card.fan_percent);
    assert_eq!(percents, (Some(37.0), Some(12.0), Some(21.0), Some(22.0), Some(45.0)));
    assert_eq!((card.power_limit_watts, card.energy_millijoules), (Some(145.0), Some(123_456_789)));
    assert_eq!((card.clock_mhz, card.memory_clock_mhz, card.performance_state), (Some(2_407), Some(14_001), Some(2)));
    assert_eq!(card.throttle, Some(vec![Throttle::Power]));
    assert_eq!(card.compute_capability, Some(Capability { major: 12, minor: 0 }));
    assert_eq!(card.driver.as_deref(), Some("580.95.05"));
    let pcie = gpu::Pcie {
        generation: Some(4),
        max_generation: Some(5),
        width: Some(8),
        max_width: Some(8),
        replays: Some(3),
        sent: Some(1_500_000),
        received: Some(2_500_000),
    };
    assert_eq!(card.pcie, Some(pcie));
    // Measuring traffic takes the driver 20 ms each time, so it is not done at every reading.
    driver.change(|script| script.cards[0].celsius = Some(50));
    assert_eq!(probe.read()[0].pcie, Some(pcie));
    assert_eq!(driver.calls("nvmlDeviceGetPcieThroughput"), 2);
}

#[test]
fn a_driver_that_is_loaded_anew_is_found() {
    let driver = Driver::new(vec![busy()]);
    let mut probe = probe(&driver);
    assert_eq!(probe.read()[0].celsius, Some(43.0));
    // What was opened before sees the card as lost for ever.
    driver.change(|script| {
        script.reloads += 1;
        script.version = "590.1".into();
    });
    let lost = probe.read().remove(0);
    assert!(lost.problem.as_ref().unwrap().contains("fell off the bus"), "{lost:?}");
    let back = until(&mut probe, "the card", |card| card.problem.is_none());
    assert_eq!((back.celsius, back.driver.as_deref()), (Some(43.0), Some("590.1")));
}

#[test]
fn a_driver_that_goes_and_comes_back() {
    let driver = Driver::new(vec![busy()]);
    let mut probe = probe(&driver);
    assert_eq!(probe.read().len(), 1);
    driver.change(|script| script.faults.insert(EVERY.into(), Fault::DriverNotLoaded));
    let lost = probe.read().remove(0);
    assert_eq!((lost.uuid.as_str(), lost.memory), ("GPU-1", None));
    assert!(lost.problem.as_ref().unwrap().contains("not loaded"), "{lost:?}");
    driver.change(|script| script.faults.clear());
    until(&mut probe, "the card", |card| card.memory.is_some() && card.problem.is_none());
}

#[test]
fn a_card_that_is_gone_stays_in_the_list() {
    let driver = Driver::new(vec![busy(), Card::new("GPU-2", 8 << 30)]);
    let mut probe = probe(&driver);
    assert_eq!(probe.read().len(), 2);
    driver.change(|script| script.cards[0].presence = Presence::Gone);
    let cards = probe.read();
    let problems: Vec<_> = cards.iter().map(|card| (card.uuid.as_str(), card.problem.is_some())).collect();
    assert_eq!(problems, [("GPU-2", false), ("GPU-1", true)]);
    driver.change(|script| script.cards[0].presence = Presence::Present);
    let back = until(&mut probe, "the card", |card| card.uuid == "GPU-1" && card.problem.is_none());
    assert_eq!(back.celsius, Some(43.0));
}

#[test]
fn what_the_driver_advises_is_passed_on() {
    let check = |fault, expected: &str| {
        let driver = Driver::new(vec![busy()]);
        let mut probe = probe(&driver);
        assert_eq!(probe.read()[0].problem, None);
        driver.change(|script| script.cards[0].faults.insert("nvmlDeviceGetMemoryInfo_v2".into(), fault));
        let card = probe.read().remove(0);
        assert!(card.problem.as_ref().is_some_and(|problem| problem.contains(expected)), "{fault:?}: {card:?}");
    };
    check(Fault::GpuLost, "a reboot brings it back");
    check(Fault::ResetRequired, "nvidia-smi --gpu-reset");
}

#[test]
fn one_figure_that_fails_leaves_the_others() {
    let driver = Driver::new(vec![busy()]);
    let mut probe = probe(&driver);
    for fault in [Fault::Unknown, Fault::NoPermission, Fault::NotSupported] {
        driver.change(|script| script.cards[0].faults.insert("nvmlDeviceGetPowerUsage".into(), fault));
        let card = probe.read().remove(0);
        assert_eq!((card.power_watts, card.celsius, card.problem), (None, Some(43.0), None), "{fault:?}");
    }
    // What it said it does not have is not asked for again.
    driver.change(|script| {
        script.cards[0].faults.clear();
        script.log_calls = true;
    });
    assert_eq!((probe.read()[0].power_watts, driver.calls("nvmlDeviceGetPowerUsage")), (None, 0));
}

#[test]
fn errors_of_cards_are_told_with_what_they_mean() {
    let driver = Driver::new(vec![busy(), Card::new("GPU-2", 8 << 30)]);
    // One that was before us is not ours to tell.
    let xid = |uuid: &str, code| Xid { uuid: uuid.into(), code };
    driver.change(|script| script.xids.push(xid("GPU-1", 13)));
    let mut probe = probe(&driver);
    assert_eq!(probe.read()[0].xids, []);
    driver.change(|script| script.xids.extend([xid("GPU-1", 31), xid("GPU-2", 43)]));
    let card = until(&mut probe, "an error", |card| !card.xids.is_empty());
    assert_eq!((card.xids[0].code, card.xids[0].severity, card.xids.len()), (31, Severity::Program, 1));
    assert!(card.xids[0].at > 1_600_000_000 && card.problem.is_none(), "{card:?}");

    // An error explains why the card is lost, and outlives the opened library.
    driver.change(|script| script.xids.push(xid("GPU-1", 79)));
    until(&mut probe, "another error", |card| card.xids.len() == 2);
    driver.change(|script| script.cards[0].presence = Presence::Lost);
    let lost = probe.read().remove(0);
    let problem = lost.problem.unwrap();
    assert!(problem.contains("Xid 79") && problem.contains("power cable"), "{problem}");
    driver.change(|script| {
        script.reloads += 1;
        script.cards[0].presence = Presence::Present;
    });
    let back = until(&mut probe, "the card", |card| card.problem.is_none());
    assert_eq!(back.xids.iter().map(|xid| xid.code).collect::<Vec<_>>(), [79, 31]);
    // The library that was opened anew is listened to as well.
    driver.change(|script| script.xids.push(xid("GPU-1", 63)));
    until(&mut probe, "an error after that", |card| card.xids.first().is_some_and(|xid| xid.code == 63));
}

#[tokio::test]
async fn a_slow_driver_holds_up_nothing_else() {
    let driver = Driver::new(vec![busy()]);
    driver.change(|script| script.slow.insert("nvmlDeviceGetMemoryInfo_v2".into(), 60_000));
    let dir = tempfile::tempdir().unwrap();
    let metrics = Db::open_metrics(&dir.path().join("metrics.db")).await.unwrap();
    let monitor = Monitor::start(&config(&driver), metrics).unwrap();
    let mut samples = monitor.samples();
    for _ in 0..2 {
        samples.changed().await.unwrap();
    }
    let sample = samples.borrow_and_update().clone();
    assert!(sample.cards.is_empty() && sample.host.memory_total > 0, "{sample:?}");
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

/// A daemon's parts, with a Docker engine of the test's own, and a process of a stack's container on the card.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_is_held_by_names() {
    let engine = Engine::start();
    let driver = Driver::new(vec![Card::new("GPU-1", 8 << 30)]);
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"docker": {"host": engine.host()}, "gpu": {"nvml_library": driver.library()}});
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, config.to_string()).unwrap();
    std::fs::create_dir(folder.path().join("stacks")).unwrap();
    let stack = json!({"services": {"server": {"image": IMAGE, "command": "wait"}}});
    std::fs::write(folder.path().join("stacks/vllm.yaml"), stack.to_string()).unwrap();
    let app = App::start(Config::load(Some(&file), Some(folder.path())).unwrap()).await.unwrap();
    app.docker.state().wait_for(|state| state.engine().is_some()).await.unwrap();
    app.stacks.up("vllm").await.unwrap().await.unwrap();

    let pid = |container: &str| -> u32 {
        engine.docker(&["inspect", "--format", "{{.State.Pid}}", container]).parse().unwrap()
    };
    let foreign = engine.docker(&["run", "--detach", "--network=none", IMAGE, "wait"]);
    driver.hold("GPU-1", pid("sovereign.vllm.server"), 3 << 30);
    driver.hold("GPU-1", pid(&foreign), 2 << 30);
    driver.hold("GPU-1", std::process::id(), 1 << 30);
    let mut samples = app.gpu.samples();
    let is_named = |sample: &gpu::Sample| sample.cards.first().is_some_and(|card| card.processes.len() == 3);
    let named = tokio::time::timeout(Duration::from_secs(60), samples.wait_for(|sample| is_named(sample)));
    drop(named.await.expect("no process is seen").unwrap());

    let request = Request::builder().uri("/admin/v1/status").body(Body::empty()).unwrap();
    let answer = sovereign::admin::router().with_state(app.clone()).oneshot(request).await.unwrap();
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    let status: Value = serde_json::from_slice(&body).unwrap();
    let own = std::fs::read_to_string("/proc/self/comm").unwrap();
    let holder = |kind: &str, name: &str, bytes: u64| {
        let holders = status["holders"].as_array().unwrap();
        let found = holders.iter().find(|holder| holder["kind"] == kind && holder["name"] == name);
        let found = found.unwrap_or_else(|| panic!("{kind} {name} is not in {holders:?}"));
        assert_eq!((&found["card"], &found["bytes"]), (&json!("GPU-1"), &json!(bytes)), "{found}");
    };
    holder("service", "vllm/server", 3 << 30);
    holder("container", &foreign[..12], 2 << 30);
    holder("host", own.trim_end(), 1 << 30);
    app.close().await;
}
