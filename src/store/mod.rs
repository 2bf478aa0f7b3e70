//! Between the engine and PostgreSQL: the jobs that go down, the replies that come back, and what a database must be
//! able to do. [`backend`] is the door that event loops use; [`pool`] has the threads behind it; [`postgres`] is the
//! only file that speaks SQL.

pub mod backend;
pub mod batch;
pub mod conninfo;
pub mod health;
pub mod history;
pub mod judge;
pub mod list;
pub mod load;
pub mod managed;

pub mod migrations;
pub mod pace;
pub mod patience;
pub mod pool;
pub mod postgres;
pub mod reader;
pub mod sweeper;
pub mod tls;
pub mod worker;
pub mod writer;

use crate::engine::shard::ReadId;
use crate::engine::{Record, Row, Value};
use crate::http::conditional::Preconditions;
use crate::limits::BATCH_STEP_BYTES;
use crate::token::Ticket;
use judge::{Before, Change};
use list::{Page, PageJob, Range};
use load::{LoadJob, Loaded};
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;
use sweeper::Expired;
use worker::Asked;

/// What the readers' queue holds.
#[derive(Debug)]
pub enum ReadWork {
    /// One miss.
    Row(ReadJob),
    /// The misses of one request, for one statement. Its place in the queue is taken before they are known: whoever
    /// fills the list holds it locked, so that a reader that is early waits for the end of it.
    Rows(Arc<Mutex<Vec<ReadJob>>>),
    /// A page of a list.
    Page(PageJob),
}

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

/// What is on its way to a writer.
#[derive(Debug)]
pub enum Job {
    /// A write of one key, whose shard this writer owns.
    One(WriteJob),
    /// A batch of operations on any keys.
    Many(ManyJob),
    /// A piece of a bulk load.
    Load(LoadJob),
}

impl Job {
    /// Who decides what becomes of it when its time is over.
    pub fn claim(&self) -> &Claim {
        match self {
            Job::One(job) => &job.claim,
            Job::Many(job) => &job.claim,
            Job::Load(job) => &job.claim,
        }
    }

    /// When it was put into the queue.
    pub fn queued(&self) -> Instant {
        match self {
            Job::One(job) => job.queued,
            Job::Many(job) => job.queued,
            Job::Load(job) => job.queued,
        }
    }
}

/// A write of one key.
#[derive(Debug)]
pub struct WriteJob {
    /// What to do.
    pub step: Step,
    /// Who asked.
    pub ticket: Ticket,
    /// Who decides what becomes of it when its time is over.
    pub claim: Claim,
    /// When its time is over, in milliseconds of the process's clock.
    pub deadline_ms: u64,
    /// When it was queued.
    pub queued: Instant,
}

/// Operations on any keys, executed in their order by one statement and one commit, and answered together.
#[derive(Debug)]
pub struct ManyJob {
    /// What to do.
    pub steps: Vec<Step>,
    /// Nothing happens unless everything can.
    pub all_or_nothing: bool,
    /// Who asked.
    pub ticket: Ticket,
    /// Who decides what becomes of it when its time is over.
    pub claim: Claim,
    /// When its time is over, in milliseconds of the process's clock.
    pub deadline_ms: u64,
    /// When it was put into the queue.
    pub queued: Instant,
}

impl ManyJob {
    /// Hash and key of every key, each once, sorted by key.
    pub fn keys(&self) -> Vec<(u64, Box<str>)> {
        let mut keys: Vec<(u64, Box<str>)> =
            self.steps.iter().map(|step| (step.hash, step.key.clone())).collect();
        keys.sort_unstable_by(|a, b| a.1.cmp(&b.1));
        keys.dedup();
        keys
    }
}

/// One operation on one key.
#[derive(Clone, Debug)]
pub struct Step {
    /// The key.
    pub key: Box<str>,
    /// Its hash.
    pub hash: u64,
    /// What to do.
    pub op: Op,
    /// What must be true of the row before.
    pub conditions: Option<Box<Preconditions>>,
}

impl Step {
    /// What it takes while it waits.
    pub fn bytes(&self) -> usize {
        let conditions = self.conditions.as_ref().map_or(0, |conditions| conditions.bytes());
        BATCH_STEP_BYTES + self.key.len() + self.op.value_bytes() + conditions
    }

    /// True where the row before it does not matter.
    pub fn is_plain(&self) -> bool {
        self.conditions.is_none() && matches!(self.op, Op::Set { .. } | Op::Delete)
    }
}

/// What an operation does to its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Stores a value, whatever was there.
    Set {
        /// The value.
        value: Value,
        /// After so many seconds the row is as good as none.
        ttl_s: Option<u32>,
    },
    /// Deletes the row.
    Delete,
    /// Adds to a value that is a number; where there is no row, to 0. The row expires when it did before.
    Add(i64),
    /// Reads the row: between the writes of a batch.
    Read,
}

impl Op {
    /// Bytes of value that it sends to the database.
    pub fn value_bytes(&self) -> usize {
        match self {
            Op::Set { value, .. } => value.len(),
            Op::Delete | Op::Add(_) | Op::Read => 0,
        }
    }
}

/// Settles a race: at a write's deadline its connection withdraws it, unless a writer has taken it to send it.
/// Withdrawn means that it certainly never happens; taken means that nobody can say.
#[derive(Clone, Debug, Default)]
pub struct Claim(Arc<AtomicU8>);

const OPEN: u8 = 0;
const TAKEN: u8 = 1;
const WITHDRAWN: u8 = 2;
/// Taken, and nobody waits for it any more.
const LEFT: u8 = 3;

