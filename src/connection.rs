//! One client: a state machine over anything that reads and writes. Knows neither poll nor slab. Turned by
//! [`crate::event_loop`] when something has happened: bytes, room to write, a reply, a deadline.
//!
//! ```text
//!            first byte          whole head, content follows
//!   Idle ──────────────► Head ───────────────────────────────► Content
//!    ▲ ▲                  │ no content                            │ content whole
//!    │ └── hit, refusal ──┴──────────► (execute) ◄────────────────┘
//!    │                                     │ miss or write
//!    └───────────── reply ────────────── Waiting
//!
//!   a bulk load:    Head ──► Loading (content and jobs at the same time) ──► Idle
//!   a list of rows: Waiting ──page──► Exporting ──sent──► Waiting for the next page; behind the last one Idle
//!   from anywhere, once the connection is to end:  Closing ──flushed──► Lingering ──► gone
//! ```
//!
//! - Before its first request it is New: that is Idle, but for an empty line. Behind a request one is left over, in front of
//!   the first it begins it.
//! - While it waits for a reply it parses no further. That keeps answers in the order of the requests, lets a
//!   pipelined GET see the PUT before it, and bounds what one connection can have under way.
//! - While a client does not read its answers, nothing more of it is parsed either.
//! - Idle, it owns no buffer: reading, parsing and encoding happen in the loop's [`Workspace`]; only what is left
//!   over is copied out of it.

mod answered;
mod asker;
mod collect;
pub mod context;
mod ends;
mod incoming;
mod jobs;
mod list;
mod load;
mod read;
mod requests;
mod watch;
mod write;

use crate::api::auth;
use crate::http::response::Frame;
use crate::limits::{
    DRAIN_IDLE_MS, FLUSH_BYTES, LINGER_BYTES, LINGER_MS, READS_A_TURN, REQUEST_LINE_BYTES, REQUESTS_A_TURN,
};
use crate::metrics::{Method, Phase};
use crate::output::{Flush, Output};
use crate::store::Reply;
use crate::token::Id;
use asker::Asker;
pub use context::{Bounds, Context, Workspace};
use incoming::Incoming;
use jobs::Job;
use list::Export;
use load::Load;
use memchr::memchr;
use std::io::{ErrorKind, Read, Write};
use std::net::IpAddr;

/// What a connection needs of its socket. A socket of the event loop, or a script of a test.
pub trait Socket: Read + Write {
    /// Tells the client that nothing more comes.
    fn shutdown_write(&mut self);
}

/// Which socket a connection came in on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The data socket.
    Data,
    /// The admin socket.
    Admin,
}

/// Who has too many connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crowd {
    /// The server: `--max-connections`.
    Server,
    /// The client's address: `--max-connections-per-ip`.
    Address,
    /// The admin socket.
    Admin,
}

/// What the loop is to do with the connection next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing until something happens.
    Wait,
    /// It stopped early, for the sake of others: turn it again soon.
    Again,
    /// Close its socket.
    Close,
}

/// One client's connection.
#[derive(Debug)]
pub struct Connection {
    state: State,
    id: Id,
    role: Role,
    /// Bytes that were read and belong to a request that is not whole, or not to be parsed yet.
    input: Vec<u8>,
    /// `input` may have a whole request in it.
    unparsed: bool,
    /// The socket may have bytes: set by an event, taken back by a read that says otherwise.
    readable: bool,
    /// The client has said that it sends no more.
    half_closed: bool,
    /// Answers that the client has not taken yet.
    backlog: Option<Box<Output>>,
    /// The number of the last ticket that was handed out.
    jobs: u32,
    /// When [`Connection::expire`] is to be called.
    deadline_ms: u64,
    /// When the job that is out was sent.
    sent_ns: u64,
    /// The method of the last request, for who counts.
    method: Method,
    /// By which token the last request was let in, where there are tokens.
    token: Option<auth::Id>,
    /// Who its client is, where answers are logged.
    peer: Option<Box<IpAddr>>,
    /// Of the request that is waited for.
    asker: Option<Box<Asker>>,
}

#[derive(Debug)]
enum State {
    /// Before the first request, of which nothing has come.
    New,
    /// Between requests.
    Idle,
    /// Some of a head is in `input`.
    Head,
    /// A head was taken; its content is arriving.
    Content(Box<Incoming>),
    /// A job is out.
    Waiting(Frame, Job),
    /// Lines of a load are on their way in.
    Loading(Box<Load>),
    /// Lines of a list are on their way out.
    Exporting(Frame, Box<Export>),
    /// The last answer is on its way out.
    Closing,
    /// The answer is out; what the client still sends is dropped, so that it can read the answer.
    Lingering { left: usize },
}

