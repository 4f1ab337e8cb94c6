//! Brief spin before parking; compiled out under loom, where it would only add equal interleavings.

/// Rounds of the waiter at the head of the queue. It often gets its lease in the few microseconds that they
/// last, less than parking and waking take. Other waiters don't spin: they would take CPU time from leaseholders.
#[cfg(not(all(test, loom)))]
const ROUNDS: u32 = 12;
/// Rounds of busy waiting, each twice as long as the one before; the others yield to other threads.
#[cfg(not(all(test, loom)))]
const BUSY_ROUNDS: u32 = 7;

#[cfg(not(all(test, loom)))]
#[derive(Debug)]
pub(crate) struct Spin {
    rounds: u32,
    notified: core::sync::atomic::AtomicBool,
}

#[cfg(not(all(test, loom)))]
impl Spin {
    pub(crate) fn new(is_next: bool) -> Self {
        Self {
            rounds: if is_next { ROUNDS } else { 0 },
            notified: core::sync::atomic::AtomicBool::new(false),
        }
    }

    /// Ends the spin. Relaxed: it is only a hint, and the decision itself is read under a lock.
    pub(crate) fn notify(&self) {
        self.notified
            .store(true, core::sync::atomic::Ordering::Relaxed);
    }

    /// Spins until notified, for at most `rounds` rounds.
    pub(crate) fn wait(&self) {
        for round in 0..self.rounds {
            if self.notified.load(core::sync::atomic::Ordering::Relaxed) {
                return;
            }
            if round < BUSY_ROUNDS {
                (0..1 << round).for_each(|_| core::hint::spin_loop());
            } else {
                std::thread::yield_now();
            }
        }
    }
}

#[cfg(all(test, loom))]
#[derive(Debug)]
pub(crate) struct Spin;

#[cfg(all(test, loom))]
impl Spin {
    pub(crate) fn new(_is_next: bool) -> Self {
        Self
    }

    pub(crate) fn notify(&self) {}

    pub(crate) fn wait(&self) {}
}
