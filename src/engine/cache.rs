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
//! A hit changes two bits of its record and moves nothing. That is why this policy and not LRU: one cache line, and
//! a scan passes through `recent` without touching what is in `main`. How large `recent` is, what leads to `main` and how
//! long ghosts are remembered was chosen by the table of benches/HIT_RATIO.md.

use super::arena::{self, Arena, CHUNK_BYTES, Header, Log, Position};
use super::ghosts::Ghosts;
use super::index::Index;
use super::{NEVER, Record};
use crate::http::response::Lent;
use crate::limits::{ABSENT_SHARE, KEY_BYTES, SHARED_VALUE_BYTES};
use ahash::RandomState;
use slab::Slab;
use std::sync::Arc;

/// What an entry takes besides its record: its place in the index at the index's usual load, and its fingerprint among the
/// ghosts. The worst is more than twice as much: [`most_bytes`].
const INDEX_BYTES: usize = 8 + 2;
/// The longest record.
const LONGEST_BYTES: usize = arena::record_bytes(KEY_BYTES, SHARED_VALUE_BYTES - 1);
/// Its queues.
const QUEUES: usize = 3;
/// What a value that is shared takes besides: its counts, its place, and what the allocator adds.
const SHARED_BYTES: usize = 64;
/// The place of such a value, and no less: it is a reference, or the number of the next one that is free.
const SHARED_PLACE_BYTES: usize = size_of::<Arc<str>>() + size_of::<usize>();
/// Hits that an entry remembers.
const HITS_MAX: u8 = 3;
/// The share of the bytes that `recent` may keep once there is no room for all: one in this many.
const RECENT_SHARE: usize = 32;
/// What is over may take this share of what is not, and a chunk: one in so many. Past that, room is made of it. A larger share
/// would waste memory; with a smaller one, more of what is not over would be moved for it.
const OVER_SHARE: usize = 8;

/// The most memory that a cache of this capacity comes to have, whatever it is given.
///
/// It counts what its entries take as a rule (`INDEX_BYTES`), and the worst is more: the index, the ghosts and the places of shared
/// values never shrink, so that those of the shortest rows are there still when the longest have replaced them; and the longest
/// leave the ends of chunks empty. Counting the real tables instead would push out thousands of entries whenever one of them doubles.
pub const fn most_bytes(capacity_bytes: usize) -> usize {
    let counted_bytes = capacity_bytes + capacity_bytes / ABSENT_SHARE;
    let entries = counted_bytes / (arena::record_bytes(1, 0) + INDEX_BYTES);
    let ends_bytes = counted_bytes * LONGEST_BYTES / (CHUNK_BYTES - LONGEST_BYTES);
    let tables_bytes = Index::most_bytes(entries) + Ghosts::most_bytes(entries);
    counted_bytes
        + ends_bytes
        + tables_bytes
        + shared_places_bytes(capacity_bytes)
        + arena::beside_bytes(QUEUES)
}

/// What the places of shared values come to take: twice as many as there may be values, for there are twice as many as before
/// whenever one is missing, and at least four. The smaller half is there still while it is copied.
const fn shared_places_bytes(capacity_bytes: usize) -> usize {
    let most = capacity_bytes / (SHARED_VALUE_BYTES + SHARED_BYTES) + 2;
    3 * most * SHARED_PLACE_BYTES
}

/// Bytes of records that one call moves at most, and the record that passes it, so that no loop waits for a shard for longer than it
/// takes anyhow. What was used is pushed out all the same then, and what is over stays for the next call.
///
/// This bounds moving only. A call takes longer where a large value comes in among small ones, and pushes out as many of them as it
/// needs the room of: 1 MiB 7,000 rows of 100 bytes, in 1 to 2 ms; and where the index has a new table made, or an old one given
/// back: 0.3 ms where 29,000 such rows are in it, 0.6 ms where there are 400,000.
const MOVED_BYTES: usize = 64 << 10;
/// So many bytes of records that are over count as one that is moved: they are only let go. Thousands may lie in a row, whose time
/// has passed while nothing was put in.
const OVER_TO_MOVED: usize = 8;

