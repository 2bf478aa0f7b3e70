//! One connection and all that it needs, driven as an event loop drives it: it is turned only when there is an event,
//! and events come only where a kernel would send them.

use crate::database::{Database, Jobs};
use crate::socket::Scripted;
use ahash::RandomState;
use crossbeam_channel::bounded;
use hotrow::api::admin::{About, Status};
use hotrow::connection::{Bounds, Connection, Context, Role, Turn, Workspace};
use hotrow::engine::Engine;
use hotrow::http::response::Encoder;
use hotrow::limits::{ITEMS_BYTES, OUTPUT_BYTES};
use hotrow::metrics::{Counters, Workers};
use hotrow::store::Reply;
use hotrow::store::backend::Backend;
use hotrow::store::health::Health;
use hotrow::store::load::Loads;
use hotrow::token::Id;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

/// The largest value: large enough to be lent instead of copied, and for some of them to fill the output.
pub const MAX_VALUE_BYTES: usize = 8 * 1024;
/// So small that keys are evicted.
const CACHE_BYTES: usize = 64 * 1024;
/// More than any one answer has: values of several keys, and what is said about a hundred of them.
const ANSWER_BYTES: usize = ITEMS_BYTES + MAX_VALUE_BYTES + 64 * 1024;
/// Steps of a script: it begins again from its beginning up to so many.
const STEPS: usize = 512;
/// Far more than any run needs: whoever reaches this spins.
const TURNS: usize = 100_000;

/// What happens around a connection.
#[derive(Clone, Copy, Debug)]
pub enum Script<'a> {
    /// Everything arrives at once, with the end of the stream; the client reads everything; jobs are done at once.
    AtOnce,
    /// What the bytes say, one step each, without changing what the answers must be. `sums`: what the answers to the
    /// first so many requests are long, in all.
    Steady { steps: &'a [u8], reads_freely: bool, sums: &'a [usize] },
    /// The same, and besides resets, deadlines, lost outcomes, draining.
    Chaos { steps: &'a [u8], reads_freely: bool },
}

/// What one step of a script does.
#[derive(Clone, Copy, Debug)]
enum Step {
    Arrive(usize),
    MakeRoom(usize),
    Work,
    Wake { interrupted: bool, readable: bool },
    End,
    Disturb(u8),
}

impl Step {
    /// Three bits say what, five how much.
    fn from_byte(byte: u8) -> Step {
        let much = usize::from(byte >> 3) + 1;
        match byte & 7 {
            0 => Step::Arrive(much),
            1 => Step::Arrive(much * much * 16),
            2 => Step::MakeRoom(much),
            3 => Step::MakeRoom(much * much * 64),
            4 => Step::Work,
            5 => Step::Wake { interrupted: much & 1 != 0, readable: much & 2 != 0 },
            6 => Step::End,
            _ => Step::Disturb(byte >> 3),
        }
    }
}

/// One run of one connection.
struct World<'a> {
    script: Script<'a>,
    connection: Connection,
    socket: Scripted,
    jobs: Jobs,
    database: Database,
    backend: Backend,
    status: Status,
    counters: Arc<Counters>,
    bounds: Bounds,
    now_ms: u64,
    draining: bool,
    /// It wants another turn without an event.
    again: bool,
    closed: bool,
    turns: usize,
    /// Numbers of the jobs whose replies it has taken.
    taken: BTreeSet<u32>,
}

thread_local! {
    /// One for all runs, as one is for all connections of a loop: what a run leaves in it, the next would send.
    static WORKSPACE: RefCell<Workspace> = RefCell::new(Workspace::new(Encoder::new(0, SystemTime::UNIX_EPOCH)));
}

/// Runs a connection to its end; returns what it has sent.
pub fn run(role: Role, input: &[u8], script: Script<'_>) -> Vec<u8> {
    let mut world = World::new(role, input, script);
    match script {
        Script::AtOnce => {}
        Script::Steady { steps, reads_freely, .. } | Script::Chaos { steps, reads_freely } => {
            if reads_freely {
                world.socket.make_room(usize::MAX);
            }
            // The first turn is without an event: often the first request is there already.
            world.turn(None);
            for step in steps.iter().cycle().take(STEPS) {
                if world.closed {
                    break;
                }
                world.step(Step::from_byte(*step));
            }
        }
    }
    world.finish();
    world.socket.sent
}

