//! A wheel of deadlines, one for each slot of a slab: pure, no clock. Used by [`super`].
//!
//! Deadlines move all the time (every answer makes one later) and hardly ever pass. So the wheel only keeps *when to
//! look*: a deadline that becomes later costs nothing, and the look finds out that it is not due and goes in again.
//!
//! ```text
//!  buckets   0   1   2   3   …   511      each one tick wide; a doubly linked list of slots in each
//!                ▲ cursor
//! ```

/// Width of a bucket. A deadline passes up to so much late.
const TICK_MS: u64 = 64;
/// Buckets: looks further ahead than all of them go into the last and are put in again.
const BUCKETS: usize = 512;

const NONE: u32 = u32::MAX;

/// Which slots to look at, and when.
///
/// Invariant: a slot is in the list of exactly the bucket that its link names, or in none if that is `NONE`; a bucket's
/// bit in `occupied` is set exactly while its list is not empty.
#[derive(Debug)]
pub struct Wheel {
    heads: Box<[u32; BUCKETS]>,
    occupied: [u64; BUCKETS / 64],
    links: Vec<Link>,
    /// The next tick to look at: all before it are done.
    cursor: u64,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
    bucket: u32,
    /// When its bucket is looked at, in ticks.
    tick: u64,
}

const UNARMED: Link = Link { previous: NONE, next: NONE, bucket: NONE, tick: u64::MAX };

impl Wheel {
    /// An empty wheel at this time.
    pub fn new(now_ms: u64) -> Wheel {
        let heads = Box::new([NONE; BUCKETS]);
        Wheel { heads, occupied: [0; BUCKETS / 64], links: Vec::new(), cursor: now_ms / TICK_MS }
    }

    /// Makes sure that `slot` is looked at not long after `at_ms`. Cheap where it is anyway: then nothing changes.
    #[inline]
    pub fn arm(&mut self, slot: u32, at_ms: u64) {
        let tick = at_ms / TICK_MS + 1;
        if self.links.get(slot as usize).is_some_and(|link| link.tick <= tick) {
            return;
        }
        self.insert(slot, tick);
    }

    /// Forgets `slot`.
    pub fn disarm(&mut self, slot: u32) {
        let Some(link) = self.links.get(slot as usize).copied().filter(|link| link.bucket != NONE) else {
            return;
        };
        match link.previous {
            NONE => self.heads[link.bucket as usize] = link.next,
            previous => self.links[previous as usize].next = link.next,
        }
        if link.next != NONE {
            self.links[link.next as usize].previous = link.previous;
        }
        if self.heads[link.bucket as usize] == NONE {
            self.occupied[link.bucket as usize / 64] &= !(1 << (link.bucket % 64));
        }
        self.links[slot as usize] = UNARMED;
    }

    /// Takes out the slots that are to be looked at by now, so many at most: the next call takes the others, and
    /// [`Wheel::next_ms`] is in the past until then. The caller looks, and arms again what is not due.
    pub fn take_due(&mut self, now_ms: u64, most: usize, due: &mut Vec<u32>) {
        let now = now_ms / TICK_MS;
        // After a long sleep one round over all buckets has seen everything.
        let rounds = (now + 1).saturating_sub(self.cursor).min(BUCKETS as u64);
        for tick in self.cursor..self.cursor + rounds {
            let bucket = (tick % BUCKETS as u64) as usize;
            while self.heads[bucket] != NONE {
                if due.len() >= most {
                    self.cursor = tick;
                    return;
                }
                let slot = self.heads[bucket];
                self.disarm(slot);
                due.push(slot);
            }
        }
        self.cursor = self.cursor.max(now + 1);
    }