impl Connection {
    /// A connection that was accepted just now.
    pub fn new(id: Id, role: Role, cx: &Context<'_>) -> Connection {
        Connection {
            state: State::New,
            id,
            role,
            input: Vec::new(),
            unparsed: false,
            readable: true,
            half_closed: false,
            backlog: None,
            jobs: 0,
            deadline_ms: cx.now_ms + cx.bounds.idle_timeout_ms,
            sent_ns: 0,
            method: Method::None,
            token: None,
            peer: None,
            asker: None,
        }
    }

    /// Says who its client is.
    pub fn set_peer(&mut self, peer: Option<IpAddr>) {
        self.peer = peer.map(Box::new);
    }

    /// Which socket it came in on.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Who it is.
    pub fn id(&self) -> Id {
        self.id
    }

    /// When [`Connection::expire`] is to be called, unless something changes it.
    pub fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    /// The socket has bytes, or its end. `ended`: the client sends no more.
    pub fn set_readable(&mut self, ended: bool) {
        self.readable = true;
        self.half_closed |= ended;
    }

    /// What it waits for.
    #[inline]
    pub fn phase(&self) -> Phase {
        match &self.state {
            _ if self.backlog.is_some() => Phase::Client,
            State::New | State::Idle => Phase::Idle,
            State::Head => Phase::Head,
            State::Loading(load) if load.is_out() => Phase::Reply,
            State::Content(_) | State::Loading(_) => Phase::Content,
            State::Waiting(..) | State::Exporting(..) => Phase::Reply,
            State::Closing | State::Lingering { .. } => Phase::Closing,
        }
    }

    /// The TLS handshake has to be done by then, whatever the state would allow.
    pub fn cap_deadline(&mut self, until_ms: u64) {
        self.deadline_ms = self.deadline_ms.min(until_ms);
    }

    /// The TLS handshake is done.
    pub fn established(&mut self, cx: &Context<'_>) {
        self.deadline_ms = self.own_deadline_ms(cx);
    }

    /// The socket has taken ciphertext of earlier answers: the client still reads, however slowly.
    pub fn has_sent(&mut self, cx: &Context<'_>) {
        if self.backlog.is_some() {
            self.deadline_ms = cx.now_ms + cx.bounds.idle_timeout_ms;
        }
    }

    /// Does what can be done now: sends what is left over, reads, answers, sends, each at most once if the requests
    /// are small.
    pub fn turn(&mut self, io: &mut impl Socket, ws: &mut Workspace, cx: &Context<'_>) -> Turn {
        debug_assert!(ws.output.is_empty(), "another connection's answers were left in the workspace");
        debug_assert!(!Connection::has_asker(ws), "another connection's asker was left in the workspace");
        self.turn_on(io, ws, cx)
    }

    /// The same with a reply that it [waits for](Connection::waits_for).
    pub fn turn_with(
        &mut self,
        reply: Reply,
        io: &mut impl Socket,
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) -> Turn {
        debug_assert!(ws.output.is_empty(), "another connection's answers were left in the workspace");
        // While something is left over for its client to take, that has its own deadline, whatever the reply leads to.
        let slow_ms = self.backlog.is_some().then_some(self.deadline_ms);
        self.take_reply(reply, ws, cx);
        self.deadline_ms = slow_ms.unwrap_or(self.deadline_ms);
        self.keep_asker(ws);
        self.turn_on(io, ws, cx)
    }

    fn turn_on(&mut self, io: &mut impl Socket, ws: &mut Workspace, cx: &Context<'_>) -> Turn {
        if let Some(turn) = self.send_backlog(io, ws, cx) {
            return turn;
        }
        let then = self.advance(io, ws, cx);
        self.flush_and(then, io, ws, cx)
    }

    /// Sends what was encoded; once the kernel has all of it, `then` says what comes next.
    fn flush_and(&mut self, then: Turn, io: &mut impl Socket, ws: &mut Workspace, cx: &Context<'_>) -> Turn {
        self.keep_asker(ws);
        match self.flush(io, ws, cx) {
            Flush::Closed => Turn::Close,
            // Room to write is what it waits for now; the rest of its input stays where it is.
            Flush::WouldBlock => Turn::Wait,
            Flush::Again => Turn::Again,
            Flush::Done => self.after_flush(io, cx).unwrap_or(then),
        }
    }

