use super::Seconds;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What may leave the house.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Egress {
    /// Model files that the owner asks for.
    pub model_downloads: Gate,
    /// Images of containers, which the Docker engine fetches when we ask it to.
    pub image_pulls: Gate,
    /// Whether there is a newer version.
    pub update_checks: Gate,
    /// Renting and returning machines.
    pub cloud_control: Gate,
    /// What is sent to rented machines.
    pub cloud_data: Gate,
    /// Pages that somebody asks for.
    pub url_fetches: Gate,
    /// Connections of containers.
    pub stacks: Gate,
    /// How long a question waits for its answer.
    pub question_timeout: Seconds,
    /// Hosts of the house that may be reached like hosts outside, such as a mirror: names or addresses.
    pub lan: Vec<String>,
}

impl Default for Egress {
    fn default() -> Self {
        Self {
            // The owner's own actions: what they would send is asked where they are done.
            model_downloads: Gate::of(Mode::Ask),
            image_pulls: Gate::of(Mode::Ask),
            update_checks: Gate::default(),
            cloud_control: Gate::default(),
            cloud_data: Gate::default(),
            url_fetches: Gate::default(),
            stacks: Gate::default(),
            question_timeout: Seconds(300),
            lan: Vec::new(),
        }
    }
}

/// Whether a class of connections may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Never.
    #[default]
    Off,
    /// When the owner says so.
    Ask,
    /// Without asking.
    On,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Ask => "ask",
            Self::On => "on",
        })
    }
}

/// A class's mode and, where they are listed, the only hosts that it may reach. Written `ask`, or
/// `{mode: ask, hosts: [huggingface.co, "*.hf.co"]}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Gate {
    /// Whether it may be passed.
    pub mode: Mode,
    /// Hosts, `*.` before a domain standing for every host below it. None listed: any host.
    pub hosts: Vec<String>,
}

impl Gate {
    /// A gate for any host.
    pub const fn of(mode: Mode) -> Self {
        Self { mode, hosts: Vec::new() }
    }
}

impl<'de> Deserialize<'de> for Gate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Gate;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("off, ask, on, or {mode: ask, hosts: [...]}")
            }
            // YAML reads `on` and `off` as truth values.
            fn visit_bool<E: de::Error>(self, on: bool) -> Result<Gate, E> {
                Ok(Gate::of(if on { Mode::On } else { Mode::Off }))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Gate, E> {
                match text {
                    "off" => Ok(Gate::of(Mode::Off)),
                    "ask" => Ok(Gate::of(Mode::Ask)),
                    "on" => Ok(Gate::of(Mode::On)),
                    _ => Err(E::custom(format!("{text:?} is not off, ask or on"))),
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Gate, A::Error> {
                let (mut mode, mut hosts) = (None, Vec::new());
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "mode" => mode = Some(map.next_value::<Gate>()?.mode),
                        "hosts" => hosts = map.next_value()?,
                        other => return Err(de::Error::unknown_field(other, &["mode", "hosts"])),
                    }
                }
                Ok(Gate { mode: mode.ok_or_else(|| de::Error::missing_field("mode"))?, hosts })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_words_or_lists() {
        let check = |text: &str, expected: Option<Gate>| {
            assert_eq!(serde_yaml::from_str::<Gate>(text).ok(), expected, "{text}");
        };
        check("off", Some(Gate::of(Mode::Off)));
        check("ask", Some(Gate::of(Mode::Ask)));
        check("on", Some(Gate::of(Mode::On)));
        check("\"on\"", Some(Gate::of(Mode::On)));
        let hosts = vec!["a.example".into(), "*.b.example".into()];
        check("{mode: on, hosts: [a.example, \"*.b.example\"]}", Some(Gate { mode: Mode::On, hosts }));
        check("{hosts: [a]}", None);
        check("{mode: on, host: [a]}", None);
        check("maybe", None);
        check("1", None);
    }
}
