//! The header that a proxy in front puts before everything else to say who the client is: PROXY protocol, versions 1 and 2, as
//! `proxy-protocol.txt` of HAProxy has it (revision 2020/03/05).
//!
//! Pure and bounded. Whether a sender is believed at all is for the caller to decide.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::limits::PROXY_HEADER_BYTES_MAX;

/// What the first bytes of version 2 are (section 2.2).
const SIGNATURE_V2: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, length.
const FIXED_BYTES_V2: usize = 16;
/// What the first bytes of version 1 are (section 2.1).
const SIGNATURE_V1: &[u8] = b"PROXY ";
/// The longest line of version 1, its CR LF included.
const LINE_BYTES_MAX_V1: usize = 107;

/// What has arrived of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// Not all of it, and nothing wrong so far.
    Incomplete,
    /// All of it.
    Complete {
        /// The client. `None` where the proxy speaks for itself (`LOCAL`, as in health checks) or does not know (`UNKNOWN`, or a family that is
        /// not TCP): then the address is the socket's.
        client: Option<SocketAddr>,
        /// Bytes of the header; what follows is the client's.
        len: usize,
    },
}

/// This is not a header, or one that must not be accepted: what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotProxied(pub &'static str);

/// Reads the header at the front of `bytes`, which are all that have arrived so far.
///
/// # Errors
///
/// As soon as it is certain that no valid header of at most [`PROXY_HEADER_BYTES_MAX`] bytes is coming.
pub fn parse(bytes: &[u8]) -> Result<ProxyHeader, NotProxied> {
    let begins_as = |signature: &[u8]| bytes.iter().zip(signature).all(|(a, b)| a == b);
    if begins_as(&SIGNATURE_V2) {
        parse_v2(bytes)
    } else if begins_as(SIGNATURE_V1) {
        parse_v1(bytes)
    } else {
        Err(NotProxied("a PROXY protocol header must come first"))
    }
}

/// Reads the client out of the address block of version 2.
type AddressOf = fn(&[u8]) -> Option<SocketAddr>;

fn parse_v2(bytes: &[u8]) -> Result<ProxyHeader, NotProxied> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_BYTES_V2>() else {
        return match bytes.get(SIGNATURE_V2.len()) {
            Some(byte) if byte >> 4 != 2 => Err(NotProxied("the PROXY protocol header has an unknown version")),
            _ => Ok(ProxyHeader::Incomplete),
        };
    };
    let [.., version_command, family_protocol, high, low] = *fixed;
    let len = usize::from(u16::from_be_bytes([high, low]));
    let local = match version_command {
        0x20 => true,
        0x21 => false,
        byte if byte >> 4 != 2 => return Err(NotProxied("the PROXY protocol header has an unknown version")),
        _ => return Err(NotProxied("the PROXY protocol header has an unknown command")),
    };
    if family_protocol >> 4 > 3 || family_protocol & 0x0f > 2 {
        return Err(NotProxied("the PROXY protocol header has an unknown address family or protocol"));
    }
    if FIXED_BYTES_V2 + len > PROXY_HEADER_BYTES_MAX {
        return Err(NotProxied("the PROXY protocol header is too long"));
    }
    // Source address, destination address, source port, destination port; what follows are TLVs.
    let (address_bytes, address_of): (usize, AddressOf) = match family_protocol {
        _ if local => (0, |_| None),
        0x11 => (12, |block| {
            let ip = Ipv4Addr::from(*block.first_chunk::<4>()?);
            Some(SocketAddr::new(IpAddr::V4(ip), port(block, 8)?))
        }),
        0x21 => (36, |block| {
            let ip = Ipv6Addr::from(*block.first_chunk::<16>()?).to_canonical();
            Some(SocketAddr::new(ip, port(block, 32)?))
        }),
        // AF_UNSPEC, datagrams and UNIX sockets say nothing about a TCP client.
        _ => (0, |_| None),
    };
    if len < address_bytes {
        return Err(NotProxied("the PROXY protocol header is too short for its addresses"));
    }
    match rest.get(..len) {
        Some(block) => Ok(ProxyHeader::Complete { client: address_of(block), len: FIXED_BYTES_V2 + len }),
        None => Ok(ProxyHeader::Incomplete),
    }
}

