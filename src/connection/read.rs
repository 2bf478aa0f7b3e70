//! A GET of one key: what the cache knows is answered, the database is asked for the rest. The usual way, and as its
//! fields ask for it: as fresh as they want, under conditions; waiting for a change is in [`super::watch`]. Called by
//! [`super::requests`].

use super::jobs::Job;
use super::watch::Watch;
use super::{Connection, Context, Workspace};
use crate::api::answer::{self, Forward};
use crate::api::refusals;
use crate::api::wishes::Wishes;
use crate::engine::shard::{Freshness, Known};
use crate::http::conditional::Preconditions;
use crate::http::response::{Frame, Reuse};
use crate::metrics::Method;
use crate::store::backend::Asked;

impl Connection {
    /// The way of most requests: a GET whose fields ask for nothing in particular, of a key that is cached.
    #[inline(always)]
    pub(super) fn get_literal(&mut self, key: &[u8], keep_alive: bool, ws: &mut Workspace, cx: &Context<'_>) {
        let reuse = if keep_alive && !cx.draining { Reuse::Silent } else { Reuse::Close };
        let frame = Frame { head_only: false, reuse, audience: self.audience(None, ws) };
        let Workspace { output, encoder, .. } = ws;
        match cx.backend.glance(key, cx.now_s, |known| answer::hit(encoder, output, &known, frame)) {
            Some(()) => self.hit(frame, ws, cx),
            None => self.ask(text(key), frame, ws, cx),
        }
    }

    /// The same where the request was read. Not inlined: what it needs would be kept ready on the short way, too.
    #[inline(never)]
    pub(super) fn get(&mut self, key: &str, frame: Frame, ws: &mut Workspace, cx: &Context<'_>) {
        let Workspace { output, encoder, .. } = ws;
        match cx.backend.glance(key.as_bytes(), cx.now_s, |known| answer::hit(encoder, output, &known, frame))
        {
            Some(()) => self.hit(frame, ws, cx),
            None => self.ask(key, frame, ws, cx),
        }
    }

