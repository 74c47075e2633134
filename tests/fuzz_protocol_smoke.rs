//! Fuzz targets of the JSON requests and of the filter, with a smoke run: seeded random bytes and mutations of a small corpus.
//!
//! A target takes any bytes and panics where something is wrong, so that a coverage-guided fuzzer can call it as it is. The seed is
//! printed; `RINGGATE_FUZZ_SEED` and `RINGGATE_FUZZ_RUNS` set it and the number of runs.

use ringgate::limits::{EVENT_BYTES_MAX, NAME_BYTES_MAX, REQUEST_ID_BYTES_MAX};
use ringgate::protocol::reply::{self, Kind, MessageHead, OkFields, Place};
use ringgate::protocol::request::{ErrorCode, Parsed, PresenceTarget, Publication, Request, RequestError, parse};
use ringgate::protocol::{Filter, RESERVED_USER, RequestId, Tags, valid_name};
use serde_json::Value;
use serde_json::value::RawValue;

const REQUESTS: &[&str] = &[
    r#"{"type":"auth","token":"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln","id":"a1"}"#,
    r#"{"type":"ping","id":-7}"#,
    r#"{"type":"send_message","target_user":"bob","content":{"text":"h\u00e9llo \"you\"","n":[1,-2.5e3,true,null]},"id":18}"#,
    r#"{"type":"join","roomId":"lobby","id":"j"}"#,
    r#"{"type":"leave","roomId":"caf\u00e9 \ud83d\ude00"}"#,
    r#" { "type" : "message" , "roomId" : "r" , "content" : [ [ ], { } ] , "event" : "typing_indicator" } "#,
    r#"{"type":"subscribe","channel":"c","filter":{"op":"and","nodes":[{"op":"eq","key":"k","val":1}]},"since":{"offset":3}}"#,
    r#"{"type":"unsubscribe","channel":"c"}"#,
    r#"{"type":"publish","channel":"c","content":"x","class":"latest","key":"k","tags":{"a":"b","n":1.5,"t":true,"at":[52.5,13.4]}}"#,
    r#"{"type":"broadcast","content":0,"class":"urgent","id":"9223372036854775807"}"#,
    r#"{"type":"presence","roomId":"r","channel":null,"id":9223372036854775807}"#,
    r#"{"type":"fly","id":"x","type":"ping"}"#,
    r#"[{"type":"ping"}]"#,
];

const FILTERS: &[&str] = &[
    r#"{"op":"eq","key":"k","val":"v"}"#,
    r#"{"op":"nin","key":"k","vals":["a",1,2.5,false]}"#,
    r#"{"op":"gte","key":"n","val":-9223372036854775808}"#,
    r#"{"op":"within","key":"at","lat":52.52,"lon":13.4,"radius_m":1e4}"#,
    r#"{"op":"prefix","key":"k","val":"\u00e9"}"#,
    r#"{"op":"or","nodes":[{"op":"exists","key":"k"},{"op":"not","nodes":[{"op":"lt","key":"n","val":1e300}]}]}"#,
];

const TAGS: &[&str] = &[
    r#"{"k":"v","n":1,"at":[52.5,13.4]}"#,
    r#"{"k":2.5,"n":9223372036854775807,"at":[-90,180]}"#,
    r#"{"k":false,"n":-9.3e18,"at":"x"}"#,
];

/// Pieces that JSON is made of, and that break it.
const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "\\udc00",
    "\\n",
    "\n",
    "\0",
    "é",
    "😀",
    "\u{2028}",
    "null",
    "true",
    "-",
    "0",
    "1e999",
    "-0.0",
    "18446744073709551616",
    "\"type\":",
    "\"id\":",
    "\"content\":",
    "\"tags\":{}",
    "\"filter\":",
    "\"op\":\"not\"",
    "\"nodes\":[",
    " ",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
];

/// Fuzz target: a client's message. What is accepted keeps every promise of [`Request`]; what is refused can be answered.
fn fuzz_request(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    match parse(text) {
        Ok(Parsed { id, request }) => {
            assert!(is_json, "accepted what is not JSON: {text:?}");
            check_id(id.as_ref());
            check_request(&request);
            let mut answer = Vec::new();
            if let Some(id) = &id {
                reply::ok(&mut answer, id, &OkFields::default());
                let back: Value = serde_json::from_slice(&answer).expect("an answer is JSON");
                match id {
                    RequestId::Text(text) => assert_eq!(back["id"], **text),
                    RequestId::Int(int) => assert_eq!(back["id"], *int),
                }
            }
        }
        Err(RequestError { id, code, message }) => {
            assert_eq!(
                code == ErrorCode::BadJson && message == "Invalid JSON" && id.is_none(),
                code == ErrorCode::BadJson
            );
            assert!(is_json || code == ErrorCode::BadJson || message.contains("nested"), "{text:?}: {message}");
            assert!(!is_json || code != ErrorCode::BadJson, "refused JSON: {text:?}");
            assert!(message.len() < 2048, "an endless error: {message}");
            check_id(id.as_ref());
            let mut answer = Vec::new();
            reply::error(&mut answer, id.as_ref(), code, &message);
            let back: Value = serde_json::from_slice(&answer).expect("an answer is JSON");
            assert_eq!((&back["code"], &back["message"]), (&Value::from(code.name()), &Value::from(&*message)));
        }
    }
}

