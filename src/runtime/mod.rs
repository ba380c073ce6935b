//! What can hold memory: everything that wants the card or the host's memory is a [`Tenant`], and those that answer
//! requests also give an [`Endpoint`] that speaks OpenAI's dialect.
//!
//! A tenant says what it needs, starts once and never restarts itself: when it ends, [`ExitWatch`] tells, and
//! `placement` decides what happens next.

mod claim;
pub mod fake;
pub mod native;
mod reserved;
mod variant;

pub use claim::Claim;
pub use native::Parked;
pub use reserved::{Reserved, Room};
pub use variant::{Card, Rest, Setting, Variant};

use crate::config::Config;
use crate::egress::Address;
use crate::models::ModelSpec;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Where tenants come from.
#[derive(Debug, Clone)]
pub enum Runtime {
    /// Worker processes of the native engine.
    Native(Arc<native::Native>),
    /// A double for tests: an endpoint inside this process, whose failures the test commands.
    Fake(fake::Fake),
}

impl Runtime {
    /// The runtimes that `config` asks for.
    pub fn new(config: &Config) -> Self {
        Self::Native(Arc::new(native::Native::new(config)))
    }

    /// What would serve `spec`; nothing is started.
    pub fn tenant(&self, spec: Arc<ModelSpec>) -> Tenant {
        match self {
            Self::Native(native) => Tenant::Native(native::Worker::new(native.clone(), spec)),
            Self::Fake(fake) => Tenant::Fake(fake::Double::new(fake.clone(), spec)),
        }
    }
}

/// Something that occupies resources.
#[derive(Debug, Clone)]
pub enum Tenant {
    /// A worker process of the native engine.
    Native(native::Worker),
    /// A double for tests.
    Fake(fake::Double),
    /// What somebody else starts and ends.
    Reserved(Reserved),
}

impl Tenant {
    /// The model that it serves, if it serves one.
    pub fn spec(&self) -> Option<&Arc<ModelSpec>> {
        match self {
            Self::Native(worker) => Some(worker.spec()),
            Self::Fake(double) => Some(double.spec()),
            Self::Reserved(_) => None,
        }
    }

    /// What people call it: the model, or the service of a stack.
    pub fn name(&self) -> &str {
        match self {
            Self::Reserved(reserved) => &reserved.name,
            _ => self.spec().map_or("", |spec| &spec.name),
        }
    }

    /// Changes when something else goes by the same name.
    pub fn version(&self) -> &str {
        self.spec().map_or("", |spec| &spec.sha256)
    }

    /// By what its footprint is remembered: what runs. None where its owner says how much it may take.
    pub fn digest(&self) -> Option<&str> {
        match self {
            Self::Reserved(Reserved { room: Room::Said(_), .. }) => None,
            Self::Reserved(Reserved { room: Room::Unsaid { image, .. }, .. }) => Some(image),
            _ => self.spec().map(|spec| &*spec.sha256),
        }
    }

    /// The kind of runtime, as responses disclose it, where it runs as `setting` says.
    pub fn runtime(&self, setting: &Setting) -> &'static str {
        match self {
            Self::Native(_) => native::name(setting),
            Self::Fake(_) => fake::NAME,
            Self::Reserved(_) => reserved::NAME,
        }
    }

    /// The ways in which it can run on a machine with `cards`, the best first, each with what it will occupy,
    /// predicted before it starts. Of a model there is at least one.
    pub fn variants(&self, cards: &[Card]) -> Vec<Variant> {
        match self {
            Self::Native(worker) => worker.variants(cards),
            Self::Fake(double) => double.variants(),
            Self::Reserved(reserved) => {
                reserved.variants(&cards.iter().map(|card| card.uuid.as_str()).collect::<Vec<_>>())
            }
        }
    }

    /// How it gives memory back when it holds more than it may, gentlest first.
    pub fn rungs(&self) -> &'static [Rung] {
        match self {
            Self::Native(_) => native::RUNGS,
            Self::Fake(double) => double.rungs(),
            Self::Reserved(_) => Reserved::RUNGS,
        }
    }

    /// How long its start takes, guessed from the size of its file: a slow disk's pace.
    pub fn cost(&self) -> Duration {
        match self.spec() {
            Some(spec) => Duration::from_millis(200) + Duration::from_secs_f64(spec.bytes as f64 / 1e9),
            None => Reserved::COST,
        }
    }

    /// Starts it once, within `grant`, from what is left of the one that was parked, if one was. Returns when it can answer. Cancelling `stop` gives the start up; whatever had
    /// been started is gone when this returns an error. Whose memory it will be is `told` as soon as that is known: what it
    /// takes while it starts is not to be taken for somebody else's.
    ///
    /// # Errors
    /// Why it does not run, in words that name the cause.
    pub async fn start(
        &self,
        grant: &Grant,
        stop: &CancellationToken,
        told: &(dyn Fn(Attribution) + Send + Sync),
        parked: Option<Parked>,
    ) -> Result<Running, StartError> {
        match self {
            Self::Native(worker) => worker.start(grant, stop, told, parked).await,
            Self::Fake(double) => double.start(grant, stop, told).await,
            Self::Reserved(reserved) => Ok(reserved.start()),
        }
    }
}

