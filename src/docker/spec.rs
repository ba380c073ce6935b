//! What a container is made from.

use super::{Exit, Publish};
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// What the same [`ContainerSpec`] makes: another number where that is another container, so that those of before are
/// made anew.
pub const REVISION: u32 = 2;

/// What a container is made from. Its digest tells whether an existing one still is what is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ContainerSpec {
    /// The image, by tag or digest.
    pub image: String,
    /// Arguments, over the image's.
    pub command: Option<Vec<String>>,
    /// The program, over the image's.
    pub entrypoint: Option<Vec<String>>,
    /// Its environment.
    pub environment: BTreeMap<String, String>,
    /// User, or user and group, by name or number, over the image's.
    pub user: Option<String>,
    /// Where it starts, over the image's.
    pub working_dir: Option<String>,
    /// The networks that it is on. On the first it is from the start.
    pub networks: Vec<Attachment>,
    /// What of the outside it sees as files.
    pub mounts: Vec<Mount>,
    /// Folders in memory, with the options of their mounts.
    pub tmpfs: BTreeMap<String, String>,
    /// The ports that the daemon forwards to it.
    pub ports: Vec<Publish>,
    /// Labels, besides ours.
    pub labels: BTreeMap<String, String>,
    /// How the engine asks whether it is well, over the image's.
    pub healthcheck: Option<Healthcheck>,
    /// When the engine starts it again.
    pub restart: Restart,
    /// The signal that asks it to end, over the image's.
    pub stop_signal: Option<String>,
    /// How long it may take to end once asked.
    pub stop_grace: Duration,
    /// Whether an init process reaps its orphans.
    pub init: bool,
    /// Whether its file system is read-only.
    pub read_only: bool,
    /// Capabilities that it has besides `cap_drop`.
    pub cap_add: Vec<String>,
    /// Capabilities that it lacks.
    pub cap_drop: Vec<String>,
    /// Security options.
    pub security_opt: Vec<String>,
    /// The most processes that it may have; -1 for any number.
    pub pids_limit: Option<i64>,
    /// The most memory, in bytes.
    pub memory: Option<u64>,
    /// The most processor time, in billionths of a core.
    pub nano_cpus: Option<i64>,
    /// The size of its /dev/shm, in bytes.
    pub shm_size: Option<u64>,
    /// Limits of the kernel's, by name.
    pub ulimits: BTreeMap<String, Ulimit>,
    /// What it may ask its proxy for, where its stack has a way out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// The cards that it sees, where it sees any. Left out of the digest where it is none, as it was before there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuSpec>,
    /// What few files say. Left out of the digest where it is nothing, as it was before there was any of it.
    #[serde(skip_serializing_if = "Rare::is_nothing")]
    pub rare: Rare,
}

/// What few files say of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rare {
    /// What it calls itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Of which domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domainname: Option<String>,
    /// Names that it knows, as `NAME:ADDRESS`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_hosts: Vec<String>,
    /// Groups that its user is in besides its own, by name or number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub group_add: Vec<String>,
    /// Settings of the kernel's, of its own namespaces.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// Notes that the runtime below Docker is given.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Whether it has a terminal.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub tty: bool,
    /// Whether its standard input stays open.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stdin_open: bool,
    /// Bytes of memory that it keeps when memory is short.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_reservation: Option<u64>,
    /// Bytes of memory and swap together; -1 for any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_swap: Option<i64>,
    /// Its share of the processor where that is short; 1024 is usual.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<i64>,
    /// The cores on which it may run, such as `0-3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpuset: Option<String>,
    /// How gladly the kernel ends it when memory runs out, from -1000 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i64>,
    /// The platform of its image, such as `linux/amd64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// What becomes of what it prints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logging: Option<Logging>,
    /// Whether it is on this machine's own network.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub host_network: bool,
    /// Whether it shares the machine's memory for messages between processes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub host_ipc: bool,
    /// Whether others may share its own.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shareable_ipc: bool,
    /// Whether it sees the machine's processes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub host_pid: bool,
    /// Whether it may do all that root of this machine may.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub privileged: bool,
    /// Devices of this machine that it may use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
}

