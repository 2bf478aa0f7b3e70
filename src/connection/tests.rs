//! A connection on a scripted socket: what it reads, what it writes, and with how many calls.

use super::context::Bounds;
use super::*;
use crate::access_log::AccessLog;
use crate::api::admin;
use crate::api::auth::Tokens;
use crate::clock::Clock;
use crate::engine::shard::Writes;
use crate::engine::{Engine, NEVER, Record, Row};
use crate::http::problem::Kind;
use crate::http::response::Encoder;
use crate::limits::{LOAD_LINES, OUTPUT_BYTES};
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

mod counts;
mod loads;
mod patience;
mod shares;
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

/// Whichever shards' indexes are half way when nothing more is put in.
#[test]
fn a_hit_is_a_hit_while_the_index_grows() {
    let mut world = World::new();
    let keys = 0..7_000;
    for key in keys.clone() {
        world.learn(&format!("k{key}"), "v", NEVER);
    }
    for key in keys.clone() {
        world.send(&get(&format!("k{key}")));
    }
    let (hits, misses) = (world.counters.cache_hits.get(), world.counters.cache_misses.get());
    assert_eq!((hits, misses), (keys.len() as u64, 0));
    assert!(world.reads.is_empty());
}

#[test]
fn a_hit_costs_one_read_and_one_write_and_so_do_sixteen() {
    for count in [1, 16] {
        let mut world = World::knowing("a", "value");
        assert_eq!(world.send(&get("a").repeat(count)), Turn::Wait);
        assert_eq!((world.io.reads, world.io.writes), (1, 1));
        assert_eq!(world.statuses(), vec![200; count]);
    }
}

/// A page of `/metrics`, or values that are escaped and then not told, cost far more than the bytes that are sent for them.
#[test]
fn what_may_cost_more_than_it_sends_has_a_turn_of_its_own() {
    let mut world = World::knowing("a", "value");
    world.io.pieces.push_back(b"HEAD /kv?key=a HTTP/1.1\r\nHost: h\r\n\r\n".repeat(3));
    world.connection.set_readable(false);
    let turns = [Turn::Again, Turn::Again, Turn::Wait];
    for (at, expected) in turns.into_iter().enumerate() {
        assert_eq!((world.turn(None), world.statuses()), (expected, vec![200; at + 1]));
    }
}

#[test]
fn an_idle_connection_owns_no_buffer() {
    assert!(size_of::<Connection>() <= 128, "{}", size_of::<Connection>());
    let mut world = World::knowing("a", "value");
    world.send(&get("a")[..10]);
    assert!(world.connection.input.capacity() > 0);
    world.send(&get("a")[10..]);
    assert_eq!(world.statuses(), [200]);
    assert_eq!(world.connection.input.capacity(), 0);
    assert!(world.connection.backlog.is_none());
}

#[test]
fn while_a_job_is_out_nothing_more_is_parsed_or_read() {
    let mut world = World::knowing("hit", "value");
    world.send(&[get("miss"), get("hit")].concat());
    assert_eq!((world.reads.len(), world.statuses()), (1, vec![]));
    let reads = world.io.reads;
    world.send(&get("hit"));
    assert_eq!(world.io.reads, reads, "bytes stay in the kernel");
    world.turn(Some(&World::found("read")));
    world.turn_until_it_waits();
    assert_eq!(world.statuses(), [200, 200, 200]);
    let text = String::from_utf8(world.io.written).unwrap();
    assert!(text.find("read").unwrap() < text.find("value").unwrap());
}

#[test]
fn a_reply_that_is_late_or_for_another_is_not_taken() {
    let mut world = World::new();
    let ticket = |id, job| Ticket { event_loop: 0, id, job };
    assert!(!world.connection.waits_for(ticket(ID, 0)));
    world.send(&get("a"));
    assert!(world.connection.waits_for(ticket(ID, 1)));
    assert!(!world.connection.waits_for(ticket(Id { generation: 8, ..ID }, 1)));
    world.expire();
    world.send(&get("b"));
    assert!(!world.connection.waits_for(ticket(ID, 1)), "the first job's time was over");
    assert!(world.connection.waits_for(ticket(ID, 2)));
    assert_eq!(world.statuses(), [504]);
}

