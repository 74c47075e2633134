//! What the runtime's own streams lack: a second handle by which one is stopped, a look at what waits, and what TCP measures.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use monoio::net::TcpStream;

/// A handle that stops the reading or writing of a stream while a task waits in it: nothing that is under way is ever cancelled.
#[derive(Debug)]
pub struct Stopper(OwnedFd);

impl Stopper {
    /// Of a stream.
    ///
    /// # Errors
    ///
    /// When there is no descriptor left.
    pub fn new(stream: &TcpStream) -> io::Result<Self> {
        // SAFETY: the stream is open while it is borrowed.
        let fd = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
        fd.try_clone_to_owned().map(Stopper)
    }

    /// What waits to read finds the end of the stream; writing goes on.
    pub fn stop_reading(&self) {
        // Fails only where the peer has gone.
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Read);
    }

    /// What waits to read or to write fails.
    pub fn stop(&self) {
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both);
    }
}

/// Whether nothing waits to be read: a connection on which something has come unasked, or its end, is of no use for another request.
pub fn is_quiet(stream: &TcpStream) -> bool {
    use rustix::net::{RecvFlags, recv};
    // SAFETY: the stream is open while it is borrowed.
    let fd = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    matches!(recv(fd, &mut [0u8; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT), Err(rustix::io::Errno::AGAIN))
}

/// The smoothed round trip of a TCP connection (TCP_INFO), in microseconds.
pub(super) fn rtt_us(fd: BorrowedFd<'_>) -> Option<u32> {
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, which is what there is room for.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len)
    };
    // SAFETY: all zeroes is a value of this struct of integers, and the kernel wrote some of them.
    let info = unsafe { info.assume_init() };
    (result == 0 && info.tcpi_rtt > 0).then_some(info.tcpi_rtt)
}
