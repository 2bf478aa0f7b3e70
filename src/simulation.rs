//! A seeded simulation of everything that decides: the real engine, backend, readers, writers and batches, on a
//! made-up database and with made-up clients, in one thread. Only the order of things is chance, and the seed repeats
//! it: `SEED=17 cargo test simulation`.
//!
//! Concurrency comes from the inside: whenever a reader or writer talks to the database, other things happen before
//! and after the statement takes effect: clients ask, other workers run, a lost statement commits late, a deadline
//! passes.
//!
//! What is checked is linearizability of every key, against the order in which the database really committed, which
//! only the simulation can see:
//!
//! - no read gives a row older than one that had been acknowledged, or given to a reader, before it began;
//! - no read gives what was never committed; no acknowledged write is missing; no refused write ever happens;
//! - every request gets one reply; at the end the cache agrees with the table, and nothing is left in flight.

use crate::clock::Clock;
use crate::engine::Engine;
use crate::engine::shard::{Hit, PlantedBug, Row};
use crate::http::response::Lent;
use crate::metrics::Workers;
use crate::store::backend::{Asked, Backend};
use crate::store::health::Health;
use crate::store::reader::Reader;
use crate::store::worker::Shared;
use crate::store::writer::Writer;
use crate::store::{Answer, Blame, Claim, Connector, Deliver, Error, Failure, Op, Reply, Session, Written};
use crate::token::{Id, Ticket};
use ahash::RandomState;
use crossbeam_channel::bounded;
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

const KEYS: [&str; 3] = ["a", "b", "c"];
const CLIENTS: usize = 5;
const OPERATIONS: usize = 36;
/// Statements inside statements inside statements.
const DEPTH: usize = 4;
const SCHEDULES: u64 = 100_000;

/// Which bug is planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    InShard(PlantedBug),
    /// Writes of one key run on two writers: their outcomes reach the cache in another order than the table.
    ReorderedWrites,
    /// The old backend is not waited for: what it had been sent may commit after the doubt is over.
    NoFence,
    /// A write is acknowledged when it is sent.
    AcknowledgedBeforeCommit,
}

fn known(key: &str) -> &'static str {
    KEYS.into_iter().find(|known| *known == key).expect("known keys only")
}

/// One operation of a client, under way.
#[derive(Clone, Debug)]
struct Asking {
    key: &'static str,
    op: Option<Op>,
    claim: Option<Claim>,
    /// The oldest version of the key that this operation may still see: anything older had been overtaken when it began.
    floor: usize,
    /// The newest version when it began.
    newest: usize,
    job: u32,
}

/// A statement that was lost with its connection and that its backend may still execute.
struct Lost {
    backend: u32,
    sets: Vec<(String, String)>,
    deletes: Vec<String>,
}

struct State {
    rng: Rng,
    depth: usize,
    started: usize,
    clients: Vec<Option<Asking>>,
    jobs: u32,
    /// Every state that each key ever had in the table, oldest first; the first is "absent".
    history: BTreeMap<&'static str, Vec<Option<(String, u32)>>>,
    /// The oldest state of each key that an operation which begins now may see.
    floors: BTreeMap<&'static str, usize>,
    /// Values whose writers were told that nothing was changed.
    refused: BTreeSet<String>,
    lost: Vec<Lost>,
    next_version: u32,
    next_backend: u32,
    idle_readers: Vec<Reader<Database>>,
    /// By number; `None` while it runs.
    writers: Vec<Option<Writer<Database>>>,
    violation: Option<String>,
    /// Kinds of faults of this run: some runs have none of a kind.
    faults: Faults,
    log: Vec<String>,
}

#[derive(Clone, Copy)]
struct Faults {
    lost: bool,
    refused: bool,
    deadlines: bool,
}

struct World {
    state: Mutex<State>,
    backend: Backend,
    bug: Bug,
    verbose: bool,
}

/// The made-up database, as workers see it. Set once the world is whole.
#[derive(Clone)]
struct Database(Arc<Mutex<Option<Arc<World>>>>);

