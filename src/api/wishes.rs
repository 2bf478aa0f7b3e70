//! What a request asks for beyond its method and target: conditions (RFC 9110 section 13), directives about the cache
//! (RFC 9111 section 5.2.1), preferences (RFC 7240). Pure. Parsed by [`crate::connection`] for the requests that have
//! any of these fields.

use crate::engine::shard::Freshness;
use crate::http::conditional::Preconditions;
use crate::http::problem::Problem;
use crate::http::request::{Extras, List};
use crate::limits::WATCH_SECONDS;

/// What one request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wishes {
    /// What must be true of the row.
    pub conditions: Option<Box<Preconditions>>,
    /// What of the cache may answer a read.
    pub freshness: Freshness,
    /// The database is not to be asked.
    pub only_if_cached: bool,
    /// The answer to a write need not repeat the value.
    pub minimal: bool,
    /// So many seconds may pass until a read has something new to say.
    pub wait_s: Option<u32>,
}

impl Wishes {
    /// What the fields of a request say; `None`: nothing. Directives and preferences that are not known, or make no
    /// sense, are ignored, as both RFCs ask; conditions are not, for a write would go through without its own.
    pub fn parse(extras: &Extras<'_>) -> Result<Option<Box<Wishes>>, Problem> {
        if extras.lists.is_empty() {
            return Ok(None);
        }
        let mut wishes = Wishes {
            conditions: Preconditions::parse(extras)?,
            freshness: Freshness::Any,
            only_if_cached: false,
            minimal: false,
            wait_s: None,
        };
        for (name, value) in elements(extras, List::CacheControl) {
            wishes.direct(name, value);
        }
        // Of a preference that is there twice the first counts (RFC 7240 section 2).
        let (mut returns, mut waits) = (false, false);
        for (name, value) in elements(extras, List::Prefer) {
            if name.eq_ignore_ascii_case("return") && !std::mem::replace(&mut returns, true) {
                wishes.minimal = unquoted(value).eq_ignore_ascii_case("minimal");
            } else if name.eq_ignore_ascii_case("wait") && !std::mem::replace(&mut waits, true) {
                wishes.wait_s = seconds(value).map(|wait_s| wait_s.min(WATCH_SECONDS));
            }
        }
        Ok(Some(Box::new(wishes)))
    }

    /// One directive. Of several the strictest counts.
    fn direct(&mut self, name: &str, value: &str) {
        let asked = match name {
            _ if name.eq_ignore_ascii_case("no-store") => Freshness::Uncached,
            _ if name.eq_ignore_ascii_case("no-cache") => Freshness::Now,
            _ if name.eq_ignore_ascii_case("max-age") => match seconds(value) {
                // Asked for with every reload of a page: what was read within this second would do as well.
                Some(0) => Freshness::Now,
                Some(most_s) => Freshness::AtMost(most_s),
                None => return,
            },
            _ if name.eq_ignore_ascii_case("only-if-cached") => {
                self.only_if_cached = true;
                return;
            }
            _ => return,
        };
        self.freshness = match (self.freshness, asked) {
            (Freshness::Uncached, _) | (_, Freshness::Uncached) => Freshness::Uncached,
            (Freshness::Now, _) | (_, Freshness::Now) => Freshness::Now,
            (Freshness::AtMost(one), Freshness::AtMost(other)) => Freshness::AtMost(one.min(other)),
            (_, asked) => asked,
        };
    }

    /// True for a read that waits for a change: it says what it has.
    pub fn is_watch(&self) -> bool {
        self.wait_s.is_some_and(|wait_s| wait_s > 0)
            && self.conditions.as_ref().is_some_and(|conditions| conditions.has_if_none_match())
    }
}

/// Name and value of every element of a list that is text. A preference may have parameters behind a semicolon (RFC 7240 section 2): none
/// is known here.
fn elements<'b>(extras: &Extras<'b>, list: List) -> impl Iterator<Item = (&'b str, &'b str)> {
    extras.lines(list).flat_map(|line| parts(line, b',')).filter_map(|element| {
        let element = std::str::from_utf8(parts(element, b';').next()?).ok()?;
        let (name, value) = element.split_once('=').unwrap_or((element, ""));
        Some((name.trim(), value.trim()))
    })
}

