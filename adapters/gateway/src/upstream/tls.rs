//! TLS towards backends.
//!
//! Invariant: a backend's certificate is always verified, by the authorities in `SSL_CERT_FILE` if that is set, and by
//! Mozilla's otherwise.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::sync::{Arc, OnceLock};
use tokio_rustls::TlsConnector;

/// How a backend is reached by TLS.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) connector: TlsConnector,
    pub(crate) name: ServerName<'static>,
}

impl Tls {
    /// Prepares TLS for a host.
    ///
    /// # Errors
    /// The host has no name that a certificate can have, or there are no authorities.
    pub(crate) fn new(host: &str) -> Result<Self, String> {
        static CONFIG: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
        let config = CONFIG.get_or_init(client_config).clone()?;
        let name =
            ServerName::try_from(host.to_owned()).map_err(|error| format!("{host}: {error}"))?;
        Ok(Self {
            connector: TlsConnector::from(config),
            name,
        })
    }
}

impl core::fmt::Debug for Tls {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Tls").field(&self.name).finish()
    }
}

fn client_config() -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()) {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            let error = |problem: String| format!("SSL_CERT_FILE {}: {problem}", path.display());
            let certificates = CertificateDer::pem_file_iter(&path)
                .map_err(|problem| error(problem.to_string()))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|problem| error(problem.to_string()))?;
                roots
                    .add(certificate)
                    .map_err(|problem| error(problem.to_string()))?;
            }
            if roots.is_empty() {
                return Err(error("it holds no certificate".to_owned()));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    Ok(Arc::new(
        builder.with_root_certificates(roots).with_no_client_auth(),
    ))
}
