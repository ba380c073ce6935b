use crate::egress::Pattern;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The ports of the web, which are meant where none is said.
const WEB: [u16; 2] = [80, 443];

/// Where a stack may connect to, if the owner's policy lets it: a host, or with `*.` before it every host below a
/// domain; and a port, or those of the web.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Allowed {
    host: Pattern,
    port: Option<u16>,
}

impl Allowed {
    /// Whether it means this host, in its normal spelling, and port.
    pub fn covers(&self, host: &str, port: u16) -> bool {
        self.host.matches(host) && self.port.map_or(WEB.contains(&port), |own| own == port)
    }
}

impl FromStr for Allowed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let whole = |host: &str| host.parse::<IpAddr>().is_ok() || host.ends_with(']');
        let (host, port) = match text.rsplit_once(':').filter(|_| !whole(text)) {
            Some((host, port)) => {
                let number = port.parse().ok().filter(|port| *port > 0);
                (host, Some(number.ok_or_else(|| format!("{text:?}: {port:?} is not a port"))?))
            }
            None => (text, None),
        };
        if host == "*" {
            return Err("`*` would be every host there is; list those that the stack needs".into());
        }
        Ok(Self { host: host.parse()?, port })
    }
}

impl TryFrom<String> for Allowed {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Allowed> for String {
    fn from(allowed: Allowed) -> Self {
        allowed.to_string()
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host.to_string();
        match self.port {
            Some(port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Some(port) => write!(f, "{host}:{port}"),
            None => f.write_str(&host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_means_hosts_and_ports() {
        let check = |allowed: &str, host: &str, port, expected| {
            let allowed: Allowed = allowed.parse().unwrap();
            assert_eq!(allowed.covers(host, port), expected, "{allowed}: {host}:{port}");
        };
        check("a.example", "a.example", 443, true);
        check("A.example.", "a.example", 80, true);
        check("a.example", "a.example", 22, false);
        check("a.example", "b.a.example", 443, false);
        check("a.example:22", "a.example", 22, true);
        check("a.example:22", "a.example", 443, false);
        check("*.a.example", "b.a.example", 443, true);
        check("*.a.example", "c.b.a.example", 443, true);
        check("*.a.example", "a.example", 443, false);
        check("*.a.example", "bada.example", 443, false);
        check("*.a.example:8443", "b.a.example", 8443, true);
        check("1.2.3.4:53", "1.2.3.4", 53, true);
        check("2a0e::1", "2a0e::1", 443, true);
        check("[2a0e::1]", "2a0e::1", 443, true);
        check("[2a0e::1]:53", "2a0e::1", 53, true);
    }

    #[test]
    fn lists_read_as_they_are_written() {
        for text in ["a.example", "a.example:22", "*.a.example:1", "1.2.3.4", "2a0e::1", "[2a0e::1]:53"] {
            assert_eq!(text.parse::<Allowed>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "*",
            "*:443",
            "a.example:",
            "a.example:0",
            "a.example:70000",
            "https://a.example",
            "a b",
            "a/b",
            "*.*.a",
        ] {
            assert!(text.parse::<Allowed>().is_err(), "{text}");
        }
    }
}
