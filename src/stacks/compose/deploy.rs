//! `deploy`, as far as it is not about many machines.

use super::{DeviceKeys, RestartKey, Size};
use crate::docker::Restart;
use serde::Deserialize;
use serde::de::{self, Deserializer};
use serde_yaml::Spanned;

/// `deploy`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Deploy {
    /// `replicated`.
    #[serde(deserialize_with = "replicated")]
    pub mode: (),
    /// One.
    #[serde(deserialize_with = "once")]
    pub replicas: (),
    /// What it may use.
    pub resources: Resources,
    /// When it is started again, in the words of swarm.
    pub restart_policy: Option<RestartPolicy>,
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

/// `deploy.resources.reservations`. On one machine, processor time cannot be reserved.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reservations {
    /// Memory that it keeps when memory is short.
    pub memory: Option<Size>,
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

/// `deploy.restart_policy`. The engine decides how long it waits between two starts, and forgets failures by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RestartPolicy {
    /// `none`, `on-failure` or `any`.
    pub condition: Option<String>,
    /// How often.
    pub max_attempts: Option<u32>,
}

impl RestartPolicy {
    /// The same in the words of `restart`.
    ///
    /// # Errors
    /// When the condition is none that there is.
    pub fn restart(&self) -> Result<RestartKey, String> {
        match (self.condition.as_deref(), self.max_attempts) {
            (Some("none"), _) => Ok(RestartKey(Restart::No)),
            (Some("on-failure"), tries) => Ok(RestartKey(Restart::OnFailure(tries))),
            (None | Some("any"), None) => Ok(RestartKey(Restart::Always)),
            (None | Some("any"), Some(_)) => {
                Err("`max_attempts` goes with `condition: on-failure`; Docker counts no others".into())
            }
            (Some(other), _) => Err(format!("`condition: {other}` is not one of none, on-failure, any")),
        }
    }
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

fn replicated<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "replicated" => Ok(()),
        other => Err(de::Error::custom(format!("`mode: {other}` is for many machines; `replicated` is supported"))),
    }
}

/// `replicas`, and `scale`.
pub(super) fn once<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    match u32::deserialize(deserializer)? {
        1 => Ok(()),
        _ => Err(de::Error::custom("a service has one container here; give the others services of their own")),
    }
}
