//! Configuration: one YAML file in, resolved settings out. One file a section.
//!
//! Every key has a default, so that no file at all is a valid configuration. A key that is not known is refused,
//! with its line and the nearest key that is: a typing error must not silently be a default.

mod docker;
mod egress;
mod engine;
mod gateway;
mod gpu;
mod load;
mod models;
mod placement;
mod server;
mod units;

pub use docker::Docker;
pub use egress::{Egress, Gate, Mode};
pub use engine::{Engine, EngineDevice};
pub use gateway::Gateway;
pub use gpu::{Gpu, ProbeKind};
pub use load::Error;
pub use models::Models;
pub use placement::{ModelPolicy, Placement, Priority};
pub use server::Server;
pub use units::{Bytes, Price, Seconds};

use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Where the file is looked for when nobody names one.
pub const DEFAULT_FILE: &str = "/etc/sovereign/config.yaml";

/// The whole configuration, resolved.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the daemon keeps what must survive; `/var/lib/sovereign` unless said.
    pub state: StateDir,
    /// What the daemon listens on.
    #[serde(deserialize_with = "load::section")]
    pub server: Server,
    /// The probe of the card.
    #[serde(deserialize_with = "load::section")]
    pub gpu: Gpu,
    /// The Docker engine and the stacks.
    #[serde(deserialize_with = "load::section")]
    pub docker: Docker,
    /// Where models lie and come from.
    #[serde(deserialize_with = "load::section")]
    pub models: Models,
    /// The native engine's workers.
    #[serde(deserialize_with = "load::section")]
    pub engine: Engine,
    /// Who may hold memory, and how long.
    #[serde(deserialize_with = "load::section")]
    pub placement: Placement,
    /// Who may ask.
    #[serde(deserialize_with = "load::section")]
    pub gateway: Gateway,
    /// What may leave the house.
    #[serde(deserialize_with = "load::section")]
    pub egress: Egress,
}

/// The state folder.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct StateDir(PathBuf);

impl Default for StateDir {
    fn default() -> Self {
        Self(PathBuf::from("/var/lib/sovereign"))
    }
}

impl Config {
    /// Loads `file`, or the default file where that exists, or the defaults; `state` wins over the file's.
    ///
    /// # Errors
    /// When the file cannot be read, or says something that is not understood.
    pub fn load(file: Option<&Path>, state: Option<&Path>) -> Result<Self, Error> {
        let config = match file {
            Some(file) => load::file(file)?,
            None if Path::new(DEFAULT_FILE).exists() => load::file(Path::new(DEFAULT_FILE))?,
            None => Self::default(),
        };
        Ok(match state {
            Some(state) => config.with_state_dir(state),
            None => config,
        })
    }

    /// The same with another state folder.
    pub fn with_state_dir(self, path: &Path) -> Self {
        Self { state: StateDir(path.to_path_buf()), ..self }
    }

    /// The state folder.
    pub fn state_dir(&self) -> &Path {
        &self.state.0
    }

    /// The folder of model files.
    pub fn models_dir(&self) -> PathBuf {
        self.models.dir.clone().unwrap_or_else(|| self.state_dir().join("models"))
    }

    /// The folder of the owner's own stacks.
    pub fn stacks_dir(&self) -> PathBuf {
        self.docker.stacks.clone().unwrap_or_else(|| self.state_dir().join("stacks"))
    }

    /// The folder of what was computed of prompts, where that is kept.
    pub fn prefixes_dir(&self) -> PathBuf {
        self.state_dir().join("prefixes")
    }

    /// The socket on which the CLI reaches the daemon. Who may open it administers the appliance: mode 0600.
    pub fn admin_socket(&self) -> PathBuf {
        self.state_dir().join("sovereign.sock")
    }
}
