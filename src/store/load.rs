//! Bulk loads: pieces of lines on their way to a writer, and what became of them. A connection sends them as they came; the
//! writer takes them apart, so that no event loop has more to do with a line than to find its end. What a line means is
//! told by whoever sends it ([`Parse`]). Used by [`super::backend`] and [`super::writer`].

use super::Claim;
use crate::http::problem::{Kind, Problem};
use crate::limits::{ITEM_DETAIL_BYTES, KEY_BYTES, LOAD_ERRORS, LOAD_LINE_BYTES, LOADS};
use crate::token::Ticket;
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// How many loads there are: memory is computed by the most there may be.
#[derive(Clone, Debug, Default)]
pub struct Loads(Arc<AtomicUsize>);

/// One of them. Held by the connection, and by its piece on its way: a connection may go before its piece does.
#[derive(Debug)]
pub struct Permit(Arc<AtomicUsize>);

impl Loads {
    /// One more, if there may be.
    pub fn begin(&self) -> Option<Arc<Permit>> {
        let more = |loads| (loads < LOADS).then_some(loads + 1);
        let begun = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        begun.then(|| Arc::new(Permit(Arc::clone(&self.0))))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a line says, or why it says nothing that can be stored. The number is the most bytes that a value may have.
pub type Parse = for<'l> fn(&'l str, usize) -> Result<Row<'l>, Problem>;

/// A row as a line has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<'l> {
    /// The key.
    pub key: Cow<'l, str>,
    /// The value.
    pub value: Cow<'l, str>,
    /// When it expires.
    pub end: End<'l>,
}

/// When a loaded row expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End<'l> {
    /// Never.
    Never,
    /// So many seconds after it is stored.
    After(u32),
    /// At this time, as RFC 3339 writes it; it may be over.
    At(Cow<'l, str>),
}

/// A piece of a load. It is answered by [`super::Answer::Loaded`] if all of it is done.
#[derive(Debug)]
pub struct LoadJob {
    /// Lines as they came, whole ones.
    pub lines: Vec<u8>,
    /// The number of the first.
    pub first: u64,
    /// What they mean.
    pub parse: Parse,
    /// The largest value.
    pub max_value_bytes: usize,
    /// Who asked.
    pub ticket: Ticket,
    /// Who decides what becomes of it when its time is over.
    pub claim: Claim,
    /// When its time is over, in milliseconds of the process's clock.
    pub deadline_ms: u64,
    /// When it was put into the queue.
    pub queued: Instant,
    /// That there is room for it.
    pub permit: Arc<Permit>,
}

impl LoadJob {
    /// The rows of the lines, each with its line's number, in their order. Lines that have none are told to `loaded`.
    pub fn rows(&self, loaded: &mut Loaded) -> Vec<(u64, Row<'_>)> {
        let mut rows = Vec::new();
        let most = line_bytes(self.max_value_bytes);
        for (number, line) in (self.first..).zip(self.lines.split(|b| *b == b'\n')) {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let parsed = match std::str::from_utf8(line) {
                _ if line.len() > most => Err(too_long(most)),
                Ok(line) => (self.parse)(line, self.max_value_bytes),
                Err(_) => Err(Problem::new(Kind::BadLine, "a line is UTF-8")),
            };
            match parsed {
                Ok(row) => rows.push((number, row)),
                Err(problem) => loaded.refuse(number, problem),
            }
        }
        rows
    }
}

/// The longest line: the longest key, and the largest value, where each byte is escaped as `\u0001`.
pub fn line_bytes(max_value_bytes: usize) -> usize {
    6 * (KEY_BYTES + max_value_bytes) + LOAD_LINE_BYTES
}

fn too_long(most: usize) -> Problem {
    let detail = format!("a line has at most {most} bytes: a key and a value of --max-value-bytes, escaped");
    Problem::new(Kind::ValueTooLarge, detail)
}

/// What became of lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Lines that were stored, or that a later line of the same key has replaced.
    pub written: u64,
    /// Lines that were refused.
    pub failed: u64,
    /// Why, for the first of them, by their numbers.
    pub errors: Vec<(u64, Problem)>,
}

impl Loaded {
    /// A line was refused: behind every one that was refused before.
    pub fn refuse(&mut self, line: u64, problem: Problem) {
        if self.errors.len() < LOAD_ERRORS {
            self.refuse_row(line, problem);
        } else {
            self.failed += 1;
        }
    }

    /// The row of a line was refused, wherever that line is; [`Loaded::keep_first`] has the last word on what is told.
    pub fn refuse_row(&mut self, line: u64, problem: Problem) {
        self.failed += 1;
        self.errors.push((line, problem.said_within(ITEM_DETAIL_BYTES)));
    }

