//! Answers into bytes. The answer to a hit is one copy of a prepared block, three numbers and the value; everything
//! else is written field by field. Knows no connection. Called by [`crate::connection`] through [`crate::api`].

use crate::http::cors::{Audience, Audiences};
use crate::http::date::{DATE_BYTES, DateCache};
use crate::http::problem::{Kind, Problem};
use crate::limits::SHARED_VALUE_BYTES;
use crate::output::Output;
use std::cell::Cell;
use std::sync::Arc;
use std::time::SystemTime;

/// What the answer says about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Goes on, as HTTP/1.1 does unasked.
    Silent,
    /// Goes on, and says so: HTTP/1.0.
    KeepAlive,
    /// Ends with this answer.
    Close,
}

impl Reuse {
    /// The field that says so.
    fn field(self) -> &'static str {
        match self {
            Reuse::Silent => "",
            Reuse::KeepAlive => "Connection: keep-alive\r\n",
            Reuse::Close => "Connection: close\r\n",
        }
    }
}

/// How one answer is framed, besides its own content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// True for HEAD: the head of the answer to a GET, no content.
    pub head_only: bool,
    /// What becomes of the connection.
    pub reuse: Reuse,
    /// Whose script may read it.
    pub audience: Audience,
}

impl Frame {
    /// The same, but for the last answer of its connection where the connection is to end.
    #[inline]
    pub fn closing_if(self, ends: bool) -> Frame {
        if ends { Frame { reuse: Reuse::Close, ..self } } else { self }
    }
}

