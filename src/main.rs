//! The `ringgate` binary: arguments to configuration to node to exit code.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Transparent huge pages double the memory of many small things at rest. First thing, before the allocator has mapped much; where the
    // kernel has none there is nothing to switch off.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    ringgate::cli::main()
}
