//! The client's side of HTTP and WebSocket, written apart from the gateway's own code so that a mistake does not cancel itself out.

use fastrand::Rng;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The key of every upgrade request, from RFC 6455, section 1.3, and what must be answered to it.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// An upgrade request; `extra` are whole header lines.
pub fn upgrade_request(target: &str, extra: &[String]) -> Vec<u8> {
    let mut head = format!(
        "GET {target} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
    );
    for line in extra {
        head.push_str(line);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// A response head: status and header lines.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// Takes a response head off the front of `input` once it is complete.
pub fn take_response(input: &mut Vec<u8>) -> Option<Response> {
    let end = input.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = String::from_utf8(input.drain(..end + 4).collect()).expect("a response head is ASCII");
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let status = status_line.strip_prefix("HTTP/1.1 ").and_then(|s| s.get(..3)).and_then(|s| s.parse().ok());
    let status = status.unwrap_or_else(|| panic!("not a status line: {status_line:?}"));
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Some(Response { status, headers })
}

/// A frame of the gateway, payload inflated.
#[derive(Clone, Debug)]
pub struct Frame {
    pub opcode: u8,
    pub payload: Vec<u8>,
    pub compressed: bool,
}

/// Takes a frame off the front of `input` once it is complete, holding it to what RFC 6455 demands of a server.
pub fn take_frame(input: &mut Vec<u8>, deflate: Option<&mut Deflate>) -> Option<Frame> {
    let (&first, &second) = (input.first()?, input.get(1)?);
    assert_eq!(second & 0x80, 0, "a server does not mask");
    assert_eq!(first & 0x30, 0, "RSV2 and RSV3 are never set");
    assert_ne!(first & 0x80, 0, "the gateway does not fragment");
    let (opcode, compressed) = (first & 0x0f, first & 0x40 != 0);
    assert!([TEXT, BINARY, CLOSE, PING, PONG].contains(&opcode), "opcode {opcode} from {:02x?}", &input[..2]);
    let (len, header) = match second {
        126 => (usize::from(u16::from_be_bytes([*input.get(2)?, *input.get(3)?])), 4),
        127 => (u64::from_be_bytes(input.get(2..10)?.try_into().unwrap()) as usize, 10),
        short => (usize::from(short), 2),
    };
    assert!(header == 2 || len > 125 && (header == 4 || len > 0xffff), "length in its shortest form");
    if input.len() < header + len {
        return None;
    }
    let payload = input.drain(..header + len).skip(header).collect();
    if !compressed {
        return Some(Frame { opcode, payload, compressed });
    }
    assert!(opcode < 8, "control frames are not compressed");
    let deflate = deflate.expect("RSV1 without negotiation");
    Some(Frame { opcode, payload: deflate.inflate(payload), compressed })
}

/// One masked frame.
pub fn frame(fin: bool, rsv1: bool, opcode: u8, payload: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut out = vec![u8::from(fin) << 7 | u8::from(rsv1) << 6 | opcode];
    match payload.len() {
        len @ 0..=125 => out.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    let key = rng.u32(..).to_be_bytes();
    out.extend_from_slice(&key);
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}

/// A message as one frame or several, with control frames in between where `interleave` gives any.
pub fn message(
    opcode: u8,
    payload: &[u8],
    pieces: usize,
    deflate: Option<&mut Deflate>,
    rng: &mut Rng,
    mut interleave: impl FnMut(&mut Rng) -> Vec<u8>,
) -> Vec<u8> {
    let rsv1 = deflate.is_some();
    let payload = deflate.map_or_else(|| payload.to_vec(), |deflate| deflate.deflate(payload));
    let size = payload.len().div_ceil(pieces.max(1)).max(1);
    let mut chunks: Vec<&[u8]> = payload.chunks(size).collect();
    if chunks.is_empty() {
        chunks.push(&[]);
    }
    let last = chunks.len() - 1;
    let mut out = Vec::new();
    for (at, chunk) in chunks.into_iter().enumerate() {
        let opcode = if at == 0 { opcode } else { CONTINUATION };
        out.extend(frame(at == last, rsv1 && at == 0, opcode, chunk, rng));
        if at != last {
            out.extend(interleave(rng));
        }
    }
    out
}

/// permessage-deflate as negotiated, from the client's side.
pub struct Deflate {
    compress: Option<Compress>,
    decompress: Option<Decompress>,
    client_takeover: bool,
    server_takeover: bool,
}

impl Deflate {
    /// From the response's `Sec-WebSocket-Extensions`.
    pub fn negotiated(response: &str) -> Self {
        assert!(response.starts_with("permessage-deflate"), "{response}");
        Deflate {
            compress: None,
            decompress: None,
            client_takeover: !response.contains("client_no_context_takeover"),
            server_takeover: !response.contains("server_no_context_takeover"),
        }
    }

    fn inflate(&mut self, mut data: Vec<u8>) -> Vec<u8> {
        data.extend_from_slice(&[0, 0, 0xff, 0xff]);
        let mut stream = self.decompress.take().unwrap_or_else(|| Decompress::new(false));
        let (start, mut out) = (stream.total_in(), Vec::new());
        loop {
            out.reserve(1024);
            let used = (stream.total_in() - start) as usize;
            let before = out.len();
            stream.decompress_vec(&data[used..], &mut out, FlushDecompress::Sync).expect("valid deflate data");
            if (stream.total_in() - start) as usize == data.len() && out.len() < out.capacity() {
                break;
            }
            assert!(out.len() > before || out.len() == out.capacity(), "no progress");
        }
        self.decompress = Some(stream).filter(|_| self.server_takeover);
        out
    }

    fn deflate(&mut self, data: &[u8]) -> Vec<u8> {
        let mut stream = self.compress.take().unwrap_or_else(|| Compress::new(Compression::fast(), false));
        let (start, mut out) = (stream.total_in(), Vec::new());
        loop {
            out.reserve(1024);
            let used = (stream.total_in() - start) as usize;
            stream.compress_vec(&data[used..], &mut out, FlushCompress::Sync).expect("compresses");
            if (stream.total_in() - start) as usize == data.len() && out.len() < out.capacity() {
                break;
            }
        }
        assert!(out.ends_with(&[0, 0, 0xff, 0xff]));
        out.truncate(out.len() - 4);
        self.compress = Some(stream).filter(|_| self.client_takeover);
        out
    }
}
