//! What is counted. Every thread has its own counters and is their only writer, so that counting on the hit path costs
//! an addition and no contention; a scrape adds them up. Written by [`crate::event_loop`], [`crate::connection`] and
//! the workers of [`crate::store`]; rendered by [`crate::api::exposition`] in the names of [`families`].

pub mod families;

use crate::limits::{PARSE_REASONS, PROBLEM_KINDS};
use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A number that one thread writes: a count, which only grows, or a level ([`Counter::sub`]).
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. A plain load and store: there is one writer.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Takes `n` away again: for what is a level and no count.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper ends of the buckets of durations, in nanoseconds: from what a turn takes to what a deadline allows.
pub const DURATIONS_NS: [u64; BUCKETS] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
];

/// Upper ends of the buckets of batches, in jobs, up to what the limits allow.
pub const BATCH_JOBS: [u64; BUCKETS] =
    [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256];

/// Buckets of a histogram, besides the one for whatever is larger.
const BUCKETS: usize = 18;

/// How many observations were at most how large. One writer.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64; BUCKETS],
    /// Each for itself, not added up; the last is for what is larger than every bound.
    buckets: [Counter; BUCKETS + 1],
    sum: Counter,
}

/// A histogram at one moment, or several added up.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// Upper ends of the buckets.
    pub bounds: &'static [u64; BUCKETS],
    /// Observations in each bucket alone.
    pub buckets: [u64; BUCKETS + 1],
    /// Of all observations.
    pub sum: u64,
}

impl Histogram {
    /// An empty one with these bounds: [`DURATIONS_NS`] or [`BATCH_JOBS`].
    pub const fn new(bounds: &'static [u64; BUCKETS]) -> Histogram {
        Histogram {
            bounds,
            buckets: [const { Counter(AtomicU64::new(0)) }; BUCKETS + 1],
            sum: Counter(AtomicU64::new(0)),
        }
    }

    /// `times` observations of `value`.
    pub fn observe(&self, value: u64, times: u64) {
        self.buckets[self.bounds.partition_point(|bound| *bound < value)].add(times);
        self.sum.add(value.saturating_mul(times));
    }

    /// One duration.
    pub fn observe_duration(&self, duration: Duration) {
        self.observe(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), 1);
    }

    /// The sum of several of the same bounds; the first says which, so there is one at least.
    pub fn sum_of<'a>(histograms: impl IntoIterator<Item = &'a Histogram>) -> Option<Snapshot> {
        histograms.into_iter().fold(None, |sum, histogram| {
            let zero = Snapshot { bounds: histogram.bounds, buckets: [0; BUCKETS + 1], sum: 0 };
            let mut snapshot = sum.unwrap_or(zero);
            for (sum, bucket) in snapshot.buckets.iter_mut().zip(&histogram.buckets) {
                *sum += bucket.get();
            }
            snapshot.sum = snapshot.sum.wrapping_add(histogram.sum.get());
            Some(snapshot)
        })
    }
}

/// The methods that requests are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Not known: there was no proper request line.
    None,
    /// GET.
    Get,
    /// HEAD.
    Head,
    /// PUT.
    Put,
    /// SET.
    Set,
    /// DELETE.
    Delete,
    /// OPTIONS.
    Options,
    /// POST.
    Post,
    /// Any other: strangers choose it, and every label is memory in whoever scrapes.
    Other,
}

