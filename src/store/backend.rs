//! The door between event loops and everything behind them: asks the engine, and sends what it cannot answer to
//! the workers. Never blocks: a full queue or a missing database is a refusal. Called by [`crate::connection`].

use super::health::Health;
use super::list::{PageJob, Range};
use super::load::{LoadJob, Loads, Parse, Permit};
use super::pace::Line;
use super::{Claim, Job, ManyJob, Op, ReadJob, ReadWork, Step, WriteJob};
use crate::engine::Engine;
use crate::engine::shard::{Freshness, Get, Known, ReadId, Shard, Writes};
use crate::http::conditional::Preconditions;
use crate::token::Ticket;
use crossbeam_channel::Sender;
use parking_lot::Mutex;
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
    pub reads: Sender<ReadWork>,
    /// One for each writer. Shard `i` belongs to writer `i mod W`: writes of one key run in the order they arrived.
    pub writes: Vec<Sender<Job>>,
    /// How many bulk loads there are.
    pub loads: Loads,
    /// A bug for the simulation to find: any writer takes any write.
    #[cfg(test)]
    pub planted_any_writer: bool,
}

/// Lines of a bulk load; the fields are those of [`LoadJob`].
#[derive(Debug)]
pub struct Piece {
    /// The lines.
    pub lines: Vec<u8>,
    /// The number of the first.
    pub first: u64,
    /// What they mean.
    pub parse: Parse,
    /// The largest value.
    pub max_value_bytes: usize,
    /// That there is room for it.
    pub permit: Arc<Permit>,
}

/// What a request led to.
#[derive(Debug)]
pub enum Asked<R> {
    /// The cache answered.
    Answered(R),
    /// A reply will come.
    Waiting,
    /// A reply will come, from a read that another request has asked for.
    Joined,
    /// Nothing was done.
    Refused(Refusal),
}

