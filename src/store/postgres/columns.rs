//! What `kv_store` must be like: its keys and values are text. A table that was there before us is looked at once, at
//! the start; but it may be altered while it is served, and a row of it may hold nothing. So each statement is looked at
//! when it is prepared, and each column when it is read: what does not fit is refused, and never a panic. Called by [`super`] and
//! [`super::session`].

use super::{describe, sort};
use crate::store::{Blame, Error, migrations};
use ::postgres::error::SqlState;
use ::postgres::types::{FromSql, Type, WasNull};
use ::postgres::{Client, Column, Row, Statement};
use std::fmt::Display;

/// Those that must be text, wherever a statement returns them.
const TEXTS: [&str; 2] = ["key", "value"];

/// A table that was there before us: are keys and values text, and do keys stay what they are? Looked at before the migrations, which would change a
/// table that cannot be used; one that they make is right.
pub(super) fn check_table(client: &mut Client) -> Result<(), Error> {
    for row in client.query(include_str!("../../../sql/columns.sql"), &[]).map_err(sort)? {
        let name: &str = column(&row, 0)?;
        let unusable = match column::<Option<&str>>(&row, 1)? {
            _ if !column::<bool>(&row, 7)? => {
                "kv_store is no plain table: of rows of a view, of partitions or of a foreign table PostgreSQL does not tell which \
                 transaction has written them, and of a table that others inherit from, which of them has a key"
                    .into()
            }
            Some(kind) if name == "created_at" => {
                warn_of(&row, kind)?;
                continue;
            }
            // The migrations make it.
            None if name == "expires_at" => continue,
            Some(kind) if name == "expires_at" => {
                if column(&row, 10)? && column(&row, 3)? {
                    continue;
                }
                format!(
                    "the column expires_at of kv_store is of type {kind}, and is to be a timestamptz with microseconds that may be NULL"
                )
            }
            None => format!("kv_store has no column {name}"),
            Some(kind) if !column::<bool>(&row, 2)? => not_text(name, kind),
            Some(kind) if name == "key" && !column::<bool>(&row, 4)? => format!(
                "the column key of kv_store is of type {kind}, which does not keep every key as it is: it is to be \
                 varchar(255), or text"
            ),
            Some(kind) if !column::<bool>(&row, 4)? => format!(
                "the column value of kv_store is of type {kind}, which cuts or pads what it is given without a word: it is \
                 to be text"
            ),
            Some(_)
                if name == "key"
                    && let Some(collation) = column::<Option<&str>>(&row, 5)? =>
            {
                format!(
                    "the column key of kv_store has the collation {collation}, for which different keys are the same: it \
                     is to have a deterministic one"
                )
            }
            Some(_) if name == "key" && !column::<bool>(&row, 6)? => {
                "kv_store has neither a primary key nor a unique index on its column key alone (one that is valid, for all rows \
                 and not deferrable): ALTER TABLE kv_store ADD PRIMARY KEY (key)"
                    .into()
            }
            Some(_) => {
                if column(&row, 3)? {
                    log::warn!("the column {name} of kv_store may be NULL: a row in which it is is refused");
                }
                continue;
            }
        };
        return Err(Error::NotSent(unusable));
    }
    Ok(())
}

/// Refuses a column `expires_at` that is there and was not made by a migration: it may mean something else, and rows past it are
/// deleted within seconds.
pub(super) fn check_life(client: &mut Client) -> Result<(), Error> {
    let found = client.query_one(include_str!("../../../sql/has_life.sql"), &[]).map_err(sort)?;
    if column(&found, 0)? && migrations::applied(client).map_err(sort)? < migrations::EXPIRES_AT {
        return Err(Error::NotSent(
            "kv_store has a column expires_at that hotrow has not made, and every row past it would be deleted".into(),
        ));
    }
    Ok(())
}

