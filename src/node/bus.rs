//! The wires of the shards to Redis: where it is, looked up here and never on a shard; and what is said of them in the log.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use super::outage::{Outage, Say};
use crate::bus::redis::target::{Address, Target, TargetError};
use crate::bus::redis::wires::{Complaint, Plan, Wires};
use crate::cluster::agent::Action;
use crate::cluster::lease::{Change, Loss};
use crate::cluster::nodes::About;
use crate::cluster::wire::{Incoming, Outgoing};
use crate::config::Routing;
use crate::ids::ShardId;
use crate::io::bus::{Bus, MakeBus};
use crate::io::process::SignalsBlocked;
use crate::settings::Settings;

/// How often a name is looked up again while somebody cannot connect.
const LOOK_UP_EVERY: Duration = Duration::from_secs(2);

/// Where Redis is, as far as is known.
#[derive(Debug)]
struct Whereabouts {
    addresses: Mutex<Vec<Address>>,
    /// Somebody has connected, or tried to, since the name was looked up.
    wanted: AtomicBool,
}

impl Whereabouts {
    fn get(&self) -> Vec<Address> {
        self.addresses.lock().map(|addresses| addresses.clone()).unwrap_or_default()
    }

    fn set(&self, found: Vec<Address>) {
        if let Ok(mut addresses) = self.addresses.lock() {
            *addresses = found;
        }
    }
}

/// What makes the wires of each shard, where there is a cluster.
///
/// # Errors
///
/// `redis.url` cannot be used.
pub(super) fn make(settings: &Arc<Settings>) -> Result<Option<MakeBus>, TargetError> {
    let config = &settings.config;
    if config.cluster.routing == Routing::Local {
        return Ok(None);
    }
    let target = Target::parse(&config.redis.url.0)?;
    let whereabouts = Arc::new(Whereabouts { addresses: Mutex::default(), wanted: AtomicBool::new(false) });
    match target.resolve() {
        Ok(addresses) => whereabouts.set(addresses),
        // It may be there later: clients are served meanwhile.
        Err(error) => tracing::warn!(%error, "redis.url: {target} cannot be found yet"),
    }
    if target.unix_path().is_none() {
        let (target, whereabouts) = (target.clone(), whereabouts.clone());
        let _blocked = SignalsBlocked::new();
        let looking =
            std::thread::Builder::new().name("redis-name".into()).spawn(move || look_up(&target, &whereabouts));
        if let Err(error) = looking {
            tracing::warn!(%error, "the name in redis.url is not looked up again");
        }
    }
    let (settings, outage) = (settings.clone(), Arc::new(Outage::new(settings.homes.shards())));
    Ok(Some(Arc::new(move |shard| {
        let plan = plan(&settings, &target, whereabouts.get(), shard);
        Box::new(Redis { shard, wires: Wires::new(plan), whereabouts: whereabouts.clone(), outage: outage.clone() })
    })))
}

fn plan(settings: &Settings, target: &Target, addresses: Vec<Address>, shard: ShardId) -> Plan {
    let redis = &settings.config.redis;
    let advertise = settings.config.cluster.advertise.as_deref().map(Into::into);
    let name = settings.node_id.replace(|c: char| !c.is_ascii_graphic(), "-");
    Plan {
        target: target.clone(),
        addresses,
        prefix: redis.prefix.clone(),
        entry_ttl_ms: redis.entry_ttl_ms,
        lease_ttl_ms: redis.lease_ttl_ms,
        instance: settings.instance,
        about: About {
            shards: settings.homes.shards(),
            weight: settings.config.cluster.weight,
            advertise,
            announcing: false,
        },
        name: format!("ringgate-{name}-{}", shard.0),
        shard,
    }
}

/// Looks the name up again while it is wanted, for as long as the process lives: after a failover it may lead elsewhere.
fn look_up(target: &Target, whereabouts: &Whereabouts) {
    loop {
        std::thread::sleep(LOOK_UP_EVERY);
        if whereabouts.wanted.swap(false, Ordering::Relaxed)
            && let Ok(addresses) = target.resolve()
        {
            whereabouts.set(addresses);
        }
    }
}

