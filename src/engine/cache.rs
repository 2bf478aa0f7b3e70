//! The cache of one shard: keys to values or to "absent", bounded in bytes, S3-FIFO (Yang et al., "FIFO queues are
//! all you need for cache eviction", SOSP 2023). Knows nothing of databases and requests; the time is an argument.
//! Owned by [`super::shard`].
//!
//! ```text
//!              first seen                       seen again while in `recent`
//!  insert ───────────────► recent (1/32) ────────────────────────► main ──► out, unless hit since
//!     │                        │ not seen again                     ▲  └──┐ hit since: back to the front
//!     │                        ▼                                    └─────┘
//!     │                     ghosts (fingerprints of keys only)
//!     ├── its fingerprint is among the ghosts ────────────────────► main
//!     └── the cache was never full ───────────────────────────────► main
//!
//!  absent keys have a queue of their own, plain FIFO, so that asking for nonsense evicts no value
//! ```
//!
//! A hit changes two bits of its entry and moves nothing. That is why this policy and not LRU: one cache line, and
//! a scan passes through `recent` without touching what is in `main`. How large `recent` is, what leads to `main` and how
//! long ghosts are remembered was chosen by the table of benches/HIT_RATIO.md.

use super::ghosts::Ghosts;
use super::{NEVER, Record};
use crate::http::response::Lent;
use crate::limits::{ABSENT_SHARE, SHARED_VALUE_BYTES};
use ahash::RandomState;
use hashbrown::HashTable;
use std::sync::Arc;

/// What an entry takes besides key and value: itself, its place in the index at the index's usual load, its
/// fingerprint among the ghosts, its times, and the allocator's own header and rounding.
pub const OVERHEAD_BYTES: usize = size_of::<Entry>() + 8 + 2 + TIMES_BYTES + 16;

/// Behind key and value of every entry: when it became known, and when it expires. Seconds of the process's clock.
const TIMES_BYTES: usize = 8;
/// No entry.
const NONE: u32 = u32::MAX;
/// Hits that an entry remembers.
const HITS_MAX: u8 = 3;
/// The share of the bytes that `recent` may keep once there is no room for all: one in this many.
const RECENT_SHARE: usize = 32;

/// A bounded map from keys to values and absences.
///
/// Invariants: `index` has exactly the entries that are in a queue; every queue's `bytes` is the sum of its entries'
/// costs; after every call `recent + main <= capacity` and `absent <= capacity / ABSENT_SHARE`.
#[derive(Debug)]
pub struct Cache {
    hasher: RandomState,
    /// Positions in `entries`, by key.
    index: HashTable<u32>,
    /// Entries in queues, and free ones chained through `next`.
    entries: Vec<Entry>,
    free: u32,
    queues: [Queue; 3],
    /// Keys lately evicted from `recent`.
    ghosts: Ghosts,
    /// Something was evicted for want of room. Before that, what comes in goes to `main`: a key that is asked for in turn
    /// with too many others then has a chance to be there still, where a queue has none.
    was_full: bool,
    capacity_bytes: usize,
    /// Entries pushed out, by the queue that they were in.
    evicted: [u64; 3],
}

/// One key. 32 bytes, two to a cache line.
#[derive(Debug)]
struct Entry {
    payload: Payload,
    version: u32,
    /// Towards the front, where entries come in.
    newer: u32,
    /// Towards the back, where they leave; or the next free entry.
    older: u32,
    key_bytes: u16,
    queue: QueueName,
    hits: u8,
}

#[derive(Debug)]
enum Payload {
    /// Key, value and times behind one another.
    Joined(Box<[u8]>),
    /// A value large enough to be sent from here while the cache goes on.
    Split(Box<Large>),
}

#[derive(Debug)]
struct Large {
    key: Box<str>,
    value: Arc<str>,
    times: Times,
}

/// When an entry became known and when it expires ([`NEVER`]: not at all), in seconds of the process's clock.
#[derive(Clone, Copy, Debug)]
struct Times {
    known_s: u32,
    expires_s: u32,
}

