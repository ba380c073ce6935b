//! The Docker engine, and the only user of bollard: what containers are allowed is decided in one place.
//!
//! A [`Docker`] is a handle that is always there, whether or not an engine is. Its task (`link`) connects, keeps the
//! list of our containers by the engine's events, and connects again when the engine went away. What containers we
//! have is known by their labels alone; nothing about them is kept anywhere else.

mod container;
mod create;
mod error;
mod exec;
mod exit;
mod image;
mod link;
mod logs;
mod port;
mod resource;
mod spec;

pub use container::{Container, Health, Phase, Status};
pub use error::Error;
pub use exec::Ran;
pub use exit::{EGRESS, Exit, PROXY};
pub use image::{Pulled, Registry};
pub use logs::{Line, Logs};
pub use port::Publish;
pub use spec::{
    Attachment, Cards, ContainerSpec, Device, GpuSpec, Healthcheck, Logging, Mount, MountSource, NetworkSpec, REVISION,
    Rare, Restart, Subnet, Text, Ulimit, VolumeSpec,
};

use crate::config;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The stack that a container, network or volume belongs to. What carries it is ours.
pub const STACK: &str = "sovereign.stack";
/// The service of the stack that a container runs.
pub const SERVICE: &str = "sovereign.service";
/// A digest of what a container was made from: another one means that it must be made anew.
pub const CONFIG: &str = "sovereign.config";
/// The ports that the daemon forwards to a container, as [`Publish`] writes them, separated by spaces.
pub const PORTS: &str = "sovereign.ports";

/// The cards that a container was made with, by UUID, separated by commas.
pub const CARDS: &str = "sovereign.cards";
/// Bytes of each of them that it may take.
pub const VRAM: &str = "sovereign.vram";

/// The handle on the Docker engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Docker {
    state: watch::Receiver<State>,
    containers: watch::Receiver<Arc<Vec<Container>>>,
    client: watch::Receiver<Option<bollard::Docker>>,
}

/// Whether an engine answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// None does.
    Absent {
        /// Why not, and what can be done.
        reason: String,
    },
    /// One does.
    Present(Engine),
}

/// The engine that answers.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Engine {
    /// Its version, such as `28.2.2`.
    pub version: String,
    /// The version of the API that is spoken with it.
    pub api: String,
    /// The operating system that it runs on, for people.
    pub os: String,
    /// The processor's architecture, such as `x86_64`.
    pub architecture: String,
    /// Where it keeps images and volumes.
    pub root_dir: String,
}

impl State {
    /// The engine, if one answers.
    pub fn engine(&self) -> Option<&Engine> {
        match self {
            Self::Present(engine) => Some(engine),
            Self::Absent { .. } => None,
        }
    }

    /// Why none answers.
    pub fn absent(&self) -> Option<&str> {
        match self {
            Self::Present(_) => None,
            Self::Absent { reason } => Some(reason),
        }
    }
}

impl Docker {
    /// Starts the task that keeps in touch with the engine, until `shutdown`. It never fails: an engine that is not
    /// there is a [`State`].
    pub fn start(config: &config::Docker, shutdown: CancellationToken) -> Self {
        let host = link::host(config.host.as_deref(), std::env::var("DOCKER_HOST").ok().as_deref());
        let absent = State::Absent { reason: format!("the Docker engine at {host} has not answered yet") };
        let (states, state) = watch::channel(absent);
        let (lists, containers) = watch::channel(Arc::default());
        let (clients, client) = watch::channel(None);
        tokio::spawn(link::Link { host, states, lists, clients }.run(shutdown));
        Self { state, containers, client }
    }

    /// Whether an engine answers, now and after every change. When it turns present, the containers are listed already.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Our containers, whatever their state, by stack and service; now and after every change. Empty while no engine
    /// answers.
    pub fn containers(&self) -> watch::Receiver<Arc<Vec<Container>>> {
        self.containers.clone()
    }

    /// The containers of one stack, asked of the engine itself.
    ///
    /// # Errors
    /// When no engine answers, or it fails.
    pub async fn list_stack(&self, stack: &str) -> Result<Vec<Container>, Error> {
        let client = self.client()?;
        let listed = link::list_labelled(&client, &format!("{STACK}={stack}")).await;
        Ok(listed.map_err(Error::of("list the containers"))?.into_values().collect())
    }

    fn client(&self) -> Result<bollard::Docker, Error> {
        self.client.borrow().clone().ok_or_else(|| Error::Absent {
            reason: self.state.borrow().absent().unwrap_or("the Docker engine has just gone away").to_owned(),
        })
    }
}
