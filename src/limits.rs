//! Every bound that is not a flag, in one place: its unit is in its name, what a client sees when it hits it is
//! in its first line. Bounds that an operator may move are in [`crate::config`]. Used by every layer above.

/// The request line, up to its line end: more is 414.
pub const REQUEST_LINE_BYTES: usize = 8 * 1024;
/// Request line and fields together: more is 431.
pub const HEAD_BYTES: usize = 16 * 1024;
/// Fields in one head: more is 431.
pub const FIELDS: usize = 64;
/// The fields of a head that are remembered in case they are sent again; larger ones are parsed each time.
pub const FIELDS_REMEMBERED_BYTES: usize = 1024;
/// How many such field sections a loop remembers: connections share them by their slots.
pub const REPEATS: usize = 16;
/// A chunk-size line with its extensions: more is 400.
pub const CHUNK_LINE_BYTES: usize = 512;
/// The trailer section behind a chunked content: more is 431.
pub const TRAILER_BYTES: usize = 4 * 1024;

/// A key, in characters (the column is `VARCHAR(255)`): more is 400.
pub const KEY_CHARS: usize = 255;
/// The same in bytes of UTF-8.
pub const KEY_BYTES: usize = 4 * KEY_CHARS;
/// The longest time that a row may be given to live, in seconds, about a hundred years: more is 400.
pub const TTL_SECONDS: u32 = 3_155_760_000;
/// Operations in one batch: more are 400.
pub const BATCH_STEPS: usize = 1_000;
/// The longest time that a client may wait for a key to change, in seconds: more is taken for this.
pub const WATCH_SECONDS: u32 = 300;
/// The pause before a client that waits for a change is looked for again, where the database could not be asked, in milliseconds.
pub const LOOK_PAUSE_MS: u64 = 1_000;
/// Rows past their time that are deleted at once.
pub const SWEEP_ROWS: u32 = 500;
/// The pause between two looks for rows past their time, in milliseconds.
pub const SWEEP_PAUSE_MS: u64 = 1_000;
/// How long rows past their time that could not be deleted, and those before them that come late, are passed over, in milliseconds.
pub const SWEEP_AGAIN_MS: u64 = 60_000;
/// Keys that one request may ask for: more are 400.
pub const KEYS_A_REQUEST: usize = 100;
/// Rows of one page of a list, if the client does not say.
pub const LIST_ROWS_DEFAULT: u32 = 100;
/// The same at most: more is 400.
pub const LIST_ROWS: u32 = 1_000;
/// Lines of an export that are encoded at once; the next ones follow when the kernel has taken these.
pub const EXPORT_BYTES: usize = 64 * 1024;
/// The pause before an export asks again for its next page, where the queue to the readers was full.
pub const EXPORT_RETRY_MS: u64 = 50;
/// Values that an answer about several keys may hold, besides one of the largest: an item that would pass it has status 413 in place of
/// its value. And the bytes behind which a page of a list takes no other row.
pub const ITEMS_BYTES: usize = 256 * 1024;
/// Bulk loads at once, over all loops: more are answered 503.
pub const LOADS: usize = 8;
/// Lines of a bulk load that are stored by one statement and one commit; those of the last read come on top.
pub const LOAD_LINES: usize = 4_096;
/// The same in bytes, past which no further line is taken: the one that is not whole, and the last read, come on top.
pub const LOAD_BYTES: usize = 1024 * 1024;
/// What a line of a bulk load may have besides its key and its value, escaped: a longer line is refused, and read past.
pub const LOAD_LINE_BYTES: usize = 256;
/// What a line takes besides its bytes while its piece is stored: its row, its place in the order, its flight.
pub const LOAD_ROW_BYTES: usize = 256;
/// Lines that were refused, as an answer to a bulk load tells them: of the others it says how many they are.
pub const LOAD_ERRORS: usize = 100;
/// What is said of one of them, of one operation of a batch, or of one of several keys: the rest of a longer text is cut off.
pub const ITEM_DETAIL_BYTES: usize = 200;
/// What one of them takes in all.
pub const LOAD_ERROR_BYTES: usize = 512;
/// Pieces of bulk loads, at most, that are stored the slow way after the fast way has met a row that was there, before the
/// fast way is tried again.
pub const COPY_PAUSE: u32 = 64;
/// Milliseconds for which pieces are stored the slow way after the fast way has ended its session.
pub const COPY_SPOILT_MS: u64 = 1_000;
/// An operation of a batch without key and value, as it waits.
pub const BATCH_STEP_BYTES: usize = 320;
/// The same as its outcome is told: with a detail that is twice as long in JSON.
pub const BATCH_OUTCOME_BYTES: usize = 512;
/// The cell of a table that PostgreSQL can hold is 1 GiB; `--max-value-bytes` may not pass this, so that a value
/// and its copies in flight stay a small part of a server's memory.
pub const MAX_VALUE_BYTES: usize = 64 * 1024 * 1024;

