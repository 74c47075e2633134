//! The `ringgate` binary: arguments to configuration to node to exit code.

use std::process::ExitCode;

use ringgate::cli::{self, Outcome, Serve};
use ringgate::io::process;
use ringgate::log;
use ringgate::node::{self, RunOptions};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // First thing, before the allocator has mapped much.
    process::disable_huge_pages();
    match cli::run() {
        Outcome::Done(code) => code,
        Outcome::Serve(serve) => run(*serve),
    }
}

fn run(serve: Serve) -> ExitCode {
    let Serve { config, warnings, sources, ready_file } = serve;
    let log = log::init(&config.log);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    match node::run(config, RunOptions { ready_file, sources, log }) {
        Ok(()) => ExitCode::SUCCESS,
        // Not by the log, which may drop lines: the reason for not starting must arrive.
        Err(error) => {
            eprintln!("ringgate: {error}");
            ExitCode::FAILURE
        }
    }
}
