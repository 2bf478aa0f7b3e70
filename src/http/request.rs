//! A request head: bytes in, [`Head`] out, borrowed. httparse reads the grammar; the rules that it leaves open, and
//! the one about message length that request smuggling lives on, are here. Knows no resource. Called by
//! [`crate::connection`].

mod fields;
mod repeat;

use crate::http::problem::{Kind, Problem};
use crate::http::scan;
use crate::limits::{FIELDS, HEAD_BYTES, REQUEST_LINE_BYTES};
use fields::Meaning;
pub use fields::{Extras, List};
use memchr::{memchr, memchr_iter};
pub use repeat::{Known, Repeat, literal_path};
use std::mem::MaybeUninit;

/// The two versions that are spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: closes unless asked to keep alive.
    Http10,
    /// HTTP/1.1: keeps alive unless asked to close.
    Http11,
}

/// How the content of a request is delimited (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Neither Content-Length nor Transfer-Encoding: no content.
    None,
    /// That many bytes.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

impl Framing {
    /// True where at least a byte may follow the head.
    pub fn has_content(self) -> bool {
        !matches!(self, Framing::None | Framing::Length(0))
    }
}

/// A request head, borrowed from the buffer it was read into.
#[derive(Debug, PartialEq, Eq)]
pub struct Head<'b> {
    /// The method, as sent: methods are case-sensitive.
    pub method: &'b str,
    /// The request target, as sent, without scheme and authority: `/path?query`, or `*`.
    pub target: &'b str,
    /// The version.
    pub version: Version,
    /// What follows the head.
    pub framing: Framing,
    /// Whether the connection may go on after the answer.
    pub keep_alive: bool,
    /// The client waits for `100 Continue` before it sends the content.
    pub expects_continue: bool,
    /// Fields that only some requests have and only some resources look at.
    pub extras: Extras<'b>,
    /// Length of the head with its last empty line.
    pub bytes: usize,
}

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<'b> {
    /// A whole head.
    Complete(Head<'b>),
    /// The beginning of one, within its limits.
    Partial,
}

/// Parses the head at the front of `bytes`.
///
/// The answer never depends on how the bytes arrived: `Partial` may turn into anything, anything else stays the same
/// whatever follows. Every error means that the next message's beginning is not known, or that the client
/// tries something: answer it and close.
pub fn parse(bytes: &[u8]) -> Result<Parsed<'_>, Problem> {
    parse_whole(bytes, None)
}

/// The same, and remembers the fields for [`Repeat::known`].
pub fn parse_next<'b>(bytes: &'b [u8], repeat: &mut Repeat) -> Result<Parsed<'b>, Problem> {
    parse_whole(bytes, Some(repeat))
}

/// True for bytes that ask for no content, whatever else is wrong with them (RFC 9110 section 9.3.2).
pub fn is_head(mut bytes: &[u8]) -> bool {
    while let Some(rest) = bytes.strip_prefix(b"\r\n") {
        bytes = rest;
    }
    bytes.starts_with(b"HEAD ")
}

/// The name that stands in bytes that are no proper request, if that line of them has come, whatever is wrong with the others.
#[cold]
pub fn name_of(bytes: &[u8]) -> Option<&[u8]> {
    let lines = bytes[blank_bytes(bytes)..].split_inclusive(|b| *b == b'\n').skip(1);
    // Behind an empty line, however that ends, there is no field.
    lines.take_while(|line| !matches!(*line, b"\r\n" | b"\n")).find_map(|line| {
        let (name, value) = line.strip_suffix(b"\r\n")?.split_at_checked(NAME_FIELD.len())?;
        name.eq_ignore_ascii_case(NAME_FIELD).then(|| value.trim_ascii())
    })
}

/// What such a line begins with.
const NAME_FIELD: &[u8] = b"X-Request-Id:";

/// Length of a request line without its end: two blanks and eight bytes of version.
fn line_bytes(method: &str, target: &str) -> usize {
    method.len() + target.len() + 10
}

