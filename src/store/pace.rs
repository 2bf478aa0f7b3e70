//! How fast a worker gets on, for those who must refuse at once what would wait for too long: a queue that is bounded
//! by its length alone is too long for a slow database, and then every job is taken when its client is about to give up
//! and answered when it has. Owned by [`super::health`], told by the workers, asked by [`super::backend`].

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// What stands in a queue, and how fast that moves. Most of its entries are one row each, and not counted here; others are, for
/// it is the queue's length that is asked about.
#[derive(Debug, Default)]
pub struct Line {
    /// Of rows, whose batches may be full or not.
    pub rows: Pace,
    /// Of what is executed alone: a batch of many keys, a piece of a load, a page.
    pub large: Pace,
    large_waiting: AtomicUsize,
    /// Rows of entries with several, but for the first of each.
    more_rows: AtomicUsize,
}

impl Line {
    /// An entry that is executed alone is about to stand there.
    pub fn large_enters(&self) {
        self.large_waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Such an entry was taken, or there was no room for it.
    pub fn large_leaves(&self) {
        self.large_waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// An entry that stands there has so many rows.
    pub fn rows_enter(&self, rows: usize) {
        self.more_rows.fetch_add(rows.saturating_sub(1), Ordering::Relaxed);
    }

    /// Such an entry was taken.
    pub fn rows_leave(&self, rows: usize) {
        self.more_rows.fetch_sub(rows.saturating_sub(1), Ordering::Relaxed);
    }

    /// How long it takes until so many entries are done.
    pub fn wait(&self, entries: usize) -> Duration {
        let large = self.large_waiting.load(Ordering::Relaxed).min(entries);
        let rows = entries - large + self.more_rows.load(Ordering::Relaxed);
        self.rows.wait(rows).saturating_add(self.large.wait(large))
    }
}

/// The time that a job takes where batches are full, in nanoseconds.
///
/// A batch of `n` jobs that took `d` has a share that every batch has (a commit, a round trip) and one for each job. So a
/// job of a full batch of `m` takes at least `d / m` and at most `d / n`. What was known before is moved into these bounds: a
/// full batch says it exactly, and a lone job does not make a slow disk look slow for all.
#[derive(Debug, Default)]
pub struct Pace(AtomicU64);

impl Pace {
    /// A batch of so many jobs, of the most that could have been in it, took so long.
    pub fn observe(&self, jobs: usize, most: usize, took: Duration) {
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let (least_ns, most_ns) = (took_ns / most.max(1) as u64, took_ns / jobs.max(1) as u64);
        // A load and a store: of two readers that tell it at once, one is lost. The next batch says it again.
        self.0
            .store(self.0.load(Ordering::Relaxed).clamp(least_ns, most_ns.max(least_ns)), Ordering::Relaxed);
    }

    /// How long so many jobs take that stand before another one.
    pub fn wait(&self, jobs: usize) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed).saturating_mul(jobs as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_full_batch_says_it_exactly_and_a_lone_job_only_bounds_it() {
        let pace = Pace::default();
        assert_eq!(pace.wait(1_000), Duration::ZERO);
        // A slow disk: as long for one as for 200.
        pace.observe(1, 200, 20 * MS);
        assert_eq!(pace.wait(1_000), 100 * MS);
        // Slow rows.
        pace.observe(200, 200, 1_000 * MS);
        assert_eq!(pace.wait(1_000), 5_000 * MS);
        pace.observe(1, 200, 6 * MS);
        assert_eq!(pace.wait(1_000), 5_000 * MS);
        // A statement that was stuck is forgotten with the next that is not.
        pace.observe(1, 200, 10_000 * MS);
        assert_eq!(pace.wait(1_000), 50_000 * MS);
        pace.observe(1, 200, MS);
        assert_eq!(pace.wait(1_000), 1_000 * MS);
        pace.observe(100, 200, 2 * MS);
        assert_eq!(pace.wait(1_000), 20 * MS);
    }

    #[test]
    fn what_is_not_one_row_is_not_foreseen_as_one() {
        let line = Line::default();
        line.rows.observe(200, 200, 20 * MS);
        line.large.observe(1, 1, 15 * MS);
        assert_eq!(line.wait(1_000), 100 * MS);
        for _ in 0..300 {
            line.large_enters();
        }
        assert_eq!(line.wait(1_000), 70 * MS + 300 * 15 * MS);
        // The queue is asked before or after, and says another number.
        assert_eq!(line.wait(200), 200 * 15 * MS);
        for _ in 0..300 {
            line.large_leaves();
        }
        line.rows_enter(100);
        line.rows_enter(1);
        assert_eq!(line.wait(1_000), 100 * MS + 99 * MS / 10);
        line.rows_leave(1);
        line.rows_leave(100);
        assert_eq!(line.wait(1_000), 100 * MS);
        // What was stuck in an outage is forgotten with the next, whatever comes in between.
        line.large.observe(1, 1, 900_000 * MS);
        line.large.observe(1, 1, MS);
        line.large_enters();
        assert_eq!(line.wait(1), MS);
    }
}
