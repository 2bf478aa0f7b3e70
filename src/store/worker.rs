//! What readers and writers have in common: what they share with everyone, and how they wait for a database that is
//! gone. Used by [`super::reader`] and [`super::writer`].

use super::health::Health;
use super::{Deliver, Error, Failure};
use crate::clock::Clock;
use crate::engine::Engine;
use crate::metrics::{Work, Workers};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What every worker holds.
pub struct Shared<C> {
    /// Makes sessions.
    pub connector: C,
    /// Takes outcomes.
    pub engine: Arc<Engine>,
    /// Takes replies.
    pub deliver: Arc<dyn Deliver>,
    /// Says who has a database.
    pub health: Arc<Health>,
    /// What the workers count.
    pub workers: Arc<Workers>,
    /// The clock of the deadlines.
    pub clock: Clock,
    /// The shortest and the longest pause between two attempts to connect, in milliseconds.
    pub reconnect_ms: (u64, u64),
}

/// A session that is counted for as long as there is one, and whose statements are timed.
pub struct Counted<S> {
    session: S,
    work: Arc<Work>,
    clock: Clock,
    /// Dropped after the session, for fields are dropped in this order.
    _last: NoMoreAsked,
}

/// Nothing is asked any more.
struct NoMoreAsked(Arc<Work>);

impl Drop for NoMoreAsked {
    fn drop(&mut self) {
        self.0.asked_ms.store(0, Ordering::Relaxed);
    }
}

impl<S> Counted<S> {
    /// Counts this session to those of a worker.
    pub fn new(session: S, work: &Arc<Work>, clock: Clock) -> Counted<S> {
        work.connections.add(1);
        Counted { session, work: Arc::clone(work), clock, _last: NoMoreAsked(Arc::clone(work)) }
    }

    /// Times one statement that does so many jobs.
    pub fn timed<R>(&mut self, jobs: usize, execute: impl FnOnce(&mut S) -> R) -> R {
        let started = Instant::now();
        let result = self.asked(execute);
        self.work.statement.observe_duration(started.elapsed());
        self.work.batch.observe(jobs as u64, 1);
        result
    }

    /// Asks something that is none of the statements that are counted: a look before one. It is waited for all the same.
    pub fn asked<R>(&mut self, ask: impl FnOnce(&mut S) -> R) -> R {
        while_asking(&self.work, self.clock, || ask(&mut self.session))
    }
}

/// PostgreSQL is asked something: until it has answered, [`Health`] may find that it takes too long. Not for who counts as down
/// already, who would count twice.
pub fn while_asking<R>(work: &Work, clock: Clock, ask: impl FnOnce() -> R) -> R {
    work.asked_ms.store(clock.now_ms().max(1), Ordering::Relaxed);
    let answer = ask();
    work.asked_ms.store(0, Ordering::Relaxed);
    answer
}

/// When a worker has last asked something, for a session that asks several things to answer one question: each is waited for by itself.
#[derive(Clone, Debug)]
pub struct Asked {
    work: Arc<Work>,
    clock: Clock,
}

impl Asked {
    /// Of the worker that this is the work of.
    pub fn of(work: &Arc<Work>, clock: Clock) -> Asked {
        Asked { work: Arc::clone(work), clock }
    }

    /// The next one is asked. Not where nobody counts how long that takes.
    pub fn again(&self) {
        if self.work.asked_ms.load(Ordering::Relaxed) != 0 {
            self.work.asked_ms.store(self.clock.now_ms().max(1), Ordering::Relaxed);
        }
    }
}

impl<S> Deref for Counted<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.session
    }
}

impl<S> DerefMut for Counted<S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.session
    }
}

impl<S> Drop for Counted<S> {
    fn drop(&mut self) {
        self.work.connections.sub(1);
        // Taking leave is waited for as an answer is: of a statement that has ended with its session the `postgres` crate
        // waits for the rest, and where the server stands still just then, that does not come.
        self.work.asked_ms.store(self.clock.now_ms().max(1), Ordering::Relaxed);
    }
}

