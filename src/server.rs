//! Wires everything together: listeners, database, workers, loops; and takes it apart again in the right order.
//! Called by `main` and by tests.

mod credentials;
mod sockets;

use crate::access_log::AccessLog;
use crate::api::admin::{self, Status};
use crate::clock::Clock;
use crate::config::{AccessLogTo, COMMIT, Config, POSTGRES_CLIENT, settings};
use crate::connection::Role;
use crate::connection::context::Bounds;
use crate::engine::Engine;
use crate::event_loop::inbox::{Inbox, Inboxes, Mail};
use crate::event_loop::listener::{Listener, Queue};
use crate::event_loop::places::Places;
use crate::event_loop::{ADMIN_LISTENER, Credentials, DATA_LISTENER, EventLoop, Shared, WAKER};
use crate::http::cors::Audiences;
use crate::limits::{ADMIN_DESCRIPTORS, LOOP_DESCRIPTORS, OWN_DESCRIPTORS, SESSION_DESCRIPTORS};
use crate::limits::{ANSWER_MARGIN_MS, QUEUE_WAIT_SHARE, RECONNECT_MS};
use crate::memory::Bound;
use crate::metrics::{Counters, Workers};
use crate::process::Process;
use crate::secrets;
use crate::store::backend::Backend;
use crate::store::conninfo::URL_FORM;
use crate::store::health::{AnswerLimit, Health};
use crate::store::load::Loads;
use crate::store::managed::{self, Managed};
use crate::store::pool::Pool;
use crate::store::postgres::{About, Postgres};
use crate::store::worker;
use crate::store::{self, Deliver};
pub use credentials::Renewer;
use crossbeam_channel::Sender;
use mio::{Poll, Waker};
use sockets::Sockets;
pub use sockets::{Inherited, inherited};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

/// How long a database may take to answer for the first time.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// The pause between two attempts at a database that is starting.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// How long workers may take to end once nobody needs them: a stuck statement does not hold up the exit.
const WORKERS_END: Duration = Duration::from_secs(5);

/// What is added where a service manager is told how long something may take: it kills who takes longer.
const MARGIN: Duration = Duration::from_secs(10);

/// How long [`start`] may take at most before it ends or says that it takes longer.
pub fn longest_start(config: &Config) -> Duration {
    let own = if config.database_url.is_none() { managed::LONGEST_START } else { Duration::ZERO };
    own + 2 * FIRST_ANSWER + MARGIN
}

/// A server that serves.
pub struct Running {
    /// Where data is served.
    pub address: SocketAddr,
    /// Where operations are, if they are.
    pub admin_address: Option<SocketAddr>,
    /// The line that says so.
    pub ready_line: String,
    stopper: Stopper,
    renewer: Option<Renewer>,
    loops: Vec<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
    end: Sender<Infallible>,
    shared: Arc<Shared>,
    managed: Option<Managed>,
    access_log: Option<Arc<AccessLog>>,
}

/// Tells a server to stop, from any thread.
#[derive(Clone, Debug)]
pub struct Stopper {
    inboxes: Vec<Arc<Inbox>>,
    status: Arc<Status>,
    delay: Duration,
}

impl Stopper {
    /// `/readyz` says so at once. After `--drain-delay` the server drains: no new connections, every answer the last of
    /// its connection. Does not wait.
    pub fn stop(&self) {
        self.status.draining.store(true, Ordering::Relaxed);
        if self.delay.is_zero() {
            return self.drain();
        }
        let later = self.clone();
        let spawned = thread::Builder::new().name("drain delay".into()).spawn(move || {
            thread::sleep(later.delay);
            later.drain();
        });
        if let Err(error) = spawned {
            log::error!("--drain-delay is left out: {}", cannot_start_thread(&error));
            self.drain();
        }
    }

    fn drain(&self) {
        for inbox in &self.inboxes {
            if let Err(error) = inbox.send(Mail::Drain) {
                log::error!("an event loop cannot be told to stop: {error}");
            }
        }
    }
}

