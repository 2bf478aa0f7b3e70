//! The door between event loops and everything behind them: asks the engine, and sends what it cannot answer to
//! the workers. Never blocks: a full queue or a missing database is a refusal. Called by [`crate::connection`].

use super::health::Health;
use super::{Claim, Op, ReadJob, WriteJob};
use crate::engine::Engine;
use crate::engine::shard::{Get, Hit};
use crate::token::Ticket;
use crossbeam_channel::Sender;
use std::sync::Arc;
use std::time::Instant;

/// The engine and the queues to the workers.
#[derive(Debug)]
pub struct Backend {
    /// The cache and what is in flight.
    pub engine: Arc<Engine>,
    /// Which workers have a database.
    pub health: Arc<Health>,
    /// All readers take from here.
    pub reads: Sender<ReadJob>,
    /// One for each writer. Shard `i` belongs to writer `i mod W`: writes of one key run in the order they arrived.
    pub writes: Vec<Sender<WriteJob>>,
    /// A bug for the simulation to find: any writer takes any write.
    #[cfg(test)]
    pub planted_any_writer: bool,
}

/// What a request led to.
#[derive(Debug)]
pub enum Asked<R> {
    /// The cache answered.
    Answered(R),
    /// A reply will come.
    Waiting,
    /// A write is queued; a reply will come, or the claim is withdrawn.
    Queued(Claim),
    /// Nothing was done.
    Refused(Refusal),
}

/// Why nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The queue to the workers is full, or too long for how fast they get on, or too many wait for a shard's keys.
    QueueFull,
    /// There is no database; try again after so many seconds.
    Down {
        /// Until the next attempt to connect has had its chance.
        retry_after_seconds: u32,
    },
}

impl Backend {
    /// Looks a key up. A hit is encoded by `hit` under the shard's lock; a miss is sent to the readers, or joins a
    /// read that is on its way.
    #[inline]
    pub fn get<R>(&self, key: &str, ticket: Ticket, hit: impl FnOnce(Hit<'_>) -> R) -> Asked<R> {
        let hash = self.engine.hash(key);
        let mut down = false;
        let got = self.engine.shard(hash).get(hash, key, ticket, hit, |id| {
            down = self.health.reads_down();
            !down
                && !self.health.reads_too_slow(self.reads.len())
                && self.reads.try_send(ReadJob { key: key.into(), hash, id, queued: Instant::now() }).is_ok()
        });
        match got {
            Get::Answered(answer) => Asked::Answered(answer),
            Get::Waiting => Asked::Waiting,
            Get::NotSent if down => Asked::Refused(self.down()),
            Get::NotSent | Get::TooManyWaiters => Asked::Refused(Refusal::QueueFull),
        }
    }

    /// Sends a write to the writer of its key.
    pub fn write(&self, key: Box<str>, op: Op, ticket: Ticket, deadline_ms: u64) -> Asked<()> {
        let hash = self.engine.hash(&key);
        let writer = self.engine.shard_index(hash) % self.writes.len();
        #[cfg(test)]
        let writer = if self.planted_any_writer { ticket.job as usize % self.writes.len() } else { writer };
        if self.health.writes_down(writer) {
            return Asked::Refused(self.down());
        }
        if self.health.writes_too_slow(writer, self.writes[writer].len()) {
            return Asked::Refused(Refusal::QueueFull);
        }
        let claim = Claim::default();
        let job =
            WriteJob { key, hash, op, ticket, claim: claim.clone(), deadline_ms, queued: Instant::now() };
        // Under the shard's lock: the writer cannot end the write before it is counted, and two loops cannot queue
        // two writes in one order and count them in the other.
        let mut shard = self.engine.shard(hash);
        let key = job.key.clone();
        match self.writes[writer].try_send(job) {
            Ok(()) => {
                shard.write_sent(hash, &key);
                Asked::Queued(claim)
            }
            Err(_) => Asked::Refused(Refusal::QueueFull),
        }
    }

    fn down(&self) -> Refusal {
        Refusal::Down { retry_after_seconds: self.health.retry_after_seconds() }
    }
}
