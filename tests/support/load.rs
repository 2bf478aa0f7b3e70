//! Clients that read, write, load, delete and count with a few keys as fast as they are answered, and record it. Whatever happens to the
//! server or its database, they go on.

use super::client::{Client, Response};
use super::history::{COUNTER, History, Operation, What, text_of, value_at};
use super::{DEADLINE, wait_until};
use fastrand::Rng;
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Clients of one run.
pub const CLIENTS: u32 = 16;

/// A running load.
#[derive(Debug)]
pub struct Load {
    /// The keys, which must be nobody else's and absent at the beginning.
    pub keys: Vec<String>,
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<History>>,
    address: SocketAddr,
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    stop: AtomicBool,
    /// Writes that were acknowledged, each of [`CLIENTS`].
    acknowledged: Vec<AtomicU64>,
    /// Writes of unknown outcome.
    unknown: AtomicU64,
    /// Operations that were refused: they certainly did nothing.
    refused: AtomicU64,
    /// Those that were done, of each kind: in the order of [`KINDS`].
    done: [AtomicU64; KINDS.len()],
}

/// The kinds of operations that change something.
const KINDS: [&str; 5] = ["PUT", "load", "DELETE", "swap", "addition"];

fn kind(what: &What) -> Option<usize> {
    match what {
        What::Put { .. } => Some(0),
        What::Loaded(_) => Some(1),
        What::Delete { .. } => Some(2),
        What::Swap { .. } => Some(3),
        What::Count(_) => Some(4),
        What::Get(_)
        | What::NotSwapped(_)
        | What::Exists
        | What::MaybePut(_)
        | What::MaybeDelete
        | What::MaybeCount => None,
    }
}

impl Load {
    /// Starts the clients, on these keys and two that they count with.
    pub fn start(address: SocketAddr, mut keys: Vec<String>, seed: u64) -> Load {
        let counters: Vec<String> = keys.iter().take(2).map(|key| format!("{key}{COUNTER}")).collect();
        keys.extend(counters);
        let shared = Arc::new(Shared {
            start: Instant::now(),
            stop: AtomicBool::new(false),
            acknowledged: (0..CLIENTS).map(|_| AtomicU64::new(0)).collect(),
            unknown: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            done: Default::default(),
        });
        let clients = (0..CLIENTS).map(|number| {
            let keys = keys.clone();
            let (shared, rng) =
                (Arc::clone(&shared), Rng::with_seed(seed.wrapping_mul(1_000) + u64::from(number)));
            thread::spawn(move || {
                Loader { number, address, shared, rng, connection: None, writes: 0, seen: HashMap::new() }
                    .run(&keys)
            })
        });
        Load { clients: clients.collect(), keys, shared, address }
    }

    /// Writes acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Writes of unknown outcome so far.
    pub fn unknown(&self) -> u64 {
        self.shared.unknown.load(Ordering::Relaxed)
    }

    /// Operations refused so far.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Waits until so many more writes were acknowledged, and some of every client: the service is whole.
    pub fn go_on_for(&self, writes: u64) {
        let each = |shared: &Shared| -> Vec<u64> {
            shared.acknowledged.iter().map(|count| count.load(Ordering::Relaxed)).collect()
        };
        let (sum, before) = (self.acknowledged() + writes, each(&self.shared));
        wait_until("writes are acknowledged", || {
            self.check_clients();
            let every = each(&self.shared).iter().zip(&before).all(|(now, before)| now > before);
            every && self.acknowledged() >= sum
        });
    }

    /// Waits until one more of every kind of operation was done: not only those that come first work.
    pub fn every_kind_is_done(&self) {
        let done = || self.shared.done.each_ref().map(|count| count.load(Ordering::Relaxed));
        let before = done();
        for (at, kind) in KINDS.iter().enumerate() {
            wait_until(&format!("a {kind} is done"), || {
                self.check_clients();
                done()[at] > before[at]
            });
        }
    }

    /// Fails when a client has.
    pub fn check_clients(&self) {
        let ended = self.clients.iter().any(JoinHandle::is_finished);
        assert!(!ended || self.shared.stop.load(Ordering::Relaxed), "a client has failed");
    }