/// One read from a socket. A loop has one such buffer for all its connections.
pub const READ_BYTES: usize = 64 * 1024;
/// Reads from one connection in one turn; the rest waits for the next turn, so that one upload starves nobody.
pub const READS_A_TURN: usize = 8;
/// Requests answered for one connection in one turn; the rest waits for the next turn.
pub const REQUESTS_A_TURN: usize = 128;
/// Answers waiting for a client to read them: past this no further request is parsed until they are gone.
pub const OUTPUT_BYTES: usize = 256 * 1024;
/// Bytes sent to one connection in one turn; the rest waits for the next turn, so that nobody waits for a large value
/// of a client that reads as fast as is written.
pub const FLUSH_BYTES: usize = 512 * 1024;
/// Values of at least this size are sent straight from the cache's memory instead of being copied behind their head.
pub const SHARED_VALUE_BYTES: usize = 4 * 1024;
/// Connections accepted in one turn; the rest waits for the next turn.
pub const ACCEPTS_A_TURN: usize = 64;
/// Pending connections that the kernel holds for a listener.
pub const LISTEN_BACKLOG: i32 = 4096;
/// Events taken from one poll.
pub const EVENTS_A_TURN: usize = 1024;
/// Connections whose deadline is looked at in one turn; the rest waits for the next turn.
pub const DEADLINES_A_TURN: usize = 256;
/// Replies taken from the inbox in one turn.
pub const REPLIES_A_TURN: usize = 1024;
/// Turns in a row that look at no deadlines because there are replies left for the next one.
pub const DEADLINES_PUT_OFF_TURNS: usize = 16;

/// Connections over `--max-connections` that one loop tells so with a 503 at a time; beyond these they are closed without a word.
pub const TURNED_AWAY: usize = 64;
/// Connections to the admin socket; more are turned away.
pub const ADMIN_CONNECTIONS: usize = 64;
/// A page of the admin socket, for [`crate::memory`]: without what it says of each loop, and that.
pub const ADMIN_PAGE_BYTES: usize = 64 * 1024;
/// See [`ADMIN_PAGE_BYTES`].
pub const ADMIN_LOOP_BYTES: usize = 512;
/// How long one who asks for operations while the server starts may take for that.
pub const STARTING_MS: u64 = 500;
/// File descriptors that connections leave to everything else, so that a database that was away can be reached again
/// (the `postgres` crate dies where it finds none): to the process, to each loop, and to each session.
pub const OWN_DESCRIPTORS: usize = 16;
/// More of them for the admin socket: whoever wants to know why nobody gets in must get in.
pub const ADMIN_DESCRIPTORS: usize = 4;
/// A loop's poll, its waker and its listeners.
pub const LOOP_DESCRIPTORS: usize = 6;
/// A session's socket, and the poll of the small runtime that the `postgres` crate gives it.
pub const SESSION_DESCRIPTORS: usize = 6;
/// How long accepting pauses when connections have all the file descriptors that they may have.
pub const ACCEPT_PAUSE_MS: u64 = 100;
/// How long a loop with more than its share of the connections leaves the next one of a shared listener to the others.
pub const ACCEPT_DEFER_MS: u64 = 1;
/// How often the loop with the admin socket looks whether the others have drained.
pub const DRAIN_LOOK_MS: u64 = 10;
/// How long a closed connection is read from, so that the client sees the answer and not a reset.
pub const LINGER_MS: u64 = 1_000;
/// How much a closed connection may still send before it is cut off. More than the kernel's buffers hold on their
/// way: else whoever sends without looking finds a reset, and some systems then throw the unread answer away.
pub const LINGER_BYTES: usize = 16 * 1024 * 1024;
/// The unwanted content of a refused request that is read and dropped to keep its connection; more closes it.
pub const DISCARD_BYTES: u64 = 64 * 1024;
/// How long an idle connection may still send one last request once draining has begun.
pub const DRAIN_IDLE_MS: u64 = 250;

