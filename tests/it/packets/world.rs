//! Three networks: a house, the router at its door, and the internet, whose every address answers.
//!
//! What leaves the house is captured on the router's far side, behind its address translation: nothing is missed, and
//! what the router and the internet say to each other of their own is not there.

use super::capture::Capture;
use super::dns::{self, Resolver, Zone};
use super::namespace::Namespace;
use std::ffi::CString;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;

/// The internet's name server.
pub const NAMES: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);
/// Somewhere on the internet.
pub const SOMEWHERE: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);
/// The same by the newer protocol.
pub const SOMEWHERE_V6: Ipv6Addr = Ipv6Addr::new(0x2a0e, 0x77, 0, 0, 0, 0, 0, 0x34);

/// What the internet sees of the house.
pub const HOUSE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(81, 2, 69, 1)), IpAddr::V6(Ipv6Addr::new(0x2a0e, 1, 0, 0, 0, 0, 0, 1))];

/// Where this machine's resolver listens, as systemd's does.
const STUB: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
/// What the router says to the internet of its own.
const MARK: &str = "this was all";
/// The internet takes what comes to any port here, and answers.
const SINK: u16 = 9;

/// The three, joined.
pub struct World {
    pub house: Namespace,
    pub router: Namespace,
    pub internet: Namespace,
    /// Names and their addresses.
    pub zone: Zone,
    /// What passes between router and internet.
    pub outside: Capture,
    /// The house's own resolver.
    pub stub: Resolver,
    folder: TempDir,
}

impl World {
    /// Builds it. The internet knows the names of `zone`.
    ///
    /// # Errors
    /// When this process may not make namespaces of networks.
    pub fn new(zone: Zone) -> io::Result<Self> {
        let (house, router, internet) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
        house.connect("lan", &router, "lan");
        router.connect("wan", &internet, "wan");
        for namespace in [&house, &router, &internet] {
            // Nothing is asked of itself whether its addresses are free, and nobody looks for routers.
            namespace.set("ipv6/conf/all/accept_ra", "0");
        }
        let address = |namespace: &Namespace, interface: &str, v4: &str, v6: &str| {
            namespace.ip(&format!("address add {v4} dev {interface}"));
            namespace.ip(&format!("address add {v6} dev {interface} nodad"));
            namespace.ip(&format!("link set {interface} up"));
        };
        address(&house, "lan", "192.168.77.2/24", "fd77::2/64");
        address(&router, "lan", &format!("{ROUTER}/24"), "fd77::1/64");
        // As where there is IPv6, what is at home has addresses of the internet too.
        house.ip("address add 2a0e:5::2/64 dev lan nodad");
        router.ip("-6 route add 2a0e:5::/64 dev lan");
        address(&router, "wan", "81.2.69.1/24", "2a0e:1::1/64");
        address(&internet, "wan", "81.2.69.254/24", "2a0e:1::fe/64");
        house.ip(&format!("route add default via {ROUTER}"));
        house.ip("-6 route add default via fd77::1");
        router.ip("route add default via 81.2.69.254");
        router.ip("-6 route add default via 2a0e:1::fe");
        router.set("ipv4/ip_forward", "1");
        router.set("ipv6/conf/all/forwarding", "1");
        for iptables in ["iptables", "ip6tables"] {
            router.run(iptables, "--table nat --append POSTROUTING --out-interface wan --jump MASQUERADE");
            // Every address is the internet's own; what is no name server's and no web server's is the sink's.
            let redirect = format!("--jump REDIRECT --to-ports {SINK}");
            for (protocol, served) in [("tcp", "80,443,5000"), ("udp", "53")] {
                internet.run(
                    iptables,
                    &format!(
                        "--table nat --append PREROUTING --protocol {protocol} --match multiport ! --dports {served} {redirect}"
                    ),
                );
            }
        }
        internet.ip("route add local 0.0.0.0/0 dev lo");
        internet.ip("-6 route add local 2a0e:77::/32 dev lo");

        sink(&internet)?;
        let socket = internet.within(|| UdpSocket::bind((NAMES, 53)))?;
        let known = zone.clone();
        std::thread::spawn(move || dns::serve(&socket, &known));
        let stub = Resolver::default();
        let resolve = |namespace: &Namespace, listen: IpAddr, upstream: IpAddr, resolver: Resolver| -> io::Result<()> {
            let socket = namespace.within(|| UdpSocket::bind((listen, 53)))?;
            let namespace = namespace.clone();
            std::thread::spawn(move || namespace.within(|| resolver.serve(&socket, SocketAddr::new(upstream, 53))));
            Ok(())
        };
        resolve(&router, ROUTER.into(), NAMES.into(), Resolver::default())?;
        resolve(&house, STUB.into(), ROUTER.into(), stub.clone())?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("resolv.conf"), format!("nameserver {STUB}\n"))?;
        let outside = Capture::start(&router, "wan");
        Ok(Self { house, router, internet, zone, outside, stub, folder })
    }

    /// Takes commands into the house, whose resolver they use.
    pub fn inhabit(&self) -> impl Fn(&mut Command) + Send + Sync + use<> {
        let house = self.house.clone();
        let file = path(&self.folder.path().join("resolv.conf"));
        move |command| {
            house.place(command);
            let file = file.clone();
            // SAFETY: between fork and exec, system calls alone are made, with strings that were made before.
            unsafe { command.pre_exec(move || see(&file)) };
        }
    }

    /// Does something on a thread that is in the house, and resolves names as one does there. Threads that it begins are
    /// there too.
    pub fn at_home<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let file = path(&self.folder.path().join("resolv.conf"));
        self.house.within(|| {
            see(&file).unwrap();
            act()
        })
    }

    /// What has left the house, or come back to it, since the capture held `from` packets.
    pub fn left(&self, from: usize) -> Vec<super::capture::Packet> {
        // The router's own word to the internet comes last.
        static MARKS: AtomicU64 = AtomicU64::new(0);
        let mark = format!("{MARK}, {}", MARKS.fetch_add(1, Ordering::Relaxed)).into_bytes();
        self.router.within(|| {
            let socket = UdpSocket::bind(("81.2.69.1", 0)).unwrap();
            socket.send_to(&mark, ("81.2.69.254", SINK)).unwrap();
        });
        let mut packets = self.outside.until(from, &mark);
        packets.retain(|packet| !packet.payload.starts_with(MARK.as_bytes()));
        packets
    }
}

fn path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

/// Puts `file` in the place of the resolver's configuration, for the calling thread and what it begins alone.
fn see(file: &CString) -> io::Result<()> {
    let (root, target) = (c"/".as_ptr(), c"/etc/resolv.conf".as_ptr());
    let none = std::ptr::null();
    // SAFETY: every string ends in a zero and outlives the calls; the others may be null.
    let done = unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(none, root, none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) == 0
            && libc::mount(file.as_ptr(), target, none, libc::MS_BIND, none.cast()) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Answers whatever comes, by either protocol.
fn sink(internet: &Namespace) -> io::Result<()> {
    let (tcp, udp) = internet.within(|| (TcpListener::bind(("::", SINK)), UdpSocket::bind(("::", SINK))));
    let (tcp, udp) = (tcp?, udp?);
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            // What the router says is not for the house.
            if !buffer[..length].starts_with(MARK.as_bytes()) {
                let _ = udp.send_to(&buffer[..length], from);
            }
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let Ok(mut stream) = stream else { continue };
            std::thread::spawn(move || {
                let mut buffer = [0; 2048];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(())
}
