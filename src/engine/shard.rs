//! One shard: the cache of its keys and what is in flight for them. Single-threaded, pure: takes requests and
//! outcomes, gives back decisions. Called under its lock by [`crate::store::backend`] (requests) and by the workers
//! (outcomes).
//!
//! The rules it keeps (DESIGN: "The cache never lies"):
//!
//! - One read a key at a time that others may join. What it brings is cached only if it still *owns its flight*.
//! - The end of a write, however it ended, takes the flight from every read of the key: its waiters get what it read
//!   (they asked before the write was acknowledged), but it fills nothing, and nobody joins it any more.
//! - A read that fills nothing may still tell its waiters of a write that is committed and not ended here. So while a
//!   write is under way, its answer takes the older row out of the cache, and the flight from every other read.
//!   Without this a client could see a new value, and after it the old one again.
//! - While a write's outcome is unknown the key is *in doubt*: nothing of it is cached, every read goes to the
//!   database and fills nothing, until the writer has made sure that the old backend is gone.

use super::Stats;
use super::cache::{Cache, Known};
use crate::engine::Value;
use crate::http::response::Lent;
use crate::limits::WAITERS_A_SHARD;
use crate::token::Ticket;
use ahash::RandomState;
use hashbrown::HashTable;

/// Where one read of the database belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadId(u64);

/// What a request for a value led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Get<R> {
    /// The cache answered.
    Answered(R),
    /// A reply will come to the ticket: from a read sent just now, or from one that was under way.
    Waiting,
    /// The read could not be sent; nothing has changed.
    NotSent,
    /// Too many wait for this shard's keys already.
    TooManyWaiters,
}

/// A cached answer, lent for encoding.
#[derive(Debug)]
pub enum Hit<'a> {
    /// The value and its version.
    Value(Lent<'a>, u32),
    /// There is no such key.
    Absent,
}

/// A row as it was read or written: the value and its version, or that there is none.
pub type Row = Option<(Value, u32)>;

/// One shard. Invariant: a flight exists exactly while a read or a write of its key is out or in doubt.
#[derive(Debug)]
pub struct Shard {
    cache: Cache,
    hasher: RandomState,
    flights: HashTable<Flight>,
    next_read: u64,
    /// Over all flights. Whoever goes away while it waits stays here until its read ends.
    waiters: usize,
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
    /// Writes sent and not ended.
    writes: u32,
    in_doubt: bool,
}

#[derive(Debug)]
struct Read {
    id: ReadId,
    waiters: Vec<Ticket>,
    /// Still allowed to fill the cache, and to be joined.
    owns_flight: bool,
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
}

