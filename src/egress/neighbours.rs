//! The networks that this machine itself is on. In a house with IPv6 their addresses are of the outside's kind: the
//! printer's, and this machine's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses that share their first bits, and their cable with this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let Self { address: own, prefix } = *self;
        match (own, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (own.to_bits() ^ other.to_bits()).leading_zeros() >= prefix,
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits() ^ other.to_bits()).leading_zeros() >= prefix,
            _ => false,
        }
    }
}

/// The networks that this machine is on now; none where the system does not tell.
pub(super) fn networks() -> Vec<Network> {
    // What this thread sees, as it is this thread that dials.
    let read = |file: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
    v6(&read("if_inet6")).chain(v4(&read("route"))).collect()
}

/// Addresses of interfaces with their prefixes: `2a0e...0001 02 40 00 80 eth0`.
fn v6(told: &str) -> impl Iterator<Item = Network> {
    told.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = Ipv6Addr::from_bits(u128::from_str_radix(words.next()?, 16).ok()?);
        let prefix = u32::from_str_radix(words.nth(1)?, 16).ok()?;
        (prefix > 0).then_some(Network { address: address.into(), prefix })
    })
}

/// Routes that need no gateway: interface, destination, gateway, five numbers, mask; addresses as the processor has them.
fn v4(told: &str) -> impl Iterator<Item = Network> {
    told.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| u32::from_str_radix(words.get(at)?, 16).ok().map(u32::from_be);
        let (destination, gateway, mask) = (number(1)?, number(2)?, number(7)?);
        let network = Network { address: Ipv4Addr::from_bits(destination).into(), prefix: mask.count_ones() };
        // A default route without a gateway leads to all the world.
        (gateway == 0 && mask != 0).then_some(network)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_the_cable_is_known() {
        let addresses = "2a0e0005000000000000000000000002 02 40 00 80      lan\n\
                         00000000000000000000000000000001 01 80 10 80       lo\nnonsense\n";
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                      lan\t00000000\t014DA8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                      ppp\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n\
                      lan\t00452551\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let networks: Vec<Network> = v6(addresses).chain(v4(routes)).collect();
        let check = |address: &str, expected: bool| {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(networks.iter().any(|network| network.contains(address)), expected, "{address} {networks:?}");
        };
        check("2a0e:5::2", true);
        check("2a0e:5::ffff:1", true);
        check("2a0e:5:0:1::2", false);
        check("::1", true);
        check("::2", false);
        check("81.37.69.0", true);
        check("81.37.69.255", true);
        check("81.37.68.255", false);
        check("192.168.77.1", false);
        check("8.8.8.8", false);
    }
}