/// What may be meant so.
fn warn_of(row: &Row, created_at: &str) -> Result<(), Error> {
    if column(row, 8)? {
        log::warn!(
            "kv_store is UNLOGGED: a crash of PostgreSQL empties it, and what was acknowledged is gone"
        );
    }
    if !(column::<bool>(row, 10)? && column::<bool>(row, 11)?) {
        log::warn!(
            "the column created_at of kv_store is no timestamp with microseconds and a default (it is of type {created_at}): a row that \
             takes the place of one past its time is not told to be new (200 instead of 201)"
        );
    }
    if let Some(wanting) = column::<Option<&str>>(row, 9)? {
        log::warn!(
            "the column {wanting} of kv_store may not be NULL and has no default: unless a trigger fills it in, every new row \
             is refused"
        );
    }
    Ok(())
}

/// Whether the table takes our statements at all, looked at when the migrations are applied: columns of other types have other
/// operators, and a table that has been dropped since is not made again. Who waits for the table is not waited for.
pub(super) fn check_statements(client: &mut Client, statements: &[&str]) -> Result<(), Error> {
    let mut transaction = client.transaction().map_err(sort)?;
    transaction.batch_execute("SET LOCAL lock_timeout = '1s'").map_err(sort)?;
    for sql in statements {
        let Err(error) = transaction.prepare(sql) else { continue };
        return match error.code() {
            Some(&SqlState::UNDEFINED_TABLE) => Err(Error::NotSent(format!(
                "{}, but hotrow_migrations says that it was made: give it back, or DROP TABLE hotrow_migrations and start \
                 with an empty one",
                describe(&error)
            ))),
            Some(code) if code.code().starts_with("42") => {
                Err(Error::NotSent(format!("kv_store does not take a statement: {}", describe(&error))))
            }
            // It comes up again with the first request, if it is more than a lock.
            _ => Ok(()),
        };
    }
    transaction.rollback().map_err(sort)
}

/// Before a statement is executed for the first time: could what it returns be read? Of a write it must be known before,
/// for its rows come back when it is committed. Later PostgreSQL itself refuses a statement whose columns have other types by now.
pub(super) fn check_statement(statement: &Statement) -> Result<(), Error> {
    let is_wrong = |column: &&Column| is_text(column) && !<&str as FromSql<'_>>::accepts(column.type_());
    match statement.columns().iter().find(is_wrong) {
        Some(column) => Err(refused(not_text(column.name(), column.type_()), Blame::Server)),
        None => Ok(()),
    }
}

/// The number of a transaction: as `xmin`, a row's version.
pub(super) struct Xid(pub(super) u32);

impl<'a> FromSql<'a> for Xid {
    fn from_sql(_: &Type, bytes: &'a [u8]) -> Result<Xid, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Xid(u32::from_be_bytes(bytes.try_into()?)))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::XID
    }
}

/// A column of a row that was read.
pub(super) fn column<'a, T: FromSql<'a>>(row: &'a Row, at: usize) -> Result<T, Error> {
    row.try_get(at).map_err(|error| unreadable(&row.columns()[at], &error))
}

/// The same of what a write has returned. It is committed by then: that is no refusal, which would leave the old row in the cache.
pub(super) fn committed<'a, T: FromSql<'a>>(row: &'a Row, at: usize) -> Result<T, Error> {
    column(row, at).map_err(|error| Error::Lost(error.to_string()))
}

fn unreadable(column: &Column, error: &::postgres::Error) -> Error {
    let (name, kind) = (column.name(), column.type_());
    if std::error::Error::source(error).is_some_and(|cause| cause.is::<WasNull>()) {
        let message = format!(
            "the column {name} of kv_store is NULL in a row (find it with SELECT key FROM kv_store WHERE {name} IS NULL)"
        );
        return refused(message, Blame::Row);
    }
    if is_text(column) && !<&str as FromSql<'_>>::accepts(kind) {
        return refused(not_text(name, kind), Blame::Server);
    }
    refused(format!("the column {name} of a row cannot be read: {}", describe(error)), Blame::Row)
}

fn is_text(column: &Column) -> bool {
    TEXTS.contains(&column.name())
}

fn not_text(name: &str, kind: impl Display) -> String {
    format!("the column {name} of kv_store is of type {kind}, and not of a text type")
}

fn refused(message: String, blame: Blame) -> Error {
    Error::Refused { message, blame }
}
