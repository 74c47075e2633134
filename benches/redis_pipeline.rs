//! Throughput of the Redis pipeline of one shard against `redis-benchmark -P`: the same server, the same commands, the same batch, in one
//! run, by turns. `cargo bench --bench redis_pipeline [-- COMMANDS]`; needs redis-server and redis-benchmark.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use monoio::{IoUringDriver, RuntimeBuilder};
use ringgate::bus::redis::open::Opening;
use ringgate::bus::redis::pipeline::{Arrival, Pipeline};
use ringgate::bus::redis::scripts::{Scripts, Stamp};
use ringgate::bus::redis::target::Target;
use ringgate::cluster::registry::Row;
use ringgate::ids::ShardId;

/// `redis.batch_size`.
const BATCH: usize = 512;
/// Commands without an answer at most.
const WINDOW: usize = 8 * BATCH;
const VALUE_BYTES: usize = 64;
const ROUNDS: usize = 5;

fn main() {
    let commands = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(1_000_000);
    let server = Server::start();
    let mut runtime =
        RuntimeBuilder::<IoUringDriver>::new().with_entries(1024).enable_timer().build().expect("io_uring");
    println!(
        "{commands} commands, batches of {BATCH}, values of {VALUE_BYTES} bytes, medians of {ROUNDS} rounds by turns"
    );
    let mut rates = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        rates[0].push(server.redis_benchmark(commands, 1));
        rates[1].push(server.redis_benchmark(commands, 50));
        rates[2].push(runtime.block_on(ours(server.port, commands, Load::Set)));
        rates[3].push(runtime.block_on(ours(server.port, commands / 4, Load::Register)));
    }
    let [theirs, many, sets, rows] = rates.map(median);
    println!("redis-benchmark -P {BATCH} -c 1    {theirs:>10.0} SET/s");
    println!("redis-benchmark -P {BATCH} -c 50   {many:>10.0} SET/s");
    println!(
        "pipeline, one connection      {sets:>10.0} SET/s    ratio {:.2} (to -c 1), {:.2} (to -c 50)",
        sets / theirs,
        sets / many
    );
    println!("pipeline, location rows       {rows:>10.0} rows/s   100,000 users in {:.2} s", 100_000.0 / rows);
}

enum Load {
    /// What redis-benchmark does.
    Set,
    /// What a shard does after a cold start: the script that writes a row, of another user each time.
    Register,
}

async fn ours(port: u16, commands: usize, load: Load) -> f64 {
    let target = Target::parse(&format!("redis://127.0.0.1:{port}")).expect("a URL");
    let address = target.resolve().expect("an address").remove(0);
    let scripts = Scripts::new("ws:");
    let opening = Opening::begin(&target, &address, "bench", scripts.load()).expect("a socket");
    let pipeline: Pipeline<()> = Pipeline::start(opening.finish().await.expect("a connection"));
    let value = "x".repeat(VALUE_BYTES);
    let row = Row { node: "node-1".into(), epoch: 1_790_000_000_000, shard: ShardId(0) };
    let (mut sent, mut answered) = (0, 0);
    let mut set = redis::Cmd::new();
    let start = Instant::now();
    while answered < commands {
        while sent < commands && pipeline.unanswered() + BATCH <= WINDOW {
            for _ in 0..BATCH.min(commands - sent) {
                match load {
                    Load::Set => {
                        set.clear();
                        set.arg("SET").arg("key:__rand_int__").arg(&value);
                        pipeline.send((), &set, 0);
                    }
                    Load::Register => {
                        let stamp = Stamp { serial: sent as u64, lease_ends_ms: u64::MAX, confirmed: false };
                        let put = scripts.row_put(&format!("user-{sent}"), &row, 3_600_000, stamp);
                        pipeline.send((), &put, 0)
                    }
                }
                sent += 1;
            }
        }
        let mut arrival = Some(pipeline.next().await);
        while let Some(Arrival::Reply { value, .. }) = arrival {
            assert!(!matches!(value, redis::Value::ServerError(_)), "{value:?}");
            answered += 1;
            arrival = pipeline.try_next();
        }
        assert!(arrival.is_none(), "{arrival:?}");
    }
    commands as f64 / start.elapsed().as_secs_f64()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server (package redis-server)");
        let server = Server { child, port };
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    fn redis_benchmark(&self, commands: usize, clients: u32) -> f64 {
        let args = format!("-p {} -t set -P {BATCH} -c {clients} -n {commands} -d {VALUE_BYTES} --csv", self.port);
        let output = Command::new("redis-benchmark").args(args.split(' ')).output().expect("redis-benchmark");
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find(|line| line.starts_with("\"SET\"")).expect("a line for SET");
        line.split(',').nth(1).and_then(|rate| rate.trim_matches('"').parse().ok()).expect("a rate")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
