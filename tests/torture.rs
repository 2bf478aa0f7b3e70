//! What `faults.rs` does in short, at length: lives of a server with flags by chance, each with rounds of faults by
//! chance, until its time is over. Run by `tools/torture`, which sets the seed and the time; not a part of the tests.

#![allow(clippy::unwrap_used)]

mod support;

use fastrand::Rng;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use support::world::{Fault, Report, World};

/// Rounds in the life of one PostgreSQL.
const ROUNDS: u64 = 8;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

#[test]
#[ignore = "takes as long as it is told to: tools/torture"]
fn torture() {
    let seed = number("HOTROW_TORTURE_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000_000));
    let seconds = number("HOTROW_TORTURE_SECONDS").unwrap_or(60);
    println!("seed {seed}, {seconds} s");
    let (start, time) = (Instant::now(), Duration::from_secs(seconds));
    let mut total = Report::default();
    let mut faults: BTreeMap<Fault, u64> = BTreeMap::new();
    let mut lives = 0;
    while start.elapsed() < time {
        let life = seed.wrapping_add(lives);
        let mut rng = Rng::with_seed(life);
        let flags = flags(&mut rng);
        println!("life {life}: {}", flags.join(" "));
        let mut world = World::new(life, &flags.iter().map(String::as_str).collect::<Vec<_>>());
        for _ in 0..ROUNDS {
            if start.elapsed() >= time {
                break;
            }
            let round: Vec<Fault> =
                (0..rng.usize(2..10)).map(|_| Fault::ALL[rng.usize(..Fault::ALL.len())]).collect();
            println!("  {:6} s  {round:?}", start.elapsed().as_secs());
            let report = world.suffer(&round);
            total.operations += report.operations;
            total.refused += report.refused;
            total.unknown += report.unknown;
            for fault in round {
                *faults.entry(fault).or_default() += 1;
            }
        }
        lives += 1;
    }
    // A violation has ended all this before.
    println!(
        "seed {seed}, {} s, {lives} lives: {} operations answered, {} refused, {} of unknown outcome; {} faults: \
         {faults:?}; 0 violations",
        start.elapsed().as_secs(),
        total.operations,
        total.refused,
        total.unknown,
        faults.values().sum::<u64>(),
    );
}

/// A server unlike the last one.
fn flags(rng: &mut Rng) -> Vec<String> {
    let mut choose =
        |flag: &str, values: &[&str]| [flag.to_owned(), values[rng.usize(..values.len())].to_owned()];
    [
        choose("--event-loops", &["1", "2", "3", "4"]),
        choose("--cache-bytes", &["0", "2KiB", "64KiB", "256MiB"]),
        // Longer than a restart of PostgreSQL takes, or not.
        choose("--request-timeout", &["500ms", "2s", "10s"]),
        choose("--db-readers", &["1", "2", "4"]),
        choose("--db-writers", &["1", "2", "4"]),
        choose("--queue-depth", &["4", "4096"]),
    ]
    .concat()
}
