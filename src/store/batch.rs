//! Many writes folded into one statement: pure. Used by [`super::writer`].
//!
//! ```text
//!  arrived   SET a=1   DELETE b   SET a=2   SET c=3   DELETE a   SET b=4
//!  folded    a: [SET 1, SET 2, DELETE]   b: [DELETE, SET 4]   c: [SET 3]
//!  sent      delete a, set b=4, set c=3                 (one row a key, sorted)
//!  answered  each as if they had run one after the other
//! ```

use super::{Answer, Claim, Failure, NO_VERSION, Op, Reply, Set, Step, WriteJob};
use crate::engine::{NEVER, Record, Row, Value};

/// Writes sorted by key; those of one key in the order they arrived.
#[derive(Debug, Default)]
pub struct Batch {
    jobs: Vec<WriteJob>,
}

impl Batch {
    /// Folds writes that are given in the order of their arrival.
    pub fn fold(mut jobs: Vec<WriteJob>) -> Batch {
        // Stable: the order of one key's writes is the order of their arrival. Sorted, so that statements lock rows in the same order
        // where PostgreSQL keeps it, as it does for values: of two that meet all the same it breaks one off, which is sent again.
        jobs.sort_by(|a, b| a.step.key.cmp(&b.step.key));
        Batch { jobs }
    }

    /// The writes of each key.
    pub fn keys(&self) -> impl Iterator<Item = KeyWrites<'_>> {
        self.jobs.chunk_by(|a, b| a.step.key == b.step.key).map(|jobs| KeyWrites { jobs })
    }

    /// True of a batch of one key, if it is this one's.
    pub fn is_of(&self, step: &Step) -> bool {
        let first = self.jobs.first().map(|job| &job.step);
        first.is_some_and(|first| first.hash == step.hash && first.key == step.key)
    }

    /// Adds a write of its last key, behind the others.
    pub fn push(&mut self, job: WriteJob) {
        debug_assert!(self.jobs.last().is_none_or(|last| last.step.key == job.step.key), "it stays sorted");
        self.jobs.push(job);
    }

    /// How many writes it has.
    pub fn jobs(&self) -> usize {
        self.jobs.len()
    }

    /// What they take.
    pub fn bytes(&self) -> usize {
        self.jobs.iter().map(|job| job.step.bytes()).sum()
    }

    /// Who decides what becomes of each.
    pub fn claims(&self) -> impl Iterator<Item = &Claim> {
        self.jobs.iter().map(|job| &job.claim)
    }

    /// True when there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Parts the jobs for which `keep` holds from the others.
    pub fn part(self, keep: impl FnMut(&WriteJob) -> bool) -> (Batch, Batch) {
        let (kept, others) = self.jobs.into_iter().partition(keep);
        (Batch { jobs: kept }, Batch { jobs: others })
    }

    /// A batch of its own for every key.
    pub fn split(self) -> Vec<Batch> {
        let mut batches: Vec<Batch> = Vec::new();
        for job in self.jobs {
            match batches.last_mut() {
                Some(batch) if batch.jobs[0].step.key == job.step.key => batch.jobs.push(job),
                _ => batches.push(Batch { jobs: vec![job] }),
            }
        }
        batches
    }

    /// Parts the keys for which `keep` holds from the others. It is asked once of every key, in their order.
    pub fn partition(self, keep: impl FnMut(KeyWrites<'_>) -> bool) -> (Batch, Batch) {
        let keeps: Vec<bool> = self.keys().map(keep).collect();
        if keeps.iter().all(|keep| *keep) {
            return (self, Batch::default());
        }
        let (mut kept, mut others) = (Batch::default(), Batch::default());
        for (batch, keep) in self.split().into_iter().zip(keeps) {
            let target = if keep { &mut kept } else { &mut others };
            target.jobs.extend(batch.jobs);
        }
        (kept, others)
    }
}

/// What there was of a key before the first write of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// A row.
    Row,
    /// None.
    NoRow,
    /// A row was found, but by a statement that was sent before and whose outcome nobody knows: it may have made it.
    RowOrOurs,
}

/// All writes of one key in a batch; never empty.
#[derive(Clone, Copy, Debug)]
pub struct KeyWrites<'a> {
    jobs: &'a [WriteJob],
}

