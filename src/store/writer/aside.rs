//! Writes that somebody else's lock holds up, as that of a transaction in psql does. A writer has its other keys to think of: it
//! waits a moment ([`crate::limits::LOCK_WAIT_MS`]), asks which rows are locked, puts their writes aside, and asks for these rows
//! again after every batch, until they are free or nobody waits for them any more. Of some nobody can say whether they are: a row
//! that is only in somebody's open transaction yet, those of a load. Such ones are tried blindly, a few in a row at most, and
//! then not for a while.
//!
//! What is aside is as good as in the queue: its clients may withdraw it, and what comes for such a key goes behind it.

use super::super::load::LoadJob;
use super::super::{Answer, Blame, Claim, Connector, Error, Failure, ManyJob, Session, Step, WriteJob};
use super::{Attempt, Batch, Writer};
use crate::limits::{LOCK_WAITS, WRITE_BATCH, WRITE_BATCH_BYTES};
use std::collections::VecDeque;

/// What is tried again as one.
#[derive(Debug)]
pub(super) enum Held {
    /// The writes of one key.
    Key(Batch),
    /// A batch of many keys of which nothing is done.
    Many(ManyJob),
    /// A piece of a bulk load of which nothing is done.
    Load(LoadJob),
}

/// What becomes of a write, by what is aside of its key.
pub(super) enum Behind {
    /// Nothing is.
    None(WriteJob),
    /// It is behind the others.
    Taken,
    /// It would have to be, and there is no room.
    NoRoom(WriteJob, Failure),
}

/// Something that is aside.
#[derive(Debug)]
struct Waiting {
    held: Held,
    /// What whoever has waited in vain is told.
    why: Failure,
    /// The keys whose rows were found locked. None: nobody can say which.
    locked: Vec<Box<str>>,
}

impl Waiting {
    /// Is it known to be held up still, where of each of those keys is told whether its row is locked?
    fn is_held_up(&self, locked: &[bool]) -> bool {
        match &self.held {
            _ if locked.is_empty() => false,
            // Of what is no longer locked it can do its part.
            Held::Many(many) if !many.all_or_nothing => locked.iter().all(|locked| *locked),
            Held::Key(_) | Held::Many(_) | Held::Load(_) => locked.contains(&true),
        }
    }
}

/// What is aside.
#[derive(Debug, Default)]
pub(super) struct Aside {
    waiting: VecDeque<Waiting>,
    jobs: usize,
    bytes: usize,
    /// What can only be tried blindly is not tried before.
    blind_after_ms: u64,
}

impl Aside {
    /// True when nothing is.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes a write whose key's writes are aside.
    pub(super) fn take_behind(&mut self, job: WriteJob) -> Behind {
        let is_of = |held: &Held| matches!(held, Held::Key(batch) if batch.is_of(&job.step));
        let at = self.waiting.iter().position(|waiting| is_of(&waiting.held));
        let Some(waiting) = at.map(|at| &mut self.waiting[at]) else { return Behind::None(job) };
        let Held::Key(batch) = &mut waiting.held else { unreachable!("it was found as one") };
        let (jobs, bytes) = (self.jobs + 1, self.bytes + job.step.bytes());
        if jobs > WRITE_BATCH || bytes > WRITE_BATCH_BYTES {
            return Behind::NoRoom(job, waiting.why.clone());
        }
        (self.jobs, self.bytes) = (jobs, bytes);
        job.claim.give_back();
        batch.push(job);
        Behind::Taken
    }

    fn has_room(&self, jobs: usize, bytes: usize) -> bool {
        self.jobs + jobs <= WRITE_BATCH && self.bytes + bytes <= WRITE_BATCH_BYTES
    }

    fn push(&mut self, waiting: Waiting) {
        let (jobs, bytes) = waiting.held.size();
        (self.jobs, self.bytes) = (self.jobs + jobs, self.bytes + bytes);
        waiting.held.give_back();
        self.waiting.push_back(waiting);
    }

    fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.waiting.pop_front()?;
        let (jobs, bytes) = waiting.held.size();
        (self.jobs, self.bytes) = (self.jobs - jobs, self.bytes - bytes);
        Some(waiting)
    }
}

/// Statements of one turn that have waited for a lock in vain: others have to wait for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LockWaits(usize);

impl LockWaits {
    /// A statement has ended.
    pub(super) fn count<T>(&mut self, result: &Result<T, Error>) {
        self.0 += usize::from(matches!(result, Err(Error::Refused { blame: Blame::Held, .. })));
    }

    /// May another one wait, before others have had their turn?
    pub(super) fn are_few(&self) -> bool {
        self.0 < LOCK_WAITS
    }

    /// One may, whatever has waited before.
    fn spare_one(&mut self) {
        self.0 = self.0.min(LOCK_WAITS - 1);
    }
}

impl Held {
    /// Jobs, and what they take. A piece of a load has its own bound ([`crate::limits::LOADS`]).
    fn size(&self) -> (usize, usize) {
        match self {
            Held::Key(batch) => (batch.jobs(), batch.bytes()),
            Held::Many(many) => (1, many.steps.iter().map(Step::bytes).sum()),
            Held::Load(_) => (1, 0),
        }
    }

    fn give_back(&self) {
        match self {
            Held::Key(batch) => batch.claims().for_each(Claim::give_back),
            Held::Many(many) => many.claim.give_back(),
            Held::Load(load) => load.claim.give_back(),
        }
    }

    /// When the last of those who wait for it has waited for long enough.
    fn deadline_ms(&self) -> u64 {
        match self {
            Held::Key(batch) => batch.keys().map(|key| key.last_deadline_ms()).max().unwrap_or(0),
            Held::Many(many) => many.deadline_ms,
            Held::Load(load) => load.deadline_ms,
        }
    }
}