/// The wires of one shard.
struct Redis {
    shard: ShardId,
    wires: Wires,
    whereabouts: Arc<Whereabouts>,
    outage: Arc<Outage>,
}

impl Redis {
    /// What Redis refuses is said once; that it is not there is the outage.
    fn complain(&self, complaint: &Complaint) {
        let shard = self.shard.0;
        let outage = match complaint {
            Complaint::Open(..) | Complaint::Ended(..) => self.outage.failed(|| complaint.to_string()),
            Complaint::Refused(_) => None,
        };
        let news = complaint.trouble().is_some_and(|trouble| self.outage.is_news(trouble.name()));
        match outage {
            Some(_) => say(outage),
            None if news => tracing::warn!(shard, "Redis: {complaint}"),
            None => tracing::debug!(shard, "Redis: {complaint}"),
        }
    }

    /// What the operator should know: changes, not attempts.
    fn tell(&self, action: &Action) {
        let shard = self.shard.0;
        match action {
            Action::Changed(state) => {
                tracing::debug!(shard, state = state.name(), "the link to the bus has changed");
                say(self.outage.changed(self.shard.index(), *state));
            }
            Action::Drop(side, cause) => {
                tracing::debug!(shard, cause = cause.name(), "the connection for {} is given up", side.name());
                say(self.outage.failed(|| format!("the connection for {} is {}", side.name(), cause.name())));
            }
            Action::LeaseChanged(Change::Acquired { epoch }) => tracing::info!(epoch, "this node is in the cluster"),
            Action::LeaseChanged(Change::Lost { epoch, why: Loss::Released }) => {
                tracing::info!(epoch, "this node has left the cluster");
            }
            // That goes without saying.
            Action::LeaseChanged(Change::Lost { epoch, why }) if self.outage.is_on() => {
                tracing::info!(epoch, why = why.name(), "this node is not in the cluster any more");
            }
            Action::LeaseChanged(Change::Lost { epoch, why }) => {
                tracing::warn!(epoch, why = why.name(), "this node is not in the cluster any more");
            }
            Action::LeaseChanged(Change::Renamed { node }) => {
                tracing::warn!(
                    node = &**node,
                    "another process has taken over this node's name: it goes on under another"
                );
            }
            Action::Connect(_)
            | Action::Row { .. }
            | Action::Channel(_)
            | Action::Lease(_)
            | Action::Probe { .. }
            | Action::Standing(_)
            | Action::UserSettled { .. }
            | Action::ChannelSettled { .. } => {}
        }
    }
}

/// Says what is to be said of the bus.
fn say(what: Option<Say>) {
    match what {
        None => {}
        Some(Say::Up) => tracing::info!("the bus is up"),
        Some(Say::Down(why)) => {
            tracing::warn!(why, "the bus is down: what is for other nodes is refused as unavailable");
        }
    }
}

impl Bus for Redis {
    fn carry_out(&mut self, outgoing: Outgoing, now_ms: u64) {
        if let Outgoing::Agent(action) = &outgoing {
            self.tell(action);
            if let Action::Connect(_) = action {
                self.whereabouts.wanted.store(true, Ordering::Relaxed);
                self.wires.set_addresses(self.whereabouts.get());
            }
        }
        self.wires.carry_out(outgoing, now_ms);
    }

    fn flush(&mut self, now_ms: u64) {
        self.wires.flush(now_ms);
    }

    fn poll_next(&mut self, now_ms: u64, cx: &mut Context<'_>) -> Poll<Incoming> {
        let incoming = self.wires.poll_next(now_ms, cx);
        while let Some(complaint) = self.wires.next_complaint() {
            self.complain(&complaint);
        }
        incoming
    }

    fn oldest_unanswered_ms(&self, now_ms: u64) -> Option<u64> {
        self.wires.oldest_unanswered_ms(now_ms)
    }
}
