//! From an accepted socket to a WebSocket: the upgrade request, and everything that may refuse it.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use bytes::Bytes;

use crate::config::AuthMode;
use crate::error::{CloseReason, RefusalReason};
use crate::ids::ConnectionId;
use crate::limits::{HTTP_HEAD_BYTES_MAX, LINGER_TIMEOUT_MS, USER_AGENT_BYTES_MAX, USER_AGENTS_MAX};
use crate::protocol::envelope::Envelope;
use crate::protocol::hook::Greeting;
use crate::shard::Shard;
use crate::shard::cluster::route;
use crate::shard::connections::NEVER;
use crate::shard::drain::{self, Drain};
use crate::shard::ip_table::RetryAfter;
use crate::shard::row::{AddressVerdict, Contexts, Opening, Paused, Preface, Row, State};
use crate::shard::session::Identity;
use crate::time::Now;
use crate::ws::deflate::{Deflater, Inflater};
use crate::ws::handshake::{HeadStatus, Refusal, RequestHead, Upgrade, parse_head, upgrade};
use crate::ws::proxy_protocol::{self, ProxyHeader};

/// Seconds after which a client that was refused for want of room may try again.
pub(super) const RETRY_AFTER_S: u32 = 5;

/// What an upgrade request comes to.
enum Outcome {
    /// A WebSocket; who the user is, where the request said so.
    Upgraded { upgrade: Upgrade, row: Upgraded, identity: Identity },
    /// `/echo`.
    Echo { upgrade: Upgrade },
    /// `/route`: the whole response.
    Answer(Bytes),
    /// The home of the address was asked; go on when it has answered.
    Wait,
}

/// What the request said about the connection.
struct Upgraded {
    user_agent: Option<Rc<str>>,
    batch: bool,
    greeting: Option<Box<Greeting>>,
    moved: bool,
}

impl Shard {
    pub(super) fn accepted(&mut self, conn: ConnectionId, peer: SocketAddr, over_capacity: bool, now: Now) {
        let now_ds = self.connections.ds(now);
        let mut row = Row::open(conn.generation, State::Connecting, peer, now_ds);
        row.created_unix_ms = now.unix_ms;
        let proxied = self.settings.config.listen.proxy_protocol;
        row.extra().opening = Some(Opening {
            head: Vec::new(),
            proxy: if proxied { Preface::Awaited } else { Preface::Taken(0) },
            accepted_us: now.mono_us(),
            address: AddressVerdict::Unasked,
            over_capacity,
        });
        self.connections.insert(conn, row);
        self.connections.counters.accepted += 1;
        let timeout = self.settings.config.session.handshake_timeout_ms;
        self.connections.set_deadline(conn.slot, after(now_ds, timeout));
        self.bound_opening(conn.slot, now);
        if !proxied {
            self.ask_early(conn.slot, now);
        }
    }

    /// Asks whether the client's address may open a connection, where it is known before the request: the answer comes back while the
    /// request is still on its way.
    fn ask_early(&mut self, slot: u32, now: Now) {
        let ip = self.connections.row(slot).ip;
        if !self.is_trusted_proxy(ip)
            && let AddressVerdict::Refused(_) = self.ask_for_address(slot, ip, now)
        {
            self.hurry(slot, now);
        }
    }

    /// Who will be refused anyway does not hold its place for long. But it is told only once it has asked: not every client understands an
    /// answer that comes before its question.
    fn hurry(&mut self, slot: u32, now: Now) {
        let at = after(self.connections.ds(now), LINGER_TIMEOUT_MS);
        self.connections.bring_forward(slot, at);
    }

    /// The request did not come in time.
    pub(super) fn opening_timed_out(&mut self, slot: u32, now: Now) {
        let refusal = match self.connections.row_mut(slot).opening().map(|opening| opening.address) {
            Some(AddressVerdict::Refused(seconds)) => over_address_rate(seconds),
            _ => Refusal::new(RefusalReason::Timeout, "the request did not come in time"),
        };
        self.refuse(slot, &refusal, now);
    }

    /// Bytes of the upgrade request.
    pub(super) fn opening_bytes(&mut self, slot: u32, data: &mut [u8], now: Now) {
        let Some(opening) = self.connections.row_mut(slot).opening() else { return };
        if opening.head.is_empty() {
            // Nearly always the whole request comes in one piece.
            let used = self.try_open(slot, data, now);
            match used {
                Some(used) => self.rest_of_opening(slot, &mut data[used..], now),
                None => self.keep_opening(slot, data),
            }
        } else {
            self.keep_opening(slot, data);
            self.retry_open(slot, now);
        }
    }

