//! A driver and cards for tests: a copy of the stand-in for NVIDIA's library (`examples/fake_nvml`), and its script.
//!
//! ```ignore
//! let driver = Driver::new(vec![Card::new("GPU-1", 8 << 30)]);
//! let config = config::Gpu { nvml_library: Some(driver.library()), ..config::Gpu::default() };
//! driver.hold("GPU-1", pid, 3 << 30);                           // a process occupies 3 GiB, and ...
//! driver.hold("GPU-1", pid, 0);                                 // ... gives them back
//! driver.change(|script| script.cards[0].celsius = Some(90));   // anything else
//! ```
//!
//! A change is written to another file that takes the script's place, so that a call into the library sees all of it or
//! nothing; it costs some 50 µs. What the library says follows at once: the library reads the script at every call. The
//! daemon sees it at its next reading, which is each second.

// `cargo test --lib` and `--test it` do not build examples.
#[path = "../../examples/fake_nvml/script.rs"]
mod script;

pub use script::{Card, EVERY, Fault, Memory, Pcie, Presence, Process, Script, Xid};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

impl Card {
    /// A card of `total` bytes, idle, that supports what a GeForce does.
    pub fn new(uuid: &str, total: u64) -> Self {
        Self {
            name: "NVIDIA GeForce RTX 5060".into(),
            memory: Some(Memory { total, reserved: 0, other: 0 }),
            utilisation: Some((0, 0)),
            encoder: Some(0),
            decoder: Some(0),
            power: Some(8_000),
            power_limit: Some(145_000),
            energy: Some(0),
            celsius: Some(35),
            fans: Some(vec![0]),
            clocks: Some((180, 405)),
            throttle: Some(1),
            performance_state: Some(8),
            pcie: Some(Pcie { generation: (1, 5), width: (8, 8), throughput: (0, 0), replays: 0 }),
            capability: Some((12, 0)),
            processes: Some(Vec::new()),
            ..Self::silent(uuid)
        }
    }

    /// A card of which nothing is known but its name.
    pub fn silent(uuid: &str) -> Self {
        Self {
            name: "NVIDIA T1000".into(),
            uuid: uuid.into(),
            presence: Presence::Present,
            faults: BTreeMap::new(),
            memory: None,
            utilisation: None,
            encoder: None,
            decoder: None,
            power: None,
            power_limit: None,
            energy: None,
            celsius: None,
            fans: None,
            clocks: None,
            throttle: None,
            performance_state: None,
            pcie: None,
            capability: None,
            processes: None,
        }
    }
}

/// A driver of the test's own. Its library is gone when it is.
#[derive(Debug)]
pub struct Driver {
    folder: tempfile::TempDir,
    script: Mutex<Script>,
}

impl Driver {
    /// A driver with these cards.
    pub fn new(cards: Vec<Card>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = Script {
            version: "580.95.05".into(),
            reloads: 0,
            faults: BTreeMap::new(),
            slow: BTreeMap::new(),
            xids: Vec::new(),
            log_calls: false,
            cards,
        };
        let driver = Self { folder, script: Mutex::new(script) };
        driver.change(|_| ());
        // The loader takes two names of one file for one library, so a link would not do.
        std::fs::copy(built(), driver.library()).unwrap();
        driver
    }

    /// The library, for `gpu.nvml_library`.
    pub fn library(&self) -> PathBuf {
        self.folder.path().join("libnvidia-ml.so.1")
    }

    /// Changes what it says, all at once.
    pub fn change<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut script);
        let (file, next) = (self.beside("json"), self.beside("next"));
        std::fs::write(&next, serde_json::to_vec(&*script).unwrap()).unwrap();
        std::fs::rename(next, file).unwrap();
        changed
    }

    /// A process that computes occupies `bytes` of a card; with 0 it is gone from it. False, and nothing is changed,
    /// when there is not so much.
    pub fn hold(&self, uuid: &str, pid: u32, bytes: u64) -> bool {
        self.change(|script| {
            let card = script.cards.iter_mut().find(|card| card.uuid == uuid).expect("no such card");
            let before = card.clone();
            let processes = card.processes.get_or_insert_default();
            processes.retain(|process| process.pid != pid);
            if bytes > 0 {
                processes.push(Process { pid, bytes: Some(bytes), computes: true, draws: false });
            }
            let fits = card.memory.is_none_or(|memory| card.used() <= memory.total.saturating_sub(memory.reserved));
            if !fits {
                *card = before;
            }
            fits
        })
    }

    /// How often a function was called, where `log_calls` is set.
    pub fn calls(&self, function: &str) -> usize {
        let log = std::fs::read_to_string(self.beside("calls")).unwrap_or_default();
        log.lines().filter(|line| *line == function).count()
    }

    fn beside(&self, ending: &str) -> PathBuf {
        self.folder.path().join(format!("libnvidia-ml.so.1.{ending}"))
    }
}

/// The library as it was built from what the sources say now. `cargo test` builds it, unless it is told which tests.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let program = std::env::current_exe().unwrap();
        // target/debug/deps/it-0123456789abcdef
        let profile = program.parent().and_then(Path::parent).expect("a test lies in the folder of its profile");
        let library = profile.join("examples/libfake_nvml.so");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/fake_nvml");
        let changed = |path: PathBuf| path.metadata().and_then(|file| file.modified()).unwrap();
        let newest = std::fs::read_dir(sources).unwrap().map(|file| changed(file.unwrap().path())).max();
        if !library.exists() || Some(changed(library.clone())) < newest {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--quiet", "--example", "fake_nvml", "--manifest-path"]);
            cargo.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
            cargo.arg("--target-dir").arg(profile.parent().expect("profiles lie in the folder of the target"));
            if profile.ends_with("release") {
                cargo.arg("--release");
            }
            let done = cargo.output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
        library
    })
}
