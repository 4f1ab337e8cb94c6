//! The calls of the lease service without its connections, as the pool's oracle makes them.

use super::undelivered::Undelivered;
use super::{Session, routes};
use crate::admin::AdminChanges;
use crate::backend_pool::PoolError;
use crate::callers::Accounts;
use crate::drain::Drain;
use crate::gateway::watch_pools;
use crate::names::Names;
use crate::reload::Reloads;
use crate::service::Identity;
use crate::shared::{Logs, OnDisk, Shared, Table};
use bytes::Bytes;
use core::time::Duration;
use http::{Method, StatusCode};
use leasehold_config::{ListenerSettings, Settings};
use leasehold_protocol::lease::LeaseError;
use std::sync::Arc;

/// The lease service of some settings, for tests.
#[derive(Debug)]
pub struct LeaseCalls {
    shared: Arc<Shared>,
    drain: Drain,
    lease_ttl: Duration,
}

/// An answer that its caller has yet to get; its leases are given back when it is dropped.
#[derive(Debug)]
pub struct LeaseAnswer {
    status: StatusCode,
    body: Vec<u8>,
    undelivered: Option<Undelivered>,
}

impl LeaseCalls {
    /// Makes the pools of the settings, within a tokio runtime.
    ///
    /// # Errors
    /// A pool's settings contradict each other.
    pub fn new(settings: Settings) -> Result<Self, PoolError> {
        let (names, accounts) = (Names::of_system(), Accounts::default());
        let changes = AdminChanges::default();
        let first = settings.listeners.first();
        let lease_ttl = first.map_or(ListenerSettings::LEASE_TTL, |listener| listener.lease_ttl);
        let table = Table::new(settings, None, &changes, &names, &accounts)?;
        let (disk, logs, reloads) = (OnDisk::default(), Logs::default(), Reloads::default());
        let shared = Shared::new(table, disk, logs, changes, reloads, names, accounts);
        Ok(Self {
            shared: Arc::new(shared),
            drain: Drain::default(),
            lease_ttl,
        })
    }

    /// Lets leases expire on time for as long as it is polled, within a tokio `LocalSet`.
    pub async fn watch(&self) {
        watch_pools(Arc::clone(&self.shared)).await;
    }

    /// Answers a call to a path, made by a program with the listener's token.
    pub async fn post(&self, path: &str, body: Vec<u8>) -> LeaseAnswer {
        let table = self.shared.table();
        let session = Session {
            table: &table,
            shared: &self.shared,
            drain: &self.drain,
            lease_ttl: self.lease_ttl,
            parent: None,
            identity: Identity {
                caller: None,
                account: self.shared.accounts().of(None),
                flow: 0,
                is_proven: true,
            },
        };
        let answer = match routes::find(&Method::POST, path) {
            routes::Found::Call(call) => session.answer(&call, &Bytes::from(body)).await,
            found @ (routes::Found::OtherMethods(_) | routes::Found::Nothing) => {
                Err(found.refusal())
            }
        };
        match answer {
            Ok(reply) => LeaseAnswer {
                status: StatusCode::OK,
                body: reply.body,
                undelivered: reply.undelivered,
            },
            Err(refusal) => LeaseAnswer {
                status: refusal.status,
                body: super::text_of(&LeaseError::of(&refusal)),
                undelivered: None,
            },
        }
    }
}

impl LeaseAnswer {
    /// Gives its caller the answer: its status and body.
    #[must_use]
    pub fn delivered(self) -> (u16, Vec<u8>) {
        if let Some(undelivered) = self.undelivered {
            undelivered.delivered();
        }
        (self.status.as_u16(), self.body)
    }
}
