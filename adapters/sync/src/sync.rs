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
#[cfg(not(all(test, loom)))]
use std::sync::TryLockError;

/// Locks, ignoring poison; the crate's documentation says why that is sound.
///
/// A thread that finds the lock taken gives way once before it sleeps: locks are held for about a microsecond, so that
/// the holder was probably interrupted, and runs on at once. `benches/contend.rs` counts the switches that this saves.
#[cfg(not(all(test, loom)))]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.try_lock() {
        Ok(guard) => return guard,
        Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => std::thread::yield_now(),
    }
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks; to give way before would only add equal interleavings.
#[cfg(all(test, loom))]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value aligned to 128 bytes against false sharing; processors fetch 64-byte cache lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct CachePadded<V>(pub(crate) V);
