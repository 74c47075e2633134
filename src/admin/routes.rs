//! What a request on the admin listener asks for. Pure.

use serde_json::value::RawValue;

use super::access::{Caller, Rules};
use super::body;
use super::failure::{Code, Failure};
use crate::protocol::command::Command;

/// What is asked for, as far as the head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// The page.
    Page,
    Health,
    Live,
    Ready,
    Metrics,
    /// `POST /api/VERB`, from somebody who may.
    Api(&'a str),
}

/// What the server API is asked to do.
#[derive(Debug)]
pub(super) enum Call<'a> {
    /// One command.
    One(Command),
    /// Many, in order.
    Many(Vec<&'a RawValue>),
    /// Drain this node.
    Drain,
}

/// What the server API can be asked for.
pub(super) const VERBS: [&str; 10] =
    ["publish", "disconnect", "join", "leave", "presence", "connections", "info", "trace", "drain", "batch"];

/// Reads method and path, and checks the caller, before the body is waited for.
///
/// # Errors
///
/// 404, 405, or what [`Rules::check`] says.
pub(super) fn route<'a>(
    method: &str,
    path: &'a str,
    caller: &Caller<'_>,
    rules: &Rules<'_>,
) -> Result<Route<'a>, Failure> {
    let expect = |allowed: &str| match method == allowed {
        true => Ok(()),
        false => Err(Failure::new(Code::MethodNotAllowed, format!("{path} takes {allowed}"))),
    };
    let route = match path {
        "/" => Route::Page,
        "/health" => Route::Health,
        "/livez" => Route::Live,
        "/readyz" => Route::Ready,
        "/metrics" => Route::Metrics,
        _ => match path.strip_prefix("/api/") {
            Some(verb) => Route::Api(verb),
            None => return Err(Failure::new(Code::NotFound, "there is nothing here")),
        },
    };
    match route {
        Route::Api(_) => {
            expect("POST")?;
            rules.check(caller)?;
        }
        // HEAD is GET without the body.
        _ if method == "HEAD" => {}
        _ => expect("GET")?,
    }
    Ok(route)
}

/// Reads the body of `POST /api/VERB`.
///
/// # Errors
///
/// 400, 404 or 413.
pub(super) fn call<'a>(verb: &str, bytes: &'a [u8], message_size_max: usize) -> Result<Call<'a>, Failure> {
    let text = simdutf8::basic::from_utf8(bytes)
        .map_err(|_| Failure::new(Code::BadJson, "Invalid JSON: the body is not UTF-8"))?;
    match verb {
        "drain" => Ok(Call::Drain),
        "batch" => body::batch(text).map(Call::Many),
        _ => match body::command(verb, text, message_size_max) {
            Some(command) => command.map(Call::One),
            None => {
                let shown: String = verb.chars().take(32).collect();
                Err(Failure::new(
                    Code::NotFound,
                    format!("no such verb {shown:?}; expected one of {}", VERBS.join(", ")),
                ))
            }
        },
    }
}

#[cfg(test)]
mod tests;
