//! Every metric that `/metrics` has: name, type, labels and help, once. Rendered by `api::exposition`; a test holds the
//! README's table and the server's output against it.

/// What Prometheus takes a metric for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// A level.
    Gauge,
    /// How many observations were at most how large.
    Histogram,
}

impl Kind {
    /// As it is written behind `# TYPE`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// One metric: all series of one name.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Its name, which ends in its unit, and in `_total` where it is a counter.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Names of its labels; a histogram's `le` besides.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

macro_rules! families {
    ($($id:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal)*) => {
        $(#[doc = $help]
        pub const $id: Family =
            Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*

        /// All of them, in the order of the page.
        pub const ALL: &[Family] = &[$($id),*];
    };
}

families! {
    REQUESTS: Counter "hotrow_requests_total" ["method", "status"]
        "Requests answered on the data socket. Method none: it was not known when the answer was."
    ADMIN_REQUESTS: Counter "hotrow_admin_requests_total" []
        "Requests answered on the admin socket."
    PROBLEMS: Counter "hotrow_problems_total" ["problem"]
        "Requests on the data socket answered with a problem, by its name: every bound that a client can hit has one. Absent keys are none here; nor are items and lines of an answer."
    PARSE_ERRORS: Counter "hotrow_parse_errors_total" ["reason"]
        "Connections closed because their bytes were no proper request."
    REQUEST_DURATION: Histogram "hotrow_request_duration_seconds" ["kind"]
        "Time of a request in the server: of a miss and a write from its head or content to its reply; of a hit the whole turn of the event loop that answered it, which is never too little."
    CACHE_REQUESTS: Counter "hotrow_cache_requests_total" ["result"]
        "Reads by what the cache knew: hit, the value; absent, that there is no such key; miss, nothing, or nothing that the request would take."
    CACHE_ENTRIES: Gauge "hotrow_cache_entries" []
        "Keys in the cache, absent ones included."
    CACHE_BYTES: Gauge "hotrow_cache_bytes" []
        "Bytes of keys, values and overhead in the cache."
    CACHE_LIMIT_BYTES: Gauge "hotrow_cache_limit_bytes" []
        "Bytes that the cache may take for keys with values (--cache-bytes)."
    CACHE_EVICTIONS: Counter "hotrow_cache_evictions_total" ["reason"]
        "Entries pushed out of the cache by others: once, not used again while new; cold, not used lately; absent, of keys that do not exist."
    CACHE_LATE_FILLS: Counter "hotrow_cache_late_fills_total" []
        "Reads not cached because a write had overtaken them."
    CACHE_LOCK_WAITS: Counter "hotrow_cache_lock_waits_total" []
        "Times that a thread had to wait for a shard of the cache, because another one held it."
    KEYS_IN_FLIGHT: Gauge "hotrow_keys_in_flight" []
        "Keys with a read or a write under way."
    KEYS_IN_DOUBT: Gauge "hotrow_keys_in_doubt" []
        "Keys whose last write has an unknown outcome."
    WATCHERS: Gauge "hotrow_watchers" []
        "Requests that wait for a key to change."
    ROWS_SWEPT: Counter "hotrow_rows_swept_total" []
        "Rows deleted because their time was over."
    WRITES: Counter "hotrow_writes_total" []
        "Writes queued for the database."
    ROWS_LOADED: Counter "hotrow_rows_loaded_total" []
        "Lines of bulk loads (PUT /kv) whose rows were stored."
    LINES_FAILED: Counter "hotrow_load_lines_failed_total" []
        "Lines of bulk loads that were refused."
    LATE_REPLIES: Counter "hotrow_late_replies_total" []
        "Replies of the database that found nobody waiting for them any more."
    CONNECTIONS: Gauge "hotrow_connections" ["state"]
        "Connections open, by what they wait for: idle, the next request; head and content, the rest of one; reply, the database or a change; client, that answers are read; closing, the end."
    CONNECTIONS_LIMIT: Gauge "hotrow_connections_limit" []
        "Connections to the data socket that may be open (--max-connections)."
    CONNECTIONS_ACCEPTED: Counter "hotrow_connections_accepted_total" []
        "Connections accepted."
    CONNECTIONS_REFUSED: Counter "hotrow_connections_refused_total" []
        "Connections turned away because there were too many."
    TLS_HANDSHAKES: Counter "hotrow_tls_handshakes_total" []
        "TLS sessions established with clients."
    TLS_FAILURES: Counter "hotrow_tls_failures_total" []
        "TLS sessions ended because what came was no TLS, not whole, not in time, or not acceptable."
    CONNECTIONS_CLOSED: Counter "hotrow_connections_closed_total" ["reason"]
        "Connections closed by a deadline: idle, silent for --idle-timeout; slow_reader, did not read their answers."
    ACCEPT_PAUSES: Counter "hotrow_accept_pauses_total" []
        "Pauses of accepting because the process had no file descriptor left."
    LOOP_TURNS: Counter "hotrow_loop_turns_total" ["loop"]
        "Turns of the event loops."
    LOOP_EVENTS: Counter "hotrow_loop_events_total" ["loop"]
        "Events that the event loops were woken for."
    LOOP_BUSY: Counter "hotrow_loop_busy_seconds_total" ["loop"]
        "Time that the event loops were at work."
    LOOP_WAITING: Counter "hotrow_loop_waiting_seconds_total" ["loop"]
        "Time that the event loops waited for something to happen."
    DATABASE_UP: Gauge "hotrow_database_up" []
        "1 while writes and reads can reach PostgreSQL."
    DATABASE_CONNECTIONS: Gauge "hotrow_database_connections" ["worker"]
        "Connections to PostgreSQL, of readers and writers."
    DATABASE_RECONNECTS: Counter "hotrow_database_reconnects_total" []
        "Workers that reached PostgreSQL again."
    DATABASE_QUEUE_JOBS: Gauge "hotrow_database_queue_jobs" ["worker"]
        "Jobs that wait for a reader, or for a writer."
    DATABASE_QUEUE_WAIT: Histogram "hotrow_database_queue_wait_seconds" ["worker"]
        "Time that a job waited until a worker took it."
    DATABASE_STATEMENT: Histogram "hotrow_database_statement_seconds" ["worker"]
        "Time of one statement, with its commit, until PostgreSQL's answer or the loss of the connection."
    DATABASE_BATCH: Histogram "hotrow_database_batch_jobs" ["worker"]
        "Jobs that were done by one statement."
    READY: Gauge "hotrow_ready" []
        "1 while /readyz says 200."
    LOG_DROPPED: Counter "hotrow_log_lines_dropped_total" ["log"]
        "Lines dropped because whoever reads the log is too slow, or the disk has no room for them."
    BUILD_INFO: Gauge "hotrow_build_info" ["version", "commit", "postgresql"]
        "1; the labels say what runs: hotrow's version and commit, and PostgreSQL's version at the start."
    PROCESS_CPU: Counter "process_cpu_seconds_total" []
        "Time that the process has had a processor, in user and kernel mode."
    PROCESS_OPEN_FDS: Gauge "process_open_fds" []
        "File descriptors open, as of the last five seconds."
    PROCESS_MAX_FDS: Gauge "process_max_fds" []
        "File descriptors that may be open."
    PROCESS_VIRTUAL_MEMORY: Gauge "process_virtual_memory_bytes" []
        "Address space taken, as of the last five seconds."
    PROCESS_RESIDENT_MEMORY: Gauge "process_resident_memory_bytes" []
        "Memory in RAM, as of the last five seconds."
    PROCESS_START_TIME: Gauge "process_start_time_seconds" []
        "When the process began, in seconds since 1970."
}
