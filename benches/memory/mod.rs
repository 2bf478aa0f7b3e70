//! A server without a kernel: a real connection, encoder and engine, and a socket made of memory. What runs on it is the
//! user-space path of a request and nothing else. Used by the benches, and by `tests/allocations.rs`.

use ahash::RandomState;
use crossbeam_channel::{Receiver, bounded};
use hotrow::api::admin::{About, Status};
use hotrow::connection::{Bounds, Connection, Context, Role, Socket, Turn, Workspace};
use hotrow::engine::shard::Writes;
use hotrow::engine::{Engine, NEVER, Record};
use hotrow::http::response::Encoder;
use hotrow::metrics::{Counters, Workers};
use hotrow::store::backend::Backend;
use hotrow::store::health::Health;
use hotrow::store::load::Loads;
use hotrow::store::{Job, ReadWork};
use hotrow::token::Id;
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

/// Gives the same bytes at every read, and counts what is written.
struct Memory<'a> {
    input: &'a [u8],
    written: usize,
}

impl Read for Memory<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        buf[..self.input.len()].copy_from_slice(self.input);
        Ok(self.input.len())
    }
}

impl Write for Memory<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.written += buf.len();
        Ok(buf.len())
    }
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes = bufs.iter().map(|buf| buf.len()).sum();
        self.written += bytes;
        Ok(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Socket for Memory<'_> {
    fn shutdown_write(&mut self) {}
}

/// One connection, and everything that an event loop has around it.
pub(crate) struct World {
    connection: Connection,
    ws: Workspace,
    around: Around,
}

/// What the connection may look at. The workers' ends of the queues are here, and nobody takes from them.
struct Around {
    backend: Backend,
    status: Status,
    bounds: Bounds,
    counters: Counters,
    _reads: Receiver<ReadWork>,
    _writes: Receiver<Job>,
}

impl World {
    /// A server whose cache has these keys, each with a value of so many bytes.
    pub(crate) fn knowing<'k>(keys: impl IntoIterator<Item = &'k str>, value_bytes: usize) -> World {
        // Seeds that stay: counts of instructions are to repeat.
        let hasher = RandomState::with_seeds(1, 2, 3, 4);
        let engine = Arc::new(Engine::with_hasher(64 << 20, 1 << 20, hasher));
        let value: Arc<str> = "v".repeat(value_bytes).into();
        for key in keys {
            let hash = engine.hash(key);
            let row = Some(Record { value: Arc::clone(&value), version: 123_456, expires_s: NEVER });
            engine.shard(hash).write_sent(hash, key, Writes::Own(1));
            engine.shard(hash).committed(hash, key, (Writes::Own(1), false), &row, 0);
        }
        let health = Arc::new(Health::new(1, 1));
        let (reads, _reads) = bounded(1);
        let (writes, _writes) = bounded(1);
        let status = Status {
            engine: Arc::clone(&engine),
            health: Arc::clone(&health),
            counters: Vec::new(),
            workers: Arc::new(Workers::new(1, 1)),
            process: Arc::default(),
            draining: AtomicBool::new(false),
            about: About::default(),
        };
        let bounds = Bounds {
            max_value_bytes: 1 << 20,
            request_timeout_ms: 10_000,
            header_timeout_ms: 10_000,
            idle_timeout_ms: 60_000,
        };
        let backend = Backend { engine, health, reads, writes: vec![writes], loads: Loads::default() };
        let around = Around { backend, status, bounds, counters: Counters::default(), _reads, _writes };
        World {
            connection: Connection::new(Id { slot: 0, generation: 0 }, Role::Data, &around.context()),
            ws: Workspace::new(Encoder::new(0, SystemTime::UNIX_EPOCH)),
            around,
        }
    }

    /// One turn of the connection, as the event loop makes it when these bytes have come. Returns the bytes answered.
    pub(crate) fn turn(&mut self, input: &[u8]) -> usize {
        let mut memory = Memory { input, written: 0 };
        self.connection.set_readable(false);
        let turn = self.connection.turn(&mut memory, &mut self.ws, &self.around.context());
        assert_eq!(turn, Turn::Wait);
        memory.written
    }

    /// GETs that the cache has answered so far.
    pub(crate) fn hits(&self) -> u64 {
        self.around.counters.cache_hits.get()
    }
}

impl Around {
    fn context(&self) -> Context<'_> {
        Context {
            backend: &self.backend,
            status: &self.status,
            bounds: &self.bounds,
            tokens: None,
            counters: &self.counters,
            access_log: None,
            event_loop: 0,
            now_ms: 1,
            now_ns: 0,
            now_s: 0,
            draining: false,
        }
    }
}

/// A GET of this key, as wrk sends it.
pub(crate) fn get(key: &str) -> String {
    format!("GET /kv/{key} HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n")
}
