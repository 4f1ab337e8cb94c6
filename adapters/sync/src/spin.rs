//! Looking for news for a while before falling asleep, which loom has no need to tell apart.

/// One who is next in line looks for some microseconds, in which it would not even have fallen asleep and been
/// woken again; all others would only burn what those at work need.
#[cfg(not(all(test, loom)))]
#[derive(Debug)]
pub(crate) struct Spin {
    looks: u32,
    seen: core::sync::atomic::AtomicBool,
}

#[cfg(not(all(test, loom)))]
impl Spin {
    pub(crate) fn new(is_next: bool) -> Self {
        Self {
            looks: if is_next { 12 } else { 0 },
            seen: core::sync::atomic::AtomicBool::new(false),
        }
    }

    /// Says that there is news. That itself is read under a lock.
    pub(crate) fn call(&self) {
        self.seen.store(true, core::sync::atomic::Ordering::Relaxed);
    }

    /// Looks until there is news, or for as long as it pays: twice as long each time, and then with other
    /// threads in between.
    pub(crate) fn look(&self) {
        for look in 0..self.looks {
            if self.seen.load(core::sync::atomic::Ordering::Relaxed) {
                return;
            }
            if look < 7 {
                (0..1 << look).for_each(|_| core::hint::spin_loop());
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

    pub(crate) fn call(&self) {}

    pub(crate) fn look(&self) {}
}
