//! A writer: owns the writes of its shards. Takes what is queued, folds it, runs one statement and one commit, tells
//! the engine, then answers everyone. One thread each, blocking. Started by [`super::pool`].
//!
//! A write has three endings:
//!
//! ```text
//!                 ┌─ committed ──► engine: the row      ──► 200, 201, 204, 404
//!  sent to the ───┼─ refused ────► engine: nothing      ──► 503
//!  database       └─ lost ───────► engine: in doubt
//!                                    │ connect again, end the old backend, wait until it is gone
//!                                    ├─ value, in time ─────────► send it again (the same value twice is once)
//!                                    ├─ delete, row still there ─► send it again
//!                                    └─ anything else ──────────► engine: unknown ──► 504
//! ```

use super::batch::{Batch, Before};
use super::worker::{Counted, Pause, Shared};
use super::{Answer, Blame, Connector, Error, Failure, Op, Reply, Session, WriteJob, Written};
use crate::limits::{BROKEN_OFF_RETRIES, WRITE_BATCH, WRITE_BATCH_BYTES};
use crate::metrics::Work;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A connection that was idle for so long is looked at before a statement is sent on it: one that broke meanwhile
/// then costs a reconnect instead of a doubt.
const IDLE_CHECK: Duration = Duration::from_millis(50);

/// One writer thread's state.
pub struct Writer<C: Connector> {
    shared: Arc<Shared<C>>,
    queue: Receiver<WriteJob>,
    number: usize,
    session: Option<Counted<C::Session>>,
    work: Arc<Work>,
    /// Backends that a statement was lost with: to be gone before the next session is used.
    lost: Vec<<C::Session as Session>::Backend>,
    pause: Pause,
    down: bool,
    last_used: Instant,
    /// The jobs that the last batch could have had: fewer where its values are large.
    most: usize,
    replies: Vec<Reply>,
}

/// What may be said when a batch fails: whether an earlier attempt at it may have happened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    First,
    AfterDoubt,
}

