//! What the store answered, as HTTP. Every case is here once, in exhaustive matches. Called by [`crate::connection`].

use super::{key, refusals};
use crate::engine::shard::{Held, Known};
use crate::engine::{NEVER, Record, Row};
use crate::http::conditional::{Current, Preconditions, Verdict};
use crate::http::response::{Encoder, Fields, Frame, Lent, PROBLEM_JSON, TEXT};
use crate::limits::CORS_MAX_AGE_S;
use crate::output::Output;
use crate::store::{Answer, NO_VERSION};
use std::sync::LazyLock;

const HIT: &str = "hotrow; hit";

/// All methods that resources here have, for browsers that ask first. Not only those of the one resource: where it has
/// not, its own answer says so better than a browser's error.
const METHODS: &str = "GET, HEAD, PUT, SET, POST, DELETE, OPTIONS";
/// The fields of requests that are looked at here.
const FIELDS: &str =
    "Accept, Authorization, Cache-Control, Content-Type, If-Match, If-None-Match, Prefer, X-Request-Id";

/// Why a read went to the database, as `Cache-Status` says it (RFC 9211 section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// The key was not cached.
    Miss,
    /// The same, and another request's read was joined.
    Collapsed,
    /// The request did not take what was cached.
    Request,
    /// The request wanted nothing to do with the cache.
    Bypass,
}

impl Forward {
    fn cache_status(self) -> &'static str {
        match self {
            Forward::Miss => "hotrow; fwd=miss",
            Forward::Collapsed => "hotrow; fwd=miss; collapsed",
            Forward::Request => "hotrow; fwd=request",
            Forward::Bypass => "hotrow; fwd=bypass",
        }
    }
}

/// The content of every 404 for a key.
static KEY_NOT_FOUND: LazyLock<Vec<u8>> = LazyLock::new(|| refusals::key_not_found().to_json());

/// The answer to a GET that the cache knows. Inlined, like the look-up: a call less each, 26 instructions for both.
#[inline(always)]
pub fn hit(encoder: &Encoder, out: &mut Output, known: &Known<'_>, frame: Frame) {
    match known {
        Known::Value(held) if held.expires_s == NEVER => {
            encoder.hit(out, held.value, (held.version, held.age_s), frame);
        }
        Known::Value(held) => value(encoder, out, held, Source::Cache, frame),
        Known::Absent { age_s } => not_found(encoder, out, Source::Cache, *age_s, frame),
    }
}

/// The same for a GET with conditions.
pub fn hit_if(
    encoder: &Encoder,
    out: &mut Output,
    known: &Known<'_>,
    conditions: Option<&Preconditions>,
    frame: Frame,
) {
    let current = match known {
        Known::Value(held) => Current::Version(held.version),
        Known::Absent { .. } => Current::Absent,
    };
    match (conditions.map_or(Verdict::Proceed, |conditions| conditions.on_read(current)), known) {
        (Verdict::NotModified, Known::Value(held)) => {
            not_modified(encoder, out, held, Source::Cache, frame);
        }
        (Verdict::Failed, _) => encoder.problem(out, &refusals::precondition_failed(), frame),
        (Verdict::NotModified | Verdict::Proceed, _) => hit(encoder, out, known, frame),
    }
}

/// The answer to a GET that the database was asked for.
pub fn found(
    encoder: &Encoder,
    out: &mut Output,
    row: &Row,
    forward: Forward,
    conditions: Option<&Preconditions>,
    frame: Frame,
) {
    let source = Source::Database(forward);
    let current = row.as_ref().map_or(Current::Absent, |record| Current::Version(record.version));
    match (conditions.map_or(Verdict::Proceed, |conditions| conditions.on_read(current)), row) {
        (Verdict::NotModified, Some(record)) => {
            not_modified(encoder, out, &held(record), source, frame);
        }
        (Verdict::Failed, _) => encoder.problem(out, &refusals::precondition_failed(), frame),
        (Verdict::Proceed, Some(record)) => value(encoder, out, &held(record), source, frame),
        (Verdict::NotModified | Verdict::Proceed, None) => not_found(encoder, out, source, 0, frame),
    }
}

