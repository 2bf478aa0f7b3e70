//! Every refusal that a client can see: a name, a status, a title. `application/problem+json` (RFC 9457).
//! Made by the parser, the API and the connection; encoded by [`crate::http::response`]. A test compares this
//! list with the README's.

use crate::limits::PROBLEM_DETAIL_BYTES;
use serde::Serialize;
use std::borrow::Cow;

/// What kind of refusal, each with a stable name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The bytes are no HTTP/1.1 request, or an ambiguous one.
    MalformedRequest,
    /// The key is empty, too long, no UTF-8, or has U+0000 in it.
    BadKey,
    /// A query parameter that this resource does not have.
    BadQuery,
    /// A batch that is no list of operations, or has one that makes no sense.
    BadBatch,
    /// A line of a bulk load that is no row.
    BadLine,
    /// `If-Match` or `If-None-Match` is no list of entity tags.
    BadCondition,
    /// More keys than one request may ask for.
    TooManyKeys,
    /// No token, or one that is not known.
    Unauthorized,
    /// A token that is not good for this.
    Forbidden,
    /// No such key.
    KeyNotFound,
    /// No such resource.
    PathNotFound,
    /// A method that this resource does not have.
    MethodNotAllowed,
    /// The head or the content came too slowly.
    SlowRequest,
    /// The value is no whole number, or would not be one of 64 bits any more.
    NotANumber,
    /// A write without a content.
    LengthRequired,
    /// The row is not as `If-Match` or `If-None-Match` wants it.
    PreconditionFailed,
    /// The content is larger than a value may be.
    ValueTooLarge,
    /// The request line is too long.
    TargetTooLong,
    /// A content of a kind that is not taken here.
    UnsupportedMediaType,
    /// An expectation other than `100-continue`.
    ExpectationFailed,
    /// The value is not UTF-8, or has U+0000 in it.
    ValueNotText,
    /// One operation of a batch, because of another.
    NotDone,
    /// Too many fields, or too large ones.
    HeadTooLarge,
    /// A method that no resource has.
    UnknownMethod,
    /// A transfer coding other than `chunked`.
    UnknownCoding,
    /// The queue to the database is full.
    QueueFull,
    /// A key of a batch has a write of unknown outcome that is being settled.
    InDoubt,
    /// PostgreSQL cannot be reached, or refuses to work.
    DatabaseDown,
    /// PostgreSQL refused this statement.
    DatabaseRefused,
    /// The server has as many connections as it may have.
    TooManyConnections,
    /// The server is going away.
    Draining,
    /// A write that did not reach the database in time; nothing was changed.
    NotStarted,
    /// A read that the database did not answer in time.
    DeadlineExceeded,
    /// `only-if-cached`, and it is not.
    NotCached,
    /// The write may have taken effect, or may still, or not.
    OutcomeUnknown,
    /// An HTTP version other than 1.0 and 1.1.
    UnsupportedVersion,
}

impl Kind {
    /// All kinds, for the tests that hold the README against them.
    pub const ALL: [Kind; 36] = [
        Kind::MalformedRequest,
        Kind::BadKey,
        Kind::BadQuery,
        Kind::BadBatch,
        Kind::BadLine,
        Kind::BadCondition,
        Kind::TooManyKeys,
        Kind::Unauthorized,
        Kind::Forbidden,
        Kind::KeyNotFound,
        Kind::PathNotFound,
        Kind::MethodNotAllowed,
        Kind::SlowRequest,
        Kind::NotANumber,
        Kind::LengthRequired,
        Kind::PreconditionFailed,
        Kind::ValueTooLarge,
        Kind::TargetTooLong,
        Kind::UnsupportedMediaType,
        Kind::ExpectationFailed,
        Kind::ValueNotText,
        Kind::NotDone,
        Kind::HeadTooLarge,
        Kind::UnknownMethod,
        Kind::UnknownCoding,
        Kind::QueueFull,
        Kind::InDoubt,
        Kind::DatabaseDown,
        Kind::DatabaseRefused,
        Kind::TooManyConnections,
        Kind::Draining,
        Kind::NotStarted,
        Kind::DeadlineExceeded,
        Kind::NotCached,
        Kind::OutcomeUnknown,
        Kind::UnsupportedVersion,
    ];

