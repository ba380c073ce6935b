//! Limits, and what a container is kept from.

use super::Size;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use std::fmt;

/// Bytes of memory and swap; -1 for any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swap(pub i64);

impl<'de> Deserialize<'de> for Swap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "-1" {
            return Ok(Self(-1));
        }
        let Size(bytes) = Size::deserialize(de::value::StringDeserializer::new(text))?;
        Ok(Self(i64::try_from(bytes).unwrap_or(i64::MAX)))
    }
}

/// One of `security_opt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecurityOption {
    /// Whether set-uid programs gain nothing.
    NoNewPrivileges(bool),
    /// What takes away a protection that Docker has by itself.
    Unconfined(String),
}

impl<'de> Deserialize<'de> for SecurityOption {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?.replacen('=', ":", 1);
        match text.as_str() {
            "no-new-privileges" | "no-new-privileges:true" => Ok(Self::NoNewPrivileges(true)),
            "no-new-privileges:false" => Ok(Self::NoNewPrivileges(false)),
            "seccomp:unconfined" | "apparmor:unconfined" | "label:disable" => Ok(Self::Unconfined(text)),
            other => Err(de::Error::custom(format!(
                "the security option `{other}` is not supported; `no-new-privileges:true` and `:false`, `seccomp:unconfined`, \
                 `apparmor:unconfined` and `label:disable` are"
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
