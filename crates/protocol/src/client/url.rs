//! The address of a peer, as the configuration gives it.
//!
//! What the protocol has no use for is refused instead of dropped: a password
//! or a query that silently goes nowhere is a puzzle for whoever wrote it.

use std::fmt;

use edgestore_text::secretless_url;
use ureq::http::Uri;

/// A URL that the client can use, without a slash at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BaseUrl(String);

/// A peer's URL that the host does not take, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{url}` is no peer URL: {problem}; write it as http://host:port or https://host:port/prefix"
)]
pub struct InvalidUrl {
    /// The URL, with anything that may be a secret left out.
    url: String,
    problem: String,
}

impl BaseUrl {
    pub(super) fn parse(text: &str) -> Result<Self, InvalidUrl> {
        let refuse = |problem: &dyn fmt::Display| InvalidUrl {
            url: secretless_url(text),
            problem: problem.to_string(),
        };
        // `Uri` drops a fragment without a word.
        if text.contains('#') {
            return Err(refuse(&"it has a fragment (#...)"));
        }
        let uri: Uri = text.parse().map_err(|error| refuse(&error))?;
        match uri.scheme_str() {
            Some("http" | "https") => {}
            Some(other) => return Err(refuse(&format_args!("`{other}` is not http or https"))),
            None => return Err(refuse(&"it does not begin with http:// or https://")),
        }
        let Some(authority) = uri.authority().filter(|authority| !authority.host().is_empty())
        else {
            return Err(refuse(&"it has no host"));
        };
        if authority.as_str().contains('@') {
            return Err(refuse(&"it has a user name, and the protocol has no log-in"));
        }
        // With a port that is none, the client would use the scheme's.
        if authority.as_str() != authority.host() && authority.port_u16().is_none_or(|p| p == 0) {
            return Err(refuse(&"its port is not a number from 1 to 65535"));
        }
        if uri.query().is_some() {
            return Err(refuse(&"it has a query (?...)"));
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }

    /// The URL of `path`, which begins with a slash.
    pub(super) fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_appended_to_the_prefix() {
        for (base, url) in [
            ("http://a:8900", "http://a:8900/merkle"),
            ("http://a:8900/", "http://a:8900/merkle"),
            ("https://a/edge", "https://a/edge/merkle"),
            ("https://a/edge/", "https://a/edge/merkle"),
            ("http://[::1]:80", "http://[::1]:80/merkle"),
            ("HTTP://a", "HTTP://a/merkle"),
        ] {
            assert_eq!(BaseUrl::parse(base).unwrap().join("/merkle"), url);
        }
    }

    #[test]
    fn what_has_no_meaning_is_refused_by_name() {
        for (url, problem) in [
            ("", "empty"),
            ("localhost", "begin with http://"),
            ("localhost:8900", "begin with http://"),
            ("/merkle", "begin with http://"),
            ("ftp://a", "`ftp` is not http or https"),
            ("http://", "empty"),
            ("http://:80", "host"),
            ("http://a:99999", "port"),
            ("http://a:", "port"),
            ("http://a:0", "port"),
            ("http://[::1]:99999", "port"),
            ("http://a b", "invalid"),
            ("http://user@a", "user name"),
            ("http://user:pw@a", "user name"),
            ("http://a/?x=1", "query"),
            ("http://a?", "query"),
            ("http://a/#x", "fragment"),
        ] {
            let error = BaseUrl::parse(url).unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("write it as"), "{url}: {error}");
        }
    }

    #[test]
    fn messages_keep_secrets() {
        for url in [
            "http://me:hunter2@a/",
            "http://a/?token=hunter2",
            "http://a/#hunter2",
            "http://me:hunter2@a b/",
            "me:hunter2@a",
            "http://me:hunter2",
            "http://me:hun/hunter2@a",
            "hunter2@a://b",
        ] {
            let error = BaseUrl::parse(url).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }
}
