//! The `ringgate` binary: arguments to configuration to node to exit code.

use std::process::ExitCode;

use ringgate::cli::{self, Outcome, Serve};
use ringgate::log;
use ringgate::node::{self, RunOptions};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Transparent huge pages double the memory of many small things at rest. First thing, before the allocator has mapped much; where the
    // kernel has none there is nothing to switch off.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
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
