//! Names: a server that knows some, and a resolver that asks another for all.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const A: u16 = 1;
const AAAA: u16 = 28;

/// The name and the kind that a query asks for, with its labels in lower case.
pub fn question(query: &[u8]) -> Option<(String, u16)> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    Some((labels.join("."), kind))
}

/// Names and their addresses.
pub type Zone = HashMap<&'static str, Vec<IpAddr>>;

/// Answers from a zone on this thread, until the process ends.
pub fn serve(socket: &UdpSocket, zone: &Zone) {
    let mut buffer = [0; 1500];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        if let Some(answer) = answer(&buffer[..length], zone) {
            let _ = socket.send_to(&answer, from);
        }
    }
}

fn answer(query: &[u8], zone: &Zone) -> Option<Vec<u8>> {
    let (name, kind) = question(query)?;
    let known = zone.get(&*name);
    let is_asked = |address: &&IpAddr| matches!((kind, address), (A, IpAddr::V4(_)) | (AAAA, IpAddr::V6(_)));
    let found: Vec<&IpAddr> = known.into_iter().flatten().filter(is_asked).collect();
    // The question goes from the header's end to its class.
    let end = 12 + query.get(12..)?.iter().position(|byte| *byte == 0)? + 5;
    let mut answer = query.get(..end)?.to_vec();
    // An answer with authority; or that there is no such name.
    answer[2..4].copy_from_slice(&[0x85, if known.is_some() { 0x80 } else { 0x83 }]);
    answer[6..12].copy_from_slice(&[0, u8::try_from(found.len()).ok()?, 0, 0, 0, 0]);
    for address in found {
        let bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        // The question's name, its kind, the internet, no time to live.
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, 0, 0, u8::try_from(bytes.len()).ok()?]);
        answer.extend(bytes);
    }
    Some(answer)
}

/// A resolver that keeps nothing: what it is asked, it asks.
#[derive(Clone, Default)]
pub struct Resolver(Arc<Mutex<Vec<String>>>);

impl Resolver {
    /// Passes queries on to `upstream` on this thread, until the process ends. An upstream that is not there is told.
    pub fn serve(&self, socket: &UdpSocket, upstream: SocketAddr) {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let query = &buffer[..length];
            self.0.lock().unwrap().extend(question(query).map(|(name, _)| name));
            let answer = ask(query, upstream).unwrap_or_else(|| {
                let mut failed = query.to_vec();
                failed[2..4].copy_from_slice(&[0x81, 0x82]);
                failed
            });
            let _ = socket.send_to(&answer, from);
        }
    }

    /// The names that it was asked for so far.
    pub fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

fn ask(query: &[u8], upstream: SocketAddr) -> Option<Vec<u8>> {
    // One socket a query: no answer reaches the wrong one.
    let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    socket.connect(upstream).ok()?;
    socket.send(query).ok()?;
    let mut buffer = [0; 1500];
    let length = socket.recv(&mut buffer).ok()?;
    Some(buffer[..length].to_vec())
}