#[test]
fn a_client_that_does_not_read_is_not_read_from() {
    let mut world = World::knowing("a", &"v".repeat(900));
    world.io.room = 100;
    assert_eq!(world.send(&get("a").repeat(600)), Turn::Wait);
    let backlog = world.connection.backlog.as_ref().unwrap().len();
    assert!(backlog <= OUTPUT_BYTES + 2_000, "{backlog}");
    let reads = world.io.reads;
    assert_eq!(world.turn(None), Turn::Wait);
    assert_eq!(world.io.reads, reads);
    world.io.room = usize::MAX;
    assert_eq!(world.turn_until_it_waits(), Turn::Wait);
    assert_eq!(world.statuses(), vec![200; 600]);
    assert!(world.connection.backlog.is_none());
}

#[test]
fn a_client_that_reads_everything_gets_a_turns_share_of_it_a_turn() {
    let mut world = World::knowing("a", "value");
    world.send(&[get("large"), get("a")].concat());
    let large = World::found(&"v".repeat(3 * FLUSH_BYTES));
    assert_eq!(world.turn(Some(&large)), Turn::Again);
    for shares in 1..4 {
        assert_eq!(world.io.written.len(), shares * FLUSH_BYTES);
        let turn = world.turn(None);
        assert_eq!(turn, if shares == 3 { Turn::Wait } else { Turn::Again });
    }
    assert_eq!(world.statuses(), [200, 200]);
    assert!(world.connection.backlog.is_none());
}

#[test]
fn a_client_that_never_reads_is_closed() {
    let mut world = World::knowing("a", "value");
    world.io.room = 10;
    world.send(&get("a"));
    assert_eq!(world.expire(), Turn::Close);
    assert_eq!(world.counters.slow_readers.get(), 1);
}

#[test]
fn a_reply_leaves_behind_what_waits_to_be_sent() {
    let mut world = World::knowing("a", "value");
    world.io.room = 10;
    world.send(&[get("a"), get("miss")].concat());
    assert_eq!(world.reads.len(), 1);
    assert_eq!(world.turn(Some(&World::found("read"))), Turn::Wait);
    world.io.room = usize::MAX;
    world.turn_until_it_waits();
    let text = String::from_utf8(world.io.written.clone()).unwrap();
    assert_eq!(world.statuses(), [200, 200]);
    assert!(text.find("value").unwrap() < text.find("read").unwrap());
}

