//! What the values of options look like.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::sync::OnceLock;
use std::time::Duration;

use super::output;
use crate::admin::AdminClient;
use crate::engine::{EngineError, MIN_INFLATED};
use crate::runtime::{HostBuilder, MemoryBudget, PeerId};
pub(super) use crate::text::{duration, size, ttl};
use crate::text::{secretless, secretless_url, size_text};

/// A bound on what a segment takes, which any single record is within.
pub(super) fn inflated(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    if bytes < MIN_INFLATED {
        return Err(format!("a single record may take {MIN_INFLATED} bytes: give more, as 512MiB"));
    }
    Ok(bytes)
}

/// What a host may take of memory.
pub(super) fn memory(text: &str) -> Result<MemoryBudget, String> {
    let least = MemoryBudget::LEAST.bytes();
    MemoryBudget::new(size(text)?)
        .ok_or_else(|| format!("a host takes {} at least", size_text(least)))
}

/// The namespace that a command reads, writes or deletes in.
#[derive(Debug, clap::Args)]
pub(super) struct NsArg {
    /// Namespace. An empty one is read and deleted in, as a peer may have made records there
    ns: String,
    /// NS is hexadecimal
    #[arg(long)]
    hex_ns: bool,
}

impl NsArg {
    pub(super) fn bytes(&self) -> anyhow::Result<Vec<u8>> {
        output::bytes(&self.ns, self.hex_ns)
    }

    /// As it was typed.
    pub(super) fn text(&self) -> &str {
        &self.ns
    }
}

/// A namespace that is written to, which has at least one byte.
pub(super) fn namespace(text: &str) -> Result<String, EngineError> {
    if text.is_empty() { Err(EngineError::EmptyNamespace) } else { Ok(text.to_owned()) }
}

/// How long a running host may be silent: `--timeout`.
static HOST_TIMEOUT: OnceLock<Duration> = OnceLock::new();

/// Takes the value of `--timeout`, once.
pub(super) fn set_host_timeout(timeout: Duration) {
    let _ = HOST_TIMEOUT.set(timeout);
}

/// How long a running host may be silent before a command gives up.
pub(super) fn host_timeout() -> Duration {
    HOST_TIMEOUT.get().copied().unwrap_or(AdminClient::TIMEOUT)
}

/// Of a running host: from a millisecond, which the system can wait for, to a year.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = interval(text)?;
    let longest = Duration::from_secs(365 * 24 * 60 * 60);
    if timeout > longest { Err("it must be at most 365d".to_owned()) } else { Ok(timeout) }
}

/// [`duration`] of something that is done again and again.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let shortest = HostBuilder::SHORTEST;
    match duration(text)? {
        interval if interval < shortest => {
            Err(format!("it must be at least {}", humantime::format_duration(shortest)))
        }
        interval => Ok(interval),
    }
}

/// Where a host listens when it is not told.
pub(super) const DEFAULT_PORT: u16 = 8900;

/// A peer as `--peer` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PeerSpec {
    pub(super) id: String,
    pub(super) url: String,
}

/// `[ID=]URL`; without an id, the host and port of the URL make one.
pub(super) fn peer(text: &str) -> Result<PeerSpec, String> {
    // A URL may have a `=` of its own, but not before its `:` and `/`.
    let (id, url) = match text.split_once('=') {
        Some((id, url)) if !id.contains([':', '/']) => {
            let id: PeerId = id.parse().map_err(|error| format!("{error}"))?;
            (id.to_string(), url)
        }
        _ => (id_of(text), text),
    };
    if url.is_empty() {
        return Err("the URL is missing: write ID=http://host:port".to_owned());
    }
    Ok(PeerSpec { id, url: url.to_owned() })
}

/// Host and port of a URL as a peer id; what an id can't hold becomes a hyphen.
fn id_of(url: &str) -> String {
    // What stands where the port does may be a password.
    let url = secretless_url(url);
    let url = url.as_str();
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    // What is before the last one may be a password, which may have any character.
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let mut id = String::new();
    for c in host.chars() {
        let keep = c.is_ascii_alphanumeric() || "._".contains(c);
        match (keep, id.ends_with('-')) {
            (true, _) => id.push(c),
            (false, false) => id.push('-'),
            (false, true) => {}
        }
    }
    let id = id.trim_start_matches(['.', '-']).trim_end_matches('-');
    let id = &id[..id.len().min(64)];
    if id.is_empty() { "peer".to_owned() } else { id.to_owned() }
}

/// Where to serve peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listen {
    Nobody,
    At(SocketAddr),
}

impl Listen {
    /// The loopback address, which no other machine reaches.
    pub(super) fn loopback(port: u16) -> Self {
        Self::At((Ipv4Addr::LOCALHOST, port).into())
    }
}

/// `ADDR:PORT`, `ADDR`, `:PORT`, `PORT` or `none`. Without an address, it is loopback.
pub(super) fn listen(text: &str) -> Result<Listen, String> {
    if text == "none" {
        return Ok(Listen::Nobody);
    }
    if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse() {
        return Ok(Listen::loopback(port));
    }
    let bare = text.strip_prefix('[').and_then(|s| s.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(Listen::At((ip, DEFAULT_PORT).into()));
    }
    let form = "write ADDR:PORT, PORT (on loopback), or none";
    match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() && !host.is_empty() => text
            .to_socket_addrs()
            .ok()
            .and_then(|mut addrs| addrs.next())
            .map(Listen::At)
            .ok_or_else(|| {
                let host = secretless(host);
                format!("{host:?} is no address of this machine; {form}")
            }),
        _ => Err(form.to_owned()),
    }
}

