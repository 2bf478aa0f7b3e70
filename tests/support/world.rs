//! A hotrow, its PostgreSQL and what stands between them, under load; the faults that can befall them; and the judgement
//! at the end. Used by `faults.rs` in short and by `torture.rs` at length.

use super::database::{Database, waiting_for_locks};
use super::history::{Operation, What, value_at};
use super::linearizable::Prior;
use super::load::{CLIENTS, Load};
use super::postgresql::{Postgresql, free_port, url_at};
use super::proxy::{Hold, Proxy};
use super::{Server, wait_until};
use fastrand::Rng;
use postgres::NoTls;

/// Keys of one load: few, so that everything meets everything.
const KEYS: usize = 5;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `pg_terminate_backend` of one of hotrow's backends.
    Terminate,
    /// The same of all of them at once.
    TerminateAll,
    /// `kill -9` of one of them: PostgreSQL restarts all.
    KillBackend,
    /// PostgreSQL is stopped with `-m immediate` and started again.
    StopImmediately,
    /// PostgreSQL stands still until clients have been told that outcomes are unknown.
    Freeze,
    /// hotrow is killed with -9 and started again.
    KillHotrow,
    /// The network loses an answer: what was asked has happened.
    CutAnswer,
    /// The network loses a connection with a request on its way, and delivers the request when hotrow has come back.
    HoldRequest,
    /// The same, and it is delivered when later writes were acknowledged.
    HoldRequestForLong,
    /// hotrow is killed with requests on their way; the next one acknowledges writes, and then they arrive.
    KillHotrowHolding,
    /// A commit waits for a lock, its connection is lost, and the lock is released while hotrow comes back.
    HeldCommit,
    /// The network is slow and uneven for a while.
    Delay,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 12] = [
        Fault::Terminate,
        Fault::TerminateAll,
        Fault::KillBackend,
        Fault::StopImmediately,
        Fault::Freeze,
        Fault::KillHotrow,
        Fault::CutAnswer,
        Fault::HoldRequest,
        Fault::HoldRequestForLong,
        Fault::KillHotrowHolding,
        Fault::HeldCommit,
        Fault::Delay,
    ];
}

impl Fault {
    /// hotrow has to open a session anew. A PostgreSQL that stands still may go on before it has given one up.
    fn ends_sessions(self) -> bool {
        !matches!(self, Fault::Freeze | Fault::Delay)
    }
}

/// Everything that a run consists of.
#[derive(Debug)]
pub struct World {
    /// The database.
    pub postgresql: Postgresql,
    /// What stands in front of it.
    pub proxy: Proxy,
    /// `None` only while it is dead.
    pub server: Option<Server>,
    /// Its clients.
    pub load: Option<Load>,
    flags: Vec<String>,
    rng: Rng,
    seed: u64,
    rounds: u64,
}

/// What came of a load.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Operations in the history.
    pub operations: u64,
    /// Operations that were refused.
    pub refused: u64,
    /// Writes of unknown outcome.
    pub unknown: u64,
}

impl World {
    /// A fresh world, at peace and without load.
    pub fn new(seed: u64, flags: &[&str]) -> World {
        let postgresql = Postgresql::start_new();
        let proxy = Proxy::start(postgresql.port);
        let listen = format!("127.0.0.1:{}", free_port());
        let mut all: Vec<String> = ["--listen", &listen, "--log-level", "warn"].map(str::to_owned).into();
        all.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let rng = Rng::with_seed(seed);
        let mut world =
            World { postgresql, proxy, server: None, load: None, flags: all, rng, seed, rounds: 0 };
        world.start_server();
        world
    }

    /// Starts hotrow where it always is.
    pub fn start_server(&mut self) {
        let database = Database::at(url_at(self.proxy.port));
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        self.server = Some(Server::start_on(&database, &flags));
    }

