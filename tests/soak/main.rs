//! A long life: two servers on one PostgreSQL, one with TLS, under a steady load whose values change their sizes, with
//! restarts of everything, new certificates and scrapes. Watches memory and descriptors, and judges every answer. Run
//! by `tools/soak`, which sets the time and the rate; not a part of the tests.
//!
//! In the first third hotrow is restarted twice; then its processes live to the end, and what they need in their last
//! third is compared with what they needed in their second.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)]

mod client;
mod known;
mod load;
mod record;
mod strangers;
#[path = "../support/mod.rs"]
mod support;

use load::Target;
use record::{CSV_HEAD, Record, Sample, Window, table};
use rustix::process::Signal;
use rustls::version::{TLS12, TLS13};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::certificates::Certificates;
use support::postgresql::{Postgresql, free_port};
use support::{Server, exposition, process, wait_until};

/// Clients of the server without TLS, and of the one with it: it gets a quarter of the load.
const CLIENTS: [usize; 2] = [24, 8];
const WATCHERS: usize = 4;
/// Readers and writers of a server.
const WORKERS: u64 = 4;
const SAMPLES_EVERY: Duration = Duration::from_secs(5);

/// The last third of a life may need so much more than its second, as a share and in bytes.
const GROWTH: (f64, f64) = (1.03, 2.0);
/// A life that is shorter is not judged by its memory: the cache still fills.
const JUDGED: Duration = Duration::from_secs(20 * 60);
/// Descriptors at rest at the end, over those of the first process at rest: the sweeper may have a session or not, which
/// takes four, and the admin socket a connection.
const MORE_DESCRIPTORS: usize = 6;

fn number(name: &str, default: f64) -> f64 {
    let text = std::env::var(format!("HOTROW_SOAK_{name}"));
    text.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("HOTROW_SOAK_{name}: {text}")))
}

/// A server, its clients' view of it, and its processes one after the other.
struct Life {
    target: Arc<Target>,
    flags: Vec<String>,
    url: String,
    server: Option<Server>,
    lives: usize,
    since: Instant,
    resting_descriptors: usize,
}

impl Life {
    fn start(&mut self) {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        let database = support::database::Database::at(self.url.clone());
        self.server = Some(Server::start_as_it_is(&database, &flags));
        self.since = Instant::now();
        self.lives += 1;
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    fn sample(&self, start: Instant) -> Sample {
        let server = self.server();
        let families = exposition::parse(&server.admin_page("/metrics")).unwrap();
        let sum = |name: &str| {
            let family = families.iter().find(|family| family.name == name).unwrap();
            family.samples.iter().map(|sample| sample.value).sum::<f64>() as u64
        };
        let (rss, anonymous, threads) = process::memory_and_threads(server.pid());
        Sample {
            at: start.elapsed().as_secs_f64(),
            age: self.since.elapsed().as_secs_f64(),
            server: self.target.name,
            life: self.lives - 1,
            phase: self.target.phase(),
            rss: rss as u64,
            anonymous: anonymous as u64,
            descriptors: server.descriptors() as u64,
            threads: threads as u64,
            cache_bytes: sum("hotrow_cache_bytes"),
            cache_entries: sum("hotrow_cache_entries"),
            connections: sum("hotrow_connections"),
            answers: self.target.record.answers(),
        }
    }

    /// Nobody is connected and nothing is under way.
    fn rests(&self) -> usize {
        let server = self.server();
        wait_until("nobody is connected any more", || server.metric("hotrow_connections") <= 1);
        wait_until("nothing is under way", || server.metric("hotrow_keys_in_flight") == 0);
        server.descriptors()
    }
}

/// What is done to them, each again and again.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Sample,
    Postgresql,
    Certificates,
    Restart,
}