fn port(block: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*block.get(at..)?.first_chunk::<2>()?))
}

fn parse_v1(bytes: &[u8]) -> Result<ProxyHeader, NotProxied> {
    const MALFORMED: NotProxied = NotProxied("the PROXY protocol line is malformed");
    let window = &bytes[..bytes.len().min(LINE_BYTES_MAX_V1)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        return if window.len() == LINE_BYTES_MAX_V1 { Err(MALFORMED) } else { Ok(ProxyHeader::Incomplete) };
    };
    let line = window[..end].strip_suffix(b"\r").ok_or(MALFORMED)?;
    let line = std::str::from_utf8(line).map_err(|_| MALFORMED)?;
    let mut words = line.split(' ').skip(1);
    let client = match words.next() {
        // Whatever else the line says is to be ignored.
        Some("UNKNOWN") => None,
        Some(family @ ("TCP4" | "TCP6")) => {
            let mut word = || words.next().ok_or(MALFORMED);
            let (source, destination, source_port, destination_port) = (word()?, word()?, word()?, word()?);
            let ip = |text: &str| match family {
                "TCP4" => text.parse().map(IpAddr::V4).map_err(|_| MALFORMED),
                _ => text.parse::<Ipv6Addr>().map(|ip| ip.to_canonical()).map_err(|_| MALFORMED),
            };
            let client = SocketAddr::new(ip(source)?, port_v1(source_port).ok_or(MALFORMED)?);
            ip(destination)?;
            port_v1(destination_port).ok_or(MALFORMED)?;
            if words.next().is_some() {
                return Err(MALFORMED);
            }
            Some(client)
        }
        _ => return Err(MALFORMED),
    };
    Ok(ProxyHeader::Complete { client, len: end + 1 })
}

