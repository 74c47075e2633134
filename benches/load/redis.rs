//! A Redis server for one run, and what it has been asked.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::sys;

const START_WITHIN: Duration = Duration::from_secs(10);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A `redis-server` that keeps nothing, on a free port of loopback. It ends with the value.
pub(crate) struct Redis {
    child: Child,
    address: SocketAddrV4,
}

/// How often each command was called, those that scripts call included.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls(BTreeMap<String, u64>);

impl Redis {
    pub(crate) fn start() -> Result<Redis, String> {
        // Another process may take the port in between: then this server ends at once, and another port is tried.
        for _ in 0..5 {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
            let port = free.map_err(|error| error.to_string())?.port();
            let mut command = Command::new("redis-server");
            command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no"]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            sys::die_with_parent(&mut command);
            let child = command.spawn().map_err(|error| format!("redis-server (package redis-server): {error}"))?;
            let mut redis = Redis { child, address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port) };
            if redis.comes_up() {
                return Ok(redis);
            }
        }
        Err("redis-server does not come up".into())
    }

    /// For `redis.url`.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// What it has been asked since it was started.
    pub(crate) fn calls(&self) -> Result<Calls, String> {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(self.address)?;
            stream.set_read_timeout(Some(ANSWER_WITHIN))?;
            stream.write_all(b"INFO commandstats\r\n")?;
            let mut reader = BufReader::new(stream);
            let mut head = String::new();
            reader.read_line(&mut head)?;
            let length: usize = head.trim_start_matches('$').trim().parse().map_err(std::io::Error::other)?;
            let mut text = vec![0; length];
            reader.read_exact(&mut text)?;
            String::from_utf8(text).map_err(std::io::Error::other)
        };
        Ok(Calls::read(&ask().map_err(|error| format!("INFO of Redis: {error}"))?))
    }

    fn comes_up(&mut self) -> bool {
        let deadline = Instant::now() + START_WITHIN;
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            if self.calls().is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Calls {
    /// Reads lines such as `cmdstat_publish:calls=12,usec=80,…`.
    fn read(info: &str) -> Calls {
        let one = |line: &str| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
        };
        Calls(info.lines().filter_map(one).collect())
    }

    /// What was called since `earlier`.
    pub(crate) fn since(&self, earlier: &Calls) -> Calls {
        let count = |name: &String, calls: &u64| calls.saturating_sub(earlier.0.get(name).copied().unwrap_or(0));
        Calls(self.0.iter().map(|(name, calls)| (name.clone(), count(name, calls))).collect())
    }

    /// Messages given to Redis to pass on.
    pub(crate) fn publishes(&self) -> u64 {
        self.0.iter().filter(|(name, _)| is_publish(name)).map(|(_, calls)| calls).sum()
    }

    /// Everything else, but what this bench asks itself.
    pub(crate) fn others(&self) -> u64 {
        self.0.iter().filter(|(name, _)| !is_publish(name) && *name != "info").map(|(_, calls)| calls).sum()
    }
}

fn is_publish(name: &str) -> bool {
    matches!(name, "publish" | "spublish")
}
