//! `/metrics`, in the text that Prometheus reads. Adds up what every thread has counted for itself: a scrape takes no
//! lock but each shard's for a few loads and that of each loop's malformed requests, and opens no file. Called by [`super::admin`]; names and help are in
//! [`crate::metrics::families`].

use super::admin::Status;
use crate::http::problem::Kind;
use crate::metrics::families::{self, Family};
use crate::metrics::{Counter, Counters, Histogram, LOG_LINES_DROPPED, Method, Phase, Snapshot, Work};
use crate::process;
use crate::store::backend::Backend;
use std::fmt::{Display, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What histograms and times are counted in, to seconds.
const NS_A_SECOND: f64 = 1e9;

/// The page.
pub fn metrics(status: &Status, backend: &Backend) -> String {
    let mut page = Page { text: String::with_capacity(32 * 1024), last: None };
    requests(&mut page, &status.counters);
    cache(&mut page, status, &status.counters);
    connections(&mut page, status, &status.counters);
    loops(&mut page, &status.counters);
    database(&mut page, status, backend);
    page.one(&families::READY, u64::from(status.unready().is_empty()));
    page.put(&families::LOG_DROPPED, &["server"], LOG_LINES_DROPPED.load(Ordering::Relaxed));
    let about = &status.about;
    let dropped = about.access_log.as_ref().map_or(0, |log| log.dropped());
    page.put(&families::LOG_DROPPED, &["access"], dropped);
    page.put(&families::BUILD_INFO, &[env!("CARGO_PKG_VERSION"), &about.commit, &about.postgresql], 1);
    page.one(&families::PROCESS_CPU, process::cpu_seconds());
    page.one(&families::PROCESS_OPEN_FDS, status.process.open_fds());
    page.one(&families::PROCESS_MAX_FDS, process::max_fds());
    page.one(&families::PROCESS_VIRTUAL_MEMORY, status.process.virtual_bytes());
    page.one(&families::PROCESS_RESIDENT_MEMORY, status.process.resident_bytes());
    page.one(&families::PROCESS_START_TIME, status.process.start_seconds());
    page.text
}

type Loops = [Arc<Counters>];

fn sum(loops: &Loops, counter: impl Fn(&Counters) -> &Counter) -> u64 {
    loops.iter().map(|counters| counter(counters).get()).sum()
}

fn requests(page: &mut Page, loops: &Loops) {
    page.head(&families::REQUESTS);
    for (method, label) in Method::ALL {
        let mut sums: Vec<(u16, u64)> = Vec::new();
        for (status, count) in loops.iter().flat_map(|counters| counters.answers(method)) {
            match sums.iter_mut().find(|(known, _)| *known == status) {
                Some((_, sum)) => *sum += count,
                None => sums.push((status, count)),
            }
        }
        sums.sort_unstable();
        for (status, sum) in sums {
            page.put(&families::REQUESTS, &[label, &status.to_string()], sum);
        }
    }
    page.one(&families::ADMIN_REQUESTS, sum(loops, |c| &c.admin_requests));
    // That a key is not there is an answer like any other, and counted as such above.
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::KeyNotFound) {
        let count = loops.iter().map(|counters| counters.problems(kind as usize)).sum::<u64>();
        page.put(&families::PROBLEMS, &[kind.facts().1], count);
    }
    let mut reasons: Vec<(&str, u64)> = loops.iter().flat_map(|counters| counters.parse_errors()).collect();
    reasons.sort_unstable();
    page.head(&families::PARSE_ERRORS);
    for same in reasons.chunk_by(|a, b| a.0 == b.0) {
        page.put(&families::PARSE_ERRORS, &[same[0].0], same.iter().map(|(_, count)| count).sum::<u64>());
    }
    for (kind, of) in [
        ("hit", (|c| &c.hit_duration) as fn(&Counters) -> &Histogram),
        ("miss", |c| &c.miss_duration),
        ("write", |c| &c.write_duration),
    ] {
        let sum = Histogram::sum_of(loops.iter().map(|counters| of(counters)));
        page.histogram(&families::REQUEST_DURATION, kind, sum, NS_A_SECOND);
    }
}

