//! The command line. What is not given depends on the mode: see `plan.rs`.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde::Serialize;

/// Drives a gateway with many WebSocket clients over loopback, checks every delivery, and says what it cost the server.
#[derive(Clone, Debug, Parser)]
#[command(name = "load", bin_name = "cargo bench --bench load --")]
pub(crate) struct Options {
    /// What to do.
    #[arg(value_enum)]
    pub(crate) mode: Mode,
    /// Client connections (in rooms: rooms x members).
    #[arg(long, short = 'n')]
    pub(crate) connections: Option<u32>,
    /// Messages per second, all senders together, sent at fixed times; 0: each as soon as the last has arrived.
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Bytes of content per message.
    #[arg(long)]
    pub(crate) size: Option<usize>,
    /// Messages under way per connection (echo, p2p) or room (fanout) where there is no rate.
    #[arg(long)]
    pub(crate) depth: Option<u32>,
    /// Rooms.
    #[arg(long)]
    pub(crate) rooms: Option<u32>,
    /// Members per room.
    #[arg(long)]
    pub(crate) members: Option<u32>,
    /// Sending members per room.
    #[arg(long)]
    pub(crate) senders: Option<u32>,
    /// Channels (`subscribe`, `publish`) in place of rooms.
    #[arg(long)]
    pub(crate) channels: bool,
    /// Seconds measured.
    #[arg(long)]
    pub(crate) seconds: Option<f64>,
    /// Seconds before measuring begins.
    #[arg(long)]
    pub(crate) warmup: Option<f64>,
    /// Connects per second; 0: as fast as they can.
    #[arg(long)]
    pub(crate) connect_rate: Option<f64>,
    /// Connects under way at once, per worker; 0: any number.
    #[arg(long)]
    pub(crate) inflight: Option<u32>,
    /// Direct messages per second on top (idle, mix).
    #[arg(long)]
    pub(crate) p2p_rate: Option<f64>,
    /// A broadcast every so many seconds on top (idle, mix).
    #[arg(long)]
    pub(crate) broadcast: Option<f64>,
    /// Share of the members that do not read (slow).
    #[arg(long)]
    pub(crate) slow_share: Option<f64>,
    /// Connections per second that are cut and come back (mix).
    #[arg(long)]
    pub(crate) churn: Option<f64>,
    /// How often all are cut and come back (storm); how often each kind of message is measured, by turns (cluster).
    #[arg(long)]
    pub(crate) rounds: Option<u32>,
    /// Nodes (cluster).
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=16))]
    pub(crate) nodes: u32,
    /// How messages find users on other nodes, one after the other (cluster).
    #[arg(long, value_delimiter = ',', value_parser = ["broadcast", "registry", "hash"])]
    #[arg(default_values = ["broadcast", "registry", "hash"])]
    pub(crate) routing: Vec<String>,
    /// Threads of the generator, each with its own descriptor table.
    #[arg(long)]
    pub(crate) workers: Option<u32>,
    /// A running server; otherwise the gateway is started.
    #[arg(long, value_parser = target, value_name = "ws://127.0.0.1:PORT")]
    pub(crate) url: Option<SocketAddrV4>,
    /// Process id of the server behind --url, for its CPU and memory.
    #[arg(long)]
    pub(crate) pid: Option<u32>,
    /// The gateway to start (default: the release build beside this bench, built if it is missing).
    #[arg(long)]
    pub(crate) binary: Option<PathBuf>,
    /// Shards of the gateway, or of each node.
    #[arg(long)]
    pub(crate) shards: Option<u16>,
    /// Driver of the gateway.
    #[arg(long, value_parser = ["auto", "io_uring", "epoll"])]
    pub(crate) driver: Option<String>,
    /// More settings for the gateway, as its own --set.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) settings: Vec<String>,
    /// Core for the gateway.
    #[arg(long)]
    pub(crate) pin_server: Option<usize>,
    /// Core for the generator.
    #[arg(long)]
    pub(crate) pin_client: Option<usize>,
    /// The generator never sleeps while messages are sent: the server's figures are then without the waking of its clients' threads,
    /// which is dear in virtual machines. Give it a core of its own.
    #[arg(long)]
    pub(crate) spin: bool,
    /// Short and small, for correctness only; exits with 1 when anything was lost, duplicated, out of order or misrouted.
    #[arg(long)]
    pub(crate) check: bool,
    /// The report as JSON on standard output.
    #[arg(long)]
    pub(crate) json: bool,
    /// What cargo passes to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Connect, authenticate, join a room, stay.
    Idle,
    /// Every message comes back (/echo).
    Echo,
    /// Rooms: one sends, all others receive.
    Fanout,
    /// Pairs of users send to each other.
    P2p,
    /// Rooms in which some members do not read.
    Slow,
    /// All connect at once, are cut, and come back.
    Storm,
    /// Rooms, channels, direct messages, broadcasts, and connections that come and go.
    Mix,
    /// Nodes over a Redis of their own: pairs on one node, and pairs on two, by turns.
    Cluster,
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Mode::Idle => "idle",
            Mode::Echo => "echo",
            Mode::Fanout => "fanout",
            Mode::P2p => "p2p",
            Mode::Slow => "slow",
            Mode::Storm => "storm",
            Mode::Mix => "mix",
            Mode::Cluster => "cluster",
        }
    }
}

/// Seconds as given on the command line; nonsense (negative, NaN, huge) becomes the nearest sense.
pub(crate) fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value.min(86_400.0)).unwrap_or_default()
}

/// `ws://HOST:PORT`, loopback only: the generator is not a weapon.
fn target(url: &str) -> Result<SocketAddrV4, String> {
    let rest = url.strip_prefix("ws://").ok_or("must begin with ws://")?;
    let authority = rest.split('/').next().unwrap_or_default();
    let (host, port) = authority.split_once(':').unwrap_or((authority, "80"));
    let ip: Ipv4Addr = if host == "localhost" {
        Ipv4Addr::LOCALHOST
    } else {
        host.parse().map_err(|_| format!("{host:?} is not an IPv4 address"))?
    };
    let port = port.parse().map_err(|_| format!("{port:?} is not a port"))?;
    if ip.is_loopback() { Ok(SocketAddrV4::new(ip, port)) } else { Err(format!("{ip} is not loopback")) }
}
