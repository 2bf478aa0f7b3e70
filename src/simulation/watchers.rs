//! Made-up clients that wait for a row to change: each knows a version, and is to be told of every other one, whatever it
//! is that makes it. They look as [`crate::connection`] does: under a ticket among the key's watchers, and again when
//! they are told that something has changed.

use super::{KEYS, OPERATIONS, World};
use crate::engine::shard::{Freshness, Known};
use crate::store::backend::Asked;
use crate::store::{Answer, Reply};
use crate::token::{Id, Ticket};

/// Their slots begin behind those of the other clients.
const SLOTS: u32 = 100;
/// So many wait at a time.
const MOST: usize = 2;

/// A client that waits for a change.
#[derive(Clone, Debug)]
pub(super) struct Watcher {
    key: &'static str,
    /// The version that it has.
    version: u32,
    job: u32,
    /// How it looks the next time.
    freshness: Freshness,
    /// A read of the key is to tell it what there is.
    is_reading: bool,
}

impl Watcher {
    pub(super) fn is_reading(&self) -> bool {
        self.is_reading
    }
}

/// True where the reply is one for a watcher.
pub(super) fn is_for_watcher(reply: &Reply) -> bool {
    reply.ticket.id.slot >= SLOTS
}

fn ticket(slot: usize, job: u32) -> Ticket {
    Ticket { event_loop: 0, id: Id { slot: SLOTS + slot as u32, generation: 0 }, job }
}

impl World {
    /// Somebody begins to wait for another row than the newest that there is.
    pub(super) fn begin_to_watch(&self) {
        let slot = {
            let mut state = self.state();
            let key = KEYS[state.rng.usize(..KEYS.len())];
            let newest = state.history[key].last().and_then(Option::as_ref).map(|(_, version)| *version);
            let free = (0..MOST).find(|slot| state.watchers[*slot].is_none());
            let (Some(slot), Some(version)) = (free.filter(|_| state.started < OPERATIONS), newest) else {
                return;
            };
            let freshness = [Freshness::Any, Freshness::Now, Freshness::Uncached][state.rng.usize(..3)];
            state.watchers[slot] = Some(Watcher { key, version, job: 0, freshness, is_reading: false });
            slot
        };
        self.look(slot);
    }

    /// Looks whether there is another row, and waits where there is none.
    fn look(&self, slot: usize) {
        let watcher = {
            let mut state = self.state();
            state.jobs += 1;
            let job = state.jobs;
            let watcher = state.watchers[slot].as_mut().expect("it waits");
            (watcher.job, watcher.is_reading) = (job, false);
            let now = watcher.clone();
            // Nothing is missed between two looks, so that the next may be at the cache, if any.
            if watcher.freshness == Freshness::Now {
                watcher.freshness = Freshness::Any;
            }
            now
        };
        let version = |known: Known<'_>| match known {
            Known::Value(held) => Some(held.version),
            Known::Absent { .. } => None,
        };
        let now = (self.now_s(), watcher.freshness);
        match self.backend.watch(watcher.key, now, ticket(slot, watcher.job), version) {
            Asked::Answered(version) if version == Some(watcher.version) => {}
            Asked::Answered(_) => self.is_told(slot),
            Asked::Waiting | Asked::Joined => {
                if let Some(watcher) = &mut self.state().watchers[slot] {
                    watcher.is_reading = true;
                }
            }
            Asked::Refused(_) => self.state().watchers[slot] = None,
        }
    }

    /// It waits no longer.
    fn is_told(&self, slot: usize) {
        let Some(Watcher { key, job, .. }) = self.state().watchers[slot].take() else { return };
        self.backend.unwatch(key, ticket(slot, job));
    }

    pub(super) fn reply_to_watcher(&self, reply: &Reply) {
        let slot = (reply.ticket.id.slot - SLOTS) as usize;
        let version = {
            let mut state = self.state();
            let Some(watcher) =
                state.watchers[slot].as_mut().filter(|watcher| watcher.job == reply.ticket.job)
            else {
                return;
            };
            watcher.version
        };
        match &reply.answer {
            Answer::Changed => self.look(slot),
            Answer::Found(Some(record)) if record.version == version => {
                if let Some(watcher) = &mut self.state().watchers[slot] {
                    watcher.is_reading = false;
                }
            }
            Answer::Found(_) | Answer::Failed(_) => self.is_told(slot),
            other => self.state().violate(format!("{other:?} for one who waits for a change")),
        }
    }

    /// Nothing is under way any more: whoever waits still has the row that there is.
    pub(super) fn check_watchers(&self) {
        let mut state = self.state();
        let watchers: Vec<Watcher> = state.watchers.iter().flatten().cloned().collect();
        for watcher in watchers {
            let newest = state.history[watcher.key].last().and_then(Option::as_ref);
            let is_current = newest.is_some_and(|(_, version)| *version == watcher.version);
            // The end of a row's time is no write: connections look again then.
            if watcher.is_reading || !is_current && !state.timed {
                state.violate(format!("{watcher:?} was never told"));
            }
        }
    }
}