/// A value, lent for as long as it takes to encode it.
#[derive(Clone, Copy, Debug)]
pub enum Lent<'a> {
    /// Small: to be copied.
    Bytes(&'a [u8]),
    /// Large: to be sent from where it is.
    Shared(&'a Arc<str>),
}

impl Lent<'_> {
    /// Its bytes.
    pub fn len(&self) -> usize {
        match self {
            Lent::Bytes(bytes) => bytes.len(),
            Lent::Shared(value) => value.len(),
        }
    }

    /// True for the empty value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> From<&'a Arc<str>> for Lent<'a> {
    fn from(value: &'a Arc<str>) -> Lent<'a> {
        if value.len() < SHARED_VALUE_BYTES { Lent::Bytes(value.as_bytes()) } else { Lent::Shared(value) }
    }
}

/// The media type of every value.
pub const TEXT: &str = "text/plain; charset=utf-8";
/// The media type of answers about several keys.
pub const JSON: &str = "application/json";
/// The media type of every refusal.
pub const PROBLEM_JSON: &str = "application/problem+json";

const HIT_START: &[u8] = b"HTTP/1.1 200 OK\r\nDate: ";
const HIT_FIELDS: &[u8] = b"\r\nContent-Type: text/plain; charset=utf-8\r\nCache-Status: hotrow; hit\r\n";
const HIT_ETAG: &[u8] = b"ETag: \"";

/// Writes answers; one for every event loop.
#[derive(Debug)]
pub struct Encoder {
    date: DateCache,
    /// The head of a hit up to the opening quote of its ETag, with the date of this second, for each audience and
    /// [`Reuse`].
    hits: Vec<[Vec<u8>; 3]>,
    audiences: Audiences,
    /// Of the answer that was started last.
    status: Cell<u16>,
    /// The problem that was encoded last, until it is counted.
    problem: Cell<Option<Kind>>,
}

impl Encoder {
    /// An encoder with a date, for no browser.
    pub fn new(now_ms: u64, wall: SystemTime) -> Encoder {
        Encoder::for_audiences(Audiences::new(&[]), now_ms, wall)
    }

    /// An encoder with a date.
    pub fn for_audiences(audiences: Audiences, now_ms: u64, wall: SystemTime) -> Encoder {
        let heads = |audience| {
            let cors: &str = audiences.fields(audience);
            [Reuse::Silent, Reuse::KeepAlive, Reuse::Close].map(|reuse| {
                let fields = [reuse.field().as_bytes(), cors.as_bytes()].concat();
                [HIT_START, &[0; DATE_BYTES], HIT_FIELDS, &fields, HIT_ETAG].concat()
            })
        };
        let hits = audiences.all().map(heads).collect();
        let mut encoder = Encoder {
            date: DateCache::new(now_ms, wall),
            hits,
            audiences,
            status: Cell::new(0),
            problem: Cell::default(),
        };
        encoder.prepare();
        encoder
    }

    /// Who asks, by the `Origin` of a request.
    #[inline]
    pub fn audience(&self, origin: Option<&[u8]>) -> Audience {
        self.audiences.of(origin)
    }

    /// True where the browser of who asks lets its script read the answer.
    pub fn shares(&self, frame: Frame) -> bool {
        self.audiences.shares(frame.audience)
    }

    /// Renders the date again if its second has passed; once a turn.
    pub fn tick(&mut self, now_ms: u64, wall: impl FnOnce() -> SystemTime) {
        if self.date.is_stale(now_ms) {
            self.date.render(now_ms, wall());
            self.prepare();
        }
    }

    fn prepare(&mut self) {
        for hit in self.hits.iter_mut().flatten() {
            hit[HIT_START.len()..HIT_START.len() + DATE_BYTES].copy_from_slice(self.date.text());
        }
    }

    /// The status of the answer that was encoded last, for who counts.
    pub fn status(&self) -> u16 {
        self.status.get()
    }

    /// The problem that the answer that was encoded last is, for who counts: once. A hit is none, and takes none back, for
    /// that would cost it something: so whoever encodes a problem has it counted before anything else is encoded.
    pub fn take_problem(&self) -> Option<Kind> {
        self.problem.take()
    }

    /// More follows of an answer that was started in an earlier turn, and others may have been started since: what is said of
    /// the last one is said of this one again.
    pub fn resume(&self, status: u16) {
        self.status.set(status);
        self.problem.set(None);
    }

    /// 200 with a value from the cache that has a version and an age in seconds.
    #[inline]
    pub fn hit(&self, out: &mut Output, value: Lent<'_>, (version, age_s): (u32, u32), frame: Frame) {
        self.status.set(200);
        let mut tail = [0; TAIL_BYTES];
        let at = put(&mut tail, TAIL_BYTES, b"\r\n\r\n");
        let at = digits(&mut tail, at, value.len() as u64);
        let at = put(&mut tail, at, b"\r\nContent-Length: ");
        let at = digits(&mut tail, at, u64::from(age_s));
        let at = put(&mut tail, at, b"\"\r\nAge: ");
        let at = digits(&mut tail, at, u64::from(version));
        out.bytes.extend_from_slice(&self.hits[frame.audience.index()][frame.reuse as usize]);
        out.bytes.extend_from_slice(&tail[at..]);
        content(out, value, frame);
    }

    /// A time of the process's clock, in seconds, as a date.
    pub fn date_of(&self, s: u32) -> String {
        self.date.date_of(s)
    }

    /// Starts any other answer: status line, `Date`, `Connection`, and what browsers ask for.
    pub fn start<'o>(&self, out: &'o mut Output, status: u16, frame: Frame) -> Fields<'o> {
        self.start_with(out, status, frame, self.audiences.fields(frame.audience))
    }

    /// The same for an answer that would be another one with another `Accept`.
    pub fn start_by_accept<'o>(&self, out: &'o mut Output, status: u16, frame: Frame) -> Fields<'o> {
        self.start_with(out, status, frame, self.audiences.fields_by_accept(frame.audience))
    }

    fn start_with<'o>(&self, out: &'o mut Output, status: u16, frame: Frame, cors: &str) -> Fields<'o> {
        self.status.set(status);
        self.problem.set(None);
        let bytes = &mut out.bytes;
        bytes.extend_from_slice(b"HTTP/1.1 ");
        number(bytes, u64::from(status));
        bytes.push(b' ');
        bytes.extend_from_slice(reason(status).as_bytes());
        bytes.extend_from_slice(b"\r\nDate: ");
        bytes.extend_from_slice(self.date.text());
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(frame.reuse.field().as_bytes());
        bytes.extend_from_slice(cors.as_bytes());
        Fields { out, frame }
    }

    /// A refusal.
    pub fn problem(&self, out: &mut Output, problem: &Problem, frame: Frame) {
        let mut fields = self.start(out, problem.status(), frame);
        self.problem.set(Some(problem.kind));
        // RFC 6750 section 3: whoever has sent no token is told no error.
        match (problem.kind, problem.field) {
            (Kind::Unauthorized, None) => fields.field("WWW-Authenticate", BEARER),
            (Kind::Unauthorized, Some(error)) => {
                fields.field("WWW-Authenticate", &format!("{BEARER}, error=\"{error}\""));
            }
            (Kind::Forbidden, _) => {
                fields.field("WWW-Authenticate", &format!("{BEARER}, error=\"insufficient_scope\""));
            }
            (_, Some(methods)) => fields.field("Allow", methods),
            (_, None) => {}
        }
        if let Some(seconds) = problem.retry_after_seconds {
            fields.field("Retry-After", &seconds.to_string());
        }
        if let Some(id) = &problem.request_id {
            fields.field("X-Request-Id", id);
        }
        fields.field("Content-Type", PROBLEM_JSON);
        fields.content(Lent::Bytes(&problem.to_json()));
    }
}