impl Database {
    fn world(&self) -> Arc<World> {
        Arc::clone(self.0.lock().unwrap().as_ref().expect("set before anything runs"))
    }
}

struct FakeSession {
    database: Database,
    number: u32,
}

impl Connector for Database {
    type Session = FakeSession;

    fn connect(&self) -> Result<FakeSession, Error> {
        let world = self.world();
        let mut state = world.state();
        state.next_backend += 1;
        Ok(FakeSession { number: state.next_backend, database: self.clone() })
    }
}

impl Session for FakeSession {
    type Backend = u32;

    fn read(&mut self, keys: &[&str]) -> Result<Vec<Row>, Error> {
        let world = self.database.world();
        world.meanwhile();
        let rows = {
            let state = world.state();
            let row = |key: &&str| {
                let last = state.history[*key].last().expect("every key begins absent");
                last.as_ref().map(|(value, version)| (value.as_str().into(), *version))
            };
            keys.iter().map(row).collect()
        };
        world.meanwhile();
        let mut state = world.state();
        if state.faults.lost && state.rng.u8(..20) == 0 {
            return Err(Error::Lost("read".into()));
        }
        Ok(rows)
    }

    fn write(&mut self, sets: &[(&str, &str)], deletes: &[&str]) -> Result<Written, Error> {
        let world = self.database.world();
        world.meanwhile();
        let faults = world.state().faults;
        let fate = world.state().rng.u8(..24);
        let result = match fate {
            0 if faults.refused => {
                let blame = [Blame::Conflict, Blame::Row, Blame::Server, Blame::ReadOnly]
                    [world.state().rng.usize(..4)];
                Err(Error::Refused { message: "no".into(), blame })
            }
            1 if faults.lost => Err(Error::NotSent("closed".into())),
            2 if faults.lost => {
                world.state().commit(sets, deletes);
                Err(Error::Lost("after the commit".into()))
            }
            3 | 4 if faults.lost => {
                let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
                let sets = sets.iter().map(owned).collect();
                let deletes = deletes.iter().map(|key| (*key).to_owned()).collect();
                world.state().lost.push(Lost { backend: self.number, sets, deletes });
                Err(Error::Lost("before the commit".into()))
            }
            _ if world.bug == Bug::AcknowledgedBeforeCommit && fate == 5 => {
                let version = world.state().next_version + 1;
                let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
                let sets_too = sets.iter().map(owned).collect();
                world.state().lost.push(Lost { backend: self.number, sets: sets_too, deletes: Vec::new() });
                Ok(Written { stored: vec![(version, false); sets.len()], deleted: vec![true; deletes.len()] })
            }
            _ => Ok(world.state().commit(sets, deletes)),
        };
        world.meanwhile();
        result
    }

    fn backend(&self) -> u32 {
        self.number
    }

    fn end_backend(&mut self, backend: &u32) -> Result<(), Error> {
        let world = self.database.world();
        world.meanwhile();
        if world.bug == Bug::NoFence {
            return Ok(());
        }
        let mut state = world.state();
        // It had its last chance while we waited for its end; what it has not committed by now it never will.
        let late = state.rng.bool();
        while let Some(at) = state.lost.iter().position(|lost| lost.backend == *backend) {
            let lost = state.lost.remove(at);
            if late {
                state.commit_lost(&lost);
            }
        }
        Ok(())
    }

    fn is_broken(&mut self) -> bool {
        false
    }
}

impl State {
    fn commit(&mut self, sets: &[(&str, &str)], deletes: &[&str]) -> Written {
        self.next_version += 1;
        let version = self.next_version;
        let mut written = Written::default();
        for (key, value) in sets {
            let history = self.history.get_mut(known(key)).expect("known keys only");
            let created = history.last().expect("never empty").is_none();
            history.push(Some(((*value).to_owned(), version)));
            written.stored.push((version, created));
        }
        for key in deletes {
            let history = self.history.get_mut(known(key)).expect("known keys only");
            let existed = history.last().expect("never empty").is_some();
            if existed {
                history.push(None);
            }
            written.deleted.push(existed);
        }
        self.log(|| format!("  committed {version}: {sets:?} {deletes:?}"));
        written
    }

