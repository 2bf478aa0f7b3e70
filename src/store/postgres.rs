//! The only place that speaks SQL: sessions on PostgreSQL, and the errors of the `postgres` crate told apart into what
//! a worker can act on. Every statement is a file in `sql/`. Used by the workers through [`super::Connector`] and
//! [`super::Session`].
//!
//! Each `postgres::Client` drives a small Tokio runtime of its own inside its blocking calls; no other thread of ours
//! sees it.

mod arguments;
mod columns;
mod copy;
mod session;

use super::conninfo::{self, Conninfo};
use super::history::{Histories, History, Life, Place, Told};
use super::patience::{Patience, Patiently, Tls};
use super::tls::{Mode, Options};
use super::{Blame, Connector, Deliver, Error, migrations};
use crate::engine::Engine;
use crate::http::problem::cut;
use crate::limits::{ANSWER_MARGIN_MS, OTHER_HOSTS_CONNECTS, POSTGRES_MESSAGE_BYTES};
use ::postgres::config::{Host, LoadBalanceHosts, SslMode, SslNegotiation};
use ::postgres::error::{DbError, Severity, SqlState};
use ::postgres::types::Type;
use ::postgres::{Client, Config, NoTls, Row};
use columns::column;
use copy::Spoilt;
pub use session::PostgresSession;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a server may take to be reached, and then to let a session in.
const CONNECT: Duration = Duration::from_secs(5);
/// How many addresses a host's name stands for, as far as a start is told how long they may take: two of each kind.
const ADDRESSES: u32 = 4;
/// How long an old backend may take to end before the attempt counts as failed (and is made again).
const END_BACKEND: Duration = Duration::from_secs(10);
/// How often it is asked whether it has.
const END_BACKEND_STEP: Duration = Duration::from_millis(5);
/// What the `postgres` crate takes where the URL says nothing: too long for anyone to wait.
const SYSTEM_KEEPALIVE: Duration = Duration::from_secs(2 * 60 * 60);
/// How often the hosts of a URL are tried in another order, for each of them. The order is chance, all that the crate offers:
/// of two servers the right one is missed by so many tries once in 16 million times (by 4 it was once in 256). Where one of them
/// does not answer, [`OTHER_HOSTS_CONNECTS`] ends it sooner.
const TRIES_A_HOST: usize = 12;
/// PostgreSQL cuts an application name after so many bytes.
const APPLICATION_NAME_BYTES: usize = 63;
/// What a server says that does not know what it is asked about itself, or does not tell this role.
const NOT_TOLD: [SqlState; 5] = [
    SqlState::UNDEFINED_FUNCTION,
    SqlState::UNDEFINED_TABLE,
    SqlState::UNDEFINED_COLUMN,
    SqlState::INSUFFICIENT_PRIVILEGE,
    SqlState::FEATURE_NOT_SUPPORTED,
];

/// Opens sessions on one database.
#[derive(Clone, Debug)]
pub struct Postgres {
    config: Config,
    tls: Options,
    application_name: String,
    statement_timeout: Duration,
    spoilt: Spoilt,
    /// A server that was left behind by a failover may take connections and even writes, but what it says is not true any more.
    histories: Histories,
}

/// What is known of a database once it has been made ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// As the server names it: `15.18`.
    pub version: String,
}

fn show(client: &mut Client, name: &str) -> Result<String, Error> {
    column(&client.query_one(&format!("SHOW {name}"), &[]).map_err(sort)?, 0)
}

impl Postgres {
    /// Sessions on the database of this URL (`postgresql://…` or `key=value …`), named after this instance so that
    /// its next process can tell them from those of others.
    pub fn new(url: &str, instance: &str, statement_timeout: Duration) -> Result<Postgres, Error> {
        let read = conninfo::read(url, |name| std::env::var_os(name));
        Postgres::with(read.map_err(Error::NotSent)?, instance, statement_timeout)
    }

    /// The same where the URL says all: the private PostgreSQL asks for no password, and whatever is wrong with a file of them is
    /// no matter of its.
    pub fn private(url: &str, instance: &str, statement_timeout: Duration) -> Result<Postgres, Error> {
        let read = conninfo::read(url, |_| None);
        Postgres::with(read.map_err(Error::NotSent)?, instance, statement_timeout)
    }

