//! The database and its workers as a map and a function. What a job leads to depends on the rows and on the first
//! letter of its key alone, so that two runs of the same requests have the same answers.

use crossbeam_channel::Receiver;
use hotrow::engine::shard::Writes;
use hotrow::engine::{Engine, NEVER, Record, Row};
use hotrow::http::problem::{Kind, Problem};
use hotrow::store::judge::{Before, Judged, To};
use hotrow::store::list::{Page, PageRow, Range};
use hotrow::store::load::{LoadJob, Loaded};
use hotrow::store::{Answer, Failure, Job, ManyJob, ReadJob, ReadWork, Reply, Step, WriteJob};
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
    pub reads: Receiver<ReadWork>,
    /// Writes, a queue for each writer.
    pub writes: Vec<Receiver<Job>>,
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
    rows: BTreeMap<Box<str>, Record>,
    version: u32,
}

impl Database {
    /// Does one job as a reader or a writer does: the engine first, then the replies. `lose`: the outcome of a write
    /// is unknown, whatever its key.
    pub fn work(&mut self, jobs: &Jobs, engine: &Engine, lose: bool) -> Vec<Reply> {
        match jobs.reads.try_recv() {
            Ok(ReadWork::Row(job)) => return self.read(&job, engine),
            Ok(ReadWork::Rows(list)) => {
                return list.lock().iter().flat_map(|job| self.read(job, engine)).collect();
            }
            Ok(ReadWork::Page(page)) => {
                let answer = Answer::Page(self.page(&page.range));
                return vec![Reply { ticket: page.ticket, answer }];
            }
            Err(_) => {}
        }
        match jobs.writes.iter().find_map(|writes| writes.try_recv().ok()) {
            Some(Job::One(job)) if job.claim.take() => self.write(&job, engine, lose),
            Some(Job::One(job)) => {
                engine.shard(job.step.hash).refused(job.step.hash, &job.step.key, Writes::Own(1));
                Vec::new()
            }
            Some(Job::Many(job)) => self.write_many(&job, engine, lose),
            Some(Job::Load(job)) if job.claim.take() => self.load(&job, engine, lose),
            Some(Job::Load(_)) | None => Vec::new(),
        }
    }

    fn page(&self, range: &Range) -> Page {
        let row = |(key, record): (&Box<str>, &Record)| PageRow {
            key: key.clone(),
            version: record.version,
            value: range.values.then(|| record.value.clone()),
            expires_at: None,
        };
        let is_before_its_end =
            |(key, _): &(&Box<str>, &Record)| range.to.as_ref().is_none_or(|to| *key < to);
        let mut rows = self.rows.range(range.from.clone()..).take_while(is_before_its_end).map(row);
        Page { rows: rows.by_ref().take(range.rows as usize).collect(), more: rows.next().is_some() }
    }

    fn read(&self, job: &ReadJob, engine: &Engine) -> Vec<Reply> {
        let row: Row = self.rows.get(&job.key).cloned();
        let failure = refusal(&job.key);
        let found = if failure.is_none() { Some(&row) } else { None };
        let done = engine.shard(job.hash).read_done(job.hash, &job.key, job.id, found, 0);
        let answer = failure.map_or(Answer::Found(row), Answer::Failed);
        let told = done.waiters.into_iter().map(|ticket| Reply { ticket, answer: answer.clone() });
        told.chain(done.watching.into_iter().map(Reply::changed)).collect()
    }

    fn write(&mut self, job: &WriteJob, engine: &Engine, lose: bool) -> Vec<Reply> {
        let mut answers = self.apply(&[&job.step], Writes::Own(1), engine, lose);
        vec![Reply { ticket: job.ticket, answer: answers.remove(0) }]
    }

    /// All-or-nothing is not done here: what the batch is answered does not depend on it.
    fn write_many(&mut self, job: &ManyJob, engine: &Engine, lose: bool) -> Vec<Reply> {
        let mut answers = vec![Answer::NotDone; job.steps.len()];
        for (_, key) in job.keys() {
            let of_key: Vec<usize> = (0..job.steps.len()).filter(|at| job.steps[*at].key == key).collect();
            let steps: Vec<&Step> = of_key.iter().map(|at| &job.steps[*at]).collect();
            for (at, answer) in of_key.iter().zip(self.apply(&steps, Writes::Foreign, engine, lose)) {
                answers[*at] = answer;
            }
        }
        vec![Reply { ticket: job.ticket, answer: Answer::Many(answers) }]
    }

    /// One row after the other: what a piece is answered does not depend on it.
    fn load(&mut self, job: &LoadJob, engine: &Engine, lose: bool) -> Vec<Reply> {
        let (mut loaded, mut lost) = (Loaded::default(), lose);
        for (line, row) in job.rows(&mut loaded) {
            let (key, hash) = (Box::from(&*row.key), engine.hash(&row.key));
            let mut shard = engine.shard(hash);
            if refusal(&key).is_some() || !shard.may_send_foreign(hash, &key) {
                loaded.refuse_row(line, Problem::new(Kind::DatabaseRefused, "no"));
                continue;
            }
            self.version += 1;
            if lose || key.starts_with(UNKNOWN) {
                lost = true;
                shard.doubt(hash, &key);
                shard.unknown(hash, &key, Writes::Foreign);
            } else {
                shard.replaced(hash, &key, Writes::Foreign);
                loaded.written += 1;
            }
            let record = Record { value: (&*row.value).into(), version: self.version, expires_s: NEVER };
            self.rows.insert(key, record);
        }
        loaded.keep_first();
        let answer = if lost { Answer::Failed(Failure::Unknown) } else { Answer::Loaded(loaded) };
        vec![Reply { ticket: job.ticket, answer }]
    }

    /// Does the steps of one key, in their order.
    fn apply(&mut self, steps: &[&Step], writes: Writes, engine: &Engine, lose: bool) -> Vec<Answer> {
        let (key, hash) = (&steps[0].key, steps[0].hash);
        let mut shard = engine.shard(hash);
        if let Some(failure) = refusal(key) {
            shard.refused(hash, key, writes);
            return vec![Answer::Failed(failure); steps.len()];
        }
        self.version += 1;
        let before = self.rows.get(key).map(|record| Before { record: record.clone(), expired: false });
        let judged = Judged::new(before.as_ref(), steps.iter().copied(), 0);
        match &judged.to {
            Some(To::Value(value, _)) => {
                let record =
                    Record { value: value.clone(), version: self.version, expires_s: judged.expires_s };
                self.rows.insert(key.clone(), record);
            }
            Some(To::Nothing) => {
                self.rows.remove(key);
            }
            None => {}
        }
        if lose || key.starts_with(UNKNOWN) {
            shard.doubt(hash, key);
            shard.unknown(hash, key, writes);
            return vec![Answer::Failed(Failure::Unknown); steps.len()];
        }
        if judged.to.is_some() {
            shard.committed(hash, key, (writes, false), &self.rows.get(key).cloned(), 0);
        } else {
            shard.unchanged(hash, key, writes, judged.found);
        }
        judged.answers(self.version)
    }
}

fn refusal(key: &str) -> Option<Failure> {
    match key.chars().next() {
        Some(REFUSED) => Some(Failure::Refused("no".into())),
        Some(DOWN) => Some(Failure::Down { retry_after_seconds: 7 }),
        _ => None,
    }
}