    /// Tells the clients to end.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// Ends the clients. Call it when nothing is under way any more: two reads of every key, which must agree, end the
    /// history. Returns the time of its end, too.
    pub fn finish(self) -> (History, u64) {
        self.stop();
        let mut history = History::default();
        for client in self.clients {
            match client.join() {
                Ok(recorded) => history.extend(recorded),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        let mut last = Loader {
            number: CLIENTS,
            address: self.address,
            shared: Arc::clone(&self.shared),
            rng: Rng::with_seed(0),
            connection: None,
            writes: 0,
            seen: HashMap::new(),
        };
        for key in &self.keys {
            let mut read = || {
                let mut found = None;
                wait_until("a read is answered", || {
                    found = last.operate(&Asked::Get, key);
                    found.is_some()
                });
                found.expect("waited for")
            };
            let (first, second) = (read(), read());
            assert_eq!(first.what, second.what, "two reads of {key} while nobody writes");
            history.push(key, first);
            history.push(key, second);
        }
        (history, self.shared.now_ns())
    }
}

impl Shared {
    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
}

/// What a client asks for.
#[derive(Clone, Debug)]
enum Asked {
    Get,
    Put(u64),
    /// A value in place of the row that was seen with this one, and had this tag.
    Swap {
        seen: u64,
        tag: String,
        value: u64,
    },
    /// A value where there is no row.
    Create(u64),
    Delete,
    /// 1 to the number that is there.
    Count,
}

impl Asked {
    fn method(&self) -> &'static str {
        match self {
            Asked::Get => "GET",
            Asked::Put(_) | Asked::Swap { .. } | Asked::Create(_) => "PUT",
            Asked::Delete => "DELETE",
            Asked::Count => "POST",
        }
    }

    fn condition(&self) -> String {
        match self {
            Asked::Swap { tag, .. } => format!("If-Match: {tag}\r\n"),
            Asked::Create(_) => "If-None-Match: *\r\n".to_owned(),
            Asked::Get | Asked::Put(_) | Asked::Delete | Asked::Count => String::new(),
        }
    }

    /// What it stores.
    fn value(&self) -> Option<u64> {
        match self {
            Asked::Put(value) | Asked::Swap { value, .. } | Asked::Create(value) => Some(*value),
            Asked::Get | Asked::Delete | Asked::Count => None,
        }
    }

    /// What it is where nobody knows what came of it.
    fn unknown(&self) -> Option<What> {
        match self {
            Asked::Get => None,
            Asked::Delete => Some(What::MaybeDelete),
            Asked::Count => Some(What::MaybeCount),
            Asked::Put(value) | Asked::Swap { value, .. } | Asked::Create(value) => {
                Some(What::MaybePut(*value))
            }
        }
    }
}

struct Loader {
    number: u32,
    address: SocketAddr,
    shared: Arc<Shared>,
    rng: Rng,
    connection: Option<Client>,
    writes: u64,
    /// The row of each key as it was seen last: its value and its tag.
    seen: HashMap<String, (u64, String)>,
}

impl Loader {
    fn run(mut self, keys: &[String]) -> History {
        let mut history = History::default();
        while !self.shared.stop.load(Ordering::Relaxed) {
            let key = &keys[self.rng.usize(..keys.len())];
            let asked = match self.rng.u8(..41) {
                18..=34 if key.ends_with(COUNTER) => Asked::Count,
                0..=17 => Asked::Get,
                18..=28 => Asked::Put(self.new_value()),
                29..=32 => match self.seen.get(key).cloned() {
                    Some((seen, tag)) => Asked::Swap { seen, tag, value: self.new_value() },
                    None => Asked::Get,
                },
                33 | 34 => Asked::Create(self.new_value()),
                35 => {
                    let other = &keys[self.rng.usize(..keys.len())];
                    self.operate_batch([key, other], &mut history);
                    continue;
                }
                36 if !key.ends_with(COUNTER) => {
                    let other = keys.iter().find(|_| self.rng.bool()).filter(|key| !key.ends_with(COUNTER));
                    self.operate_load([other.unwrap_or(key), key], &mut history);
                    continue;
                }
                _ => Asked::Delete,
            };
            if let Some(operation) = self.operate(&asked, key) {
                history.push(key, operation);
            }
        }
        history
    }

    /// A value that nobody else writes.
    fn new_value(&mut self) -> u64 {
        self.writes += 1;
        (u64::from(self.number) << 40) | self.writes
    }

    /// The connection, opened if it is not. `None`: the server is not there.
    fn connected(&mut self) -> Option<&mut Client> {
        if self.connection.is_none() {
            match TcpStream::connect(self.address) {
                Ok(stream) => self.connection = Some(Client::over(stream)),
                Err(_) => self.pause(),
            }
        }
        self.connection.as_mut()
    }

