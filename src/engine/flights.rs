//! What is out: the reads and writes of each key that were sent and have not ended, and who waits for the reads. Says which
//! read may be joined, and what becomes of what it brings; knows no row and no cache. Owned by [`super::shard`], where the
//! rules are.

use crate::token::Ticket;
use ahash::RandomState;
use hashbrown::HashTable;

/// Where one read of the database belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadId(pub(super) u64);

/// Whose a write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// So many of the key's own writer.
    Own(u32),
    /// One of another writer: part of a batch of many keys.
    Foreign,
}

/// The version of a row, or that there is none.
pub(super) type Version = Option<u32>;

/// What somebody was told of a key since a certain moment. That a row is the one that has been cached all the time need not be
/// counted: it does not come back, so that nothing older than it can come any more. That there is none must be: a row may have
/// been made meanwhile, and deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing.
    Nothing,
    /// This version, and no other.
    One(Version),
    /// Several, of which nobody knows the order.
    Several,
}

impl Told {
    pub(super) fn add(&mut self, version: Version) {
        *self = match *self {
            Told::Nothing => Told::One(version),
            Told::One(other) if other == version => Told::One(version),
            Told::One(_) | Told::Several => Told::Several,
        };
    }

    /// Nobody was told any other version than this.
    pub(super) fn agrees(self, version: Version) -> bool {
        self == Told::Nothing || self == Told::One(version)
    }
}

/// What becomes of the row that a read brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fill {
    /// It is cached, unless others were told another one since it was sent: which of them looked later, nobody knows. While they
    /// were told nothing, it may be joined.
    Unless(Told),
    /// It is too late: a write has ended meanwhile, or all was forgotten.
    Late,
    /// It was never to be cached.
    Nothing,
}

/// A read on its way.
#[derive(Debug)]
pub(super) struct Read {
    id: ReadId,
    pub(super) waiters: Vec<Ticket>,
    pub(super) fill: Fill,
}

/// What is out for one key.
#[derive(Debug)]
pub(super) struct Flight {
    key: Box<str>,
    /// Only the last one is joined.
    reads: Vec<Read>,
    /// Writes of its own writer, sent and not ended.
    pub(super) writes: u32,
    /// Writes of others, sent and not ended.
    pub(super) foreign: u32,
    /// A foreign write that is not ended has overlapped with another one, or with a moment in which everything was forgotten.
    pub(super) mixed: bool,
    /// Own writes that were on their way when the last foreign one that overlapped with them ended: each may have come before it or
    /// behind it. They are committed in their order: once so many are, what comes next came behind it.
    pub(super) unclear: u32,
    /// Own writes that were on their way when everything was forgotten: what they leave is not cached.
    pub(super) void: u32,
    /// By reads, while writes were on their way. Where the next one to be committed leaves another row, nobody knows which of
    /// them is the older one.
    pub(super) told: Told,
    /// What its own writer has left, where that was a row, and nothing was lost since: the next write comes behind it, and it does not
    /// come back.
    pub(super) left: Version,
    /// Writes of unknown outcome that may still happen.
    pub(super) doubts: u32,
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
            told: Told::Nothing,
            left: None,
            doubts: 0,
        }
    }

    pub(super) fn is_written(&self) -> bool {
        self.writes > 0 || self.foreign > 0
    }

    /// Nothing that there was or will be since is older than this.
    pub(super) fn has_left(&self, version: Version) -> bool {
        version.is_some() && version == self.left
    }

    fn is_idle(&self) -> bool {
        self.reads.is_empty() && !self.is_written() && self.doubts == 0
    }

    /// The read that others may join.
    pub(super) fn joinable(&mut self) -> Option<&mut Read> {
        self.reads.last_mut().filter(|read| read.fill == Fill::Unless(Told::Nothing))
    }

    /// A read was sent for this ticket.
    pub(super) fn read_sent(&mut self, id: ReadId, ticket: Ticket, is_cached: bool) {
        let read = |fill| Read { id, waiters: vec![ticket], fill };
        match is_cached {
            // Not behind the one that may be joined.
            false => self.reads.insert(0, read(Fill::Nothing)),
            true if self.doubts > 0 => self.reads.push(read(Fill::Nothing)),
            true => self.reads.push(read(Fill::Unless(Told::Nothing))),
        }
    }

    /// A read has ended.
    pub(super) fn read_ended(&mut self, id: ReadId) -> Option<Read> {
        let at = self.reads.iter().position(|read| read.id == id)?;
        Some(self.reads.remove(at))
    }

    /// Somebody is told this version: what is on its way may be older than that.
    pub(super) fn told(&mut self, version: Version) {
        // That the row from before a write was read, nobody need compare with what that leaves: a key which is written all the time
        // would never be cached.
        if self.is_written() && !self.has_left(version) {
            self.told.add(version);
        }
        for read in &mut self.reads {
            if let Fill::Unless(told) = &mut read.fill {
                told.add(version);
            }
        }
    }

    /// What is on its way is older than the row that there is now, or may be.
    pub(super) fn overtaken(&mut self) {
        for read in &mut self.reads {
            if read.fill != Fill::Nothing {
                read.fill = Fill::Late;
            }
        }
    }

    /// These writes were sent.
    pub(super) fn writes_sent(&mut self, writes: Writes) {
        match writes {
            Writes::Own(count) => {
                self.mixed |= self.foreign > 0;
                self.writes += count;
            }
            Writes::Foreign => {
                self.mixed |= self.is_written();
                self.foreign += 1;
            }
        }
    }

    /// These writes have ended, however that was.
    pub(super) fn writes_ended(&mut self, writes: Writes) {
        let (sent, ended) = match writes {
            Writes::Own(count) => (&mut self.writes, count),
            Writes::Foreign => (&mut self.foreign, 1),
        };
        debug_assert!(*sent >= ended, "more writes ended than were sent");
        *sent -= ended;
        if self.foreign == 0 && std::mem::take(&mut self.mixed) {
            self.unclear = self.writes;
        }
        if !self.is_written() {
            (self.unclear, self.void, self.told) = (0, 0, Told::Nothing);
        }
    }
}

/// The flights of a shard. Invariant: one exists exactly while a read or a write of its key is out or in doubt.
#[derive(Debug, Default)]
pub(super) struct Flights(HashTable<Flight>);

impl Flights {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Flight> {
        self.0.iter_mut()
    }

    /// The flight of a key.
    pub(super) fn find(&mut self, hash: u64, key: &str) -> Option<&mut Flight> {
        self.0.find_mut(hash, |flight| &*flight.key == key)
    }

    /// The same, made if there is none.
    pub(super) fn find_or_make(&mut self, hash: u64, key: &str, hasher: &RandomState) -> &mut Flight {
        let rehash = |flight: &Flight| hasher.hash_one(flight.key.as_bytes());
        self.0
            .entry(hash, |flight| &*flight.key == key, rehash)
            .or_insert_with(|| Flight::new(key))
            .into_mut()
    }

    /// Something of this key has ended: if that was the last of it, the flight goes, too.
    pub(super) fn drop_idle(&mut self, hash: u64, key: &str) {
        if let Ok(place) = self.0.find_entry(hash, |flight| &*flight.key == key)
            && place.get().is_idle()
        {
            place.remove();
        }
    }
}