    fn commit_lost(&mut self, lost: &Lost) {
        let sets: Vec<(&str, &str)> = lost.sets.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let deletes: Vec<&str> = lost.deletes.iter().map(String::as_str).collect();
        self.commit(&sets, &deletes);
    }

    fn log(&mut self, line: impl FnOnce() -> String) {
        if self.log.capacity() > 0 {
            self.log.push(line());
        }
    }

    fn violate(&mut self, what: String) {
        self.log(|| format!("VIOLATION: {what}"));
        self.violation.get_or_insert(what);
    }

    /// A read of `key` has given `row`, and began when `asking` says.
    fn check_read(&mut self, asking: &Asking, row: &Row, how: &str) {
        let history = &self.history[asking.key];
        let matches = |state: &Option<(String, u32)>| match (state, row) {
            (None, None) => true,
            (Some((value, version)), Some((got, got_version))) => **value == **got && version == got_version,
            _ => false,
        };
        match history.iter().enumerate().skip(asking.floor).find(|(_, state)| matches(state)) {
            Some((at, _)) => self.raise_floor(asking.key, at),
            None => {
                let what = format!(
                    "{how} of {} gave {row:?}, from before its beginning or from nowhere",
                    asking.key
                );
                self.violate(what);
            }
        }
    }

    /// A write that was acknowledged must have been committed since it began.
    fn check_write(&mut self, asking: &Asking, version: Option<u32>) {
        let history = &self.history[asking.key];
        let committed = match version {
            Some(version) => {
                history.iter().rposition(|state| state.as_ref().is_some_and(|(_, v)| *v == version))
            }
            // Folded away by a later write of its batch: that one's commit is its own. If that one was a DELETE and
            // there was no row, nothing was left to commit.
            None if asking.newest + 1 < history.len() => Some(asking.newest + 1),
            None if history.last().is_some_and(Option::is_none) => return,
            None => None,
        };
        match committed {
            Some(at) if at > asking.newest => self.raise_floor(asking.key, at),
            _ => self.violate(format!("{asking:?} was acknowledged and not committed")),
        }
    }

    fn raise_floor(&mut self, key: &'static str, at: usize) {
        let floor = self.floors.get_mut(key).expect("known keys only");
        *floor = (*floor).max(at);
    }
}

impl World {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Some of what goes on while a statement is on its way.
    fn meanwhile(&self) {
        let steps = {
            let mut state = self.state();
            state.depth += 1;
            if state.depth > DEPTH { 0 } else { state.rng.usize(..4) }
        };
        for _ in 0..steps {
            self.step();
        }
        self.state().depth -= 1;
    }

    fn step(&self) {
        let choice = self.state().rng.u8(..10);
        match choice {
            0..=3 => self.ask(),
            4 | 5 => self.run_reader(),
            6 | 7 => self.run_writer(),
            8 => self.commit_late(),
            _ => self.pass_deadline(),
        }
    }

    /// A client without an operation under way begins one.
    fn ask(&self) {
        let (client, asking) = {
            let mut state = self.state();
            let free = state.clients.iter().position(Option::is_none);
            let Some(client) = free.filter(|_| state.started < OPERATIONS) else { return };
            state.started += 1;
            state.jobs += 1;
            let key = KEYS[state.rng.usize(..KEYS.len())];
            let op = match state.rng.u8(..10) {
                0..=4 => None,
                5..=7 => Some(Op::Set(format!("{key}{}", state.jobs).into())),
                _ => Some(Op::Delete),
            };
            let (floor, newest) = (state.floors[key], state.history[key].len() - 1);
            let asking = Asking { key, op, claim: None, floor, newest, job: state.jobs };
            state.clients[client] = Some(asking.clone());
            (client, asking)
        };
        self.begin(client, &asking);
    }

