//! Lines: cut into pieces to send, counted, passed over; and taken out of a stream that may end anywhere. Knows no file
//! and no socket, only [`BufRead`] and [`Write`]. Used by [`super::import`] and [`super::export`].

use crate::limits::MAX_VALUE_BYTES;
use memchr::{memchr, memchr_iter, memrchr};
use serde::Deserialize;
use std::borrow::Cow;
use std::io::{self, BufRead, ErrorKind, Read, Write};

/// Lines that are sent by one request: some pieces of the server's, so that it does not wait for us between them.
pub(super) const PIECE_LINES: usize = 16 * 1024;
/// The same in bytes, past which no further line is taken.
pub(super) const PIECE_BYTES: usize = 4 * 1024 * 1024;
/// The longest line: in JSON a byte of a value may take six. What is longer is no row of anybody's.
const LINE_BYTES: usize = 6 * MAX_VALUE_BYTES + 64 * 1024;

/// Whole lines that are sent together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The number of its first line, from 1.
    pub(super) first: u64,
    pub(super) lines: u64,
    pub(super) bytes: Vec<u8>,
}

/// The next lines, the first of which is number `first`; `None`: there are no more.
pub(super) fn next_piece(input: &mut impl BufRead, first: u64) -> io::Result<Option<Piece>> {
    let mut piece = Piece { first, lines: 0, bytes: Vec::new() };
    while piece.bytes.len() < PIECE_BYTES && (piece.lines as usize) < PIECE_LINES {
        let before = piece.bytes.len();
        let most = LINE_BYTES as u64 + 1;
        if input.by_ref().take(most).read_until(b'\n', &mut piece.bytes)? == 0 {
            break;
        }
        piece.lines += 1;
        if piece.bytes.len() - before > LINE_BYTES {
            let line = first + piece.lines - 1;
            return Err(too_long(&format!("line {line}")));
        }
    }
    Ok((piece.lines > 0).then_some(piece))
}

/// Reads past so many lines. Returns how many there were, and their bytes.
pub(super) fn skip(input: &mut impl BufRead, lines: u64) -> io::Result<(u64, u64)> {
    let (mut skipped, mut bytes) = (0, 0);
    // The last line of a file may lack its end.
    let mut within = false;
    while skipped < lines {
        let buffer = match input.fill_buf() {
            Ok([]) => break,
            Ok(buffer) => buffer,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let end = memchr(b'\n', buffer);
        within = end.is_none();
        skipped += u64::from(end.is_some());
        let used = end.map_or(buffer.len(), |end| end + 1);
        bytes += used as u64;
        input.consume(used);
    }
    Ok((skipped + u64::from(within), bytes))
}

/// Takes whole lines out of a stream that comes in pieces and may break off: what is passed on ends with a line, always.
#[derive(Debug, Default)]
pub(super) struct Whole {
    /// The beginning of a line.
    rest: Vec<u8>,
    /// The last whole line.
    last: Vec<u8>,
    /// Whole lines so far.
    pub(super) rows: u64,
    /// Their bytes.
    pub(super) bytes: u64,
}

impl Whole {
    /// Takes more of the stream, and passes on what is whole.
    pub(super) fn take(&mut self, piece: &[u8], out: &mut impl Write) -> io::Result<()> {
        let Some(end) = memrchr(b'\n', piece) else {
            if self.rest.len() + piece.len() > LINE_BYTES {
                return Err(too_long("a line"));
            }
            self.rest.extend_from_slice(piece);
            return Ok(());
        };
        let (lines, rest) = piece.split_at(end + 1);
        if !self.rest.is_empty() {
            out.write_all(&self.rest)?;
        }
        out.write_all(lines)?;
        self.rows += memchr_iter(b'\n', lines).count() as u64;
        self.bytes += (self.rest.len() + lines.len()) as u64;
        match memrchr(b'\n', &lines[..end]) {
            Some(before) => {
                self.last.clear();
                self.last.extend_from_slice(&lines[before + 1..]);
            }
            None => {
                std::mem::swap(&mut self.last, &mut self.rest);
                self.last.extend_from_slice(lines);
            }
        }
        self.rest.clear();
        self.rest.extend_from_slice(rest);
        Ok(())
    }

    /// The stream is over. True: it has ended with a line.
    pub(super) fn end(&mut self) -> bool {
        let whole = self.rest.is_empty();
        self.rest.clear();
        whole
    }

    /// The key of the last whole line; `None`: there was none yet.
    pub(super) fn last_key(&self) -> Result<Option<String>, String> {
        #[derive(Deserialize)]
        struct Row<'a> {
            #[serde(borrow)]
            key: Cow<'a, str>,
        }
        if self.last.is_empty() {
            return Ok(None);
        }
        let row: Result<Row<'_>, _> = serde_json::from_slice(&self.last);
        row.map(|row| Some(row.key.into_owned())).map_err(|error| error.to_string())
    }
}

