//! What statements take, as the columns that they take it in. Used by [`super::session`].

use crate::store::judge::{Change, Expiry, To};
use crate::store::load::{End, Row as Loading};
use ::postgres::types::ToSql;

/// Rows of a load as the columns that the statement takes.
pub(super) struct LoadArguments<'a> {
    keys: Vec<&'a str>,
    values: Vec<&'a str>,
    ttls: Vec<Option<f64>>,
    ends: Vec<Option<&'a str>>,
}

impl<'a> LoadArguments<'a> {
    pub(super) fn new(rows: &'a [&Loading<'_>]) -> LoadArguments<'a> {
        let ttl_s = |row: &&Loading<'_>| match &row.end {
            End::After(ttl_s) => Some(f64::from(*ttl_s)),
            End::At(_) | End::Never => None,
        };
        let end = |row: &&'a Loading<'_>| match &row.end {
            End::At(time) => Some(&**time),
            End::After(_) | End::Never => None,
        };
        LoadArguments {
            keys: rows.iter().map(|row| &*row.key).collect(),
            values: rows.iter().map(|row| &*row.value).collect(),
            ttls: rows.iter().map(ttl_s).collect(),
            ends: rows.iter().map(end).collect(),
        }
    }

    pub(super) fn as_sql(&self) -> [&(dyn ToSql + Sync); 4] {
        [&self.keys, &self.values, &self.ttls, &self.ends]
    }
}

/// Changes as the columns that the statement takes.
#[derive(Default)]
pub(super) struct ChangeArguments<'a> {
    keys: Vec<&'a str>,
    values: Vec<&'a str>,
    ttls: Vec<Option<f64>>,
    kept: Vec<bool>,
    had: Vec<Option<String>>,
    ended: Vec<bool>,
    gone: Vec<&'a str>,
    gone_had: Vec<Option<String>>,
    gone_ended: Vec<bool>,
    /// Those that are not changed are for a statement of their own.
    pub(super) held: Vec<&'a str>,
    pub(super) held_had: Vec<Option<String>>,
    pub(super) held_ended: Vec<bool>,
}

impl<'a> ChangeArguments<'a> {
    pub(super) fn new(changes: &'a [Change<'a>]) -> ChangeArguments<'a> {
        let mut arguments = ChangeArguments::default();
        for change in changes {
            let had = change.from.map(|version| version.to_string());
            match &change.to {
                Some(To::Value(value, expiry)) => {
                    arguments.keys.push(change.key);
                    arguments.values.push(value);
                    let ttl_s =
                        if let Expiry::After(ttl_s) = expiry { Some(f64::from(*ttl_s)) } else { None };
                    arguments.ttls.push(ttl_s);
                    arguments.kept.push(*expiry == Expiry::Kept);
                    arguments.had.push(had);
                    arguments.ended.push(change.expired);
                }
                Some(To::Nothing) => {
                    arguments.gone.push(change.key);
                    arguments.gone_had.push(had);
                    arguments.gone_ended.push(change.expired);
                }
                None => {
                    arguments.held.push(change.key);
                    arguments.held_had.push(had);
                    arguments.held_ended.push(change.expired);
                }
            }
        }
        arguments
    }

    pub(super) fn as_sql(&self) -> [&(dyn ToSql + Sync); 9] {
        [
            &self.keys,
            &self.values,
            &self.ttls,
            &self.kept,
            &self.had,
            &self.ended,
            &self.gone,
            &self.gone_had,
            &self.gone_ended,
        ]
    }
}
