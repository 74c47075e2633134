//! A Redis server for one run, and what it has been asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::sys;

const START_WITHIN: Duration = Duration::from_secs(10);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Keys that one EXISTS names.
const KEYS_PER_COMMAND: usize = 1000;

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
            let mut redis = Redis { child: spawn(port)?, address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port) };
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

    /// Kills it, and starts it again where it was, empty. Returns when it took commands again.
    pub(crate) fn restart(&mut self) -> Result<Instant, String> {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.child = spawn(self.address.port())?;
        if self.comes_up() { Ok(Instant::now()) } else { Err("redis-server does not come up again".into()) }
    }

    /// Everything is forgotten.
    pub(crate) fn flush(&self) -> Result<(), String> {
        let ask = || -> std::io::Result<String> {
            let mut reader = self.ask(b"FLUSHALL\r\n")?;
            line(&mut reader)
        };
        match ask() {
            Ok(answer) if answer == "+OK" => Ok(()),
            Ok(answer) => Err(format!("FLUSHALL of Redis: {answer}")),
            Err(error) => Err(format!("FLUSHALL of Redis: {error}")),
        }
    }

    /// How many of these keys exist; where there are too few keys of any name for all of them, how many that are.
    pub(crate) fn existing(&self, keys: &[String]) -> Result<u64, String> {
        let ask = || -> std::io::Result<u64> {
            let held = integer(&mut self.ask(b"DBSIZE\r\n")?)?;
            if held < keys.len() as u64 {
                return Ok(held);
            }
            let mut command = Vec::new();
            let chunks = keys.chunks(KEYS_PER_COMMAND);
            let commands = chunks.len();
            for chunk in chunks {
                write!(command, "*{}\r\n$6\r\nEXISTS\r\n", chunk.len() + 1)?;
                for key in chunk {
                    write!(command, "${}\r\n{key}\r\n", key.len())?;
                }
            }
            let mut reader = self.ask(&command)?;
            (0..commands).map(|_| integer(&mut reader)).sum()
        };
        ask().map_err(|error| format!("keys of Redis: {error}"))
    }

    /// Sends commands over a connection of their own.
    fn ask(&self, commands: &[u8]) -> std::io::Result<BufReader<TcpStream>> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.write_all(commands)?;
        Ok(BufReader::new(stream))
    }

    /// What it has been asked since it was started.
    pub(crate) fn calls(&self) -> Result<Calls, String> {
        let ask = || -> std::io::Result<String> {
            let mut reader = self.ask(b"INFO commandstats\r\n")?;
            let length: usize = line(&mut reader)?.trim_start_matches('$').parse().map_err(std::io::Error::other)?;
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

fn spawn(port: u16) -> Result<Child, String> {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    sys::die_with_parent(&mut command);
    command.spawn().map_err(|error| format!("redis-server (package redis-server): {error}"))
}

fn line(reader: &mut impl BufRead) -> std::io::Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

fn integer(reader: &mut impl BufRead) -> std::io::Result<u64> {
    let line = line(reader)?;
    line.strip_prefix(':').and_then(|n| n.parse().ok()).ok_or_else(|| std::io::Error::other(line))
}

fn is_publish(name: &str) -> bool {
    matches!(name, "publish" | "spublish")
}
