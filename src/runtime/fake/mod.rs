//! A double for tests: an OpenAI endpoint inside this process. A [`Script`] says how a model behaves, and the double
//! remembers what was asked of it. What it occupies of cards is told to whoever plays the cards.

mod answers;
mod script;

pub use script::Script;

use super::{Attribution, Control, Endpoint, Exit, ExitWatch, Grant, Rung, Running, Setting, StartError, Variant};
use crate::egress::Address;
use crate::models::ModelSpec;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The runtime's name.
pub const NAME: &str = "fake";

/// The numbers of its processes start beyond those that Linux gives.
const FIRST_PID: u32 = 1 << 30;

/// Told how many bytes of a card a process occupies from now on; says whether there are so many.
type Cards = dyn Fn(&str, u32, u64) -> bool + Send + Sync;

/// The double of a runtime. Clones share what they know.
#[derive(Debug, Clone, Default)]
pub struct Fake(Arc<watch::Sender<Known>>);

#[derive(Default)]
struct Known {
    scripts: HashMap<String, Script>,
    /// Host memory held by those that start or run, by start.
    held: BTreeMap<u64, u64>,
    /// Cancelled to make a model crash.
    crashes: HashMap<String, CancellationToken>,
    cards: Option<Arc<Cards>>,
    journal: Journal,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").field("held", &self.held).field("journal", &self.journal).finish_non_exhaustive()
    }
}

/// What was asked of a double.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Journal {
    /// Models in the order in which they were started.
    pub starts: Vec<String>,
    /// Where the last one was started.
    pub setting: Option<Setting>,
    /// The most host memory that was held at once.
    pub peak_ram: u64,
    /// Requests being answered.
    pub answering: usize,
    /// Requests that were begun.
    pub requests: usize,
    /// Models that were asked to rest or to give memory back, and how.
    pub rungs: Vec<(String, Rung)>,
    /// Starts that found less memory on a card than they had been granted.
    pub out_of_memory: usize,
}

impl Fake {
    /// Sets how `model` behaves from its next start on.
    pub fn script(&self, model: &str, script: Script) {
        self.0.send_modify(|known| drop(known.scripts.insert(model.to_string(), script)));
    }

    /// Sets who plays the cards.
    pub fn on_cards(&self, cards: impl Fn(&str, u32, u64) -> bool + Send + Sync + 'static) {
        self.0.send_modify(|known| known.cards = Some(Arc::new(cards)));
    }

    /// Ends a running model as a crash would.
    pub fn crash(&self, model: &str) {
        if let Some(crash) = self.0.borrow().crashes.get(model) {
            crash.cancel();
        }
    }

    /// What was asked so far.
    pub fn journal(&self) -> Journal {
        self.0.borrow().journal.clone()
    }

    /// Returns once the journal says so.
    pub async fn until(&self, says: impl Fn(&Journal) -> bool) {
        // The sender lives as long as `self`.
        let _ = self.0.subscribe().wait_for(|known| says(&known.journal)).await;
    }

    fn tell_cards(&self, gpu: &str, pid: u32, bytes: u64) -> bool {
        let cards = self.0.borrow().cards.clone();
        cards.is_none_or(|cards| cards(gpu, pid, bytes))
    }
}

/// One tenant of the double.
#[derive(Debug, Clone)]
pub struct Double {
    fake: Fake,
    spec: Arc<ModelSpec>,
}

impl Double {
    /// What would serve `spec`.
    pub fn new(fake: Fake, spec: Arc<ModelSpec>) -> Self {
        Self { fake, spec }
    }

    /// The model.
    pub fn spec(&self) -> &Arc<ModelSpec> {
        &self.spec
    }

    /// What its script claims.
    pub fn variants(&self) -> Vec<Variant> {
        self.script().variants()
    }

    /// What its script says that it can do.
    pub fn rungs(&self) -> &'static [Rung] {
        self.script().rungs
    }

    fn script(&self) -> Script {
        self.fake.0.borrow().scripts.get(&self.spec.name).cloned().unwrap_or_default()
    }

    /// Starts as its script says; see [`super::Tenant::start`].
    ///
    /// # Errors
    /// What the script says, that a card has too little memory, or that no port is left.
    pub async fn start(
        &self,
        grant: &Grant,
        stop: &CancellationToken,
        told: &(dyn Fn(Attribution) + Send + Sync),
    ) -> Result<Running, StartError> {
        let script = self.script();
        let model = self.spec.name.clone();
        let variant = &grant.variant;
        let held = Arc::new(Held::new(&self.fake, &model, variant.claim.ram, script.lingers, &variant.setting));
        told(Attribution::Process(held.pid()));
        let loading = async {
            if script.hangs_loading {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(script.load).await;
        };
        tokio::select! {
            () = loading => {}
            () = stop.cancelled() => return Err(StartError::Stopped),
        }
        if let Some(failure) = script.failure {
            return Err(StartError::Failed(failure));
        }
        for (gpu, bytes) in &variant.claim.vram {
            if !held.set(gpu, bytes.saturating_add(script.excess)) {
                self.fake.0.send_modify(|known| known.journal.out_of_memory += 1);
                return Err(StartError::Failed(format!("out of memory on {gpu}")));
            }
        }
        let failed = |error: std::io::Error| StartError::Failed(error.to_string());
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;

        let (exit, exits) = ExitWatch::channel();
        let (asked, killed, crash) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        self.fake.0.send_modify(|known| drop(known.crashes.insert(model.clone(), crash.clone())));
        let router = answers::router(self.fake.clone(), script.clone(), crash.clone());
        let (ended, kill, deaf) = (asked.clone(), killed.clone(), script.hangs_stopping);
        let holds = held.clone();
        tokio::spawn(async move {
            let reason = tokio::select! {
                served = axum::serve(listener, router) => format!("{served:?}"),
                () = ended.cancelled(), if !deaf => "it was asked to".into(),
                () = kill.cancelled() => "it was killed".into(),
                () = crash.cancelled() => "the script says crash".into(),
            };
            // Told after its memory is back, as a process's exit is.
            holds.end();
            exit.send_replace(Some(Exit { reason, card_failed: false }));
        });
        let who = Attribution::Process(held.pid());
        let control =
            Control::Fake(Box::new(Controls { model: model.clone(), variant: variant.clone(), script, held }));
        let endpoint = Endpoint {
            address: Address::Tcp(address),
            model,
            runtime: NAME,
            context: 4096,
            quant: self.spec.quantisation.clone(),
        };
        Ok(Running::new(who, exits, Some(endpoint), control, asked, killed))
    }
}