fn too_long(what: &str) -> io::Error {
    let text = format!("{what} has more than {LINE_BYTES} bytes: that is no row");
    io::Error::new(ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::BufReader;

    #[test]
    fn lines_become_pieces_with_their_numbers() {
        let many = "x\n".repeat(PIECE_LINES + 1);
        let long = format!("{}\n", "x".repeat(PIECE_BYTES));
        for (text, expected) in [
            ("", vec![]),
            ("a\n", vec![(1, 1, 2)]),
            ("a\n\nb", vec![(1, 3, 4)]),
            ("\n", vec![(1, 1, 1)]),
            (&many, vec![(1, PIECE_LINES as u64, 2 * PIECE_LINES), (PIECE_LINES as u64 + 1, 1, 2)]),
            (&format!("{long}{long}a"), vec![(1, 1, long.len()), (2, 1, long.len()), (3, 1, 1)]),
        ] {
            let mut input = BufReader::with_capacity(7, text.as_bytes());
            let (mut got, mut sent, mut first) = (Vec::new(), Vec::new(), 1);
            while let Some(piece) = next_piece(&mut input, first).unwrap() {
                got.push((piece.first, piece.lines, piece.bytes.len()));
                first += piece.lines;
                sent.extend(piece.bytes);
            }
            assert_eq!(got, expected);
            assert!(sent == text.as_bytes(), "nothing is added and nothing is lost");
        }
    }

    #[test]
    fn a_line_without_an_end_is_given_up() {
        let mut input = BufReader::new(io::repeat(b'x'));
        assert!(next_piece(&mut input, 5).unwrap_err().to_string().contains("line 5"));
    }

    #[test]
    fn lines_are_passed_over_and_counted() {
        for (text, lines, expected, left) in [
            ("a\nb\nc\n", 0, (0, 0), "a\nb\nc\n"),
            ("a\nb\nc\n", 2, (2, 4), "c\n"),
            ("a\n\nccccccccc\nd", 3, (3, 13), "d"),
            ("a\nb", 2, (2, 3), ""),
            ("a\nb", 9, (2, 3), ""),
            ("", 9, (0, 0), ""),
        ] {
            let mut input = BufReader::with_capacity(4, text.as_bytes());
            assert_eq!(skip(&mut input, lines).unwrap(), expected, "{text:?}");
            let mut rest = String::new();
            input.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, left, "{text:?}");
        }
    }

    #[test]
    fn a_torn_line_is_left_out_and_the_key_before_it_known() {
        for (text, passed, key) in [
            ("", "", Ok(None)),
            (r#"{"key":"a","va"#, "", Ok(None)),
            ("{\"key\":\"a\",\"value\":\"\"}\n", "{\"key\":\"a\",\"value\":\"\"}\n", Ok(Some("a"))),
            ("{\"key\":\"a\\\"\\n\"}\n{\"key\":\"b", "{\"key\":\"a\\\"\\n\"}\n", Ok(Some("a\"\n"))),
            ("{\"key\":\"a\"}\n{\"key\":\"ä\"}\n{", "{\"key\":\"a\"}\n{\"key\":\"ä\"}\n", Ok(Some("ä"))),
            ("PNG\n", "PNG\n", Err(())),
            ("\n", "\n", Err(())),
        ] {
            let (mut whole, mut out) = (Whole::default(), Vec::new());
            whole.take(text.as_bytes(), &mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), passed);
            assert_eq!(whole.last_key().as_ref().map(Option::as_deref).map_err(|_| ()), key, "{text}");
            assert_eq!(whole.end(), text == passed);
        }
    }

    proptest! {
        #[test]
        fn whole_lines_are_found_wherever_the_stream_is_cut(
            lines in prop::collection::vec("[a\"\\\\ä]{0,9}", 0..9), torn in "[ab]{0,5}", cuts in prop::collection::vec(1usize..12, 1..40))
        {
            let line = |text: &String| format!("{}\n", serde_json::json!({ "key": text }));
            let text: String = lines.iter().map(line).collect();
            let all = format!("{text}{torn}");
            let (mut whole, mut out, mut rest) = (Whole::default(), Vec::new(), all.as_bytes());
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at(rest.len().min(*cut));
                whole.take(piece, &mut out).unwrap();
                prop_assert!(out.last().is_none_or(|last| *last == b'\n'));
                prop_assert_eq!(out.len() as u64, whole.bytes);
                if after.is_empty() { break }
                rest = after;
            }
            prop_assert_eq!(out, text.as_bytes());
            prop_assert_eq!(whole.rows, lines.len() as u64);
            prop_assert_eq!(whole.last_key().unwrap(), lines.last().cloned());
            prop_assert_eq!(whole.end(), torn.is_empty());
        }
    }
}