impl Times {
    fn to_bytes(self) -> [u8; TIMES_BYTES] {
        (u64::from(self.known_s) | u64::from(self.expires_s) << 32).to_le_bytes()
    }

    fn from_bytes(bytes: [u8; TIMES_BYTES]) -> Times {
        let both = u64::from_le_bytes(bytes);
        Times { known_s: both as u32, expires_s: (both >> 32) as u32 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QueueName {
    Recent = 0,
    Main = 1,
    Absent = 2,
}

#[derive(Debug)]
struct Queue {
    newest: u32,
    oldest: u32,
    bytes: usize,
}

/// What the cache knows of a key.
#[derive(Debug)]
pub enum Known<'a> {
    /// Its value.
    Value(Held<'a>),
    /// That there is none, for so many seconds.
    Absent {
        /// Seconds since it became known.
        age_s: u32,
    },
}

impl Known<'_> {
    /// Seconds since it became known.
    pub fn age_s(&self) -> u32 {
        match self {
            Known::Value(held) => held.age_s,
            Known::Absent { age_s } => *age_s,
        }
    }
}

/// A value as the cache holds it.
#[derive(Clone, Copy, Debug)]
pub struct Held<'a> {
    /// The value.
    pub value: Lent<'a>,
    /// Its version.
    pub version: u32,
    /// Seconds since it became known.
    pub age_s: u32,
    /// When it expires, in seconds of the process's clock, or [`NEVER`].
    pub expires_s: u32,
}

impl Entry {
    fn key(&self) -> &[u8] {
        match &self.payload {
            Payload::Joined(bytes) => &bytes[..usize::from(self.key_bytes)],
            Payload::Split(large) => large.key.as_bytes(),
        }
    }

    fn times(&self) -> Times {
        match &self.payload {
            Payload::Joined(bytes) => {
                Times::from_bytes(*bytes.last_chunk().expect("every joined payload ends in its times"))
            }
            Payload::Split(large) => large.times,
        }
    }

    fn cost(&self) -> usize {
        OVERHEAD_BYTES
            + match &self.payload {
                // The times are in the overhead.
                Payload::Joined(bytes) => bytes.len() - TIMES_BYTES,
                // The box and the counts of the Arc are small beside such a value, but counted.
                Payload::Split(large) => large.key.len() + large.value.len() + 64,
            }
    }
}

impl Payload {
    fn new(key: &str, value: Option<&Arc<str>>, times: Times) -> Payload {
        match value {
            Some(value) if value.len() >= SHARED_VALUE_BYTES => {
                Payload::Split(Box::new(Large { key: key.into(), value: Arc::clone(value), times }))
            }
            _ => {
                let value = value.map_or(&[][..], |v| v.as_bytes());
                let mut bytes = Vec::with_capacity(key.len() + value.len() + TIMES_BYTES);
                bytes.extend_from_slice(key.as_bytes());
                bytes.extend_from_slice(value);
                bytes.extend_from_slice(&times.to_bytes());
                Payload::Joined(bytes.into_boxed_slice())
            }
        }
    }
}

impl Cache {
    /// An empty cache for so many bytes, overhead included. `hasher` must be the one that makes the `hash` arguments.
    pub fn new(capacity_bytes: usize, hasher: RandomState) -> Cache {
        let queue = || Queue { newest: NONE, oldest: NONE, bytes: 0 };
        Cache {
            hasher,
            index: HashTable::new(),
            entries: Vec::new(),
            free: NONE,
            queues: [queue(), queue(), queue()],
            ghosts: Ghosts::default(),
            was_full: false,
            capacity_bytes,
            evicted: [0; 3],
        }
    }

