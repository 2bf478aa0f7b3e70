//! What is counted. Every loop has its own counters and is their only writer, so that counting on the hit path costs
//! an addition and no contention; a scrape adds them up. Written by [`crate::event_loop`] and [`crate::connection`],
//! rendered by [`crate::api::admin`].

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows, written by one thread.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. A plain load and store: there is one writer.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Takes `n` away again: for what is rather a level than a count.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($field:ident $kind:ident $help:literal)*) => {
        /// The counters of one event loop.
        #[derive(Debug, Default)]
        pub struct Counters {
            $(#[doc = $help] pub $field: Counter,)*
        }

        impl Counters {
            /// Name, kind and help of every counter, in the order of [`Counters::values`].
            pub const FACTS: &'static [(&'static str, &'static str, &'static str)] =
                &[$((concat!("hotrow_", stringify!($field)), stringify!($kind), $help),)*];

            /// All values.
            pub fn values(&self) -> Vec<u64> {
                vec![$(self.$field.get(),)*]
            }
        }
    };
}

counters! {
    requests_total counter "Requests whose head was parsed."
    cache_hits_total counter "GETs that the cache answered."
    cache_misses_total counter "GETs that had to ask the database."
    writes_total counter "Writes sent to the database."
    refusals_total counter "Requests answered with a problem by the event loop."
    malformed_requests_total counter "Connections closed because their bytes were no proper request."
    slow_requests_total counter "Requests that came too slowly (408)."
    unanswered_total counter "Jobs whose deadline passed before the database answered."
    late_replies_total counter "Replies that found nobody waiting for them any more."
    connections_total counter "Connections accepted."
    connections gauge "Connections open."
    connections_refused_total counter "Connections turned away by --max-connections."
    slow_readers_total counter "Connections closed because they did not read their answers."
    idle_closed_total counter "Connections closed because they were silent for --idle-timeout."
    accept_pauses_total counter "Pauses of accepting because the process had no file descriptor left."
    loop_turns_total counter "Turns of the event loops."
    loop_events_total counter "Events that the event loops were woken for."
}