    /// One operation; `None`: nothing came of it.
    fn operate(&mut self, asked: &Asked, key: &str) -> Option<Operation> {
        let query = if let Asked::Count = asked { "?op=incr" } else { "" };
        let (target, body) = (format!("/kv/{key}{query}"), asked.value().map_or(String::new(), text_of));
        let shared = Arc::clone(&self.shared);
        let connection = self.connected()?;
        let begin_ns = shared.now_ns();
        let result = connection.try_request(asked.method(), &target, &asked.condition(), body.as_bytes());
        let end_ns = shared.now_ns();
        if result.as_ref().map_or(true, Response::says_close) {
            self.connection = None;
        }
        if let Ok(response) = &result
            && let Some(tag) = response.field("ETag").filter(|_| matches!(response.status, 200 | 201))
        {
            self.seen.insert(key.to_owned(), (value_at(key, &response.text()), tag.to_owned()));
        }
        let what = self.judge(asked, key, &body, result);
        self.count(what.as_ref());
        Some(Operation { client: self.number, begin_ns, end_ns, what: what? })
    }

    /// Two writes in one request, and one commit.
    fn operate_batch(&mut self, keys: [&String; 2], history: &mut History) {
        let values = [self.new_value(), self.new_value()];
        let lines: String = keys
            .iter()
            .zip(values)
            .map(|(key, value)| {
                if key.ends_with(COUNTER) {
                    return format!("{{\"op\":\"incr\",\"key\":\"{key}\"}}\n");
                }
                format!("{{\"op\":\"set\",\"key\":\"{key}\",\"value\":\"{}\"}}\n", text_of(value))
            })
            .collect();
        let target = if self.rng.bool() { "/batch?atomic=true" } else { "/batch" };
        let Some((begin_ns, end_ns, result)) = self.send_lines("POST", target, &lines) else { return };
        let items = self.judge_batch(result);
        for (at, (key, value)) in keys.into_iter().zip(values).enumerate() {
            let (status, text) = &items[at];
            let counts = key.ends_with(COUNTER);
            let what = match status {
                200 | 201 if counts => {
                    let text = text.as_ref().expect("an addition tells its sum");
                    Some(What::Count(value_at(key, text)))
                }
                504 if counts => Some(What::MaybeCount),
                200 | 201 => Some(What::Put { value, existed: *status == 200 }),
                504 => Some(What::MaybePut(value)),
                503 => None,
                other => panic!("{other} for an operation of a batch"),
            };
            self.count(what.as_ref());
            // The second of two writes of one key happens after the first, and both in one commit: the time of a whole
            // request holds both.
            if let Some(what) = what {
                history.push(key, Operation { client: self.number, begin_ns, end_ns, what });
            }
        }
    }

    /// Lines in one request; when it began and ended. `None`: the server is not there.
    fn send_lines(
        &mut self,
        method: &str,
        target: &str,
        lines: &str,
    ) -> Option<(u64, u64, io::Result<Response>)> {
        let shared = Arc::clone(&self.shared);
        let connection = self.connected()?;
        let begin_ns = shared.now_ns();
        let fields = "Content-Type: application/x-ndjson\r\n";
        let result = connection.try_request(method, target, fields, lines.as_bytes());
        let end_ns = shared.now_ns();
        if result.as_ref().map_or(true, Response::says_close) {
            self.connection = None;
        }
        Some((begin_ns, end_ns, result))
    }

    /// A bulk load of two lines, and one commit. Of two of one key the first is never seen by anybody.
    fn operate_load(&mut self, keys: [&String; 2], history: &mut History) {
        let values = [self.new_value(), self.new_value()];
        let line = |(key, value)| format!("{{\"key\":\"{key}\",\"value\":\"{}\"}}\n", text_of(value));
        let lines: String = keys.iter().zip(values).map(line).collect();
        let Some((begin_ns, end_ns, result)) = self.send_lines("PUT", "/kv", &lines) else { return };
        let is_stored = result.as_ref().is_ok_and(|response| response.status == 200);
        let status = if let (true, Ok(response)) = (is_stored, &result) {
            let json: serde_json::Value = serde_json::from_slice(&response.body).expect("it is JSON");
            assert_eq!((&json["written"], &json["failed"]), (&2.into(), &0.into()), "{json}");
            200
        } else {
            self.judge_batch(result)[0].0
        };
        let first = usize::from(keys[0] == keys[1]);
        for (key, value) in keys.into_iter().zip(values).skip(first) {
            let what = match status {
                200 => Some(What::Loaded(value)),
                504 => Some(What::MaybePut(value)),
                _ => None,
            };
            self.count(what.as_ref());
            if let Some(what) = what {
                history.push(key, Operation { client: self.number, begin_ns, end_ns, what });
            }
        }
    }