/// Starts a server. An error is one line with the cause and the remedy. `takes_longer` is called again and again
/// while the private PostgreSQL replays its log, or migrations that take long are applied, each time with how long it may be until it is called again; where it says
/// false, nobody wants the server any more.
pub fn start(
    config: &Config,
    inherited: Inherited,
    mut takes_longer: impl FnMut(Duration) -> bool,
) -> Result<Running, String> {
    allow_many_descriptors();
    if rustix::process::geteuid().is_root() {
        log::warn!(
            "running as root: hotrow needs no privilege and drops none; run it as a user of its own, and on a port below \
             1024 with a socket that is handed over"
        );
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let loops = config.event_loops.on(cores);
    log::debug!("memory is bounded at {}", Bound::of(config, loops));
    let began = SystemTime::now();
    let renewer = Renewer::load(config)?;
    // That it can be read is known already.
    if let Some(file) = &config.database_url_file
        && secrets::is_exposed(file).unwrap_or(false)
    {
        log::warn!(
            "other users of this machine can read --database-url-file {}; chmod 600 it",
            file.display()
        );
    }
    // Addresses first: whoever has mistyped one need not wait for a database.
    let sockets = sockets::open(config, inherited, loops)?;
    let (address, admin_address) = (sockets.address, sockets.admin_address);

    let access_log = open_access_log(config)?.map(Arc::new);

    let engine = Arc::new(Engine::new(config.cache_bytes, config.max_value_bytes));
    let readers = usize::from(config.db_readers);
    let writers = usize::from(config.db_writers).min(engine.shard_count());
    // The workers' and the sweeper's.
    let sessions = readers + writers + 1;
    let (database, managed) = open_database(config, address, sessions, &mut takes_longer)?;
    let place = managed.as_ref().map_or_else(|| config.database_given_by.clone(), Managed::place);
    let about = prepare_in_time(&database, &place, takes_longer)?;

    let clock = Clock::start();
    let worker_counters = Arc::new(Workers::new(readers, writers));
    let answer_limit = AnswerLimit {
        workers: Arc::clone(&worker_counters),
        clock,
        // PostgreSQL gives a statement up by itself at --request-timeout, and a session PostgreSQL a margin later, if it can.
        limit_ms: config.request_timeout.as_millis() as u64 + 2 * ANSWER_MARGIN_MS,
    };
    let health = Health::new(readers, writers).with_longest_wait(config.request_timeout / QUEUE_WAIT_SHARE);
    let health = Arc::new(health.with_answer_limit(answer_limit));
    let polls: Vec<(Poll, Arc<Inbox>, Arc<Counters>)> = (0..loops)
        .map(|_| {
            let poll = Poll::new()?;
            let inbox = Arc::new(Inbox::new(Waker::new(poll.registry(), WAKER)?));
            Ok((poll, inbox, Arc::new(Counters::default())))
        })
        .collect::<io::Result<_>>()
        .map_err(|e| format!("cannot poll: {e}"))?;
    let inboxes: Vec<Arc<Inbox>> = polls.iter().map(|(_, inbox, _)| Arc::clone(inbox)).collect();

    let deliver: Arc<dyn Deliver> = Arc::new(Inboxes(inboxes.clone()));
    let (engine_too, health_too) = (Arc::clone(&engine), Arc::clone(&health));
    let pool_shared = Arc::new(worker::Shared {
        connector: database.cached_in(Arc::clone(&engine), Arc::clone(&deliver)),
        engine: engine_too,
        deliver,
        health: health_too,
        workers: Arc::clone(&worker_counters),
        clock,
        reconnect_ms: RECONNECT_MS,
    });
    let Pool { reads, writes, end, threads: workers } =
        Pool::start(&pool_shared, readers, writers, config.queue_depth as usize)
            .map_err(|e| cannot_start_thread(&e))?;

    let status = Arc::new(Status {
        engine: Arc::clone(&engine),
        health: Arc::clone(&health),
        counters: polls.iter().map(|(_, _, counters)| Arc::clone(counters)).collect(),
        workers: worker_counters,
        process: Process::watch(began),
        draining: AtomicBool::new(false),
        about: admin::About {
            version: format!(
                "hotrow {}\nPostgreSQL {}\ncommit {COMMIT}\nclient {POSTGRES_CLIENT}\n",
                env!("CARGO_PKG_VERSION"),
                about.version
            ),
            config: settings::to_json(&config.settings),
            access_log: access_log.clone(),
            commit: COMMIT.to_owned(),
            postgresql: about.version.clone(),
            cache_bytes: config.cache_bytes,
            max_connections: config.max_connections as usize,
        },
    });
    let max_sockets = max_sockets(loops, sessions, sockets.extra);
    if max_sockets < config.max_connections as usize {
        log::warn!(
            "the limit on file descriptors leaves room for {max_sockets} connections, fewer than --max-connections \
             ({}): raise it (ulimit -n), or more will wait to be accepted",
            config.max_connections
        );
    }
    let ms = |duration: Duration| duration.as_millis() as u64;
    let shared = Arc::new(Shared {
        backend: Backend {
            engine,
            health,
            reads,
            writes,
            loads: Loads::default(),
            #[cfg(test)]
            planted_any_writer: false,
        },
        status: Arc::clone(&status),
        bounds: Bounds {
            max_value_bytes: config.max_value_bytes,
            request_timeout_ms: ms(config.request_timeout),
            header_timeout_ms: ms(config.header_timeout),
            idle_timeout_ms: ms(config.idle_timeout),
        },
        max_connections: config.max_connections as usize,
        connections: AtomicUsize::new(0),
        places: config.max_connections_per_ip.at_most().map(Places::new),
        max_sockets,
        sockets: AtomicUsize::new(0),
        access_log: access_log.clone(),
        audiences: Audiences::new(&config.cors_allow_origin),
        drain_timeout_ms: ms(config.drain_timeout),
        clock,
    });
    let scheme = if config.tls_cert.is_some() { "https" } else { "http" };
    let threads = start_loops(polls, sockets, &shared, &renewer.current())?;
    let admin_text = admin_address.map_or_else(|| "off".to_owned(), |address| format!("http://{address}"));
    Ok(Running {
        address,
        admin_address,
        ready_line: format!(
            "listening on {scheme}://{address} (admin {admin_text}, PostgreSQL {} at {place})",
            about.version
        ),
        renewer: Some(renewer.telling(inboxes.clone())),
        stopper: Stopper { inboxes, status, delay: config.drain_delay },
        loops: threads,
        workers,
        end,
        shared,
        managed,
        access_log,
    })
}

impl Running {
    /// How its loops are reached.
    pub fn inboxes(&self) -> Vec<Arc<Inbox>> {
        self.stopper.inboxes.clone()
    }

    /// How long it takes to end at most, once it is told to.
    pub fn longest_stop(&self) -> Duration {
        let drain = self.stopper.delay + Duration::from_millis(self.shared.drain_timeout_ms);
        drain + WORKERS_END + self.managed.as_ref().map_or(Duration::ZERO, |_| managed::LONGEST_STOP) + MARGIN
    }

    /// Tells this server to stop, from any thread.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Reads files with secrets again, from any thread. There is one.
    pub fn take_renewer(&mut self) -> Option<Renewer> {
        self.renewer.take()
    }

    /// Ends the private PostgreSQL at once, if there is one: for an exit that waits for nothing.
    pub fn killer(&self) -> Option<impl Fn() + Send + 'static> {
        self.managed.as_ref().map(Managed::killer)
    }

    /// Goes on in new log files after somebody has moved the old ones away.
    pub fn log_reopener(&self) -> impl Fn() + Send + 'static {
        let access_log = self.access_log.clone();
        move || {
            if let Some(log) = &access_log {
                log.reopen();
            }
        }
    }

    /// Waits until the server has drained and everything behind it has ended. An error is a loop that has panicked.
    pub fn join(self) -> Result<(), String> {
        let mut result = Ok(());
        for thread in self.loops {
            if thread.join().is_err() {
                result = Err("an event loop has panicked".into());
            }
        }
        // With the last sender the queues close, and the workers end.
        drop(self.end);
        drop(self.shared);
        let deadline = Instant::now() + WORKERS_END;
        while self.workers.iter().any(|worker| !worker.is_finished()) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        if let Some(managed) = self.managed {
            managed.stop();
        }
        if let Some(log) = self.access_log {
            log.flush();
        }
        result
    }
}

