//! The fields of a head: what those mean that decide about framing and the connection, and those that some resource
//! looks at, as they were sent. Called by [`super`]; [`super::repeat`] remembers the result.

use super::{Framing, Version, malformed};
use crate::http::problem::{Kind, Problem};
use memchr::memchr;

/// What the fields say about the message and the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meaning {
    pub(super) framing: Framing,
    pub(super) keep_alive: bool,
    pub(super) expects_continue: bool,
}

/// Fields that mean nothing for framing, as they were sent. A request without them pays for a few empty places and
/// no allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras<'b> {
    /// The lines of fields whose values are lists, in their order: a list may be spread over several lines
    /// (RFC 9110 section 5.3).
    pub lists: Vec<(List, &'b [u8])>,
    /// `Accept`, the first line of it: others are in `lists`.
    pub accept: Option<&'b [u8]>,
    /// `Authorization`. Two are as good as a wrong one: then it is empty.
    pub authorization: Option<&'b [u8]>,
    /// `Content-Encoding`. Two lines are two codings, or none that is known: then it is empty.
    pub content_encoding: Option<&'b [u8]>,
    /// `Content-Range`, the first.
    pub content_range: Option<&'b [u8]>,
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
    /// `Accept`, behind the first line.
    Accept,
    /// `Cache-Control`.
    CacheControl,
    /// `Expect`, where it is one that is not met here.
    Expect,
    /// `If-Match`.
    IfMatch,
    /// `If-None-Match`.
    IfNoneMatch,
    /// `Prefer`.
    Prefer,
}

/// The name of a field of [`Extras`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Accept,
    Authorization,
    ContentEncoding,
    ContentRange,
    ContentType,
    Origin,
    RequestId,
    List(List),
}

impl Name {
    /// The name, if it is one of these.
    pub(super) fn of(name: &str) -> Option<Name> {
        Some(match name.len() {
            6 if is(name, "Accept") => Name::Accept,
            6 if is(name, "Expect") => Name::List(List::Expect),
            6 if is(name, "Origin") => Name::Origin,
            6 if is(name, "Prefer") => Name::List(List::Prefer),
            8 if is(name, "If-Match") => Name::List(List::IfMatch),
            12 if is(name, "Content-Type") => Name::ContentType,
            12 if is(name, "X-Request-Id") => Name::RequestId,
            13 if is(name, "If-None-Match") => Name::List(List::IfNoneMatch),
            13 if is(name, "Cache-Control") => Name::List(List::CacheControl),
            13 if is(name, "Authorization") => Name::Authorization,
            13 if is(name, "Content-Range") => Name::ContentRange,
            16 if is(name, "Content-Encoding") => Name::ContentEncoding,
            _ => return None,
        })
    }
}

impl<'b> Extras<'b> {
    /// The lines of one field.
    pub fn lines(&self, list: List) -> impl Iterator<Item = &'b [u8]> + Clone {
        self.lists.iter().filter(move |(of, _)| *of == list).map(|(_, line)| *line)
    }

    /// The media type of the content, without parameters.
    pub fn media_type(&self) -> Option<&'b [u8]> {
        let name = self.content_type?.split(|b| *b == b';').next().unwrap_or_default();
        Some(name.trim_ascii())
    }

    /// Takes the next field.
    pub(super) fn note(&mut self, name: Name, value: &'b [u8]) {
        let place = match name {
            // One line is what most send, and the shortest way takes it.
            Name::Accept if self.accept.is_some() => return self.lists.push((List::Accept, value)),
            Name::Accept => &mut self.accept,
            Name::ContentRange => &mut self.content_range,
            Name::ContentType => &mut self.content_type,
            Name::Origin => &mut self.origin,
            Name::RequestId => &mut self.request_id,
            Name::Authorization => return alone(&mut self.authorization, value),
            Name::ContentEncoding => return alone(&mut self.content_encoding, value),
            Name::List(list) => return self.lists.push((list, value)),
        };
        place.get_or_insert(value);
    }
}