impl Method {
    /// All of them, with their labels.
    pub const ALL: [(Method, &'static str); 9] = [
        (Method::None, "none"),
        (Method::Get, "GET"),
        (Method::Head, "HEAD"),
        (Method::Put, "PUT"),
        (Method::Set, "SET"),
        (Method::Delete, "DELETE"),
        (Method::Options, "OPTIONS"),
        (Method::Post, "POST"),
        (Method::Other, "other"),
    ];

    /// The method of a request.
    #[inline]
    pub fn of(method: &str) -> Method {
        match method {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "PUT" => Method::Put,
            "SET" => Method::Set,
            "DELETE" => Method::Delete,
            "OPTIONS" => Method::Options,
            "POST" => Method::Post,
            _ => Method::Other,
        }
    }
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The next request.
    Idle,
    /// The rest of a head.
    Head,
    /// The rest of a content.
    Content,
    /// The database, or a change.
    Reply,
    /// That its client reads.
    Client,
    /// The end.
    Closing,
}

impl Phase {
    /// All of them, with their labels.
    pub const ALL: [(Phase, &'static str); 6] = [
        (Phase::Idle, "idle"),
        (Phase::Head, "head"),
        (Phase::Content, "content"),
        (Phase::Reply, "reply"),
        (Phase::Client, "client"),
        (Phase::Closing, "closing"),
    ];
}

/// Statuses are counted where they stand in a table of so many: 100 to 511 at their own place, 512 to 599 at the
/// places that 0 to 87 leave free. No branch, no search, and 4 KiB a method, of which almost nothing is ever touched.
const STATUSES: usize = 512;

/// The counters of one event loop. Two loops never write to one cache line.
#[derive(Debug)]
#[repr(align(128))]
pub struct Counters {
    /// Requests that the cache answered with a value. Apart from absences: a difference of two counters that are read one after the
    /// other could go backwards.
    pub cache_hits: Counter,
    /// Requests that the cache answered: there is none.
    pub cache_absent: Counter,
    /// Values that the cache had for a part of a request: for one of its keys, or for one of its looks.
    pub part_hits: Counter,
    /// Keys of which the cache knew, for a part of a request, that there is none.
    pub part_absent: Counter,
    /// Reads that had to ask the database, or would have had to.
    pub cache_misses: Counter,
    /// Writes queued for the database.
    pub writes: Counter,
    /// Rows stored by bulk loads.
    pub rows_loaded: Counter,
    /// Lines of bulk loads that were refused.
    pub lines_failed: Counter,
    /// Requests answered on the admin socket.
    pub admin_requests: Counter,
    /// Replies that found nobody.
    pub late_replies: Counter,
    /// Connections accepted.
    pub connections_accepted: Counter,
    /// Connections turned away.
    pub connections_refused: Counter,
    /// TLS sessions that were established.
    pub tls_handshakes: Counter,
    /// TLS sessions that what came has ended.
    pub tls_failures: Counter,
    /// Connections closed because they did not read their answers.
    pub slow_readers: Counter,
    /// Connections closed because they were silent.
    pub idle_closed: Counter,
    /// Pauses of accepting.
    pub accept_pauses: Counter,
    /// Turns.
    pub turns: Counter,
    /// Events.
    pub events: Counter,
    /// Nanoseconds at work.
    pub busy_ns: Counter,
    /// Nanoseconds in poll.
    pub waiting_ns: Counter,
    /// Durations of the turns that hits were answered in, once for each request.
    pub hit_duration: Histogram,
    /// Durations of reads that the database answered.
    pub miss_duration: Histogram,
    /// Durations of writes.
    pub write_duration: Histogram,
    phases: [Counter; Phase::ALL.len()],
    problems: [Counter; PROBLEM_KINDS],
    /// Only what is the peer's fault comes here, and it costs the peer its connection: a lock may be afforded.
    parse_errors: Mutex<Vec<(&'static str, u64)>>,
    answers: [[Counter; STATUSES]; Method::ALL.len()],
}

impl Default for Counters {
    fn default() -> Counters {
        Counters {
            cache_hits: Counter::default(),
            cache_absent: Counter::default(),
            part_hits: Counter::default(),
            part_absent: Counter::default(),
            cache_misses: Counter::default(),
            writes: Counter::default(),
            rows_loaded: Counter::default(),
            lines_failed: Counter::default(),
            admin_requests: Counter::default(),
            late_replies: Counter::default(),
            connections_accepted: Counter::default(),
            connections_refused: Counter::default(),
            tls_handshakes: Counter::default(),
            tls_failures: Counter::default(),
            slow_readers: Counter::default(),
            idle_closed: Counter::default(),
            accept_pauses: Counter::default(),
            turns: Counter::default(),
            events: Counter::default(),
            busy_ns: Counter::default(),
            waiting_ns: Counter::default(),
            hit_duration: Histogram::new(&DURATIONS_NS),
            miss_duration: Histogram::new(&DURATIONS_NS),
            write_duration: Histogram::new(&DURATIONS_NS),
            phases: Default::default(),
            problems: array::from_fn(|_| Counter::default()),
            parse_errors: Mutex::default(),
            answers: array::from_fn(|_| array::from_fn(|_| Counter::default())),
        }
    }
}

impl Counters {
    /// A request on the data socket was answered.
    #[inline]
    pub fn answered(&self, method: Method, status: u16) {
        self.answers[method as usize][usize::from(status) % STATUSES].add(1);
    }

