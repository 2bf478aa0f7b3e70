//! A writer: owns the writes of its shards. Takes what is queued, folds it, runs one statement and one commit, tells
//! the engine, then answers everyone. One thread each, blocking. Started by [`super::pool`].
//!
//! Plain writes go the way of `writer/plain.rs`. Writes that depend on the row that they find, and batches of many keys, are parted from
//! them and go that of `writer/judged.rs` and `writer/many.rs`, and pieces of bulk loads that of `writer/load.rs`: the others neither wait for
//! a look at the row, nor does a condition make them fail.
//! Nothing waits for long for what somebody else has locked: `writer/aside.rs`. Of a batch that is refused for one row, or lost for one,
//! each key goes by itself: `writer/each.rs`.
//!
//! A write has three endings:
//!
//! ```text
//!                 ┌─ committed ──► engine: the row      ──► 200, 201, 204, 404
//!  sent to the ───┼─ refused ────► engine: nothing      ──► 503
//!  database       └─ lost ───────► engine: in doubt
//!                                    │ connect again, end the old backend, wait until it is gone
//!                                    ├─ value, in time ─────────► send it again (the same value twice is once),
//!                                    │                            and if that is lost as well, each key alone
//!                                    ├─ delete, row still there ─► the same
//!                                    └─ anything else ──────────► engine: unknown ──► 504
//! ```

mod aside;
mod each;
mod judged;
mod load;
mod many;
mod plain;

use super::batch::Batch;
use super::load::LoadJob;
use super::pace::Line;
use super::worker::{Asked, Counted, Pause, Refusals, Shared, while_asking};
use super::{Answer, Claim, Connector, Failure, Job, ManyJob, Reply, Session, Set};
use crate::engine::shard::Writes;
use crate::limits::{LOCK_WAIT_MS, OVERTAKEN_RETRIES, WRITE_BATCH, WRITE_BATCH_BYTES};
use crate::metrics::Work;
use crate::token::Ticket;
use aside::{Aside, Behind, LockWaits};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A connection that was idle for so long is looked at before a statement is sent on it: one that broke meanwhile
/// then costs a reconnect instead of a doubt.
const IDLE_CHECK: Duration = Duration::from_millis(50);

/// A session that takes no writes is left for another, of another server perhaps, but no sooner: clients may ask as fast as they
/// like.
const READ_ONLY: Duration = Duration::from_secs(1);

/// One writer thread's state.
pub struct Writer<C: Connector> {
    shared: Arc<Shared<C>>,
    queue: Receiver<Job>,
    number: usize,
    session: Option<Counted<C::Session>>,
    work: Arc<Work>,
    /// Backends of sessions that broke in the middle of something: to be gone before the next session is used.
    lost: Vec<<C::Session as Session>::Backend>,
    pause: Pause,
    down: bool,
    /// Since when it has had its session, or had the last one.
    session_since: Option<Instant>,
    aside: Aside,
    lock_waits: LockWaits,
    /// How long a statement of its session waits for a lock.
    lock_wait_ms: u64,
    /// How often a round of the batch that is judged now is tried again after PostgreSQL has broken it off.
    conflict_retries: usize,
    refusals: Refusals,
    last_used: Instant,
    /// The jobs that the last batch could have had: fewer where its values are large.
    most: usize,
    replies: Vec<Reply>,
}

/// What was taken from the queue at once.
struct Collected {
    batch: Batch,
    /// To be executed after it.
    large: Option<Large>,
}

/// A job that is executed alone, and taken only then.
enum Large {
    Many(ManyJob),
    Load(LoadJob),
}

/// What may be said when a batch fails: whether an earlier attempt at it may have happened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    First,
    AfterDoubt,
}

