//! The dashboard: one page that loads nothing else, and the stream of figures that it shows.
//!
//! ```text
//! pools, callers, jobs ── figures ─┐
//! changes, refusals ───── recent ──┼── feed ── /lb/events?view=figures ── page
//! counts of the pools ─── history ─┘
//! ```
//! Invariant: figures are gathered once a second, and soon after a change, for all watchers together; not at all
//! without one. All that is kept is bounded.

mod feed;
mod figures;
mod history;
mod page;
mod patch;
mod recent;

pub(crate) use feed::{Feed, subscribe, watch};
pub(crate) use page::page;
pub(crate) use recent::Recent;