fn parse_whole<'b>(bytes: &'b [u8], repeat: Option<&mut Repeat>) -> Result<Parsed<'b>, Problem> {
    // What stands behind the bound may not change the answer.
    let bytes = &bytes[..bytes.len().min(HEAD_BYTES)];
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return partial(bytes),
        // Whether a version is malformed or only not ours is known at the end of its line.
        Err(httparse::Error::Version) if request_line(bytes).is_none() => return partial(bytes),
        Err(error) => {
            return match line_problem(bytes) {
                // Of two errors the first counts: without what follows there would be no other.
                Some((end, _)) if end < bytes.len() => parse(&bytes[..end]),
                _ => Err(syntax_problem(error, bytes)),
            };
        }
    };
    let head = &bytes[..length];
    let (method, target, version) = match (request.method, request.path, request.version) {
        (Some(method), Some(target), Some(1)) => (method, target, Version::Http11),
        (Some(method), Some(target), Some(_)) => (method, target, Version::Http10),
        _ => return Err(malformed("the request line is incomplete")),
    };
    let line_bytes = line_bytes(method, target);
    if (line_bytes > REQUEST_LINE_BYTES || !is_plain(head, &request))
        && let Some((_, problem)) = line_problem(head)
    {
        return Err(problem);
    }
    let target = path_of(target, method)?;
    let (meaning, extras) = fields::read(request.headers, version)?;
    if let Some(repeat) = repeat
        && version == Version::Http11
    {
        // A blank and eight bytes of version, before CRLF: no line ends otherwise in a head that has got this far.
        repeat.remember(&head[blank_bytes(head) + line_bytes - 9..], request.headers, meaning);
    }
    let Meaning { framing, keep_alive, expects_continue } = meaning;
    let bytes = length;
    Ok(Parsed::Complete(Head {
        method,
        target,
        version,
        framing,
        keep_alive,
        expects_continue,
        extras,
        bytes,
    }))
}

/// Finds out what is wrong with bytes that are no whole head yet, if anything is.
fn partial(bytes: &[u8]) -> Result<Parsed<'_>, Problem> {
    if let Some((_, problem)) = line_problem(bytes) {
        return Err(problem);
    }
    if bytes.len() >= HEAD_BYTES {
        return Err(head_too_large());
    }
    Ok(Parsed::Partial)
}

/// The first thing wrong with the lines of a head that httparse leaves to us, and the bytes up to where it shows.
fn line_problem(bytes: &[u8]) -> Option<(usize, Problem)> {
    let bare = bare_lf(bytes).map(|at| (at + 1, malformed("a line ends in LF without CR")));
    // Empty lines before a request are skipped (RFC 9112 section 2.2), and count for the head.
    let blank = blank_bytes(bytes);
    let end = memchr(b'\n', &bytes[blank..]).map_or(bytes.len(), |end| blank + end);
    // The CR belongs to the line end, even if the LF is still on its way.
    let line = &bytes[blank..end];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let long = (line.len() > REQUEST_LINE_BYTES).then(|| {
        let may_be_its_end = usize::from(line[REQUEST_LINE_BYTES] == b'\r');
        (blank + REQUEST_LINE_BYTES + 1 + may_be_its_end, target_too_long())
    });
    match (bare, long) {
        (Some(bare), Some(long)) => Some(if bare.0 < long.0 { bare } else { long }),
        (bare, long) => bare.or(long),
    }
}

/// The first LF without CR. RFC 9112 section 2.2 allows to take it for a line end. We do not: two readers of one head
/// that disagree about where a line ends are how requests are smuggled, and no client in use sends it.
fn bare_lf(head: &[u8]) -> Option<usize> {
    memchr_iter(b'\n', head).find(|at| *at == 0 || head[at - 1] != b'\r')
}

/// True where every line of a whole head certainly ends in CRLF: looks only at the places where lines end, behind the
/// version, behind each value, and at the end. A search for every LF took three times as many instructions; it is left
/// to the heads for which this says false.
fn is_plain(head: &[u8], request: &httparse::Request<'_, '_>) -> bool {
    // httparse lends every part out of `head`: these are addresses of one buffer.
    let end_of = |part: &[u8]| part.as_ptr() as usize + part.len() - head.as_ptr() as usize;
    // The target, a blank and eight bytes of version.
    let line_end = end_of(request.path.unwrap_or_default().as_bytes()) + 9;
    let no_blank_lines = !matches!(head.first(), Some(b'\r' | b'\n'));
    let mut plain = no_blank_lines && head.get(line_end) == Some(&b'\r') && head.ends_with(b"\r\n");
    for header in request.headers.iter() {
        // An empty value has no place in the head; blanks behind a value are not part of it.
        plain &= !header.value.is_empty() && head.get(end_of(header.value)) == Some(&b'\r');
    }
    plain
}

