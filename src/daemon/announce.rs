//! What the daemon says on its standard output once it can be used.

use crate::egress;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Tells where the dashboard is, and how to get in.
pub(super) fn to_stdout(listen: SocketAddr, setup_token: Option<String>) {
    // Where nobody reads it, nobody misses it.
    let _ = std::io::stdout().write_all(lines(reachable(listen), setup_token).as_bytes());
}

fn lines(address: SocketAddr, setup_token: Option<String>) -> String {
    let version = env!("CARGO_PKG_VERSION");
    match setup_token {
        Some(token) => format!(
            "Sovereign {version} listens on http://{address}\n\
             Choose a password (this link works once): http://{address}/setup?token={token}\n"
        ),
        None => format!("Sovereign {version} listens on http://{address}\nDashboard: http://{address}/\n"),
    }
}

/// An address that people can open: `0.0.0.0` is none.
fn reachable(listen: SocketAddr) -> SocketAddr {
    if !listen.ip().is_unspecified() {
        return listen;
    }
    SocketAddr::new(egress::lan_address().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_can_be_opened() {
        let check = |listen: &str, expected: Option<&str>| {
            let shown = reachable(listen.parse().unwrap());
            assert!(!shown.ip().is_unspecified());
            assert!(expected.is_none_or(|expected| shown.to_string() == expected), "{listen} became {shown}");
        };
        check("192.168.1.5:8808", Some("192.168.1.5:8808"));
        check("[::1]:8808", Some("[::1]:8808"));
        check("0.0.0.0:8808", None);
        check("[::]:8808", None);
    }

    #[test]
    fn the_way_in_is_told() {
        let address = "10.0.0.2:8808".parse().unwrap();
        assert!(lines(address, Some("abc".into())).contains(" http://10.0.0.2:8808/setup?token=abc\n"));
        assert!(lines(address, None).contains("\nDashboard: http://10.0.0.2:8808/\n"));
    }
}
