//! The caches, behind one face.

use ahash::RandomState;
use hotrow::engine::{NEVER, Record, cache};
use std::num::NonZeroUsize;

/// What a replay needs of a cache.
pub trait Cache {
    /// Is it known? Counts as a use.
    fn get(&mut self, key: u32) -> bool;
    /// It was read from the database.
    fn put(&mut self, key: u32);
}

/// The server's own: the cache of one shard.
pub struct Hotrow {
    cache: cache::Cache,
    hasher: RandomState,
    record: Record,
}

impl Hotrow {
    /// Room for so many entries of a key of 8 bytes and a value of 8.
    pub fn new(entries: usize) -> Hotrow {
        let hasher = RandomState::with_seeds(1, 2, 3, 4);
        let record = Record { value: "12345678".into(), version: 1, expires_s: NEVER };
        let mut hotrow =
            Hotrow { cache: cache::Cache::new(1 << 20, hasher.clone()), hasher: hasher.clone(), record };
        hotrow.put(0);
        let each = hotrow.cache.bytes();
        hotrow.cache = cache::Cache::new(entries * each, hasher);
        hotrow
    }
}

impl Cache for Hotrow {
    fn get(&mut self, key: u32) -> bool {
        let key = format!("{key:08x}");
        self.cache.get(self.hasher.hash_one(key.as_bytes()), &key, 1).is_some()
    }

    fn put(&mut self, key: u32) {
        let key = format!("{key:08x}");
        self.cache.put(self.hasher.hash_one(key.as_bytes()), &key, Some(&self.record), 1);
    }
}

/// The one that everybody knows.
pub struct Lru(lru::LruCache<u32, ()>);

impl Lru {
    pub fn new(entries: usize) -> Lru {
        Lru(lru::LruCache::new(NonZeroUsize::new(entries).expect("there is room for some")))
    }
}

impl Cache for Lru {
    fn get(&mut self, key: u32) -> bool {
        self.0.get(&key).is_some()
    }

    fn put(&mut self, key: u32) {
        self.0.put(key, ());
    }
}

pub struct Quick(quick_cache::unsync::Cache<u32, ()>);

impl Quick {
    pub fn new(entries: usize) -> Quick {
        Quick(quick_cache::unsync::Cache::new(entries))
    }
}

impl Cache for Quick {
    fn get(&mut self, key: u32) -> bool {
        self.0.get(&key).is_some()
    }

    fn put(&mut self, key: u32) {
        self.0.insert(key, ());
    }
}

/// It does its housekeeping now and then: told to do it often, it is as good as it can be.
pub struct Moka(moka::sync::Cache<u32, ()>, u32);

impl Moka {
    pub fn new(entries: usize) -> Moka {
        Moka(moka::sync::Cache::new(entries as u64), 0)
    }
}

impl Cache for Moka {
    fn get(&mut self, key: u32) -> bool {
        self.1 += 1;
        if self.1.is_multiple_of(32) {
            self.0.run_pending_tasks();
        }
        self.0.get(&key).is_some()
    }

    fn put(&mut self, key: u32) {
        self.0.insert(key, ());
    }
}
