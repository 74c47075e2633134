//! The pipeline of commands against a real Redis, and against one that misbehaves.

mod redis_support;

use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use redis::Value;
use redis_support::{Server, call, cmd, on_each_driver, open, pipeline, scripted};
use ringgate::bus::redis::connect::Connecting;
use ringgate::bus::redis::open::OpenError;
use ringgate::bus::redis::pipeline::{Arrival, Pipeline};
use ringgate::bus::redis::scripts::{Scripts, Stamp};
use ringgate::bus::redis::target::{Address, Target};
use ringgate::bus::redis::trouble::Trouble;
use ringgate::bus::redis::wire::Ended;
use ringgate::cluster::registry::Row;
use ringgate::ids::ShardId;

#[test]
fn passwords_users_databases_and_unix_sockets_work_and_secrets_stay_secret() {
    let server = Server::start(&["--requirepass", "s3cr@t"]);
    server.cli(&["-a", "s3cr@t", "ACL", "SETUSER", "gate", "on", ">g@te", "~ws:*", "+@all"]);
    server.cli(&["-a", "s3cr@t", "ACL", "SETUSER", "weak", "on", ">weak", "~ws:*", "+@all", "-script"]);
    on_each_driver(|| async {
        let unix = format!("unix://{}?pass=s3cr%40t&db=5", server.socket().display());
        for (url, database) in [(server.url(":s3cr%40t@", "/3"), 3), (server.url("gate:g%40te@", ""), 0), (unix, 5)] {
            let pipeline = pipeline::<u64>(&Target::parse(&url).unwrap(), vec![cmd("PING")]).await;
            let info = text(call(&pipeline, &cmd("CLIENT INFO")).await);
            assert!(info.contains(&format!(" db={database} ")) && info.contains(" resp=3"), "{info}");
        }
        for (url, setup) in [
            (server.url(":wr0ng@", ""), vec![]),
            (server.url("gate:wr0ng@", ""), vec![]),
            (server.url("", ""), vec![]),
            (server.url("weak:weak@", ""), Scripts::new("ws:").load()),
        ] {
            let error = open(&Target::parse(&url).unwrap(), setup).await.expect_err(&url);
            assert_eq!(error.trouble(), Some(Trouble::Denied), "{error}");
            assert!(!format!("{error} {error:?}").contains("wr0ng"), "{error:?}");
        }
    });
}

fn text(value: Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).unwrap(),
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn answers_come_in_order_with_their_tokens_and_errors_are_answers() {
    let server = Server::start(&[]);
    on_each_driver(|| async {
        let pipeline = pipeline::<u64>(&server.target(), vec![]).await;
        let big = "x".repeat(300_000);
        for token in 0..20_000 {
            let mut command = redis::cmd("ECHO");
            match token % 1_000 {
                0 => command.arg(&big),
                1 => command.arg("too").arg("many"),
                _ => command.arg(token),
            };
            pipeline.send(token, &command, token);
        }
        assert_eq!((pipeline.unanswered(), pipeline.oldest_unanswered_ms(500)), (20_000, Some(500)));
        for expected in 0..20_000 {
            let Arrival::Reply { token, value } = pipeline.next().await else { panic!("no reply") };
            assert_eq!(token, expected);
            match (token % 1_000, value) {
                (0, Value::BulkString(bytes)) => assert_eq!(bytes.len(), big.len()),
                (1, Value::ServerError(error)) => assert_eq!(Trouble::of(&error), Trouble::Other),
                (_, Value::BulkString(bytes)) => assert_eq!(bytes, token.to_string().into_bytes()),
                (_, other) => panic!("{other:?}"),
            }
        }
        assert_eq!((pipeline.unanswered(), pipeline.gathered_bytes()), (0, 0));
        assert_eq!(pipeline.oldest_unanswered_ms(9), None);
    });
}

const STAMP: Stamp = Stamp { serial: 1, lease_ends_ms: u64::MAX, confirmed: false };

fn row(epoch: u64) -> Row {
    Row { node: "n".into(), epoch, shard: ShardId(0) }
}