/// A value, or the word `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OrOff<T>(pub(super) Option<T>);

fn or_off<T>(text: &str, parse: fn(&str) -> Result<T, String>) -> Result<OrOff<T>, String> {
    match text.trim() {
        "off" | "none" => Ok(OrOff(None)),
        text => parse(text).map(|value| OrOff(Some(value))).map_err(|why| format!("{why}; or off")),
    }
}

/// [`duration`], or `off`.
pub(super) fn duration_or_off(text: &str) -> Result<OrOff<Duration>, String> {
    or_off(text, duration)
}

/// [`interval`], or `off`.
pub(super) fn interval_or_off(text: &str) -> Result<OrOff<Duration>, String> {
    or_off(text, interval)
}

/// [`size`], or `off`.
pub(super) fn size_or_off(text: &str) -> Result<OrOff<u64>, String> {
    or_off(text, size)
}

/// `KEY=VALUE`; the value may have a `=` of its own.
pub(super) fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_the_id_it_is_given_or_that_of_its_address() {
        let long = format!("http://{}:1", "x".repeat(80));
        for (text, id, url) in [
            ("primary=http://10.0.0.1:8900", "primary", "http://10.0.0.1:8900"),
            ("http://10.0.0.1:8900", "10.0.0.1-8900", "http://10.0.0.1:8900"),
            ("https://edge.example/a/b", "edge.example", "https://edge.example/a/b"),
            ("http://a:1/x?y=z", "a-1", "http://a:1/x?y=z"),
            ("a=http://a:1/x?y=z", "a", "http://a:1/x?y=z"),
            ("http://[::1]:8900", "1-8900", "http://[::1]:8900"),
            ("http://u:p@h:1", "h-1", "http://u:p@h:1"),
            ("http://u:p/w@h:1", "h-1", "http://u:p/w@h:1"),
            ("http://", "peer", "http://"),
            (&long, &"x".repeat(64), &long),
        ] {
            let spec = peer(text).unwrap();
            assert_eq!((spec.id.as_str(), spec.url.as_str()), (id, url));
            assert!(spec.id.parse::<PeerId>().is_ok(), "{text}");
        }
    }

    #[test]
    fn a_peer_without_a_url_or_with_a_bad_id_is_refused() {
        assert!(peer("a=").unwrap_err().contains("URL is missing"));
        assert!(peer("a b=http://a:1").unwrap_err().contains("use 1 to 64"));
        assert!(peer("=http://a:1").unwrap_err().contains("use 1 to 64"));
    }

    #[test]
    fn to_listen_without_an_address_is_loopback() {
        for (text, addr) in [
            ("8901", "127.0.0.1:8901"),
            (":8901", "127.0.0.1:8901"),
            ("0", "127.0.0.1:0"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("10.0.0.1", "10.0.0.1:8900"),
            ("[::1]:80", "[::1]:80"),
            ("::1", "[::1]:8900"),
            ("[::]", "[::]:8900"),
        ] {
            assert_eq!(listen(text), Ok(Listen::At(addr.parse().unwrap())), "{text}");
        }
        assert_eq!(listen("none"), Ok(Listen::Nobody));
        let Ok(Listen::At(addr)) = listen("localhost:1") else { panic!() };
        assert!(addr.ip().is_loopback());
        for bad in ["", ":", "a", "1.2.3.4:", "1.2.3.4:x", "70000", "::1:99999999", ":x"] {
            assert!(listen(bad).unwrap_err().contains("ADDR:PORT"), "{bad}");
        }
    }

    #[test]
    fn what_can_be_off_is_off_or_a_value() {
        assert_eq!(duration_or_off("20ms"), Ok(OrOff(Some(Duration::from_millis(20)))));
        assert_eq!(size_or_off("8MiB"), Ok(OrOff(Some(8 << 20))));
        for off in ["off", "none"] {
            assert_eq!(
                (duration_or_off(off), size_or_off(off)),
                (Ok(OrOff(None)), Ok(OrOff(None)))
            );
        }
        assert!(duration_or_off("60").unwrap_err().contains("unit is missing"));
        assert!(duration_or_off("no").unwrap_err().ends_with("or off"));
        assert!(size_or_off("0").unwrap_err().ends_with("or off"));
    }

    #[test]
    fn an_interval_is_not_so_short_that_nothing_else_would_run() {
        assert_eq!(interval("1ms"), Ok(Duration::from_millis(1)));
        for short in ["1ns", "999us"] {
            assert!(interval(short).unwrap_err().contains("at least 1ms"), "{short}");
            assert!(interval_or_off(short).unwrap_err().ends_with("or off"), "{short}");
        }
        assert!(interval("0s").unwrap_err().contains("longer than zero"));
        assert_eq!(interval_or_off("off"), Ok(OrOff(None)));
        assert!(timeout("366d").unwrap_err().contains("365d") && timeout("1ns").is_err());
    }

    #[test]
    fn settings_split_at_the_first_sign() {
        assert_eq!(setting("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(setting("a="), Ok(("a".into(), String::new())));
        assert!(setting("a").is_err() && setting("=b").is_err());
    }
}
