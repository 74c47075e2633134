//! A whole run from one seed: a world, its actors, what they do to each other, and what must be true whenever it comes to rest.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use fastrand::Rng;
use ringgate::config::{AuthMode, Config, Secret};
use ringgate::shard::Held;
use ringgate::shard::event::Event;

use crate::actor::Actor;
use crate::board::{Board, Fate, Place, SERVICE};
use crate::client::{Client, Phase};
use crate::codec;
use crate::ops::{self, USERS};
use crate::service::Service;
use crate::setup::Faults;
use crate::world::World;

/// Turns within which everything on its way must have arrived.
const REST_TURNS_MAX: usize = 20_000;

/// A run.
pub struct Play {
    pub world: World,
    actors: Vec<Actor>,
    service: Service,
    board: Board,
    rng: Rng,
    /// Outboxes are so small that anybody may run over.
    tight: bool,
    /// Publications before this one have been checked.
    checked: usize,
    /// The turn in which everything was last at rest.
    rested: u64,
}

/// Plays the whole run of a seed and returns a number that two runs of it have in common.
pub fn run(seed: u64) -> u64 {
    let mut play = Play::new(seed);
    for _ in 0..3 {
        play.act(play.rng.clone().usize(40..120));
        play.come_to_rest();
        play.check();
    }
    if play.rng.bool() {
        play.everyone_leaves()
    } else {
        play.drain()
    }
    play.nothing_is_left();
    play.fingerprint()
}

