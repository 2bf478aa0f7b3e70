//! The sweeper: deletes rows whose time is over, a few at a time, by a connection of its own. Nobody waits for it: such a
//! row is as good as none to every statement, and no longer in the cache, so that when it goes changes nothing but the
//! size of the table. One thread. Started by [`super::pool`].

use super::worker::{Fault, Refusals, Shared, chance};
use super::{Blame, Connector, Error, Session};
use crate::limits::{SWEEP_AGAIN_MS, SWEEP_PAUSE_MS, SWEEP_ROWS};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// A row past its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Its key.
    pub key: Box<str>,
    /// When its time was over, as PostgreSQL writes it.
    pub at: Box<str>,
}

/// The sweeper's state.
pub struct Sweeper<C: Connector> {
    shared: Arc<Shared<C>>,
    /// Nothing comes from here; it closes when the server ends.
    end: Receiver<Infallible>,
    session: Option<C::Session>,
    /// Rows up to here stay, for now: a trigger keeps them, another table refers to them, somebody has them locked.
    behind: Option<Expired>,
    /// When those are tried again.
    again_ms: u64,
    refusals: Refusals,
    /// The last number by [`chance`].
    random: u64,
}

/// What has come of rows that were to go.
#[derive(Default)]
struct Swept {
    deleted: u64,
    /// Some were refused.
    refused: bool,
    fault: Fault,
}

impl<C: Connector> Sweeper<C> {
    /// A sweeper that runs until `end` is closed.
    pub fn new(shared: Arc<Shared<C>>, end: Receiver<Infallible>) -> Sweeper<C> {
        Sweeper {
            shared,
            end,
            session: None,
            behind: None,
            again_ms: 0,
            refusals: Refusals::default(),
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// Runs until the server ends.
    pub fn run(mut self) {
        let pause = Duration::from_millis(SWEEP_PAUSE_MS);
        while matches!(self.end.recv_timeout(pause), Err(RecvTimeoutError::Timeout)) {
            // Where there is more, it follows at once; whoever writes such rows faster than this has them swept as fast
            // as he writes them.
            while self.sweep() == SWEEP_ROWS as usize && !self.has_ended() {}
        }
    }

    fn has_ended(&self) -> bool {
        matches!(self.end.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected))
    }

    /// Some rows, the oldest first; how many there were. A database that is gone is the others' to report.
    fn sweep(&mut self) -> usize {
        if self.session.is_none() {
            self.session = self.shared.connector.connect().ok();
        }
        let Some(mut session) = self.session.take() else { return 0 };
        if self.shared.clock.now_ms() >= self.again_ms {
            self.behind = None;
        }
        let expired = match session.expired(self.behind.as_ref(), SWEEP_ROWS) {
            Ok(expired) => expired,
            Err(error) => {
                log::debug!("rows past their time cannot be looked for now: {error}");
                return 0;
            }
        };
        let keys: Vec<&str> = expired.iter().map(|row| &*row.key).collect();
        let Swept { deleted, refused, fault } = match self.delete(&mut session, &keys) {
            Ok(swept) => swept,
            Err(error) => {
                log::debug!("rows past their time cannot be deleted now: {error}");
                return 0;
            }
        };
        self.shared.workers.swept.add(deleted);
        self.session = Some(session);
        let found = expired.len();
        // What somebody has in hand is found again, and may be gone by then; it is passed over where there is nothing else.
        if refused || deleted == 0 {
            self.pass_over(expired);
        }
        // What it refuses everybody it refuses the next ones, too, which are not tried as fast as they can be.
        if fault.is_the_servers() { 0 } else { found }
    }

    /// Some of these stay: the others are not to wait for them, nor to be looked for one by one because of them.
    fn pass_over(&mut self, mut expired: Vec<Expired>) {
        let Some(mut last) = expired.pop() else { return };
        if self.behind.is_none() {
            self.again_ms = self.shared.clock.now_ms() + SWEEP_AGAIN_MS;
            // They came in no order of their keys: others of the same time may be left, with any key.
            last.key = "".into();
        }
        self.behind = Some(last);
    }

    /// Deletes these, each by itself where one of them may not be. Nobody can say which it is.
    fn delete(&mut self, session: &mut C::Session, keys: &[&str]) -> Result<Swept, Error> {
        let mut swept = Swept::default();
        if keys.is_empty() {
            return Ok(swept);
        }
        match session.sweep(keys) {
            Err(Error::Refused { message, blame }) => {
                self.refusals.refused("the deletion of a row past its time", &message);
                if blame == Blame::ReadOnly {
                    return Err(Error::Refused { message, blame });
                }
                swept.refused = true;
                // Others come first each time: two that are always refused are not to keep those behind them for ever, nor many side by
                // side for as many times.
                let first = chance(&mut self.random) as usize % keys.len();
                let (last, first) = keys.split_at(first);
                for key in first.iter().chain(last).filter(|_| keys.len() > 1) {
                    match session.sweep(&[key]) {
                        Ok(rows) => {
                            swept.deleted += rows;
                            swept.fault.note(false);
                        }
                        Err(Error::Refused { blame, .. }) => swept.fault.note(blame == Blame::Server),
                        Err(error) => return Err(error),
                    }
                    if swept.fault.is_the_servers() {
                        break;
                    }
                }
            }
            Ok(deleted) => {
                self.refusals.done("the deletion of rows past their time");
                swept.deleted = deleted;
            }
            Err(error) => return Err(error),
        }
        Ok(swept)
    }
}

#[cfg(test)]
mod tests {
    use super::super::reader::tests::{Faulty, Kept, shared};
    use super::*;

    /// What is left of them waits for a minute each time.
    #[test]
    fn rows_that_are_refused_side_by_side_keep_no_others_for_long() {
        const REFUSED: usize = 100;
        let rows: Vec<String> = (0..SWEEP_ROWS).map(|at| at.to_string()).collect();
        let keys: Vec<&str> = rows.iter().map(|row| &**row).collect();
        for first in (0..rows.len() - REFUSED).step_by(50) {
            let mut session = Faulty::with((first..first + REFUSED).map(|at| (at, Blame::Server)).collect());
            let (_end, ends) = crossbeam_channel::bounded(1);
            let mut sweeper = Sweeper::new(shared(session.clone(), Kept::default()), ends);
            let mut times = 1;
            while sweeper.delete(&mut session, &keys).unwrap().deleted == 0 {
                times += 1;
            }
            assert!(times < 10, "{times} times, where the first of them is the {first}th");
        }
    }
}
