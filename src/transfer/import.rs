//! `hotrow import`: lines of a file in pieces, one request each, one after the other, so that of two lines with one key the
//! later one wins as it stands in the file. To store a line twice does no harm: what is not known to be done is sent again.
//! A thread reads ahead; the main one sends and waits. Called by [`crate::commands`].

use super::lines::{Piece, next_piece, skip};
use super::progress::Progress;
use super::remote::{Remote, Trouble};
use super::report::{self, Report, Verdict};
use super::{Patience, when_stopped};
use crate::config::transfer::{Import, is_dash};
use crate::process::say;
use crossbeam_channel::{Receiver, bounded};
use memchr::memchr_iter;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

/// Pieces that are read and wait to be sent.
const AHEAD: usize = 2;
/// Refusals that are told one by one; the rest is counted.
const TOLD: u64 = 100;

/// An import on its way.
struct Work {
    remote: Remote,
    progress: Progress,
    patience: Patience,
    /// What lines are said to be in.
    name: String,
    /// All lines up to this one are done.
    done: Arc<AtomicU64>,
    bytes: u64,
    written: u64,
    refused: u64,
    told: u64,
}

/// Stores what the flags say. Returns how many rows were stored, and how many lines refused.
pub fn run(import: &Import) -> Result<(u64, u64), String> {
    let remote = Remote::new(&import.remote)?;
    let Input { name, reader, size } = Input::open(&import.file)?;
    let mut input = BufReader::with_capacity(1024 * 1024, reader);
    let cannot_read = |name: &str, error: &io::Error| format!("cannot read {name}: {error}");
    let passed_over = import.from_line.get() - 1;
    let (lines, bytes) = skip(&mut input, passed_over).map_err(|e| cannot_read(&name, &e))?;
    if lines < passed_over {
        return Err(format!("--from-line {}: {name} has {lines} lines", import.from_line));
    }
    let done = Arc::new(AtomicU64::new(passed_over));
    let (so_far, again) = (Arc::clone(&done), import.clone());
    when_stopped(move || how_to_go_on(&again, so_far.load(Ordering::Relaxed)))?;
    let (sender, pieces) = bounded(AHEAD);
    let reader = thread::Builder::new().name("reader".into()).spawn(move || {
        let mut first = passed_over + 1;
        while let Some(piece) = next_piece(&mut input, first).transpose() {
            first += piece.as_ref().map_or(0, |piece| piece.lines);
            let failed = piece.is_err();
            if sender.send(piece).is_err() || failed {
                break;
            }
        }
    });
    let reader = reader.map_err(|e| format!("cannot start a thread: {e}"))?;
    let progress = Progress::start(size);
    progress.begin_at(bytes);
    let patience = Patience::new(import.remote.retry_for, Instant::now());
    let mut work = Work { remote, progress, patience, name, done, bytes, written: 0, refused: 0, told: 0 };
    let stored = work.store(&pieces).and_then(|()| reader.join().map_err(|_| "the reader has failed".into()));
    work.progress.end();
    if work.refused > work.told {
        say(format_args!("hotrow: {} more lines were refused", work.refused - work.told));
    }
    let done = work.done.load(Ordering::Relaxed);
    match stored {
        Ok(()) => Ok((work.written, work.refused)),
        Err(line) if done == passed_over => Err(line),
        Err(line) => Err(format!("{line}; {}", how_to_go_on(import, done))),
    }
}

/// What there is to read.
struct Input {
    /// What it is called.
    name: String,
    reader: Box<dyn Read + Send>,
    /// Its bytes, if that is known.
    size: Option<u64>,
}

impl Input {
    fn open(path: &Path) -> Result<Input, String> {
        if is_dash(path) {
            let reader = beginning("stdin", Box::new(io::stdin()))?;
            return Ok(Input { name: "stdin".into(), reader, size: None });
        }
        let name = path.display().to_string();
        let cannot = |error: io::Error| format!("cannot read {name}: {error}");
        let file = File::open(path).map_err(cannot)?;
        let metadata = file.metadata().map_err(cannot)?;
        if metadata.is_dir() {
            return Err(format!("cannot read {name}: it is a folder"));
        }
        // A pipe has no end that is known.
        let size = if metadata.is_file() { Some(metadata.len()) } else { None };
        let reader = beginning(&name, Box::new(file))?;
        Ok(Input { name, reader, size })
    }
}

