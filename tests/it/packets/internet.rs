//! Servers of the internet: pages by http and https, by certificates that an authority of the test's own has given.

use super::namespace::Namespace;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// What stands under a path, at whatever host.
pub type Pages = HashMap<&'static str, Vec<u8>>;

/// An authority and what it certified, as files.
pub struct Authority {
    pub certificate: PathBuf,
    chain: PathBuf,
    key: PathBuf,
}

impl Authority {
    /// Certifies a server of these names.
    pub fn new(folder: &Path, names: &[&str]) -> Self {
        let path = |name: &str| folder.join(name);
        let at = Self { certificate: path("authority.pem"), chain: path("server.pem"), key: path("server.key") };
        let key = path("authority.key");
        let names: Vec<String> = names.iter().map(|name| format!("DNS:{name}")).collect();
        let names = format!("subjectAltName={}", names.join(","));
        let new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
        let files = |certificate: &Path, key: &Path| {
            ["-out".into(), certificate.display().to_string(), "-keyout".into(), key.display().to_string()]
        };
        let openssl = |more: &[&str], certificate: &Path, key: &Path| {
            let mut openssl = Command::new("openssl");
            openssl.args(new).args(more).args(files(certificate, key)).stdin(Stdio::null());
            let ended = openssl.output().unwrap_or_else(|error| panic!("openssl: {error}; see `make test-tools`"));
            assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        };
        openssl(&["-subj", "/CN=The test's authority"], &at.certificate, &key);
        let (by, with) = (at.certificate.display().to_string(), key.display().to_string());
        let leaf = ["-subj", "/CN=A server", "-addext", &names, "-addext", "basicConstraints=critical,CA:FALSE"];
        openssl(&[&leaf[..], &["-CA", &by, "-CAkey", &with]].concat(), &at.chain, &at.key);
        at
    }

    fn config(&self) -> ServerConfig {
        let chain = CertificateDer::pem_file_iter(&self.chain).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(&self.key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        versions.with_no_client_auth().with_single_cert(chain, key).unwrap()
    }
}

/// Serves pages on all addresses, by http on port 80 and https on 443, until the process ends.
pub fn serve(internet: &Namespace, pages: Pages, authority: &Authority) {
    let (pages, config) = (Arc::new(pages), Arc::new(authority.config()));
    for port in [80, 443] {
        let listener = internet.within(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))).unwrap();
        let (pages, config) = (pages.clone(), config.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                let (pages, config) = (pages.clone(), config.clone());
                std::thread::spawn(move || {
                    // Whoever goes away in between has its reasons.
                    let _ = if port == 80 {
                        answer(stream, &pages)
                    } else {
                        answer(StreamOwned::new(ServerConnection::new(config).unwrap(), stream), &pages)
                    };
                });
            }
        });
    }
}

fn answer(mut stream: impl Read + Write, pages: &Pages) -> io::Result<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, page) = pages.get(path).map_or(("404 Not Found", &b"nothing"[..]), |page| ("200 OK", page));
    let length = page.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nETag: \"1\"\r\nConnection: close\r\n\r\n")?;
    if method != "HEAD" {
        stream.write_all(page)?;
    }
    stream.flush()
}