fn open_access_log(config: &Config) -> Result<Option<AccessLog>, String> {
    let path = match &config.access_log {
        AccessLogTo::Off => return Ok(None),
        AccessLogTo::Stdout => None,
        AccessLogTo::File(path) => Some(path.as_path()),
    };
    let opened = AccessLog::open(path, config.access_log_format);
    opened.map(Some).map_err(|error| {
        let name = path.map_or_else(|| "-".to_owned(), |path| path.display().to_string());
        format!(
            "cannot write to {name} (--access-log): {error}; choose a file in a folder that may be written to"
        )
    })
}

fn start_loops(
    polls: Vec<(Poll, Arc<Inbox>, Arc<Counters>)>,
    sockets: Sockets,
    shared: &Arc<Shared>,
    credentials: &Credentials,
) -> Result<Vec<JoinHandle<()>>, String> {
    let Sockets { data, mut admin, .. } = sockets;
    let mut threads = Vec::new();
    for (number, ((poll, inbox, counters), data)) in polls.into_iter().zip(data).enumerate() {
        let data = data.into_iter();
        let data = data.map(|(socket, queue)| Listener::new(socket, DATA_LISTENER, Role::Data, queue));
        // The first loop serves operations too.
        let admin = admin.drain(..);
        let admin = admin.map(|socket| Listener::new(socket, ADMIN_LISTENER, Role::Admin, Queue::Own));
        let listeners = data.chain(admin).collect();
        let (shared, credentials) = (Arc::clone(shared), credentials.clone());
        let event_loop = EventLoop::new(poll, number as u16, shared, credentials, inbox, counters, listeners)
            .map_err(|e| format!("cannot poll: {e}"))?;
        let turn = move || {
            // Nobody would serve its connections any more, and others would go on as if all were well: as where it panics, who
            // watches over the process starts it anew.
            if let Err(error) = event_loop.run() {
                log::error!("event loop {number} has failed: {error}");
                log::logger().flush();
                std::process::abort();
            }
        };
        let thread = thread::Builder::new().name(format!("loop {number}")).spawn(turn);
        threads.push(thread.map_err(|e| cannot_start_thread(&e))?);
    }
    Ok(threads)
}

