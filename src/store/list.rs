//! Lists of keys: which range of them a page is of, and what is in it. Pure. Asked for by [`crate::connection`], read
//! by [`super::reader`]; a list never touches the cache.

use crate::engine::Value;
use crate::token::Ticket;
use std::time::Instant;

/// A page on its way to a reader.
#[derive(Debug)]
pub struct PageJob {
    /// What is to be in it.
    pub range: Range,
    /// Who asked.
    pub ticket: Ticket,
    /// When it was queued.
    pub queued: Instant,
}

/// Keys in the order of their code points, which is the order of their bytes in UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first that may be in it.
    pub from: Box<str>,
    /// The first that may not. None: whatever is behind may, for no text is greater than every key that SQL can make.
    pub to: Option<Box<str>>,
    /// So many rows at most.
    pub rows: u32,
    /// As long as the rows before are fewer bytes than this.
    pub bytes: usize,
    /// With their values, or keys only.
    pub values: bool,
}

/// Some rows of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// In the order of their keys.
    pub rows: Vec<PageRow>,
    /// There are others behind them.
    pub more: bool,
}

/// One row of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRow {
    /// The key.
    pub key: Box<str>,
    /// The version.
    pub version: u32,
    /// The value, if it was asked for.
    pub value: Option<Value>,
    /// When the row expires, if it does: RFC 3339, in UTC.
    pub expires_at: Option<Box<str>>,
}

impl Range {
    /// The keys with a prefix, behind one of them if that is given.
    pub fn new(prefix: &str, after: Option<&str>, rows: u32, bytes: usize, values: bool) -> Range {
        // The first text behind a key is the key with the least character that a key may have. Without a prefix a list begins
        // behind the empty key: a row that has it was made in SQL, and no request reaches it.
        let from = match after {
            None if !prefix.is_empty() => prefix.to_owned(),
            after => format!("{}\u{1}", after.unwrap_or_default()),
        };
        Range { from: from.into(), to: behind(prefix), rows, bytes, values }
    }
}

/// The first text that is greater than every text with this prefix, if there is one: its last character that has a next one is
/// replaced by that.
fn behind(prefix: &str) -> Option<Box<str>> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // The surrogates are no characters: what follows U+D7FF is U+E000.
        if let Some(next) = (last..=char::MAX).nth(1) {
            text.push(next);
            return Some(text.into());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_behind_a_prefix_begins_with_the_next_character() {
        for (prefix, expected) in [
            ("a", Some("b")),
            ("ab", Some("ac")),
            ("a\u{7f}", Some("a\u{80}")),
            ("ä", Some("å")),
            ("a\u{d7ff}", Some("a\u{e000}")),
            ("a\u{10ffff}", Some("b")),
            ("a\u{10ffff}\u{10ffff}", Some("b")),
            ("\u{10ffff}", None),
            ("", None),
        ] {
            assert_eq!(behind(prefix).as_deref(), expected, "{prefix:?}");
        }
    }

    proptest! {
        #[test]
        fn a_range_has_exactly_the_keys_with_its_prefix(prefix in "[a-b\u{d7ff}\u{10ffff}]{0,3}", key in "[a-c\u{1}\u{d7ff}\u{e000}\u{10ffff}]{1,5}") {
            let range = Range::new(&prefix, None, 1, 1, false);
            let is_before_its_end = range.to.is_none_or(|to| *key < *to);
            prop_assert_eq!(*range.from <= *key && is_before_its_end, key.starts_with(&prefix));
        }

        #[test]
        fn nothing_is_between_a_key_and_what_follows_it(key in "[a-b\u{10ffff}]{1,4}", other in "[\u{1}a-b\u{10ffff}]{1,5}") {
            let range = Range::new("", Some(&key), 1, 1, false);
            prop_assert_eq!(*range.from <= *other, *other > *key);
        }
    }
}
