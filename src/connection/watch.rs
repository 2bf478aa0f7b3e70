//! Reads that are answered once their key changes. A connection that waits for a change is a ticket in the key's shard and a
//! deadline, and no thread. Called by [`super::read`].
//!
//! ```text
//!  GET, If-None-Match, Prefer: wait ──► the key's shard: ticket among its watchers, and a look-up, under one lock
//!       the row is another one ──► 200                │ it is the same row
//!       a write of the key has ended,                 │
//!       or another row was cached ──► look again ◄────┤          (where that cannot be done: a moment later)
//!       the wait is over ──► 304 ◄────────────────────┘
//! ```

use super::jobs::Job;
use super::read::{forward, is_absent};
use super::{Connection, Context, State, Workspace};
use crate::api::answer::{self, Forward};
use crate::api::refusals;
use crate::engine::shard::{Freshness, Held, Known};
use crate::http::conditional::{Current, Preconditions, Verdict};
use crate::http::response::{Frame, Lent};
use crate::limits::LOOK_PAUSE_MS;
use crate::store::Answer;
use crate::store::backend::Asked;
use crate::token::Ticket;

/// A read that waits for a change.
#[derive(Debug)]
pub(super) struct Watch {
    key: Box<str>,
    conditions: Box<Preconditions>,
    until_ms: u64,
    /// Why the database was asked, where it was.
    forward: Forward,
    /// It is not to be answered from the cache, which may have an older row than the client, nor to leave anything there.
    is_uncached: bool,
    /// The row that the client has already; `None` while the database has not told what there is.
    known: Option<Seen>,
    /// It has waited already: that the database cannot be asked now is no news to the client.
    has_waited: bool,
    /// Until then it is not looked again, because that could not be done just now.
    paused_until_ms: Option<u64>,
    ticket: Ticket,
}

/// A row that is no news to the client.
#[derive(Clone, Copy, Debug)]
struct Seen {
    version: u32,
    expires_s: u32,
    /// When it became known.
    since_s: u32,
    /// Why the database was asked for it; `None`: it was cached.
    forward: Option<Forward>,
    /// When to look again, if nobody writes before.
    look_at_ms: u64,
}

impl Seen {
    /// Whether the cache has another row by now, or knows that there is none.
    fn is_past(&self, key: &str, cx: &Context<'_>) -> bool {
        let is_another = |known: Known<'_>| match known {
            Known::Value(held) => held.version != self.version,
            Known::Absent { .. } => true,
        };
        cx.backend.peek(key.as_bytes(), cx.now_s, is_another).unwrap_or(false)
    }
}

impl Watch {
    pub(super) fn new(
        key: &str,
        conditions: Box<Preconditions>,
        until_ms: u64,
        freshness: Freshness,
        ticket: Ticket,
    ) -> Watch {
        Watch {
            key: key.into(),
            conditions,
            until_ms,
            forward: forward(freshness),
            is_uncached: freshness == Freshness::Uncached,
            known: None,
            has_waited: false,
            paused_until_ms: None,
            ticket,
        }
    }

    /// How fresh another look is to be: nothing has been missed since the last one but what it is told of.
    fn next_freshness(&self) -> Freshness {
        if self.is_uncached { Freshness::Uncached } else { Freshness::Any }
    }

    /// Nobody is to be told of a change any more.
    pub(super) fn leave(&self, cx: &Context<'_>) {
        cx.backend.unwatch(&self.key, self.ticket);
    }

    /// When to look again, if nobody writes before; `None` while the database has not told what there is.
    pub(super) fn look_at_ms(&self) -> Option<u64> {
        self.paused_until_ms.or(self.known.map(|seen| seen.look_at_ms))
    }

    /// The row is the one that the client has: look again at the end of the wait, or of the row. That is known to the second; so
    /// as not to ask the table without end in that second, it is asked at the end of it.
    fn see(
        &mut self,
        (version, age_s, expires_s): (u32, u32, u32),
        forward: Option<Forward>,
        cx: &Context<'_>,
    ) {
        let since_s = cx.now_s.saturating_sub(age_s);
        let look_at_ms = self.until_ms.min((u64::from(expires_s) * 1_000).max(cx.now_ms + 1_000));
        self.has_waited = true;
        self.known = Some(Seen { version, expires_s, since_s, forward, look_at_ms });
    }
}

impl Connection {
    /// Goes on to wait, by another look: what was known is not any more. Under a ticket of its own, for whoever has taken the
    /// last one may still send for it.
    fn watch_on(&mut self, mut watch: Box<Watch>, frame: Frame, ws: &mut Workspace, cx: &Context<'_>) {
        if let Err(problem) = self.still_may(false, cx) {
            return self.refuse(&problem, frame, ws, cx);
        }
        let freshness = watch.next_freshness();
        (watch.ticket, watch.known, watch.forward) = (self.ticket(cx), None, forward(freshness));
        watch.paused_until_ms = None;
        self.watch(watch, freshness, frame, ws, cx);
    }