    /// What is known of `key` at this time; counts as a use of it.
    #[inline(always)]
    pub fn get(&mut self, hash: u64, key: impl AsRef<[u8]>, now_s: u32) -> Option<Known<'_>> {
        let at = self.find(hash, key)?;
        let times = self.entries[at as usize].times();
        if times.expires_s <= now_s {
            self.remove_at(hash, at);
            return None;
        }
        let entry = &mut self.entries[at as usize];
        // Written only if it changes: what is hit all the time stays in the caches of all cores.
        if entry.hits < HITS_MAX {
            entry.hits += 1;
        }
        let value = match &entry.payload {
            Payload::Joined(bytes) => {
                Lent::Bytes(&bytes[usize::from(entry.key_bytes)..bytes.len() - TIMES_BYTES])
            }
            Payload::Split(large) => Lent::Shared(&large.value),
        };
        // A worker's clock may be a second ahead of the time of a loop's turn.
        let age_s = now_s.saturating_sub(times.known_s);
        if entry.queue == QueueName::Absent {
            return Some(Known::Absent { age_s });
        }
        Some(Known::Value(Held { value, version: entry.version, age_s, expires_s: times.expires_s }))
    }

    /// Remembers a row, or that there is none, as it was at this time. What does not fit at all is only forgotten.
    pub fn put(&mut self, hash: u64, key: &str, row: Option<&Record>, known_s: u32) {
        let (value, version) = (row.map(|record| &record.value), row.map_or(0, |record| record.version));
        let times = Times { known_s, expires_s: row.map_or(NEVER, |record| record.expires_s) };
        let known = self.find(hash, key).map(|at| {
            let (queue, hits) = (self.entries[at as usize].queue, self.entries[at as usize].hits);
            self.remove_at(hash, at);
            (queue, hits)
        });
        let (queue, hits) = match (value, known) {
            (None, _) => (QueueName::Absent, 0),
            (Some(_), Some((queue, hits))) if queue != QueueName::Absent => (queue, hits),
            (Some(_), _) if self.ghosts.take(hash) || self.has_room_in_main() => (QueueName::Main, 0),
            (Some(_), _) => (QueueName::Recent, 0),
        };
        let key_bytes = key.len() as u16;
        let payload = Payload::new(key, value, times);
        let entry = Entry { payload, version, newer: NONE, older: NONE, key_bytes, queue, hits };
        let cost = entry.cost();
        if cost > self.limit_of(queue) {
            return;
        }
        while self.queues[QueueName::Absent as usize].bytes + cost > self.limit_of(queue)
            && queue == QueueName::Absent
        {
            self.drop_oldest(QueueName::Absent);
        }
        while queue != QueueName::Absent && self.value_bytes() + cost > self.capacity_bytes {
            self.evict_one();
        }
        let at = self.place(entry);
        self.push_newest(at);
        let Cache { index, entries, hasher, .. } = self;
        index.insert_unique(hash, at, |at| hasher.hash_one(entries[*at as usize].key()));
    }

    /// Forgets what is known of `key`.
    pub fn forget(&mut self, hash: u64, key: &str) {
        if let Some(at) = self.find(hash, key) {
            self.remove_at(hash, at);
        }
    }

    /// Entries, absent ones included.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// True when nothing is known of any key.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Bytes in use: keys, values and overhead.
    pub fn bytes(&self) -> usize {
        self.value_bytes() + self.queues[QueueName::Absent as usize].bytes
    }

    /// Entries pushed out by others so far: of those seen once, those seen again, those absent.
    pub fn evicted(&self) -> [u64; 3] {
        self.evicted
    }

    fn value_bytes(&self) -> usize {
        self.queues[QueueName::Recent as usize].bytes + self.queues[QueueName::Main as usize].bytes
    }

    fn limit_of(&self, queue: QueueName) -> usize {
        match queue {
            QueueName::Absent => self.capacity_bytes / ABSENT_SHARE,
            QueueName::Recent | QueueName::Main => self.capacity_bytes,
        }
    }

    #[inline]
    fn find(&self, hash: u64, key: impl AsRef<[u8]>) -> Option<u32> {
        let key = key.as_ref();
        self.index.find(hash, |at| self.entries[*at as usize].key() == key).copied()
    }

    fn has_room_in_main(&self) -> bool {
        let main = &self.queues[QueueName::Main as usize];
        !self.was_full && main.bytes < self.capacity_bytes - self.capacity_bytes / RECENT_SHARE
    }

