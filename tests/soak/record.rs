//! What a soak has seen: answers, what has to be explained, when something was done to the servers, samples; and the
//! verdict.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Latencies are counted by powers of two of microseconds.
const BUCKETS: usize = 32;

/// What happens right before and after an outage belongs to it.
const GRACE: Duration = Duration::from_secs(2);

/// An answer that was not expected, or none (status 0).
#[derive(Debug)]
pub struct Event {
    pub sent: Instant,
    pub answered: Instant,
    pub status: u16,
    pub what: String,
    pub server: &'static str,
}

/// Something was done on purpose.
#[derive(Debug)]
pub struct Window {
    pub what: &'static str,
    /// `None`: to all of them, for it was PostgreSQL.
    pub server: Option<&'static str>,
    pub from: Instant,
    pub to: Instant,
}

/// Of one server.
#[derive(Debug, Default)]
pub struct Record {
    statuses: Mutex<BTreeMap<u16, u64>>,
    watched: Mutex<BTreeMap<u16, u64>>,
    latencies: [AtomicU64; BUCKETS],
    events: Mutex<Vec<Event>>,
    wrong: Mutex<Vec<String>>,
}

impl Record {
    pub fn answer(&self, status: u16, time: Duration) {
        *self.statuses.lock().expect("nobody panics with it").entry(status).or_default() += 1;
        let bucket = (time.as_micros().max(1).ilog2() as usize).min(BUCKETS - 1);
        self.latencies[bucket].fetch_add(1, Ordering::Relaxed);
    }

    pub fn watched(&self, status: u16) {
        *self.watched.lock().expect("nobody panics with it").entry(status).or_default() += 1;
    }

    pub fn event(&self, event: Event) {
        self.events.lock().expect("nobody panics with it").push(event);
    }

    pub fn wrong(&self, what: String) {
        eprintln!("WRONG: {what}");
        self.wrong.lock().expect("nobody panics with it").push(what);
    }

    pub fn answers(&self) -> u64 {
        self.statuses.lock().expect("nobody panics with it").values().sum()
    }

    pub fn wrongs(&self) -> usize {
        self.wrong.lock().expect("nobody panics with it").len()
    }

    /// Answers by status, watchers' too, and latencies.
    pub fn summary(&self) -> String {
        let counts: Vec<u64> = self.latencies.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let all: u64 = counts.iter().sum();
        let below_ms = |share: f64| {
            let mut sum = 0;
            let at = counts.iter().position(|count| {
                sum += count;
                sum as f64 >= share * all as f64
            });
            (1_u64 << (at.unwrap_or(0) + 1)) as f64 / 1e3
        };
        format!(
            "{all} answers by status {:?}; half of them within {} ms, 99 % within {} ms; waits for a change {:?}",
            self.statuses.lock().expect("nobody panics with it"),
            below_ms(0.5),
            below_ms(0.99),
            self.watched.lock().expect("nobody panics with it"),
        )
    }

    /// Events by what they are, counted: those that a window explains, with its name, and the others.
    pub fn explain(&self, windows: &[Window], start: Instant) -> (BTreeMap<String, u64>, Vec<String>) {
        let (mut explained, mut others) = (BTreeMap::<String, u64>::new(), Vec::new());
        for event in self.events.lock().expect("nobody panics with it").iter() {
            match windows.iter().find(|window| window.explains(event)) {
                Some(window) => {
                    let what = format!("{}: {} {}", window.what, event.status, event.what);
                    *explained.entry(what).or_default() += 1;
                }
                None => others.push(format!(
                    "{}, {:.1?} to {:.1?}: {} {}",
                    event.server,
                    event.sent - start,
                    event.answered - start,
                    event.status,
                    event.what
                )),
            }
        }
        (explained, others)
    }
}

impl Window {
    fn explains(&self, event: &Event) -> bool {
        let met = event.sent <= self.to + GRACE && event.answered + GRACE >= self.from;
        // A restart of a server breaks connections and refuses; without PostgreSQL it refuses, or does not know.
        let kind = match self.server {
            Some(server) => server == event.server && matches!(event.status, 0 | 503 | 504),
            None => matches!(event.status, 503 | 504),
        };
        met && kind
    }
}

