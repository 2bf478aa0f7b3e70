//! The made-up database: sessions that lose statements, refuse them, or execute them later than anyone expects.

use super::{Bug, COUNTER, Changing, KEYS, Lost, State, Statement, Stored, World, known};
use crate::engine::{NEVER, Record, Row};
use crate::http::problem::{Kind, Problem};
use crate::limits::LOCK_WAIT_MS;
use crate::store::judge::{Before, Change, Expiry, To};
use crate::store::list::{Page, Range};
use crate::store::load::{self, End};
use crate::store::sweeper::Expired;
use crate::store::{Answer, Blame, Connector, Error, NO_VERSION, Reply, Session, Set, Written};
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

    fn limit_lock_waits(&mut self) -> Result<u64, Error> {
        Ok(LOCK_WAIT_MS)
    }

    fn read(&mut self, keys: &[&str], _now_ms: u64) -> Result<Vec<Row>, Error> {
        let world = self.database.world();
        world.meanwhile();
        let rows = keys.iter().map(|key| world.state().row(key)).collect();
        world.arrive(rows)
    }

    fn page(&mut self, _range: &Range) -> Result<Page, Error> {
        unreachable!("a list asks neither engine nor cache: nobody here wants one")
    }

    fn write(&mut self, sets: &[Set<'_>], deletes: &[&str]) -> Result<Written, Error> {
        let owned = |set: &Set<'_>| (set.key.to_owned(), set.value.to_owned(), set.ttl_s);
        let statement = Statement {
            sets: sets.iter().map(owned).collect(),
            deletes: deletes.iter().map(|key| (*key).to_owned()).collect(),
            ..Statement::default()
        };
        self.execute(&statement).map(|done| done.written)
    }

    fn load(&mut self, rows: &[&load::Row<'_>]) -> Result<(), Error> {
        let owned = |row: &&load::Row<'_>| {
            let ttl_s = if let End::After(ttl_s) = row.end { Some(ttl_s) } else { None };
            (row.key.to_string(), row.value.to_string(), ttl_s)
        };
        let statement = Statement { sets: rows.iter().map(owned).collect(), ..Statement::default() };
        self.execute(&statement).map(|_| ())
    }

    fn load_each(&mut self, rows: &[&load::Row<'_>]) -> Result<Vec<Option<(String, Blame)>>, Error> {
        let world = self.database.world();
        let refused = |_| {
            let blame = [Blame::Row, Blame::Conflict].get(world.state().rng.usize(..8)).copied()?;
            Some(("no".to_owned(), blame))
        };
        let refused: Vec<_> = rows.iter().map(refused).collect();
        let taken = rows.iter().zip(&refused).filter(|(_, refused)| refused.is_none()).map(|(row, _)| *row);
        self.load(&taken.collect::<Vec<_>>()).map(|()| refused)
    }

    fn look(&mut self, keys: &[&str], _now_ms: u64) -> Result<Vec<Option<Before>>, Error> {
        let world = self.database.world();
        world.meanwhile();
        let rows = keys.iter().map(|key| world.state().before(key)).collect();
        world.arrive(rows)
    }

    fn locked(&mut self, keys: &[&str]) -> Result<Vec<bool>, Error> {
        let world = self.database.world();
        world.meanwhile();
        // Nobody has locked anything here; whoever asks need not know.
        let locked = keys.iter().map(|_| world.state().rng.u8(..4) == 0).collect();
        world.arrive(locked)
    }

    fn change(&mut self, changes: &[Change<'_>], all_or_nothing: bool) -> Result<Vec<Option<u32>>, Error> {
        let owned = |change: &Change<'_>| {
            let to = match &change.to {
                Some(To::Value(value, expiry)) => Some((value.to_string(), *expiry)),
                Some(To::Nothing) | None => None,
            };
            let from = (change.from.unwrap_or(NO_VERSION), change.expired);
            Changing { key: change.key.to_owned(), from, to, held: change.to.is_none() }
        };
        let changes = changes.iter().map(owned).collect();
        let statement = Statement { changes, all_or_nothing, ..Statement::default() };
        self.execute(&statement).map(|done| done.changed)
    }

    fn expired(&mut self, _behind: Option<&Expired>, _rows: u32) -> Result<Vec<Expired>, Error> {
        Ok(Vec::new())
    }

    fn sweep(&mut self, _keys: &[&str]) -> Result<u64, Error> {
        Ok(0)
    }

    fn backend(&self) -> u32 {
        self.number
    }

    fn end_backend(&mut self, backend: &u32) -> Result<(), Error> {
        let world = self.database.world();
        world.meanwhile();
        if world.bug == Some(Bug::NoFence) {
            return Ok(());
        }
        let mut state = world.state();
        // It had its last chance while we waited for its end; what it has not committed by now it never will.
        let late = state.rng.bool();
        while let Some(at) = state.lost.iter().position(|lost| lost.backend == *backend) {
            let lost = state.lost.remove(at);
            if late {
                state.commit(&lost.statement, world.bug);
            }
        }
        Ok(())
    }

    fn is_broken(&mut self) -> bool {
        false
    }
}

impl Statement {
    /// It adds to the counter, and does nothing else.
    fn counts(&self) -> bool {
        matches!(&self.changes[..], [Changing { key, .. }] if key == COUNTER)
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
                let blames = [Blame::Conflict, Blame::Row, Blame::Held, Blame::Server, Blame::ReadOnly];
                let blame = blames[world.state().rng.usize(..blames.len())];
                Err(Error::Refused { message: "no".into(), blame })
            }
            1 if faults.lost => Err(Error::NotSent("closed".into())),
            2 if faults.lost => {
                world.commit(statement);
                if world.bug == Some(Bug::CountedTwice) && statement.counts() {
                    return Err(Error::NotSent("a lie".into()));
                }
                Err(Error::Lost("after the commit".into()))
            }
            3 | 4 if faults.lost => {
                world.state().lost.push(lost());
                Err(Error::Lost("before the commit".into()))
            }
            _ if world.bug == Some(Bug::AcknowledgedBeforeCommit)
                && fate == 5
                && !statement.sets.is_empty() =>
            {
                let version = world.state().next_version + 1;
                let stored = vec![Some((version, false)); statement.sets.len()];
                let deleted = vec![true; statement.deletes.len()];
                world.state().lost.push(lost());
                Ok(Done { written: Written { stored, deleted }, changed: Vec::new() })
            }
            _ => Ok(world.commit(statement)),
        };
        world.meanwhile();
        result
    }
}

