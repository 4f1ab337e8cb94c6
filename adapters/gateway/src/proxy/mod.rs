//! One exchange, from a caller's bytes to the end of its answer.
//!
//! ```text
//! caller_io ── connection ─┬─ exchange: head, admin, limits, route ── forward: lease, send, repeat ── answer
//!  (framing)               │                                            hyper_transport         (lease, log end)
//!                          └─ direct: plain requests, by the same exchange and forward, without hyper
//! ```
//! Invariant: each file is one step or one part of it, and only `connection`, `hyper_transport`, `caller_body` and `answer` know
//! hyper.

mod answer;
mod caller_body;
mod caller_io;
mod connection;
mod direct;
mod exchange;
mod fields;
mod forward;
mod framing;
mod fuzz;
mod head;
mod headers;
mod hyper_transport;
mod refusal;
mod rewound;
mod upgrade;

pub(crate) use answer::{AnswerBody, BackendBody, CutAnswer};
pub(crate) use caller_body::{CallerBody, Progress};
pub(crate) use caller_io::CallerState;
pub(crate) use connection::{Connection, serve};
#[doc(hidden)]
pub use direct::{DirectAnswer, plain_request, read_answer};
pub(crate) use fields::Fields;
#[doc(hidden)]
pub use fuzz::pass_headers_on;
pub(crate) use head::Target;
pub(crate) use headers::{Peer, X_REQUEST_ID, copied, remove_hop_by_hop};
pub(crate) use refusal::Refusal;
