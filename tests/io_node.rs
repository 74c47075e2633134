//! The built binary: start, ready file, a real handshake, drain by signal, and epoll by itself where io_uring is forbidden.

#![allow(unsafe_code)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(30);

fn ready(path: &std::path::Path) -> serde_json::Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(bytes) = std::fs::read(path) {
            return serde_json::from_slice(&bytes).expect("the ready file is whole");
        }
        assert!(Instant::now() < deadline, "never ready");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// As in most containers: io_uring_setup fails with EPERM, for this process.
fn forbid_io_uring() -> std::io::Result<()> {
    let statement = |code: u32, k: u32, jt, jf| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        // The number of the system call is the first word.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_io_uring_setup as u32, 0, 1),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0, 0),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program lives until the kernel has copied it.
    let forbidden = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    if forbidden { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// A running node; killed if the test fails.
struct Node(Child);

impl Node {
    fn start(ready_file: &std::path::Path, driver: &str, forbidden: bool) -> Node {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringgate"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RINGGATE_")) {
            command.env_remove(name);
        }
        command.arg("--ready-file").arg(ready_file);
        let driver = format!("shards.driver={driver}");
        for set in
            ["listen.client=127.0.0.1:0", "listen.admin=127.0.0.1:0", "shards.count=2", "drain.spread=0", &driver]
        {
            command.args(["--set", set]);
        }
        if forbidden {
            // SAFETY: only system calls between fork and exec, and no allocation.
            unsafe { command.pre_exec(forbid_io_uring) };
        }
        Node(command.spawn().unwrap())
    }

    fn ends_well(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_node_serves_until_it_is_told_to_drain() {
    let cases = [("auto", false, None), ("epoll", false, Some("epoll")), ("auto", true, Some("epoll"))];
    for (driver, forbidden, name) in cases {
        let path = std::env::temp_dir().join(format!("ringgate-io-node-{}-{driver}-{forbidden}", std::process::id()));
        let mut node = Node::start(&path, driver, forbidden);
        let ready = ready(&path);
        assert_eq!((&ready["shards"], &ready["pid"]), (&2.into(), &node.0.id().into()));
        assert!(name.is_none_or(|name| ready["driver"] == name), "{ready}");
        let mut client = TcpStream::connect(ready["client"].as_str().unwrap()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = "GET /ws?user_id=alice HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        client.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.windows(7).any(|w| w == b"auth:ok") {
            let mut buffer = [0; 512];
            let n = client.read(&mut buffer).expect("an answer");
            assert_ne!(n, 0, "{}", String::from_utf8_lossy(&head));
            head.extend_from_slice(&buffer[..n]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        kill_process(Pid::from_child(&node.0), Signal::TERM).unwrap();
        // Until the close frame (4201); a client that does not answer it would be waited for.
        while !head.windows(4).any(|w| w[0] == 0x88 && w[2..] == 4201u16.to_be_bytes()) {
            let mut buffer = [0; 512];
            let n = client.read(&mut buffer).expect("a close frame");
            assert_ne!(n, 0, "the end without a close frame: {}", String::from_utf8_lossy(&head));
            head.extend_from_slice(&buffer[..n]);
        }
        drop(client);
        assert!(node.ends_well());
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn insisting_on_io_uring_where_it_is_forbidden_is_no_start() {
    let path = std::env::temp_dir().join(format!("ringgate-io-node-{}-insists", std::process::id()));
    let mut node = Node::start(&path, "io_uring", true);
    assert!(!node.ends_well() && node.0.try_wait().unwrap().is_some(), "it has ended, and not well");
    assert!(!path.exists());
}
