//! The work of a run: how many tasks are left, wait for a key and are in flight.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Counts of a run's tasks.
#[derive(Debug)]
pub(crate) struct Load {
    in_flight: AtomicUsize,
    waiting: AtomicUsize,
    /// Parts of streamed answers that have not ended.
    streamed: AtomicU64,
    /// By model: tasks that have not ended.
    left: Vec<AtomicUsize>,
}

/// One that is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Counted<'a>(&'a AtomicUsize);

impl Load {
    pub(crate) fn new(left: Vec<usize>) -> Self {
        Self {
            in_flight: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            streamed: AtomicU64::new(0),
            left: left.into_iter().map(AtomicUsize::new).collect(),
        }
    }

    /// Counts a call.
    pub(crate) fn call(&self) -> Counted<'_> {
        Counted::new(&self.in_flight)
    }

    /// Counts a task that waits for a key.
    pub(crate) fn wait(&self) -> Counted<'_> {
        Counted::new(&self.waiting)
    }

    /// Counts a part of a streamed answer; its parts are taken off again once the answer has told its tokens.
    pub(crate) fn add_streamed(&self) {
        self.streamed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn take_streamed(&self, parts: u64) {
        self.streamed.fetch_sub(parts, Ordering::Relaxed);
    }

    /// Counts a task that has ended.
    pub(crate) fn end(&self, model: usize) {
        if let Some(left) = self.left.get(model) {
            left.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(crate) fn streamed(&self) -> u64 {
        self.streamed.load(Ordering::Relaxed)
    }

    /// By model: tasks that have not ended.
    pub(crate) fn left(&self) -> Vec<usize> {
        let left = self.left.iter();
        left.map(|left| left.load(Ordering::Relaxed)).collect()
    }
}

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