    /// A GET of a key that was not known at first sight.
    #[inline(never)]
    fn ask(&mut self, key: &str, frame: Frame, ws: &mut Workspace, cx: &Context<'_>) {
        let ticket = self.ticket(cx);
        let Workspace { output, encoder, .. } = ws;
        let hit = |known: Known<'_>| {
            answer::hit(encoder, output, &known, frame);
            is_absent(&known)
        };
        let asked = cx.backend.get(key, cx.now_s, ticket, hit);
        self.take_asked(asked, Job::Read(Forward::Miss, None), frame, ws, cx);
    }

    /// The cache has answered, and the answer is encoded.
    #[inline]
    pub(super) fn hit(&mut self, frame: Frame, ws: &mut Workspace, cx: &Context<'_>) {
        // Without conditions only that tells what the cache knew.
        let absent = ws.encoder.status() == 404;
        self.known(absent, frame, ws, cx);
    }

    /// The same, where the cache knew that there is no such key, or knew a value.
    #[inline]
    fn known(&mut self, absent: bool, frame: Frame, ws: &mut Workspace, cx: &Context<'_>) {
        let method = if frame.head_only { Method::Head } else { Method::Get };
        cx.counters.hit(method, ws.encoder.status(), absent);
        self.go_on(frame, ws, cx);
    }

    /// Goes on as the look-up of a key says, which has answered from what the cache knew: that there is no such key, or a value.
    pub(super) fn take_asked(
        &mut self,
        asked: Asked<bool>,
        job: Job,
        frame: Frame,
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) {
        let method = if frame.head_only { Method::Head } else { Method::Get };
        match asked {
            Asked::Answered(absent) => {
                self.count_problem(ws, cx);
                self.known(absent, frame, ws, cx);
            }
            Asked::Waiting | Asked::Joined => {
                self.method = method;
                cx.counters.cache_misses.add(1);
                let job = match job {
                    Job::Read(Forward::Miss, conditions) if matches!(asked, Asked::Joined) => {
                        Job::Read(Forward::Collapsed, conditions)
                    }
                    job => job,
                };
                self.wait(frame, job, cx);
            }
            Asked::Refused(refusal) => {
                self.method = method;
                cx.counters.cache_misses.add(1);
                self.refuse(&refusals::refused(refusal), frame, ws, cx);
            }
        }
    }

    /// A GET with fields about conditions, the cache, or waiting.
    pub(super) fn get_as_wished(
        &mut self,
        key: &str,
        wishes: Wishes,
        frame: Frame,
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) {
        // Who forbids to ask the table has nothing to wait for (RFC 9111 section 5.2.1.7).
        let watches = wishes.is_watch() && !wishes.only_if_cached && !cx.draining;
        let Wishes { conditions, freshness, only_if_cached, wait_s, .. } = wishes;
        match (conditions, wait_s) {
            (Some(conditions), Some(wait_s)) if watches => {
                let until_ms = cx.now_ms + u64::from(wait_s) * 1_000;
                let ticket = self.ticket(cx);
                let watch = Watch::new(key, conditions, until_ms, freshness, ticket);
                self.watch(Box::new(watch), freshness, frame, ws, cx);
            }
            (conditions, _) if only_if_cached => {
                self.get_cached(key, freshness, conditions.as_deref(), frame, ws, cx);
            }
            (conditions, _) => {
                self.get_fresh(key, freshness, conditions, frame, ws, cx);
            }
        }
    }

    /// As fresh as this, under conditions.
    pub(super) fn get_fresh(
        &mut self,
        key: &str,
        freshness: Freshness,
        conditions: Option<Box<Preconditions>>,
        frame: Frame,
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) {
        let ticket = self.ticket(cx);
        let Workspace { output, encoder, .. } = ws;
        let hit = |known: Known<'_>| {
            answer::hit_if(encoder, output, &known, conditions.as_deref(), frame);
            is_absent(&known)
        };
        let asked = cx.backend.get_fresh(key, (cx.now_s, freshness), ticket, hit);
        self.take_asked(asked, Job::Read(forward(freshness), conditions), frame, ws, cx);
    }

    /// Only if cached.
    fn get_cached(
        &mut self,
        key: &str,
        freshness: Freshness,
        conditions: Option<&Preconditions>,
        frame: Frame,
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) {
        let most_s = match freshness {
            Freshness::Any => Some(u32::MAX),
            Freshness::AtMost(most_s) => Some(most_s),
            Freshness::Now | Freshness::Uncached => None,
        };
        let Workspace { output, encoder, .. } = ws;
        let hit = |known: Known<'_>| {
            let fresh = most_s.is_some_and(|most_s| known.age_s() <= most_s);
            fresh.then(|| {
                answer::hit_if(encoder, output, &known, conditions, frame);
                is_absent(&known)
            })
        };
        match cx.backend.peek(key.as_bytes(), cx.now_s, hit).flatten() {
            Some(absent) => {
                self.count_problem(ws, cx);
                self.known(absent, frame, ws, cx);
            }
            None => {
                cx.counters.cache_misses.add(1);
                self.refuse(&refusals::not_cached(), frame, ws, cx);
            }
        }
    }
}

/// Whether the cache knows that there is no such key.
pub(super) fn is_absent(known: &Known<'_>) -> bool {
    matches!(known, Known::Absent { .. })
}

/// Why a read that is to be as fresh as this goes to the database.
pub(super) fn forward(freshness: Freshness) -> Forward {
    match freshness {
        Freshness::Any => Forward::Miss,
        Freshness::AtMost(_) | Freshness::Now => Forward::Request,
        Freshness::Uncached => Forward::Bypass,
    }
}

/// A key that stands for itself.
fn text(literal: &[u8]) -> &str {
    str::from_utf8(literal).expect("a literal path is ASCII")
}
