//! What a service answers, read from bytes as they come, under bounds of our own.

use std::io;

/// Bytes of an answer's head, and of the trailers behind its chunks.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Bytes of the line before a chunk.
const LINE_BYTES_MAX: usize = 1024;

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// `None`: longer than what was to be kept.
    pub(super) body: Option<Vec<u8>>,
    /// Whether the connection can be used again.
    pub(super) reusable: bool,
}

/// Reads one [`Reply`].
#[derive(Debug)]
pub(super) struct Reader {
    body_bytes_max: usize,
    /// What has come and is not taken apart yet: from `at`.
    bytes: Vec<u8>,
    at: usize,
    head: Option<Head>,
    chunk: Chunk,
    body: Vec<u8>,
    trailer_bytes: usize,
}

/// Where in chunks it is.
#[derive(Debug)]
enum Chunk {
    Size,
    Data(usize),
    DataEnd,
    Trailers,
}

impl Reader {
    /// Bodies up to that length are kept.
    pub(super) fn new(body_bytes_max: usize) -> Self {
        Reader {
            body_bytes_max,
            bytes: Vec::new(),
            at: 0,
            head: None,
            chunk: Chunk::Size,
            body: Vec::new(),
            trailer_bytes: 0,
        }
    }

    /// Whether nothing has come yet.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.head.is_none()
    }

    /// Takes what came; the answer, once all of it has.
    pub(super) fn take(&mut self, more: &[u8]) -> io::Result<Option<Reply>> {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(more);
        loop {
            let Some(head) = &self.head else {
                match head(&self.bytes)? {
                    Some(head) => {
                        self.at = head.len;
                        self.bytes.drain(..self.at);
                        self.at = 0;
                        // What is said on the way is no answer.
                        self.head = Some(head).filter(|head| !(100..200).contains(&head.status));
                        continue;
                    }
                    None if self.bytes.len() >= HEAD_BYTES_MAX => {
                        return Err(bad("the head of the answer is too long"));
                    }
                    None => return Ok(None),
                }
            };
            let (status, close) = (head.status, head.close);
            return match head.body {
                Body::Length(len) if len > self.body_bytes_max => Ok(Some(too_long(status))),
                Body::Length(len) if self.bytes.len() < len => Ok(None),
                Body::Length(len) => {
                    let reusable = !close && self.bytes.len() == len;
                    self.bytes.truncate(len);
                    Ok(Some(Reply { status, body: Some(std::mem::take(&mut self.bytes)), reusable }))
                }
                Body::UntilEnd if self.bytes.len() > self.body_bytes_max => Ok(Some(too_long(status))),
                Body::UntilEnd => Ok(None),
                Body::Chunked => {
                    let all = self.chunks()?;
                    if self.body.len() > self.body_bytes_max {
                        return Ok(Some(too_long(status)));
                    }
                    let reusable = !close && self.at == self.bytes.len();
                    Ok(all.then(|| Reply { status, body: Some(std::mem::take(&mut self.body)), reusable }))
                }
            };
        }
    }

    /// The stream has ended.
    pub(super) fn end(mut self) -> io::Result<Reply> {
        match self.head.take() {
            Some(Head { status, body: Body::UntilEnd, .. }) => {
                Ok(Reply { status, body: Some(self.bytes), reusable: false })
            }
            None if self.bytes.is_empty() => Err(io::ErrorKind::ConnectionReset.into()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Takes chunks apart (RFC 9112, section 7.1); whether the last one is there.
    fn chunks(&mut self) -> io::Result<bool> {
        while self.body.len() <= self.body_bytes_max {
            match self.chunk {
                Chunk::Size => {
                    let Some(line) = self.line()? else { return Ok(false) };
                    let size = line.split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
                    let size =
                        std::str::from_utf8(size).ok().filter(|size| size.bytes().all(|b| b.is_ascii_hexdigit()));
                    let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
                    self.chunk = match size {
                        Some(0) => Chunk::Trailers,
                        Some(size) => Chunk::Data(size),
                        None => return Err(bad("a chunk of the answer has no length")),
                    };
                }
                Chunk::Data(left) => {
                    let some = &self.bytes[self.at..];
                    let some = &some[..some.len().min(left)];
                    self.body.extend_from_slice(some);
                    self.at += some.len();
                    match left - some.len() {
                        0 => self.chunk = Chunk::DataEnd,
                        left => {
                            self.chunk = Chunk::Data(left);
                            return Ok(false);
                        }
                    }
                }
                Chunk::DataEnd => match self.line()? {
                    None => return Ok(false),
                    Some([]) => self.chunk = Chunk::Size,
                    Some(_) => return Err(bad("a chunk of the answer is longer than it says")),
                },
                Chunk::Trailers => {
                    let Some(len) = self.line()?.map(<[u8]>::len) else { return Ok(false) };
                    self.trailer_bytes += len;
                    if len == 0 {
                        return Ok(true);
                    }
                    if self.trailer_bytes > HEAD_BYTES_MAX {
                        return Err(bad("the trailers of the answer are too long"));
                    }
                }
            }
        }
        Ok(false)
    }

    /// The next line, without its end.
    fn line(&mut self) -> io::Result<Option<&[u8]>> {
        let rest = &self.bytes[self.at..];
        let Some(len) = memchr::memchr(b'\n', rest) else {
            return if rest.len() > LINE_BYTES_MAX { Err(bad("a line of the answer is too long")) } else { Ok(None) };
        };
        self.at += len + 1;
        let line = &rest[..len];
        Ok(Some(line.strip_suffix(b"\r").unwrap_or(line)))
    }
}

fn bad(what: &'static str) -> io::Error {
    io::Error::other(what)
}

fn too_long(status: u16) -> Reply {
    Reply { status, body: None, reusable: false }
}

/// The head of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    len: usize,
    body: Body,
    close: bool,
}

/// How long its body is.
#[derive(Debug, PartialEq, Eq)]
enum Body {
    Length(usize),
    Chunked,
    UntilEnd,
}

fn head(bytes: &[u8]) -> io::Result<Option<Head>> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut fields);
    let len = match response.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(io::Error::other(format!("the answer is no HTTP: {error}"))),
    };
    let field = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let status = response.code.unwrap_or(0);
    let (coding, length) = (field("transfer-encoding"), field("content-length"));
    let body = match (status, coding, length) {
        (100..=199 | 204 | 304, ..) => Body::Length(0),
        (_, Some(coding), _) if coding.to_ascii_lowercase().ends_with("chunked") => Body::Chunked,
        (_, None, Some(length)) => length.parse().map_or(Body::UntilEnd, Body::Length),
        _ => Body::UntilEnd,
    };
    // Some send a body where there can be none: it would be taken for the beginning of the next answer.
    let bodiless = matches!(status, 204 | 304) && (coding.is_some() || length.is_some_and(|length| length != "0"));
    let told = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let close = response.version == Some(0) || told || bodiless || coding.is_some() && length.is_some();
    Ok(Some(Head { status, len, body, close }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, body: &str, reusable: bool) -> Option<Reply> {
        Some(Reply { status, body: Some(body.into()), reusable })
    }

    /// Reads a whole answer, cut in two at every place.
    fn read(text: &str, ended: bool) -> io::Result<Option<Reply>> {
        let one = |cut: usize| {
            let mut reader = Reader::new(20);
            for part in [&text[..cut], &text[cut..]] {
                if let Some(reply) = reader.take(part.as_bytes())? {
                    return Ok(Some(reply));
                }
            }
            if ended { reader.end().map(Some) } else { Ok(None) }
        };
        let whole = one(0);
        for cut in 1..text.len() {
            let parts = one(cut);
            assert_eq!(parts.as_ref().ok(), whole.as_ref().ok(), "{text:?} cut at {cut}");
        }
        whole
    }

    #[test]
    fn answers_of_every_length() {
        let table = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", reply(200, "hello", true)),
            ("HTTP/1.1 204 No Content\r\n\r\n", reply(204, "", true)),
            ("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", reply(204, "", true)),
            ("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", reply(204, "", false)),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Busy\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n",
                reply(503, "", false),
            ),
            ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", reply(200, "{}", false)),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n02\r\nlo\r\n0\r\nX: y\r\n\r\n",
                reply(200, "hello", true),
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n0\r\n\r\n",
                reply(200, "", false),
            ),
        ];
        for (text, expected) in table {
            assert_eq!(read(text, false).unwrap(), expected, "{text:?}");
        }
        assert_eq!(read("HTTP/1.1 200 OK\r\n\r\nto the end", true).unwrap(), reply(200, "to the end", false));
        for unfinished in ["HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", ""] {
            assert_eq!(read(unfinished, false).unwrap(), None, "{unfinished:?}");
            assert!(read(unfinished, true).is_err(), "{unfinished:?}");
        }
    }

    #[test]
    fn what_is_too_long_is_not_kept() {
        let long = "x".repeat(21);
        for text in [
            format!("HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n{long}"),
            format!("HTTP/1.1 200 OK\r\n\r\n{long}"),
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n15\r\n{long}\r\n0\r\n\r\n"),
        ] {
            let mut reader = Reader::new(20);
            assert_eq!(reader.take(text.as_bytes()).unwrap(), Some(too_long(200)), "{text:?}");
        }
        assert!(Reader::new(20).take(&b"HTTP/1.1 200 OK\r\n".repeat(2000)).is_err());
    }

    #[test]
    fn what_is_no_answer() {
        for text in [
            "SSH-2.0-x\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        ] {
            assert!(Reader::new(20).take(text.as_bytes()).is_err(), "{text:?}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}", "1".repeat(2000));
        assert!(Reader::new(20).take(endless.as_bytes()).is_err());
    }
}
