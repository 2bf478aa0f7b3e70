//! Wires everything together: listeners, database, workers, loops. What comes of it, and takes it apart again in the right order, is in
//! `running`.
//! Called by `main` and by tests.

mod credentials;
mod database;
mod loops;
mod running;
mod sockets;
mod starting;

use crate::access_log::AccessLog;
use crate::api::admin::{About, Status};
use crate::clock::Clock;
use crate::config::{AccessLogTo, COMMIT, Config, POSTGRES_CLIENT, settings};
use crate::connection::context::Bounds;
use crate::engine::Engine;
use crate::event_loop::Shared;
use crate::event_loop::inbox::{Inbox, Inboxes};
use crate::event_loop::places::Places;
use crate::http::cors::Audiences;
use crate::limits::{ANSWER_MARGIN_MS, QUEUE_WAIT_SHARE, RECONNECT_MS};
use crate::memory::Bound;
use crate::metrics::Workers;
use crate::process::Process;
use crate::secrets;
use crate::store::Deliver;
use crate::store::backend::Backend;
use crate::store::health::{AnswerLimit, Health};
use crate::store::load::Loads;
use crate::store::managed::{self, Killer, Managed};
use crate::store::pool::Pool;
use crate::store::worker;
pub use credentials::Renewer;
use database::{FIRST_ANSWER, open_database, prepare_in_time};
pub use running::{Running, Stopper};
pub use sockets::{Inherited, inherited};
use sockets::{allow_many_descriptors, max_sockets};
use starting::Starting;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread;
use std::time::{Duration, SystemTime};

/// What is added where a service manager is told how long something may take: it kills who takes longer.
const MARGIN: Duration = Duration::from_secs(10);

/// How long [`start`] may take at most before it ends or says that it takes longer.
pub fn longest_start(config: &Config) -> Duration {
    let own = if config.database_url.is_none() { managed::LONGEST_START } else { Duration::ZERO };
    own + 2 * FIRST_ANSWER + MARGIN
}

/// Starts a server. An error is one line with the cause and the remedy. `takes_longer` is called again and again
/// while the private PostgreSQL is not ready yet or backends of one that was killed are in its way, while the database is looked for, and
/// while migrations that take long are applied, each time with how long it may be until it is called again; where it says false, nobody wants the server any more.
/// `killer` is good for the private PostgreSQL from its start on.
pub fn start(
    config: &Config,
    inherited: Inherited,
    killer: &Killer,
    mut takes_longer: impl FnMut(Duration) -> bool,
) -> Result<Running, String> {
    allow_many_descriptors();
    say_what_is_unwise(config);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let loops = config.event_loops.on(cores);
    log::debug!("memory is bounded at {}", Bound::of(config, loops));
    let began = SystemTime::now();
    let renewer = Renewer::load(config)?;
    // Addresses first: whoever has mistyped one need not wait for a database.
    let sockets = sockets::open(config, inherited, loops)?;
    let (address, admin_address) = (sockets.address, sockets.admin_address);
    let starting = (!sockets.admin.is_empty()).then(|| Starting::on(&sockets.admin)).transpose();
    let starting = starting.map_err(|e| format!("cannot answer at --admin-listen: {e}"))?;
    let access_log = open_access_log(config)?.map(Arc::new);

    let engine = Arc::new(Engine::new(config.cache_bytes, config.max_value_bytes));
    let readers = usize::from(config.db_readers);
    let writers = usize::from(config.db_writers).min(engine.shard_count());
    // The workers' and the sweeper's.
    let sessions = readers + writers + 1;
    let (database, managed) = open_database(config, address, sessions, killer, &mut takes_longer)?;
    let place = managed.as_ref().map_or_else(|| config.database_given_by.clone(), Managed::place);
    let about = prepare_in_time(&database, &place, takes_longer)?;

    let clock = Clock::start();
    let seeds = loops::seeds(loops)?;
    let inboxes: Vec<Arc<Inbox>> = seeds.iter().map(|seed| Arc::clone(&seed.inbox)).collect();
    let counters = seeds.iter().map(|seed| Arc::clone(&seed.counters)).collect();
    let workers = Arc::new(Workers::new(readers, writers));
    let health = health(config, &workers, clock);
    let deliver: Arc<dyn Deliver> = Arc::new(Inboxes(inboxes.clone()));
    let of_workers = Arc::new(worker::Shared {
        connector: database.cached_in(Arc::clone(&engine), Arc::clone(&deliver)),
        engine: Arc::clone(&engine),
        deliver,
        health: Arc::clone(&health),
        workers: Arc::clone(&workers),
        clock,
        reconnect_ms: RECONNECT_MS,
    });
    let pool = Pool::start(&of_workers, readers, writers, config.queue_depth as usize);
    let Pool { reads, writes, end, threads: worker_threads } = pool.map_err(|e| cannot_start_thread(&e))?;

    let status = Arc::new(Status {
        engine: Arc::clone(&engine),
        health: Arc::clone(&health),
        counters,
        workers,
        process: Process::watch(began),
        draining: AtomicBool::new(false),
        about: tell_about(config, &about.version, access_log.clone()),
    });
    let backend = Backend {
        engine,
        health,
        reads,
        writes,
        loads: Loads::default(),
        #[cfg(test)]
        planted_any_writer: false,
    };
    let shared = Arc::new(Shared {
        backend,
        status: Arc::clone(&status),
        bounds: bounds(config),
        max_connections: config.max_connections as usize,
        connections: AtomicUsize::new(0),
        places: config.max_connections_per_ip.at_most().map(Places::new),
        max_sockets: sockets_for_connections(config, loops, sessions, sockets.extra),
        sockets: AtomicUsize::new(0),
        access_log: access_log.clone(),
        audiences: Audiences::new(&config.cors_allow_origin),
        drain_timeout_ms: ms(config.drain_timeout),
        clock,
    });
    drop(starting);
    let loop_threads = loops::start(seeds, sockets, &shared, &renewer.current())?;
    let scheme = if config.tls_cert.is_some() { "https" } else { "http" };
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
        loops: loop_threads,
        workers: worker_threads,
        end,
        shared,
        managed,
        access_log,
    })
}

