//! Why what was asked for is not done, as problems that say what to do. Pure. Used by [`super::answer`] and its like, and by
//! [`crate::connection`].

use crate::http::problem::{Kind, Problem};
use crate::limits::{WAITERS, WAITERS_A_SHARD, WATCHERS_A_SHARD};
use crate::store::Failure;
use crate::store::backend::Refusal;

/// 404 for a key.
pub fn key_not_found() -> Problem {
    Problem::new(Kind::KeyNotFound, "there is no such key")
}

/// Why a request was not taken.
pub fn refused(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::QueueFull => {
            let detail = "as many requests wait for the database as --queue-depth allows, or as it can do in time; nothing was changed";
            Problem::new(Kind::QueueFull, detail).retry_after(1)
        }
        Refusal::TooManyWaiters => {
            let detail = format!(
                "as many requests wait for rows to be read as may: {WAITERS_A_SHARD} for one shard's, {WAITERS} in all"
            );
            Problem::new(Kind::QueueFull, detail).retry_after(1)
        }
        Refusal::TooManyWatchers => {
            let detail =
                format!("as many requests wait for changes of one shard's keys as may: {WATCHERS_A_SHARD}");
            Problem::new(Kind::QueueFull, detail).retry_after(1)
        }
        Refusal::InDoubt => {
            let detail =
                "a write of one of the keys has an unknown outcome and is being settled; nothing was changed";
            Problem::new(Kind::InDoubt, detail).retry_after(1)
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
        Failure::InDoubt => refused(Refusal::InDoubt),
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
        may, and until then the old value is served; read the key later to find out";
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

/// 412.
pub fn precondition_failed() -> Problem {
    let detail =
        "the row is not as If-Match or If-None-Match wants it; nothing was changed; read it for its ETag";
    Problem::new(Kind::PreconditionFailed, detail)
}

/// 412 for conditions on a request that is about many keys: of which?
pub fn conditional() -> Problem {
    let detail = "a condition is of one key, and these are many; a batch has one for each";
    Problem::new(Kind::PreconditionFailed, detail)
}

/// 409 for an addition.
pub fn not_a_number() -> Problem {
    let detail = "the value is no whole number, or the sum would not fit into 64 bits; nothing was changed";
    Problem::new(Kind::NotANumber, detail)
}

/// `only-if-cached`, and it is not.
pub fn not_cached() -> Problem {
    let detail = "the key is not cached, or not as fresh as asked for, and Cache-Control: only-if-cached forbids to ask \
        the database";
    Problem::new(Kind::NotCached, detail)
}
