use proptest::prelude::*;

use super::*;

const GOOD: &str = "GET /ws?user_id=ann HTTP/1.1\r\nHost: example.org\r\n\r\n";

fn parse(text: &[u8]) -> Result<Option<(RequestHead<'_>, usize)>, u16> {
    match parse_head(text) {
        Ok(HeadStatus::Complete { head, len }) => Ok(Some((head, len))),
        Ok(HeadStatus::Incomplete) => Ok(None),
        Err(refusal) => Err(refusal.reason.status()),
    }
}

/// The verdict on a whole head: the path, or the status of the refusal. The same however many bytes have arrived, or sooner.
fn verdict(text: &[u8]) -> Result<String, u16> {
    let whole = parse(text).map(|parsed| {
        let (head, len) = parsed.expect("complete");
        assert_eq!(len, text.len(), "{}", text.escape_ascii());
        head.path.to_owned()
    });
    let early = (0..text.len()).find_map(|end| parse(&text[..end]).map(|p| assert!(p.is_none())).err());
    if let (Some(status), Err(expect)) = (early, &whole) {
        assert_eq!(status, *expect, "{}", text.escape_ascii());
    }
    assert!(early.is_none() || whole.is_err(), "{}", text.escape_ascii());
    whole
}

#[test]
fn heads_good_and_bad() {
    let table: [(&str, Result<&str, u16>); 79] = [
        (GOOD, Ok("/ws")),
        ("\r\nGET /ws HTTP/1.1\r\nHost: a\r\n\r\n", Ok("/ws")),
        ("GET / HTTP/1.1\r\nhost:a\r\n\r\n", Ok("/")),
        ("GET /a%20b HTTP/1.1\r\nHost: a\r\n\r\n", Ok("/a%20b")),
        ("GET /ws HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", Ok("/ws")),
        ("GET /ws HTTP/1.1\r\nHost: a:8080\r\nX: \ttabbed\t \r\nEmpty:\r\n\r\n", Ok("/ws")),
        ("GET /ws HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", Ok("/ws")),
        ("GET /ws HTTP/1.1\r\nHost: a\r\nX: \u{fc}\r\n\r\n", Ok("/ws")),
        // absolute form
        ("GET http://b.org/ws?x=1 HTTP/1.1\r\nHost: b.org\r\n\r\n", Ok("/ws")),
        ("GET ws://b.org:80/ws HTTP/1.1\r\nHost: a\r\n\r\n", Ok("/ws")),
        ("GET HTTPS://b.org HTTP/1.1\r\nHost: a\r\n\r\n", Ok("/")),
        ("GET http://b.org?x HTTP/1.1\r\nHost: a\r\n\r\n", Ok("/")),
        ("GET http:///ws HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET http://u@b.org/ws HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET ftp://b.org/ws HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET b.org:80 HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET ws HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        // request line
        ("GET /ws#f HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET /w\u{e4}s HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET  /ws HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET /ws  HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET /w s HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET /ws\tHTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1 \r\nHost: a\r\n\r\n", Err(400)),
        (" GET /ws HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET /ws\r\nHost: a\r\n\r\n", Err(400)),
        ("GET\r\n\r\n", Err(400)),
        ("\r\n\r\nGET /ws HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GE\0T /ws HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET /w\0s HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("\x16\x03\x01\x02\0\x01\0\x01\u{7c}\x03\x03", Err(400)),
        // methods
        ("POST /ws HTTP/1.1\r\nHost: a\r\n\r\n", Err(405)),
        ("HEAD /ws HTTP/1.1\r\nHost: a\r\n\r\n", Err(405)),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", Err(405)),
        ("get /ws HTTP/1.1\r\nHost: a\r\n\r\n", Err(405)),
        // versions
        ("GET /ws HTTP/1.0\r\nHost: a\r\n\r\n", Err(505)),
        ("GET /ws HTTP/2.0\r\nHost: a\r\n\r\n", Err(505)),
        ("GET /ws HTTP/0.9\r\n\r\n", Err(505)),
        ("PRI * HTTP/2.0\r\n\r\n", Err(505)),
        ("GET /ws HTTP/11\r\nHost: a\r\n\r\n", Err(400)),
        ("GET /ws http/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET /ws HTTX/1.1\r\nHost: a\r\n\r\n", Err(400)),
        // Host
        ("GET /ws HTTP/1.1\r\nX: y\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: a\r\nhOST: b\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost:\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: a b\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: a/b\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: u@a\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: a:b\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: a:65536\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: [::1\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: [a]\r\n\r\n", Err(400)),
        ("GET http://b/ws HTTP/1.1\r\n\r\n", Err(400)),
        // smuggling
        ("GET /ws HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 0\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: a\r\nContent-Length: +0\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: a\r\nX\t: y\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: a\r\nX: y\r\n folded\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: a\r\nX: y\r\n\tfolded\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\n Host: a\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\nHost: a\n\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: a\r\n\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: a\r\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: a\r\n: unnamed\r\n\r\n", Err(400)),
        ("GET /ws HTTP/1.1\r\nHost: a\r\nOrigin: x\r\nOrigin: y\r\n\r\n", Err(400)),
        // query
        ("GET /ws?a=%zz HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET /ws?a=%ff HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
    ];
    for (text, expect) in table {
        assert_eq!(verdict(text.as_bytes()), expect.map(str::to_owned), "{}", text.escape_debug());
    }
}

#[test]
fn what_follows_the_head_is_left_alone() {
    let stream = format!("{GOOD}\u{81}\n\r\0GET");
    let (head, len) = parse(stream.as_bytes()).unwrap().unwrap();
    assert_eq!((head.path, len), ("/ws", GOOD.len()));
}

#[test]
fn heads_are_bounded() {
    let of_size = |size: usize| {
        let frame = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n";
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(size - frame.len()))
    };
    let exact = of_size(HTTP_HEAD_BYTES_MAX);
    assert!(matches!(parse(exact.as_bytes()), Ok(Some((_, HTTP_HEAD_BYTES_MAX)))));
    assert!(matches!(parse(&exact.as_bytes()[..HTTP_HEAD_BYTES_MAX - 1]), Ok(None)));
    let over = of_size(HTTP_HEAD_BYTES_MAX + 1);
    assert_eq!(parse(over.as_bytes()).err(), Some(431));
    assert_eq!(parse(&over.as_bytes()[..HTTP_HEAD_BYTES_MAX]).err(), Some(431));
    assert_eq!(parse("x".repeat(100_000).as_bytes()).err(), Some(431));
    for (count, expect) in [(HTTP_HEADERS_MAX, None), (HTTP_HEADERS_MAX + 1, Some(431))] {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
        assert_eq!(parse(head.as_bytes()).err(), expect, "{count}");
    }
}

#[test]
fn fields_and_parameters_are_found() {
    let text = "GET /ws?user_id=a%20b+c&t=%e2%82%ac&empty&=x&user_id=other&a%26b=1%3D2 HTTP/1.1\r\nHost: example.org:80\r\n\
                authorization: bearer  abc.def \r\nUSER-AGENT: probe/1\r\nOrigin: https://example.org\r\n\
                X-Forwarded-For: 1.1.1.1, 2.2.2.2\r\nConnection: keep-alive\r\nX-Forwarded-For: 3.3.3.3,,\r\n\r\n";
    let (head, _) = parse(text.as_bytes()).unwrap().unwrap();
    assert_eq!(head.host(), "example.org:80");
    assert_eq!(head.authorization_bearer(), Some("abc.def"));
    assert_eq!(head.user_agent(), Some("probe/1"));
    assert_eq!(head.origin(), Some("https://example.org"));
    assert_eq!(head.forwarded_for().collect::<Vec<_>>(), ["1.1.1.1", "2.2.2.2", "3.3.3.3"]);
    assert_eq!(head.header("connection"), Some(&b"keep-alive"[..]));
    assert_eq!(head.header("upgrade"), None);
    for (name, expect) in [
        ("user_id", Some("a b c")),
        ("t", Some("\u{20ac}")),
        ("empty", Some("")),
        ("", Some("x")),
        ("a&b", Some("1=2")),
        ("missing", None),
    ] {
        assert_eq!(head.query_param(name).as_deref(), expect, "{name}");
    }
    let absolute = "GET ws://b.org/ws HTTP/1.1\r\nHost: a\r\nAuthorization: Basic x\r\n\r\n";
    let (head, _) = parse(absolute.as_bytes()).unwrap().unwrap();
    assert_eq!((head.host(), head.authorization_bearer()), ("b.org", None));
}

proptest! {
    /// A head with bytes changed never panics, and what is accepted has nothing in it that another parser could read otherwise.
    #[test]
    fn mutated_heads(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)) {
        let mut bytes = GOOD.as_bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(Some((head, len))) = parse(&bytes) {
            let lines = std::str::from_utf8(&bytes[..len]).unwrap().split("\r\n");
            prop_assert!(lines.clone().all(|line| !line.contains(['\r', '\n', '\0'])));
            prop_assert!(head.path.starts_with('/') && head.path.is_ascii());
            prop_assert_eq!(lines.filter(|line| line.to_ascii_lowercase().starts_with("host")).count(), 1);
        }
    }
}