#[test]
fn a_lost_script_cache_a_full_memory_and_a_replica_are_told_apart() {
    let server = Server::start(&[]);
    on_each_driver(|| async {
        server.cli(&["FLUSHALL"]);
        let scripts = Scripts::new("ws:");
        let put = scripts.row_put("u", &row(1), 60_000, STAMP);
        let pipeline = pipeline::<u64>(&server.target(), scripts.load()).await;
        let trouble = async || Trouble::in_reply(&call(&pipeline, &put).await);
        assert_eq!(trouble().await, None);

        server.cli(&["SCRIPT", "FLUSH"]);
        assert_eq!(trouble().await, Some(Trouble::NoScript));
        for load in scripts.load() {
            assert_eq!(Trouble::in_reply(&call(&pipeline, &load).await), None);
        }
        assert_eq!(trouble().await, None);

        server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
        assert_eq!(trouble().await, Some(Trouble::Full));
        let found = call(&pipeline, &scripts.row_find("u")).await;
        assert!(matches!(found, Value::Map(rows) if rows.len() == 1), "reading goes on");
        server.cli(&["CONFIG", "SET", "maxmemory", "0"]);

        server.cli(&["REPLICAOF", "127.0.0.1", "1"]);
        assert_eq!(trouble().await, Some(Trouble::Replica));
        server.cli(&["REPLICAOF", "NO", "ONE"]);
        assert_eq!(trouble().await, None);
    });
}

#[test]
fn a_hung_server_holds_nobody_up_and_its_connection_ends_when_it_is_closed() {
    let server = Server::start(&[]);
    on_each_driver(|| async {
        let pipeline = pipeline::<u64>(&server.target(), vec![]).await;
        assert!(matches!(call(&pipeline, &cmd("PING")).await, Value::SimpleString(_)));
        server.stop(true);
        // More than the socket takes: the writer waits in the middle of a write as well.
        let payload = "x".repeat(100_000);
        for token in 0..200 {
            pipeline.send(token, redis::cmd("ECHO").arg(&payload), 1_000 + token);
        }
        monoio::time::sleep(Duration::from_millis(50)).await;
        assert!(pipeline.try_next().is_none());
        assert_eq!((pipeline.unanswered(), pipeline.oldest_unanswered_ms(3_000)), (200, Some(2_000)));
        pipeline.close();
        let Arrival::Ended { why, unanswered } = pipeline.next().await else { panic!("it ends") };
        assert!(matches!(why, Ended::Closed | Ended::Io(_)), "{why}");
        assert_eq!(unanswered, (0..200).collect::<Vec<_>>());
        pipeline.send(7, &cmd("PING"), 0);
        assert!(matches!(pipeline.next().await, Arrival::Ended { unanswered, .. } if unanswered == [7]), "too late");
        server.stop(false);
    });
}

#[test]
fn a_killed_connection_hands_back_what_has_no_answer() {
    let server = Server::start(&[]);
    on_each_driver(|| async {
        let pipeline = pipeline::<&str>(&server.target(), vec![]).await;
        pipeline.send("done", &cmd("SET a 1"), 0);
        pipeline.send("open", &cmd("BLPOP nothing 0"), 0);
        pipeline.send("behind", &cmd("GET a"), 0);
        assert!(matches!(pipeline.next().await, Arrival::Reply { token: "done", value: Value::Okay }));
        server.cli(&["CLIENT", "KILL", "TYPE", "NORMAL"]);
        let Arrival::Ended { unanswered, .. } = pipeline.next().await else { panic!("it ends") };
        assert_eq!(unanswered, ["open", "behind"]);
    });
}

/// What a greeting of `HELLO` alone is answered by.
const HELLO: &[u8] = b"%1\r\n$5\r\nproto\r\n:3\r\n";

fn at(address: std::net::SocketAddr) -> Target {
    Target::parse(&format!("redis://{address}")).unwrap()
}

#[test]
fn a_connection_cut_in_the_middle_of_a_reply_answers_what_was_whole_and_no_more() {
    let replies = b"+OK\r\n*2\r\n$5\r\nhello\r\n$5\r\nwor";
    on_each_driver(|| async {
        // Wherever it is cut.
        let cuts: Vec<_> = (0..=replies.len()).map(|cut| [HELLO, &replies[..cut]].concat()).collect();
        let (address, thread) = scripted(cuts, false);
        for cut in 0..=replies.len() {
            let pipeline = pipeline::<u64>(&at(address), vec![]).await;
            (0..3).for_each(|token| pipeline.send(token, &cmd("PING"), 0));
            let whole = u64::from(cut >= 5);
            if whole == 1 {
                assert!(matches!(pipeline.next().await, Arrival::Reply { token: 0, value: Value::Okay }), "{cut}");
            }
            let Arrival::Ended { unanswered, .. } = pipeline.next().await else { panic!("{cut}") };
            assert_eq!(unanswered, (whole..3).collect::<Vec<_>>(), "{cut}");
        }
        thread.join().unwrap();
    });
}

