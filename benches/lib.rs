//! What the benchmarks share: nothing yet but this package's place.
