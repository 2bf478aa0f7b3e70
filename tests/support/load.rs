//! Clients that read, write and delete a few keys as fast as they are answered, and record it. Whatever happens to the
//! server or its database, they go on.

use super::client::{Client, Response};
use super::history::{History, Operation, What, text_of, value_of};
use super::{DEADLINE, wait_until};
use fastrand::Rng;
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
}

impl Load {
    /// Starts the clients.
    pub fn start(address: SocketAddr, keys: Vec<String>, seed: u64) -> Load {
        let shared = Arc::new(Shared {
            start: Instant::now(),
            stop: AtomicBool::new(false),
            acknowledged: (0..CLIENTS).map(|_| AtomicU64::new(0)).collect(),
            unknown: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let clients = (0..CLIENTS).map(|number| {
            let keys = keys.clone();
            let (shared, rng) =
                (Arc::clone(&shared), Rng::with_seed(seed.wrapping_mul(1_000) + u64::from(number)));
            thread::spawn(move || {
                Loader { number, address, shared, rng, connection: None, writes: 0 }.run(&keys)
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
        };
        for key in &self.keys {
            let mut read = || {
                let mut found = None;
                wait_until("a read is answered", || {
                    found = last.operate(Asked::Get, key);
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
#[derive(Clone, Copy)]
enum Asked {
    Get,
    Put(u64),
    Delete,
}

struct Loader {
    number: u32,
    address: SocketAddr,
    shared: Arc<Shared>,
    rng: Rng,
    connection: Option<Client>,
    writes: u64,
}

impl Loader {
    fn run(mut self, keys: &[String]) -> History {
        let mut history = History::default();
        while !self.shared.stop.load(Ordering::Relaxed) {
            let key = &keys[self.rng.usize(..keys.len())];
            let asked = match self.rng.u8(..20) {
                0..=9 => Asked::Get,
                10..=16 => {
                    self.writes += 1;
                    Asked::Put((u64::from(self.number) << 40) | self.writes)
                }
                _ => Asked::Delete,
            };
            if let Some(operation) = self.operate(asked, key) {
                history.push(key, operation);
            }
        }
        history
    }

    /// One operation; `None`: nothing came of it.
    fn operate(&mut self, asked: Asked, key: &str) -> Option<Operation> {
        if self.connection.is_none() {
            match TcpStream::connect(self.address) {
                Ok(stream) => self.connection = Some(Client::over(stream)),
                // The server is not there.
                Err(_) => self.pause(),
            }
        }
        let connection = self.connection.as_mut()?;
        let (target, body) =
            (format!("/kv/{key}"), if let Asked::Put(value) = asked { text_of(value) } else { "".into() });
        let method = match asked {
            Asked::Get => "GET",
            Asked::Put(_) => "PUT",
            Asked::Delete => "DELETE",
        };
        let begin_ns = self.shared.now_ns();
        let result = connection.try_request(method, &target, "", body.as_bytes());
        let end_ns = self.shared.now_ns();
        if result.as_ref().map_or(true, Response::says_close) {
            self.connection = None;
        }
        let what = self.judge(asked, &body, result);
        match what {
            Some(What::Put { .. } | What::Delete { .. }) if self.number < CLIENTS => {
                self.shared.acknowledged[self.number as usize].fetch_add(1, Ordering::Relaxed);
            }
            Some(What::MaybePut(_) | What::MaybeDelete) => {
                self.shared.unknown.fetch_add(1, Ordering::Relaxed);
            }
            Some(_) => {}
            None => {
                self.shared.refused.fetch_add(1, Ordering::Relaxed);
                self.pause();
            }
        }
        Some(Operation { client: self.number, begin_ns, end_ns, what: what? })
    }

    /// What an answer means; fails on one that must not be. `None`: certainly nothing happened.
    fn judge(&self, asked: Asked, body: &str, result: io::Result<Response>) -> Option<What> {
        let unknown = match asked {
            Asked::Get => None,
            Asked::Put(value) => Some(What::MaybePut(value)),
            Asked::Delete => Some(What::MaybeDelete),
        };
        let response = match result {
            Ok(response) => response,
            Err(error) => {
                let late = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                assert!(!late, "no answer within {} s", DEADLINE.as_secs());
                return unknown;
            }
        };
        match (asked, response.status) {
            (Asked::Get, 200) => Some(What::Get(Some(value_of(&response.text())))),
            (Asked::Get, 404) => Some(What::Get(None)),
            (Asked::Put(value), 200 | 201) => {
                assert_eq!(response.text(), body, "PUT answers with the value that it has stored");
                Some(What::Put { value, existed: response.status == 200 })
            }
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