    fn with(conninfo: Conninfo, instance: &str, statement_timeout: Duration) -> Result<Postgres, Error> {
        let Conninfo { mut config, tls } = conninfo;
        // Files that cannot be used are found now, and not at the first connection.
        tls.connector().map_err(Error::NotSent)?;
        let application_name = application_name(instance);
        config.application_name(&application_name);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(Duration::from_secs(15));
        }
        if config.get_keepalives_idle() == SYSTEM_KEEPALIVE {
            // A host that goes away without a word while a worker waits for its answer.
            config.keepalives_idle(Duration::from_secs(5));
            config.keepalives_interval(Duration::from_secs(5));
            config.keepalives_retries(2);
        }
        Ok(Postgres {
            config,
            tls,
            application_name,
            statement_timeout,
            spoilt: Spoilt::default(),
            histories: Histories::default(),
        })
    }

    /// How long it takes at most until a usable server of the URL lets a session in, or all are known not to: they are tried one after
    /// the other, and where the first order finds none that may be used, in others.
    pub fn longest_open(&self) -> Duration {
        let (hosts, limit) = (self.config.get_hosts().len() as u32, connect_limit(&self.config));
        // To be reached, and then to let a session in.
        let round = limit.saturating_mul(2 * addresses(&self.config));
        match hosts {
            0 | 1 => round,
            _ => {
                let others = limit.saturating_mul(hosts.saturating_mul(OTHER_HOSTS_CONNECTS));
                round.saturating_mul(2).saturating_add(others)
            }
        }
    }

    /// What these sessions read and write is cached there: it is told when a failover, or a crash, has made that void.
    #[must_use]
    pub fn cached_in(self, engine: Arc<Engine>, deliver: Arc<dyn Deliver>) -> Postgres {
        self.histories.cached_in(engine, deliver);
        self
    }

    /// Applies the migrations that are missing, and says how many that was. Who asks for that means it: a column `expires_at` that
    /// was there before is taken for what it is called.
    pub fn migrate(&self) -> Result<usize, Error> {
        Ok(self.open_migrated(|_| Ok(()), || ())?.1)
    }

    /// A connection to a database of the right encoding, and by this check, with every migration applied, and how many that took.
    fn open_migrated(
        &self,
        check: impl FnOnce(&mut Client) -> Result<(), Error>,
        migrates: impl FnOnce(),
    ) -> Result<(Client, usize), Error> {
        let Opened { mut client, patience, .. } = self.open()?;
        // A migration may take its time.
        patience.end();
        let encoding = show(&mut client, "server_encoding")?;
        if encoding != "UTF8" {
            let message = format!(
                "the database is encoded in {encoding}, but values are UTF-8: use a database made with ENCODING 'UTF8'"
            );
            return Err(Error::NotSent(message));
        }
        columns::check_table(&mut client)?;
        check(&mut client)?;
        let applied = migrations::apply(&mut client, migrates).map_err(sort)?;
        columns::check_statements(&mut client, &session::STATEMENTS)?;
        Ok((client, applied))
    }

    /// Makes the database ready for this process: right encoding, migrations applied, and no backend left that an
    /// earlier process of this instance had sent something with. `migrates` is called when there are migrations to apply,
    /// which takes as long as it takes.
    pub fn prepare(&self, migrates: impl FnOnce()) -> Result<About, Error> {
        let (mut client, _) = self.open_migrated(columns::check_life, migrates)?;
        let deadline = Instant::now() + END_BACKEND;
        loop {
            let sql = include_str!("../../sql/end_instance.sql");
            let row = client.query_one(sql, &[&self.application_name]).map_err(sort)?;
            if column::<i64>(&row, 0)? == 0 {
                break;
            }
            wait_for_end(deadline)?;
        }
        let others = client.query_one(include_str!("../../sql/others.sql"), &[&self.application_name]);
        if let Some(others) = column::<Option<&str>>(&others.map_err(sort)?, 0)? {
            log::warn!(
                "another hotrow is on this database, too ({others}): what one of them writes the other does not see \
                 while it has a cached copy"
            );
        }
        let version = show(&mut client, "server_version")?;
        let version = version.split(' ').next().unwrap_or_default().to_owned();
        Ok(About { version })
    }

    /// A connection to a server that may be used: the first that there is in the order of the URL, or, where that one
    /// is a standby or left behind, another one.
    fn open(&self) -> Result<Opened, Error> {
        let mut opened = self.open_with(&self.config);
        if let hosts @ 2.. = self.config.get_hosts().len() {
            let mut config = self.config.clone();
            config.load_balance_hosts(LoadBalanceHosts::Random);
            let tries = OTHER_HOSTS_CONNECTS.saturating_mul(hosts as u32);
            let (began, limit) = (Instant::now(), connect_limit(&config).saturating_mul(tries));
            let is_over = || began.elapsed() >= limit;
            opened = until_usable(opened, hosts * TRIES_A_HOST, is_over, || self.open_with(&config));
        }
        opened.map_err(|error| Error::NotSent(error.to_string()))
    }

    /// The same with one order of the hosts. [`Error::Refused`] is a server that may not be used.
    fn open_with(&self, config: &Config) -> Result<Opened, Error> {
        let (mut client, patience) = self.connect_with(config)?;
        let backend = who_it_is(&mut client, &patience)?;
        let history = self.history_of(&mut client, &patience)?;
        patience.again();
        let same = client
            .query_typed(include_str!("../../sql/same_backend.sql"), &[(&backend.pid, Type::INT4)])
            .map_err(unsent)?;
        match same.first() {
            Some(row) if column(row, 0)? => Ok(Opened { client, backend, history, patience }),
            _ => Err(Error::NotSent(DEALT_OUT.into())),
        }
    }

    /// A connection to the first host that lets one in, with our settings.
    fn connect_with(&self, config: &Config) -> Result<(Client, Patience), Error> {
        let patience = Patience::default();
        let limit = connect_limit(config);
        let tls = self.tls.connector().map_err(Error::NotSent)?.map(|connector| Tls {
            connector,
            mode: self.tls.mode,
            direct: config.get_ssl_negotiation() == SslNegotiation::Direct,
        });
        let mut client =
            connect(config, Patiently { patience: patience.clone(), limit, tls }).map_err(unsent)?;
        let timeout_ms = self.statement_timeout.as_millis();
        let settings =
            format!("{}SET statement_timeout = {timeout_ms};", include_str!("../../sql/session.sql"));
        patience.again();
        client.batch_execute(&settings).map_err(unsent)?;
        Ok((client, patience))
    }

    /// The history that this server is of. [`Error::Refused`]: it was left behind.
    fn history_of(&self, client: &mut Client, patience: &Patience) -> Result<History, Error> {
        let before = self.histories.before();
        let place = place(client, patience)?;
        let mut ask = |sql| told(client, patience, sql);
        let cluster = ask(include_str!("../../sql/cluster.sql"))?.and_then(|row| row.try_get(0).ok());
        let life = ask(include_str!("../../sql/life.sql"))?
            .and_then(|row| Some(Life { name: row.try_get(0).ok()?, may_lose: row.try_get(1).ok()? }));
        let met = self.histories.meet(Told { cluster, place, life }, before);
        met.map_err(|message| Error::Refused { message, blame: Blame::ReadOnly })
    }
}

