//! A cached GET allocates nothing: shown by an allocator that counts, on a real connection over a socket made of memory.
//! The counting is for this thread alone, so that nothing else in the process can decide the verdict.

#[path = "../benches/memory/mod.rs"]
mod memory;

use allocation_counter::measure;
use memory::{World, get};

const TURNS: usize = 1_000;

/// Allocations of many turns that read these bytes, once the first turns have grown the loop's buffers to their size.
fn allocations(world: &mut World, input: &str, answers: usize, answer_bytes: usize) -> u64 {
    for _ in 0..3 {
        world.turn(input.as_bytes());
    }
    let (hits, mut written) = (world.hits(), 0);
    let info = measure(|| {
        for _ in 0..TURNS {
            written += world.turn(input.as_bytes());
        }
    });
    assert_eq!(world.hits() - hits, (TURNS * answers) as u64);
    assert!(written >= TURNS * answers * answer_bytes, "only {written} bytes were answered");
    info.count_total
}

#[test]
fn a_cached_get_allocates_nothing() {
    // Small values are copied behind their heads, those of 64 KiB are lent by the cache.
    for value_bytes in [0, 100, 4_095, 4_096, 65_536] {
        let keys: Vec<String> = (0..16).map(|i| format!("key:{i:06}")).collect();
        let mut world = World::knowing(keys.iter().map(String::as_str), value_bytes);
        assert_eq!(allocations(&mut world, &get(&keys[0]), 1, value_bytes), 0, "{value_bytes} bytes, alone");
        // Those of 64 KiB come to the bound on unsent answers with the fourth.
        let depth = if value_bytes > 4_096 { 3 } else { 16 };
        let pipelined: String = keys.iter().take(depth).map(|key| get(key)).collect();
        let count = allocations(&mut world, &pipelined, depth, value_bytes);
        assert_eq!(count, 0, "{value_bytes} bytes, {depth} pipelined");
    }
}

#[test]
fn what_must_allocate_is_counted() {
    let mut world = World::knowing(["key"], 1);
    let encoded = get("%6Bey");
    assert_eq!(
        allocations(&mut world, &encoded, 1, 1),
        TURNS as u64,
        "a key with a % is decoded into memory of its own"
    );
}
