//! What listeners of services and of leases share: the request, its access, and the reading of its body.

mod access;

pub(crate) use access::{Identity, check, given};

use crate::listener::Listener;
use crate::proxy::{Connection, Target};
use crate::shared::{Shared, Table};
use bytes::Bytes;
use core::net::IpAddr;
use core::time::Duration;
use http::StatusCode;
use http::request::Parts;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use leasehold_protocol::Refusal;
use tokio::sync::OwnedSemaphorePermit;

/// Bytes of the memory that bodies share, as a permit counts them.
const PERMIT: usize = 1_024;

/// A request to a listener that has callers with keys.
pub(crate) struct Asked<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) table: &'a Table,
    pub(crate) listener: &'a Listener,
    pub(crate) parts: &'a Parts,
    pub(crate) target: Target<'a>,
    pub(crate) client: Option<IpAddr>,
}

/// Reads a body whole, and takes its part of the memory for bodies.
pub(crate) async fn read_whole(
    mut body: Incoming,
    max: u64,
    shared: &Shared,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Refusal> {
    let mut bytes = Vec::new();
    let mut held: Option<OwnedSemaphorePermit> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            Refusal::new(
                StatusCode::BAD_REQUEST,
                "bad_body",
                "the request's body was cut",
            )
        })?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        bytes.extend_from_slice(data);
        if bytes.len() as u64 > max {
            let text = format!("the body has more than {max} bytes");
            return Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_long",
                text,
            ));
        }
        let needed = bytes.len().div_ceil(PERMIT);
        let has = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if needed > has {
            let more = shared
                .take_memory(needed.saturating_sub(has))
                .ok_or_else(|| {
                    let text = "the gateway holds as many requests as its memory is for; ask again";
                    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "no_memory", text)
                        .with_wait(Some(Duration::from_secs(1)))
                })?;
            match &mut held {
                Some(held) => held.merge(more),
                None => held = Some(more),
            }
        }
    }
    Ok((bytes.into(), held))
}
