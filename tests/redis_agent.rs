//! Agents and their wires against a real Redis that is flushed, restarted, stopped, cut off and made deaf.

mod redis_support;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use monoio::time::{Instant, sleep, timeout};
use redis_support::{Server, on_each_driver};
use ringgate::bus::redis::target::{Address, Target};
use ringgate::bus::redis::wires::{Plan, Wires};
use ringgate::cluster::agent::{Action, Agent, Clock, Event, Identity};
use ringgate::cluster::lease::Lease;
use ringgate::cluster::link::{Cause, Side, State};
use ringgate::cluster::nodes::{About, Nodes};
use ringgate::cluster::registry::wants::Pace;
use ringgate::cluster::wire::Incoming;
use ringgate::ids::ShardId;

const LEASE_TTL_MS: u64 = 3_000;
const TIMEOUT_MS: u64 = 1_000;

/// One shard of one node, driven by a task.
struct Shard {
    agent: Agent,
    wires: Wires,
    nodes: Nodes,
    found: Vec<(Rc<str>, usize)>,
    invalidated: usize,
    messages: Vec<(String, Vec<u8>)>,
    complaints: usize,
    started: Instant,
    over: bool,
}

type Shared = Rc<RefCell<Shard>>;

impl Shard {
    fn now_ms(&self) -> u64 {
        1_000 + self.started.elapsed().as_millis() as u64
    }

    fn clock(&self) -> Clock {
        let now = self.now_ms();
        Clock { mono_ms: now, boot_ms: now, unix_ms: 1_790_000_000_000 + now }
    }

    fn handle(&mut self, event: Event<'_>) {
        let clock = self.clock();
        self.agent.handle(event, clock);
        self.act();
    }

    fn act(&mut self) {
        let now_ms = self.now_ms();
        while let Some(action) = self.agent.next_action() {
            self.wires.act(action, now_ms);
        }
        self.wires.flush(now_ms);
    }

    fn take(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Agent(event) => self.handle(event),
            Incoming::Found { user, rows } => self.found.push((user, rows.map_or(usize::MAX, |rows| rows.len()))),
            Incoming::Invalidated(users) => self.invalidated += users.len(),
            Incoming::Message { channel, payload } => {
                self.messages.push((String::from_utf8(channel).unwrap(), payload));
            }
            Incoming::Leases { leases, asked_ms } => drop(self.nodes.polled(leases, asked_ms)),
            Incoming::Published { .. }
            | Incoming::Sampled { .. }
            | Incoming::Removed { .. }
            | Incoming::InvalidatedAll
            | Incoming::Unanswered(_) => {}
        }
        while self.wires.next_complaint().is_some() {
            self.complaints += 1;
        }
    }
}

fn shard(target: &Target, address: Address, name: &str, instance: u32) -> Shared {
    let pace = Pace { batch_size: 512, batch_delay_ms: 5, unanswered_max: 4_096, renew_every_ms: 60_000 };
    let channels = Pace { renew_every_ms: 0, ..pace };
    let identity = Identity { shard: ShardId(0), instance, timeout_ms: TIMEOUT_MS, rows: pace, channels };
    let lease = Lease::new(name, LEASE_TTL_MS, u64::from(instance));
    let hasher = ahash::RandomState::with_seeds(1, 2, 3, 4);
    let agent = Agent::new(&identity, Some(lease), u64::from(instance), hasher);
    let plan = Plan {
        target: target.clone(),
        addresses: vec![address],
        prefix: "ws:".into(),
        entry_ttl_ms: 60_000,
        lease_ttl_ms: LEASE_TTL_MS,
        instance,
        about: About::default(),
        name: format!("ringgate-{name}"),
        shard: ShardId(0),
    };
    let shard = Rc::new(RefCell::new(Shard {
        agent,
        wires: Wires::new(plan),
        nodes: Nodes::default(),
        found: Vec::new(),
        invalidated: 0,
        messages: Vec::new(),
        complaints: 0,
        started: Instant::now(),
        over: false,
    }));
    monoio::spawn(drive(shard.clone()));
    shard
}

