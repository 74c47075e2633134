//! The kernel interface of the load generator: sockets, epoll, descriptor tables, affinity. The only file of the
//! bench with `unsafe`; everything it hands out is safe to use.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// A TCP socket that never blocks.
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// Starts to connect from `source` (any port) to `target`. `receive_buffer` bounds what the kernel takes in while
    /// nobody reads.
    pub(crate) fn connect(source: Ipv4Addr, target: SocketAddrV4, receive_buffer: Option<i32>) -> io::Result<Socket> {
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers; the result is checked.
        let fd = check(unsafe { libc::socket(libc::AF_INET, kind, 0) })?;
        // SAFETY: `fd` was just made and nobody else owns it.
        let socket = Socket(unsafe { OwnedFd::from_raw_fd(fd) });
        // The port is chosen at connect(2), by the whole 4-tuple: otherwise a source address runs out of ports.
        socket.set(libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        socket.set(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
        if let Some(bytes) = receive_buffer {
            socket.set(libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)?;
        }
        let from = sockaddr(SocketAddrV4::new(source, 0));
        let len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        // SAFETY: `from` is a valid sockaddr_in of `len` bytes for the duration of the call.
        check(unsafe { libc::bind(fd, (&raw const from).cast(), len) })?;
        let to = sockaddr(target);
        // SAFETY: as for bind.
        match check(unsafe { libc::connect(fd, (&raw const to).cast(), len) }) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(socket),
        }
    }

    /// What became of the connect.
    pub(crate) fn take_error(&self) -> io::Result<()> {
        let mut value = 0i32;
        let mut len = size_of::<i32>() as libc::socklen_t;
        // SAFETY: `value` and `len` live through the call and `len` is the size of `value`.
        check(unsafe {
            libc::getsockopt(self.fd(), libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut value).cast(), &raw mut len)
        })?;
        if value == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(value)) }
    }

    /// recv(2): 0 at the end of the stream, `WouldBlock` when there is nothing.
    pub(crate) fn recv(&self, into: &mut [u8]) -> io::Result<usize> {
        // SAFETY: `into` is writable for its whole length.
        let n = unsafe { libc::recv(self.fd(), into.as_mut_ptr().cast(), into.len(), libc::MSG_DONTWAIT) };
        if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
    }

    /// send(2): how much the kernel took.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: `bytes` is readable for its whole length.
        let n = unsafe { libc::send(self.fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
        if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
    }

    /// Closes with a reset: nothing lingers, and no port is kept in TIME_WAIT.
    pub(crate) fn reset(self) {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        let len = size_of::<libc::linger>() as libc::socklen_t;
        // SAFETY: `linger` is a valid struct of `len` bytes. A failure only means an orderly close.
        unsafe { libc::setsockopt(self.fd(), libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), len) };
    }

    fn set(&self, level: i32, name: i32, value: i32) -> io::Result<()> {
        let len = size_of::<i32>() as libc::socklen_t;
        // SAFETY: `value` is an i32 and lives through the call.
        check(unsafe { libc::setsockopt(self.fd(), level, name, (&raw const value).cast(), len) }).map(drop)
    }

    fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Something happened on the socket that was added with this token.
#[derive(Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) token: usize,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The peer has sent its last byte, or the connection failed.
    pub(crate) hung_up: bool,
}

