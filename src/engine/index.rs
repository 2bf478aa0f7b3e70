//! Where the records of a cache are, by the hashes of their keys. Knows neither keys nor records. Owned by [`super::cache`].
//!
//! hashbrown's table grows in one piece, and asks for the hash of everything in it meanwhile: each waits for the memory of its
//! key, all wait for the lock of their shard, 9 ms with 57,000 of them. Here a full table becomes the former one beside
//! an empty one, and whatever is put in, or not found in the current one, takes a few others along:
//!
//! ```text
//!  current  [ · b · · a · c · · · · · · · · · ]   looked into first; all that comes goes here
//!  former   [ · · · d · e f · ]                   what is left of the one before; as a rule there is none
//!                 ▲ next
//! ```

use super::arena::Position;
use hashbrown::HashTable;

/// Places of the former table that one call looks at.
const PLACES_A_CALL: usize = 32;

/// Positions by hashes. Invariant: all places of `former` before `next` are free.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Index {
    current: HashTable<Position>,
    former: HashTable<Position>,
    next: usize,
}

impl Index {
    /// What it comes to take with so many entries at most.
    pub const fn most_bytes(entries: usize) -> usize {
        // Two tables: three halves of the places of the larger one, which came when 3/4 of the 7/8 that hashbrown fills were
        // taken in the smaller one; or two of the same size, where 13/32 of the places are taken. Each place has a byte
        // besides, and a table a few.
        (entries * 64 / 13 + 16) * (size_of::<Position>() + 1) + 2 * 32
    }

    /// The position with this hash that is the right one.
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(Position) -> bool) -> Option<Position> {
        [&self.current, &self.former].into_iter().find_map(|t| t.find(hash, |at| is_it(*at)).copied())
    }

    /// The same, in the current table alone: while the index grows, what is not found here may be there.
    #[inline(always)]
    pub fn find_current(&self, hash: u64, mut is_it: impl FnMut(Position) -> bool) -> Option<Position> {
        self.current.find(hash, |at| is_it(*at)).copied()
    }

    /// Puts a position in that is not there. `hash_of` is asked for the hashes of others.
    pub fn insert(&mut self, hash: u64, at: Position, hash_of: impl Fn(Position) -> u64) {
        if self.current.len() == self.current.capacity() && self.former.is_empty() {
            self.make_room();
        }
        self.current.insert_unique(hash, at, |at| hash_of(*at));
        self.go_on(hash_of);
    }

    /// Goes on growing, if it does.
    #[inline]
    pub fn go_on(&mut self, hash_of: impl Fn(Position) -> u64) {
        if self.former.allocation_size() > 0 {
            self.take_over(hash_of);
        }
    }

    /// The current table is full: of entries, or of the places of those that have gone.
    #[cold]
    fn make_room(&mut self) {
        let (entries, places) = (self.current.len(), self.current.num_buckets());
        let full = places / 8 * 7;
        let capacity = match () {
            () if entries >= full - full / 4 => full.max(entries) + 1,
            // Many have gone since. There must be room for who comes while the others are moved.
            () if entries + places / PLACES_A_CALL < full / 2 => full / 2,
            () => full,
        };
        self.former = std::mem::replace(&mut self.current, HashTable::with_capacity(capacity));
        self.next = 0;
    }

    #[cold]
    fn take_over(&mut self, hash_of: impl Fn(Position) -> u64) {
        let end = self.former.num_buckets().min(self.next + PLACES_A_CALL);
        for place in self.next..end {
            if let Ok(entry) = self.former.get_bucket_entry(place) {
                let (at, _) = entry.remove();
                self.current.insert_unique(hash_of(at), at, |at| hash_of(*at));
            }
        }
        self.next = end;
        if self.former.is_empty() {
            self.former = HashTable::new();
        }
    }

    /// A record has moved.
    pub fn replace(&mut self, hash: u64, at: Position, moved: Position) {
        let Index { current, former, .. } = self;
        let place = [current, former].into_iter().find_map(|t| t.find_mut(hash, |other| *other == at));
        *place.expect("a record that is not over is indexed") = moved;
    }

    /// Takes a position out.
    pub fn remove(&mut self, hash: u64, at: Position) {
        let Index { current, former, .. } = self;
        let entry = [current, former].into_iter().find_map(|t| t.find_entry(hash, |other| *other == at).ok());
        entry.expect("a record that is not over is indexed").remove();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.current.len() + self.former.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, in no order.
    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = Position> {
        self.current.iter().chain(&self.former).copied()
    }

    /// What it takes.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.current.allocation_size() + self.former.allocation_size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::collections::{BTreeMap, VecDeque};

    /// A hash from which one learns nothing of the next one's.
    fn hash_of(key: u32) -> u64 {
        u64::from(key).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    }

    proptest! {
        /// Against a map, while it grows and others go: all is found, nothing twice, and it takes no more than is said.
        #[test]
        fn what_is_put_in_is_found_until_it_is_taken_out(
            phases in prop::collection::vec((1u32..400, 0u32..100, any::<u32>()), 1..8),
        ) {
            let mut index = Index::default();
            // Positions by keys: here a position's hash is that of its key.
            let mut model = BTreeMap::new();
            let (mut key, mut most) = (0, 0);
            for (count, removed, seed) in phases {
                for step in 0..count {
                    key += 1;
                    index.insert(hash_of(key), key, hash_of);
                    model.insert(key, key);
                    let other = hash_of(seed ^ step) as u32;
                    if other % 100 < removed {
                        let gone = *model.keys().nth(other as usize % model.len()).unwrap();
                        index.remove(hash_of(gone), gone);
                        model.remove(&gone);
                    }
                    most = most.max(model.len());
                    prop_assert!(index.bytes() <= Index::most_bytes(most + 1), "{} for {most}", index.bytes());
                }
                prop_assert_eq!((index.len(), index.is_empty()), (model.len(), model.is_empty()));
                for (key, at) in &model {
                    prop_assert_eq!(index.find(hash_of(*key), |other| other == *at), Some(*at));
                }
                let mut all: Vec<_> = index.iter().collect();
                all.sort_unstable();
                prop_assert_eq!(all, model.keys().copied().collect::<Vec<_>>());
            }
            prop_assert_eq!(index.find(hash_of(0), |at| at == 0), None);
        }
    }

    #[test]
    fn no_call_moves_more_than_a_few() {
        let mut index = Index::default();
        let mut there = VecDeque::new();
        // It fills up, more go than come until few are left, and then as many come as go for long.
        for at in 0..300_000 {
            let asked = Cell::new(0);
            index.insert(hash_of(at), at, |at| {
                asked.set(asked.get() + 1);
                hash_of(at)
            });
            there.push_back(at);
            assert!(asked.get() <= PLACES_A_CALL, "{} at {at}", asked.get());
            let removed = match at {
                0..60_000 => 0,
                60_000..89_000 => 3,
                _ => 1,
            };
            for gone in there.drain(..removed) {
                index.remove(hash_of(gone), gone);
            }
        }
        assert_eq!((index.len(), there.len()), (2_000, 2_000));
    }

    #[test]
    fn what_moves_is_found_where_it_is_now() {
        let mut index = Index::default();
        for at in 0..57 {
            index.insert(hash_of(at), at, hash_of);
        }
        assert!(!index.former.is_empty() && index.current.len() > 1, "it is half way");
        for at in 0..57 {
            index.replace(hash_of(at), at, at + 100);
        }
        for at in 0..57 {
            assert_eq!(index.find(hash_of(at), |other| other == at + 100), Some(at + 100));
        }
    }
}
