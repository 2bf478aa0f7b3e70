//! Who waits for a key to change. A set of tickets a key; knows neither rows nor connections. Owned by [`super::shard`].

use crate::limits::WATCHERS_A_SHARD;
use crate::token::Ticket;
use ahash::RandomState;
use hashbrown::HashTable;

/// Tickets by key. Invariant: no key is here without a ticket; `tickets` counts them all.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    keys: HashTable<Watched>,
    tickets: usize,
}

#[derive(Debug)]
struct Watched {
    key: Box<str>,
    tickets: Vec<Ticket>,
}

impl Watchers {
    /// Adds a ticket. False: as many wait as may.
    pub(super) fn add(&mut self, hash: u64, key: &str, ticket: Ticket, hasher: &RandomState) -> bool {
        if self.tickets >= WATCHERS_A_SHARD {
            return false;
        }
        self.tickets += 1;
        let watched = self
            .keys
            .entry(hash, |watched| &*watched.key == key, |watched| hasher.hash_one(watched.key.as_bytes()))
            .or_insert_with(|| Watched { key: key.into(), tickets: Vec::new() })
            .into_mut();
        watched.tickets.push(ticket);
        true
    }

    /// Takes a ticket out, if it is here. O(those who wait for the key).
    pub(super) fn remove(&mut self, hash: u64, key: &str, ticket: Ticket) {
        if let Ok(mut place) = self.keys.find_entry(hash, |watched| &*watched.key == key) {
            let tickets = &mut place.get_mut().tickets;
            let before = tickets.len();
            tickets.retain(|other| *other != ticket);
            self.tickets -= before - tickets.len();
            if place.get().tickets.is_empty() {
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
                tickets
            }
            Err(_) => Vec::new(),
        }
    }

    /// Tickets of all keys.
    pub(super) fn len(&self) -> usize {
        self.tickets
    }
}