impl<'a> World<'a> {
    fn new(role: Role, input: &[u8], script: Script<'a>) -> World<'a> {
        let engine =
            Arc::new(Engine::with_hasher(CACHE_BYTES, MAX_VALUE_BYTES, RandomState::with_seeds(1, 2, 3, 4)));
        let health = Arc::new(Health::new(1, 2));
        let counters = Arc::new(Counters::default());
        let (reads, reads_out) = bounded(8);
        let (writes, writes_out) = (0..2).map(|_| bounded(8)).unzip();
        let jobs = Jobs { reads: reads_out, writes: writes_out };
        let status = Status {
            engine: Arc::clone(&engine),
            health: Arc::clone(&health),
            counters: vec![Arc::clone(&counters)],
            workers: Arc::new(Workers::new(1, 1)),
            process: Arc::default(),
            draining: AtomicBool::new(false),
            about: About::default(),
        };
        let bounds = Bounds {
            max_value_bytes: MAX_VALUE_BYTES,
            request_timeout_ms: 5_000,
            header_timeout_ms: 3_000,
            idle_timeout_ms: 10_000,
        };
        let backend = Backend { engine, health, reads, writes, loads: Loads::default() };
        let id = Id { slot: 3, generation: 7 };
        let cx = Context {
            backend: &backend,
            status: &status,
            bounds: &bounds,
            tokens: None,
            counters: &counters,
            access_log: None,
            event_loop: 0,
            now_ms: 0,
            now_ns: 0,
            now_s: 0,
            draining: false,
        };
        let connection = Connection::new(id, role, &cx);
        // In chaos a job may be out that nobody waits for any more.
        let waits_for = if matches!(script, Script::Chaos { .. }) { None } else { Some(jobs.clone()) };
        World {
            script,
            connection,
            socket: Scripted::new(input, waits_for),
            jobs,
            database: Database::default(),
            backend,
            status,
            counters,
            bounds,
            now_ms: 0,
            draining: false,
            again: false,
            closed: false,
            turns: 0,
            taken: BTreeSet::new(),
        }
    }

    fn step(&mut self, step: Step) {
        let event = match step {
            Step::Arrive(bytes) => {
                let arrived = self.socket.arrive(bytes);
                if arrived {
                    self.connection.set_readable(false);
                }
                arrived
            }
            Step::MakeRoom(bytes) => self.socket.make_room(bytes),
            Step::Work => {
                self.work(false);
                false
            }
            Step::Wake { interrupted, readable } => {
                if interrupted {
                    self.socket.interrupt();
                }
                if readable {
                    self.connection.set_readable(false);
                }
                true
            }
            Step::End => {
                self.socket.end();
                self.connection.set_readable(true);
                true
            }
            Step::Disturb(what) => {
                if matches!(self.script, Script::Chaos { .. }) {
                    self.disturb(what);
                }
                false
            }
        };
        if (event || self.again) && !self.closed {
            self.turn(None);
        }
    }

    fn disturb(&mut self, what: u8) {
        match what {
            0..16 => {
                self.now_ms += u64::from(what + 1) * 500;
                if self.connection.deadline_ms() <= self.now_ms {
                    self.with(|connection, socket, ws, cx| connection.expire(socket, ws, cx));
                }
            }
            16..24 => self.work(true),
            24..28 => {
                self.draining = true;
                self.with(|connection, _, _, cx| {
                    connection.drain(cx);
                    Turn::Again
                });
            }
            _ => {
                self.socket.reset();
                self.connection.set_readable(true);
                self.again = true;
            }
        }
    }

    /// Does the oldest job, if there is one, and brings the reply as an event loop's inbox does.
    fn work(&mut self, lose: bool) {
        for reply in self.database.work(&self.jobs, &self.backend.engine, lose) {
            if !self.closed && self.connection.waits_for(reply.ticket) {
                assert!(self.taken.insert(reply.ticket.job), "a late reply is taken for a later job's");
                self.turn(Some(reply));
            } else {
                assert!(matches!(self.script, Script::Chaos { .. }), "a reply found nobody");
            }
        }
    }

    /// The rest of the input and its end arrive, the client reads, the jobs are done: it must come to its end.
    fn finish(&mut self) {
        if self.closed {
            return;
        }
        self.socket.end();
        self.socket.make_room(usize::MAX);
        self.connection.set_readable(true);
        self.again = true;
        while !self.closed {
            if self.again {
                self.turn(None);
            } else {
                assert!(!self.jobs.is_empty(), "it waits, and nothing will come");
                self.work(false);
            }
        }
    }

    fn turn(&mut self, reply: Option<Reply>) {
        match reply {
            Some(reply) => {
                self.with(|connection, socket, ws, cx| connection.turn_with(reply, socket, ws, cx))
            }
            None => {
                self.again = false;
                self.with(|connection, socket, ws, cx| connection.turn(socket, ws, cx));
            }
        }
    }

    fn with(
        &mut self,
        act: impl FnOnce(&mut Connection, &mut Scripted, &mut Workspace, &Context<'_>) -> Turn,
    ) {
        let cx = Context {
            backend: &self.backend,
            status: &self.status,
            bounds: &self.bounds,
            tokens: None,
            counters: &self.counters,
            access_log: None,
            event_loop: 0,
            now_ms: self.now_ms,
            now_ns: 0,
            now_s: 0,
            draining: self.draining,
        };
        let turn = WORKSPACE.with_borrow_mut(|ws| act(&mut self.connection, &mut self.socket, ws, &cx));
        match turn {
            Turn::Wait => {}
            Turn::Again => self.again = true,
            Turn::Close => self.closed = true,
        }
        self.turns += 1;
        assert!(self.turns < TURNS, "it turns and turns");
        self.check_backlog();
    }

    /// What is encoded and not sent is bounded: a client that does not read is not answered any more.
    fn check_backlog(&self) {
        let Script::Steady { sums, .. } = self.script else { return };
        let answered = (self.counters.requests() + self.counters.admin_requests.get()) as usize;
        let encoded =
            answered.checked_sub(1).and_then(|last| sums.get(last.min(sums.len().saturating_sub(1))));
        let backlog = encoded.map_or(0, |encoded| encoded.saturating_sub(self.socket.sent.len()));
        // The last one before the bound, and the reply to the job that was out.
        assert!(backlog <= OUTPUT_BYTES + 2 * ANSWER_BYTES, "{backlog} bytes wait to be sent");
    }
}