/// What PostgreSQL says of an error: the rest is cut off before anybody is told.
pub const POSTGRES_MESSAGE_BYTES: usize = 1024;
/// The private PostgreSQL's log is put beside at a start where it has more bytes.
pub const POSTGRES_LOG_BYTES: u64 = 16 * 1024 * 1024;

/// Origins in `--cors-allow-origin`: more are refused at the start. Each has its heads of hits prepared in every loop.
pub const CORS_ORIGINS: usize = 32;
/// How long a browser may remember the answer to its preflight, in seconds.
pub const CORS_MAX_AGE_S: u32 = 7_200;

/// Requests of one shard's keys that wait for reads, those of clients that have gone meanwhile included: more are
/// answered 503.
pub const WAITERS_A_SHARD: usize = 65_536;
/// The same over all shards, however many there are: more are answered 503.
pub const WAITERS: usize = 64 * WAITERS_A_SHARD;
/// Connections waiting for keys of one shard to change: more are answered 503. Over all shards they are no more than there
/// are connections.
pub const WATCHERS_A_SHARD: usize = 65_536;
/// Engine shards of a cache that is not large. A power of two, and so is the next.
pub const SHARDS: usize = 64;
/// The same at most.
pub const SHARDS_MOST: usize = 4_096;
/// A larger cache has as many shards as keep each of them within so many bytes: a new table of a shard's index is made in one
/// piece, while its lock is held.
pub const SHARD_BYTES: usize = 64 * 1024 * 1024;
/// A shard holds at least this many of the largest values; a small cache has fewer shards for it.
pub const LARGEST_VALUES_A_SHARD: usize = 4;
/// The share of a shard's bytes that entries for absent keys may take: one in this many.
pub const ABSENT_SHARE: usize = 8;

