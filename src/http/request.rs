//! A request head: bytes in, [`Head`] out, borrowed. httparse reads the grammar; the rules that it leaves open, and
//! the one about message length that request smuggling lives on, are here. Knows no resource. Called by
//! [`crate::connection`].

use crate::http::problem::{Kind, Problem};
use crate::limits::{FIELDS, HEAD_BYTES, REQUEST_LINE_BYTES};
use memchr::{memchr, memchr_iter};
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

/// Fields that mean nothing for framing, as they were sent. A request without them pays for a few empty places and
/// no allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras<'b> {
    /// The lines of fields whose values are lists, in their order: a list may be spread over several lines
    /// (RFC 9110 section 5.3).
    pub lists: Vec<(List, &'b [u8])>,
    /// `Accept`, the first.
    pub accept: Option<&'b [u8]>,
    /// `Authorization`. Two are as good as a wrong one: then it is empty.
    pub authorization: Option<&'b [u8]>,
    /// `Content-Type`, the first.
    pub content_type: Option<&'b [u8]>,
    /// `Origin`, the first.
    pub origin: Option<&'b [u8]>,
    /// `X-Request-Id`, the first.
    pub request_id: Option<&'b [u8]>,
}

/// A field of [`Extras`] whose value is a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// `Cache-Control`.
    CacheControl,
    /// `If-Match`.
    IfMatch,
    /// `If-None-Match`.
    IfNoneMatch,
    /// `Prefer`.
    Prefer,
}

impl<'b> Extras<'b> {
    /// The lines of one field.
    pub fn lines(&self, list: List) -> impl Iterator<Item = &'b [u8]> + Clone {
        self.lists.iter().filter(move |(of, _)| *of == list).map(|(_, line)| *line)
    }

    /// Takes the field if it is one of these.
    fn note(&mut self, name: &str, value: &'b [u8]) {
        let list = match name.len() {
            6 if name.eq_ignore_ascii_case("accept") => return keep_first(&mut self.accept, value),
            6 if name.eq_ignore_ascii_case("origin") => return keep_first(&mut self.origin, value),
            6 if name.eq_ignore_ascii_case("prefer") => List::Prefer,
            8 if name.eq_ignore_ascii_case("if-match") => List::IfMatch,
            12 if name.eq_ignore_ascii_case("content-type") => {
                return keep_first(&mut self.content_type, value);
            }
            12 if name.eq_ignore_ascii_case("x-request-id") => {
                return keep_first(&mut self.request_id, value);
            }
            13 if name.eq_ignore_ascii_case("if-none-match") => List::IfNoneMatch,
            13 if name.eq_ignore_ascii_case("cache-control") => List::CacheControl,
            13 if name.eq_ignore_ascii_case("authorization") => {
                self.authorization = if self.authorization.is_none() { Some(value) } else { Some(b"") };
                return;
            }
            _ => return,
        };
        self.lists.push((list, value));
    }
}

fn keep_first<'b>(place: &mut Option<&'b [u8]>, value: &'b [u8]) {
    place.get_or_insert(value);
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
    // Method, target and version with the two blanks.
    let is_long = method.len() + target.len() + 10 > REQUEST_LINE_BYTES;
    if (is_long || !is_plain(head, &request))
        && let Some((_, problem)) = line_problem(head)
    {
        return Err(problem);
    }
    let target = path_of(target, method)?;
    let fields = Fields::read(request.headers, version)?;
    let framing = fields.framing(version)?;
    if fields.hosts == 0 && version == Version::Http11 {
        return Err(malformed("HTTP/1.1 needs a Host field"));
    }
    let keep_alive = match version {
        Version::Http11 => !fields.close,
        Version::Http10 => fields.keep_alive && !fields.close,
    };
    let expects_continue = fields.expects_continue && version == Version::Http11;
    Ok(Parsed::Complete(Head {
        method,
        target,
        version,
        framing,
        keep_alive,
        expects_continue,
        extras: fields.extras,
        bytes: length,
    }))
}

/// The fields that decide about framing and the connection, gathered in one pass over the head.
#[derive(Default)]
struct Fields<'b> {
    hosts: usize,
    content_length: Option<u64>,
    transfer_encoding: Option<&'b [u8]>,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
    extras: Extras<'b>,
}