    /// Status, name and title. The name follows `urn:hotrow:problem:` and never changes.
    pub fn facts(self) -> (u16, &'static str, &'static str) {
        match self {
            Kind::MalformedRequest => (400, "malformed-request", "Malformed request"),
            Kind::BadKey => (400, "bad-key", "Bad key"),
            Kind::BadQuery => (400, "bad-query", "Bad query"),
            Kind::BadBatch => (400, "bad-batch", "Bad batch"),
            Kind::BadLine => (400, "bad-line", "Bad line"),
            Kind::BadCondition => (400, "bad-condition", "Bad condition"),
            Kind::TooManyKeys => (400, "too-many-keys", "Too many keys"),
            Kind::Unauthorized => (401, "unauthorized", "Unauthorized"),
            Kind::Forbidden => (403, "forbidden", "Forbidden"),
            Kind::KeyNotFound => (404, "key-not-found", "Key not found"),
            Kind::PathNotFound => (404, "path-not-found", "Path not found"),
            Kind::MethodNotAllowed => (405, "method-not-allowed", "Method not allowed"),
            Kind::SlowRequest => (408, "slow-request", "Slow request"),
            Kind::NotANumber => (409, "not-a-number", "Not a number"),
            Kind::LengthRequired => (411, "length-required", "Length required"),
            Kind::PreconditionFailed => (412, "precondition-failed", "Precondition failed"),
            Kind::ValueTooLarge => (413, "value-too-large", "Value too large"),
            Kind::TargetTooLong => (414, "target-too-long", "Target too long"),
            Kind::UnsupportedMediaType => (415, "unsupported-media-type", "Unsupported media type"),
            Kind::ExpectationFailed => (417, "expectation-failed", "Expectation failed"),
            Kind::ValueNotText => (422, "value-not-text", "Value is not text"),
            Kind::NotDone => (424, "not-done", "Not done"),
            Kind::HeadTooLarge => (431, "head-too-large", "Head too large"),
            Kind::UnknownMethod => (501, "unknown-method", "Unknown method"),
            Kind::UnknownCoding => (501, "unknown-coding", "Unknown transfer coding"),
            Kind::QueueFull => (503, "queue-full", "Queue full"),
            Kind::InDoubt => (503, "in-doubt", "In doubt"),
            Kind::DatabaseDown => (503, "database-down", "Database down"),
            Kind::DatabaseRefused => (503, "database-refused", "Database refused"),
            Kind::TooManyConnections => (503, "too-many-connections", "Too many connections"),
            Kind::Draining => (503, "draining", "Draining"),
            Kind::NotStarted => (503, "not-started", "Not started in time"),
            Kind::DeadlineExceeded => (504, "deadline-exceeded", "Deadline exceeded"),
            Kind::NotCached => (504, "not-cached", "Not cached"),
            Kind::OutcomeUnknown => (504, "outcome-unknown", "Outcome unknown"),
            Kind::UnsupportedVersion => (505, "unsupported-version", "HTTP version not supported"),
        }
    }
}

impl Kind {
    /// Its name as a URN.
    pub fn urn(self) -> String {
        format!("urn:hotrow:problem:{}", self.facts().1)
    }
}

/// One refusal, on its way to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What kind.
    pub kind: Kind,
    /// What was wrong, what the limit is, and what to do.
    pub detail: Cow<'static, str>,
    /// What the field says that goes with its status: of 405 the methods that the resource has, of 401 what is wrong with the
    /// token that was sent. One place for both: every head that is parsed pays for a larger problem.
    pub field: Option<&'static str>,
    /// When to try again, in seconds, for 503.
    pub retry_after_seconds: Option<u32>,
    /// What the request is called in the log, for 5xx.
    pub request_id: Option<Box<str>>,
    /// More members of its JSON object (RFC 9457 section 3.2), as they stand between its braces.
    pub members: Option<Box<str>>,
}

impl Problem {
    /// A problem of this kind.
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Problem {
        let detail = detail.into();
        Problem { kind, detail, field: None, retry_after_seconds: None, request_id: None, members: None }
            .said_within(PROBLEM_DETAIL_BYTES)
    }

    /// The same, as far as it is said in so many bytes. What is always said is short; what was put together for this one may repeat
    /// what somebody has sent.
    pub fn said_within(mut self, bytes: usize) -> Problem {
        if let Cow::Owned(detail) = &mut self.detail {
            cut(detail, bytes);
        }
        self
    }

    /// The same, with the seconds after which another try makes sense.
    pub fn retry_after(self, seconds: u32) -> Problem {
        Problem { retry_after_seconds: Some(seconds), ..self }
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        self.kind.facts().0
    }

    /// The content of the answer.
    pub fn to_json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Body<'a> {
            r#type: String,
            title: &'a str,
            status: u16,
            detail: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            request_id: Option<&'a str>,
        }
        let (status, _, title) = self.kind.facts();
        let r#type = self.kind.urn();
        let mut json = serde_json::to_vec(&Body {
            r#type,
            title,
            status,
            detail: &self.detail,
            request_id: self.request_id.as_deref(),
        })
        .expect("strings and a number always serialize");
        if let Some(members) = &self.members {
            json.pop();
            json.push(b',');
            json.extend_from_slice(members.as_bytes());
            json.push(b'}');
        }
        json.push(b'\n');
        json
    }
}

/// Cuts off what a text has more than so many bytes, and says that something was. What a parser or PostgreSQL says may repeat all that it
/// was given.
pub fn cut(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
        text.push('…');
        text.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let mut names: Vec<_> = Kind::ALL.iter().map(|k| k.facts().1).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Kind::ALL.len());
    }

    #[test]
    fn what_is_long_is_cut_between_two_characters() {
        for (bytes, expected) in [(0, "…"), (1, "a…"), (2, "a…"), (3, "aä…"), (4, "aäb"), (9, "aäb")]
        {
            let mut text = "aäb".to_owned();
            cut(&mut text, bytes);
            assert_eq!(text, expected, "{bytes}");
        }
        let long = Problem::new(Kind::BadBatch, "ä".repeat(PROBLEM_DETAIL_BYTES));
        assert_eq!(long.detail.len(), PROBLEM_DETAIL_BYTES + "…".len());
        let ours = Problem::new(Kind::BadKey, "always the same").said_within(3);
        assert_eq!(ours.detail, "always the same");
    }

    #[test]
    fn a_problem_is_json_with_its_four_members() {
        let problem = Problem::new(Kind::BadKey, "a \"quoted\" \u{1}");
        let text = String::from_utf8(problem.to_json()).unwrap();
        assert_eq!(
            text,
            "{\"type\":\"urn:hotrow:problem:bad-key\",\"title\":\"Bad key\",\"status\":400,\
             \"detail\":\"a \\\"quoted\\\" \\u0001\"}\n"
        );
    }
}
