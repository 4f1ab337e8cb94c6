//! Which of the members that could serve a request does.

mod ranked;

pub use ranked::Policy;
pub(crate) use ranked::{Rank, Standing};
