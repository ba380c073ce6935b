use super::host::{DevicePathKey, IpcKey, NetworkModeKey, PidKey, RuntimeKey};
use super::{
    Argv, Cpus, DependsOn, Deploy, Duration, EnvFiles, Extends, GpusKey, HealthcheckKeys, Link, Names, OneOrMany,
    Pairs, Permit, PortKey, SecurityOption, Size, Swap, TextUse, UlimitKey, VolumeKey, deploy,
};
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny};
use serde_yaml::Spanned;
use std::collections::BTreeMap;

/// A service, as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Service {
    /// The image, by tag or digest.
    pub image: Option<String>,
    /// Arguments, over the image's.
    pub command: Option<Argv>,
    /// The program, over the image's.
    pub entrypoint: Option<Argv>,
    /// Its environment.
    pub environment: Pairs,
    /// Files with more of it.
    pub env_file: Option<Spanned<EnvFiles>>,
    /// The ports that are served on this machine.
    pub ports: Vec<PortKey>,
    /// Ports that the others on its networks reach: all are reached, so that it says nothing.
    pub expose: Vec<String>,
    /// What is mounted.
    pub volumes: Vec<Spanned<VolumeKey>>,
    /// The networks that it is on; `default` where none is said.
    pub networks: Option<Spanned<ServiceNetworks>>,
    /// Whose network it is on instead.
    pub network_mode: Option<Spanned<NetworkModeKey>>,
    /// Names that it knows.
    pub extra_hosts: ExtraHosts,
    /// A further name under which the others on its networks reach it.
    pub container_name: Option<String>,
    /// What it calls itself.
    pub hostname: Option<String>,
    /// Of which domain.
    pub domainname: Option<String>,
    /// How it is asked whether it is well.
    pub healthcheck: Option<HealthcheckKeys>,
    /// What must be there before it starts.
    pub depends_on: Option<Spanned<DependsOn>>,
    /// The same, of old.
    pub links: Option<Spanned<Vec<Link>>>,
    /// When it is started again.
    pub restart: Option<RestartKey>,
    /// User, or user and group.
    pub user: Option<String>,
    /// Further groups of the user.
    pub group_add: Vec<String>,
    /// Whether its file system is read-only.
    pub read_only: Option<bool>,
    /// Folders in memory, as `PATH[:OPTIONS]`.
    pub tmpfs: OneOrMany,
    /// Capabilities that it lacks; all of them where nothing is said.
    pub cap_drop: Option<Vec<String>>,
    /// Capabilities that it has all the same.
    pub cap_add: Option<Spanned<Vec<String>>>,
    /// `no-new-privileges:false` where it needs them.
    pub security_opt: Option<Spanned<Vec<SecurityOption>>>,
    /// Whether it may do all that root of this machine may.
    pub privileged: Option<Spanned<bool>>,
    /// Whose processes it sees.
    pub pid: Option<Spanned<PidKey>>,
    /// With whom it shares memory for messages between processes.
    pub ipc: Option<Spanned<IpcKey>>,
    /// Devices of this machine.
    pub devices: Option<Spanned<Vec<DevicePathKey>>>,
    /// What runs it below Docker.
    pub runtime: Option<Spanned<RuntimeKey>>,
    /// The most memory.
    pub mem_limit: Option<Size>,
    /// Memory that it keeps when memory is short.
    pub mem_reservation: Option<Size>,
    /// The most memory and swap together.
    pub memswap_limit: Option<Swap>,
    /// The most processor time, in cores.
    pub cpus: Option<Cpus>,
    /// Its share of the processor where that is short.
    pub cpu_shares: Option<i64>,
    /// The cores on which it may run.
    pub cpuset: Option<String>,
    /// How gladly the kernel ends it when memory runs out.
    pub oom_score_adj: Option<i64>,
    /// The same in the words of swarm.
    pub deploy: Deploy,
    /// One.
    #[serde(deserialize_with = "deploy::once")]
    pub scale: (),
    /// The size of /dev/shm.
    pub shm_size: Option<Size>,
    /// Limits of the kernel's.
    pub ulimits: BTreeMap<String, UlimitKey>,
    /// Settings of the kernel's.
    pub sysctls: Pairs,
    /// The most processes; -1 for any number.
    pub pids_limit: Option<i64>,
    /// Labels of the container.
    pub labels: Option<Spanned<Pairs>>,
    /// Notes for what runs it below Docker.
    pub annotations: Pairs,
    /// Whether an init process reaps its orphans.
    pub init: Option<bool>,
    /// Whether it has a terminal.
    pub tty: Option<bool>,
    /// Whether its standard input stays open.
    pub stdin_open: Option<bool>,
    /// How long it may take to end once asked.
    pub stop_grace_period: Option<Duration>,
    /// The signal that asks it.
    pub stop_signal: Option<String>,
    /// Where it starts.
    pub working_dir: Option<String>,
    /// The cards that it sees.
    pub gpus: Option<Spanned<GpusKey>>,
    /// Texts that it reads as files, and nobody else.
    pub secrets: Option<Spanned<Vec<TextUse>>>,
    /// The same, less secret.
    pub configs: Option<Spanned<Vec<TextUse>>>,
    /// What becomes of what it prints.
    pub logging: Option<LoggingKeys>,
    /// The platform of its image.
    pub platform: Option<String>,
    /// When the image is asked for.
    pub pull_policy: PullPolicy,
    /// The occasions on which it runs; always where none is said.
    pub profiles: Vec<String>,
    /// The service that it is like.
    pub extends: Option<Spanned<Extends>>,
    /// Whether `docker compose up` shows what it prints.
    pub attach: Option<bool>,
    /// What is ours.
    #[serde(rename = "x-sovereign")]
    pub sovereign: ServiceSovereign,
    /// Images come from registries.
    #[serde(deserialize_with = "build")]
    pub build: (),
    /// Names come from Docker.
    #[serde(deserialize_with = "dns")]
    pub dns: (),
    /// The same.
    #[serde(deserialize_with = "dns")]
    pub dns_search: (),
    /// The same.
    #[serde(deserialize_with = "dns")]
    pub dns_opt: (),
}