    /// The cache answered a GET or HEAD: with a value, or that there is none, or that the value has not changed, or what it knows is not
    /// as a condition wants it.
    #[inline]
    pub fn hit(&self, method: Method, status: u16, absent: bool) {
        if absent { &self.cache_absent } else { &self.cache_hits }.add(1);
        self.answered(method, status);
    }

    /// A request for several keys has found so many of them, has found so many to be absent, and did not find the others. If there are no
    /// others, it is one that the cache has answered.
    pub fn several(&self, hits: u64, absent: u64, misses: u64) {
        let (hit, none) = match (misses, hits) {
            (0, 0) => (0, 1),
            (0, _) => (1, 0),
            _ => (0, 0),
        };
        self.cache_hits.add(hit);
        self.cache_absent.add(none);
        self.part_hits.add(hits - hit);
        self.part_absent.add(absent - none);
        self.cache_misses.add(misses);
    }

    /// Requests that the cache has answered.
    pub fn cache_answers(&self) -> u64 {
        self.cache_hits.get() + self.cache_absent.get()
    }

    /// Values that the cache has had.
    pub fn hits(&self) -> u64 {
        self.cache_hits.get() + self.part_hits.get()
    }

    /// What the cache has known to be absent.
    pub fn absences(&self) -> u64 {
        self.cache_absent.get() + self.part_absent.get()
    }

    /// Answers with this method, as status and number, where there were any.
    pub fn answers(&self, method: Method) -> impl Iterator<Item = (u16, u64)> {
        let counted = self.answers[method as usize].iter().enumerate().map(|(at, counter)| {
            let status = if at < 100 { at + STATUSES } else { at };
            (status as u16, counter.get())
        });
        counted.filter(|(_, count)| *count > 0)
    }

    /// Requests answered on the data socket.
    pub fn requests(&self) -> u64 {
        let of = |method: &(Method, _)| self.answers(method.0).map(|(_, count)| count).sum::<u64>();
        Method::ALL.iter().map(of).sum()
    }

    /// Lines of a bulk load were stored, or refused.
    pub fn loaded(&self, stored: u64, refused: u64) {
        self.rows_loaded.add(stored);
        self.lines_failed.add(refused);
    }

    /// A problem with this number among the kinds was answered on the data socket.
    pub fn problem(&self, kind: usize) {
        self.problems[kind].add(1);
    }

    /// Problems with this number that were answered.
    pub fn problems(&self, kind: usize) -> u64 {
        self.problems[kind].get()
    }

    /// Bytes were no proper request. The reasons are texts of ours: there are few of them.
    pub fn parse_error(&self, reason: &'static str) {
        let mut errors = self.parse_errors.lock().expect("nobody panics with it");
        if let Some((_, count)) = errors.iter_mut().find(|(known, _)| *known == reason) {
            *count += 1;
        } else if errors.len() < PARSE_REASONS {
            errors.push((reason, 1));
        }
    }

    /// What was wrong with bytes, and how often.
    pub fn parse_errors(&self) -> Vec<(&'static str, u64)> {
        self.parse_errors.lock().expect("nobody panics with it").clone()
    }

    /// A connection waits for something else than before; `None` is before its beginning, and behind its end.
    pub fn phase(&self, from: Option<Phase>, to: Option<Phase>) {
        if let Some(from) = from {
            self.phases[from as usize].sub(1);
        }
        if let Some(to) = to {
            self.phases[to as usize].add(1);
        }
    }