/// Looks at the first bytes: a byte order mark is left out, as some editors put it there; what gzip, zstd, bzip2 or xz has
/// compressed is told at once instead of line by line.
fn beginning(name: &str, mut reader: Box<dyn Read + Send>) -> Result<Box<dyn Read + Send>, String> {
    let mut first = Vec::new();
    reader.by_ref().take(4).read_to_end(&mut first).map_err(|e| format!("cannot read {name}: {e}"))?;
    let program = match first[..] {
        [0x1f, 0x8b, ..] => "zcat",
        [0x28, 0xb5, 0x2f, 0xfd] => "zstdcat",
        [b'B', b'Z', b'h', ..] => "bzcat",
        [0xfd, b'7', b'z', b'X'] => "xzcat",
        _ => {
            let mark = if first.starts_with(&[0xef, 0xbb, 0xbf]) { 3 } else { 0 };
            return Ok(Box::new(io::Cursor::new(first.split_off(mark)).chain(reader)));
        }
    };
    Err(format!("{name} is compressed: {program} it, and import - from the pipe"))
}

fn how_to_go_on(import: &Import, done: u64) -> String {
    format!("line {done} is done; go on with: {}", import.command_behind(done))
}

impl Work {
    /// Sends all pieces.
    fn store(&mut self, pieces: &Receiver<io::Result<Piece>>) -> Result<(), String> {
        // A slow pipe is no fault of the server's: patience begins with each piece.
        for piece in pieces {
            let piece = piece.map_err(|e| format!("cannot read {}: {e}", self.name))?;
            self.patience.renew(Instant::now());
            self.send(&piece)?;
        }
        Ok(())
    }

    /// Sends one piece, or what is left of it, until all of it is done.
    fn send(&mut self, piece: &Piece) -> Result<(), String> {
        let (mut left, mut sent, mut said) = (&piece.bytes[..], 0, String::new());
        loop {
            let (first, lines) = (piece.first + sent, piece.lines - sent);
            let (report, reason, wish) = match self.remote.load(left) {
                Ok(answer) => {
                    match report::judge(lines, answer.status, answer.retry_after, &answer.content) {
                        Verdict::Done(report) => {
                            self.count(&report, first, left.len());
                            return Ok(());
                        }
                        Verdict::Again(report, reason, wish) => (report, self.remote.about(&reason), wish),
                        Verdict::Never(reason) => return Err(self.remote.about(&reason)),
                    }
                }
                Err(Trouble::MayPass(reason, wish)) => (Report::default(), reason, wish),
                Err(Trouble::Stays(reason)) => return Err(reason),
            };
            let bytes = bytes_of(left, report.lines);
            self.count(&report, first, bytes);
            (left, sent) = (&left[bytes..], sent + report.lines);
            if left.is_empty() {
                // All was done before it failed.
                return Ok(());
            }
            if report.lines > 0 {
                self.patience.renew(Instant::now());
            }
            let Some(pause) = self.patience.pause(wish, Instant::now()) else { return Err(reason) };
            if said != reason || report.lines > 0 {
                let done = self.done.load(Ordering::Relaxed);
                self.progress.say(&format!("hotrow: {reason}; trying again behind line {done}"));
                said = reason;
            }
            thread::sleep(pause);
        }
    }

    /// Counts what a report says of lines that begin with number `first`, and tells what was refused of them.
    fn count(&mut self, report: &Report, first: u64, bytes: usize) {
        for refused in report.errors.iter().filter(|refused| (1..=report.lines).contains(&refused.line)) {
            if self.told < TOLD {
                self.told += 1;
                self.progress.say(&format!("{}:{}: {}", self.name, first + refused.line - 1, refused.detail));
            }
        }
        self.written += report.written;
        self.refused += report.failed;
        self.bytes += bytes as u64;
        self.done.store(first + report.lines - 1, Ordering::Relaxed);
        self.progress.at(self.bytes, self.written);
    }
}

/// Where so many leading lines end.
fn bytes_of(text: &[u8], lines: u64) -> usize {
    match lines.checked_sub(1) {
        None => 0,
        Some(before) => memchr_iter(b'\n', text).nth(before as usize).map_or(text.len(), |end| end + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_lines_end_where_the_next_one_begins() {
        for (text, lines, expected) in [
            ("", 0, 0),
            ("a\nb\n", 0, 0),
            ("a\nb\n", 1, 2),
            ("a\nb\n", 2, 4),
            ("a\n\nb", 2, 3),
            ("a\nb", 2, 3),
        ] {
            assert_eq!(bytes_of(text.as_bytes(), lines), expected, "{text:?} {lines}");
        }
    }
}
