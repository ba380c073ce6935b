//! TLS with the system's certificates.

use crate::egress::error::Error;
use crate::egress::flow::Flow;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Longer, and the other side does not mean it.
const PATIENCE: Duration = Duration::from_secs(15);

/// Speaks TLS over a connection to `host`, whose certificate must be of that name.
pub(super) async fn connect(flow: Flow, host: &str) -> Result<TlsStream<Flow>, Error> {
    let failed = |source| Error::Tls { host: host.into(), source };
    let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(io::Error::other(error)))?;
    let connecting = TlsConnector::from(config()?).connect(name, flow);
    let late = |_| Error::Late { host: host.into(), patience: PATIENCE };
    tokio::time::timeout(PATIENCE, connecting).await.map_err(late)?.map_err(failed)
}

/// The system's certificates are read when they are first needed: that takes time and memory.
fn config() -> Result<Arc<ClientConfig>, Error> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(config.clone());
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let problem = found.errors.first().map(ToString::to_string).unwrap_or_else(|| "none were found".into());
        return Err(Error::Certificates(problem));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Certificates(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(CONFIG.get_or_init(|| Arc::new(config)).clone())
}