    /// The server, which must run.
    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs")
    }

    /// The load, which must run.
    pub fn load(&self) -> &Load {
        self.load.as_ref().expect("there is a load")
    }

    /// Starts a load on keys that no other had.
    pub fn start_load(&mut self) {
        self.rounds += 1;
        let keys = (0..KEYS).map(|i| format!("round-{}-key-{i}", self.rounds)).collect();
        let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(self.rounds);
        self.load = Some(Load::start(self.server().address, keys, seed));
    }

    /// A load, these faults one after the other with some peace between them, and the judgement.
    pub fn suffer(&mut self, faults: &[Fault]) -> Report {
        self.start_load();
        for fault in faults {
            let peace = self.rng.u64(20..200);
            self.load().go_on_for(peace);
            let sessions = self.proxy.accepted();
            self.inject(*fault);
            if fault.ends_sessions() {
                wait_until("hotrow has felt it", || self.proxy.accepted() > sessions);
            }
        }
        self.load().go_on_for(200);
        self.load().every_kind_is_done();
        self.judge(Prior::Repeated)
    }

    /// One fault, from its beginning to its end; what it leaves behind may not be over.
    pub fn inject(&mut self, fault: Fault) {
        match fault {
            Fault::Terminate => self.terminate("ORDER BY random() LIMIT 1"),
            Fault::TerminateAll => self.terminate(""),
            Fault::KillBackend => {
                wait_until("there is a backend to kill", || self.postgresql.kill_a_backend())
            }
            Fault::StopImmediately => {
                self.postgresql.stop_immediately();
                // Sometimes clients see the outage, sometimes it is over before.
                let refused = self.load().refused() + self.rng.u64(..40);
                wait_until("clients are refused", || self.load().refused() >= refused);
                self.postgresql.start();
            }
            Fault::Freeze => {
                let frozen = self.postgresql.freeze();
                let unknown = self.load().unknown() + 1;
                wait_until("outcomes are unknown", || self.load().unknown() >= unknown);
                drop(frozen);
            }
            Fault::KillHotrow => {
                self.server.take().expect("it runs").kill();
                self.start_server();
            }
            Fault::CutAnswer => {
                self.proxy.cut_answers(self.rng.u32(1..4));
                wait_until("the answers are cut", || self.proxy.is_harmless());
            }
            Fault::HoldRequest => {
                let count = self.rng.u32(1..4);
                self.hold_requests(count, Hold::UntilReconnect);
                // Whoever has enough connections left may not come back.
                self.load().go_on_for(20);
                self.proxy.release();
            }
            Fault::HoldRequestForLong => {
                let count = self.rng.u32(1..4);
                self.hold_requests(count, Hold::UntilRelease);
                self.load().go_on_for(60);
                self.proxy.release();
            }
            Fault::KillHotrowHolding => {
                // Only one: those that wait in silence ask for nothing more.
                self.hold_requests(1, Hold::InSilence);
                self.server.take().expect("it runs").kill();
                self.start_server();
                self.load().go_on_for(60);
                self.proxy.release();
            }
            Fault::HeldCommit => self.hold_a_commit(),
            Fault::Delay => {
                self.proxy.delay_us(self.rng.u32(500..8_000));
                self.load().go_on_for(30);
                self.proxy.delay_us(0);
            }
        }
    }

    fn hold_requests(&self, count: u32, hold: Hold) {
        self.proxy.hold_requests(count, hold);
        wait_until("the requests are held", || self.proxy.is_harmless());
    }

    fn terminate(&self, which: &str) {
        let sql = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity \
             WHERE application_name LIKE 'hotrow/%' {which}) AS backends"
        );
        // It may be just coming back from another fault.
        wait_until("backends are ended", || {
            let Ok(mut client) = postgres::Client::connect(&self.postgresql.url(), NoTls) else {
                return false;
            };
            client.query_one(&sql, &[]).is_ok_and(|row| row.get::<_, i64>(0) > 0)
        });
    }

    fn hold_a_commit(&mut self) {
        // Other faults may still be echoing in this PostgreSQL: whatever breaks here is tried again.
        let (early, us) = (self.rng.bool(), self.rng.u64(..4_000));
        wait_until("a commit is held and lost", || self.try_to_hold_a_commit(early, us).is_ok());
    }

    fn try_to_hold_a_commit(&self, early: bool, us: u64) -> Result<(), postgres::Error> {
        let mut holder = postgres::Client::connect(&self.postgresql.url(), NoTls)?;
        let mut observer = postgres::Client::connect(&self.postgresql.url(), NoTls)?;
        let mut lock = holder.transaction()?;
        // Reads go on; writes wait.
        lock.batch_execute("LOCK TABLE kv_store IN SHARE MODE")?;
        let mut result = Ok(0);
        wait_until("a write waits for the lock", || {
            result = waiting_for_locks(&mut observer);
            result.as_ref().map_or(true, |count| *count > 0)
        });
        result?;
        let before = self.proxy.accepted();
        self.proxy.cut_clients();
        if !early {
            wait_until("hotrow comes back", || self.proxy.accepted() > before);
        }
        // The moment in which old backend and fence meet is found by chance.
        std::thread::sleep(std::time::Duration::from_micros(us));
        lock.rollback()
    }

    /// Ends the load, waits until hotrow has nothing under way any more, and holds the history against itself and the
    /// table. Fails with the smallest part of it that nothing explains.
    pub fn judge(&mut self, prior: Prior) -> Report {
        let load = self.load.take().expect("there is a load");
        judge(load, self.server(), &self.postgresql.url(), prior)
    }
}

/// The value of a key as SQL sees it. A PostgreSQL that recovers from a crash, or has one yet to notice, is asked again.
fn value_in_table(sql_url: &str, key: &str) -> Option<u64> {
    let mut found = None;
    wait_until("PostgreSQL answers", || {
        let Ok(mut sql) = postgres::Client::connect(sql_url, NoTls) else { return false };
        let row = sql.query_opt("SELECT value FROM kv_store WHERE key = $1", &[&key]);
        found = row.ok();
        found.is_some()
    });
    found.expect("waited for").map(|row| value_at(key, row.get(0)))
}

/// The same for a load on a server that belongs to no world.
pub fn judge(load: Load, server: &Server, sql_url: &str, prior: Prior) -> Report {
    let (refused, unknown) = (load.refused(), load.unknown());
    let keys = load.keys.clone();
    load.stop();
    wait_until("nothing is under way", || {
        server.metric("hotrow_keys_in_flight") == 0 && server.metric("hotrow_keys_in_doubt") == 0
    });
    let (mut history, end_ns) = load.finish();
    for (at, key) in keys.iter().enumerate() {
        let value = value_in_table(sql_url, key);
        let (begin_ns, end_ns) = (end_ns + 2 * at as u64, end_ns + 2 * at as u64 + 1);
        // With nothing under way the table is what the last read said.
        assert_eq!(history.last(key), Some(What::Get(value)), "{key} in the table, and as it was served");
        history.push(key, Operation { client: CLIENTS + 1, begin_ns, end_ns, what: What::Get(value) });
    }
    if let Err((key, violation)) = history.check(prior) {
        println!("all of {key}:\n{}", history.lines_of(&key));
        panic!("{key}: {violation}\nthe server said:\n{}", server.stderr());
    }
    Report { operations: history.len() as u64, refused, unknown }
}
