use super::*;
use proptest::prelude::*;
use redis::PushKind;

fn bulk(text: &str) -> Value {
    Value::BulkString(text.as_bytes().to_vec())
}

/// Every type, and what it is worth. RESP3 specification, in its order.
fn replies() -> Vec<(&'static [u8], Value)> {
    vec![
        (b"$11\r\nhello world\r\n", bulk("hello world")),
        (b"$0\r\n\r\n", bulk("")),
        (b"$4\r\n\r\n\r\n\r\n", bulk("\r\n\r\n")),
        (b"+hello\r\n", Value::SimpleString("hello".into())),
        (b"+OK\r\n", Value::Okay),
        (b":1234\r\n", Value::Int(1234)),
        (b":-9223372036854775808\r\n", Value::Int(i64::MIN)),
        (b"_\r\n", Value::Nil),
        (b"$-1\r\n", Value::Nil),
        (b"*-1\r\n", Value::Nil),
        (b",1.5\r\n", Value::Double(1.5)),
        (b",inf\r\n", Value::Double(f64::INFINITY)),
        (b"#t\r\n", Value::Boolean(true)),
        (
            b"(3492890328409238509324850943850943825024385\r\n",
            Value::BigNumber(b"3492890328409238509324850943850943825024385".to_vec()),
        ),
        (b"*0\r\n", Value::Array(vec![])),
        (
            b"*3\r\n:1\r\n$1\r\na\r\n*1\r\n_\r\n",
            Value::Array(vec![Value::Int(1), bulk("a"), Value::Array(vec![Value::Nil])]),
        ),
        (
            b"%2\r\n+a\r\n:1\r\n+b\r\n*2\r\n:2\r\n:3\r\n",
            Value::Map(vec![
                (Value::SimpleString("a".into()), Value::Int(1)),
                (Value::SimpleString("b".into()), Value::Array(vec![Value::Int(2), Value::Int(3)])),
            ]),
        ),
        (b"%0\r\n", Value::Map(vec![])),
        (b"~2\r\n:1\r\n:2\r\n", Value::Set(vec![Value::Int(1), Value::Int(2)])),
        (
            b"|1\r\n+ttl\r\n:9\r\n*1\r\n:5\r\n",
            Value::Attribute {
                data: Box::new(Value::Array(vec![Value::Int(5)])),
                attributes: vec![(Value::SimpleString("ttl".into()), Value::Int(9))],
            },
        ),
        (
            b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\n\r\n\r\n",
            Value::Push { kind: PushKind::Message, data: vec![bulk("c"), bulk("\r\n")] },
        ),
        (
            b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n",
            Value::Push { kind: PushKind::Invalidate, data: vec![Value::Array(vec![bulk("key")])] },
        ),
        (b">2\r\n$10\r\ninvalidate\r\n_\r\n", Value::Push { kind: PushKind::Invalidate, data: vec![Value::Nil] }),
    ]
}

#[test]
fn every_type_is_measured_and_read() {
    for (bytes, expected) in replies() {
        let text = String::from_utf8_lossy(bytes);
        assert_eq!(Scanner::default().scan(bytes), Ok(Some(bytes.len())), "{text:?}");
        assert_eq!(value(bytes), Ok(expected), "{text:?}");
    }
    for (bytes, code) in
        [(&b"-NOSCRIPT none\r\n"[..], "NOSCRIPT"), (b"!9\r\nOOM x\r\ny \r\n", "OOM"), (b"-ERR \xff\r\n", "ERR")]
    {
        assert_eq!(Scanner::default().scan(bytes), Ok(Some(bytes.len())));
        let Ok(Value::ServerError(error)) = value(bytes) else { panic!("{bytes:?}") };
        assert_eq!(error.code(), code);
    }
}

#[test]
fn a_verbatim_string_is_measured_and_read() {
    let bytes = b"=8\r\ntxt:some\r\n";
    assert_eq!(Scanner::default().scan(bytes), Ok(Some(bytes.len())));
    assert!(matches!(value(bytes), Ok(Value::VerbatimString { text, .. }) if text == "some"));
}

#[test]
fn the_end_is_found_at_every_split_point_and_never_too_early() {
    let all: Vec<u8> = replies().iter().flat_map(|(bytes, _)| bytes.iter().copied()).collect();
    for (bytes, _) in replies() {
        for split in 0..bytes.len() {
            let mut scanner = Scanner::default();
            assert_eq!(scanner.scan(&bytes[..split]), Ok(None), "{split} of {:?}", String::from_utf8_lossy(bytes));
            let more = [bytes, &all].concat();
            assert_eq!(scanner.scan(&more), Ok(Some(bytes.len())), "{split}");
        }
        let mut scanner = Scanner::default();
        for end in 0..bytes.len() {
            assert_eq!(scanner.scan(&bytes[..end]), Ok(None));
        }
        assert_eq!(scanner.scan(bytes), Ok(Some(bytes.len())));
    }
}

