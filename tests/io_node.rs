//! A whole node in this process: start, a real handshake, the ready file, drain by signal.

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

#[test]
fn a_node_serves_until_it_is_told_to_drain() {
    for (driver, name) in [(Driver::Auto, None), (Driver::Epoll, Some("epoll"))] {
        let path = std::env::temp_dir().join(format!("ringgate-io-node-{}-{driver:?}", std::process::id()));
        let mut config = Config::default();
        config.listen.client = "127.0.0.1:0".parse().unwrap();
        config.shards.count = 2;
        config.shards.driver = driver;
        config.drain.spread_ms = 0;
        let options = RunOptions { ready_file: Some(path.clone()), ..RunOptions::default() };
        let node = std::thread::spawn(move || run(config, options));
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
