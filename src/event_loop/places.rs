//! How many connections each client address has: `--max-connections-per-ip`. Shared by all loops, and looked at only
//! when a connection comes or goes; where the flag is off, not at all. Used by [`super`].

use hashbrown::HashMap;
use parking_lot::Mutex;
use std::net::{IpAddr, Ipv6Addr};

/// The places that addresses have taken.
///
/// Invariant: no count is 0, so the map is never larger than the number of connections.
#[derive(Debug)]
pub struct Places {
    most: u32,
    taken: Mutex<HashMap<IpAddr, u32, ahash::RandomState>>,
}

/// A place that was taken: give it back with [`Places::leave`].
#[derive(Debug)]
pub struct Place(IpAddr);

impl Places {
    /// So many for each address.
    pub fn new(most: u32) -> Places {
        Places { most, taken: Mutex::default() }
    }

    /// A place for a connection of this address, if it has one left.
    pub fn enter(&self, address: IpAddr) -> Option<Place> {
        let address = client_of(address);
        let mut taken = self.taken.lock();
        let count = taken.entry(address).or_insert(0);
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place(address))
    }

    /// Gives a place back.
    pub fn leave(&self, place: &Place) {
        let mut taken = self.taken.lock();
        if let Some(count) = taken.get_mut(&place.0) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&place.0);
            }
        }
    }
}

/// Who an address belongs to: with IPv6 a client has the whole of a /64, and may take another one for each connection.
fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_has_its_places_and_gives_them_back() {
        let places = Places::new(2);
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = places.enter(at("192.0.2.1")).unwrap();
        let second = places.enter(at("::ffff:192.0.2.1")).unwrap();
        assert!(places.enter(at("192.0.2.1")).is_none());
        let other = places.enter(at("192.0.2.2")).unwrap();
        places.leave(&first);
        assert!(places.enter(at("192.0.2.1")).is_some_and(|place| {
            places.leave(&place);
            true
        }));
        let near = [places.enter(at("2001:db8::1")).unwrap(), places.enter(at("2001:db8::2")).unwrap()];
        assert!(places.enter(at("2001:db8::3")).is_none());
        assert!(places.enter(at("2001:db8:0:1::3")).is_some());
        for place in near.iter().chain([&second, &other]) {
            places.leave(place);
        }
        assert_eq!(places.taken.lock().len(), 1, "who has none is forgotten");
    }
}
