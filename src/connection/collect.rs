//! A request for several keys: what the cache knows is taken at once, the rest is waited for, each key under a job
//! number of its own, and everything leaves as one answer. Called by [`super::requests`].

use super::jobs::Job;
use super::{Connection, Context, State, Workspace};
use crate::api::collection::{self, Item};
use crate::api::refusals;
use crate::engine::shard::Known;
use crate::engine::{Record, Row, Value};
use crate::http::problem::Problem;
use crate::http::response::{Frame, Lent};
use crate::store::backend::Asked;
use crate::store::{Answer, Reply};
use crate::token::Ticket;

/// The answer so far.
#[derive(Debug)]
pub(super) struct Collect {
    /// The job number of the first key; the others follow it.
    first: u32,
    keys: Vec<Box<str>>,
    /// One for each key; `None` while it is waited for.
    items: Vec<Option<Item>>,
    waiting: usize,
    /// Of the values that it holds.
    bytes: usize,
}

impl Collect {
    /// A reply under this number is expected.
    pub(super) fn waits_for(&self, job: u32) -> bool {
        matches!(self.items.get(self.place(job)), Some(None))
    }

    /// Keeps what was found, as long as it is not too much.
    fn keep(&mut self, at: usize, row: Row, most_bytes: usize) {
        let bytes = self.bytes + row.as_ref().map_or(0, |record| record.value.len());
        self.items[at] = Some(if bytes > most_bytes {
            Item::Failed(collection::too_much(most_bytes))
        } else {
            self.bytes = bytes;
            Item::Found(row)
        });
    }

    fn place(&self, job: u32) -> usize {
        job.wrapping_sub(self.first) as usize
    }
}

impl Connection {
    /// GET of several keys.
    pub(super) fn get_many(
        &mut self,
        keys: Vec<Box<str>>,
        frame: Frame,
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) {
        let first = self.tickets(keys.len() as u32, cx);
        let ticket = |at: usize| Ticket { job: first.job.wrapping_add(at as u32), ..first };
        let items = vec![None; keys.len()];
        let mut collect =
            Box::new(Collect { first: first.job, keys: Vec::new(), items, waiting: 0, bytes: 0 });
        let (mut hits, mut absent) = (0, 0);
        let asked = cx.backend.get_many(keys.iter().map(|key| &**key), cx.now_s, ticket, |at, known| {
            let row = match known {
                Known::Value(held) => {
                    hits += 1;
                    Some(Record {
                        value: owned(held.value),
                        version: held.version,
                        expires_s: held.expires_s,
                    })
                }
                Known::Absent { .. } => {
                    absent += 1;
                    None
                }
            };
            collect.keep(at, row, cx.bounds.items_bytes());
        });
        let misses = keys.len() as u64 - hits - absent;
        cx.counters.several(hits, absent, misses);
        for (item, asked) in collect.items.iter_mut().zip(asked) {
            match asked {
                Asked::Answered(()) => {}
                Asked::Waiting | Asked::Joined => collect.waiting += 1,
                Asked::Refused(refusal) => *item = Some(Item::Failed(refusals::refused(refusal))),
            }
        }
        collect.keys = keys;
        if collect.waiting == 0 {
            return self.answer_items(&collect, frame, ws, cx);
        }
        self.wait(frame, Job::Items(collect), cx);
    }

    /// One of the keys that are waited for.
    pub(super) fn take_item(&mut self, reply: &Reply, ws: &mut Workspace, cx: &Context<'_>) {
        let State::Waiting(frame, Job::Items(collect)) = &mut self.state else { return };
        let place = collect.place(reply.ticket.job);
        match &reply.answer {
            Answer::Found(row) => collect.keep(place, row.clone(), cx.bounds.items_bytes()),
            Answer::Failed(failure) => collect.items[place] = Some(Item::Failed(refusals::failed(failure))),
            Answer::Stored { .. }
            | Answer::Deleted { .. }
            | Answer::PreconditionFailed
            | Answer::NotANumber
            | Answer::Many(_)
            | Answer::Loaded(_)
            | Answer::Page(_)
            | Answer::NotDone
            | Answer::Changed => unreachable!("no answer to a read"),
        }
        collect.waiting -= 1;
        if collect.waiting == 0 {
            let frame = *frame;
            let State::Waiting(_, Job::Items(collect)) = std::mem::replace(&mut self.state, State::Idle)
            else {
                return;
            };
            cx.counters.miss_duration.observe(cx.now_ns.saturating_sub(self.sent_ns), 1);
            self.answer_items(&collect, frame, ws, cx);
        }
    }

    /// Whatever is still waited for has this problem; the rest is told.
    pub(super) fn end_collect(
        &mut self,
        mut collect: Collect,
        problem: &Problem,
        frame: Frame,
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) {
        for item in collect.items.iter_mut().filter(|item| item.is_none()) {
            *item = Some(Item::Failed(problem.clone()));
        }
        self.answer_items(&collect, frame, ws, cx);
    }

    fn answer_items(&mut self, collect: &Collect, frame: Frame, ws: &mut Workspace, cx: &Context<'_>) {
        self.bring_asker(ws);
        // Draining may have begun since the request was taken.
        let frame = frame.closing_if(cx.draining);
        let keys = collect.keys.iter().map(|key| &**key);
        let items = keys.zip(collect.items.iter().flatten());
        collection::items(&ws.encoder, &mut ws.output, items, cx.bounds.items_bytes(), frame);
        self.answered(frame, ws, cx);
    }
}

/// A cached value for longer than the shard's lock is held: a small one is copied.
fn owned(value: Lent<'_>) -> Value {
    match value {
        Lent::Shared(value) => Value::clone(value),
        Lent::Bytes(bytes) => std::str::from_utf8(bytes).expect("values are text").into(),
    }
}
