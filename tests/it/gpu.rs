//! The probe over a stand-in for NVIDIA's library, which is compiled here: no machine that builds has the real one.

use sovereign::config;
use sovereign::gpu::{Probe, Process, Snapshot};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The library, whose files of state are in `dir`.
fn library(dir: &Path) -> config::Gpu {
    let library = dir.join("libfake-nvml.so");
    let define = |name: &str, file: &str| format!("-D{name}=\"{}\"", dir.join(file).display());
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-Wall", "-Wextra", "-o"])
        .arg(&library)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nvml.c"))
        .args([define("STATE", "celsius"), define("FANS", "fans")])
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    config::Gpu { nvml_library: Some(library), ..config::Gpu::default() }
}

#[test]
fn cards_are_read_and_lost_and_found() {
    let dir = tempfile::tempdir().unwrap();
    let config = library(dir.path());
    let state = dir.path().join("celsius");
    fs::write(&state, "43").unwrap();
    let mut probe = Probe::new(&config);

    let cards = probe.read();
    let [first, second] = &cards[..] else { panic!("{cards:?}") };
    assert_eq!((first.name.as_str(), first.uuid.as_str()), ("NVIDIA GeForce RTX 5060", "GPU-1"));
    let memory = first.memory.unwrap();
    assert_eq!((memory.total, memory.used, memory.free), (8188 << 20, 1024 << 20, 6936 << 20));
    assert_eq!((first.utilisation, first.power_watts, first.celsius), (Some(37.0), Some(87.4), Some(43.0)));
    // What the library lacks and what the card lacks are both absent, and neither is zero.
    assert_eq!((first.power_limit_watts, first.fan_percent, &first.throttle), (None, None, &None));
    let process = |pid, bytes| Process { pid, name: None, bytes: Some(bytes) };
    assert_eq!(first.processes[0], process(4_000_000_000, 700 << 20));
    assert_eq!((first.processes[1].pid, first.processes[1].name.is_some()), (1, true));
    let silent = Snapshot { name: "NVIDIA T1000".into(), uuid: "GPU-2".into(), ..Snapshot::default() };
    assert_eq!(*second, silent);

    // The list of processes outlives the readings that do not ask for it.
    fs::write(&state, "71").unwrap();
    let cards = probe.read();
    assert_eq!((cards[0].celsius, cards[0].processes.len()), (Some(71.0), 2));

    fs::remove_file(&state).unwrap();
    let cards = probe.read();
    assert!(cards[0].problem.as_ref().unwrap().contains("reboot"), "{cards:?}");
    assert_eq!((cards[0].uuid.as_str(), cards[0].memory, cards[0].celsius), ("GPU-1", None, None));
    assert_eq!(cards[1], silent);

    fs::write(&state, "40").unwrap();
    assert_eq!(probe.read()[0].celsius, Some(40.0));
    // Each card was asked once whether it has fans.
    assert_eq!(fs::read(dir.path().join("fans")).unwrap().len(), 2);
}