#[test]
fn what_makes_no_sense_ends_the_connection() {
    on_each_driver(|| async {
        let nonsense: [&[u8]; 4] =
            [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$99999999999\r\n", b"+nobody asked\r\n+twice\r\n", b"*1\r\n>1\r\n"];
        let (address, thread) = scripted(nonsense.iter().map(|n| [HELLO, n].concat()).collect(), true);
        for words in nonsense {
            let pipeline = pipeline::<u64>(&at(address), vec![]).await;
            pipeline.send(0, &cmd("PING"), 0);
            let mut arrival = pipeline.next().await;
            while let Arrival::Reply { .. } = arrival {
                arrival = pipeline.next().await;
            }
            let Arrival::Ended { why, .. } = arrival else { panic!("{arrival:?}") };
            assert!(matches!(why, Ended::Protocol(_)), "{:?}: {why}", String::from_utf8_lossy(words));
        }
        thread.join().unwrap();
    });
}

#[test]
fn invalidations_arrive_on_the_connection_that_read_the_row() {
    let server = Server::start(&[]);
    on_each_driver(|| async {
        let scripts = Scripts::new("ws:");
        let mut setup = scripts.load();
        setup.push(cmd("CLIENT TRACKING ON NOLOOP"));
        let pipeline = pipeline::<u64>(&server.target(), setup).await;
        let found = call(&pipeline, &scripts.row_find("u")).await;
        assert!(matches!(found, Value::Map(rows) if rows.is_empty()), "nowhere is remembered too");
        // Its own write is not told; another's is.
        call(&pipeline, &scripts.row_put("u", &row(1), 60_000, STAMP)).await;
        call(&pipeline, &scripts.row_find("u")).await;
        assert!(pipeline.try_next().is_none());
        server.cli(&["HSET", "ws:loc:u", "other", "2 0"]);
        let Arrival::Invalidated(keys) = pipeline.next().await else { panic!("told") };
        assert_eq!(keys.iter().map(|k| scripts.keys().user_of(k)).collect::<Vec<_>>(), [Some("u")]);
        server.cli(&["FLUSHALL"]);
        assert!(matches!(pipeline.next().await, Arrival::InvalidatedAll));
    });
}

#[test]
fn connecting_is_refused_at_once_or_given_up_by_the_plug() {
    let refused = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    // A listener whose queue is full answers nobody: connecting hangs.
    let deaf = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&deaf, &std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    rustix::net::listen(&deaf, 0).unwrap();
    let deaf_at: std::net::SocketAddr = rustix::net::getsockname(&deaf).unwrap().try_into().unwrap();
    let _filling: Vec<_> =
        (0..3).map(|_| std::net::TcpStream::connect_timeout(&deaf_at, Duration::from_millis(50))).collect();
    on_each_driver(|| async {
        let error = open(&at(refused), vec![]).await.expect_err("refused");
        assert!(
            matches!(&error, OpenError::Connect(e) if e.kind() == std::io::ErrorKind::ConnectionRefused),
            "{error}"
        );
        let missing = Target::parse("unix:///nowhere/redis.sock").unwrap();
        assert!(matches!(open(&missing, vec![]).await, Err(OpenError::Connect(_))));

        let hanging = Connecting::begin(&Address::Tcp(deaf_at)).unwrap();
        let plug = hanging.plug();
        let done = Rc::new(std::cell::Cell::new(false));
        let (told, pulled) = (done.clone(), monoio::time::Instant::now());
        monoio::spawn(async move {
            assert!(hanging.finish().await.is_err());
            told.set(true);
        });
        monoio::time::sleep(Duration::from_millis(100)).await;
        assert!(!done.get(), "it hangs");
        plug.pull();
        monoio::time::sleep(Duration::from_millis(50)).await;
        assert!(done.get(), "after {:?}", pulled.elapsed());
    });
}

#[test]
fn a_connection_ends_with_its_owner() {
    let server = Server::start(&[]);
    on_each_driver(|| async {
        let kept: Pipeline<u64> = pipeline(&server.target(), vec![]).await;
        for _ in 0..20 {
            drop(pipeline::<u64>(&server.target(), vec![]).await);
        }
        for _ in 0..100 {
            let clients = text(call(&kept, &cmd("CLIENT LIST")).await);
            if clients.lines().count() == 1 {
                return;
            }
            monoio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("connections are left over");
    });
}
