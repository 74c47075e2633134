//! Frames (RFC 6455, section 5.2): headers of clients read, whole frames of the server made.
//!
//! A server frame is unmasked, so it is made once and shared by all its receivers: one allocation, header and payload together.

use bytes::Bytes;

use super::close::Failure;

/// Payload bytes that a control frame may have (RFC 6455, section 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;
/// Bytes of the longest client header: two, eight of length, four of mask.
pub(crate) const CLIENT_HEADER_BYTES_MAX: usize = 14;
/// Bytes of the longest server header.
pub(crate) const SERVER_HEADER_BYTES_MAX: usize = 10;

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const RSV2_RSV3: u8 = 0x30;
const MASKED: u8 = 0x80;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// A later fragment of a message.
    Continuation = 0,
    /// A text message, or its first fragment.
    Text = 1,
    /// A binary message, or its first fragment.
    Binary = 2,
    /// Close.
    Close = 8,
    /// Ping.
    Ping = 9,
    /// Pong.
    Pong = 10,
}

impl Opcode {
    /// Close, ping and pong: at most 125 bytes, never in fragments.
    #[inline]
    pub fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }

    #[inline]
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return None,
        })
    }
}

/// The header of a frame from a client, checked by itself; whether it fits what came before is for the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientHeader {
    /// What it carries.
    pub opcode: Opcode,
    /// The last fragment of its message.
    pub fin: bool,
    /// RSV1: the first fragment of a compressed message (RFC 7692, section 6).
    pub rsv1: bool,
    /// The masking key.
    pub key: [u8; 4],
    /// Bytes of payload, as claimed.
    pub len: u64,
    /// Bytes of this header.
    pub size: usize,
}

/// Reads the header at the front of `bytes`; `None` where it is not complete. What is there already is checked at once.
///
/// # Errors
///
/// RSV2 or RSV3, RSV1 on anything but the start of a message, an unknown opcode, no mask, a control frame in fragments or over 125 bytes,
/// a length that is not minimal or has its sign bit set.
#[inline]
pub fn client_header(bytes: &[u8]) -> Result<Option<ClientHeader>, Failure> {
    let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
    if first & RSV2_RSV3 != 0 {
        return Err(Failure::protocol("reserved bit set"));
    }
    let Some(opcode) = Opcode::from_bits(first & 0x0f) else { return Err(Failure::protocol("reserved opcode")) };
    let (fin, rsv1) = (first & FIN != 0, first & RSV1 != 0);
    if rsv1 && !matches!(opcode, Opcode::Text | Opcode::Binary) {
        return Err(Failure::protocol("RSV1 on a frame that does not start a message"));
    }
    if opcode.is_control() && !fin {
        return Err(Failure::protocol("control frame in fragments"));
    }
    let Some((&second, rest)) = rest.split_first() else { return Ok(None) };
    if second & MASKED == 0 {
        return Err(Failure::protocol("client frame without a mask"));
    }
    let (len, rest, size) = match second & !MASKED {
        126 | 127 if opcode.is_control() => return Err(Failure::protocol("control frame over 125 bytes")),
        126 => match rest.split_first_chunk::<2>() {
            None => return Ok(None),
            Some((len, rest)) => {
                let len = u16::from_be_bytes(*len);
                if len < 126 {
                    return Err(Failure::protocol("length not in its shortest form"));
                }
                (u64::from(len), rest, 8)
            }
        },
        127 => match rest.split_first_chunk::<8>() {
            None => return Ok(None),
            Some((len, rest)) => {
                let len = u64::from_be_bytes(*len);
                if len > i64::MAX as u64 {
                    return Err(Failure::protocol("length with its highest bit set"));
                }
                if len <= u64::from(u16::MAX) {
                    return Err(Failure::protocol("length not in its shortest form"));
                }
                (len, rest, CLIENT_HEADER_BYTES_MAX)
            }
        },
        short => (u64::from(short), rest, 6),
    };
    let Some(&key) = rest.first_chunk::<4>() else { return Ok(None) };
    Ok(Some(ClientHeader { opcode, fin, rsv1, key, len, size }))
}

/// The header of a server frame (unmasked) for a payload of `len` bytes, and how many bytes of the array it is: 2, 4 or 10.
/// `rsv1`: the payload is compressed.
#[inline]
pub fn server_header(opcode: Opcode, fin: bool, rsv1: bool, len: usize) -> ([u8; SERVER_HEADER_BYTES_MAX], usize) {
    let mut header = [0; SERVER_HEADER_BYTES_MAX];
    let used = server_header_len(len);
    header[0] = opcode as u8 | if fin { FIN } else { 0 } | if rsv1 { RSV1 } else { 0 };
    match used {
        2 => header[1] = len as u8,
        4 => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            header[1] = 127;
            header[2..].copy_from_slice(&(len as u64).to_be_bytes());
        }
    }
    (header, used)
}

