//! Records of keys and values behind one another, in the order in which they came: logs made of chunks. Knows nothing of why
//! a record is there and when it is to go. Owned by [`super::cache`].
//!
//! ```text
//!  log      [ r r r r r · ][ r r r r ·· ][ r r r          ]
//!                 ▲ oldest                       ▲ newest: what comes in is put here
//!
//!  record   known 4 | expires 4 | version 4 | key's bytes 2 | value's bytes 2 | tag 1 | key | value | to a multiple of 8
//! ```
//!
//! Why not an allocation for each: four bytes name a record, where an allocation has a pointer and something that keeps it;
//! header, key and the beginning of the value lie side by side, in one line of the processor's cache or two; there is nothing
//! between records; and what is given back is whole chunks, so that sizes that change over time leave no holes.
//!
//! A record that is over in the middle of its log stays there until it is the oldest. Its owner keeps count of such bytes, and
//! where they are too many moves the oldest records to the newest end.

use std::collections::VecDeque;

/// Bytes of a record in front of its key.
pub const HEADER_BYTES: usize = 17;
/// Where in the header the tag is.
const TAG_AT: usize = 16;
/// Records begin at multiples of so many bytes.
const UNIT: usize = 8;
/// Units of a chunk.
const UNITS: usize = CHUNK_BYTES / UNIT;
/// Bytes of a chunk: small, for some of each log are half empty; but large enough that little is lost at their ends, less than
/// a sixth where all records are of the worst sizes. A power of two that every build knows, for a look-up divides by it.
pub const CHUNK_BYTES: usize = 32 << 10;
/// Chunks that are kept for the next log that needs one.
const SPARE_CHUNKS: usize = 3;
/// The most bytes of records that every arena can have, whatever the chunks lose: positions reach 32 GiB, a sixth of which is 5.
pub const MOST_BYTES: usize = 26 << 30;

type Chunk = [u8; CHUNK_BYTES];

/// Where a record is: the number of its chunk, and behind it the offset there, in units.
pub type Position = u32;

/// What is known of a record besides its key and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// When it became known: seconds of the process's clock.
    pub known_s: u32,
    /// When it expires, in the same seconds.
    pub expires_s: u32,
    /// The version of its row.
    pub version: u32,
    /// Bytes of its key.
    pub key_bytes: u16,
    /// Bytes of its value.
    pub value_bytes: u16,
    /// The owner's. Not 0: that is the end of a chunk.
    pub tag: u8,
}

impl Header {
    /// What the record takes, header and padding included.
    pub fn record_bytes(&self) -> usize {
        record_bytes(self.key_bytes.into(), self.value_bytes.into())
    }

    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.known_s.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.expires_s.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.version.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.key_bytes.to_le_bytes());
        bytes[14..16].copy_from_slice(&self.value_bytes.to_le_bytes());
        bytes[TAG_AT] = self.tag;
        bytes
    }

    #[inline(always)]
    fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Header {
        let four = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let two = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Header {
            known_s: four(0),
            expires_s: four(4),
            version: four(8),
            key_bytes: two(12),
            value_bytes: two(14),
            tag: bytes[TAG_AT],
        }
    }
}

/// What a record of such a key and value takes, header and padding included.
pub const fn record_bytes(key_bytes: usize, value_bytes: usize) -> usize {
    (HEADER_BYTES + key_bytes + value_bytes).next_multiple_of(UNIT)
}

/// What is in memory besides records, for so many logs: the first and the last chunk of each, which may be almost empty, and
/// spare ones.
pub const fn beside_bytes(logs: usize) -> usize {
    (2 * logs + SPARE_CHUNKS) * CHUNK_BYTES
}

/// The chunks of some logs.
#[derive(Debug, Default)]
pub struct Arena {
    /// By their numbers; none where there is none of that number.
    chunks: Vec<Option<Box<Chunk>>>,
    /// Numbers without a chunk.
    unused: Vec<u32>,
    /// Numbers of chunks that no log has.
    spare: Vec<u32>,
}

/// Records in the order in which they came. Invariant: it has no chunk, or one with a record in it.
#[derive(Debug, Default)]
pub struct Log {
    /// Oldest first.
    chunks: VecDeque<u32>,
    /// Where in the first chunk the oldest record is.
    oldest: usize,
    /// Where in the last chunk the next one will be.
    newest: usize,
}

impl Arena {
    /// A record's header.
    #[inline(always)]
    pub fn header(&self, at: Position) -> Header {
        Header::from_bytes(self.record(at).first_chunk().expect("a record has a header"))
    }

    /// A record's key.
    pub fn key(&self, at: Position) -> &[u8] {
        &self.record(at)[HEADER_BYTES..][..self.header(at).key_bytes.into()]
    }

