//! The only door out of the house: every HTTP client of the crate is made here.
//!
//! [`internal`] reaches what is ours: workers, containers on our own networks, the admin socket. [`outside`] reaches the
//! rest and is told what for: the policy and the ledger of what left stand behind this one function.

mod address;

pub use address::Address;

use reqwest::redirect::Policy;
use std::sync::Once;
use std::time::Duration;

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
    let builder = base().no_proxy().redirect(Policy::none()).tls_certs_only([]);
    let builder = match address {
        Address::Unix(path) => builder.unix_socket(path.clone()),
        Address::Tcp(_) => builder,
    };
    builder.build().expect("a client without certificates reads nothing that could fail")
}

/// A client for the outside.
///
/// Redirects are followed to https only, at most ten, and reqwest drops credentials when one leads to another host. A
/// plain-http address is allowed as a first hop, so that a mirror on the LAN works.
///
/// # Errors
/// When the system's CA certificates cannot be read.
pub fn outside(purpose: Purpose) -> Result<reqwest::Client, Error> {
    tracing::debug!(?purpose, "a client for the outside was made");
    let redirects = Policy::custom(|attempt| {
        let downgraded =
            attempt.url().scheme() != "https" && attempt.previous().last().is_some_and(|url| url.scheme() == "https");
        if downgraded {
            attempt.error("a redirect from https to http was refused")
        } else if attempt.previous().len() >= 10 {
            attempt.error("more than ten redirects")
        } else {
            attempt.follow()
        }
    });
    // Without progress for a minute a transfer is dead; its whole length has no limit.
    Ok(base().redirect(redirects).read_timeout(Duration::from_secs(60)).build()?)
}

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
#[error("no HTTPS client can be made: {0}; are the system's CA certificates installed?")]
pub struct Error(#[from] reqwest::Error);

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
