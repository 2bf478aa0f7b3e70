//! Every decision about keys: hit, miss, join, fill, forget. No I/O, no clock, no threads of its own; a seeded
//! simulation drives it (`src/simulation.rs`). Called by event loops through [`crate::store`], and by the store's
//! workers with outcomes.

pub mod arena;
pub mod cache;
mod flights;
pub mod ghosts;
pub mod index;
#[cfg(test)]
pub mod planted;
pub mod shard;
mod watchers;

use crate::limits::{LARGEST_VALUES_A_SHARD, SHARD_BYTES, SHARDS, SHARDS_MOST};
use crate::token::Ticket;
use ahash::RandomState;
use parking_lot::{Mutex, MutexGuard};
use shard::Shard;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A value: text, shared by cache, replies and answers.
pub type Value = Arc<str>;

/// The time that does not come, in seconds of the process's clock: a row that never expires has it.
pub const NEVER: u32 = u32::MAX;

/// A row as it was read or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The value.
    pub value: Value,
    /// The transaction that wrote it: the ETag.
    pub version: u32,
    /// When it expires, in seconds of the process's clock, or [`NEVER`]. Rounded down: from then on the database is
    /// asked, and it alone says whether the row is still there.
    pub expires_s: u32,
}

/// What there is of a key: a row, or none.
pub type Row = Option<Record>;

/// The shards, and which key belongs to which.
///
/// A shard is single-threaded code in a `Mutex`. With one loop nobody waits for one but a worker with an outcome; with
/// many, all share one cache and one truth. The mutex is one that becomes fair when somebody waits: a loop that answers
/// hits of one shard without end takes its lock again the moment it has let go, and the standard library's mutex
/// promises nothing to a worker that waits for it meanwhile.
#[derive(Debug)]
pub struct Engine {
    hasher: RandomState,
    shards: Box<[Place]>,
    /// Times that a shard was held by another thread.
    waits: AtomicU64,
}

/// Where a shard is: its lock and the table that a look-up begins with share a line of the processor's cache.
#[derive(Debug)]
#[repr(align(64))]
struct Place(Mutex<Shard>);

/// How many shards there are: a power of two, more for a large cache, and fewer where a shard would hold too few of the
/// largest values.
pub fn shards(cache_bytes: usize, max_value_bytes: usize) -> usize {
    let most = cache_bytes.div_ceil(SHARD_BYTES).clamp(SHARDS, SHARDS_MOST).next_power_of_two();
    match cache_bytes / (max_value_bytes * LARGEST_VALUES_A_SHARD).max(1) {
        0 => 1,
        n => (1 << n.ilog2()).min(most),
    }
}

/// What all shards together hold, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Entries, absent ones included.
    pub entries: usize,
    /// Bytes of keys, values and overhead.
    pub bytes: usize,
    /// Entries pushed out by others: those seen once, those seen again, those absent.
    pub evicted: [u64; 3],
    /// Reads that were answered but not cached, because a write had overtaken them.
    pub late_fills: u64,
    /// Keys with a read or a write in flight.
    pub in_flight: usize,
    /// Keys whose last write may or may not have happened.
    pub in_doubt: usize,
    /// Connections that wait for a key to change.
    pub watchers: usize,
}

impl Engine {
    /// An engine with so many bytes of cache for values up to so many bytes.
    pub fn new(cache_bytes: usize, max_value_bytes: usize) -> Engine {
        Engine::with_hasher(cache_bytes, max_value_bytes, RandomState::new())
    }

    /// The same with a given hasher, for runs that must repeat.
    pub fn with_hasher(cache_bytes: usize, max_value_bytes: usize, hasher: RandomState) -> Engine {
        let count = shards(cache_bytes, max_value_bytes);
        let waiters = Arc::new(AtomicUsize::new(0));
        let shard =
            || Place(Mutex::new(Shard::new(cache_bytes / count, hasher.clone(), Arc::clone(&waiters))));
        Engine { shards: (0..count).map(|_| shard()).collect(), hasher, waits: AtomicU64::new(0) }
    }

    /// The hash of a key: names its shard, its writer, and its place in the tables.
    #[inline]
    pub fn hash(&self, key: &str) -> u64 {
        self.hash_bytes(key.as_bytes())
    }

    /// The same for a key that nobody has needed as text yet.
    #[inline]
    pub fn hash_bytes(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    /// How many shards there are: a power of two.
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// The number of the shard that owns this hash. Takes bits that the hash tables inside do not use.
    pub fn shard_index(&self, hash: u64) -> usize {
        (hash >> 32) as usize & (self.shards.len() - 1)
    }

    /// The shard that owns this hash. Held for a lookup or an outcome, never across I/O.
    pub fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        let Place(shard) = &self.shards[self.shard_index(hash)];
        shard.try_lock().unwrap_or_else(|| self.wait_for(shard))
    }

    /// Counted here, where a thread waits anyhow: a lock that is free costs nobody a count.
    #[cold]
    fn wait_for<'s>(&self, shard: &'s Mutex<Shard>) -> MutexGuard<'s, Shard> {
        self.waits.fetch_add(1, Ordering::Relaxed);
        shard.lock()
    }

    /// Times that a thread has found a shard held by another one.
    pub fn lock_waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// Forgets every row, and what reads and writes under way would leave: the database has another history now. One shard
    /// after the other; who is answered by one meanwhile gets what he would have got before. Returns who waits for a change.
    #[must_use = "they wait to be told"]
    pub fn forget_all(&self) -> Vec<Ticket> {
        let mut watching = Vec::new();
        for Place(shard) in &self.shards {
            let (forgotten, tickets) = shard.lock().forget_all();
            // Not under the lock: to give the memory of many rows back takes longer than a loop should wait.
            drop(forgotten);
            watching.extend(tickets);
        }
        watching
    }

    /// Sums over all shards. O(shards), for scrapes.
    pub fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        for Place(shard) in &self.shards {
            let stats = shard.lock().stats();
            sum.entries += stats.entries;
            sum.bytes += stats.bytes;
            for (sum, evicted) in sum.evicted.iter_mut().zip(stats.evicted) {
                *sum += evicted;
            }
            sum.late_fills += stats.late_fills;
            sum.in_flight += stats.in_flight;
            sum.in_doubt += stats.in_doubt;
            sum.watchers += stats.watchers;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_has_room_for_some_of_the_largest_values() {
        for (cache_bytes, max_value_bytes, count) in [
            (256 << 20, 1 << 20, 64),
            (16 << 20, 1 << 20, 4),
            (1 << 10, 1 << 20, 1),
            (0, 1, 1),
            (1 << 30, 1 << 20, 64),
            (16 << 30, 1 << 20, 256),
            (64 << 30, 1 << 20, 1_024),
            (4 << 30, 1 << 30, 1),
            (1 << 40, 1, 4_096),
        ] {
            assert_eq!(shards(cache_bytes, max_value_bytes), count);
        }
    }

    /// Who chooses keys cannot choose places: the seed is drawn anew in every process, and for every engine in it.
    #[test]
    fn places_of_keys_cannot_be_foreseen() {
        let engines = [Engine::new(1 << 20, 1 << 10), Engine::new(1 << 20, 1 << 10)];
        for key in ["", "a", "a key that is somewhat longer than the others"] {
            assert_ne!(engines[0].hash(key), engines[1].hash(key), "{key:?}");
        }
    }
}