/// Who a session is. [`Error::Refused`]: its server is a standby.
fn who_it_is(client: &mut Client, patience: &Patience) -> Result<Backend, Error> {
    patience.again();
    let row = client.query_one(include_str!("../../sql/identify.sql"), &[]).map_err(unsent)?;
    // Once is enough: a server that has left recovery goes back only by a restart, which ends its sessions.
    if row.get("in_recovery") {
        let message = "this server is a standby: it takes no writes, and its rows may be older than those already served; \
             give the primary, or all of them with target_session_attrs=read-write";
        return Err(Error::Refused { message: message.into(), blame: Blame::ReadOnly });
    }
    match row.get("started") {
        Some(started) => Ok(Backend { pid: row.get("pid"), started }),
        None => Err(Error::NotSent(hidden(row.get("login"), row.get("role")))),
    }
}

/// Where a server writes, if it tells.
fn place(client: &mut Client, patience: &Patience) -> Result<Option<Place>, Error> {
    let row = told(client, patience, include_str!("../../sql/timeline.sql"))?;
    Ok(row.and_then(|row| {
        let timeline = u32::from_str_radix(row.try_get(0).ok()?, 16).ok()?;
        Some(Place { timeline, position: row.try_get(1).ok()? })
    }))
}

/// What a server tells of itself. Who is not PostgreSQL itself may not know it, and not everybody may see it, where somebody has
/// seen to that; but who fails to tell it is not taken for one of those.
fn told(client: &mut Client, patience: &Patience, sql: &str) -> Result<Option<Row>, Error> {
    patience.again();
    match client.query_typed(sql, &[]) {
        Ok(rows) => Ok(rows.into_iter().next()),
        Err(error) if error.code().is_some_and(|code| NOT_TOLD.contains(code)) => Ok(None),
        Err(error) => Err(unsent(error)),
    }
}

/// An error before anything that changes a row was sent.
fn unsent(error: ::postgres::Error) -> Error {
    Error::NotSent(describe(&error))
}

/// How long each host may take to be reached.
fn connect_limit(config: &Config) -> Duration {
    config.get_connect_timeout().copied().unwrap_or(CONNECT)
}

