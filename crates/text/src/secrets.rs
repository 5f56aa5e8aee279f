//! Leaves secrets out of text: the user, password, query and fragment of a URL.
//!
//! The host takes no URL that has one. But whoever writes one all the same shall not find it in a log,
//! an error or a terminal. [`without_secrets`] is applied where text leaves the program.

use std::borrow::Cow;

/// Stands for what is left out.
const LEFT_OUT: &str = "***";

/// The whole of `text`, which is meant to be a URL, without its secrets.
pub fn secretless_url(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), text),
    };
    // What is behind the last one: a password may have any character, if it is not encoded.
    let (user, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => (format!("{LEFT_OUT}@"), rest),
        None => (String::new(), rest),
    };
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    let (place, behind) = rest.split_at(end);
    let behind = behind.get(..1).map_or(String::new(), |sign| format!("{sign}{LEFT_OUT}"));
    let (authority, path) = place.split_at(place.find('/').unwrap_or(place.len()));
    let authority = match port(authority) {
        // It may be a password, of a URL without a host.
        Some(port) if !is_port(port) => {
            authority[..authority.len() - port.len()].to_owned() + LEFT_OUT
        }
        _ => authority.to_owned(),
    };
    // A scheme that has a password in it is none: `user:password@host://`.
    let scheme = match scheme.rsplit_once('@') {
        Some((_, scheme)) => format!("{LEFT_OUT}@{scheme}"),
        None => scheme,
    };
    format!("{scheme}{user}{authority}{path}{behind}")
}

/// A name or value that somebody may have taken for the place of a URL, without the URL's secrets.
pub fn secretless(text: &str) -> Cow<'_, str> {
    match text.contains(['@', '?']) || text.contains("://") {
        true => secretless_url(text).into(),
        false => text.into(),
    }
}

/// What stands where the port does.
fn port(authority: &str) -> Option<&str> {
    let split = match authority.starts_with('[') {
        true => authority.split_once("]:"),
        false => authority.rsplit_once(':'),
    };
    split.map(|(_, port)| port)
}

/// Whether this is a port, or the word for one, as in a hint.
fn is_port(port: &str) -> bool {
    port.bytes().all(|byte| byte.is_ascii_digit()) || port.eq_ignore_ascii_case("port")
}

/// `text` with the secrets of all URLs in it left out, and with what looks like `user:password@host`
/// without its user and password.
pub fn without_secrets(text: &str) -> Cow<'_, str> {
    // Nearly all text.
    if !text.contains("://") && !text.contains(['@', '?']) {
        return text.into();
    }
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(ends_word).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        push_word(&mut clean, word);
        let sign = after.chars().next().map_or(0, char::len_utf8);
        clean.push_str(&after[..sign]);
        rest = &after[sign..];
    }
    if clean == text { text.into() } else { clean.into() }
}

/// What is never part of a URL in a text.
fn ends_word(c: char) -> bool {
    c.is_whitespace() || c.is_control() || "\"'`<>".contains(c)
}

fn push_word(clean: &mut String, word: &str) {
    let Some(colon) = word.find("://") else {
        match word.rsplit_once('@') {
            // An option, key or id may stand before it: `--peer=user:password@host`.
            Some((user, host)) if user.contains(':') && !is_interface(user, host) => {
                let before = user.find('=').map_or("", |at| &user[..=at]);
                clean.push_str(&format!("{before}{LEFT_OUT}@{host}"));
            }
            // A query, of a URL without a scheme or cut off from one.
            _ => match word.split_once('?') {
                Some((place, query)) if query.contains('=') => {
                    clean.push_str(&format!("{place}?{LEFT_OUT}"));
                }
                _ => clean.push_str(word),
            },
        }
        return;
    };
    let scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    let start = word[..colon].trim_end_matches(scheme).len();
    // Signs behind a URL belong to the sentence.
    let url = word[start..].trim_end_matches([',', ';', ')', ']', '}', '\\', ':', '.']);
    clean.push_str(&word[..start]);
    clean.push_str(&secretless_url(url));
    clean.push_str(&word[start + url.len()..]);
}

/// Whether this is the name of a WebAssembly interface or package and its version, as in
/// `edgestore:sync/policy@0.2.0` and `edgestore:sync@0.2`.
fn is_interface(name: &str, version: &str) -> bool {
    let numbers = version.split(|c: char| !c.is_ascii_digit() && c != '.').next();
    let mut numbers = numbers.unwrap_or_default().trim_end_matches('.').split('.');
    let count = numbers.clone().count();
    let is_known = || ["edgestore:", "wasi:"].iter().any(|known| name.contains(known));
    let is_path = || name.split_once(':').is_some_and(|(_, name)| name.contains('/'));
    (2..=3).contains(&count)
        && numbers.all(|number| !number.is_empty())
        && (is_known() || (count == 3 && is_path()))
}

