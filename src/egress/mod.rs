//! The only door out of the house: every HTTP client of the crate is made here, and every name is resolved here.
//!
//! [`internal`] and [`dial`] reach what is ours: workers, containers on our own networks, the admin socket. What lies
//! outside is reached through the gate, [`Egress`]: it admits (`policy`, `consent`), resolves, dials what it checked, and
//! writes down what left (`ledger`) before it leaves.

mod address;
mod client;
mod consent;
mod desk;
mod dial;
mod error;
mod flow;
mod gate;
pub mod ledger;
mod lines;
mod neighbours;
mod policy;
mod resolve;
mod view;
mod wish;

pub use address::Address;
pub use client::{Outside, Reply, Request};
pub use consent::{Answer, Period, Question, Scope};
pub use error::{Error, Refusal};
pub use flow::{Cut, Entrusted, Flow};
pub use gate::{Egress, Permit};
pub use ledger::Ledger;
pub use lines::{Line, Page};
pub use policy::{Basis, Pattern, Policy, Reason};
pub use resolve::Resolver;
pub use view::{ClassView, ConsentView, FlowView, View};
pub use wish::{Class, Errand, Initiator, Sent, Wish};
// What callers name of the client that they are given.
pub use reqwest::{Client, Error as HttpError, RequestBuilder, Response, StatusCode, Url, header};

use reqwest::redirect;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;
use tokio::net::TcpStream;

/// What we call ourselves.
const USER_AGENT: &str = concat!("sovereign/", env!("CARGO_PKG_VERSION"));

/// A client for what is ours at `address`. The host of its URLs is only a name: every connection goes to `address`.
///
/// It follows no redirects, knows no proxy and sets no time limit: a long answer is the caller's to give up on.
pub fn internal(address: &Address) -> reqwest::Client {
    let builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(Duration::from_secs(15))
        .no_proxy()
        .redirect(redirect::Policy::none());
    let builder = match address {
        Address::Unix(path) => builder.unix_socket(path.clone()),
        Address::Tcp(_) => builder,
    };
    builder.build().expect("a client without TLS reads nothing that could fail")
}

/// A plain TCP connection to something of ours: a container, or a program of this machine.
///
/// # Errors
/// When `address` is not a private one, so that this is no way out of the house; or when nothing answers there.
pub async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    if !is_ours(address.ip()) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{address} is not an address of ours")));
    }
    TcpStream::connect(address).await
}

/// Whether an address can only be of this machine or of a private network.
fn is_ours(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_private() || address.is_loopback(),
        IpAddr::V6(address) => address.is_unique_local() || address.is_loopback(),
    }
}

/// The address by which this machine speaks to its network: where others would reach it, too. Nothing is sent.
pub fn lan_address() -> Option<IpAddr> {
    // "Connecting" a datagram socket only chooses a route; the address is one of those that documentation may use.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|address| !address.is_unspecified())
}

/// An error with its causes, which is where HTTP clients keep what happened.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// A server that the tests of downloads share.
#[cfg(test)]
#[path = "../../tests/it/models/mirror.rs"]
pub(crate) mod mirror;

#[cfg(test)]
mod tests {
    use super::*;

    mod gate;

    #[tokio::test]
    async fn only_what_is_ours_is_dialled() {
        for (address, ours) in [
            ("127.0.0.1", true),
            ("172.18.0.2", true),
            ("192.168.1.9", true),
            ("::1", true),
            ("fd00::2", true),
            ("::ffff:10.0.0.1", true),
            ("192.0.2.1", false),
            ("0.0.0.0", false),
            ("169.254.169.254", false),
            ("2001:db8::1", false),
            ("::ffff:192.0.2.1", false),
        ] {
            assert_eq!(is_ours(address.parse().unwrap()), ours, "{address}");
        }
        let refused = dial("192.0.2.1:80".parse().unwrap()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }
}
