//! What a world is made from: how awkward it is, and the settings of its shards.

use std::sync::Arc;

use ringgate::auth::{KeyMaterial, Verifier};
use ringgate::config::{AuthMode, Config};
use ringgate::protocol::permission::Permissions;
use ringgate::settings::{Homes, Settings};

/// How awkward the world is.
#[derive(Clone, Debug)]
pub struct Faults {
    /// Chance that a readable socket is not read in a turn.
    pub skip: f64,
    /// Chance that fewer bytes are read than are there.
    pub short_read: f64,
    /// Chance that fewer bytes are taken than would fit.
    pub short_write: f64,
    /// Chance, per event of a connection, that handling it panics.
    pub panic: f64,
    /// Turns that an envelope or a hand-over takes at most.
    pub delay: u64,
    /// Envelopes in the queue of one pair of shards.
    pub lane: usize,
    /// Chance that a lane takes nothing in a turn.
    pub lane_stuck: f64,
}

impl Faults {
    /// Everything works at once.
    pub fn none() -> Self {
        Faults { skip: 0.0, short_read: 0.0, short_write: 0.0, panic: 0.0, delay: 0, lane: 4096, lane_stuck: 0.0 }
    }
}

/// Settings as `node` would make them.
pub fn settings(config: Config, shards: u16, seed: u64) -> Arc<Settings> {
    let verifier = (config.auth.mode == AuthMode::Jwt)
        .then(|| Arc::new(Verifier::new(&config.auth, &KeyMaterial::default()).expect("a usable key")));
    let permissions = match &config.auth.default_permissions {
        Some(list) => Permissions::parse(list.iter().map(String::as_str)).expect("valid permissions"),
        None => Permissions::defaults(config.auth.mode),
    };
    Arc::new(Settings {
        verifier,
        default_permissions: Arc::new(permissions),
        node_id: "sim".to_owned(),
        instance: seed as u32,
        homes: Homes::new(shards, seed),
        config,
    })
}
