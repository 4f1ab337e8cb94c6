//! Many ComfyUI servers behind one address: what callers see, and what each server saw.

mod alerts;
mod callers;
#[expect(dead_code, reason = "the proxy's tests use all of it")]
#[path = "../proxy/collector.rs"]
mod collector;
mod files;
#[expect(dead_code, reason = "the proxy's tests use all of it")]
#[path = "../proxy/support.rs"]
mod http;
mod lists;
mod operator;
mod page;
mod socket;
mod spread;
mod support;
mod trace;
mod trouble;