/// `x-sovereign` of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceSovereign {
    /// What it may take of each card that it sees.
    pub vram: Option<Size>,
    /// What it may do that containers usually may not.
    pub allow: Vec<Permit>,
}

/// The networks that a service is on.
pub type ServiceNetworks = Names<NetworkKeys>;

/// How a service is on a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkKeys {
    /// Further names under which it is reached there.
    pub aliases: Vec<String>,
    /// Its address there.
    pub ipv4_address: Option<String>,
}

/// `logging`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoggingKeys {
    /// The driver; the engine's where it is not said.
    pub driver: Option<String>,
    /// Its options.
    pub options: Pairs,
}

/// `pull_policy`: an image that is here is not asked for again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PullPolicy;

impl<'de> Deserialize<'de> for PullPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "missing" | "if_not_present" => Ok(Self),
            other => Err(de::Error::custom(format!(
                "`pull_policy: {other}` is not supported; an image is pulled when it is missing, and not asked for again"
            ))),
        }
    }
}

/// `extra_hosts`: `NAME=ADDRESS` or `NAME:ADDRESS` in a list, or a mapping.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtraHosts(pub BTreeMap<String, String>);

impl<'de> Deserialize<'de> for ExtraHosts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut hosts = BTreeMap::new();
        for (name, address) in Pairs::deserialize(deserializer)?.0 {
            let (name, address) = match (name.split_once(':'), address) {
                (_, Some(address)) => (name, address),
                (Some((name, address)), None) => (name.into(), address.into()),
                (None, None) => return Err(de::Error::custom(format!("the host {name:?} has no address"))),
            };
            hosts.insert(name, address);
        }
        Ok(Self(hosts))
    }
}

/// `restart`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RestartKey(pub crate::docker::Restart);

impl<'de> Deserialize<'de> for RestartKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use crate::docker::Restart;
        let text = String::deserialize(deserializer)?;
        let restart = match text.split_once(':') {
            None => match text.as_str() {
                "no" => Some(Restart::No),
                "always" => Some(Restart::Always),
                "unless-stopped" => Some(Restart::UnlessStopped),
                "on-failure" => Some(Restart::OnFailure(None)),
                _ => None,
            },
            Some(("on-failure", tries)) => tries.parse().ok().map(|tries| Restart::OnFailure(Some(tries))),
            Some(_) => None,
        };
        restart.map(Self).ok_or_else(|| {
            de::Error::custom(format!("`restart: {text}` is not one of no, always, unless-stopped, on-failure[:N]"))
        })
    }
}

fn build<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    IgnoredAny::deserialize(deserializer)?;
    Err(de::Error::custom("images are not built here; build it with `docker build -t NAME .` and write `image: NAME`"))
}

fn dns<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    IgnoredAny::deserialize(deserializer)?;
    Err(de::Error::custom(
        "the networks of stacks are internal: names of the outside are resolved by Sovereign's proxy, where the stack has one",
    ))
}
