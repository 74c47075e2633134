//! Exact behaviour of the state machine, case by case.

mod auth;
mod requests;
