//! The sweeper: deletes rows whose time is over, a few at a time, by a connection of its own. Nobody waits for it: such a
//! row is as good as none to every statement, and no longer in the cache, so that when it goes changes nothing but the
//! size of the table. One thread. Started by [`super::pool`].

use super::worker::Shared;
use super::{Connector, Session};
use crate::limits::{SWEEP_PAUSE_MS, SWEEP_ROWS};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// The sweeper's state.
pub struct Sweeper<C: Connector> {
    shared: Arc<Shared<C>>,
    /// Nothing comes from here; it closes when the server ends.
    end: Receiver<Infallible>,
    session: Option<C::Session>,
}

impl<C: Connector> Sweeper<C> {
    /// A sweeper that runs until `end` is closed.
    pub fn new(shared: Arc<Shared<C>>, end: Receiver<Infallible>) -> Sweeper<C> {
        Sweeper { shared, end, session: None }
    }

    /// Runs until the server ends.
    pub fn run(mut self) {
        let pause = Duration::from_millis(SWEEP_PAUSE_MS);
        while matches!(self.end.recv_timeout(pause), Err(RecvTimeoutError::Timeout)) {
            // Where there is more, it follows at once; whoever writes such rows faster than this has them swept as fast
            // as he writes them.
            while self.sweep() == u64::from(SWEEP_ROWS) && !self.has_ended() {}
        }
    }

    fn has_ended(&self) -> bool {
        matches!(self.end.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected))
    }

    /// One statement; how many rows it has deleted. A database that is gone is the others' to report.
    fn sweep(&mut self) -> u64 {
        if self.session.is_none() {
            self.session = self.shared.connector.connect().ok();
        }
        let Some(session) = &mut self.session else { return 0 };
        match session.sweep(SWEEP_ROWS) {
            Ok(rows) => {
                self.shared.workers.swept.add(rows);
                rows
            }
            Err(error) => {
                log::debug!("rows past their time cannot be deleted now: {error}");
                self.session = None;
                0
            }
        }
    }
}
