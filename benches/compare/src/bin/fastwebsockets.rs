//! fastwebsockets on tokio. Echo as in its own example. Rooms in two ways: `queue` (a channel and a writer task per
//! connection, what a server needs that must not wait for one slow reader) and `direct` (the sender's task writes to
//! every member itself: cheaper, but one slow reader stops the room).

use std::rc::Rc;

use bytes::Bytes;
use compare::{Endpoint, Rooms, Todo, run, shake_hands};
use fastwebsockets::{
    FragmentCollector, FragmentCollectorRead, Frame, OpCode, Payload, Role, WebSocket, WebSocketError, WebSocketRead,
    WebSocketWrite, after_handshake_split,
};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

type Writer = Rc<Mutex<WebSocketWrite<OwnedWriteHalf>>>;

fn main() -> std::io::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("direct") {
        let rooms = Rooms::<Writer>::new();
        run(move |stream| serve_direct(stream, rooms.clone()))
    } else {
        let rooms = Rooms::<UnboundedSender<Bytes>>::new();
        run(move |stream| serve_queue(stream, rooms.clone()))
    }
}

async fn serve_queue(mut stream: TcpStream, rooms: Rc<Rooms<UnboundedSender<Bytes>>>) {
    let Ok(endpoint) = shake_hands(&mut stream).await else { return };
    let Endpoint::Gateway { user } = endpoint else {
        let _ = tokio::task::unconstrained(echo(stream)).await;
        return;
    };
    let (reader, writer) = split(stream);
    let (sender, receiver) = unbounded_channel();
    tokio::task::spawn_local(write_queue(writer, receiver));
    let number = rooms.number();
    let _ = sender.send(Rooms::<UnboundedSender<Bytes>>::welcome(&user).into());
    let mut reader = FragmentCollectorRead::new(reader);
    while let Ok(frame) = reader.read_frame(&mut ignore).await {
        match (frame.opcode, rooms.handle(&frame.payload, number, &user, &sender)) {
            (OpCode::Close, _) => break,
            (_, Todo::Reply(text)) => drop(sender.send(text.into())),
            (_, Todo::FanOut(text, members)) => {
                for member in members {
                    let _ = member.send(text.clone());
                }
            }
            (_, Todo::Nothing) => {}
        }
    }
    rooms.leave(number);
}

async fn write_queue(mut writer: WebSocketWrite<OwnedWriteHalf>, mut receiver: UnboundedReceiver<Bytes>) {
    while let Some(text) = receiver.recv().await {
        if writer.write_frame(Frame::text(Payload::Borrowed(&text))).await.is_err() {
            return;
        }
    }
}

async fn serve_direct(mut stream: TcpStream, rooms: Rc<Rooms<Writer>>) {
    let Ok(endpoint) = shake_hands(&mut stream).await else { return };
    let Endpoint::Gateway { user } = endpoint else {
        let _ = tokio::task::unconstrained(echo(stream)).await;
        return;
    };
    let (reader, writer) = split(stream);
    let writer = Rc::new(Mutex::new(writer));
    let number = rooms.number();
    write(&writer, Rooms::<Writer>::welcome(&user).as_bytes()).await;
    let mut reader = FragmentCollectorRead::new(reader);
    while let Ok(frame) = reader.read_frame(&mut ignore).await {
        match (frame.opcode, rooms.handle(&frame.payload, number, &user, &writer)) {
            (OpCode::Close, _) => break,
            (_, Todo::Reply(text)) => write(&writer, text.as_bytes()).await,
            (_, Todo::FanOut(text, members)) => {
                for member in members {
                    write(&member, &text).await;
                }
            }
            (_, Todo::Nothing) => {}
        }
    }
    rooms.leave(number);
}

async fn write(writer: &Writer, text: &[u8]) {
    let _ = writer.lock().await.write_frame(Frame::text(Payload::Borrowed(text))).await;
}

fn split(stream: TcpStream) -> (WebSocketRead<OwnedReadHalf>, WebSocketWrite<OwnedWriteHalf>) {
    let (read, write) = stream.into_split();
    after_handshake_split(read, write, Role::Server)
}

/// Pongs and closes that the library wants to have sent; the benches need none.
async fn ignore(_: Frame<'_>) -> Result<(), WebSocketError> {
    Ok(())
}

async fn echo(stream: TcpStream) -> Result<(), WebSocketError> {
    let mut socket = FragmentCollector::new(WebSocket::after_handshake(stream, Role::Server));
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            _ => {}
        }
    }
}