#[test]
#[ignore = "takes as long as it is told to: tools/soak"]
fn soak() {
    let seconds = number("SECONDS", 60.0);
    let rate = number("RATE", 4_000.0);
    let out = PathBuf::from(std::env::var("HOTROW_SOAK_CSV").unwrap_or_else(|_| "/dev/null".into()));
    process::allow_many_descriptors();
    let part = |share: f64| Duration::from_secs_f64(seconds * share);
    let start = Instant::now();

    let mut postgresql = Postgresql::start_new();
    // Everything else as it is; rows that are changed for an hour have to be tidied up after.
    postgresql.configure(&["autovacuum=on", "autovacuum_naptime=10s"]);
    postgresql.stop_fast();
    postgresql.start();
    for statement in ["CREATE DATABASE plain", "CREATE DATABASE tls"] {
        postgresql.connect().batch_execute(statement).unwrap();
    }
    let certificates = Certificates::new();
    let mut lives: Vec<Life> = ["plain", "tls"]
        .into_iter()
        .map(|name| {
            let port = free_port();
            let mut flags: Vec<String> =
                ["--cache-bytes", "64MiB", "--event-loops", "2", "--log-level", "info"]
                    .map(str::to_owned)
                    .into();
            flags.extend(["--listen".to_owned(), format!("127.0.0.1:{port}")]);
            let mut tls = Vec::new();
            if name == "tls" {
                flags.extend(certificates.flags());
                // Of both versions.
                tls = [&TLS12, &TLS13].map(|version| certificates.config(version)).into();
            }
            let target = Arc::new(Target {
                name,
                address: ([127, 0, 0, 1], port).into(),
                tls,
                shared: AtomicI64::new(0),
                shared_unknown: AtomicI64::new(0),
                late: AtomicU64::new(0),
                stop: AtomicBool::new(false),
                phase: part(1.0 / 60.0),
                start,
                record: Record::default(),
            });
            let url = postgresql.url().replace("dbname=postgres", &format!("dbname={name}"));
            Life { target, flags, url, server: None, lives: 0, since: start, resting_descriptors: 0 }
        })
        .collect();
    for life in &mut lives {
        life.start();
        life.resting_descriptors = life.rests();
    }
    println!("{seconds} s, {rate} requests a second, flags {:?}", lives[0].flags);

    let mut clients = Vec::new();
    let all: usize = CLIENTS.iter().sum();
    for (life, count) in lives.iter().zip(CLIENTS) {
        for number in 0..count {
            let (target, rate) = (Arc::clone(&life.target), rate / all as f64);
            let seed = (count * 1_000 + number) as u64;
            clients.push(thread::spawn(move || load::run(target, number, rate, seed)));
        }
        for number in 0..WATCHERS {
            let target = Arc::clone(&life.target);
            clients.push(thread::spawn(move || strangers::watch(&target, number)));
        }
        let target = Arc::clone(&life.target);
        clients.push(thread::spawn(move || strangers::visit(&target)));
    }

    let mut csv = fs::File::create(&out).unwrap();
    writeln!(csv, "{CSV_HEAD}").unwrap();
    let (mut samples, mut windows): (Vec<Sample>, Vec<Window>) = (Vec::new(), Vec::new());
    let every = [
        (Deed::Sample, SAMPLES_EVERY.min(part(1.0 / 60.0))),
        (Deed::Postgresql, part(1.0 / 15.0)),
        (Deed::Certificates, part(1.0 / 23.0)),
        (Deed::Restart, part(1.0 / 6.0)),
    ];
    let began = Instant::now();
    let mut due: Vec<(Instant, Deed, Duration)> =
        every.map(|(deed, period)| (began + period, deed, period)).into();
    let (mut outages, mut reloads, mut restarts) = (0, 0, 0);
    loop {
        due.sort_by_key(|(at, ..)| *at);
        let (at, deed, period) = due[0];
        if at.max(Instant::now()) > began + part(1.0) {
            break;
        }
        thread::sleep(at.saturating_duration_since(Instant::now()));
        due[0].0 = (at + period).max(Instant::now());
        let from = Instant::now();
        match deed {
            Deed::Sample => {
                for life in &lives {
                    let sample = life.sample(start);
                    writeln!(csv, "{}", sample.csv()).unwrap();
                    samples.push(sample);
                }
            }
            Deed::Postgresql => {
                let reconnects = |life: &Life| life.server().metric("hotrow_database_reconnects_total");
                let before: Vec<u64> = lives.iter().map(reconnects).collect();
                let what = match outages % 3 {
                    0 => {
                        postgresql.stop_fast();
                        postgresql.start();
                        "PostgreSQL stopped and started"
                    }
                    1 => {
                        postgresql.kill();
                        postgresql.start();
                        "PostgreSQL killed and started"
                    }
                    _ => {
                        wait_until("there is a backend to kill", || postgresql.kill_a_backend());
                        "a backend killed"
                    }
                };
                outages += 1;
                // Each of them has noticed it and is back. Where that takes longer, what is not explained will show it.
                let patience = Instant::now() + Duration::from_secs(30);
                for (life, before) in lives.iter().zip(before) {
                    let is_back = || {
                        reconnects(life) >= before + WORKERS
                            && life.server().metric("hotrow_database_up") == 1
                            && life.server().metric("hotrow_keys_in_doubt") == 0
                    };
                    while !is_back() && Instant::now() < patience {
                        thread::sleep(Duration::from_millis(20));
                    }
                }
                windows.push(Window { what, server: None, from, to: Instant::now() });
            }
            Deed::Certificates => {
                reloads += 1;
                let certificate = certificates.issue();
                for life in &lives {
                    life.server().signal(Signal::HUP);
                }
                let target = &lives[1].target;
                wait_until("the new certificate is shown", || {
                    target
                        .open(reloads)
                        .is_ok_and(|connection| connection.certificate() == Some(certificate.clone()))
                });
            }
            Deed::Restart if restarts == 2 => due[0].0 = began + part(2.0),
            Deed::Restart => {
                restarts += 1;
                for life in &mut lives {
                    let from = Instant::now();
                    let (status, said) = life.server.take().unwrap().stop();
                    if !status.success() {
                        life.target.record.wrong(format!("hotrow ended with {status:?}: {said}"));
                    }
                    life.start();
                    let server = Some(life.target.name);
                    windows.push(Window { what: "hotrow restarted", server, from, to: Instant::now() });
                }
            }
        }
    }

    for life in &lives {
        life.target.stop.store(true, Ordering::Relaxed);
    }
    for client in clients {
        client.join().unwrap();
    }
    println!(
        "{outages} outages of PostgreSQL, {reloads} new certificates, {restarts} restarts of each hotrow"
    );
    let mut faults = Vec::new();
    for life in &lives {
        let (target, name) = (&life.target, life.target.name);
        println!("\n{name}: {}", target.record.summary());
        println!(
            "{} requests not sent, for their client waited for an answer",
            target.late.load(Ordering::Relaxed)
        );
        let (text, (before, after)) = table(&samples, name);
        print!("{text}");
        if life.since.elapsed() < JUDGED {
            println!("{name}: too short a life to judge its memory");
        } else if after > before * GROWTH.0 + GROWTH.1 {
            faults.push(format!("{name}: memory grew from {before:.1} to {after:.1} MiB"));
        }
        let (first, last) = (life.resting_descriptors, life.rests());
        println!("{name}: descriptors at rest {first} at the beginning, {last} at the end");
        if last > first + MORE_DESCRIPTORS {
            faults.push(format!("{name}: {first} descriptors at rest have become {last}"));
        }
        let counter = target.open(0).and_then(|mut connection| {
            connection.request("GET", &format!("/kv/{name}-shared"), "Cache-Control: no-cache\r\n", b"")
        });
        let counter: i64 = String::from_utf8(counter.unwrap().body).unwrap().parse().unwrap();
        let least = target.shared.load(Ordering::Relaxed);
        let most = least + target.shared_unknown.load(Ordering::Relaxed);
        println!(
            "{name}: the counter of all clients is {counter}; acknowledged {least}, with unknown ones {most}"
        );
        if !(least..=most).contains(&counter) {
            faults.push(format!("{name}: the counter is {counter}, and should be {least} to {most}"));
        }
        let (explained, others) = target.record.explain(&windows, start);
        for (what, count) in explained {
            println!("  {count:7} × {what}");
        }
        for other in others.iter().take(50) {
            println!("  NOT EXPLAINED: {other}");
        }
        if !others.is_empty() {
            faults.push(format!("{name}: {} answers are not explained", others.len()));
        }
        if target.record.wrongs() > 0 {
            faults.push(format!("{name}: {} wrong answers", target.record.wrongs()));
        }
        let warnings = life.server().stderr();
        let warnings: Vec<&str> = warnings.lines().filter(|line| line.contains(" ERROR ")).collect();
        println!(
            "{name}: {} errors in the log of its last process {:.500}",
            warnings.len(),
            warnings.join("\n")
        );
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    println!("verdict: no growth beyond the bounds, every answer right or explained");
}
