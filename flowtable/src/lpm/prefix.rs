//! Prefixes: an address and a length, without host bits.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Why something is not a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// The length is more than the address has bits.
    #[error("prefix length {len} is more than {max}")]
    TooLong {
        /// The length, in bits.
        len: u8,
        /// The bits of an address of this family.
        max: u8,
    },
    /// Bits behind the length are set.
    #[error("{given} has bits set behind its length, the prefix is {prefix}")]
    HostBits {
        /// What was given.
        given: String,
        /// The prefix that holds it.
        prefix: String,
    },
    /// Not `address/length`.
    #[error("{0:?} is not an address and a length")]
    Syntax(String),
}

macro_rules! prefix {
    ($(#[$doc:meta])* $name:ident, $bits:ty, $addr:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            addr: $bits,
            len: u8,
        }

        impl $name {
            /// The bits of an address, the longest length.
            pub const MAX_LEN: u8 = <$bits>::BITS as u8;

            /// The prefix of length 0, which holds every address.
            pub const DEFAULT: Self = Self { addr: 0, len: 0 };

            /// `addr/len`, the address in host byte order.
            ///
            /// # Errors
            /// A length above [`Self::MAX_LEN`], or bits set behind the length.
            pub fn new(addr: $bits, len: u8) -> Result<Self, PrefixError> {
                let prefix = Self::containing(addr, len)?;
                if prefix.addr == addr {
                    return Ok(prefix);
                }
                Err(PrefixError::HostBits {
                    given: format!("{}/{len}", <$addr>::from_bits(addr)),
                    prefix: prefix.to_string(),
                })
            }

            /// The prefix of length `len` that holds `addr`: host bits are cleared.
            ///
            /// # Errors
            /// A length above [`Self::MAX_LEN`].
            pub const fn containing(addr: $bits, len: u8) -> Result<Self, PrefixError> {
                if len > Self::MAX_LEN {
                    return Err(PrefixError::TooLong { len, max: Self::MAX_LEN });
                }
                Ok(Self { addr: addr & Self::mask(len), len })
            }

            /// The bits that the first `len` bits of an address select.
            const fn mask(len: u8) -> $bits {
                match <$bits>::MAX.checked_shl(<$bits>::BITS - len as u32) {
                    Some(mask) => mask,
                    None => 0,
                }
            }

            /// The prefix of the one address `addr`.
            #[must_use]
            pub const fn host(addr: $bits) -> Self {
                Self { addr, len: Self::MAX_LEN }
            }

            /// The first address, in host byte order.
            #[must_use]
            pub const fn addr(self) -> $bits {
                self.addr
            }

            /// The last address, in host byte order.
            #[must_use]
            pub const fn last(self) -> $bits {
                self.addr | !Self::mask(self.len)
            }

            /// The length in bits.
            #[must_use]
            #[expect(clippy::len_without_is_empty, reason = "the length of a prefix; none is empty")]
            pub const fn len(self) -> u8 {
                self.len
            }

            /// Whether `addr` lies in the prefix.
            #[must_use]
            pub const fn contains(self, addr: $bits) -> bool {
                addr & Self::mask(self.len) == self.addr
            }
        }

        impl From<$addr> for $name {
            fn from(addr: $addr) -> Self {
                Self::host(addr.to_bits())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", <$addr>::from_bits(self.addr), self.len)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = PrefixError;

            fn from_str(text: &str) -> Result<Self, PrefixError> {
                let syntax = || PrefixError::Syntax(text.to_owned());
                let (addr, len) = text.split_once('/').ok_or_else(syntax)?;
                let addr: $addr = addr.parse().map_err(|_| syntax())?;
                // u8::from_str takes a sign and leading zeroes, a prefix length has neither.
                if !len.bytes().all(|digit| digit.is_ascii_digit()) || (len.len() > 1 && len.starts_with('0')) {
                    return Err(syntax());
                }
                Self::new(addr.to_bits(), len.parse().map_err(|_| syntax())?)
            }
        }
    };
}

prefix! {
    /// An IPv4 prefix. Ordered by address, then from the shortest to the longest.
    Prefix4, u32, Ipv4Addr
}

prefix! {
    /// An IPv6 prefix. Ordered by address, then from the shortest to the longest.
    Prefix6, u128, Ipv6Addr
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_read_as_it_is_written() {
        for text in ["0.0.0.0/0", "10.65.0.64/26", "255.255.255.255/32"] {
            assert_eq!(text.parse::<Prefix4>().unwrap().to_string(), text);
        }
        for text in ["::/0", "fd00:10:244::40/122", "::1/128"] {
            assert_eq!(text.parse::<Prefix6>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn host_bits_are_refused_and_the_right_prefix_is_named() {
        let refused = "10.65.0.65/26".parse::<Prefix4>().unwrap_err();
        assert_eq!(
            refused.to_string(),
            "10.65.0.65/26 has bits set behind its length, the prefix is 10.65.0.64/26"
        );
        assert!(Prefix6::new(1, 127).is_err());
        assert!(Prefix4::new(1, 0).is_err());
    }

    #[test]
    fn lengths_beyond_the_address_are_refused() {
        assert_eq!(
            "1.2.3.4/33".parse::<Prefix4>(),
            Err(PrefixError::TooLong { len: 33, max: 32 })
        );
        assert_eq!(
            Prefix6::new(0, 129),
            Err(PrefixError::TooLong { len: 129, max: 128 })
        );
    }

    #[test]
    fn what_is_not_a_prefix_is_refused() {
        for text in [
            "",
            "/",
            "1.2.3.4",
            "1.2.3/8",
            "1.0.0.0/",
            "1.0.0.0/+8",
            "1.0.0.0/08",
            "1.0.0.0/8/8",
            "1.0.0.0/256",
            "::/0",
        ] {
            assert_eq!(
                text.parse::<Prefix4>(),
                Err(PrefixError::Syntax(text.to_owned())),
                "{text}"
            );
        }
    }

    #[test]
    fn a_prefix_holds_its_first_and_last_address_and_no_neighbour() {
        let prefix: Prefix4 = "10.65.0.64/26".parse().unwrap();
        assert!(prefix.contains(prefix.addr()) && prefix.contains(prefix.last()));
        assert!(!prefix.contains(prefix.addr() - 1) && !prefix.contains(prefix.last() + 1));
        assert!(Prefix4::DEFAULT.contains(u32::MAX) && Prefix6::DEFAULT.contains(u128::MAX));
    }
}