    /// Sends what an earlier turn could not. `Some`: it still cannot, or the connection is over.
    fn send_backlog(&mut self, io: &mut impl Socket, ws: &mut Workspace, cx: &Context<'_>) -> Option<Turn> {
        let backlog = self.backlog.as_mut()?;
        let before = backlog.len();
        let flush = backlog.flush(io, FLUSH_BYTES);
        if backlog.len() < before {
            self.deadline_ms = cx.now_ms + cx.bounds.idle_timeout_ms;
        }
        match flush {
            Flush::Done => {
                self.backlog = None;
                self.deadline_ms = self.own_deadline_ms(cx);
                None
            }
            Flush::WouldBlock | Flush::Again => {
                // The reply to the job that was out, if it came with this turn: its turn to leave is later.
                backlog.append(&mut ws.output);
                Some(if flush == Flush::Again { Turn::Again } else { Turn::Wait })
            }
            Flush::Closed => {
                ws.output.clear();
                Some(Turn::Close)
            }
        }
    }

    /// When it has waited for long enough, counted from now: its own patience, where something else's had taken its place.
    fn own_deadline_ms(&self, cx: &Context<'_>) -> u64 {
        match &self.state {
            // An answer that is on its way is a request under way, whatever else happens.
            _ if self.backlog.is_some() => cx.now_ms + cx.bounds.idle_timeout_ms,
            State::New | State::Idle if cx.draining => cx.now_ms + DRAIN_IDLE_MS,
            State::New | State::Idle | State::Closing => cx.now_ms + cx.bounds.idle_timeout_ms,
            State::Head => cx.now_ms + cx.bounds.header_timeout_ms,
            // A wait without news and a load between two pieces may go on for ever: they end now.
            State::Waiting(_, Job::Watch(watch)) if cx.draining && watch.look_at_ms().is_some() => cx.now_ms,
            State::Loading(load) if cx.draining && !load.is_out() => cx.now_ms,
            // A look that is under way is a read like any other.
            State::Waiting(_, Job::Watch(watch)) => {
                watch.look_at_ms().unwrap_or(cx.now_ms + cx.bounds.request_timeout_ms)
            }
            State::Content(_) | State::Loading(_) | State::Waiting(..) | State::Exporting(..) => {
                cx.now_ms + cx.bounds.request_timeout_ms
            }
            State::Lingering { .. } => cx.now_ms + LINGER_MS,
        }
    }

    /// Reads and answers until there is nothing to do, something to wait for, or its share of the turn is used up.
    fn advance(&mut self, io: &mut impl Socket, ws: &mut Workspace, cx: &Context<'_>) -> Turn {
        if let State::Exporting(..) = self.state {
            return self.export_on(ws, cx);
        }
        let mut requests = REQUESTS_A_TURN;
        for _ in 0..READS_A_TURN {
            if self.unparsed {
                let bytes = std::mem::take(&mut self.input);
                let used = self.serve(&bytes, &mut requests, ws, cx);
                self.keep_rest(bytes, used);
            }
            if self.unparsed {
                // Its share of requests is used up, or a bound on unsent answers is reached.
                return match self.is_waiting() {
                    true if self.is_abandoned_watch() => Turn::Close,
                    true => Turn::Wait,
                    false => Turn::Again,
                };
            }
            match self.state {
                State::Waiting(..) if self.is_abandoned_watch() => return Turn::Close,
                State::Waiting(..) | State::Exporting(..) | State::Closing => return Turn::Wait,
                State::Loading(ref load) if load.is_blocked() => return Turn::Wait,
                State::New
                | State::Idle
                | State::Head
                | State::Content(_)
                | State::Loading(_)
                | State::Lingering { .. } => {}
            }
            if !self.readable {
                return Turn::Wait;
            }
            // The workspace lends its buffer for the time that its other parts are used beside it.
            let mut scratch = std::mem::take(&mut ws.input);
            let result = io.read(&mut scratch);
            let turn = self.take_bytes(result, &scratch, &mut requests, ws, cx);
            ws.input = scratch;
            if let Some(turn) = turn {
                return turn;
            }
        }
        Turn::Again
    }