    /// Whether a record's key is this one. It cannot panic, so that it is inlined into the look-up.
    #[inline(always)]
    pub fn has_key(&self, at: Position, key: &[u8]) -> bool {
        let (chunk, offset) = place(at);
        let record = self.chunks.get(chunk).and_then(|chunk| chunk.as_ref()?[offset..].split_first_chunk());
        record.is_some_and(|(header, rest)| {
            usize::from(Header::from_bytes(header).key_bytes) == key.len() && rest.starts_with(key)
        })
    }

    /// A record's value.
    #[inline(always)]
    pub fn value(&self, at: Position, header: &Header) -> &[u8] {
        let (chunk, offset) = place(at);
        let start = offset + HEADER_BYTES + usize::from(header.key_bytes);
        &self.chunk(chunk)[start..start + usize::from(header.value_bytes)]
    }

    /// Marks a record.
    #[inline(always)]
    pub fn set_tag(&mut self, at: Position, tag: u8) {
        let (chunk, offset) = place(at);
        self.chunk_mut(chunk)[offset + TAG_AT] = tag;
    }

    /// Puts a record at the newest end of a log.
    pub fn append(&mut self, log: &mut Log, header: &Header, key: &[u8], value: &[u8]) -> Position {
        let at = self.make_room(log, header.record_bytes());
        let record = self.record_mut(at);
        record[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
        record[HEADER_BYTES..][..key.len()].copy_from_slice(key);
        record[HEADER_BYTES + key.len()..][..value.len()].copy_from_slice(value);
        at
    }

    /// Puts a copy of a record, which may be its oldest, at the newest end of a log.
    pub fn copy(&mut self, at: Position, log: &mut Log) -> Position {
        let bytes = self.header(at).record_bytes();
        let to = self.make_room(log, bytes);
        let ((chunk, offset), (to_chunk, to_offset)) = (place(at), place(to));
        if chunk == to_chunk {
            self.chunk_mut(chunk).copy_within(offset..offset + bytes, to_offset);
        } else {
            let Ok([Some(from), Some(to)]) = self.chunks.get_disjoint_mut([chunk, to_chunk]) else {
                unreachable!("chunks with records are there");
            };
            to[to_offset..to_offset + bytes].copy_from_slice(&from[offset..offset + bytes]);
        }
        to
    }

    /// Gives a record another header and another value, which take as much together as those that it has.
    pub fn overwrite(&mut self, at: Position, header: &Header, value: &[u8]) {
        debug_assert_eq!(self.header(at).record_bytes(), header.record_bytes());
        let record = self.record_mut(at);
        record[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
        record[HEADER_BYTES + usize::from(header.key_bytes)..][..value.len()].copy_from_slice(value);
    }

    /// The oldest record of a log.
    pub fn oldest(&self, log: &Log) -> Option<Position> {
        log.chunks.front().map(|chunk| position(*chunk, log.oldest))
    }

    /// Takes the oldest record of a log out of it.
    pub fn pop(&mut self, log: &mut Log) {
        let Some(at) = self.oldest(log) else { return };
        log.oldest += self.header(at).record_bytes();
        if log.chunks.len() == 1 {
            if log.oldest == log.newest {
                self.clear(log);
            }
        } else if self.ends_at(log.chunks[0], log.oldest) {
            let chunk = log.chunks.pop_front().expect("it has several");
            self.give_back(chunk);
            log.oldest = 0;
        }
    }

    /// Takes everything out of a log.
    pub fn clear(&mut self, log: &mut Log) {
        for chunk in log.chunks.drain(..) {
            self.give_back(chunk);
        }
        (log.oldest, log.newest) = (0, 0);
    }

    /// Where the next record of a log comes to be.
    fn make_room(&mut self, log: &mut Log, bytes: usize) -> Position {
        if log.chunks.is_empty() || log.newest + bytes > CHUNK_BYTES {
            if let Some(full) = log.chunks.back()
                && log.newest + HEADER_BYTES <= CHUNK_BYTES
            {
                self.chunk_mut(*full as usize)[log.newest + TAG_AT] = 0;
            }
            log.chunks.push_back(self.take());
            log.newest = 0;
        }
        let at = position(log.chunks[log.chunks.len() - 1], log.newest);
        log.newest += bytes;
        at
    }

    /// What its chunks take.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        (self.chunks.len() - self.unused.len()) * CHUNK_BYTES
    }

    /// A chunk for a log.
    fn take(&mut self) -> u32 {
        if let Some(chunk) = self.spare.pop() {
            return chunk;
        }
        // By way of a vector: an array would be made on the stack first.
        let memory = vec![0; CHUNK_BYTES].into_boxed_slice().try_into().ok();
        if let Some(chunk) = self.unused.pop() {
            self.chunks[chunk as usize] = memory;
            return chunk;
        }
        self.chunks.push(memory);
        (self.chunks.len() - 1) as u32
    }

    /// A chunk that its log has no use for.
    fn give_back(&mut self, chunk: u32) {
        if self.spare.len() < SPARE_CHUNKS {
            self.spare.push(chunk);
        } else {
            self.chunks[chunk as usize] = None;
            self.unused.push(chunk);
        }
    }

    /// Nothing more comes in a chunk that is not its log's last.
    fn ends_at(&self, chunk: u32, offset: usize) -> bool {
        offset + HEADER_BYTES > CHUNK_BYTES || self.chunk(chunk as usize)[offset + TAG_AT] == 0
    }

    #[inline(always)]
    fn record(&self, at: Position) -> &[u8] {
        let (chunk, offset) = place(at);
        &self.chunk(chunk)[offset..]
    }

    fn record_mut(&mut self, at: Position) -> &mut [u8] {
        let (chunk, offset) = place(at);
        &mut self.chunk_mut(chunk)[offset..]
    }

    #[inline(always)]
    fn chunk(&self, chunk: usize) -> &Chunk {
        self.chunks[chunk].as_ref().expect("a chunk with records is there")
    }

    #[inline(always)]
    fn chunk_mut(&mut self, chunk: usize) -> &mut Chunk {
        self.chunks[chunk].as_mut().expect("a chunk with records is there")
    }
}

/// The number of a record's chunk, and its offset there.
#[inline(always)]
fn place(at: Position) -> (usize, usize) {
    (at as usize / UNITS, at as usize % UNITS * UNIT)
}

fn position(chunk: u32, offset: usize) -> Position {
    chunk * UNITS as u32 + (offset / UNIT) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{KEY_BYTES, SHARED_VALUE_BYTES};
    use proptest::prelude::*;

    fn header(key: &[u8], value: &[u8], version: u32) -> Header {
        let (key_bytes, value_bytes) = (key.len() as u16, value.len() as u16);
        Header { known_s: 1, expires_s: u32::MAX, version, key_bytes, value_bytes, tag: 1 }
    }

    proptest! {
        /// Two logs against two queues: the same records in the same order, whatever their sizes, and every chunk is in one place.
        #[test]
        fn a_log_is_a_queue(operations in prop::collection::vec((0u8..8, 0usize..2, 0usize..5_100), 1..600)) {
            let mut arena = Arena::default();
            let mut logs = [Log::default(), Log::default()];
            let mut models: [VecDeque<(u32, usize)>; 2] = Default::default();
            for (version, (operation, which, size)) in operations.into_iter().enumerate() {
                let version = version as u32;
                let (log, model) = (&mut logs[which], &mut models[which]);
                let key = vec![b'k'; size.min(KEY_BYTES)];
                let value = vec![version as u8; (size - key.len()).min(SHARED_VALUE_BYTES - 1)];
                let held: usize = model.iter().map(|(_, bytes)| bytes).sum();
                match operation {
                    0..4 if held < 64 << 10 => {
                        let header = header(&key, &value, version);
                        let at = arena.append(log, &header, &key, &value);
                        prop_assert_eq!(arena.header(at), header);
                        prop_assert_eq!((arena.key(at), arena.value(at, &header)), (&key[..], &value[..]));
                        model.push_back((version, header.record_bytes()));
                    }
                    4 => if let Some(at) = arena.oldest(log) {
                        let copy = arena.copy(at, log);
                        prop_assert_eq!(arena.header(copy), arena.header(at));
                        arena.pop(log);
                        model.rotate_left(1);
                    }
                    5 if version.is_multiple_of(50) => {
                        arena.clear(log);
                        model.clear();
                    }
                    _ => {
                        arena.pop(log);
                        model.pop_front();
                    }
                }
                let oldest = arena.oldest(log).map(|at| arena.header(at).version);
                prop_assert_eq!(oldest, model.front().map(|(version, _)| *version));
                let used = logs.iter().flat_map(|log| &log.chunks).chain(&arena.spare);
                prop_assert!(used.clone().all(|chunk| arena.chunks[*chunk as usize].is_some()));
                prop_assert!(arena.unused.iter().all(|chunk| arena.chunks[*chunk as usize].is_none()));
                let mut all: Vec<u32> = used.chain(&arena.unused).copied().collect();
                all.sort_unstable();
                prop_assert_eq!(all, (0..arena.chunks.len() as u32).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_value_in_place_of_another() {
        let mut arena = Arena::default();
        let mut log = Log::default();
        let at = arena.append(&mut log, &header(b"key", b"value", 1), b"key", b"value");
        let next = arena.append(&mut log, &header(b"next", b"", 2), b"next", b"");
        let longer = header(b"key", b"value 2", 3);
        arena.overwrite(at, &longer, b"value 2");
        assert_eq!((arena.key(at), arena.value(at, &longer)), (&b"key"[..], &b"value 2"[..]));
        assert_eq!((arena.header(next).version, arena.key(next)), (2, &b"next"[..]));
    }
}
