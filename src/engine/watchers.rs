//! Who waits for a key to change. A set of tickets a key, and which version of its row they know; knows neither rows nor
//! connections. Owned by [`super::shard`].

use super::flights::{Told, Version};
use crate::limits::WATCHERS_A_SHARD;
use crate::token::Ticket;
use ahash::RandomState;
use hashbrown::HashTable;
use std::collections::HashSet;

/// Tickets of a key that are looked through one by one. More of them are a table: where thousands wait for one key and all
/// give up in one turn, a look through all of them for each would be millions of looks.
const FEW: usize = 8;
/// A table with fewer tickets than one in so many of its places is made smaller, so that a crowd that has gone leaves nothing
/// behind. Far fewer than it has after it has grown, so that a few who come and go do not make it larger and smaller in turn.
const SPARSE: usize = 8;

/// Tickets by key. Invariant: no key is here without a ticket; `tickets` counts them all.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    keys: HashTable<Watched>,
    tickets: usize,
}

#[derive(Debug)]
struct Watched {
    key: Box<str>,
    tickets: Tickets,
    /// What they were told of the row, but for those whose first look is on its way. If that was several, it stays so whoever comes
    /// besides: some know of another one than what is found next.
    known: Told,
}

/// The tickets of one key, each once.
#[derive(Debug)]
enum Tickets {
    /// Up to [`FEW`], in the order in which they came.
    Few(Vec<Ticket>),
    /// More, or what is left of more.
    Many(HashTable<Ticket>),
}

impl Tickets {
    /// False: it was here.
    fn add(&mut self, ticket: Ticket, hasher: &RandomState) -> bool {
        let rehash = |ticket: &Ticket| hasher.hash_one(ticket);
        match self {
            Tickets::Few(few) if few.contains(&ticket) => false,
            Tickets::Few(few) if few.len() < FEW => {
                few.push(ticket);
                true
            }
            Tickets::Few(few) => {
                let mut many = HashTable::with_capacity(2 * FEW);
                for ticket in few.drain(..).chain([ticket]) {
                    many.insert_unique(rehash(&ticket), ticket, rehash);
                }
                *self = Tickets::Many(many);
                true
            }
            Tickets::Many(many) => {
                let before = many.len();
                many.entry(rehash(&ticket), |other| *other == ticket, rehash).or_insert(ticket);
                many.len() > before
            }
        }
    }

    /// False: it was not here. O(1) on average, what a table that is made smaller takes included.
    fn remove(&mut self, ticket: Ticket, hasher: &RandomState) -> bool {
        match self {
            Tickets::Few(few) => {
                let at = few.iter().position(|other| *other == ticket);
                at.map(|at| few.remove(at)).is_some()
            }
            Tickets::Many(many) => {
                let Ok(place) = many.find_entry(hasher.hash_one(ticket), |other| *other == ticket) else {
                    return false;
                };
                place.remove();
                if many.len() <= FEW / 2 {
                    *self = Tickets::Few(many.drain().collect());
                } else if many.num_buckets() > 4 * FEW && many.len() < many.num_buckets() / SPARSE {
                    many.shrink_to(2 * many.len(), |ticket| hasher.hash_one(ticket));
                }
                true
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Tickets::Few(few) => few.len(),
            Tickets::Many(many) => many.len(),
        }
    }

    fn into_vec(self) -> Vec<Ticket> {
        match self {
            Tickets::Few(few) => few,
            Tickets::Many(many) => many.into_iter().collect(),
        }
    }
}

impl Watchers {
    /// Adds a ticket, of whoever looks at the key now: this is cached. False: as many wait as may.
    pub(super) fn add(
        &mut self,
        (hash, key): (u64, &str),
        ticket: Ticket,
        known: Option<Version>,
        hasher: &RandomState,
    ) -> bool {
        if self.tickets >= WATCHERS_A_SHARD {
            return false;
        }
        let watched = self
            .keys
            .entry(hash, |watched| &*watched.key == key, |watched| hasher.hash_one(watched.key.as_bytes()))
            .or_insert_with(|| Watched {
                key: key.into(),
                tickets: Tickets::Few(Vec::new()),
                known: Told::Nothing,
            })
            .into_mut();
        if let Some(version) = known {
            watched.known.add(version);
        }
        self.tickets += usize::from(watched.tickets.add(ticket, hasher));
        true
    }

    /// Takes a ticket out, if it is here.
    pub(super) fn remove(&mut self, hash: u64, key: &str, ticket: Ticket, hasher: &RandomState) {
        if let Ok(mut place) = self.keys.find_entry(hash, |watched| &*watched.key == key) {
            let tickets = &mut place.get_mut().tickets;
            self.tickets -= usize::from(tickets.remove(ticket, hasher));
            if tickets.len() == 0 {
                place.remove();
            }
        }
    }

    /// Takes all who wait for a key. Without an allocation, and almost without a look, where nobody does.
    pub(super) fn take(&mut self, hash: u64, key: &str) -> Vec<Ticket> {
        match self.keys.find_entry(hash, |watched| &*watched.key == key) {
            Ok(place) => {
                let tickets = place.remove().0.tickets;
                self.tickets -= tickets.len();
                tickets.into_vec()
            }
            Err(_) => Vec::new(),
        }
    }