impl<'a> KeyWrites<'a> {
    /// The key.
    pub fn key(&self) -> &'a str {
        &self.jobs[0].step.key
    }

    /// Its hash.
    pub fn hash(&self) -> u64 {
        self.jobs[0].step.hash
    }

    /// How many writes.
    pub fn count(&self) -> u32 {
        self.jobs.len() as u32
    }

    /// The steps, in the order of their arrival.
    pub fn steps(&self) -> impl Iterator<Item = &'a Step> + use<'a> {
        self.jobs.iter().map(|job| &job.step)
    }

    /// True where the row before does not matter to any of them.
    pub fn is_plain(&self) -> bool {
        self.steps().all(Step::is_plain)
    }

    /// What is sent: the value that the last write leaves; `None`: it deletes.
    pub fn last(&self) -> Option<Set<'a>> {
        match &self.jobs[self.jobs.len() - 1].step.op {
            Op::Set { value, ttl_s } => Some(Set { key: self.key(), value, ttl_s: *ttl_s }),
            Op::Delete | Op::Add(_) | Op::Read => None,
        }
    }

    /// True when nobody waits for any of them any more.
    pub fn all_expired(&self, now_ms: u64) -> bool {
        self.last_deadline_ms() <= now_ms
    }

    /// When the last of those who wait for it has waited for long enough.
    pub fn last_deadline_ms(&self) -> u64 {
        self.jobs.iter().map(|job| job.deadline_ms).max().unwrap_or(0)
    }

    /// The row after the commit, given the version that it got. `now_s` is the time before it was sent.
    pub fn row(&self, version: u32, now_s: u32) -> Row {
        match &self.jobs[self.jobs.len() - 1].step.op {
            Op::Set { value, ttl_s } => Some(record(value, *ttl_s, version, now_s)),
            Op::Delete | Op::Add(_) | Op::Read => None,
        }
    }

    /// Answers plain writes as if they had run one after the other on a row that there was before, or not. Only the
    /// value that is left has a version: no row ever carried the others.
    pub fn answer(&self, before: Before, (version, now_s): (u32, u32), replies: &mut Vec<Reply>) {
        let mut before = before;
        for (at, WriteJob { step, ticket, .. }) in self.jobs.iter().enumerate() {
            let version = if at + 1 == self.jobs.len() { version } else { NO_VERSION };
            let answer = match (&step.op, before) {
                (Op::Set { value, ttl_s }, _) => Answer::Stored {
                    key: step.key.clone(),
                    record: record(value, *ttl_s, version, now_s),
                    created: before == Before::NoRow,
                },
                // Whether it deleted something, nobody can say.
                (_, Before::RowOrOurs) => Answer::Failed(Failure::Unknown),
                (_, Before::Row) => Answer::Deleted { existed: true },
                (_, Before::NoRow) => Answer::Deleted { existed: false },
            };
            before = if let Op::Set { .. } = step.op { Before::Row } else { Before::NoRow };
            replies.push(Reply { ticket: *ticket, answer });
        }
    }

    /// Gives each its own answer.
    pub fn answer_each(&self, answers: Vec<Answer>, replies: &mut Vec<Reply>) {
        debug_assert_eq!(answers.len(), self.jobs.len());
        let tickets = self.jobs.iter().map(|job| job.ticket);
        replies.extend(tickets.zip(answers).map(|(ticket, answer)| Reply { ticket, answer }));
    }

    /// Gives all of them the same answer.
    pub fn answer_all(&self, answer: &Answer, replies: &mut Vec<Reply>) {
        replies.extend(self.jobs.iter().map(|job| Reply { ticket: job.ticket, answer: answer.clone() }));
    }
}

