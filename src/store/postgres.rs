//! The only place that speaks SQL: sessions on PostgreSQL, and the errors of the `postgres` crate told apart into what
//! a worker can act on. Every statement is a file in `sql/`. Used by the workers through [`super::Connector`] and
//! [`super::Session`].
//!
//! Each `postgres::Client` drives a small Tokio runtime of its own inside its blocking calls; no other thread of ours
//! sees it.

use super::{Blame, Connector, Error, Session, Written, migrations};
use crate::engine::shard::Row;
use ::postgres::error::{DbError, Severity, SqlState};
use ::postgres::fallible_iterator::FallibleIterator;
use ::postgres::{Client, Config, NoTls, Statement};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// How long an old backend may take to end before the attempt counts as failed (and is made again).
const END_BACKEND: Duration = Duration::from_secs(10);
/// How often it is asked whether it has.
const END_BACKEND_STEP: Duration = Duration::from_millis(5);
/// PostgreSQL cuts an application name after so many bytes.
const APPLICATION_NAME_BYTES: usize = 63;

/// Opens sessions on one database.
#[derive(Clone, Debug)]
pub struct Postgres {
    config: Config,
    application_name: String,
    statement_timeout: Duration,
}

/// What is known of a database once it has been made ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// As the server names it: `15.18`.
    pub version: String,
}

impl Postgres {
    /// Sessions on the database of this URL (`postgresql://…` or `key=value …`), named after this instance so that
    /// its next process can tell them from those of others.
    pub fn new(url: &str, instance: &str, statement_timeout: Duration) -> Result<Postgres, Error> {
        let mut config: Config = url.parse().map_err(|e| Error::NotSent(describe(&e)))?;
        let application_name = application_name(instance);
        config.application_name(&application_name);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_secs(5));
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(Duration::from_secs(15));
        }
        Ok(Postgres { config, application_name, statement_timeout })
    }

    /// Makes the database ready for this process: right encoding, migrations applied, and no backend left that an
    /// earlier process of this instance had sent something with.
    pub fn prepare(&self) -> Result<About, Error> {
        let mut client = self.open()?;
        let show = |client: &mut Client, name: &str| -> Result<String, Error> {
            Ok(client.query_one(&format!("SHOW {name}"), &[]).map_err(sort)?.get(0))
        };
        let encoding = show(&mut client, "server_encoding")?;
        if encoding != "UTF8" {
            let message = format!(
                "the database is encoded in {encoding}, but values are UTF-8: use a database made with ENCODING 'UTF8'"
            );
            return Err(Error::NotSent(message));
        }
        migrations::apply(&mut client).map_err(sort)?;
        let deadline = Instant::now() + END_BACKEND;
        loop {
            let sql = include_str!("../../sql/end_instance.sql");
            let alive: i64 = client.query_one(sql, &[&self.application_name]).map_err(sort)?.get(0);
            if alive == 0 {
                break;
            }
            wait_for_end(deadline)?;
        }
        let version = show(&mut client, "server_version")?;
        let version = version.split(' ').next().unwrap_or_default().to_owned();
        Ok(About { version })
    }

    fn open(&self) -> Result<Client, Error> {
        let mut client = self.config.connect(NoTls).map_err(|e| Error::NotSent(describe(&e)))?;
        let timeout_ms = self.statement_timeout.as_millis();
        let settings =
            format!("{}SET statement_timeout = {timeout_ms};", include_str!("../../sql/session.sql"));
        client.batch_execute(&settings).map_err(|e| Error::NotSent(describe(&e)))?;
        Ok(client)
    }
}

/// `hotrow/INSTANCE`, cut at its front where it is too long: the listening address at its end tells instances apart.
fn application_name(instance: &str) -> String {
    let room = APPLICATION_NAME_BYTES - "hotrow/".len();
    let mut from = instance.len().saturating_sub(room);
    while !instance.is_char_boundary(from) {
        from += 1;
    }
    format!("hotrow/{}", &instance[from..])
}

impl Connector for Postgres {
    type Session = PostgresSession;

    fn connect(&self) -> Result<PostgresSession, Error> {
        let mut client = self.open()?;
        let unsent = |e| Error::NotSent(describe(&e));
        let row = client.query_one(include_str!("../../sql/identify.sql"), &[]).map_err(unsent)?;
        let backend = Backend { pid: row.get(0), started: row.get(1) };
        let read = client.prepare(include_str!("../../sql/read.sql")).map_err(unsent)?;
        let set = client.prepare(include_str!("../../sql/set.sql")).map_err(unsent)?;
        let delete = client.prepare(include_str!("../../sql/delete.sql")).map_err(unsent)?;
        let set_and_delete = client.prepare(include_str!("../../sql/set_and_delete.sql")).map_err(unsent)?;
        Ok(PostgresSession { client, backend, read, set, delete, set_and_delete })
    }
}

/// A session with its statements prepared.
pub struct PostgresSession {
    client: Client,
    backend: Backend,
    read: Statement,
    set: Statement,
    delete: Statement,
    set_and_delete: Statement,
}

/// A backend process of one server: the pid alone could be another's by the time it is looked for.
#[derive(Clone, Debug)]
pub struct Backend {
    pid: i32,
    started: String,
}

impl Session for PostgresSession {
    type Backend = Backend;

