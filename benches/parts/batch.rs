//! Writes folded into one statement: all of different keys, and all of one.

use crate::cache::{hasher, keys, record};
use divan::Bencher;
use hotrow::limits::WRITE_BATCH;
use hotrow::store::batch::Batch;
use hotrow::store::{Claim, Op, Step, WriteJob};
use hotrow::token::{Id, Ticket};
use std::hint::black_box;
use std::time::Instant;

#[divan::bench(args = [1, WRITE_BATCH])]
fn fold(bencher: Bencher, different_keys: usize) {
    let (keys, value, queued) = (keys(different_keys), record(100).value, Instant::now());
    let job = |at: usize| {
        // In no order: the numbers of a batch share no factor with this one.
        let key = &keys[at * 7_919 % keys.len()];
        let ticket = Ticket { event_loop: 0, id: Id { slot: at as u32, generation: 0 }, job: 1 };
        let op = Op::Set { value: value.clone(), ttl_s: None };
        let step =
            Step { key: key.as_str().into(), hash: hasher().hash_one(key.as_bytes()), op, conditions: None };
        WriteJob { step, ticket, claim: Claim::default(), deadline_ms: 1_000, queued }
    };
    bencher.with_inputs(|| (0..WRITE_BATCH).map(job).collect::<Vec<_>>()).bench_values(|jobs| {
        let batch = Batch::fold(black_box(jobs));
        assert_eq!(black_box(batch.keys().count()), different_keys);
        batch
    });
}