    /// Makes room. Every turn of the loop either evicts, or takes a hit from an entry: it ends.
    fn evict_one(&mut self) {
        let (recent, main) = (&self.queues[0], &self.queues[1]);
        self.was_full = true;
        if recent.oldest != NONE && (recent.bytes > self.capacity_bytes / RECENT_SHARE || main.oldest == NONE)
        {
            let at = recent.oldest;
            if self.entries[at as usize].hits > 0 {
                self.unlink(at);
                let entry = &mut self.entries[at as usize];
                (entry.queue, entry.hits) = (QueueName::Main, 0);
                self.push_newest(at);
            } else {
                let hash = self.hasher.hash_one(self.entries[at as usize].key());
                self.ghosts.put(hash, self.entries.len());
                self.drop_oldest(QueueName::Recent);
            }
        } else {
            let at = main.oldest;
            if self.entries[at as usize].hits > 0 {
                self.unlink(at);
                self.entries[at as usize].hits -= 1;
                self.push_newest(at);
            } else {
                self.drop_oldest(QueueName::Main);
            }
        }
    }

    fn drop_oldest(&mut self, queue: QueueName) {
        let at = self.queues[queue as usize].oldest;
        let hash = self.hasher.hash_one(self.entries[at as usize].key());
        self.remove_at(hash, at);
        self.evicted[queue as usize] += 1;
    }

    fn remove_at(&mut self, hash: u64, at: u32) {
        let place =
            self.index.find_entry(hash, |other| *other == at).expect("an entry in a queue is in the index");
        place.remove();
        self.unlink(at);
        let entry = &mut self.entries[at as usize];
        entry.payload = Payload::Joined(Box::default());
        entry.older = self.free;
        self.free = at;
    }

