//! Between the engine and PostgreSQL: the jobs that go down, the replies that come back, and what a database must be
//! able to do. [`backend`] is the door that event loops use; [`pool`] has the threads behind it; [`postgres`] is the
//! only file that speaks SQL.

pub mod backend;
pub mod batch;
pub mod health;
pub mod managed;

pub mod migrations;
pub mod pace;
pub mod patience;
pub mod pool;
pub mod postgres;
pub mod reader;
pub mod worker;
pub mod writer;

use crate::engine::Value;
use crate::engine::shard::{ReadId, Row};
use crate::token::Ticket;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

/// A miss on its way to a reader. The engine knows who waits for it.
#[derive(Debug)]
pub struct ReadJob {
    /// The key.
    pub key: Box<str>,
    /// Its hash.
    pub hash: u64,
    /// Where the engine put those who wait.
    pub id: ReadId,
    /// When it was queued.
    pub queued: Instant,
}

/// A write on its way to the writer that owns its key's shard.
#[derive(Debug)]
pub struct WriteJob {
    /// The key.
    pub key: Box<str>,
    /// Its hash.
    pub hash: u64,
    /// What to do.
    pub op: Op,
    /// Who asked.
    pub ticket: Ticket,
    /// Who decides what becomes of it when its time is over.
    pub claim: Claim,
    /// When its time is over, in milliseconds of the process's clock.
    pub deadline_ms: u64,
    /// When it was queued.
    pub queued: Instant,
}

/// What a write does to its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Stores this value, whatever was there.
    Set(Value),
    /// Deletes the row.
    Delete,
}

/// Settles a race: at a write's deadline its connection withdraws it, unless a writer has taken it to send it.
/// Withdrawn means that it certainly never happens; taken means that nobody can say.
#[derive(Clone, Debug, Default)]
pub struct Claim(Arc<AtomicU8>);

const OPEN: u8 = 0;
const TAKEN: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Claim {
    /// The writer is about to send it. False: it was withdrawn and must not be sent.
    pub fn take(&self) -> bool {
        self.0.compare_exchange(OPEN, TAKEN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The connection no longer waits. True: it will not be sent.
    pub fn withdraw(&self) -> bool {
        self.0.compare_exchange(OPEN, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// An answer on its way back to a connection.
#[derive(Debug)]
pub struct Reply {
    /// Where it goes.
    pub ticket: Ticket,
    /// What it is.
    pub answer: Answer,
}

/// What became of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The row that was read, or that there is none.
    Found(Row),
    /// The value is committed.
    Stored {
        /// The key.
        key: Box<str>,
        /// The value.
        value: Value,
        /// The version, unless a later write of the same batch has replaced this value in the same commit.
        version: Option<u32>,
        /// There was no row before.
        created: bool,
    },
    /// The delete is committed; `existed` says whether there was a row.
    Deleted {
        /// There was a row.
        existed: bool,
    },
    /// Neither; see [`Failure`].
    Failed(Failure),
}

/// Why a job has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// PostgreSQL cannot be reached. Nothing was changed. Another try makes sense after so many seconds.
    Down {
        /// Until the next attempt to connect has had its chance.
        retry_after_seconds: u32,
    },
    /// PostgreSQL refused the statement. Nothing was changed.
    Refused(Arc<str>),
    /// The deadline passed before the write was sent. Nothing was changed.
    NotStarted,
    /// The write may have happened or not.
    Unknown,
}

/// Why a database did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// There was no connection to send on: nothing happened.
    NotSent(String),
    /// The connection was lost with the statement under way: it may have happened, or happen still.
    Lost(String),
    /// PostgreSQL rolled the statement back.
    Refused {
        /// What PostgreSQL said.
        message: String,
        /// What to do about it.
        blame: Blame,
    },
}

/// Where the cause of a refusal lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// A conflict with another transaction: try the same again.
    Conflict,
    /// Possibly one row of the batch: try each alone.
    Row,
    /// The server, whatever is sent: full disk, no right to the table.
    Server,
    /// This session is on a server that takes no writes: look for another.
    ReadOnly,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotSent(message) | Error::Lost(message) | Error::Refused { message, .. } => {
                f.write_str(message)
            }
        }
    }
}

impl std::error::Error for Error {}

/// What one write statement did: one element for each of its arguments, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// For every value: its version, and whether it is a new row.
    pub stored: Vec<(u32, bool)>,
    /// For every delete: whether there was a row.
    pub deleted: Vec<bool>,
}

/// Makes sessions. Every worker has one.
pub trait Connector: Send + Sync + 'static {
    /// What it makes.
    type Session: Session + Send;
    /// Opens a session, ready for statements.
    fn connect(&self) -> Result<Self::Session, Error>;
}

/// One connection to a database.
pub trait Session {
    /// Names the backend at the other end, for [`Session::end_backend`] of a later session.
    type Backend: fmt::Debug + Send;

    /// The rows of these keys, in their order.
    fn read(&mut self, keys: &[&str]) -> Result<Vec<Row>, Error>;
    /// Stores and deletes, in one commit. No key twice.
    fn write(&mut self, sets: &[(&str, &str)], deletes: &[&str]) -> Result<Written, Error>;
    /// The backend at the other end.
    fn backend(&self) -> Self::Backend;
    /// Returns when that backend is gone, and with it every chance that its last statement still commits.
    fn end_backend(&mut self, backend: &Self::Backend) -> Result<(), Error>;
    /// Finds out cheaply, without a round trip, whether the connection broke while it was idle.
    fn is_broken(&mut self) -> bool;
}

/// Takes replies to the loops that wait for them.
pub trait Deliver: Send + Sync + 'static {
    /// Delivers all of them and leaves the vector empty. Wakes a loop at most once.
    fn deliver(&self, replies: &mut Vec<Reply>);
}