/// A bounded map from keys to values and absences.
///
/// Invariants: `index` has exactly the records that are not over; every queue's counts are the sums of its records; after
/// every call `recent + main <= capacity` and `absent <= capacity / ABSENT_SHARE`, records that are over included.
///
/// What every look-up needs comes first, and lies together.
#[derive(Debug)]
#[repr(C)]
pub struct Cache {
    /// Records in `arena`.
    index: Index,
    arena: Arena,
    hasher: RandomState,
    /// Values large enough to be sent from here while the cache goes on: their records have their numbers.
    shared: Slab<Arc<str>>,
    queues: [Queue; QUEUES],
    /// Keys lately evicted from `recent`.
    ghosts: Ghosts,
    /// Something was evicted for want of room. Before that, what comes in goes to `main`: a key that is asked for in turn
    /// with too many others then has a chance to be there still, where a queue has none.
    was_full: bool,
    capacity_bytes: usize,
    /// Entries pushed out, by the queue that they were in.
    evicted: [u64; QUEUES],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QueueName {
    Recent = 0,
    Main = 1,
    Absent = 2,
}

/// Records from the oldest, which leaves, to the newest, and how much there is of them.
#[derive(Debug, Default)]
struct Queue {
    log: Log,
    /// Of records that are not over.
    live_bytes: usize,
    /// Of records that are over, and not the oldest yet.
    over_bytes: usize,
    /// What entries take besides their records.
    other_bytes: usize,
}

impl Queue {
    fn bytes(&self) -> usize {
        self.live_bytes + self.over_bytes + self.other_bytes
    }

    /// Nothing of it is of use any more: gives its chunks back.
    fn clear_if_over(&mut self, arena: &mut Arena) {
        if self.live_bytes == 0 {
            self.over_bytes = 0;
            arena.clear(&mut self.log);
        }
    }
}

/// What the policy notes on a record, in a byte.
///
/// ```text
///  1 | over | shared | 0 | queue, 2 bits | hits, 2 bits        a tag is never 0
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag(u8);

impl Tag {
    const OVER: u8 = 1 << 6;
    const SHARED: u8 = 1 << 5;

    fn new(queue: QueueName, hits: u8, is_shared: bool) -> Tag {
        Tag(1 << 7 | if is_shared { Tag::SHARED } else { 0 } | (queue as u8) << 2 | hits)
    }

    fn hits(self) -> u8 {
        self.0 & HITS_MAX
    }

    fn queue(self) -> QueueName {
        match self.0 >> 2 & 3 {
            0 => QueueName::Recent,
            1 => QueueName::Main,
            _ => QueueName::Absent,
        }
    }

    fn is_shared(self) -> bool {
        self.0 & Tag::SHARED != 0
    }

    fn is_over(self) -> bool {
        self.0 & Tag::OVER != 0
    }
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

impl Cache {
    /// An empty cache for so many bytes, overhead included. `hasher` must be the one that makes the `hash` arguments.
    pub fn new(capacity_bytes: usize, hasher: RandomState) -> Cache {
        let capacity_bytes = capacity_bytes.min(arena::MOST_BYTES / (ABSENT_SHARE + 1) * ABSENT_SHARE);
        Cache {
            hasher,
            index: Index::default(),
            arena: Arena::default(),
            shared: Slab::new(),
            queues: Default::default(),
            ghosts: Ghosts::default(),
            was_full: false,
            capacity_bytes,
            evicted: [0; QUEUES],
        }
    }

    /// What is known of `key` at this time; counts as a use of it.
    #[inline]
    pub fn get(&mut self, hash: u64, key: impl AsRef<[u8]>, now_s: u32) -> Option<Known<'_>> {
        let Cache { index, arena, hasher, .. } = self;
        // So that it ends where nothing is put in any more.
        index.go_on(|at| hasher.hash_one(arena.key(at)));
        let at = self.find(hash, key)?;
        self.tell(hash, at, now_s)
    }

    /// The same, but it looks into the current table of the index alone: while that grows, [`Cache::get`] may find what this does not.
    #[inline(always)]
    pub fn glance(&mut self, hash: u64, key: &[u8], now_s: u32) -> Option<Known<'_>> {
        let at = self.index.find_current(hash, |at| self.arena.has_key(at, key))?;
        self.tell(hash, at, now_s)
    }