impl<C: Connector> Writer<C> {
    /// The writer with this number, not connected yet.
    pub fn new(shared: Arc<Shared<C>>, queue: Receiver<WriteJob>, number: usize) -> Writer<C> {
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
            last_used: Instant::now(),
            most: WRITE_BATCH,
            replies: Vec::new(),
        }
    }

    /// Runs until the queue is closed.
    pub fn run(mut self) {
        let mut open = true;
        while open {
            if self.session.is_none() && !self.connect() {
                open = self.wait_while_down();
                continue;
            }
            // Nothing waits to fill a batch: while one commit runs, the next batch collects by itself.
            let Ok(first) = self.queue.recv() else { return };
            let batch = self.collect(first);
            if !batch.is_empty() {
                let (started, jobs, most) = (Instant::now(), batch.jobs(), self.most);
                self.execute(batch);
                self.shared.health.write_paces[self.number].observe(jobs, most, started.elapsed());
            }
        }
    }

    /// Executes what is queued, once: the simulation's way to run a writer.
    #[cfg(test)]
    pub fn run_queued(&mut self) {
        if self.session.is_none() && !self.connect() {
            return;
        }
        if let Ok(first) = self.queue.try_recv() {
            let batch = self.collect(first);
            self.execute(batch);
        }
    }

    /// Takes what is queued, up to the bounds of a batch, and leaves out what nobody waits for any more.
    fn collect(&mut self, first: WriteJob) -> Batch {
        let (mut jobs, mut bytes) = (Vec::new(), 0);
        let now_ms = self.shared.clock.now_ms();
        let mut next = Some(first);
        while let Some(job) = next {
            self.work.queue_wait.observe_duration(job.queued.elapsed());
            let value_bytes = if let Op::Set(value) = &job.op { value.len() } else { 0 };
            if !job.claim.take() {
                self.shared.engine.shard(job.hash).refused(job.hash, &job.key, 1);
            } else if job.deadline_ms <= now_ms {
                self.fail(&Batch::fold(vec![job]), Attempt::First, &Failure::NotStarted);
            } else {
                bytes += value_bytes;
                jobs.push(job);
            }
            let full = jobs.len() >= WRITE_BATCH || bytes >= WRITE_BATCH_BYTES;
            next = if full { None } else { self.queue.try_recv().ok() };
        }
        self.most = if bytes >= WRITE_BATCH_BYTES { jobs.len() } else { WRITE_BATCH };
        Batch::fold(jobs)
    }

    /// One attempt to get a session that may be used: connected, and every lost backend gone.
    fn connect(&mut self) -> bool {
        let Writer { shared, lost, .. } = self;
        let connected = shared.connector.connect().and_then(|mut session| {
            while let Some(backend) = lost.last() {
                session.end_backend(backend)?;
                lost.pop();
            }
            Ok(session)
        });
        match connected {
            Ok(session) => {
                self.session = Some(Counted::new(session, &self.work));
                self.pause.reset();
                if std::mem::take(&mut self.down) {
                    self.shared.health.set_writer(self.number, false);
                    self.shared.count_reconnect("writer");
                }
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

    /// Waits until the next attempt and refuses at once whatever is or gets into the queue. False: it is closed.
    fn wait_while_down(&mut self) -> bool {
        let until = self.pause.next(&self.shared.health);
        while let Some(left) = until.left() {
            match self.queue.recv_timeout(left) {
                Ok(job) if job.claim.take() => {
                    let failure = self.shared.down();
                    self.fail(&Batch::fold(vec![job]), Attempt::First, &failure);
                }
                Ok(job) => self.shared.engine.shard(job.hash).refused(job.hash, &job.key, 1),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(left.min(Pause::STEP));
                    return false;
                }
            }
        }
        true
    }

    /// Brings a batch to one of its endings.
    fn execute(&mut self, mut batch: Batch) {
        let mut attempt = Attempt::First;
        let (mut conflicts, mut unsent) = (0, 0);
        if self.last_used.elapsed() > IDLE_CHECK
            && self.session.as_mut().is_some_and(|session| session.is_broken())
        {
            self.session = None;
        }
        while !batch.is_empty() {
            if self.session.is_none() {
                let connected = self.connect();
                match attempt {
                    Attempt::First if !connected => {
                        let failure = self.shared.down();
                        return self.fail(&batch, attempt, &failure);
                    }
                    Attempt::First => {}
                    Attempt::AfterDoubt if !connected => {
                        // Nobody may be told anything before the old backend is gone, however long it takes. The
                        // clients' own deadlines end their waiting.
                        self.wait_while_down();
                        continue;
                    }
                    Attempt::AfterDoubt => match self.judge(batch) {
                        Ok(rest) => batch = rest,
                        Err(same) => {
                            // A server that takes connections and answers nothing: not as fast as it can be asked.
                            self.session = None;
                            batch = same;
                            self.wait_while_down();
                            continue;
                        }
                    },
                }
                if batch.is_empty() {
                    return;
                }
            }
            let session = self.session.as_mut().expect("connected above");
            let (sets, deletes) = arguments(&batch);
            let result = session.timed(batch.jobs(), |session| session.write(&sets, &deletes));
            self.last_used = Instant::now();
            match result {
                Ok(written) => return self.committed(&batch, &written, attempt),
                Err(Error::NotSent(_)) => {
                    self.session = None;
                    unsent += 1;
                    match attempt {
                        // A server that takes connections and drops them at once is as good as none.
                        Attempt::First if unsent > 1 => {
                            let failure = self.shared.down();
                            return self.fail(&batch, attempt, &failure);
                        }
                        Attempt::First => {}
                        Attempt::AfterDoubt => {
                            self.wait_while_down();
                        }
                    }
                }
                Err(Error::Lost(message)) => {
                    log::warn!("a commit of {} keys was lost: {message}", batch.keys().count());
                    let session = self.session.take().expect("used above");
                    self.lost.push(session.backend());
                    for key in batch.keys() {
                        self.shared.engine.shard(key.hash()).doubt(key.hash(), key.key());
                    }
                    attempt = Attempt::AfterDoubt;
                }
                Err(Error::Refused { blame: Blame::Conflict, .. }) if conflicts < BROKEN_OFF_RETRIES => {
                    conflicts += 1
                }
                Err(Error::Refused { blame: Blame::Row, .. }) if batch.keys().nth(1).is_some() => {
                    // One row is at fault; the others must not suffer for it.
                    for single in batch.split() {
                        self.execute_single(single, attempt);
                    }
                    return;
                }
                Err(Error::Refused { message, blame }) => {
                    if blame == Blame::ReadOnly {
                        self.session = None;
                    }
                    log::warn!("PostgreSQL refused a write of {} keys: {message}", batch.keys().count());
                    return self.fail(&batch, attempt, &Failure::Refused(message.into()));
                }
            }
        }
    }

    /// A batch of one key out of a refused one. An earlier doubt about it is not forgotten: if it is refused alone
    /// as well, its outcome stays unknown.
    fn execute_single(&mut self, batch: Batch, attempt: Attempt) {
        if attempt == Attempt::First {
            return self.execute(batch);
        }
        let Some(session) = self.session.as_mut() else {
            return self.fail(&batch, attempt, &Failure::Unknown);
        };
        let (sets, deletes) = arguments(&batch);
        match session.timed(batch.jobs(), |session| session.write(&sets, &deletes)) {
            Ok(written) => self.committed(&batch, &written, attempt),
            Err(Error::Refused { .. }) => self.fail(&batch, attempt, &Failure::Unknown),
            Err(Error::NotSent(_)) => {
                self.session = None;
                self.fail(&batch, attempt, &Failure::Unknown);
            }
            Err(Error::Lost(_)) => {
                // In doubt once more, and by another backend: settle that one too before the key is let go.
                let session = self.session.take().expect("used above");
                self.lost.push(session.backend());
                while !self.connect() {
                    self.wait_while_down();
                }
                self.fail(&batch, attempt, &Failure::Unknown);
            }
        }
    }

    /// After a doubt, with every old backend gone: what is still to be done of the batch. `Err` gives it back when
    /// the database is gone again.
    fn judge(&mut self, batch: Batch) -> Result<Batch, Batch> {
        let session = self.session.as_mut().expect("called with a session");
        let deletes: Vec<&str> =
            batch.keys().filter(|key| *key.last() == Op::Delete).map(|key| key.key()).collect();
        let rows = if deletes.is_empty() { Ok(Vec::new()) } else { session.read(&deletes) };
        let Ok(rows) = rows else { return Err(batch) };
        let mut rows = rows.into_iter();
        let now_ms = self.shared.clock.now_ms();
        let (again, unknown) = batch.partition(|key| match key.last() {
            Op::Delete => rows.next().flatten().is_some() && !key.all_expired(now_ms),
            Op::Set(_) => !key.all_expired(now_ms),
        });
        self.fail(&unknown, Attempt::AfterDoubt, &Failure::Unknown);
        Ok(again)
    }

    fn committed(&mut self, batch: &Batch, written: &Written, attempt: Attempt) {
        let (mut stored, mut deleted) = (written.stored.iter(), written.deleted.iter());
        for key in batch.keys() {
            let (existed, version) = match key.last() {
                Op::Set(_) => stored.next().map(|(version, created)| (!created, *version)),
                Op::Delete => deleted.next().map(|existed| (*existed, 0)),
            }
            .expect("a statement answers for every row");
            let before = match (existed, attempt, key.last()) {
                // The row may be what an earlier attempt has left. A row that a DELETE still finds cannot.
                (true, Attempt::AfterDoubt, Op::Set(_)) => Before::RowOrOurs,
                (true, ..) => Before::Row,
                (false, ..) => Before::NoRow,
            };
            self.shared.engine.shard(key.hash()).committed(
                key.hash(),
                key.key(),
                key.count(),
                &key.row(version),
            );
            key.answer(before, version, &mut self.replies);
        }
        self.shared.deliver.deliver(&mut self.replies);
    }

    fn fail(&mut self, batch: &Batch, attempt: Attempt, failure: &Failure) {
        let failure = match attempt {
            Attempt::First => failure,
            Attempt::AfterDoubt => &Failure::Unknown,
        };
        for key in batch.keys() {
            let mut shard = self.shared.engine.shard(key.hash());
            match failure {
                Failure::Unknown => shard.unknown(key.hash(), key.key(), key.count()),
                Failure::Down { .. } | Failure::Refused(_) | Failure::NotStarted => {
                    shard.refused(key.hash(), key.key(), key.count());
                }
            }
            drop(shard);
            key.answer_all(&Answer::Failed(failure.clone()), &mut self.replies);
        }
        self.shared.deliver.deliver(&mut self.replies);
    }
}

fn arguments(batch: &Batch) -> (Vec<(&str, &str)>, Vec<&str>) {
    let (mut sets, mut deletes) = (Vec::new(), Vec::new());
    for key in batch.keys() {
        match key.last() {
            Op::Set(value) => sets.push((key.key(), &**value)),
            Op::Delete => deletes.push(key.key()),
        }
    }
    (sets, deletes)
}