/// One look at one server.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Seconds since the beginning of the soak, and of the process.
    pub at: f64,
    pub age: f64,
    pub server: &'static str,
    /// Which of its processes, from 0.
    pub life: usize,
    pub phase: usize,
    pub rss: u64,
    pub anonymous: u64,
    pub descriptors: u64,
    pub threads: u64,
    pub cache_bytes: u64,
    pub cache_entries: u64,
    pub connections: u64,
    pub answers: u64,
}

pub const CSV_HEAD: &str = "seconds,age,server,life,phase,rss_bytes,anonymous_bytes,descriptors,threads,cache_bytes,\
                            cache_entries,connections,answers";

impl Sample {
    pub fn csv(&self) -> String {
        let Sample { at, age, server, life, phase, rss, anonymous, descriptors, threads, .. } = self;
        let Sample { cache_bytes, cache_entries, connections, answers, .. } = self;
        format!(
            "{at:.1},{age:.1},{server},{life},{phase},{rss},{anonymous},{descriptors},{threads},{cache_bytes},\
             {cache_entries},{connections},{answers}"
        )
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// By least squares, for an hour.
fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / n, y + point.1 / n));
    let over: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let under: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if under > 0.0 { over / under * 3600.0 } else { 0.0 }
}

const MIB: f64 = (1 << 20) as f64;

/// A line for each life of each server; and the medians of resident memory of the second and of the last third of its
/// last life.
pub fn table(samples: &[Sample], server: &str) -> (String, (f64, f64)) {
    let mut text = String::new();
    let lives = samples.iter().filter(|s| s.server == server).map(|s| s.life).max().unwrap_or(0);
    let mut thirds = (0.0, 0.0);
    for life in 0..=lives {
        let of: Vec<&Sample> = samples.iter().filter(|s| s.server == server && s.life == life).collect();
        let (Some(first), Some(last)) = (of.first(), of.last()) else { continue };
        let pick = |from: f64, to: f64, value: fn(&Sample) -> f64| {
            let within = of.iter().filter(|s| s.age >= from * last.age && s.age <= to * last.age);
            median(within.map(|s| value(s)).collect())
        };
        let rss = |s: &Sample| s.rss as f64 / MIB;
        thirds = (pick(1.0 / 3.0, 2.0 / 3.0, rss), pick(2.0 / 3.0, 1.0, rss));
        // The first third is left out: there the cache fills.
        let settled: Vec<(f64, f64)> =
            of.iter().filter(|s| s.age >= last.age / 3.0).map(|s| (s.age, rss(s))).collect();
        let at_ages: Vec<String> =
            [0.25, 0.5, 1.0].iter().map(|part| format!("{:.0}", pick(part - 0.1, *part, rss))).collect();
        writeln!(
            text,
            "{server} life {}: {:.0} s; resident MiB first {:.1}, at a quarter, half and the end of it {}, median \
             second third {:.1}, last third {:.1}, last {:.1}, most {:.1}, slope {:+.1} an hour; of the last \
             {:.1} anonymous; descriptors first {}, median {}, most {}, last {}; threads {} to {}; cache {:.1} MiB \
             in {} entries",
            life + 1,
            last.age,
            rss(first),
            at_ages.join(", "),
            thirds.0,
            thirds.1,
            rss(last),
            of.iter().map(|s| rss(s)).fold(0.0, f64::max),
            slope(&settled),
            last.anonymous as f64 / MIB,
            first.descriptors,
            pick(0.0, 1.0, |s| s.descriptors as f64),
            of.iter().map(|s| s.descriptors).max().unwrap_or(0),
            last.descriptors,
            of.iter().map(|s| s.threads).min().unwrap_or(0),
            of.iter().map(|s| s.threads).max().unwrap_or(0),
            last.cache_bytes as f64 / MIB,
            last.cache_entries,
        )
        .expect("a string takes everything");
    }
    (text, thirds)
}
