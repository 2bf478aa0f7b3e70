//! What may be stored under a key, and for how long: one rule each, whichever way a value comes. Pure. Used by
//! [`super::batch`], [`super::load`], [`super::query`] and [`crate::connection`].

use crate::http::problem::{Kind, Problem};
use crate::limits::TTL_SECONDS;

/// Whether a text may be a value of so many bytes at most.
pub fn check(value: &str, max_value_bytes: usize) -> Result<(), Problem> {
    if value.len() > max_value_bytes {
        return Err(too_large(value.len() as u64, max_value_bytes));
    }
    if memchr::memchr(0, value.as_bytes()).is_some() {
        return Err(not_text());
    }
    Ok(())
}

/// A value has more bytes than one may have, as far as is known.
pub fn too_large(bytes: u64, max_value_bytes: usize) -> Problem {
    let detail = format!(
        "a value has at most {max_value_bytes} bytes (--max-value-bytes); this one has {bytes} at least"
    );
    Problem::new(Kind::ValueTooLarge, detail)
}

/// A value is not what PostgreSQL's text can hold.
pub fn not_text() -> Problem {
    let detail = "a value is UTF-8 text without U+0000: PostgreSQL's text holds nothing else";
    Problem::new(Kind::ValueNotText, detail)
}

/// A time to live in seconds; else what is wrong with it.
pub fn ttl(seconds: i64) -> Result<u32, String> {
    let within = u32::try_from(seconds).ok().filter(|ttl_s| (1..=TTL_SECONDS).contains(ttl_s));
    within.ok_or_else(|| format!("ttl is a whole number of seconds from 1 to {TTL_SECONDS}"))
}
