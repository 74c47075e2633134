//! Networks, as `trusted_proxies` lists them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A network: an address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address.
    pub address: IpAddr,
    /// Leading bits that count.
    pub prefix_len: u8,
}

impl Cidr {
    /// Whether `ip` is in this network. An IPv4 address counts as itself also where a dual-stack socket shows it as `::ffff:a.b.c.d`.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address.to_canonical(), ip.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.v4_prefix_len())).unwrap_or(0);
                (network.to_bits() ^ ip.to_bits()) & mask == 0
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix_len.min(128))).unwrap_or(0);
                (network.to_bits() ^ ip.to_bits()) & mask == 0
            }
            _ => false,
        }
    }

    /// The prefix length in IPv4 bits; a network written as `::ffff:10.0.0.0/104` is `10.0.0.0/8`.
    fn v4_prefix_len(&self) -> u8 {
        match self.address {
            IpAddr::V4(_) => self.prefix_len.min(32),
            IpAddr::V6(_) => self.prefix_len.saturating_sub(96).min(32),
        }
    }
}

/// Not a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a network such as \"10.0.0.0/8\", \"fd00::/8\" or a single address")]
pub struct CidrError;

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, prefix_len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| CidrError)?;
        let max = if address.is_ipv4() { 32 } else { 128 };
        let prefix_len = match prefix_len {
            None => max,
            Some(len) if len.bytes().all(|b| b.is_ascii_digit()) => len.parse().map_err(|_| CidrError)?,
            Some(_) => return Err(CidrError),
        };
        // `::ffff:10.0.0.0/8` would mean almost all of IPv6 and is not what anybody means.
        let mapped_too_wide = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) && prefix_len < 96;
        if prefix_len > max || mapped_too_wide { Err(CidrError) } else { Ok(Cidr { address, prefix_len }) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contains() {
        let table = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.1.2.3/8", "10.9.9.9", true),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "::1", true),
            ("::/0", "10.0.0.1", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1/32", "10.0.0.2", false),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe80::1", false),
            ("2001:db8::1", "2001:db8::1", true),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "::ffff:11.1.2.3", false),
            ("::ffff:10.0.0.0/104", "10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "11.1.2.3", false),
        ];
        for (network, ip, expect) in table {
            let network: Cidr = network.parse().unwrap();
            assert_eq!(network.contains(ip.parse().unwrap()), expect, "{network} {ip}");
            assert_eq!(network.to_string().parse(), Ok(network));
        }
    }

    #[test]
    fn refused() {
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "::/129",
            "10.0.0/8",
            "host/8",
            "::ffff:10.0.0.0/8",
        ] {
            assert_eq!(text.parse::<Cidr>(), Err(CidrError), "{text}");
        }
    }
}
