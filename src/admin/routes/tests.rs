use super::*;
use crate::ids::{ConnectionId, ShardId};
use crate::protocol::class::Class;
use crate::protocol::command::{Destination, Place, Search, SortBy, Whom};
use crate::protocol::envelope::Topic;

const RULES: Rules<'_> = Rules { keys: &[], hosts: &[] };

#[test]
fn paths_and_methods() {
    let local = Caller { host: Some(b"localhost"), content_type: Some(b"application/json"), ..Caller::default() };
    let table: [(&str, &str, Result<Route<'_>, u16>); 12] = [
        ("GET", "/", Ok(Route::Page)),
        ("GET", "/health", Ok(Route::Health)),
        ("GET", "/livez", Ok(Route::Live)),
        ("GET", "/readyz", Ok(Route::Ready)),
        ("GET", "/metrics", Ok(Route::Metrics)),
        ("POST", "/api/publish", Ok(Route::Api("publish"))),
        ("GET", "/api/publish", Err(405)),
        ("POST", "/health", Err(405)),
        ("HEAD", "/health", Ok(Route::Health)),
        ("GET", "/nothing", Err(404)),
        ("GET", "/health/", Err(404)),
        ("OPTIONS", "/api/publish", Err(405)),
    ];
    for (method, path, expected) in table {
        assert_eq!(route(method, path, &local, &RULES).map_err(|f| f.code.status()), expected, "{method} {path}");
    }
    let page = Caller { origin: Some(b"http://evil.example"), ..local };
    assert_eq!(route("POST", "/api/publish", &page, &RULES).map_err(|f| f.code.status()), Err(403));
    assert_eq!(route("GET", "/health", &Caller::default(), &RULES).map_err(|f| f.code.status()), Ok(Route::Health));
}

fn command(verb: &str, body: &str) -> Command {
    match call(verb, body.as_bytes(), 1000) {
        Ok(Call::One(command)) => command,
        other => panic!("{verb} {body}: {other:?}"),
    }
}

fn refused(verb: &str, body: &[u8]) -> (u16, String) {
    match call(verb, body, 10) {
        Err(failure) => (failure.code.status(), failure.message.into_owned()),
        Ok(call) => panic!("{verb}: {call:?}"),
    }
}

#[test]
fn publish_reads_every_addressee_and_option() {
    let table = [
        (r#"{"user":"a"}"#, Destination::Users(vec!["a".into()])),
        (r#"{"users":["b","a","b"]}"#, Destination::Users(vec!["a".into(), "b".into()])),
        (r#"{"room":"r"}"#, Destination::Topic(Topic::Room, "r".into())),
        (r#"{"channel":"events"}"#, Destination::Topic(Topic::Channel, "events".into())),
        (r#"{"all":true,"user":null}"#, Destination::All),
    ];
    for (to, expected) in table {
        let body = format!(
            r#"{{"to":{to},"content":{{"x": 1}},"from":"svc","event":"price_update","class":"latest","key":"k",
                "tags":{{"t": 1}},"idempotency_key":"once","filter":null,"more":[]}}"#
        );
        let Command::Publish(publish) = command("publish", &body) else { panic!("{body}") };
        assert_eq!(publish.to, expected);
        assert_eq!((&*publish.content, publish.from.as_deref()), (r#"{"x": 1}"#, Some("svc")));
        assert_eq!((publish.event.as_deref(), publish.class), (Some("price_update"), Some(Class::Latest)));
        assert_eq!((publish.key.as_deref(), publish.idempotency_key.as_deref()), (Some("k"), Some("once")));
        assert_eq!(publish.tags.map(|(_, raw)| raw).as_deref(), Some(r#"{"t": 1}"#));
    }
}

#[test]
fn the_other_verbs_are_read() {
    let conn = ConnectionId { shard: ShardId(1), slot: 2, generation: 3 }.of(0x5f00_aa01);
    let Command::Disconnect { whom, code, reason } = command("disconnect", &format!(r#"{{"connection":"{conn}"}}"#))
    else {
        panic!()
    };
    assert_eq!((whom, code, &*reason), (Whom::Connection(conn), 4003, "disconnected"));
    let body = r#"{"user":"u","code":1000,"reason":"bye"}"#;
    let Command::Disconnect { whom, code, reason } = command("disconnect", body) else { panic!() };
    assert_eq!((whom, code, &*reason), (Whom::User("u".into()), 1000, "bye"));
    for (verb, expected) in [("join", true), ("leave", false)] {
        let Command::Member { user, room, enter } = command(verb, r#"{"user":"u","room":"r"}"#) else { panic!() };
        assert_eq!((&*user, &*room, enter), ("u", "r", expected));
    }
    let Command::Presence(place) = command("presence", r#"{"channel":"c"}"#) else { panic!() };
    assert_eq!(place, Place::Topic(Topic::Channel, "c".into()));
    let body = r#"{"room":"r","address":"::1","state":"idle","by":"rtt","limit":7}"#;
    let Command::Connections(search) = command("connections", body) else { panic!() };
    let expected = Search {
        topic: Some((Topic::Room, "r".into())),
        address: Some("::1".parse().unwrap()),
        state: Some("idle".into()),
        by: SortBy::Rtt,
        limit: 7,
        ..Search::default()
    };
    assert_eq!(search, expected);
    for body in ["", "{}", r#"{"rooms":0}"#] {
        assert!(matches!(command("info", body), Command::Info { rooms: 0 }), "{body:?}");
    }
    assert!(matches!(call("drain", b"", 10), Ok(Call::Drain)));
}

#[test]
fn what_is_wrong_is_named() {
    let long = format!(r#"{{"to":{{"user":"{}"}},"content":1}}"#, "x".repeat(129));
    let table: [(&str, &str, u16, &str); 27] = [
        ("publish", "", 400, "Invalid JSON"),
        ("publish", "{", 400, "Invalid JSON"),
        ("publish", "[]", 400, "expected"),
        ("publish", r#"{"content":1}"#, 400, "to is missing"),
        ("publish", r#"{"to":{"user":"u"}}"#, 400, "content is missing"),
        ("publish", r#"{"to":{},"content":1}"#, 400, "to is not one addressee"),
        ("publish", r#"{"to":{"user":"u","room":"r"},"content":1}"#, 400, "to is not one addressee"),
        ("publish", r#"{"to":{"all":false},"content":1}"#, 400, "to is not one addressee"),
        ("publish", r#"{"to":{"users":[]},"content":1}"#, 400, "to.users has 0 entries"),
        ("publish", r#"{"to":{"user":""},"content":1}"#, 400, "to.user has 0 bytes"),
        ("publish", r#"{"to":{"user":"a\n"},"content":1}"#, 400, "to.user has a control character"),
        ("publish", r#"{"to":{"user":"events"},"content":1}"#, 400, "reserved"),
        ("publish", &long, 400, "to.user has 129 bytes"),
        ("publish", r#"{"to":{"user":"u"},"content":"12345678901"}"#, 413, "content has 13 bytes"),
        ("publish", r#"{"to":{"user":"u"},"content":1,"class":"best"}"#, 400, "class is \"best\""),
        ("publish", r#"{"to":{"user":"u"},"content":1,"filter":{"op":"eq"}}"#, 400, "filter is not taken here"),
        ("publish", r#"{"to":{"user":"u"},"content":1,"idempotency_key":""}"#, 400, "idempotency_key has 0 bytes"),
        ("disconnect", r#"{"user":"u","code":1005}"#, 400, "code is 1005"),
        ("disconnect", r#"{"user":"u","code":3000}"#, 400, "code is 3000"),
        ("disconnect", r#"{"connection":"x"}"#, 400, "connection: not a connection id; expected 28 hexadecimal digits"),
        ("connections", r#"{"connection":"00010000000200000003"}"#, 400, "connection: not a connection id"),
        ("disconnect", r#"{"user":"u","connection":"x"}"#, 400, "either user or connection"),
        ("join", r#"{"user":"u"}"#, 400, "missing field `room`"),
        ("connections", r#"{"limit":1001}"#, 400, "limit is 1001"),
        ("connections", r#"{"by":"age"}"#, 400, "by is \"age\""),
        ("batch", r#"{"commands":{}}"#, 400, "expected a sequence"),
        ("fly", "{}", 404, "no such verb"),
    ];
    for (verb, body, status, text) in table {
        let (found, message) = refused(verb, body.as_bytes());
        assert!(found == status && message.contains(text), "{verb} {body}: {found} {message}");
    }
    assert_eq!(refused("publish", b"{\"to\":\"\xff\"}").0, 400);
}

#[test]
fn a_batch_keeps_its_order_and_its_mistakes() {
    let body = r#"{"commands":[
        {"publish":{"to":{"user":"u"},"content":1}}, {"join":{"user":"u"}}, {"leave":{"user":"u","room":"r"}},
        {"drain":{}}, {"publish":{}, "join":{}}, 7, {"presence":{"user":"u"}}]}"#;
    let Ok(Call::Many(entries)) = call("batch", body.as_bytes(), 1000) else { panic!() };
    let right: Vec<bool> = entries.iter().map(|raw| body::entry(raw, 1000).is_ok()).collect();
    assert_eq!(right, [true, false, true, false, false, false, true]);
}