async fn drive(shard: Shared) {
    while !shard.borrow().over {
        let oldest_unanswered_ms = {
            let shard = shard.borrow();
            shard.wires.oldest_unanswered_ms(shard.now_ms())
        };
        shard.borrow_mut().handle(Event::Tick { oldest_unanswered_ms });
        let until = Instant::now() + Duration::from_millis(20);
        while let Ok(incoming) = {
            let next = std::future::poll_fn(|cx| {
                let mut shard = shard.borrow_mut();
                let now_ms = shard.now_ms();
                shard.wires.poll_next(now_ms, cx)
            });
            timeout(until.saturating_duration_since(Instant::now()), next).await
        } {
            shard.borrow_mut().take(incoming);
        }
    }
}

fn address(target: &Target) -> Address {
    target.resolve().unwrap().remove(0)
}

async fn until(what: &str, within_ms: u64, mut holds: impl FnMut() -> bool) -> u64 {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_millis(within_ms), "not within {within_ms} ms: {what}");
        sleep(Duration::from_millis(10)).await;
    }
    began.elapsed().as_millis() as u64
}

fn is(shard: &Shared, state: State) -> bool {
    shard.borrow().agent.state() == state && (state != State::Up || shard.borrow().agent.standing().is_some())
}

fn come(shard: &Shared, users: std::ops::Range<u32>) {
    let mut shard = shard.borrow_mut();
    users.for_each(|u| shard.handle(Event::UserCame(&format!("u{u}"))));
}

fn leave(shard: &Shared, users: std::ops::Range<u32>) {
    let mut shard = shard.borrow_mut();
    users.for_each(|u| shard.handle(Event::UserLeft(&format!("u{u}"))));
}

/// The users who have a row under the shard's present epoch, from outside.
fn registered(server: &Server, shard: &Shared, users: u32) -> BTreeSet<u32> {
    let Some(standing) = shard.borrow().agent.standing().cloned() else { return BTreeSet::new() };
    let script = "local found = {} for u = 0, ARGV[1] - 1 do \
        local row = redis.call('HGET', 'ws:loc:u' .. u, ARGV[2]) if row and string.match(row, '^%d+ %d+') == ARGV[3] then found[#found + 1] = u end end return found";
    let (users, row) = (users.to_string(), format!("{} 0", standing.epoch));
    let found = server.cli(&["EVAL", script, "0", &users, &standing.node, &row]);
    found.lines().filter_map(|line| line.parse().ok()).collect()
}

fn indexed(server: &Server, shard: &Shared) -> String {
    let standing = shard.borrow().agent.standing().cloned().expect("a lease");
    server.cli(&["SCARD", &format!("ws:idx:{}:{}:0", standing.node, standing.epoch)])
}

/// Ends their connections, so that the next run does not meet them.
async fn end(shards: &[&Shared]) {
    for shard in shards {
        let mut shard = shard.borrow_mut();
        shard.over = true;
        for side in [Side::Commands, Side::Subscriber] {
            shard.wires.act(Action::Drop(side, Cause::Ended), 0);
        }
    }
    sleep(Duration::from_millis(100)).await;
}

