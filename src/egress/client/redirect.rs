//! Where redirects may lead, and what goes along.

use crate::egress::{StatusCode, Url};
use hyper::Method;
use hyper::header::{self, HeaderMap, HeaderName};

/// Redirects of one request.
pub(super) const MOST: usize = 10;

/// What another host may be told; everything else may be a secret of the first one's.
const HARMLESS: [HeaderName; 6] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::CONTENT_TYPE,
    header::RANGE,
    header::IF_RANGE,
];

/// Whether a status is a redirect to `Location`.
pub(super) fn is_one(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Whether the next request is a plain `GET`, whatever this one was.
pub(super) fn asks_anew(status: StatusCode, method: &Method) -> bool {
    match status.as_u16() {
        303 => *method != Method::HEAD,
        301 | 302 => *method == Method::POST,
        _ => false,
    }
}

/// Where a redirect leads: to https, and to plain http only on the host that was asked in plain http, so that a mirror on
/// the LAN works.
pub(super) fn target(from: &Url, to: &str) -> Result<Url, &'static str> {
    let mut to = from.join(to).map_err(|_| "a redirect to nowhere")?;
    if to.host_str().is_none_or(str::is_empty) {
        return Err("a redirect to nowhere");
    }
    if !to.username().is_empty() || to.password().is_some() {
        return Err("a redirect with a password was refused");
    }
    to.set_fragment(None);
    let plain_on_one_host = from.scheme() == "http" && to.scheme() == "http" && from.host_str() == to.host_str();
    match to.scheme() == "https" || plain_on_one_host {
        true => Ok(to),
        false => Err("a redirect to plain http was refused"),
    }
}

/// Whether two addresses are of one server.
pub(super) fn same_origin(from: &Url, to: &Url) -> bool {
    from.origin() == to.origin()
}

/// The headers that another host may get.
pub(super) fn without_secrets(headers: &HeaderMap) -> HeaderMap {
    let harmless = headers.iter().filter(|(name, value)| HARMLESS.contains(name) && !value.is_sensitive());
    harmless.map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn redirects_lead_where_they_may() {
        let check = |from: &str, to: &str, expected: Option<&str>| {
            let to = target(&from.parse().unwrap(), to);
            assert_eq!(to.ok().as_ref().map(Url::as_str), expected, "{from}");
        };
        check("https://a.example/x?y", "/z", Some("https://a.example/z"));
        check("https://a.example/x", "https://b.example/z#f", Some("https://b.example/z"));
        check("https://a.example/x", "//b.example/z", Some("https://b.example/z"));
        check("https://a.example/x", "http://a.example/x", None);
        check("http://a.example/x", "http://a.example:81/y", Some("http://a.example:81/y"));
        check("http://a.example/x", "http://b.example/y", None);
        check("http://a.example/x", "https://b.example/y", Some("https://b.example/y"));
        check("https://a.example/x", "ftp://a.example/x", None);
        check("https://a.example/x", "file:///etc/passwd", None);
        check("https://a.example/x", "https://user:secret@b.example/", None);
    }

    #[test]
    fn methods_change_as_browsers_change_them() {
        let check = |status: u16, method: Method, expected: bool| {
            assert_eq!(asks_anew(StatusCode::from_u16(status).unwrap(), &method), expected, "{status} {method}");
        };
        check(301, Method::POST, true);
        check(302, Method::HEAD, false);
        check(303, Method::POST, true);
        check(303, Method::HEAD, false);
        check(307, Method::POST, false);
        check(308, Method::GET, false);
    }

    proptest! {
        /// Whatever it is called, what another host is not known to need stays behind.
        #[test]
        fn no_other_host_gets_a_secret(name in "[a-z][a-z0-9-]{0,20}", secret in "[a-z0-9]{8}") {
            let mut headers = HeaderMap::new();
            let name: HeaderName = name.parse().unwrap();
            headers.insert(name.clone(), secret.parse().unwrap());
            for name in ["authorization", "cookie", "proxy-authorization", "x-api-key", "x-amz-security-token"] {
                headers.insert(name.parse::<HeaderName>().unwrap(), secret.parse().unwrap());
            }
            let mut sensitive: hyper::header::HeaderValue = secret.parse().unwrap();
            sensitive.set_sensitive(true);
            headers.insert(header::ACCEPT, sensitive);
            let left = without_secrets(&headers);
            prop_assert!(left.keys().all(|left| *left == name && HARMLESS.contains(left)), "{left:?}");
        }
    }
}