    fn keep_opening(&mut self, slot: u32, data: &[u8]) {
        let Some(opening) = self.connections.row_mut(slot).opening() else { return };
        opening.head.extend_from_slice(data);
        // More than a request: it is complete, and only its address is waited for. Nothing bounds what comes behind it but this.
        let preface = if let Preface::Taken(len) = opening.proxy { len } else { 0 };
        let complete = opening.head.len() > preface + HTTP_HEAD_BYTES_MAX;
        self.connections.reweigh(slot);
        if complete {
            self.connections.pause(slot, Paused::ADDRESS);
        }
    }

    /// The home of this connection's address has answered.
    pub(super) fn address_answered(&mut self, slot: u32, retry_after_s: Option<u32>, now: Now) {
        self.connections.resume(slot, Paused::ADDRESS, now);
        let Some(opening) = self.connections.row_mut(slot).opening() else { return };
        opening.address = retry_after_s.map_or(AddressVerdict::Admitted, AddressVerdict::Refused);
        let asked = !opening.head.is_empty();
        if retry_after_s.is_some() {
            self.hurry(slot, now);
        }
        if asked {
            self.retry_open(slot, now);
        }
    }

    /// Looks again at a request that was kept.
    fn retry_open(&mut self, slot: u32, now: Now) {
        let Some(opening) = self.connections.row_mut(slot).opening() else { return };
        let mut head = std::mem::take(&mut opening.head);
        match self.try_open(slot, &head, now) {
            Some(used) => self.rest_of_opening(slot, &mut head[used..], now),
            None => {
                if let Some(opening) = self.connections.row_mut(slot).opening() {
                    opening.head = head;
                }
            }
        }
    }

    /// What came behind the request belongs to the WebSocket.
    fn rest_of_opening(&mut self, slot: u32, rest: &mut [u8], now: Now) {
        if !rest.is_empty() {
            self.bytes(slot, rest, now);
        }
    }

    /// Answers the request if it is complete and all is known. Returns the length of its head, or `None` to wait.
    fn try_open(&mut self, slot: u32, bytes: &[u8], now: Now) -> Option<usize> {
        let preface = match self.take_preface(slot, bytes, now) {
            Ok(preface) => preface?,
            Err(refusal) => {
                self.refuse(slot, &refusal, now);
                return Some(bytes.len());
            }
        };
        let (head, len) = match parse_head(&bytes[preface..]) {
            Ok(HeadStatus::Incomplete) => return None,
            Ok(HeadStatus::Complete { head, len }) => (head, preface + len),
            Err(refusal) => {
                self.refuse(slot, &refusal, now);
                return Some(bytes.len());
            }
        };
        match self.examine(slot, &head, now) {
            Ok(Outcome::Wait) => return None,
            Ok(Outcome::Echo { upgrade }) => {
                self.upgraded(slot, &upgrade, now);
                self.connections.set_state(slot, State::Echo);
                self.start_heartbeat(slot, now);
            }
            Ok(Outcome::Upgraded { upgrade, row, identity }) => {
                self.upgraded(slot, &upgrade, now);
                let stored = self.connections.row_mut(slot);
                stored.user_agent = row.user_agent;
                stored.batch = row.batch;
                stored.moved = row.moved;
                if row.greeting.is_some() {
                    stored.extra().greeting = row.greeting;
                    self.connections.reweigh(slot);
                }
                self.connections.set_state(slot, State::Authenticating);
                self.identify(slot, identity, now);
            }
            Ok(Outcome::Answer(response)) => {
                self.connections.counters.routes_answered += 1;
                self.connections.push_response(slot, response);
                self.linger(slot, CloseReason::Answered, now);
                return Some(bytes.len());
            }
            Err(refusal) => {
                self.refuse(slot, &refusal, now);
                return Some(bytes.len());
            }
        }
        Some(len)
    }

    /// Takes the PROXY header from the front, where there must be one. Returns its length, or `None` to wait.
    fn take_preface(&mut self, slot: u32, bytes: &[u8], now: Now) -> Result<Option<usize>, Refusal> {
        match self.connections.row_mut(slot).opening().map(|opening| opening.proxy) {
            Some(Preface::Taken(len)) => return Ok(Some(len)),
            None => return Ok(None),
            Some(Preface::Awaited) => {}
        }
        if !self.is_trusted_proxy(self.connections.row(slot).ip) {
            let text = "this listener takes connections from its proxies only (listen.trusted_proxies)";
            return Err(Refusal::new(RefusalReason::ProxyHeader, text));
        }
        match proxy_protocol::parse(bytes) {
            Ok(ProxyHeader::Incomplete) => Ok(None),
            Ok(ProxyHeader::Complete { client, len }) => {
                let row = self.connections.row_mut(slot);
                if let Some(client) = client {
                    (row.ip, row.port) = (client.ip(), client.port());
                }
                if let Some(opening) = row.opening() {
                    opening.proxy = Preface::Taken(len);
                }
                self.ask_early(slot, now);
                Ok(Some(len))
            }
            Err(what) => Err(Refusal::new(RefusalReason::ProxyHeader, what.0)),
        }
    }