/// Edge-triggered epoll.
pub(crate) struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Epoll> {
        // SAFETY: no pointers; the result is checked.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: `fd` was just made and nobody else owns it.
        Ok(Epoll {
            fd: unsafe { OwnedFd::from_raw_fd(fd) },
            events: vec![libc::epoll_event { events: 0, u64: 0 }; 512],
        })
    }

    /// Once for the life of the socket: reads and writes both, edge-triggered, so that nothing is ever modified.
    pub(crate) fn add(&self, socket: &Socket, token: usize) -> io::Result<()> {
        let interest = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let mut event = libc::epoll_event { events: interest as u32, u64: token as u64 };
        // SAFETY: `event` lives through the call.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, socket.fd(), &raw mut event) })
            .map(drop)
    }

    /// Waits for at most `timeout`, which may be far below a millisecond.
    pub(crate) fn wait(&mut self, timeout: Duration) -> io::Result<usize> {
        let spec = libc::timespec { tv_sec: timeout.as_secs() as libc::time_t, tv_nsec: timeout.subsec_nanos().into() };
        let max = self.events.len() as i32;
        // SAFETY: `events` has room for `max` entries; `spec` lives through the call; no signal mask is given.
        let n = unsafe {
            libc::epoll_pwait2(self.fd.as_raw_fd(), self.events.as_mut_ptr(), max, &raw const spec, std::ptr::null())
        };
        match check(n) {
            Ok(n) => Ok(n as usize),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// The `i`th event of the last wait.
    pub(crate) fn ready(&self, i: usize) -> Ready {
        let event = self.events[i];
        let (bits, token) = (event.events as i32, event.u64 as usize);
        Ready {
            token,
            readable: bits & libc::EPOLLIN != 0,
            writable: bits & libc::EPOLLOUT != 0,
            hung_up: bits & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) != 0,
        }
    }
}

/// Gives the calling thread a descriptor table of its own: the limit of descriptors counts per table.
pub(crate) fn private_descriptors() -> io::Result<()> {
    // SAFETY: no pointers. Other threads keep their table; descriptors made before are valid in both.
    check(unsafe { libc::unshare(libc::CLONE_FILES) }).map(drop)
}

/// Raises the soft limit of descriptors to the hard one, which it returns.
pub(crate) fn raise_descriptor_limit() -> usize {
    // SAFETY: an all-zero rlimit is valid; both calls only use it while it lives.
    unsafe {
        let mut limit: libc::rlimit = zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            return 1024;
        }
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        limit.rlim_max as usize
    }
}

/// The cores that the calling thread may run on.
pub(crate) struct Affinity(libc::cpu_set_t);

/// Pins the calling thread, and what it starts from now on, to one core; returns where it could run before.
pub(crate) fn pin(core: usize) -> io::Result<Affinity> {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: both sets are valid cpu_set_t of `size` bytes; CPU_SET checks its index against that size.
    unsafe {
        let mut before: libc::cpu_set_t = zeroed();
        check(libc::sched_getaffinity(0, size, &raw mut before))?;
        let mut wanted: libc::cpu_set_t = zeroed();
        libc::CPU_SET(core, &mut wanted);
        check(libc::sched_setaffinity(0, size, &raw const wanted))?;
        Ok(Affinity(before))
    }
}

/// Undoes [`pin`].
pub(crate) fn unpin(before: &Affinity) {
    // SAFETY: a valid cpu_set_t of the given size. A failure leaves the thread pinned, which is harmless.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const before.0) };
}

/// Timers of the calling thread fire when asked to, not up to 50 µs later.
pub(crate) fn precise_timers() {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000u64, 0, 0, 0) };
}

/// CPU time of a process and all its threads, user and system, in nanoseconds; `None` when there is no such process.
pub(crate) fn process_cpu_ns(pid: u32) -> Option<u64> {
    let mut clock: libc::clockid_t = 0;
    let mut spec = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `clock` and `spec` live through the calls; `clock` is only used when the first one has set it.
    let result = unsafe {
        match libc::clock_getcpuclockid(pid as libc::pid_t, &raw mut clock) {
            0 => libc::clock_gettime(clock, &raw mut spec),
            _ => -1,
        }
    };
    (result == 0).then(|| spec.tv_sec as u64 * 1_000_000_000 + spec.tv_nsec as u64)
}

/// The child ends when the calling thread does, however that comes about.
pub(crate) fn die_with_parent(command: &mut Command) {
    // SAFETY: prctl is async-signal-safe and touches nothing of the parent.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
            Ok(())
        });
    }
}

/// SIGTERM.
pub(crate) fn terminate(pid: u32) {
    // SAFETY: no pointers; `pid` is our own child.
    unsafe { libc::kill(pid as libc::pid_t, libc::SIGTERM) };
}

/// Whether process `pid` exists.
pub(crate) fn alive(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}/stat")).exists()
}

fn sockaddr(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
