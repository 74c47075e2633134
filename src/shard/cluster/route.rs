//! `GET /route?user=U`: on which node a user belongs, for load balancers and for clients that want to go there at once.
//!
//! Answered from the ring as this node knows it. While Redis is away that is the ring as it was: nobody is better off without an answer.

use std::fmt::Write;

use bytes::Bytes;
use serde_json::json;

use crate::config::Routing;
use crate::error::RefusalReason;
use crate::protocol::valid_user;
use crate::shard::Shard;
use crate::ws::handshake::{Refusal, RequestHead};

/// The path of these requests.
pub(in crate::shard) const PATH: &str = "/route";
/// The parameter that names the user.
const USER: &str = "user";
/// Seconds after which somebody may ask again who came before the ring was known.
const RETRY_AFTER_S: u32 = 1;

impl Shard {
    /// Whether such a request makes sense here at all.
    ///
    /// # Errors
    ///
    /// 404 where users belong on no node in particular; 400 where no user is named.
    pub(in crate::shard) fn check_route(&self, head: &RequestHead<'_>) -> Result<(), Refusal> {
        if self.settings.config.cluster.routing != Routing::Hash {
            let text = "users may connect to any node here: /route is for cluster.routing = \"hash\"";
            return Err(Refusal::new(RefusalReason::NotFound, text));
        }
        match head.query_param(USER) {
            Some(user) if valid_user(&user) => Ok(()),
            Some(_) => {
                let text = "user must be 1 to 128 bytes without control characters, and not \"events\"";
                Err(Refusal::new(RefusalReason::BadRequest, text))
            }
            None => Err(Refusal::new(RefusalReason::BadRequest, "Who? The request needs ?user=NAME.")),
        }
    }

    /// The whole response.
    ///
    /// # Errors
    ///
    /// 503 while this node does not know the ring.
    pub(in crate::shard) fn answer_route(&self, head: &RequestHead<'_>) -> Result<Bytes, Refusal> {
        let user = head.query_param(USER).unwrap_or_default();
        let moving = self.cluster.as_ref().and_then(|cluster| cluster.moving.as_ref());
        let Some((node, url)) = moving.and_then(|moving| moving.route(&user)) else {
            let refusal = Refusal::new(RefusalReason::Ring, "this node does not know the others yet");
            return Err(refusal.retry_after(RETRY_AFTER_S));
        };
        Ok(response(node, url, head.origin().is_some()))
    }
}

/// The node and its URL, as a header field too: proxies read those more easily. `asked_by_page`: by a page that `listen.allowed_origins` allows.
fn response(node: &str, url: Option<&str>, asked_by_page: bool) -> Bytes {
    let mut body = json!({ "node": node });
    if let (Some(url), Some(fields)) = (url, body.as_object_mut()) {
        fields.insert("url".to_owned(), url.into());
    }
    let body = body.to_string();
    let mut out = String::with_capacity(256 + body.len());
    out.push_str(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nCache-Control: no-store\r\nContent-Type: application/json\r\n",
    );
    // The name comes from another node.
    if node.bytes().all(|b| b.is_ascii_graphic()) {
        let _ = write!(out, "X-Ringgate-Node: {node}\r\n");
    }
    if asked_by_page {
        out.push_str("Access-Control-Allow-Origin: *\r\n");
    }
    let _ = write!(out, "Content-Length: {}\r\n\r\n{body}", body.len());
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_answered() {
        let table = [
            (
                response("n1", Some("ws://a/ws"), false),
                "HTTP/1.1 200 OK\r\nConnection: close\r\nCache-Control: no-store\r\nContent-Type: application/json\r\n\
                 X-Ringgate-Node: n1\r\nContent-Length: 31\r\n\r\n{\"node\":\"n1\",\"url\":\"ws://a/ws\"}",
            ),
            (
                response("n\n1", None, true),
                "HTTP/1.1 200 OK\r\nConnection: close\r\nCache-Control: no-store\r\nContent-Type: application/json\r\n\
                 Access-Control-Allow-Origin: *\r\nContent-Length: 15\r\n\r\n{\"node\":\"n\\n1\"}",
            ),
        ];
        for (response, expect) in table {
            assert_eq!(response, expect);
        }
    }
}
