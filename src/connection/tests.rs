//! A connection on a scripted socket: what it reads, what it writes, and with how many calls. Here are the socket, the world around the
//! connection, and what more than one of the files below asks with; those say what is shown.

use super::context::Bounds;
use super::*;
use crate::access_log::AccessLog;
use crate::api::admin;
use crate::api::auth::Tokens;
use crate::clock::Clock;
use crate::engine::shard::Writes;
use crate::engine::{Engine, NEVER, Record, Row};
use crate::http::response::Encoder;
use crate::metrics::{Counters, Workers};
use crate::store::backend::Backend;
use crate::store::health::Health;
use crate::store::list::{Page, PageJob, PageRow};
use crate::store::load::Loads;
use crate::store::{Answer, Failure, Job, ReadJob, ReadWork};
use crate::token::Ticket;
use crossbeam_channel::{Receiver, bounded};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

mod contents;
mod counts;
mod draining;
mod exports;
mod loads;
mod names;
mod patience;
mod several;
mod shares;
mod tokens;
mod turns;
mod waits;

/// What the client sends, piece by piece, and how much it takes.
#[derive(Default)]
struct Script {
    pieces: VecDeque<Vec<u8>>,
    /// After the pieces: end of stream rather than "would block".
    ends: bool,
    written: Vec<u8>,
    /// Bytes that the client takes before a write would block.
    room: usize,
    reads: usize,
    writes: usize,
    shut: bool,
}