impl Play {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut config = Config::default();
        let limits = &mut config.limits;
        (limits.messages_per_second, limits.bytes_per_second, limits.connections_per_ip) = (0, 0, 0);
        limits.message_size = if rng.bool() { 16 * 1024 } else { 64 * 1024 };
        let tight = rng.u8(..3) == 0;
        if tight {
            config.outbox.high = rng.u32(1_000..8_000);
            config.outbox.low = rng.u32(0..config.outbox.high / 2);
            config.outbox.max = config.outbox.high + rng.u32(2_000..20_000);
        }
        config.session.max_per_user = if rng.u8(..3) == 0 { rng.u32(1..4) } else { 0 };
        config.session.max_subscriptions = if rng.u8(..3) == 0 { rng.u32(2..5) } else { 128 };
        config.rooms.announce_max = [0, 1, 3, 256][rng.usize(..4)];
        config.deflate.enabled = rng.bool();
        config.deflate.context_takeover = rng.u8(..4) == 0;
        config.deflate.min_size = [0, 64, 256][rng.usize(..3)];
        if rng.bool() {
            config.auth.mode = AuthMode::Jwt;
            config.auth.hmac_secret = Some(Secret("a secret that is long enough for HS256 and more".into()));
        }
        if rng.u8(..3) == 0 {
            config.hooks.message_url = Some("http://service/".to_owned());
            // Time jumps, and the service is to have answered all the same.
            config.hooks.answer_timeout_ms = 100_000_000;
        }
        let faults = Faults {
            skip: rng.f64() * 0.5,
            short_read: rng.f64(),
            short_write: rng.f64() * 0.5,
            panic: if rng.u8(..4) == 0 { 0.002 } else { 0.0 },
            delay: rng.u64(0..6),
            lane: rng.usize(1..40),
            lane_stuck: rng.f64() * 0.7,
        };
        let world = World::new(config, rng.u16(1..=5), faults, seed);
        let (service, board) = (Service::default(), Board::default());
        Play { world, actors: Vec::new(), service, board, rng, tight, checked: 0, rested: 0 }
    }

    /// Random things happen for so many turns.
    fn act(&mut self, turns: usize) {
        for _ in 0..turns {
            self.board.turn += 1;
            let live = self.actors.iter().filter(|a| a.client.phase != Phase::Gone).count();
            if live < 4 || live < 24 && self.rng.u8(..6) == 0 {
                self.spawn();
            }
            for at in 0..self.actors.len() {
                if self.actors[at].client.phase != Phase::Gone {
                    self.act_of(at);
                }
            }
            if self.rng.u8(..3) == 0 {
                self.service.act(&mut self.world, &mut self.actors, &mut self.board, &mut self.rng);
            }
            self.service.decide(&mut self.world, false, &mut self.rng);
            self.world.turn();
            self.excuse_panicked();
            self.service.hear(&mut self.world, &mut self.actors, &mut self.board, &mut self.rng);
            let ms = if self.rng.u8(..100) == 0 { self.rng.u64(..3_000) } else { self.rng.u64(..40) };
            self.world.pass(ms);
            if self.rng.u8(..40) == 0 {
                let jump = self.rng.u64(..7_200_000);
                let unix_ms = &mut self.world.now.unix_ms;
                *unix_ms = if self.rng.bool() { *unix_ms + jump } else { *unix_ms - jump };
            }
        }
    }

    fn act_of(&mut self, at: usize) {
        let Play { world, actors, board, rng, .. } = self;
        let actor = &mut actors[at];
        if actor.client.phase == Phase::Open && !actor.left && actor.client.unsent() < 4_096 && rng.u8(..4) == 0 {
            for _ in 0..rng.u8(1..4) {
                if !actor.left {
                    actor.act(world, board, rng);
                }
            }
        }
        if rng.bool() {
            let most = if rng.bool() { rng.usize(1..400) } else { usize::MAX };
            actor.client.write(world, most);
        }
        if rng.f64() < if actor.slow { 0.04 } else { 0.6 } {
            let most = if rng.bool() { rng.usize(1..400) } else { usize::MAX };
            for heard in actor.client.read(world, most) {
                actor.hear(heard, board);
            }
        }
    }

    /// A new client connects.
    fn spawn(&mut self) {
        let (rng, number) = (&mut self.rng, self.actors.len());
        let user = USERS[rng.usize(..USERS.len())].to_owned();
        if self.service.is_busy_with(&user) {
            return;
        }
        let peer = SocketAddr::new(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number as u32)), 40_000);
        let pipe = if rng.bool() { rng.usize(64..2_000) } else { 64 * 1024 };
        let socket = self.world.connect(peer, 64 * 1024, pipe);
        let mut extra = Vec::new();
        if rng.bool() {
            extra.push("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits".to_owned());
        }
        let mut target = if rng.bool() { "/ws?batch=1".to_owned() } else { "/ws?x=1".to_owned() };
        let config = &self.world.settings.config;
        let (jwt, max) = (config.auth.mode == AuthMode::Jwt, config.session.max_subscriptions as usize);
        let mut rooms: Vec<String> = Vec::new();
        let mut permissions = None;
        let mut first_message = None;
        let mut expires = false;
        if jwt {
            let claimed = if rng.u8(..4) == 0 { rng.usize(1..=2) } else { 0 };
            rooms.extend(["r0", "claimed"].iter().take(claimed.min(max)).map(|r| (*r).to_owned()));
            permissions = (rng.u8(..3) == 0).then(|| ops::PERMISSIONS.to_vec());
            let way = rng.u8(..3);
            expires = way < 2 && rng.u8(..5) == 0;
            let ttl_s = if expires { rng.u64(1..5_000) } else { 0 };
            let token = ops::token(&self.world, &user, ttl_s, permissions.as_deref(), &rooms);
            match way {
                0 => extra.push(format!("Authorization: Bearer {token}")),
                1 => target.push_str(&format!("&token={token}")),
                _ => first_message = Some(token),
            }
        } else {
            let encoded: String = user.bytes().map(|byte| format!("%{byte:02x}")).collect();
            target.push_str(&format!("&user_id={encoded}"));
        }
        let client = Client::new(socket, codec::upgrade_request(&target, &extra), rng.fork());
        let mut actor = Actor::new(number, user, client);
        actor.permissions = permissions;
        actor.slow = rng.u8(..5) == 0;
        // Through a narrow pipe even the 101 may take longer than a connection may take to move home, when time jumps.
        if actor.slow || self.tight || pipe < 2_000 {
            actor.excuses.insert(4110);
        }
        if expires {
            actor.excuses.extend([4001, 4002]);
        }
        if config.session.max_per_user != 0 {
            actor.excuses.insert(4004);
        }
        for room in rooms {
            actor.enters(Place::Room(room), None);
        }
        if let Some(token) = first_message {
            // Without compression: nothing is negotiated yet.
            let request = serde_json::json!({"type": "auth", "token": token});
            actor.ask(request, crate::actor::Expect::Ok, crate::actor::About::Nothing, self.rng.bool(), &mut self.rng);
        }
        self.actors.push(actor);
    }

    fn excuse_panicked(&mut self) {
        for socket in std::mem::take(&mut self.world.panicked) {
            if let Some(actor) = self.actors.iter_mut().find(|a| a.client.socket == socket) {
                actor.excuses.extend([1011, 500]);
                actor.left = true;
            }
        }
    }

    /// The faults stop and everybody listens, until nothing is on its way any more.
    fn come_to_rest(&mut self) {
        let faults = std::mem::replace(&mut self.world.faults, Faults::none());
        for turn in 0.. {
            assert!(turn < REST_TURNS_MAX, "the world does not come to rest");
            if !self.quiet_turn() && self.world.at_rest() && !self.unread() {
                break;
            }
        }
        self.world.faults = faults;
    }

    fn unread(&self) -> bool {
        let unread = |actor: &Actor| self.world.sockets[actor.client.socket].down.len() > 0;
        self.actors.iter().any(|actor| actor.client.phase != Phase::Gone && unread(actor))
    }

    /// A turn in which nobody does anything of their own accord. Says whether anybody wrote or heard anything.
    fn quiet_turn(&mut self) -> bool {
        self.board.turn += 1;
        let mut busy = false;
        for actor in &mut self.actors {
            busy |= actor.client.write(&mut self.world, usize::MAX) > 0;
            for heard in actor.client.read(&mut self.world, usize::MAX) {
                busy = true;
                actor.hear(heard, &mut self.board);
            }
        }
        busy |= self.service.decide(&mut self.world, true, &mut self.rng);
        self.world.turn();
        self.world.pass(1);
        self.service.hear(&mut self.world, &mut self.actors, &mut self.board, &mut self.rng) || busy
    }

    /// At rest: everybody has heard everything they should have.
    fn check(&mut self) {
        self.service.check(&mut self.actors, self.board.turn);
        let open: Vec<usize> = (0..self.actors.len()).filter(|&at| self.actors[at].is_in_session()).collect();
        for &at in &open {
            let actor = &self.actors[at];
            assert!(actor.pending.is_empty(), "actor {at} was not answered: {:?}", actor.pending);
            assert!(actor.errors_due.is_empty(), "actor {at} misses errors: {:?}", actor.errors_due);
        }
        for (user, place) in std::mem::take(&mut self.board.notices) {
            let stayed = |actor: &Actor| {
                let since = actor.stays.get(&place).and_then(|stay| stay.since);
                actor.user == user && since.is_some_and(|since| since <= self.rested)
            };
            let stayed = open.iter().any(|&at| stayed(&self.actors[at]));
            assert!(!stayed, "{user} was in {place:?} all the time and is said to have come or left");
        }
        for number in self.checked..self.board.publications.len() {
            self.check_publication(number, &open);
        }
        self.checked = self.board.publications.len();
        for &at in &open {
            let actor = &self.actors[at];
            assert!(actor.missed <= actor.gaps, "actor {at} misses {} and was told {}", actor.missed, actor.gaps);
            self.actors[at].settle_all(self.board.turn);
        }
        self.rested = self.board.turn;
        self.board.turn += 1;
        self.check_presence(&open);
    }

    fn check_publication(&mut self, number: usize, open: &[usize]) {
        let publication = &self.board.publications[number];
        let in_session = |sender: usize| sender != SERVICE && self.actors[sender].is_in_session();
        let done =
            publication.fate == Fate::Accepted || publication.fate == Fate::Unknown && in_session(publication.sender);
        if !done {
            return;
        }
        let mut receivers = 0;
        for &at in open {
            let actor = &self.actors[at];
            if !actor.must_hear(publication) {
                continue;
            }
            receivers += 1;
            if actor.received.contains(&number) {
                continue;
            }
            let newer = |n: &usize| self.board.publications[*n].conflation() == publication.conflation();
            match publication.class {
                "droppable" => self.actors[at].missed += 1,
                "latest" if actor.received.iter().any(newer) => {}
                _ => panic!("actor {at} has not got {number}: {publication:?}"),
            }
        }
        let publication = &self.board.publications[number];
        let reported = publication.reported.unwrap_or(u32::MAX) as usize;
        assert!(reported >= receivers, "{receivers} receivers, but {publication:?}");
        match publication.status.as_deref() {
            None | Some("delivered") => {}
            Some("offline") => assert_eq!(receivers, 0, "not offline: {publication:?}"),
            Some("dropped") => assert!(publication.class == "droppable" || self.tight, "{publication:?}"),
            Some(other) => panic!("unknown status {other}"),
        }
    }

    /// Everybody is told who is there, and it is true.
    fn check_presence(&mut self, open: &[usize]) {
        let Some(&asker) = open.first() else { return };
        let mut there: BTreeMap<Place, BTreeMap<String, u64>> = BTreeMap::new();
        for &at in open {
            let actor = &self.actors[at];
            for (place, _) in actor.stays.iter().filter(|(_, stay)| stay.asked_in) {
                *there.entry(place.clone()).or_default().entry(actor.user.clone()).or_default() += 1;
            }
        }
        there.entry(Place::Room("nobody is here".into())).or_default();
        for (place, users) in there {
            self.service.presence(&mut self.world, &place, users.clone());
            self.actors[asker].presence(place, Some(users), &self.world, &mut self.rng);
        }
        self.come_to_rest();
        self.service.check(&mut self.actors, self.board.turn);
        assert!(self.actors[asker].pending.is_empty(), "presence was not answered");
    }

    fn everyone_leaves(&mut self) {
        for at in 0..self.actors.len() {
            let actor = &mut self.actors[at];
            if actor.client.phase == Phase::Open {
                actor.left = true;
                match self.rng.u8(..3) {
                    0 => actor.client.close(Some(1000)),
                    1 => actor.client.vanish(&mut self.world),
                    _ => actor.client.finish(&mut self.world),
                }
            }
        }
        self.come_to_rest();
    }

    /// Every shard drains: everybody is told, and closed in time.
    fn drain(&mut self) {
        for actor in &mut self.actors {
            actor.excuses.extend([4201, 1001, 503]);
        }
        let stays = |actor: &Actor| actor.is_in_session() && !actor.excuses.contains(&4002);
        let open: Vec<usize> = (0..self.actors.len()).filter(|&at| stays(&self.actors[at])).collect();
        for host in 0..self.world.hosts.len() {
            self.world.tell(host, Event::Drain);
        }
        let deadline = self.world.now.mono_ms + self.world.settings.config.drain.deadline_ms;
        while self.world.hosts.iter().any(|host| host.drained == 0) {
            assert!(self.world.now.mono_ms < deadline, "the drain does not end in time");
            self.quiet_turn();
            self.world.pass(19);
        }
        self.come_to_rest();
        for at in open {
            let actor = &self.actors[at];
            assert!(actor.told_to_reconnect && actor.closed_with == Some(4201), "actor {at} was not told");
        }
    }

    /// After everybody has gone no shard holds anything.
    fn nothing_is_left(&mut self) {
        // What was refused or had failed is read to the end for a while; closing handshakes time out.
        for _ in 0..120 {
            self.quiet_turn();
            self.world.pass(99);
        }
        self.come_to_rest();
        for host in 0..self.world.hosts.len() {
            assert_eq!(self.world.held(host), Held::default(), "shard {host} still holds something");
        }
        assert!(self.actors.iter().all(|actor| actor.client.phase == Phase::Gone));
    }

    fn fingerprint(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        let mut add = |value: u64| hash = (hash ^ value).wrapping_mul(0x0100_0000_01b3);
        for host in &self.world.hosts {
            host.shard.counters().each_plain(|_, _, value| add(value));
        }
        self.actors.iter().for_each(|actor| add(actor.received.len() as u64));
        hash
    }
}
