//! A connection that goes on in another protocol, such as a websocket.
//!
//! Invariant: the lease lasts as long as the tunnel, and either side's end of sending is passed on.

use super::connection::Connection;
use crate::backend::Backend;
use crate::record::{End, Record};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use leasehold_sync::{Lease, Outcome};
use std::rc::Rc;
use tokio::io::copy_bidirectional;
use tokio::task::spawn_local;

/// The two sides of a connection that goes on in another protocol.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) caller: OnUpgrade,
    pub(crate) backend: OnUpgrade,
    pub(crate) lease: Lease<Backend>,
}

impl Tunnel {
    /// Joins both sides once they are ready, in a task of its own.
    pub(crate) fn start(self, connection: Rc<Connection>, mut record: Box<Record>) {
        spawn_local(async move {
            // The connection counts as open until the tunnel ends.
            let _connection = connection;
            record.end = End::Upgraded;
            let (Ok(caller), Ok(backend)) = (self.caller.await, self.backend.await) else {
                // A lease that has expired meanwhile was taken back already.
                let _ = self.lease.release(Outcome::Failed);
                return;
            };
            let (mut caller, mut backend) = (TokioIo::new(caller), TokioIo::new(backend));
            // How a tunnel ends says nothing about the backend.
            if let Ok((_, sent)) = copy_bidirectional(&mut caller, &mut backend).await {
                record.count(usize::try_from(sent).unwrap_or(usize::MAX));
            }
            let _ = self.lease.release(Outcome::Ok);
        });
    }
}