fn cache(page: &mut Page, status: &Status, loops: &Loops) {
    let stats = status.engine.stats();
    page.put(&families::CACHE_REQUESTS, &["hit"], loops.iter().map(|c| c.hits()).sum::<u64>());
    page.put(&families::CACHE_REQUESTS, &["absent"], loops.iter().map(|c| c.absences()).sum::<u64>());
    page.put(&families::CACHE_REQUESTS, &["miss"], sum(loops, |c| &c.cache_misses));
    page.one(&families::CACHE_ENTRIES, stats.entries);
    page.one(&families::CACHE_BYTES, stats.bytes);
    page.one(&families::CACHE_LIMIT_BYTES, status.about.cache_bytes);
    for (reason, evicted) in ["once", "cold", "absent"].into_iter().zip(stats.evicted) {
        page.put(&families::CACHE_EVICTIONS, &[reason], evicted);
    }
    page.one(&families::CACHE_LATE_FILLS, stats.late_fills);
    page.one(&families::CACHE_LOCK_WAITS, status.engine.lock_waits());
    page.one(&families::KEYS_IN_FLIGHT, stats.in_flight);
    page.one(&families::KEYS_IN_DOUBT, stats.in_doubt);
    page.one(&families::WATCHERS, stats.watchers);
    page.one(&families::ROWS_SWEPT, status.workers.swept.get());
    page.one(&families::WRITES, sum(loops, |c| &c.writes));
    page.one(&families::ROWS_LOADED, sum(loops, |c| &c.rows_loaded));
    page.one(&families::LINES_FAILED, sum(loops, |c| &c.lines_failed));
    page.one(&families::LATE_REPLIES, sum(loops, |c| &c.late_replies));
}

fn connections(page: &mut Page, status: &Status, loops: &Loops) {
    for (phase, label) in Phase::ALL {
        let count = loops.iter().map(|counters| counters.in_phase(phase)).sum::<u64>();
        page.put(&families::CONNECTIONS, &[label], count);
    }
    page.one(&families::CONNECTIONS_LIMIT, status.about.max_connections);
    page.one(&families::CONNECTIONS_ACCEPTED, sum(loops, |c| &c.connections_accepted));
    page.one(&families::CONNECTIONS_REFUSED, sum(loops, |c| &c.connections_refused));
    page.one(&families::TLS_HANDSHAKES, sum(loops, |c| &c.tls_handshakes));
    page.one(&families::TLS_FAILURES, sum(loops, |c| &c.tls_failures));
    page.put(&families::CONNECTIONS_CLOSED, &["idle"], sum(loops, |c| &c.idle_closed));
    page.put(&families::CONNECTIONS_CLOSED, &["slow_reader"], sum(loops, |c| &c.slow_readers));
    page.one(&families::ACCEPT_PAUSES, sum(loops, |c| &c.accept_pauses));
}

fn loops(page: &mut Page, loops: &Loops) {
    for (family, of, unit) in [
        (&families::LOOP_TURNS, (|c| &c.turns) as fn(&Counters) -> &Counter, None),
        (&families::LOOP_EVENTS, |c| &c.events, None),
        (&families::LOOP_BUSY, |c| &c.busy_ns, Some(NS_A_SECOND)),
        (&families::LOOP_WAITING, |c| &c.waiting_ns, Some(NS_A_SECOND)),
    ] {
        for (number, counters) in loops.iter().enumerate() {
            let (number, value) = (number.to_string(), of(counters).get());
            match unit {
                None => page.put(family, &[&number], value),
                Some(unit) => page.put(family, &[&number], value as f64 / unit),
            }
        }
    }
}

fn database(page: &mut Page, status: &Status, backend: &Backend) {
    page.one(&families::DATABASE_UP, u64::from(!status.health.any_down()));
    let workers = [("reader", &status.workers.readers), ("writer", &status.workers.writers)];
    for (label, work) in &workers {
        let connected = work.iter().map(|work| work.connections.get()).sum::<u64>();
        page.put(&families::DATABASE_CONNECTIONS, &[label], connected);
    }
    page.one(&families::DATABASE_RECONNECTS, status.health.reconnects());
    page.put(&families::DATABASE_QUEUE_JOBS, &["reader"], backend.reads.len());
    let writes = backend.writes.iter().map(|queue| queue.len()).sum::<usize>();
    page.put(&families::DATABASE_QUEUE_JOBS, &["writer"], writes);
    for (family, of, unit) in [
        (&families::DATABASE_QUEUE_WAIT, (|w| &w.queue_wait) as fn(&Work) -> &Histogram, NS_A_SECOND),
        (&families::DATABASE_STATEMENT, |w| &w.statement, NS_A_SECOND),
        (&families::DATABASE_BATCH, |w| &w.batch, 1.0),
    ] {
        for (label, work) in &workers {
            page.histogram(family, label, Histogram::sum_of(work.iter().map(|work| of(work))), unit);
        }
    }
}

