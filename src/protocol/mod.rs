//! What clients and gateway say to each other: JSON texts in, requests out; replies in, JSON texts out.
//!
//! Everything here is a function of its arguments. [`request::parse`] reads one text in one pass and borrows from it; the encoders of
//! [`reply`] append to a buffer. The `content` of a message is carried as the very text the sender wrote: it is checked to be one JSON
//! value, and never decoded, re-encoded or looked into.

pub mod class;
pub mod command;
pub mod envelope;
mod fields;
pub mod filter;
pub mod happening;
pub mod hook;
pub mod name;
pub mod permission;
pub mod reply;
pub mod request;
mod scan;
pub mod service;
mod string;
pub mod tags;

pub use filter::Filter;
pub use name::{RESERVED_USER, valid_name, valid_user};
pub use permission::{Permissions, Verb};
pub use reply::OkFields;
pub use request::{ErrorCode, Request, RequestId, parse};
pub use tags::Tags;
