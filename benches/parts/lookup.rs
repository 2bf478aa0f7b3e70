//! From a target to an entry: routing, decoding, hashing, the shard's lock, the look-up.

use crate::cache::{hasher, keys, record};
use divan::Bencher;
use hotrow::api;
use hotrow::engine::Engine;
use hotrow::engine::shard::Writes;
use std::hint::black_box;

const KEYS: usize = 10_000;

#[divan::bench(args = ["/kv/key:000123", "/kv/%6Bey%3A000123"])]
fn route(target: &str) {
    black_box(api::route(black_box("GET"), black_box(target)).is_ok());
}

#[divan::bench]
fn known_key(bencher: Bencher) {
    let engine = Engine::with_hasher(64 << 20, 1 << 20, hasher());
    let keys = keys(KEYS);
    for key in &keys {
        let hash = engine.hash(key);
        engine.shard(hash).write_sent(hash, key, Writes::Own(1));
        engine.shard(hash).committed(hash, key, (Writes::Own(1), false), &Some(record(100)), 0);
    }
    let mut next = keys.iter().cycle();
    bencher.bench_local(|| {
        let key = next.next().expect("a cycle has no end");
        let hash = engine.hash(key);
        assert!(
            engine.shard(hash).glance(hash, key.as_bytes(), 0, |known| black_box(known.age_s())).is_some()
        );
    });
}
