//! The listening socket of one shard: SO_REUSEPORT, so that the kernel spreads the connections over the shards.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, acceptfrom_with, bind, getsockname, listen, socket_with, sockopt,
};

use crate::limits::{TICK_MS, UNSENT_BYTES_MAX};

/// Connections turned away through the reserve descriptor before the listener rests until the next tick.
const TURNED_AWAY_PER_TURN: u32 = 16;

/// What came of one try.
#[derive(Debug)]
pub enum Accepted {
    /// A connection, with TCP_NODELAY set, and its remote address (an IPv4 one as such, even on an IPv6 listener).
    Connection(OwnedFd, SocketAddr),
    /// Nobody waits.
    Nobody,
    /// No descriptor is left. The connection was closed through the reserve where there is one; `rest` says to leave it for now.
    Exhausted {
        /// The listener rests.
        rest: bool,
    },
    /// Something else went wrong with that one connection, or with the system's memory.
    Failed(Errno),
}

/// See the module. Make it after `unshare(CLONE_FILES)`: its reserve belongs to this thread's table.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    address: SocketAddr,
    /// Given up for a moment to take a connection that has no place, and close it: otherwise it waits in the kernel until it times out.
    reserve: Option<OwnedFd>,
    turned_away: u32,
    rest_until_ms: u64,
    ready: bool,
}

impl Listener {
    /// Whether nobody listens on `address` yet. The shards of one process share theirs, and without this look a second gateway would
    /// silently share it too, and take a part of the clients.
    ///
    /// # Errors
    ///
    /// When somebody does, or the address cannot be bound.
    pub fn probe(address: SocketAddr) -> io::Result<()> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let fd = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseaddr(&fd, true)?;
        Ok(bind(&fd, &address)?)
    }

    /// Listens on `address`; port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// When the address cannot be bound.
    pub fn bind(address: SocketAddr, backlog: u32) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_socket_reuseaddr(&fd, true)?;
        sockopt::set_socket_reuseport(&fd, true)?;
        // Accepted sockets inherit it.
        sockopt::set_tcp_nodelay(&fd, true)?;
        bound_unsent(&fd)?;
        bind(&fd, &address)?;
        listen(&fd, i32::try_from(backlog).unwrap_or(i32::MAX))?;
        let address = SocketAddr::try_from(getsockname(&fd)?)?;
        Ok(Listener { fd, address, reserve: reserve(), turned_away: 0, rest_until_ms: 0, ready: false })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What becomes readable when somebody connects.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Somebody waits, as far as is known.
    pub fn set_ready(&mut self) {
        self.ready = true;
    }

    /// Whether to try [`Listener::accept`] now.
    pub fn wants_accept(&self, now_ms: u64) -> bool {
        self.ready && now_ms >= self.rest_until_ms
    }

    /// Takes one connection.
    pub fn accept(&mut self, now_ms: u64) -> Accepted {
        match self.try_accept() {
            Ok(Some((fd, peer))) => Accepted::Connection(fd, peer),
            Ok(None) => {
                self.ready = false;
                Accepted::Nobody
            }
            Err(Errno::MFILE | Errno::NFILE) => {
                if self.reserve.take().is_some() {
                    self.ready = !matches!(self.try_accept(), Ok(None));
                    self.reserve = reserve();
                    self.turned_away += 1;
                }
                let rest = self.reserve.is_none() || self.turned_away >= TURNED_AWAY_PER_TURN;
                if rest {
                    self.rest(now_ms);
                }
                Accepted::Exhausted { rest }
            }
            Err(e @ (Errno::NOBUFS | Errno::NOMEM)) => {
                self.rest(now_ms);
                Accepted::Failed(e)
            }
            // The connection failed before it was accepted (accept(2) passes on its pending errors).
            Err(e) => Accepted::Failed(e),
        }
    }

    /// With each tick: gets the reserve back where it was lost.
    pub fn tick(&mut self) {
        self.turned_away = 0;
        if self.reserve.is_none() {
            self.reserve = reserve();
        }
    }

    fn rest(&mut self, now_ms: u64) {
        self.rest_until_ms = now_ms + TICK_MS;
        self.turned_away = 0;
    }

    fn try_accept(&self) -> Result<Option<(OwnedFd, SocketAddr)>, Errno> {
        loop {
            match acceptfrom_with(&self.fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok((fd, Some(peer))) => {
                    let peer = SocketAddr::try_from(peer)?;
                    return Ok(Some((fd, SocketAddr::new(peer.ip().to_canonical(), peer.port()))));
                }
                Ok((_, None)) => return Err(Errno::CONNABORTED),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// Bounds what the kernel queues for a client beyond what is in flight ([`UNSENT_BYTES_MAX`]), unless the operator has set a lower bound for
/// the whole system. Else a client that does not read has the kernel keep megabytes for it (`net.ipv4.tcp_wmem`), where no class, mark or
/// budget reaches them.
fn bound_unsent(fd: &OwnedFd) -> io::Result<()> {
    let system = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_notsent_lowat").ok();
    if system.and_then(|text| text.trim().parse().ok()).is_some_and(|bytes: u64| bytes <= UNSENT_BYTES_MAX) {
        return Ok(());
    }
    let bytes = UNSENT_BYTES_MAX as libc::c_int;
    let (value, len) = ((&raw const bytes).cast(), size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: the value is an int of that length, and outlives the call.
    match unsafe { libc::setsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, value, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn reserve() -> Option<OwnedFd> {
    eventfd(0, EventfdFlags::CLOEXEC).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn listeners_share_a_port_that_the_first_one_found_and_sockets_have_nodelay() {
        let mut first = Listener::bind("127.0.0.1:0".parse().unwrap(), 64).unwrap();
        assert_ne!(first.address().port(), 0);
        let mut second = Listener::bind(first.address(), 64).unwrap();
        assert_eq!(second.address(), first.address());
        let clients: Vec<_> = (0..32).map(|_| TcpStream::connect(first.address()).unwrap()).collect();
        let mut accepted = 0;
        for listener in [&mut first, &mut second] {
            while let Accepted::Connection(fd, peer) = listener.accept(0) {
                assert!(sockopt::tcp_nodelay(&fd).unwrap());
                assert!(clients.iter().any(|c| c.local_addr().unwrap() == peer));
                accepted += 1;
            }
        }
        assert_eq!(accepted, 32);
    }

    #[test]
    fn an_ipv4_peer_of_an_ipv6_listener_is_an_ipv4_peer() {
        let Ok(mut listener) = Listener::bind("[::]:0".parse().unwrap(), 64) else { return };
        let _client = TcpStream::connect(("127.0.0.1", listener.address().port())).unwrap();
        let Accepted::Connection(_, peer) = listener.accept(0) else { panic!("nobody") };
        assert!(peer.is_ipv4());
    }
}
