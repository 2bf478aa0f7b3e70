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
use memchr::memchr;

/// The last field section of HTTP/1.1 that was read and accepted, and is as most are: without a content, and without a
/// field by which a GET is answered otherwise.
///
/// Invariant: unless `section` is empty, it is a whole field section with its empty line, each of its lines ends in
/// CRLF, and [`super::parse`] has taken a head with it for one that keeps the connection or not, as is remembered.
#[derive(Debug, Default)]
pub struct Repeat {
    section: Vec<u8>,
    keep_alive: bool,
}

/// A request that is known without its fields being read.
#[derive(Debug, PartialEq, Eq)]
pub struct LiteralGet<'b> {
    /// Its path: ASCII that stands for itself, with neither escape nor query.
    pub path: &'b [u8],
    /// Whether the connection may go on after the answer.
    pub keep_alive: bool,
    /// Length of the head with its last empty line.
    pub bytes: usize,
}

impl Repeat {
    /// The request at the front of `bytes`, if it is a GET of a literal path with the remembered fields.
    ///
    /// The line ends at the first LF; between the method and the version stands a target that every rule of a request line
    /// lets through; what follows begins with a section that was accepted behind such a line. Both parts are
    /// read without a look at the other, but for the version: so the verdict about the whole is the same.
    #[inline(always)]
    pub fn literal_get<'b>(&self, bytes: &'b [u8]) -> Option<LiteralGet<'b>> {
        let (line, rest) = bytes.split_at(memchr(b'\n', bytes)? + 1);
        if self.section.is_empty() || !rest.starts_with(&self.section) {
            return None;
        }
        let path = line.strip_prefix(b"GET ")?.strip_suffix(b" HTTP/1.1\r\n")?;
        let bytes = line.len() + self.section.len();
        let is_within = line.len() <= REQUEST_LINE_BYTES && bytes <= HEAD_BYTES;
        let known = is_within && path.first() == Some(&b'/') && scan::is_literal(path);
        known.then_some(LiteralGet { path, keep_alive: self.keep_alive, bytes })
    }

    /// Remembers a section that was accepted, if it is as most are.
    pub(super) fn remember(&mut self, section: &[u8], headers: &[httparse::Header<'_>], meaning: Meaning) {
        let Meaning { framing, keep_alive, expects_continue } = meaning;
        // What such a request brings does not push out what the GETs between two of them bring.
        if framing != Framing::None || expects_continue || section.len() > FIELDS_REMEMBERED_BYTES {
            return;
        }
        let is_usual = |name: &str| match Name::of(name) {
            None => !name.eq_ignore_ascii_case("Cookie"),
            // A value is of one type whatever is accepted, and a GET has no content.
            Some(Name::Accept | Name::ContentEncoding | Name::ContentRange | Name::ContentType) => true,
            // Other clients' requests are compared with what is here: how long that takes may not tell a secret.
            Some(Name::Authorization) => false,
            Some(Name::Origin | Name::RequestId | Name::List(_)) => false,
        };
        if headers.iter().all(|header| is_usual(header.name)) {
            self.section.clear();
            self.section.extend_from_slice(section);
            self.keep_alive = keep_alive;
        }
    }
}
