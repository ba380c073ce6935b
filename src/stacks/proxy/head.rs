//! The head of a request to a proxy: where it wants to go, and what of it goes on. Read purely.

/// The longest head that is read, in bytes, and the most fields in it.
pub(super) const LONGEST: usize = 16 << 10;
const FIELDS: usize = 100;

/// Fields that are meant for the next hop alone.
const FOR_US: [&str; 9] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "proxy-authorization",
    "proxy-authenticate",
    "te",
    "trailer",
    "upgrade",
    // It is written anew: it has to name where the request goes.
    "host",
];

/// What is asked of a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub host: String,
    pub port: u16,
    /// Bytes that it takes of what was read.
    pub length: usize,
    /// What is sent on in its place; nothing for a tunnel (`CONNECT`), through which bytes pass as they are.
    pub head: Option<Vec<u8>>,
}

/// Why a request is none, as a status and a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wrong(pub u16, pub &'static str);

/// Reads a head; none while its end has not come.
pub(super) fn read(bytes: &[u8]) -> Result<Option<Request>, Wrong> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < LONGEST => return Ok(None),
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Err(Wrong(431, "the request's head is longer than 16 KiB, or has more than 100 fields"));
        }
        Err(_) => return Err(Wrong(400, "that is not a request of HTTP/1.1")),
    };
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else {
        return Err(Wrong(400, "that is not a request of HTTP/1.1"));
    };
    if method == "CONNECT" {
        let (host, port) = authority(target).ok_or(Wrong(400, "CONNECT names a host and a port"))?;
        let port = port.ok_or(Wrong(400, "CONNECT names a host and a port"))?;
        return Ok(Some(Request { host, port, length, head: None }));
    }
    let rest = match target.split_at_checked(7) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http://") => rest,
        _ if target.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://")) => {
            return Err(Wrong(400, "https goes through this proxy by CONNECT"));
        }
        _ => return Err(Wrong(400, "this is a proxy: it takes CONNECT and requests for whole http:// addresses")),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (named, path) = rest.split_at(end);
    let (host, port) = authority(named).ok_or(Wrong(400, "the address names no host"))?;
    // Browsers send no fragments; what has one is cut.
    let path = path.split('#').next().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut head = format!("{method} {slash}{path} HTTP/1.1\r\nHost: {named}\r\n").into_bytes();
    let ours = |name: &str| FOR_US.iter().any(|ours| name.eq_ignore_ascii_case(ours));
    let named_for_us: Vec<String> = parsed
        .headers
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case("connection"))
        .flat_map(|field| field.value.split(|byte| *byte == b','))
        .map(|name| String::from_utf8_lossy(name).trim().to_ascii_lowercase())
        // How long the body is, is not for a client to hide.
        .filter(|name| !matches!(&**name, "transfer-encoding" | "content-length"))
        .collect();
    for field in parsed.headers.iter().filter(|field| !ours(field.name)) {
        if !named_for_us.contains(&field.name.to_ascii_lowercase()) {
            head.extend([field.name.as_bytes(), b": ", field.value, b"\r\n"].concat());
        }
    }
    // One request a connection: what follows it is not for another host.
    head.extend(b"Connection: close\r\n\r\n");
    Ok(Some(Request { host, port: port.unwrap_or(80), length, head: Some(head) }))
}

