//! The decoder: bytes of a client to messages and control frames (RFC 6455, sections 5 and 6; RFC 7692, section 6).
//!
//! The common case, a whole frame inside the input that is a whole message, is unmasked where it lies and borrowed: no copy, no
//! allocation. Only what is incomplete is held, in buffers that grow as bytes really arrive; limits are decided from the header.

use crate::limits::MESSAGE_BYTES_CEILING;

use super::close;
pub use super::close::Failure;
use super::deflate::{DeflateParams, Inflater};
use super::frame::{self, CLIENT_HEADER_BYTES_MAX, ClientHeader, Opcode};
use super::mask;
use super::utf8;

/// Capacity of a message buffer that [`Decoder::reset`] keeps.
const KEPT_BYTES_MAX: usize = 4 * 1024;

/// What the decoder of a connection goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecoderConfig {
    /// Bytes of one message, all its fragments together and after inflating; 0: [`MESSAGE_BYTES_CEILING`].
    pub message_size_max: usize,
    /// Negotiated permessage-deflate.
    pub deflate: Option<DeflateParams>,
}

impl DecoderConfig {
    #[inline]
    fn size_max(&self) -> usize {
        if self.message_size_max == 0 { MESSAGE_BYTES_CEILING } else { self.message_size_max }
    }

    /// Compressed bytes that are held for one message: its limit, and what deflate may add to data that does not compress.
    #[inline]
    fn compressed_size_max(&self) -> usize {
        let max = self.size_max();
        max.saturating_add(max / 8).saturating_add(64)
    }
}

