//! Keys that were lately evicted without having been used, as fingerprints: who comes back while it is remembered here was
//! evicted too early. Knows nothing of entries. Owned by [`super::cache`].
//!
//! Two tables of fingerprints, each at the place that its key's hash names. When the current one has taken as many as
//! it may, it becomes the previous one, and the previous one is emptied: what is remembered is between half as many
//! keys and as many as the cache has entries, less those whose place was taken by others. A longer memory is no better:
//! it keeps what comes back too late to be of use (benches/HIT_RATIO.md).

/// The memory of one cache.
#[derive(Debug, Default)]
pub struct Ghosts {
    /// 0 is none. As many places as `previous`: a power of two, or none at all.
    current: Vec<u16>,
    previous: Vec<u16>,
    /// Fingerprints put into `current`.
    taken: usize,
}

impl Ghosts {
    /// What it takes, at most, beside a cache that has never had more entries than so many.
    pub const fn most_bytes(entries: usize) -> usize {
        let most = if entries < 2 { 1 } else { entries / 2 };
        2 * most.next_power_of_two() * size_of::<u16>()
    }

    /// What it takes.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        (self.current.capacity() + self.previous.capacity()) * size_of::<u16>()
    }

    /// A key was evicted from a cache that has so many entries.
    pub fn put(&mut self, hash: u64, entries: usize) {
        let most = (entries / 2).max(1);
        let places = most.next_power_of_two();
        if self.current.len() < places {
            // Growing forgets all, which only costs a few second chances.
            (self.current, self.previous) = (vec![0; places], vec![0; places]);
            self.taken = 0;
        } else if self.taken >= most {
            std::mem::swap(&mut self.current, &mut self.previous);
            self.current.fill(0);
            self.taken = 0;
        }
        let (place, print) = self.find(hash);
        self.current[place] = print;
        self.taken += 1;
    }

    /// Was the key evicted lately? If so it is forgotten here.
    pub fn take(&mut self, hash: u64) -> bool {
        if self.current.is_empty() {
            return false;
        }
        let (place, print) = self.find(hash);
        let mut found = false;
        for table in [&mut self.current, &mut self.previous] {
            if table[place] == print {
                table[place] = 0;
                found = true;
            }
        }
        found
    }

    /// Place and fingerprint of a key: two disjoint parts of its hash.
    fn find(&self, hash: u64) -> (usize, u16) {
        (hash as usize & (self.current.len() - 1), (hash >> 48) as u16 | 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hash with a place and a fingerprint of its own.
    fn hash(key: u64) -> u64 {
        key | (2 * key + 1) << 48
    }

    #[test]
    fn keys_are_remembered_for_so_long_and_no_longer() {
        let mut ghosts = Ghosts::default();
        assert!(!ghosts.take(hash(1)));
        for key in 0..64 {
            ghosts.put(hash(key), 32);
            // The last 16 are there, whenever the tables change; each once.
            for old in key.saturating_sub(15)..=key {
                assert!(ghosts.take(hash(old)), "{old} after {key}");
                assert!(!ghosts.take(hash(old)));
            }
            ghosts = Ghosts::default();
            for old in 0..=key {
                ghosts.put(hash(old), 32);
            }
            assert!((0..key.saturating_sub(31)).all(|old| !ghosts.take(hash(old))), "after {key}");
        }
    }
}
