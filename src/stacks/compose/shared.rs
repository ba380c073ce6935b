//! What services share: volumes and networks; and other files.

use super::Pairs;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use std::fmt;
use std::path::PathBuf;

/// A volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Volume {
    /// How Docker knows it, if not as one of this stack's.
    pub name: Option<String>,
    /// Whether it is there already, and not ours to make or to remove.
    pub external: bool,
    /// `local`.
    #[serde(deserialize_with = "local")]
    pub driver: (),
    /// What it is mounted with, as for a share of another machine.
    pub driver_opts: Pairs,
    /// Its labels.
    pub labels: Pairs,
}

/// A network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// Whether it has no way out. It never has: `false` is refused.
    #[serde(deserialize_with = "internal")]
    pub internal: (),
    /// `bridge`.
    #[serde(deserialize_with = "bridge")]
    pub driver: (),
    /// Whether other containers may join it: Docker lets them.
    pub attachable: bool,
    /// Its addresses.
    pub ipam: Ipam,
    /// Its labels.
    pub labels: Pairs,
    /// Networks belong to stacks.
    #[serde(deserialize_with = "external")]
    pub external: (),
    /// The same.
    #[serde(deserialize_with = "external")]
    pub name: (),
}

/// `ipam` of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ipam {
    /// `default`.
    pub driver: Option<Default_>,
    /// The addresses.
    pub config: Vec<SubnetKeys>,
}

/// `default`, which is the only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Default_ {
    /// Docker's own.
    Default,
}

/// One of `ipam.config`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubnetKeys {
    /// All addresses.
    pub subnet: String,
    /// This machine's.
    pub gateway: Option<String>,
    /// Those that are given out.
    pub ip_range: Option<String>,
}

/// One of `include`: a file, or a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Include {
    /// The file, relative to this one.
    pub path: PathBuf,
    /// What its own paths are relative to, if not its folder.
    pub project_directory: Option<PathBuf>,
    /// Its variables, if not those of the `.env` there.
    pub env_file: Option<PathBuf>,
}

impl<'de> Deserialize<'de> for Include {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            path: PathBuf,
            project_directory: Option<PathBuf>,
            env_file: Option<PathBuf>,
        }
        struct One;
        impl<'de> Visitor<'de> for One {
            type Value = Include;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a file, or a mapping with `path`")
            }
            fn visit_str<E: de::Error>(self, path: &str) -> Result<Include, E> {
                Ok(Include { path: path.into(), project_directory: None, env_file: None })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Include, A::Error> {
                let Long { path, project_directory, env_file } = Long::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Include { path, project_directory, env_file })
            }
        }
        deserializer.deserialize_any(One)
    }
}

fn internal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    if bool::deserialize(deserializer)? {
        Ok(())
    } else {
        Err(de::Error::custom("the networks of stacks are internal; `internal: false` cannot be had"))
    }
}

fn bridge<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "bridge" => Ok(()),
        other => Err(de::Error::custom(format!("the network driver `{other}` is not supported; `bridge` is"))),
    }
}

fn local<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "local" => Ok(()),
        other => Err(de::Error::custom(format!("the volume driver `{other}` is not supported; `local` is"))),
    }
}

fn external<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    de::IgnoredAny::deserialize(deserializer)?;
    Err(de::Error::custom(
        "a stack shares no network with another; what is to reach it from outside does so by its `ports`",
    ))
}
