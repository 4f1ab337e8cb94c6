//! Certificate authorities other than Mozilla's.
//!
//! Invariant: a [`CaBundle`] holds at least one certificate.

use core::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// Certificate authorities from a PEM file.
#[derive(Clone)]
pub struct CaBundle {
    path: PathBuf,
    certificates: Arc<Vec<Certificate<'static>>>,
}

impl CaBundle {
    /// Reads a PEM file; only its certificates are used.
    ///
    /// # Errors
    /// If the file can't be read, is not PEM, or has no certificates.
    pub fn read(path: impl Into<PathBuf>) -> Result<Self, CaError> {
        let path = path.into();
        let pem = match std::fs::read(&path) {
            Ok(pem) => pem,
            Err(source) => return Err(CaError::Read { path, source }),
        };
        let mut certificates = Vec::new();
        for item in parse_pem(&pem) {
            match item {
                Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
                Ok(_) => {}
                Err(_) => return Err(CaError::NotPem { path }),
            }
        }
        if certificates.is_empty() {
            return Err(CaError::Empty { path });
        }
        let certificates = Arc::new(certificates);
        Ok(Self { path, certificates })
    }

    /// Reads the file that `SSL_CERT_FILE` names, as OpenSSL and curl do; `None` if it is not set.
    ///
    /// # Errors
    /// As [`CaBundle::read`].
    pub fn from_env() -> Result<Option<Self>, CaError> {
        match std::env::var_os("SSL_CERT_FILE") {
            Some(path) if !path.is_empty() => Self::read(path).map(Some),
            Some(_) | None => Ok(None),
        }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Debug for CaBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CaBundle({}, {} certificates)",
            self.path.display(),
            self.certificates.len()
        )
    }
}

/// Returns ureq's settings of TLS.
pub(crate) fn tls_config(ca: Option<&CaBundle>, insecure_skip_verify: bool) -> TlsConfig {
    let roots = ca.map(|ca| RootCerts::Specific(Arc::clone(&ca.certificates)));
    TlsConfig::builder()
        .root_certs(roots.unwrap_or(RootCerts::WebPki))
        .disable_verification(insecure_skip_verify)
        .build()
}

/// The reason that a file holds no certificate authorities.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// The file can't be read.
    #[error("cannot read the certificates in {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// The file is not PEM.
    #[error("{} is not a PEM file; convert it with `openssl x509 -outform pem`", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
    },
    /// The file has no certificates.
    #[error("{} has no certificates (BEGIN CERTIFICATE)", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused_with_its_path() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (file, error) in [
            ("absent.pem", "cannot read the certificates in "),
            ("Cargo.toml", "has no certificates"),
            ("tests/tls/key.pem", "has no certificates"),
        ] {
            let found = CaBundle::read(folder.join(file)).unwrap_err().to_string();
            assert!(found.contains(error) && found.contains(file), "{found}");
        }
        let bundle = CaBundle::read(folder.join("tests/tls/ca.pem")).unwrap();
        assert!(
            format!("{bundle:?}").ends_with("ca.pem, 1 certificates)"),
            "{bundle:?}"
        );
    }
}