    /// The statuses of a batch's operations, and the values that are told; where there is none, the one of the request for
    /// each.
    fn judge_batch(&self, result: io::Result<Response>) -> [(u64, Option<String>); 2] {
        let Ok(response) = result else { return [(504, None), (504, None)] };
        if response.field("Content-Type") == Some("application/json") {
            let json: serde_json::Value = serde_json::from_slice(&response.body).expect("items are JSON");
            let items = [0, 1].map(|at| {
                let item = &json["items"][at];
                let status = item["status"].as_u64().expect("every item has a status");
                (status, item["value"].as_str().map(str::to_owned))
            });
            // What could not be done as a whole is told as a whole, too.
            let status = u64::from(response.status);
            assert!(status == 200 || items.iter().any(|item| item.0 == status), "{status}: {json}");
            return items;
        }
        match response.outcome().as_str() {
            "504 outcome-unknown" => [(504, None), (504, None)],
            "503 queue-full"
            | "503 database-down"
            | "503 database-refused"
            | "503 draining"
            | "503 not-started"
            | "503 in-doubt" => [(503, None), (503, None)],
            other => panic!("{other}: {}", response.text()),
        }
    }

    fn count(&self, what: Option<&What>) {
        if let Some(kind) = what.and_then(kind) {
            self.shared.done[kind].fetch_add(1, Ordering::Relaxed);
        }
        match what {
            Some(
                What::Put { .. } | What::Loaded(_) | What::Delete { .. } | What::Swap { .. } | What::Count(_),
            ) if self.number < CLIENTS => {
                self.shared.acknowledged[self.number as usize].fetch_add(1, Ordering::Relaxed);
            }
            Some(What::MaybePut(_) | What::MaybeDelete | What::MaybeCount) => {
                self.shared.unknown.fetch_add(1, Ordering::Relaxed);
            }
            Some(_) => {}
            None => {
                self.shared.refused.fetch_add(1, Ordering::Relaxed);
                self.pause();
            }
        }
    }

    /// What an answer means; fails on one that must not be. `None`: certainly nothing happened.
    fn judge(&self, asked: &Asked, key: &str, body: &str, result: io::Result<Response>) -> Option<What> {
        let unknown = asked.unknown();
        let response = match result {
            Ok(response) => response,
            Err(error) => {
                let late = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                assert!(!late, "no answer within {} s", DEADLINE.as_secs());
                return unknown;
            }
        };
        match (asked, response.status) {
            (Asked::Get, 200) => Some(What::Get(Some(value_at(key, &response.text())))),
            (Asked::Count, 200 | 201) => Some(What::Count(value_at(key, &response.text()))),
            (Asked::Get, 404) => Some(What::Get(None)),
            (Asked::Put(value), 200 | 201) => {
                assert_eq!(response.text(), body, "PUT answers with the value that it has stored");
                Some(What::Put { value: *value, existed: response.status == 200 })
            }
            (Asked::Swap { seen, value, .. }, 200) => Some(What::Swap { from: *seen, value: *value }),
            (Asked::Swap { seen, .. }, 412) => Some(What::NotSwapped(*seen)),
            (Asked::Create(value), 201) => Some(What::Put { value: *value, existed: false }),
            (Asked::Create(_), 412) => Some(What::Exists),
            (Asked::Delete, 204 | 404) => Some(What::Delete { existed: response.status == 204 }),
            _ => match response.outcome().as_str() {
                "504 outcome-unknown" if unknown.is_some() => unknown,
                "504 deadline-exceeded" if unknown.is_none() => None,
                "503 queue-full" | "503 database-down" | "503 database-refused" | "503 draining" => None,
                "503 not-started" if unknown.is_some() => None,
                other => panic!("{other}: {}", response.text()),
            },
        }
    }

    /// Whoever is refused comes again, but not at once: as a client with sense would, only sooner.
    fn pause(&self) {
        thread::sleep(Duration::from_millis(2));
    }
}
