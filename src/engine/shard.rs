//! One shard: the cache of its keys and what is in flight for them. Single-threaded, pure: takes requests and
//! outcomes, gives back decisions. Called under its lock by [`crate::store::backend`] (requests) and by the workers
//! (outcomes).
//!
//! The rules it keeps, so that the cache never lies:
//!
//! - One read a key at a time that others may join. What it brings is cached only if it still *owns its flight*.
//! - The end of a write, however it ended, takes the flight from every read of the key: its waiters get what it read
//!   (they asked before the write was acknowledged), but it fills nothing, and nobody joins it any more.
//! - A read that fills nothing may still tell its waiters of a write that is committed and not ended here. So while a
//!   write is under way, its answer takes the older row out of the cache, and the flight from every other read.
//!   Without this a client could see a new value, and after it the old one again.
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
use super::watchers::Watchers;
use crate::limits::{WAITERS, WAITERS_A_SHARD};
use crate::token::Ticket;
use ahash::RandomState;
use hashbrown::HashTable;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where one read of the database belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadId(u64);

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
    /// Too many wait for this shard's keys already.
    TooManyWaiters,
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

/// Whose a write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// So many of the key's own writer.
    Own(u32),
    /// One of another writer: part of a batch of many keys.
    Foreign,
}

/// One shard. Invariant: a flight exists exactly while a read or a write of its key is out or in doubt.
///
/// The cache comes first, for hits: see there.
#[derive(Debug)]
#[repr(C)]
pub struct Shard {
    cache: Cache,
    hasher: RandomState,
    flights: HashTable<Flight>,
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

/// What is out for one key.
#[derive(Debug)]
struct Flight {
    key: Box<str>,
    /// Reads on their way. Only the last one can own the flight.
    reads: Vec<Read>,
    /// Writes of its own writer, sent and not ended.
    writes: u32,
    /// Writes of others, sent and not ended.
    foreign: u32,
    /// A foreign write that is not ended has overlapped with another one, or with a moment in which everything was forgotten.
    mixed: bool,
    /// Own writes that were on their way when the last foreign one that overlapped with them ended: each may have come before it or
    /// behind it. They are committed in their order: once so many are, what comes next came behind it.
    unclear: u32,
    /// Own writes that were on their way when everything was forgotten: what they leave is not cached.
    void: u32,
    /// Writes of unknown outcome that may still happen.
    doubts: u32,
}

impl Flight {
    fn new(key: &str) -> Flight {
        Flight {
            key: key.into(),
            reads: Vec::new(),
            writes: 0,
            foreign: 0,
            mixed: false,
            unclear: 0,
            void: 0,
            doubts: 0,
        }
    }

    fn is_written(&self) -> bool {
        self.writes > 0 || self.foreign > 0
    }

    fn is_idle(&self) -> bool {
        self.reads.is_empty() && !self.is_written() && self.doubts == 0
    }
}

#[derive(Debug)]
struct Read {
    id: ReadId,
    waiters: Vec<Ticket>,
    /// Still allowed to fill the cache, and to be joined.
    owns_flight: bool,
    /// It was never meant to.
    uncached: bool,
}

/// Bugs that the simulation must catch; each takes one rule away.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlantedBug {
    /// A write's end leaves reads their flight: an old value is cached after a newer one was acknowledged.
    LateRefill,
    /// A write of unknown outcome leaves the old value in the cache.
    KeepInDoubt,
    /// A DELETE leaves the value in the cache.
    DeleteForgetsToForget,
    /// A read that fills nothing tells of a write under way, and the next hit does not know of it.
    TimeRunsBack,
    /// Of two writers whose writes of a key overlap, the one that is heard of last is taken for the last to commit.
    MixedWritesAreCached,
    /// A write in doubt is tried again although another writer has written the key since.
    TriedAgainBehindOthers,
    /// What a bulk load has replaced stays in the cache.
    LoadForgetsToForget,
}