impl Rare {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What becomes of what a container prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Logging {
    /// The driver.
    pub driver: String,
    /// Its options.
    pub options: BTreeMap<String, String>,
}

/// A device of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Its path here.
    pub source: String,
    /// Its path in the container.
    pub target: String,
    /// Of `r`, `w` and `m`, what may be done with it.
    pub permissions: String,
}

/// What a container wants of cards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GpuSpec {
    /// Which.
    pub cards: Cards,
    /// What of the driver it uses, such as `compute` and `utility`.
    pub capabilities: Vec<String>,
    /// Bytes of each card that it may take; none where its file does not say.
    pub vram: Option<u64>,
}

/// Which cards a container sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Cards {
    /// Any one.
    One,
    /// All that there are.
    All,
    /// These, by UUID, or by number where there is one card.
    These(Vec<String>),
}

/// A network that a container is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attachment {
    /// The network.
    pub network: String,
    /// Names under which the others there reach it.
    pub aliases: Vec<String>,
    /// Its address there, where its file says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// Something of the outside that a container sees as files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// What it is.
    pub source: MountSource,
    /// The path in the container.
    pub target: String,
    /// Whether it may not be written.
    pub read_only: bool,
    /// Further options of the mount, such as `z` or `rslave`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum MountSource {
    /// A volume of the engine's, by name.
    Volume(String),
    /// A volume without a name, which goes with the container.
    Anonymous,
    /// A text that the compose file has or names.
    Text(Text),
    /// A path of the engine's machine.
    Bind(PathBuf),
}

/// A text, which may be a secret: only its digest is ever shown or written.
#[derive(Clone, PartialEq, Eq)]
pub struct Text(pub String);

impl Text {
    /// Its digest.
    pub fn digest(&self) -> String {
        Sha256::digest(&self.0).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Text").field(&self.digest()).finish()
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.digest())
    }
}

/// When the engine starts a container again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum Restart {
    /// Never.
    #[default]
    No,
    /// Whenever it ends.
    Always,
    /// Whenever it ends, unless it was stopped on purpose.
    UnlessStopped,
    /// When it ends with an error; so many times, if a number is said.
    OnFailure(Option<u32>),
}

/// How the engine asks whether a container is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Healthcheck {
    /// `CMD` with arguments, `CMD-SHELL` with a command, or `NONE`; empty for the image's.
    pub test: Vec<String>,
    /// Between two checks.
    pub interval: Option<Duration>,
    /// What one may take.
    pub timeout: Option<Duration>,
    /// Failures in a row that make it unhealthy.
    pub retries: Option<u32>,
    /// How long failures do not count after its start.
    pub start_period: Option<Duration>,
    /// Between two checks during that time.
    pub start_interval: Option<Duration>,
}

impl Healthcheck {
    /// Whether it switches the image's check off.
    pub fn is_none(&self) -> bool {
        self.test.first().is_some_and(|kind| kind == "NONE")
    }
}

/// A limit of the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Ulimit {
    /// Where it begins.
    pub soft: i64,
    /// How far the container may raise it.
    pub hard: i64,
}

/// What a network is made from; all are without a way out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Its addresses, where its file says; the engine's choice otherwise.
    pub subnets: Vec<Subnet>,
    /// Labels, besides ours.
    pub labels: BTreeMap<String, String>,
}

/// Addresses of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// All of them, as `172.30.0.0/24`.
    pub subnet: String,
    /// That of this machine there.
    pub gateway: Option<String>,
    /// Those that are given out.
    pub ip_range: Option<String>,
}

/// What a volume is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeSpec {
    /// What it is mounted with, as for a share of another machine.
    pub options: BTreeMap<String, String>,
    /// Labels, besides ours.
    pub labels: BTreeMap<String, String>,
}