    /// Connections that wait for this.
    pub fn in_phase(&self, phase: Phase) -> u64 {
        self.phases[phase as usize].get()
    }
}

/// The counters of one worker.
#[derive(Debug)]
#[repr(align(128))]
pub struct Work {
    /// From a job's way into the queue to its way out.
    pub queue_wait: Histogram,
    /// Of one statement.
    pub statement: Histogram,
    /// Jobs in one statement.
    pub batch: Histogram,
    /// 1 while it has a connection to the database.
    pub connections: Counter,
    /// When it asked PostgreSQL for what it waits for, an answer or a session, in milliseconds of the process's clock; 0 while it
    /// waits for neither.
    pub asked_ms: AtomicU64,
}

impl Default for Work {
    fn default() -> Work {
        Work {
            queue_wait: Histogram::new(&DURATIONS_NS),
            statement: Histogram::new(&DURATIONS_NS),
            batch: Histogram::new(&BATCH_JOBS),
            connections: Counter::default(),
            asked_ms: AtomicU64::new(0),
        }
    }
}

/// The counters of all workers.
#[derive(Debug)]
pub struct Workers {
    /// One for each reader.
    pub readers: Box<[Arc<Work>]>,
    /// One for each writer.
    pub writers: Box<[Arc<Work>]>,
    /// Rows past their time that the sweeper has deleted.
    pub swept: Counter,
}

impl Workers {
    /// Counters for so many.
    pub fn new(readers: usize, writers: usize) -> Workers {
        let work = |n| (0..n).map(|_| Arc::default()).collect();
        Workers { readers: work(readers), writers: work(writers), swept: Counter::default() }
    }
}

/// Lines of the server's log that found no room. Any thread logs, so that this one has many writers.
pub static LOG_LINES_DROPPED: AtomicU64 = AtomicU64::new(0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_place_of_its_own() {
        let counters = Counters::default();
        for status in 100..600 {
            counters.answered(Method::Get, status);
        }
        let mut counted: Vec<(u16, u64)> = counters.answers(Method::Get).collect();
        counted.sort_unstable();
        assert_eq!(counted, (100..600).map(|status| (status, 1)).collect::<Vec<_>>());
        assert_eq!((counters.requests(), counters.answers(Method::None).count()), (500, 0));
    }

    #[test]
    fn labels_stand_where_their_variants_count() {
        for (at, (method, label)) in Method::ALL.iter().enumerate() {
            assert_eq!(*method as usize, at);
            let known = !matches!(method, Method::None | Method::Other);
            assert_eq!(Method::of(label) == *method, known || *method == Method::Other);
        }
        for (at, (phase, _)) in Phase::ALL.iter().enumerate() {
            assert_eq!(*phase as usize, at);
        }
    }

    #[test]
    fn an_observation_is_in_the_first_bucket_that_reaches_it() {
        let (one, two) = (Histogram::new(&BATCH_JOBS), Histogram::new(&BATCH_JOBS));
        for (value, times) in [(1, 1), (5, 2), (6, 3), (256, 1), (257, 4)] {
            one.observe(value, times);
        }
        two.observe(1, 10);
        let sum = Histogram::sum_of([&one, &two]).unwrap();
        let counted: Vec<(usize, u64)> =
            sum.buckets.iter().copied().enumerate().filter(|(_, n)| *n > 0).collect();
        assert_eq!(counted, [(0, 11), (4, 5), (17, 1), (18, 4)]);
        assert_eq!(sum.sum, 1 + 10 + 18 + 256 + 4 * 257 + 10);
    }

    #[test]
    fn reasons_are_bounded() {
        let counters = Counters::default();
        for i in 0..2 * PARSE_REASONS {
            counters.parse_error(Box::leak(i.to_string().into_boxed_str()));
            counters.parse_error("0");
        }
        assert_eq!(counters.parse_errors().len(), PARSE_REASONS);
        assert_eq!(counters.parse_errors()[0], ("0", 1 + 2 * PARSE_REASONS as u64));
    }
}
