//! Cards: `gpus`, and `deploy.resources.reservations.devices`, which say the same.

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use std::fmt;

/// `gpus`: `all`, or a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GpusKey(pub Vec<DeviceKeys>);

/// One request for cards.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceKeys {
    /// `nvidia`, if it is said.
    pub driver: Option<String>,
    /// How many.
    pub count: Option<Count>,
    /// Which, instead.
    pub device_ids: Option<Vec<String>>,
    /// What of the driver is used.
    pub capabilities: Option<Vec<String>>,
}

/// How many cards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// All that there are.
    All,
    /// So many.
    Of(u32),
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match (text.as_str(), text.parse()) {
            ("all" | "-1", _) => Ok(Self::All),
            (_, Ok(count @ 1..)) => Ok(Self::Of(count)),
            _ => Err(de::Error::custom(format!("{text:?} is not a number of cards; write 1, or all"))),
        }
    }
}

impl<'de> Deserialize<'de> for GpusKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Gpus;
        impl<'de> Visitor<'de> for Gpus {
            type Value = GpusKey;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`all`, or a list of requests for cards")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<GpusKey, E> {
                match text {
                    "all" => Ok(GpusKey(vec![DeviceKeys { count: Some(Count::All), ..DeviceKeys::default() }])),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<GpusKey, A::Error> {
                let mut all = Vec::new();
                while let Some(one) = list.next_element()? {
                    all.push(one);
                }
                Ok(GpusKey(all))
            }
        }
        deserializer.deserialize_any(Gpus)
    }
}