    /// Whether this request may become a WebSocket.
    fn examine(&mut self, slot: u32, head: &RequestHead<'_>, now: Now) -> Result<Outcome, Refusal> {
        let echo = self.settings.config.echo.enabled && head.path == "/echo";
        let upgrade = match head.path {
            route::PATH => {
                self.check_route(head)?;
                None
            }
            path if path == "/ws" || echo => Some(upgrade(head, &self.settings.config.deflate)?),
            _ => {
                let text = "there is nothing here; WebSocket clients connect to /ws";
                return Err(Refusal::new(RefusalReason::NotFound, text));
            }
        };
        self.check_origin(head)?;
        if !matches!(self.drain, Drain::Off) {
            return Err(drain::refusal());
        }
        if let Some(refusal) = self.refused_by_pressure() {
            return Err(refusal);
        }
        let (address, over_capacity) = match self.connections.row_mut(slot).opening() {
            Some(opening) => (opening.address, opening.over_capacity),
            None => (AddressVerdict::Admitted, false),
        };
        if over_capacity {
            let refusal = Refusal::new(RefusalReason::Capacity, "this node holds as many connections as it may");
            return Err(refusal.retry_after(RETRY_AFTER_S));
        }
        let address = match address {
            AddressVerdict::Unasked => {
                let ip = self.client_address(self.connections.row(slot).ip, head);
                self.connections.row_mut(slot).ip = ip;
                // A balancer that asks on its own behalf asks for every client.
                if upgrade.is_none() && self.is_trusted_proxy(ip) {
                    AddressVerdict::Admitted
                } else {
                    self.ask_for_address(slot, ip, now)
                }
            }
            known => known,
        };
        match address {
            AddressVerdict::Refused(seconds) => {
                return Err(over_address_rate(seconds));
            }
            AddressVerdict::Asked | AddressVerdict::Unasked => return Ok(Outcome::Wait),
            AddressVerdict::Admitted => {}
        }
        let Some(upgrade) = upgrade else { return self.answer_route(head).map(Outcome::Answer) };
        if echo {
            return Ok(Outcome::Echo { upgrade });
        }
        let identity = match self.settings.config.auth.mode {
            AuthMode::None => Identity::UserId(head.query_param("user_id").map(|u| u.into_owned())),
            AuthMode::Jwt => match head.authorization_bearer() {
                Some(token) => Identity::Token(token.to_owned()),
                None => head.query_param("token").map_or(Identity::Later, |t| Identity::Token(t.into_owned())),
            },
        };
        let is_set = |name| head.query_param(name).is_some_and(|v| v == "1");
        let (batch, moved) = (is_set("batch"), is_set("moved"));
        let user_agent = head.user_agent().and_then(|text| self.intern_user_agent(text));
        let greeting = self.greeting(head);
        Ok(Outcome::Upgraded { upgrade, row: Upgraded { user_agent, batch, moved, greeting }, identity })
    }

    /// Queues the 101 and makes the row a WebSocket's.
    fn upgraded(&mut self, slot: u32, upgrade: &Upgrade, now: Now) {
        let (config, now_ds) = (&self.settings.config, self.connections.ds(now));
        let level = config.deflate.level;
        let row = self.connections.row_mut(slot);
        let accepted_us = row.opening().map(|opening| opening.accepted_us);
        row.extra = None;
        row.deflate = upgrade.deflate;
        row.protocol_named = upgrade.protocol.is_some();
        row.last_receive_ds = now_ds;
        row.last_message_ds = now_ds;
        if let Some(contexts) = upgrade.deflate.and_then(|params| contexts(&params, level, &[])) {
            row.extra().contexts = Some(contexts);
        }
        self.connections.set_deadline(slot, NEVER);
        self.connections.push_response(slot, upgrade.response());
        self.connections.counters.upgraded += 1;
        if let Some(accepted_us) = accepted_us {
            self.connections.distributions.handshake_us.record(now.mono_us().saturating_sub(accepted_us));
        }
    }

    /// Answers with an HTTP error and ends the connection.
    pub(super) fn refuse(&mut self, slot: u32, refusal: &Refusal, now: Now) {
        self.connections.counters.refused(refusal.reason);
        self.connections.push_response(slot, refusal.response());
        let reason = if refusal.reason == RefusalReason::Timeout {
            CloseReason::HandshakeTimeout
        } else {
            CloseReason::HandshakeRefused
        };
        self.linger(slot, reason, now);
    }

