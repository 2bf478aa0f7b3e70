//! Writes that somebody else's lock holds up, as that of a transaction in psql does. A writer has its other keys to think of: it
//! waits a moment ([`crate::limits::LOCK_WAIT_MS`]), asks which rows are locked, puts their writes aside, and looks again after
//! every batch, until they are free or nobody waits for them any more. A row that is not there yet, but in somebody's open
//! transaction, cannot be asked for: such ones are tried one by one, a few in a row at most.
//!
//! What is aside is as good as in the queue: its clients may withdraw it, and what comes for such a key goes behind it.

use super::super::load::LoadJob;
use super::super::{Answer, Blame, Claim, Connector, Error, Failure, ManyJob, Session, Step, WriteJob};
use super::{Attempt, Batch, Writer};
use crate::limits::{LOCK_WAIT_MS, LOCK_WAITS, WRITE_BATCH, WRITE_BATCH_BYTES};
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

/// What is aside, and why each could not be done.
#[derive(Debug, Default)]
pub(super) struct Aside {
    held: VecDeque<(Held, Failure)>,
    jobs: usize,
    bytes: usize,
}

impl Aside {
    /// True when nothing is.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Takes a write whose key's writes are aside.
    pub(super) fn take_behind(&mut self, job: WriteJob) -> Behind {
        let is_of = |held: &Held| matches!(held, Held::Key(batch) if batch.is_of(&job.step));
        let Some(at) = self.held.iter().position(|(held, _)| is_of(held)) else { return Behind::None(job) };
        if !self.has_room(1, job.step.bytes()) {
            return Behind::NoRoom(job, self.held[at].1.clone());
        }
        (self.jobs, self.bytes) = (self.jobs + 1, self.bytes + job.step.bytes());
        job.claim.give_back();
        let (Held::Key(batch), _) = &mut self.held[at] else { unreachable!("it was found as one") };
        batch.push(job);
        Behind::Taken
    }

    fn has_room(&self, jobs: usize, bytes: usize) -> bool {
        self.jobs + jobs <= WRITE_BATCH && self.bytes + bytes <= WRITE_BATCH_BYTES
    }

    fn push(&mut self, held: Held, why: Failure) {
        let (jobs, bytes) = held.size();
        (self.jobs, self.bytes) = (self.jobs + jobs, self.bytes + bytes);
        held.give_back();
        self.held.push_back((held, why));
    }

    fn pop(&mut self) -> Option<(Held, Failure)> {
        let (held, why) = self.held.pop_front()?;
        let (jobs, bytes) = held.size();
        (self.jobs, self.bytes) = (self.jobs - jobs, self.bytes - bytes);
        Some((held, why))
    }
}

/// Statements of one turn that have waited for a lock in vain: others have to wait for them.
#[derive(Debug, Default)]
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

    fn keys(&self) -> Vec<&str> {
        match self {
            Held::Key(batch) => batch.keys().map(|key| key.key()).collect(),
            Held::Many(many) => {
                let mut keys: Vec<&str> = many.steps.iter().map(|step| &*step.key).collect();
                keys.sort_unstable();
                keys.dedup();
                keys
            }
            Held::Load(_) => Vec::new(),
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
        self.shared.clock.now_ms() + 2 * LOCK_WAIT_MS < deadline_ms
    }

    /// Puts aside what was held up, by nothing but a lock. It ends where there would be no time for another try, or there is
    /// too much aside already; the first one there has room however large it is.
    pub(super) fn put_aside(&mut self, held: Held, why: Failure) {
        let (jobs, bytes) = held.size();
        if self.has_time(held.deadline_ms()) && (self.aside.is_empty() || self.aside.has_room(jobs, bytes)) {
            self.aside.push(held, why);
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
        self.lock_waits = LockWaits::default();
        // Asked for at once. Which rows a load has is not known before it is tried.
        let aside = std::mem::take(&mut self.aside);
        let keys: Vec<&str> = aside.held.iter().flat_map(|(held, _)| held.keys()).collect();
        let locked = self.locked(&keys);
        self.aside = aside;
        let Some(locked) = locked else { return };
        let mut locked = locked.into_iter();
        for _ in 0..self.aside.held.len() {
            if !self.lock_waits.are_few() || self.down {
                return;
            }
            let Some((held, why)) = self.aside.pop() else { return };
            let is_locked = locked.by_ref().take(held.keys().len()).fold(false, |any, locked| any | locked);
            if is_locked {
                self.aside.push(held, why);
                continue;
            }
            match self.take(held, &why) {
                Some(Held::Key(batch)) if batch.keys().all(|key| key.is_plain()) => self.execute(batch),
                Some(Held::Key(batch)) => self.execute_judged(batch),
                Some(Held::Many(many)) => self.execute_many(many),
                Some(Held::Load(load)) => self.execute_load(load),
                None => {}
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
        for _ in 0..self.aside.held.len() {
            let Some((held, why)) = self.aside.pop() else { return };
            if let Some(held) = self.take(held, &why) {
                self.aside.push(held, why);
            }
        }
    }

    /// Ends everything that is aside.
    pub(super) fn fail_aside(&mut self, failure: &Failure) {
        while let Some((held, _)) = self.aside.pop() {
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
                for key in withdrawn.keys() {
                    key.steps().take(1).for_each(|step| self.withdrawn(step, key.count()));
                }
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
