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

use super::super::batch::KeyWrites;
use super::super::judge::{Before, Change, Judged, To};
use super::super::worker::Fault;
use super::super::{Answer, Blame, Connector, Error, Failure, NO_VERSION, Reply, Session, Step};
use super::aside::Held;
use super::{Batch, Writer};
use crate::clock::seconds;
use crate::engine::shard::Writes;
use crate::engine::{Record, Row};
use crate::limits::{BATCH_PARTS, OVERTAKEN_RETRIES};
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

/// Takes the ending of the part with this number, as soon as it is known. Before anything else is waited for, the replies are
/// delivered.
pub(super) type End<'e> = dyn FnMut(&mut Vec<Reply>, usize, Ending) + 'e;

/// The database's answer to one round.
enum Round {
    /// For every part, the version that its change has left; `None`: overtaken, or nothing done.
    Changed(Vec<Judged>, Vec<Option<u32>>),
    /// An all-or-nothing batch in which some step could not do what it is for.
    Impossible(Vec<Judged>),
    /// Nothing happened; the same again may work. If it never does, this is why.
    Again(Failure),
    /// PostgreSQL has broken it off, and the same again may work. If it never does, one row may be at fault.
    BrokenOff(Failure),
    Failed(Failure),
    /// One row may be at fault, or the server for all of them.
    Suspect(Failure),
    /// Somebody else has a row locked, of those parts that were to be changed.
    Locked(Failure, Vec<bool>),
    Lost,
}

impl<C: Connector> Writer<C> {
    /// Brings writes that depend on their rows to their endings, or puts them aside.
    pub(super) fn execute_judged(&mut self, mut batch: Batch) {
        self.conflict_retries = OVERTAKEN_RETRIES;
        self.drop_if_broken();
        if self.session.is_none() {
            batch = self.connect_for(batch);
        }
        let parts: Vec<Part<'_>> = batch
            .keys()
            .map(|key| {
                let (writes, deadline_ms) = (Writes::Own(key.count()), key.last_deadline_ms());
                Part { key: key.key(), hash: key.hash(), writes, steps: key.steps().collect(), deadline_ms }
            })
            .collect();
        let keys: Vec<KeyWrites<'_>> = batch.keys().collect();
        let mut held = vec![None; parts.len()];
        self.judge_and_change(&parts, false, &mut |replies, at, ending| match ending {
            Ending::Done(judged, version) => keys[at].answer_each(judged.answers(version), replies),
            Ending::Failed(failure) => keys[at].answer_all(&Answer::Failed(failure), replies),
            Ending::Locked { why, is_known } => held[at] = Some((why, is_known)),
        });
        self.shared.deliver.deliver(&mut self.replies);
        for (single, held) in batch.split().into_iter().zip(held) {
            let Some((why, is_known)) = held else { continue };
            let locked = single.keys().filter(|_| is_known).map(|key| key.key().into()).collect();
            self.put_aside(Held::Key(single), why, locked);
        }
        self.shared.deliver.deliver(&mut self.replies);
    }