    /// Keeps the refusals that are told: the first, by their lines.
    pub fn keep_first(&mut self) {
        self.errors.sort_by_key(|(line, _)| *line);
        self.errors.truncate(LOAD_ERRORS);
    }

    /// These as well.
    pub fn add(&mut self, other: &Loaded) {
        self.written += other.written;
        self.failed += other.failed;
        let room = LOAD_ERRORS.saturating_sub(self.errors.len());
        self.errors.extend(other.errors.iter().take(room).cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Id;

    /// `key=value`; anything else is refused.
    fn parse(line: &str, _: usize) -> Result<Row<'_>, Problem> {
        let (key, value) = line.split_once('=').ok_or_else(|| Problem::new(Kind::BadLine, "no ="))?;
        Ok(Row { key: key.into(), value: value.into(), end: End::Never })
    }

    #[test]
    fn lines_have_their_numbers_whatever_stands_between_them() {
        let job = |lines: &[u8]| LoadJob {
            lines: lines.to_vec(),
            first: 11,
            parse,
            max_value_bytes: 4,
            ticket: Ticket { event_loop: 0, id: Id { slot: 0, generation: 0 }, job: 0 },
            claim: Claim::default(),
            deadline_ms: 0,
            queued: Instant::now(),
            permit: Loads::default().begin().unwrap(),
        };
        let long = vec![b'='; line_bytes(4) + 1];
        for (lines, rows, errors) in [
            (&b"a=1\nb=2\n"[..], &[(11, "a"), (12, "b")][..], &[][..]),
            (b"a=1\nb=2", &[(11, "a"), (12, "b")], &[]),
            (b"\n \r\n\na=1\n\n", &[(14, "a")], &[]),
            (b"no\na=1\n\xff=1\n", &[(12, "a")], &[(11, "bad-line"), (13, "bad-line")]),
            (&[&long[..], b"\na=1"].concat(), &[(12, "a")], &[(11, "value-too-large")]),
            (b"", &[], &[]),
        ] {
            let (job, mut loaded) = (job(lines), Loaded::default());
            let got: Vec<(u64, String)> =
                job.rows(&mut loaded).into_iter().map(|(line, row)| (line, row.key.into_owned())).collect();
            let got: Vec<(u64, &str)> = got.iter().map(|(line, key)| (*line, &**key)).collect();
            assert_eq!(got, rows);
            let refused: Vec<(u64, &str)> =
                loaded.errors.iter().map(|(line, problem)| (*line, problem.kind.facts().1)).collect();
            assert_eq!((refused.as_slice(), loaded.failed), (errors, errors.len() as u64));
        }
    }

    #[test]
    fn what_is_told_of_a_line_is_short_and_of_the_first_lines() {
        let mut loaded = Loaded::default();
        for line in 0..2 * LOAD_ERRORS as u64 {
            loaded.refuse(10 + line, Problem::new(Kind::BadLine, "ä".repeat(ITEM_DETAIL_BYTES)));
        }
        loaded.refuse_row(5, Problem::new(Kind::DatabaseRefused, "no"));
        loaded.keep_first();
        assert_eq!((loaded.failed, loaded.errors.len()), (2 * LOAD_ERRORS as u64 + 1, LOAD_ERRORS));
        assert_eq!((loaded.errors[0].0, loaded.errors[1].0), (5, 10));
        assert!(loaded.errors[1].1.detail.len() <= ITEM_DETAIL_BYTES + "…".len());
        assert!(loaded.errors[1].1.detail.ends_with("ä…"));
    }

    #[test]
    fn so_many_loads_there_are_and_no_more() {
        let loads = Loads::default();
        let mut permits: Vec<_> = (0..LOADS).map(|_| loads.begin().expect("there is room")).collect();
        assert!(loads.begin().is_none());
        permits.pop();
        assert!(loads.begin().is_some());
    }

    #[test]
    fn the_first_errors_are_told_and_all_are_counted() {
        let mut sum = Loaded::default();
        for piece in 0..3u64 {
            let mut loaded = Loaded { written: 1, ..Loaded::default() };
            for line in 0..60 {
                loaded.refuse(piece * 100 + line, Problem::new(Kind::BadLine, "no"));
            }
            sum.add(&loaded);
        }
        assert_eq!((sum.written, sum.failed, sum.errors.len()), (3, 180, LOAD_ERRORS));
        assert!(sum.errors.is_sorted_by_key(|(line, _)| *line));
    }
}