impl<C> Shared<C> {
    /// The failure of a job that meets no database.
    pub fn down(&self) -> Failure {
        Failure::Down { retry_after_seconds: self.health.retry_after_seconds() }
    }

    /// Logs that a worker has lost its database: once, not at every attempt.
    pub fn report_down(&self, worker: &str, error: &Error) {
        log::error!("a {worker} has no database, trying again until it has: {error}");
    }

    /// Logs that a worker had to open another session, though it was never without a database.
    pub fn report_another(&self, worker: &str) {
        log::info!("a {worker}'s session had ended, and it has another one");
    }

    /// Logs and counts that a worker has a database again.
    pub fn count_reconnect(&self, worker: &str) {
        self.health.count_reconnect();
        log::info!("a {worker} has its database again");
    }
}

/// Says once that statements are refused, and once that they are not any more: a full disk refuses every one of them.
/// One row may be what it refuses, in the midst of others that it takes: the same reason is said once a minute.
#[derive(Debug, Default)]
pub struct Refusals {
    /// The last statement was refused.
    refused: bool,
    /// How many statements were, in all.
    times: u64,
    /// The last reason.
    last: String,
    /// The one that was last said as a warning, and when.
    warned: Option<(String, Instant)>,
    /// That it is refused was said, and nothing yet of the end.
    is_open: bool,
    /// What was said last of a row.
    row: String,
}

/// How long a reason that was said is not said again, when statements are taken in between.
const SAID_LATELY: Duration = Duration::from_secs(60);

impl Refusals {
    /// PostgreSQL has refused what a worker does, for a reason that lies with the server.
    pub fn refused(&mut self, what: &str, message: &str) {
        self.times += 1;
        self.refused = true;
        message.clone_into(&mut self.last);
        let is_known = |(said, at): &(String, Instant)| said == message && at.elapsed() < SAID_LATELY;
        if self.is_open || self.warned.as_ref().is_some_and(is_known) {
            log::debug!("PostgreSQL refuses {what}: {message}");
        } else {
            log::warn!("PostgreSQL refuses {what}: {message}");
            self.warned = Some((message.to_owned(), Instant::now()));
            self.is_open = true;
        }
    }

    /// How many statements were refused for a reason that lies with the server.
    pub fn times(&self) -> u64 {
        self.times
    }

    /// The last such reason.
    pub fn last(&self) -> &str {
        &self.last
    }

    /// A row cannot be read. Whoever wants it asks again, and others are read in between: said once for each cause in turn.
    pub fn row(&mut self, message: &str) {
        let level = if self.row == message { log::Level::Debug } else { log::Level::Warn };
        log::log!(level, "a row cannot be read: {message}");
        message.clone_into(&mut self.row);
    }

    /// It has not refused.
    pub fn done(&mut self, what: &str) {
        if std::mem::take(&mut self.refused) && std::mem::take(&mut self.is_open) {
            log::info!("PostgreSQL takes {what} again");
        }
    }
}

/// With whom it lies that rows are refused one after the other.
#[derive(Debug, Default)]
pub struct Fault {
    refused: usize,
    others_are_not: bool,
}

impl Fault {
    /// So many refusals in a row, with nothing else in between, are the server's, which refuses the next one, too.
    const OF_THE_SERVER: usize = 2;

    /// One was tried by itself, and the server has given a reason of its own to refuse it, or it has not.
    pub fn note(&mut self, was_refused: bool) {
        self.refused += usize::from(was_refused);
        self.others_are_not |= !was_refused;
    }

    /// One was not: whatever others are refused for, it lies with them.
    pub fn is_a_rows(&self) -> bool {
        self.others_are_not
    }

    /// The others need not be tried.
    pub fn is_the_servers(&self) -> bool {
        !self.others_are_not && self.refused >= Fault::OF_THE_SERVER
    }
}

