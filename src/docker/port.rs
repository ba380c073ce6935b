use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// A TCP port of a container that the daemon forwards to. Written `ADDRESS:PORT->PORT`.
///
/// Docker itself publishes nothing: our networks are internal, and it publishes no ports from those.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Publish {
    /// Where the daemon listens.
    pub listen: SocketAddr,
    /// The container's port.
    pub port: u16,
}

impl Publish {
    /// The port of a container behind a port of this machine.
    pub fn new(host: IpAddr, host_port: u16, port: u16) -> Self {
        Self { listen: SocketAddr::new(host, host_port), port }
    }

    /// Those that a label holds. What is not understood was not written by us and is left out.
    pub(super) fn read_label(label: &str) -> Vec<Self> {
        label.split_ascii_whitespace().filter_map(|text| text.parse().ok()).collect()
    }

    /// The label that holds `all`.
    pub(super) fn label(all: &[Self]) -> String {
        all.iter().map(Self::to_string).collect::<Vec<_>>().join(" ")
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}->{}", self.listen, self.port)
    }
}

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not ADDRESS:PORT->PORT");
        let (listen, port) = text.split_once("->").ok_or_else(wrong)?;
        Ok(Self { listen: listen.parse().map_err(|_| wrong())?, port: port.parse().map_err(|_| wrong())? })
    }
}

impl From<Publish> for String {
    fn from(publish: Publish) -> Self {
        publish.to_string()
    }
}

impl TryFrom<String> for Publish {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_reads_as_it_was_written() {
        let all = vec![
            Publish::new([127, 0, 0, 1].into(), 8000, 80),
            Publish::new(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), 8001, 81),
        ];
        let label = Publish::label(&all);
        assert_eq!(label, "127.0.0.1:8000->80 [::]:8001->81");
        assert_eq!(Publish::read_label(&label), all);
        assert_eq!(Publish::read_label("8000->80 127.0.0.1:1->99999 ->"), []);
        assert_eq!(Publish::read_label(""), []);
    }
}
