//! The locks and atomics of this crate: those of `std`, or loom's where loom explores the interleavings.

#[cfg(not(all(test, loom)))]
pub(crate) use core::sync::atomic::AtomicU64;
#[cfg(all(test, loom))]
pub(crate) use loom::sync::atomic::AtomicU64;
#[cfg(all(test, loom))]
pub(crate) use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
#[cfg(not(all(test, loom)))]
pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use std::sync::PoisonError;

/// Locks, whether poisoned or not; see the crate's documentation.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In cache lines of its own, two of which are fetched at a time, so that threads that change it don't slow down
/// those that read what lies beside it.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct CachePadded<V>(pub(crate) V);