/// The elements of a list's line, or what semicolons part in one of them. What stands within quotes parts nothing (RFC 9110 section 5.6.4). A
/// quote that is never closed is none, nor is any behind it: it hides no element, and is looked for once.
pub fn parts(line: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut rest, mut quotes) = (Some(line), true);
    std::iter::from_fn(move || {
        let line = rest?;
        let mut end = 0;
        while end < line.len() && line[end] != separator {
            if line[end] == b'"' && quotes {
                let closed = closing_quote(&line[end + 1..]);
                quotes = closed.is_some();
                end += closed.map_or(0, |behind| behind + 1);
            }
            end += 1;
        }
        rest = line.get(end + 1..);
        Some(&line[..end])
    })
}

/// Where what is quoted ends.
fn closing_quote(quoted: &[u8]) -> Option<usize> {
    let mut escaped = false;
    quoted.iter().position(|byte| {
        let literal = std::mem::take(&mut escaped);
        escaped = !literal && *byte == b'\\';
        !literal && *byte == b'"'
    })
}

/// RFC 9111 section 1.2.2: delta-seconds; what is too large for us is as good as the largest.
fn seconds(value: &str) -> Option<u32> {
    let digits = unquoted(value);
    let some = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    some.then(|| digits.parse().unwrap_or(u32::MAX))
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes(lists: &[(List, &'static str)]) -> Option<Wishes> {
        let lists = lists.iter().map(|(list, line)| (*list, line.as_bytes())).collect();
        Wishes::parse(&Extras { lists, ..Extras::default() }).unwrap().map(|wishes| *wishes)
    }

    #[test]
    fn directives_say_what_of_the_cache_may_answer() {
        for (line, freshness, only_if_cached) in [
            ("no-cache", Freshness::Now, false),
            ("No-Store", Freshness::Uncached, false),
            ("max-age=5", Freshness::AtMost(5), false),
            ("max-age=\"5\", max-age=7", Freshness::AtMost(5), false),
            ("max-age=0", Freshness::Now, false),
            ("max-age=99999999999", Freshness::AtMost(u32::MAX), false),
            ("max-age=-1", Freshness::Any, false),
            ("max-age", Freshness::Any, false),
            ("only-if-cached, max-age=3", Freshness::AtMost(3), true),
            ("no-cache, no-store", Freshness::Uncached, false),
            ("max-age=5, no-cache", Freshness::Now, false),
            ("max-stale=9, no-transform, private", Freshness::Any, false),
            ("ext=\"a, only-if-cached, b\"", Freshness::Any, false),
            ("ext=\"\\\", no-store, \", max-age=3", Freshness::AtMost(3), false),
            ("ext=\"a\", only-if-cached", Freshness::Any, true),
            ("ext=\\\", max-age=3, x=\"", Freshness::Any, false),
            // A quote that is never closed is none.
            ("ext=\"x, no-store", Freshness::Uncached, false),
            ("a=\"b, no-store\", ext=\", max-age=3, only-if-cached", Freshness::AtMost(3), true),
            ("ext=\"\\\", no-cache, \\\"", Freshness::Now, false),
        ] {
            let wishes = wishes(&[(List::CacheControl, line)]).unwrap();
            assert_eq!((wishes.freshness, wishes.only_if_cached), (freshness, only_if_cached), "{line}");
        }
    }

    #[test]
    fn preferences_are_read_with_or_without_parameters() {
        for (line, minimal, wait_s) in [
            ("return=minimal", true, None),
            ("return=\"minimal\"; foo", true, None),
            ("Return = Minimal, wait=10", true, Some(10)),
            ("return=representation", false, None),
            ("return=representation, wait=1, return=minimal, wait=2", false, Some(1)),
            ("wait=99999", false, Some(WATCH_SECONDS)),
            ("wait=soon, handling=lenient", false, None),
            ("respond-async;x=1", false, None),
            ("wait; x=5", false, None),
            ("wait=5; x=6", false, Some(5)),
            ("wait ;x=1, return;minimal=minimal", false, None),
            ("return=\"minimal\" ; a=\"b; c=d\", wait=\"5\";x", true, Some(5)),
            ("other=\"a;return=minimal\", return=\"minimal;x\"", false, None),
            ("other=\"return=minimal, wait=9\", wait=2", false, Some(2)),
        ] {
            let wishes = wishes(&[(List::Prefer, line)]).unwrap();
            assert_eq!((wishes.minimal, wishes.wait_s), (minimal, wait_s), "{line}");
        }
        assert_eq!(wishes(&[]), None);
        assert!(!wishes(&[(List::Prefer, "wait=5")]).unwrap().is_watch());
        assert!(wishes(&[(List::Prefer, "wait=5"), (List::IfNoneMatch, "\"1\"")]).unwrap().is_watch());
    }
}