/// Pauses between attempts to connect: doubling up to a bound, half of each by chance, so that workers that lost
/// their database together do not come back together.
#[derive(Debug)]
pub struct Pause {
    bounds_ms: (u64, u64),
    next_ms: u64,
    random: u64,
}

/// The end of a pause.
#[derive(Debug)]
pub struct Until(Instant);

impl Until {
    /// What is left of the pause; `None` when it is over.
    pub fn left(&self) -> Option<Duration> {
        let left = self.0.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }
}

impl Pause {
    /// How often a pausing worker looks up.
    pub const STEP: Duration = Duration::from_millis(20);

    /// Starts at the shortest. `seed` parts the workers from each other.
    pub fn new(bounds_ms: (u64, u64), seed: u64) -> Pause {
        Pause { bounds_ms, next_ms: bounds_ms.0, random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    /// Back to the shortest.
    pub fn reset(&mut self) {
        self.next_ms = self.bounds_ms.0;
    }

    /// The next pause, from now; also what refused clients are told to wait.
    pub fn next(&mut self, health: &Health) -> Until {
        let half = self.next_ms / 2;
        let pause_ms = half + chance(&mut self.random) % (half + 1);
        self.next_ms = (self.next_ms * 2).min(self.bounds_ms.1);
        health.set_retry_after(pause_ms);
        Until(Instant::now() + Duration::from_millis(pause_ms))
    }
}

/// The number behind this one, which is not 0: xorshift64, chance enough where nobody is to be outwitted.
pub fn chance(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::patience::Patience;
    use std::collections::BTreeSet;

    /// Of many seconds, for clients are told seconds.
    #[test]
    fn pauses_double_up_to_a_bound_and_are_parted_by_chance() {
        let health = Health::new(1, 1);
        let mut firsts = BTreeSet::new();
        for seed in 0..64 {
            let mut pause = Pause::new((64_000, 1_000_000), seed);
            for _ in 0..2 {
                for longest in [64, 128, 256, 512, 1_000, 1_000] {
                    let left = pause.next(&health).left().expect("it is no short one");
                    let told = health.retry_after_seconds();
                    assert!((longest / 2..=longest).contains(&told), "{told} of {longest}");
                    assert!(left <= Duration::from_secs(told.into()));
                    if longest == 64 {
                        firsts.insert(told);
                    }
                }
                pause.reset();
            }
        }
        assert!(firsts.len() > 16, "{firsts:?}");
        assert!(Until(Instant::now()).left().is_none());
    }

    #[test]
    fn each_statement_is_waited_for_by_itself() {
        let (work, clock) = (Arc::new(Work::default()), Clock::start());
        let mut patience = Patience::default();
        patience.tells(Asked::of(&work, clock));
        let long_ago = u64::MAX;
        for next in [|patience: &Patience| patience.begin(Duration::from_secs(1)), Patience::again] {
            while_asking(&work, clock, || {
                work.asked_ms.store(long_ago, Ordering::Relaxed);
                next(&patience);
                assert!((1..long_ago).contains(&work.asked_ms.load(Ordering::Relaxed)));
            });
            next(&patience);
            assert_eq!(work.asked_ms.load(Ordering::Relaxed), 0, "nobody waits for it");
        }
    }

    #[test]
    fn a_worker_is_watched_while_it_takes_leave_of_a_session() {
        /// What is to be seen while it goes.
        struct Leaving<'a>(&'a Work);
        impl Drop for Leaving<'_> {
            fn drop(&mut self) {
                assert_ne!(self.0.asked_ms.load(Ordering::Relaxed), 0);
            }
        }
        let work = Arc::new(Work::default());
        drop(Counted::new(Leaving(&work), &work, Clock::start()));
        assert_eq!(work.asked_ms.load(Ordering::Relaxed), 0);
    }
}
