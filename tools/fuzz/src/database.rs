//! The database and its workers as a map and a function. What a job leads to depends on the rows and on the first
//! letter of its key alone, so that two runs of the same requests have the same answers.

use crossbeam_channel::Receiver;
use hotrow::engine::shard::Row;
use hotrow::engine::{Engine, Value};
use hotrow::store::{Answer, Failure, Op, ReadJob, Reply, WriteJob};
use std::collections::BTreeMap;

/// Keys that begin so: PostgreSQL refuses their statements.
pub const REFUSED: char = 'R';
/// Keys that begin so: PostgreSQL cannot be reached for them.
pub const DOWN: char = 'D';
/// Keys that begin so: their writes happen, but nobody learns of it.
pub const UNKNOWN: char = 'U';

/// The workers' ends of the queues.
#[derive(Clone, Debug)]
pub struct Jobs {
    /// Misses.
    pub reads: Receiver<ReadJob>,
    /// Writes, a queue for each writer.
    pub writes: Vec<Receiver<WriteJob>>,
}

impl Jobs {
    /// True when nobody waits for anything.
    pub fn is_empty(&self) -> bool {
        self.reads.is_empty() && self.writes.iter().all(Receiver::is_empty)
    }
}

/// The rows, and how many versions there were.
#[derive(Debug, Default)]
pub struct Database {
    rows: BTreeMap<Box<str>, (Value, u32)>,
    version: u32,
}

impl Database {
    /// Does one job as a reader or a writer does: the engine first, then the replies. `lose`: the outcome of a write
    /// is unknown, whatever its key.
    pub fn work(&mut self, jobs: &Jobs, engine: &Engine, lose: bool) -> Vec<Reply> {
        if let Ok(job) = jobs.reads.try_recv() {
            return self.read(&job, engine);
        }
        match jobs.writes.iter().find_map(|writes| writes.try_recv().ok()) {
            Some(job) if job.claim.take() => self.write(job, engine, lose),
            Some(job) => {
                engine.shard(job.hash).refused(job.hash, &job.key, 1);
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    fn read(&self, job: &ReadJob, engine: &Engine) -> Vec<Reply> {
        let row: Row = self.rows.get(&job.key).cloned();
        let failure = refusal(&job.key);
        let found = if failure.is_none() { Some(&row) } else { None };
        let waiters = engine.shard(job.hash).read_done(job.hash, &job.key, job.id, found);
        let answer = failure.map_or(Answer::Found(row), Answer::Failed);
        waiters.into_iter().map(|ticket| Reply { ticket, answer: answer.clone() }).collect()
    }

    fn write(&mut self, job: WriteJob, engine: &Engine, lose: bool) -> Vec<Reply> {
        let WriteJob { key, hash, op, ticket, .. } = job;
        let mut shard = engine.shard(hash);
        if let Some(failure) = refusal(&key) {
            shard.refused(hash, &key, 1);
            return vec![Reply { ticket, answer: Answer::Failed(failure) }];
        }
        self.version += 1;
        let (row, before) = match &op {
            Op::Set(value) => {
                let row = (value.clone(), self.version);
                (Some(row.clone()), self.rows.insert(key.clone(), row))
            }
            Op::Delete => (None, self.rows.remove(&key)),
        };
        let existed = before.is_some();
        if lose || key.starts_with(UNKNOWN) {
            shard.doubt(hash, &key);
            shard.unknown(hash, &key, 1);
            return vec![Reply { ticket, answer: Answer::Failed(Failure::Unknown) }];
        }
        shard.committed(hash, &key, 1, &row);
        let answer = match op {
            Op::Set(value) => Answer::Stored { key, value, version: Some(self.version), created: !existed },
            Op::Delete => Answer::Deleted { existed },
        };
        vec![Reply { ticket, answer }]
    }
}

fn refusal(key: &str) -> Option<Failure> {
    match key.chars().next() {
        Some(REFUSED) => Some(Failure::Refused("no".into())),
        Some(DOWN) => Some(Failure::Down { retry_after_seconds: 7 }),
        _ => None,
    }
}
