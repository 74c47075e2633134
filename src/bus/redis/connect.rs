//! Making a connection to Redis inside a monoio runtime, so that it can be given up at any time without cancelling anything.
//!
//! monoio must never be made to cancel an operation (bytes or the descriptor are lost). So a socket is connected by hand and only polled
//! here, and whoever gives up shuts the socket down: then every wait for it ends by itself, the connect as well as a read or write.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use monoio::net::TcpStream;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, connect, shutdown, socket_with, sockopt,
};

use super::target::Address;

/// Ends everything that waits for one socket.
#[derive(Clone, Debug)]
pub struct Plug(Rc<OwnedFd>);

impl Plug {
    /// Shuts the socket down in both directions; reads, writes and a connect under way end at once. Pull it as often as you like.
    pub fn pull(&self) {
        // A socket that is not connected (any more) has nothing left that could wait.
        let _ = shutdown(&*self.0, Shutdown::Both);
    }
}

/// A socket that is being connected.
#[derive(Debug)]
pub struct Connecting {
    stream: TcpStream,
    plug: Plug,
}

impl Connecting {
    /// Begins to connect. Must be called inside the runtime.
    ///
    /// # Errors
    ///
    /// Where that fails at once.
    pub fn begin(address: &Address) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (socket, begun) = match address {
            Address::Tcp(address) => {
                let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
                let socket = socket_with(family, SocketType::STREAM, flags, None)?;
                sockopt::set_tcp_nodelay(&socket, true)?;
                let begun = connect(&socket, address);
                (socket, begun)
            }
            Address::Unix(path) => {
                let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
                let begun = connect(&socket, &SocketAddrUnix::new(path)?);
                (socket, begun)
            }
        };
        match begun {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(e) => return Err(e.into()),
        }
        if !monoio::utils::is_legacy() {
            // io_uring answers EAGAIN at once for a descriptor that must not block, instead of waiting for it.
            fcntl_setfl(&socket, fcntl_getfl(&socket)? - OFlags::NONBLOCK)?;
        }
        let plug = Plug(Rc::new(socket.try_clone()?));
        // monoio takes any stream socket for one of TCP.
        let stream = TcpStream::from_std(std::net::TcpStream::from(socket))?;
        Ok(Connecting { stream, plug })
    }

    /// What ends the attempt, and later the connection.
    pub fn plug(&self) -> Plug {
        self.plug.clone()
    }

    /// Until it is connected.
    ///
    /// # Errors
    ///
    /// It was refused, or the plug was pulled.
    pub async fn finish(self) -> io::Result<(TcpStream, Plug)> {
        self.stream.writable(true).await?;
        match sockopt::socket_error(&*self.plug.0)? {
            Ok(()) => {}
            Err(e) => return Err(e.into()),
        }
        // A socket that was shut down while it was being connected is writable too, and has no error.
        rustix::net::getpeername(&*self.plug.0)?;
        Ok((self.stream, self.plug))
    }
}
