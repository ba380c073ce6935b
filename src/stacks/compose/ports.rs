use crate::docker::Publish;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

/// One of a service's `ports`: `[ADDRESS:]HOST:CONTAINER[/tcp]`, or the same as a mapping. Ranges give several.
///
/// Without an address it is served on all of this machine's, as the specification says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortKey(pub Vec<Publish>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Long {
    /// What it is called, for people.
    #[serde(default)]
    name: Option<IgnoredAny>,
    target: u16,
    published: Option<String>,
    host_ip: Option<String>,
    protocol: Option<String>,
    /// The protocol above, for people.
    #[serde(default)]
    app_protocol: Option<IgnoredAny>,
    /// Of many machines; this is one.
    #[serde(default)]
    mode: Option<Mode>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Host,
    Ingress,
}

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

impl<'de> Deserialize<'de> for PortKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Port;
        impl<'de> Visitor<'de> for Port {
            type Value = PortKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port as in \"127.0.0.1:8000:8000\" or \"8000:8000\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<PortKey, E> {
                short(text).map(PortKey).map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, port: u64) -> Result<PortKey, E> {
                short(&port.to_string()).map(PortKey).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PortKey, A::Error> {
                let long = Long::deserialize(MapAccessDeserializer::new(map))?;
                let _ = (long.name, long.app_protocol, long.mode);
                let published = long.published.ok_or_else(|| de::Error::custom(UNNAMED))?;
                let text = match long.host_ip {
                    Some(address) if address.contains(':') => format!("[{address}]:{published}:{}", long.target),
                    Some(address) => format!("{address}:{published}:{}", long.target),
                    None => format!("{published}:{}", long.target),
                };
                let text = long.protocol.map_or(text.clone(), |protocol| format!("{text}/{protocol}"));
                short(&text).map(PortKey).map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(Port)
    }
}

/// Ports of one range: each has a listener of its own.
const MOST: u16 = 100;
const UNNAMED: &str = "a port of this machine must be named, as in \"8000:8000\"; Docker's choice is not supported";

fn short(text: &str) -> Result<Vec<Publish>, String> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if protocol != "tcp" {
        return Err(format!("{text:?}: only tcp ports can be forwarded, not {protocol}"));
    }
    let (rest, container) = ports.rsplit_once(':').ok_or(UNNAMED)?;
    let (address, host) = match rest.rsplit_once(':') {
        None => (ANY, rest),
        Some((address, host)) => {
            let bare = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
            (bare.parse().map_err(|_| format!("{text:?}: {address:?} is not an address"))?, host)
        }
    };
    if host.is_empty() {
        return Err(UNNAMED.into());
    }
    let (hosts, containers) = (range(text, host)?, range(text, container)?);
    if hosts.len() != containers.len() {
        return Err(format!("{text:?}: the two ranges of ports are not equally long"));
    }
    Ok(hosts.zip(containers).map(|(host, container)| Publish::new(address, host, container)).collect())
}

fn range(text: &str, ports: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last) = (number(text, first)?, number(text, last)?);
    if last < first || last - first >= MOST {
        return Err(format!("{text:?}: {ports:?} is not a range of 1 to {MOST} ports"));
    }
    Ok(first..=last)
}

fn number(text: &str, port: &str) -> Result<u16, String> {
    match port.parse() {
        Ok(0) | Err(_) => Err(format!("{text:?}: {port:?} is not a port between 1 and 65535")),
        Ok(port) => Ok(port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_short() {
        let check = |text, expected: &str| {
            let read: Vec<String> = short(text).unwrap().iter().map(Publish::to_string).collect();
            assert_eq!(read.join(" "), expected);
        };
        check("8000:80", "0.0.0.0:8000->80");
        check("127.0.0.1:8000:80/tcp", "127.0.0.1:8000->80");
        check("[::1]:8000:80", "[::1]:8000->80");
        check("::1:8000:80", "[::1]:8000->80");
        check("3000-3001:80-81", "0.0.0.0:3000->80 0.0.0.0:3001->81");
        for (wrong, why) in [
            ("80", "must be named"),
            (":80", "must be named"),
            ("127.0.0.1::80", "must be named"),
            ("53:53/udp", "only tcp"),
            ("3000-3005:3000-3004", "equally long"),
            ("3005-3000:3005-3000", "not a range"),
            ("1-101:1-101", "not a range"),
            ("0:80", "between 1 and 65535"),
            ("65536:80", "between 1 and 65535"),
            ("localhost:80:80", "not an address"),
        ] {
            let error = short(wrong).unwrap_err();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }
}