    /// When to look next; `None` when there is nothing to look at. O(buckets / 64).
    pub fn next_ms(&self) -> Option<u64> {
        let start = (self.cursor % BUCKETS as u64) as usize;
        let words = self.occupied.len();
        for step in 0..=words {
            let word = (start / 64 + step) % words;
            let mut bits = self.occupied[word];
            match step {
                0 => bits &= u64::MAX << (start % 64),
                // Back at the first word: only what lies before the start.
                n if n == words => bits &= !(u64::MAX << (start % 64)),
                _ => {}
            }
            if bits != 0 {
                let bucket = word * 64 + bits.trailing_zeros() as usize;
                let ahead = (bucket + BUCKETS - start) % BUCKETS;
                return Some((self.cursor + ahead as u64) * TICK_MS);
            }
        }
        None
    }

    fn insert(&mut self, slot: u32, tick: u64) {
        if slot as usize >= self.links.len() {
            self.links.resize(slot as usize + 1, UNARMED);
        }
        self.disarm(slot);
        let tick = tick.clamp(self.cursor, self.cursor + BUCKETS as u64 - 1);
        let bucket = (tick % BUCKETS as u64) as u32;
        let next = std::mem::replace(&mut self.heads[bucket as usize], slot);
        if next != NONE {
            self.links[next as usize].previous = slot;
        }
        self.links[slot as usize] = Link { previous: NONE, next, bucket, tick };
        self.occupied[bucket as usize / 64] |= 1 << (bucket % 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Used as the loop uses it, every deadline is seen after it has passed and not much later.
        #[test]
        fn every_deadline_is_seen_soon_after_it_has_passed(
            steps in prop::collection::vec((0u32..20, prop_oneof![0u64..300, 0u64..200_000], 0u64..500), 1..200),
        ) {
            let (mut wheel, mut now_ms) = (Wheel::new(1_000), 1_000);
            let mut deadlines = [None::<u64>; 20];
            for (slot, ahead_ms, sleep_ms) in steps {
                if ahead_ms == 0 {
                    deadlines[slot as usize] = None;
                    wheel.disarm(slot);
                } else {
                    deadlines[slot as usize] = Some(now_ms + ahead_ms);
                    wheel.arm(slot, now_ms + ahead_ms);
                }
                let next_ms = wheel.next_ms();
                prop_assert_eq!(next_ms.is_some(), deadlines.iter().any(|d| d.is_some()));
                now_ms = if sleep_ms > 400 { next_ms.unwrap_or(now_ms).max(now_ms) } else { now_ms + sleep_ms };
                let mut due = Vec::new();
                wheel.take_due(now_ms, usize::MAX, &mut due);
                for slot in due {
                    match deadlines[slot as usize] {
                        Some(deadline) if deadline <= now_ms => deadlines[slot as usize] = None,
                        Some(deadline) => wheel.arm(slot, deadline),
                        None => prop_assert!(false, "a disarmed slot was due"),
                    }
                }
                for deadline in deadlines.iter().flatten() {
                    prop_assert!(deadline + 2 * TICK_MS > now_ms, "{deadline} is not seen at {now_ms}");
                }
            }
        }
    }

    #[test]
    fn of_many_that_are_due_together_some_are_taken_at_a_time() {
        let mut wheel = Wheel::new(0);
        for slot in 0..1_000 {
            wheel.arm(slot, 100 + u64::from(slot / 400) * TICK_MS);
        }
        let (now_ms, mut seen) = (1_000, Vec::new());
        while let Some(next_ms) = wheel.next_ms().filter(|next_ms| *next_ms <= now_ms) {
            let mut due = Vec::new();
            wheel.take_due(now_ms, 256, &mut due);
            assert!((1..=256).contains(&due.len()), "{next_ms}");
            seen.extend(due);
        }
        // The sooner ones first, in their order of ticks.
        assert!(seen.is_sorted_by_key(|slot| slot / 400));
        seen.sort_unstable();
        assert_eq!(seen, (0..1_000).collect::<Vec<u32>>());
        assert_eq!(wheel.next_ms(), None);
    }
}