/// What can be served, and should not be.
fn say_what_is_unwise(config: &Config) {
    if rustix::process::geteuid().is_root() {
        log::warn!(
            "running as root: hotrow needs no privilege and drops none; run it as a user of its own, and on a port below \
             1024 with a socket that is handed over"
        );
    }
    // That it can be read is known already.
    if let Some(file) = &config.database_url_file
        && secrets::is_exposed(file).unwrap_or(false)
    {
        log::warn!(
            "other users of this machine can read --database-url-file {}; chmod 600 it",
            file.display()
        );
    }
}

fn health(config: &Config, workers: &Arc<Workers>, clock: Clock) -> Arc<Health> {
    let answer_limit = AnswerLimit {
        workers: Arc::clone(workers),
        clock,
        // PostgreSQL gives a statement up by itself at --request-timeout, and a session PostgreSQL a margin later, if it can.
        limit_ms: ms(config.request_timeout) + 2 * ANSWER_MARGIN_MS,
    };
    let health = Health::new(workers.readers.len(), workers.writers.len());
    let longest_wait = config.request_timeout / QUEUE_WAIT_SHARE;
    Arc::new(health.with_longest_wait(longest_wait).with_answer_limit(answer_limit))
}

fn tell_about(config: &Config, postgresql: &str, access_log: Option<Arc<AccessLog>>) -> About {
    About {
        version: format!(
            "hotrow {}\nPostgreSQL {postgresql}\ncommit {COMMIT}\nclient {POSTGRES_CLIENT}\n",
            env!("CARGO_PKG_VERSION"),
        ),
        config: settings::to_json(&config.settings),
        access_log,
        commit: COMMIT.to_owned(),
        postgresql: postgresql.to_owned(),
        cache_bytes: config.cache_bytes,
        max_connections: config.max_connections as usize,
    }
}

fn bounds(config: &Config) -> Bounds {
    Bounds {
        max_value_bytes: config.max_value_bytes,
        request_timeout_ms: ms(config.request_timeout),
        header_timeout_ms: ms(config.header_timeout),
        idle_timeout_ms: ms(config.idle_timeout),
    }
}

/// How many connections of every kind there may be; said where that is fewer than were asked for.
fn sockets_for_connections(config: &Config, loops: usize, sessions: usize, listeners: usize) -> usize {
    let max_sockets = max_sockets(loops, sessions, listeners);
    if max_sockets < config.max_connections as usize {
        log::warn!(
            "the limit on file descriptors leaves room for {max_sockets} connections, fewer than --max-connections \
             ({}): raise it (ulimit -n), or more will wait to be accepted",
            config.max_connections
        );
    }
    max_sockets
}

fn ms(duration: Duration) -> u64 {
    duration.as_millis() as u64
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

fn cannot_start_thread(error: &io::Error) -> String {
    format!("cannot start a thread: {error}; check the limit on processes (ulimit -u)")
}