fn record(value: &Value, ttl_s: Option<u32>, version: u32, now_s: u32) -> Record {
    let expires_s = ttl_s.map_or(NEVER, |ttl_s| now_s.saturating_add(ttl_s));
    Record { value: value.clone(), version, expires_s }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Id, Ticket};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn jobs(ops: &[(u8, Option<u16>)]) -> Vec<WriteJob> {
        let set = |value: u16| Op::Set { value: value.to_string().into(), ttl_s: None };
        let job = |(at, (key, value)): (usize, &(u8, Option<u16>))| WriteJob {
            step: Step {
                key: format!("key {key}").into(),
                hash: u64::from(*key),
                op: value.map_or(Op::Delete, set),
                conditions: None,
            },
            ticket: Ticket { event_loop: 0, id: Id { slot: 0, generation: 0 }, job: at as u32 },
            claim: Default::default(),
            deadline_ms: 0,
            queued: std::time::Instant::now(),
        };
        ops.iter().enumerate().map(job).collect()
    }

    #[test]
    fn a_delete_that_may_have_found_its_own_batchs_row_does_not_say_that_it_deleted_one() {
        let mut replies = Vec::new();
        for key in Batch::fold(jobs(&[(1, None), (1, Some(2)), (1, None), (1, Some(3))])).keys() {
            key.answer(Before::RowOrOurs, (9, 0), &mut replies);
        }
        let answers: Vec<&Answer> = replies.iter().map(|reply| &reply.answer).collect();
        assert_eq!(*answers[0], Answer::Failed(Failure::Unknown));
        let stored = |answer: &Answer| match answer {
            Answer::Stored { record, created: true, .. } => record.version,
            other => panic!("{other:?}"),
        };
        assert_eq!(stored(answers[1]), NO_VERSION);
        assert_eq!(*answers[2], Answer::Deleted { existed: true });
        assert_eq!(stored(answers[3]), 9);
    }

    #[test]
    fn a_partition_asks_once_of_every_key_in_their_order() {
        // What is known of the keys comes in their order, too: here that the second and the third are to be kept.
        let mut known = [false, true, true, false].into_iter();
        let batch = Batch::fold(jobs(&[(3, None), (1, None), (2, Some(1)), (1, Some(2)), (0, None)]));
        let (kept, others) = batch.partition(|_| known.next().expect("asked once of each"));
        let keys = |batch: &Batch| batch.keys().map(|key| key.key().to_owned()).collect::<Vec<_>>();
        assert_eq!((keys(&kept), kept.jobs()), (vec!["key 1".to_owned(), "key 2".to_owned()], 3));
        assert_eq!(keys(&others), ["key 0", "key 3"]);
    }

    proptest! {
        /// The batch leaves the rows, and gives the answers, that the writes would give one by one.
        #[test]
        fn folded_writes_are_answered_as_if_they_ran_one_by_one(
            ops in prop::collection::vec((0u8..5, prop::option::of(any::<u16>())), 1..40),
            rows in prop::collection::btree_set(0u8..5, 0..5),
        ) {
            let mut table: BTreeMap<String, String> =
                rows.iter().map(|key| (format!("key {key}"), "old".into())).collect();
            let (mut folded, mut expected) = (table.clone(), Vec::new());
            for job in jobs(&ops) {
                expected.push(match &job.step.op {
                    Op::Set { value, .. } => {
                        (table.insert(job.step.key.to_string(), value.to_string()).is_none(), true)
                    }
                    _ => (table.remove(&*job.step.key).is_some(), false),
                });
            }
            let (batch, mut replies) = (Batch::fold(jobs(&ops)), Vec::new());
            for key in batch.keys() {
                let before = match key.last() {
                    Some(set) => folded.insert(key.key().into(), set.value.to_string()),
                    None => folded.remove(key.key()),
                };
                let before = if before.is_some() { Before::Row } else { Before::NoRow };
                key.answer(before, (9, 0), &mut replies);
            }
            prop_assert_eq!(&folded, &table);
            replies.sort_by_key(|reply| reply.ticket.job);
            let got: Vec<_> = replies.iter().map(|reply| match &reply.answer {
                Answer::Stored { created, .. } => (*created, true),
                Answer::Deleted { existed } => (*existed, false),
                other => panic!("{other:?}"),
            }).collect();
            prop_assert_eq!(got, expected);
            for reply in &replies {
                if let Answer::Stored { key, record, .. } = &reply.answer && record.version != NO_VERSION {
                    prop_assert_eq!(Some(&*record.value), table.get(&**key).map(|v| v.as_str()));
                }
            }
        }
    }
}
