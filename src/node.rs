//! STUB of branch `config`: the lead drops this file on merge, branch `io` owns it.

use std::path::PathBuf;

use crate::config::{Config, Sources};
use crate::log::Log;

/// What the command line says beside the configuration.
#[derive(Debug)]
pub struct RunOptions {
    /// Where to write the bound addresses once connections are accepted.
    pub ready_file: Option<PathBuf>,
    /// What a reload reads again.
    pub sources: Sources,
    /// The log, whose level a reload may change.
    pub log: Log,
}

/// Why the node did not start.
#[derive(Debug, thiserror::Error)]
#[error("not in this branch")]
pub struct StartError;

/// Runs until it is told to stop.
pub fn run(_config: Config, _options: RunOptions) -> Result<(), StartError> {
    Err(StartError)
}
