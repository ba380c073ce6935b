//! Whether what left the house is in its ledger: every packet belongs to a row, by address, port, name and time.

use super::capture::{Packet, TCP};
use super::dns::Zone;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::net::IpAddr;

/// The last packets of a connection that was closed, and a lookup's answer, come a moment later.
const AFTERWARDS: SignedDuration = SignedDuration::from_secs(3);
/// How long a lookup may take.
const LOOKUP: SignedDuration = SignedDuration::from_secs(11);

/// What the ledger says of one thing that left.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    host: String,
    /// None for a lookup.
    port: Option<u16>,
    /// None where somebody else dialled.
    address: Option<IpAddr>,
    from: Timestamp,
    until: Timestamp,
}

/// How much was there, and what nobody accounts for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub packets: usize,
    /// Rows that say that something left.
    pub rows: usize,
    pub strays: Vec<Packet>,
}

/// Compares packets that passed the router with the ledger as it is exported, a JSON object a line. `router` are the
/// addresses that the house has outside.
pub fn account(packets: &[Packet], exported: &str, zone: &Zone, router: &[IpAddr]) -> Account {
    let rows = rows(exported);
    let belongs = |packet: &&Packet| {
        let theirs = if router.contains(&packet.from) { packet.to } else { packet.from };
        let (from, to) = packet.ports.unwrap_or_default();
        let port = if router.contains(&packet.from) { to } else { from };
        rows.iter().any(|row| {
            let in_time = row.from <= packet.at && packet.at <= row.until;
            let named = zone.get(&*row.host).is_some_and(|addresses| addresses.contains(&theirs));
            in_time
                && match &packet.name {
                    // Whoever dials a name looks it up.
                    Some(name) => *name == row.host && (row.port.is_none() || row.address.is_none()),
                    None => {
                        packet.protocol == TCP
                            && row.port == Some(port)
                            && row.address.map_or(named, |address| address == theirs)
                    }
                }
        })
    };
    let strays = packets.iter().filter(|packet| !belongs(packet)).cloned().collect();
    Account { packets: packets.len(), rows: rows.len(), strays }
}

fn rows(exported: &str) -> Vec<Row> {
    let entries: Vec<Value> = exported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let at = |entry: &Value| Timestamp::from_millisecond(entry["entry"]["at"].as_i64().unwrap()).unwrap();
    let row = |one: &Value| {
        let entry = &one["entry"];
        let (host, from) = (entry["host"].as_str().unwrap_or_default().to_owned(), at(one));
        match entry["kind"].as_str() {
            Some("looked_up") => Some(Row { host, port: None, address: None, from, until: from + LOOKUP }),
            Some("opened") => {
                let closes =
                    |other: &&Value| other["entry"]["kind"] == "closed" && other["entry"]["opened"] == one["seq"];
                let closed = entries.iter().find(closes).map(at);
                Some(Row {
                    host,
                    port: entry["port"].as_u64().map(|port| port as u16),
                    address: entry["address"].as_str().map(|address| address.parse().unwrap()),
                    from,
                    until: closed.map_or(Timestamp::MAX, |closed| closed + AFTERWARDS),
                })
            }
            _ => None,
        }
    };
    entries.iter().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::super::capture::UDP;
    use super::*;
    use std::collections::HashMap;

    const EXPORTED: &str = r#"{"seq":1,"hash":"","entry":{"at":1000,"kind":"looked_up","host":"a.test","port":443}}
{"seq":2,"hash":"","entry":{"at":2000,"kind":"opened","host":"a.test","port":443,"address":"1.2.3.4"}}
{"seq":3,"hash":"","entry":{"at":2500,"kind":"refused","host":"b.test","port":443}}
{"seq":4,"hash":"","entry":{"at":3000,"kind":"closed","opened":2}}
{"seq":5,"hash":"","entry":{"at":9000,"kind":"opened","host":"r.test","port":80,"address":null}}"#;

    #[test]
    fn a_packet_belongs_to_a_row_or_is_a_stray() {
        let router: IpAddr = "81.2.69.1".parse().unwrap();
        let zone = HashMap::from([("r.test", vec!["5.6.7.8".parse().unwrap()])]);
        let packet = |at: i64, to: &str, protocol, port, name: Option<&str>| Packet {
            at: Timestamp::from_millisecond(at).unwrap(),
            from: router,
            to: to.parse().unwrap(),
            protocol,
            ports: Some((40000, port)),
            is_opening: false,
            name: name.map(str::to_owned),
            payload: Vec::new(),
        };
        let check = |packet: Packet, stray: bool| {
            let back =
                Packet { from: packet.to, to: packet.from, ports: packet.ports.map(|(a, b)| (b, a)), ..packet.clone() };
            for packet in [packet, back] {
                let account = account(std::slice::from_ref(&packet), EXPORTED, &zone, &[router]);
                assert_eq!(
                    (account.packets, account.rows, account.strays.len()),
                    (1, 3, usize::from(stray)),
                    "{packet:?}"
                );
            }
        };
        check(packet(2000, "1.2.3.4", TCP, 443, None), false);
        check(packet(5999, "1.2.3.4", TCP, 443, None), false);
        check(packet(1999, "1.2.3.4", TCP, 443, None), true);
        check(packet(6001, "1.2.3.4", TCP, 443, None), true);
        check(packet(2000, "1.2.3.4", TCP, 80, None), true);
        check(packet(2000, "1.2.3.5", TCP, 443, None), true);
        check(packet(2000, "1.2.3.4", UDP, 443, None), true);
        check(packet(1000, "8.8.8.8", UDP, 53, Some("a.test")), false);
        check(packet(999, "8.8.8.8", UDP, 53, Some("a.test")), true);
        check(packet(2500, "8.8.8.8", UDP, 53, Some("b.test")), true);
        check(packet(2500, "8.8.8.8", UDP, 53, Some("x.a.test")), true);
        // What Docker dials for us is known by its name.
        check(packet(9000, "5.6.7.8", TCP, 80, None), false);
        check(packet(9000, "5.6.7.9", TCP, 80, None), true);
        check(packet(9000, "8.8.8.8", UDP, 53, Some("r.test")), false);
    }
}