impl Claim {
    /// The writer is about to send it. The exchange alone decides; nothing else is read on its strength. False: it was withdrawn and must not be sent.
    pub fn take(&self) -> bool {
        self.0.compare_exchange(OPEN, TAKEN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// It was not sent, and may be tried again if somebody still waits for it. One that is withdrawn stays so.
    pub fn give_back(&self) {
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| match state {
            TAKEN => Some(OPEN),
            LEFT => Some(WITHDRAWN),
            _ => None,
        });
    }

    /// Nobody waits any more for what was taken: no more of it need be sent.
    pub fn is_left(&self) -> bool {
        self.0.load(Ordering::Acquire) == LEFT
    }

    /// The connection no longer waits. True: it will not be sent. Else it may have been, and is not tried again.
    pub fn withdraw(&self) -> bool {
        let before = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| match state {
            OPEN => Some(WITHDRAWN),
            TAKEN => Some(LEFT),
            _ => None,
        });
        before == Ok(OPEN)
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

impl Reply {
    /// To who watches a key: there may be another row now.
    pub fn changed(ticket: Ticket) -> Reply {
        Reply { ticket, answer: Answer::Changed }
    }
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
        /// The row. Its version is [`NO_VERSION`] where a later write of the same batch has replaced it in the same
        /// commit.
        record: Record,
        /// There was no row before.
        created: bool,
    },
    /// The delete is committed; `existed` says whether there was a row.
    Deleted {
        /// There was a row.
        existed: bool,
    },
    /// The row was not as the preconditions want it. Nothing was changed.
    PreconditionFailed,
    /// The value is no number that can be added to. Nothing was changed.
    NotANumber,
    /// The answers to a [`ManyJob`], in the order of its steps.
    Many(Vec<Answer>),
    /// Nothing was done, because another step of the same all-or-nothing batch could not be.
    NotDone,
    /// All of a piece of a bulk load is done, as far as it could be.
    Loaded(Loaded),
    /// A page of a list.
    Page(Page),
    /// A key that was watched may have another row now: look again.
    Changed,
    /// There is no result; see [`Failure`].
    Failed(Failure),
}

/// The version of a row that was replaced in the transaction that made it: nobody ever saw it. PostgreSQL has no
/// transaction of this number.
pub const NO_VERSION: u32 = 0;

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
    /// A write of a key has an unknown outcome, and is being settled. Nothing was changed.
    InDoubt,
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
    /// The same, but it would pass: somebody else holds a row, and it was not waited for any longer.
    Held,
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

/// One value of a write statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set<'a> {
    /// The key.
    pub key: &'a str,
    /// The value.
    pub value: &'a str,
    /// After so many seconds the row is as good as none.
    pub ttl_s: Option<u32>,
}

/// What is said of a row that a trigger has kept out.
pub const KEPT_OUT: &str = "a trigger of the table has kept the row from being stored";

/// What one write statement did: one element for each of its arguments, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// For every value: its version, and whether it is a new row; `None`: a trigger of the table has kept it out.
    pub stored: Vec<Option<(u32, bool)>>,
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

    /// Tells its worker from now on when it sends a statement, where it sends several for one answer.
    fn tells(&mut self, _: Asked) {}
    /// From now on a statement waits for what others have locked for a moment only, and is refused then: after so many
    /// milliseconds at most.
    fn limit_lock_waits(&mut self) -> Result<u64, Error>;
    /// The rows of these keys, in their order. `now_ms` is the time of the process's clock.
    fn read(&mut self, keys: &[&str], now_ms: u64) -> Result<Vec<Row>, Error>;
    /// A page of a list.
    fn page(&mut self, range: &Range) -> Result<Page, Error>;
    /// Stores and deletes, in one commit. No key twice, sorted.
    fn write(&mut self, sets: &[Set<'_>], deletes: &[&str]) -> Result<Written, Error>;
    /// Stores these rows whatever was there, in one commit. No key twice, sorted. Nobody is told their versions.
    fn load(&mut self, rows: &[&load::Row<'_>]) -> Result<(), Error>;
    /// The same row by row: those that the server refuses, or breaks off, are left out of the commit. For each of them, in their order, why it was
    /// refused, if it was. Of the first ones alone, two at least, where they take their time.
    fn load_each(&mut self, rows: &[&load::Row<'_>]) -> Result<Vec<Option<(String, Blame)>>, Error>;
    /// The rows of these keys, in their order, for whoever decides by them what becomes of them: expired ones too.
    fn look(&mut self, keys: &[&str], now_ms: u64) -> Result<Vec<Option<Before>>, Error>;
    /// Which rows of these keys somebody else has locked, in their order: a hint, it may be another one's turn by now.
    fn locked(&mut self, keys: &[&str]) -> Result<Vec<bool>, Error>;
    /// Changes rows that are still as [`Session::look`] has found them, in one commit. No key twice, sorted. For
    /// every change: the new version (anything for a delete), or `None` where the row is another one by now and
    /// nothing was done; with `all_or_nothing`, then nothing at all.
    fn change(&mut self, changes: &[Change<'_>], all_or_nothing: bool) -> Result<Vec<Option<u32>>, Error>;
    /// Rows past their time, the oldest first, so many at most. Behind one of them they are in the order of their keys, too, where
    /// their times are the same.
    fn expired(&mut self, behind: Option<&Expired>, rows: u32) -> Result<Vec<Expired>, Error>;
    /// Deletes those of these that are past their time; returns how many.
    fn sweep(&mut self, keys: &[&str]) -> Result<u64, Error>;
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
