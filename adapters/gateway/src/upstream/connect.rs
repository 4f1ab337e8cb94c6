//! New connections to backends.
//!
//! Invariant: a connection that is not made within its time is given up, whatever of it hangs.

use super::connection::BackendConnection;
use crate::backend::Backend;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The name has no address.
    #[error("no address of {host} was found: {source}")]
    NoAddress {
        /// The name.
        host: String,
        /// The resolver's error.
        source: io::Error,
    },
    /// The address refused, or can't be reached.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The backend's certificate is wrong, or there is no common version of TLS.
    #[error("TLS: {0}")]
    Tls(io::Error),
    /// The backend answered with something else, or not at all.
    #[error("TLS: it does not speak TLS; is its URL one of http? ({0})")]
    NoTls(io::Error),
    /// There was no connection in time.
    #[error("no connection within {0:?}")]
    TimedOut(Duration),
}

/// Connects to a backend within a time.
pub(crate) async fn connect(
    backend: &Backend,
    within: Duration,
) -> Result<BackendConnection, ConnectError> {
    let stream = connect_stream(backend, within).await?;
    let connection = BackendConnection::open(stream).await;
    Ok(connection.map_err(io::Error::other)?)
}

/// Opens a stream for requests that are sent without hyper.
pub(crate) async fn connect_stream(
    backend: &Backend,
    within: Duration,
) -> Result<BackendStream, ConnectError> {
    let connected = timeout(within, open(backend)).await;
    connected.map_err(|_| ConnectError::TimedOut(within))?
}

async fn open(backend: &Backend) -> Result<BackendStream, ConnectError> {
    let tcp = open_tcp(backend).await?;
    Ok(match backend.tls() {
        None => BackendStream::Plain(tcp),
        Some(tls) => {
            let stream = tls.connector.connect(tls.name.clone(), tcp).await;
            BackendStream::Secure(Box::new(stream.map_err(tls_error)?))
        }
    })
}

/// Tells a backend that does not speak TLS from one that speaks it wrongly.
fn tls_error(error: io::Error) -> ConnectError {
    let inner = error.get_ref();
    let inner = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let is_no_message = matches!(inner, Some(rustls::Error::InvalidMessage(_)));
    match is_no_message || error.kind() == io::ErrorKind::UnexpectedEof {
        true => ConnectError::NoTls(error),
        false => ConnectError::Tls(error),
    }
}

async fn open_tcp(backend: &Backend) -> Result<TcpStream, ConnectError> {
    let addresses = backend.addresses().await;
    let addresses = addresses.map_err(|source| ConnectError::NoAddress {
        host: backend.host().to_owned(),
        source,
    })?;
    // Tries each in turn, and returns the last one's error.
    let stream = TcpStream::connect(&*addresses).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The bytes from and to a backend.
#[derive(Debug)]
pub(crate) enum BackendStream {
    Plain(TcpStream),
    Secure(Box<TlsStream<TcpStream>>),
}

impl BackendStream {
    /// Whether its bytes are written as they are, without TLS.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }
}

impl AsyncRead for BackendStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Secure(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for BackendStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Secure(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Secure(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Secure(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Secure(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Secure(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
