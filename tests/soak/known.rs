//! What the one client that writes a key knows of it: its value, or, after a write whose outcome nobody knows, the
//! values that it may have. Values are cut out of one pool of text, so that knowing a megabyte takes a few bytes.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use super::support::random_text;

/// The largest value.
pub const LARGEST: usize = 100 * 1024;
/// Values begin anywhere before this.
const STARTS: u64 = 1 << 18;

static POOL: LazyLock<String> = LazyLock::new(|| random_text(STARTS as usize + LARGEST, 17));

/// How far the clocks of PostgreSQL and of this program may be apart, and a whole second in which hotrow rounds.
const CLOCKS: Duration = Duration::from_millis(1_500);

/// One thing that a key may be.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    Absent,
    /// Nobody knows: after something was found that nothing explains.
    Anything,
    Value {
        /// Where it begins in the pool, and how long it is.
        start: u64,
        bytes: usize,
        /// Between these it is gone.
        expires: Option<(Instant, Instant)>,
    },
}

impl State {
    /// The value of a write with this number.
    pub fn value(number: u64, bytes: usize, expires: Option<(Instant, Instant)>) -> State {
        State::Value { start: number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % STARTS, bytes, expires }
    }

    pub fn text(&self) -> &'static str {
        match self {
            State::Absent | State::Anything => "",
            State::Value { start, bytes, .. } => &POOL[*start as usize..*start as usize + bytes],
        }
    }

    /// May a read that was sent and answered at these times have found this?
    fn explains(&self, found: Option<&[u8]>, sent: Instant, answered: Instant) -> bool {
        match (self, found) {
            (State::Anything, _) => true,
            (State::Absent, found) => found.is_none(),
            (State::Value { expires, .. }, None) => {
                expires.is_some_and(|(from, _)| answered + CLOCKS >= from)
            }
            (State::Value { expires, .. }, Some(found)) => {
                expires.is_none_or(|(_, to)| sent <= to + CLOCKS) && self.text().as_bytes() == found
            }
        }
    }

    fn is_lasting(&self) -> bool {
        !matches!(self, State::Anything | State::Value { expires: Some(_), .. })
    }
}

/// One key: what it was at last, and what may have been written since, in this order. Never empty.
#[derive(Clone, Debug)]
pub struct Known {
    may_be: Vec<State>,
    /// Of the value that it certainly has.
    pub etag: Option<String>,
}

impl Known {
    pub fn absent() -> Known {
        Known { may_be: vec![State::Absent], etag: None }
    }

    /// What it certainly is, and stays while nobody writes.
    pub fn certain(&self) -> Option<&State> {
        match self.may_be.as_slice() {
            [one] if one.is_lasting() => Some(one),
            _ => None,
        }
    }

    /// A write was acknowledged.
    pub fn is_now(&mut self, state: State, etag: Option<String>) {
        self.may_be = vec![state];
        self.etag = etag;
    }

    /// A write may have happened, or may happen yet.
    pub fn may_be(&mut self, state: State) {
        self.may_be.push(state);
        self.etag = None;
    }

    /// A read has found this; an error if nothing explains it.
    pub fn found(
        &mut self,
        found: Option<&[u8]>,
        etag: Option<String>,
        sent: Instant,
        answered: Instant,
    ) -> Result<(), String> {
        match self.may_be.iter().position(|state| state.explains(found, sent, answered)) {
            Some(at) => {
                // What was before it is over; what comes behind it may still come.
                self.may_be.drain(..at);
                self.etag = if self.may_be.len() == 1 { etag } else { None };
                Ok(())
            }
            None => {
                let found =
                    found.map(|bytes| String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned());
                let message = format!("found {found:?}, and it may be {:.300}", format!("{:?}", self.may_be));
                // Once is enough.
                self.may_be = vec![State::Anything];
                self.etag = None;
                Err(message)
            }
        }
    }
}