    fn begin(&self, client: usize, asking: &Asking) {
        self.state().log(|| format!("client {client}: {asking:?}"));
        let id = Id { slot: client as u32, generation: 0 };
        let ticket = Ticket { event_loop: 0, id, job: asking.job };
        let key = asking.key;
        if let Some(op) = &asking.op {
            let expired = {
                let mut state = self.state();
                state.faults.deadlines && state.rng.u8(..20) == 0
            };
            let deadline_ms = if expired { 0 } else { u64::MAX };
            match self.backend.write(key.into(), op.clone(), ticket, deadline_ms) {
                Asked::Queued(claim) => {
                    if let Some(asking) = &mut self.state().clients[client] {
                        asking.claim = Some(claim);
                    }
                }
                Asked::Refused(_) => self.finish(client, &Answer::Failed(Failure::NotStarted)),
                other => panic!("{other:?}"),
            }
            return;
        }
        let hit = |hit: Hit<'_>| match hit {
            Hit::Value(Lent::Bytes(bytes), version) => {
                Some((std::str::from_utf8(bytes).expect("values are text").into(), version))
            }
            Hit::Value(Lent::Shared(value), version) => Some((Arc::clone(value), version)),
            Hit::Absent => None,
        };
        match self.backend.get(key, ticket, hit) {
            Asked::Answered(row) => {
                let mut state = self.state();
                state.log(|| format!("client {client}: hit {row:?}"));
                state.clients[client] = None;
                state.check_read(asking, &row, "a hit");
            }
            Asked::Waiting => {}
            Asked::Refused(_) => {
                self.finish(client, &Answer::Failed(Failure::Down { retry_after_seconds: 1 }))
            }
            Asked::Queued(_) => panic!("a read is not queued as a write"),
        }
    }

    /// A reply, or what stands for one, has come to a client.
    fn finish(&self, client: usize, answer: &Answer) {
        let mut state = self.state();
        let asking = state.clients[client].take().expect("only who asks is answered");
        state.log(|| format!("client {client}: {answer:?} for {asking:?}"));
        match answer {
            Answer::Found(row) => state.check_read(&asking, row, "a miss"),
            Answer::Stored { version, .. } => state.check_write(&asking, *version),
            Answer::Deleted { existed: true } => state.check_write(&asking, None),
            // Absent when it ran: at some state since the floor, or between two writes of its batch.
            Answer::Deleted { existed: false } => {
                let absent = state.history[asking.key][asking.floor..].iter().any(Option::is_none);
                let batched = state.history[asking.key].len() - 1 > asking.newest;
                if !absent && !batched {
                    state.violate(format!("{asking:?} found nothing, but there was a row all the time"));
                }
            }
            Answer::Failed(Failure::Unknown) => {}
            Answer::Failed(Failure::Down { .. } | Failure::Refused(_) | Failure::NotStarted) => {
                if let Some(Op::Set(value)) = &asking.op {
                    state.refused.insert(value.to_string());
                }
            }
        }
    }

    fn run_reader(&self) {
        let Some(mut reader) = self.state().idle_readers.pop() else { return };
        reader.run_queued();
        self.state().idle_readers.push(reader);
    }

    fn run_writer(&self) {
        let (number, writer) = {
            let mut state = self.state();
            let count = state.writers.len();
            let number = state.rng.usize(..count);
            (number, state.writers[number].take())
        };
        if let Some(mut writer) = writer {
            writer.run_queued();
            self.state().writers[number] = Some(writer);
        }
    }

    /// A backend whose connection was lost executes its last statement after all.
    fn commit_late(&self) {
        let mut state = self.state();
        if !state.lost.is_empty() {
            let count = state.lost.len();
            let at = state.rng.usize(..count);
            let lost = state.lost.remove(at);
            state.commit_lost(&lost);
        }
    }

    /// The deadline of some write passes at its connection.
    fn pass_deadline(&self) {
        let waiting = {
            let mut state = self.state();
            if !state.faults.deadlines {
                return;
            }
            let client = state.rng.usize(..CLIENTS);
            state.clients[client]
                .as_ref()
                .and_then(|asking| asking.claim.clone())
                .map(|claim| (client, claim))
        };
        if let Some((client, claim)) = waiting {
            let failure = if claim.withdraw() { Failure::NotStarted } else { Failure::Unknown };
            self.finish(client, &Answer::Failed(failure));
        }
    }

    /// Lets everything come to its end, and looks at what is left.
    fn settle(&self) {
        for _ in 0..200 {
            if self.state().clients.iter().all(Option::is_none) {
                break;
            }
            self.run_reader();
            for _ in 0..4 {
                self.run_writer();
            }
        }
        while !self.state().lost.is_empty() {
            self.commit_late();
        }
        let writers = self.state().writers.len();
        for number in 0..writers {
            let writer = self.state().writers[number].take();
            if let Some(mut writer) = writer {
                writer.run_queued();
                self.state().writers[number] = Some(writer);
            }
        }
        for client in 0..CLIENTS {
            let mut state = self.state();
            if let Some(asking) = state.clients[client].clone() {
                state.violate(format!("{asking:?} never got a reply"));
            }
        }
        if self.state().violation.is_none() {
            self.check_the_end();
        }
    }

    fn check_the_end(&self) {
        // Nobody writes any more: two reads of each key, the second from the cache, give the table's row.
        self.state().faults = Faults { lost: false, refused: false, deadlines: false };
        for (key, how) in KEYS.into_iter().flat_map(|key| [(key, "first"), (key, "second")]) {
            let newest = self.state().history[key].len() - 1;
            let asking = Asking { key, op: None, claim: None, floor: newest, newest, job: u32::MAX };
            self.state().clients[0] = Some(asking.clone());
            self.state().started = OPERATIONS;
            self.begin(0, &asking);
            self.run_reader();
            let mut state = self.state();
            if state.clients[0].take().is_some() {
                state.violate(format!("the {how} read of {key} got no reply"));
            }
        }
        let stats = self.backend.engine.stats();
        let mut state = self.state();
        if (stats.in_flight, stats.in_doubt) != (0, 0) {
            state.violate(format!("left in flight: {stats:?}"));
        }
        let happened =
            state.history.values().flatten().flatten().find(|(value, _)| state.refused.contains(value));
        if let Some((value, _)) = happened.cloned() {
            state.violate(format!("{value} was refused and happened all the same"));
        }
    }
}

