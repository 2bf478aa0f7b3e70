//! The shortest way to read a request, which most of them can go: a GET of a path that stands for itself, with the fields of
//! the request before it. A client that keeps its connection sends the same fields with each of its requests, byte for
//! byte; only the request line is another one. What a field section means depends on its bytes and the version alone:
//! so the last one that asked for nothing in particular is remembered, and one that is the same need not be read again.
//!
//! It gives no verdict but one: where it knows a request, [`super::parse`] says the same of it. Called by [`crate::connection`],
//! and by [`super`] with what it has read.

use super::fields::{Meaning, Name};
use super::{Framing, REQUEST_LINE_BYTES};
use crate::http::scan;
use crate::limits::{FIELDS_REMEMBERED_BYTES, HEAD_BYTES};

/// What followed the target in the last head of HTTP/1.1 that was read and accepted, and is as most are: without a
/// content, and without a field by which a GET is answered otherwise.
///
/// Invariant: unless `ending` is empty, it is `VERSION` and a whole field section with its empty line, each of its lines ends
/// in CRLF, and [`super::parse`] has taken a head with it for one that keeps the connection or not, as is remembered.
#[derive(Debug, Default)]
pub struct Repeat {
    ending: Vec<u8>,
    keep_alive: bool,
}

/// How the line of a GET begins, up to its target.
const METHOD: &[u8] = b"GET ";
/// How a request line ends, from the blank behind its target.
const VERSION: &[u8] = b" HTTP/1.1\r\n";

/// The path that the request at the front of `bytes` is a GET of, if it is ASCII that stands for itself: with neither escape nor
/// query. What follows it has not been looked at.
#[inline(always)]
pub fn literal_path(bytes: &[u8]) -> Option<&[u8]> {
    let line = bytes.strip_prefix(b"GET /")?;
    let end = METHOD.len() + 1 + scan::literal_start(line)?;
    Some(&bytes[METHOD.len()..end])
}

/// A GET that is known without its fields being read.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    /// Whether the connection may go on after the answer.
    pub keep_alive: bool,
    /// Length of the head with its last empty line.
    pub bytes: usize,
}

impl Repeat {
    /// What is known of the request at the front of `bytes`, whose [`literal_path`] is `path`, if the rest of it is what is
    /// remembered.
    ///
    /// Between the method and the blank behind it stands a target that every rule of a request line lets through; from
    /// there on it is what was accepted behind such a target. Both parts are read without a look at the other: so the verdict
    /// about the whole is the same.
    #[inline(always)]
    pub fn known(&self, path: &[u8], bytes: &[u8]) -> Option<Known> {
        let line = METHOD.len() + path.len();
        if self.ending.is_empty() || !bytes.get(line..)?.starts_with(&self.ending) {
            return None;
        }
        let bytes = line + self.ending.len();
        let is_within = path.len() <= REQUEST_LINE_BYTES - b"GET  HTTP/1.1".len() && bytes <= HEAD_BYTES;
        is_within.then_some(Known { keep_alive: self.keep_alive, bytes })
    }

    /// Remembers what follows the target in a head that was accepted, from the blank on, if it is as most are.
    pub(super) fn remember(&mut self, ending: &[u8], headers: &[httparse::Header<'_>], meaning: Meaning) {
        let Meaning { framing, keep_alive, expects_continue } = meaning;
        // What such a request brings does not push out what the GETs between two of them bring.
        if framing != Framing::None
            || expects_continue
            || ending.len() > VERSION.len() + FIELDS_REMEMBERED_BYTES
        {
            return;
        }
        let mut accepts = false;
        let mut is_usual = |name: &str| match Name::of(name) {
            None => !name.eq_ignore_ascii_case("Cookie"),
            // A value is of one type whatever is accepted, and a GET has no content.
            Some(Name::Accept) => !std::mem::replace(&mut accepts, true),
            Some(Name::ContentEncoding | Name::ContentRange | Name::ContentType) => true,
            // Other clients' requests are compared with what is here: how long that takes may not tell a secret.
            Some(Name::Authorization) => false,
            Some(Name::Origin | Name::RequestId | Name::List(_)) => false,
        };
        if headers.iter().all(|header| is_usual(header.name)) {
            debug_assert!(ending.starts_with(VERSION), "a line ended otherwise");
            self.ending.clear();
            self.ending.extend_from_slice(ending);
            self.keep_alive = keep_alive;
        }
    }
}
