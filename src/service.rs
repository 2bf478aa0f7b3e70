//! What a service manager is told (sd_notify(3)): that the server serves, reads its files again, stops; and, for as long
//! as every event loop turns, that it is alive. Without a manager (`NOTIFY_SOCKET`) all of it does nothing. Called by
//! `main`.

use crate::event_loop::inbox::{Inbox, Mail};
use sd_notify::NotifyState;
use std::ffi::OsStr;
use std::fmt::Write;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// How long a manager that does not read what it is told is waited for. Whoever tells it has more to do: a server that stops
/// drains after it has said so.
const MANAGER_WAIT: Duration = Duration::from_millis(100);

/// It starts, which may take so long.
pub fn starting(longest: Duration) {
    tell(&[NotifyState::Status("starting"), NotifyState::Custom(&extend(longest))]);
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
    tell(&[NotifyState::Stopping, status, NotifyState::Custom(&extend(longest))]);
}

/// It ends with this error.
pub fn failed(line: &str) {
    tell(&[NotifyState::Status(line)]);
}

/// In words of ours: those of the crate end at 71 minutes, and a drain may take two days.
fn extend(by: Duration) -> String {
    format!("EXTEND_TIMEOUT_USEC={}", by.as_micros())
}

fn tell(what: &[NotifyState<'_>]) {
    let Some(manager) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let lines = what.iter().fold(String::new(), |mut lines, state| {
        let _ = writeln!(lines, "{state}");
        lines
    });
    if let Err(error) = send(&manager, &lines) {
        log::warn!("the service manager cannot be told what goes on: {error}");
    }
}

/// What `sd_notify::notify` does, which waits for as long as the manager's queue is full and knows no abstract addresses ("@").
fn send(manager: &OsStr, lines: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    match manager.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(manager)?,
    }
    socket.set_write_timeout(Some(MANAGER_WAIT))?;
    socket.send(lines.as_bytes()).map(drop)
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
        // Each is asked, whether or not one before it could be: who was not asked would be waited for.
        let mut all = true;
        for inbox in &self.inboxes {
            all &= inbox.send(Mail::Beat).is_ok();
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Poll, Token, Waker};

    #[test]
    fn a_manager_that_does_not_read_is_not_waited_for() {
        let name = format!("hotrow-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let address = format!("@{name}");
        let mut told = 0;
        let error = loop {
            match send(address.as_ref(), "WATCHDOG=1\n") {
                Ok(()) => told += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let mut line = [0; 64];
        for _ in 0..told {
            let length = manager.recv(&mut line).unwrap();
            assert_eq!(&line[..length], b"WATCHDOG=1\n");
        }
        send(address.as_ref(), "STOPPING=1\n").unwrap();
        drop(manager);
        assert!(send(address.as_ref(), "STOPPING=1\n").is_err());
    }

    #[test]
    fn a_day_is_told_as_it_is() {
        let day = Duration::from_secs(24 * 60 * 60);
        assert_eq!(extend(2 * day), "EXTEND_TIMEOUT_USEC=172800000000");
    }

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