/// A host and a port; an address of IPv6 in brackets.
fn authority(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            (address, port.strip_prefix(':').or(port.is_empty().then_some(""))?)
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let port = match port {
        "" => None,
        port if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(port.parse().ok().filter(|port| *port > 0)?),
        _ => return None,
    };
    // Names of persons are not for proxies.
    (!host.is_empty() && !host.contains('@')).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(text: &str) -> Result<Request, Wrong> {
        read(text.as_bytes()).map(|read| read.unwrap_or_else(|| panic!("{text} is not whole")))
    }

    #[test]
    fn tunnels() {
        let check = |target: &str, expected: Option<(&str, u16)>| {
            let read = whole(&format!("CONNECT {target} HTTP/1.1\r\nHost: elsewhere\r\n\r\nmore"));
            let length = "CONNECT  HTTP/1.1\r\nHost: elsewhere\r\n\r\n".len() + target.len();
            let expected = expected.map(|(host, port)| Request { host: host.into(), port, length, head: None });
            assert_eq!(read.ok(), expected, "{target}");
        };
        check("a.example:443", Some(("a.example", 443)));
        check("[2a0e::1]:443", Some(("2a0e::1", 443)));
        check("1.2.3.4:1", Some(("1.2.3.4", 1)));
        for wrong in [
            "a.example",
            "a.example:",
            "a.example:0",
            "a.example:65536",
            "a.example:+1",
            ":443",
            "[2a0e::1]",
            "[a]:1",
            "[2a0e::1]1:1",
            "u@a:1",
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn requests_go_on_to_where_they_say() {
        let check = |asked: &str, to: (&str, u16), sent: &str| {
            let request = whole(asked).unwrap();
            assert_eq!((&*request.host, request.port, request.length), (to.0, to.1, asked.len()), "{asked}");
            assert_eq!(String::from_utf8(request.head.unwrap()).unwrap(), sent);
        };
        check(
            "GET http://a.example/x?y=1#z HTTP/1.1\r\nHost: other\r\nAccept: */*\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nProxy-Authorization: secret\r\n\r\n",
            ("a.example", 80),
            "GET /x?y=1 HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        );
        check(
            "POST HTTP://[2a0e::1]:8080 HTTP/1.0\r\nContent-Length: 3\r\nConnection: content-length\r\n\r\n",
            ("2a0e::1", 8080),
            "POST / HTTP/1.1\r\nHost: [2a0e::1]:8080\r\nContent-Length: 3\r\nConnection: close\r\n\r\n",
        );
        check(
            "GET http://a.example?q HTTP/1.1\r\n\r\n",
            ("a.example", 80),
            "GET /?q HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n",
        );
    }

    #[test]
    fn what_is_no_request_is_told() {
        let check = |text: &str, status, part: &str| {
            let Wrong(told, why) = read(text.as_bytes()).unwrap_err();
            assert!(told == status && why.contains(part), "{told} {why}");
        };
        check("GET / HTTP/1.1\r\n\r\n", 400, "this is a proxy");
        check("GET https://a.example/ HTTP/1.1\r\n\r\n", 400, "by CONNECT");
        check("GET ftp://a.example/ HTTP/1.1\r\n\r\n", 400, "this is a proxy");
        check("GET http:/// HTTP/1.1\r\n\r\n", 400, "no host");
        check("\x16\x03\x01", 400, "HTTP/1.1");
        check("GET http://a/ HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 400, "HTTP/1.1");
        check(&format!("GET http://a/ HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(FIELDS + 1)), 431, "longer");
        check(&format!("GET http://a/ HTTP/1.1\r\nA: {}", "b".repeat(LONGEST)), 431, "longer");
        assert_eq!(read(b"GET http://a/ HTTP/1.1\r\nA: b\r\n"), Ok(None));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }

        /// However it is written, what goes on has one host, and it is the one that was judged.
        #[test]
        fn the_host_that_is_judged_is_the_host_that_is_told(
            host in "[a-z.:@\\[\\]0-9]{1,12}",
            path in "[ -~]{0,12}",
            fields in prop::collection::vec(("[Hh]ost|[A-Za-z-]{1,12}", "[ -~]{0,12}"), 0..6),
        ) {
            let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let asked = format!("GET http://{host}/{path} HTTP/1.1\r\n{fields}\r\n");
            if let Ok(Some(Request { host, port, head: Some(head), .. })) = read(asked.as_bytes()) {
                let head = String::from_utf8(head).unwrap();
                let hosts: Vec<&str> = head.lines().filter_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("host").then_some(value.trim())
                }).collect();
                prop_assert_eq!(hosts.len(), 1);
                let bracketed = if host.contains(':') { format!("[{host}]") } else { host };
                let rest = hosts[0].strip_prefix(&*bracketed).map(|rest| rest.trim_start_matches(':').trim_start_matches('0'));
                prop_assert!(rest.is_some_and(|rest| rest.is_empty() || rest == port.to_string()), "{}", hosts[0]);
                prop_assert!(head.ends_with("\r\nConnection: close\r\n\r\n"));
            }
        }
    }
}
