//! `hotrow import` and `hotrow export`: rows between a file and a running server, both ways as clients of its HTTP.
//!
//! ```text
//!  FILE ──lines──► pieces ──► PUT /kv, one at a time ──────────────► server      import: goes on behind the last line done
//!  FILE.part ◄── whole lines ◄── GET /kv?cursor=…, one stream ◄──── server      export: goes on behind the last line had
//! ```
//!
//! Both are made of parts that know no file and no socket (`lines`, `report`, `Patience`), of `remote`, the only
//! place that speaks HTTP here, and of `progress`, the only one that draws. Knows nothing of tables or caches: what a
//! server does with rows is the server's business. Called by [`crate::commands`].

pub mod export;
pub mod import;
mod lines;
mod progress;
mod remote;
mod report;

use crate::process::say;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::process;
use std::thread;
use std::time::{Duration, Instant};

/// The first pause before something is tried again; each one is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest one, if the server does not ask for more.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// More than that a server may not ask for.
const LONGEST_WISH: Duration = Duration::from_secs(60);
/// Exit code of a command that was told to stop: it has not done what it was asked for.
const STOPPED: i32 = 1;

/// How often and how long something that fails is tried again: until nothing has got on for too long.
#[derive(Debug)]
struct Patience {
    bound: Duration,
    /// When something last got on.
    since: Instant,
    failures: u32,
}

impl Patience {
    fn new(bound: Duration, now: Instant) -> Patience {
        Patience { bound, since: now, failures: 0 }
    }

    /// Something has got on.
    fn renew(&mut self, now: Instant) {
        (self.since, self.failures) = (now, 0);
    }

    /// The pause before the next try, at least as long as the server wishes; `None`: it is given up.
    fn pause(&mut self, wish: Option<Duration>, now: Instant) -> Option<Duration> {
        let left = self.bound.checked_sub(now.duration_since(self.since)).filter(|left| !left.is_zero())?;
        let usual = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
        self.failures += 1;
        Some(usual.max(wish.unwrap_or_default().min(LONGEST_WISH)).min(left))
    }
}

/// SIGINT and SIGTERM end the process: with the line that is to be said then.
fn when_stopped(line: impl Fn() -> String + Send + 'static) -> Result<(), String> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(|e| format!("cannot catch signals: {e}"))?;
    let spawned = thread::Builder::new().name("signals".into()).spawn(move || {
        if signals.forever().next().is_some() {
            say(format_args!("hotrow: stopped; {}", line()));
            process::exit(STOPPED);
        }
    });
    spawned.map(drop).map_err(|e| format!("cannot start a thread: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_renewed_by_what_gets_on_and_ends() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let ms = |pause: Option<Duration>| pause.map(|pause| pause.as_millis());
        let mut patience = Patience::new(Duration::from_secs(10), start);
        assert_eq!(ms(patience.pause(None, at(0))), Some(100));
        assert_eq!(ms(patience.pause(None, at(100))), Some(200));
        assert_eq!(ms(patience.pause(Some(Duration::from_secs(2)), at(300))), Some(2_000));
        patience.renew(at(3_000));
        assert_eq!(ms(patience.pause(None, at(3_000))), Some(100));
        assert_eq!(ms(patience.pause(Some(Duration::from_secs(3_600)), at(4_000))), Some(9_000));
        assert_eq!(ms(patience.pause(None, at(12_999))), Some(1));
        assert_eq!(ms(patience.pause(None, at(13_000))), None);
        let mut patience = Patience::new(Duration::from_secs(86_400), start);
        let longest = (0..40).filter_map(|_| patience.pause(None, start)).max();
        assert_eq!(longest, Some(LONGEST_PAUSE));
    }
}
