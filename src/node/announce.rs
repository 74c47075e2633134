//! Tells others that the node is there: the ready file, and the service manager.

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// What `--ready-file` holds.
#[derive(Debug, Serialize)]
pub(super) struct Ready<'a> {
    /// Where clients connect.
    pub(super) client: SocketAddr,
    /// Where operators connect.
    pub(super) admin: Option<SocketAddr>,
    /// The id of this node.
    pub(super) node_id: &'a str,
    /// The process.
    pub(super) pid: u32,
    /// `io_uring` or `epoll`.
    pub(super) driver: &'a str,
    /// Shards.
    pub(super) shards: u16,
}

/// Writes it whole or not at all: whoever sees the file can read it.
pub(super) fn write_ready_file(path: &Path, ready: &Ready<'_>) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}.tmp", ready.pid));
    let mut file = std::fs::File::create(&unfinished)?;
    serde_json::to_writer(&mut file, ready)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)
}

/// The protocol of sd_notify(3), where there is a service manager that listens.
pub(super) fn notify_supervisor(state: &str) {
    if let Some(name) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(error) = notify(&name, state)
    {
        tracing::warn!(%error, "cannot tell the service manager {state}");
    }
}

/// That a drain has begun, and how long it may take: its configuration may allow more than the unit's TimeoutStopSec=.
pub(super) fn notify_stopping(patience: Duration) {
    notify_supervisor(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={}", patience.as_micros()));
}

/// That the configuration is being read again; READY=1 follows. The time tells the service manager which reload this is.
pub(super) fn notify_reloading() {
    let now = clock_gettime(ClockId::Monotonic);
    let usec = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
    notify_supervisor(&format!("RELOADING=1\nMONOTONIC_USEC={usec}"));
}

fn notify(name: &OsStr, state: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    let address = match name.as_bytes() {
        [b'@', rest @ ..] => UnixAddr::from_abstract_name(rest)?,
        _ => UnixAddr::from_pathname(Path::new(name))?,
    };
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_file_is_json_with_every_field() {
        let path = std::env::temp_dir().join(format!("ringgate-ready-{}", std::process::id()));
        let ready = Ready {
            client: "127.0.0.1:8080".parse().unwrap(),
            admin: None,
            node_id: "n",
            pid: 7,
            driver: "epoll",
            shards: 2,
        };
        write_ready_file(&path, &ready).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        std::fs::remove_file(&path).unwrap();
        let expected = serde_json::json!({
            "client": "127.0.0.1:8080", "admin": null, "node_id": "n", "pid": 7, "driver": "epoll", "shards": 2
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn the_service_manager_is_told_by_path_and_by_abstract_name() {
        let name = format!("ringgate-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&UnixAddr::from_abstract_name(&name).unwrap()).unwrap();
        notify(path.as_os_str(), "READY=1").unwrap();
        notify(OsStr::new(&format!("@{name}")), "STOPPING=1").unwrap();
        let mut buffer = [0; 32];
        for (socket, expected) in [(by_path, "READY=1"), (by_name, "STOPPING=1")] {
            let n = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..n], expected.as_bytes());
        }
        std::fs::remove_file(&path).unwrap();
    }
}
