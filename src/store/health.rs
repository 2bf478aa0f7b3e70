//! Which workers have a database, for those who must refuse at once when there is none. Written by the workers, read
//! by [`super::backend`] on every miss and write and by the admin socket.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// The state of all workers. A worker counts as up until it has failed to connect.
#[derive(Debug)]
pub struct Health {
    readers: usize,
    readers_down: AtomicUsize,
    writers_down: Box<[AtomicBool]>,
    retry_after_seconds: AtomicU32,
    reconnects: AtomicU64,
}

impl Health {
    /// All are up.
    pub fn new(readers: usize, writers: usize) -> Health {
        Health {
            readers,
            readers_down: AtomicUsize::new(0),
            writers_down: (0..writers).map(|_| AtomicBool::new(false)).collect(),
            retry_after_seconds: AtomicU32::new(1),
            reconnects: AtomicU64::new(0),
        }
    }

    /// No reader has a connection.
    pub fn reads_down(&self) -> bool {
        self.readers_down.load(Ordering::Relaxed) == self.readers
    }

    /// This writer has no connection.
    pub fn writes_down(&self, writer: usize) -> bool {
        self.writers_down[writer].load(Ordering::Relaxed)
    }

    /// Something cannot be served but from memory.
    pub fn any_down(&self) -> bool {
        self.reads_down() || self.writers_down.iter().any(|down| down.load(Ordering::Relaxed))
    }

    /// A reader lost its database, or has one again.
    pub fn set_reader(&self, down: bool) {
        if down {
            self.readers_down.fetch_add(1, Ordering::Relaxed);
        } else {
            self.readers_down.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A writer lost its database, or has one again.
    pub fn set_writer(&self, writer: usize, down: bool) {
        self.writers_down[writer].store(down, Ordering::Relaxed);
    }

    /// Seconds after which the next attempt to connect has had its chance: never less than one.
    pub fn retry_after_seconds(&self) -> u32 {
        self.retry_after_seconds.load(Ordering::Relaxed)
    }

    /// The next attempt comes after so long.
    pub fn set_retry_after(&self, pause_ms: u64) {
        let seconds = u32::try_from(pause_ms.div_ceil(1_000)).unwrap_or(u32::MAX).max(1);
        self.retry_after_seconds.store(seconds, Ordering::Relaxed);
    }

    /// A worker has connected again.
    pub fn count_reconnect(&self) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
    }

    /// How often workers have connected again.
    pub fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Relaxed)
    }
}
