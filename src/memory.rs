//! The most memory that a configuration can lead to: the sum of its bounds. Pure arithmetic; the README states it as a
//! formula, a test holds the real server against it under the worst that clients and database can do. Called by
//! [`crate::server`].

use crate::config::{AccessLogTo, Config};
use crate::engine::{cache, shards};
use crate::limits::{
    ACCESS_LOG_LINES, ACCESS_LOG_METHOD_BYTES, ACCESS_LOG_TARGET_BYTES, ADMIN_CONNECTIONS, ADMIN_LOOP_BYTES,
    ADMIN_PAGE_BYTES, ALLOCATOR_SHARE, BATCH_OUTCOME_BYTES, BATCH_STEP_BYTES, BATCH_STEPS, CONNECTION_BYTES,
    FIXED_BYTES, HEAD_BYTES, ITEMS_BYTES, JOB_BYTES, KEY_BYTES, KEYS_A_REQUEST, LOAD_BYTES, LOAD_ERROR_BYTES,
    LOAD_ERRORS, LOAD_LINES, LOAD_ROW_BYTES, LOADS, OUTPUT_BYTES, READ_BATCH, READ_BYTES, REQUEST_LINE_BYTES,
    SESSION_BYTES, TLS_OUTPUT_BYTES, TLS_SESSION_BYTES, TURNED_AWAY, WAITERS, WRITE_BATCH, WRITE_BATCH_BYTES,
};
use crate::store::load::line_bytes;
use crate::token::Ticket;
use std::fmt;

/// Bytes, at most, by who holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Cached rows, absent keys, and their overhead.
    pub cache: usize,
    /// What connections have not parsed, not stored and not sent.
    pub connections: usize,
    /// Jobs that wait for a worker, and who waits for them.
    pub queues: usize,
    /// What workers have taken, on its way to PostgreSQL or back.
    pub workers: usize,
    /// Everything that is there without any load.
    pub fixed: usize,
}

