use super::Duration;
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use std::fmt;

/// `healthcheck` of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthcheckKeys {
    /// What is run; the image's check where it is not said.
    pub test: Test,
    /// Between two checks.
    pub interval: Option<Duration>,
    /// What one may take.
    pub timeout: Option<Duration>,
    /// Failures in a row that make the container unhealthy.
    pub retries: Option<u32>,
    /// How long failures do not count after its start.
    pub start_period: Option<Duration>,
    /// Between two checks during that time.
    pub start_interval: Option<Duration>,
    /// Whether the image's check is switched off.
    pub disable: bool,
}

/// `CMD` with arguments, `CMD-SHELL` with a command, `NONE`, or nothing. A string is a command for the shell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Test(pub Vec<String>);

impl<'de> Deserialize<'de> for Test {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Command;
        impl<'de> Visitor<'de> for Command {
            type Value = Test;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a command, or a list that begins with CMD, CMD-SHELL or NONE")
            }

            fn visit_str<E: de::Error>(self, command: &str) -> Result<Test, E> {
                Ok(Test(vec!["CMD-SHELL".into(), command.into()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Test, A::Error> {
                let mut test = Vec::new();
                while let Some(word) = list.next_element::<String>()? {
                    test.push(word);
                }
                match (test.first().map(String::as_str), test.len()) {
                    (Some("NONE"), 1) | (Some("CMD-SHELL"), 2) | (Some("CMD"), 2..) => Ok(Test(test)),
                    (Some("CMD-SHELL"), _) => Err(de::Error::custom("CMD-SHELL takes one command")),
                    _ => Err(de::Error::custom("`test` begins with CMD and a program, CMD-SHELL, or NONE")),
                }
            }
        }
        deserializer.deserialize_any(Command)
    }
}
