//! `api::key::decode` and `api::key::path` on any text, as it stands behind `/kv/` and as a key.
//!
//! - They never panic.
//! - What is no part of a URI does not get here: the parser refuses control bytes, blanks and all beyond ASCII.
//! - What is decoded is what a plain reading of percent-encoding decodes; a key has 1 to 255 characters, no U+0000.
//! - A raw slash and `%2F`, a byte and its encoding, upper and lower case digits are the same key.
//! - Every key's path is ASCII, passes the parser of requests, and leads back to the key.

#![no_main]

use hotrow::api::{Command, key, route};
use hotrow::http::request::{Parsed, parse};
use hotrow_fuzz::expand;
use libfuzzer_sys::fuzz_target;

const MAX_BYTES: usize = 2 * 1024;

fuzz_target!(|data: &[u8]| {
    let bytes = expand(data, MAX_BYTES);
    let text = String::from_utf8_lossy(&bytes);
    check_encoded(&text);
    if is_key(&text) {
        check_key(&text);
    }
});

fn decode(raw: &str) -> Option<String> {
    key::decode(raw).ok().map(|key| key.into_owned())
}

fn check_encoded(raw: &str) {
    if !raw.bytes().all(|byte| byte.is_ascii_graphic()) {
        let target = format!("/kv/{raw}");
        let head = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        let taken = parse(head.as_bytes());
        assert!(
            !matches!(taken, Ok(Parsed::Complete(head)) if head.target == target),
            "{target:?} was taken"
        );
        return;
    }
    let key = decode(raw);
    assert_eq!(key, plain_reading(raw));
    assert_eq!(key, decode(&raw.replace('/', "%2F")));
    assert_eq!(key, decode(&raw.replace('/', "%2f")));
    let Some(key) = key else { return };
    let everything: String = key.bytes().map(|byte| format!("%{byte:02X}")).collect();
    assert_eq!(decode(&everything).as_deref(), Some(&*key));
    assert_eq!(decode(&everything.to_ascii_lowercase()).as_deref(), Some(&*key));
    check_key(&key);
}

fn check_key(key: &str) {
    let path = key::path(key);
    assert!(path.is_ascii());
    let raw = path.strip_prefix("/kv/").expect("keys live there");
    assert_eq!(decode(raw).as_deref(), Some(key));
    let head = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
    match parse(head.as_bytes()) {
        Ok(Parsed::Complete(head)) => {
            assert_eq!(route(head.method, head.target), Ok(Command::Get(key.into())));
        }
        other => panic!("{other:?}"),
    }
}

fn is_key(key: &str) -> bool {
    (1..=255).contains(&key.chars().count()) && !key.contains('\0')
}

fn plain_reading(raw: &str) -> Option<String> {
    let (mut key, mut bytes) = (Vec::new(), raw.bytes());
    while let Some(byte) = bytes.next() {
        let mut digit =
            || bytes.next().and_then(|digit| char::from(digit).to_digit(16)).map(|digit| digit as u8);
        key.push(if byte == b'%' { digit()? << 4 | digit()? } else { byte });
    }
    String::from_utf8(key).ok().filter(|key| is_key(key))
}
