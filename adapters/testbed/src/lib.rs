#![doc = include_str!("../README.md")]

extern crate alloc;

mod backend;
#[cfg(test)]
mod client;
mod clock;
mod comfyui;
mod judge;
mod limit;
mod multipart;
mod occurrence;
mod openai;
mod raw;
mod reply;
mod report;
mod server;
mod text;
mod watched;

pub use backend::{
    Backend, BackendConfig, BackendError, BackendFault, BackendFaultError, BackendFaultRule,
    BackendReport, ConnectionReport, SeenRequest,
};
pub use comfyui::{
    Comfy, ComfyAge, ComfyAgeError, ComfyConfig, ComfyError, ComfyFault, ComfyFaultError,
    ComfyGuard, ComfyJobTime, ComfyPromptReport, ComfyReport, ComfyStart,
};
pub use limit::{Limit, LimitError, LimitUnit};
pub use occurrence::Occurrence;
pub use openai::{
    BytesFault, Call, CallStatus, Control, DisguiseFault, Fault, FaultGroup, FaultRule,
    FaultRuleError, FramingFault, KeyFault, ModelRule, OpenAi, OpenAiConfig, Outage, OutageError,
    OverloadFault, RateLimitFault, Recording, RequestFault, ShapeFault, StartError, StreamFault,
    TransportFault, UnknownFault,
};
pub use raw::{RawBackend, RawBackendConfig, RawConnection, RawRefusal, RawRequest};
pub use report::{KeyReport, LimitReport, Report};