    /// Judges and changes until every part has its ending, and tells the engine. Where one row is at fault the others must not
    /// suffer for it: halves are tried, then halves of the half that has it, and when that has gone on for long enough each by itself.
    pub(super) fn judge_and_change(&mut self, parts: &[Part<'_>], all_or_nothing: bool, end: &mut End<'_>) {
        let mut groups: Vec<Vec<usize>> = vec![(0..parts.len()).collect()];
        let halvings = if all_or_nothing { 0 } else { BATCH_PARTS };
        let (mut halved, mut fault) = (0, Fault::default());
        while let Some(mut left) = groups.pop() {
            if halved > 0 && !self.lock_waits.are_few() {
                // The others have waited for locks long enough: none of these is tried now.
                let may_wait = vec![true; left.len()];
                self.judge_and_change_each(parts, &mut left, &may_wait, end);
                continue;
            }
            let (refused, is_single) = (self.refusals.times(), left.len() == 1);
            match self.judge_together(parts, &mut left, all_or_nothing, end) {
                Some(_) if left.len() > 1 && halved < halvings => {
                    halved += 1;
                    let second = left.split_off(left.len() / 2);
                    groups.extend([second, left]);
                    continue;
                }
                Some(_) if !all_or_nothing && left.len() > 1 => {
                    let may_wait = vec![true; left.len()];
                    self.judge_and_change_each(parts, &mut left, &may_wait, end);
                }
                Some(failure) => self.give_up(parts, &mut left, &failure, end),
                None => {}
            }
            let was_refused = self.refusals.times() != refused;
            if is_single || !was_refused {
                fault.note(was_refused);
            }
            let failure = match () {
                () if self.down => self.shared.down(),
                () if fault.is_the_servers() => Failure::Refused(self.refusals.last().into()),
                () => continue,
            };
            for mut left in groups.drain(..) {
                self.give_up(parts, &mut left, &failure, end);
            }
        }
    }

    /// The same with those that are `left`, all together. Those that are still left after it were refused, for this reason: one may be
    /// at fault, or the server.
    fn judge_together(
        &mut self,
        parts: &[Part<'_>],
        left: &mut Vec<usize>,
        all_or_nothing: bool,
        end: &mut End<'_>,
    ) -> Option<Failure> {
        let mut retries = 0;
        while !left.is_empty() {
            // What is done was told to the engine, and whoever waits for it or watches it is not to wait for another round, or for an
            // outage in it.
            self.shared.deliver.deliver(&mut self.replies);
            if self.session.is_none() && !self.connect() {
                let failure = self.shared.down();
                self.give_up(parts, left, &failure, end);
                break;
            }
            self.give_up_late(parts, left, end);
            let these: Vec<&Part<'_>> = left.iter().map(|at| &parts[*at]).collect();
            if these.is_empty() {
                break;
            }
            let now_ms = self.shared.clock.now_ms();
            let again = match self.round(&these, all_or_nothing, now_ms) {
                Round::Changed(judged, versions) => {
                    self.keep_done(parts, left, (judged, versions), seconds(now_ms), end);
                    overtaken()
                }
                Round::Impossible(judged) => {
                    for (at, mut judged) in left.drain(..).zip(judged) {
                        judged.undo();
                        self.applied_part(&parts[at], &judged, None, seconds(now_ms));
                        end(&mut self.replies, at, Ending::Done(judged, NO_VERSION));
                    }
                    break;
                }
                Round::BrokenOff(failure) if retries >= self.conflict_retries => {
                    // What else is broken off may well have such a row. It is parted soon, which is another try, too.
                    self.conflict_retries = 1;
                    return Some(failure);
                }
                Round::Again(failure) | Round::BrokenOff(failure) => failure,
                Round::Suspect(failure) => return Some(failure),
                Round::Locked(why, changed) => {
                    self.go_around_locked(parts, left, all_or_nothing, (why, changed), end);
                    continue;
                }
                Round::Failed(failure) => {
                    self.give_up(parts, left, &failure, end);
                    break;
                }
                Round::Lost => {
                    self.settle_lost(parts, left, end);
                    break;
                }
            };
            retries += 1;
            if retries > OVERTAKEN_RETRIES {
                self.give_up(parts, left, &again, end);
            }
        }
        None
    }

    /// Somebody else has rows locked, of those that were to be `changed`: only they wait for a lock. Where it can be known which, the
    /// others are still left after it.
    fn go_around_locked(
        &mut self,
        parts: &[Part<'_>],
        left: &mut Vec<usize>,
        all_or_nothing: bool,
        (why, changed): (Failure, Vec<bool>),
        end: &mut End<'_>,
    ) {
        let mut asked = left.iter().zip(&changed).filter(|(_, is)| **is).map(|(at, _)| *at);
        let keys: Vec<&str> = asked.clone().map(|at| parts[at].key).collect();
        let found = self.locked(&keys).unwrap_or_default();
        let mut is_locked = vec![false; parts.len()];
        for locked in &found {
            is_locked[asked.next().expect("one for each that was asked for")] = *locked;
        }
        let (locked, others): (Vec<_>, Vec<_>) =
            std::mem::take(left).into_iter().zip(changed).partition(|(at, _)| is_locked[*at]);
        for (at, _) in &locked {
            end(&mut self.replies, *at, Ending::Locked { why: why.clone(), is_known: true });
        }
        let (rest, may_wait): (Vec<usize>, Vec<bool>) = others.into_iter().unzip();
        *left = rest;
        if all_or_nothing || left.len() == 1 && locked.is_empty() {
            for at in left.drain(..) {
                end(&mut self.replies, at, Ending::Locked { why: why.clone(), is_known: false });
            }
        } else if locked.is_empty() || !self.lock_waits.are_few() {
            // Nobody can say which it is, or they change all the time.
            self.judge_and_change_each(parts, left, &may_wait, end);
        }
    }

    /// The same for each by itself. Those that may wait for a lock are not tried once too many have waited.
    fn judge_and_change_each(
        &mut self,
        parts: &[Part<'_>],
        left: &mut Vec<usize>,
        may_wait: &[bool],
        end: &mut End<'_>,
    ) {
        let mut surprised = false;
        let mut fault = Fault::default();
        for (at, may_wait) in std::mem::take(left).into_iter().zip(may_wait) {
            let refused = self.refusals.times();
            if fault.is_the_servers() {
                let failure = Failure::Refused(self.refusals.last().into());
                self.give_up(parts, &mut vec![at], &failure, end);
                continue;
            }
            if self.down {
                let failure = self.shared.down();
                self.give_up(parts, &mut vec![at], &failure, end);
            } else if (*may_wait || surprised) && !self.lock_waits.are_few() {
                let why = Failure::NotStarted;
                end(&mut self.replies, at, Ending::Locked { why, is_known: false });
            } else {
                let waits = self.lock_waits;
                let ending = self.judge_and_change_one(&parts[at]);
                end(&mut self.replies, at, ending);
                // What was not to wait has: the whole table is locked by now.
                surprised |= !may_wait && self.lock_waits != waits;
            }
            fault.note(self.refusals.times() != refused);
        }
    }

    pub(super) fn judge_and_change_one(&mut self, part: &Part<'_>) -> Ending {
        let mut ending = None;
        self.judge_and_change(std::slice::from_ref(part), false, &mut |_, _, its| ending = Some(its));
        ending.expect("every part has its ending")
    }

    /// Looks at the rows, judges, and changes them.
    fn round(&mut self, parts: &[&Part<'_>], all_or_nothing: bool, now_ms: u64) -> Round {
        let rows = match self.look(parts, now_ms) {
            Ok(rows) => rows,
            Err(round) => return round,
        };
        let judge = |(part, row): (&&Part<'_>, &Option<Before>)| {
            Judged::new(row.as_ref(), part.steps.iter().copied(), seconds(now_ms))
        };
        let judged: Vec<Judged> = parts.iter().zip(&rows).map(judge).collect();
        if all_or_nothing && judged.iter().any(Judged::has_failed) {
            return Round::Impossible(judged);
        }
        let changes = changes(parts, &rows, &judged, all_or_nothing);
        // What is not to be changed is what it was when it was looked at.
        let mut versions: Vec<Option<u32>> =
            rows.iter().map(|row| Some(row.as_ref().map_or(0, |row| row.record.version))).collect();
        if changes.iter().any(|change| change.to.is_some()) {
            match self.change(parts, &changes, all_or_nothing) {
                Ok(changed) if all_or_nothing && changed.contains(&None) => {
                    return Round::Again(overtaken());
                }
                Ok(changed) => {
                    for (change, version) in changes.iter().zip(changed) {
                        let at = parts.binary_search_by_key(&change.key, |part| part.key);
                        versions[at.expect("it is one of them")] = version;
                    }
                }
                Err(round) => return round,
            }
        }
        Round::Changed(judged, versions)
    }

    /// The rows. `Err`: what comes of the round without them.
    fn look(&mut self, parts: &[&Part<'_>], now_ms: u64) -> Result<Vec<Option<Before>>, Round> {
        let session = self.session.as_mut().expect("connected before");
        let keys: Vec<&str> = parts.iter().map(|part| part.key).collect();
        let looked = session.asked(|session| session.look(&keys, now_ms));
        self.lock_waits.count(&looked);
        looked.map_err(|error| match error {
            // Nothing was sent that changes anything.
            Error::NotSent(_) | Error::Lost(_) => {
                self.session = None;
                Round::Again(self.shared.down())
            }
            Error::Refused { message, blame } => self.refused(message, blame, vec![true; parts.len()]),
        })
    }

    /// The versions that the changes have left. `Err`: what comes of the round without them.
    fn change(
        &mut self,
        parts: &[&Part<'_>],
        changes: &[Change<'_>],
        all_or_nothing: bool,
    ) -> Result<Vec<Option<u32>>, Round> {
        let session = self.session.as_mut().expect("it was used just now");
        let jobs = parts.iter().map(|part| part.steps.len()).sum();
        let changed = session.timed(jobs, |session| session.change(changes, all_or_nothing));
        self.last_used = Instant::now();
        self.lock_waits.count(&changed);
        match changed {
            Ok(changed) => {
                if !(all_or_nothing && changed.contains(&None)) {
                    self.refusals.done("writes");
                }
                Ok(changed)
            }
            Err(Error::NotSent(_)) => {
                self.lose_session();
                Err(Round::Again(self.shared.down()))
            }
            Err(Error::Lost(message)) => {
                log::warn!("a commit of {} keys was lost: {message}", changes.len());
                Err(Round::Lost)
            }
            Err(Error::Refused { message, blame }) => {
                let is_changed =
                    |part: &&Part<'_>| changes.binary_search_by_key(&part.key, |change| change.key).is_ok();
                let changed = parts.iter().map(is_changed).collect();
                Err(self.refused(message, blame, changed))
            }
        }
    }

    /// What a refusal means for a round.
    fn refused(&mut self, message: String, blame: Blame, changed: Vec<bool>) -> Round {
        if blame == Blame::ReadOnly {
            self.leave_read_only();
        }
        match blame {
            Blame::Row | Blame::Held => log::debug!("PostgreSQL refused a row: {message}"),
            Blame::Conflict => {}
            Blame::Server | Blame::ReadOnly => self.refusals.refused("writes", &message),
        }
        let failure = Failure::Refused(message.into());
        match blame {
            Blame::Conflict => Round::BrokenOff(failure),
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
        (judged, versions): (Vec<Judged>, Vec<Option<u32>>),
        now_s: u32,
        end: &mut End<'_>,
    ) {
        for ((at, judged), version) in std::mem::take(left).into_iter().zip(judged).zip(versions) {
            let Some(version) = version else {
                left.push(at);
                continue;
            };
            self.applied_part(&parts[at], &judged, Some(version), now_s);
            end(&mut self.replies, at, Ending::Done(judged, version));
        }
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
            None => shard.unchanged(part.hash, part.key, part.writes, judged.found),
        };
        drop(shard);
        self.tell(watching);
    }

    fn give_up(&mut self, parts: &[Part<'_>], left: &mut Vec<usize>, failure: &Failure, end: &mut End<'_>) {
        for at in left.drain(..) {
            let part = &parts[at];
            let watching = self.ended(part.hash, part.key, part.writes, failure);
            self.tell(watching);
            end(&mut self.replies, at, Ending::Failed(failure.clone()));
        }
    }

    /// To connect, or another round, may have taken a while. Whoever asked for these was told that nobody knows what becomes of them,
    /// and may have asked again.
    fn give_up_late(&mut self, parts: &[Part<'_>], left: &mut Vec<usize>, end: &mut End<'_>) {
        let now_ms = self.shared.clock.now_ms();
        let is_late = |at: &usize| parts[*at].deadline_ms <= now_ms;
        let (mut late, in_time) = std::mem::take(left).into_iter().partition(is_late);
        *left = in_time;
        self.give_up(parts, &mut late, &Failure::NotStarted, end);
    }

    /// A change was lost: nobody may be told anything before its backend is gone, however long it takes. Then it can
    /// no longer happen, and whether it has, nobody knows.
    fn settle_lost(&mut self, parts: &[Part<'_>], left: &mut Vec<usize>, end: &mut End<'_>) {
        self.lose_session();
        for at in left.iter() {
            self.shared.engine.shard(parts[*at].hash).doubt(parts[*at].hash, parts[*at].key);
        }
        self.connect_at_last();
        self.give_up(parts, left, &Failure::Unknown, end);
    }
}

/// What the judgements ask of the table.
fn changes<'a>(
    parts: &[&Part<'a>],
    rows: &[Option<Before>],
    judged: &[Judged],
    all_or_nothing: bool,
) -> Vec<Change<'a>> {
    let mut changes = Vec::new();
    for ((part, row), judged) in parts.iter().zip(rows).zip(judged) {
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
    changes
}

fn overtaken() -> Failure {
    Failure::Refused("another program writes this row all the time, or a trigger or policy of the table keeps the change out".into())
}
