//! The client's address: who connected, or whom trusted proxies name. It is no proof of anybody.

use super::key::Unkeyed;
use http::request::Parts;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Who is connected: an extension of the request, for servers other than axum's, and for what a
/// proxy protocol tells. It goes before axum's `ConnectInfo<SocketAddr>`.
///
/// ```
/// use coordinator_web::limits::PeerAddr;
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(PeerAddr("192.0.2.1:4321".parse().unwrap()));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "an address is all that it is")]
pub struct PeerAddr(pub SocketAddr);

/// The client's address as a [`Key`](super::Key).
///
/// By default that is who is connected: [`PeerAddr`], or axum's `ConnectInfo<SocketAddr>` (serve
/// with `into_make_service_with_connect_info::<SocketAddr>()`). A request of which nobody knows
/// the address is answered with 500, so that a server built without it does not run unlimited.
///
/// IPv6 addresses count by their prefix of 56 bits, since one client has that many; IPv4 addresses
/// written as IPv6 count as IPv4.
///
/// Behind a proxy everybody has the proxy's address, and
/// [`with_trusted_hops`](Self::with_trusted_hops) is needed.
#[derive(Debug, Clone, Copy)]
pub struct ClientIp {
    hops: usize,
    prefix: u8,
}

impl Default for ClientIp {
    fn default() -> Self {
        Self::new()
    }
}

impl ClientIp {
    /// The prefix by which IPv6 addresses count by default.
    pub const IPV6_PREFIX: u8 = 56;

    /// Who is connected; no header is read.
    pub fn new() -> Self {
        Self { hops: 0, prefix: Self::IPV6_PREFIX }
    }

    /// How many proxies of one's own every request passes, each of which appends the address that
    /// it was called from to `X-Forwarded-For`; default 0.
    ///
    /// The client is the entry at that place from the right: what stands left of it was written by
    /// clients, and is not read. Where there are fewer entries, or that one is no address, it is
    /// who is connected. Too high a number lets clients choose their address, and so does a server
    /// that can be reached past the proxies.
    pub fn with_trusted_hops(mut self, hops: usize) -> Self {
        self.hops = hops;
        self
    }

    /// By how many bits IPv6 addresses count, at most 128; default
    /// [`IPV6_PREFIX`](Self::IPV6_PREFIX).
    pub fn with_ipv6_prefix(mut self, bits: u8) -> Self {
        self.prefix = bits.min(128);
        self
    }

    pub(super) fn subject(self, parts: &Parts) -> Result<String, Unkeyed> {
        let peer = peer(parts).ok_or(Unkeyed(
            "no address is known: serve with into_make_service_with_connect_info::<SocketAddr>(), \
             or insert PeerAddr",
        ))?;
        let forwarded = self.hops.checked_sub(1).and_then(|skipped| forwarded(parts, skipped));
        Ok(self.grouped(forwarded.unwrap_or(peer)))
    }

    fn grouped(self, ip: IpAddr) -> String {
        match ip.to_canonical() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                format!("{}/{}", Ipv6Addr::from_bits(ip.to_bits() & mask), self.prefix)
            }
        }
    }
}

fn peer(parts: &Parts) -> Option<IpAddr> {
    if let Some(PeerAddr(peer)) = parts.extensions.get() {
        return Some(peer.ip());
    }
    #[cfg(feature = "axum")]
    {
        use axum::extract::connect_info::{ConnectInfo, MockConnectInfo};
        if let Some(ConnectInfo(peer)) = parts.extensions.get::<ConnectInfo<SocketAddr>>() {
            return Some(peer.ip());
        }
        if let Some(MockConnectInfo(peer)) = parts.extensions.get::<MockConnectInfo<SocketAddr>>() {
            return Some(peer.ip());
        }
    }
    None
}

/// The entry so far from the right, over all lines of the header.
fn forwarded(parts: &Parts, skipped: usize) -> Option<IpAddr> {
    let lines = parts.headers.get_all("x-forwarded-for").iter().rev();
    let mut entries = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    address(str::from_utf8(entries.nth(skipped)?).ok()?.trim())
}

