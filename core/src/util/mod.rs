//! Containers shared by the machines: slab, indexed heap, bit set, histogram.
//!
//! Each states its own invariant; none of them knows a machine.

pub(crate) mod bits;
pub(crate) mod heap;
pub(crate) mod histogram;
pub(crate) mod number;
pub(crate) mod slab;