/// Takes a field that says something only where it is there once.
fn alone<'b>(place: &mut Option<&'b [u8]>, value: &'b [u8]) {
    *place = if place.is_none() { Some(value) } else { Some(b"") };
}

/// Reads the fields of a head, in one pass.
pub(super) fn read<'b>(
    headers: &[httparse::Header<'b>],
    version: Version,
) -> Result<(Meaning, Extras<'b>), Problem> {
    let mut hosts = 0;
    let (mut length, mut coding) = (None, None);
    let (mut close, mut keep_alive, mut expects_continue) = (false, false, false);
    let mut extras = Extras::default();
    for httparse::Header { name, value } in headers {
        // The length tells almost all fields apart before a letter is compared.
        match name.len() {
            4 if is(name, "Host") => {
                hosts += 1;
                if hosts > 1 {
                    return Err(malformed("more than one Host field"));
                }
                if !is_host(value) {
                    return Err(malformed("the Host field is no host[:port]"));
                }
            }
            6 if is(name, "Expect") => {
                if value.eq_ignore_ascii_case(b"100-continue") {
                    expects_continue = true;
                } else if version == Version::Http11 {
                    // To be refused by who knows what is asked for: the end of the message is known all the same.
                    extras.lists.push((List::Expect, value));
                }
            }
            10 if is(name, "Connection") => {
                for option in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    close |= option.eq_ignore_ascii_case(b"close");
                    keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            14 if is(name, "Content-Length") => {
                if length.is_some() {
                    return Err(malformed("more than one Content-Length field"));
                }
                length = Some(content_length(value)?);
            }
            17 if is(name, "Transfer-Encoding") => {
                if coding.is_some() {
                    return Err(malformed("more than one Transfer-Encoding field"));
                }
                coding = Some(*value);
            }
            6 | 8 | 12 | 13 | 16 => {
                if let Some(name) = Name::of(name) {
                    extras.note(name, value);
                }
            }
            _ => {}
        }
    }
    let framing = framing(length, coding, version)?;
    if hosts == 0 && version == Version::Http11 {
        return Err(malformed("HTTP/1.1 needs a Host field"));
    }
    let keep_alive = match version {
        Version::Http11 => !close,
        Version::Http10 => keep_alive && !close,
    };
    let expects_continue = expects_continue && version == Version::Http11;
    Ok((Meaning { framing, keep_alive, expects_continue }, extras))
}

/// True for this name in any letter case. Most are sent as they are written in the RFCs, and then one comparison of
/// a few words does it.
#[inline(always)]
fn is(name: &str, field: &str) -> bool {
    name == field || name.eq_ignore_ascii_case(field)
}

/// The one rule of message length. Where two readers could disagree about it, the answer is 400: a proxy in
/// front of us may be the other reader.
fn framing(length: Option<u64>, coding: Option<&[u8]>, version: Version) -> Result<Framing, Problem> {
    let Some(coding) = coding else {
        return Ok(length.map_or(Framing::None, Framing::Length));
    };
    if length.is_some() {
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

/// `1*DIGIT`, nothing else: no sign, no blank inside, no list, no overflow (RFC 9110 section 8.6).
fn content_length(value: &[u8]) -> Result<u64, Problem> {
    let digits = !value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| digits);
    // 19 digits always fit into 64 bits.
    text.and_then(|t| t.parse().ok()).ok_or_else(|| malformed("Content-Length must be one decimal number"))
}

/// `uri-host [ ":" port ]`, or nothing (RFC 9110 section 7.2), checked by its alphabet.
pub(super) fn is_host(value: &[u8]) -> bool {
    let digits = value.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let host = match value[..value.len() - digits].split_last() {
        Some((b':', host)) if digits <= PORT_DIGITS => host,
        _ => value,
    };
    // Without a branch: almost always all of them are.
    host.iter().fold(true, |all, b| all & IN_HOST[usize::from(*b)])
        || value.strip_prefix(b"[").is_some_and(is_ipv6_host)
}

/// The longest port, in digits.
const PORT_DIGITS: usize = 5;

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
    port.len() <= PORT_DIGITS && port.iter().all(u8::is_ascii_digit)
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
