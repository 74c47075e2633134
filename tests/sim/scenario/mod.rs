//! Exact behaviour of the state machine, case by case.

mod auth;
mod closing;
mod opening;
mod requests;
mod timeouts;
