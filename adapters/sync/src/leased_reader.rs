//! A reader that holds the lease that its bytes come under.
//!
//! Invariant: the lease is released once: at the end, at the first error, or after the inner reader was dropped.

use crate::lease::Lease;
use core::fmt;
use leasehold_core::pool::{Outcome, Release};
use std::io::{ErrorKind, Read, Result};

/// A body that is read under a lease, until it ends, fails or is dropped.
///
/// | the reader | the lease is released |
/// |---|---|
/// | ends: a read into a buffer returned 0 bytes | as given to [`new`](Self::new) |
/// | fails | as [`Outcome::Failed`] |
/// | is dropped before its end | as [`abandoned`](Self::abandoned) says: [`Outcome::Unknown`] by default |
/// | is dropped in a panic | as [`Outcome::Failed`] |
///
/// [`Interrupted`](ErrorKind::Interrupted) and [`WouldBlock`](ErrorKind::WouldBlock) are no failures, because the
/// next read may succeed. A caller that learns the real cost only from the whole body keeps its [`Lease`] instead.
///
/// ```
/// use core::num::NonZeroU32;
/// use leasehold_sync::{LeasedReader, Member, Outcome, Policy, PoolConfig, SyncPool};
/// use std::io::Read;
///
/// let pool = SyncPool::new(PoolConfig::new(Policy::Fifo));
/// pool.add(Member::new("127.0.0.1:8001").max_leases(NonZeroU32::MIN))?;
/// let mut body = LeasedReader::new(&b"a page"[..], pool.acquire()?, Outcome::Ok);
/// assert!(pool.try_acquire().is_err());
/// let mut text = String::new();
/// body.read_to_string(&mut text)?;
/// assert!(pool.try_acquire().is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct LeasedReader<R, T> {
    // Dropped before `held`, so that the member has ended this body before it serves another.
    reader: R,
    held: Held<T>,
    complete: Release,
}

impl<R, T> LeasedReader<R, T> {
    /// Makes a reader that releases the lease like this at its end.
    pub fn new(reader: R, lease: Lease<T>, release: impl Into<Release>) -> Self {
        Self {
            reader,
            held: Held {
                lease: Some(lease),
                abandoned: Outcome::Unknown.into(),
            },
            complete: release.into(),
        }
    }

    /// Releases the lease like this if the reader is dropped before its end.
    #[must_use]
    pub fn abandoned(mut self, release: impl Into<Release>) -> Self {
        self.held.abandoned = release.into();
        self
    }

    /// Changes how the lease is released at the end, for instance after a part that tells the real cost.
    pub fn set_release(&mut self, release: impl Into<Release>) {
        self.complete = release.into();
    }

    /// The lease, for instance to renew it; `None` once it is released.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease<T>> {
        self.held.lease.as_ref()
    }

    /// The inner reader.
    #[must_use]
    pub fn get_ref(&self) -> &R {
        &self.reader
    }
}

impl<R: Read, T> Read for LeasedReader<R, T> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let answer = self.reader.read(buffer);
        match &answer {
            Ok(0) if !buffer.is_empty() => self.held.release(self.complete),
            Ok(_) => {}
            Err(error) => {
                let may_go_on = [ErrorKind::Interrupted, ErrorKind::WouldBlock];
                if !may_go_on.contains(&error.kind()) {
                    self.held.release(Outcome::Failed.into());
                }
            }
        }
        answer
    }
}

// Without the inner reader, which may show what it has buffered.
impl<R, T> fmt::Debug for LeasedReader<R, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeasedReader")
            .field("lease", &self.held.lease)
            .finish_non_exhaustive()
    }
}

struct Held<T> {
    lease: Option<Lease<T>>,
    abandoned: Release,
}

