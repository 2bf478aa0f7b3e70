//! The made-up database: sessions that lose statements, refuse them, or execute them later than anyone expects.

use super::{Bug, Lost, State, Statement, World, known};
use crate::engine::{NEVER, Record, Row};
use crate::store::judge::{Before, Change, To};
use crate::store::list::{Page, Range};
use crate::store::{Blame, Connector, Error, NO_VERSION, Session, Set, Written};
use std::sync::{Arc, Mutex};

/// The made-up database, as workers see it. Set once the world is whole.
#[derive(Clone)]
pub(super) struct Database(pub(super) Arc<Mutex<Option<Arc<World>>>>);

impl Database {
    pub(super) fn world(&self) -> Arc<World> {
        Arc::clone(self.0.lock().unwrap().as_ref().expect("set before anything runs"))
    }
}

pub(super) struct FakeSession {
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

    fn read(&mut self, keys: &[&str], _now_ms: u64) -> Result<Vec<Row>, Error> {
        let world = self.database.world();
        world.meanwhile();
        let rows = keys.iter().map(|key| world.state().row(key)).collect();
        world.meanwhile();
        let mut state = world.state();
        if state.faults.lost && state.rng.u8(..20) == 0 {
            return Err(Error::Lost("read".into()));
        }
        Ok(rows)
    }

    fn page(&mut self, _range: &Range) -> Result<Page, Error> {
        unreachable!("a list asks neither engine nor cache: nobody here wants one")
    }

    fn write(&mut self, sets: &[Set<'_>], deletes: &[&str]) -> Result<Written, Error> {
        let owned = |set: &Set<'_>| (set.key.to_owned(), set.value.to_owned());
        let statement = Statement {
            sets: sets.iter().map(owned).collect(),
            deletes: deletes.iter().map(|key| (*key).to_owned()).collect(),
            ..Statement::default()
        };
        self.execute(&statement).map(|done| done.written)
    }

    fn look(&mut self, keys: &[&str], now_ms: u64) -> Result<Vec<Option<Before>>, Error> {
        let rows = self.read(keys, now_ms)?;
        Ok(rows.into_iter().map(|row| Some(Before { record: row?, expired: false })).collect())
    }

    fn change(&mut self, changes: &[Change<'_>], all_or_nothing: bool) -> Result<Vec<Option<u32>>, Error> {
        let owned = |change: &Change<'_>| {
            let to = if let To::Value(value, _) = &change.to { Some(value.to_string()) } else { None };
            (change.key.to_owned(), change.from.unwrap_or(NO_VERSION), to)
        };
        let changes = changes.iter().map(owned).collect();
        let statement = Statement { changes, all_or_nothing, ..Statement::default() };
        self.execute(&statement).map(|done| done.changed)
    }

    fn sweep(&mut self, _rows: u32) -> Result<u64, Error> {
        Ok(0)
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
                state.commit(&lost.statement);
            }
        }
        Ok(())
    }

    fn is_broken(&mut self) -> bool {
        false
    }
}

/// What a statement has done.
#[derive(Default)]
pub(super) struct Done {
    written: Written,
    changed: Vec<Option<u32>>,
}

impl FakeSession {
    /// Executes a statement, or does to it what connections and servers do to statements.
    fn execute(&mut self, statement: &Statement) -> Result<Done, Error> {
        let world = self.database.world();
        world.meanwhile();
        let faults = world.state().faults;
        let fate = world.state().rng.u8(..24);
        let lost = || Lost { backend: self.number, statement: statement.clone() };
        let result = match fate {
            0 if faults.refused => {
                let blame = [Blame::Conflict, Blame::Row, Blame::Server, Blame::ReadOnly]
                    [world.state().rng.usize(..4)];
                Err(Error::Refused { message: "no".into(), blame })
            }
            1 if faults.lost => Err(Error::NotSent("closed".into())),
            2 if faults.lost => {
                world.state().commit(statement);
                Err(Error::Lost("after the commit".into()))
            }
            3 | 4 if faults.lost => {
                world.state().lost.push(lost());
                Err(Error::Lost("before the commit".into()))
            }
            _ if world.bug == Bug::AcknowledgedBeforeCommit && fate == 5 && !statement.sets.is_empty() => {
                let version = world.state().next_version + 1;
                let stored = vec![(version, false); statement.sets.len()];
                let deleted = vec![true; statement.deletes.len()];
                world.state().lost.push(lost());
                Ok(Done { written: Written { stored, deleted }, changed: Vec::new() })
            }
            _ => Ok(world.state().commit(statement)),
        };
        world.meanwhile();
        result
    }
}

impl State {
    pub(super) fn row(&self, key: &str) -> Row {
        let last = self.history[key].last().expect("every key begins absent");
        last.as_ref().map(|(value, version)| Record {
            value: value.as_str().into(),
            version: *version,
            expires_s: NEVER,
        })
    }

    /// Puts a row into the table; says whether there was one.
    pub(super) fn put(&mut self, key: &str, value: Option<&str>, version: u32) -> bool {
        let history = self.history.get_mut(known(key)).expect("known keys only");
        let existed = history.last().expect("never empty").is_some();
        if existed || value.is_some() {
            history.push(value.map(|value| (value.to_owned(), version)));
        }
        existed
    }

    pub(super) fn commit(&mut self, statement: &Statement) -> Done {
        self.next_version += 1;
        let version = self.next_version;
        let mut done = Done::default();
        for (key, value) in &statement.sets {
            let existed = self.put(key, Some(value), version);
            done.written.stored.push((version, !existed));
        }
        for key in &statement.deletes {
            let existed = self.put(key, None, version);
            done.written.deleted.push(existed);
        }
        let same: Vec<bool> = statement
            .changes
            .iter()
            .map(|(key, from, _)| self.row(key).map_or(NO_VERSION, |record| record.version) == *from)
            .collect();
        let possible = !statement.all_or_nothing || same.iter().all(|same| *same);
        for ((key, _, to), same) in statement.changes.iter().zip(same) {
            if same && possible {
                self.put(key, to.as_deref(), version);
            }
            done.changed.push((same && possible).then_some(version));
        }
        self.log(|| format!("  committed {version}: {statement:?}: {:?}", done.changed));
        done
    }

    pub(super) fn log(&mut self, line: impl FnOnce() -> String) {
        if self.log.capacity() > 0 {
            self.log.push(line());
        }
    }
}
