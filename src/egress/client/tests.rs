use super::*;
use crate::config::{self, Config, Mode};
use crate::egress::ledger::Event;
use crate::egress::mirror::{self, Answer as Served, Mirror};
use crate::egress::{Answer as Decision, Basis, Period, Policy, Reason, Refusal, Resolver};
use std::net::{IpAddr, Ipv4Addr};

/// Two names of this machine, one of them a host of the house, and one of a private address.
fn egress(mode: Mode) -> Egress {
    let (policy, resolver) = parts(mode);
    Egress::in_memory(policy, resolver)
}

fn parts(mode: Mode) -> (Policy, Resolver) {
    let mut config = Config::default();
    config.egress.url_fetches = config::Gate::of(mode);
    config.egress.lan = ["a.lan", "b.lan", "tls.lan", "other.lan"].map(Into::into).into();
    let here = |name: &str| (name.to_owned(), vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    let table = ["a.lan", "b.lan", "tls.lan", "other.lan", "c.example"].map(here);
    (Policy::new(&config).unwrap(), Resolver::Fixed(table.into()))
}

fn outside(egress: &Egress) -> Outside {
    egress.outside(Class::UrlFetch, Initiator::Owner, "a test")
}

/// An address of the mirror by another name.
fn at(mirror: &Mirror, host: &str, path: &str) -> Url {
    let mut url: Url = mirror.url(path).parse().unwrap();
    url.set_host(Some(host)).unwrap();
    url
}

async fn body(mut answer: Reply) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.unwrap() {
        body.extend_from_slice(&piece);
    }
    body
}

/// The ledger's rows so far.
async fn events(egress: &Egress) -> Vec<Event> {
    let ledger = egress.ledger().unwrap();
    let last = ledger.append(Event::Online, None).await.unwrap();
    let mut rows = ledger.rows(Some(last), 1000).await.unwrap();
    rows.reverse();
    rows.iter().map(|row| row.entry().unwrap().event).collect()
}

#[tokio::test]
async fn one_request_is_one_row() {
    let (egress, mirror) = (egress(Mode::On), Mirror::start().await);
    mirror.put("/page", Served::file("hello", "a"));
    let answer = outside(&egress).get(at(&mirror, "a.lan", "/page?token=secret")).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.url().query()), (200, Some("token=secret")));
    assert_eq!(body(answer).await, b"hello");
    let rows = loop {
        let rows = events(&egress).await;
        if matches!(rows.iter().rev().find(|event| event.kind() != "online"), Some(Event::Closed { .. })) {
            break rows;
        }
        tokio::task::yield_now().await;
    };
    let [Event::LookedUp(_), Event::Opened { contact, sent: None, .. }, ..] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((contact.host.as_str(), contact.what.as_str()), ("a.lan", "GET for a test"));
    assert_eq!(contact.basis, Some(Basis::Policy));
    // What stands behind the question mark may be a signature.
    assert!(!format!("{rows:?}").contains("secret"), "{rows:?}");
}

#[tokio::test]
async fn what_is_sent_is_in_the_row_as_its_digest() {
    let (egress, mirror) = (egress(Mode::On), Mirror::start().await);
    mirror.put("/page", Served::text(200, "text/plain", "thanks"));
    outside(&egress).post(at(&mirror, "a.lan", "/page"), "a prompt").send().await.unwrap();
    let rows = events(&egress).await;
    let Event::Opened { sent, text, .. } = &rows[1] else { panic!("{rows:?}") };
    assert_eq!(sent.as_deref(), Some(hex(&Sha256::digest("a prompt")).as_str()));
    assert!(text);
    assert!(!format!("{rows:?}").contains("a prompt"), "{rows:?}");
}

/// Follows a redirect from `a.lan` to `to`, with secrets; returns the error or what the second host was asked.
async fn redirected(to: impl FnOnce(&Mirror) -> String) -> Result<Vec<mirror::Asked>, Error> {
    let (egress, mirror) = (egress(Mode::On), Mirror::start().await);
    mirror.put("/from", Served::moved(&to(&mirror)));
    mirror.put("/to", Served::file("there", "a"));
    let request = outside(&egress).get(at(&mirror, "a.lan", "/from")).bearer_auth("secret").send().await;
    request.map(|_| mirror.asked())
}

#[tokio::test]
async fn credentials_stay_with_their_host() {
    let asked = redirected(|_| "/to".into()).await.unwrap();
    assert_eq!(asked.iter().map(|asked| asked.authorization).collect::<Vec<_>>(), [true, true]);
    // To another name, and to another port of the same one: plain http to another host is refused altogether.
    let error = redirected(|mirror| at(mirror, "b.lan", "/to").into()).await.unwrap_err();
    assert!(error.to_string().contains("plain http"), "{error}");
    let other = Mirror::start().await;
    other.put("/to", Served::file("there", "a"));
    redirected(|_| at(&other, "a.lan", "/to").into()).await.unwrap();
    assert_eq!(other.asked().iter().map(|asked| asked.authorization).collect::<Vec<_>>(), [false]);
}

