//! The content behind a head, taken out of its framing (RFC 9112 sections 6 and 7), whatever the pieces it
//! arrives in. Knows neither limits of values nor what the content means. Driven by [`crate::connection`].

use crate::http::problem::{Kind, Problem};
use crate::http::request::Framing;
use crate::limits::{CHUNK_LINE_BYTES, TRAILER_BYTES};

/// Where in the content the next byte stands.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// Bytes of the chunk line, or of the trailer section, so far.
    line_bytes: usize,
}

/// ```text
///            ┌──────────────────────────────────────────────┐
///            ▼                                              │
///  Size ─► [Blank ─►] [Extension ─►] SizeLf ─► Data ─► DataCr ─► DataLf
///                                      │ size 0
///                                      ▼
///                     TrailerStart ─► TrailerName ─► TrailerValue ─► TrailerLf ─┐
///                       │    ▲──────────────────────────────────────────────────┘
///                       └─► EndLf ─► Done
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length { left: u64 },
    Size { size: u64, digits: u8 },
    Blank { size: u64 },
    Extension { size: u64 },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

/// More hex digits than this are refused, so that a size cannot overflow.
const SIZE_DIGITS: u8 = 15;

impl Decoder {
    /// A decoder for what follows a head with this framing.
    pub fn new(framing: Framing) -> Decoder {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(left) => State::Length { left },
            Framing::Chunked => State::Size { size: 0, digits: 0 },
        };
        Decoder { state, line_bytes: 0 }
    }

    /// True when the content is whole.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes of content that are still to come for certain: of the whole, or of the chunk that has begun.
    pub fn announced(&self) -> u64 {
        match self.state {
            State::Length { left } | State::Data { left } => left,
            _ => 0,
        }
    }

    /// Takes bytes from the front of `input` until the content is whole or the input is used up, and gives the
    /// content to `sink` in pieces. Returns the bytes used.
    ///
    /// An error means that the end of the message is not known: answer it and close.
    pub fn decode(
        &mut self,
        input: &[u8],
        mut sink: impl FnMut(&[u8]) -> Result<(), Problem>,
    ) -> Result<usize, Problem> {
        let mut used = 0;
        while used < input.len() && self.state != State::Done {
            let rest = &input[used..];
            self.state = match self.state {
                State::Length { left } | State::Data { left } => {
                    let take = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                    sink(&rest[..take])?;
                    used += take;
                    let left = left - take as u64;
                    match self.state {
                        State::Length { .. } if left == 0 => State::Done,
                        State::Length { .. } => State::Length { left },
                        _ if left == 0 => State::DataCr,
                        _ => State::Data { left },
                    }
                }
                state => {
                    used += 1;
                    self.line_byte(state, rest[0])?
                }
            };
        }
        Ok(used)
    }

    /// One byte that is not data.
    fn line_byte(&mut self, state: State, byte: u8) -> Result<State, Problem> {
        self.count(state)?;
        let next = match (state, byte) {
            (State::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                if digits == SIZE_DIGITS {
                    return Err(bad("a chunk size has too many digits"));
                }
                let digit = (byte as char).to_digit(16).map_or(0, u64::from);
                State::Size { size: size * 16 + digit, digits: digits + 1 }
            }
            (State::Size { digits: 0, .. }, _) => return Err(bad("a chunk size is no hexadecimal number")),
            (State::Size { size, .. }, b'\r') => State::SizeLf { size },
            (State::Size { size, .. } | State::Blank { size }, b';') => State::Extension { size },
            (State::Size { size, .. } | State::Blank { size }, b' ' | b'\t') => State::Blank { size },
            (State::Extension { size }, b'\r') => State::SizeLf { size },
            (State::Extension { size }, _) if is_text(byte) => State::Extension { size },
            (State::SizeLf { size }, b'\n') => {
                self.line_bytes = 0;
                if size == 0 { State::TrailerStart } else { State::Data { left: size } }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => {
                self.line_bytes = 0;
                State::Size { size: 0, digits: 0 }
            }
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::TrailerStart | State::TrailerName, _) if is_token(byte) => State::TrailerName,
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, _) if is_text(byte) => State::TrailerValue,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::EndLf, b'\n') => State::Done,
            _ => return Err(bad("a chunk or trailer line has a bad byte, or does not end in CRLF")),
        };
        Ok(next)
    }

    fn count(&mut self, state: State) -> Result<(), Problem> {
        self.line_bytes += 1;
        let in_trailer = matches!(
            state,
            State::TrailerStart | State::TrailerName | State::TrailerValue | State::TrailerLf | State::EndLf
        );
        if in_trailer && self.line_bytes > TRAILER_BYTES {
            let detail = format!("a trailer section has at most {TRAILER_BYTES} bytes");
            return Err(Problem::new(Kind::HeadTooLarge, detail));
        }
        if !in_trailer && self.line_bytes > CHUNK_LINE_BYTES {
            return Err(bad("a chunk line is too long"));
        }
        Ok(())
    }
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn bad(detail: &'static str) -> Problem {
    Problem::new(Kind::MalformedRequest, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Content and bytes used, or the refusal's status.
    fn decode(framing: Framing, input: &[u8], step: usize) -> Result<(Vec<u8>, usize, bool), u16> {
        let (mut decoder, mut content, mut used) = (Decoder::new(framing), Vec::new(), 0);
        for piece in input.chunks(step) {
            let sink = |bytes: &[u8]| {
                content.extend_from_slice(bytes);
                Ok(())
            };
            let n = decoder.decode(piece, sink).map_err(|p| p.status())?;
            used += n;
            if n < piece.len() {
                break;
            }
        }
        Ok((content, used, decoder.is_done()))
    }

    #[test]
    fn chunked_content_has_a_row_for_everything_it_may_and_may_not_be() {
        let long_extension = format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(CHUNK_LINE_BYTES));
        let long_trailer = format!("0\r\na: {}\r\n\r\n", "t".repeat(TRAILER_BYTES));
        #[rustfmt::skip]
        let rows: &[(&str, Result<&str, u16>)] = &[
            ("0\r\n\r\n", Ok("")),
            ("000\r\n\r\n", Ok("")),
            ("3\r\nabc\r\n0\r\n\r\n", Ok("abc")),
            ("3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n", Ok("abc0123456789")),
            ("a\r\n0123456789\r\n0\r\n\r\n", Ok("0123456789")),
            ("000000000000003\r\nabc\r\n0\r\n\r\n", Ok("abc")),
            ("3;name=value\r\nabc\r\n0;last\r\n\r\n", Ok("abc")),
            ("3 ; name=\"quoted; string\"\r\nabc\r\n0\r\n\r\n", Ok("abc")),
            ("3\r\n\r\n\n\r\n0\r\n\r\n", Ok("\r\n\n")),
            ("0\r\nTrailer: dropped\r\nAnother:\r\n\r\n", Ok("")),
            ("\r\n\r\n", Err(400)),
            ("-1\r\n", Err(400)),
            ("+1\r\n", Err(400)),
            ("0x1\r\n", Err(400)),
            ("g\r\n", Err(400)),
            (" 1\r\na\r\n", Err(400)),
            ("1 \r\na\r\n", Err(400)),
            ("1\na\r\n", Err(400)),
            ("1\r\r\n", Err(400)),
            ("1;x\n", Err(400)),
            ("1;x\0\r\n", Err(400)),
            ("0000000000000003\r\nabc", Err(400)),
            ("ffffffffffffffffff\r\n", Err(400)),
            ("3\r\nabcd\r\n", Err(400)),
            ("3\r\nabc\n0\r\n\r\n", Err(400)),
            ("3\r\nabc\rX", Err(400)),
            ("0\r\n folded: x\r\n\r\n", Err(400)),
            ("0\r\n: no name\r\n\r\n", Err(400)),
            ("0\r\nname : space\r\n\r\n", Err(400)),
            ("0\r\nname\r\n\r\n", Err(400)),
            ("0\r\na: \x01\r\n\r\n", Err(400)),
            ("0\r\na: b\n\r\n", Err(400)),
            ("0\r\n\n", Err(400)),
            ("0\r\n\rX", Err(400)),
            (&long_extension, Err(400)),
            (&long_trailer, Err(431)),
        ];
        for (bytes, expected) in rows {
            for step in [1, 2, 3, 7, bytes.len()] {
                let got = decode(Framing::Chunked, bytes.as_bytes(), step);
                match (got, expected) {
                    (Ok((content, used, done)), Ok(text)) => {
                        assert_eq!(
                            (content.as_slice(), used, done),
                            (text.as_bytes(), bytes.len(), true),
                            "{bytes:?}"
                        );
                    }
                    (got, expected) => {
                        assert_eq!(got.map(|_| ()), expected.map(|_| ()), "{bytes:?} by {step}")
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_behind_the_content_is_taken() {
        assert_eq!(decode(Framing::Length(3), b"abcGET", 6), Ok((b"abc".to_vec(), 3, true)));
        assert_eq!(decode(Framing::Chunked, b"0\r\n\r\nGET", 8), Ok((vec![], 5, true)));
        assert_eq!(decode(Framing::None, b"GET", 3), Ok((vec![], 0, true)));
        assert_eq!(decode(Framing::Length(u64::MAX), b"abc", 3), Ok((b"abc".to_vec(), 3, false)));
    }

    proptest! {
        #[test]
        fn the_pieces_do_not_matter(input in prop::collection::vec(
            prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'3'), Just(b';'), Just(b':'), any::<u8>()], 0..80),
            step in 1usize..9)
        {
            prop_assert_eq!(
                decode(Framing::Chunked, &input, step),
                decode(Framing::Chunked, &input, input.len().max(1))
            );
        }

        #[test]
        fn what_is_encoded_is_decoded(chunks in prop::collection::vec("[a-zäö\r\n]{1,40}", 0..8), step in 1usize..50) {
            let mut bytes = String::new();
            for chunk in &chunks {
                bytes += &format!("{:x}\r\n{chunk}\r\n", chunk.len());
            }
            bytes += "0\r\n\r\n";
            let expected = (chunks.concat().into_bytes(), bytes.len(), true);
            prop_assert_eq!(decode(Framing::Chunked, bytes.as_bytes(), step), Ok(expected));
        }
    }
}