/// What can be asked of a double that runs.
#[derive(Debug)]
pub struct Controls {
    model: String,
    variant: Variant,
    script: Script,
    held: Arc<Held>,
}

impl Controls {
    /// Rests, or gives memory back.
    ///
    /// # Errors
    /// When the script says so.
    pub async fn take(&self, rung: Rung) -> Result<(), String> {
        self.held.fake.0.send_modify(|known| known.journal.rungs.push((self.model.clone(), rung)));
        tokio::time::sleep(self.script.rest).await;
        if self.script.refuses_rests {
            return Err("the script says no".into());
        }
        let claim = match rung {
            Rung::Sleep | Rung::Park => {
                let rest = self.variant.rests.iter().find(|rest| rest.rung == rung);
                rest.map(|rest| rest.residue.clone()).unwrap_or_default()
            }
            _ => self.variant.claim.clone(),
        };
        for gpu in self.variant.claim.vram.keys() {
            self.held.set(gpu, claim.on(gpu));
        }
        self.held.set_ram(claim.ram);
        Ok(())
    }

    /// Wakes.
    ///
    /// # Errors
    /// When a card has too little memory.
    pub async fn wake(&self) -> Result<(), String> {
        tokio::time::sleep(self.script.wake).await;
        self.held.set_ram(self.variant.claim.ram);
        for (gpu, bytes) in &self.variant.claim.vram {
            if !self.held.set(gpu, bytes.saturating_add(self.script.excess)) {
                self.held.fake.0.send_modify(|known| known.journal.out_of_memory += 1);
                return Err(format!("out of memory on {gpu}"));
            }
        }
        Ok(())
    }
}

/// Memory that a tenant occupies until it ends.
#[derive(Debug)]
struct Held {
    fake: Fake,
    start: u64,
    cards: std::sync::Mutex<BTreeMap<String, u64>>,
    lingers: std::time::Duration,
}

impl Held {
    fn new(fake: &Fake, model: &str, ram: u64, lingers: std::time::Duration, setting: &Setting) -> Self {
        let mut start = 0;
        fake.0.send_modify(|known| {
            known.journal.starts.push(model.to_string());
            known.journal.setting = Some(setting.clone());
            start = known.journal.starts.len() as u64;
            known.hold(start, ram);
        });
        Self { fake: fake.clone(), start, cards: std::sync::Mutex::default(), lingers }
    }

    fn pid(&self) -> u32 {
        FIRST_PID + self.start as u32
    }

    /// Occupies so much of a card; false when there is not so much.
    fn set(&self, gpu: &str, bytes: u64) -> bool {
        let fits = self.fake.tell_cards(gpu, self.pid(), bytes);
        if fits {
            self.lock().insert(gpu.to_string(), bytes);
        }
        fits
    }

    fn set_ram(&self, ram: u64) {
        self.fake.0.send_modify(|known| known.hold(self.start, ram));
    }

    /// Gives all back. The driver may take its time to notice.
    fn end(&self) {
        self.fake.0.send_modify(|known| {
            known.held.remove(&self.start);
        });
        let (fake, pid) = (self.fake.clone(), self.pid());
        let cards = std::mem::take(&mut *self.lock());
        let free = move || {
            for gpu in cards.keys() {
                fake.tell_cards(gpu, pid, 0);
            }
        };
        match (self.lingers.is_zero(), tokio::runtime::Handle::try_current()) {
            (false, Ok(runtime)) => {
                let lingers = self.lingers;
                runtime.spawn(async move {
                    tokio::time::sleep(lingers).await;
                    free();
                });
            }
            _ => free(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u64>> {
        self.cards.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Known {
    fn hold(&mut self, start: u64, ram: u64) {
        self.held.insert(start, ram);
        self.journal.peak_ram = self.journal.peak_ram.max(self.held.values().sum());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.end();
    }
}
