//! A program that uses limiters without `std` and without allocation.
//!
//! It builds only if `leasehold-core` can be used that way, and exits with 0 if the answers are right, otherwise with
//! the number of the first wrong one. Invariants, kept by compiler and linker:
//! - No `std`: a program has one panic handler, and this one defines its own.
//! - No allocation: the allocator calls an undefined function, so that a program that allocates can't be linked.

#![no_std]
#![no_main]
#![expect(
    unsafe_code,
    reason = "an entry point, an allocator and the symbols std would define need it"
)]

use core::alloc::{GlobalAlloc, Layout};
use core::ffi::c_int;
use core::num::NonZeroU32;
use core::panic::PanicInfo;
use core::time::Duration;
use leasehold_core::limit::{Anchor, BucketedWindow, Gcra, Limit, Wait};
use leasehold_core::time::Tick;

const MINUTE: Duration = Duration::from_secs(60);

/// The entry point that the C library calls.
#[unsafe(no_mangle)]
extern "C" fn main() -> c_int {
    match check_gcra().and_then(|()| check_window()) {
        Ok(()) => 0,
        Err(number) => number,
    }
}

/// Checks a GCRA of one unit per minute with a burst of two.
fn check_gcra() -> Result<(), c_int> {
    let two = NonZeroU32::MIN.saturating_add(1);
    let mut limit = Gcra::new(NonZeroU32::MIN, MINUTE, two).map_err(|_| 1)?;
    check(limit.try_acquire(at(5), 2) == Ok(at(5)), 2)?;
    check(limit.try_acquire(at(6), 1) == Err(Wait::Until(at(65))), 3)?;
    check(limit.earliest(at(6), 2) == Wait::Until(at(125)), 4)?;
    check(limit.earliest(at(6), 3) == Wait::Never, 5)?;
    check(limit.try_acquire(at(65), 1) == Ok(at(65)), 6)
}

/// Checks a window of three units per minute in buckets of ten seconds.
fn check_window() -> Result<(), c_int> {
    let three = NonZeroU32::MIN.saturating_add(2);
    let mut limit =
        BucketedWindow::<[u32; 7]>::inline(three, MINUTE, Anchor::Grant).map_err(|_| 11)?;
    check(limit.try_acquire(at(5), 3) == Ok(at(5)), 12)?;
    check(limit.try_acquire(at(65), 1) == Err(Wait::Until(at(70))), 13)?;
    check(limit.earliest(at(65), 4) == Wait::Never, 14)?;
    check(limit.try_acquire(at(70), 2) == Ok(at(70)), 15)?;
    limit.settle(at(71), at(70), 2, 1);
    check(limit.try_acquire(at(72), 2) == Ok(at(72)), 16)?;
    check(limit.worst_case(MINUTE) == 3, 17)
}

fn at(secs: u64) -> Tick {
    Tick::ZERO.saturating_add(Duration::from_secs(secs))
}

fn check(right: bool, number: c_int) -> Result<(), c_int> {
    if right { Ok(()) } else { Err(number) }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    abort()
}

/// The allocator that the `alloc` crate requires, which `core` links for its pool.
struct NoAllocator;

#[global_allocator]
static ALLOCATOR: NoAllocator = NoAllocator;

// SAFETY: it never returns memory, because a program that calls it can't be linked.
unsafe impl GlobalAlloc for NoAllocator {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        this_program_must_not_allocate()
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {
        this_program_must_not_allocate();
    }
}

// SAFETY: the C library defines `abort` with this signature; the other function is undefined.
#[link(name = "c")]
unsafe extern "C" {
    safe fn abort() -> !;
    // Not `!`: the optimizer would remove the call together with the code after it.
    safe fn this_program_must_not_allocate() -> *mut u8;
}

/// A symbol the compiled `core` names and `std` would define. Panics abort, so it is never called.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