    fn place(&mut self, entry: Entry) -> u32 {
        if self.free != NONE {
            let at = self.free;
            self.free = self.entries[at as usize].older;
            self.entries[at as usize] = entry;
            return at;
        }
        // By an eighth rather than by doubling: half-empty tables of a full cache would be memory for nothing.
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(self.entries.len() / 8 + 16);
        }
        let at = u32::try_from(self.entries.len()).expect("a shard's bytes bound its entries far below 2^32");
        self.entries.push(entry);
        at
    }

    fn push_newest(&mut self, at: u32) {
        let entry = &mut self.entries[at as usize];
        let queue = &mut self.queues[entry.queue as usize];
        queue.bytes += entry.cost();
        (entry.newer, entry.older) = (NONE, queue.newest);
        match queue.newest {
            NONE => queue.oldest = at,
            newest => self.entries[newest as usize].newer = at,
        }
        queue.newest = at;
    }

    fn unlink(&mut self, at: u32) {
        let entry = &self.entries[at as usize];
        let (newer, older) = (entry.newer, entry.older);
        let queue = &mut self.queues[entry.queue as usize];
        queue.bytes -= entry.cost();
        match newer {
            NONE => queue.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
        match older {
            NONE => queue.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn cache(bytes: usize) -> (Cache, RandomState) {
        let hasher = RandomState::with_seeds(1, 2, 3, 4);
        (Cache::new(bytes, hasher.clone()), hasher)
    }

    fn text(known: Option<Known<'_>>) -> Option<Option<(String, u32)>> {
        known.map(|known| match known {
            Known::Absent { .. } => None,
            Known::Value(Held { value: Lent::Bytes(bytes), version, .. }) => {
                Some((String::from_utf8(bytes.to_vec()).unwrap(), version))
            }
            Known::Value(Held { value: Lent::Shared(value), version, .. }) => {
                Some((value.to_string(), version))
            }
        })
    }

    fn record(value: &str, version: u32) -> Record {
        Record { value: value.into(), version, expires_s: NEVER }
    }

    #[test]
    fn an_entry_is_half_a_cache_line() {
        assert_eq!(size_of::<Entry>(), 32);
    }

    #[test]
    fn a_scan_does_not_evict_what_is_used() {
        let (mut cache, hasher) = cache(100 * (OVERHEAD_BYTES + 10));
        let value = record("value", 1);
        let put =
            |cache: &mut Cache, key: &str| cache.put(hasher.hash_one(key.as_bytes()), key, Some(&value), 0);
        let hash = |key: &str| RandomState::with_seeds(1, 2, 3, 4).hash_one(key.as_bytes());
        for i in 0..50 {
            put(&mut cache, &format!("h{i:03}"));
            for _ in 0..3 {
                cache.get(hash(&format!("h{i:03}")), format!("h{i:03}"), 0);
            }
        }
        for i in 0..10_000 {
            put(&mut cache, &format!("{i:05}"));
        }
        let kept =
            (0..50).filter(|i| cache.get(hash(&format!("h{i:03}")), format!("h{i:03}"), 0).is_some()).count();
        assert_eq!(kept, 50);
    }

    #[test]
    fn absent_keys_take_no_more_than_their_share() {
        let (mut cache, hasher) = cache(80_000);
        cache.put(hasher.hash_one("kept".as_bytes()), "kept", Some(&record("value", 1)), 0);
        for i in 0..10_000 {
            let key = i.to_string();
            cache.put(hasher.hash_one(key.as_bytes()), &key, None, 0);
        }
        assert!(cache.bytes() <= 10_000 + OVERHEAD_BYTES + 10);
        assert!(cache.get(hasher.hash_one("kept".as_bytes()), "kept", 0).is_some());
        assert!(matches!(
            cache.get(hasher.hash_one("9999".as_bytes()), "9999", 0),
            Some(Known::Absent { .. })
        ));
    }

    #[test]
    fn an_entry_is_as_old_as_it_is_and_is_gone_when_it_expires() {
        let (mut cache, hasher) = cache(100_000);
        for size in [1, SHARED_VALUE_BYTES] {
            let hash = hasher.hash_one("k".as_bytes());
            let expiring = Record { expires_s: 20, ..record(&"v".repeat(size), 7) };
            cache.put(hash, "k", Some(&expiring), 10);
            let Some(Known::Value(held)) = cache.get(hash, "k", 19) else { panic!("not expired yet") };
            assert_eq!((held.value.len(), held.version, held.age_s, held.expires_s), (size, 7, 9, 20));
            assert!(cache.get(hash, "k", 20).is_none());
            assert!(cache.is_empty() && cache.bytes() == 0);
        }
        let hash = hasher.hash_one("absent".as_bytes());
        cache.put(hash, "absent", None, 10);
        assert!(matches!(cache.get(hash, "absent", 15), Some(Known::Absent { age_s: 5 })));
        assert!(matches!(cache.get(hash, "absent", 9), Some(Known::Absent { age_s: 0 })));
    }

    proptest! {
        /// Against a plain map: the cache may know less, but never something else, and never more than its bytes.
        #[test]
        fn it_never_says_anything_that_was_not_put_last(
            operations in prop::collection::vec((0u8..4, 0u8..40, 0usize..3), 1..400),
            capacity in 0usize..6_000,
        ) {
            let (mut cache, hasher) = cache(capacity);
            let mut model: HashMap<String, Option<(String, u32)>> = HashMap::new();
            for (version, (operation, key, size)) in operations.into_iter().enumerate() {
                let key = format!("key {key}");
                let hash = hasher.hash_one(key.as_bytes());
                let version = version as u32;
                match operation {
                    0 => {
                        let value = format!("{version}").repeat([1, 50, SHARED_VALUE_BYTES][size]);
                        cache.put(hash, &key, Some(&record(&value, version)), 0);
                        model.insert(key, Some((value, version)));
                    }
                    1 => {
                        cache.put(hash, &key, None, 0);
                        model.insert(key, None);
                    }
                    2 => {
                        cache.forget(hash, &key);
                        model.remove(&key);
                    }
                    _ => {
                        if let Some(known) = text(cache.get(hash, &key, 0)) {
                            prop_assert_eq!(Some(&known), model.get(&key));
                        }
                    }
                }
                prop_assert!(cache.bytes() <= capacity + capacity / ABSENT_SHARE);
                let sum: usize = cache.index.iter().map(|at| cache.entries[*at as usize].cost()).sum();
                prop_assert_eq!(cache.bytes(), sum);
            }
        }
    }
}
