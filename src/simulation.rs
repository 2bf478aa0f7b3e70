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
//! - whoever waits for a change is told of it;
//! - every request gets one reply; at the end the cache agrees with the table, and nothing is left in flight;
//! - of compare-and-swaps from one version at most one succeeds; a counter that is only added to, one at a time, gives
//!   every number once, and ends between what was acknowledged and what was asked; all of an all-or-nothing batch
//!   happens, or nothing;
//! - once the time of a row is over neither the cache nor the table gives it, and no compare-and-swap replaces it. Time
//!   stands still but for one jump, from 0 to 1, which is the end of every row that was to live for a second until then.
//!   A read that is on its way meanwhile may tell the row as it was when it was made to all that have joined it.
//!
//! In some runs the database loses commits, and all is forgotten in the same moment: whoever asks from then on is given what is
//! there since. In some another program writes to the table. Of that hits may know nothing; but what a read has given, no hit and no
//! read goes back behind, and a read of now gives what is there. Not so what was given by a read that is not cached (`no-store`,
//! one that a write has overtaken, one of a key in doubt): of that only hotrow's own writes count. Whoever waits is told of
//! what a read of now finds.

mod checks;
mod clients;
mod database;
mod watchers;

use crate::clock::Clock;
use crate::engine::Engine;
use crate::engine::planted::PlantedBug as Bug;
use crate::engine::shard::Freshness;
use crate::metrics::Workers;
use crate::store::backend::{Backend, Piece};
use crate::store::health::Health;
use crate::store::judge::Expiry;
use crate::store::load::Loads;
use crate::store::reader::Reader;
use crate::store::worker::Shared;
use crate::store::writer::Writer;
use crate::store::{Claim, Op};
use crate::token::{Id, Ticket};
use ahash::RandomState;
use checks::happened_twice;
use clients::Clients;
use crossbeam_channel::bounded;
use database::{Database, parse_load};
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use watchers::Watcher;

const KEYS: [&str; 3] = ["a", "b", "c"];
const CLIENTS: usize = 5;
const OPERATIONS: usize = 36;
/// The step in which another program writes.
const OTHERS: u8 = u8::MAX;
/// The step in which the database loses commits.
const LOSS: u8 = OTHERS - 1;
/// Statements inside statements inside statements.
const DEPTH: usize = 4;
const SCHEDULES: u64 = 100_000;

fn known(key: &str) -> &'static str {
    KEYS.into_iter().chain([COUNTER]).find(|known| *known == key).expect("known keys only")
}

/// What the text of a value ends in that is to live for a second.
const SHORT_LIVED: &str = "s";

/// A key that nothing is done to but adding 1, by itself or in batches.
const COUNTER: &str = "n";