/// What is asked for where a token is needed.
const BEARER: &str = "Bearer realm=\"hotrow\"";

/// `100 Continue`: the client may send the content.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// An answer whose fields are being written. End it with [`Fields::content`] or [`Fields::no_content`].
#[derive(Debug)]
#[must_use]
pub struct Fields<'o> {
    out: &'o mut Output,
    frame: Frame,
}

impl Fields<'_> {
    /// Adds a field. Both parts are ours or checked: no line ends in them.
    pub fn field(&mut self, name: &str, value: &str) {
        debug_assert!(!value.contains(['\r', '\n']), "a field value would end the line");
        let bytes = &mut self.out.bytes;
        for part in [name, ": ", value, "\r\n"] {
            bytes.extend_from_slice(part.as_bytes());
        }
    }

    /// Adds an `ETag`.
    pub fn etag(&mut self, version: u32) {
        self.out.bytes.extend_from_slice(b"ETag: \"");
        number(&mut self.out.bytes, u64::from(version));
        self.out.bytes.extend_from_slice(b"\"\r\n");
    }

    /// Ends the answer with a content, or with its length only where the request was HEAD.
    pub fn content(self, value: Lent<'_>) {
        self.out.bytes.extend_from_slice(b"Content-Length: ");
        number(&mut self.out.bytes, value.len() as u64);
        self.out.bytes.extend_from_slice(b"\r\n\r\n");
        content(self.out, value, self.frame);
    }

    /// Ends an answer that has no content by its status (204, 304).
    pub fn no_content(self) {
        self.out.bytes.extend_from_slice(b"\r\n");
    }
}

#[inline]
fn content(out: &mut Output, value: Lent<'_>, frame: Frame) {
    match value {
        _ if frame.head_only => {}
        Lent::Bytes(bytes) => out.bytes.extend_from_slice(bytes),
        Lent::Shared(value) => out.push_shared(Arc::clone(value)),
    }
}

/// Appends a decimal number.
fn number(bytes: &mut Vec<u8>, n: u64) {
    let mut tail = [0; TAIL_BYTES];
    let at = digits(&mut tail, TAIL_BYTES, n);
    bytes.extend_from_slice(&tail[at..]);
}

/// The end of a head is written from its back: so numbers need not be measured first, and all of it is appended at
/// once. Room for three numbers of 20 digits, and what stands around them.
const TAIL_BYTES: usize = 96;

/// Writes `part` before `at`, and returns where it begins.
#[inline]
fn put<const N: usize>(tail: &mut [u8; TAIL_BYTES], at: usize, part: &[u8; N]) -> usize {
    tail[at - N..at].copy_from_slice(part);
    at - N
}

