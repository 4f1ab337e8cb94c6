//! The admin interface over real sockets.

mod calls;
mod documented;
mod events;
mod metrics;
mod pools;
mod reach;
mod state;
mod support;
