//! Writes of rows that somebody else has locked, as a transaction in psql does. A writer has its other keys to think of: it waits
//! for such a row a moment ([`crate::limits::LOCK_WAIT_MS`]), puts its writes aside, and tries them again after every batch, until
//! they succeed or nobody waits for them any more. What comes for such a key meanwhile goes behind them.

use super::super::{Connector, Failure, WriteJob};
use super::{Attempt, Batch, Writer};
use crate::limits::{LOCKED_ROWS, WRITE_BATCH};
use std::collections::VecDeque;

/// Batches of one key each.
#[derive(Debug, Default)]
pub(super) struct Aside {
    batches: VecDeque<Batch>,
    jobs: usize,
}

impl Aside {
    /// True when no row is waited for.
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// How many rows are waited for.
    pub(super) fn len(&self) -> usize {
        self.batches.len()
    }

    /// Takes a write whose key's writes are aside, behind them; gives any other back.
    pub(super) fn take_behind(&mut self, job: WriteJob) -> Option<WriteJob> {
        match self.batches.iter_mut().find(|batch| batch.is_of(&job.step.key)) {
            Some(batch) => {
                batch.push(job);
                self.jobs += 1;
                None
            }
            None => Some(job),
        }
    }

    fn pop(&mut self) -> Option<Batch> {
        let batch = self.batches.pop_front()?;
        self.jobs -= batch.jobs();
        Some(batch)
    }
}

impl<C: Connector> Writer<C> {
    /// Puts the writes of a locked row aside. They end where nobody waits for them any more, or too many are aside already.
    pub(super) fn put_aside(&mut self, batch: Batch, refused: &Failure) {
        let now_ms = self.shared.clock.now_ms();
        let is_over = batch.keys().all(|key| key.all_expired(now_ms));
        if is_over || self.aside.jobs + batch.jobs() > WRITE_BATCH {
            self.fail(&batch, Attempt::First, refused);
        } else {
            self.aside.jobs += batch.jobs();
            self.aside.batches.push_back(batch);
        }
    }

    /// Tries a few of them again; those whose rows are still locked go to the end.
    pub(super) fn try_aside(&mut self) {
        for _ in 0..self.aside.len().min(LOCKED_ROWS) {
            let Some(batch) = self.aside.pop() else { return };
            if batch.keys().all(|key| key.is_plain()) {
                self.execute(batch);
            } else {
                self.execute_judged(&batch);
            }
        }
    }

    pub(super) fn fail_aside(&mut self, failure: &Failure) {
        while let Some(batch) = self.aside.pop() {
            self.fail(&batch, Attempt::First, failure);
        }
    }
}
