//! One session: the statements on data, and what their answers mean. Opened by [`super`], used by the workers through
//! [`crate::store::Session`].

use super::arguments::{ChangeArguments, LoadArguments};
use super::columns::{Xid, check_statement, column, committed};
use super::copy::{self, Hope, Spoilt};
use super::{Backend, END_BACKEND, Opened, describe, place, sort, strange, wait_for_end};
use crate::engine::{NEVER, Record, Row};
use crate::limits::{LOAD_TIME_SHARE, LOCK_WAIT_MS};
use crate::store::history::{History, OVER};
use crate::store::judge::{Before, Change};
use crate::store::list::{Page, PageRow, Range};
use crate::store::load::Row as Loading;
use crate::store::patience::Patience;
use crate::store::sweeper::Expired;
use crate::store::worker::Asked;
use crate::store::{Blame, Error, KEPT_OUT, Session, Set, Written};
use ::postgres::error::{DbError, SqlState};
use ::postgres::fallible_iterator::FallibleIterator;
use ::postgres::types::{ToSql, Type};
use ::postgres::{Client, Statement};
use std::io::Write;
use std::time::{Duration, Instant};

/// A session, and the statements that it has needed so far. Not prepared before: PostgreSQL takes a statement's locks
/// for preparing it, so that a reader that prepared a write would wait for whoever makes an index on the table.
pub struct PostgresSession {
    client: Client,
    backend: Backend,
    history: History,
    patience: Patience,
    /// How long each answer is waited for.
    answer_limit: Duration,
    prepared: [Option<Statement>; STATEMENTS.len()],
    copies: Hope,
    /// Row security applies to it, and COPY is not for such tables. Asked when it is needed.
    has_row_security: Option<bool>,
    spoilt: Spoilt,
}

/// The statements on data, by the numbers below.
pub(super) const STATEMENTS: [&str; 15] = [
    include_str!("../../../sql/read.sql"),
    include_str!("../../../sql/set.sql"),
    include_str!("../../../sql/delete.sql"),
    include_str!("../../../sql/set_and_delete.sql"),
    include_str!("../../../sql/look.sql"),
    include_str!("../../../sql/change.sql"),
    include_str!("../../../sql/sweep.sql"),
    include_str!("../../../sql/set_one.sql"),
    include_str!("../../../sql/copy.sql"),
    include_str!("../../../sql/load.sql"),
    include_str!("../../../sql/hold.sql"),
    include_str!("../../../sql/locked.sql"),
    include_str!("../../../sql/expired.sql"),
    include_str!("../../../sql/expired_behind.sql"),
    include_str!("../../../sql/page.sql"),
];
const READ: usize = 0;
const SET: usize = 1;
const DELETE: usize = 2;
const SET_AND_DELETE: usize = 3;
const LOOK: usize = 4;
const CHANGE: usize = 5;
const SWEEP: usize = 6;
const SET_ONE: usize = 7;
const COPY: usize = 8;
const LOAD: usize = 9;
const HOLD: usize = 10;
const LOCKED: usize = 11;
const EXPIRED: usize = 12;
const EXPIRED_BEHIND: usize = 13;
const PAGE: usize = 14;

impl Session for PostgresSession {
    type Backend = Backend;

    fn tells(&mut self, asked: Asked) {
        self.patience.tells(asked);
    }

    fn limit_lock_waits(&mut self) -> Result<u64, Error> {
        self.begin()?;
        let limit_ms = LOCK_WAIT_MS.min(self.answer_limit.as_millis() as u64 / 8);
        let sql = include_str!("../../../sql/limit_lock_waits.sql");
        let limited = self.client.query_typed(sql, &[(&(limit_ms as i32), Type::INT4)]);
        limited.map(|_| limit_ms).map_err(before_commit)
    }

    fn read(&mut self, keys: &[&str], now_ms: u64) -> Result<Vec<Row>, Error> {
        let found = self.find(READ, keys, |row| record(row, now_ms))?;
        Ok(found)
    }