impl<T> Held<T> {
    fn release(&mut self, release: Release) {
        if let Some(lease) = self.lease.take() {
            // An expired lease has ended already; what was read is valid nevertheless.
            let _ = lease.release(release);
        }
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        // A lease that is dropped in a panic fails by itself.
        if !std::thread::panicking() {
            self.release(self.abandoned);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::SyncPool;
    use core::num::NonZeroU32;
    use leasehold_core::balance::Policy;
    use leasehold_core::limit::Cost;
    use leasehold_core::pool::stats::LeaseCounts;
    use leasehold_core::pool::{Member, PoolConfig};
    use std::io::{BufRead, BufReader, Error};
    use std::thread;

    fn pool() -> SyncPool<()> {
        let pool = SyncPool::new(PoolConfig::new(Policy::Fifo));
        let member = Member::new(()).max_leases(NonZeroU32::MIN);
        pool.add(member).expect("a small pool takes members");
        pool
    }

    fn counts(pool: &SyncPool<()>) -> LeaseCounts {
        pool.stats().total
    }

    fn is_leased(pool: &SyncPool<()>) -> bool {
        pool.stats().members[0].in_flight == 1
    }

    /// A reader of one answer after another.
    struct Script(Vec<Result<&'static [u8]>>);

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
            match self.0.is_empty() || buffer.is_empty() {
                true => Ok(0),
                false => self.0.remove(0)?.read(buffer),
            }
        }
    }

    #[test]
    fn the_lease_lasts_until_the_end_and_is_released_as_decided() {
        let pool = pool();
        let mut body = LeasedReader::new(&b"ab"[..], pool.acquire().unwrap(), Outcome::Ok);
        let mut byte = [0];
        for _ in 0..2 {
            assert_eq!(body.read(&mut byte).unwrap(), 1);
            assert_eq!(body.read(&mut []).unwrap(), 0);
            assert!(is_leased(&pool) && body.lease().is_some());
        }
        assert_eq!(body.read(&mut byte).unwrap(), 0);
        assert!(!is_leased(&pool) && body.lease().is_none());
        assert_eq!(body.read(&mut byte).unwrap(), 0);
        drop(body);
        assert_eq!((counts(&pool).ok, counts(&pool).granted), (1, 1));
    }

    #[test]
    fn an_error_fails_the_lease_unless_the_next_read_may_succeed() {
        let pool = pool();
        let script = Script(vec![
            Err(ErrorKind::Interrupted.into()),
            Err(ErrorKind::WouldBlock.into()),
            Ok(b"a"),
            Err(Error::other("the connection broke")),
        ]);
        let mut body = LeasedReader::new(script, pool.acquire().unwrap(), Outcome::Ok);
        let mut byte = [0];
        for _ in 0..2 {
            body.read(&mut byte).unwrap_err();
            assert!(is_leased(&pool));
        }
        assert_eq!(body.read(&mut byte).unwrap(), 1);
        assert!(is_leased(&pool));
        let broken = body.read(&mut byte).unwrap_err();
        assert_eq!(broken.to_string(), "the connection broke");
        assert!(!is_leased(&pool));
        assert_eq!(body.read(&mut byte).unwrap(), 0);
        assert_eq!((counts(&pool).failed, counts(&pool).ok), (1, 0));
    }

    #[test]
    fn a_reader_that_is_dropped_early_is_unknown_or_as_configured_and_failed_in_a_panic() {
        let pool = pool();
        drop(LeasedReader::new(
            &b"ab"[..],
            pool.acquire().unwrap(),
            Outcome::Ok,
        ));
        assert_eq!(counts(&pool).unknown, 1);
        let body = LeasedReader::new(&b"ab"[..], pool.acquire().unwrap(), Outcome::Ok);
        drop(body.abandoned(Outcome::Ok));
        assert_eq!(counts(&pool).ok, 1);
        let theirs = pool.clone();
        let panicked = thread::spawn(move || {
            let lease = theirs.acquire().unwrap();
            let _body = LeasedReader::new(&b"ab"[..], lease, Outcome::Ok).abandoned(Outcome::Ok);
            panic!("a reader that dies");
        });
        assert!(panicked.join().is_err());
        assert_eq!(counts(&pool).failed, 1);
        assert!(pool.try_acquire().is_ok());
    }

    #[test]
    fn the_inner_reader_is_gone_before_its_member_serves_another() {
        struct StillLeased(SyncPool<()>);
        impl Read for StillLeased {
            fn read(&mut self, _: &mut [u8]) -> Result<usize> {
                Ok(0)
            }
        }
        impl Drop for StillLeased {
            fn drop(&mut self) {
                assert!(is_leased(&self.0));
            }
        }
        let pool = pool();
        let reader = StillLeased(pool.clone());
        drop(LeasedReader::new(
            reader,
            pool.acquire().unwrap(),
            Outcome::Ok,
        ));
        assert!(!is_leased(&pool));
    }

    #[test]
    fn a_release_that_is_set_on_the_way_settles_the_cost() {
        let pool: SyncPool<()> = SyncPool::new(PoolConfig::new(Policy::Fifo));
        let specs: leasehold_core::limit::LimitSpecs = "10 tokens/d".parse().unwrap();
        pool.add(Member::new(()).limits(specs.limits())).unwrap();
        let tokens = |tokens| Cost {
            requests: 1,
            tokens,
        };
        let ask = |tokens_asked| {
            let request = crate::Request::new().cost(tokens(tokens_asked));
            pool.enqueue(request.deadline(pool.now()))
        };
        let lease = ask(10).unwrap().wait().unwrap();
        let text = &b"usage: 3\n[DONE]\n"[..];
        let mut body = BufReader::with_capacity(9, LeasedReader::new(text, lease, Outcome::Ok));
        let mut line = String::new();
        body.read_line(&mut line).unwrap();
        let used = line.trim_start_matches("usage: ").trim().parse().unwrap();
        let release = Release::from(Outcome::Ok).cost(tokens(used));
        body.get_mut().set_release(release);
        body.read_to_string(&mut line).unwrap();
        assert!(ask(8).is_err());
        assert!(ask(7).is_ok());
    }
}