/// Takes replies to the made-up clients.
struct Clients(Database);

impl Deliver for Clients {
    fn deliver(&self, replies: &mut Vec<Reply>) {
        let world = self.0.world();
        for Reply { ticket, answer } in replies.drain(..) {
            let client = ticket.id.slot as usize;
            let waits = world.state().clients[client].as_ref().is_some_and(|asking| asking.job == ticket.job);
            if waits {
                world.finish(client, &answer);
            }
        }
    }
}

/// One run. Returns what was violated, and what happened if it is to be told.
fn run(seed: u64, bug: Bug, verbose: bool) -> (Option<String>, Vec<String>) {
    let mut rng = Rng::with_seed(seed);
    let hasher = RandomState::with_seeds(seed, 2, 3, 4);
    // Nothing fits; a few entries fit; everything fits.
    let cache_bytes = [0, 600, 100_000][rng.usize(..3)];
    let engine = Arc::new(Engine::with_hasher(cache_bytes, cache_bytes / 16 + 1, hasher));
    if let Bug::InShard(bug) = bug {
        for index in 0..engine.shard_count() as u64 {
            engine.shard(index << 32).planted = Some(bug);
        }
    }
    let writers = 2.min(engine.shard_count()).max(if bug == Bug::ReorderedWrites { 2 } else { 1 });
    let database = Database(Arc::new(Mutex::new(None)));
    let health = Arc::new(Health::new(2, writers));
    let shared = Arc::new(Shared {
        connector: database.clone(),
        engine: Arc::clone(&engine),
        deliver: Arc::new(Clients(database.clone())),
        health: Arc::clone(&health),
        workers: Arc::new(Workers::new(2, writers)),
        clock: Clock::start(),
        // No time passes here.
        reconnect_ms: (0, 0),
    });
    let (reads, read_queue) = bounded(rng.usize(1..8));
    let idle_readers = (0..2).map(|i| Reader::new(Arc::clone(&shared), read_queue.clone(), i)).collect();
    let depth = rng.usize(1..8);
    let (writes, queues): (Vec<_>, Vec<_>) = (0..writers).map(|_| bounded(depth)).unzip();
    let writer = |(i, queue)| Some(Writer::new(Arc::clone(&shared), queue, i));
    let faults = Faults { lost: rng.bool(), refused: rng.bool(), deadlines: rng.bool() };
    let state = State {
        rng,
        depth: 0,
        started: 0,
        clients: vec![None; CLIENTS],
        jobs: 0,
        history: KEYS.into_iter().map(|key| (key, vec![None])).collect(),
        floors: KEYS.into_iter().map(|key| (key, 0)).collect(),
        refused: BTreeSet::new(),
        lost: Vec::new(),
        next_version: 0,
        next_backend: 0,
        idle_readers,
        writers: queues.into_iter().enumerate().map(writer).collect(),
        violation: None,
        faults,
        log: if verbose { Vec::with_capacity(1) } else { Vec::new() },
    };
    let planted_any_writer = bug == Bug::ReorderedWrites;
    let backend = Backend { engine, health, reads, writes, planted_any_writer };
    let world = Arc::new(World { state: Mutex::new(state), backend, bug, verbose });
    *database.0.lock().unwrap() = Some(Arc::clone(&world));
    while world.state().started < OPERATIONS {
        world.step();
    }
    world.settle();
    // Break the circle, or every run's world would stay.
    *database.0.lock().unwrap() = None;
    let mut state = world.state();
    debug_assert!(world.verbose || state.log.is_empty());
    (state.violation.take(), std::mem::take(&mut state.log))
}