impl<C: Connector> Writer<C> {
    /// The writer with this number, not connected yet.
    pub fn new(shared: Arc<Shared<C>>, queue: Receiver<Job>, number: usize) -> Writer<C> {
        let pause = Pause::new(shared.reconnect_ms, 1_000 + number as u64);
        let work = Arc::clone(&shared.workers.writers[number]);
        Writer {
            shared,
            queue,
            number,
            session: None,
            work,
            lost: Vec::new(),
            pause,
            down: false,
            session_since: None,
            aside: Aside::default(),
            lock_waits: LockWaits::default(),
            lock_wait_ms: LOCK_WAIT_MS,
            conflict_retries: OVERTAKEN_RETRIES,
            refusals: Refusals::default(),
            last_used: Instant::now(),
            most: WRITE_BATCH,
            replies: Vec::new(),
        }
    }

    /// Runs until the queue is closed.
    pub fn run(mut self) {
        let mut open = true;
        while open {
            self.lock_waits = LockWaits::default();
            if self.session.is_none() && !self.connect() {
                open = self.wait_while_down();
                continue;
            }
            // Nothing waits to fill a batch: while one commit runs, the next batch collects by itself.
            let next = if self.aside.is_empty() {
                self.queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                // A server whose own bound is shorter says at once that a row is locked: not as fast as it can be asked.
                self.queue.recv_timeout(Pause::STEP)
            };
            match next {
                Ok(first) => self.execute_with(first),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.fail_aside(&Failure::NotStarted),
            }
            self.try_aside();
        }
    }

    /// Executes what is queued, once: the simulation's way to run a writer.
    #[cfg(test)]
    pub fn run_queued(&mut self) {
        self.lock_waits = LockWaits::default();
        if self.session.is_none() && !self.connect() {
            return;
        }
        if let Ok(first) = self.queue.try_recv() {
            self.execute_with(first);
        }
        self.try_aside();
    }

    /// Executes what is queued, up to the bounds of a batch.
    fn execute_with(&mut self, first: Job) {
        let Collected { batch, large } = self.collect(first);
        let (started, most) = (Instant::now(), self.most);
        // Of one key all or none are plain: its writes keep their order.
        let (plain, mut judged) = batch.partition(|key| key.is_plain());
        let mut jobs = plain.jobs();
        if !plain.is_empty() {
            // That may take as long as PostgreSQL is away: what was not sent by then whoever waits for it may withdraw.
            judged.claims().for_each(Claim::give_back);
            self.execute(plain);
            judged = self.taken(judged);
        }
        // What nobody waits for any more takes no time.
        jobs += judged.jobs();
        if !judged.is_empty() {
            self.execute_judged(judged);
        }
        if jobs > 0 {
            self.line().rows.observe(jobs, most, started.elapsed());
        }
        let Some(large) = large else { return };
        let (started, now_ms) = (Instant::now(), self.shared.clock.now_ms());
        let executed = match large {
            Large::Many(many) => self.start_many(many, now_ms).map(|many| self.execute_many(many)),
            Large::Load(load) => self.start_load(load, now_ms).map(|load| self.execute_load(load)),
        };
        if executed.is_some() {
            self.line().large.observe(1, 1, started.elapsed());
        }
    }

    fn line(&self) -> &Line {
        &self.shared.health.writes[self.number]
    }

    /// It stands in the queue no more.
    fn left_queue(&self, job: &Job) {
        match job {
            Job::One(_) => {}
            Job::Many(_) | Job::Load(_) => self.line().large_leaves(),
        }
    }

