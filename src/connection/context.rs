//! What the connections of one loop share: buffers to work in, and what they may look at. Made by
//! [`crate::event_loop`], used by [`super`].

use super::asker::Asker;
use crate::access_log::AccessLog;
use crate::api::admin;
use crate::api::auth::Tokens;
use crate::http::request::Repeat;
use crate::http::response::Encoder;
use crate::limits::{ITEMS_BYTES, READ_BYTES, REPEATS};
use crate::metrics::Counters;
use crate::output::Output;
use crate::store::backend::Backend;

/// What one loop's connections share, one at a time.
#[derive(Debug)]
pub struct Workspace {
    /// Where sockets are read into.
    pub(super) input: Box<[u8]>,
    /// The fields that connections have sent last.
    pub(super) repeats: [Repeat; REPEATS],
    /// Where answers are encoded to.
    pub(super) output: Output,
    /// Where lines of an export are encoded to before they go there.
    pub(super) piece: Vec<u8>,
    /// Encodes them.
    pub encoder: Encoder,
    /// Of the request that is being answered.
    pub(super) asker: Asker,
}

impl Workspace {
    /// Buffers for one loop.
    pub fn new(encoder: Encoder) -> Workspace {
        let input = vec![0; READ_BYTES].into_boxed_slice();
        Workspace {
            input,
            repeats: Default::default(),
            output: Output::default(),
            piece: Vec::new(),
            encoder,
            asker: Asker::default(),
        }
    }
}

/// The bounds that are flags.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The largest value.
    pub max_value_bytes: usize,
    /// For the content to arrive, and for the answer to be found.
    pub request_timeout_ms: u64,
    /// For the head to arrive.
    pub header_timeout_ms: u64,
    /// For silence, and for not reading answers.
    pub idle_timeout_ms: u64,
}

impl Bounds {
    /// What an answer about several keys may hold of values.
    pub(super) fn items_bytes(&self) -> usize {
        ITEMS_BYTES + self.max_value_bytes
    }
}

/// What a turn of a connection may look at, besides its socket.
#[derive(Debug)]
pub struct Context<'a> {
    /// The engine and the queues.
    pub backend: &'a Backend,
    /// What the admin socket tells about.
    pub status: &'a admin::Status,
    /// The bounds that are flags.
    pub bounds: &'a Bounds,
    /// Who may do what on the data socket; none: everyone everything.
    pub tokens: Option<&'a Tokens>,
    /// This loop's counters.
    pub counters: &'a Counters,
    /// Where answers are logged, if they are.
    pub access_log: Option<&'a AccessLog>,
    /// The number of this loop.
    pub event_loop: u16,
    /// The time of this turn.
    pub now_ms: u64,
    /// The same, for what is measured.
    pub now_ns: u64,
    /// The same in whole seconds.
    pub now_s: u32,
    /// The server is going away: every answer ends its connection.
    pub draining: bool,
}