impl Shard {
    /// An empty shard. `hasher` must be the one that makes the `hash` arguments; all shards count their waiters together.
    pub fn new(cache_bytes: usize, hasher: RandomState, all_waiters: Arc<AtomicUsize>) -> Shard {
        Shard {
            cache: Cache::new(cache_bytes, hasher.clone()),
            hasher,
            flights: HashTable::new(),
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

    /// Waits for the next write of the key: the reply is sent by whoever ends it. False: too many wait.
    pub fn watch(&mut self, hash: u64, key: &str, ticket: Ticket) -> bool {
        self.watchers.add(hash, key, ticket, &self.hasher)
    }

    /// Whoever waited no longer does.
    pub fn unwatch(&mut self, hash: u64, key: &str, ticket: Ticket) {
        self.watchers.remove(hash, key, ticket, &self.hasher);
    }

    fn miss<R>(&mut self, hash: u64, key: &str, ticket: Ticket, send: impl FnOnce(ReadId) -> bool) -> Get<R> {
        if self.has_room_for_waiters()
            && let Some(flight) = find_flight(&mut self.flights, hash, key)
            && let Some(read) = flight.reads.last_mut().filter(|read| read.owns_flight)
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

    /// Sends a read. It takes the flight from every earlier one, unless it is not to be cached.
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
        let flight = self.flight(hash, key);
        let owns_flight = flight.doubts == 0 && !uncached;
        let read = Read { id, waiters: vec![ticket], owns_flight, uncached };
        if uncached {
            // Not behind the one that owns the flight: only the last is joined.
            flight.reads.insert(0, read);
        } else {
            detach(flight);
            flight.reads.push(read);
        }
        Get::Waiting
    }

    /// A read has ended, with the row as it was at this time, or without an answer. Returns who waits for it.
    pub fn read_done(
        &mut self,
        hash: u64,
        key: &str,
        id: ReadId,
        found: Option<&Row>,
        as_of_s: u32,
    ) -> Vec<Ticket> {
        let Some(flight) = find_flight(&mut self.flights, hash, key) else { return Vec::new() };
        let Some(at) = flight.reads.iter().position(|read| read.id == id) else { return Vec::new() };
        let read = flight.reads.remove(at);
        self.waiters -= read.waiters.len();
        self.all_waiters.fetch_sub(read.waiters.len(), Ordering::Relaxed);
        match found {
            Some(row) if read.owns_flight => self.cache.put(hash, key, row.as_ref(), as_of_s),
            Some(_) => {
                self.late_fills += u64::from(!read.uncached);
                #[cfg(test)]
                let skip = self.planted == Some(PlantedBug::TimeRunsBack);
                #[cfg(not(test))]
                let skip = false;
                // Its waiters may learn of a write that is committed and whose end has not got here yet. From then on
                // nobody may be given the row from before that write: not from the cache, and not from a read that
                // began earlier.
                if flight.is_written() && !skip {
                    detach(flight);
                    self.cache.forget(hash, key);
                }
            }
            None => {}
        }
        self.drop_idle_flight(hash, key);
        read.waiters
    }

    /// A foreign write is to be sent. False: a write of the key is in doubt, and its writer may try it again. What came
    /// between the two attempts would be undone by the second.
    pub fn may_send_foreign(&mut self, hash: u64, key: &str) -> bool {
        let in_doubt = find_flight(&mut self.flights, hash, key).is_some_and(|flight| flight.doubts > 0);
        if !in_doubt {
            self.write_sent(hash, key, Writes::Foreign);
        }
        !in_doubt
    }

    /// Whether a write of its own writer that is in doubt may be tried again: not if a foreign one has overlapped with it,
    /// for the same reason.
    pub fn may_try_again(&mut self, hash: u64, key: &str) -> bool {
        #[cfg(test)]
        if self.planted == Some(PlantedBug::TriedAgainBehindOthers) {
            return true;
        }
        find_flight(&mut self.flights, hash, key).is_none_or(|flight| !flight.mixed && flight.unclear == 0)
    }

    /// A write has been sent; call it where the write is queued, under the same lock, or before.
    pub fn write_sent(&mut self, hash: u64, key: &str, writes: Writes) {
        let flight = self.flight(hash, key);
        match writes {
            Writes::Own(count) => {
                flight.mixed |= flight.foreign > 0;
                flight.writes += count;
            }
            Writes::Foreign => {
                flight.mixed |= flight.is_written();
                flight.foreign += 1;
            }
        }
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
        #[cfg(test)]
        if row.is_none() && self.planted == Some(PlantedBug::DeleteForgetsToForget) {
            self.write_ended(hash, key, writes);
            return Vec::new();
        }
        let (mut mixed, mut void) = (false, false);
        if let Some(flight) = find_flight(&mut self.flights, hash, key) {
            (mixed, void) = (flight.mixed || flight.unclear > 0, flight.void > 0);
            if let Writes::Own(count) = writes {
                flight.unclear = flight.unclear.saturating_sub(count);
                flight.void = flight.void.saturating_sub(count);
            }
        }
        #[cfg(test)]
        let mixed = mixed && self.planted != Some(PlantedBug::MixedWritesAreCached);
        if mixed || void {
            self.cache.forget(hash, key);
        } else {
            self.cache.put(hash, key, row.as_ref(), as_of_s);
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

    /// These writes certainly did not happen. If another one is in doubt, that one stays so.
    pub fn refused(&mut self, hash: u64, key: &str, writes: Writes) {
        self.write_ended(hash, key, writes);
    }

    /// These writes have found a row of this version, or none, that they leave as it is, and their clients learn something
    /// of it. That may be the row of another write that is committed and not ended here: nobody may be given the row from
    /// before that one. Or another program has written it: a client that is told that its version is an old one would
    /// get the same version again, for as long as it is cached.
    pub fn unchanged(&mut self, hash: u64, key: &str, writes: Writes, found: Option<u32>) {
        self.write_ended(hash, key, writes);
        if find_flight(&mut self.flights, hash, key).is_some_and(|flight| flight.is_written()) {
            self.cache.forget(hash, key);
        } else {
            self.cache.forget_unless(hash, key, found);
        }
    }

    /// The outcome of writes under way is unknown: they may have happened, or happen later. Once for all writes of
    /// the key in one statement; [`Shard::committed`] after it, or [`Shard::unknown`], ends it.
    pub fn doubt(&mut self, hash: u64, key: &str) {
        #[cfg(test)]
        if self.planted == Some(PlantedBug::KeepInDoubt) {
            return;
        }
        self.cache.forget(hash, key);
        if let Some(flight) = find_flight(&mut self.flights, hash, key) {
            detach(flight);
            flight.doubts += 1;
            self.in_doubt += usize::from(flight.doubts == 1);
        }
    }

    /// These writes, which were in doubt, ended without anyone knowing how, but they can no longer happen later.
    /// Returns who watches the key.
    pub fn unknown(&mut self, hash: u64, key: &str, writes: Writes) -> Vec<Ticket> {
        #[cfg(test)]
        if self.planted == Some(PlantedBug::KeepInDoubt) {
            self.write_ended(hash, key, writes);
            return Vec::new();
        }
        self.cache.forget(hash, key);
        self.write_ended(hash, key, writes);
        self.doubt_ended(hash, key);
        self.watchers.take(hash, key)
    }

    /// Whatever the database has said until now may be true no longer: all is forgotten, what is being read fills nothing,
    /// and what is being written is not cached. Returns what was cached, to be dropped when the lock is free, and who waits for
    /// a change of a key.
    #[must_use = "it is to be dropped where nobody waits"]
    pub fn forget_all(&mut self) -> (Cache, Vec<Ticket>) {
        for flight in &mut self.flights {
            detach(flight);
            flight.mixed |= flight.foreign > 0;
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

    fn write_ended(&mut self, hash: u64, key: &str, writes: Writes) {
        let Some(flight) = find_flight(&mut self.flights, hash, key) else { return };
        let (sent, ended) = match writes {
            Writes::Own(count) => (&mut flight.writes, count),
            Writes::Foreign => (&mut flight.foreign, 1),
        };
        debug_assert!(*sent >= ended, "more writes ended than were sent");
        *sent -= ended;
        if flight.foreign == 0 && std::mem::take(&mut flight.mixed) {
            flight.unclear = flight.writes;
        }
        if !flight.is_written() {
            (flight.unclear, flight.void) = (0, 0);
        }
        #[cfg(test)]
        let keep_flight = self.planted == Some(PlantedBug::LateRefill);
        #[cfg(not(test))]
        let keep_flight = false;
        if !keep_flight {
            detach(flight);
        }
        self.drop_idle_flight(hash, key);
    }

    /// A write that was in doubt has an ending.
    fn doubt_ended(&mut self, hash: u64, key: &str) {
        if let Some(flight) = find_flight(&mut self.flights, hash, key)
            && flight.doubts > 0
        {
            flight.doubts -= 1;
            self.in_doubt -= usize::from(flight.doubts == 0);
            self.drop_idle_flight(hash, key);
        }
    }

    /// The flight of a key, made if there is none.
    fn flight(&mut self, hash: u64, key: &str) -> &mut Flight {
        let hasher = &self.hasher;
        self.flights
            .entry(hash, |flight| &*flight.key == key, |flight| hasher.hash_one(flight.key.as_bytes()))
            .or_insert_with(|| Flight::new(key))
            .into_mut()
    }

    fn drop_idle_flight(&mut self, hash: u64, key: &str) {
        if let Ok(place) = self.flights.find_entry(hash, |flight| &*flight.key == key)
            && place.get().is_idle()
        {
            place.remove();
        }
    }
}

fn find_flight<'a>(flights: &'a mut HashTable<Flight>, hash: u64, key: &str) -> Option<&'a mut Flight> {
    flights.find_mut(hash, |flight| &*flight.key == key)
}

fn detach(flight: &mut Flight) {
    for read in &mut flight.reads {
        read.owns_flight = false;
    }
}

#[cfg(test)]
mod tests;