/// How many addresses there are to be tried. What a name stands for is known when it has been looked up, and may be another then.
fn addresses(config: &Config) -> u32 {
    let of = |host: &Host| match host {
        Host::Tcp(name) if config.get_hostaddrs().is_empty() && name.parse::<IpAddr>().is_err() => ADDRESSES,
        Host::Tcp(_) | Host::Unix(_) => 1,
    };
    config.get_hosts().iter().map(of).sum()
}

/// Tries again while what is found is a server that may not be used, so often at most, and not once it `is_over`: what is
/// said then is why the last one was not used.
fn until_usable<T>(
    mut opened: Result<T, Error>,
    most: usize,
    is_over: impl Fn() -> bool,
    mut again: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    for _ in 0..most {
        if !matches!(opened, Err(Error::Refused { .. })) || is_over() {
            break;
        }
        opened = again();
    }
    opened
}

/// `hotrow/INSTANCE`, cut at its front where it is too long: the listening address at its end tells instances apart. PostgreSQL writes
/// other characters than these anew, in a way of each version, and would not be found by what it was given.
fn application_name(instance: &str) -> String {
    let room = APPLICATION_NAME_BYTES - "hotrow/".len();
    let plain = |c: char| if matches!(c, ' '..='~') { c } else { '_' };
    let instance: String = instance.chars().map(plain).collect();
    format!("hotrow/{}", &instance[instance.len().saturating_sub(room)..])
}

impl Connector for Postgres {
    type Session = PostgresSession;

    fn connect(&self) -> Result<PostgresSession, Error> {
        let opened = self.open()?;
        let answer_limit = self.statement_timeout + Duration::from_millis(ANSWER_MARGIN_MS);
        Ok(PostgresSession::new(opened, answer_limit, self.spoilt.clone()))
    }
}

/// Connects so that the session gives up when its patience ends. Where there is a Unix socket among the hosts, none of them
/// gets a stream of ours, for the crate takes one for all or for none: there a server that is frozen is waited for.
fn connect(config: &Config, patiently: Patiently) -> Result<Client, ::postgres::Error> {
    let hosts = config.get_hosts();
    let mut config = config.clone();
    if !hosts.is_empty() && hosts.iter().all(|host| matches!(host, Host::Tcp(_))) {
        config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
        return config.connect(patiently);
    }
    match patiently.tls {
        Some(Tls { connector, mode, .. }) if mode > Mode::Prefer => {
            config.ssl_mode(SslMode::Require).connect(connector)
        }
        _ => config.ssl_mode(SslMode::Prefer).connect(NoTls),
    }
}

/// A connection to a server that may be used.
struct Opened {
    client: Client,
    backend: Backend,
    history: History,
    patience: Patience,
}

/// What is said where the backend that answers is not the one that was asked at first.
const DEALT_OUT: &str = "a pooler gives this session another backend for every transaction, so that none has its settings, and a \
    lost write could never be settled: use one in session mode, or none";

/// What is said where PostgreSQL hides a session from itself: nobody could make sure that it is gone.
fn hidden(login: &str, role: &str) -> String {
    format!(
        "pg_stat_activity hides the session of {login} from the role {role} that it acts in, so that a lost write could never be settled: ALTER ROLE {login} RESET role, and GRANT {role} TO {login} instead"
    )
}

/// A backend process of one server: the pid alone could be another's by the time it is looked for.
#[derive(Clone, Debug)]
pub struct Backend {
    pid: i32,
    started: String,
}

fn wait_for_end(deadline: Instant) -> Result<(), Error> {
    if Instant::now() > deadline {
        return Err(Error::NotSent("an old backend of ours does not end".into()));
    }
    std::thread::sleep(END_BACKEND_STEP);
    Ok(())
}

/// An answer that no PostgreSQL gives. The statement may have been committed: nothing certain can be said of it.
fn strange(what: &str) -> Error {
    Error::Lost(what.to_owned())
}

/// What a worker can do about an error.
fn sort(error: ::postgres::Error) -> Error {
    let Some(db) = error.as_db_error() else { return Error::Lost(describe(&error)) };
    // A session that is being ended may have committed before it says so: only ERROR means rolled back. PostgreSQL says that in the
    // field V, too; who does not stands in between, as a pooler does, and has lost its server.
    let is_rolled_back = match db.parsed_severity() {
        Some(severity) => !matches!(severity, Severity::Fatal | Severity::Panic),
        None => false,
    };
    let says_that_nobody_knows =
        [SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN, SqlState::TRANSACTION_RESOLUTION_UNKNOWN];
    if !is_rolled_back || says_that_nobody_knows.contains(db.code()) || db.code().code().starts_with("57P") {
        return Error::Lost(describe(&error));
    }
    Error::Refused { message: describe(&error), blame: blame(db) }
}

