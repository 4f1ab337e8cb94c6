//! A pool that a gateway keeps, as flags name it; those of `leasehold batch`.
//!
//! Invariant: the token comes from a file or the environment, and no error shows it.

use crate::CliError;
use leasehold_http::{ApiKey, Place};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// The environment variable with the token, where no file is given.
pub(crate) const TOKEN: &str = "LEASEHOLD_TOKEN";

const POOL: &str = "\
Address of a gateway's lease service (serve = \"leases\"): http://HOST:PORT, or with
/v1/pools/NAME where it has several pools. Each call leases a key there, so that many
processes share its keys within their limits. The gateway must tell the keys: its
listener needs token_file or [[caller]].";

#[derive(Debug, clap::Args)]
pub(crate) struct PoolArguments {
    /// Lease the keys of a gateway's pool, such as `http://HOST:PORT/v1/pools/NAME`
    #[arg(
        long,
        value_name = "URL",
        conflicts_with_all = ["url", "keys", "keys_env", "limit", "state"],
        long_help = POOL
    )]
    pool: Option<String>,
    /// File with the gateway's token or a caller's key [default: $LEASEHOLD_TOKEN]
    #[arg(long, value_name = "FILE", requires = "pool")]
    pool_token_file: Option<PathBuf>,
}

impl PoolArguments {
    /// Returns where the pool is; `None` without one.
    pub(crate) fn place(&self) -> Result<Option<Place>, CliError> {
        let file = self.pool_token_file.as_deref();
        let place = |pool: &String| place_of(pool, file, "--pool-token-file");
        self.pool.as_ref().map(place).transpose()
    }
}

/// Reads the address of a pool, with its token from a file, which this flag names, or from the environment.
pub(crate) fn place_of(
    pool: &str,
    token_file: Option<&Path>,
    flag: &str,
) -> Result<Place, CliError> {
    let place = Place::new(pool, token(token_file, flag)?);
    place.map_err(|error| CliError::usage(format!("--pool: {error}")))
}

fn token(file: Option<&Path>, flag: &str) -> Result<Option<ApiKey>, CliError> {
    let (text, source) = match file {
        Some(path) => {
            let source = format!("{flag}: {}", path.display());
            let text = fs::read_to_string(path);
            let text = text.map_err(|error| {
                CliError::usage(format!("{source}: {error}; give a file with the token"))
            })?;
            (text, source)
        }
        None => match env::var_os(TOKEN).filter(|text| !text.is_empty()) {
            Some(text) => (text.to_string_lossy().into_owned(), TOKEN.to_owned()),
            None => return Ok(None),
        },
    };
    let token = ApiKey::new(text);
    let token = token.map_err(|error| CliError::usage(format!("{source}: {error}")))?;
    Ok(Some(token))
}