    /// What a record says, which is a use of it; one past its time is taken out.
    #[inline(always)]
    fn tell(&mut self, hash: u64, at: Position, now_s: u32) -> Option<Known<'_>> {
        let header = self.arena.header(at);
        if header.expires_s <= now_s {
            self.expire(hash, at);
            return None;
        }
        let tag = Tag(header.tag);
        // The count is the tag's lowest bits, and below its most: one more stays in them. Written only if it changes: what is hit all the time stays in the caches of all cores.
        if tag.hits() < HITS_MAX {
            self.arena.set_tag(at, header.tag + 1);
        }
        // A worker may have put it in after the time of this turn was read.
        let age_s = now_s.saturating_sub(header.known_s);
        if tag.queue() == QueueName::Absent {
            return Some(Known::Absent { age_s });
        }
        let bytes = self.arena.value(at, &header);
        let value =
            if tag.is_shared() { Lent::Shared(&self.shared[number(bytes)]) } else { Lent::Bytes(bytes) };
        Some(Known::Value(Held { value, version: header.version, age_s, expires_s: header.expires_s }))
    }

    /// Remembers a row, or that there is none, as it was at this time. What does not fit at all is only forgotten.
    pub fn put(&mut self, hash: u64, key: &str, row: Option<&Record>, known_s: u32) {
        let value = row.map(|record| &record.value);
        let shared = value.filter(|value| value.len() >= SHARED_VALUE_BYTES);
        let known = self.find(hash, key).map(|at| (at, Tag(self.arena.header(at).tag)));
        let (queue, hits) = match (value, known) {
            (None, _) => (QueueName::Absent, 0),
            (Some(_), Some((_, tag))) if tag.queue() != QueueName::Absent => (tag.queue(), tag.hits()),
            (Some(_), _) if self.ghosts.take(hash) || self.has_room_in_main() => (QueueName::Main, 0),
            (Some(_), _) => (QueueName::Recent, 0),
        };
        let value_bytes = if shared.is_some() { NUMBER_BYTES } else { value.map_or(0, |value| value.len()) };
        let header = Header {
            known_s,
            expires_s: row.map_or(NEVER, |record| record.expires_s),
            version: row.map_or(0, |record| record.version),
            key_bytes: key.len() as u16,
            value_bytes: value_bytes as u16,
            tag: Tag::new(queue, hits, shared.is_some()).0,
        };
        let kept = value.map_or(&[][..], |value| value.as_bytes());
        if let Some((at, tag)) = known {
            // Most values are as long as the ones before them.
            if tag == Tag(header.tag)
                && shared.is_none()
                && self.arena.header(at).record_bytes() == header.record_bytes()
            {
                return self.arena.overwrite(at, &header, kept);
            }
            self.remove(hash, at);
        }
        let mut moved_bytes = 0;
        let other_bytes = INDEX_BYTES + shared.map_or(0, |value| value.len() + SHARED_BYTES);
        let cost = header.record_bytes() + other_bytes;
        if cost > self.limit_of(queue) {
            return self.tidy(moved_bytes);
        }
        if queue == QueueName::Absent {
            while self.queues[queue as usize].bytes() + cost > self.limit_of(queue) {
                self.drop_oldest(queue);
            }
        } else {
            while self.value_bytes() + cost > self.capacity_bytes {
                moved_bytes += self.evict_one(moved_bytes < MOVED_BYTES);
            }
        }
        let Cache { index, arena, hasher, queues, .. } = self;
        let to = &mut queues[queue as usize];
        let at = match shared {
            None => arena.append(&mut to.log, &header, key.as_bytes(), kept),
            Some(value) => {
                let number = self.shared.insert(Arc::clone(value)) as u32;
                arena.append(&mut to.log, &header, key.as_bytes(), &number.to_le_bytes())
            }
        };
        to.live_bytes += header.record_bytes();
        to.other_bytes += other_bytes;
        index.insert(hash, at, |at| hasher.hash_one(arena.key(at)));
        self.tidy(moved_bytes);
    }

    /// Forgets what is known of `key`.
    pub fn forget(&mut self, hash: u64, key: &str) {
        if let Some(at) = self.find(hash, key) {
            self.remove(hash, at);
            self.tidy(0);
        }
    }

    /// Forgets what is known of `key` unless it is the row of this version, or with `None` that there is none. No use of it.
    pub fn forget_unless(&mut self, hash: u64, key: &str, version: Option<u32>) {
        if self.version(hash, key).is_some_and(|known| known != version) {
            self.forget(hash, key);
        }
    }

    /// The version of the row that is known of `key`, `Some(None)` where there is known to be none. No use of it.
    pub fn version(&self, hash: u64, key: &str) -> Option<Option<u32>> {
        let header = self.arena.header(self.find(hash, key)?);
        Some((Tag(header.tag).queue() != QueueName::Absent).then_some(header.version))
    }

    /// Forgets everything. What it was is given back: to drop it takes a while, which nobody need wait for.
    #[must_use = "it is to be dropped where nobody waits"]
    pub fn forget_all(&mut self) -> Cache {
        let empty = Cache { evicted: self.evicted, ..Cache::new(self.capacity_bytes, self.hasher.clone()) };
        std::mem::replace(self, empty)
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
        self.value_bytes() + self.queues[QueueName::Absent as usize].bytes()
    }

    /// Entries pushed out by others so far: of those seen once, those seen again, those absent.
    pub fn evicted(&self) -> [u64; QUEUES] {
        self.evicted
    }

    fn value_bytes(&self) -> usize {
        self.queues[QueueName::Recent as usize].bytes() + self.queues[QueueName::Main as usize].bytes()
    }

    fn limit_of(&self, queue: QueueName) -> usize {
        match queue {
            QueueName::Absent => self.capacity_bytes / ABSENT_SHARE,
            QueueName::Recent | QueueName::Main => self.capacity_bytes,
        }
    }

    #[inline]
    fn find(&self, hash: u64, key: impl AsRef<[u8]>) -> Option<Position> {
        let key = key.as_ref();
        self.index.find(hash, |at| self.arena.has_key(at, key))
    }

    fn has_room_in_main(&self) -> bool {
        let main = self.queues[QueueName::Main as usize].bytes();
        !self.was_full && main < self.capacity_bytes - self.capacity_bytes / RECENT_SHARE
    }

    /// Makes room: takes a record out, or if it may spare what was used, moves one with a hit less. Returns the bytes moved: for
    /// each of them there was a hit, and so it ends.
    fn evict_one(&mut self, may_spare: bool) -> usize {
        self.was_full = true;
        let [recent, main, _] = &self.queues;
        let oldest = |queue: &Queue| {
            let at = self.arena.oldest(&queue.log)?;
            Some((at, Tag(self.arena.header(at).tag)))
        };
        let (from, at, tag) = match (oldest(recent), oldest(main)) {
            (Some((at, tag)), None) => (QueueName::Recent, at, tag),
            (Some((at, tag)), _) if recent.bytes() > self.capacity_bytes / RECENT_SHARE => {
                (QueueName::Recent, at, tag)
            }
            (_, Some((at, tag))) => (QueueName::Main, at, tag),
            (None, None) => return 0,
        };
        if may_spare && !tag.is_over() && tag.hits() > 0 {
            let hits = if from == QueueName::Main { tag.hits() - 1 } else { 0 };
            return self.move_oldest(from, Tag::new(QueueName::Main, hits, tag.is_shared()));
        }
        if from == QueueName::Recent && !tag.is_over() {
            let hash = self.hasher.hash_one(self.arena.key(at));
            self.ghosts.put(hash, self.index.len());
        }
        self.drop_oldest(from);
        0
    }

    /// Takes out the oldest record of a queue: over, or pushed out now.
    fn drop_oldest(&mut self, queue: QueueName) {
        let Some(at) = self.arena.oldest(&self.queues[queue as usize].log) else { return };
        let header = self.arena.header(at);
        if Tag(header.tag).is_over() {
            self.queues[queue as usize].over_bytes -= header.record_bytes();
        } else {
            let hash = self.hasher.hash_one(self.arena.key(at));
            self.unlink(hash, at);
            self.evicted[queue as usize] += 1;
        }
        self.leave(queue);
    }

    /// Moves the oldest record of a queue, which is not over, to the newest end of the one that the tag names. Returns its bytes.
    fn move_oldest(&mut self, from: QueueName, tag: Tag) -> usize {
        let Some(at) = self.arena.oldest(&self.queues[from as usize].log) else { return 0 };
        let hash = self.hasher.hash_one(self.arena.key(at));
        self.arena.set_tag(at, tag.0);
        let moved = self.arena.copy(at, &mut self.queues[tag.queue() as usize].log);
        self.index.replace(hash, at, moved);
        let (record_bytes, other_bytes) = self.costs(at);
        let left = &mut self.queues[from as usize];
        left.live_bytes -= record_bytes;
        left.other_bytes -= other_bytes;
        let entered = &mut self.queues[tag.queue() as usize];
        entered.live_bytes += record_bytes;
        entered.other_bytes += other_bytes;
        self.leave(from);
        record_bytes
    }

    /// Lets the oldest record of a queue go, which is counted no more.
    fn leave(&mut self, queue: QueueName) {
        let queue = &mut self.queues[queue as usize];
        self.arena.pop(&mut queue.log);
        queue.clear_if_over(&mut self.arena);
    }

    /// Apart from the way of a hit, which is shorter without it.
    #[cold]
    fn expire(&mut self, hash: u64, at: Position) {
        self.remove(hash, at);
    }

    /// Makes a record over where it is.
    fn remove(&mut self, hash: u64, at: Position) {
        let header = self.arena.header(at);
        self.unlink(hash, at);
        self.arena.set_tag(at, header.tag | Tag::OVER);
        let queue = &mut self.queues[Tag(header.tag).queue() as usize];
        queue.over_bytes += header.record_bytes();
        queue.clear_if_over(&mut self.arena);
    }

    /// Takes a record out of the index and the counts.
    fn unlink(&mut self, hash: u64, at: Position) {
        self.index.remove(hash, at);
        let (record_bytes, other_bytes) = self.costs(at);
        let header = self.arena.header(at);
        if Tag(header.tag).is_shared() {
            self.shared.remove(number(self.arena.value(at, &header)));
        }
        let queue = &mut self.queues[Tag(header.tag).queue() as usize];
        queue.live_bytes -= record_bytes;
        queue.other_bytes -= other_bytes;
    }

    /// What an entry takes: in its record, and besides.
    fn costs(&self, at: Position) -> (usize, usize) {
        let header = self.arena.header(at);
        let shared_bytes = if Tag(header.tag).is_shared() {
            self.shared[number(self.arena.value(at, &header))].len() + SHARED_BYTES
        } else {
            0
        };
        (header.record_bytes(), INDEX_BYTES + shared_bytes)
    }

    /// Keeps what is over within its share: what is not, and stands in front of it, goes to the newest end. Every turn of a
    /// queue takes out all that is over. So many bytes were moved in this call before.
    fn tidy(&mut self, mut moved_bytes: usize) {
        for name in [QueueName::Recent, QueueName::Main, QueueName::Absent] {
            while moved_bytes < MOVED_BYTES {
                let queue = &self.queues[name as usize];
                if queue.over_bytes <= queue.live_bytes / OVER_SHARE + CHUNK_BYTES {
                    break;
                }
                let Some(at) = self.arena.oldest(&queue.log) else { break };
                let header = self.arena.header(at);
                moved_bytes += match Tag(header.tag) {
                    tag if tag.is_over() => {
                        self.drop_oldest(name);
                        header.record_bytes() / OVER_TO_MOVED
                    }
                    tag => self.move_oldest(name, tag),
                };
            }
        }
    }
}

/// Bytes of a shared value's number, in the place of the value.
const NUMBER_BYTES: usize = 4;

fn number(bytes: &[u8]) -> usize {
    u32::from_le_bytes(*bytes.first_chunk().expect("a number has its bytes")) as usize
}

#[cfg(test)]
mod tests;
