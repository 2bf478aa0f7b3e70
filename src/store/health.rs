//! Which workers have a database, and how fast it is, for those who must refuse at once when there is none. Written by the workers, read
//! by [`super::backend`] on every miss and write and by the admin socket.

use super::pace::Line;
use crate::clock::Clock;
use crate::metrics::{Work, Workers};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// The state of all workers. A worker counts as up until it has failed to connect.
#[derive(Debug)]
pub struct Health {
    readers: usize,
    readers_down: AtomicUsize,
    writers_down: Box<[AtomicBool]>,
    retry_after_seconds: AtomicU32,
    reconnects: AtomicU64,
    /// The readers' queue, and how fast each reader gets on.
    pub reads: Line,
    /// Each writer's.
    pub writes: Box<[Line]>,
    longest_wait: Duration,
    answer_limit: Option<AnswerLimit>,
    unanswered: AtomicBool,
}

/// How long a worker may wait for an answer of PostgreSQL before it counts as one without a database.
#[derive(Debug)]
pub struct AnswerLimit {
    /// What they wait for.
    pub workers: Arc<Workers>,
    /// The clock by which they do.
    pub clock: Clock,
    /// How long. PostgreSQL itself ends a statement before that: who passes it is frozen, or cannot be reached.
    pub limit_ms: u64,
}

impl AnswerLimit {
    fn is_over(&self, work: &Work) -> bool {
        let asked_ms = work.asked_ms.load(Ordering::Relaxed);
        asked_ms != 0 && self.clock.now_ms() > asked_ms + self.limit_ms
    }
}

impl Health {
    /// All are up.
    pub fn new(readers: usize, writers: usize) -> Health {
        Health {
            readers,
            readers_down: AtomicUsize::new(0),
            writers_down: (0..writers).map(|_| AtomicBool::new(false)).collect(),
            retry_after_seconds: AtomicU32::new(1),
            reconnects: AtomicU64::new(0),
            reads: Line::default(),
            writes: (0..writers).map(|_| Line::default()).collect(),
            longest_wait: Duration::MAX,
            answer_limit: None,
            unanswered: AtomicBool::new(false),
        }
    }

    /// The same, where a job may wait in its queue for so long and no longer.
    pub fn with_longest_wait(self, longest_wait: Duration) -> Health {
        Health { longest_wait, ..self }
    }

    /// The same, where a worker that waits for an answer for too long is as good as one without a database.
    pub fn with_answer_limit(self, limit: AnswerLimit) -> Health {
        Health { answer_limit: Some(limit), ..self }
    }

    /// A miss behind so many others would wait for too long.
    pub fn reads_too_slow(&self, queued: usize) -> bool {
        self.reads.wait(queued) / self.readers as u32 > self.longest_wait
    }

    /// A write behind so many others of this writer would wait for too long.
    pub fn writes_too_slow(&self, writer: usize, queued: usize) -> bool {
        self.writes[writer].wait(queued) > self.longest_wait
    }

    /// No reader has a database that answers.
    pub fn reads_down(&self) -> bool {
        self.readers_down.load(Ordering::Relaxed) + self.unanswered_of(|workers| &workers.readers)
            >= self.readers
    }

    /// This writer has no database that answers.
    pub fn writes_down(&self, writer: usize) -> bool {
        self.writers_down[writer].load(Ordering::Relaxed)
            || self.unanswered_of(|workers| &workers.writers[writer..=writer]) > 0
    }

    /// Something cannot be served but from memory.
    pub fn any_down(&self) -> bool {
        self.outage().is_some()
    }

    /// The same, with how many readers and writers have no database that answers.
    pub fn outage(&self) -> Option<[usize; 2]> {
        let [readers, writers] = self.down();
        (readers >= self.readers || writers > 0).then_some([readers, writers])
    }

