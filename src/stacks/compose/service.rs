use super::{Argv, DeviceKeys, Duration, GpusKey, HealthcheckKeys, Names, OneOrMany, Pairs, PortKey, Size, VolumeKey};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde_yaml::Spanned;
use std::collections::BTreeMap;
use std::fmt;

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
    /// The ports that are served on this machine.
    pub ports: Vec<PortKey>,
    /// What is mounted.
    pub volumes: Vec<Spanned<VolumeKey>>,
    /// The networks that it is on; `default` where none is said.
    pub networks: Option<Spanned<ServiceNetworks>>,
    /// How it is asked whether it is well.
    pub healthcheck: Option<HealthcheckKeys>,
    /// What must be there before it starts.
    pub depends_on: Option<Spanned<DependsOn>>,
    /// When it is started again.
    pub restart: RestartKey,
    /// User, or user and group.
    pub user: Option<String>,
    /// Whether its file system is read-only.
    pub read_only: bool,
    /// Folders in memory, as `PATH[:OPTIONS]`.
    pub tmpfs: OneOrMany,
    /// Capabilities that it lacks; all of them where nothing is said.
    pub cap_drop: Option<Vec<String>>,
    /// Capabilities that it has all the same.
    pub cap_add: Vec<String>,
    /// `no-new-privileges:false` where it needs them.
    pub security_opt: Vec<SecurityOption>,
    /// The most memory.
    pub mem_limit: Option<Size>,
    /// The most processor time, in cores.
    pub cpus: Option<Cpus>,
    /// The same in the words of swarm.
    pub deploy: Deploy,
    /// The size of /dev/shm.
    pub shm_size: Option<Size>,
    /// Limits of the kernel's.
    pub ulimits: BTreeMap<String, UlimitKey>,
    /// The most processes; -1 for any number.
    pub pids_limit: Option<i64>,
    /// Labels of the container.
    pub labels: Option<Spanned<Pairs>>,
    /// Whether an init process reaps its orphans.
    pub init: bool,
    /// How long it may take to end once asked.
    pub stop_grace_period: Option<Duration>,
    /// The signal that asks it.
    pub stop_signal: Option<String>,
    /// Where it starts.
    pub working_dir: Option<String>,
    /// The cards that it sees.
    pub gpus: Option<Spanned<GpusKey>>,
    /// What is ours.
    #[serde(rename = "x-sovereign")]
    pub sovereign: ServiceSovereign,
}

/// `x-sovereign` of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceSovereign {
    /// What it may take of each card that it sees.
    pub vram: Option<Size>,
}

/// The networks that a service is on.
pub type ServiceNetworks = Names<NetworkKeys>;

/// How a service is on a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkKeys {
    /// Further names under which it is reached there.
    pub aliases: Vec<String>,
}

/// What a service waits for.
pub type DependsOn = Names<Dependency>;

/// How long a service waits for another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dependency {
    /// Until when.
    pub condition: Condition,
}

/// Until when a service waits for another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub enum Condition {
    /// Until it runs.
    #[default]
    #[serde(rename = "service_started")]
    Started,
    /// Until its health check passes.
    #[serde(rename = "service_healthy")]
    Healthy,
    /// Until it has ended without an error.
    #[serde(rename = "service_completed_successfully")]
    Completed,
}

/// `deploy`, of which only resources are supported.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Deploy {
    /// `resources`.
    pub resources: Resources,
}

/// `deploy.resources`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// `limits`.
    pub limits: Limits,
    /// `reservations`.
    pub reservations: Reservations,
}

/// `deploy.resources.reservations`, of which only devices are supported.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reservations {
    /// `devices`.
    pub devices: Option<Spanned<Vec<DeviceKeys>>>,
}

/// `deploy.resources.limits`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The most memory.
    pub memory: Option<Size>,
    /// The most processor time, in cores.
    pub cpus: Option<Cpus>,
    /// The most processes.
    pub pids: Option<i64>,
}

/// Processor time in billionths of a core; written in cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpus(pub i64);

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.parse::<f64>() {
            Ok(cores) if cores > 0.0 && cores < 1e6 => Ok(Self((cores * 1e9) as i64)),
            _ => Err(de::Error::custom(format!("{text:?} is not a number of cores"))),
        }
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

/// One of `security_opt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecurityOption {
    /// Whether set-uid programs gain nothing.
    NoNewPrivileges(bool),
}

impl<'de> Deserialize<'de> for SecurityOption {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.replace('=', ":").as_str() {
            "no-new-privileges" | "no-new-privileges:true" => Ok(Self::NoNewPrivileges(true)),
            "no-new-privileges:false" => Ok(Self::NoNewPrivileges(false)),
            other => Err(de::Error::custom(format!(
                "the security option `{other}` is not supported; `no-new-privileges:true` and `:false` are"
            ))),
        }
    }
}

/// One of `ulimits`: a number, or a mapping with `soft` and `hard`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UlimitKey(pub crate::docker::Ulimit);

impl<'de> Deserialize<'de> for UlimitKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use crate::docker::Ulimit;
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            soft: i64,
            hard: i64,
        }
        struct Limit;
        impl<'de> Visitor<'de> for Limit {
            type Value = UlimitKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a mapping with `soft` and `hard`")
            }

            fn visit_i64<E: de::Error>(self, limit: i64) -> Result<UlimitKey, E> {
                Ok(UlimitKey(Ulimit { soft: limit, hard: limit }))
            }

            fn visit_u64<E: de::Error>(self, limit: u64) -> Result<UlimitKey, E> {
                self.visit_i64(i64::try_from(limit).map_err(|_| E::custom("the limit is too large"))?)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<UlimitKey, A::Error> {
                let long = Long::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(UlimitKey(Ulimit { soft: long.soft, hard: long.hard }))
            }
        }
        deserializer.deserialize_any(Limit)
    }
}
