//! The user-space path of a cached GET, without a kernel: a real connection on a socket made of memory. Run under
//! callgrind it gives instruction counts that repeat to the last digit, whatever else the machine does:
//!
//! ```sh
//! tools/instructions
//! ```
//!
//! Arguments: how many turns, and how many pipelined requests in each.

use hotrow::api::admin::Status;
use hotrow::connection::{Bounds, Connection, Context, Role, Socket, Turn, Workspace};
use hotrow::engine::Engine;
use hotrow::http::response::Encoder;
use hotrow::metrics::Counters;
use hotrow::store::backend::Backend;
use hotrow::store::health::Health;
use hotrow::token::Id;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

const KEYS: usize = 1_000;
const VALUE_BYTES: usize = 100;

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
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Socket for Memory<'_> {
    fn shutdown_write(&mut self) {}
}

fn main() {
    // `cargo bench` and `cargo test` pass flags of their own.
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let (turns, depth) = (numbers.next().unwrap_or(1_000), numbers.next().unwrap_or(16));

    let engine = Arc::new(Engine::new(64 << 20, 1 << 20));
    let value: Arc<str> = "v".repeat(VALUE_BYTES).into();
    for i in 0..KEYS {
        let key = format!("key:{i:06}");
        let hash = engine.hash(&key);
        engine.shard(hash).write_sent(hash, &key);
        engine.shard(hash).committed(hash, &key, 1, &Some((Arc::clone(&value), 123_456)));
    }
    let health = Arc::new(Health::new(1, 1));
    let (reads, _read_queue) = crossbeam_channel::bounded(1);
    let (writes, _write_queue) = crossbeam_channel::bounded(1);
    let status = Status {
        engine: Arc::clone(&engine),
        health: Arc::clone(&health),
        counters: Vec::new(),
        draining: AtomicBool::new(false),
        version: String::new(),
    };
    let backend = Backend { engine, health, reads, writes: vec![writes] };
    let bounds = Bounds {
        max_value_bytes: 1 << 20,
        request_timeout_ms: 10_000,
        header_timeout_ms: 10_000,
        idle_timeout_ms: 60_000,
    };
    let counters = Counters::default();
    let cx = Context {
        backend: &backend,
        status: &status,
        bounds: &bounds,
        counters: &counters,
        event_loop: 0,
        now_ms: 1,
        draining: false,
    };
    let mut ws = Workspace::new(Encoder::new(0, SystemTime::UNIX_EPOCH));
    let mut connection = Connection::new(Id { slot: 0, generation: 0 }, Role::Data, &cx);
    // Made before the first turn, so that what is counted is the server's and not this program's.
    let inputs: Vec<Vec<u8>> = (0..64)
        .map(|turn| {
            let request = |i| {
                let key = (turn * depth + i) * 7_919 % KEYS;
                format!("GET /kv/key:{key:06} HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n")
            };
            (0..depth).map(request).collect::<String>().into_bytes()
        })
        .collect();
    let mut memory = Memory { input: &[], written: 0 };
    for turn in 0..turns {
        memory.input = &inputs[turn % inputs.len()];
        connection.set_readable(false);
        let ended = connection.turn(&mut memory, &mut ws, &cx, None);
        assert_eq!(ended, Turn::Wait);
    }
    assert_eq!(counters.cache_hits_total.get(), (turns * depth) as u64);
    println!("{} hits, {} bytes written", turns * depth, memory.written);
}
