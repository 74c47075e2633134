//! Where Redis is and as whom to come: `redis.url`, read.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

/// A Redis server, a database of it, and who asks. Its text form ([`fmt::Display`]) has no secret in it, and neither has [`fmt::Debug`].
#[derive(Clone)]
pub struct Target {
    place: Place,
    username: Option<String>,
    password: Option<String>,
    database: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// A resolved place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An address and port.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

/// `redis.url` cannot be used. Does not quote it: there may be a password in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not a URL of Redis.
    #[error("not a URL of Redis; it would look like redis://[user:password@]host[:port][/db] or unix:///path?db=0")]
    Url,
    /// `rediss://`.
    #[error(
        "TLS to Redis (rediss://) is not supported yet; put a tunnel such as stunnel between, or use redis:// or unix://"
    )]
    Tls,
}

impl Target {
    /// Reads `redis://[user:password@]host[:port][/db]` or `unix:///path[?db=N&user=U&pass=P]`.
    ///
    /// # Errors
    ///
    /// What is not such a URL, or asks for TLS.
    pub fn parse(url: &str) -> Result<Self, TargetError> {
        let info: ConnectionInfo = url.into_connection_info().map_err(|_| match url.starts_with("rediss:") {
            true => TargetError::Tls,
            false => TargetError::Url,
        })?;
        let place = match info.addr() {
            ConnectionAddr::Tcp(host, port) => Place::Tcp { host: host.clone(), port: *port },
            ConnectionAddr::Unix(path) => Place::Unix(path.clone()),
            ConnectionAddr::TcpTls { .. } => return Err(TargetError::Tls),
            _ => return Err(TargetError::Url),
        };
        let redis = info.redis_settings();
        let text = |text: Option<&str>| text.filter(|t| !t.is_empty()).map(str::to_owned);
        Ok(Target { place, username: text(redis.username()), password: text(redis.password()), database: redis.db() })
    }

    /// Where it is, now: names are looked up. This waits; do it on a thread that may.
    ///
    /// # Errors
    ///
    /// The name has no address.
    pub fn resolve(&self) -> io::Result<Vec<Address>> {
        match &self.place {
            Place::Unix(path) => Ok(vec![Address::Unix(path.clone())]),
            Place::Tcp { host, port } => {
                // A literal IPv6 address may come in brackets from a URL.
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let found: Vec<_> = (host, *port).to_socket_addrs()?.map(Address::Tcp).collect();
                match found.is_empty() {
                    true => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
                    false => Ok(found),
                }
            }
        }
    }

    /// The commands that make a fresh connection this user's, on this database, in RESP3; called `name` in `CLIENT LIST`.
    pub fn hello(&self, name: &str) -> Vec<redis::Cmd> {
        let mut hello = redis::cmd("HELLO");
        hello.arg(3);
        if let Some(password) = &self.password {
            hello.arg("AUTH").arg(self.username.as_deref().unwrap_or("default")).arg(password);
        }
        hello.arg("SETNAME").arg(name);
        let mut commands = vec![hello];
        if self.database != 0 {
            let mut select = redis::cmd("SELECT");
            select.arg(self.database);
            commands.push(select);
        }
        commands
    }

    /// The path, where it is a unix socket.
    pub fn unix_path(&self) -> Option<&Path> {
        match &self.place {
            Place::Unix(path) => Some(path),
            Place::Tcp { .. } => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp { host, port } if host.contains(':') && !host.starts_with('[') => {
                write!(f, "redis://[{host}]:{port}/{}", self.database)
            }
            Place::Tcp { host, port } => write!(f, "redis://{host}:{port}/{}", self.database),
            Place::Unix(path) => write!(f, "unix://{}?db={}", path.display(), self.database),
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(target: &Target) -> String {
        let packed = target.hello("n").iter().flat_map(redis::Cmd::get_packed_command).collect();
        let words = String::from_utf8(packed).unwrap();
        words.split("\r\n").filter(|w| !w.starts_with(['*', '$'])).collect::<Vec<_>>().join(" ").trim_end().to_owned()
    }

    #[test]
    fn urls_are_read_and_secrets_are_not_shown() {
        for (url, shown, hello) in [
            ("redis://127.0.0.1", "redis://127.0.0.1:6379/0", "HELLO 3 SETNAME n"),
            ("redis://h:7000/5", "redis://h:7000/5", "HELLO 3 SETNAME n SELECT 5"),
            ("redis://:s3cr%40t@h/", "redis://h:6379/0", "HELLO 3 AUTH default s3cr@t SETNAME n"),
            ("redis://gate:s3cr@h/2", "redis://h:6379/2", "HELLO 3 AUTH gate s3cr SETNAME n SELECT 2"),
            ("redis://[::1]:7000/", "redis://[::1]:7000/0", "HELLO 3 SETNAME n"),
            (
                "unix:///run/r.sock?db=3&pass=s3cr&user=u",
                "unix:///run/r.sock?db=3",
                "HELLO 3 AUTH u s3cr SETNAME n SELECT 3",
            ),
            ("redis+unix:///run/r.sock", "unix:///run/r.sock?db=0", "HELLO 3 SETNAME n"),
        ] {
            let target = Target::parse(url).unwrap_or_else(|e| panic!("{url}: {e}"));
            assert_eq!((target.to_string().as_str(), packed(&target).as_str()), (shown, hello), "{url}");
            assert!(!format!("{target:?}").contains("s3cr"));
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_quoting_it() {
        for (url, error) in [
            ("http://h/", TargetError::Url),
            ("redis://", TargetError::Url),
            ("redis://:s3cr@h/x", TargetError::Url),
            ("rediss://:s3cr@h/", TargetError::Tls),
        ] {
            let refused = Target::parse(url).expect_err(url);
            assert_eq!(refused, error, "{url}");
            assert!(!refused.to_string().contains("s3cr"));
        }
    }

    #[test]
    fn literal_addresses_resolve_without_asking_anybody() {
        for (url, address) in [("redis://127.0.0.1:7000", "127.0.0.1:7000"), ("redis://[::1]:7000/", "[::1]:7000")] {
            let addresses = Target::parse(url).unwrap().resolve().unwrap();
            assert_eq!(addresses, [Address::Tcp(address.parse().unwrap())], "{url}");
        }
    }
}