/// What a tenant may occupy: the ledger holds this much for it from before its start until its exit is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// How it runs; the claim in it is the cap.
    pub variant: Variant,
}

/// A tenant that runs.
#[derive(Debug)]
pub struct Running {
    /// Whose memory it is, for attribution.
    pub who: Attribution,
    /// How it ends.
    pub exits: ExitWatch,
    /// Where it answers; none for what answers no requests.
    pub endpoint: Option<Endpoint>,
    control: Control,
    stop: CancellationToken,
    kill: CancellationToken,
}

/// What can be asked of a tenant that runs, besides to stop.
#[derive(Debug)]
pub enum Control {
    /// Nothing.
    None,
    /// A native worker on a card, by where it answers; and what would be left of it.
    Worker(Address, Option<Parked>),
    /// A double's.
    Fake(Box<fake::Controls>),
}

impl Running {
    /// A running tenant; cancelling `stop` must lead to its exit, cancelling `kill` to its exit at once.
    pub fn new(
        who: Attribution,
        exits: ExitWatch,
        endpoint: Option<Endpoint>,
        control: Control,
        stop: CancellationToken,
        kill: CancellationToken,
    ) -> Self {
        Self { who, exits, endpoint, control, stop, kill }
    }

    /// Asks it to stop, by force after its grace, and returns when it is gone.
    pub async fn stop(&mut self) -> Exit {
        self.stop.cancel();
        self.exits.wait().await
    }

    /// Ends it at once.
    pub fn kill(&self) {
        self.kill.cancel();
    }

    /// Lets it rest, or give back what it can; see [`Rung`]. Returns when it has.
    ///
    /// # Errors
    /// Why it did not.
    pub async fn take(&self, rung: Rung) -> Result<(), String> {
        match &self.control {
            Control::None => Err("it cannot".into()),
            Control::Worker(address, _) => native::take(address, rung).await,
            Control::Fake(controls) => controls.take(rung).await,
        }
    }

    /// What is left when it has taken [`Rung::Park`] and ended: to be given to its next start, in place of waking it. None
    /// where it parks without ending.
    pub fn parked(&self) -> Option<Parked> {
        match &self.control {
            Control::Worker(_, parked) => parked.clone(),
            _ => None,
        }
    }

    /// Wakes it from its rest.
    ///
    /// # Errors
    /// Why it does not answer.
    pub async fn wake(&self) -> Result<(), String> {
        match &self.control {
            Control::None => Err("it does not rest".into()),
            Control::Worker(address, _) => native::wake(address).await,
            Control::Fake(controls) => controls.wake().await,
        }
    }
}

/// Whose memory something is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attribution {
    /// A process of this machine.
    Process(u32),
    /// A container, by its id.
    Container(String),
    /// This daemon itself (test doubles).
    Daemon,
    /// Nobody yet: the container is still to be made.
    Nobody,
}

/// How a tenant ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exit {
    /// For people: the exit status, and the last words on its stderr.
    pub reason: String,
    /// Whether its card failed: another start there may end the same way.
    pub card_failed: bool,
}

/// Tells when a tenant has ended. Clones see the same end.
#[derive(Debug, Clone)]
pub struct ExitWatch(watch::Receiver<Option<Exit>>);

impl ExitWatch {
    /// A watch and the sender by which its end is told, once.
    pub fn channel() -> (watch::Sender<Option<Exit>>, Self) {
        let (sender, receiver) = watch::channel(None);
        (sender, Self(receiver))
    }

    /// How the tenant ended, if it has.
    pub fn ended(&self) -> Option<Exit> {
        self.0.borrow().clone()
    }

    /// Returns once the tenant has ended.
    pub async fn wait(&mut self) -> Exit {
        match self.0.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone(),
            // Whoever watched the tenant is gone without a word; so is the tenant.
            Err(_) => None,
        }
        .unwrap_or_else(|| Exit { reason: "it ended unseen".into(), card_failed: false })
    }
}

/// Something that answers requests in OpenAI's dialect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Address,
    /// The model's name.
    pub model: String,
    /// The kind of runtime.
    pub runtime: &'static str,
    /// Tokens that one conversation may hold.
    pub context: usize,
    /// The quantisation of the weights.
    pub quant: String,
}

/// A way in which a tenant gives memory back, gentlest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// Keeps its process, moves weights to host memory.
    Sleep,
    /// Ends its process; the daemon keeps the weights in host memory.
    Park,
    /// Keeps answering with less.
    Shrink,
    /// Drops what it can rebuild.
    Free,
    /// Ends when it is asked to.
    Stop,
    /// Is ended.
    Kill,
}

/// Why a tenant did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// It was asked to stop before it could answer.
    #[error("the start was given up")]
    Stopped,
    /// It failed by itself.
    #[error("{0}")]
    Failed(String),
    /// Its card failed.
    #[error("{0}")]
    CardFailed(String),
}