/// A whole message or a control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// A ping, to be answered with the same payload.
    Ping(&'a [u8]),
    /// A pong.
    Pong(&'a [u8]),
    /// A close frame, with its code and reason where it has them. Nothing after it is to be fed.
    Close(Option<(u16, &'a str)>),
}

/// The incremental decoder of one connection. While [`is_idle`](Decoder::is_idle) it holds nothing of that connection, and may serve
/// another one.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The beginning of a header.
    header: [u8; CLIENT_HEADER_BYTES_MAX],
    header_len: usize,
    /// The frame whose payload is arriving.
    frame: Option<Partial>,
    /// The message whose fragments are arriving, the arriving frame included.
    message: Option<Message>,
    /// The payload of that message so far: unmasked, still compressed.
    payload: Vec<u8>,
    /// Bytes of `payload` known to be UTF-8, in an uncompressed text message.
    validated: usize,
    /// The last call gave `payload` away; it is stale now.
    delivered: bool,
    /// The payload of the control frame that is arriving.
    control: Vec<u8>,
}

/// A frame whose header is complete and whose payload is not.
#[derive(Clone, Copy, Debug)]
struct Partial {
    header: ClientHeader,
    len: usize,
    received: usize,
}

/// A message that has begun.
#[derive(Clone, Copy, Debug)]
struct Message {
    text: bool,
    compressed: bool,
}

impl Decoder {
    /// Decodes the next message or control frame from `input[*pos..]` and moves `*pos` past what was used. `Ok(None)`: all of the input
    /// is used up. Payloads are unmasked in place, so bytes before `*pos` must not be fed again.
    ///
    /// # Errors
    ///
    /// The peer broke a rule; the connection must be failed and nothing more be fed.
    pub fn next<'a>(
        &'a mut self,
        config: &DecoderConfig,
        inflater: &'a mut Inflater,
        input: &'a mut [u8],
        pos: &mut usize,
    ) -> Result<Option<Incoming<'a>>, Failure> {
        if self.delivered {
            self.clear_message();
        }
        loop {
            if let Some(partial) = self.frame {
                let Some(partial) = self.receive(partial, input, pos)? else { return Ok(None) };
                if partial.header.opcode.is_control() {
                    return control(partial.header.opcode, &self.control).map(Some);
                }
                if partial.header.fin {
                    return self.finish(config, inflater).map(Some);
                }
                continue;
            }
            let Some(header) = self.next_header(input, pos)? else { return Ok(None) };
            let (len, message) = self.admit(config, &header)?;
            let whole = *pos..pos.saturating_add(len);
            if !header.opcode.is_control() && (self.message.is_some() || !header.fin) || whole.end > input.len() {
                self.message = message;
                self.frame = Some(Partial { header, len, received: 0 });
                continue;
            }
            // The whole of it is here: nothing is copied.
            *pos = whole.end;
            let payload = &mut input[whole];
            mask::unmask(payload, header.key);
            if header.opcode.is_control() {
                return control(header.opcode, payload).map(Some);
            }
            return match (header.rsv1, config.deflate) {
                (true, Some(params)) => {
                    let payload = inflater.inflate(&params, payload, config.size_max())?;
                    data(header.opcode == Opcode::Text, payload)
                }
                _ => data(header.opcode == Opcode::Text, payload),
            }
            .map(Some);
        }
    }

    /// Capacity of the buffers held, in bytes: what counts against a budget.
    pub fn held_bytes(&self) -> usize {
        self.payload.capacity() + self.control.capacity()
    }

    /// Between messages: nothing of the connection is held, so this decoder can serve another one.
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.header_len == 0 && self.frame.is_none() && self.message.is_none()
    }

    /// Forgets everything, and frees buffers that have grown.
    pub fn reset(&mut self) {
        self.clear_message();
        self.payload.shrink_to(KEPT_BYTES_MAX);
        self.header_len = 0;
        self.frame = None;
        self.message = None;
    }

    fn clear_message(&mut self) {
        self.payload.clear();
        self.validated = 0;
        self.delivered = false;
    }

    /// The next header; what is there of an incomplete one is kept.
    #[inline]
    fn next_header(&mut self, input: &[u8], pos: &mut usize) -> Result<Option<ClientHeader>, Failure> {
        let rest = input.get(*pos..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        if self.header_len == 0
            && let Some(header) = frame::client_header(rest)?
        {
            *pos += header.size;
            return Ok(Some(header));
        }
        self.next_header_in_pieces(rest, pos)
    }

    #[cold]
    fn next_header_in_pieces(&mut self, rest: &[u8], pos: &mut usize) -> Result<Option<ClientHeader>, Failure> {
        let held = self.header_len;
        let taken = rest.len().min(CLIENT_HEADER_BYTES_MAX - held);
        self.header[held..held + taken].copy_from_slice(&rest[..taken]);
        let header = frame::client_header(&self.header[..held + taken])?;
        match header {
            Some(header) => {
                self.header_len = 0;
                *pos += header.size - held;
            }
            None => {
                self.header_len = held + taken;
                *pos += taken;
            }
        }
        Ok(header)
    }

    /// Whether the frame may come now, and fits: the length of its payload, and the message in progress once it has begun.
    #[inline]
    fn admit(&self, config: &DecoderConfig, header: &ClientHeader) -> Result<(usize, Option<Message>), Failure> {
        let message = match (header.opcode, self.message) {
            (Opcode::Continuation, None) => return Err(Failure::protocol("continuation of no message")),
            (Opcode::Text | Opcode::Binary, Some(_)) => {
                return Err(Failure::protocol("new message inside another one"));
            }
            (Opcode::Text | Opcode::Binary, None) => {
                if header.rsv1 && config.deflate.is_none() {
                    return Err(Failure::protocol("RSV1 set, but no compression was negotiated"));
                }
                Message { text: header.opcode == Opcode::Text, compressed: header.rsv1 }
            }
            (Opcode::Continuation, Some(message)) => message,
            // At most 125 bytes: `client_header` has seen to it.
            (Opcode::Close | Opcode::Ping | Opcode::Pong, message) => return Ok((header.len as usize, message)),
        };
        let max = if message.compressed { config.compressed_size_max() } else { config.size_max() };
        match usize::try_from(header.len) {
            Ok(len) if len <= max.saturating_sub(self.payload.len()) => Ok((len, Some(message))),
            _ => Err(Failure::too_large()),
        }
    }

    /// Takes what has arrived of a frame's payload. Returns the frame once it is complete.
    fn receive(&mut self, mut partial: Partial, input: &mut [u8], pos: &mut usize) -> Result<Option<Partial>, Failure> {
        let rest = input.get_mut(*pos..).unwrap_or_default();
        let taken = rest.len().min(partial.len - partial.received);
        let fresh = &mut rest[..taken];
        mask::unmask_at(fresh, partial.header.key, partial.received);
        *pos += taken;
        if partial.header.opcode.is_control() {
            if partial.received == 0 {
                self.control.clear();
            }
            self.control.extend_from_slice(fresh);
        } else {
            self.payload.extend_from_slice(fresh);
            if let Some(Message { text: true, compressed: false }) = self.message {
                self.validated = utf8::advance(&self.payload, self.validated).map_err(not_utf8)?;
            }
        }
        partial.received += taken;
        let complete = partial.received == partial.len;
        self.frame = (!complete).then_some(partial);
        Ok(complete.then_some(partial))
    }

    /// The last fragment of the message in progress is complete.
    fn finish<'a>(&'a mut self, config: &DecoderConfig, inflater: &'a mut Inflater) -> Result<Incoming<'a>, Failure> {
        self.delivered = true;
        match (self.message.take(), config.deflate) {
            (Some(Message { text, compressed: true }), Some(params)) => {
                data(text, inflater.inflate(&params, &self.payload, config.size_max())?)
            }
            (message, _) => data(message.is_some_and(|m| m.text), &self.payload),
        }
    }
}

#[inline]
fn data(text: bool, payload: &[u8]) -> Result<Incoming<'_>, Failure> {
    if text { utf8::text(payload).map(Incoming::Text).map_err(not_utf8) } else { Ok(Incoming::Binary(payload)) }
}

#[inline]
fn control(opcode: Opcode, payload: &[u8]) -> Result<Incoming<'_>, Failure> {
    Ok(match opcode {
        Opcode::Ping => Incoming::Ping(payload),
        Opcode::Pong => Incoming::Pong(payload),
        _ => Incoming::Close(close::parse(payload)?),
    })
}

#[cold]
fn not_utf8(_: utf8::Invalid) -> Failure {
    Failure::invalid("text is not UTF-8")
}

#[cfg(test)]
mod tests;