#[test]
fn users_are_registered_found_and_forgotten_and_changes_are_told() {
    let server = Server::start(&[]);
    on_each_driver(|| async {
        server.cli(&["FLUSHALL"]);
        let (target, at) = (server.target(), address(&server.target()));
        let (a, b) = (shard(&target, at.clone(), "a", 1), shard(&target, at, "b", 2));
        until("both are up", 3_000, || is(&a, State::Up) && is(&b, State::Up)).await;
        come(&a, 0..3_000);
        come(&b, 2_990..3_010);
        until("registered", 5_000, || registered(&server, &a, 4_000).len() == 3_000).await;
        assert_eq!(indexed(&server, &a), "3000");
        assert!(a.borrow().agent.is_registered("u7"));

        for user in ["u2995", "u3005", "nobody"] {
            let now_ms = b.borrow().now_ms();
            b.borrow_mut().wires.find(&user.into(), now_ms);
        }
        until("found", 1_000, || b.borrow().found.len() == 3).await;
        assert_eq!(b.borrow().found.iter().map(|f| f.1).collect::<Vec<_>>(), [2, 1, 0]);
        // Its own rows are written by then, and with each of them it was told.
        let own = b.borrow().invalidated;
        leave(&a, 0..2_996);
        until("forgotten", 5_000, || registered(&server, &a, 4_000).len() == 4).await;
        assert_eq!(indexed(&server, &a), "4");
        until("told", 1_000, || b.borrow().invalidated > own).await;
        assert_eq!(b.borrow().invalidated, own + 1, "of what it has read, and of nothing else");

        let channel = {
            b.borrow_mut().handle(Event::Listen("room:x"));
            until("listening", 1_000, || server.cli(&["PUBSUB", "NUMSUB", "ws:room:x"]).ends_with('1')).await;
            "room:x"
        };
        let now = a.borrow().now_ms();
        a.borrow_mut().wires.publish(1, channel, b"hello", now);
        until("heard", 1_000, || b.borrow().messages == [(channel.to_owned(), b"hello".to_vec())]).await;

        a.borrow_mut().wires.poll_leases(now, now);
        until("polled", 1_000, || a.borrow().nodes.live(now).count() == 2).await;
        end(&[&a, &b]).await;
    });
}

#[test]
fn a_flush_and_a_lost_script_cache_are_made_good() {
    let server = Server::start(&[]);
    on_each_driver(|| async {
        server.cli(&["FLUSHALL"]);
        let a = shard(&server.target(), address(&server.target()), "a", 1);
        come(&a, 0..2_000);
        until("registered", 5_000, || registered(&server, &a, 2_000).len() == 2_000).await;
        server.cli(&["SCRIPT", "FLUSH"]);
        come(&a, 2_000..2_100);
        until("loaded again", 3_000, || registered(&server, &a, 3_000).len() == 2_100).await;
        server.cli(&["FLUSHALL"]);
        let took = until("announced again", 6_000, || registered(&server, &a, 3_000).len() == 2_100).await;
        assert_eq!(indexed(&server, &a), "2100", "after {took} ms");
        until("up", 2_000, || is(&a, State::Up)).await;
        end(&[&a]).await;
    });
}

#[test]
fn who_comes_and_goes_is_told_once_through_lost_connections_and_a_flush() {
    let server = Server::start(&[]);
    on_each_driver(|| async {
        server.cli(&["FLUSHALL"]);
        let (target, at) = (server.target(), address(&server.target()));
        let (a, listener) = (shard(&target, at.clone(), "a", 1), shard(&target, at, "b", 2));
        listener.borrow_mut().handle(Event::Listen("user:events"));
        until("listening", 3_000, || server.cli(&["PUBSUB", "NUMSUB", "ws:user:events"]).ends_with('1')).await;
        let told = |event: &str| {
            let start = format!("{{\"event\":\"{event}\"");
            let messages = &listener.borrow().messages;
            messages.iter().filter(|(_, payload)| payload.starts_with(start.as_bytes())).count()
        };
        come(&a, 0..500);
        until("all are told", 5_000, || told("online") == 500).await;
        server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        leave(&a, 0..10);
        until("those who left are told", 5_000, || is(&a, State::Up) && told("offline") == 10).await;
        server.cli(&["FLUSHALL"]);
        // Before it is noticed.
        leave(&a, 10..30);
        until("those as well", 5_000, || told("offline") == 30).await;
        until("announced again", 6_000, || registered(&server, &a, 500) == (30..500).collect()).await;
        leave(&a, 30..40);
        until("as ever", 5_000, || told("offline") == 40).await;
        assert_eq!(told("online"), 500, "nobody is told to come again");
        end(&[&a, &listener]).await;
    });
}

