//! Networks of addresses, such as those of trusted proxies.
//!
//! Invariant: a network that was read has no more leading bits than its addresses, and is IPv4 if it can be.

use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;

/// A network of addresses, such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Any address of it.
    pub address: IpAddr,
    /// Leading bits that all its addresses share.
    pub prefix: u8,
}

/// The text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a network is an IP address or a block such as 10.0.0.0/8 or fd00::/8")]
pub struct ParseNetworkError;

impl FromStr for Network {
    type Err = ParseNetworkError;

    /// Reads an address and a number of bits. Without the number, the network is the address alone.
    fn from_str(text: &str) -> Result<Self, ParseNetworkError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let written: IpAddr = address.parse().map_err(|_| ParseNetworkError)?;
        let bits = |address: IpAddr| if address.is_ipv4() { 32 } else { 128_u8 };
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = match prefix {
            None => bits(written),
            Some(text) if digits(text) => text.parse().map_err(|_| ParseNetworkError)?,
            Some(_) => return Err(ParseNetworkError),
        };
        if prefix > bits(written) {
            return Err(ParseNetworkError);
        }
        let address = written.to_canonical();
        // An IPv4 address written as IPv6 has 96 bits before its own.
        let surplus = bits(written).saturating_sub(bits(address));
        let prefix = prefix.checked_sub(surplus).ok_or(ParseNetworkError)?;
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Network {
    /// Whether an address is in the network; an IPv4 address written as IPv6 counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address.to_canonical(), address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let shift = 32_u32.saturating_sub(self.prefix.into());
                own.to_bits().checked_shr(shift).unwrap_or(0)
                    == other.to_bits().checked_shr(shift).unwrap_or(0)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let shift = 128_u32.saturating_sub(self.prefix.into());
                own.to_bits().checked_shr(shift).unwrap_or(0)
                    == other.to_bits().checked_shr(shift).unwrap_or(0)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// Whether two networks have the same addresses.
    pub(crate) fn is_same(&self, other: Self) -> bool {
        self.prefix == other.prefix && self.contains(other.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Result<Network, ParseNetworkError> {
        text.parse()
    }

    #[test]
    fn a_network_has_the_addresses_of_its_block() {
        for (block, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.9.9.9/8", "10.0.0.1", true),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "fd00::1", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("::ffff:10.0.0.0/104", "10.1.1.1", true),
            ("::ffff:10.0.0.0/104", "11.1.1.1", false),
            ("fd00::/8", "fdff::", true),
            ("fd00::/8", "fe00::", false),
        ] {
            let network = network(block).unwrap();
            assert_eq!(
                network.contains(address.parse().unwrap()),
                inside,
                "{block} {address}"
            );
            assert_eq!(network.to_string().parse(), Ok(network));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0/8",
            "10.0.0.0/+8",
            "all",
            "::ffff:0.0.0.0/95",
            "a/8",
        ] {
            assert_eq!(network(text), Err(ParseNetworkError), "{text}");
        }
    }
}
