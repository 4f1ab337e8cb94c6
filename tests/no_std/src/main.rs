//! A program without `std` and without allocation that limits.
//!
//! Building it decides whether `leasehold-core` can be used so; running it, whether the answers are
//! right (exit code 0; otherwise the number of the first that is wrong). Invariants, kept by compiler
//! and linker:
//! - no `std`: there can be one panic handler in a program, and it is this one's;
//! - no allocation: the allocator calls a function that is nowhere defined, so that the program can't be
//!   linked if anything in it allocates.

#![no_std]
#![no_main]
#![expect(
    unsafe_code,
    reason = "entry point, allocator and what std would define can't be written without"
)]

use core::alloc::{GlobalAlloc, Layout};
use core::ffi::c_int;
use core::num::NonZeroU32;
use core::panic::PanicInfo;
use core::time::Duration;
use leasehold_core::limit::{Anchor, BucketedWindow, Gcra, Limit, Wait};
use leasehold_core::time::Tick;

const MINUTE: Duration = Duration::from_secs(60);

/// What the C library calls.
#[unsafe(no_mangle)]
extern "C" fn main() -> c_int {
    match gcra().and_then(|()| window()) {
        Ok(()) => 0,
        Err(wrong) => wrong,
    }
}

/// One a minute, two at once.
fn gcra() -> Result<(), c_int> {
    let two = NonZeroU32::MIN.saturating_add(1);
    let mut limit = Gcra::new(NonZeroU32::MIN, MINUTE, two).map_err(|_| 1)?;
    is(limit.try_acquire(at(5), 2) == Ok(at(5)), 2)?;
    is(limit.try_acquire(at(6), 1) == Err(Wait::Until(at(65))), 3)?;
    is(limit.earliest(at(6), 2) == Wait::Until(at(125)), 4)?;
    is(limit.earliest(at(6), 3) == Wait::Never, 5)?;
    is(limit.try_acquire(at(65), 1) == Ok(at(65)), 6)
}

/// Three a minute, counted in buckets of ten seconds.
fn window() -> Result<(), c_int> {
    let three = NonZeroU32::MIN.saturating_add(2);
    let mut limit =
        BucketedWindow::<[u32; 7]>::inline(three, MINUTE, Anchor::Grant).map_err(|_| 11)?;
    is(limit.try_acquire(at(5), 3) == Ok(at(5)), 12)?;
    is(limit.try_acquire(at(65), 1) == Err(Wait::Until(at(70))), 13)?;
    is(limit.earliest(at(65), 4) == Wait::Never, 14)?;
    is(limit.try_acquire(at(70), 2) == Ok(at(70)), 15)?;
    limit.settle(at(71), at(70), 2, 1);
    is(limit.try_acquire(at(72), 2) == Ok(at(72)), 16)?;
    is(limit.worst_case(MINUTE) == 3, 17)
}

fn at(secs: u64) -> Tick {
    Tick::ZERO.saturating_add(Duration::from_secs(secs))
}

fn is(right: bool, number: c_int) -> Result<(), c_int> {
    if right { Ok(()) } else { Err(number) }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    abort()
}

/// The `alloc` crate, which the core links for its pool, wants an allocator to be there.
struct NoAllocator;

#[global_allocator]
static ALLOCATOR: NoAllocator = NoAllocator;

// SAFETY: it never returns memory, because no program that calls it can be linked.
unsafe impl GlobalAlloc for NoAllocator {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        this_program_must_not_allocate()
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {
        this_program_must_not_allocate();
    }
}

// SAFETY: the C library has such an `abort`; the other is defined nowhere.
#[link(name = "c")]
unsafe extern "C" {
    safe fn abort() -> !;
    // Not `!`: what follows a call that never returns is optimized away, and the call with it.
    safe fn this_program_must_not_allocate() -> *mut u8;
}

/// The compiled `core` names this symbol, which `std` would define. Nothing unwinds, so nothing calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
