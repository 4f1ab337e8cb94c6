//! Lock and atomic types of this crate: `std`'s, or loom's under `all(test, loom)`.

#[cfg(not(all(test, loom)))]
pub(crate) use core::sync::atomic::AtomicU64;
#[cfg(all(test, loom))]
pub(crate) use loom::sync::atomic::AtomicU64;
#[cfg(all(test, loom))]
pub(crate) use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
#[cfg(not(all(test, loom)))]
pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use std::sync::PoisonError;

/// Locks, ignoring poison; the crate's documentation says why that is sound.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value aligned to 128 bytes against false sharing; processors fetch 64-byte cache lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct CachePadded<V>(pub(crate) V);
