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

/// Whom certificates are believed of. The system's are read when they are first needed: that takes time and memory.
#[derive(Debug, Default)]
pub(in crate::egress) struct Trust(OnceLock<Arc<ClientConfig>>);

impl Trust {
    /// Speaks TLS over a connection to `host`, whose certificate must be of that name.
    pub(in crate::egress) async fn connect(&self, flow: Flow, host: &str) -> Result<TlsStream<Flow>, Error> {
        let failed = |source| Error::Tls { host: host.into(), source };
        let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(io::Error::other(error)))?;
        let connecting = TlsConnector::from(self.config()?).connect(name, flow);
        let late = |_| Error::Late { host: host.into(), patience: PATIENCE };
        tokio::time::timeout(PATIENCE, connecting).await.map_err(late)?.map_err(failed)
    }

    fn config(&self) -> Result<Arc<ClientConfig>, Error> {
        if let Some(config) = self.0.get() {
            return Ok(config.clone());
        }
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let problem = found.errors.first().map(ToString::to_string).unwrap_or_else(|| "none were found".into());
            return Err(Error::Certificates(problem));
        }
        let config = config(roots)?;
        Ok(self.0.get_or_init(|| config).clone())
    }
}

fn config(roots: RootCertStore) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Certificates(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
impl Trust {
    /// Only these.
    pub(in crate::egress) fn only(roots: RootCertStore) -> Result<Self, Error> {
        Ok(Self(OnceLock::from(config(roots)?)))
    }
}
