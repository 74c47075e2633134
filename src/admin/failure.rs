//! What the server API answers when it does not do what was asked. Pure.

use std::borrow::Cow;

use serde::Serialize;

use crate::protocol::ErrorCode;
use crate::protocol::request::RequestError;
use crate::ws::handshake::Refusal;

/// The kind of failure: a `code` and an HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    BadJson,
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    TooLarge,
    UnsupportedMediaType,
    Busy,
    Unavailable,
    Timeout,
    /// Whatever is wrong with the HTTP itself.
    Http(u16),
}

impl Code {
    pub(super) fn status(self) -> u16 {
        match self {
            Code::BadJson | Code::BadRequest => 400,
            Code::Unauthorized => 401,
            Code::Forbidden => 403,
            Code::NotFound => 404,
            Code::MethodNotAllowed => 405,
            Code::Timeout => 408,
            Code::TooLarge => 413,
            Code::UnsupportedMediaType => 415,
            Code::Busy => 429,
            Code::Unavailable => 503,
            Code::Http(status) => status,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Code::BadJson => "bad_json",
            Code::BadRequest | Code::Http(400) => "bad_request",
            Code::Unauthorized => "unauthorized",
            Code::Forbidden => "forbidden",
            Code::NotFound => "not_found",
            Code::MethodNotAllowed => "method_not_allowed",
            Code::Timeout => "timeout",
            Code::TooLarge | Code::Http(413) => "too_large",
            Code::UnsupportedMediaType => "unsupported_media_type",
            Code::Busy => "busy",
            Code::Unavailable => "unavailable",
            Code::Http(_) => "bad_http",
        }
    }
}

/// `{"error":{"code":..,"message":..}}`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) message: Cow<'static, str>,
}

impl Failure {
    pub(super) fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Failure { code, message: message.into() }
    }

    pub(super) fn bad(message: impl Into<Cow<'static, str>>) -> Self {
        Failure::new(Code::BadRequest, message)
    }

    /// Something is wrong with the HTTP itself.
    pub(super) fn http(status: u16, message: impl Into<Cow<'static, str>>) -> Self {
        Failure::new(Code::Http(status), message)
    }

    /// The JSON object.
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::json!({ "error": Body { code: self.code.name(), message: &self.message } })
    }
}

#[derive(Serialize)]
struct Body<'a> {
    code: &'a str,
    message: &'a str,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Failure::http(refusal.reason.status(), refusal.detail)
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        let code = if error.code == ErrorCode::BadJson { Code::BadJson } else { Code::BadRequest };
        Failure::new(code, error.message)
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        match error.classify() {
            serde_json::error::Category::Data => Failure::bad(error.to_string()),
            _ => Failure::new(Code::BadJson, format!("Invalid JSON: {error}")),
        }
    }
}
