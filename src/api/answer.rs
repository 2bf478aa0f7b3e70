//! What the store answered, as HTTP. Every case is here once, in exhaustive matches. Called by [`crate::connection`].

use super::key;
use crate::engine::shard::Hit;
use crate::http::problem::{Kind, Problem};
use crate::http::response::{Encoder, Frame, Lent, PROBLEM_JSON, TEXT};
use crate::output::Output;
use crate::store::backend::Refusal;
use crate::store::{Answer, Failure};
use std::sync::LazyLock;

const HIT: &str = "hotrow; hit";
const MISS: &str = "hotrow; fwd=miss";

/// The content of every 404 for a key.
static KEY_NOT_FOUND: LazyLock<Vec<u8>> =
    LazyLock::new(|| Problem::new(Kind::KeyNotFound, "there is no such key").to_json());

/// The answer to a GET that the cache knows.
#[inline]
pub fn hit(encoder: &Encoder, out: &mut Output, hit: &Hit<'_>, frame: Frame) {
    match hit {
        Hit::Value(value, version) => encoder.hit(out, *value, *version, frame),
        Hit::Absent => not_found(encoder, out, HIT, frame),
    }
}

/// The answer that a worker has given.
pub fn answer(encoder: &Encoder, out: &mut Output, answer: &Answer, frame: Frame) {
    match answer {
        Answer::Found(Some((value, version))) => {
            let mut fields = encoder.start(out, 200, frame);
            fields.field("Content-Type", TEXT);
            fields.field("Cache-Status", MISS);
            fields.etag(*version);
            fields.content(Lent::from(value));
        }
        Answer::Found(None) => not_found(encoder, out, MISS, frame),
        Answer::Stored { key, value, version, created } => {
            let mut fields = encoder.start(out, if *created { 201 } else { 200 }, frame);
            if *created {
                fields.field("Location", &key::path(key));
            }
            fields.field("Content-Type", TEXT);
            if let Some(version) = version {
                fields.etag(*version);
            }
            fields.content(Lent::from(value));
        }
        Answer::Deleted { existed: true } => encoder.start(out, 204, frame).no_content(),
        Answer::Deleted { existed: false } => {
            encoder.problem(out, &Problem::new(Kind::KeyNotFound, "there is no such key"), frame);
        }
        Answer::Failed(failure) => encoder.problem(out, &failed(failure), frame),
    }
}

/// The answer to OPTIONS.
pub fn options(encoder: &Encoder, out: &mut Output, allow: &str, frame: Frame) {
    let mut fields = encoder.start(out, 204, frame);
    fields.field("Allow", allow);
    fields.no_content();
}

/// Why a request was not taken.
pub fn refused(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::QueueFull => {
            let detail = "as many requests wait for the database as --queue-depth allows, or as it can do in time; nothing was changed";
            Problem::new(Kind::QueueFull, detail).retry_after(1)
        }
        Refusal::Down { retry_after_seconds } => failed(&Failure::Down { retry_after_seconds }),
    }
}

/// Why a job has no result.
pub fn failed(failure: &Failure) -> Problem {
    match failure {
        Failure::Down { retry_after_seconds } => {
            let detail = "PostgreSQL cannot be reached; cached keys are still served; nothing was changed";
            Problem::new(Kind::DatabaseDown, detail).retry_after(*retry_after_seconds)
        }
        Failure::Refused(message) => {
            let detail = format!("PostgreSQL refused, nothing was changed: {message}");
            Problem::new(Kind::DatabaseRefused, detail).retry_after(1)
        }
        Failure::NotStarted => not_started(),
        Failure::Unknown => outcome_unknown(),
    }
}

/// A write whose time was over before it was sent.
pub fn not_started() -> Problem {
    let detail = "the write did not reach the database within --request-timeout; nothing was changed";
    Problem::new(Kind::NotStarted, detail).retry_after(1)
}

/// A write whose time was over after it was sent, or whose connection was lost.
pub fn outcome_unknown() -> Problem {
    let detail = "the write was sent to the database and its outcome is unknown: it may have taken effect, or still \
        may; read the key to find out";
    Problem::new(Kind::OutcomeUnknown, detail)
}

/// A request that was not answered when the server had to go.
pub fn draining() -> Problem {
    let detail =
        "the server is going away and could not wait for the database any longer; nothing was changed";
    Problem::new(Kind::Draining, detail).retry_after(1)
}

/// A read whose time was over.
pub fn deadline_exceeded() -> Problem {
    Problem::new(Kind::DeadlineExceeded, "the database did not answer within --request-timeout")
}

fn not_found(encoder: &Encoder, out: &mut Output, cache_status: &str, frame: Frame) {
    let mut fields = encoder.start(out, 404, frame);
    fields.field("Cache-Status", cache_status);
    fields.field("Content-Type", PROBLEM_JSON);
    fields.content(Lent::Bytes(&KEY_NOT_FOUND));
}
