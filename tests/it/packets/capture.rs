//! What passes an interface, as the kernel shows it to a packet socket.

use super::dns::question;
use super::namespace::Namespace;
use jiff::Timestamp;
use std::ffi::CString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// A packet of the internet protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub at: Timestamp,
    pub from: IpAddr,
    pub to: IpAddr,
    pub protocol: u8,
    /// Of TCP and UDP, where it comes from and where it goes.
    pub ports: Option<(u16, u16)>,
    /// Whether it begins a TCP connection.
    pub is_opening: bool,
    /// The name that it asks for, or answers about.
    pub name: Option<String>,
    pub payload: Vec<u8>,
}

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// All that passed an interface since the capture began. It goes on until the process ends.
#[derive(Clone, Default)]
pub struct Capture(Arc<(Mutex<Vec<Packet>>, Condvar)>);

impl Capture {
    /// Begins to capture what passes an interface.
    pub fn start(namespace: &Namespace, interface: &str) -> Self {
        let socket = namespace.within(|| open(interface)).unwrap();
        let capture = Self::default();
        let kept = capture.clone();
        std::thread::spawn(move || {
            let mut frame = vec![0_u8; 1 << 16];
            loop {
                // SAFETY: the buffer is writable for its whole length.
                let length = unsafe { libc::recv(socket.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
                let Ok(length) = usize::try_from(length) else { continue };
                if let Some(packet) = read(&frame[..length]) {
                    let (packets, told) = &*kept.0;
                    packets.lock().unwrap().push(packet);
                    told.notify_all();
                }
            }
        });
        capture
    }

    /// All of them by now.
    pub fn all(&self) -> Vec<Packet> {
        self.0.0.lock().unwrap().clone()
    }

    /// How many there are by now.
    pub fn count(&self) -> usize {
        self.0.0.lock().unwrap().len()
    }

    /// Those from a number on, once one is among them that carries `mark`: all that passed before it is there too.
    pub fn until(&self, from: usize, mark: &[u8]) -> Vec<Packet> {
        let (packets, told) = &*self.0;
        let missing = |packets: &mut Vec<Packet>| !packets[from..].iter().any(|packet| packet.payload == mark);
        let waited = told.wait_timeout_while(packets.lock().unwrap(), Duration::from_secs(30), missing).unwrap();
        assert!(!waited.1.timed_out(), "the capture does not see what passes");
        waited.0[from..].iter().take_while(|packet| packet.payload != mark).cloned().collect()
    }
}

fn open(interface: &str) -> io::Result<OwnedFd> {
    let name = CString::new(interface)?;
    let all = u16::to_be(libc::ETH_P_ALL as u16);
    // SAFETY: the name ends in a zero and outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    // SAFETY: plain numbers; a descriptor that is new belongs to nobody else.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(all)) };
    if index == 0 || socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: all zeros are an address of this kind.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = all;
    address.sll_ifindex = i32::try_from(index).unwrap();
    let length = std::mem::size_of_val(&address) as u32;
    // SAFETY: the address is of that type and length.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

/// Reads an Ethernet frame; none where it is not the internet protocol's, or belongs to the cable itself: questions
/// for neighbours, and who listens to what. Those never cross a router: where the cable's own end did not make them,
/// their hop limit shows it.
fn read(frame: &[u8]) -> Option<Packet> {
    let kind = u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]);
    let (from, to, protocol, hops, payload): (IpAddr, IpAddr, u8, u8, &[u8]) = match kind {
        0x0800 => {
            let packet = frame.get(14..)?;
            let header = usize::from(packet.first()? & 15) * 4;
            let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
            (address(12)?.into(), address(16)?.into(), *packet.get(9)?, *packet.get(8)?, packet.get(header..)?)
        }
        0x86dd => {
            let packet = frame.get(14..)?;
            let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
            let (mut protocol, mut payload) = (*packet.get(6)?, packet.get(40..)?);
            // A header of options by hop comes before what is asked for by who listens.
            if protocol == 0 {
                protocol = *payload.first()?;
                payload = payload.get(8 + usize::from(*payload.get(1)?) * 8..)?;
            }
            (address(8)?.into(), address(24)?.into(), protocol, *packet.get(7)?, payload)
        }
        _ => return None,
    };
    let is_neighbours = |hops: u8| match payload.first() {
        Some(130..=132 | 143) => hops == 1,
        Some(133..=137) => hops == 255,
        _ => false,
    };
    if protocol == ICMPV6 && is_neighbours(hops) {
        return None;
    }
    let port = |at: usize| Some(u16::from_be_bytes([*payload.get(at)?, *payload.get(at + 1)?]));
    let ports = if matches!(protocol, TCP | UDP) { port(0).zip(port(2)) } else { None };
    let data = match protocol {
        UDP => payload.get(8..).unwrap_or_default(),
        _ => payload,
    };
    let is_names = protocol == UDP && ports.is_some_and(|ports| ports.0 == 53 || ports.1 == 53);
    Some(Packet {
        at: Timestamp::now(),
        from,
        to,
        protocol,
        ports,
        is_opening: protocol == TCP && payload.get(13).is_some_and(|flags| flags & 0x12 == 0x02),
        name: if is_names { question(data).map(|(name, _)| name) } else { None },
        payload: data.to_vec(),
    })
}