impl Bound {
    /// The bound of a configuration with so many event loops.
    pub fn of(config: &Config, event_loops: usize) -> Bound {
        let value = config.max_value_bytes;
        let depth = config.queue_depth as usize;
        let shards = shards(config.cache_bytes, value);
        let (readers, writers) = (usize::from(config.db_readers), usize::from(config.db_writers).min(shards));
        // The key stands in the job and in its flight.
        let job = JOB_BYTES + 2 * KEY_BYTES;
        // A request for several keys, with as long keys as its request line holds.
        let read = KEYS_A_REQUEST * JOB_BYTES + 2 * REQUEST_LINE_BYTES;
        // A batch of operations has its keys and values in its content, and besides so much for each; the shortest one takes
        // so many bytes there.
        let steps = BATCH_STEPS.min(value / r#"{"op":"get","key":"k"}"#.len());
        let steps_bytes = steps * BATCH_STEP_BYTES;
        let outcomes = steps * BATCH_OUTCOME_BYTES;
        // A connection parses no further while it has answers that were not read, and none that would go past
        // `OUTPUT_BYTES`: it holds one value at most, in its last answer, or as it arrives; or several that are to become
        // one answer, or have, with their keys.
        let connection =
            CONNECTION_BYTES + HEAD_BYTES + READ_BYTES + OUTPUT_BYTES + ITEMS_BYTES + outcomes + value;
        // A load holds the lines that it collects and the piece that is out; and what was refused, for its answer.
        let piece = LOAD_BYTES + READ_BYTES + line_bytes(value);
        let lines = LOAD_LINES + READ_BYTES / r#"{"key":"k","value":""}"#.len();
        // A writer has a piece's rows beside it, unescaped, their keys in flight, and all of it again on its way to
        // PostgreSQL, and in the socket's buffer.
        let loading = lines * LOAD_ROW_BYTES + 4 * piece;
        let tls = if config.tls_cert.is_some() { TLS_OUTPUT_BYTES + TLS_SESSION_BYTES } else { 0 };
        let connection = connection + tls;
        // Every loop turns away so many, by TLS if it has it; the admin socket is one loop's, and never has TLS.
        let small = CONNECTION_BYTES + HEAD_BYTES + READ_BYTES;
        let others = event_loops * TURNED_AWAY * (small + tls)
            + ADMIN_CONNECTIONS * (small + OUTPUT_BYTES + ADMIN_PAGE_BYTES + event_loops * ADMIN_LOOP_BYTES);
        // No batch is larger than what can wait, and the one job that woke the worker.
        let read_batch = (READ_BATCH + KEYS_A_REQUEST).min((depth + 1) * KEYS_A_REQUEST);
        let write_batch = WRITE_BATCH.min(depth + 1);
        let write_values = (WRITE_BATCH_BYTES + value).min(write_batch * value);
        // A line with its place in the queue, its name, its method and its target.
        let access_log = match config.access_log {
            AccessLogTo::Off => 0,
            AccessLogTo::File(_) | AccessLogTo::Stdout => {
                ACCESS_LOG_LINES * (ACCESS_LOG_METHOD_BYTES + ACCESS_LOG_TARGET_BYTES + JOB_BYTES)
            }
        };
        Bound {
            cache: shards * cache::most_bytes(config.cache_bytes / shards),
            connections: config.max_connections as usize * connection
                + others
                + LOADS * (2 * piece + 2 * LOAD_ERRORS * LOAD_ERROR_BYTES),
            queues: depth * read
                + writers * depth * (job + steps_bytes + value)
                + WAITERS * size_of::<Ticket>(),
            // A row as it came and as a value; a value, and it again in the statement, and that in the socket's buffer.
            workers: readers * (SESSION_BYTES + read_batch * (job + 2 * value))
                + writers * (SESSION_BYTES + write_batch * job + 3 * write_values)
                // What is aside, and one larger than there is room for.
                + writers * (WRITE_BATCH_BYTES + steps_bytes + value)
                // Every step of a batch may read one of the largest values.
                + writers * steps * 2 * value
                + writers.min(LOADS) * loading,
            // A loop's buffers, and the value that is just being taken over.
            fixed: FIXED_BYTES
                + access_log
                + event_loops * (READ_BYTES + 3 * OUTPUT_BYTES + 2 * (ITEMS_BYTES + value)),
        }
    }

    /// All of it, and what the allocator loses in between.
    pub fn bytes(&self) -> usize {
        let sum = self.cache + self.connections + self.queues + self.workers + self.fixed;
        sum + sum / ALLOCATOR_SHARE
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        write!(
            f,
            "{} MiB (cache {}, connections {}, queues {}, workers {}, fixed {}, and what the allocator loses)",
            mib(self.bytes()),
            mib(self.cache),
            mib(self.connections),
            mib(self.queues),
            mib(self.workers),
            mib(self.fixed)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &str) -> Config {
        let arguments = std::iter::once("hotrow").chain(flags.split_whitespace()).map(Into::into);
        match crate::config::read(arguments) {
            Ok(crate::config::Invocation::Serve(config)) => config,
            _ => panic!("{flags}"),
        }
    }

    /// Each loop counts those whom it turns away by itself, and gives each a TLS session.
    #[test]
    fn every_loop_turns_away_so_many() {
        for (flags, session_bytes) in
            [("", 0), ("--tls-cert c.pem --tls-key k.pem", TLS_OUTPUT_BYTES + TLS_SESSION_BYTES)]
        {
            let config = config(flags);
            let [one, four] = [1, 4].map(|loops| Bound::of(&config, loops).connections);
            let each = CONNECTION_BYTES + HEAD_BYTES + READ_BYTES + session_bytes;
            assert_eq!(four - one, 3 * (TURNED_AWAY * each + ADMIN_CONNECTIONS * ADMIN_LOOP_BYTES));
        }
    }

    /// A larger cache has more shards, and no more who wait in them.
    #[test]
    fn waiters_are_bounded_over_all_shards() {
        let [small, large] =
            ["256MiB", "64GiB"].map(|size| Bound::of(&config(&format!("--cache-bytes {size}")), 1));
        assert_eq!((shards(256 << 20, 1 << 20), shards(64 << 30, 1 << 20)), (64, 1_024));
        assert_eq!(small.queues, large.queues);
    }

    #[test]
    fn the_readme_has_the_sums() {
        let readme = include_str!("../README.md");
        for (flags, sum) in
            [("", "56 GiB"), ("--max-value-bytes 16KiB --max-connections 1000 --queue-depth 512", "2.3 GiB")]
        {
            let gib = Bound::of(&config(flags), 1).bytes() as f64 / f64::from(1 << 30);
            let text = if gib < 10.0 { format!("{gib:.1} GiB") } else { format!("{gib:.0} GiB") };
            assert_eq!(text, sum);
            assert!(readme.contains(flags) && readme.contains(sum), "{flags}: {sum}");
        }
    }
}
