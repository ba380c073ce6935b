//! What a service has to do with others: it waits for them, or is like them.

use super::Names;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use std::fmt;

/// What a service waits for.
pub type DependsOn = Names<Dependency>;

/// How long a service waits for another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dependency {
    /// Until when.
    pub condition: Condition,
    /// It may be missing.
    pub required: Option<bool>,
    /// What becomes of the one that waits when the other is started anew: it stays.
    #[serde(deserialize_with = "no_restart")]
    pub restart: (),
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

/// One of `links`: another service, which is reached by its name as all are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link(pub String);

impl<'de> Deserialize<'de> for Link {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.split_once(':') {
            None => Ok(Self(text)),
            Some((service, alias)) if service == alias => Ok(Self(service.into())),
            Some((service, alias)) => Err(de::Error::custom(format!(
                "a link under another name is not supported; give {service} the name {alias} among its `networks` as one of `aliases`"
            ))),
        }
    }
}

/// `extends`: a service of this file, or of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extends {
    /// The service.
    pub service: String,
    /// The file, relative to this one.
    pub file: Option<String>,
}

impl<'de> Deserialize<'de> for Extends {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            service: String,
            file: Option<String>,
        }
        struct Like;
        impl<'de> Visitor<'de> for Like {
            type Value = Extends;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a service, or a mapping with `service` and `file`")
            }
            fn visit_str<E: de::Error>(self, service: &str) -> Result<Extends, E> {
                Ok(Extends { service: service.into(), file: None })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Extends, A::Error> {
                let Long { service, file } = Long::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Extends { service, file })
            }
        }
        deserializer.deserialize_any(Like)
    }
}

fn no_restart<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    match bool::deserialize(deserializer)? {
        false => Ok(()),
        true => Err(de::Error::custom(
            "`restart: true` is not supported: a service that waits is not started anew with the other",
        )),
    }
}
