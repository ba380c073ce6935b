use serde::Deserialize;
use std::net::{Ipv4Addr, SocketAddr};

/// What the daemon listens on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// The address of the dashboard and of every API.
    pub listen: SocketAddr,
    /// Host names besides addresses, `localhost` and this machine's own name under which browsers may reach us. A page
    /// that a stranger's DNS name points here is refused (DNS rebinding).
    pub hosts: Vec<String>,
}

impl Default for Server {
    fn default() -> Self {
        Self { listen: (Ipv4Addr::UNSPECIFIED, 8808).into(), hosts: Vec::new() }
    }
}
