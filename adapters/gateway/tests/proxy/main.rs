//! The proxy end to end: real backends, real sockets, judged by what the backends saw.

mod alerts;
mod balance;
mod collector;
mod failure;
mod framing;
mod health;
mod leases;
mod limits;
mod names;
mod openai;
mod otlp;
mod passing;
mod python;
mod reload;
mod remote;
mod support;
mod time;
mod tls;
mod transports;
mod waiting;