/// A line of JSON, with [`without_secrets`] done to each of its strings.
pub fn json_without_secrets(line: &str) -> Cow<'_, str> {
    if without_secrets(line) == line {
        return line.into();
    }
    let (mut clean, mut rest) = (String::with_capacity(line.len()), line);
    while let Some(start) = rest.find('"') {
        let mut escaped = false;
        let end = rest[start + 1..].find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let Some(end) = end.map(|end| start + 1 + end + 1) else { break };
        clean.push_str(&rest[..start]);
        let literal = &rest[start..end];
        let text = serde_json::from_str::<String>(literal).ok();
        let changed = text.as_deref().map(without_secrets);
        match (changed, &text) {
            (Some(new), Some(old)) if new != *old => {
                clean.push_str(&serde_json::Value::from(new.into_owned()).to_string());
            }
            _ => clean.push_str(literal),
        }
        rest = &rest[end..];
    }
    clean.push_str(rest);
    clean.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_user_password_query_and_fragment() {
        for (url, shown) in [
            ("http://10.0.0.1:8900", "http://10.0.0.1:8900"),
            ("https://edge.example/a/b", "https://edge.example/a/b"),
            ("http://[::1]:80/x", "http://[::1]:80/x"),
            ("http://[fe80::ab]", "http://[fe80::ab]"),
            ("http://me:hunter2@[::1]:80", "http://***@[::1]:80"),
            ("http://a:", "http://a:"),
            ("http://me@a:1", "http://***@a:1"),
            ("http://me:hunter2@a:1/x", "http://***@a:1/x"),
            ("http://me:hun/ter2@a", "http://***@a"),
            ("http://me:hun ter2@a", "http://***@a"),
            ("http://me:hun@ter2@a", "http://***@a"),
            ("http://me:hun?ter2@a", "http://***@a"),
            ("http://me:hun#ter2@a", "http://***@a"),
            ("http://a/?token=hunter2", "http://a/?***"),
            ("http://a?hunter2#x", "http://a?***"),
            ("http://a/#hunter2", "http://a/#***"),
            ("http://me:hunter2", "http://me:***"),
            ("me:hunter2@a", "***@a"),
            ("me:hunter2@a://b", "***@a://b"),
            ("s3://key:hunter2@bucket/x", "s3://***@bucket/x"),
            ("", ""),
        ] {
            assert_eq!(secretless_url(url), shown, "{url}");
        }
    }

    #[test]
    fn urls_in_a_text_are_shown_without_their_secrets() {
        for (text, shown) in [
            ("nothing to hide at 12:30, a@b", "nothing to hide at 12:30, a@b"),
            ("GET http://a:1/merkle: no route", "GET http://a:1/merkle: no route"),
            ("see (http://a/b), http://c.", "see (http://a/b), http://c."),
            ("write it as http://host:port or", "write it as http://host:port or"),
            ("at http://[fe80::ab], http://[::]:80.", "at http://[fe80::ab], http://[::]:80."),
            ("`http://me:hunter2@a`: why", "`http://***@a`: why"),
            ("--peer=x=http://me:hunter2@a/ b", "--peer=x=http://***@a/ b"),
            ("'a b=http://me:hunter2@a' for", "'a b=http://***@a' for"),
            ("p = \"http://a/?t=hunter2\" # x", "p = \"http://a/?***\" # x"),
            ("proxy me:hunter2@a:80, really", "proxy ***@a:80, really"),
            ("--peer=me:hunter2@a", "--peer=***@a"),
            ("lacks edgestore:sync/policy@0.2.0; see", "lacks edgestore:sync/policy@0.2.0; see"),
            ("me:hun/ter2@10.0.0.1", "***@10.0.0.1"),
            ("http://x:hunter2@a\nhttp://y:hunter2@b", "http://***@a\nhttp://***@b"),
        ] {
            assert_eq!(without_secrets(text), shown);
        }
    }

    #[test]
    fn json_stays_json() {
        let text = "say \"http://me:hun\\\\ter2@a/?x=\" or 'http://a/?hunter2\\' \u{1b}";
        let line = serde_json::json!({ "k": text, "http://a/?hunter2": 1, "z": [true] });
        let clean = json_without_secrets(&line.to_string()).into_owned();
        assert!(!clean.contains("hunter2") && !clean.contains("ter2"), "{clean}");
        let read: serde_json::Value = serde_json::from_str(&clean).unwrap();
        assert_eq!(read["z"], line["z"]);
        assert!(read["k"].as_str().unwrap().starts_with("say \"http://***@a/?***"), "{read}");
        let plain = r#"{"k":"http://a:1/x"}"#;
        assert_eq!(json_without_secrets(plain), plain);
    }
}
