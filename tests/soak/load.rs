//! The clients: each has keys of its own, which nobody else writes, and so knows what every answer must be. They ask at
//! a rate that does not care for answers; whatever happens, they go on. What they ask for is in [`deeds`].

mod deeds;

use super::client::{Answer, Connection};
use super::known::{Known, LARGEST, State};
use super::record::{Event, Record};
use fastrand::Rng;
use rustls::ClientConfig;
use serde_json::Value;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Keys of one client.
const KEYS: usize = 20_000;
/// Those of them that may have values over [`SMALL`]: so many that they do not fit into the cache, and fit on a disk.
const LARGE_KEYS: usize = 300;
const SMALL: usize = 4096;
/// Numbers of one client.
const NUMBERS: usize = 50;
/// Every so many requests a client begins a new connection.
const REQUESTS_A_CONNECTION: u32 = 2_000;

/// Sizes of values, from and to, one after the other, so that what was freed has never the size of what comes next.
const PHASES: [(usize, usize); 5] = [(1, 64), (64, 1024), (1024, 8192), (8192, LARGEST), (1, LARGEST)];

/// A server as its clients see it.
pub struct Target {
    pub name: &'static str,
    pub address: SocketAddr,
    pub tls: Vec<Arc<ClientConfig>>,
    /// What the counter that all clients add to was acknowledged to be, and what may have come on top of it.
    pub shared: AtomicI64,
    pub shared_unknown: AtomicI64,
    /// Requests that were due while their client waited for an answer.
    pub late: AtomicU64,
    /// No more requests; then no more connections.
    pub stop: AtomicBool,
    /// How long a phase lasts.
    pub phase: Duration,
    pub start: Instant,
    pub record: Record,
}

impl Target {
    pub fn phase(&self) -> usize {
        (self.start.elapsed().as_millis() / self.phase.as_millis().max(1)) as usize % PHASES.len()
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub fn open(&self, at: usize) -> io::Result<Connection> {
        let tls = (!self.tls.is_empty()).then(|| &self.tls[at % self.tls.len()]);
        Connection::open(self.address, tls)
    }
}

/// One client.
struct Owner {
    target: Arc<Target>,
    number: usize,
    rng: Rng,
    keys: Vec<Known>,
    /// The least and the most that each number may be.
    numbers: Vec<(i64, i64)>,
    connection: Option<Connection>,
    requests: u32,
    writes: u64,
}

/// How a request ended for who asked.
enum Outcome {
    Answered(Answer, Instant, Instant),
    /// Certainly nothing was changed.
    Refused,
    Unknown,
}

/// Runs one client until it is told to stop, at this rate.
pub fn run(target: Arc<Target>, number: usize, rate: f64, seed: u64) {
    let mut owner = Owner {
        target,
        number,
        rng: Rng::with_seed(seed),
        keys: vec![Known::absent(); KEYS],
        numbers: vec![(0, 0); NUMBERS],
        connection: None,
        requests: 0,
        writes: 0,
    };
    let mut due = Instant::now();
    while !owner.target.stopped() {
        due += Duration::from_secs_f64(-(1.0 - owner.rng.f64()).ln() / rate);
        let now = Instant::now();
        match due.checked_duration_since(now) {
            Some(pause) => thread::sleep(pause),
            None if now - due > Duration::from_secs(1) => {
                owner.target.late.fetch_add(((now - due).as_secs_f64() * rate) as u64, Ordering::Relaxed);
                due = now;
            }
            None => {}
        }
        owner.ask();
    }
}

impl Owner {
    fn ask(&mut self) {
        match self.rng.u32(..1_000) {
            0..650 => self.get(),
            650..670 => self.get_if_changed(),
            670..690 => self.get_many(),
            690..840 => self.put(),
            840..870 => self.delete(),
            870..910 => self.add(),
            910..930 => self.add_to_shared(),
            930..960 => self.put_conditionally(),
            960..985 => self.batch(),
            985..998 => self.list(false),
            _ => self.list(true),
        }
    }

    fn name(&self, key: usize) -> String {
        format!("{}-{}-{key}", self.target.name, self.number)
    }

    /// The first is asked for most: 1/n of that the n-th.
    fn some_key(&mut self, of: usize) -> usize {
        (((of as f64).ln() * self.rng.f64()).exp() as usize).clamp(1, of) - 1
    }

    /// A key and a new value for it: small or large, as the phase has it.
    fn some_write(&mut self, ttl: Option<u64>) -> (usize, State) {
        let mut phase = self.target.phase();
        // A few large values change as much as many small ones, and the disk is not what is looked at.
        if PHASES[phase].0 > SMALL && self.rng.u32(..5) > 0 {
            phase = 1;
        }
        let (from, to) = PHASES[phase];
        let (from, to) = ((from as f64).ln(), (to as f64).ln());
        let bytes = (from + (to - from) * self.rng.f64()).exp() as usize;
        let key = self.some_key(if bytes > SMALL { LARGE_KEYS } else { KEYS });
        self.writes += 1;
        let number = (self.number as u64) << 40 | self.writes;
        // Its end is filled in when the answer is here.
        let expires = ttl.map(|_| (Instant::now(), Instant::now()));
        (key, State::value(number, bytes.max(1), expires))
    }

    /// Sends a request and takes its answer; whatever is not expected is noted.
    fn request(
        &mut self,
        method: &str,
        target: &str,
        fields: &str,
        body: &[u8],
        expected: &[u16],
    ) -> Outcome {
        let sent = Instant::now();
        if self.requests >= REQUESTS_A_CONNECTION {
            self.requests = 0;
            if let Some(connection) = self.connection.take().filter(|_| self.rng.bool()) {
                connection.reset();
            }
        }
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match self.target.open(self.number) {
                Ok(connection) => connection,
                Err(error) => {
                    self.note(sent, Instant::now(), 0, format!("connecting: {error}"));
                    thread::sleep(Duration::from_millis(20));
                    return Outcome::Refused;
                }
            },
        };
        self.requests += 1;
        let sent = Instant::now();
        match connection.request(method, target, fields, body) {
            Ok(answer) => {
                let answered = Instant::now();
                self.target.record.answer(answer.status, answered - sent);
                if !answer.close {
                    self.connection = Some(connection);
                }
                if expected.contains(&answer.status) {
                    return Outcome::Answered(answer, sent, answered);
                }
                let name = problem(&answer);
                self.note(sent, answered, answer.status, format!("{method} {name}"));
                if answer.status == 504 && name != "not-cached" { Outcome::Unknown } else { Outcome::Refused }
            }
            Err(error) => {
                let silent = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                let where_it_is = if silent {
                    format!(" of {target}: {}", connection.whereabouts())
                } else {
                    String::new()
                };
                self.note(sent, Instant::now(), 0, format!("{method}: {error}{where_it_is}"));
                Outcome::Unknown
            }
        }
    }

    /// Something that an outage or a restart may explain.
    fn note(&self, sent: Instant, answered: Instant, status: u16, what: String) {
        self.target.record.event(Event { sent, answered, status, what, server: self.target.name });
    }

    /// Something that nothing explains.
    fn judge(&self, verdict: Result<(), String>, name: &str, sent: Instant, answered: Instant) {
        if let Err(message) = verdict {
            self.target.record.wrong(format!(
                "{:.1?} to {:.1?}: {name}: {message}",
                sent - self.target.start,
                answered - self.target.start
            ));
        }
    }
}

pub fn problem(answer: &Answer) -> String {
    let json: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    json["type"].as_str().unwrap_or("no problem").replace("urn:hotrow:problem:", "")
}
