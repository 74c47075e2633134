//! Signals, as something to wait for beside the shards.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

/// What a signal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// SIGTERM, SIGINT.
    End,
    /// SIGHUP.
    Reload,
}

/// Takes SIGTERM, SIGINT and SIGHUP for as long as it lives.
#[derive(Debug)]
pub(super) struct Signals(SignalDelivery<UnixStream, SignalOnly>);

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        SignalDelivery::with_pipe(read, write, SignalOnly, [SIGTERM, SIGINT, SIGHUP]).map(Signals)
    }

    /// Waits for a signal, or until `other` is readable, or until `deadline`.
    pub(super) fn wait(&self, other: BorrowedFd<'_>, deadline: Option<Instant>) {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let signals = self.0.get_read().as_fd();
        let mut fds = [PollFd::new(&signals, PollFlags::IN), PollFd::new(&other, PollFlags::IN)];
        // Interrupted or not, the caller looks at everything.
        let _ = poll(&mut fds, timeout.as_ref());
    }

    /// Those that came since the last call.
    pub(super) fn pending(&mut self) -> Vec<Signal> {
        let meaning = |signal| if signal == SIGHUP { Signal::Reload } else { Signal::End };
        self.0.pending().map(meaning).collect()
    }
}
