#![doc = include_str!("../README.md")]

mod alert;
mod callers;
mod check;
mod error;
mod file;
mod flags;
mod inputs;
mod keys;
mod load;
mod log;
mod network;
mod otlp;
mod print;
mod read;
mod resolve;
mod schema;
mod settings;
mod source;
mod substitute;
mod token;

pub use alert::{AlertSettings, AlertWhen, ParseAlertError, Webhook};
pub use callers::{
    CallerSettings, KeyHash, ModelPattern, ModelPrice, MoneyBudget, ParseCallerNameError,
    ParseKeyHashError, ParseModelPatternError,
};
pub use error::{ConfigError, Mistake, Place, Problem};
pub use flags::{
    Backend, ComfyuiServers, Flags, FlagsError, ParseBackendError, ParseServerUrlError, ServerUrl,
    Service,
};
pub use inputs::{Given, Inputs, MAX_BYTES, Process};
pub use keys::{Key, KeysError};
pub use load::MAX_FILES;
pub use network::{Network, ParseNetworkError};
pub use schema::schema;
pub use settings::*;
pub use token::{Token, TokenError};
