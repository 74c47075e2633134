//! What all shards of a process share, read-only: the configuration and what was made of it at the start.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ahash::RandomState;

use crate::auth::Verifier;
use crate::config::{AuthMode, Config};
use crate::ids::ShardId;
use crate::protocol::envelope::Topic;
use crate::protocol::permission::{PermissionError, Permissions};

/// The configuration and everything derived from it. Replaced as a whole when the configuration is reloaded.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configuration.
    pub config: Config,
    /// Checks tokens; `None` in `auth.mode = "none"`.
    pub verifier: Option<Arc<Verifier>>,
    /// What a user may do whose token has no `permissions`.
    pub default_permissions: Arc<Permissions>,
    /// The id of this node.
    pub node_id: String,
    /// A number drawn once per start; part of every message id.
    pub instance: u32,
    /// Where users, rooms, channels and addresses are at home.
    pub homes: Homes,
}

impl Settings {
    /// Settings for a start. `instance` and `homes` are drawn once and live as long as the process.
    ///
    /// # Errors
    ///
    /// An entry of `auth.default_permissions` that is none.
    pub fn new(
        config: Config,
        verifier: Option<Verifier>,
        node_id: String,
        instance: u32,
        homes: Homes,
    ) -> Result<Self, PermissionError> {
        let default_permissions = match &config.auth.default_permissions {
            Some(entries) => Permissions::parse(entries.iter().map(String::as_str))?,
            // Whom a service lets in is no longer anybody.
            None if config.hooks.connect_url.is_some() => Permissions::defaults(AuthMode::Jwt),
            None => Permissions::defaults(config.auth.mode),
        };
        let (verifier, default_permissions) = (verifier.map(Arc::new), Arc::new(default_permissions));
        Ok(Settings { config, verifier, default_permissions, node_id, instance, homes })
    }

    /// Settings after a reload: another configuration and other keys, the same node.
    ///
    /// # Errors
    ///
    /// As [`Settings::new`].
    pub fn reloaded(&self, config: Config, verifier: Option<Verifier>) -> Result<Self, PermissionError> {
        Settings::new(config, verifier, self.node_id.clone(), self.instance, self.homes.clone())
    }
}

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Addressee<'a> {
    /// A user.
    User(&'a str),
    /// A room or a channel.
    Topic(Topic, &'a str),
    /// Everybody.
    All,
}

/// Maps names to their home shards by a keyed hash, so that no client can choose names that pile up on one shard.
#[derive(Clone, Debug)]
pub struct Homes {
    shards: u16,
    hasher: RandomState,
}

impl Homes {
    /// `shards` is at least 1; `seed` is drawn once per start and is the same for every shard.
    pub fn new(shards: u16, seed: u64) -> Self {
        assert!(shards > 0, "a process has at least one shard");
        Homes { shards, hasher: RandomState::with_seeds(seed, !seed, seed.rotate_left(17), seed.rotate_left(41)) }
    }

    /// Number of shards.
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// The shard that holds all connections of this user.
    pub fn user(&self, name: &str) -> ShardId {
        self.pick(self.hasher.hash_one((0u8, name)))
    }

    /// The shard that knows which shards have members of this room or subscribers of this channel.
    pub fn topic(&self, topic: Topic, name: &str) -> ShardId {
        self.pick(self.hasher.hash_one((1u8, topic as u8, name)))
    }

    /// The shard that counts new connections of this address (IPv6: of its /64).
    pub fn ip(&self, ip: IpAddr) -> ShardId {
        self.pick(self.hasher.hash_one((2u8, ip_group(ip))))
    }

    /// The conflation key of a message that names one: the same name to another addressee is another key.
    pub fn key(&self, to: Addressee<'_>, key: &str) -> u64 {
        self.hasher.hash_one((3u8, to, key))
    }

    /// The conflation key of a message that names none: sender, addressee and event.
    pub fn default_key(&self, to: Addressee<'_>, from: &str, event: &str) -> u64 {
        self.hasher.hash_one((4u8, to, from, event))
    }

    /// The conflation key of a message whose key all nodes share: nobody can choose keys that pile up here.
    pub fn scatter(&self, key: u64) -> u64 {
        self.hasher.hash_one((5u8, key))
    }

    fn pick(&self, hash: u64) -> ShardId {
        // The high half, scaled: even without the cost of a division.
        ShardId((((hash >> 32) * u64::from(self.shards)) >> 32) as u16)
    }
}

/// What counts as one address: an IPv4 address, or the /64 of an IPv6 address. IPv4-mapped addresses count as IPv4.
pub fn ip_group(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => {
            let s = v6.segments();
            IpAddr::V6(Ipv6Addr::new(s[0], s[1], s[2], s[3], 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_even_and_stable() {
        let homes = Homes::new(3, 42);
        let mut counts = [0u32; 3];
        for i in 0..30_000 {
            let name = format!("user-{i}");
            assert_eq!(homes.user(&name), homes.user(&name));
            counts[homes.user(&name).index()] += 1;
        }
        assert!(counts.iter().all(|&c| (9_500..10_500).contains(&c)), "{counts:?}");
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let a: IpAddr = "2001:db8:1:2:3:4:5:6".parse().unwrap();
        let b: IpAddr = "2001:db8:1:2::1".parse().unwrap();
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        assert_eq!(ip_group(a), ip_group(b));
        assert_eq!(ip_group(mapped), "127.0.0.1".parse::<IpAddr>().unwrap());
    }
}
