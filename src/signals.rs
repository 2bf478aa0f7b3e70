//! Signals, from before the start to the end: told to stop, told so again, and to read files again. The thread that hears them opens
//! no file and waits for nobody, so that the next one is heard whatever the last one was about. Used by `main`.

use hotrow::server::{Renewer, Running, Stopper};
use hotrow::service;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator;
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// What they have asked for so far.
#[derive(Clone, Default)]
pub(crate) struct Signals(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    stopping: bool,
    /// A SIGHUP has come while it started: files may have been opened before it.
    renews_first: bool,
    /// None while it starts.
    serving: Option<Serving>,
}

/// What a server that serves is told by.
struct Serving {
    stopper: Stopper,
    longest_stop: Duration,
    /// Somebody to read the files again. Who is asked before has yet to begin, and serves both.
    renewals: SyncSender<()>,
    reopen_logs: Box<dyn Fn() + Send>,
}

impl Serving {
    fn renew(&self) {
        // logrotate(8) may have moved a file away.
        (self.reopen_logs)();
        let _ = self.renewals.try_send(());
    }

    fn stop(&self) {
        log::info!("stopping: requests under way are finished; a second signal ends at once");
        service::stopping(self.longest_stop);
        self.stopper.stop();
    }
}

impl Signals {
    /// Hears them from now on. The second one that wants the end gets it by this.
    pub(crate) fn follow(end_at_once: impl FnOnce() + Send + 'static) -> Result<Signals, String> {
        let mut heard = iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])
            .map_err(|e| format!("cannot catch signals: {e}"))?;
        let signals = Signals::default();
        let follower = signals.clone();
        let spawned = thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in heard.forever() {
                if !follower.is_followed(signal) {
                    break;
                }
            }
            end_at_once();
        });
        spawned.map_err(|e| format!("cannot start a thread: {e}"))?;
        Ok(signals)
    }

    /// False for the one that ends at once.
    fn is_followed(&self, signal: i32) -> bool {
        let mut state = self.state();
        match &state.serving {
            Some(serving) if signal == SIGHUP => serving.renew(),
            None if signal == SIGHUP => state.renews_first = true,
            _ if state.stopping => return false,
            serving => {
                match serving {
                    Some(serving) => serving.stop(),
                    None => log::info!("told to stop while it starts; a second signal ends at once"),
                }
                state.stopping = true;
            }
        }
        true
    }

    /// False where nobody wants the server any more.
    pub(crate) fn wanted(&self) -> bool {
        !self.state().stopping
    }

    /// There is a server: what has come while it started is followed now.
    pub(crate) fn serves(&self, running: &mut Running) -> Result<(), String> {
        // One more may wait while files are read; what it is about is read by whom it asks for.
        let (renewals, asked) = mpsc::sync_channel(1);
        if let Some(renewer) = running.take_renewer() {
            let (signals, ready_line) = (self.clone(), running.ready_line.clone());
            let renew = move || signals.renew(renewer, &asked, &ready_line);
            // Not on the thread that hears the next one: a pipe that nobody writes to, or a file on a server that is gone, has no end.
            let spawned = thread::Builder::new().name("renewals".into()).spawn(renew);
            spawned.map_err(|e| format!("cannot start a thread: {e}"))?;
        }
        let serving = Serving {
            stopper: running.stopper(),
            longest_stop: running.longest_stop(),
            renewals,
            reopen_logs: Box::new(running.log_reopener()),
        };
        let mut state = self.state();
        if state.renews_first {
            serving.renew();
        }
        if state.stopping {
            serving.stop();
        }
        state.serving = Some(serving);
        Ok(())
    }

    /// Reads the files again, one time after the other, for as long as the process lives.
    fn renew(&self, mut renewer: Renewer, asked: &mpsc::Receiver<()>, ready_line: &str) {
        for () in asked {
            self.tell(service::reloading);
            renewer.renew();
            self.tell(|| service::ready(ready_line));
        }
    }

    /// Tells the manager, who is told nothing else once it stops.
    fn tell(&self, what: impl FnOnce()) {
        let state = self.state();
        if !state.stopping {
            what();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("a panic ends the process")
    }
}
