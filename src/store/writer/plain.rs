//! Plain writes: what they store or delete does not depend on the row that they find. One statement and one commit for a batch of them,
//! sent again for as long as that does no harm.

use super::super::batch::{Before, KeyWrites};
use super::super::{Answer, Blame, Connector, Error, Failure, KEPT_OUT, Session, Written};
use super::{Attempt, Batch, Writer, arguments};
use crate::clock::seconds;
use crate::engine::Row;
use crate::engine::shard::Writes;
use crate::limits::{BROKEN_OFF_RETRIES, LOST_RETRIES};
use std::time::Instant;

/// How often a batch was tried, by what has come of it.
struct Tries {
    attempt: Attempt,
    conflicts: usize,
    unsent: usize,
    lost: usize,
    unsettled: usize,
    /// The last was of a single key.
    was_alone: bool,
}

impl<C: Connector> Writer<C> {
    /// Brings a batch to one of its endings.
    pub(super) fn execute(&mut self, mut batch: Batch) {
        let attempt = Attempt::First;
        let mut tries = Tries { attempt, conflicts: 0, unsent: 0, lost: 0, unsettled: 0, was_alone: false };
        self.drop_if_broken();
        loop {
            batch = self.with_session(batch, &mut tries);
            if batch.is_empty() {
                return;
            }
            if tries.lost > LOST_RETRIES {
                return self.execute_suspects(batch, tries.was_alone);
            }
            let session = self.session.as_mut().expect("a batch that is left has one");
            let (sets, deletes) = arguments(&batch);
            tries.was_alone = sets.len() + deletes.len() == 1;
            let now_s = seconds(self.shared.clock.now_ms());
            let result = session.timed(batch.jobs(), |session| session.write(&sets, &deletes));
            self.last_used = Instant::now();
            self.lock_waits.count(&result);
            match result {
                Ok(written) => {
                    self.refusals.done("writes");
                    return self.committed(&batch, &written, tries.attempt, now_s);
                }
                Err(error) => match self.try_again(batch, error, &mut tries) {
                    Some(same) => batch = same,
                    None => return,
                },
            }
        }
    }

    /// Sees to it that there is a session, however long that takes after a doubt: what is still to be done of the batch by then. The
    /// rest has its ending.
    fn with_session(&mut self, mut batch: Batch, tries: &mut Tries) -> Batch {
        while self.session.is_none() && !batch.is_empty() {
            if tries.attempt == Attempt::First {
                return self.connect_for(batch);
            }
            // Nobody may be told anything before the old backend is gone, however long it takes. The clients' own deadlines
            // end their waiting.
            if !self.connect() {
                self.wait_while_down();
                continue;
            }
            match self.settle(batch, tries.unsettled > LOST_RETRIES) {
                Ok(rest) => return rest,
                Err(same) => {
                    tries.unsettled += 1;
                    // A server that takes connections and answers nothing: not as fast as it can be asked.
                    self.session = None;
                    batch = same;
                    self.wait_while_down();
                }
            }
        }
        batch
    }

    /// What an error means for a batch: the same again, or its ending.
    fn try_again(&mut self, batch: Batch, error: Error, tries: &mut Tries) -> Option<Batch> {
        let attempt = tries.attempt;
        let has_others = batch.keys().nth(1).is_some();
        match error {
            Error::NotSent(_) => {
                self.session = None;
                tries.unsent += 1;
                match attempt {
                    // A server that takes connections and drops them at once is as good as none.
                    Attempt::First if tries.unsent > 1 => {
                        let failure = self.shared.down();
                        self.fail(&batch, attempt, &failure);
                        return None;
                    }
                    Attempt::First => {}
                    Attempt::AfterDoubt => {
                        self.wait_while_down();
                    }
                }
                return Some(batch);
            }
            Error::Lost(message) => {
                log::warn!("a commit of {} keys was lost: {message}", batch.keys().count());
                self.lose_session();
                tries.lost += 1;
                if attempt == Attempt::First {
                    self.doubt(&batch);
                }
                tries.attempt = Attempt::AfterDoubt;
                return Some(batch);
            }
            Error::Refused { blame: Blame::Conflict, .. } if tries.conflicts < BROKEN_OFF_RETRIES => {
                tries.conflicts += 1;
                return Some(batch);
            }
            // What is broken off each time may be so for one row: a trigger can say so, too.
            Error::Refused { blame: Blame::Row | Blame::Conflict, .. } if has_others => {
                self.execute_each(batch, attempt);
            }
            // A policy, a bug in a trigger or a page that cannot be read is the server's to mend, and yet one row's.
            Error::Refused { blame: Blame::Server, .. } if attempt == Attempt::First && has_others => {
                self.execute_each(batch, attempt);
            }
            Error::Refused { blame: Blame::Held, message } if attempt == Attempt::First || has_others => {
                self.execute_unlocked(batch, attempt, Failure::Refused(message.into()));
            }
            Error::Refused { message, blame } => {
                if blame == Blame::ReadOnly {
                    self.leave_read_only();
                }
                // Of a row that breaks a rule of the table its client is told; it says nothing of the next.
                match blame {
                    Blame::Row | Blame::Held | Blame::Conflict => {
                        log::debug!("PostgreSQL refused a row: {message}");
                    }
                    Blame::Server | Blame::ReadOnly => self.refusals.refused("writes", &message),
                }
                self.fail(&batch, attempt, &Failure::Refused(message.into()));
            }
        }
        None
    }

