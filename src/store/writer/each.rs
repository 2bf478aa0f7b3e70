//! Batches in which one row may be at fault: the others do not suffer for it.

use super::super::worker::Fault;
use super::super::{Claim, Connector, Error, Failure, Session};
use super::aside::Held;
use super::{Attempt, Batch, Writer, arguments};
use crate::clock::seconds;

impl<C: Connector> Writer<C> {
    /// A batch that was lost again, and is settled: it may be one of its rows that ends backends, as a bug in a trigger does, or a
    /// lack of memory, for which all of PostgreSQL starts anew. Each is sent once more, alone; what has been alone is not.
    pub(super) fn execute_suspects(&mut self, batch: Batch, was_alone: bool) {
        if was_alone {
            self.fail(&batch, Attempt::AfterDoubt, &Failure::Unknown);
        } else {
            self.execute_each(batch, Attempt::AfterDoubt);
        }
    }

    /// A batch in which one row may be at fault: the others must not suffer for it, nor wait for many that are locked.
    pub(super) fn execute_each(&mut self, batch: Batch, attempt: Attempt) {
        let mut fault = Fault::default();
        if attempt == Attempt::First {
            // Nothing of it has happened, and one of them may have PostgreSQL end: whoever waits for another may withdraw that.
            batch.claims().for_each(Claim::give_back);
        }
        for mut single in batch.split() {
            let refused = self.refusals.times();
            if attempt == Attempt::First {
                single = self.taken(single);
                if single.is_empty() {
                    continue;
                }
            }
            match attempt {
                Attempt::First if fault.is_the_servers() => {
                    let failure = Failure::Refused(self.refusals.last().into());
                    self.fail(&single, attempt, &failure);
                    continue;
                }
                Attempt::First if self.down => {
                    let failure = self.shared.down();
                    self.fail(&single, attempt, &failure);
                }
                // While PostgreSQL started anew the time of some has passed: their clients were told that nobody knows, and have
                // gone on.
                _ if single.keys().all(|key| key.all_expired(self.shared.clock.now_ms())) => {
                    self.fail(&single, attempt, &Failure::NotStarted);
                }
                _ if self.lock_waits.are_few() => self.execute_single(single, attempt),
                Attempt::First => self.put_aside(Held::Key(single), Failure::NotStarted, Vec::new()),
                Attempt::AfterDoubt => self.fail(&single, attempt, &Failure::Unknown),
            }
            fault.note(self.refusals.times() != refused);
        }
    }

    /// A batch that waited for a lock: those whose rows are locked are put aside, and the others done.
    pub(super) fn execute_unlocked(&mut self, batch: Batch, attempt: Attempt, why: Failure) {
        let keys: Vec<&str> = batch.keys().map(|key| key.key()).collect();
        let asked = if attempt == Attempt::First { self.locked(&keys) } else { None };
        match asked {
            Some(locked) if locked.contains(&true) => {
                let mut locked = locked.into_iter();
                let (locked, free) = batch.partition(|_| locked.next().expect("one for each"));
                for single in locked.split() {
                    let key = single.keys().map(|key| key.key().into()).collect();
                    self.put_aside(Held::Key(single), why.clone(), key);
                }
                if self.lock_waits.are_few() {
                    self.execute(free);
                } else {
                    self.execute_each(free, attempt);
                }
            }
            _ if batch.keys().nth(1).is_some() => self.execute_each(batch, attempt),
            _ => self.put_aside(Held::Key(batch), why, Vec::new()),
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
        let now_s = seconds(self.shared.clock.now_ms());
        let result = session.timed(batch.jobs(), |session| session.write(&sets, &deletes));
        self.lock_waits.count(&result);
        match result {
            Ok(written) => self.committed(&batch, &written, attempt, now_s),
            Err(Error::Refused { .. }) => self.fail(&batch, attempt, &Failure::Unknown),
            Err(Error::NotSent(_)) => {
                self.session = None;
                self.fail(&batch, attempt, &Failure::Unknown);
            }
            Err(Error::Lost(_)) => {
                // In doubt once more, and by another backend: settle that one too before the key is let go.
                self.lose_session();
                self.connect_at_last();
                self.fail(&batch, attempt, &Failure::Unknown);
            }
        }
    }
}
