//! Keys in targets: percent-decoding and the rules of a key. Pure. Called by [`super::route`].

use crate::http::problem::{Kind, Problem};
use crate::http::scan;
use crate::limits::KEY_CHARS;
use memchr::memchr;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::borrow::Cow;

/// All bytes but RFC 3986's unreserved ones, and `/`, which is the same key raw or encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// The key that is sent as what it is.
fn plain(raw: &str) -> Result<Cow<'_, str>, Problem> {
    if raw.is_empty() {
        return Err(bad_key("a key has at least one character: /kv/{key}"));
    }
    // Bytes are at least as many as characters: most keys are not counted.
    if raw.len() > KEY_CHARS && raw.chars().count() > KEY_CHARS {
        return Err(bad_key(TOO_LONG));
    }
    Ok(Cow::Borrowed(raw))
}

/// The key that stands behind `/kv/`, decoded once. Allocates only if there is a `%` in it.
///
/// `raw` is ASCII: the parser refuses a target that is not.
pub fn decode(raw: &str) -> Result<Cow<'_, str>, Problem> {
    if !scan::has(raw.as_bytes(), |word| scan::equal(word, b'%') | scan::equal(word, 0)) {
        return plain(raw);
    }
    if !escapes_are_whole(raw.as_bytes()) {
        return Err(bad_key(
            "a % in a key needs two hexadecimal digits behind it; a % itself is sent as %25",
        ));
    }
    let key = percent_decode_str(raw).decode_utf8().map_err(|_| bad_key("a key must be UTF-8"))?;
    if key.chars().count() > KEY_CHARS {
        return Err(bad_key(TOO_LONG));
    }
    if memchr(0, key.as_bytes()).is_some() {
        return Err(bad_key("a key cannot have U+0000 in it: PostgreSQL's text has none"));
    }
    Ok(key)
}

/// The rules of a key, however it came.
pub(super) fn check(key: &str) -> Result<(), Problem> {
    plain(key)?;
    if memchr(0, key.as_bytes()).is_some() {
        return Err(bad_key("a key cannot have U+0000 in it: PostgreSQL's text has none"));
    }
    Ok(())
}

const TOO_LONG: &str = "a key has at most 255 characters";

/// The path of a key, as a `Location` names it. Whoever resolves that takes out segments that are dots (RFC 3986 section 5.2.4), and
/// would be led to another key: where there are any, the slashes that make segments of them are encoded, and of a key that is nothing
/// else its dots.
pub fn path(key: &str) -> String {
    let is_dots = |segment: &str| matches!(segment, "." | "..");
    let encoded = utf8_percent_encode(key, ENCODED);
    if is_dots(key) {
        format!("/kv/{}", key.replace('.', "%2E"))
    } else if key.split('/').any(is_dots) {
        format!("/kv/{}", encoded.to_string().replace('/', "%2F"))
    } else {
        format!("/kv/{encoded}")
    }
}

/// Whether two hexadecimal digits follow each `%`.
pub(super) fn escapes_are_whole(mut raw: &[u8]) -> bool {
    while let Some(at) = memchr(b'%', raw) {
        match raw.get(at + 1..at + 3) {
            Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => raw = &raw[at + 3..],
            _ => return false,
        }
    }
    true
}

fn bad_key(detail: &'static str) -> Problem {
    Problem::new(Kind::BadKey, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_has_a_row_for_everything_it_may_and_may_not_be() {
        let long = "x".repeat(255);
        let too_long = "x".repeat(256);
        let umlauts = "%C3%A4".repeat(255);
        let too_many_umlauts = "%C3%A4".repeat(256);
        let decoded = "ä".repeat(255);
        for (raw, expected) in [
            ("a", Some("a")),
            ("a/b", Some("a/b")),
            ("a%2Fb", Some("a/b")),
            ("a%2fb", Some("a/b")),
            ("%25", Some("%")),
            ("%2525", Some("%25")),
            ("a+b", Some("a+b")),
            ("%20", Some(" ")),
            ("%0D%0A", Some("\r\n")),
            ("%F0%9F%94%A5", Some("🔥")),
            ("%3F%23", Some("?#")),
            (&long, Some(&long)),
            (&umlauts, Some(&decoded)),
            ("", None),
            ("%", None),
            ("%2", None),
            ("%zz", None),
            ("%+1", None),
            ("a%00b", None),
            ("%FF", None),
            ("%C3", None),
            ("%C0%80", None),
            ("%ED%A0%80", None),
            (&too_long, None),
            (&too_many_umlauts, None),
        ] {
            assert_eq!(decode(raw).ok().as_deref(), expected, "{raw}");
        }
    }

    proptest! {
        #[test]
        fn a_path_leads_back_to_its_key(key in "[^\0]{1,255}") {
            let path = path(&key);
            prop_assert!(path.is_ascii());
            prop_assert_eq!(decode(path.strip_prefix("/kv/").unwrap()).unwrap(), key);
        }

        /// RFC 3986 section 5.2.4: whoever resolves a reference takes such segments out, encoded dots (section 6.2.2.2) included.
        #[test]
        fn no_segment_of_a_path_leads_elsewhere(key in "[./a]{1,8}") {
            let path = path(&key);
            let raw = path.strip_prefix("/kv/").unwrap();
            prop_assert_eq!(decode(raw).unwrap(), &*key);
            for segment in raw.split('/') {
                let literal = segment.replace("%2E", ".");
                prop_assert!(!matches!(&*literal, "." | "..") || matches!(&*key, "." | ".."), "{}", path);
                prop_assert!(!matches!(segment, "." | ".."), "{}", path);
            }
            // What needs no care is as it was.
            if !key.split('/').any(|segment| matches!(segment, "." | "..")) {
                prop_assert_eq!(raw, key);
            }
        }
    }
}