/// Writes a decimal number before `at`, and returns where it begins. Two digits a division.
#[inline]
fn digits(tail: &mut [u8; TAIL_BYTES], mut at: usize, n: u64) -> usize {
    let pair = |n: u64| [PAIRS[n as usize * 2], PAIRS[n as usize * 2 + 1]];
    let mut left = n;
    while left >= 100 {
        at = put(tail, at, &pair(left % 100));
        left /= 100;
    }
    if left >= 10 { put(tail, at, &pair(left)) } else { put(tail, at, &[b'0' + left as u8]) }
}

/// `00`, `01` … `99`.
static PAIRS: [u8; 200] = {
    let mut pairs = [0; 200];
    let mut n = 0;
    while n < 100 {
        pairs[n * 2] = b'0' + (n / 10) as u8;
        pairs[n * 2 + 1] = b'0' + (n % 10) as u8;
        n += 1;
    }
    pairs
};

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        424 => "Failed Dependency",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        // RFC 9110 section 15: the phrase is optional, the blank before it is not.
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::problem::Kind;
    use std::time::Duration;

    const PLAIN: Frame = Frame { head_only: false, reuse: Reuse::Silent, audience: Audience::NONE };

    fn encoder() -> Encoder {
        Encoder::new(0, SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777))
    }

    fn sent(write: impl FnOnce(&Encoder, &mut Output)) -> String {
        let (mut out, mut sent) = (Output::default(), Vec::new());
        write(&encoder(), &mut out);
        out.flush(&mut sent, usize::MAX);
        String::from_utf8(sent).unwrap()
    }

    #[test]
    fn a_hit_is_the_same_whether_copied_or_shared() {
        let head = "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: text/plain; charset=utf-8\
            \r\nCache-Status: hotrow; hit\r\nETag: \"4294967295\"\r\nAge: 7\r\nContent-Length: 5\r\n\r\n";
        let value: Arc<str> = "value".into();
        for lent in [Lent::Bytes(b"value"), Lent::Shared(&value)] {
            assert_eq!(sent(|e, out| e.hit(out, lent, (u32::MAX, 7), PLAIN)), format!("{head}value"));
            let head_only = Frame { head_only: true, ..PLAIN };
            assert_eq!(sent(|e, out| e.hit(out, lent, (u32::MAX, 7), head_only)), head);
        }
    }

    #[test]
    fn the_connection_field_is_there_where_it_says_something() {
        for (reuse, field) in [
            (Reuse::Silent, ""),
            (Reuse::KeepAlive, "Connection: keep-alive\r\n"),
            (Reuse::Close, "Connection: close\r\n"),
        ] {
            let frame = Frame { reuse, ..PLAIN };
            let hit = sent(|e, out| e.hit(out, Lent::Bytes(b""), (0, 0), frame));
            let other = sent(|e, out| e.start(out, 204, frame).no_content());
            assert_eq!(hit.contains("Connection"), !field.is_empty());
            assert!(hit.contains(field) && other.contains(field));
        }
    }

    #[test]
    fn a_problem_carries_its_fields() {
        let problem = Problem { field: Some("GET"), ..Problem::new(Kind::QueueFull, "d").retry_after(3) };
        let text = sent(|e, out| e.problem(out, &problem, PLAIN));
        assert!(text.starts_with("HTTP/1.1 503 Service Unavailable\r\nDate: "));
        for field in ["Allow: GET\r\n", "Retry-After: 3\r\n", "Content-Type: application/problem+json\r\n"] {
            assert!(text.contains(field), "{text}");
        }
    }

    #[test]
    fn numbers_are_decimal() {
        for n in (0..=1_100).chain([9_999, 10_000, 12_345, 100_000, u64::MAX]) {
            let mut bytes = Vec::new();
            number(&mut bytes, n);
            assert_eq!(bytes, n.to_string().as_bytes());
        }
    }

    #[test]
    fn every_status_of_a_problem_has_a_phrase() {
        for kind in Kind::ALL {
            assert_ne!(reason(kind.facts().0), "", "{kind:?}");
        }
    }
}
