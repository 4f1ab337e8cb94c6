#![doc = include_str!("../README.md")]

mod access_log;
mod account;
mod addresses;
mod admin;
mod affinity;
mod alerts;
mod backend;
mod backend_pool;
mod bind;
mod buffers;
mod caller_limits;
mod callers;
mod clock;
mod comfyui;
mod connections;
mod dashboard;
mod drain;
mod gateway;
mod heartbeat;
mod leases;
mod lent;
mod listener;
mod names;
mod openai;
mod operator_log;
mod otlp;
mod passed;
mod patience;
mod probes;
mod proxy;
mod reach;
mod record;
mod reload;
mod resources;
mod service;
mod shared;
mod state;
mod trace;
mod upstream;
mod waiting;
mod worker;

#[doc(hidden)]
pub use admin::read_admin_request;
pub use backend_pool::PoolError;
pub use comfyui::JournalError;
pub use gateway::{Gateway, StartError};
pub use heartbeat::Heartbeats;
#[doc(hidden)]
pub use leases::{LeaseAnswer, LeaseCalls};
#[doc(hidden)]
pub use names::{LookUp, LookedUp};
pub use operator_log::{LogFlush, OperatorLog};
pub use passed::{PassedError, PassedSockets};
#[doc(hidden)]
pub use proxy::{DirectAnswer, pass_headers_on, plain_request, read_answer};
pub use reach::{Reach, Reached, ReceiverReach, reach_members, reach_receivers};
pub use reload::SettingsSource;
pub use shared::ReloadError;
#[doc(hidden)]
pub use state::rewrite_state;
pub use state::{StateError, StateFound, StateUser, examine_state};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex whose data is whole between any two statements, so that a panic under it does no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
