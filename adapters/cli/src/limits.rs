//! The limits of all `--limit` flags together.

use crate::CliError;
use crate::values::LimitArgument;
use leasehold_core::limit::LimitSpecs;

/// Limits of each key, for all models and for single ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct JoinedLimits {
    pub(crate) all: Option<LimitSpecs>,
    pub(crate) by_model: Vec<(String, LimitSpecs)>,
}

/// Joins the limits of all flags, by model.
pub(crate) fn join_limits(
    arguments: &[LimitArgument],
    models: &[String],
) -> Result<JoinedLimits, CliError> {
    let mut joined = JoinedLimits::default();
    for (index, argument) in arguments.iter().enumerate() {
        let name = &argument.model;
        if let Some(model) = name.as_ref().filter(|it| !models.contains(it)) {
            return Err(CliError::usage(format!(
                "--limit {model}=: the model is not called; it must be one of --model or --review-model"
            )));
        }
        if arguments[..index].iter().any(|it| it.model == *name) {
            continue;
        }
        let same = arguments.iter().filter(|it| it.model == *name);
        let specs = same.flat_map(|it| it.limits.iter().copied()).collect();
        let limits = LimitSpecs::new(specs);
        let limits = limits.map_err(|error| CliError::usage(format!("--limit: {error}")))?;
        match name {
            Some(model) => joined.by_model.push((model.clone(), limits)),
            None => joined.all = Some(limits),
        }
    }
    Ok(joined)
}
