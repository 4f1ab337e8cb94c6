//! HTTPS with a certificate of one's own. The files in `tests/tls` are for these tests only.

use super::*;
use crate::CaBundle;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

fn file(name: &str) -> String {
    format!("{}/tests/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Starts a server that answers every request with success; returns its URL.
fn start() -> String {
    let certificate = CertificateDer::from_pem_file(file("cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(file("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut reader = BufReader::new(StreamOwned::new(connection, stream.unwrap()));
            while read_request(&mut reader).is_some() {
                let Reply::Send(bytes) = success() else {
                    return;
                };
                reader.get_mut().write_all(&bytes).unwrap_or_default();
            }
        }
    });
    format!("https://{address}")
}

#[test]
fn a_certificate_of_an_unknown_authority_is_refused() {
    let error = client().chat(&endpoint(&start()), &request()).unwrap_err();
    assert_eq!(
        (error.kind(), error.verdict().next),
        (Kind::TlsFailed, Next::Stop)
    );
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(!error.was_sent());
}

#[test]
fn a_certificate_of_the_given_authority_is_accepted() {
    let ca = Some(CaBundle::read(file("ca.pem")).unwrap());
    let client = Client::new(ClientConfig {
        ca,
        ..ClientConfig::default()
    });
    let endpoint = endpoint(&start());
    for _ in 0..2 {
        assert_eq!(client.chat(&endpoint, &request()).unwrap().content(), "hi");
    }
}

#[test]
fn any_certificate_is_accepted_if_asked_for() {
    let config = ClientConfig {
        insecure_skip_verify: true,
        ..ClientConfig::default()
    };
    let answer = Client::new(config).chat(&endpoint(&start()), &request());
    assert_eq!(answer.unwrap().content(), "hi");
}
