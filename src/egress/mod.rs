//! The only door out of the house: every HTTP client of the crate is made here, and every name is resolved here.
//!
//! [`internal`] and [`dial`] reach what is ours: workers, containers on our own networks, the admin socket. What lies
//! outside is reached through the gate, [`Egress`]: it admits (`policy`, `consent`), resolves, dials what it checked, and
//! writes down what left (`ledger`) before it leaves.

mod address;
mod consent;
mod desk;
mod error;
mod flow;
mod gate;
pub mod ledger;
mod policy;
mod resolve;
mod view;
mod wish;

pub use address::Address;
pub use consent::{Answer, Period, Question, Scope};
pub use error::{Error, Refusal};
pub use flow::{Cut, Entrusted, Flow};
pub use gate::{Egress, Permit};
pub use ledger::Ledger;
pub use policy::{Basis, Pattern, Policy, Reason};
pub use resolve::Resolver;
pub use view::{ClassView, ConsentView, FlowView, View};
pub use wish::{Class, Errand, Initiator, Sent, Wish};
// What callers name of the client that they are given.
pub use reqwest::{Client, Error as HttpError, RequestBuilder, Response, StatusCode, Url, header};

use reqwest::redirect;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Once;
use std::time::Duration;
use tokio::net::TcpStream;

/// What a connection to the outside is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Fetching a model that the owner asked for.
    ModelDownload,
}

/// A client for what is ours at `address`. The host of its URLs is only a name: every connection goes to `address`.
///
/// It follows no redirects, knows no proxy and sets no time limit: a long answer is the caller's to give up on.
pub fn internal(address: &Address) -> reqwest::Client {
    // No certificates: we speak plain HTTP at home, and reading the system's takes time and memory.
    let builder = base().no_proxy().redirect(redirect::Policy::none()).tls_certs_only([]);
    let builder = match address {
        Address::Unix(path) => builder.unix_socket(path.clone()),
        Address::Tcp(_) => builder,
    };
    builder.build().expect("a client without certificates reads nothing that could fail")
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

/// A client for the outside.
///
/// Redirects are followed to https, at most ten; to plain http only on the host that was asked in plain http, so that
/// a mirror on the LAN works. reqwest drops credentials when a redirect leads to another host.
///
/// # Errors
/// When the system's CA certificates cannot be read.
pub fn outside(purpose: Purpose) -> Result<reqwest::Client, NoClient> {
    let redirects = redirect::Policy::custom(|attempt| {
        let from = attempt.previous().last();
        let plain_on_one_host =
            from.is_some_and(|from| from.scheme() == "http" && from.host_str() == attempt.url().host_str());
        if attempt.url().scheme() != "https" && !plain_on_one_host {
            attempt.error("a redirect to plain http was refused")
        } else if attempt.previous().len() > 10 {
            attempt.error("more than ten redirects")
        } else {
            attempt.follow()
        }
    });
    exit(purpose, redirects)
}

/// Like [`outside`], but a redirect is an answer like any other: for protocols that say in it what was found.
///
/// # Errors
/// When the system's CA certificates cannot be read.
pub fn outside_unredirected(purpose: Purpose) -> Result<reqwest::Client, NoClient> {
    exit(purpose, redirect::Policy::none())
}

/// The one place that every client for the outside passes: what may leave is decided and written down here.
fn exit(purpose: Purpose, redirects: redirect::Policy) -> Result<reqwest::Client, NoClient> {
    tracing::debug!(?purpose, "a client for the outside was made");
    // Without progress for a minute a transfer is dead; its whole length has no limit. The address of a page may be a
    // signed one, so the next host is not told it (`Referer`).
    Ok(base().redirect(redirects).referer(false).read_timeout(Duration::from_secs(60)).build()?)
}

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
#[error("no HTTPS client can be made: {0}; are the system's CA certificates installed?")]
pub struct NoClient(#[from] reqwest::Error);

/// The address by which this machine speaks to its network: where others would reach it, too. Nothing is sent.
pub fn lan_address() -> Option<IpAddr> {
    // "Connecting" a datagram socket only chooses a route; the address is one of those that documentation may use.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|address| !address.is_unspecified())
}

/// An error with its causes, which is where reqwest keeps what happened.
pub fn causes(error: &HttpError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

fn base() -> reqwest::ClientBuilder {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // Fails only where somebody installed one before, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    reqwest::Client::builder()
        .user_agent(concat!("sovereign/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(15))
}

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
