//! The way out of a container whose stack has one: a proxy on this machine's address in the container's network.

use super::{Docker, Error};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Where a container's proxy listens.
pub const PROXY: &str = "sovereign.proxy";
/// What a container may ask its proxy for, separated by spaces.
pub const EGRESS: &str = "sovereign.egress";

/// The proxies' port, next to the daemon's own.
const PORT: u16 = 8809;

/// What a container may ask its proxy for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Exit {
    /// Hosts and ports, as the stack's file has them.
    pub allowed: Vec<String>,
    /// Names within the stack, which are reached without a proxy.
    pub direct: Vec<String>,
}

/// A network as a proxy of this machine sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Side {
    gateway: IpAddr,
    subnet: String,
}

impl Side {
    /// Where the proxy listens: on that network's side alone.
    pub(super) fn proxy(&self) -> SocketAddr {
        SocketAddr::new(self.gateway, PORT)
    }

    /// Tells programs of the proxy, in the way that most understand. What the file says itself stays.
    pub(super) fn tell(&self, exit: &Exit, environment: &mut BTreeMap<String, String>) {
        let proxy = format!("http://{}", self.proxy());
        let here = ["localhost", "127.0.0.1", "::1", &self.subnet];
        let direct: Vec<&str> = here.into_iter().chain(exit.direct.iter().map(String::as_str)).collect();
        for (name, value) in [("HTTP_PROXY", &proxy), ("HTTPS_PROXY", &proxy), ("NO_PROXY", &direct.join(","))] {
            // Some programs read one spelling, some the other.
            let spellings = [name.to_owned(), name.to_ascii_lowercase()];
            if !spellings.iter().any(|name| environment.contains_key(name)) {
                environment.extend(spellings.map(|name| (name, value.clone())));
            }
        }
    }
}

impl Docker {
    /// This machine's side of a network.
    pub(super) async fn side(&self, network: &str) -> Result<Side, Error> {
        let what = format!("tell this machine's address on the network {network}");
        let told = self.client()?.inspect_network(network, None).await.map_err(Error::of(&*what))?;
        let configs = told.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
        let side = configs.into_iter().find_map(|config| {
            // An engine of some version writes the mask behind it.
            let gateway = config.gateway?.split('/').next()?.parse().ok()?;
            Some(Side { gateway, subnet: config.subnet? })
        });
        side.ok_or_else(|| Error::Refused { what, said: "the network has none".into(), status: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_unless_the_file_does() {
        let side = Side { gateway: "10.1.0.1".parse().unwrap(), subnet: "10.1.0.0/16".into() };
        let exit = Exit { allowed: vec!["a.example".into()], direct: vec!["db".into(), "web".into()] };
        let told = |own: &[(&str, &str)]| {
            let mut environment = own.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            side.tell(&exit, &mut environment);
            environment
        };
        let environment = told(&[("A", "1")]);
        assert_eq!(environment.len(), 7);
        assert_eq!(
            (&*environment["HTTP_PROXY"], &*environment["https_proxy"]),
            ("http://10.1.0.1:8809", "http://10.1.0.1:8809")
        );
        assert_eq!(environment["no_proxy"], "localhost,127.0.0.1,::1,10.1.0.0/16,db,web");
        let environment = told(&[("http_proxy", "http://other"), ("NO_PROXY", "*")]);
        assert_eq!(environment.len(), 4);
        assert_eq!((&*environment["http_proxy"], &*environment["NO_PROXY"]), ("http://other", "*"));
    }
}