impl Read for Script {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reads += 1;
        match self.pieces.pop_front() {
            Some(piece) => {
                buf[..piece.len()].copy_from_slice(&piece);
                Ok(piece.len())
            }
            None if self.ends => Ok(0),
            None => Err(ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Script {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.writes += 1;
        let n = buf.len().min(self.room);
        if n == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.room -= n;
        self.written.extend_from_slice(&buf[..n]);
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Socket for Script {
    fn shutdown_write(&mut self) {
        self.shut = true;
    }
}

/// A connection with everything around it, and the workers' ends of the queues.
struct World {
    connection: Connection,
    io: Script,
    ws: Workspace,
    backend: Backend,
    status: admin::Status,
    bounds: Bounds,
    counters: Counters,
    reads: Receiver<ReadWork>,
    writes: Receiver<Job>,
    now_ms: u64,
    now_s: u32,
    draining: bool,
    tokens: Option<Tokens>,
    access_log: Option<AccessLog>,
}

const ID: Id = Id { slot: 3, generation: 7 };

impl World {
    fn new() -> World {
        let engine = Arc::new(Engine::new(1 << 20, 1 << 10));
        let health = Arc::new(Health::new(1, 1));
        let (read_sender, reads) = bounded(8);
        let (write_sender, writes) = bounded(8);
        let status = admin::Status {
            engine: Arc::clone(&engine),
            health: Arc::clone(&health),
            counters: Vec::new(),
            workers: Arc::new(Workers::new(1, 1)),
            process: Arc::default(),
            draining: AtomicBool::new(false),
            about: admin::About::default(),
        };
        let backend = Backend {
            engine,
            health,
            reads: read_sender,
            writes: vec![write_sender],
            loads: Loads::default(),
            planted_any_writer: false,
        };
        let bounds = Bounds {
            max_value_bytes: 1_000,
            request_timeout_ms: 5_000,
            header_timeout_ms: 1_000,
            idle_timeout_ms: 60_000,
        };
        let now_ms = Clock::start().now_ms();
        let ws = Workspace::new(Encoder::new(now_ms, SystemTime::UNIX_EPOCH));
        let counters = Counters::default();
        let io = Script { room: usize::MAX, ..Script::default() };
        let cx = Context {
            backend: &backend,
            status: &status,
            bounds: &bounds,
            tokens: None,
            counters: &counters,
            access_log: None,
            event_loop: 0,
            now_ms,
            now_ns: 0,
            now_s: 0,
            draining: false,
        };
        let connection = Connection::new(ID, Role::Data, &cx);
        World {
            connection,
            io,
            ws,
            backend,
            status,
            bounds,
            counters,
            reads,
            writes,
            now_ms,
            now_s: 0,
            draining: false,
            tokens: None,
            access_log: None,
        }
    }

    /// A world whose cache knows `key`.
    fn knowing(key: &str, value: &str) -> World {
        World::knowing_until(key, value, NEVER)
    }

    /// The same, and the row expires.
    fn knowing_until(key: &str, value: &str, expires_s: u32) -> World {
        let world = World::new();
        world.learn(key, value, expires_s);
        world
    }

    /// From now on the cache knows `key`.
    fn learn(&self, key: &str, value: &str, expires_s: u32) {
        let hash = self.backend.engine.hash(key);
        let mut shard = self.backend.engine.shard(hash);
        shard.write_sent(hash, key, Writes::Own(1));
        let row = Some(Record { value: value.into(), version: 9, expires_s });
        shard.committed(hash, key, (Writes::Own(1), false), &row, 0);
    }

    fn with<R>(
        &mut self,
        act: impl FnOnce(&mut Connection, &mut Script, &mut Workspace, &Context<'_>) -> R,
    ) -> R {
        let cx = Context {
            backend: &self.backend,
            status: &self.status,
            bounds: &self.bounds,
            tokens: self.tokens.as_ref(),
            counters: &self.counters,
            access_log: self.access_log.as_ref(),
            event_loop: 0,
            now_ms: self.now_ms,
            now_ns: 0,
            now_s: self.now_s,
            draining: self.draining,
        };
        act(&mut self.connection, &mut self.io, &mut self.ws, &cx)
    }

    /// Turned with the answer to the last job, if one is given.
    fn turn(&mut self, answer: Option<&Answer>) -> Turn {
        let ticket = Ticket { event_loop: 0, id: ID, job: self.connection.jobs };
        let reply = answer.map(|answer| Reply { ticket, answer: answer.clone() });
        self.with(|connection, io, ws, cx| match reply {
            Some(reply) => connection.turn_with(reply, io, ws, cx),
            None => connection.turn(io, ws, cx),
        })
    }

    /// The keys that a reader would read next, with one statement.
    fn take_reads(&self) -> Vec<ReadJob> {
        match self.reads.try_recv().unwrap() {
            ReadWork::Row(job) => vec![job],
            ReadWork::Rows(list) => std::mem::take(&mut *list.lock()),
            ReadWork::Page(page) => panic!("a page: {page:?}"),
        }
    }

    /// The page that a reader would read next.
    fn take_page(&self) -> PageJob {
        match self.reads.try_recv().unwrap() {
            ReadWork::Page(page) => page,
            other => panic!("no page: {other:?}"),
        }
    }

    /// A reader has read this row: whoever waits for it is turned, as the event loop does.
    fn read_done(&mut self, job: &ReadJob, row: &Row) -> Turn {
        let done = self.backend.engine.shard(job.hash).read_done(job.hash, &job.key, job.id, Some(row), 0);
        let mut turn = Turn::Wait;
        for ticket in done.waiters.into_iter().filter(|ticket| ticket.id == ID) {
            assert!(self.connection.waits_for(ticket));
            let reply = Reply { ticket, answer: Answer::Found(row.clone()) };
            turn = self.with(|connection, io, ws, cx| connection.turn_with(reply, io, ws, cx));
        }
        turn
    }

    /// The client sends this; the connection is turned until it waits.
    fn send(&mut self, bytes: &[u8]) -> Turn {
        self.io.pieces.push_back(bytes.to_vec());
        self.connection.set_readable(false);
        self.turn_until_it_waits()
    }

    fn turn_until_it_waits(&mut self) -> Turn {
        loop {
            match self.turn(None) {
                Turn::Again => {}
                turn => return turn,
            }
        }
    }

    fn expire(&mut self) -> Turn {
        self.now_ms = self.connection.deadline_ms();
        self.with(|connection, io, ws, cx| connection.expire(io, ws, cx))
    }

    /// The status codes written so far.
    fn statuses(&self) -> Vec<u16> {
        let text = String::from_utf8_lossy(&self.io.written).into_owned();
        text.match_indices("HTTP/1.1 ").map(|(at, _)| text[at + 9..at + 12].parse().unwrap()).collect()
    }

    fn found(value: &str) -> Answer {
        let row = Some(Record { value: value.into(), version: 5, expires_s: NEVER });
        Answer::Found(row)
    }
}

fn get(key: &str) -> Vec<u8> {
    format!("GET /kv/{key} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes()
}

fn get_many(keys: &[&str]) -> Vec<u8> {
    let query: Vec<String> = keys.iter().map(|key| format!("key={key}")).collect();
    format!("GET /kv?{} HTTP/1.1\r\nHost: h\r\n\r\n", query.join("&")).into_bytes()
}

/// Status and value of every item of the last answer.
fn items(world: &World) -> Vec<(u64, Option<String>)> {
    let text = String::from_utf8(world.io.written.clone()).unwrap();
    let content = text.rsplit("\r\n\r\n").next().unwrap();
    let json: serde_json::Value = serde_json::from_str(content).unwrap();
    let item = |item: &serde_json::Value| {
        (item["status"].as_u64().unwrap(), item["value"].as_str().map(str::to_owned))
    };
    json["items"].as_array().unwrap().iter().map(item).collect()
}

fn export() -> Vec<u8> {
    b"GET /kv HTTP/1.1\r\nHost: h\r\nAccept: application/x-ndjson\r\n\r\n".to_vec()
}

fn page(keys: &[&str], value: &str, more: bool) -> Answer {
    let row =
        |key: &&str| PageRow { key: (*key).into(), version: 1, value: Some(value.into()), expires_at: None };
    Answer::Page(Page { rows: keys.iter().map(row).collect(), more })
}

/// What was sent behind the first head.
fn content(world: &World) -> String {
    let text = String::from_utf8(world.io.written.clone()).unwrap();
    text.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// A GET of `k` that waits for so many seconds until it has another version than `tag`.
fn wait(tag: &str, seconds: u32) -> Vec<u8> {
    format!("GET /kv/k HTTP/1.1\r\nHost: h\r\nIf-None-Match: \"{tag}\"\r\nPrefer: wait={seconds}\r\n\r\n")
        .into()
}

/// The row of `k` with another version than others here.
fn row(version: u32) -> Row {
    Some(Record { value: "read".into(), version, expires_s: 1_000_000 })
}

/// A write of `k` ends, and what it left is not cached: whoever watches the key is told.
fn change(world: &mut World) {
    let hash = world.backend.engine.hash("k");
    let mut shard = world.backend.engine.shard(hash);
    shard.write_sent(hash, "k", Writes::Own(1));
    let watchers = shard.unknown(hash, "k", Writes::Own(1));
    drop(shard);
    assert!(watchers.iter().any(|ticket| world.connection.waits_for(*ticket)));
    world.turn(Some(&Answer::Changed));
}
