//! One shard: the cache of its keys and what is in flight for them. Single-threaded, pure: takes requests and
//! outcomes, gives back decisions. Called under its lock by [`crate::store::backend`] (requests) and by the workers
//! (outcomes).
//!
//! The rules it keeps, so that the cache never lies:
//!
//! - One read a key at a time that others may join. What it brings is cached only if nothing has overtaken it.
//! - The end of a write that has happened, or may have, overtakes every read of the key: its waiters get what it read (they
//!   asked before the write was acknowledged), but it fills nothing, and nobody joins it any more.
//! - Whoever asks for what there is *now* has a read of its own, beside others. The first to end is cached; which of them
//!   looked last, nobody knows. One that ends behind it is cached if its row is what was told since it was sent; else it takes
//!   what is cached out. Without this a client could see what another program has written, and after it the old row again.
//! - A read that fills nothing may still tell its waiters of a write that is committed and not ended here. So while a
//!   write is under way, its answer takes the older row out of the cache, and overtakes every other read.
//! - What a read has told while a write was under way may be another program's, and newer than what the write has left. Where
//!   the two differ, the write's end takes out what is cached and puts nothing in its place. The row that the write before has
//!   left is no such row: it is the older one.
//! - While a write's outcome is unknown the key is *in doubt*: nothing of it is cached, every read goes to the
//!   database and fills nothing, until the writer has made sure that the old backend is gone.
//! - The writes of a key are executed by one writer, so that their outcomes come here in the order of their commits.
//!   Batches of many keys are executed by another one: where such a *foreign* write overlaps with any other, nobody
//!   here knows the order, and what they leave is not cached.
//! - Where a database has lost commits, all that was learned before is void: what is cached, and what is on its way.

use super::Row;
use super::Stats;
use super::cache::Cache;
pub use super::cache::{Held, Known};
use super::flights::{Fill, Flight, Flights, Told};
pub use super::flights::{ReadId, Writes};
#[cfg(test)]
use super::planted::PlantedBug;
use super::watchers::Watchers;
use crate::limits::{WAITERS, WAITERS_A_SHARD};
use crate::token::Ticket;
use ahash::RandomState;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a request for a value led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Get<R> {
    /// The cache answered.
    Answered(R),
    /// A reply will come to the ticket, from a read that was sent just now.
    Waiting,
    /// A reply will come to the ticket, from a read that was under way.
    Joined,
    /// The read could not be sent; nothing has changed.
    NotSent,
    /// Too many wait already, for this shard's keys or for those of all.
    TooManyWaiters,
}

/// Who is to hear of the end of a read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ReadDone {
    /// Who waits for it.
    pub waiters: Vec<Ticket>,
    /// Who else watches the key, where the row is not the one that they know of: another program has written it.
    pub watching: Vec<Ticket>,
}

/// What of the cache a request takes, and what it leaves there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Whatever is cached.
    Any,
    /// What is cached, if it is no older than so many seconds; else what is read is cached.
    AtMost(u32),
    /// What is read now, and is cached then.
    Now,
    /// What is read now; the cache is left as it is.
    Uncached,
}

/// One shard.
///
/// The cache comes first, for hits: see there.
#[derive(Debug)]
#[repr(C)]
pub struct Shard {
    cache: Cache,
    hasher: RandomState,
    flights: Flights,
    watchers: Watchers,
    next_read: u64,
    /// Over all flights. Whoever goes away while it waits stays here until its read ends.
    waiters: usize,
    /// Those of all shards.
    all_waiters: Arc<AtomicUsize>,
    late_fills: u64,
    in_doubt: usize,
    /// A bug for the simulation to find.
    #[cfg(test)]
    pub planted: Option<PlantedBug>,
}