    /// After a doubt, with every old backend gone: what is still to be done of the batch. `Err` gives it back when
    /// the database is gone again. `reads_end_sessions`: it was, each time; perhaps for these very reads.
    fn settle(&mut self, batch: Batch, reads_end_sessions: bool) -> Result<Batch, Batch> {
        let session = self.session.as_mut().expect("called with a session");
        let now_ms = self.shared.clock.now_ms();
        let is_asked = |key: &KeyWrites<'_>| key.last().is_none() && !key.all_expired(now_ms);
        let deletes: Vec<&str> = batch.keys().filter(is_asked).map(|key| key.key()).collect();
        let rows = match deletes[..] {
            [] => Ok(Vec::new()),
            _ if reads_end_sessions => Ok(vec![None; deletes.len()]),
            _ => session.asked(|session| session.read(&deletes, now_ms)),
        };
        let mut rows = match rows {
            Ok(rows) => rows.into_iter(),
            // Asking again would be refused again: nobody knows of these.
            Err(Error::Refused { .. }) => vec![None; deletes.len()].into_iter(),
            Err(Error::NotSent(_) | Error::Lost(_)) => return Err(batch),
        };
        let still_ms = self.shared.clock.now_ms();
        let engine = &self.shared.engine;
        let (again, unknown) = batch.partition(|key| {
            let row_is_there = key.last().is_some() || is_asked(&key) && rows.next().flatten().is_some();
            let alone = engine.shard(key.hash()).may_try_again(key.hash(), key.key());
            row_is_there && alone && !key.all_expired(still_ms)
        });
        self.fail(&unknown, Attempt::AfterDoubt, &Failure::Unknown);
        Ok(again)
    }

    /// A statement was lost: whatever it was to do may have happened, or happen still.
    fn doubt(&self, batch: &Batch) {
        for key in batch.keys() {
            self.shared.engine.shard(key.hash()).doubt(key.hash(), key.key());
        }
    }

    pub(super) fn committed(&mut self, batch: &Batch, written: &Written, attempt: Attempt, now_s: u32) {
        let (mut stored, mut deleted) = (written.stored.iter(), written.deleted.iter());
        for key in batch.keys() {
            let found = match key.last() {
                Some(_) => stored
                    .next()
                    .expect("a statement answers for every row")
                    .map(|(v, created)| (!created, v)),
                None => Some((*deleted.next().expect("a statement answers for every row"), 0)),
            };
            let Some((existed, version)) = found else {
                let failure = Failure::Refused(KEPT_OUT.into());
                self.applied(key, attempt, None, now_s);
                key.answer_all(&Answer::Failed(attempt.failure(&failure).clone()), &mut self.replies);
                continue;
            };
            let before = match (existed, attempt, key.last()) {
                // The row may be what an earlier attempt has left. A row that a DELETE still finds cannot.
                (true, Attempt::AfterDoubt, Some(_)) => Before::RowOrOurs,
                // It may have ended meanwhile, and then nobody knows what it took the place of.
                (false, Attempt::AfterDoubt, Some(set)) if set.ttl_s.is_some() => Before::RowOrOurs,
                (true, ..) => Before::Row,
                (false, ..) => Before::NoRow,
            };
            // That a DELETE has found nothing may be a trigger's doing.
            let is_known = existed || key.last().is_some();
            self.applied(key, attempt, is_known.then(|| key.row(version, now_s)).as_ref(), now_s);
            key.answer(before, (version, now_s), &mut self.replies);
        }
        self.shared.deliver.deliver(&mut self.replies);
    }

    /// Tells the engine, and whoever watches the key, what is in the table now, as far as that is known. Before any answer.
    fn applied(&mut self, key: KeyWrites<'_>, attempt: Attempt, row: Option<&Row>, now_s: u32) {
        let (writes, doubted) = (Writes::Own(key.count()), attempt == Attempt::AfterDoubt);
        let mut shard = self.shared.engine.shard(key.hash());
        let watching = match row {
            Some(row) => shard.committed(key.hash(), key.key(), (writes, doubted), row, now_s),
            None if doubted => shard.unknown(key.hash(), key.key(), writes),
            None => shard.replaced(key.hash(), key.key(), writes),
        };
        drop(shard);
        self.tell(watching);
    }
}
