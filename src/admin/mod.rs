//! The admin listener: health, metrics, the server API and the page, by monoio-http on the runtime of the first shard, beside its reactor.
//!
//! | module | what it is |
//! |---|---|
//! | `guard` | PURE: where a request begins and ends, and whether it is HTTP that can be read in one way only |
//! | `routes`, `body`, `access` | PURE: requests to [`Command`](crate::protocol::command::Command)s, and who may give them |
//! | `answer`, `failure` | PURE: outcomes and failures to JSON |
//! | `health` | whether each shard answers, and what that means for `/readyz` |
//! | `metrics`, `text` | the shards' published counters, through the `metrics` facade, to Prometheus text |
//! | `hooks` | tells services what happens, by webhooks: batched, signed, repeated, bounded; and asks them before it happens |
//! | `server` | connections: bounded in number, memory and time |
//!
//! A request costs the clients of the gateway nothing but the commands it gives: what is hostile is turned away on bytes alone, by tasks that
//! hold no lock and wait for nothing of a shard. monoio-http decodes heads that the guard has passed, and encodes responses; bodies are
//! the server's own.
//!
//! **Never cancel.** A task that waits for bytes is not dropped: whoever wants it to end shuts its socket down.

mod access;
mod answer;
mod body;
mod failure;
mod guard;
mod health;
mod hooks;
mod metrics;
mod process;
mod routes;
mod server;
mod text;
mod whole;

pub use hooks::{Targets, keep_resolving};
pub use server::{Facts, beside};
