//! Writes that depend on the row that they find, and batches of many keys:
//!
//! ```text
//!  look at the rows ─► judge (pure, store/judge.rs) ─► change the rows that are still the same, in one commit
//!        ▲                                                  │ some are not: another program has written them
//!        └──────────────── those again, a few times ────────┘
//! ```
//!
//! The look takes no lock. It is the change that decides: it names the version of the row that was judged, and a row of
//! another version is left alone. So a compare-and-swap, or an addition, is as atomic as one statement is.
//!
//! A change that was lost is not tried again, because it may have happened: its keys stay in doubt until the old
//! backend is gone, and then its outcome is unknown.

use super::super::judge::{Before, Change, Judged, To};
use super::super::{Answer, Blame, Connector, Error, Failure, NO_VERSION, Session, Step};
use super::aside::Held;
use super::each::Fault;
use super::{Batch, Writer};
use crate::clock::seconds;
use crate::engine::shard::Writes;
use crate::engine::{Record, Row};
use crate::limits::OVERTAKEN_RETRIES;
use std::time::Instant;

/// One key's part of what is judged together.
pub(super) struct Part<'a> {
    pub(super) key: &'a str,
    pub(super) hash: u64,
    pub(super) writes: Writes,
    pub(super) steps: Vec<&'a Step>,
    /// When nobody waits for them any more.
    pub(super) deadline_ms: u64,
}

/// What became of one [`Part`].
pub(super) enum Ending {
    /// It was judged, and its change is committed, if it has one.
    Done(Judged, u32),
    Failed(Failure),
    /// Nothing is done, and nobody was told: somebody else has a row locked. This one, if that is known.
    Locked {
        why: Failure,
        is_known: bool,
    },
}

/// The database's answer to one round.
enum Round {
    /// For every part, the version that its change has left; `None`: overtaken, or nothing done.
    Changed(Vec<Judged>, Vec<Option<u32>>),
    /// An all-or-nothing batch in which some step could not do what it is for.
    Impossible(Vec<Judged>),
    /// Nothing happened; the same again may work. If it never does, this is why.
    Again(Failure),
    Failed(Failure),
    /// One row may be at fault, or the server for all of them.
    Suspect(Failure),
    /// Somebody else has a row locked, of those parts that were to be changed.
    Locked(Failure, Vec<bool>),
    Lost,
}

impl<C: Connector> Writer<C> {
    /// Brings writes that depend on their rows to their endings, or puts them aside.
    pub(super) fn execute_judged(&mut self, batch: Batch) {
        let parts: Vec<Part<'_>> = batch
            .keys()
            .map(|key| {
                let (writes, deadline_ms) = (Writes::Own(key.count()), key.last_deadline_ms());
                Part { key: key.key(), hash: key.hash(), writes, steps: key.steps().collect(), deadline_ms }
            })
            .collect();
        let endings = self.judge_and_change(&parts, false);
        for (single, ending) in batch.split().into_iter().zip(endings) {
            let key = single.keys().next().expect("it has one");
            match ending {
                Ending::Done(judged, version) => key.answer_each(judged.answers(version), &mut self.replies),
                Ending::Failed(failure) => key.answer_all(&Answer::Failed(failure), &mut self.replies),
                Ending::Locked { why, is_known } => {
                    let locked = if is_known { vec![key.key().into()] } else { Vec::new() };
                    self.put_aside(Held::Key(single), why, locked);
                }
            }
        }
        self.shared.deliver.deliver(&mut self.replies);
    }

