//! A server that serves: what can be asked of it, how it is told to stop, and how it is taken apart in the right order. Made by
//! [`super`], used by `main` and by tests.

use super::{MARGIN, Renewer, cannot_start_thread};
use crate::access_log::AccessLog;
use crate::api::admin::Status;
use crate::event_loop::Shared;
use crate::event_loop::inbox::{Inbox, Mail};
use crate::store::managed::{self, Managed};
use crossbeam_channel::Sender;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long workers may take to end once nobody needs them: a stuck statement does not hold up the exit.
const WORKERS_END: Duration = Duration::from_secs(5);

/// A server that serves.
pub struct Running {
    /// Where data is served.
    pub address: SocketAddr,
    /// Where operations are, if they are.
    pub admin_address: Option<SocketAddr>,
    /// The line that says so.
    pub ready_line: String,
    pub(super) stopper: Stopper,
    pub(super) renewer: Option<Renewer>,
    pub(super) loops: Vec<JoinHandle<()>>,
    pub(super) workers: Vec<JoinHandle<()>>,
    pub(super) end: Sender<Infallible>,
    pub(super) shared: Arc<Shared>,
    pub(super) managed: Option<Managed>,
    pub(super) access_log: Option<Arc<AccessLog>>,
}

/// Tells a server to stop, from any thread.
#[derive(Clone, Debug)]
pub struct Stopper {
    pub(super) inboxes: Vec<Arc<Inbox>>,
    pub(super) status: Arc<Status>,
    pub(super) delay: Duration,
}

impl Stopper {
    /// `/readyz` says so at once. After `--drain-delay` the server drains: no new connections, every answer the last of
    /// its connection. Does not wait.
    pub fn stop(&self) {
        self.status.draining.store(true, Ordering::Relaxed);
        if self.delay.is_zero() {
            return self.drain();
        }
        let later = self.clone();
        let spawned = thread::Builder::new().name("drain delay".into()).spawn(move || {
            thread::sleep(later.delay);
            later.drain();
        });
        if let Err(error) = spawned {
            log::error!("--drain-delay is left out: {}", cannot_start_thread(&error));
            self.drain();
        }
    }

    fn drain(&self) {
        for inbox in &self.inboxes {
            if let Err(error) = inbox.send(Mail::Drain) {
                log::error!("an event loop cannot be told to stop: {error}");
            }
        }
    }
}

impl Running {
    /// How its loops are reached.
    pub fn inboxes(&self) -> Vec<Arc<Inbox>> {
        self.stopper.inboxes.clone()
    }

    /// How long it takes to end at most, once it is told to.
    pub fn longest_stop(&self) -> Duration {
        let drain = self.stopper.delay + Duration::from_millis(self.shared.drain_timeout_ms);
        drain + WORKERS_END + self.managed.as_ref().map_or(Duration::ZERO, |_| managed::LONGEST_STOP) + MARGIN
    }

    /// Tells this server to stop, from any thread.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Reads files with secrets again, from any thread. There is one.
    pub fn take_renewer(&mut self) -> Option<Renewer> {
        self.renewer.take()
    }

    /// Goes on in new log files after somebody has moved the old ones away.
    pub fn log_reopener(&self) -> impl Fn() + Send + 'static {
        let access_log = self.access_log.clone();
        move || {
            if let Some(log) = &access_log {
                log.reopen();
            }
        }
    }

    /// Waits until the server has drained and everything behind it has ended. An error is a loop that has panicked.
    pub fn join(self) -> Result<(), String> {
        let mut result = Ok(());
        for thread in self.loops {
            if thread.join().is_err() {
                result = Err("an event loop has panicked".into());
            }
        }
        // With the last sender the queues close, and the workers end.
        drop(self.end);
        drop(self.shared);
        let deadline = Instant::now() + WORKERS_END;
        while self.workers.iter().any(|worker| !worker.is_finished()) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        if let Some(managed) = self.managed {
            managed.stop();
        }
        if let Some(log) = self.access_log {
            log.flush();
        }
        result
    }
}
