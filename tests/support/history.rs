//! What clients did to keys and what they were told, with times of one clock; and the values they did it with. Judged
//! by [`super::linearizable`]. Knows no socket: `load.rs` fills it.

use super::linearizable::{self, Prior, Violation};
use super::random_text;
use std::collections::BTreeMap;
use std::fmt;

/// One operation on one key. Those that certainly had no effect and told nothing are not in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who did it.
    pub client: u32,
    /// When it began, in nanoseconds: before the first byte was sent.
    pub begin_ns: u64,
    /// When it ended: after the last byte of the answer was there.
    pub end_ns: u64,
    /// What it was, and its answer.
    pub what: What,
}

/// What an operation was and what came of it. Values are told by their numbers, which no two writes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// GET: 200 with this value, or 404.
    Get(Option<u64>),
    /// PUT: 200 where there was a row before, 201 where not.
    Put {
        /// What it stored.
        value: u64,
        /// There was a row before.
        existed: bool,
    },
    /// A line of a bulk load: it is stored, and nobody is told whether there was a row before.
    Loaded(u64),
    /// DELETE: 204 where there was a row, 404 where not.
    Delete {
        /// There was a row before.
        existed: bool,
    },
    /// PUT with `If-Match` of the row with the one value: 200, it has the other one now.
    Swap {
        /// What was there.
        from: u64,
        /// What it stored.
        value: u64,
    },
    /// The same: 412, the row had not this value.
    NotSwapped(u64),
    /// PUT with `If-None-Match: *`: 412, there was a row. (201 is a [`What::Put`] where none was.)
    Exists,
    /// PUT without a known outcome: it took effect at any time after its beginning, or does so later, or never.
    MaybePut(u64),
    /// DELETE without a known outcome.
    MaybeDelete,
    /// `op=incr` by 1: the number that it has made of the one before; an absent key counts from 0. On a key with any of
    /// these, a counter, values are numbers and there are only reads and deletes besides.
    Count(u64),
    /// The same without a known outcome: 1 was added at any time after its beginning, or is later, once, or never.
    MaybeCount,
}

impl What {
    /// Its outcome is known: it took effect between its beginning and its end.
    pub fn is_certain(&self) -> bool {
        !matches!(self, What::MaybePut(_) | What::MaybeDelete | What::MaybeCount)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ns: u64| ns as f64 / 1e6;
        write!(f, "{:12.6} … {:12.6} ms  client {:3}  ", ms(self.begin_ns), ms(self.end_ns), self.client)?;
        match self.what {
            What::Get(Some(value)) => write!(f, "GET    200 {value:x}"),
            What::Get(None) => write!(f, "GET    404"),
            What::Put { value, existed } => write!(f, "PUT    {} {value:x}", if existed { 200 } else { 201 }),
            What::Loaded(value) => write!(f, "LOAD   200 {value:x}"),
            What::Delete { existed } => write!(f, "DELETE {}", if existed { 204 } else { 404 }),
            What::Swap { from, value } => write!(f, "PUT    200 {value:x} instead of {from:x}"),
            What::NotSwapped(from) => write!(f, "PUT    412 instead of {from:x}"),
            What::Exists => write!(f, "PUT    412 instead of none"),
            What::MaybePut(value) => write!(f, "PUT    unknown {value:x}"),
            What::MaybeDelete => write!(f, "DELETE unknown"),
            What::Count(number) => write!(f, "INCR   to {number:x}"),
            What::MaybeCount => write!(f, "INCR   unknown"),
        }
    }
}

/// All operations of a run, by key.
#[derive(Clone, Debug, Default)]
pub struct History {
    keys: BTreeMap<String, Vec<Operation>>,
}

impl History {
    /// Adds an operation.
    pub fn push(&mut self, key: &str, operation: Operation) {
        match self.keys.get_mut(key) {
            Some(operations) => operations.push(operation),
            None => {
                self.keys.insert(key.to_owned(), vec![operation]);
            }
        }
    }

    /// Adds another's operations.
    pub fn extend(&mut self, other: History) {
        for (key, operations) in other.keys {
            self.keys.entry(key).or_default().extend(operations);
        }
    }

    /// All of a key's operations by their beginnings, a line each.
    pub fn lines_of(&self, key: &str) -> String {
        let mut operations = self.keys.get(key).cloned().unwrap_or_default();
        operations.sort_by_key(|operation| operation.begin_ns);
        operations.iter().map(|operation| format!("{operation}\n")).collect()
    }

    /// What was recorded last of a key.
    pub fn last(&self, key: &str) -> Option<What> {
        self.keys.get(key)?.last().map(|operation| operation.what)
    }

    /// How many operations there are.
    pub fn len(&self) -> usize {
        self.keys.values().map(Vec::len).sum()
    }

    /// Those that meet a condition.
    pub fn count(&self, condition: impl Fn(&What) -> bool) -> usize {
        self.keys.values().flatten().filter(|operation| condition(&operation.what)).count()
    }

    /// Looks for a key that no order of its operations explains. Every key begins absent.
    pub fn check(&self, prior: Prior) -> Result<(), (String, Violation)> {
        for (key, operations) in &self.keys {
            linearizable::check(operations, prior).map_err(|violation| (key.clone(), violation))?;
        }
        Ok(())
    }
}

/// The text that is stored for a value's number: the number, and some text that follows from it.
pub fn text_of(value: u64) -> String {
    // Mostly small, so that a small cache holds some; now and then one that is sent from the cache's memory.
    let bytes = match value % 64 {
        0 => 6_000,
        n => n as usize * 8,
    };
    format!("{value:016x} {}", random_text(bytes, value))
}

/// The number of a value that came back; fails if a single byte is not as it was stored.
pub fn value_of(text: &str) -> u64 {
    let value = text.get(..16).and_then(|number| u64::from_str_radix(number, 16).ok());
    let value = value.unwrap_or_else(|| panic!("nobody ever wrote {text:?}"));
    assert_eq!(text_of(value), text, "a value came back changed");
    value
}

/// What the name of a key that is only counted with ends in.
pub const COUNTER: &str = "-count";

/// What came back as the value of this key: the number of a write, or of a counter the number that it is at.
pub fn value_at(key: &str, text: &str) -> u64 {
    if !key.ends_with(COUNTER) {
        return value_of(text);
    }
    let number = text.parse().unwrap_or_else(|_| panic!("nobody ever counted to {text:?}"));
    assert_eq!(format!("{number}"), text, "a number came back changed");
    number
}