impl World {
    /// The keys have earlier rows again, and hotrow hears of that, once.
    pub(super) fn lose_commits(&self) {
        let mut state = self.state();
        state.losing = false;
        for key in KEYS {
            let newest = state.history[key].len();
            let kept = state.rng.usize(newest.saturating_sub(3)..newest);
            let row = state.history[key][kept].clone();
            state.log(|| format!("  {key} has {row:?} again"));
            match &row {
                Some((value, version)) => {
                    let stored = Stored { value: value.clone(), version: *version, expires_s: NEVER };
                    state.table.insert(key, stored)
                }
                None => state.table.remove(key),
            };
            state.history.get_mut(key).expect("known keys only").push(row);
            state.floors.insert(key, newest);
            state.own.insert(key, newest);
        }
        drop(state);
        for ticket in self.backend.engine.forget_all() {
            self.reply_to_watcher(&Reply { ticket, answer: Answer::Changed });
        }
    }

    pub(super) fn commit(&self, statement: &Statement) -> Done {
        self.state().commit(statement, self.bug)
    }

    /// Rows that were read are on their way to who has asked.
    fn arrive<T>(&self, rows: Vec<T>) -> Result<Vec<T>, Error> {
        self.meanwhile();
        let mut state = self.state();
        if state.faults.lost && state.rng.u8(..20) == 0 {
            return Err(Error::Lost("read".into()));
        }
        Ok(rows)
    }
}

impl State {
    /// The row in its place, as a worker is told: for the workers it is always 0 o'clock.
    fn before(&self, key: &str) -> Option<Before> {
        let stored = self.table.get(key)?;
        let expired = stored.expires_s <= self.now_s;
        let left_s = stored.expires_s.saturating_sub(self.now_s);
        let expires_s = if stored.expires_s == NEVER { NEVER } else { left_s };
        let record = Record { value: stored.value.as_str().into(), version: stored.version, expires_s };
        Some(Before { record, expired })
    }

    pub(super) fn row(&self, key: &str) -> Row {
        self.before(key).filter(|before| !before.expired).map(|before| before.record)
    }

