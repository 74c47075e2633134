//! What the rival servers share: the part of ringgate's protocol that the load generator speaks to them (`/echo`, and
//! `/ws` with `join` and `message`), rooms, and a listener. One thread, one current-thread runtime, the same allocator
//! as ringgate. No limits, no time-outs, no backpressure: each does less than ringgate has to.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a client asked for in its upgrade request.
pub enum Endpoint {
    /// `/echo`
    Echo,
    /// `/ws?user_id=…`
    Gateway {
        /// The user id.
        user: String,
    },
}

impl Endpoint {
    /// The endpoint of a request's path and query.
    pub fn of(target: &str) -> Endpoint {
        match target.split_once("user_id=") {
            Some((_, user)) => Endpoint::Gateway { user: user.to_owned() },
            None => Endpoint::Echo,
        }
    }
}

/// Runs `serve` for every connection, on one thread; says on standard output where it listens.
pub fn run<F: Future<Output = ()> + 'static>(serve: impl Fn(TcpStream) -> F) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let listener = listen()?;
        println!("{}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::task::spawn_local(serve(stream));
        }
    })
}

fn listen() -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, 1], 0).into())?;
    socket.listen(4096)
}

/// A handshake without a library, for those that do not need one of their own; the least that a client can be answered.
pub async fn shake_hands(stream: &mut TcpStream) -> io::Result<Endpoint> {
    let mut head = Vec::with_capacity(512);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 || head.len() > 8192 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let head = String::from_utf8_lossy(&head);
    let key = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find_map(|(name, value)| name.eq_ignore_ascii_case("sec-websocket-key").then_some(value))
        .ok_or(io::ErrorKind::InvalidData)?;
    let hash = Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    let accept = base64::engine::general_purpose::STANDARD.encode(hash);
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(response.as_bytes()).await?;
    Ok(Endpoint::of(head.split(' ').nth(1).unwrap_or_default()))
}

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    id: Option<u64>,
    #[serde(rename = "roomId", borrow)]
    room: Option<Cow<'a, str>>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

/// What to do with a client's message.
pub enum Todo<M> {
    /// Answer the client itself.
    Reply(String),
    /// Send the text, encoded once, to these members.
    FanOut(Bytes, Vec<M>),
    /// Nothing.
    Nothing,
}

/// All rooms. `M` is how a server reaches a member.
pub struct Rooms<M> {
    rooms: RefCell<HashMap<String, Vec<(u64, M)>>>,
    next: Cell<u64>,
}

impl<M: Clone> Rooms<M> {
    /// No rooms.
    pub fn new() -> Rc<Rooms<M>> {
        Rc::new(Rooms { rooms: RefCell::default(), next: Cell::new(1) })
    }

    /// A number nobody else has.
    pub fn number(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }

    /// The first message to a client.
    pub fn welcome(user: &str) -> String {
        format!(r#"{{"type":"auth:ok","userId":"{user}"}}"#)
    }

    /// Handles the text of client `number`, which is `user` and can be reached by `member`.
    pub fn handle(&self, text: &[u8], number: u64, user: &str, member: &M) -> Todo<M> {
        let Ok(request) = serde_json::from_slice::<Request<'_>>(text) else {
            return Todo::Reply(r#"{"type":"error","code":"bad_json","message":"Invalid JSON"}"#.into());
        };
        match (&*request.kind, request.room, request.content) {
            ("join", Some(room), _) => {
                self.rooms.borrow_mut().entry(room.into_owned()).or_default().push((number, member.clone()));
                request.id.map_or(Todo::Nothing, |id| Todo::Reply(format!(r#"{{"type":"ok","id":{id}}}"#)))
            }
            ("message", Some(room), Some(content)) => {
                let rooms = self.rooms.borrow();
                let Some(members) = rooms.get(&*room) else { return Todo::Nothing };
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
                let text = format!(
                    r#"{{"type":"message","id":"{:016x}","from":"{user}","content":{},"timestamp":{now},"roomId":"{room}"}}"#,
                    self.number(),
                    content.get(),
                );
                let others = members.iter().filter(|(other, _)| *other != number);
                Todo::FanOut(text.into(), others.map(|(_, member)| member.clone()).collect())
            }
            _ => Todo::Nothing,
        }
    }

    /// Forgets a client.
    pub fn leave(&self, number: u64) {
        for members in self.rooms.borrow_mut().values_mut() {
            members.retain(|(other, _)| *other != number);
        }
    }
}