    fn read(&mut self, keys: &[&str]) -> Result<Vec<Row>, Error> {
        self.check_open()?;
        let found = self.client.query(&self.read, &[&keys]).map_err(sort)?;
        // Rows come in any order, and only those that there are.
        let mut found: Vec<(&str, &str, u32)> = found
            .iter()
            .map(|row| Ok((row.get(0), row.get(1), version(row.get(2))?)))
            .collect::<Result<_, Error>>()?;
        found.sort_unstable_by_key(|row| row.0);
        let row_of = |key: &&str| {
            let at = found.binary_search_by_key(key, |row| row.0).ok()?;
            Some((found[at].1.into(), found[at].2))
        };
        Ok(keys.iter().map(row_of).collect())
    }

    fn write(&mut self, sets: &[(&str, &str)], deletes: &[&str]) -> Result<Written, Error> {
        self.check_open()?;
        let (keys, values): (Vec<&str>, Vec<&str>) = sets.iter().copied().unzip();
        let mut written =
            Written { stored: vec![(0, false); sets.len()], deleted: vec![false; deletes.len()] };
        let rows = match (sets.is_empty(), deletes.is_empty()) {
            (_, true) => self.client.query(&self.set, &[&keys, &values]),
            (true, false) => self.client.query(&self.delete, &[&deletes]),
            (false, false) => self.client.query(&self.set_and_delete, &[&keys, &values, &deletes]),
        }
        .map_err(sort)?;
        for (at, row) in rows.iter().enumerate() {
            let key: &str = row.get(0);
            let stored = if row.len() == 3 { row.get::<_, Option<&str>>(1) } else { None };
            if let Some(xmin) = stored {
                // In practice the rows come back as they were sent; nothing promises it.
                let at = if keys.get(at) == Some(&key) { Ok(at) } else { keys.binary_search(&key) };
                let at = at.map_err(|_| strange("a key came back that was not sent"))?;
                written.stored[at] = (version(xmin)?, row.get(2));
            } else {
                let at =
                    deletes.binary_search(&key).map_err(|_| strange("a key came back that was not sent"))?;
                written.deleted[at] = true;
            }
        }
        Ok(written)
    }

    fn backend(&self) -> Backend {
        self.backend.clone()
    }

    fn end_backend(&mut self, backend: &Backend) -> Result<(), Error> {
        let deadline = Instant::now() + END_BACKEND;
        loop {
            let sql = include_str!("../../sql/end_backend.sql");
            let row = self.client.query_one(sql, &[&backend.pid, &backend.started]).map_err(sort)?;
            if !row.get::<_, bool>(0) {
                return Ok(());
            }
            wait_for_end(deadline)?;
        }
    }

    fn is_broken(&mut self) -> bool {
        // Asking for notifications lets the client read what the server has sent meanwhile: its farewell, or an end
        // of stream.
        let _ = self.client.notifications().timeout_iter(Duration::ZERO).next();
        self.client.is_closed()
    }
}

impl PostgresSession {
    fn check_open(&self) -> Result<(), Error> {
        if self.client.is_closed() { Err(Error::NotSent("the connection was closed".into())) } else { Ok(()) }
    }
}

fn wait_for_end(deadline: Instant) -> Result<(), Error> {
    if Instant::now() > deadline {
        return Err(Error::NotSent("an old backend of ours does not end".into()));
    }
    std::thread::sleep(END_BACKEND_STEP);
    Ok(())
}

fn version(xmin: &str) -> Result<u32, Error> {
    xmin.parse().map_err(|_| strange("xmin is no number"))
}

/// An answer that no PostgreSQL gives. The statement may have been committed: nothing certain can be said of it.
fn strange(what: &str) -> Error {
    Error::Lost(what.to_owned())
}

/// What a worker can do about an error.
fn sort(error: ::postgres::Error) -> Error {
    let Some(db) = error.as_db_error() else { return Error::Lost(describe(&error)) };
    // A session that is being ended may have committed before it says so: only ERROR means rolled back.
    let ended = matches!(db.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
    if ended || db.code().code().starts_with("57P") {
        return Error::Lost(describe(&error));
    }
    Error::Refused { message: describe(&error), blame: blame(db) }
}

fn blame(db: &DbError) -> Blame {
    let code = db.code();
    match &code.code()[..2] {
        "40" => Blame::Conflict,
        "25" if *code == SqlState::READ_ONLY_SQL_TRANSACTION => Blame::ReadOnly,
        // No resources, no such table, no right to it, no table as it should be.
        "53" | "42" | "58" | "XX" => Blame::Server,
        _ => Blame::Row,
    }
}

/// An error with its causes, on one line.
fn describe(error: &::postgres::Error) -> String {
    let mut text = match error.as_db_error() {
        Some(db) => return format!("{} (SQLSTATE {})", db.message(), db.code().code()),
        None => error.to_string(),
    };
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_application_name_keeps_the_address_at_its_end() {
        assert_eq!(application_name("host/127.0.0.1:8080"), "hotrow/host/127.0.0.1:8080");
        let long = application_name(&format!("{}ä/127.0.0.1:8080", "x".repeat(200)));
        assert!(long.len() <= APPLICATION_NAME_BYTES && long.ends_with("/127.0.0.1:8080"), "{long}");
    }
}
