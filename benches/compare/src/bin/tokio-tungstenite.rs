//! tokio-tungstenite, with its own handshake and default configuration; rooms with a channel and a writer task per
//! connection, as in its chat example.

use std::rc::Rc;

use bytes::Bytes;
use compare::{Endpoint, Rooms, Todo, run};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

fn main() -> std::io::Result<()> {
    let rooms = Rooms::<UnboundedSender<Bytes>>::new();
    run(move |stream| serve(stream, rooms.clone()))
}

async fn serve(stream: TcpStream, rooms: Rc<Rooms<UnboundedSender<Bytes>>>) {
    let mut endpoint = Endpoint::Echo;
    #[expect(clippy::result_large_err, reason = "the library's signature")]
    let look = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        endpoint = Endpoint::of(&request.uri().to_string());
        Ok(response)
    };
    let Ok(socket) = accept_hdr_async(stream, look).await else { return };
    match endpoint {
        Endpoint::Echo => echo(socket).await,
        Endpoint::Gateway { user } => gateway(socket, user, rooms).await,
    }
}

async fn echo(mut socket: WebSocketStream<TcpStream>) {
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}

async fn gateway(socket: WebSocketStream<TcpStream>, user: String, rooms: Rc<Rooms<UnboundedSender<Bytes>>>) {
    let (mut sink, mut stream) = socket.split();
    let (sender, mut receiver) = unbounded_channel::<Bytes>();
    tokio::task::spawn_local(async move {
        while let Some(text) = receiver.recv().await {
            let Ok(text) = Utf8Bytes::try_from(text) else { return };
            if sink.send(Message::Text(text)).await.is_err() {
                return;
            }
        }
    });
    let number = rooms.number();
    let _ = sender.send(Rooms::<UnboundedSender<Bytes>>::welcome(&user).into());
    while let Some(Ok(message)) = stream.next().await {
        let Message::Text(text) = message else { continue };
        match rooms.handle(text.as_bytes(), number, &user, &sender) {
            Todo::Reply(text) => drop(sender.send(text.into())),
            Todo::FanOut(text, members) => {
                for member in members {
                    let _ = member.send(text.clone());
                }
            }
            Todo::Nothing => {}
        }
    }
    rooms.leave(number);
}