/// An address, perhaps in brackets, perhaps with a port, as some proxies write it.
fn address(entry: &str) -> Option<IpAddr> {
    let bracketed = || entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || entry.parse().ok().map(|address: SocketAddr| address.ip());
    entry.parse().ok().or_else(with_port).or_else(bracketed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(peer: Option<&str>, forwarded: &[&str]) -> Parts {
        let mut request = http::Request::get("/");
        for line in forwarded {
            request = request.header("X-Forwarded-For", line.as_bytes());
        }
        if let Some(peer) = peer {
            request = request.extension(PeerAddr(SocketAddr::new(peer.parse().unwrap(), 1)));
        }
        request.body(()).unwrap().into_parts().0
    }

    fn client(hops: usize, forwarded: &[&str]) -> String {
        let parts = parts(Some("10.0.0.1"), forwarded);
        ClientIp::new().with_trusted_hops(hops).subject(&parts).unwrap()
    }

    #[test]
    fn ipv6_counts_by_its_prefix_and_mapped_ipv4_as_ipv4() {
        let grouped = |prefix: u8, ip: &str| {
            ClientIp::new().with_ipv6_prefix(prefix).grouped(ip.parse().unwrap())
        };
        for (prefix, ip, group) in [
            (56, "2001:db8:1:2ff::1", "2001:db8:1:200::/56"),
            (56, "2001:db8:1:200:ffff::", "2001:db8:1:200::/56"),
            (56, "2001:db8:1:300::1", "2001:db8:1:300::/56"),
            (64, "2001:db8:1:2ff::1", "2001:db8:1:2ff::/64"),
            (128, "2001:db8::1", "2001:db8::1/128"),
            (200, "2001:db8::1", "2001:db8::1/128"),
            (0, "2001:db8::1", "::/0"),
            (1, "ffff::", "8000::/1"),
            (56, "::ffff:192.0.2.7", "192.0.2.7"),
            (0, "192.0.2.7", "192.0.2.7"),
        ] {
            assert_eq!(grouped(prefix, ip), group, "{ip}/{prefix}");
        }
    }

    #[test]
    fn no_header_is_trusted_unless_asked() {
        assert_eq!(client(0, &["192.0.2.1"]), "10.0.0.1");
        assert_eq!(client(1, &["192.0.2.1"]), "192.0.2.1");
    }

    #[test]
    fn what_a_client_writes_into_the_header_changes_nothing() {
        for forged in [
            &["192.0.2.9"][..],
            &["203.0.113.9, 192.0.2.9"],
            &["10.0.0.1, , unknown,192.0.2.9"],
            &["203.0.113.9", "192.0.2.9"],
            &["203.0.113.9, 203.0.113.8", "\"_x\", 192.0.2.9 "],
            &["\u{e9}\u{e9}, 192.0.2.9"],
        ] {
            assert_eq!(client(1, forged), "192.0.2.9", "{forged:?}");
        }
        assert_eq!(client(2, &["203.0.113.9, 192.0.2.9, 10.0.0.2"]), "192.0.2.9");
        assert_eq!(client(2, &["203.0.113.9, 192.0.2.9", "10.0.0.2"]), "192.0.2.9");
    }

    #[test]
    fn too_few_entries_and_words_are_who_is_connected() {
        assert_eq!(client(2, &["192.0.2.9"]), "10.0.0.1");
        assert_eq!(client(usize::MAX, &["192.0.2.9"]), "10.0.0.1");
        assert_eq!(client(1, &[]), "10.0.0.1");
        for word in ["unknown", "_hidden", "", "1.2.3", "300.1.1.1", "[::1", "a:1"] {
            assert_eq!(client(1, &[word]), "10.0.0.1", "{word}");
        }
    }

    #[test]
    fn ports_and_brackets_are_read() {
        for entry in ["192.0.2.9:443", "192.0.2.9", "::ffff:192.0.2.9", "[::ffff:192.0.2.9]:1"] {
            assert_eq!(client(1, &[entry]), "192.0.2.9", "{entry}");
        }
        for entry in ["[2001:db8::1]:443", "[2001:db8::1]", "2001:db8::1"] {
            assert_eq!(client(1, &[entry]), "2001:db8::/56", "{entry}");
        }
    }

    #[test]
    fn nobody_known_is_a_fault_even_where_a_header_names_somebody() {
        let parts = parts(None, &["192.0.2.9"]);
        assert!(ClientIp::new().with_trusted_hops(1).subject(&parts).is_err());
    }
}