/// Misses read by one statement; those of the last request, which asks for up to [`KEYS_A_REQUEST`], come on top.
pub const READ_BATCH: usize = 256;
/// Statements that look for the row at fault among misses that were refused together: enough for two rows of the largest batch, wherever
/// they are (both halves of it, then two a halving for each of them), or for a few. What is not told apart by then is refused with it.
pub const READ_PARTS: usize = 2 + 2 * 2 * (READ_BATCH + KEYS_A_REQUEST).ilog2() as usize;
/// Statements that look for the rows at fault in a piece of a load that was refused, halving it: enough for a few. Past that what is
/// left goes row by row, so many in one commit.
pub const LOAD_PARTS: usize = 32;
/// See [`LOAD_PARTS`].
pub const LOAD_SINGLES: usize = 256;
/// The share of the time of an answer after which rows that go one by one are committed, however few they are: others wait for the
/// writer.
pub const LOAD_TIME_SHARE: u32 = 8;
/// How often a batch of writes that depend on their rows, or of many keys, is halved to find the rows at fault. What is not told apart by
/// then goes key by key.
pub const BATCH_PARTS: usize = 32;
/// Writes folded into one statement and one commit.
pub const WRITE_BATCH: usize = 256;
/// The part of `--request-timeout` that a job may wait in its queue, as far as can be foreseen: one in so many. The batch
/// before it may take as long once more, and so may its own. More is answered 503 at once.
pub const QUEUE_WAIT_SHARE: u32 = 3;
/// Bytes of values in one write statement, past which the batch is closed.
pub const WRITE_BATCH_BYTES: usize = 8 * 1024 * 1024;
/// The first and the longest pause between two attempts to connect to PostgreSQL.
pub const RECONNECT_MS: (u64, u64) = (50, 1_000);
/// How long another host of the URL is looked for after one that may not be used, in times that one may take to be
/// reached, for each of them: then the worker counts as one without a database, and its clients are answered 503. A host that does not answer takes all
/// of its time at every try.
pub const OTHER_HOSTS_CONNECTS: u32 = 2;
/// How much longer than a statement may run its answer is waited for: then the server is given up.
pub const ANSWER_MARGIN_MS: u64 = 1_000;
/// How long a writer waits for a row that somebody else has locked before it goes on with others; an eighth of the time of an
/// answer where that is less.
pub const LOCK_WAIT_MS: u64 = 500;
/// How often it does so before others have their turn.
pub const LOCK_WAITS: usize = 4;
/// How often a statement that PostgreSQL broke off on its own (deadlock, serialization failure) is tried again.
pub const BROKEN_OFF_RETRIES: usize = 3;
/// How often a statement that was lost with its connection is sent again as it was: then it may be what ends the connections,
/// and its keys are tried one by one, once each. What is lost then is answered 504.
pub const LOST_RETRIES: usize = 1;
/// How often a write that depends on its row is judged anew because another program has changed the row meanwhile.
pub const OVERTAKEN_RETRIES: usize = 8;
/// Lines of the access log waiting for a slow disk; more are dropped and counted.
pub const ACCESS_LOG_LINES: usize = 16_384;
/// A method in the access log; a longer one is cut.
pub const ACCESS_LOG_METHOD_BYTES: usize = 32;
/// A target in the access log; a longer one is cut.
pub const ACCESS_LOG_TARGET_BYTES: usize = 1024;
/// A client's `X-Request-Id`; a longer one is not taken.
pub const REQUEST_ID_BYTES: usize = 64;
/// Log lines waiting for a slow terminal; more are dropped and counted.
pub const LOG_LINES: usize = 4_096;

/// Memory that is no buffer, for [`crate::memory`]: a connection's slot, its place among the timers, its state, and the
/// heads of the answers that it has not read.
pub const CONNECTION_BYTES: usize = 2 * 1024;
/// A job on its way, without its key and value: itself, its flight, its waiter, its reply.
pub const JOB_BYTES: usize = 512;
/// A session: its thread's stack, as far as it is used, and the buffers of the `postgres` crate.
pub const SESSION_BYTES: usize = 512 * 1024;
/// The program, its other threads and its tables.
pub const FIXED_BYTES: usize = 8 * 1024 * 1024;
/// The share that the allocator may lose between what is in use: one in this many.
pub const ALLOCATOR_SHARE: usize = 8;
/// What a problem says, where it is no text of ours: the rest is cut off.
pub const PROBLEM_DETAIL_BYTES: usize = 2 * 1024;
/// Kinds of problems that there is room to count: more do not compile into a table, a test says so.
pub const PROBLEM_KINDS: usize = 64;
/// Reasons for which bytes are no request, told apart in the metrics; all are texts of ours.
pub const PARSE_REASONS: usize = 64;
/// Ciphertext that a TLS session holds for a socket that takes no more, beside what its connection holds.
pub const TLS_OUTPUT_BYTES: usize = 64 * 1024;
/// Reads from the socket for one read of a TLS session; the rest waits for the next. rustls reads 4 KiB at a time: as much
/// as [`READ_BYTES`] altogether, and as much again for what is no content.
pub const TLS_READS: usize = 32;
/// What a TLS session takes besides: its keys and states, and a handshake that is not whole.
pub const TLS_SESSION_BYTES: usize = 96 * 1024;
/// Tokens in `--auth-tokens-file`: more are refused at the start. Each of them is compared with that of every request.
pub const TOKENS: usize = 256;
/// One of these tokens: a longer one is refused at the start.
pub const TOKEN_BYTES: usize = 512;
/// A file with a secret in it (tokens, passwords, the URL of the database): a larger one is refused.
pub const SECRET_FILE_BYTES: u64 = 1024 * 1024;
