//! How fast a worker gets on, for those who must refuse at once what would wait for too long: a queue that is bounded
//! by its length alone is too long for a slow database, and then every job is taken when its client is about to give up
//! and answered when it has. Owned by [`super::health`], told by the workers, asked by [`super::backend`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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
        let (least, most) = (took_ns / most.max(1) as u64, took_ns / jobs.max(1) as u64);
        // One worker writes it, or several that take turns: what one of them has seen is as good as the other's.
        self.0.store(self.0.load(Ordering::Relaxed).clamp(least, most.max(least)), Ordering::Relaxed);
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
}