/// Bytes of the header of a server frame with `len` bytes of payload.
#[inline]
pub fn server_header_len(len: usize) -> usize {
    match len {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => SERVER_HEADER_BYTES_MAX,
    }
}

/// A whole server frame, in one allocation of exact size.
pub fn server_frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    frame_of(opcode, false, payload)
}

/// A whole server frame whose payload is compressed (RSV1).
pub(crate) fn compressed_frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    frame_of(opcode, true, payload)
}

fn frame_of(opcode: Opcode, rsv1: bool, payload: &[u8]) -> Bytes {
    debug_assert!(!opcode.is_control() || payload.len() <= CONTROL_BYTES_MAX);
    let (header, used) = server_header(opcode, true, rsv1, payload.len());
    let mut frame = Vec::with_capacity(used + payload.len());
    frame.extend_from_slice(&header[..used]);
    frame.extend_from_slice(payload);
    frame.into()
}

/// A whole server frame whose payload `build` appends to a buffer with room for the header in front and for `capacity` bytes (an
/// estimate; exact is best): no second copy, unless the estimate was too small for the header.
pub fn server_frame_with(opcode: Opcode, capacity: usize, build: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let reserved = server_header_len(capacity);
    let mut frame = Vec::with_capacity(reserved + capacity);
    frame.extend_from_slice(&[0; SERVER_HEADER_BYTES_MAX][..reserved]);
    build(&mut frame);
    assert!(frame.len() >= reserved, "build only appends");
    let len = frame.len() - reserved;
    let (header, used) = server_header(opcode, true, false, len);
    if used <= reserved {
        let start = reserved - used;
        frame[start..reserved].copy_from_slice(&header[..used]);
        let frame = Bytes::from(frame);
        if start == 0 { frame } else { frame.slice(start..) }
    } else {
        frame.splice(..reserved, header[..used].iter().copied());
        frame.into()
    }
}

/// The payload of a frame that this module made: a slice, no copy.
pub fn server_frame_payload(frame: &Bytes) -> Bytes {
    let header = match frame.get(1) {
        Some(127) => SERVER_HEADER_BYTES_MAX,
        Some(126) => 4,
        _ => 2,
    };
    frame.slice(header.min(frame.len())..)
}