    /// Begins to wait for a change: answers if there is one already, by a look that is as fresh as this.
    pub(super) fn watch(
        &mut self,
        mut watch: Box<Watch>,
        freshness: Freshness,
        frame: Frame,
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) {
        let Workspace { output, encoder, .. } = ws;
        let Watch { key, conditions, ticket, .. } = &*watch;
        let mut same = None;
        let hit = |known: Known<'_>| {
            match &known {
                Known::Value(held) if is_same(conditions, Current::Version(held.version)) => {
                    same = Some((held.version, held.age_s, held.expires_s));
                }
                Known::Value(_) | Known::Absent { .. } => {
                    answer::hit_if(encoder, output, &known, Some(conditions), frame);
                }
            }
            is_absent(&known)
        };
        let asked = cx.backend.watch(key, (cx.now_s, freshness), *ticket, hit);
        match (asked, same) {
            (Asked::Answered(_), Some(row)) => {
                cx.counters.part_hits.add(1);
                watch.see(row, None, cx);
                self.wait(frame, Job::Watch(watch), cx);
                self.deadline_ms = self.own_deadline_ms(cx);
            }
            (asked @ Asked::Answered(_), None) => {
                cx.backend.unwatch(key, *ticket);
                self.take_asked(asked, Job::Watch(watch), frame, ws, cx);
            }
            (Asked::Refused(_), _) if watch.has_waited => {
                cx.counters.cache_misses.add(1);
                self.pause_watch(watch, frame, cx);
            }
            // Nothing is known: until it is, this is a read like any other.
            (asked, _) => {
                if matches!(asked, Asked::Joined) {
                    watch.forward = Forward::Collapsed;
                }
                self.take_asked(asked, Job::Watch(watch), frame, ws, cx);
            }
        }
    }

    /// A reply to a connection that waits for a change.
    pub(super) fn take_watched(
        &mut self,
        mut watch: Box<Watch>,
        reply: &Answer,
        frame: Frame,
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) {
        match reply {
            // Whoever wrote the key has taken the ticket: look again, under a new one.
            Answer::Changed if cx.now_ms < watch.until_ms => self.watch_on(watch, frame, ws, cx),
            Answer::Changed => match watch.known {
                // What was known had not changed while it was waited for.
                Some(seen) if !seen.is_past(&watch.key, cx) => self.not_changed(seen, frame, ws, cx),
                // The wait is over, and the look that was under way may have come before the change.
                _ => self.look_last(*watch, frame, ws, cx),
            },
            Answer::Found(Some(record)) if is_same(&watch.conditions, Current::Version(record.version)) => {
                // The ticket has been among the watchers since before this was read: nothing was missed.
                let forward = watch.forward;
                watch.see((record.version, 0, record.expires_s), Some(forward), cx);
                self.state = State::Waiting(frame, Job::Watch(watch));
                self.deadline_ms = self.own_deadline_ms(cx);
            }
            Answer::Found(row) => {
                cx.backend.unwatch(&watch.key, watch.ticket);
                let Watch { conditions, forward, .. } = &*watch;
                answer::found(&ws.encoder, &mut ws.output, row, *forward, Some(conditions), frame);
                self.answered(frame, ws, cx);
            }
            Answer::Failed(_) if watch.has_waited => {
                cx.backend.unwatch(&watch.key, watch.ticket);
                self.pause_watch(watch, frame, cx);
            }
            Answer::Failed(failure) => {
                cx.backend.unwatch(&watch.key, watch.ticket);
                self.refuse(&refusals::failed(failure), frame, ws, cx);
            }
            other => unreachable!("{other:?} is no answer to a wait for a change"),
        }
    }

    /// The database cannot be asked now: who has waited so far waits on, as if nothing had happened, and looks later.
    fn pause_watch(&mut self, mut watch: Box<Watch>, frame: Frame, cx: &Context<'_>) {
        watch.paused_until_ms = Some(watch.until_ms.min(cx.now_ms + LOOK_PAUSE_MS));
        self.state = State::Waiting(frame, Job::Watch(watch));
        self.deadline_ms = self.own_deadline_ms(cx);
    }

    /// The wait is over, and nobody knows what there is: it is looked for the last time, as any read does.
    fn look_last(&mut self, watch: Watch, frame: Frame, ws: &mut Workspace, cx: &Context<'_>) {
        if let Err(problem) = self.still_may(false, cx) {
            return self.refuse(&problem, frame, ws, cx);
        }
        let freshness = watch.next_freshness();
        let Watch { key, conditions, .. } = watch;
        self.get_fresh(&key, freshness, Some(conditions), frame, ws, cx);
    }

    /// The wait is over, and the row is the one that the client has.
    fn not_changed(&mut self, seen: Seen, frame: Frame, ws: &mut Workspace, cx: &Context<'_>) {
        if let Err(problem) = self.still_may(false, cx) {
            return self.refuse(&problem, frame, ws, cx);
        }
        let Seen { version, expires_s, since_s, forward, .. } = seen;
        let age_s = cx.now_s.saturating_sub(since_s);
        let row = Held { value: Lent::Bytes(b""), version, age_s, expires_s };
        answer::not_changed(&ws.encoder, &mut ws.output, &row, forward, frame);
        self.answered(frame, ws, cx);
    }

    /// The wait is over without a change; or the row's own time is, which nobody's write tells of; or the database has not
    /// even told what there is.
    pub(super) fn watched_in_vain(
        &mut self,
        watch: Box<Watch>,
        frame: Frame,
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) {
        cx.backend.unwatch(&watch.key, watch.ticket);
        let is_paused = watch.paused_until_ms.is_some();
        match watch.known {
            None if !is_paused => self.refuse(&refusals::deadline_exceeded(), frame, ws, cx),
            _ if cx.now_ms < watch.until_ms && !cx.draining => self.watch_on(watch, frame, ws, cx),
            None => self.look_last(*watch, frame, ws, cx),
            // Others may have been given another row meanwhile, one that was not cached when it was read.
            Some(seen) if seen.is_past(&watch.key, cx) => self.look_last(*watch, frame, ws, cx),
            Some(seen) => self.not_changed(seen, frame, ws, cx),
        }
    }

    /// True while it waits for a change.
    pub(super) fn is_watching(&self) -> bool {
        matches!(self.state, State::Waiting(_, Job::Watch(_)))
    }
}

/// The row that the client has already.
fn is_same(conditions: &Preconditions, current: Current) -> bool {
    conditions.on_read(current) == Verdict::NotModified
}
