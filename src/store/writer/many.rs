//! Batches of many keys: a part for each key, judged and changed together (`writer/judged.rs`), and one answer for all steps.

use super::super::{Answer, Connector, Failure, ManyJob, Reply, Step};
use super::aside::Held;
use super::judged::{Ending, Part};
use super::{Attempt, LockWaits, Pause, Writer};
use crate::engine::shard::Writes;
use crate::limits::OVERTAKEN_RETRIES;

impl<C: Connector> Writer<C> {
    /// Takes a batch of many keys, unless its time is over.
    pub(super) fn start_many(&mut self, job: ManyJob, now_ms: u64) -> Option<ManyJob> {
        if !job.claim.take() {
            self.withdrawn_many(&job);
            return None;
        }
        if job.deadline_ms <= now_ms {
            self.fail_many(&job, Attempt::First, &Failure::NotStarted);
            return None;
        }
        Some(job)
    }

    /// A batch that its connection has withdrawn: nobody waits for it.
    pub(super) fn withdrawn_many(&self, job: &ManyJob) {
        for (hash, key) in job.keys() {
            self.shared.engine.shard(hash).refused(hash, &key, Writes::Foreign);
        }
    }

    pub(super) fn fail_many(&mut self, job: &ManyJob, attempt: Attempt, failure: &Failure) {
        let failure = attempt.failure(failure);
        for (hash, key) in job.keys() {
            let watching = self.ended(hash, &key, Writes::Foreign, failure);
            self.tell(watching);
        }
        self.replies.push(Reply { ticket: job.ticket, answer: Answer::Failed(failure.clone()) });
        self.shared.deliver.deliver(&mut self.replies);
    }

    /// Brings a batch of many keys to its ending, one answer with those of all its steps; or puts it aside.
    pub(super) fn execute_many(&mut self, mut job: ManyJob) {
        self.conflict_retries = OVERTAKEN_RETRIES;
        self.drop_if_broken();
        if self.session.is_none() {
            // As long as that takes, its client may withdraw it.
            job.claim.give_back();
            let connected = self.connect();
            match self.start_many(job, self.shared.clock.now_ms()) {
                Some(same) if connected => job = same,
                Some(same) => return self.fail_many(&same, Attempt::First, &self.shared.down()),
                None => return,
            }
        }
        match self.many(&job) {
            Ok(answers) => {
                self.replies.push(Reply { ticket: job.ticket, answer: Answer::Many(answers) });
                self.shared.deliver.deliver(&mut self.replies);
            }
            Err((why, locked)) => self.put_aside(Held::Many(job), why, locked),
        }
    }

    /// The answers to all steps. `Err`: nothing is done, because somebody else has rows locked; these, as far as is known.
    fn many(&mut self, job: &ManyJob) -> Result<Vec<Answer>, (Failure, Vec<Box<str>>)> {
        // Steps by key, each key's in their order; and where each step's answer belongs.
        let mut order: Vec<usize> = (0..job.steps.len()).collect();
        order.sort_by(|a, b| job.steps[*a].key.cmp(&job.steps[*b].key));
        let groups: Vec<&[usize]> = order.chunk_by(|a, b| job.steps[*a].key == job.steps[*b].key).collect();
        let part = |group: &&[usize]| {
            let steps: Vec<&Step> = group.iter().map(|at| &job.steps[*at]).collect();
            let (key, hash, deadline_ms) = (&*steps[0].key, steps[0].hash, job.deadline_ms);
            Part { key, hash, writes: Writes::Foreign, steps, deadline_ms }
        };
        let parts: Vec<Part<'_>> = groups.iter().map(part).collect();
        let mut endings: Vec<Option<Ending>> = parts.iter().map(|_| None).collect();
        self.judge_and_change(&parts, job.all_or_nothing, &mut |_, at, ending| endings[at] = Some(ending));
        let mut endings: Vec<Ending> =
            endings.into_iter().map(|ending| ending.expect("every part has its ending")).collect();
        self.wait_for_locked(&parts, job.deadline_ms, &mut endings);
        // Where one is locked now, all are.
        if let Some(Ending::Locked { why, .. }) = endings.first() {
            let is_known = |ending: &Ending| matches!(ending, Ending::Locked { is_known: true, .. });
            let known = parts.iter().zip(&endings).filter(|(_, ending)| is_known(ending));
            let mut locked: Vec<Box<str>> = known.map(|(part, _)| part.key.into()).collect();
            if !job.all_or_nothing && locked.len() < parts.len() {
                // Of the others some may be free: it is not for those that are known that it has to wait.
                locked.clear();
            }
            return Err((why.clone(), locked));
        }
        let mut answers = vec![Answer::NotDone; job.steps.len()];
        for (group, ending) in groups.iter().zip(endings) {
            let group_answers = match ending {
                Ending::Done(judged, _) if job.all_or_nothing && judged.is_undone() => judged.not_done(),
                Ending::Done(judged, version) => judged.answers(version),
                Ending::Failed(why) | Ending::Locked { why, .. } => vec![Answer::Failed(why); group.len()],
            };
            for (at, answer) in group.iter().zip(group_answers) {
                answers[*at] = answer;
            }
        }
        Ok(answers)
    }

    /// Some of a batch is done, and the rest locked: while that keeps nobody else waiting, it is waited for.
    fn wait_for_locked(&mut self, parts: &[Part<'_>], deadline_ms: u64, endings: &mut [Ending]) {
        loop {
            let is_locked = |at: &usize| matches!(endings[*at], Ending::Locked { .. });
            let locked: Vec<usize> = (0..parts.len()).filter(is_locked).collect();
            if locked.is_empty() || locked.len() == parts.len() {
                return;
            }
            // Who watches what is done has waited for long enough, whatever the rest waits for.
            self.shared.deliver.deliver(&mut self.replies);
            let may_wait = self.nobody_waits() && self.has_time(deadline_ms);
            let keys: Vec<&str> = locked.iter().map(|at| parts[*at].key).collect();
            let still = if may_wait { self.locked(&keys) } else { None };
            let Some(still) = still else { return self.refuse_locked(parts, endings) };
            if still.iter().all(|still| *still) {
                std::thread::sleep(Pause::STEP);
            }
            self.lock_waits = LockWaits::default();
            for (at, still) in locked.into_iter().zip(still) {
                if !still && self.lock_waits.are_few() {
                    endings[at] = self.judge_and_change_one(&parts[at]);
                }
            }
        }
    }

    fn refuse_locked(&self, parts: &[Part<'_>], endings: &mut [Ending]) {
        for (part, ending) in parts.iter().zip(endings) {
            if let Ending::Locked { why, .. } = ending {
                let failure = why.clone();
                self.ended(part.hash, part.key, part.writes, &failure);
                *ending = Ending::Failed(failure);
            }
        }
    }
}
