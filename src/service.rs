//! What a service manager is told (sd_notify(3)): that the server serves, reads its files again, stops; and, for as long
//! as every event loop turns, that it is alive. Without a manager (`NOTIFY_SOCKET`) all of it does nothing. Called by
//! `main`.

use crate::event_loop::inbox::{Inbox, Mail};
use sd_notify::NotifyState;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// It starts, which may take so long.
pub fn starting(longest: Duration) {
    tell(&[NotifyState::Status("starting"), extend(longest)]);
}

/// It serves. `status` is a line for people.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// It reads its files again, until it says [`ready`].
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now, NotifyState::Status("reading its files again")]),
        Err(error) => log::warn!("the service manager cannot be told the time: {error}"),
    }
}

/// It stops, which may take so long.
pub fn stopping(longest: Duration) {
    let status = NotifyState::Status("draining: requests under way are finished");
    tell(&[NotifyState::Stopping, status, extend(longest)]);
}

/// It ends with this error.
pub fn failed(line: &str) {
    tell(&[NotifyState::Status(line)]);
}

fn extend(by: Duration) -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX))
}

fn tell(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        log::warn!("the service manager cannot be told what goes on: {error}");
    }
}

/// Starts to tell a manager that wants to know (`WATCHDOG_USEC`) four times as often as it wants to: who has missed one
/// moment, because much was to be done, has others before it is taken for hung.
pub fn watch(mut pulse: Pulse) {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    let pause = (period / 4).max(Duration::from_millis(1));
    let spawned = thread::Builder::new().name("watchdog".into()).spawn(move || {
        loop {
            if pulse.feel() {
                tell(&[NotifyState::Watchdog]);
            }
            thread::sleep(pause);
        }
    });
    if let Err(error) = spawned {
        log::error!("the watchdog cannot be told that the server is alive: {error}");
    }
}

/// Finds out whether every event loop turns. Each is sent a piece of mail, for an idle one does not turn by itself; it
/// counts what it comes across. A request costs that nothing.
#[derive(Debug)]
pub struct Pulse {
    inboxes: Vec<Arc<Inbox>>,
    asked: u64,
}

impl Pulse {
    /// Of these loops.
    pub fn new(inboxes: Vec<Arc<Inbox>>) -> Pulse {
        Pulse { inboxes, asked: 0 }
    }

    /// True when every loop has answered what it was asked the last time, or has nothing left to do; then all are asked
    /// again.
    pub fn feel(&mut self) -> bool {
        if self.inboxes.iter().any(|inbox| inbox.beats() < self.asked && !inbox.has_ended()) {
            return false;
        }
        self.asked += 1;
        self.inboxes.iter().all(|inbox| inbox.send(Mail::Beat).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Poll, Token, Waker};

    #[test]
    fn one_loop_that_does_not_turn_is_felt() {
        let polls: Vec<Poll> = (0..2).map(|_| Poll::new().unwrap()).collect();
        let inbox = |poll: &Poll| Arc::new(Inbox::new(Waker::new(poll.registry(), Token(0)).unwrap()));
        let inboxes: Vec<Arc<Inbox>> = polls.iter().map(inbox).collect();
        let answer = |inbox: &Inbox| {
            for _ in inbox.drain().filter(|mail| matches!(mail, Mail::Beat)) {
                inbox.beat();
            }
        };
        let mut pulse = Pulse::new(inboxes.clone());
        assert!(pulse.feel(), "nobody was asked before");
        assert!(!pulse.feel());
        answer(&inboxes[0]);
        assert!(!pulse.feel(), "one is still missing");
        answer(&inboxes[1]);
        assert!(pulse.feel());
        answer(&inboxes[1]);
        assert!(!pulse.feel(), "it is the other one's turn");
        // A loop that has drained needs not turn any more.
        inboxes[0].end();
        assert!(pulse.feel());
        assert!(!pulse.feel());
    }
}