    /// The jump of time, if it has not been yet.
    pub(super) fn pass_time(&mut self) {
        if self.now_s > 0 {
            return;
        }
        self.now_s = 1;
        let ended = self.table.iter().filter(|(_, stored)| stored.expires_s <= 1);
        for (key, version) in ended.map(|(key, stored)| (*key, stored.version)).collect::<Vec<_>>() {
            self.log(|| format!("  the time of {key} is over"));
            self.history.get_mut(key).expect("known keys only").push(None);
            self.ended.insert((key, version));
        }
    }

    /// Puts a row into the table; says whether there was one.
    fn put(&mut self, key: &str, stored: Option<Stored>) -> bool {
        let existed = self.row(key).is_some();
        if existed && stored.is_none() {
            self.removals.entry(known(key)).or_default().0 += 1;
        }
        let history = self.history.get_mut(known(key)).expect("known keys only");
        if existed || stored.is_some() {
            history.push(stored.as_ref().map(|stored| (stored.value.clone(), stored.version)));
        }
        self.own.insert(known(key), history.len() - 1);
        match stored {
            Some(stored) => self.table.insert(known(key), stored),
            None => self.table.remove(key),
        };
        existed
    }

    /// Another program sets a key, or deletes it, and says nothing.
    pub(super) fn write_as_another_program(&mut self) {
        let key = KEYS[self.rng.usize(..KEYS.len())];
        let own = self.own[key];
        self.next_version += 1;
        let version = self.next_version;
        let row = Stored { value: format!("others{version}"), version, expires_s: NEVER };
        let stored = Some(row).filter(|_| self.rng.u8(..3) > 0);
        self.log(|| format!("  another program: {key} {stored:?}"));
        let is_deletion = stored.is_none();
        if self.put(key, stored) && is_deletion {
            // It knows of that itself.
            self.removals.entry(key).or_default().1 += 1;
        }
        self.own.insert(key, own);
    }

    /// When a row comes to the end of its time that is written now.
    fn end_of(&self, ttl_s: Option<u32>) -> u32 {
        ttl_s.map_or(NEVER, |ttl_s| self.now_s + ttl_s)
    }

    pub(super) fn commit(&mut self, statement: &Statement, bug: Option<Bug>) -> Done {
        self.next_version += 1;
        let version = self.next_version;
        let mut done = Done::default();
        for (key, value, ttl_s) in &statement.sets {
            let stored = Stored { value: value.clone(), version, expires_s: self.end_of(*ttl_s) };
            let existed = self.put(key, Some(stored));
            done.written.stored.push(Some((version, !existed)));
        }
        for key in &statement.deletes {
            let existed = self.put(key, None);
            done.written.deleted.push(existed);
        }
        let is_as_looked_at = |state: &State, changing: &Changing| match state.before(&changing.key) {
            _ if changing.held && bug == Some(Bug::NotHeld) => true,
            None => changing.from.0 == NO_VERSION,
            Some(_) if changing.from.0 == NO_VERSION => bug == Some(Bug::CreatedTwice),
            Some(Before { record, expired }) => {
                record.version == changing.from.0
                    && (bug == Some(Bug::ChangedPastItsTime) || expired == changing.from.1)
            }
        };
        let same: Vec<bool> =
            statement.changes.iter().map(|changing| is_as_looked_at(self, changing)).collect();
        let possible = !statement.all_or_nothing || same.iter().all(|same| *same);
        for (Changing { key, to, from, held }, same) in statement.changes.iter().zip(same) {
            if *held {
                done.changed.push((same && possible).then_some(from.0));
                continue;
            }
            if same && possible {
                let kept = self.table.get(key.as_str()).map_or(NEVER, |stored| stored.expires_s);
                let stored = to.as_ref().map(|(value, expiry)| Stored {
                    value: value.clone(),
                    version,
                    expires_s: match expiry {
                        Expiry::Never => NEVER,
                        Expiry::After(ttl_s) => self.end_of(Some(*ttl_s)),
                        Expiry::Kept => kept,
                    },
                });
                self.put(key, stored);
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

/// A line of a load: `key=value`, and whether it lives for a second.
pub(super) fn parse_load(line: &str, _: usize) -> Result<load::Row<'_>, Problem> {
    let parts = line.split_once('=').and_then(|(key, rest)| Some((key, rest.split_once(' ')?)));
    let (key, (value, short)) = parts.ok_or_else(|| Problem::new(Kind::BadLine, "no row"))?;
    let end = if short == "true" { End::After(1) } else { End::Never };
    Ok(load::Row { key: key.into(), value: value.into(), end })
}
