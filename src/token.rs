//! Names for connections that cannot reach a stranger: slots are reused, generations are not. Knows nothing of
//! sockets. Used by the event loop (poll tokens) and by everything that carries a reply back.

/// A connection of one event loop: the slot in its slab and the generation of whoever sits there now.
///
/// ```text
///   63            32 31             0
///  ┌────────────────┬────────────────┐
///  │   generation   │      slot      │   as the token that poll gives back
///  └────────────────┴────────────────┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    /// Index in the loop's slab.
    pub slot: u32,
    /// Counts the connections that sat in this loop's slots; differs for every one of 2^32 in a row.
    pub generation: u32,
}

impl Id {
    /// The poll token of this connection.
    pub fn to_token(self) -> usize {
        (self.generation as usize) << 32 | self.slot as usize
    }

    /// The connection that a poll token names.
    pub fn from_token(token: usize) -> Id {
        Id { slot: token as u32, generation: (token >> 32) as u32 }
    }
}

/// Where a reply goes: one job of one connection of one loop. A reply whose ticket no longer fits is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// Index of the event loop.
    pub event_loop: u16,
    /// The connection that asked.
    pub id: Id,
    /// Counts the jobs of this connection, so that the late reply to a job that timed out is not taken for the next.
    pub job: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_gives_back_slot_and_generation() {
        for id in [(0, 0), (1, 0), (0, 1), (u32::MAX - 3, u32::MAX - 1)] {
            let id = Id { slot: id.0, generation: id.1 };
            assert_eq!(Id::from_token(id.to_token()), id);
        }
    }
}