/// Why nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The queue to the workers is full, or too long for how fast they get on.
    QueueFull,
    /// As many wait for reads of a shard's keys, or of all, as may.
    TooManyWaiters,
    /// As many wait for changes of a shard's keys as may.
    TooManyWatchers,
    /// A write of a key of the batch has an unknown outcome, and is being settled.
    InDoubt,
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
    pub fn get<R>(
        &self,
        key: &str,
        now_s: u32,
        ticket: Ticket,
        hit: impl FnOnce(Known<'_>) -> R,
    ) -> Asked<R> {
        let hash = self.engine.hash(key);
        self.ask(hash, key, |shard, send| shard.get(hash, key, now_s, ticket, hit, send))
    }

    /// The same for a request that does not take whatever is cached.
    pub fn get_fresh<R>(
        &self,
        key: &str,
        freshness: (u32, Freshness),
        ticket: Ticket,
        hit: impl FnOnce(Known<'_>) -> R,
    ) -> Asked<R> {
        let hash = self.engine.hash(key);
        self.ask(hash, key, |shard, send| shard.get_fresh((hash, key), freshness, ticket, hit, send))
    }

    #[inline]
    fn ask<R>(
        &self,
        hash: u64,
        key: &str,
        get: impl FnOnce(&mut Shard, &mut dyn FnMut(ReadId) -> bool) -> Get<R>,
    ) -> Asked<R> {
        let mut down = false;
        let got = get(&mut self.engine.shard(hash), &mut |id| {
            down = self.health.reads_down();
            !down
                && self.send_read(|| {
                    ReadWork::Row(ReadJob { key: key.into(), hash, id, queued: Instant::now() })
                })
        });
        self.asked(got, down)
    }

    /// Looks several keys up, each with a ticket of its own, and tells for each what it led to. The cache's are told to
    /// `hit`, by their place; the misses that nobody is reading yet go to one reader, as one job.
    pub fn get_many<'k>(
        &self,
        keys: impl Iterator<Item = &'k str>,
        now_s: u32,
        ticket: impl Fn(usize) -> Ticket,
        mut hit: impl FnMut(usize, Known<'_>),
    ) -> Vec<Asked<()>> {
        // The place in the queue comes first, and the list is filled behind it: a queue found full afterwards would
        // leave reads in flight that others have joined meanwhile. Nobody waits for this lock who holds a shard's.
        let list = Arc::new(Mutex::new(Vec::new()));
        let mut jobs = list.lock();
        let (mut sent, mut down) = (false, false);
        let look_up = |(at, key): (usize, &str)| {
            let hash = self.engine.hash(key);
            let mut send = || {
                down = self.health.reads_down();
                !down && self.send_read(|| ReadWork::Rows(Arc::clone(&list)))
            };
            let got = self.engine.shard(hash).get(
                hash,
                key,
                now_s,
                ticket(at),
                |known| hit(at, known),
                |id| {
                    sent = sent || send();
                    if sent {
                        jobs.push(ReadJob { key: key.into(), hash, id, queued: Instant::now() });
                    }
                    sent
                },
            );
            self.asked(got, down)
        };
        let asked = keys.enumerate().map(look_up).collect();
        // Its reader waits for the list, and takes them off after that.
        self.health.reads.rows_enter(jobs.len());
        asked
    }

    /// Sends for a page of a list.
    pub fn page(&self, range: Range, ticket: Ticket) -> Result<(), Refusal> {
        if self.health.reads_down() {
            return Err(self.down());
        }
        let job = || ReadWork::Page(PageJob { range, ticket, queued: Instant::now() });
        if self.reads_too_slow() {
            return Err(Refusal::QueueFull);
        }
        send_large(&self.health.reads, &self.reads, job())
    }

    /// Puts this into the readers' queue, unless it would wait there for too long.
    fn send_read(&self, work: impl FnOnce() -> ReadWork) -> bool {
        !self.reads_too_slow() && self.reads.try_send(work()).is_ok()
    }

    fn reads_too_slow(&self) -> bool {
        self.health.reads_too_slow(self.reads.len())
    }

    fn asked<R>(&self, got: Get<R>, down: bool) -> Asked<R> {
        match got {
            Get::Answered(answer) => Asked::Answered(answer),
            Get::Waiting => Asked::Waiting,
            Get::Joined => Asked::Joined,
            Get::NotSent if down => Asked::Refused(self.down()),
            Get::NotSent => Asked::Refused(Refusal::QueueFull),
            Get::TooManyWaiters => Asked::Refused(Refusal::TooManyWaiters),
        }
    }

    /// The way of most hits: what the cache knows of a key, as far as the current tables tell. Where that is nothing, [`Backend::get`] is to be asked.
    #[inline]
    pub fn glance<R>(&self, key: &[u8], now_s: u32, hit: impl FnOnce(Known<'_>) -> R) -> Option<R> {
        let hash = self.engine.hash_bytes(key);
        self.engine.shard(hash).glance(hash, key, now_s, hit)
    }

    /// What the cache knows of a key, without asking anybody else.
    pub fn peek<R>(&self, key: &[u8], now_s: u32, hit: impl FnOnce(Known<'_>) -> R) -> Option<R> {
        let hash = self.engine.hash_bytes(key);
        self.engine.shard(hash).peek(hash, key, now_s, hit)
    }

    /// Waits for the next write of a key, and looks it up at the same time, so that no write comes between the two.
    /// Whoever gets what it waits for from the look-up must [`Backend::unwatch`].
    pub fn watch<R>(
        &self,
        key: &str,
        freshness: (u32, Freshness),
        ticket: Ticket,
        hit: impl FnOnce(Known<'_>) -> R,
    ) -> Asked<R> {
        let hash = self.engine.hash(key);
        let mut room = true;
        let asked = self.ask(hash, key, |shard, send| {
            room = shard.watch(hash, key, ticket);
            if room { shard.get_fresh((hash, key), freshness, ticket, hit, send) } else { Get::NotSent }
        });
        if room && matches!(asked, Asked::Refused(_)) {
            self.unwatch(key, ticket);
        }
        if room { asked } else { Asked::Refused(Refusal::TooManyWatchers) }
    }

    /// Whoever waited for a write of a key no longer does.
    pub fn unwatch(&self, key: &str, ticket: Ticket) {
        let hash = self.engine.hash(key);
        self.engine.shard(hash).unwatch(hash, key, ticket);
    }

    /// Sends a write to the writer of its key.
    pub fn write(
        &self,
        key: Box<str>,
        op: Op,
        conditions: Option<Box<Preconditions>>,
        ticket: Ticket,
        deadline_ms: u64,
    ) -> Result<Claim, Refusal> {
        let hash = self.engine.hash(&key);
        let writer = self.engine.shard_index(hash) % self.writes.len();
        #[cfg(test)]
        let writer = if self.planted_any_writer { ticket.job as usize % self.writes.len() } else { writer };
        self.check_writer(writer)?;
        let claim = Claim::default();
        let step = Step { key: key.clone(), hash, op, conditions };
        let queued = Instant::now();
        let job = Job::One(WriteJob { step, ticket, claim: claim.clone(), deadline_ms, queued });
        // Under the shard's lock: the writer cannot end the write before it is counted, and two loops cannot queue
        // two writes in one order and count them in the other.
        let mut shard = self.engine.shard(hash);
        match self.writes[writer].try_send(job) {
            Ok(()) => {
                shard.write_sent(hash, &key, Writes::Own(1));
                Ok(claim)
            }
            Err(_) => Err(Refusal::QueueFull),
        }
    }

    /// Sends a batch of operations, of which there is at least one, to the writer of its first key.
    pub fn write_many(
        &self,
        steps: Vec<(Box<str>, Op, Option<Box<Preconditions>>)>,
        all_or_nothing: bool,
        ticket: Ticket,
        deadline_ms: u64,
    ) -> Result<Claim, Refusal> {
        let step = |(key, op, conditions): (Box<str>, _, _)| {
            let hash = self.engine.hash(&key);
            Step { key, hash, op, conditions }
        };
        let steps: Vec<Step> = steps.into_iter().map(step).collect();
        let writer = self.engine.shard_index(steps[0].hash) % self.writes.len();
        self.check_writer(writer)?;
        let claim = Claim::default();
        let queued = Instant::now();
        let job = ManyJob { steps, all_or_nothing, ticket, claim: claim.clone(), deadline_ms, queued };
        // All are counted before the writer can end any; no lock is held while another is taken.
        let keys = job.keys();
        let may = |(hash, key): &(u64, Box<str>)| self.engine.shard(*hash).may_send_foreign(*hash, key);
        let counted = keys.iter().position(|key| !may(key)).unwrap_or(keys.len());
        let refusal = if counted < keys.len() {
            Refusal::InDoubt
        } else {
            match send_large(&self.health.writes[writer], &self.writes[writer], Job::Many(job)) {
                Ok(()) => return Ok(claim),
                Err(refusal) => refusal,
            }
        };
        for (hash, key) in &keys[..counted] {
            self.engine.shard(*hash).refused(*hash, key, Writes::Foreign);
        }
        Err(refusal)
    }

    /// Sends a piece of a bulk load. All pieces of one load go to one writer, `of` which it is: they take effect in their
    /// order. Its keys are not known yet: the writer marks them before it sends anything.
    pub fn load(&self, piece: Piece, of: usize, ticket: Ticket, deadline_ms: u64) -> Result<Claim, Refusal> {
        let writer = of % self.writes.len();
        self.check_writer(writer)?;
        let Piece { lines, first, parse, max_value_bytes, permit } = piece;
        let (claim, queued) = (Claim::default(), Instant::now());
        let job = LoadJob {
            lines,
            first,
            parse,
            max_value_bytes,
            ticket,
            claim: claim.clone(),
            deadline_ms,
            queued,
            permit,
        };
        send_large(&self.health.writes[writer], &self.writes[writer], Job::Load(job)).map(|()| claim)
    }

    /// Whether a writer can do anything in time.
    fn check_writer(&self, writer: usize) -> Result<(), Refusal> {
        if self.health.writes_down(writer) {
            return Err(self.down());
        }
        if self.health.writes_too_slow(writer, self.writes[writer].len()) {
            return Err(Refusal::QueueFull);
        }
        Ok(())
    }

    fn down(&self) -> Refusal {
        Refusal::Down { retry_after_seconds: self.health.retry_after_seconds() }
    }
}

/// Puts what is executed alone into a queue, and counts it there: before its worker can take it.
fn send_large<T>(line: &Line, queue: &Sender<T>, job: T) -> Result<(), Refusal> {
    line.large_enters();
    queue.try_send(job).map_err(|_| {
        line.large_leaves();
        Refusal::QueueFull
    })
}
