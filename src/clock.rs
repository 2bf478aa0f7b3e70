//! Milliseconds since the process began: one number that threads can hand to each other and pure code can compare.
//! Loops read it once a turn; the layers below them take it as an argument.

use rustix::time::{ClockId, clock_gettime};

/// A monotonic clock, which goes on while the machine sleeps, as that of the database does: what is cached of a row that expires is to
/// end with it. `Instant` stands still then. Copies agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    epoch_ns: u64,
}

impl Clock {
    /// A clock that begins now.
    pub fn start() -> Clock {
        Clock { epoch_ns: since_boot_ns() }
    }

    /// A clock that stands still at its beginning, for a day: what a schedule does takes no time.
    #[cfg(test)]
    pub fn still() -> Clock {
        Clock { epoch_ns: since_boot_ns() + 86_400 * 1_000_000_000 }
    }

    /// Time since the beginning, in milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.now_ns() / 1_000_000
    }

    /// Time since the beginning, in nanoseconds: for 584 years.
    pub fn now_ns(&self) -> u64 {
        since_boot_ns().saturating_sub(self.epoch_ns)
    }
}

fn since_boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Whole seconds of a time of this clock: what entries of the cache remember.
pub fn seconds(now_ms: u64) -> u32 {
    (now_ms / 1_000) as u32
}
