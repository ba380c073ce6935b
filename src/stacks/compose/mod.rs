//! Compose files: the part of the Compose specification that stacks use, typed.
//!
//! What is not supported is refused with its key and line, never ignored: a file that says `privileged: true` or
//! `read_only: true` must not run as something else than it says. Only top-level `x-` keys are passed over, as the
//! specification asks; anchors live there. Ours is `x-sovereign`.

mod deploy;
mod error;
mod files;
mod gpus;
mod health;
mod host;
mod limits;
mod load;
mod merge;
mod ports;
mod relations;
mod scalars;
mod service;
mod shared;
mod volumes;

pub use deploy::{Cpus, Deploy, RestartPolicy};
pub use error::Error;
pub use files::{EnvFiles, Text, TextUse, variables};
pub use gpus::{Count, DeviceKeys, GpusKey};
pub use health::HealthcheckKeys;
pub use host::{DevicePathKey, IpcKey, NetworkModeKey, Permit, RuntimeKey};
pub use limits::{SecurityOption, Swap, UlimitKey};
pub use load::{Model, Origin, Written, load, read_text};
pub use ports::PortKey;
pub use relations::{Condition, DependsOn, Extends, Link};
pub use scalars::{Argv, Duration, Names, OneOrMany, Pairs, Size};
pub use service::{NetworkKeys, RestartKey, Service, ServiceNetworks};
pub use shared::{Include, Network, SubnetKeys, Volume};
pub use volumes::{VolumeKey, VolumeSource};

use super::allowed::Allowed;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_yaml::Spanned;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

/// A compose file, as it is written.
#[derive(Debug, Clone, Default)]
pub struct Compose {
    /// What the stack is called, over the file's name.
    pub name: Option<Spanned<String>>,
    /// Other files, whose services are its own.
    pub include: Vec<Spanned<Include>>,
    /// The services, by name.
    pub services: BTreeMap<String, Spanned<Service>>,
    /// The volumes that services share and that outlive them.
    pub volumes: BTreeMap<String, Volume>,
    /// The networks. All of them are internal, whether or not they say so.
    pub networks: BTreeMap<String, Network>,
    /// Texts that services read as files.
    pub secrets: BTreeMap<String, Text>,
    /// The same, less secret.
    pub configs: BTreeMap<String, Text>,
    /// What is ours.
    pub sovereign: Sovereign,
}

/// `x-sovereign`: what a stack says of itself to the dashboard, and what it needs of the outside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sovereign {
    /// Its name for people.
    pub title: Option<String>,
    /// What it is good for, in a sentence or two.
    pub description: Option<String>,
    /// Where its own page is: a port of this machine, as `:3000` or `:3000/path`, or a whole address.
    #[serde(deserialize_with = "page")]
    pub web: Option<String>,
    /// Where its containers may connect to, if the owner's policy lets them; nowhere else, and nowhere without it.
    pub egress: Vec<Allowed>,
}

fn page<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let web = String::deserialize(deserializer)?;
    let port = web.strip_prefix(':').map(|rest| rest.split('/').next().unwrap_or_default());
    match port.map_or(web.starts_with("http://") || web.starts_with("https://"), |port| port.parse::<u16>().is_ok()) {
        true => Ok(Some(web)),
        false => {
            Err(de::Error::custom(format!("{web:?} is not a page; write a port as in \":3000/path\", or an address")))
        }
    }
}

const KEYS: &[&str] = &["name", "include", "services", "volumes", "networks", "secrets", "configs", "x-sovereign"];

impl<'de> Deserialize<'de> for Compose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct File;
        impl<'de> Visitor<'de> for File {
            type Value = Compose;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a compose file: a mapping with `services`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Compose, A::Error> {
                let mut compose = Compose::default();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "name" => compose.name = Some(map.next_value()?),
                        "services" => compose.services = map.next_value()?,
                        "volumes" => compose.volumes = without_nulls(map.next_value()?),
                        "networks" => compose.networks = without_nulls(map.next_value()?),
                        "include" => compose.include = map.next_value()?,
                        "secrets" => compose.secrets = map.next_value::<Option<_>>()?.unwrap_or_default(),
                        "configs" => compose.configs = map.next_value::<Option<_>>()?.unwrap_or_default(),
                        "x-sovereign" => compose.sovereign = map.next_value()?,
                        // Once it was demanded; now it says nothing.
                        "version" => drop(map.next_value::<IgnoredAny>()?),
                        other if other.starts_with("x-") => drop(map.next_value::<IgnoredAny>()?),
                        other => return Err(de::Error::unknown_field(other, KEYS)),
                    }
                }
                if compose.services.is_empty() && compose.include.is_empty() {
                    return Err(de::Error::custom("the file has no services"));
                }
                Ok(compose)
            }
        }
        deserializer.deserialize_map(File)
    }
}

/// `data:` alone declares a volume or a network without further words.
fn without_nulls<T: Default>(all: Option<BTreeMap<String, Option<T>>>) -> BTreeMap<String, T> {
    all.unwrap_or_default().into_iter().map(|(name, value)| (name, value.unwrap_or_default())).collect()
}

/// Reads the text of `file`, which is only named in errors. `${NAME}` and its kin are replaced by `variables`.
///
/// # Errors
/// The first thing that is not understood or not supported, with its line.
pub fn parse(text: &str, file: &Path, variables: HashMap<String, String>) -> Result<Compose, Error> {
    let options = serde_yaml::options! {
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        property_syntax: serde_yaml::PropertySyntax::DockerCompose,
    };
    serde_yaml::from_str_with_options(text, options.with_properties(variables))
        .map_err(|error| Error::yaml(file, &error))
}

#[cfg(test)]
mod tests;
