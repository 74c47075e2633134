//! WebSocket frames from the client's side: masked ones out, a minimal reader for unmasked ones in (RFC 6455 §5.2).

/// Any key does; a fixed one lets the generator spend its time on the wire. Not zero, so that the server has to unmask.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// Appends one masked frame with the concatenation of `parts` as its payload.
pub(crate) fn append(out: &mut Vec<u8>, opcode: u8, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    out.push(0x80 | opcode);
    match len {
        0..=125 => out.push(0x80 | len as u8),
        126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    let start = out.len();
    for part in parts {
        out.extend_from_slice(part);
    }
    mask(&mut out[start..]);
}

fn mask(payload: &mut [u8]) {
    let wide = u64::from_ne_bytes([MASK[0], MASK[1], MASK[2], MASK[3], MASK[0], MASK[1], MASK[2], MASK[3]]);
    let mut chunks = payload.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(word) ^ wide).to_ne_bytes());
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(MASK.iter().cycle()) {
        *byte ^= key;
    }
}

/// What is at the front of the received bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed<'a> {
    /// More bytes are needed.
    Incomplete,
    /// A whole frame; the next one starts after `len` bytes.
    Frame { opcode: u8, payload: &'a [u8], len: usize },
    /// No server may send this.
    Bad(&'static str),
}

/// Reads one frame. Neither gateway nor rivals fragment or compress what this client makes them send, so it is an error.
pub(crate) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let &[first, second, ..] = bytes else { return Parsed::Incomplete };
    if first & 0xf0 != 0x80 {
        return Parsed::Bad("a fragment or a reserved bit");
    }
    if second & 0x80 != 0 {
        return Parsed::Bad("a masked frame");
    }
    let (head, payload_len) = match second {
        126 => match bytes {
            [_, _, a, b, ..] => (4, u16::from_be_bytes([*a, *b]) as usize),
            _ => return Parsed::Incomplete,
        },
        127 => match bytes.get(2..10).and_then(|long| long.try_into().ok()) {
            Some(long) => (10, u64::from_be_bytes(long) as usize),
            None => return Parsed::Incomplete,
        },
        short => (2, short as usize),
    };
    if payload_len > 1 << 28 {
        return Parsed::Bad("a frame of more than 256 MiB");
    }
    let len = head + payload_len;
    match bytes.get(head..len) {
        Some(payload) => Parsed::Frame { opcode: first & 0x0f, payload, len },
        None => Parsed::Incomplete,
    }
}

/// The code of a close frame's payload; 1005 for none (RFC 6455 §7.1.5).
pub(crate) fn close_code(payload: &[u8]) -> u16 {
    match payload {
        [a, b, ..] => u16::from_be_bytes([*a, *b]),
        _ => 1005,
    }
}