    fn check_origin(&self, head: &RequestHead<'_>) -> Result<(), Refusal> {
        let allowed = &self.settings.config.listen.allowed_origins;
        // Programs that are not browsers send no Origin, and could send any.
        let Some(origin) = head.origin() else { return Ok(()) };
        if allowed.is_empty() || allowed.iter().any(|a| a == "*" || a.eq_ignore_ascii_case(origin)) {
            return Ok(());
        }
        Err(Refusal::new(RefusalReason::Origin, "this origin may not connect (listen.allowed_origins)"))
    }

    /// Asks whether this address may open another connection; remembers and returns the verdict.
    fn ask_for_address(&mut self, slot: u32, ip: IpAddr, now: Now) -> AddressVerdict {
        let home = self.settings.homes.ip(ip);
        let verdict = if self.settings.config.limits.connections_per_ip == 0 {
            AddressVerdict::Admitted
        } else if home == self.id {
            self.may_connect(ip, now).map_or(AddressVerdict::Admitted, AddressVerdict::Refused)
        } else {
            let conn = self.connections.id(slot);
            self.relay.send(home, Envelope::MayConnect { ip, conn }, None);
            AddressVerdict::Asked
        };
        if let Some(opening) = self.connections.row_mut(slot).opening() {
            opening.address = verdict;
        }
        verdict
    }

    /// At the home of an address: `None` to admit, or the seconds to wait.
    pub(super) fn may_connect(&mut self, ip: IpAddr, now: Now) -> Option<u32> {
        self.ips.admit(ip, now.mono_ms).err().map(|RetryAfter(seconds)| seconds)
    }

    fn is_trusted_proxy(&self, ip: IpAddr) -> bool {
        self.settings.config.listen.trusted_proxies.iter().any(|network| network.contains(ip))
    }

    /// The client behind a trusted proxy: the rightmost forwarded address that is not a trusted proxy itself.
    fn client_address(&self, socket: IpAddr, head: &RequestHead<'_>) -> IpAddr {
        if !self.is_trusted_proxy(socket) {
            return socket;
        }
        let mut client = socket;
        let values: Vec<&[u8]> = head.headers("x-forwarded-for").collect();
        let hops = values.iter().rev().flat_map(|value| value.rsplit(|b| *b == b',')).map(<[u8]>::trim_ascii);
        // Whatever stands further left was written by somebody who is not believed.
        for hop in hops.filter(|hop| !hop.is_empty()) {
            let Some(ip) = std::str::from_utf8(hop).ok().and_then(parse_hop) else { break };
            client = ip;
            if !self.is_trusted_proxy(ip) {
                break;
            }
        }
        client
    }

    /// The shared copy of a user agent, cut to its bound; `None` where there are too many already.
    pub(super) fn intern_user_agent(&mut self, text: &str) -> Option<Rc<str>> {
        let mut end = text.len().min(USER_AGENT_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = &text[..end];
        if let Some((known, ())) = self.user_agents.get_key_value(text) {
            return Some(known.clone());
        }
        if self.user_agents.len() >= USER_AGENTS_MAX {
            // The next tick forgets those that nobody has any more.
            return None;
        }
        let agent: Rc<str> = Rc::from(text);
        self.user_agents.insert(agent.clone(), ());
        Some(agent)
    }
}

/// An address as proxies write it: with or without a port, IPv6 with or without brackets.
fn parse_hop(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    text.parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|a| a.ip()))
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
        .map(|ip| ip.to_canonical())
}

fn over_address_rate(retry_after_s: u32) -> Refusal {
    Refusal::new(RefusalReason::AddressRate, "too many new connections from this address").retry_after(retry_after_s)
}

/// Contexts for a connection that keeps any between messages; `window` is what the client has sent before, on another shard.
pub(super) fn contexts(params: &crate::ws::deflate::DeflateParams, level: u32, window: &[u8]) -> Option<Box<Contexts>> {
    if params.server_no_context_takeover && params.client_no_context_takeover {
        return None;
    }
    let mut inflater = Inflater::new();
    if !window.is_empty() {
        inflater.set_window(window);
    }
    let takeover = !params.server_no_context_takeover;
    let deflater = Deflater::new(level, params.server_max_window_bits, takeover);
    Some(Box::new(Contexts { inflater, deflater }))
}

/// The deadline `timeout_ms` after `now_ds`; 0 is never.
pub(super) fn after(now_ds: u32, timeout_ms: u64) -> u32 {
    if timeout_ms == 0 { NEVER } else { now_ds.saturating_add(timeout_ms.div_ceil(100) as u32) }
}
