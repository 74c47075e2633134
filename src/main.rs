//! The `ringgate` binary: arguments to configuration to node to exit code.

use std::process::ExitCode;

use ringgate::cli::{self, Outcome, Serve};

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

fn run(_serve: Serve) -> ExitCode {
    eprintln!("ringgate: serving comes with the next merge");
    ExitCode::FAILURE
}