fn explain(seed: u64, bug: Bug) -> String {
    let (violation, log) = run(seed, bug, true);
    format!("SEED={seed}: {violation:?}\n{}", log.join("\n"))
}

#[test]
fn simulation_of_many_schedules_finds_no_violation() {
    if let Some(seed) = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        let (violation, _) = run(seed, Bug::None, false);
        println!("{}", explain(seed, Bug::None));
        assert_eq!(violation, None);
        return;
    }
    // Two halves, because there are at least two cores.
    let half = |from: u64, to: u64| (from..to).find(|seed| run(*seed, Bug::None, false).0.is_some());
    let bad = std::thread::scope(|scope| {
        let other = scope.spawn(|| half(SCHEDULES / 2, SCHEDULES));
        half(0, SCHEDULES / 2).or(other.join().unwrap())
    });
    if let Some(seed) = bad {
        panic!("{}", explain(seed, Bug::None));
    }
}

#[test]
fn simulation_catches_every_planted_bug() {
    for bug in [
        Bug::InShard(PlantedBug::LateRefill),
        Bug::InShard(PlantedBug::KeepInDoubt),
        Bug::InShard(PlantedBug::DeleteForgetsToForget),
        Bug::InShard(PlantedBug::TimeRunsBack),
        Bug::ReorderedWrites,
        Bug::NoFence,
        Bug::AcknowledgedBeforeCommit,
    ] {
        let caught = (0..20_000).find(|seed| run(*seed, bug, false).0.is_some());
        assert!(caught.is_some(), "{bug:?} was not caught");
        println!("{bug:?}: {:?}", run(caught.unwrap(), bug, false).0);
    }
}

#[test]
fn simulation_repeats_itself() {
    for seed in 0..50 {
        assert_eq!(run(seed, Bug::None, true), run(seed, Bug::None, true));
    }
}