impl Shard {
    /// An empty shard. `hasher` must be the one that makes the `hash` arguments.
    pub fn new(cache_bytes: usize, hasher: RandomState) -> Shard {
        Shard {
            cache: Cache::new(cache_bytes, hasher.clone()),
            hasher,
            flights: HashTable::new(),
            next_read: 0,
            waiters: 0,
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
        ticket: Ticket,
        hit: impl FnOnce(Hit<'_>) -> R,
        send: impl FnOnce(ReadId) -> bool,
    ) -> Get<R> {
        // A key in doubt has nothing in the cache, so that a hit needs one lookup and no more.
        match self.cache.get(hash, key) {
            Some(Known::Value(value, version)) => Get::Answered(hit(Hit::Value(value, version))),
            Some(Known::Absent) => Get::Answered(hit(Hit::Absent)),
            None => self.miss(hash, key, ticket, send),
        }
    }

    fn miss<R>(&mut self, hash: u64, key: &str, ticket: Ticket, send: impl FnOnce(ReadId) -> bool) -> Get<R> {
        if self.waiters >= WAITERS_A_SHARD {
            return Get::TooManyWaiters;
        }
        let id = ReadId(self.next_read);
        if let Some(flight) = find_flight(&mut self.flights, hash, key) {
            if let Some(read) = flight.reads.last_mut().filter(|read| read.owns_flight) {
                read.waiters.push(ticket);
                self.waiters += 1;
                return Get::Waiting;
            }
            if !send(id) {
                return Get::NotSent;
            }
            flight.reads.push(Read { id, waiters: vec![ticket], owns_flight: !flight.in_doubt });
        } else {
            if !send(id) {
                return Get::NotSent;
            }
            let reads = vec![Read { id, waiters: vec![ticket], owns_flight: true }];
            self.add_flight(hash, Flight { key: key.into(), reads, writes: 0, in_doubt: false });
        }
        self.next_read += 1;
        self.waiters += 1;
        Get::Waiting
    }

    /// A read has ended, with the row or without an answer. Returns who waits for it.
    pub fn read_done(&mut self, hash: u64, key: &str, id: ReadId, found: Option<&Row>) -> Vec<Ticket> {
        let Some(flight) = find_flight(&mut self.flights, hash, key) else { return Vec::new() };
        let Some(at) = flight.reads.iter().position(|read| read.id == id) else { return Vec::new() };
        let read = flight.reads.remove(at);
        self.waiters -= read.waiters.len();
        match found {
            Some(row) if read.owns_flight => put(&mut self.cache, hash, key, row),
            Some(_) => {
                self.late_fills += 1;
                #[cfg(test)]
                let skip = self.planted == Some(PlantedBug::TimeRunsBack);
                #[cfg(not(test))]
                let skip = false;
                // Its waiters may learn of a write that is committed and whose end has not got here yet. From then on
                // nobody may be given the row from before that write: not from the cache, and not from a read that
                // began earlier.
                if flight.writes > 0 && !skip {
                    detach(flight);
                    self.cache.forget(hash, key);
                }
            }
            None => {}
        }
        self.drop_idle_flight(hash, key);
        read.waiters
    }

    /// A write has been sent; call it where the write is queued, under the same lock.
    pub fn write_sent(&mut self, hash: u64, key: &str) {
        if let Some(flight) = find_flight(&mut self.flights, hash, key) {
            flight.writes += 1;
        } else {
            self.add_flight(hash, Flight { key: key.into(), reads: Vec::new(), writes: 1, in_doubt: false });
        }
    }

    /// So many writes of this key were committed together and left this row. Call it before anyone is answered.
    pub fn committed(&mut self, hash: u64, key: &str, writes: u32, row: &Row) {
        #[cfg(test)]
        if row.is_none() && self.planted == Some(PlantedBug::DeleteForgetsToForget) {
            self.write_ended(hash, key, writes);
            return;
        }
        put(&mut self.cache, hash, key, row);
        self.doubt_ended(hash, key);
        self.write_ended(hash, key, writes);
    }

    /// So many writes of this key certainly did not happen. If another one is in doubt, that one stays so.
    pub fn refused(&mut self, hash: u64, key: &str, writes: u32) {
        self.write_ended(hash, key, writes);
    }

    /// The outcome of a write under way is unknown: it may have happened, or happen later.
    pub fn doubt(&mut self, hash: u64, key: &str) {
        #[cfg(test)]
        if self.planted == Some(PlantedBug::KeepInDoubt) {
            return;
        }
        self.cache.forget(hash, key);
        if let Some(flight) = find_flight(&mut self.flights, hash, key) {
            detach(flight);
            if !flight.in_doubt {
                flight.in_doubt = true;
                self.in_doubt += 1;
            }
        }
    }

    /// So many writes of this key ended without anyone knowing how, but they can no longer happen later.
    pub fn unknown(&mut self, hash: u64, key: &str, writes: u32) {
        #[cfg(test)]
        if self.planted == Some(PlantedBug::KeepInDoubt) {
            self.write_ended(hash, key, writes);
            return;
        }
        self.cache.forget(hash, key);
        self.doubt_ended(hash, key);
        self.write_ended(hash, key, writes);
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
        }
    }

    fn write_ended(&mut self, hash: u64, key: &str, writes: u32) {
        let Some(flight) = find_flight(&mut self.flights, hash, key) else { return };
        debug_assert!(flight.writes >= writes, "more writes ended than were sent");
        flight.writes -= writes;
        #[cfg(test)]
        let keep_flight = self.planted == Some(PlantedBug::LateRefill);
        #[cfg(not(test))]
        let keep_flight = false;
        if !keep_flight {
            detach(flight);
        }
        self.drop_idle_flight(hash, key);
    }

    /// The write that was in doubt has an ending. One writer does all writes of a key, one batch after the other: what
    /// it commits or gives up is what was in doubt, if anything was.
    fn doubt_ended(&mut self, hash: u64, key: &str) {
        if let Some(flight) = find_flight(&mut self.flights, hash, key)
            && std::mem::take(&mut flight.in_doubt)
        {
            self.in_doubt -= 1;
        }
    }

    fn add_flight(&mut self, hash: u64, flight: Flight) {
        let hasher = &self.hasher;
        self.flights.insert_unique(hash, flight, |flight| hasher.hash_one(flight.key.as_bytes()));
    }

    fn drop_idle_flight(&mut self, hash: u64, key: &str) {
        if let Ok(place) = self.flights.find_entry(hash, |flight| &*flight.key == key) {
            let flight = place.get();
            if flight.reads.is_empty() && flight.writes == 0 && !flight.in_doubt {
                place.remove();
            }
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

fn put(cache: &mut Cache, hash: u64, key: &str, row: &Row) {
    match row {
        Some((value, version)) => cache.put(hash, key, Some(value), *version),
        None => cache.put(hash, key, None, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Id;

    const HASH: u64 = 7;

    fn ticket(job: u32) -> Ticket {
        Ticket { event_loop: 0, id: Id { slot: 0, generation: 0 }, job }
    }

    fn shard() -> Shard {
        Shard::new(10_000, RandomState::with_seeds(1, 2, 3, 4))
    }

    /// What a GET leads to, and the read it sent.
    fn get(shard: &mut Shard, job: u32) -> (Get<Option<u32>>, Option<ReadId>) {
        let mut sent = None;
        let hit = |hit: Hit<'_>| match hit {
            Hit::Value(_, version) => Some(version),
            Hit::Absent => None,
        };
        let got = shard.get(HASH, "k", ticket(job), hit, |id| {
            sent = Some(id);
            true
        });
        (got, sent)
    }

    fn row(version: u32) -> Row {
        Some(("v".into(), version))
    }

    #[test]
    fn a_miss_is_read_once_and_answers_all_who_asked() {
        let mut shard = shard();
        let (_, read) = get(&mut shard, 1);
        assert_eq!(get(&mut shard, 2), (Get::Waiting, None));
        assert_eq!(shard.read_done(HASH, "k", read.unwrap(), Some(&row(5))), [ticket(1), ticket(2)]);
        assert_eq!(get(&mut shard, 3).0, Get::Answered(Some(5)));
        assert_eq!(shard.stats().in_flight, 0);
    }

    #[test]
    fn an_absent_key_is_remembered_until_it_is_written() {
        let mut shard = shard();
        let (_, read) = get(&mut shard, 1);
        shard.read_done(HASH, "k", read.unwrap(), Some(&None));
        assert_eq!(get(&mut shard, 2).0, Get::Answered(None));
        shard.write_sent(HASH, "k");
        shard.committed(HASH, "k", 1, &row(1));
        assert_eq!(get(&mut shard, 3).0, Get::Answered(Some(1)));
    }

    #[test]
    fn a_read_that_a_write_overtook_fills_nothing_and_is_not_joined() {
        let mut shard = shard();
        let (_, old) = get(&mut shard, 1);
        shard.write_sent(HASH, "k");
        shard.refused(HASH, "k", 1);
        let (got, new) = get(&mut shard, 2);
        assert!(got == Get::Waiting && new.is_some());
        assert_eq!(shard.read_done(HASH, "k", old.unwrap(), Some(&row(1))), [ticket(1)]);
        assert!(get(&mut shard, 3).1.is_none(), "the new read is joined");
        assert_eq!(shard.read_done(HASH, "k", new.unwrap(), Some(&row(2))), [ticket(2), ticket(3)]);
        assert_eq!((get(&mut shard, 4).0, shard.stats().late_fills), (Get::Answered(Some(2)), 1));
    }

    #[test]
    fn a_key_in_doubt_is_read_every_time_and_not_cached() {
        let mut shard = shard();
        shard.write_sent(HASH, "k");
        shard.committed(HASH, "k", 1, &row(1));
        shard.write_sent(HASH, "k");
        shard.doubt(HASH, "k");
        assert_eq!(shard.stats().in_doubt, 1);
        for job in 2..4 {
            let (_, read) = get(&mut shard, job);
            assert_eq!(shard.read_done(HASH, "k", read.expect("nobody joins"), Some(&row(1))), [ticket(job)]);
        }
        let (_, last) = get(&mut shard, 4);
        shard.unknown(HASH, "k", 1);
        shard.read_done(HASH, "k", last.unwrap(), Some(&row(1)));
        assert!(get(&mut shard, 5).1.is_some(), "what was read in doubt is not cached");
        assert_eq!(shard.stats().in_doubt, 0);
    }

    #[test]
    fn a_doubt_outlasts_a_write_that_is_refused_meanwhile() {
        let mut shard = shard();
        shard.write_sent(HASH, "k");
        shard.doubt(HASH, "k");
        shard.write_sent(HASH, "k");
        shard.refused(HASH, "k", 1);
        assert_eq!(shard.stats().in_doubt, 1);
        let (_, read) = get(&mut shard, 1);
        shard.read_done(HASH, "k", read.unwrap(), Some(&row(1)));
        assert!(get(&mut shard, 2).1.is_some(), "what was read in doubt is not cached");
        shard.committed(HASH, "k", 1, &row(2));
        assert_eq!((get(&mut shard, 3).0, shard.stats().in_doubt), (Get::Answered(Some(2)), 0));
    }

    #[test]
    fn so_many_may_wait_and_no_more() {
        let mut shard = shard();
        let (_, read) = get(&mut shard, 0);
        for job in 1..WAITERS_A_SHARD as u32 {
            assert_eq!(get(&mut shard, job), (Get::Waiting, None));
        }
        assert_eq!(get(&mut shard, 0).0, Get::TooManyWaiters);
        let other = shard.get(1, "other", ticket(0), |_| (), |_| unreachable!("it is not sent"));
        assert_eq!(other, Get::TooManyWaiters);
        assert_eq!(shard.read_done(HASH, "k", read.unwrap(), None).len(), WAITERS_A_SHARD);
        assert_eq!(get(&mut shard, 1).0, Get::Waiting);
    }

    #[test]
    fn a_read_that_cannot_be_sent_changes_nothing() {
        let mut shard = shard();
        assert_eq!(shard.get(HASH, "k", ticket(1), |_| (), |_| false), Get::NotSent);
        assert_eq!(shard.stats(), Stats::default());
    }
}
