//! Exact behaviour of the state machine, case by case.

mod auth;
mod closing;
mod codec;
mod credit;
mod hooks;
mod opening;
mod outbox;
mod requests;
mod timeouts;
