//! Containers that the machines share: a slab, an indexed heap, a bit set, a histogram.

pub(crate) mod bits;
pub(crate) mod heap;
pub(crate) mod histogram;
pub(crate) mod number;
pub(crate) mod slab;