fn open_database(
    config: &Config,
    address: SocketAddr,
    sessions: usize,
    takes_longer: &mut impl FnMut(Duration) -> bool,
) -> Result<(Postgres, Option<Managed>), String> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let instance = format!("{host}/{address}");
    let (url, managed) = match &config.database_url {
        Some(url) => (url.clone(), None),
        None => {
            let managed = Managed::start(&config.data_dir, sessions, takes_longer)?;
            (managed.url(), Some(managed))
        }
    };
    let database = Postgres::new(&url, &instance, config.request_timeout)
        .map_err(|e| format!("cannot use {}: {e}; it looks like {URL_FORM}", config.database_given_by))?;
    Ok((database, managed))
}

/// How far a database is on its way to be ready.
enum Preparing {
    /// There are migrations to apply.
    Migrates,
    Done(Result<About, store::Error>),
}

/// Makes the database ready. A server that takes the connection and then says nothing is an error, not a hang.
fn prepare_in_time(
    database: &Postgres,
    place: &str,
    takes_longer: impl FnMut(Duration) -> bool,
) -> Result<About, String> {
    let (sender, receiver) = mpsc::channel();
    let database = database.clone();
    thread::Builder::new()
        .name("prepare".into())
        .spawn(move || {
            // Nobody listens any more to who was given up.
            let done = prepare(&database, || drop(sender.send(Preparing::Migrates)));
            drop(sender.send(Preparing::Done(done)));
        })
        .map_err(|e| cannot_start_thread(&e))?;
    let unusable = |cause: String| {
        let remedy = remedy(&cause);
        format!("cannot use the database ({place}): {cause}; {remedy}")
    };
    wait_for(&receiver, FIRST_ANSWER, takes_longer).map_err(unusable)
}

