//! The addresses of the peers that this node is configured with.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

/// Addresses that are remembered. A peer's name may resolve to others each time.
const MOST: usize = 1024;

/// The addresses to which this node's own requests to its peers go, as they were resolved last.
/// A server keeps places for connections from there.
#[derive(Debug, Default)]
pub struct KnownAddresses(Mutex<HashSet<IpAddr>>);

impl KnownAddresses {
    /// A request goes to one of these.
    pub fn note(&self, addresses: impl Iterator<Item = IpAddr>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for address in addresses {
            if known.len() < MOST {
                known.insert(group(address));
            }
        }
    }

    /// Whether it is one of a peer, or near one.
    pub fn has(&self, address: IpAddr) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.contains(&group(address))
    }
}

/// The addresses that one machine can have: a single one of IPv4, a /64 of IPv6.
pub fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        // It is no network.
        IpAddr::V6(Ipv6Addr::LOCALHOST) => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let parse = |text: &str| group(text.parse().unwrap());
        assert_eq!(parse("2001:db8:1:2:3::1"), parse("2001:db8:1:2:ffff::9"));
        assert_ne!(parse("2001:db8:1:2::1"), parse("2001:db8:1:3::1"));
        assert_eq!(parse("::ffff:10.0.0.1"), parse("10.0.0.1"));
        assert_ne!(parse("10.0.0.1"), parse("10.0.0.2"));
        assert_ne!(parse("::1"), parse("::2"));
    }

    #[test]
    fn addresses_are_known_as_far_as_there_is_room() {
        let known = KnownAddresses::default();
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        known.note((0..).map(address).take(2 * MOST));
        assert!(known.has(address(0)) && !known.has(address(2 * MOST as u32 - 1)));
    }
}