#[tokio::test]
async fn each_hop_is_admitted_anew() {
    let (egress, mirror) = (egress(Mode::Ask), Mirror::start().await);
    let other = Mirror::start().await;
    mirror.put("/from", Served::moved(at(&other, "a.lan", "/to").as_str()));
    other.put("/to", Served::file("there", "a"));
    let owner = async {
        let mut changes = egress.changes();
        for allow in [true, false] {
            let question = loop {
                if let Some(question) = egress.questions().first() {
                    break question.clone();
                }
                changes.changed().await.unwrap();
            };
            egress.answer(question.id, Decision { allow, period: Period::Once }).await.unwrap();
        }
    };
    let (answer, ()) = tokio::join!(outside(&egress).get(at(&mirror, "a.lan", "/from")).send(), owner);
    let refused = answer.unwrap_err();
    assert!(matches!(refused, Error::Refused(Refusal { reason: Reason::Declined, .. })), "{refused}");
    assert_eq!((mirror.asked().len(), other.asked().len()), (1, 0));
}

#[tokio::test]
async fn redirects_into_the_house_are_refused() {
    let to = |host: &str| format!("https://{host}/to");
    for host in ["127.0.0.1", "[::1]", "192.168.1.1", "[::ffff:10.0.0.1]", "169.254.169.254", "c.example"] {
        let error = redirected(|_| to(host)).await.unwrap_err();
        assert!(matches!(error, Error::NotOutside { .. }), "{host}: {error}");
    }
    // A host of the house may lead to another one of it; a stranger may not, whatever is listed.
    let (egress, url) = (egress(Mode::On), "https://b.lan/".parse().unwrap());
    let mut request = outside(&egress).get(url);
    request.stranger = true;
    let error = request.send().await.unwrap_err();
    assert!(matches!(error, Error::NotOutside { .. }), "{error}");
}

#[tokio::test]
async fn redirects_end() {
    let (egress, mirror) = (egress(Mode::On), Mirror::start().await);
    mirror.put("/from", Served::moved("/from"));
    let error = outside(&egress).get(at(&mirror, "a.lan", "/from")).send().await.unwrap_err();
    assert!(error.to_string().contains("ten redirects"), "{error}");
    let answer = outside(&egress).get(at(&mirror, "a.lan", "/from")).unredirected().send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 302);
}

#[tokio::test]
async fn going_offline_breaks_an_answer_off() {
    let (egress, mirror) = (egress(Mode::On), Mirror::start().await);
    mirror.put("/big", Served::file(vec![0; 1 << 20], "a").stops_after(1000));
    let mut answer = outside(&egress).get(at(&mirror, "a.lan", "/big")).send().await.unwrap();
    answer.chunk().await.unwrap().unwrap();
    let begun = std::time::Instant::now();
    egress.set_offline(true).await.unwrap();
    let error = loop {
        match answer.chunk().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended as if it were whole"),
            Err(error) => break error,
        }
    };
    assert!(begun.elapsed().as_millis() < 1000 && error.to_string().contains("offline"), "{error}");
}

mod encrypted {
    use super::*;
    use crate::egress::Ledger;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{RootCertStore, ServerConfig};
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsAcceptor;

    fn fixture(name: &str) -> String {
        format!("{}/tests/fixtures/tls/{name}", env!("CARGO_MANIFEST_DIR"))
    }

    /// A server for one connection with the certificate of `tls.lan`; returns its port, and what it was asked.
    async fn server() -> (u16, tokio::task::JoinHandle<std::io::Result<String>>) {
        let certificate = CertificateDer::from_pem_file(fixture("server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(fixture("server.key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let acceptor = TlsAcceptor::from(Arc::new(config.with_single_cert(vec![certificate], key).unwrap()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let (stream, _) = listener.accept().await?;
            let mut stream = acceptor.accept(stream).await?;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await?;
            stream.flush().await?;
            Ok(String::from_utf8_lossy(&head).into_owned())
        });
        (port, served)
    }

    async fn ask(egress: &Egress, host: &str, port: u16) -> Result<Reply, Error> {
        let url = format!("https://{host}:{port}/x?y").parse().unwrap();
        outside(egress).get(url).bearer_auth("secret").send().await
    }

    fn trusting() -> Egress {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(fixture("ca.pem")).unwrap()).unwrap();
        let (policy, resolver) = parts(Mode::On);
        Egress::with(policy, resolver, Trust::only(roots).unwrap(), Ok(Ledger::in_memory()), &[])
    }

    #[tokio::test]
    async fn a_server_that_proves_its_name_is_asked() {
        let (port, served) = server().await;
        let reply = ask(&trusting(), "tls.lan", port).await.unwrap();
        assert_eq!(body(reply).await, b"hi");
        let head = served.await.unwrap().unwrap();
        assert!(head.starts_with("GET /x?y HTTP/1.1\r\n"), "{head}");
        assert!(
            head.contains(&format!("host: tls.lan:{port}\r\n")) && head.contains("authorization: Bearer secret"),
            "{head}"
        );
    }

    #[tokio::test]
    async fn one_that_does_not_learns_nothing() {
        // Another name than the certificate's, and a CA that nobody trusts.
        for (egress, host) in [(trusting(), "other.lan"), (super::egress(Mode::On), "tls.lan")] {
            let (port, served) = server().await;
            let error = ask(&egress, host, port).await.unwrap_err();
            assert!(matches!(error, Error::Tls { .. }) && !error.is_transient(), "{error}");
            assert!(served.await.unwrap().is_err());
        }
    }
}