impl<'b> Fields<'b> {
    fn read(headers: &[httparse::Header<'b>], version: Version) -> Result<Fields<'b>, Problem> {
        let mut fields = Fields::default();
        for httparse::Header { name, value } in headers {
            // The length tells almost all fields apart before a letter is compared.
            match name.len() {
                4 if name.eq_ignore_ascii_case("host") => {
                    fields.hosts += 1;
                    if fields.hosts > 1 {
                        return Err(malformed("more than one Host field"));
                    }
                    if !is_host(value) {
                        return Err(malformed("the Host field is no host[:port]"));
                    }
                }
                6 if name.eq_ignore_ascii_case("expect") => {
                    if value.eq_ignore_ascii_case(b"100-continue") {
                        fields.expects_continue = true;
                    } else if version == Version::Http11 {
                        let detail = "the only expectation met here is 100-continue";
                        return Err(Problem::new(Kind::ExpectationFailed, detail));
                    }
                }
                10 if name.eq_ignore_ascii_case("connection") => {
                    for option in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                        fields.close |= option.eq_ignore_ascii_case(b"close");
                        fields.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                14 if name.eq_ignore_ascii_case("content-length") => {
                    if fields.content_length.is_some() {
                        return Err(malformed("more than one Content-Length field"));
                    }
                    fields.content_length = Some(content_length(value)?);
                }
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    if fields.transfer_encoding.is_some() {
                        return Err(malformed("more than one Transfer-Encoding field"));
                    }
                    fields.transfer_encoding = Some(value);
                }
                6 | 8 | 12 | 13 => fields.extras.note(name, value),
                _ => {}
            }
        }
        Ok(fields)
    }

    /// The one rule of message length. Where two readers could disagree about it, the answer is 400: a proxy in
    /// front of us may be the other reader.
    fn framing(&self, version: Version) -> Result<Framing, Problem> {
        let Some(coding) = self.transfer_encoding else {
            return Ok(self.content_length.map_or(Framing::None, Framing::Length));
        };
        if self.content_length.is_some() {
            return Err(malformed("both Content-Length and Transfer-Encoding"));
        }
        if version == Version::Http10 {
            return Err(malformed("HTTP/1.0 has no Transfer-Encoding"));
        }
        let mut codings = coding.split(|b| *b == b',').map(<[u8]>::trim_ascii);
        let unknown = codings.clone().any(|c| !c.is_empty() && !c.eq_ignore_ascii_case(b"chunked"));
        if unknown {
            let detail = "the only transfer coding known here is chunked";
            return Err(Problem::new(Kind::UnknownCoding, detail));
        }
        match (codings.next(), codings.next()) {
            (Some(one), None) if !one.is_empty() => Ok(Framing::Chunked),
            _ => Err(malformed("Transfer-Encoding must be chunked, once")),
        }
    }
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

/// The path and query of a target in origin-form or absolute-form, or `*` (RFC 9112 section 3.2).
fn path_of<'b>(target: &'b str, method: &str) -> Result<&'b str, Problem> {
    // Without a branch: for so few bytes that is less than any search.
    if target.bytes().fold(false, |found, b| found | (b == b'#') | !b.is_ascii()) {
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
        if end > 0 && is_host(&authority.as_bytes()[..end]) {
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

/// `1*DIGIT`, nothing else: no sign, no blank inside, no list, no overflow (RFC 9110 section 8.6).
fn content_length(value: &[u8]) -> Result<u64, Problem> {
    let digits = !value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| digits);
    // 19 digits always fit into 64 bits.
    text.and_then(|t| t.parse().ok()).ok_or_else(|| malformed("Content-Length must be one decimal number"))
}

/// `uri-host [ ":" port ]`, or nothing (RFC 9110 section 7.2), checked by its alphabet.
fn is_host(value: &[u8]) -> bool {
    let host = value.iter().take_while(|b| IN_HOST[usize::from(**b)]).count();
    match &value[host..] {
        [] => true,
        [b':', port @ ..] => is_port(port),
        [b'[', literal @ ..] if host == 0 => is_ipv6_host(literal),
        _ => false,
    }
}

/// What follows the opening bracket of an IPv6 address.
fn is_ipv6_host(literal: &[u8]) -> bool {
    let Some(end) = memchr(b']', literal) else { return false };
    let address = std::str::from_utf8(&literal[..end]).unwrap_or_default();
    let after = match &literal[end + 1..] {
        [] => true,
        [b':', port @ ..] => is_port(port),
        _ => false,
    };
    after && address.parse::<std::net::Ipv6Addr>().is_ok()
}

fn is_port(port: &[u8]) -> bool {
    port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

/// The bytes of a reg-name (RFC 3986 section 3.2.2): a table, because every request has a Host.
static IN_HOST: [bool; 256] = {
    let mut table = [false; 256];
    let others = b"-._~%!$&'()*+,;=";
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};

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
