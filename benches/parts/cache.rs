//! The cache of one shard: filling it, and the eviction that every further entry costs.

use ahash::RandomState;
use divan::Bencher;
use hotrow::engine::cache::Cache;
use hotrow::engine::{NEVER, Record};
use std::hint::black_box;

pub(crate) fn hasher() -> RandomState {
    RandomState::with_seeds(1, 2, 3, 4)
}

pub(crate) fn keys(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("key:{i:06}")).collect()
}

pub(crate) fn record(value_bytes: usize) -> Record {
    Record { value: "v".repeat(value_bytes).into(), version: 123_456, expires_s: NEVER }
}

/// Another value for a key that is there.
#[divan::bench]
fn replace(bencher: Bencher) {
    let (mut cache, record) = (Cache::new(1 << 20, hasher()), record(100));
    let hash = hasher().hash_one("key".as_bytes());
    bencher.bench_local(|| cache.put(black_box(hash), "key", Some(&record), 0));
}

/// A new key into a full cache of about 10,000 entries: each pushes another one out.
#[divan::bench]
fn insert_and_evict(bencher: Bencher) {
    let (mut cache, record) = (Cache::new(2 << 20, hasher()), record(100));
    let keys: Vec<(u64, String)> =
        keys(100_000).into_iter().map(|key| (hasher().hash_one(key.as_bytes()), key)).collect();
    for (hash, key) in &keys {
        cache.put(*hash, key, Some(&record), 0);
    }
    assert!(cache.len() < keys.len() / 2, "it is not full");
    let mut next = keys.iter().cycle();
    bencher.bench_local(|| {
        let (hash, key) = next.next().expect("a cycle has no end");
        cache.put(*hash, key, Some(&record), 0);
    });
}

#[divan::bench]
fn get(bencher: Bencher) {
    let (mut cache, record) = (Cache::new(64 << 20, hasher()), record(100));
    let keys: Vec<(u64, String)> =
        keys(10_000).into_iter().map(|key| (hasher().hash_one(key.as_bytes()), key)).collect();
    for (hash, key) in &keys {
        cache.put(*hash, key, Some(&record), 0);
    }
    let mut next = keys.iter().cycle();
    bencher.bench_local(|| {
        let (hash, key) = next.next().expect("a cycle has no end");
        assert!(black_box(cache.get(*hash, key, 0)).is_some());
    });
}
