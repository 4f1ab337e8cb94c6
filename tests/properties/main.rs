//! Properties of the core, each held against the plain oracle of its model, and the replay of what the
//! fuzzer has collected.

mod corpus;
mod limits;
mod pool;