#[test]
fn replies_follow_each_other_whatever_the_pieces() {
    let (all, ends): (Vec<_>, Vec<_>) = replies().into_iter().map(|(bytes, _)| (bytes, bytes.len())).unzip();
    let all = all.concat();
    for piece in [1, 2, 3, 5, 7, 64, 4096] {
        let (mut scanner, mut held, mut found) = (Scanner::default(), Vec::new(), Vec::new());
        for bytes in all.chunks(piece) {
            held.extend_from_slice(bytes);
            while let Some(len) = scanner.scan(&held).unwrap() {
                found.push(len);
                held.drain(..len);
            }
        }
        assert_eq!((found, held.len()), (ends.clone(), 0), "pieces of {piece}");
    }
}

#[test]
fn what_is_no_reply_or_breaks_a_bound_is_refused() {
    let deep = b"*1\r\n".repeat(DEPTH_MAX + 1);
    let line = [b"+".to_vec(), vec![b'x'; LINE_BYTES_MAX + 8]].concat();
    let whole_line = [&line[..], b"\r\n"].concat();
    let cases: [(&[u8], RespError); 22] = [
        (b"H", RespError::Type),
        (b"HTTP/1.1 400 Bad Request\r\n", RespError::Type),
        (b"\r\n", RespError::Type),
        (b"*1\r\nx", RespError::Type),
        (b"$\r\n", RespError::Length),
        (b"$x\r\n", RespError::Length),
        (b"$?\r\n", RespError::Length),
        (b"*?\r\n", RespError::Length),
        (b"$-2\r\n", RespError::Length),
        (b"$+1\r\n", RespError::Length),
        (b"$01\r\n", RespError::Length),
        (b"%-1\r\n", RespError::Length),
        (b"~-1\r\n", RespError::Length),
        (b"$99999999999\r\n", RespError::TooLarge),
        (b"$9999999999999999999999\r\n", RespError::TooLarge),
        (b"*1048577\r\n", RespError::TooLarge),
        (b"%524289\r\n", RespError::TooLarge),
        (b"$2\r\nabcd", RespError::Malformed),
        (b"*1\r\n>", RespError::Malformed),
        (&deep, RespError::TooDeep),
        (&line, RespError::Line),
        (&whole_line, RespError::Line),
    ];
    for (bytes, error) in cases {
        assert_eq!(
            Scanner::default().scan(bytes),
            Err(error),
            "{:?}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(40)])
        );
    }
}

#[test]
fn aggregates_in_aggregates_count_together() {
    let many = [&b"*1000\r\n"[..], &b"*1048\r\n"[..]].concat();
    assert_eq!(Scanner::default().scan(&many), Ok(None));
    let mut bomb = b"*1000000\r\n".to_vec();
    bomb.extend_from_slice(b"*1000000\r\n");
    assert_eq!(Scanner::default().scan(&bomb), Err(RespError::TooLarge));
}

fn any_reply() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(|n| format!(":{n}\r\n").into_bytes()),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| [
            format!("${}\r\n", bytes.len()).as_bytes(),
            &bytes,
            b"\r\n"
        ]
        .concat()),
        "[ -~]{0,20}".prop_map(|text| format!("+{text}\r\n").into_bytes()),
        Just(b"_\r\n".to_vec()),
        Just(b"#f\r\n".to_vec()),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        let many = |kind: char, per: usize, inner: BoxedStrategy<Vec<u8>>| {
            proptest::collection::vec(inner, 0..4).prop_map(move |values| {
                let count = values.len() / per;
                let head = format!("{kind}{count}\r\n").into_bytes();
                [head, values.into_iter().take(count * per).flatten().collect()].concat()
            })
        };
        let inner = inner.boxed();
        prop_oneof![many('*', 1, inner.clone()), many('~', 1, inner.clone()), many('%', 2, inner)]
    })
}

proptest! {
    /// Whatever the scanner takes for a whole reply, the parser takes too, wherever the bytes were split.
    #[test]
    fn scanner_and_parser_agree(reply in any_reply(), at in any::<prop::sample::Index>(), tail in any::<[u8; 3]>()) {
        let mut scanner = Scanner::default();
        prop_assert_eq!(scanner.scan(&reply[..at.index(reply.len())]), Ok(None));
        let followed = [&reply[..], &tail].concat();
        prop_assert_eq!(scanner.scan(&followed), Ok(Some(reply.len())));
        prop_assert!(value(&reply).is_ok());
    }

    #[test]
    fn rubbish_is_refused_or_waited_for_and_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0usize..15) {
        bytes.insert(0, b"+-:_,#($!=*~>%|"[kind]);
        let mut scanner = Scanner::default();
        if let Ok(Some(len)) = scanner.scan(&bytes) {
            prop_assert!(len <= bytes.len());
            let _ = value(&bytes[..len]);
        }
    }
}
