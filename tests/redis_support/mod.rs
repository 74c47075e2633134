//! A Redis server of one's own, and runtimes to speak to it from.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::cell::Cell;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};
use redis::{Cmd, Value};
use ringgate::bus::redis::open::{OpenError, Opened, Opening};
use ringgate::bus::redis::pipeline::{Arrival, Pipeline};
use ringgate::bus::redis::target::Target;

/// A private `redis-server`: own port, own directory, ended with the value.
pub struct Server {
    child: Child,
    port: u16,
    dir: PathBuf,
}

impl Server {
    /// Starts one; `args` are appended to its command line.
    pub fn start(args: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("ringgate-redis-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory for Redis");
        // Another process may take the port in between: then the server ends at once, and the next is tried.
        for _ in 0..20 {
            let port = free_port();
            let mut server = Server { child: spawn(port, &dir, args), port, dir: dir.clone() };
            if server.is_up() {
                return server;
            }
        }
        panic!("redis-server does not come up: {}", std::fs::read_to_string(dir.join("log")).unwrap_or_default());
    }

    /// Starts one on a port that another has had.
    pub fn start_on(port: &str, args: &[&str]) -> Self {
        let dir = std::env::temp_dir().join(format!("ringgate-redis-{}-on-{port}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory for Redis");
        let port = port.parse().expect("a port");
        let mut server = Server { child: spawn(port, &dir, args), port, dir };
        assert!(server.is_up(), "redis-server does not come up again");
        server
    }

    /// `redis://` with that in front of the host and behind the port.
    pub fn url(&self, user: &str, path: &str) -> String {
        format!("redis://{user}127.0.0.1:{}{path}", self.port)
    }

    pub fn target(&self) -> Target {
        Target::parse(&self.url("", "")).unwrap()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("redis.sock")
    }

    /// Stops it where it stands, as SIGSTOP does, or lets it go on.
    pub fn stop(&self, stop: bool) {
        let signal = if stop { rustix::process::Signal::STOP } else { rustix::process::Signal::CONT };
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// One command by `redis-cli`, from outside.
    pub fn cli(&self, args: &[&str]) -> String {
        let port = self.port.to_string();
        let output = Command::new("redis-cli").args(["-p", &port]).args(args).output().expect("redis-cli");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn is_up(&mut self) -> bool {
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end && self.child.try_wait().is_ok_and(|exit| exit.is_none()) {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() && self.socket().exists() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn spawn(port: u16, dir: &Path, args: &[&str]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(["--dir", dir.to_str().unwrap(), "--unixsocket", dir.join("redis.sock").to_str().unwrap()])
        .args(args)
        .stdout(std::fs::File::create(dir.join("log")).map_or_else(|_| Stdio::null(), Stdio::from))
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server (package redis-server) is needed by these tests")
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a free port").port()
}

/// Runs a scenario on each driver that a shard may have.
pub fn on_each_driver<F: Future<Output = ()>>(scenario: impl Fn() -> F) {
    let mut uring = RuntimeBuilder::<IoUringDriver>::new().with_entries(256).enable_timer().build().unwrap();
    uring.block_on(scenario());
    let mut epoll = RuntimeBuilder::<LegacyDriver>::new().with_entries(256).enable_timer().build().unwrap();
    epoll.block_on(scenario());
}

/// A connection, within 5 s.
pub async fn open(target: &Target, setup: Vec<Cmd>) -> Result<Opened, OpenError> {
    let address = target.resolve().unwrap().remove(0);
    let opening = Opening::begin(target, &address, "test", setup)?;
    let (plug, done) = (opening.plug(), Rc::new(Cell::new(false)));
    let opened = done.clone();
    monoio::spawn(async move {
        monoio::time::sleep(Duration::from_secs(5)).await;
        if !opened.get() {
            plug.pull();
        }
    });
    let result = opening.finish().await;
    done.set(true);
    result
}

pub async fn pipeline<T: 'static>(target: &Target, setup: Vec<Cmd>) -> Pipeline<T> {
    Pipeline::start(open(target, setup).await.unwrap())
}

/// One command and its answer.
pub async fn call(pipeline: &Pipeline<u64>, command: &Cmd) -> Value {
    pipeline.send(0, command, 0);
    loop {
        match pipeline.next().await {
            Arrival::Reply { value, .. } => return value,
            Arrival::Ended { why, .. } => panic!("{why}"),
            Arrival::Invalidated(_) | Arrival::InvalidatedAll => {}
        }
    }
}

pub fn cmd(words: &str) -> Cmd {
    let mut words = words.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    words.for_each(|word| {
        command.arg(word);
    });
    command
}

/// A server that says what it is told to, to each connection in turn, and then does what it is told to.
pub fn scripted(conversations: Vec<Vec<u8>>, then_hold: bool) -> (SocketAddr, std::thread::JoinHandle<()>) {
    use std::io::{Read, Write};
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        for words in conversations {
            let (mut stream, _) = listener.accept().unwrap();
            let mut greeting = [0; 4096];
            let _ = stream.read(&mut greeting).unwrap();
            stream.write_all(&words).unwrap();
            if then_hold {
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest);
            }
        }
    });
    (address, thread)
}

/// Carries connections to a port, and can make subscribed ones deaf: nothing comes back by them any more.
pub struct Proxy {
    port: u16,
    deaf_before: Arc<AtomicU32>,
    count: Arc<AtomicU32>,
}

impl Proxy {
    pub fn start(to: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (deaf_before, count) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (deaf, number) = (deaf_before.clone(), count.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect((Ipv4Addr::LOCALHOST, to))) else { return };
                let number = number.fetch_add(1, Ordering::SeqCst);
                let subscribed = Arc::new(AtomicBool::new(false));
                let (up, down) = ((client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client));
                let (deaf, heard) = (deaf.clone(), subscribed.clone());
                carry(up, move |bytes| {
                    if bytes.windows(9).any(|w| w == b"SUBSCRIBE") {
                        subscribed.store(true, Ordering::SeqCst);
                    }
                    true
                });
                carry(down, move |_| !(heard.load(Ordering::SeqCst) && number < deaf.load(Ordering::SeqCst)));
            }
        });
        Proxy { port, deaf_before, count }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The subscribed connections of now hear nothing more.
    pub fn deafen(&self) {
        self.deaf_before.store(self.count.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

fn carry((mut from, mut to): (TcpStream, TcpStream), mut passes: impl FnMut(&[u8]) -> bool + Send + 'static) {
    use std::io::{Read, Write};
    std::thread::spawn(move || {
        let mut bytes = [0; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut bytes) {
            if passes(&bytes[..read]) && to.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
        let _ = from.shutdown(std::net::Shutdown::Both);
    });
}