/// The answer to a write.
pub fn written(encoder: &Encoder, out: &mut Output, answer: &Answer, minimal: bool, frame: Frame) {
    match answer {
        Answer::Stored { key, record, created } => {
            let status = match (*created, minimal) {
                (true, _) => 201,
                (false, true) => 204,
                (false, false) => 200,
            };
            let mut fields = encoder.start(out, status, frame);
            if *created {
                fields.field("Location", &key::path(key));
            }
            if record.version != NO_VERSION {
                fields.etag(record.version);
            }
            expires(encoder, &mut fields, record.expires_s);
            if minimal {
                fields.field("Preference-Applied", "return=minimal");
            }
            match (*created, minimal) {
                (true, true) => fields.content(Lent::Bytes(b"")),
                (false, true) => fields.no_content(),
                (_, false) => {
                    fields.field("Content-Type", TEXT);
                    fields.content(Lent::from(&record.value));
                }
            }
        }
        Answer::Deleted { existed: true } => encoder.start(out, 204, frame).no_content(),
        Answer::Deleted { existed: false } => {
            encoder.problem(out, &refusals::key_not_found(), frame);
        }
        Answer::PreconditionFailed => encoder.problem(out, &refusals::precondition_failed(), frame),
        Answer::NotANumber => encoder.problem(out, &refusals::not_a_number(), frame),
        Answer::Failed(failure) => encoder.problem(out, &refusals::failed(failure), frame),
        Answer::Found(_)
        | Answer::Page(_)
        | Answer::Many(_)
        | Answer::Loaded(_)
        | Answer::NotDone
        | Answer::Changed => {
            unreachable!("no answer to a write of one key")
        }
    }
}

/// Where the content of an answer comes from.
#[derive(Clone, Copy)]
enum Source {
    Cache,
    Database(Forward),
}

impl Source {
    fn start<'o>(
        self,
        encoder: &Encoder,
        out: &'o mut Output,
        status: u16,
        age_s: u32,
        frame: Frame,
    ) -> Fields<'o> {
        let mut fields = encoder.start(out, status, frame);
        match self {
            Source::Cache => {
                fields.field("Cache-Status", HIT);
                fields.field("Age", &age_s.to_string());
            }
            Source::Database(forward) => fields.field("Cache-Status", forward.cache_status()),
        }
        fields
    }
}

fn held(record: &Record) -> Held<'_> {
    let Record { value, version, expires_s } = record;
    Held { value: Lent::from(value), version: *version, age_s: 0, expires_s: *expires_s }
}

fn value(encoder: &Encoder, out: &mut Output, held: &Held<'_>, source: Source, frame: Frame) {
    let mut fields = source.start(encoder, out, 200, held.age_s, frame);
    fields.field("Content-Type", TEXT);
    fields.etag(held.version);
    expires(encoder, &mut fields, held.expires_s);
    fields.content(held.value);
}

/// RFC 9110 section 15.4.5: what a 200 would have said about the row, without the row.
fn not_modified(encoder: &Encoder, out: &mut Output, held: &Held<'_>, source: Source, frame: Frame) {
    let mut fields = source.start(encoder, out, 304, held.age_s, frame);
    fields.etag(held.version);
    expires(encoder, &mut fields, held.expires_s);
    fields.no_content();
}

/// 304 for a client that has waited for a change of this row in vain: as if it were told when it was seen, in the cache or, for
/// this reason, in the database.
pub fn not_changed(
    encoder: &Encoder,
    out: &mut Output,
    held: &Held<'_>,
    forward: Option<Forward>,
    frame: Frame,
) {
    not_modified(encoder, out, held, forward.map_or(Source::Cache, Source::Database), frame);
}

fn expires(encoder: &Encoder, fields: &mut Fields<'_>, expires_s: u32) {
    if expires_s != NEVER {
        fields.field("Expires", &encoder.date_of(expires_s));
        // By Expires alone, whoever caches the answer would take it for fresh until then (RFC 9111 section 4.2), whatever is
        // written meanwhile.
        fields.field("Cache-Control", "no-cache");
    }
}

/// The answer to OPTIONS.
pub fn options(encoder: &Encoder, out: &mut Output, allow: &str, frame: Frame) {
    let mut fields = encoder.start(out, 204, frame);
    fields.field("Allow", allow);
    if encoder.shares(frame) {
        // Fetch standard section 3.3.3. It may be a preflight: a browser asks before it sends what a form could not.
        fields.field("Access-Control-Allow-Methods", METHODS);
        fields.field("Access-Control-Allow-Headers", FIELDS);
        fields.field("Access-Control-Max-Age", &CORS_MAX_AGE_S.to_string());
    }
    fields.no_content();
}

fn not_found(encoder: &Encoder, out: &mut Output, source: Source, age_s: u32, frame: Frame) {
    let mut fields = source.start(encoder, out, 404, age_s, frame);
    fields.field("Content-Type", PROBLEM_JSON);
    fields.content(Lent::Bytes(&KEY_NOT_FOUND));
}