/// Waits for so long, and for migrations without end: whoever gave them up would begin anew with them.
fn wait_for(
    receiver: &mpsc::Receiver<Preparing>,
    limit: Duration,
    mut takes_longer: impl FnMut(Duration) -> bool,
) -> Result<About, String> {
    let (mut migrates, mut said) = (false, false);
    loop {
        match receiver.recv_timeout(limit) {
            Ok(Preparing::Done(result)) => return result.map_err(|e| e.to_string()),
            Ok(Preparing::Migrates) => migrates = true,
            Err(RecvTimeoutError::Timeout) if migrates => {
                if !std::mem::replace(&mut said, true) {
                    log::info!("migrations are being applied: the more rows there are, the longer it takes");
                }
                if !takes_longer(limit + MARGIN) {
                    return Err("told to stop before its migrations were applied".into());
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return Err(format!("no answer within {} s", limit.as_secs()));
            }
        }
    }
}

/// A server that is starting, or recovers from a crash, says so: it is given a moment instead of taken for unusable.
fn prepare(database: &Postgres, migrates: impl Fn()) -> Result<About, store::Error> {
    let until = Instant::now() + FIRST_ANSWER.mul_f32(0.9);
    loop {
        match database.prepare(&migrates) {
            Err(error) if is_passing(&error.to_string()) && Instant::now() < until => {
                thread::sleep(FIRST_PAUSE)
            }
            result => return result,
        }
    }
}

/// SQLSTATE class 57, operator intervention, and a session that it has cut off.
fn is_passing(cause: &str) -> bool {
    cause.contains("SQLSTATE 57P0") || cause.contains("connection closed")
}

fn remedy(cause: &str) -> &'static str {
    match cause {
        _ if cause.contains("28P01") || cause.contains("28000") || cause.contains("password") => {
            "check user and password, and the server's pg_hba.conf"
        }
        _ if cause.contains("3D000") => "make it with: createdb --encoding=UTF8 NAME",
        _ if cause.contains("42501") && cause.contains("hotrow_migrations") => {
            "GRANT SELECT ON hotrow_migrations to it"
        }
        _ if cause.contains("hotrow_migrations says") => "then start hotrow again",
        _ if cause.contains("42501") || cause.contains("3F000") => {
            "grant CREATE on its schema, or apply sql/migrations as an administrator"
        }
        _ if cause.contains("pg_stat_activity hides") => "then start hotrow again",
        _ if ["the column", "no column", "plain table", "unique index", "does not take a statement"]
            .iter()
            .any(|part| cause.contains(part)) =>
        {
            "it is no table of hotrow's: alter it (hotrow migrate --print shows one), or choose another database"
        }
        _ if cause.contains("encoded in") => "choose another database",
        _ if cause.contains("told to stop") => "the next start begins anew with them",
        _ if cause.contains("TLS") => {
            "check sslmode and sslrootcert in the URL, and the server's certificate and its setting ssl"
        }
        _ => "check that PostgreSQL runs there and takes connections",
    }
}

/// As many descriptors as the system lets us have: every connection needs one.
fn allow_many_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        log::warn!("the limit on file descriptors cannot be raised: {error}");
    }
}

/// How many descriptors connections may take, so that the rest of the server never lacks one.
fn max_sockets(loops: usize, sessions: usize, listeners: usize) -> usize {
    use rustix::process::{Resource, getrlimit};
    let limit = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| limit as usize);
    let others = OWN_DESCRIPTORS
        + ADMIN_DESCRIPTORS
        + loops * LOOP_DESCRIPTORS
        + listeners
        + sessions * SESSION_DESCRIPTORS;
    limit.saturating_sub(others).max(1)
}

fn cannot_start_thread(error: &io::Error) -> String {
    format!("cannot start a thread: {error}; check the limit on processes (ulimit -u)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_waited_for_and_silence_is_not() {
        let (sender, receiver) = mpsc::channel();
        let no_time = Duration::ZERO;
        let silence = wait_for(&receiver, no_time, |_| panic!("nothing was begun"));
        assert_eq!(silence, Err("no answer within 0 s".to_owned()));
        sender.send(Preparing::Migrates).unwrap();
        let (mut told, about) = (0, About { version: "15".into() });
        let result = wait_for(&receiver, no_time, |longer| {
            assert_eq!(longer, MARGIN);
            told += 1;
            if told == 5 {
                sender.send(Preparing::Done(Ok(about.clone()))).unwrap();
            }
            true
        });
        assert_eq!((result, told), (Ok(about), 5));
        // Nobody wants it any more.
        sender.send(Preparing::Migrates).unwrap();
        assert!(wait_for(&receiver, no_time, |_| false).unwrap_err().contains("told to stop"));
    }
}