    fn down(&self) -> [usize; 2] {
        let readers = self.readers_down.load(Ordering::Relaxed);
        let writers = (0..self.writers_down.len()).filter(|writer| self.writes_down(*writer)).count();
        [readers + self.unanswered_of(|workers| &workers.readers), writers]
    }

    /// How many of these workers have waited for an answer for too long. Says in the log when that begins, and when it is over.
    fn unanswered_of(&self, of: impl Fn(&Workers) -> &[Arc<Work>]) -> usize {
        let Some(limit) = &self.answer_limit else { return 0 };
        let count = |works: &[Arc<Work>]| works.iter().filter(|work| limit.is_over(work)).count();
        let found = count(of(&limit.workers));
        if found > 0 && !self.unanswered.swap(true, Ordering::Relaxed) {
            let seconds = limit.limit_ms / 1_000;
            log::error!(
                "PostgreSQL has not answered a statement for {seconds} s: what needs it is refused until it does"
            );
        } else if found == 0 && self.unanswered.load(Ordering::Relaxed) {
            let all = count(&limit.workers.readers) + count(&limit.workers.writers);
            if all == 0 && self.unanswered.swap(false, Ordering::Relaxed) {
                log::info!("PostgreSQL answers again");
            }
        }
        found
    }

    /// A reader lost its database, or has one again.
    pub fn set_reader(&self, down: bool) {
        if down {
            self.readers_down.fetch_add(1, Ordering::Relaxed);
        } else {
            self.readers_down.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A writer lost its database, or has one again.
    pub fn set_writer(&self, writer: usize, down: bool) {
        self.writers_down[writer].store(down, Ordering::Relaxed);
    }

    /// Seconds after which the next attempt to connect has had its chance: never less than one.
    pub fn retry_after_seconds(&self) -> u32 {
        self.retry_after_seconds.load(Ordering::Relaxed)
    }

    /// The next attempt comes after so long.
    pub fn set_retry_after(&self, pause_ms: u64) {
        let seconds = u32::try_from(pause_ms.div_ceil(1_000)).unwrap_or(u32::MAX).max(1);
        self.retry_after_seconds.store(seconds, Ordering::Relaxed);
    }

    /// A worker has connected again.
    pub fn count_reconnect(&self) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
    }

    /// How often workers have connected again.
    pub fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_wait_for_too_long_is_known_before() {
        let second = Duration::from_secs(1);
        let health = Health::new(2, 2).with_longest_wait(second);
        for too_slow in [health.reads_too_slow(1_000_000), health.writes_too_slow(1, 1_000_000)] {
            assert!(!too_slow, "nothing is known yet");
        }
        health.reads.rows.observe(100, 100, second);
        health.writes[1].rows.observe(100, 100, second);
        assert!(!health.reads_too_slow(200) && health.reads_too_slow(202), "two readers take from one queue");
        assert!(!health.writes_too_slow(1, 100) && health.writes_too_slow(1, 101));
        assert!(!health.writes_too_slow(0, 1_000_000), "each writer has a pace of its own");
        assert!(!health.writes_too_slow(1, 0));
        assert!(!Health::new(1, 1).writes_too_slow(0, 1_000_000));
    }

    #[test]
    fn reads_are_down_when_no_reader_has_a_database_whatever_the_writers_have() {
        let health = Health::new(2, 1);
        let found =
            |health: &Health| (health.reads_down(), health.writes_down(0), health.any_down(), health.down());
        assert_eq!(found(&health), (false, false, false, [0, 0]));
        health.set_writer(0, true);
        assert_eq!(found(&health), (false, true, true, [0, 1]));
        health.set_reader(true);
        assert_eq!(found(&health), (false, true, true, [1, 1]));
        health.set_writer(0, false);
        health.set_reader(true);
        assert_eq!(found(&health), (true, false, true, [2, 0]));
        health.set_reader(false);
        assert_eq!(found(&health), (false, false, false, [1, 0]));
    }
}
