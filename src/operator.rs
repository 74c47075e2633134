//! Looking inside a running node from a terminal: `ringgate top` and `ringgate trace`, over its admin listener.
//!
//! Blocking, on the main thread: nothing here runs in a gateway.

use std::io::{self, IsTerminal as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::json;

mod client;
mod screen;

pub use client::{Client, ClientError};
use screen::Screen;

/// Between two questions of a trace.
const TRACE_STEP: Duration = Duration::from_millis(200);

/// Where to look, and for how long.
#[derive(Clone, Debug)]
pub struct TopOptions {
    /// The admin listener.
    pub admin: SocketAddr,
    /// Its key, where it asks for one.
    pub key: Option<String>,
    /// Between two looks.
    pub interval: Duration,
    /// Look twice, print once, and end: for scripts.
    pub once: bool,
    /// What the connections are sorted by.
    pub by: String,
}

/// Shows totals, rates, shards, the worst connections and the largest rooms, until the terminal is gone or the process is told to end.
///
/// # Errors
///
/// The node does not answer, or refuses; or the terminal is gone.
pub fn top(options: &TopOptions) -> Result<(), ClientError> {
    let mut client = Client::new(options.admin, options.key.clone());
    let mut screen = Screen::default();
    let mut out = io::stdout().lock();
    let clear = out.is_terminal() && !options.once;
    loop {
        let info = client.call("info", &json!({ "rooms": 10 }))?;
        let worst = client.call("connections", &json!({ "by": options.by, "limit": 15 }))?;
        let complete = screen.update(&info);
        if complete || !options.once {
            let (rows, columns) = size();
            let text = screen.render(&info, &worst, &options.by, columns);
            let lines: Vec<&str> = text.lines().take(if clear { rows } else { usize::MAX }).collect();
            let (before, after) = if clear { ("\x1b[H\x1b[2J", "\r") } else { ("", "\n") };
            write!(out, "{before}{}{after}", lines.join("\n"))?;
            out.flush()?;
        }
        if complete && options.once {
            return Ok(());
        }
        std::thread::sleep(options.interval);
    }
}

/// Whom to follow, where, and for how long.
#[derive(Clone, Debug)]
pub struct TraceOptions {
    /// The admin listener.
    pub admin: SocketAddr,
    /// Its key, where it asks for one.
    pub key: Option<String>,
    /// The user.
    pub user: String,
    /// Contents too.
    pub content: bool,
    /// How long.
    pub duration: Duration,
}

/// Prints what the gateway receives from a user and queues for them, as it happens.
///
/// # Errors
///
/// The node does not answer, or refuses; or the terminal is gone.
pub fn trace(options: &TraceOptions) -> Result<(), ClientError> {
    let mut client = Client::new(options.admin, options.key.clone());
    let mut out = io::stdout().lock();
    let end = Instant::now() + options.duration;
    loop {
        let seen = client.call("trace", &json!({ "user": options.user, "content": options.content }))?;
        for event in seen["events"].as_array().into_iter().flatten() {
            writeln!(out, "{}", screen::traced(event))?;
        }
        if let Some(lost @ 1..) = seen["lost"].as_u64() {
            writeln!(out, "... {lost} more than there was room for")?;
        }
        out.flush()?;
        if Instant::now() >= end {
            return Ok(());
        }
        std::thread::sleep(TRACE_STEP);
    }
}

/// An address to dial for one to listen on.
pub fn dialled(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Rows and columns of the terminal.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
        _ => (60, 120),
    }
}