    /// One read's result. `Some`: the turn is over.
    fn take_bytes(
        &mut self,
        result: std::io::Result<usize>,
        scratch: &[u8],
        requests: &mut usize,
        ws: &mut Workspace,
        cx: &Context<'_>,
    ) -> Option<Turn> {
        let bytes = match result {
            Ok(0) => {
                // The client sends no more. A head that is not whole gets no answer; but its last bytes were not looked at, for no
                // line had ended: if they are no part of one, that is said.
                if matches!(self.state, State::Head) {
                    let bytes = std::mem::take(&mut self.input);
                    self.serve(&bytes, requests, ws, cx);
                }
                return Some(if ws.output.is_empty() { Turn::Close } else { self.close_after_output() });
            }
            Ok(n) => &scratch[..n],
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                return Some(Turn::Wait);
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => return None,
            Err(_) => return Some(Turn::Close),
        };
        // A short read has emptied the socket (epoll(7)): what comes later brings a new event. Only the end of the
        // stream, if it was announced, must still be read.
        if bytes.len() < scratch.len() && !self.half_closed {
            self.readable = false;
        }
        if let State::Lingering { left } = &mut self.state {
            *left = left.saturating_sub(bytes.len());
            return (*left == 0).then_some(Turn::Close);
        }
        if self.input.is_empty() {
            let used = self.serve(bytes, requests, ws, cx);
            if used < bytes.len() && !self.is_closing() {
                self.input = bytes[used..].to_vec();
            }
        } else {
            // The rest of a head: parse again when a line has ended, not at every byte. Behind an empty line it only begins.
            self.input.extend_from_slice(bytes);
            if matches!(self.state, State::Idle)
                || memchr(b'\n', bytes).is_some()
                || self.input.len() > REQUEST_LINE_BYTES
            {
                let bytes = std::mem::take(&mut self.input);
                let used = self.serve(&bytes, requests, ws, cx);
                self.keep_rest(bytes, used);
            }
        }
        None
    }

    fn keep_rest(&mut self, mut bytes: Vec<u8>, used: usize) {
        if used < bytes.len() && !self.is_closing() {
            bytes.drain(..used);
            self.input = bytes;
        } else {
            self.unparsed = false;
        }
    }

    /// It waits for a change, and its client sends no more. One that has gone, and one that still waits, cannot be told apart: it is
    /// taken for gone.
    fn is_abandoned_watch(&self) -> bool {
        self.half_closed && self.is_watching()
    }

    fn is_waiting(&self) -> bool {
        match &self.state {
            State::Waiting(..) => true,
            State::Loading(load) => load.is_blocked(),
            _ => false,
        }
    }

    fn is_closing(&self) -> bool {
        matches!(self.state, State::Closing | State::Lingering { .. })
    }

    fn close_after_output(&mut self) -> Turn {
        self.state = State::Closing;
        Turn::Wait
    }

    /// Sends what this turn has encoded; what the socket does not take, or is more than one turn's share, becomes this
    /// connection's backlog.
    fn flush(&mut self, io: &mut impl Socket, ws: &mut Workspace, cx: &Context<'_>) -> Flush {
        if ws.output.is_empty() {
            return Flush::Done;
        }
        debug_assert!(self.backlog.is_none(), "the backlog leaves first");
        let flush = ws.output.flush(io, FLUSH_BYTES);
        match flush {
            Flush::WouldBlock | Flush::Again => {
                self.backlog = Some(Box::new(ws.output.split_unsent()));
                self.deadline_ms = cx.now_ms + cx.bounds.idle_timeout_ms;
            }
            Flush::Closed => ws.output.clear(),
            Flush::Done => {}
        }
        flush
    }

    /// Everything encoded is out. `Some` where that was the last.
    fn after_flush(&mut self, io: &mut impl Socket, cx: &Context<'_>) -> Option<Turn> {
        if !matches!(self.state, State::Closing) {
            return None;
        }
        // Closing a socket with unread bytes sends a reset, which can destroy the answer before the client has read
        // it (RFC 9112 section 9.6): say that nothing more comes, and read on for a moment.
        io.shutdown_write();
        self.enter_lingering(cx);
        Some(Turn::Again)
    }

    fn enter_lingering(&mut self, cx: &Context<'_>) {
        self.input = Vec::new();
        // A request that is not answered yet will not be.
        self.asker = None;
        self.unparsed = false;
        self.readable = true;
        self.state = State::Lingering { left: LINGER_BYTES };
        self.deadline_ms = cx.now_ms + LINGER_MS;
    }
}

#[cfg(test)]
mod tests;