#[test]
fn every_state_has_its_deadline() {
    let mut idle = World::new();
    assert_eq!((idle.expire(), idle.statuses()), (Turn::Again, vec![]));
    assert!(idle.io.shut && idle.counters.idle_closed.get() == 1, "the end, and no reset");
    assert_eq!((idle.expire(), idle.counters.idle_closed.get()), (Turn::Close, 1));

    let mut head = World::new();
    head.send(b"GET /kv/");
    assert_eq!(head.connection.deadline_ms() - head.now_ms, head.bounds.header_timeout_ms);
    head.expire();
    assert_eq!(head.statuses(), [408]);
    assert!(head.io.shut, "the client is told that this was all");

    let mut content = World::new();
    content.send(b"PUT /kv/a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nva");
    content.expire();
    assert_eq!(content.statuses(), [408]);

    let mut queued = World::new();
    queued.send(b"DELETE /kv/a HTTP/1.1\r\nHost: h\r\n\r\n");
    queued.expire();
    assert_eq!(queued.statuses(), [503], "withdrawn: it certainly never happens");
    assert!(!queued.writes.recv().unwrap().claim().take());

    let mut taken = World::new();
    taken.send(b"DELETE /kv/a HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(taken.writes.recv().unwrap().claim().take());
    taken.expire();
    assert_eq!(taken.statuses(), [504], "it was sent: nobody knows");
    assert_eq!(taken.send(&get("a")), Turn::Wait, "and the connection goes on");
    assert_eq!(taken.reads.len(), 1);
}

#[test]
fn trickled_bytes_do_not_move_the_deadline_of_a_head() {
    let mut world = World::new();
    world.send(b"GET /kv/a HTTP/1.1\r\n");
    let deadline = world.connection.deadline_ms();
    for _ in 0..5 {
        world.now_ms += 100;
        world.send(b"X: y\r\n");
        assert_eq!(world.connection.deadline_ms(), deadline);
    }
}

#[test]
fn a_half_closed_client_gets_its_answer() {
    let mut world = World::new();
    world.io.ends = true;
    world.io.pieces.push_back(get("miss"));
    world.connection.set_readable(true);
    assert_eq!(world.turn_until_it_waits(), Turn::Wait);
    world.turn(Some(&World::found("read")));
    assert_eq!(world.turn_until_it_waits(), Turn::Close);
    assert_eq!(world.statuses(), [200]);
}

#[test]
fn a_refusal_of_a_head_request_has_no_content() {
    for (method, has_content) in [("GET", true), ("HEAD", false), ("\r\nHEAD", false)] {
        for refused in ["Host: h\r\nExpect: a-miracle\r\n", "Host: h\r\nTransfer-Encoding: gzip\r\n", ""] {
            let mut world = World::new();
            world.send(format!("{method} /kv/k HTTP/1.1\r\n{refused}\r\n").as_bytes());
            let answer = String::from_utf8_lossy(&world.io.written).into_owned();
            let content = answer.split_once("\r\n\r\n").unwrap().1;
            assert_eq!(!content.is_empty(), has_content, "{answer}");
        }
    }
}

#[test]
fn what_is_no_head_is_refused_at_the_end_of_the_stream_if_no_line_end_came_before() {
    let statuses = |pieces: &[&[u8]]| {
        let mut world = World::new();
        world.io.pieces.extend(pieces.iter().map(|piece| piece.to_vec()));
        world.io.ends = true;
        world.connection.set_readable(true);
        assert_eq!(world.turn_until_it_waits(), Turn::Close);
        world.statuses()
    };
    assert_eq!(statuses(&[b"GE\x01"]), [400]);
    assert_eq!(statuses(&[b"GE", b"\x01"]), [400]);
    assert_eq!(statuses(&[b"GE", b"T"]), [] as [u16; 0], "cut off, and not wrong so far");
}

#[test]
fn a_refused_content_is_read_if_small_and_cut_off_if_not() {
    let refused = |length: usize, body: usize| {
        let head = format!("POST /kv/a HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n");
        [head.as_bytes(), &vec![b'x'; body]].concat()
    };
    let mut small = World::knowing("a", "value");
    small.send(&[refused(100, 100), get("a")].concat());
    assert_eq!(small.statuses(), [405, 200]);
    let mut large = World::knowing("a", "value");
    assert_eq!(large.send(&refused(1 << 30, 1_000)), Turn::Wait);
    assert_eq!(large.statuses(), [405]);
    assert!(large.io.shut);
    large.io.ends = true;
    assert_eq!(large.send(&[]), Turn::Close);
}

#[test]
fn what_changes_something_waits_for_the_content_that_it_has_no_use_for() {
    for line in ["DELETE /kv/a", "POST /kv/a?op=incr"] {
        let head = |fields: &str| format!("{line} HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n");
        let mut world = World::new();
        world.send((head("Transfer-Encoding: chunked") + "5\r\nab").as_bytes());
        assert!(world.writes.is_empty() && world.io.written.is_empty(), "it may never be whole");
        world.send(b"cde\r\n0\r\n\r\n");
        assert_eq!(world.writes.len(), 1);
        let mut world = World::new();
        world.send((head("Content-Length: 2\r\nExpect: 100-continue")).as_bytes());
        assert!(world.writes.is_empty() && world.io.written.starts_with(b"HTTP/1.1 100 "));
        world.send(b"ab");
        assert_eq!(world.writes.len(), 1);
        for (fields, content, expected) in [
            ("Transfer-Encoding: chunked", "ZZ\r\n", 400),
            ("Transfer-Encoding: chunked", "FFFFFFF\r\n", 413),
            ("Content-Length: 200000", "ab", 413),
        ] {
            let mut world = World::new();
            world.send((head(fields) + content).as_bytes());
            assert_eq!((world.statuses(), world.writes.len()), (vec![expected], 0), "{line} {fields}");
        }
    }
}

#[test]
fn a_chunk_that_says_that_it_is_too_large_is_not_waited_for() {
    let mut world = World::new();
    world.send(b"PUT /kv/a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\nab");
    assert_eq!(world.statuses(), [413]);
    assert!(
        String::from_utf8_lossy(&world.io.written)
            .contains("at most 1000 bytes (--max-value-bytes); this one has 1001")
    );
}

#[test]
fn a_client_that_waits_for_100_is_told_to_go_on_or_refused() {
    let put = |length: usize| {
        format!("PUT /kv/a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n")
            .into_bytes()
    };
    let mut world = World::new();
    world.send(&put(5));
    assert_eq!(world.statuses(), [100]);
    world.send(b"value");
    assert_eq!(world.writes.len(), 1);
    let mut eager = World::new();
    eager.send(&[put(5), b"value".to_vec()].concat());
    assert_eq!((eager.statuses(), eager.writes.len()), (vec![], 1));
    let mut large = World::new();
    large.send(&put(5_000));
    assert_eq!(large.statuses(), [413]);
}

#[test]
fn draining_ends_a_connection_with_its_next_answer() {
    let mut world = World::knowing("a", "value");
    world.send(&get("miss"));
    world.draining = true;
    world.turn(Some(&World::found("read")));
    assert!(String::from_utf8_lossy(&world.io.written).contains("Connection: close"));
    assert!(world.io.shut);
    let mut idle = World::knowing("a", "value");
    idle.draining = true;
    idle.with(|connection, _, _, cx| connection.drain(cx));
    assert!(idle.connection.deadline_ms() <= idle.now_ms + DRAIN_IDLE_MS);
}

#[test]
fn an_answer_that_is_on_its_way_when_draining_begins_arrives_whole() {
    let mut world = World::knowing("a", "value");
    world.io.room = 10;
    world.send(&get("a"));
    world.draining = true;
    world.with(|connection, _, _, cx| connection.drain(cx));
    assert!(world.connection.deadline_ms() > world.now_ms + DRAIN_IDLE_MS);
    world.io.room = usize::MAX;
    world.turn_until_it_waits();
    assert!(String::from_utf8_lossy(&world.io.written).ends_with("value"));
    assert_eq!(world.connection.deadline_ms(), world.now_ms + DRAIN_IDLE_MS, "and then it is an idle one");
}

#[test]
fn a_content_that_comes_when_draining_has_begun_is_the_last() {
    for (target, content) in [("PUT /kv/a", b"\xff"), ("DELETE /kv/", b"x")] {
        let mut world = World::new();
        world.send(format!("{target} HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n").as_bytes());
        world.draining = true;
        world.with(|connection, _, _, cx| connection.drain(cx));
        world.send(content);
        let answer = String::from_utf8_lossy(&world.io.written).into_owned();
        assert!(answer.starts_with("HTTP/1.1 4") && answer.contains("Connection: close"), "{answer}");
        assert!(world.io.shut);
    }
}

#[test]
fn a_wait_behind_an_answer_that_is_not_taken_ends_when_it_was_to() {
    let mut world = World::knowing("k", "value");
    world.io.room = 10;
    let wait = b"GET /kv/k HTTP/1.1\r\nHost: h\r\nIf-None-Match: \"9\"\r\nPrefer: wait=1\r\n\r\n";
    world.send(&[get("k"), wait.to_vec()].concat());
    world.io.room = usize::MAX;
    world.turn_until_it_waits();
    assert_eq!(world.statuses(), [200]);
    assert!(world.connection.deadline_ms() <= world.now_ms + 1_000);
    world.expire();
    assert_eq!(world.statuses(), [200, 304]);
}

#[test]
fn draining_ends_a_silent_connection_without_a_reset() {
    let mut world = World::knowing("a", "value");
    world.draining = true;
    world.with(|connection, _, _, cx| connection.drain(cx));
    // Its next request has come since the socket was looked at last: it is answered.
    world.io.pieces.push_back(get("a"));
    world.expire();
    assert_eq!(world.statuses(), [200]);
    assert!(String::from_utf8_lossy(&world.io.written).contains("Connection: close") && world.io.shut);
    // Or it comes when the end was told: nothing is done, and it is read, so that closing sends no reset.
    let mut world = World::knowing("a", "value");
    world.draining = true;
    assert!(world.expire() == Turn::Again && world.io.shut);
    world.send(b"DELETE /kv/a HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(world.io.pieces.is_empty() && world.io.written.is_empty() && world.writes.is_empty());
    assert!(world.connection.deadline_ms() > world.now_ms, "more may come");
    world.io.ends = true;
    world.connection.set_readable(true);
    assert_eq!(world.turn(None), Turn::Close);
}

#[test]
fn who_still_waits_when_the_server_must_go_is_told_what_is_known() {
    for (request, take, expected) in [("GET", false, 503), ("DELETE", false, 503), ("DELETE", true, 504)] {
        let mut world = World::new();
        world.send(format!("{request} /kv/a HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
        if take {
            assert!(world.writes.recv().unwrap().claim().take());
        }
        world.with(|connection, io, ws, cx| connection.abandon(io, ws, cx));
        assert_eq!(world.statuses(), [expected]);
    }
}

fn record(value: &str) -> Row {
    Some(Record { value: value.into(), version: 5, expires_s: NEVER })
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

fn some(status: u64, value: &str) -> (u64, Option<String>) {
    (status, Some(value.to_owned()))
}

#[test]
fn several_keys_are_one_job_and_one_answer_in_the_order_of_the_request() {
    let mut world = World::knowing("hit", "value");
    world.send(&[get_many(&["m1", "hit", "m2", "m1"]), get("hit")].concat());
    assert_eq!(world.reads.len(), 1, "one place in the queue");
    let jobs = world.take_reads();
    let keys: Vec<&str> = jobs.iter().map(|job| &*job.key).collect();
    assert_eq!(keys, ["m1", "m2"], "a key that is there twice is read once");
    world.read_done(&jobs[1], &None);
    assert!(world.statuses().is_empty());
    world.read_done(&jobs[0], &record("read"));
    world.turn_until_it_waits();
    assert_eq!(world.statuses(), [200, 200], "and the pipeline goes on behind it");
    world.send(&get_many(&["m1", "hit", "m2", "m1"]));
    assert_eq!(world.reads.len(), 0, "what was read is cached");
    assert_eq!(items(&world), [some(200, "read"), some(200, "value"), (404, None), some(200, "read")]);
    let counters = &world.counters;
    assert_eq!((counters.hits(), counters.absences(), counters.cache_misses.get()), (5, 1, 3));
}

#[test]
fn one_read_serves_a_request_for_several_keys_and_one_for_a_single_key() {
    let mut world = World::new();
    world.send(&get("a"));
    world.expire();
    world.send(&get_many(&["a", "b"]));
    let (first, second) = (world.take_reads(), world.take_reads());
    assert_eq!((&*first[0].key, first.len(), &*second[0].key, second.len()), ("a", 1, "b", 1));
    world.read_done(&second[0], &None);
    // The ticket of the request that was given up is among those of this read, and is not taken.
    let job = &first[0];
    let row = record("read");
    let waiters =
        world.backend.engine.shard(job.hash).read_done(job.hash, &job.key, job.id, Some(&row), 0).waiters;
    let taken: Vec<bool> = waiters.iter().map(|ticket| world.connection.waits_for(*ticket)).collect();
    assert_eq!(taken, [false, true]);
    let reply = Reply { ticket: waiters[1], answer: Answer::Found(row) };
    world.with(|connection, io, ws, cx| connection.turn_with(reply, io, ws, cx));
    assert_eq!(items(&world), [some(200, "read"), (404, None)]);
    assert!(!world.connection.waits_for(waiters[1]), "nothing is waited for any more");
}

#[test]
fn of_several_keys_those_that_cannot_be_read_say_so_each() {
    let mut world = World::knowing("hit", "value");
    while world.backend.reads.try_send(ReadWork::Rows(Arc::default())).is_ok() {}
    world.send(&get_many(&["miss", "hit"]));
    assert_eq!(items(&world), [(503, None), some(200, "value")]);
    assert!(String::from_utf8_lossy(&world.io.written).contains("Retry-After: 1\r\n"));
    assert_eq!(world.backend.engine.stats().in_flight, 0, "nothing is left in flight");
    while world.reads.try_recv().is_ok() {}
    world.backend.health.set_reader(true);
    world.send(&get_many(&["miss", "hit"]));
    assert_eq!(items(&world), [(503, None), some(200, "value")]);
    world.backend.health.set_reader(false);
    world.send(&get_many(&["miss", "hit"]));
    world.expire();
    assert_eq!(items(&world), [(504, None), some(200, "value")]);
    assert_eq!(world.connection.deadline_ms() - world.now_ms, world.bounds.idle_timeout_ms);
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

#[test]
fn an_export_asks_for_its_next_page_when_the_last_one_is_sent() {
    let mut world = World::knowing("a", "value");
    world.send(&[export(), get("a")].concat());
    assert_eq!(&*world.take_page().range.from, "\u{1}");
    world.io.room = 300;
    world.turn(Some(&page(&["a", "b"], "v", true)));
    world.turn_until_it_waits();
    assert_eq!(&*world.take_page().range.from, "b\u{1}");
    world.turn(Some(&page(&["c"], &"w".repeat(1_000), true)));
    assert_eq!(world.turn_until_it_waits(), Turn::Wait);
    assert!(
        world.connection.backlog.is_some() && world.reads.is_empty(),
        "nothing is read for who does not read"
    );
    world.io.room = usize::MAX;
    world.turn_until_it_waits();
    assert_eq!(&*world.take_page().range.from, "c\u{1}");
    world.turn(Some(&page(&[], "", false)));
    world.turn_until_it_waits();
    let expected = format!(
        "30\r\n{{\"key\":\"a\",\"value\":\"v\"}}\n{{\"key\":\"b\",\"value\":\"v\"}}\n\r\n3ff\r\n{{\"key\":\"c\",\"value\":\"{}\"}}\n\r\n0\r\n\r\n",
        "w".repeat(1_000)
    );
    assert!(content(&world).starts_with(&expected), "{}", content(&world));
    assert_eq!(world.statuses(), [200, 200], "and the pipeline goes on behind it");
}

#[test]
fn an_export_of_large_values_is_encoded_piece_by_piece() {
    let mut world = World::new();
    world.send(&export());
    world.io.room = 1_000;
    world.turn(Some(&page(&["a", "b"], &"\u{1}".repeat(500_000), false)));
    let mut most = 0;
    while !content(&world).ends_with("0\r\n\r\n") {
        world.turn(None);
        most = most.max(world.connection.backlog.as_ref().map_or(0, |backlog| backlog.len()));
        world.io.room = 50_000;
    }
    assert!(most < 200_000, "{most} bytes wait to be sent");
    assert!(content(&world).len() > 6_000_000);
}

#[test]
fn an_export_that_cannot_go_on_ends_without_its_end() {
    for failure in [Some(Answer::Failed(Failure::Down { retry_after_seconds: 1 })), None] {
        let mut world = World::new();
        world.send(&export());
        world.turn(Some(&page(&["a"], "v", true)));
        world.turn_until_it_waits();
        match &failure {
            Some(failure) => world.turn(Some(failure)),
            None => world.expire(),
        };
        assert!(world.io.shut, "the connection is over");
        assert!(content(&world).ends_with("}\n\r\n"), "and its last chunk is missing: {}", content(&world));
        assert_eq!(world.statuses(), [200]);
    }
    // Before anything is sent it is a refusal like any other.
    let mut world = World::new();
    world.send(&export());
    world.expire();
    assert_eq!(world.statuses(), [504]);
}

#[test]
fn an_export_waits_for_its_turn_where_the_queue_is_full() {
    let mut world = World::new();
    world.send(&export());
    world.take_page();
    while world.backend.reads.try_send(ReadWork::Rows(Arc::default())).is_ok() {}
    world.turn(Some(&page(&["a"], "v", true)));
    assert_eq!(world.turn_until_it_waits(), Turn::Wait);
    world.expire();
    assert!(!world.io.shut, "it asks again");
    while world.reads.try_recv().is_ok() {}
    world.expire();
    assert_eq!(&*world.take_page().range.from, "a\u{1}");
    world.turn(Some(&page(&[], "", false)));
    world.turn_until_it_waits();
    assert!(content(&world).ends_with("0\r\n\r\n"));
    // But not for ever.
    let mut world = World::new();
    world.send(&export());
    world.take_page();
    while world.backend.reads.try_send(ReadWork::Rows(Arc::default())).is_ok() {}
    world.turn(Some(&page(&["a"], "v", true)));
    world.turn_until_it_waits();
    let began = world.now_ms;
    while !world.io.shut {
        world.expire();
    }
    assert!(world.now_ms - began <= world.bounds.request_timeout_ms + 1_000);
}

#[test]
fn without_chunks_the_end_of_the_connection_is_the_end_of_an_export() {
    let mut world = World::new();
    world.send(b"GET /kv HTTP/1.0\r\nConnection: keep-alive\r\nAccept: application/x-ndjson\r\n\r\n");
    world.turn(Some(&page(&["a"], "v", false)));
    world.turn_until_it_waits();
    assert_eq!(content(&world), "{\"key\":\"a\",\"value\":\"v\"}\n");
    assert!(world.io.shut && String::from_utf8_lossy(&world.io.written).contains("Connection: close\r\n"));
}