/// A close frame. The reason is cut to 123 bytes, at a character's boundary.
pub fn close_frame(code: u16, reason: &str) -> Bytes {
    let cut =
        (0..=reason.len().min(CONTROL_BYTES_MAX - 2)).rev().find(|&end| reason.is_char_boundary(end)).unwrap_or(0);
    let reason = &reason[..cut];
    let mut payload = [0; CONTROL_BYTES_MAX];
    payload[..2].copy_from_slice(&code.to_be_bytes());
    payload[2..2 + reason.len()].copy_from_slice(reason.as_bytes());
    server_frame(Opcode::Close, &payload[..2 + reason.len()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;
    use tungstenite::protocol::frame::FrameHeader;
    use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

    const ALL: [(Opcode, OpCode); 6] = [
        (Opcode::Continuation, OpCode::Data(Data::Continue)),
        (Opcode::Text, OpCode::Data(Data::Text)),
        (Opcode::Binary, OpCode::Data(Data::Binary)),
        (Opcode::Close, OpCode::Control(Control::Close)),
        (Opcode::Ping, OpCode::Control(Control::Ping)),
        (Opcode::Pong, OpCode::Control(Control::Pong)),
    ];
    const LENGTHS: [usize; 10] = [0, 1, 124, 125, 126, 127, 0xffff, 0x1_0000, 0x1_0001, 1 << 24];

    #[test]
    fn server_headers_are_what_tungstenite_writes() {
        for (opcode, oracle) in ALL {
            for len in LENGTHS {
                for (fin, rsv1) in [(false, false), (false, true), (true, false), (true, true)] {
                    let expect = FrameHeader { is_final: fin, rsv1, opcode: oracle, ..FrameHeader::default() };
                    let mut bytes = Vec::new();
                    expect.format(len as u64, &mut bytes).unwrap();
                    let (header, used) = server_header(opcode, fin, rsv1, len);
                    assert_eq!(header[..used], bytes, "{opcode:?} {len}");
                    assert_eq!(used, server_header_len(len));
                }
            }
        }
    }

    #[test]
    fn client_headers_are_what_tungstenite_writes() {
        for (opcode, oracle) in ALL {
            for len in LENGTHS.into_iter().filter(|&len| !opcode.is_control() || len <= CONTROL_BYTES_MAX) {
                for fin in [true, opcode.is_control()] {
                    let mask = Some([1, 2, 3, 4]);
                    let header = FrameHeader { is_final: fin, opcode: oracle, mask, ..FrameHeader::default() };
                    let mut bytes = Vec::new();
                    header.format(len as u64, &mut bytes).unwrap();
                    let (size, len) = (bytes.len(), len as u64);
                    bytes.push(0xaa);
                    let expect = ClientHeader { opcode, fin, rsv1: false, key: [1, 2, 3, 4], len, size };
                    assert_eq!(client_header(&bytes), Ok(Some(expect)));
                    assert!((0..size).all(|end| client_header(&bytes[..end]) == Ok(None)), "{expect:?}");
                }
            }
        }
    }

    proptest! {
        /// What is accepted, tungstenite reads the same way; what it refuses, is refused.
        #[test]
        fn agrees_with_tungstenite_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..16)) {
            let mut cursor = Cursor::new(&bytes[..]);
            match (client_header(&bytes), FrameHeader::parse(&mut cursor)) {
                (Ok(Some(ours)), Ok(Some((theirs, len)))) => {
                    prop_assert_eq!(ours.len, len);
                    prop_assert_eq!(ours.size as u64, cursor.position());
                    prop_assert_eq!(Some(ours.key), theirs.mask);
                    prop_assert_eq!((ours.fin, ours.rsv1), (theirs.is_final, theirs.rsv1));
                    prop_assert!(ALL.contains(&(ours.opcode, theirs.opcode)));
                    prop_assert!(!theirs.rsv2 && !theirs.rsv3);
                }
                (Ok(None), Ok(None)) | (Err(_), _) => {}
                (ours, theirs) => prop_assert!(false, "{ours:?} but {theirs:?}"),
            }
        }

    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_frame_gives_its_payload_back(payload in prop::collection::vec(any::<u8>(), 0..70_000), estimate in 0..70_000usize) {
            let frame = server_frame(Opcode::Binary, &payload);
            prop_assert_eq!(frame.len(), server_header_len(payload.len()) + payload.len());
            prop_assert_eq!(server_frame_payload(&frame), &payload);
            let built = server_frame_with(Opcode::Binary, estimate, |out| out.extend_from_slice(&payload));
            prop_assert_eq!(frame, built);
        }
    }

    #[test]
    fn bad_headers_fail_as_soon_as_they_show() {
        // (bytes, how many of them are needed to see it)
        let table: [(&[u8], usize); 15] = [
            (b"\xa1\x80", 1),
            (b"\x91\x80", 1),
            (b"\x83\x80", 1),
            (b"\x87\x80", 1),
            (b"\x8b\x80", 1),
            (b"\x8f\x80", 1),
            (b"\x09\x80", 1),
            (b"\xc9\x80", 1),
            (b"\xc0\x80", 1),
            (b"\x81\x00", 2),
            (b"\x89\xfe\x00\x7e", 2),
            (b"\x88\xff", 2),
            (b"\x82\xfe\x00\x7d", 4),
            (b"\x82\xff\x00\x00\x00\x00\x00\x00\xff\xff", 10),
            (b"\x82\xff\x80\x00\x00\x00\x00\x01\x00\x00", 10),
        ];
        for (bytes, needed) in table {
            assert_eq!(client_header(&bytes[..needed - 1]), Ok(None), "{bytes:x?}");
            let failure = client_header(&bytes[..needed]).expect_err(&format!("{bytes:x?}"));
            assert_eq!(failure.reason, crate::error::CloseReason::ProtocolError);
        }
    }

    #[test]
    fn close_frames_cut_the_reason_at_a_character() {
        assert_eq!(close_frame(1000, ""), &b"\x88\x02\x03\xe8"[..]);
        assert_eq!(close_frame(4110, "slow"), &b"\x88\x06\x10\x0eslow"[..]);
        for (reason, kept) in [
            ("a".repeat(123), 123),
            ("a".repeat(124), 123),
            ("\u{20ac}".repeat(50), 123),
            ("a\u{20ac}".repeat(50), 120 + 1),
        ] {
            let frame = close_frame(1011, &reason);
            assert_eq!(frame.len(), 4 + kept);
            assert_eq!(&frame[4..], &reason.as_bytes()[..kept]);
        }
    }
}
