//! Where a service is: its URL, and the addresses that its name has now.
//!
//! Names are resolved by a thread of their own beside the control thread, which may wait as long as it likes: at the start, every
//! [`PERIOD`], and as soon as a connection fails. What it finds reaches the shard through a queue of one.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

use crossbeam::queue::ArrayQueue;

/// How often a name is resolved again.
const PERIOD: Duration = Duration::from_secs(30);
/// And how often at the most.
const PAUSE: Duration = Duration::from_secs(1);

/// A URL with its name resolved.
#[derive(Clone, Debug)]
pub struct Target {
    pub(super) host: String,
    pub(super) path: String,
    addresses: Vec<SocketAddr>,
    news: Arc<News>,
}

/// What goes to and from the thread that resolves.
#[derive(Debug)]
struct News {
    addresses: ArrayQueue<Vec<SocketAddr>>,
    wanted: AtomicBool,
    resolver: OnceLock<Thread>,
}

impl Target {
    /// Reads `http://host[:port][/path]` and resolves the name. Blocks.
    ///
    /// # Errors
    ///
    /// The name does not resolve, or it is no such URL.
    pub fn resolve(url: &str) -> io::Result<Self> {
        let bad = || io::Error::new(io::ErrorKind::InvalidInput, "expected http://host[:port][/path]");
        let rest = url.strip_prefix("http://").ok_or_else(bad)?;
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if host.is_empty() || host.contains(['@', '?', '#']) || !rest.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(bad());
        }
        let addresses = addresses(host)?;
        let path = if path.is_empty() { "/" } else { path };
        let news = News { addresses: ArrayQueue::new(1), wanted: AtomicBool::new(false), resolver: OnceLock::new() };
        Ok(Target { addresses, host: host.to_owned(), path: path.to_owned(), news: Arc::new(news) })
    }

    /// Whether it has a name that may get other addresses.
    fn is_named(&self) -> bool {
        with_port(&self.host).parse::<SocketAddr>().is_err()
    }
}

fn addresses(host: &str) -> io::Result<Vec<SocketAddr>> {
    let found: Vec<SocketAddr> = with_port(host).to_socket_addrs()?.collect();
    if found.is_empty() { Err(io::ErrorKind::AddrNotAvailable.into()) } else { Ok(found) }
}

fn with_port(host: &str) -> String {
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    if has_port { host.to_owned() } else { format!("{host}:80") }
}

/// Resolves the names of these again and again, on a thread of its own, for as long as the process lives.
///
/// # Errors
///
/// When there is no thread to be had.
pub fn keep_resolving(targets: impl IntoIterator<Item = Target>) -> io::Result<()> {
    let targets: Vec<Target> = targets.into_iter().filter(Target::is_named).collect();
    if targets.is_empty() {
        return Ok(());
    }
    let news: Vec<Arc<News>> = targets.iter().map(|target| target.news.clone()).collect();
    let thread = std::thread::Builder::new().name("names".to_owned()).spawn(move || resolve_on(&targets))?;
    for news in news {
        // It is set once.
        let _ = news.resolver.set(thread.thread().clone());
    }
    Ok(())
}

fn resolve_on(targets: &[Target]) {
    loop {
        std::thread::park_timeout(PERIOD);
        for target in targets {
            target.news.wanted.store(false, Ordering::Release);
            match addresses(&target.host) {
                Ok(found) => drop(target.news.addresses.force_push(found)),
                Err(error) => tracing::warn!(host = target.host, %error, "a service's name does not resolve now"),
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// A [`Target`] on the shard that connects to it, shared by its connections.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) target: Target,
    /// The one that worked last comes first.
    addresses: RefCell<Vec<SocketAddr>>,
}

impl Route {
    pub(super) fn new(target: Target) -> Self {
        Route { addresses: RefCell::new(target.addresses.clone()), target }
    }

    /// Where to connect to, in this order.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let mut addresses = self.addresses.borrow_mut();
        if let Some(mut found) = self.target.news.addresses.pop() {
            let before = addresses.first().and_then(|first| found.iter().position(|address| address == first));
            found[..before.map_or(0, |at| at + 1)].rotate_right(usize::from(before.is_some()));
            *addresses = found;
        }
        addresses.clone()
    }

    /// This one works.
    pub(super) fn worked(&self, address: SocketAddr) {
        let mut addresses = self.addresses.borrow_mut();
        if let Some(at) = addresses.iter().position(|known| *known == address) {
            addresses[..=at].rotate_right(1);
        }
    }

    /// None of them does: perhaps there are others by now.
    pub(super) fn failed(&self) {
        let news = &self.target.news;
        if let Some(resolver) = news.resolver.get()
            && !news.wanted.swap(true, Ordering::AcqRel)
        {
            resolver.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let parts = |url: &str| Target::resolve(url).map(|t| (t.host, t.path, t.addresses[0].port())).ok();
        let is = |host: &str, path: &str, port| Some((host.to_owned(), path.to_owned(), port));
        assert_eq!(parts("http://127.0.0.1:9000/a?b=c"), is("127.0.0.1:9000", "/a?b=c", 9000));
        assert_eq!(parts("http://127.0.0.1"), is("127.0.0.1", "/", 80));
        assert_eq!(parts("http://[::1]:7/x"), is("[::1]:7", "/x", 7));
        for bad in ["https://127.0.0.1/", "http://", "http:///x", "http://u@127.0.0.1/", "http://127.0.0.1/a b", "x"] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_names_are_resolved_again() {
        let is_named = |url: &str| Target::resolve(url).unwrap().is_named();
        assert!(is_named("http://localhost:1/") && !is_named("http://127.0.0.1/") && !is_named("http://[::1]:7/"));
    }

    #[test]
    fn a_failure_has_the_name_resolved_again() {
        let target = Target::resolve("http://localhost:7/").unwrap();
        keep_resolving([target.clone()]).unwrap();
        let route = Route::new(target);
        route.failed();
        let deadline = std::time::Instant::now() + PERIOD / 2;
        while route.target.news.addresses.is_empty() {
            assert!(std::time::Instant::now() < deadline, "nothing is heard of the name");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(route.addresses().iter().all(|address| address.ip().is_loopback() && address.port() == 7));
    }

    #[test]
    fn what_worked_comes_first_and_stays_so() {
        let route = Route::new(Target::resolve("http://127.0.0.1:1/").unwrap());
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let learn =
            |ports: &[u16]| drop(route.target.news.addresses.force_push(ports.iter().map(|p| address(*p)).collect()));
        let ports = || route.addresses().iter().map(SocketAddr::port).collect::<Vec<_>>();
        learn(&[2, 3, 4]);
        assert_eq!(ports(), [2, 3, 4]);
        route.worked(address(4));
        assert_eq!(ports(), [4, 2, 3]);
        learn(&[5, 4, 6]);
        assert_eq!(ports(), [4, 5, 6]);
        learn(&[7, 8]);
        assert_eq!(ports(), [7, 8]);
        route.failed();
    }
}