impl<C: Connector> Writer<C> {
    /// True when whatever this writer is busy with keeps nobody waiting.
    pub(super) fn nobody_waits(&self) -> bool {
        self.queue.is_empty() && self.aside.is_empty()
    }

    /// Would another try end before whoever waits for it is told that nobody knows what became of it?
    pub(super) fn has_time(&self, deadline_ms: u64) -> bool {
        self.shared.clock.now_ms() + 2 * self.lock_wait_ms < deadline_ms
    }

    /// Puts aside what was held up, by nothing but a lock: of rows that were found `locked`, or of nobody knows which. It ends where
    /// there would be no time for another try, or there is too much aside already; the first one there has room however large
    /// it is.
    pub(super) fn put_aside(&mut self, held: Held, why: Failure, locked: Vec<Box<str>>) {
        let (jobs, bytes) = held.size();
        if self.has_time(held.deadline_ms()) && (self.aside.is_empty() || self.aside.has_room(jobs, bytes)) {
            self.aside.push(Waiting { held, why, locked });
        } else {
            self.end(held, &why);
        }
    }

    /// Does what is held up no longer. What was tried in vain goes to the end.
    pub(super) fn try_aside(&mut self) {
        self.forget_withdrawn();
        if self.aside.is_empty() {
            return;
        }
        self.lock_waits.spare_one();
        // Asked for at once, and for no others: whoever asks for a row that is free has it written for it.
        let aside = std::mem::take(&mut self.aside);
        let keys: Vec<&str> =
            aside.waiting.iter().flat_map(|waiting| &waiting.locked).map(|key| &**key).collect();
        let locked = self.locked(&keys);
        self.aside = aside;
        let Some(locked) = locked else { return };
        let mut locked = &locked[..];
        // Decided once: those behind the first that is tried in vain are tried with it, or they would stay behind it for ever.
        let may_be_blind = self.shared.clock.now_ms() >= self.aside.blind_after_ms;
        for _ in 0..self.aside.waiting.len() {
            if !self.lock_waits.are_few() || self.down {
                return;
            }
            let Some(waiting) = self.aside.pop() else { return };
            let Some((its, others)) = locked.split_at_checked(waiting.locked.len()) else {
                // It has come while those before it were tried: it was not asked for.
                return self.aside.push(waiting);
            };
            locked = others;
            let is_blind = its.is_empty();
            if waiting.is_held_up(its) || is_blind && !may_be_blind {
                self.aside.push(waiting);
                continue;
            }
            let waits = self.lock_waits;
            match self.take(waiting.held, &waiting.why) {
                Some(Held::Key(batch)) if batch.keys().all(|key| key.is_plain()) => self.execute(batch),
                Some(Held::Key(batch)) => self.execute_judged(batch),
                Some(Held::Many(many)) => self.execute_many(many),
                Some(Held::Load(load)) => self.execute_load(load),
                None => {}
            }
            if is_blind && self.lock_waits != waits {
                // As seldom as a database is asked that is gone.
                self.aside.blind_after_ms = self.shared.clock.now_ms() + self.shared.reconnect_ms.1;
            }
        }
    }

    /// Which rows of these keys are locked. `None`: there is no session to ask.
    pub(super) fn locked(&mut self, keys: &[&str]) -> Option<Vec<bool>> {
        if keys.is_empty() {
            return Some(Vec::new());
        }
        let asked = self.session.as_mut()?.asked(|session| session.locked(keys));
        self.lock_waits.count(&asked);
        match asked {
            Ok(locked) => Some(locked),
            // The whole table is.
            Err(Error::Refused { blame: Blame::Held, .. }) => Some(vec![true; keys.len()]),
            // Whoever tries will hear why.
            Err(Error::Refused { .. }) => Some(vec![false; keys.len()]),
            Err(Error::NotSent(_) | Error::Lost(_)) => {
                self.lose_session();
                None
            }
        }
    }

    /// Ends what nobody waits for any more, so that it takes no room.
    fn forget_withdrawn(&mut self) {
        for _ in 0..self.aside.waiting.len() {
            let Some(Waiting { held, why, locked }) = self.aside.pop() else { return };
            if let Some(held) = self.take(held, &why) {
                self.aside.push(Waiting { held, why, locked });
            }
        }
    }

    /// Ends everything that is aside.
    pub(super) fn fail_aside(&mut self, failure: &Failure) {
        while let Some(Waiting { held, .. }) = self.aside.pop() {
            if let Some(held) = self.take(held, failure) {
                self.end(held, failure);
            }
        }
    }

    /// Takes what is still waited for out of something that was aside, as out of the queue; the rest ends.
    fn take(&mut self, held: Held, why: &Failure) -> Option<Held> {
        match held {
            Held::Key(batch) => {
                let (claimed, withdrawn) = batch.part(|job| job.claim.take());
                self.withdrawn(&withdrawn);
                let (in_time, over) = claimed.part(|job| self.has_time(job.deadline_ms));
                self.fail(&over, Attempt::First, why);
                (!in_time.is_empty()).then_some(Held::Key(in_time))
            }
            Held::Many(many) if !many.claim.take() => {
                self.withdrawn_many(&many);
                None
            }
            Held::Load(load) if !load.claim.take() => None,
            held if !self.has_time(held.deadline_ms()) => {
                self.end(held, why);
                None
            }
            held => Some(held),
        }
    }

    fn end(&mut self, held: Held, failure: &Failure) {
        match held {
            Held::Key(batch) => self.fail(&batch, Attempt::First, failure),
            Held::Many(many) => self.fail_many(&many, Attempt::First, failure),
            Held::Load(load) => self.answer_load(&load, Answer::Failed(failure.clone())),
        }
    }
}