/// The text so far.
struct Page {
    text: String,
    /// Whose help was written last: it stands once above all series of a name.
    last: Option<&'static str>,
}

impl Page {
    fn head(&mut self, family: &Family) {
        if self.last.replace(family.name) != Some(family.name) {
            let Family { name, kind, help, .. } = family;
            let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {}", kind.as_str());
        }
    }

    /// The one series of a metric without labels.
    fn one(&mut self, family: &Family, value: impl Display) {
        self.put(family, &[], value);
    }

    /// One series: the values of its labels, in their order, and its own.
    fn put(&mut self, family: &Family, labels: &[&str], value: impl Display) {
        debug_assert_eq!(family.labels.len(), labels.len(), "{}", family.name);
        self.head(family);
        let pairs = family.labels.iter().copied().zip(labels.iter().copied());
        self.sample(family.name, "", pairs, value);
    }

    /// Every bucket of one series; none where there is nothing to add up.
    fn histogram(&mut self, family: &Family, label: &str, sum: Option<Snapshot>, unit: f64) {
        self.head(family);
        let Some(Snapshot { bounds, buckets, sum }) = sum else { return };
        let (name, pair) = (family.name, (family.labels[0], label));
        let mut count = 0;
        for (at, bucket) in buckets.iter().enumerate() {
            count += bucket;
            let bound =
                bounds.get(at).map_or_else(|| "+Inf".to_owned(), |bound| (*bound as f64 / unit).to_string());
            self.sample(name, "_bucket", [pair, ("le", &bound)].into_iter(), count);
        }
        self.sample(name, "_sum", [pair].into_iter(), sum as f64 / unit);
        self.sample(name, "_count", [pair].into_iter(), count);
    }

    fn sample<'a>(
        &mut self,
        name: &str,
        suffix: &str,
        labels: impl Iterator<Item = (&'a str, &'a str)>,
        value: impl Display,
    ) {
        let _ = write!(self.text, "{name}{suffix}");
        let mut before = '{';
        for (label, value) in labels {
            let _ = write!(self.text, "{before}{label}=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
            before = ',';
        }
        if before == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{DURATIONS_NS, families::ALL};

    #[test]
    fn labels_are_escaped_and_the_help_stands_once() {
        let mut page = Page { text: String::new(), last: None };
        page.put(&families::LOG_DROPPED, &["a \"b\" \\ \n"], 1);
        page.put(&families::LOG_DROPPED, &["c"], 2);
        let name = families::LOG_DROPPED.name;
        let lines: Vec<&str> = page.text.lines().skip(2).collect();
        assert_eq!(
            lines,
            [format!("{name}{{log=\"a \\\"b\\\" \\\\ \\n\"}} 1"), format!("{name}{{log=\"c\"}} 2")]
        );
    }

    #[test]
    fn buckets_add_up() {
        let histogram = Histogram::new(&DURATIONS_NS);
        histogram.observe(10_000, 2);
        histogram.observe(20_000_000_000, 1);
        let mut page = Page { text: String::new(), last: None };
        page.histogram(&families::REQUEST_DURATION, "hit", Histogram::sum_of([&histogram]), NS_A_SECOND);
        for line in [
            "hotrow_request_duration_seconds_bucket{kind=\"hit\",le=\"0.00001\"} 2",
            "hotrow_request_duration_seconds_bucket{kind=\"hit\",le=\"10\"} 2",
            "hotrow_request_duration_seconds_bucket{kind=\"hit\",le=\"+Inf\"} 3",
            "hotrow_request_duration_seconds_sum{kind=\"hit\"} 20.00002",
            "hotrow_request_duration_seconds_count{kind=\"hit\"} 3",
        ] {
            assert!(page.text.lines().any(|l| l == line), "{line} is not in\n{}", page.text);
        }
    }

    #[test]
    fn there_is_room_for_every_kind_of_problem() {
        assert!(Kind::ALL.into_iter().all(|kind| (kind as usize) < crate::limits::PROBLEM_KINDS));
    }

    #[test]
    fn names_are_each_used_once() {
        let mut names: Vec<&str> = ALL.iter().map(|family| family.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
