//! A cache by itself: what it keeps, for how long, and what that costs.

use super::arena::record_bytes;
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
        Known::Value(Held { value: Lent::Shared(value), version, .. }) => Some((value.to_string(), version)),
    })
}

fn record(value: &str, version: u32) -> Record {
    Record { value: value.into(), version, expires_s: NEVER }
}

#[test]
fn a_scan_does_not_evict_what_is_used() {
    let (mut cache, hasher) = cache(100 * (INDEX_BYTES + record_bytes(4, 5)));
    let value = record("value", 1);
    let put = |cache: &mut Cache, key: &str| cache.put(hasher.hash_one(key.as_bytes()), key, Some(&value), 0);
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
    assert!(cache.bytes() <= 10_000 + INDEX_BYTES + record_bytes(4, 5));
    assert!(cache.get(hasher.hash_one("kept".as_bytes()), "kept", 0).is_some());
    assert!(matches!(cache.get(hasher.hash_one("9999".as_bytes()), "9999", 0), Some(Known::Absent { .. })));
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

#[test]
fn what_is_written_again_in_other_sizes_pushes_nothing_out() {
    let (mut cache, hasher) = cache(200_000);
    let keys: Vec<String> = (0..100).map(|i| format!("key {i}")).collect();
    for round in 0..1_000 {
        for (i, key) in keys.iter().enumerate() {
            let value = "v".repeat(1_000 + (round * 7 + i * 13) % 500);
            cache.put(hasher.hash_one(key.as_bytes()), key, Some(&record(&value, 1)), 0);
        }
    }
    assert_eq!((cache.len(), cache.evicted()), (100, [0; 3]));
}

/// Making room and tidying up share what one call may move.
#[test]
fn one_call_moves_so_many_bytes_and_no_more() {
    let (mut cache, hasher) = cache(2_000_000);
    let places = |cache: &Cache| -> HashMap<Vec<u8>, Position> {
        cache.index.iter().map(|at| (cache.arena.key(at).to_vec(), at)).collect()
    };
    let moved_bytes = |cache: &Cache, before: &HashMap<Vec<u8>, Position>| -> usize {
        let moved =
            cache.index.iter().filter(|at| before.get(cache.arena.key(*at)).is_some_and(|was| was != at));
        moved.map(|at| cache.arena.header(at).record_bytes()).sum()
    };
    let hash = |key: &str| hasher.hash_one(key.as_bytes());
    // So many values that there is no room for one more, and all of them are used.
    let value = record(&"v".repeat(1_900), 1);
    for i in 0.. {
        let key = format!("value {i}");
        cache.put(hash(&key), &key, Some(&value), 0);
        cache.get(hash(&key), &key, 0);
        if cache.value_bytes() + 3_000 > cache.capacity_bytes {
            break;
        }
    }
    // Absent keys, the newest of which are forgotten until the older ones are moved for it, and not all of them by one call.
    let absent = |i: usize| format!("{i:01000}");
    for i in 0..190 {
        cache.put(hash(&absent(i)), &absent(i), None, 0);
    }
    let mut before = places(&cache);
    let mut last = 190;
    while moved_bytes(&cache, &before) == 0 {
        before = places(&cache);
        last -= 1;
        cache.forget(hash(&absent(last)), &absent(last));
    }
    let most = MOVED_BYTES + LONGEST_BYTES;
    assert!((MOVED_BYTES..most).contains(&moved_bytes(&cache, &before)));
    // Room is made by moving as much as one call may, and the rest of the absent ones is left for another.
    for i in 0..4 {
        let before = places(&cache);
        let key = format!("more {i}");
        cache.put(hash(&key), &key, Some(&record(&"v".repeat(3_000), 1)), 0);
        let moved = moved_bytes(&cache, &before);
        assert!(moved < most && (i > 0 || moved >= MOVED_BYTES), "{moved} by put {i}");
    }
}

/// The shortest rows make the tables as large as they get; then the longest ones leave the ends of chunks empty.
#[test]
fn what_it_takes_stays_below_what_is_said() {
    for capacity in [20_000, 300_000, 1 << 20, 1_400_000] {
        let (mut cache, hasher) = cache(capacity);
        let places = |cache: &Cache| cache.shared.capacity() * SHARED_PLACE_BYTES;
        let taken = |cache: &Cache| {
            let values: usize = cache.shared.iter().map(|(_, value)| value.len()).sum();
            cache.index.bytes() + cache.ghosts.bytes() + cache.arena.bytes() + values + places(cache)
        };
        let mut most = 0;
        let put = |cache: &mut Cache, key: &str, value: Option<&Record>| {
            cache.put(hasher.hash_one(key.as_bytes()), key, value, 0);
        };
        // The places of these are there still when others have replaced them.
        let shared = record(&"v".repeat(SHARED_VALUE_BYTES), 1);
        for i in 0..3 * capacity / SHARED_VALUE_BYTES {
            put(&mut cache, &format!("{i:x}"), Some(&shared));
            most = most.max(taken(&cache));
        }
        let shared_places = places(&cache);
        assert!(shared_places > 0);
        let shortest = record("", 1);
        for i in 0..3 * capacity / 34 {
            put(&mut cache, &format!("{i:x}"), Some(&shortest));
            put(&mut cache, &format!("-{i:x}"), None);
            most = most.max(taken(&cache));
        }
        let tables = cache.index.bytes() + cache.ghosts.bytes();
        let longest = record(&"v".repeat(SHARED_VALUE_BYTES - 1), 1);
        for i in 0..3 * capacity / 4_000 {
            put(&mut cache, &format!("{i:01000x}"), Some(&longest));
            most = most.max(taken(&cache));
        }
        assert!(
            cache.index.len() < 2 * capacity / 34 && most <= most_bytes(capacity),
            "{most} of {capacity}"
        );
        assert_eq!((places(&cache), cache.shared.len()), (shared_places, 0));
        let counted = shared_places_bytes(capacity);
        assert!(shared_places <= counted, "{shared_places} of {counted}");
        // The tables are larger than what is counted of them by the entries that are left.
        assert!(tables > cache.len() * INDEX_BYTES, "{tables} for {}", cache.len());
    }
}

proptest! {
    /// Against a plain map: the cache may know less, but never something else, and never more than its bytes.
    #[test]
    fn it_never_says_anything_that_was_not_put_last(
        operations in prop::collection::vec((0u8..7, 0u8..200, 0usize..4), 1..800),
        capacity in prop_oneof![0usize..6_000, 6_000usize..400_000],
    ) {
        let (mut cache, hasher) = cache(capacity);
        let mut model: HashMap<String, Option<(String, u32)>> = HashMap::new();
        for (version, (operation, key, size)) in operations.into_iter().enumerate() {
            let key = format!("key {key}");
            let hash = hasher.hash_one(key.as_bytes());
            let version = version as u32;
            match operation {
                0..3 => {
                    let value = format!("{version}").repeat([1, 50, 700, SHARED_VALUE_BYTES][size]);
                    cache.put(hash, &key, Some(&record(&value, version)), 0);
                    model.insert(key, Some((value, version)));
                }
                3 => {
                    cache.put(hash, &key, None, 0);
                    model.insert(key, None);
                }
                4 => {
                    cache.forget(hash, &key);
                    model.remove(&key);
                }
                operation => {
                    let glanced = text(cache.glance(hash, key.as_bytes(), 0));
                    let known = if operation == 5 { text(cache.get(hash, &key, 0)) } else { glanced.clone() };
                    prop_assert!(known.as_ref().is_none_or(|known| Some(known) == model.get(&key)));
                    prop_assert!(glanced.is_none() || glanced == known);
                }
            }
            prop_assert!(cache.bytes() <= capacity + capacity / ABSENT_SHARE);
            let costs = cache.index.iter().map(|at| cache.costs(at));
            let live: usize = costs.map(|(record_bytes, other_bytes)| record_bytes + other_bytes).sum();
            let over: usize = cache.queues.iter().map(|queue| queue.over_bytes).sum();
            prop_assert_eq!(cache.bytes(), live + over);
            let shared = cache.index.iter().filter(|at| Tag(cache.arena.header(*at).tag).is_shared());
            prop_assert_eq!(cache.shared.len(), shared.count());
            for queue in &cache.queues {
                prop_assert!(queue.over_bytes <= queue.live_bytes / OVER_SHARE + 2 * CHUNK_BYTES);
                prop_assert_eq!(queue.live_bytes > 0, cache.arena.oldest(&queue.log).is_some());
            }
        }
    }
}