    fn page(&mut self, range: &Range) -> Result<Page, Error> {
        self.begin()?;
        let Range { from, to, rows, bytes, values } = range;
        let (rows, bytes) = (i64::from(*rows), *bytes as i64);
        // Prepared, though pages are few: the crate asks for a type that is not built in by this connection, and behind rows
        // that nobody takes off it no answer would ever come.
        let (statement, prepared) = self.prepared(PAGE)?;
        let found = self
            .client
            .query(&statement, &[from, to, &rows, &bytes, values])
            .map_err(|error| prepared.sort(error))?;
        self.check_history()?;
        let row = |row: &::postgres::Row| {
            // Without values all of them are NULL.
            let value = values.then(|| column::<&str>(row, 1)).transpose()?;
            Ok(PageRow {
                key: column::<&str>(row, 0)?.into(),
                value: value.map(Into::into),
                version: column::<Xid>(row, 2)?.0,
                expires_at: column::<Option<&str>>(row, 3)?.map(Into::into),
            })
        };
        let count = found.first().map_or(Ok(0), |row| column::<i64>(row, 4))?;
        let more = count > found.len() as i64;
        Ok(Page { rows: found.iter().map(row).collect::<Result<_, Error>>()?, more })
    }

    fn write(&mut self, sets: &[Set<'_>], deletes: &[&str]) -> Result<Written, Error> {
        self.begin()?;
        let keys: Vec<&str> = sets.iter().map(|set| set.key).collect();
        let values: Vec<&str> = sets.iter().map(|set| set.value).collect();
        let ttls: Vec<Option<f64>> = sets.iter().map(|set| set.ttl_s.map(f64::from)).collect();
        let (number, arguments): (usize, &[&(dyn ToSql + Sync)]) = match (sets, deletes) {
            ([set], []) => (SET_ONE, &[&set.key, &set.value, &ttls[0]]),
            (_, []) => (SET, &[&keys, &values, &ttls]),
            ([], _) => (DELETE, &[&deletes]),
            _ => (SET_AND_DELETE, &[&keys, &values, &ttls, &deletes]),
        };
        let (statement, prepared) = self.prepared(number)?;
        let rows = self.client.query(&statement, arguments).map_err(|error| prepared.sort(error))?;
        self.check_history()?;
        let mut written = Written { stored: vec![None; sets.len()], deleted: vec![false; deletes.len()] };
        for (at, row) in rows.iter().enumerate() {
            let key: &str = committed(row, 0)?;
            let stored: Option<Xid> = if number == DELETE { None } else { committed(row, 1)? };
            if let Some(Xid(version)) = stored {
                // In practice the rows come back as they were sent; nothing promises it.
                let at = if keys.get(at) == Some(&key) { Ok(at) } else { keys.binary_search(&key) };
                let at = at.map_err(|_| strange("a key came back that was not sent"))?;
                written.stored[at] = Some((version, committed(row, 2)?));
            } else {
                let at =
                    deletes.binary_search(&key).map_err(|_| strange("a key came back that was not sent"))?;
                // The last column of both statements that delete.
                written.deleted[at] = !committed::<bool>(row, row.len() - 1)?;
            }
        }
        Ok(written)
    }

    fn load(&mut self, rows: &[&Loading<'_>]) -> Result<(), Error> {
        if let Some(text) = copy::text(rows)
            && self.copies.any()
            && !self.spoilt.lately()
            && !self.has_row_security()?
        {
            match self.copy(&text, rows.len()) {
                Ok(()) => {
                    self.copies.fulfilled();
                    return Ok(());
                }
                // A row was there, most likely: the upsert's word is the last.
                Err(Error::Refused { blame: Blame::Row | Blame::Server, .. }) => self.copies.disappointed(),
                Err(error) => {
                    // COPY has ended this session: for a while every session loads by the upsert.
                    if matches!(error, Error::NotSent(_)) {
                        self.spoilt.now();
                    }
                    return Err(error);
                }
            }
        }
        self.begin()?;
        let (statement, prepared) = self.prepared(LOAD)?;
        let arguments = LoadArguments::new(rows);
        // Whether a trigger has kept some out is to be known before the commit: refused is what has not happened.
        let mut transaction = self.client.transaction().map_err(before_commit)?;
        self.patience.again();
        let stored = transaction
            .execute(&statement, &arguments.as_sql())
            .map_err(|error| unsent(prepared.sort(error)))?;
        self.patience.again();
        all_stored(stored, rows.len())?;
        transaction.commit().map_err(sort)?;
        self.check_history()
    }

    fn load_each(&mut self, rows: &[&Loading<'_>]) -> Result<Vec<Option<(String, Blame)>>, Error> {
        self.begin()?;
        let (statement, prepared) = self.prepared(LOAD)?;
        let mut transaction = self.client.transaction().map_err(before_commit)?;
        self.patience.again();
        // What the end of the transaction would have against all of them, it has against one of them now.
        transaction.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").map_err(before_commit)?;
        let mut refused = Vec::with_capacity(rows.len());
        let began = Instant::now();
        for row in rows {
            // Two say whether it is their fault, or the server's.
            if refused.len() > 1 && began.elapsed() > self.answer_limit / LOAD_TIME_SHARE {
                break;
            }
            self.patience.again();
            let mut alone = transaction.transaction().map_err(before_commit)?;
            self.patience.again();
            let arguments = LoadArguments::new(std::slice::from_ref(row));
            let stored = alone
                .execute(&statement, &arguments.as_sql())
                .map_err(|error| unsent(prepared.sort(error)))
                .and_then(|stored| all_stored(stored, 1));
            self.patience.again();
            refused.push(match stored {
                Ok(()) => {
                    alone.commit().map_err(before_commit)?;
                    None
                }
                Err(Error::Refused {
                    message,
                    blame: blame @ (Blame::Row | Blame::Server | Blame::Conflict),
                }) => {
                    alone.rollback().map_err(before_commit)?;
                    Some((message, blame))
                }
                Err(error) => return Err(error),
            });
        }
        self.patience.again();
        transaction.commit().map_err(sort)?;
        self.check_history()?;
        Ok(refused)
    }

    fn look(&mut self, keys: &[&str], now_ms: u64) -> Result<Vec<Option<Before>>, Error> {
        self.find(LOOK, keys, |row| Ok(Before { record: record(row, now_ms)?, expired: column(row, 4)? }))
    }

    fn locked(&mut self, keys: &[&str]) -> Result<Vec<bool>, Error> {
        let found = self.find(LOCKED, keys, |_| Ok(()))?;
        Ok(found.iter().map(Option::is_some).collect())
    }

    fn change(&mut self, changes: &[Change<'_>], all_or_nothing: bool) -> Result<Vec<Option<u32>>, Error> {
        self.begin()?;
        let (statement, prepared) = self.prepared(CHANGE)?;
        let arguments = ChangeArguments::new(changes);
        let held = &arguments.held;
        debug_assert!(all_or_nothing || held.is_empty(), "what others are to be held for");
        let mut changed = vec![None; changes.len()];
        let rows = if all_or_nothing {
            let hold = if held.is_empty() { None } else { Some(self.prepared(HOLD)?) };
            let mut transaction = self.client.transaction().map_err(before_commit)?;
            let mut same = 0;
            self.patience.again();
            if let Some((hold, prepared)) = hold {
                let rows = transaction.query(&hold, &[held, &arguments.held_had, &arguments.held_ended]);
                same = rows.map_err(|error| unsent(prepared.sort(error)))?.len();
            }
            self.patience.again();
            if same < held.len() {
                transaction.rollback().map_err(before_commit)?;
                return Ok(changed);
            }
            let rows = transaction
                .query(&statement, &arguments.as_sql())
                .map_err(|error| unsent(prepared.sort(error)))?;
            self.patience.again();
            if rows.len() + same < changes.len() {
                transaction.rollback().map_err(before_commit)?;
                return Ok(changed);
            }
            transaction.commit().map_err(sort)?;
            rows
        } else {
            self.client.query(&statement, &arguments.as_sql()).map_err(|error| prepared.sort(error))?
        };
        self.check_history()?;
        for (change, changed) in changes.iter().zip(&mut changed).filter(|(change, _)| change.to.is_none()) {
            *changed = change.from;
        }
        for row in &rows {
            let at = changes
                .binary_search_by_key(&committed(row, 0)?, |change| change.key)
                .map_err(|_| strange("a key came back that was not sent"))?;
            changed[at] = Some(committed::<Option<Xid>>(row, 1)?.map_or(0, |xmin| xmin.0));
        }
        Ok(changed)
    }

    fn expired(&mut self, behind: Option<&Expired>, rows: u32) -> Result<Vec<Expired>, Error> {
        self.begin()?;
        self.look_where_it_is()?;
        let rows = i64::from(rows);
        let (number, arguments): (usize, &[&(dyn ToSql + Sync)]) = match behind {
            None => (EXPIRED, &[&rows]),
            Some(Expired { key, at }) => (EXPIRED_BEHIND, &[&&**at, &&**key, &rows]),
        };
        let (statement, prepared) = self.prepared(number)?;
        let rows = self.client.query(&statement, arguments);
        let expired = |row: &::postgres::Row| {
            Ok(Expired { key: column::<&str>(row, 0)?.into(), at: column::<&str>(row, 1)?.into() })
        };
        rows.map_err(|error| prepared.sort(error))?.iter().map(expired).collect()
    }

    fn sweep(&mut self, keys: &[&str]) -> Result<u64, Error> {
        self.begin()?;
        let (statement, prepared) = self.prepared(SWEEP)?;
        self.client.execute(&statement, &[&keys]).map_err(|error| prepared.sort(error))
    }

    fn backend(&self) -> Backend {
        self.backend.clone()
    }

    fn end_backend(&mut self, backend: &Backend) -> Result<(), Error> {
        let deadline = Instant::now() + END_BACKEND;
        self.patience.begin(END_BACKEND);
        loop {
            let sql = include_str!("../../../sql/end_backend.sql");
            let row = self.client.query_one(sql, &[&backend.pid, &backend.started]).map_err(sort)?;
            if !column::<bool>(&row, 0)? {
                return Ok(());
            }
            wait_for_end(deadline)?;
        }
    }

    fn is_broken(&mut self) -> bool {
        // Asking for notifications lets the client read what the server has sent meanwhile: its farewell, or an end
        // of stream. Nothing is waited for.
        self.patience.end();
        let _ = self.client.notifications().timeout_iter(Duration::ZERO).next();
        self.client.is_closed() || self.history.is_over()
    }
}

impl PostgresSession {
    pub(super) fn new(opened: Opened, answer_limit: Duration, spoilt: Spoilt) -> PostgresSession {
        let Opened { client, backend, history, patience } = opened;
        PostgresSession {
            client,
            backend,
            history,
            patience,
            answer_limit,
            prepared: Default::default(),
            copies: Hope::default(),
            has_row_security: None,
            spoilt,
        }
    }

    /// What a statement finds of these keys, in their order. Rows come in any order, and only those that there are.
    fn find<T: Clone>(
        &mut self,
        number: usize,
        keys: &[&str],
        read: impl Fn(&::postgres::Row) -> Result<T, Error>,
    ) -> Result<Vec<Option<T>>, Error> {
        self.begin()?;
        let (statement, prepared) = self.prepared(number)?;
        let rows = self.client.query(&statement, &[&keys]).map_err(|error| prepared.sort(error))?;
        self.check_history()?;
        let mut found: Vec<(&str, T)> =
            rows.iter().map(|row| Ok((column(row, 0)?, read(row)?))).collect::<Result<_, Error>>()?;
        found.sort_unstable_by_key(|(key, _)| *key);
        let found_of = |key: &&str| {
            let at = found.binary_search_by_key(key, |(key, _)| *key).ok()?;
            Some(found[at].1.clone())
        };
        Ok(keys.iter().map(found_of).collect())
    }

    /// Stores rows that are not there yet. The commit is asked for by itself: COPY's own end is told before the commit that would
    /// follow it, and what a deferred constraint or a conflict then has against it would go unheard.
    fn copy(&mut self, text: &[u8], lines: usize) -> Result<(), Error> {
        self.begin()?;
        let (statement, _) = self.prepared(COPY)?;
        let mut transaction = self.client.transaction().map_err(before_commit)?;
        self.patience.again();
        // Who waits for the table is to wait here. A COPY that is refused before it takes a row leaves the session an answer that
        // nobody has asked for: the crate asks for the end of it twice.
        transaction.batch_execute(include_str!("../../../sql/lock.sql")).map_err(before_commit)?;
        self.patience.again();
        let mut writer = transaction.copy_in(&statement).map_err(|error| Error::NotSent(describe(&error)))?;
        // What the server has against a row is told at the end, whatever it takes before: an error here is a lost connection.
        writer.write_all(text).map_err(|error| Error::NotSent(error.to_string()))?;
        self.patience.again();
        let stored = match writer.finish() {
            Ok(stored) => stored,
            Err(error) => {
                self.patience.again();
                drop(transaction);
                // It may have been refused before it took a row after all, by a trigger of the statement.
                if self.client.query_typed("SELECT", &[]).is_err() {
                    return Err(Error::NotSent(describe(&error)));
                }
                return Err(before_commit(error));
            }
        };
        self.patience.again();
        all_stored(stored, lines)?;
        transaction.commit().map_err(sort)?;
        self.check_history()
    }

    /// How far the server's log has come: an older copy of it that is brought back one day is known by having come less far. Asked
    /// once a second, by whoever has nothing better to do.
    fn look_where_it_is(&mut self) -> Result<(), Error> {
        if let Some(place) = place(&mut self.client, &self.patience)? {
            self.history.reaches(place);
        }
        self.patience.again();
        Ok(())
    }

    fn has_row_security(&mut self) -> Result<bool, Error> {
        if let Some(known) = self.has_row_security {
            return Ok(known);
        }
        self.begin()?;
        let sql = include_str!("../../../sql/row_security.sql");
        let rows = self.client.query_typed(sql, &[]).map_err(before_commit)?;
        let active = rows.first().map_or(Ok(false), |row| column(row, 0))?;
        Ok(*self.has_row_security.insert(active))
    }

    /// A statement, prepared now if it was not before. Preparing changes nothing: lost with it means not sent.
    fn prepared(&mut self, number: usize) -> Result<(Statement, Prepared), Error> {
        if let Some(statement) = &self.prepared[number] {
            return Ok((statement.clone(), Prepared::Before));
        }
        let statement = self.client.prepare(STATEMENTS[number]).map_err(before_commit)?;
        check_statement(&statement)?;
        self.patience.again();
        Ok((self.prepared[number].insert(statement).clone(), Prepared::Now))
    }

    /// Before each statement: is this session still to be used? From here on its answer is waited for.
    fn begin(&self) -> Result<(), Error> {
        self.patience.begin(self.answer_limit);
        let unsent = |message: &str| Err(Error::NotSent(message.to_owned()));
        match () {
            () if self.client.is_closed() => unsent("the connection was closed"),
            () if self.history.is_over() => unsent(OVER),
            () => Ok(()),
        }
    }

    /// Another server may have taken the place of this one, and another session found it, while this one's answer was on its way.
    fn check_history(&self) -> Result<(), Error> {
        if self.history.is_over() { Err(strange(OVER)) } else { Ok(()) }
    }
}

/// Fewer rows than were sent would be stored: a trigger keeps one out, nobody can say which.
fn all_stored(stored: u64, sent: usize) -> Result<(), Error> {
    if stored == sent as u64 {
        return Ok(());
    }
    Err(Error::Refused { message: KEPT_OUT.to_owned(), blame: Blame::Row })
}

/// When a statement was prepared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Prepared {
    Before,
    Now,
}

impl Prepared {
    /// What an error of such a statement means. One of before may not fit its table any more (a column has another type or
    /// collation now), or not be there (somebody between us and the server has dropped it): it did not run, and never
    /// will in this session. So the session is given up, and the next one prepares it anew. Of one that was prepared
    /// just now the same words must mean something else: they stay a refusal, or there would be no end of sessions.
    fn sort(self, error: ::postgres::Error) -> Error {
        let is_outdated =
            self == Prepared::Before && error.as_db_error().is_some_and(says_that_it_is_outdated);
        match sort(error) {
            Error::Refused { message, .. } if is_outdated => Error::NotSent(message),
            other => other,
        }
    }
}

/// A trigger may use the same code for a row. Which routine of the server has raised it is not translated, and poolers pass it on;
/// who stands in between and raises it himself tells none.
fn says_that_it_is_outdated(error: &DbError) -> bool {
    match *error.code() {
        SqlState::INVALID_SQL_STATEMENT_NAME => true,
        SqlState::FEATURE_NOT_SUPPORTED => error.routine().is_none_or(|name| name == "RevalidateCachedQuery"),
        _ => false,
    }
}

/// A row of `key, value, xmin, left_s`, read at this time.
fn record(row: &::postgres::Row, now_ms: u64) -> Result<Record, Error> {
    let value: &str = column(row, 1)?;
    let expires_s = column::<Option<f64>>(row, 3)?.map_or(NEVER, |left_s| {
        // Rounded down, so that nothing is kept too long. What is past any clock of ours becomes NEVER.
        (now_ms as f64 / 1_000.0 + left_s).max(0.0) as u32
    });
    Ok(Record { value: value.into(), version: column::<Xid>(row, 2)?.0, expires_s })
}

/// An error before a commit was asked for: nothing has happened, and nothing will.
fn before_commit(error: ::postgres::Error) -> Error {
    unsent(sort(error))
}

/// The same of one that is sorted already.
fn unsent(error: Error) -> Error {
    match error {
        Error::Lost(message) => Error::NotSent(message),
        other @ (Error::NotSent(_) | Error::Refused { .. }) => other,
    }
}