/// A decimal number without sign or leading zeros.
fn port_v1(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn complete(client: Option<&str>, len: usize) -> Result<ProxyHeader, NotProxied> {
        Ok(ProxyHeader::Complete { client: client.map(|c| c.parse().unwrap()), len })
    }

    fn v2(version_command: u8, family_protocol: u8, block: &[u8]) -> Vec<u8> {
        let len = (block.len() as u16).to_be_bytes();
        [&SIGNATURE_V2[..], &[version_command, family_protocol], &len, block].concat()
    }

    const BLOCK_V4: [u8; 12] = [203, 0, 113, 7, 10, 0, 0, 1, 0xc3, 0x50, 0x1f, 0x90];

    fn block_v6(source: &str) -> Vec<u8> {
        let source: Ipv6Addr = source.parse().unwrap();
        [&source.octets()[..], &Ipv6Addr::LOCALHOST.octets(), &[0xc3, 0x50, 0x1f, 0x90]].concat()
    }

    #[test]
    fn version_1() {
        let table: [(&str, Result<Option<&str>, ()>); 24] = [
            ("PROXY TCP4 203.0.113.7 10.0.0.1 50000 8080\r\n", Ok(Some("203.0.113.7:50000"))),
            ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", Ok(Some("255.255.255.255:65535"))),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 0 0\r\n", Ok(Some("1.2.3.4:0"))),
            ("PROXY TCP6 2001:db8::7 ::1 50000 8080\r\n", Ok(Some("[2001:db8::7]:50000"))),
            ("PROXY TCP6 ::ffff:203.0.113.7 ::1 50000 8080\r\n", Ok(Some("203.0.113.7:50000"))),
            ("PROXY UNKNOWN\r\n", Ok(None)),
            ("PROXY UNKNOWN ff:: ff:: 1 what ever\r\n", Ok(None)),
            (
                "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
                Ok(None),
            ),
            ("PROXY TCP4 203.0.113.7 10.0.0.1 50000 8080\n", Err(())),
            ("PROXY TCP4 203.0.113.7 10.0.0.1 50000\r\n", Err(())),
            ("PROXY TCP4 203.0.113.7 10.0.0.1 50000 8080 1\r\n", Err(())),
            ("PROXY TCP4  203.0.113.7 10.0.0.1 50000 8080\r\n", Err(())),
            ("PROXY TCP4 203.0.113.7 10.0.0.1 50000 8080 \r\n", Err(())),
            ("PROXY TCP4 203.0.113.7 10.0.0.1 +5000 8080\r\n", Err(())),
            ("PROXY TCP4 203.0.113.7 10.0.0.1 050 8080\r\n", Err(())),
            ("PROXY TCP4 203.0.113.7 10.0.0.1 65536 8080\r\n", Err(())),
            ("PROXY TCP4 203.0.113.7 10.0.0.1 50000 x\r\n", Err(())),
            ("PROXY TCP4 203.0.113.007 10.0.0.1 50000 8080\r\n", Err(())),
            ("PROXY TCP4 2001:db8::7 ::1 50000 8080\r\n", Err(())),
            ("PROXY TCP6 203.0.113.7 10.0.0.1 50000 8080\r\n", Err(())),
            ("PROXY TCP6 2001:db8::7 nowhere 50000 8080\r\n", Err(())),
            ("PROXY UDP4 203.0.113.7 10.0.0.1 50000 8080\r\n", Err(())),
            ("PROXY \r\n", Err(())),
            ("PROXY tcp4 203.0.113.7 10.0.0.1 50000 8080\r\n", Err(())),
        ];
        for (line, expect) in table {
            let expect = match expect {
                Ok(client) => complete(client, line.len()),
                Err(()) => Err(NotProxied("the PROXY protocol line is malformed")),
            };
            assert_eq!(parse(line.as_bytes()), expect, "{line:?}");
        }
        assert!(parse(&[b"PROXY UNKNOWN ", &[b'x'; 100][..]].concat()).is_err(), "a line without end");
        assert!(parse(b"PROXY TCP4 \xff\xff\r\n").is_err(), "not text");
    }

    #[test]
    fn version_2() {
        let v6 = block_v6("2001:db8::7");
        let with_tlvs = [&BLOCK_V4[..], &[0x04, 0, 3, 0, 0, 0], &[0xe0, 0, 1, 9]].concat();
        type Row = (&'static str, Vec<u8>, Option<Option<&'static str>>);
        let table: [Row; 18] = [
            ("TCP over IPv4", v2(0x21, 0x11, &BLOCK_V4), Some(Some("203.0.113.7:50000"))),
            ("TCP over IPv6", v2(0x21, 0x21, &v6), Some(Some("[2001:db8::7]:50000"))),
            ("mapped", v2(0x21, 0x21, &block_v6("::ffff:203.0.113.7")), Some(Some("203.0.113.7:50000"))),
            ("TLVs are skipped", v2(0x21, 0x11, &with_tlvs), Some(Some("203.0.113.7:50000"))),
            ("LOCAL", v2(0x20, 0x00, &[]), Some(None)),
            ("LOCAL with addresses, which do not count", v2(0x20, 0x11, &BLOCK_V4), Some(None)),
            ("LOCAL, too short for its family", v2(0x20, 0x11, &[1, 2]), Some(None)),
            ("AF_UNSPEC", v2(0x21, 0x00, &[]), Some(None)),
            ("AF_UNSPEC with something", v2(0x21, 0x00, &[1, 2, 3]), Some(None)),
            ("datagrams", v2(0x21, 0x12, &BLOCK_V4), Some(None)),
            ("a UNIX socket", v2(0x21, 0x31, &[0; 216]), Some(None)),
            ("version 1 in binary", v2(0x11, 0x11, &BLOCK_V4), None),
            ("version 3", v2(0x31, 0x11, &BLOCK_V4), None),
            ("an unknown command", v2(0x22, 0x11, &BLOCK_V4), None),
            ("an unknown family", v2(0x21, 0x41, &BLOCK_V4), None),
            ("an unknown protocol", v2(0x21, 0x13, &BLOCK_V4), None),
            ("too short for IPv4", v2(0x21, 0x11, &BLOCK_V4[..11]), None),
            ("too short for IPv6", v2(0x21, 0x21, &v6[..35]), None),
        ];
        for (name, header, expect) in table {
            match expect {
                Some(client) => assert_eq!(parse(&header), complete(client, header.len()), "{name}"),
                None => assert!(parse(&header).is_err(), "{name}"),
            }
        }
        let longest = vec![0; PROXY_HEADER_BYTES_MAX - FIXED_BYTES_V2];
        assert_eq!(parse(&v2(0x21, 0, &longest)), complete(None, PROXY_HEADER_BYTES_MAX));
        let too_long = vec![0; PROXY_HEADER_BYTES_MAX - FIXED_BYTES_V2 + 1];
        assert!(parse(&v2(0x21, 0, &too_long)[..FIXED_BYTES_V2]).is_err(), "known from its length already");
        assert!(parse(&v2(0x31, 0, &[])[..13]).is_err(), "known from its version already");
    }

    #[test]
    fn what_is_not_a_header_is_known_at_its_first_byte_that_differs() {
        for (bytes, len) in
            [(&b"GET / HTTP/1.1\r\n"[..], 1), (b"PROXX", 5), (b"\x16\x03\x01", 1), (b"\r\n\r\nGET", 5), (b"PROXY\r", 6)]
        {
            for cut in 0..=bytes.len() {
                assert_eq!(parse(&bytes[..cut]).is_err(), cut >= len, "{:?}", &bytes[..cut]);
            }
        }
    }

    proptest! {
        /// At every split point: incomplete before the end, and what follows does not matter.
        #[test]
        fn a_header_is_complete_at_its_end_and_not_before(
            ip: IpAddr, port: u16, binary: bool, tlvs in proptest::collection::vec(any::<u8>(), 0..64), tail: Vec<u8>,
        ) {
            let header = match (binary, ip) {
                (false, IpAddr::V4(ip)) => format!("PROXY TCP4 {ip} 10.0.0.1 {port} 80\r\n").into_bytes(),
                (false, IpAddr::V6(ip)) => format!("PROXY TCP6 {ip} ::1 {port} 80\r\n").into_bytes(),
                (true, IpAddr::V4(ip)) => {
                    v2(0x21, 0x11, &[&ip.octets()[..], &[10, 0, 0, 1], &port.to_be_bytes(), &[0, 80], &tlvs].concat())
                }
                (true, IpAddr::V6(ip)) => {
                    v2(0x21, 0x21, &[&ip.octets()[..], &[0; 16], &port.to_be_bytes(), &[0, 80], &tlvs].concat())
                }
            };
            let whole = [&header[..], &tail].concat();
            for cut in 0..header.len() {
                prop_assert_eq!(parse(&whole[..cut]), Ok(ProxyHeader::Incomplete));
            }
            let client = Some(SocketAddr::new(ip.to_canonical(), port));
            prop_assert_eq!(parse(&whole), Ok(ProxyHeader::Complete { client, len: header.len() }));
        }

        /// Whatever comes: no panic, no header longer than what is there or than the bound, and an error stays one.
        #[test]
        fn any_bytes(start in 0usize..3, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = [[&b""[..], SIGNATURE_V1, &SIGNATURE_V2][start], &bytes].concat();
            let mut failed = false;
            for cut in 0..=bytes.len() {
                match parse(&bytes[..cut]) {
                    Ok(ProxyHeader::Complete { len, .. }) => {
                        prop_assert!(!failed && len <= cut && len <= PROXY_HEADER_BYTES_MAX);
                    }
                    Ok(ProxyHeader::Incomplete) => prop_assert!(!failed),
                    Err(_) => failed = true,
                }
            }
        }
    }
}
