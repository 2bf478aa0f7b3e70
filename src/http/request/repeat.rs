//! Fields that are sent again. A client that keeps its connection sends the same fields with each of its requests, byte
//! for byte; only the request line is another one. What a field section means depends on its bytes and the version
//! alone: so the last one that was read is remembered with its meaning, and one that is the same need not be read
//! again. Called by [`super`].

use super::fields::{Extras, Meaning, Name};
use crate::limits::FIELDS_REMEMBERED_BYTES;
use std::ops::Range;

/// The last field section of HTTP/1.1 that was read and accepted.
///
/// Invariant: unless `section` is empty, it is a whole field section with its empty line, each of its lines ends in
/// CRLF, and [`super::parse`] has taken a head with it for `meaning` and for the values that lie at `noted`.
#[derive(Debug, Default)]
pub struct Repeat {
    section: Vec<u8>,
    meaning: Option<Meaning>,
    noted: Vec<(Name, Range<usize>)>,
}

impl Repeat {
    /// If `bytes` begin with the remembered section: what it means, and where it lies.
    #[inline]
    pub(super) fn recall<'b>(&self, bytes: &'b [u8]) -> Option<(Meaning, &'b [u8])> {
        let section = bytes.get(..self.section.len()).filter(|section| *section == self.section)?;
        Some((self.meaning?, section))
    }

    /// True where the remembered section has any of the fields that some resource looks at.
    #[inline]
    pub(super) fn has_extras(&self) -> bool {
        !self.noted.is_empty()
    }

    /// Takes these fields out of a section that is the remembered one.
    pub(super) fn extras<'b>(&self, section: &'b [u8]) -> Extras<'b> {
        let mut extras = Extras::default();
        for (name, at) in &self.noted {
            extras.note(*name, &section[at.clone()]);
        }
        extras
    }

    /// Remembers a section that was accepted, and its fields.
    pub(super) fn remember(&mut self, section: &[u8], headers: &[httparse::Header<'_>], meaning: Meaning) {
        self.section.clear();
        self.noted.clear();
        self.meaning = None;
        if section.len() > FIELDS_REMEMBERED_BYTES {
            return;
        }
        for httparse::Header { name, value } in headers {
            // Other clients' requests are compared with what is here: how long that takes may not tell a secret.
            if ["Authorization", "Cookie"].iter().any(|secret| name.eq_ignore_ascii_case(secret)) {
                return;
            }
            if let Some(name) = Name::of(name) {
                // A value is a part of the section, wherever that lies.
                let at = (value.as_ptr() as usize).wrapping_sub(section.as_ptr() as usize);
                let at = at..at.saturating_add(value.len());
                if section.get(at.clone()).is_none() {
                    return;
                }
                self.noted.push((name, at));
            }
        }
        self.section.extend_from_slice(section);
        self.meaning = Some(meaning);
    }
}