#[test]
fn a_server_that_is_gone_hung_or_cuts_connections_is_met_again() {
    let port_of = |server: &Server| server.port().to_string();
    on_each_driver(|| async {
        let server = Server::start(&[]);
        let target = server.target();
        let a = shard(&target, address(&target), "a", 1);
        come(&a, 0..500);
        until("up", 3_000, || is(&a, State::Up) && registered(&server, &a, 500).len() == 500).await;

        server.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        until("noticed", 1_000, || !is(&a, State::Up)).await;
        until("up again", 3_000, || is(&a, State::Up)).await;
        server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        leave(&a, 0..10);
        until("up again", 3_000, || is(&a, State::Up) && registered(&server, &a, 500).len() == 490).await;

        server.stop(true);
        until("hung is noticed", 3_500, || is(&a, State::Down)).await;
        leave(&a, 10..20);
        come(&a, 500..520);
        sleep(Duration::from_millis(2_500)).await;
        let before = a.borrow().complaints;
        server.stop(false);
        until("up after the stop", 8_000, || {
            is(&a, State::Up) && registered(&server, &a, 520) == (20..520).collect::<BTreeSet<_>>()
        })
        .await;
        assert!(before <= 4, "{before} complaints about one outage");

        let port = port_of(&server);
        drop(server);
        until("gone is noticed", 1_000, || is(&a, State::Down)).await;
        sleep(Duration::from_millis(700)).await;
        let server = Server::start_on(&port, &[]);
        until("up after the restart", 8_000, || is(&a, State::Up) && registered(&server, &a, 520).len() == 500).await;
        end(&[&a]).await;
    });
}

#[test]
fn a_deaf_subscription_is_found_within_3_s_and_replaced() {
    let server = Server::start(&[]);
    on_each_driver(|| async {
        let proxy = redis_support::Proxy::start(server.port());
        let target = Target::parse(&format!("redis://127.0.0.1:{}", proxy.port())).unwrap();
        let a = shard(&target, address(&target), "a", 1);
        until("up", 3_000, || is(&a, State::Up)).await;
        sleep(Duration::from_millis(1_200)).await;
        // Whatever was subscribed hears nothing more; commands and new connections are carried.
        proxy.deafen();
        let took = until("found", 3_200, || !is(&a, State::Up)).await;
        assert!(took < 3_000, "{took} ms");
        until("replaced", 3_000, || is(&a, State::Up)).await;
        end(&[&a]).await;
    });
}

#[test]
fn a_second_process_of_the_same_name_fences_the_first() {
    let server = Server::start(&[]);
    on_each_driver(|| async {
        server.cli(&["FLUSHALL"]);
        let (target, at) = (server.target(), address(&server.target()));
        let first = shard(&target, at.clone(), "a", 1);
        come(&first, 0..50);
        until("registered", 3_000, || registered(&server, &first, 50).len() == 50).await;
        let second = shard(&target, at, "a", 2);
        come(&second, 40..60);
        until("renamed", 5_000, || first.borrow().agent.standing().is_some_and(|s| *s.node != *"a")).await;
        until("announced under the fresh name", 3_000, || registered(&server, &first, 60).len() == 50).await;
        assert_eq!(registered(&server, &second, 60), (40..60).collect());
        end(&[&first, &second]).await;
    });
}

#[test]
fn actions_for_others_are_left_alone() {
    // The wires carry out what is theirs and ignore the rest, connected or not.
    let target = Target::parse("redis://127.0.0.1:1").unwrap();
    on_each_driver(|| async {
        let a = shard(&target, address(&target), "a", 1);
        a.borrow_mut().wires.act(Action::Changed(State::Up), 0);
        a.borrow_mut().wires.publish(9, "room:x", b"", 0);
        sleep(Duration::from_millis(300)).await;
        assert!(is(&a, State::Down) && a.borrow().complaints == 1, "{}", a.borrow().complaints);
        end(&[&a]).await;
    });
}
