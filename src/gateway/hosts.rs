//! Under which names browsers may reach us, and from which pages.
//!
//! A website can point its own name at our address (DNS rebinding), and then its pages may read our answers: so a name
//! that is not ours is refused. And any page may send requests here: so a request that says which page it comes from
//! (`Origin`) is refused unless that page is ours or one that the owner named.

use super::error::forbidden;
use crate::config::Config;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;
use std::sync::Arc;

/// The names under which browsers may reach us.
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    /// This machine's.
    own: Vec<String>,
    /// The owner's, from the configuration. Pages under them may also ask from elsewhere, such as behind a proxy.
    named: Vec<String>,
}

impl Hosts {
    /// This machine's name and the configuration's.
    pub fn new(config: &Config) -> Self {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self::of(name.trim(), &config.server.hosts)
    }

    fn of(machine: &str, named: &[String]) -> Self {
        let mut own = vec!["localhost".to_string()];
        if !machine.is_empty() {
            // The second is how mDNS knows it. Other suffixes could be a stranger's.
            own.extend([normal(machine), normal(&format!("{machine}.local"))]);
        }
        Self { own, named: named.iter().map(|name| normal(name)).collect() }
    }

    /// Whether a request may be answered, by its `Host` (or HTTP/2's authority) and `Origin`.
    fn check(&self, host: Option<&str>, origin: Option<&str>) -> Result<(), Refused> {
        let host = host.ok_or(Refused::NoHost)?;
        let authority: Authority = host.parse().map_err(|_| Refused::NoHost)?;
        if !self.is_ours(&authority) {
            return Err(Refused::Host(authority.host().to_string()));
        }
        match origin {
            None => Ok(()),
            Some(origin) if self.is_our_page(origin, &authority) => Ok(()),
            Some(origin) => Err(Refused::Origin(origin.to_string())),
        }
    }

    fn is_ours(&self, authority: &Authority) -> bool {
        if authority.as_str().contains('@') {
            return false;
        }
        let host = normal(authority.host());
        let address = host.trim_start_matches('[').trim_end_matches(']');
        address.parse::<IpAddr>().is_ok() || self.own.contains(&host) || self.named.contains(&host)
    }

    /// The scheme is left aside: behind a proxy that adds TLS, it is the proxy's.
    fn is_our_page(&self, origin: &str, host: &Authority) -> bool {
        let Ok(page) = origin.parse::<Uri>() else { return false };
        let Some(authority) = page.authority() else { return false };
        let port = |authority: &Authority| authority.port_u16().unwrap_or(0);
        let default = if page.scheme_str() == Some("https") { 443 } else { 80 };
        let same_port = port(authority) == port(host) || (port(authority) == 0 && port(host) == default);
        let same = normal(authority.host()) == normal(host.host()) && same_port;
        same || self.named.contains(&normal(authority.host()))
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Refused {
    #[error("the request does not say which host it means")]
    NoHost,
    #[error(
        "{0:?} is not a name of this appliance; use its address, or add the name to server.hosts in the configuration"
    )]
    Host(String),
    #[error(
        "pages of {0:?} may not ask this appliance; to let them, add their host to server.hosts in the configuration"
    )]
    Origin(String),
}

/// Answers requests only under our names and from our pages.
pub async fn check_hosts(State(hosts): State<Arc<Hosts>>, request: Request, next: Next) -> Response {
    let text = |headers: &HeaderMap, name| headers.get(name).map(|value| value.to_str().unwrap_or("?").to_string());
    let host = text(request.headers(), header::HOST).or_else(|| request.uri().authority().map(ToString::to_string));
    let origin = text(request.headers(), header::ORIGIN);
    match hosts.check(host.as_deref(), origin.as_deref()) {
        Ok(()) => next.run(request).await,
        Err(refused) if super::is_api(request.uri().path()) => forbidden(refused.to_string()).into_response(),
        Err(refused) => (StatusCode::FORBIDDEN, format!("{refused}\n")).into_response(),
    }
}

/// The form in which names are compared.
fn normal(name: &str) -> String {
    name.trim().trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_pages() {
        let hosts = Hosts::of("NAS", &["ai.example.org".to_string()]);
        let fine = |host: &str, origin: Option<&str>| {
            assert_eq!(hosts.check(Some(host), origin), Ok(()), "{host} {origin:?}");
        };
        let refused = |host: &str, origin: Option<&str>, why: fn(&Refused) -> bool| {
            let result = hosts.check(Some(host), origin);
            assert!(result.as_ref().is_err_and(why), "{host} {origin:?}: {result:?}");
        };
        let by_host = |refused: &Refused| matches!(refused, Refused::Host(_));
        let by_origin = |refused: &Refused| matches!(refused, Refused::Origin(_));

        for host in ["192.168.1.5:8808", "[fe80::1]:8808", "127.0.0.1", "localhost:8808", "nas", "Nas.local.:8808"] {
            fine(host, None);
        }
        fine("ai.example.org", None);
        for host in ["evil.example", "nas.evil.example", "localhost.evil.example", "ai.example.org.evil.example"] {
            refused(host, None, by_host);
        }
        refused("evil.example@192.168.1.5", None, by_host);
        refused("192.168.1.5.evil.example:8808", None, by_host);
        assert_eq!(hosts.check(None, None), Err(Refused::NoHost));
        assert_eq!(hosts.check(Some("a b"), None), Err(Refused::NoHost));

        fine("192.168.1.5:8808", Some("http://192.168.1.5:8808"));
        fine("nas:8808", Some("http://NAS:8808"));
        fine("nas", Some("https://nas"));
        fine("nas:80", Some("http://nas"));
        fine("nas:8808", Some("https://ai.example.org"));
        for origin in ["http://192.168.1.5:3000", "http://192.168.1.6:8808", "http://localhost:8808", "null", "?", ""] {
            refused("192.168.1.5:8808", Some(origin), by_origin);
        }
        refused("nas:8808", Some("https://evil.example"), by_origin);
    }
}