/// True where no byte is one that a URI may not have; httparse has let neither blanks nor control bytes through.
fn is_uri(target: &str) -> bool {
    !scan::has(target.as_bytes(), |word| scan::equal(word, b'#') | scan::not_ascii(word))
}

/// The path and query of a target in origin-form or absolute-form, or `*` (RFC 9112 section 3.2).
fn path_of<'b>(target: &'b str, method: &str) -> Result<&'b str, Problem> {
    if !is_uri(target) {
        return Err(malformed("the target has a byte that a URI may not have; percent-encode it"));
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok(target);
    }
    // CONNECT is the only method with authority-form, and unknown here: let it be refused as such.
    if method == "CONNECT" {
        return Ok("/");
    }
    let scheme = target.find("://").map(|end| (&target[..end], end + 3));
    if let Some((scheme, authority_at)) = scheme
        && (scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https"))
    {
        let authority = &target[authority_at..];
        let end = authority.find(['/', '?']).unwrap_or(authority.len());
        if end > 0 && fields::is_host(&authority.as_bytes()[..end]) {
            return match &authority[end..] {
                // `OPTIONS http://host` with an empty path is `OPTIONS *` (section 3.2.4).
                "" => Ok(if method == "OPTIONS" { "*" } else { "/" }),
                path if path.starts_with('/') => Ok(path),
                _ => Err(malformed("the target has a query without a path")),
            };
        }
    }
    Err(malformed("the target is neither a path nor a URL"))
}

fn syntax_problem(error: httparse::Error, bytes: &[u8]) -> Problem {
    match error {
        httparse::Error::TooManyHeaders => head_too_large(),
        httparse::Error::Version if is_other_version(bytes) => {
            Problem::new(Kind::UnsupportedVersion, "HTTP/1.1 and HTTP/1.0 are spoken here")
        }
        httparse::Error::Version => malformed("the request line does not end in HTTP/1.1"),
        httparse::Error::HeaderName => malformed("a field name is empty, folded, or has a bad byte"),
        httparse::Error::HeaderValue => malformed("a field value has a control byte"),
        httparse::Error::NewLine => malformed("a line does not end in CRLF"),
        httparse::Error::Token => malformed("the request line has a bad byte"),
        httparse::Error::Status => malformed("the request line is no request line"),
    }
}

/// True where the request line ends in a version, well-formed, that is not ours: 505 rather than 400.
fn is_other_version(bytes: &[u8]) -> bool {
    let mut parts = request_line(bytes).unwrap_or_default().split(|b| *b == b' ');
    let (Some(_), Some(_), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    match version {
        b"HTTP/1.0" | b"HTTP/1.1" => false,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] => {
            major.is_ascii_digit() && minor.is_ascii_digit()
        }
        _ => false,
    }
}

/// The request line without its end, if the end is there; empty lines before it are skipped.
fn request_line(bytes: &[u8]) -> Option<&[u8]> {
    let line = &bytes[blank_bytes(bytes)..];
    let end = memchr(b'\n', line)?;
    Some(line[..end].strip_suffix(b"\r").unwrap_or(&line[..end]))
}

/// Bytes of the empty lines before a request.
fn blank_bytes(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count()
}

fn malformed(detail: &'static str) -> Problem {
    Problem::new(Kind::MalformedRequest, detail)
}

fn target_too_long() -> Problem {
    Problem::new(Kind::TargetTooLong, format!("a request line has at most {REQUEST_LINE_BYTES} bytes"))
}

fn head_too_large() -> Problem {
    let detail = format!("a head has at most {HEAD_BYTES} bytes and {FIELDS} fields");
    Problem::new(Kind::HeadTooLarge, detail)
}

#[cfg(test)]
mod tests;
