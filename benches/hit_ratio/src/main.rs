//! Replays traces against hotrow's cache and others of the same number of entries, and prints a table of hit ratios in
//! Markdown. Everything is seeded: the table is the same at every run, but for moka, whose hasher is seeded by chance.
//!
//! A miss is followed by putting the key in, as a read of the database does. All entries are of one size, so that a
//! capacity in bytes is one in entries.

mod caches;
mod traces;

use caches::{Cache, Hotrow, Lru, Moka, Quick};

/// Distinct keys of every trace, besides those of scans.
const KEYS: u32 = 100_000;
/// Requests of every trace.
const REQUESTS: usize = 2_000_000;

fn main() {
    // A part of a trace's name chooses it; flags are cargo's.
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    println!("| trace | keys cached | hotrow | LRU | quick_cache | moka | hotrow / best other |");
    println!("|---|---|---|---|---|---|---|");
    for (name, make) in traces::ALL {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let trace = make();
        for percent in [1usize, 10, 30] {
            let entries = KEYS as usize * percent / 100;
            let ours = replay(&mut Hotrow::new(entries), &trace);
            let others = [
                replay(&mut Lru::new(entries), &trace),
                replay(&mut Quick::new(entries), &trace),
                replay(&mut Moka::new(entries), &trace),
            ];
            let best = others.iter().copied().fold(0.0, f64::max);
            let [lru, quick, moka] = others.map(|ratio| format!("{ratio:.4}"));
            println!("| {name} | {percent} % | {ours:.4} | {lru} | {quick} | {moka} | {:.3} |", ours / best);
        }
    }
}

/// The share of requests that the cache answers.
fn replay(cache: &mut impl Cache, trace: &[u32]) -> f64 {
    let mut hits = 0;
    for key in trace {
        if cache.get(*key) {
            hits += 1;
        } else {
            cache.put(*key);
        }
    }
    f64::from(hits) / trace.len() as f64
}