/// What a client asks for.
#[derive(Clone, Debug)]
enum Wish {
    /// As fresh as this: [`Freshness::Any`], or read behind everything that was committed before.
    Read(Freshness),
    Write(Op),
    /// A value in place of the row of this version, or of none.
    Swap(Op, u32),
    Count,
    /// A piece of a bulk load: a value, and another one for the next key.
    Load(Op),
    /// Adds to the counter and stores a value, all or nothing, if the row of the key is of this version, or none.
    Both(Op, u32),
    /// Stores a value if the row of another key is of this version.
    Guarded(Op, &'static str, u32),
}

/// One operation of a client, under way.
#[derive(Clone, Debug)]
struct Asking {
    key: &'static str,
    wish: Wish,
    claim: Option<Claim>,
    /// The oldest version of the key that this operation may still see: anything older had been overtaken when it began.
    floor: usize,
    /// The newest version when it began.
    newest: usize,
    /// What has been counted of late fills then, if a read may be cached that is sent now: with a fill that is late besides, this
    /// may be the one.
    late_fills: Option<u64>,
    job: u32,
}

/// A statement that was lost with its connection and that its backend may still execute.
struct Lost {
    backend: u32,
    statement: Statement,
}

/// What a statement does, in words of its own.
#[derive(Clone, Debug, Default)]
struct Statement {
    sets: Vec<(String, String, Option<u32>)>,
    deletes: Vec<String>,
    changes: Vec<Changing>,
    all_or_nothing: bool,
}

/// One change of a [`Statement`].
#[derive(Clone, Debug)]
struct Changing {
    key: String,
    /// The version that the row must have (0: there must be none), and whether its time must be over.
    from: (u32, bool),
    to: Option<(String, Expiry)>,
    /// It is not changed, and must be as it was for the others to be.
    held: bool,
}

/// A row in its place, whether its time is over or not.
#[derive(Clone, Debug)]
struct Stored {
    value: String,
    version: u32,
    expires_s: u32,
}

struct State {
    rng: Rng,
    now_s: u32,
    table: BTreeMap<&'static str, Stored>,
    /// Key and version of rows that have come to the end of their time.
    ended: BTreeSet<(&'static str, u32)>,
    depth: usize,
    started: usize,
    clients: Vec<Option<Asking>>,
    watchers: [Option<Watcher>; 2],
    jobs: u32,
    /// Jobs that no reply may come to any more: they had theirs, or were withdrawn.
    replied: BTreeSet<u32>,
    /// Every state that each key ever had in the table, oldest first; the first is "absent".
    history: BTreeMap<&'static str, Vec<Option<(String, u32)>>>,
    /// The oldest state of each key that an operation which begins now may see.
    floors: BTreeMap<&'static str, usize>,
    /// Values whose writers were told that nothing was changed.
    refused: BTreeSet<String>,
    /// For every key, how many jobs had been begun when a write of it was last answered.
    last_ended: BTreeMap<&'static str, u32>,
    /// Key and version from which a compare-and-swap has succeeded.
    swapped: BTreeSet<(&'static str, u32)>,
    /// Numbers that additions were answered with, and additions that may have happened.
    counted: BTreeSet<i64>,
    counts_unknown: i64,
    /// For every key, how often a row of it was deleted, and how many deletes were told that they did, or may have.
    removals: BTreeMap<&'static str, (usize, usize)>,
    lost: Vec<Lost>,
    next_version: u32,
    next_backend: u32,
    idle_readers: Vec<Reader<Database>>,
    /// By number; `None` while it runs.
    writers: Vec<Option<Writer<Database>>>,
    violation: Option<String>,
    /// Kinds of faults of this run: some runs have none of a kind.
    faults: Faults,
    /// This run has reads and unconditional writes only: they meet more often.
    plain: bool,
    /// This run has rows that live for a second, and that second.
    timed: bool,
    /// This run deletes what others load: several deletes meet in a batch, and loads in between.
    deleting: bool,
    /// There is another program that writes to the table.
    shared: bool,
    /// The database is still to lose commits, as by a failover, and nothing is done that could tell a second time from that.
    losing: bool,
    /// In this run a write may be done once more, and nobody here can know: behind what another program has written, if its answer
    /// was lost, or behind a loss.
    repeats: bool,
    /// For every key, the last of its states that a write of hotrow's own has left.
    own: BTreeMap<&'static str, usize>,
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
    bug: Option<Bug>,
    verbose: bool,
}

impl World {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The time, as clients' requests have it.
    fn now_s(&self) -> u32 {
        if self.bug == Some(Bug::KeptPastItsTime) { 0 } else { self.state().now_s }
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
        let choice = {
            let mut state = self.state();
            let kinds = 11 + u8::from(state.timed || state.shared || state.losing);
            match state.rng.u8(..kinds) {
                11 if state.losing => LOSS,
                11 if state.shared && (!state.timed || state.rng.bool()) => OTHERS,
                choice => choice,
            }
        };
        match choice {
            LOSS => self.lose_commits(),
            OTHERS => self.state().write_as_another_program(),
            0..=2 => self.ask(),
            3 => self.ask_for_many(),
            4 | 5 => self.run_reader(),
            6 | 7 => self.run_writer(),
            8 => self.commit_late(),
            9 => self.pass_deadline(),
            10 => self.begin_to_watch(),
            _ => self.state().pass_time(),
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
            drop(state);
            self.commit(&lost.statement);
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
        // What was withdrawn is still in the queues.
        let writers = self.state().writers.len();
        for number in (0..writers).cycle().take(writers * OPERATIONS) {
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
            if self.state().shared {
                // What another program has written last is learned by a look, and by nothing else.
                self.read_every_key(Freshness::Now, "look");
            }
            for _ in 0..200 {
                if !self.state().watchers.iter().flatten().any(Watcher::is_reading) {
                    break;
                }
                self.run_reader();
            }
            self.check_watchers();
            self.check_the_end();
        }
    }

    fn read_every_key(&self, freshness: Freshness, how: &str) {
        self.state().faults = Faults { lost: false, refused: false, deadlines: false };
        // The other program has come to its end, too.
        self.state().shared = false;
        for key in KEYS.into_iter().chain([COUNTER]) {
            let asking = {
                let mut state = self.state();
                let newest = state.history[key].len() - 1;
                state.started = OPERATIONS;
                state.jobs += 1;
                let (wish, job) = (Wish::Read(freshness), state.jobs);
                let asking = Asking { key, wish, claim: None, floor: newest, newest, late_fills: None, job };
                state.clients[0] = Some(asking.clone());
                asking
            };
            // What stands in the queue may leave no room, and whoever is told of it then may look again.
            while !self.backend.reads.is_empty() {
                self.run_reader();
            }
            self.begin(0, &asking);
            self.run_reader();
            let mut state = self.state();
            if state.clients[0].take().is_some() {
                state.violate(format!("the {how} read of {key} got no reply"));
            }
        }
    }

    /// What has been counted of late fills, if a read that is sent now may be cached.
    fn late_fills(&self) -> Option<u64> {
        let stats = self.backend.engine.stats();
        (stats.in_doubt == 0).then_some(stats.late_fills)
    }

    fn check_the_end(&self) {
        // Nobody writes any more: two reads of each key, the second from the cache, give the table's row.
        self.read_every_key(Freshness::Any, "first");
        self.read_every_key(Freshness::Any, "second");
        let stats = self.backend.engine.stats();
        let mut state = self.state();
        if (stats.in_flight, stats.in_doubt) != (0, 0) {
            state.violate(format!("left in flight: {stats:?}"));
        }
        let count = state.row(COUNTER).map_or(0, |record| record.value.parse().expect("a number"));
        let acknowledged = state.counted.len() as i64;
        if !(acknowledged..=acknowledged + state.counts_unknown).contains(&count) {
            state
                .violate(format!("{acknowledged} additions are acknowledged, and the counter is at {count}"));
        }
        let unexplained =
            state.removals.iter().find(|(_, (happened, told))| happened > told && !state.repeats);
        if let Some((key, (happened, told))) = unexplained.map(|(key, counts)| (*key, *counts)) {
            state.violate(format!(
                "a row of {key} was deleted {happened} times, and {told} deletes know of it"
            ));
        }
        let twice = state.history.values().find_map(|states| happened_twice(states));
        let twice = twice.filter(|_| !state.repeats);
        if let Some(value) = twice.cloned() {
            state.violate(format!("{value} was written once and has happened twice"));
        }
        let happened =
            state.history.values().flatten().flatten().find(|(value, _)| state.refused.contains(value));
        if let Some((value, _)) = happened.cloned() {
            state.violate(format!("{value} was refused and happened all the same"));
        }
    }
}

/// Everything that a run has, before anything is done with it.
fn world(seed: u64, bug: Option<Bug>, verbose: bool) -> (Database, Arc<World>) {
    let mut rng = Rng::with_seed(seed);
    let hasher = RandomState::with_seeds(seed, 2, 3, 4);
    // Nothing fits; a few entries fit; everything fits.
    let cache_bytes = [0, 600, 100_000][rng.usize(..3)];
    let engine = Arc::new(Engine::with_hasher(cache_bytes, cache_bytes / 16 + 1, hasher));
    for index in 0..engine.shard_count() as u64 {
        engine.shard(index << 32).planted = bug;
    }
    let writers = 2.min(engine.shard_count()).max(if bug == Some(Bug::ReorderedWrites) { 2 } else { 1 });
    let database = Database(Arc::new(Mutex::new(None)));
    let health = Arc::new(Health::new(2, writers));
    let shared = Arc::new(Shared {
        connector: database.clone(),
        engine: Arc::clone(&engine),
        deliver: Arc::new(Clients(database.clone())),
        health: Arc::clone(&health),
        workers: Arc::new(Workers::new(2, writers)),
        clock: Clock::still(),
        // No time passes here.
        reconnect_ms: (0, 0),
    });
    let (reads, read_queue) = bounded(rng.usize(1..8));
    let reader = |i| Reader::new(Arc::clone(&shared), read_queue.clone(), crossbeam_channel::never(), i);
    let idle_readers = (0..2).map(reader).collect();
    let depth = rng.usize(1..8);
    let (writes, queues): (Vec<_>, Vec<_>) = (0..writers).map(|_| bounded(depth)).unzip();
    let writer = |(i, queue)| Some(Writer::new(Arc::clone(&shared), queue, i));
    let faults = Faults { lost: rng.bool(), refused: rng.bool(), deadlines: rng.bool() };
    let plain = rng.bool();
    let losing = seed % 16 == 5;
    let timed = seed.is_multiple_of(3) && !losing;
    let shared = seed % 4 == 2;
    let state = State {
        rng,
        now_s: 0,
        table: BTreeMap::new(),
        ended: BTreeSet::new(),
        plain: plain || losing,
        timed,
        deleting: seed % 8 == 1,
        shared,
        losing,
        repeats: shared && faults.lost || losing,
        own: KEYS.into_iter().chain([COUNTER]).map(|key| (key, 0)).collect(),
        depth: 0,
        started: 0,
        clients: vec![None; CLIENTS],
        watchers: [None, None],
        jobs: 0,
        replied: BTreeSet::new(),
        history: KEYS.into_iter().chain([COUNTER]).map(|key| (key, vec![None])).collect(),
        floors: KEYS.into_iter().chain([COUNTER]).map(|key| (key, 0)).collect(),
        refused: BTreeSet::new(),
        last_ended: BTreeMap::new(),
        swapped: BTreeSet::new(),
        counted: BTreeSet::new(),
        counts_unknown: 0,
        removals: BTreeMap::new(),
        lost: Vec::new(),
        next_version: 0,
        next_backend: 0,
        idle_readers,
        writers: queues.into_iter().enumerate().map(writer).collect(),
        violation: None,
        faults,
        log: if verbose { Vec::with_capacity(1) } else { Vec::new() },
    };
    let planted_any_writer = bug == Some(Bug::ReorderedWrites);
    let backend = Backend { engine, health, reads, writes, loads: Loads::default(), planted_any_writer };
    let world = Arc::new(World { state: Mutex::new(state), backend, bug, verbose });
    *database.0.lock().unwrap() = Some(Arc::clone(&world));
    (database, world)
}

/// One run. Returns what was violated, and what happened if it is to be told.
fn run(seed: u64, bug: Option<Bug>, verbose: bool) -> (Option<String>, Vec<String>) {
    let (database, world) = world(seed, bug, verbose);
    while world.state().started < OPERATIONS {
        world.step();
    }
    world.settle();
    forget(&database);
    let mut state = world.state();
    debug_assert!(world.verbose || state.log.is_empty());
    (state.violation.take(), std::mem::take(&mut state.log))
}

/// Breaks the circle, or every run's world would stay.
fn forget(database: &Database) {
    *database.0.lock().unwrap() = None;
}

fn explain(seed: u64, bug: Option<Bug>) -> String {
    let (violation, log) = run(seed, bug, true);
    format!("SEED={seed}: {violation:?}\n{}", log.join("\n"))
}

#[test]
fn simulation_of_many_schedules_finds_no_violation() {
    if let Some(seed) = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        let (violation, _) = run(seed, None, false);
        println!("{}", explain(seed, None));
        assert_eq!(violation, None);
        return;
    }
    // Two halves, because there are at least two cores.
    let half = |from: u64, to: u64| (from..to).find(|seed| run(*seed, None, false).0.is_some());
    let bad = std::thread::scope(|scope| {
        let other = scope.spawn(|| half(SCHEDULES / 2, SCHEDULES));
        half(0, SCHEDULES / 2).or(other.join().unwrap())
    });
    if let Some(seed) = bad {
        panic!("{}", explain(seed, None));
    }
}

#[test]
fn simulation_catches_every_planted_bug() {
    let mut missed = Vec::new();
    for (bug, violation) in Bug::ALL {
        let caught = (0..SCHEDULES).find_map(|seed| run(seed, Some(*bug), false).0);
        println!("{bug:?}: {caught:?}");
        // For what it is, and not for something else that is broken besides.
        if !caught.as_ref().is_some_and(|what| what.contains(violation)) {
            missed.push((bug, violation, caught));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn simulation_repeats_itself() {
    for seed in 0..50 {
        assert_eq!(run(seed, None, true), run(seed, None, true));
    }
}

/// Else those behind it would be let in without a bound.
#[test]
fn what_was_withdrawn_is_no_sign_of_a_fast_database() {
    let (database, world) = world(1, None, false);
    let backend = &world.backend;
    let ticket = Ticket { event_loop: 0, id: Id { slot: 0, generation: 0 }, job: 0 };
    let piece = || Piece {
        lines: b"a=1 false".to_vec(),
        first: 1,
        parse: parse_load,
        max_value_bytes: 100,
        permit: backend.loads.begin().unwrap(),
    };
    let pace = &backend.health.writes[0].large;
    pace.observe(1, 1, Duration::from_millis(15));
    let mut writer = world.state().writers[0].take().unwrap();
    assert!(backend.load(piece(), 0, ticket, u64::MAX).unwrap().withdraw());
    writer.run_queued();
    // This one is late.
    backend.load(piece(), 0, ticket, 0).unwrap();
    writer.run_queued();
    let steps = || KEYS.map(|key| (key.into(), Op::Delete, None)).into();
    assert!(backend.write_many(steps(), false, ticket, u64::MAX).unwrap().withdraw());
    writer.run_queued();
    assert!(backend.writes.iter().all(|queue| queue.is_empty()), "all were taken");
    assert_eq!(pace.wait(1), Duration::from_millis(15));
    forget(&database);
}
