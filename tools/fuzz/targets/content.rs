//! `http::content::Decoder` on any bytes, in any pieces. The input is: the framing, the most that the sink takes, a
//! number of piece sizes, the sizes, and then the content.
//!
//! - Content, bytes used, end and refusal do not depend on the pieces.
//! - No more is used than was given, and nothing behind the end; the content is never longer than what was used.
//! - Chunked content is taken to its end exactly where a plain reading of RFC 9112 section 7.1, as a whole and with
//!   our bounds, takes it, and means the same.

#![no_main]

use hotrow::http::content::Decoder;
use hotrow::http::problem::{Kind, Problem};
use hotrow::http::request::Framing;
use hotrow::limits::{CHUNK_LINE_BYTES, TRAILER_BYTES};
use hotrow_fuzz::expand;
use libfuzzer_sys::fuzz_target;

const MAX_BYTES: usize = 16 * 1024;
/// Stands for a sink that takes everything.
const NO_LIMIT: u8 = 255;

fuzz_target!(|data: &[u8]| {
    let [framing, limit, count, rest @ ..] = data else { return };
    let (sizes, content) = rest.split_at(usize::from(*count).min(rest.len()));
    let framing = match framing {
        0 => Framing::None,
        1..=127 => Framing::Length(u64::from(*framing) * u64::from(*framing)),
        _ => Framing::Chunked,
    };
    let limit = if *limit == NO_LIMIT { usize::MAX } else { usize::from(*limit) * 8 };
    let bytes = expand(content, MAX_BYTES);
    let whole = decode(framing, limit, &bytes, &[MAX_BYTES]);
    // An empty piece now and then, and one byte at a time, besides what the input says.
    for sizes in [&sizes.iter().map(|size| usize::from(*size)).collect::<Vec<_>>()[..], &[1], &[0, 3]] {
        let pieces = decode(framing, limit, &bytes, sizes);
        assert_eq!(whole, pieces, "as a whole, and by {sizes:?}");
    }
    if framing == Framing::Chunked && limit == usize::MAX {
        let taken = whole.ok().filter(|decoded| decoded.done).map(|decoded| (decoded.content, decoded.used));
        assert_eq!(taken, plain_reading(&bytes), "taken, and by a plain reading");
    }
});

#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    content: Vec<u8>,
    used: usize,
    done: bool,
}

/// Decodes `bytes` in pieces of these sizes, over and over.
fn decode(framing: Framing, limit: usize, bytes: &[u8], sizes: &[usize]) -> Result<Decoded, Kind> {
    let mut decoder = Decoder::new(framing);
    let (mut content, mut used, mut sizes) = (Vec::new(), 0, sizes.iter().cycle());
    let mut empty_in_a_row = 0;
    while used < bytes.len() && !decoder.is_done() {
        let mut size = sizes.next().copied().unwrap_or(usize::MAX).min(bytes.len() - used);
        empty_in_a_row = if size == 0 { empty_in_a_row + 1 } else { 0 };
        if empty_in_a_row > 2 {
            size = bytes.len() - used;
        }
        let piece = &bytes[used..used + size];
        let sink = |part: &[u8]| {
            content.extend_from_slice(part);
            if content.len() > limit { Err(Problem::new(Kind::ValueTooLarge, "")) } else { Ok(()) }
        };
        let n = decoder.decode(piece, sink).map_err(|problem| problem.kind)?;
        assert!(n == size || (n < size && decoder.is_done()), "used {n} of {size} bytes before the end");
        used += n;
    }
    assert!(content.len() <= used);
    if decoder.is_done() {
        let n = decoder
            .decode(&bytes[used..], |_| panic!("content behind the end"))
            .expect("the end is no error");
        assert_eq!(n, 0, "taken behind the end");
    }
    match framing {
        Framing::None => assert!(used == 0 && decoder.is_done()),
        Framing::Length(length) => {
            assert_eq!(content, &bytes[..used]);
            assert_eq!(decoder.is_done(), used as u64 == length);
        }
        Framing::Chunked => {}
    }
    Ok(Decoded { content, used, done: decoder.is_done() })
}

/// The content and its length with framing, if `bytes` begins with a whole one.
fn plain_reading(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut content, mut at) = (Vec::new(), 0);
    loop {
        let line = line_at(bytes, at)?;
        at += line.len() + 2;
        let size = chunk_size(line)?;
        if size == 0 {
            break;
        }
        content.extend_from_slice(bytes.get(at..at.checked_add(size)?)?);
        at += size;
        if line_at(bytes, at)? != b"" {
            return None;
        }
        at += 2;
    }
    let trailer_at = at;
    loop {
        let line = line_at(bytes, at)?;
        at += line.len() + 2;
        if line.is_empty() {
            return (at - trailer_at <= TRAILER_BYTES).then_some((content, at));
        }
        let colon = line.iter().position(|byte| *byte == b':').filter(|colon| *colon > 0)?;
        let in_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        if !line[..colon].iter().all(in_name) || !line[colon..].iter().all(is_text) {
            return None;
        }
    }
}

/// The line from here to its CRLF, without it; `None` where it ends in something else, or not at all.
fn line_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let rest = &bytes[at..];
    let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'))?;
    rest[end..].starts_with(b"\r\n").then_some(&rest[..end])
}

fn chunk_size(line: &[u8]) -> Option<usize> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, extension) = line.split_at(digits);
    let blanks = extension.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let is_extension = extension.get(blanks) == Some(&b';') && extension[blanks..].iter().all(is_text);
    if digits > 15 || line.len() + 2 > CHUNK_LINE_BYTES || !(extension.is_empty() || is_extension) {
        return None;
    }
    usize::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()
}

fn is_text(byte: &u8) -> bool {
    *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f)
}
