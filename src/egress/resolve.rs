//! The only resolver. A name's addresses are looked up once, all of them are judged, and what was judged is what is dialled.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Longer, and there is no uplink.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who knows the addresses of names.
#[derive(Debug, Clone, Default)]
pub enum Resolver {
    /// The system's.
    #[default]
    System,
    /// A table, for tests.
    Fixed(HashMap<String, Vec<IpAddr>>),
}

impl Resolver {
    /// The addresses of a host, which may be an address itself. Only what was admitted gets here: the question to a name
    /// server leaves the house as well.
    ///
    /// # Errors
    /// When it has none, or nobody knows.
    pub(super) async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let addresses: Vec<SocketAddr> = match self {
            Self::Fixed(table) => {
                let addresses = table.get(host).ok_or_else(none)?;
                addresses.iter().map(|address| SocketAddr::new(*address, port)).collect()
            }
            Self::System => {
                let lookup = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((host, port)));
                let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no name server answered for 10 s");
                lookup.await.map_err(late)??.collect()
            }
        };
        if addresses.is_empty() { Err(none()) } else { Ok(addresses) }
    }
}

/// Why an address is not one of the outside: what it is.
pub(super) fn not_outside(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => v4(address),
        IpAddr::V6(address) => v6(address),
    }
}

fn v4(address: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, _] = address.octets();
    Some(match (a, b, c) {
        (0, ..) => "an address of \"this network\"",
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => "a private address",
        (127, ..) => "an address of this machine",
        (169, 254, _) => "a link-local address",
        (100, 64..=127, _) => "an address of a carrier's network (CGNAT)",
        (192, 0, 0) => "an address for protocols",
        (192, 0, 2) | (198, 51, 100) | (203, 0, 113) => "an address for documentation",
        (192, 88, 99) => "a 6to4 relay",
        (198, 18..=19, _) => "an address for benchmarks",
        (224..=239, ..) => "a multicast address",
        (240.., ..) => "a reserved or broadcast address",
        _ => return None,
    })
}

fn v6(address: Ipv6Addr) -> Option<&'static str> {
    let segments = address.segments();
    Some(match segments {
        [0, 0, 0, 0, 0, 0, 0, 0] => "the unspecified address",
        [0, 0, 0, 0, 0, 0, 0, 1] => "an address of this machine",
        [0, 0, 0, 0, 0, 0xffff, ..] => "an IPv4 address in IPv6's clothes",
        [0, 0, 0, 0, 0, 0, ..] => "an IPv4-compatible address",
        [0x64, 0xff9b, ..] => "a NAT64 address",
        [0x100, 0, 0, 0, ..] => "a discarded address",
        [0x2001, 0, ..] => "a Teredo address",
        [0x2001, 0x2, 0, ..] => "an address for benchmarks",
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => "an address for documentation",
        [0x2002, ..] => "a 6to4 address",
        [0xfc00..=0xfdff, ..] => "a private address",
        [0xfe80..=0xfebf, ..] => "a link-local address",
        [0xfec0..=0xfeff, ..] => "a site-local address",
        [0xff00..=0xffff, ..] => "a multicast address",
        // Only 2000::/3 is given out.
        [first, ..] if first & 0xe000 != 0x2000 => "an address that was given to nobody",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_of_the_house_are_known() {
        let check = |addresses: &[&str], outside: bool| {
            for address in addresses {
                assert_eq!(not_outside(address.parse().unwrap()).is_none(), outside, "{address}");
            }
        };
        check(&["1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255"], true);
        check(
            &["169.253.0.1", "172.15.0.1", "172.32.0.1", "192.0.1.1", "192.167.0.1", "198.17.0.1", "223.255.255.255"],
            true,
        );
        check(&["2606:4700::1111", "2a00:1450::1", "2001:4860:4860::8888", "3ffe::1"], true);
        check(
            &[
                "0.0.0.0",
                "0.1.2.3",
                "10.1.2.3",
                "127.0.0.1",
                "127.255.0.1",
                "169.254.169.254",
                "172.16.0.1",
                "172.31.255.255",
            ],
            false,
        );
        check(
            &["192.168.0.1", "100.64.0.1", "100.127.255.255", "192.0.0.8", "192.0.2.1", "198.51.100.7", "203.0.113.9"],
            false,
        );
        check(
            &["192.88.99.1", "198.18.0.1", "198.19.255.255", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"],
            false,
        );
        check(
            &["::", "::1", "::ffff:1.1.1.1", "::1.1.1.1", "64:ff9b::101:101", "64:ff9b:1::1", "100::1", "2001::1"],
            false,
        );
        check(
            &["2001:2::1", "2001:db8::1", "3fff::1", "2002:101:101::1", "fc00::1", "fdff::1", "fe80::1", "fec0::1"],
            false,
        );
        check(&["ff02::1", "4000::1", "8000::1", "1000::1"], false);
    }

    proptest! {
        /// No form in which an address of the house could be written into an IPv6 address gets past.
        #[test]
        fn embedded_addresses_are_refused(octets: [u8; 4], prefix in prop::sample::select(vec![
            [0, 0, 0, 0, 0, 0xffff], [0, 0, 0, 0, 0, 0], [0x64, 0xff9b, 0, 0, 0, 0], [0x64, 0xff9b, 1, 0, 0, 0],
        ])) {
            let [a, b, c, d] = octets;
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            let [p, q, r, s, t, u] = prefix;
            let in_the_end = IpAddr::V6(Ipv6Addr::new(p, q, r, s, t, u, high, low));
            let six_to_four = IpAddr::V6(Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1));
            prop_assert!(not_outside(in_the_end).is_some() && not_outside(six_to_four).is_some());
        }
    }
}
