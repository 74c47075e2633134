//! A client: bytes in and out of its socket, frames, and what it must do by itself. What it asks for is decided elsewhere.

use fastrand::Rng;
use serde_json::Value;

use crate::codec::{self, Deflate, Response};
use crate::world::World;

/// Where a client is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The upgrade request is on its way.
    Opening,
    /// A WebSocket.
    Open,
    /// One side has sent its close frame.
    Closing,
    /// Nothing more will come.
    Gone,
}

/// What a client has heard.
#[derive(Clone, Debug)]
pub enum Heard {
    Response(Response),
    /// A message; those of a `batch` one by one.
    Message(Value),
    /// A binary message, or a text that is not to be read as JSON (echo).
    Data(u8, Vec<u8>),
    Ping,
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    /// The stream has ended.
    End,
}

pub struct Client {
    pub socket: usize,
    pub phase: Phase,
    /// Answers pings; on by default.
    pub answers_pings: bool,
    /// Answers close frames; on by default.
    pub answers_close: bool,
    /// Takes messages as they are.
    pub raw: bool,
    pub deflate: Option<Deflate>,
    /// Frames that came compressed, and batches.
    pub compressed: usize,
    pub batches: usize,
    out: Vec<u8>,
    input: Vec<u8>,
    rng: Rng,
}

impl Client {
    /// A client on this socket that asks for a WebSocket.
    pub fn new(socket: usize, request: Vec<u8>, rng: Rng) -> Self {
        Client {
            socket,
            phase: Phase::Opening,
            answers_pings: true,
            answers_close: true,
            raw: false,
            deflate: None,
            compressed: 0,
            batches: 0,
            out: request,
            input: Vec::new(),
            rng,
        }
    }

    /// Queues a message, as one frame or in pieces, compressed or not.
    pub fn say(&mut self, text: &str) {
        let pieces = if self.rng.u8(..) < 40 { self.rng.usize(1..=4) } else { 1 };
        let compress = self.deflate.is_some() && self.rng.bool();
        self.say_in(codec::TEXT, text.as_bytes(), pieces, compress);
    }

    /// Queues a message in so many pieces.
    pub fn say_in(&mut self, opcode: u8, payload: &[u8], pieces: usize, compress: bool) {
        let deflate = self.deflate.as_mut().filter(|_| compress);
        let bytes = codec::message(opcode, payload, pieces, deflate, &mut self.rng, |rng| match rng.u8(..4) {
            0 => codec::frame(true, false, codec::PONG, b"unasked", rng),
            _ => Vec::new(),
        });
        self.out.extend(bytes);
    }

    pub fn ping(&mut self, payload: &[u8]) {
        let frame = codec::frame(true, false, codec::PING, payload, &mut self.rng);
        self.out.extend(frame);
    }

    /// Sends a close frame.
    pub fn close(&mut self, code: Option<u16>) {
        let payload = code.map(|code| code.to_be_bytes().to_vec()).unwrap_or_default();
        let frame = codec::frame(true, false, codec::CLOSE, &payload, &mut self.rng);
        self.out.extend(frame);
        self.phase = Phase::Closing;
    }

    /// Queues bytes as they are.
    pub fn raw_bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Vanishes: everything on its way is lost.
    pub fn vanish(&mut self, world: &mut World) {
        let socket = &mut world.sockets[self.socket];
        socket.reset = true;
        socket.up.clear();
        socket.down.clear();
        self.out.clear();
        self.phase = Phase::Gone;
    }

    /// Bytes that wait to be written.
    pub fn unsent(&self) -> usize {
        self.out.len()
    }

    /// Writes at most so many bytes.
    pub fn write(&mut self, world: &mut World, most: usize) -> usize {
        let socket = &mut world.sockets[self.socket];
        if socket.reset || socket.closed {
            socket.reset |= socket.closed && !self.out.is_empty();
            self.out.clear();
            return 0;
        }
        let taken = socket.up.write(&self.out, most);
        self.out.drain(..taken);
        taken
    }

    /// Ends its half of the stream; it still reads.
    pub fn finish(&mut self, world: &mut World) {
        world.sockets[self.socket].up.fin = true;
    }

    /// Reads at most so many bytes and says what they mean.
    pub fn read(&mut self, world: &mut World, most: usize) -> Vec<Heard> {
        let mut heard = Vec::new();
        if self.phase == Phase::Gone {
            return heard;
        }
        let socket = &mut world.sockets[self.socket];
        self.input.extend(socket.down.read(most));
        let ended = socket.down.len() == 0 && (socket.down.fin || socket.reset);
        if self.phase == Phase::Opening
            && let Some(response) = codec::take_response(&mut self.input)
        {
            if response.status == 101 {
                assert_eq!(response.header("sec-websocket-accept"), Some(codec::ACCEPT));
                self.deflate = response.header("sec-websocket-extensions").map(Deflate::negotiated);
                self.phase = Phase::Open;
            }
            heard.push(Heard::Response(response));
        }
        while matches!(self.phase, Phase::Open | Phase::Closing)
            && let Some(frame) = codec::take_frame(&mut self.input, self.deflate.as_mut())
        {
            self.compressed += usize::from(frame.compressed);
            self.take(frame, &mut heard);
        }
        if ended {
            self.phase = Phase::Gone;
            world.sockets[self.socket].reset = true;
            heard.push(Heard::End);
        }
        heard
    }

    fn take(&mut self, frame: codec::Frame, heard: &mut Vec<Heard>) {
        match frame.opcode {
            codec::PING => {
                if self.answers_pings {
                    let pong = codec::frame(true, false, codec::PONG, &frame.payload, &mut self.rng);
                    self.out.extend(pong);
                }
                heard.push(Heard::Ping);
            }
            codec::PONG => heard.push(Heard::Pong(frame.payload)),
            codec::CLOSE => {
                let code = frame.payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                let reason = frame.payload.get(2..).unwrap_or_default().to_vec();
                if self.phase == Phase::Open && self.answers_close {
                    self.close(code);
                }
                self.phase = Phase::Closing;
                heard.push(Heard::Close(code, String::from_utf8(reason).expect("a reason is UTF-8")));
                assert!(self.input.is_empty(), "nothing follows a close frame: {:02x?}", self.input);
            }
            opcode if self.raw => heard.push(Heard::Data(opcode, frame.payload)),
            codec::TEXT => {
                let text = std::str::from_utf8(&frame.payload).expect("text is UTF-8");
                let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
                match value["type"].as_str() {
                    Some("batch") => {
                        self.batches += 1;
                        let messages = value["messages"].as_array().expect("a batch holds messages");
                        assert!(messages.len() > 1, "a batch of one is no batch");
                        heard.extend(messages.iter().cloned().map(Heard::Message));
                    }
                    _ => heard.push(Heard::Message(value)),
                }
            }
            other => panic!("the gateway never sends opcode {other} by itself"),
        }
    }
}