    /// The key has a row of this version. Takes all who wait for it, if they may know of another one, but for these, who hear of it
    /// anyhow.
    pub(super) fn see(
        &mut self,
        hash: u64,
        key: &str,
        version: Version,
        but: &[Ticket],
        hasher: &RandomState,
    ) -> Vec<Ticket> {
        let Some(watched) = self.keys.find_mut(hash, |watched| &*watched.key == key) else {
            return Vec::new();
        };
        if watched.known == Told::One(version) {
            return Vec::new();
        }
        let but: HashSet<Ticket> = but.iter().copied().collect();
        let (stay, go): (Vec<_>, Vec<_>) =
            self.take(hash, key).into_iter().partition(|ticket| but.contains(ticket));
        for ticket in stay {
            self.add((hash, key), ticket, Some(version), hasher);
        }
        go
    }

    /// Some of those who wait for the key may have been told this version, which is not for all to know.
    pub(super) fn may_know(&mut self, hash: u64, key: &str, version: Version) {
        if let Some(watched) = self.keys.find_mut(hash, |watched| &*watched.key == key) {
            watched.known.add(version);
        }
    }

    /// Takes all who wait for any key.
    pub(super) fn take_all(&mut self) -> Vec<Ticket> {
        self.tickets = 0;
        self.keys.drain().flat_map(|watched| watched.tickets.into_vec()).collect()
    }

    /// Tickets of all keys.
    pub(super) fn len(&self) -> usize {
        self.tickets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Id;
    use std::collections::BTreeSet;

    fn ticket(slot: u32) -> Ticket {
        Ticket { event_loop: 0, id: Id { slot, generation: 1 }, job: 2 }
    }

    /// Against a set, through every size at which the tickets are kept otherwise.
    #[test]
    fn a_crowd_of_one_key_comes_and_goes() {
        let hasher = RandomState::with_seeds(1, 2, 3, 4);
        let mut watchers = Watchers::default();
        let mut model = BTreeSet::new();
        for round in 0..3 {
            for slot in 0..3_000 {
                assert!(watchers.add((7, "k"), ticket(slot), None, &hasher));
                // Twice is once.
                assert!(watchers.add((7, "k"), ticket(slot), None, &hasher));
                assert!(watchers.add((8, "other"), ticket(slot), None, &hasher));
                model.insert(slot);
                assert_eq!(watchers.len(), model.len() + slot as usize + 1);
            }
            // All but some go, from one end or the other or all over the place.
            for i in 0..2_990 {
                let slot = [i, 2_999 - i, i * 7 % 3_000][round];
                watchers.remove(7, "k", ticket(slot), &hasher);
                watchers.remove(7, "k", ticket(slot), &hasher);
                watchers.remove(7, "nobody's", ticket(slot), &hasher);
                model.remove(&slot);
                assert_eq!(watchers.len(), model.len() + 3_000);
            }
            let held = watchers.keys.find(7, |watched| &*watched.key == "k").expect("some are left");
            let Tickets::Many(many) = &held.tickets else { panic!("more than a few are left") };
            assert!(many.num_buckets() <= 16 * FEW, "{} places for {}", many.num_buckets(), many.len());
            let mut taken: Vec<u32> = watchers.take(7, "k").iter().map(|ticket| ticket.id.slot).collect();
            taken.sort_unstable();
            assert!(taken.iter().eq(&model), "{taken:?}");
            assert_eq!((watchers.take(8, "other").len(), watchers.len()), (3_000, 0));
            model.clear();
        }
    }

    #[test]
    fn as_many_wait_as_may_whichever_their_keys_are() {
        let hasher = RandomState::with_seeds(1, 2, 3, 4);
        let mut watchers = Watchers::default();
        for slot in 0..WATCHERS_A_SHARD as u32 {
            let key = (7 + u64::from(slot % 2), ["k", "other"][slot as usize % 2]);
            assert!(watchers.add(key, ticket(slot), None, &hasher));
        }
        let one_more = ticket(WATCHERS_A_SHARD as u32);
        for (hash, key) in [(7, "k"), (9, "new")] {
            assert!(!watchers.add((hash, key), one_more, None, &hasher));
        }
        assert_eq!((watchers.len(), watchers.keys.len()), (WATCHERS_A_SHARD, 2));
        watchers.remove(8, "other", ticket(1), &hasher);
        assert!(watchers.add((9, "new"), one_more, None, &hasher), "there is a place again");
        assert!(!watchers.add((7, "k"), ticket(1), None, &hasher));
    }

    #[test]
    fn a_key_that_nobody_waits_for_any_more_is_forgotten() {
        let hasher = RandomState::with_seeds(1, 2, 3, 4);
        for crowd in [1, FEW as u32, FEW as u32 + 1, 100] {
            let mut watchers = Watchers::default();
            for slot in 0..crowd {
                watchers.add((7, "k"), ticket(slot), None, &hasher);
            }
            for slot in 0..crowd {
                watchers.remove(7, "k", ticket(slot), &hasher);
            }
            assert!(watchers.keys.is_empty() && watchers.len() == 0);
        }
    }
}
