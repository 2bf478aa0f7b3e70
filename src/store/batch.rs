//! Many writes folded into one statement: pure. Used by [`super::writer`].
//!
//! ```text
//!  arrived   SET a=1   DELETE b   SET a=2   SET c=3   DELETE a   SET b=4
//!  folded    a: [SET 1, SET 2, DELETE]   b: [DELETE, SET 4]   c: [SET 3]
//!  sent      delete a, set b=4, set c=3                 (one row a key, sorted)
//!  answered  each as if they had run one after the other
//! ```

use super::{Answer, Failure, Op, Reply, WriteJob};
use crate::engine::shard::Row;

/// Writes sorted by key; those of one key in the order they arrived.
#[derive(Debug, Default)]
pub struct Batch {
    jobs: Vec<WriteJob>,
}

impl Batch {
    /// Folds writes that are given in the order of their arrival.
    pub fn fold(mut jobs: Vec<WriteJob>) -> Batch {
        // Stable: the order of one key's writes is the order of their arrival. Sorted, because two statements that
        // lock rows in the same order cannot deadlock.
        jobs.sort_by(|a, b| a.key.cmp(&b.key));
        Batch { jobs }
    }

    /// The writes of each key.
    pub fn keys(&self) -> impl Iterator<Item = KeyWrites<'_>> {
        self.jobs.chunk_by(|a, b| a.key == b.key).map(|jobs| KeyWrites { jobs })
    }

    /// How many writes it has.
    pub fn jobs(&self) -> usize {
        self.jobs.len()
    }

    /// True when there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// A batch of its own for every key.
    pub fn split(self) -> Vec<Batch> {
        let mut batches: Vec<Batch> = Vec::new();
        for job in self.jobs {
            match batches.last_mut() {
                Some(batch) if batch.jobs[0].key == job.key => batch.jobs.push(job),
                _ => batches.push(Batch { jobs: vec![job] }),
            }
        }
        batches
    }

    /// Parts the keys for which `keep` holds from the others.
    pub fn partition(self, mut keep: impl FnMut(KeyWrites<'_>) -> bool) -> (Batch, Batch) {
        let (mut kept, mut others) = (Batch::default(), Batch::default());
        for batch in self.split() {
            let target = if keep(KeyWrites { jobs: &batch.jobs }) { &mut kept } else { &mut others };
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
        &self.jobs[0].key
    }

    /// Its hash.
    pub fn hash(&self) -> u64 {
        self.jobs[0].hash
    }

    /// How many writes.
    pub fn count(&self) -> u32 {
        self.jobs.len() as u32
    }

    /// What the row is to be afterwards: the last write decides.
    pub fn last(&self) -> &'a Op {
        &self.jobs[self.jobs.len() - 1].op
    }

    /// True when nobody waits for any of them any more.
    pub fn all_expired(&self, now_ms: u64) -> bool {
        self.jobs.iter().all(|job| job.deadline_ms <= now_ms)
    }

    /// The row after the commit, given the version that it got.
    pub fn row(&self, version: u32) -> Row {
        match self.last() {
            Op::Set(value) => Some((value.clone(), version)),
            Op::Delete => None,
        }
    }

    /// Answers each write as if they had run one after the other on a row that there was before, or not. Only the
    /// value that is left has a version: no row ever carried the others.
    pub fn answer(&self, before: Before, version: u32, replies: &mut Vec<Reply>) {
        let mut before = before;
        for (at, job) in self.jobs.iter().enumerate() {
            let answer = match (&job.op, before) {
                (Op::Set(value), _) => Answer::Stored {
                    key: job.key.clone(),
                    value: value.clone(),
                    version: (at + 1 == self.jobs.len()).then_some(version),
                    created: before == Before::NoRow,
                },
                // Whether it deleted something, nobody can say.
                (Op::Delete, Before::RowOrOurs) => Answer::Failed(Failure::Unknown),
                (Op::Delete, Before::Row) => Answer::Deleted { existed: true },
                (Op::Delete, Before::NoRow) => Answer::Deleted { existed: false },
            };
            before = if let Op::Set(_) = job.op { Before::Row } else { Before::NoRow };
            replies.push(Reply { ticket: job.ticket, answer });
        }
    }

    /// Gives all of them the same answer.
    pub fn answer_all(&self, answer: &Answer, replies: &mut Vec<Reply>) {
        replies.extend(self.jobs.iter().map(|job| Reply { ticket: job.ticket, answer: answer.clone() }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Id, Ticket};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn jobs(ops: &[(u8, Option<u16>)]) -> Vec<WriteJob> {
        let job = |(at, (key, value)): (usize, &(u8, Option<u16>))| WriteJob {
            key: format!("key {key}").into(),
            hash: u64::from(*key),
            op: value.map_or(Op::Delete, |v| Op::Set(v.to_string().into())),
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
            key.answer(Before::RowOrOurs, 9, &mut replies);
        }
        let answers: Vec<&Answer> = replies.iter().map(|reply| &reply.answer).collect();
        assert_eq!(*answers[0], Answer::Failed(Failure::Unknown));
        assert!(matches!(answers[1], Answer::Stored { created: true, version: None, .. }));
        assert_eq!(*answers[2], Answer::Deleted { existed: true });
        assert!(matches!(answers[3], Answer::Stored { created: true, version: Some(9), .. }));
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
                expected.push(match &job.op {
                    Op::Set(value) => (table.insert(job.key.to_string(), value.to_string()).is_none(), true),
                    Op::Delete => (table.remove(&*job.key).is_some(), false),
                });
            }
            let (batch, mut replies) = (Batch::fold(jobs(&ops)), Vec::new());
            for key in batch.keys() {
                let before = match key.last() {
                    Op::Set(value) => folded.insert(key.key().into(), value.to_string()),
                    Op::Delete => folded.remove(key.key()),
                };
                let before = if before.is_some() { Before::Row } else { Before::NoRow };
                key.answer(before, 9, &mut replies);
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
                if let Answer::Stored { key, value, version: Some(_), .. } = &reply.answer {
                    prop_assert_eq!(Some(&**value), table.get(&**key).map(|v| v.as_str()));
                }
            }
        }
    }
}