fn blame(db: &DbError) -> Blame {
    let code = db.code();
    match &code.code()[..2] {
        "40" => Blame::Conflict,
        "25" if *code == SqlState::READ_ONLY_SQL_TRANSACTION => Blame::ReadOnly,
        // No resources, no such table, no right to it, no table as it should be; or it takes no such statement, or has none.
        "53" | "42" | "58" | "XX" | "0A" | "26" => Blame::Server,
        _ if [SqlState::LOCK_NOT_AVAILABLE, SqlState::QUERY_CANCELED].contains(code) => Blame::Held,
        // Not in the state for it: no wait would change that.
        "55" => Blame::Server,
        _ => Blame::Row,
    }
}

/// An error with its causes, on one line.
fn describe(error: &::postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", on_one_line(db.message()), db.code().code());
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    on_one_line(&text)
}

/// What is said, on one line that is not too long: of a cast, that is all that was to be cast. It is told to every client whose row was
/// in the statement, and logged.
fn on_one_line(text: &str) -> String {
    let mut line = text.replace(char::is_control, " ");
    cut(&mut line, POSTGRES_MESSAGE_BYTES);
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn another_host_is_looked_for_until_one_is_usable_or_the_time_is_over() {
        let refused = |at: usize| Error::Refused { message: at.to_string(), blame: Blame::ReadOnly };
        let lost = || Error::NotSent("nobody answers".into());
        // Which try ends it, how; how many there may be, and after how many the time is over: what comes of it, after how many.
        let cases = [
            (3, Ok(()), 24, 24, Ok(()), 3),
            (3, Err(lost()), 24, 24, Err(lost()), 3),
            (99, Ok(()), 24, 99, Err(refused(24)), 24),
            (99, Ok(()), 24, 2, Err(refused(2)), 2),
            (99, Ok(()), 24, 0, Err(refused(0)), 0),
        ];
        for (end, ending, most, over, expected, expected_tries) in cases {
            let tries = Cell::new(0);
            let again = || {
                tries.set(tries.get() + 1);
                if tries.get() == end { ending.clone() } else { Err(refused(tries.get())) }
            };
            let result = until_usable(Err(refused(0)), most, || tries.get() >= over, again);
            assert_eq!((result, tries.get()), (expected, expected_tries));
        }
        // What is usable at once, or not there at all, is not asked about again.
        for first in [Ok(()), Err(lost())] {
            assert_eq!(until_usable(first.clone(), 24, || false, || panic!("once is enough")), first);
        }
    }

    #[test]
    fn how_long_it_takes_to_open_is_a_matter_of_hosts_and_addresses() {
        for (url, seconds) in [
            ("host=10.0.0.1", 10),
            ("host=/run connect_timeout=20", 40),
            ("host=name", 40),
            ("host=name hostaddr=10.0.0.1", 10),
            ("host=::1,10.0.0.1 connect_timeout=6", 2 * 24 + 24),
            ("host=name,10.0.0.1", 2 * 50 + 20),
        ] {
            let database = Postgres::private(url, "test", CONNECT).unwrap();
            assert_eq!(database.longest_open().as_secs(), seconds, "{url}");
        }
        let endless = Postgres::private("host=a,b connect_timeout=9223372036854775807", "test", CONNECT);
        assert!(endless.unwrap().longest_open().as_secs() > 1 << 60);
    }

    #[test]
    fn what_postgresql_says_is_one_line_that_is_not_long() {
        assert_eq!(on_one_line("a line\nand\ranother\u{85}\u{0}"), "a line and another  ");
        let line = on_one_line(&"ä\n".repeat(POSTGRES_MESSAGE_BYTES));
        assert!(line.len() <= POSTGRES_MESSAGE_BYTES + "…".len() && line.starts_with("ä ä "), "{line}");
    }

    #[test]
    fn the_application_name_keeps_the_address_at_its_end() {
        assert_eq!(application_name("host/127.0.0.1:8080"), "hotrow/host/127.0.0.1:8080");
        let long = application_name(&format!("{}ä/127.0.0.1:8080", "x".repeat(200)));
        assert!(long.len() <= APPLICATION_NAME_BYTES && long.ends_with("/127.0.0.1:8080"), "{long}");
        assert_eq!(application_name("büro/127.0.0.1:8080"), "hotrow/b_ro/127.0.0.1:8080");
    }
}