    /// Takes what is queued, up to the bounds of a batch, and leaves out what nobody waits for any more. A batch of
    /// many keys, or a piece of a load, ends it: what was queued before it is executed before it.
    fn collect(&mut self, first: Job) -> Collected {
        let (mut jobs, mut bytes, mut taken, mut large) = (Vec::new(), 0, 0, None);
        let (now, now_ms) = (Instant::now(), self.shared.clock.now_ms());
        let mut next = Some(first);
        while let Some(job) = next.take() {
            taken += 1;
            self.left_queue(&job);
            self.work.queue_wait.observe_duration(now.saturating_duration_since(job.queued()));
            match job {
                Job::One(job) if !job.claim.take() => self.withdrawn(&Batch::fold(vec![job])),
                Job::One(job) if job.deadline_ms <= now_ms => {
                    self.fail(&Batch::fold(vec![job]), Attempt::First, &Failure::NotStarted);
                }
                Job::One(job) => match self.aside.take_behind(job) {
                    Behind::None(job) => {
                        bytes += job.step.op.value_bytes();
                        jobs.push(job);
                    }
                    Behind::Taken => {}
                    Behind::NoRoom(job, why) => self.fail(&Batch::fold(vec![job]), Attempt::First, &why),
                },
                Job::Many(job) => {
                    large = Some(Large::Many(job));
                    break;
                }
                Job::Load(job) => {
                    large = Some(Large::Load(job));
                    break;
                }
            }
            // Whoever is refused here may ask again at once: so what is taken counts, and not what is kept.
            let full = taken >= WRITE_BATCH || bytes >= WRITE_BATCH_BYTES;
            next = if full { None } else { self.queue.try_recv().ok() };
        }
        self.most = if bytes >= WRITE_BATCH_BYTES { jobs.len() } else { WRITE_BATCH };
        Collected { batch: Batch::fold(jobs), large }
    }

    /// Takes what was given back, to be sent now, and ends what was withdrawn meanwhile, or has waited for too long.
    fn taken(&mut self, batch: Batch) -> Batch {
        let now_ms = self.shared.clock.now_ms();
        let (claimed, withdrawn) = batch.part(|job| job.claim.take());
        self.withdrawn(&withdrawn);
        let (in_time, over) = claimed.part(|job| job.deadline_ms > now_ms);
        self.fail(&over, Attempt::First, &Failure::NotStarted);
        in_time
    }

    /// One attempt to get a session for what was not sent: as long as that takes, whoever waits for it may withdraw it. What is still to
    /// be done of it; the rest has its ending.
    fn connect_for(&mut self, batch: Batch) -> Batch {
        batch.claims().for_each(Claim::give_back);
        let connected = self.connect();
        let batch = self.taken(batch);
        if connected {
            return batch;
        }
        let failure = self.shared.down();
        self.fail(&batch, Attempt::First, &failure);
        Batch::default()
    }

    /// Writes that their connections have withdrawn: nobody waits for them.
    fn withdrawn(&self, batch: &Batch) {
        for key in batch.keys() {
            self.shared.engine.shard(key.hash()).refused(key.hash(), key.key(), Writes::Own(key.count()));
        }
    }

    /// One attempt to get a session that may be used: connected, and every lost backend gone.
    fn connect(&mut self) -> bool {
        let Writer { shared, lost, .. } = self;
        let mut connect = || {
            let mut session = shared.connector.connect()?;
            let lock_wait_ms = session.limit_lock_waits()?;
            while let Some(backend) = lost.last() {
                session.end_backend(backend)?;
                lost.pop();
            }
            Ok((session, lock_wait_ms))
        };
        let connected = if self.down { connect() } else { while_asking(&self.work, shared.clock, connect) };
        match connected {
            Ok((mut session, lock_wait_ms)) => {
                session.tells(Asked::of(&self.work, self.shared.clock));
                self.lock_wait_ms = lock_wait_ms;
                self.session = Some(Counted::new(session, &self.work, self.shared.clock));
                self.pause.reset();
                if std::mem::take(&mut self.down) {
                    self.shared.health.set_writer(self.number, false);
                    self.shared.count_reconnect("writer");
                } else if self.session_since.is_some() {
                    self.shared.report_another("writer");
                }
                self.session_since = Some(Instant::now());
                true
            }
            Err(error) => {
                if !std::mem::replace(&mut self.down, true) {
                    self.shared.health.set_writer(self.number, true);
                    self.shared.report_down("writer", &error);
                }
                false
            }
        }
    }

