//! A whole node in this process: start, a real handshake, the ready file, drain by signal.

#![allow(unsafe_code)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ringgate::config::{Config, Driver};
use ringgate::node::{RunOptions, run};
use rustix::process::{Signal, getpid, kill_process};

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

/// As in most containers: io_uring_setup fails with EPERM, for this thread and those that it starts.
fn forbid_io_uring() {
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
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
}

#[test]
fn a_node_serves_until_it_is_told_to_drain() {
    let cases =
        [(Driver::Auto, false, None), (Driver::Epoll, false, Some("epoll")), (Driver::Auto, true, Some("epoll"))];
    for (driver, forbidden, name) in cases {
        let path = std::env::temp_dir().join(format!("ringgate-io-node-{}-{driver:?}-{forbidden}", std::process::id()));
        let mut config = Config::default();
        config.listen.client = "127.0.0.1:0".parse().unwrap();
        config.shards.count = 2;
        config.shards.driver = driver;
        config.drain.spread_ms = 0;
        let options = RunOptions { ready_file: Some(path.clone()), ..RunOptions::default() };
        let node = std::thread::spawn(move || {
            if forbidden {
                forbid_io_uring();
                assert!(ringgate::io::runtime::choose(Driver::IoUring).is_err(), "insisting on it is an error");
            }
            run(config, options)
        });
        let ready = ready(&path);
        assert_eq!(ready["shards"], 2);
        assert!(name.is_none_or(|name| ready["driver"] == name), "{ready}");
        let mut client = TcpStream::connect(ready["client"].as_str().unwrap()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = "GET /ws?user_id=alice HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        client.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.windows(4).any(|w| w == b"\r\n\r\n") {
            let mut buffer = [0; 512];
            let n = client.read(&mut buffer).expect("an answer");
            assert_ne!(n, 0, "{}", String::from_utf8_lossy(&head));
            head.extend_from_slice(&buffer[..n]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        kill_process(getpid(), Signal::TERM).unwrap();
        // Until the close frame (4201); a client that does not answer it would be waited for.
        while !head.windows(4).any(|w| w[0] == 0x88 && w[2..] == 4201u16.to_be_bytes()) {
            let mut buffer = [0; 512];
            let n = client.read(&mut buffer).expect("a close frame");
            assert_ne!(n, 0, "the end without a close frame: {}", String::from_utf8_lossy(&head));
            head.extend_from_slice(&buffer[..n]);
        }
        drop(client);
        node.join().unwrap().unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}