/// Fuzz target: a filter on the first line, and tags on the others.
fn fuzz_filter(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (filter, tags) = text.split_once('\n').unwrap_or((text, "{}"));
    let tags = Tags::parse(tags).unwrap_or_default();
    let Ok(parsed) = Filter::parse(filter) else { return };
    let matched = parsed.matches(&tags);
    let negated = format!(r#"{{"op":"not","nodes":[{filter}]}}"#);
    if let Ok(negated) = Filter::parse(&negated) {
        assert_ne!(negated.matches(&tags), matched, "{filter} {tags:?}");
    }
    let bytes = postcard::to_allocvec(&(&parsed, &tags)).expect("a filter and tags cross shards");
    let (back, back_tags): (Filter, Tags) = postcard::from_bytes(&bytes).expect("and arrive");
    assert_eq!((&back, &back_tags), (&parsed, &tags));
    assert_eq!(back.matches(&back_tags), matched);
}

fn check_id(id: Option<&RequestId>) {
    match id {
        Some(RequestId::Text(text)) => assert!(text.len() <= REQUEST_ID_BYTES_MAX),
        Some(RequestId::Int(_)) | None => {}
    }
}

fn check_request(request: &Request<'_>) {
    let name = |name: &str| assert!(valid_name(name), "{name:?}");
    match request {
        Request::Auth { token } => assert!(token.len() <= 8192),
        Request::Ping => {}
        Request::SendMessage { target_user, publication } => {
            name(target_user);
            assert_ne!(target_user, RESERVED_USER);
            check_publication(publication, None, None);
        }
        Request::Message { room, publication } => {
            name(room);
            check_publication(publication, Some(room), None);
        }
        Request::Publish { channel, publication } => {
            name(channel);
            check_publication(publication, None, Some(channel));
        }
        Request::Broadcast { publication } => check_publication(publication, None, None),
        Request::Join { room } | Request::Leave { room } => name(room),
        Request::Subscribe { channel, filter: _ } | Request::Unsubscribe { channel } => name(channel),
        Request::Presence { target } => {
            let (at, place) = match target {
                PresenceTarget::Room(room) => (room, Place::Room(room)),
                PresenceTarget::Channel(channel) => (channel, Place::Channel(channel)),
            };
            name(at);
            let mut answer = Vec::new();
            reply::presence(&mut answer, None, place, &[(at, 1)], 1, 1, false);
            serde_json::from_slice::<Value>(&answer).expect("presence is JSON");
        }
    }
}

/// What a receiver gets is JSON of the promised size, with the sender's content as it was.
fn check_publication(publication: &Publication<'_>, room: Option<&str>, channel: Option<&str>) {
    let Publication { content, event, class: _, key, tags, tags_raw } = publication;
    assert!(event.as_ref().is_none_or(|event| valid_name(event)));
    assert!(key.as_ref().is_none_or(|key| key.len() <= EVENT_BYTES_MAX && EVENT_BYTES_MAX <= NAME_BYTES_MAX));
    assert_eq!(tags.is_some(), tags_raw.is_some());
    let head = MessageHead {
        kind: Kind::Message,
        id: ringgate::ids::MessageId(7),
        from: Some("a\"\u{1}b"),
        content,
        timestamp_ms: 1,
        room,
        channel,
        event: event.as_deref(),
        tags_raw: *tags_raw,
    };
    let mut out = Vec::new();
    reply::message(&mut out, &head);
    assert_eq!(out.len(), reply::message_capacity(&head));

    #[derive(serde::Deserialize)]
    struct Received<'a> {
        #[serde(borrow)]
        content: &'a RawValue,
        from: String,
    }
    let received: Received<'_> = serde_json::from_slice(&out).expect("a message is JSON");
    assert_eq!((received.content.get(), &*received.from), (*content, "a\"\u{1}b"));
}

/// Changes `data` in a few places: bytes flipped, cut out, doubled, or pieces put in.
fn mutate(random: &mut fastrand::Rng, data: &mut Vec<u8>) {
    for _ in 0..random.usize(1..5) {
        let at = random.usize(..=data.len());
        let end = random.usize(at..=data.len().min(at + 12));
        match random.u8(..6) {
            0 if at < data.len() => data[at] = random.u8(..),
            1 => drop(data.drain(at..end)),
            2 => {
                let copy = data[at..end].to_vec();
                data.splice(end..end, copy).for_each(drop);
            }
            3 => data.truncate(at),
            _ => {
                let piece = PIECES[random.usize(..PIECES.len())].bytes();
                data.splice(at..end.min(at + random.usize(..3)).max(at), piece).for_each(drop);
            }
        }
    }
}

fn smoke(name: &str, corpus: &[String], target: fn(&[u8])) {
    let setting = |name, default| std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default);
    let seed = setting("RINGGATE_FUZZ_SEED", 20_261_121);
    println!("{name}: RINGGATE_FUZZ_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for entry in corpus {
        target(entry.as_bytes());
        // Every way to cut it off.
        for len in 0..entry.len() {
            target(&entry.as_bytes()[..len]);
        }
    }
    for _ in 0..setting("RINGGATE_FUZZ_RUNS", 40_000) {
        let mut data = corpus[random.usize(..corpus.len())].clone().into_bytes();
        match random.u8(..8) {
            0 => {
                let len = random.usize(..64);
                data = std::iter::repeat_with(|| random.u8(..)).take(len).collect();
            }
            1 => {
                let pieces = random.usize(..24);
                data = (0..pieces).flat_map(|_| PIECES[random.usize(..PIECES.len())].bytes()).collect();
            }
            _ => mutate(&mut random, &mut data),
        }
        target(&data);
    }
}

#[test]
fn requests_survive_anything() {
    let corpus: Vec<String> = REQUESTS.iter().map(|text| (*text).to_owned()).collect();
    smoke("requests", &corpus, fuzz_request);
}

#[test]
fn filters_survive_anything() {
    let corpus: Vec<String> =
        FILTERS.iter().flat_map(|filter| TAGS.iter().map(move |tags| format!("{filter}\n{tags}"))).collect();
    smoke("filters", &corpus, fuzz_filter);
}