    /// A session, and every lost backend gone, however long it takes: nobody may be told anything before.
    fn connect_at_last(&mut self) {
        while !self.connect() {
            self.wait_while_down();
        }
    }

    /// A session that was idle is looked at before anything is sent on it.
    fn drop_if_broken(&mut self) {
        if self.last_used.elapsed() > IDLE_CHECK
            && self.session.as_mut().is_some_and(|session| session.is_broken())
        {
            self.session = None;
        }
    }

    /// PostgreSQL takes no writes on it.
    fn leave_read_only(&mut self) {
        if self.session_since.is_none_or(|since| since.elapsed() >= READ_ONLY) {
            self.session = None;
        }
    }

    /// The session has broken in the middle of something. Until its backend is gone, that may happen yet; and of what certainly
    /// will not, for its commit was never asked for, rows and tables may stay locked.
    fn lose_session(&mut self) {
        let session = self.session.take().expect("it was used just now");
        self.lost.push(session.backend());
    }

    /// Waits until the next attempt and refuses at once whatever is or gets into the queue. False: it is closed.
    fn wait_while_down(&mut self) -> bool {
        self.fail_aside(&self.shared.down());
        let until = self.pause.next(&self.shared.health);
        while let Some(left) = until.left() {
            let next = self.queue.recv_timeout(left);
            if let Ok(job) = &next {
                self.left_queue(job);
            }
            match next {
                Ok(Job::One(job)) if job.claim.take() => {
                    let failure = self.shared.down();
                    self.fail(&Batch::fold(vec![job]), Attempt::First, &failure);
                }
                Ok(Job::One(job)) => self.withdrawn(&Batch::fold(vec![job])),
                Ok(Job::Many(job)) => {
                    let failure = self.shared.down();
                    self.fail_many(&job, Attempt::First, &failure);
                }
                Ok(Job::Load(job)) => {
                    let failure = self.shared.down();
                    self.answer_load(&job, Answer::Failed(failure));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    // Who settles a doubt calls this again at once.
                    std::thread::sleep(left.min(Pause::STEP));
                    return false;
                }
            }
        }
        true
    }

    fn tell(&mut self, watching: Vec<Ticket>) {
        self.replies.extend(watching.into_iter().map(Reply::changed));
    }

    fn fail(&mut self, batch: &Batch, attempt: Attempt, failure: &Failure) {
        let failure = attempt.failure(failure);
        for key in batch.keys() {
            let writes = Writes::Own(key.count());
            let watching = self.ended(key.hash(), key.key(), writes, failure);
            self.tell(watching);
            key.answer_all(&Answer::Failed(failure.clone()), &mut self.replies);
        }
        self.shared.deliver.deliver(&mut self.replies);
    }

    /// Tells the engine of writes that have failed. Returns who watches the key, if it may have changed.
    fn ended(&self, hash: u64, key: &str, writes: Writes, failure: &Failure) -> Vec<Ticket> {
        let mut shard = self.shared.engine.shard(hash);
        match failure {
            Failure::Unknown => shard.unknown(hash, key, writes),
            Failure::Down { .. } | Failure::Refused(_) | Failure::NotStarted | Failure::InDoubt => {
                shard.refused(hash, key, writes);
                Vec::new()
            }
        }
    }
}

impl Attempt {
    /// What may be said of a failure: after a doubt nobody knows whether the first attempt has happened.
    fn failure(self, failure: &Failure) -> &Failure {
        match self {
            Attempt::First => failure,
            Attempt::AfterDoubt => &Failure::Unknown,
        }
    }
}

fn arguments(batch: &Batch) -> (Vec<Set<'_>>, Vec<&str>) {
    let (mut sets, mut deletes) = (Vec::new(), Vec::new());
    for key in batch.keys() {
        match key.last() {
            Some(set) => sets.push(set),
            None => deletes.push(key.key()),
        }
    }
    (sets, deletes)
}
