//! The claims of a token whose signature is right: bounded and checked before anybody acts on them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{AuthError, Claims};
use crate::config;
use crate::limits::CLAIM_ENTRIES_MAX;
use crate::protocol::{Permissions, RESERVED_USER, valid_name};

/// The end of the year 9999: no time is later, so that milliseconds and sums of them fit everywhere.
const UNIX_S_MAX: u64 = 253_402_300_799;

/// Strict base64url without padding (RFC 7515 §2).
pub(super) fn decode_base64url(text: &[u8]) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// A part of a token, which must be a JSON object: serde would take an array for a struct as well.
pub(super) fn parse_object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, AuthError> {
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(AuthError::Malformed);
    }
    serde_json::from_slice(json).map_err(|_| AuthError::Malformed)
}

/// The registered claims (RFC 7519 §4.1) and ours. A claim that comes twice is refused; other claims are nobody's business here.
#[derive(Deserialize)]
pub(super) struct RawClaims<'a> {
    #[serde(default, borrow, deserialize_with = "present")]
    sub: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "present")]
    exp: Option<f64>,
    #[serde(default, deserialize_with = "present")]
    nbf: Option<f64>,
    #[serde(default, deserialize_with = "present")]
    aud: Option<Audience>,
    #[serde(default, deserialize_with = "present")]
    iss: Option<String>,
    #[serde(default, borrow, deserialize_with = "present")]
    permissions: Option<&'a RawValue>,
    #[serde(default, borrow, deserialize_with = "present")]
    rooms: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// `null` is a value, and a wrong one: taking it for "absent" would give everything to somebody who was to have nothing, for ever.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl RawClaims<'_> {
    /// Checks everything. There is no leeway: clocks of issuers and gateways are expected to agree.
    pub(super) fn check(self, auth: &config::Auth, now_unix_s: u64) -> Result<Claims, AuthError> {
        let expires_unix_s = self.exp.map(unix_s);
        if expires_unix_s.is_some_and(|exp| exp <= now_unix_s) {
            return Err(AuthError::Expired);
        }
        if self.nbf.is_some_and(|nbf| unix_s(nbf) > now_unix_s) {
            return Err(AuthError::NotYetValid);
        }
        if !auth.issuer.is_empty() && !self.iss.is_some_and(|iss| auth.issuer.contains(&iss)) {
            return Err(AuthError::WrongIssuer);
        }
        let audience = match self.aud {
            None => Vec::new(),
            Some(Audience::One(one)) => vec![one],
            Some(Audience::Many(many)) => many,
        };
        if !auth.audience.is_empty() && !audience.iter().any(|aud| auth.audience.contains(aud)) {
            return Err(AuthError::WrongAudience);
        }
        Ok(Claims {
            user: user(self.sub)?,
            expires_unix_s,
            permissions: self.permissions.map(permissions).transpose()?,
            rooms: self.rooms.map(rooms).transpose()?.unwrap_or_default(),
        })
    }
}

/// A NumericDate may have a fraction (RFC 7519 §2). Rounded up: what expires at 10.5 is valid at 10, what begins at 10.5 is not.
fn unix_s(date: f64) -> u64 {
    // `as` saturates: a negative date is 0, NaN cannot come from JSON.
    (date.ceil() as u64).min(UNIX_S_MAX)
}

/// Whether a token may be about this user.
pub(super) fn valid_user(user: &str) -> bool {
    valid_name(user) && user != RESERVED_USER
}

fn user(sub: Option<&RawValue>) -> Result<Box<str>, AuthError> {
    let user: String = sub.and_then(|sub| serde_json::from_str(sub.get()).ok()).ok_or(AuthError::BadSubject)?;
    if valid_user(&user) { Ok(user.into()) } else { Err(AuthError::BadSubject) }
}

fn permissions(claim: &RawValue) -> Result<Permissions, AuthError> {
    let entries = strings(claim).ok_or(AuthError::BadPermissions)?;
    Permissions::parse(entries.iter().map(String::as_str)).map_err(|_| AuthError::BadPermissions)
}

fn rooms(claim: &RawValue) -> Result<Vec<Box<str>>, AuthError> {
    let mut rooms: Vec<Box<str>> = Vec::new();
    for room in strings(claim).ok_or(AuthError::BadRooms)? {
        if !valid_name(&room) {
            return Err(AuthError::BadRooms);
        }
        if !rooms.iter().any(|known| **known == *room) {
            rooms.push(room.into());
        }
    }
    Ok(rooms)
}

/// A bounded list of strings.
fn strings(claim: &RawValue) -> Option<Vec<String>> {
    serde_json::from_str(claim.get()).ok().filter(|entries: &Vec<String>| entries.len() <= CLAIM_ENTRIES_MAX)
}