impl Shard {
    /// An empty shard. `hasher` must be the one that makes the `hash` arguments; all shards count their waiters together.
    pub fn new(cache_bytes: usize, hasher: RandomState, all_waiters: Arc<AtomicUsize>) -> Shard {
        Shard {
            cache: Cache::new(cache_bytes, hasher.clone()),
            hasher,
            flights: Flights::default(),
            watchers: Watchers::default(),
            next_read: 0,
            waiters: 0,
            all_waiters,
            late_fills: 0,
            in_doubt: 0,
            #[cfg(test)]
            planted: None,
        }
    }

    /// A request for a value. `hit` is called with what the cache knows; `send` is called when the database must be
    /// asked, and says whether it took the job.
    #[inline]
    pub fn get<R>(
        &mut self,
        hash: u64,
        key: &str,
        now_s: u32,
        ticket: Ticket,
        hit: impl FnOnce(Known<'_>) -> R,
        send: impl FnOnce(ReadId) -> bool,
    ) -> Get<R> {
        // A key in doubt has nothing in the cache, so that a hit needs one lookup and no more.
        match self.cache.get(hash, key, now_s) {
            Some(known) => Get::Answered(hit(known)),
            None => self.miss(hash, key, ticket, send),
        }
    }

    /// The same for a request that does not take whatever is cached.
    pub fn get_fresh<R>(
        &mut self,
        (hash, key): (u64, &str),
        (now_s, freshness): (u32, Freshness),
        ticket: Ticket,
        hit: impl FnOnce(Known<'_>) -> R,
        send: impl FnOnce(ReadId) -> bool,
    ) -> Get<R> {
        let known = self.cache.get(hash, key, now_s);
        match (freshness, known) {
            (Freshness::Any, Some(known)) => Get::Answered(hit(known)),
            (Freshness::AtMost(most_s), Some(known)) if known.age_s() <= most_s => Get::Answered(hit(known)),
            (Freshness::Any, None) => self.miss(hash, key, ticket, send),
            // Not joined: a read that is on its way may have been answered before this was asked, nobody knows how long.
            (Freshness::AtMost(_) | Freshness::Now, _) => self.read(hash, key, ticket, false, send),
            (Freshness::Uncached, _) => self.read(hash, key, ticket, true, send),
        }
    }

    /// What the cache knows of a key, as far as the current table of its index tells ([`Cache::glance`]).
    #[inline(always)]
    pub fn glance<R>(
        &mut self,
        hash: u64,
        key: &[u8],
        now_s: u32,
        hit: impl FnOnce(Known<'_>) -> R,
    ) -> Option<R> {
        self.cache.glance(hash, key, now_s).map(hit)
    }

    /// What the cache knows of a key.
    pub fn peek<R>(
        &mut self,
        hash: u64,
        key: &[u8],
        now_s: u32,
        hit: impl FnOnce(Known<'_>) -> R,
    ) -> Option<R> {
        self.cache.get(hash, key, now_s).map(hit)
    }

    /// Waits until there may be another row of the key: the reply is sent by whoever ends a write of it, or a read that has found
    /// one. False: too many wait.
    pub fn watch(&mut self, hash: u64, key: &str, ticket: Ticket) -> bool {
        let known = self.cache.version(hash, key);
        self.watchers.add((hash, key), ticket, known, &self.hasher)
    }

    /// Whoever waited no longer does.
    pub fn unwatch(&mut self, hash: u64, key: &str, ticket: Ticket) {
        self.watchers.remove(hash, key, ticket, &self.hasher);
    }

    fn miss<R>(&mut self, hash: u64, key: &str, ticket: Ticket, send: impl FnOnce(ReadId) -> bool) -> Get<R> {
        if self.has_room_for_waiters()
            && let Some(read) = self.flights.find(hash, key).and_then(Flight::joinable)
        {
            read.waiters.push(ticket);
            self.count_waiter();
            return Get::Joined;
        }
        self.read(hash, key, ticket, false, send)
    }

    /// Threads that look here at the same moment may each let one in.
    fn has_room_for_waiters(&self) -> bool {
        self.waiters < WAITERS_A_SHARD && self.all_waiters.load(Ordering::Relaxed) < WAITERS
    }

    fn count_waiter(&mut self) {
        self.waiters += 1;
        self.all_waiters.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends a read.
    fn read<R>(
        &mut self,
        hash: u64,
        key: &str,
        ticket: Ticket,
        uncached: bool,
        send: impl FnOnce(ReadId) -> bool,
    ) -> Get<R> {
        if !self.has_room_for_waiters() {
            return Get::TooManyWaiters;
        }
        let id = ReadId(self.next_read);
        if !send(id) {
            return Get::NotSent;
        }
        self.next_read += 1;
        self.count_waiter();
        self.flights.find_or_make(hash, key, &self.hasher).read_sent(id, ticket, !uncached);
        Get::Waiting
    }

    /// A read has ended, with the row as it was at this time, or without an answer.
    pub fn read_done(
        &mut self,
        hash: u64,
        key: &str,
        id: ReadId,
        found: Option<&Row>,
        as_of_s: u32,
    ) -> ReadDone {
        let flight = self.flights.find(hash, key);
        let Some((flight, read)) = flight.and_then(|flight| flight.read_ended(id).map(|read| (flight, read)))
        else {
            return ReadDone::default();
        };
        self.waiters -= read.waiters.len();
        self.all_waiters.fetch_sub(read.waiters.len(), Ordering::Relaxed);
        let mut watching = Vec::new();
        if let Some(row) = found {
            let version = row.as_ref().map(|record| record.version);
            #[cfg(test)]
            let skip = self.planted == Some(PlantedBug::TimeRunsBack);
            #[cfg(not(test))]
            let skip = false;
            #[cfg(test)]
            let is_row = row.is_some() || self.planted == Some(PlantedBug::AbsentIsNoNews);
            #[cfg(not(test))]
            let is_row = row.is_some();
            match read.fill {
                // Nobody is told anything new: what else is on its way is no older than the row that has been cached all the time.
                Fill::Unless(_) if is_row && self.cache.version(hash, key) == Some(version) => {
                    self.cache.put(hash, key, row.as_ref(), as_of_s);
                }
                Fill::Unless(told) => {
                    // It was sent behind all that was told before: it is the newest if it is what was told since.
                    let agrees = told.agrees(version);
                    match agrees {
                        true => self.cache.put(hash, key, row.as_ref(), as_of_s),
                        false => self.cache.forget(hash, key),
                    }
                    flight.told(version);
                    // Whoever is told what others contradict looks again, too.
                    let told = if agrees { &read.waiters[..] } else { &[] };
                    watching = self.watchers.see(hash, key, version, told, &self.hasher);
                }
                // Its waiters may learn of a write that is committed and whose end has not got here yet. From then on
                // nobody may be given the row from before that write: not from the cache, and not from a read that
                // began earlier. What the last one has left is none of these.
                Fill::Late | Fill::Nothing if flight.is_written() && !flight.has_left(version) && !skip => {
                    self.cache.forget(hash, key);
                    flight.told(version);
                }
                Fill::Late | Fill::Nothing => {}
            }
            if matches!(read.fill, Fill::Late | Fill::Nothing) {
                self.watchers.may_know(hash, key, version);
            }
            self.late_fills += u64::from(read.fill == Fill::Late);
        }
        self.flights.drop_idle(hash, key);
        ReadDone { waiters: read.waiters, watching }
    }

    /// A foreign write is to be sent. False: a write of the key is in doubt, and its writer may try it again. What came
    /// between the two attempts would be undone by the second.
    pub fn may_send_foreign(&mut self, hash: u64, key: &str) -> bool {
        let in_doubt = self.flights.find(hash, key).is_some_and(|flight| flight.doubts > 0);
        if !in_doubt {
            self.write_sent(hash, key, Writes::Foreign);
        }
        !in_doubt
    }

    /// Whether a write of its own writer that is in doubt may be tried again: not if a foreign one has overlapped with it,
    /// for the same reason. If it may, it is sent behind this.
    pub fn may_try_again(&mut self, hash: u64, key: &str) -> bool {
        #[cfg(test)]
        if self.planted == Some(PlantedBug::TriedAgainBehindOthers) {
            return true;
        }
        self.flights.find(hash, key).is_none_or(|flight| {
            flight.told = Told::Nothing;
            !flight.mixed && flight.unclear == 0
        })
    }

    /// A write has been sent; call it where the write is queued, under the same lock, or before.
    pub fn write_sent(&mut self, hash: u64, key: &str, writes: Writes) {
        self.flights.find_or_make(hash, key, &self.hasher).writes_sent(writes);
    }

    /// These writes were committed together and left this row; `doubted`: after a doubt about them. Call it before
    /// anyone is answered. Returns who watches the key.
    pub fn committed(
        &mut self,
        hash: u64,
        key: &str,
        (writes, doubted): (Writes, bool),
        row: &Row,
        as_of_s: u32,
    ) -> Vec<Ticket> {
        let (mut mixed, mut void, mut is_newest) = (false, false, true);
        if let Some(flight) = self.flights.find(hash, key) {
            (mixed, void) = (flight.mixed || flight.unclear > 0, flight.void > 0);
            let version = row.as_ref().map(|record| record.version);
            is_newest = flight.told.agrees(version);
            if let Writes::Own(count) = writes {
                if version.is_some() && !void {
                    flight.left = version;
                }
                flight.unclear = flight.unclear.saturating_sub(count);
                flight.void = flight.void.saturating_sub(count);
                // The next one is sent to the database only now, behind all that was told so far.
                flight.told = Told::Nothing;
            }
        }
        #[cfg(test)]
        let mixed = mixed && self.planted != Some(PlantedBug::MixedWritesAreCached);
        #[cfg(test)]
        let is_newest = is_newest || self.planted == Some(PlantedBug::TheEndIsTheNewest);
        #[cfg(test)]
        let keep = row.is_none() && self.planted == Some(PlantedBug::DeleteForgetsToForget);
        #[cfg(not(test))]
        let keep = false;
        match mixed || void || !is_newest {
            true => self.cache.forget(hash, key),
            false if keep => {}
            false => self.cache.put(hash, key, row.as_ref(), as_of_s),
        }
        self.write_ended(hash, key, writes);
        if doubted {
            self.doubt_ended(hash, key);
        }
        self.watchers.take(hash, key)
    }

    /// These writes were committed, and what they left is nobody's to cache: what is cached of the key is forgotten. Call it
    /// before anyone is answered. Returns who watches the key.
    pub fn replaced(&mut self, hash: u64, key: &str, writes: Writes) -> Vec<Ticket> {
        #[cfg(test)]
        let keep = self.planted == Some(PlantedBug::LoadForgetsToForget);
        #[cfg(not(test))]
        let keep = false;
        if !keep {
            self.cache.forget(hash, key);
        }
        self.write_ended(hash, key, writes);
        self.watchers.take(hash, key)
    }

    /// These writes certainly did not happen: reads go on as they were. If another write is in doubt, that one stays so.
    pub fn refused(&mut self, hash: u64, key: &str, writes: Writes) {
        if let Some(flight) = self.flights.find(hash, key) {
            flight.writes_ended(writes);
        }
        self.flights.drop_idle(hash, key);
    }

    /// These writes have found a row of this version, or none, that they leave as it is, and their clients learn something
    /// of it. That may be the row of another write that is committed and not ended here: nobody may be given the row from
    /// before that one. Or another program has written it: a client that is told that its version is an old one would
    /// get the same version again, for as long as it is cached. Returns who watches the key, if they do not know of that.
    pub fn unchanged(&mut self, hash: u64, key: &str, writes: Writes, found: Option<u32>) -> Vec<Ticket> {
        let mut is_written = false;
        if let Some(flight) = self.flights.find(hash, key) {
            flight.writes_ended(writes);
            flight.told(found);
            if matches!(writes, Writes::Own(_)) {
                flight.told = Told::Nothing;
            }
            is_written = flight.is_written();
        }
        if is_written {
            self.cache.forget(hash, key);
        } else {
            self.cache.forget_unless(hash, key, found);
        }
        self.flights.drop_idle(hash, key);
        self.watchers.see(hash, key, found, &[], &self.hasher)
    }

    /// The outcome of writes under way is unknown: they may have happened, or happen later. Once for all writes of
    /// the key in one statement; [`Shard::committed`] after it, or [`Shard::unknown`], ends it.
    pub fn doubt(&mut self, hash: u64, key: &str) {
        self.forget_in_doubt(hash, key);
        if let Some(flight) = self.flights.find(hash, key) {
            flight.overtaken();
            flight.doubts += 1;
            self.in_doubt += usize::from(flight.doubts == 1);
        }
    }

    /// These writes, which were in doubt, ended without anyone knowing how, but they can no longer happen later.
    /// Returns who watches the key.
    pub fn unknown(&mut self, hash: u64, key: &str, writes: Writes) -> Vec<Ticket> {
        self.forget_in_doubt(hash, key);
        self.write_ended(hash, key, writes);
        self.doubt_ended(hash, key);
        #[cfg(test)]
        if self.planted == Some(PlantedBug::UnknownIsNoChange) {
            return Vec::new();
        }
        self.watchers.take(hash, key)
    }

    /// Whatever the database has said until now may be true no longer: all is forgotten, what is being read fills nothing,
    /// and what is being written is not cached. Returns what was cached, to be dropped when the lock is free, and who waits for
    /// a change of a key.
    #[must_use = "it is to be dropped where nobody waits"]
    pub fn forget_all(&mut self) -> (Cache, Vec<Ticket>) {
        for flight in self.flights.iter_mut() {
            flight.overtaken();
            flight.mixed |= flight.foreign > 0;
            // Its number may be given to another row.
            flight.left = None;
            #[cfg(test)]
            if self.planted == Some(PlantedBug::LostCommitsAreCached) {
                continue;
            }
            flight.void = flight.writes;
        }
        (self.cache.forget_all(), self.watchers.take_all())
    }

    /// Sums for the metrics.
    pub fn stats(&self) -> Stats {
        Stats {
            entries: self.cache.len(),
            bytes: self.cache.bytes(),
            evicted: self.cache.evicted(),
            late_fills: self.late_fills,
            in_flight: self.flights.len(),
            in_doubt: self.in_doubt,
            watchers: self.watchers.len(),
        }
    }

    /// These writes have happened, or may have: what is being read may be older than what they have left.
    fn write_ended(&mut self, hash: u64, key: &str, writes: Writes) {
        let Some(flight) = self.flights.find(hash, key) else { return };
        flight.writes_ended(writes);
        #[cfg(test)]
        let keep_flight = self.planted == Some(PlantedBug::LateRefill);
        #[cfg(not(test))]
        let keep_flight = false;
        if !keep_flight {
            flight.overtaken();
        }
        self.flights.drop_idle(hash, key);
    }

    /// Nobody knows what the row is, or will be.
    fn forget_in_doubt(&mut self, hash: u64, key: &str) {
        #[cfg(test)]
        if self.planted == Some(PlantedBug::KeepInDoubt) {
            return;
        }
        self.cache.forget(hash, key);
    }

    /// A write that was in doubt has an ending.
    fn doubt_ended(&mut self, hash: u64, key: &str) {
        if let Some(flight) = self.flights.find(hash, key)
            && flight.doubts > 0
        {
            flight.doubts -= 1;
            self.in_doubt -= usize::from(flight.doubts == 0);
            self.flights.drop_idle(hash, key);
        }
    }
}

#[cfg(test)]
mod tests;