    /// Gives their ending to those of what is left whose rows are locked, so far as can be known. Only what was to be `changed`
    /// waits for a lock. False: there are none.
    fn part_locked(
        &mut self,
        parts: &[Part<'_>],
        left: &mut Vec<usize>,
        endings: &mut [Option<Ending>],
        (why, changed): (&Failure, &[bool]),
    ) -> bool {
        let asked: Vec<usize> = left.iter().zip(changed).filter(|(_, is)| **is).map(|(at, _)| *at).collect();
        let keys: Vec<&str> = asked.iter().map(|at| parts[*at].key).collect();
        let locked = self.locked(&keys).unwrap_or_default();
        for (at, _) in asked.iter().zip(&locked).filter(|(_, locked)| **locked) {
            endings[*at] = Some(Ending::Locked { why: why.clone(), is_known: true });
        }
        left.retain(|at| endings[*at].is_none());
        locked.contains(&true)
    }

    /// Judges and changes until every part has its ending, and tells the engine.
    pub(super) fn judge_and_change(&mut self, parts: &[Part<'_>], all_or_nothing: bool) -> Vec<Ending> {
        let mut endings: Vec<Option<Ending>> = parts.iter().map(|_| None).collect();
        let (mut left, mut retries): (Vec<usize>, usize) = ((0..parts.len()).collect(), 0);
        while !left.is_empty() {
            // What is done was told to the engine, and whoever watches it is not to wait for another round, or for an outage in it.
            self.shared.deliver.deliver(&mut self.replies);
            let these: Vec<&Part<'_>> = left.iter().map(|at| &parts[*at]).collect();
            let now_ms = self.shared.clock.now_ms();
            let round = self.round(&these, all_or_nothing, now_ms);
            let again = match round {
                Round::Changed(judged, versions) => {
                    self.keep_done(parts, &mut left, &mut endings, judged, versions, seconds(now_ms));
                    overtaken()
                }
                Round::Impossible(judged) => {
                    for (at, mut judged) in left.drain(..).zip(judged) {
                        judged.undo();
                        self.applied_part(&parts[at], &judged, None, seconds(now_ms));
                        endings[at] = Some(Ending::Done(judged, NO_VERSION));
                    }
                    continue;
                }
                Round::Again(failure) => failure,
                Round::Suspect(_) if left.len() > 1 && !all_or_nothing => {
                    // One row is at fault; the others must not suffer for it.
                    let may_wait = vec![true; left.len()];
                    self.judge_and_change_each(parts, &mut left, &mut endings, &may_wait);
                    continue;
                }
                Round::Locked(why, changed) => {
                    let asked = left.clone();
                    let some = self.part_locked(parts, &mut left, &mut endings, (&why, &changed));
                    if all_or_nothing || left.len() == 1 && !some {
                        for at in left.drain(..) {
                            endings[at] = Some(Ending::Locked { why: why.clone(), is_known: false });
                        }
                    } else if !some || !self.lock_waits.are_few() {
                        // Nobody can say which it is, or they change all the time.
                        let rest = asked.iter().zip(changed).filter(|(at, _)| endings[**at].is_none());
                        let may_wait: Vec<bool> = rest.map(|(_, changed)| changed).collect();
                        self.judge_and_change_each(parts, &mut left, &mut endings, &may_wait);
                    }
                    continue;
                }
                Round::Suspect(failure) | Round::Failed(failure) => {
                    self.give_up(parts, &mut left, &mut endings, &failure);
                    continue;
                }
                Round::Lost => {
                    self.settle_lost(parts, &mut left, &mut endings);
                    continue;
                }
            };
            retries += 1;
            if retries > OVERTAKEN_RETRIES {
                self.give_up(parts, &mut left, &mut endings, &again);
            }
        }
        endings.into_iter().map(|ending| ending.expect("the loop ends when every part has one")).collect()
    }

    /// The same for each by itself. Those that may wait for a lock are not tried once too many have waited.
    fn judge_and_change_each(
        &mut self,
        parts: &[Part<'_>],
        left: &mut Vec<usize>,
        endings: &mut [Option<Ending>],
        may_wait: &[bool],
    ) {
        let mut surprised = false;
        let mut fault = Fault::default();
        for (at, may_wait) in std::mem::take(left).into_iter().zip(may_wait) {
            let refused = self.refusals.times();
            if fault.is_the_servers() {
                let failure = Failure::Refused(self.refusals.last().into());
                self.give_up(parts, &mut vec![at], endings, &failure);
                continue;
            }
            if self.down {
                let failure = self.shared.down();
                self.give_up(parts, &mut vec![at], endings, &failure);
            } else if parts[at].deadline_ms <= self.shared.clock.now_ms() {
                // While PostgreSQL started anew: its clients were told that nobody knows, and have gone on.
                self.give_up(parts, &mut vec![at], endings, &Failure::NotStarted);
            } else if (*may_wait || surprised) && !self.lock_waits.are_few() {
                endings[at] = Some(Ending::Locked { why: Failure::NotStarted, is_known: false });
            } else {
                let waits = self.lock_waits;
                endings[at] = Some(self.judge_and_change_one(&parts[at]));
                // What was not to wait has: the whole table is locked by now.
                surprised |= !may_wait && self.lock_waits != waits;
            }
            fault.note(self.refusals.times() != refused);
        }
    }

    pub(super) fn judge_and_change_one(&mut self, part: &Part<'_>) -> Ending {
        let endings = self.judge_and_change(std::slice::from_ref(part), false);
        endings.into_iter().next().expect("every part has an ending")
    }

    /// Looks at the rows, judges, and changes them.
    fn round(&mut self, parts: &[&Part<'_>], all_or_nothing: bool, now_ms: u64) -> Round {
        if self.session.is_none() && !self.connect() {
            return Round::Failed(self.shared.down());
        }
        let session = self.session.as_mut().expect("connected above");
        let keys: Vec<&str> = parts.iter().map(|part| part.key).collect();
        let looked = session.asked(|session| session.look(&keys, now_ms));
        self.lock_waits.count(&looked);
        let rows = match looked {
            Ok(rows) => rows,
            // Nothing was sent that changes anything.
            Err(Error::NotSent(_) | Error::Lost(_)) => {
                self.session = None;
                return Round::Again(self.shared.down());
            }
            Err(Error::Refused { message, blame }) => {
                return self.refused(message, blame, vec![true; parts.len()]);
            }
        };
        let judge = |(part, row): (&&Part<'_>, &Option<Before>)| {
            Judged::new(row.as_ref(), part.steps.iter().copied(), seconds(now_ms))
        };
        let judged: Vec<Judged> = parts.iter().zip(&rows).map(judge).collect();
        if all_or_nothing && judged.iter().any(Judged::has_failed) {
            return Round::Impossible(judged);
        }
        let mut changes = Vec::new();
        for ((part, row), judged) in parts.iter().zip(&rows).zip(&judged) {
            let from = row.as_ref().map(|before| before.record.version);
            let expired = row.as_ref().is_some_and(|before| before.expired);
            match &judged.to {
                Some(To::Nothing) if from.is_none() => {}
                // What the others are done for must be true when they are: a row that was only looked at is held until then. That
                // there was none cannot be.
                None if !all_or_nothing || from.is_none() => {}
                to => changes.push(Change { key: part.key, from, expired, to: to.clone() }),
            }
        }
        if changes.iter().all(|change| change.to.is_none()) {
            let versions = rows.iter().map(|row| Some(row.as_ref().map_or(0, |row| row.record.version)));
            return Round::Changed(judged, versions.collect());
        }
        let jobs = parts.iter().map(|part| part.steps.len()).sum();
        let changed = session.timed(jobs, |session| session.change(&changes, all_or_nothing));
        self.last_used = Instant::now();
        self.lock_waits.count(&changed);
        match changed {
            Ok(changed) if all_or_nothing && changed.contains(&None) => Round::Again(overtaken()),
            Ok(changed) => {
                self.refusals.done("writes");
                let mut done = changes.iter().zip(changed);
                let mut next = done.next();
                let version = |(part, row): (&&Part<'_>, &Option<Before>)| match &next {
                    Some((change, version)) if change.key == part.key => {
                        let version = *version;
                        next = done.next();
                        version
                    }
                    // Nothing was to be done: the row is what it was when it was looked at.
                    _ => Some(row.as_ref().map_or(0, |row| row.record.version)),
                };
                Round::Changed(judged, parts.iter().zip(&rows).map(version).collect())
            }
            Err(Error::NotSent(_)) => {
                self.lose_session();
                Round::Again(self.shared.down())
            }
            Err(Error::Lost(message)) => {
                log::warn!("a commit of {} keys was lost: {message}", changes.len());
                Round::Lost
            }
            Err(Error::Refused { message, blame }) => {
                let is_changed =
                    |part: &&Part<'_>| changes.binary_search_by_key(&part.key, |change| change.key).is_ok();
                let changed = parts.iter().map(is_changed).collect();
                self.refused(message, blame, changed)
            }
        }
    }

    /// What a refusal means for a round.
    fn refused(&mut self, message: String, blame: Blame, changed: Vec<bool>) -> Round {
        if blame == Blame::ReadOnly {
            self.session = None;
        }
        match blame {
            Blame::Row | Blame::Held => log::debug!("PostgreSQL refused a row: {message}"),
            Blame::Conflict => {}
            Blame::Server | Blame::ReadOnly => self.refusals.refused("writes", &message),
        }
        let failure = Failure::Refused(message.into());
        match blame {
            Blame::Conflict => Round::Again(failure),
            Blame::Row | Blame::Server => Round::Suspect(failure),
            Blame::Held => Round::Locked(failure, changed),
            Blame::ReadOnly => Round::Failed(failure),
        }
    }

    /// Ends the parts that were done in a round, and leaves those that another program has overtaken.
    fn keep_done(
        &mut self,
        parts: &[Part<'_>],
        left: &mut Vec<usize>,
        endings: &mut [Option<Ending>],
        judged: Vec<Judged>,
        versions: Vec<Option<u32>>,
        now_s: u32,
    ) {
        let mut overtaken = Vec::new();
        for ((at, judged), version) in left.drain(..).zip(judged).zip(versions) {
            let Some(version) = version else {
                overtaken.push(at);
                continue;
            };
            self.applied_part(&parts[at], &judged, Some(version), now_s);
            endings[at] = Some(Ending::Done(judged, version));
        }
        *left = overtaken;
    }

    /// Tells the engine what became of a part: the row that its change has left, or that nothing was changed.
    fn applied_part(&mut self, part: &Part<'_>, judged: &Judged, version: Option<u32>, now_s: u32) {
        let row: Option<Row> = match (&judged.to, version) {
            (None, _) | (_, None) => None,
            (Some(To::Nothing), _) => Some(None),
            (Some(To::Value(value, _)), Some(version)) => {
                Some(Some(Record { value: value.clone(), version, expires_s: judged.expires_s }))
            }
        };
        let mut shard = self.shared.engine.shard(part.hash);
        let watching = match row {
            Some(row) => shard.committed(part.hash, part.key, (part.writes, false), &row, now_s),
            None => {
                shard.unchanged(part.hash, part.key, part.writes, judged.found);
                Vec::new()
            }
        };
        drop(shard);
        self.tell(watching);
    }

    fn give_up(
        &mut self,
        parts: &[Part<'_>],
        left: &mut Vec<usize>,
        endings: &mut [Option<Ending>],
        failure: &Failure,
    ) {
        for at in left.drain(..) {
            let part = &parts[at];
            let watching = self.ended(part.hash, part.key, part.writes, failure);
            self.tell(watching);
            endings[at] = Some(Ending::Failed(failure.clone()));
        }
    }

    /// A change was lost: nobody may be told anything before its backend is gone, however long it takes. Then it can
    /// no longer happen, and whether it has, nobody knows.
    fn settle_lost(&mut self, parts: &[Part<'_>], left: &mut Vec<usize>, endings: &mut [Option<Ending>]) {
        self.lose_session();
        for at in left.iter() {
            self.shared.engine.shard(parts[*at].hash).doubt(parts[*at].hash, parts[*at].key);
        }
        self.connect_at_last();
        self.give_up(parts, left, endings, &Failure::Unknown);
    }
}

fn overtaken() -> Failure {
    Failure::Refused("another program writes this row all the time, or a trigger or policy of the table keeps the change out".into())
}
