//! From an address to a connection that is authenticated, on its database, and speaks RESP3.

use std::collections::VecDeque;
use std::io;

use monoio::io::AsyncWriteRentExt;
use monoio::net::TcpStream;
use redis::{Cmd, ServerError, Value};

use super::connect::{Connecting, Plug};
use super::resp::{Scanner, value};
use super::target::{Address, Target};
use super::trouble::Trouble;
use super::wire::{Ended, read_more};

/// A connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system, or the other side, refused it.
    #[error("cannot connect: {0}")]
    Connect(#[from] io::Error),
    /// It ended in the middle of the greeting.
    #[error("the greeting failed: {0}")]
    Ended(#[from] Ended),
    /// Redis refused a command of the greeting. The text is its own, and it does not quote passwords.
    #[error("Redis refused {command}: {error}")]
    Refused {
        /// The first word of the command.
        command: String,
        /// What Redis said.
        error: ServerError,
    },
}

impl OpenError {
    /// What it means, where Redis said so.
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            OpenError::Refused { error, .. } => Some(Trouble::of(error)),
            OpenError::Connect(_) | OpenError::Ended(_) => None,
        }
    }
}

/// A connection that has been greeted.
#[derive(Debug)]
pub struct Opened {
    pub(super) stream: TcpStream,
    pub(super) plug: Plug,
    pub(super) held: Vec<u8>,
}

/// A connection in the making. It takes as long as it takes: bound it by pulling its plug.
#[derive(Debug)]
pub struct Opening {
    connecting: Connecting,
    greeting: Vec<Cmd>,
}

impl Opening {
    /// Begins. `name` is shown in `CLIENT LIST`; `setup` are commands that the connection starts with, all of which must succeed.
    ///
    /// # Errors
    ///
    /// Where it fails at once.
    pub fn begin(target: &Target, address: &Address, name: &str, setup: Vec<Cmd>) -> io::Result<Self> {
        let mut greeting = target.hello(name);
        greeting.extend(setup);
        Ok(Opening { connecting: Connecting::begin(address)?, greeting })
    }

    /// What ends the attempt.
    pub fn plug(&self) -> Plug {
        self.connecting.plug()
    }

    /// Connects and greets.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub async fn finish(self) -> Result<Opened, OpenError> {
        let (mut stream, plug) = self.connecting.finish().await?;
        let mut packed = Vec::new();
        self.greeting.iter().for_each(|command| command.write_packed_command(&mut packed));
        let (written, _) = stream.write_all(packed).await;
        written?;
        let mut expected: VecDeque<Cmd> = self.greeting.into();
        let (mut scanner, mut held) = (Scanner::default(), Vec::new());
        while let Some(command) = expected.front() {
            let Some(len) = scanner.scan(&held).map_err(Ended::from)? else {
                held = read_more(&mut stream, held).await?;
                continue;
            };
            let reply = value(&held[..len]).map_err(Ended::from)?;
            held.drain(..len);
            match reply {
                Value::Push { .. } => continue,
                Value::ServerError(error) => {
                    let command = command.args_iter().next();
                    let command = match command {
                        Some(redis::Arg::Simple(word)) => String::from_utf8_lossy(word).into_owned(),
                        _ => String::new(),
                    };
                    return Err(OpenError::Refused { command, error });
                }
                _ => drop(expected.pop_front()),
            }
        }
        Ok(Opened { stream, plug, held })
    }
}
