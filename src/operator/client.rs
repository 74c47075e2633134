//! The server API, called from a terminal.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// How long the node may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes of one answer.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The node cannot be reached, or went away; or the terminal did.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It refused.
    #[error("HTTP {status}: {message}")]
    Refused {
        /// The status.
        status: u16,
        /// Why.
        message: String,
    },
}

/// One keep-alive connection to an admin listener.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    key: Option<String>,
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    /// Nothing is connected yet.
    pub fn new(address: SocketAddr, key: Option<String>) -> Self {
        Client { address, key, stream: None }
    }

    /// Calls `POST /api/VERB`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn call(&mut self, verb: &str, body: &Value) -> Result<Value, ClientError> {
        let body = body.to_string();
        let key = self.key.as_ref().map(|key| format!("X-API-Key: {key}\r\n")).unwrap_or_default();
        let request = format!(
            "POST /api/{verb} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n{key}Content-Length: {}\r\n\r\n{body}",
            self.address,
            body.len(),
        );
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect_timeout(&self.address, PATIENCE).map_err(|error| {
                    io::Error::new(error.kind(), format!("no answer at {} (listen.admin): {error}", self.address))
                })?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                BufReader::new(stream)
            }
        };
        stream.get_mut().write_all(request.as_bytes())?;
        let (status, text) = answer(&mut stream)?;
        self.stream = Some(stream);
        let value: Value = serde_json::from_slice(&text).unwrap_or_default();
        match status {
            200 => Ok(value),
            status => {
                let message = value["error"]["message"].as_str().unwrap_or("no reason given").to_owned();
                Err(ClientError::Refused { status, message })
            }
        }
    }
}

fn answer(stream: &mut BufReader<TcpStream>) -> io::Result<(u16, Vec<u8>)> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "this is no admin listener of ringgate");
    let mut line = String::new();
    stream.read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(bad)?;
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().map_err(|_| bad())?;
            }
            Some(_) => {}
            None => break,
        }
    }
    if length > ANSWER_BYTES_MAX {
        return Err(bad());
    }
    let mut text = vec![0; length as usize];
    stream.read_exact(&mut text)?;
    Ok((status, text))
}
