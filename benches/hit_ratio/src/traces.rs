//! Sequences of keys, each with a habit that caches know from life.

use crate::{KEYS, REQUESTS};
use fastrand::Rng;

/// Makes a trace.
pub type Make = fn() -> Vec<u32>;

/// All of them, by name.
pub const ALL: &[(&str, Make)] = &[
    ("zipf 0.7", || zipf(0.7)),
    ("zipf 0.9", || zipf(0.9)),
    ("zipf 1.1", || zipf(1.1)),
    ("zipf 0.9 + scans", || with_scans(zipf(0.9))),
    ("scans: all keys, in order, again and again", || cycle(KEYS)),
    ("loop over 12 % of the keys", || cycle(KEYS * 12 / 100)),
    ("zipf 0.9 + a loop over 20 % of the keys", || with_loop(zipf(0.9), KEYS / 5)),
    ("shifting: zipf 0.9, the ranks move on", || shifting(0.9, 50)),
    ("shifting: another zipf 0.9 every 400,000", || changing(0.9)),
];

/// Keys whose popularity falls with the power `s` of their rank.
fn zipf(s: f64) -> Vec<u32> {
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=KEYS)
        .map(|rank| {
            sum += f64::from(rank).powf(-s);
            sum
        })
        .collect();
    let mut rng = Rng::with_seed(17);
    let mut draw = || {
        let at = rng.f64() * sum;
        sums.partition_point(|up_to| *up_to < at) as u32
    };
    (0..REQUESTS).map(|_| draw()).collect()
}

/// Every 100,000 requests somebody reads 25,000 keys that nobody asks for otherwise, once each.
fn with_scans(trace: Vec<u32>) -> Vec<u32> {
    let mut next = KEYS;
    let mut mixed = Vec::with_capacity(REQUESTS);
    for part in trace.chunks(75_000) {
        mixed.extend_from_slice(part);
        mixed.extend(next..next + 25_000);
        next += 25_000;
    }
    mixed.truncate(REQUESTS);
    mixed
}

fn cycle(keys: u32) -> Vec<u32> {
    (0..keys).cycle().take(REQUESTS).collect()
}

/// One request in three is the next of a loop.
fn with_loop(trace: Vec<u32>, keys: u32) -> Vec<u32> {
    let mut next = (KEYS..KEYS + keys).cycle();
    trace
        .into_iter()
        .enumerate()
        .map(|(at, key)| if at % 3 == 0 { next.next().unwrap_or(0) } else { key })
        .collect()
}

/// The ranks move on by one key, `step` times in 100,000 requests.
fn shifting(s: f64, step: usize) -> Vec<u32> {
    let mut trace = zipf(s);
    for (at, key) in trace.iter_mut().enumerate() {
        *key = (*key + (at / (100_000 / step)) as u32) % KEYS;
    }
    trace
}

/// All ranks are dealt anew, five times.
fn changing(s: f64) -> Vec<u32> {
    let mut trace = zipf(s);
    let mut rng = Rng::with_seed(18);
    for part in trace.chunks_mut(REQUESTS / 5) {
        let mut keys: Vec<u32> = (0..KEYS).collect();
        rng.shuffle(&mut keys);
        for key in part {
            *key = keys[*key as usize];
        }
    }
    trace
}
