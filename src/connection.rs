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
//!   from anywhere, once the connection is to end:  Closing ──flushed──► Lingering ──► gone
//! ```
//!
//! - While it waits for a reply it parses no further. That keeps answers in the order of the requests, lets a
//!   pipelined GET see the PUT before it, and bounds what one connection can have under way.
//! - While a client does not read its answers, nothing more of it is parsed either.
//! - Idle, it owns no buffer: reading, parsing and encoding happen in the loop's [`Workspace`]; only what is left
//!   over is copied out of it.

use crate::api::{self, Command, admin, answer};
use crate::http::content::Decoder;
use crate::http::problem::{Kind, Problem};
use crate::http::request::{self, Framing, Head, Parsed, Version};
use crate::http::response::{CONTINUE, Encoder, Frame, Reuse};
use crate::limits::{
    DISCARD_BYTES, DRAIN_IDLE_MS, LINGER_BYTES, LINGER_MS, OUTPUT_BYTES, READ_BYTES, READS_A_TURN,
    REQUEST_LINE_BYTES, REQUESTS_A_TURN,
};
use crate::metrics::Counters;
use crate::output::{Flush, Output};
use crate::store::backend::{Asked, Backend};
use crate::store::{Answer, Claim, Op};
use crate::token::{Id, Ticket};
use memchr::memchr;
use std::io::{ErrorKind, Read, Write};

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
    /// The data socket, over `--max-connections`: told so, and closed.
    TurnedAway,
}

/// What one loop's connections share, one at a time.
#[derive(Debug)]
pub struct Workspace {
    /// Where sockets are read into.
    input: Box<[u8]>,
    /// Where answers are encoded to.
    output: Output,
    /// Encodes them.
    pub encoder: Encoder,
}

impl Workspace {
    /// Buffers for one loop.
    pub fn new(encoder: Encoder) -> Workspace {
        Workspace { input: vec![0; READ_BYTES].into_boxed_slice(), output: Output::default(), encoder }
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

/// What a turn of a connection may look at, besides its socket.
#[derive(Debug)]
pub struct Context<'a> {
    /// The engine and the queues.
    pub backend: &'a Backend,
    /// What the admin socket tells about.
    pub status: &'a admin::Status,
    /// The bounds that are flags.
    pub bounds: &'a Bounds,
    /// This loop's counters.
    pub counters: &'a Counters,
    /// The number of this loop.
    pub event_loop: u16,
    /// The time of this turn.
    pub now_ms: u64,
    /// The server is going away: every answer ends its connection.
    pub draining: bool,
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
    /// Counts the jobs sent.
    jobs: u32,
    /// When [`Connection::expire`] is to be called.
    deadline_ms: u64,
}

#[derive(Debug)]
enum State {
    /// Between requests.
    Idle,
    /// Some of a head is in `input`.
    Head,
    /// A head was taken; its content is arriving.
    Content(Box<Incoming>),
    /// A job is out.
    Waiting(Frame, Job),
    /// The last answer is on its way out.
    Closing,
    /// The answer is out; what the client still sends is dropped, so that it can read the answer.
    Lingering { left: usize },
}

/// What is waited for: decides what a deadline means.
#[derive(Debug)]
enum Job {
    Read,
    Write(Claim),
}

/// A request whose content is arriving.
#[derive(Debug)]
struct Incoming {
    purpose: Purpose,
    frame: Frame,
    decoder: Decoder,
    content: Vec<u8>,
    /// Bytes of content so far, kept or not.
    bytes: u64,
}

/// What becomes of a content.
#[derive(Debug)]
enum Purpose {
    /// It is the value of this key.
    Set(Box<str>),
    /// It is dropped, and then this is done.
    Drop(Owned),
}

/// A command that outlives the bytes it was parsed from.
#[derive(Debug)]
enum Owned {
    Command(Command<'static>),
    Refusal(Problem),
}

impl Connection {
    /// A connection that was accepted just now.
    pub fn new(id: Id, role: Role, cx: &Context<'_>) -> Connection {
        Connection {
            state: State::Idle,
            id,
            role,
            input: Vec::new(),
            unparsed: false,
            readable: true,
            half_closed: false,
            backlog: None,
            jobs: 0,
            deadline_ms: cx.now_ms + cx.bounds.idle_timeout_ms,
        }
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

    /// The server has begun to drain: an idle connection may send one last request, soon.
    pub fn drain(&mut self, cx: &Context<'_>) {
        if matches!(self.state, State::Idle) {
            self.deadline_ms = self.deadline_ms.min(cx.now_ms + DRAIN_IDLE_MS);
        }
    }

    /// Does what can be done now: sends what is left over, reads, answers, sends, each at most once if the requests
    /// are small. `reply` is the answer to the job that is out.
    pub fn turn(
        &mut self,
        io: &mut impl Socket,
        ws: &mut Workspace,
        cx: &Context<'_>,
        reply: Option<&Answer>,
    ) -> Turn {
        debug_assert!(ws.output.is_empty(), "another connection's answers were left in the workspace");
        if let Some(answer) = reply {
            self.take_reply(answer, ws, cx);
        }
        if let Some(turn) = self.send_backlog(io, ws, cx) {
            return turn;
        }
        let turn = self.advance(io, ws, cx);
        match self.flush(io, ws, cx) {
            Flush::Closed => Turn::Close,
            // Room to write is what it waits for now; the rest of its input stays where it is.
            Flush::WouldBlock => Turn::Wait,
            Flush::Done => self.after_flush(io, cx).unwrap_or(turn),
        }
    }

    /// Its deadline has passed.
    pub fn expire(&mut self, io: &mut impl Socket, ws: &mut Workspace, cx: &Context<'_>) -> Turn {
        if self.backlog.is_some() {
            cx.counters.slow_readers_total.add(1);
            return Turn::Close;
        }
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => {
                cx.counters.idle_closed_total.add(1);
                return Turn::Close;
            }
            State::Closing | State::Lingering { .. } => return Turn::Close,
            State::Head => self.too_slow("--header-timeout", LAST, ws, cx),
            State::Content(incoming) => {
                let head_only = incoming.frame.head_only;
                self.too_slow("--request-timeout", Frame { head_only, ..LAST }, ws, cx);
            }
            State::Waiting(frame, job) => {
                cx.counters.unanswered_total.add(1);
                let problem = match job {
                    Job::Read => answer::deadline_exceeded(),
                    Job::Write(claim) if claim.withdraw() => answer::not_started(),
                    Job::Write(_) => answer::outcome_unknown(),
                };
                self.refuse(&problem, frame, ws, cx);
            }
        }
        self.turn_flushed(io, ws, cx)
    }

    /// The server cannot wait any longer: whoever still waits is told what is known, as far as the socket takes it.
    pub fn abandon(&mut self, io: &mut impl Socket, ws: &mut Workspace, cx: &Context<'_>) {
        if self.backlog.is_some() {
            return;
        }
        if let State::Waiting(frame, job) = std::mem::replace(&mut self.state, State::Closing) {
            let problem = match job {
                Job::Write(claim) if !claim.withdraw() => answer::outcome_unknown(),
                Job::Read | Job::Write(_) => answer::draining(),
            };
            self.refuse(&problem, Frame { reuse: Reuse::Close, ..frame }, ws, cx);
            self.turn_flushed(io, ws, cx);
        }
    }

    /// True when this reply is for the job that is out.
    pub fn waits_for(&self, ticket: Ticket) -> bool {
        matches!(self.state, State::Waiting(..)) && ticket.id == self.id && ticket.job == self.jobs
    }

    /// Tells a client that there is no room for it.
    pub fn turn_away(&mut self, io: &mut impl Socket, ws: &mut Workspace, cx: &Context<'_>) -> Turn {
        let detail = "the server has as many connections as --max-connections allows";
        let problem = Problem::new(Kind::TooManyConnections, detail).retry_after(1);
        self.refuse(&problem, LAST, ws, cx);
        self.turn_flushed(io, ws, cx)
    }

    fn too_slow(&mut self, flag: &str, frame: Frame, ws: &mut Workspace, cx: &Context<'_>) {
        cx.counters.slow_requests_total.add(1);
        let problem = Problem::new(Kind::SlowRequest, format!("the request did not arrive within {flag}"));
        self.refuse(&problem, frame, ws, cx);
    }

    fn turn_flushed(&mut self, io: &mut impl Socket, ws: &mut Workspace, cx: &Context<'_>) -> Turn {
        match self.flush(io, ws, cx) {
            Flush::Closed => Turn::Close,
            Flush::WouldBlock => Turn::Wait,
            Flush::Done => self.after_flush(io, cx).unwrap_or(Turn::Again),
        }
    }

    /// Sends what an earlier turn could not. `Some`: it still cannot, or the connection is over.
    fn send_backlog(&mut self, io: &mut impl Socket, ws: &mut Workspace, cx: &Context<'_>) -> Option<Turn> {
        let backlog = self.backlog.as_mut()?;
        let before = backlog.len();
        let flush = backlog.flush(io);
        if backlog.len() < before {
            self.deadline_ms = cx.now_ms + cx.bounds.idle_timeout_ms;
        }
        match flush {
            Flush::Done => {
                self.backlog = None;
                self.begin_waiting_again(cx);
                None
            }
            Flush::WouldBlock => {
                // The reply to the job that was out, if it came with this turn: its turn to leave is later.
                backlog.append(&mut ws.output);
                Some(Turn::Wait)
            }
            Flush::Closed => {
                ws.output.clear();
                Some(Turn::Close)
            }
        }
    }

    /// Gives the state its own deadline back after a backlog had taken it over.
    fn begin_waiting_again(&mut self, cx: &Context<'_>) {
        self.deadline_ms = cx.now_ms
            + match self.state {
                State::Idle | State::Closing => cx.bounds.idle_timeout_ms,
                State::Head => cx.bounds.header_timeout_ms,
                State::Content(_) | State::Waiting(..) => cx.bounds.request_timeout_ms,
                State::Lingering { .. } => LINGER_MS,
            };
    }

    /// Reads and answers until there is nothing to do, something to wait for, or its share of the turn is used up.
    fn advance(&mut self, io: &mut impl Socket, ws: &mut Workspace, cx: &Context<'_>) -> Turn {
        let mut requests = REQUESTS_A_TURN;
        for _ in 0..READS_A_TURN {
            if self.unparsed {
                let bytes = std::mem::take(&mut self.input);
                let used = self.serve(&bytes, &mut requests, ws, cx);
                self.keep_rest(bytes, used);
            }
            if self.unparsed {
                // Its share of requests is used up, or a bound on unsent answers is reached.
                return if self.is_waiting() { Turn::Wait } else { Turn::Again };
            }
            match self.state {
                State::Waiting(..) | State::Closing => return Turn::Wait,
                State::Idle | State::Head | State::Content(_) | State::Lingering { .. } => {}
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
                // Half-closed in the middle of a request: nothing to answer, unless what is left over, which is
                // looked at by lines, is none. Elsewhere: it is over.
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
            // The rest of a head: parse again when a line has ended, not at every byte.
            self.input.extend_from_slice(bytes);
            if memchr(b'\n', bytes).is_some() || self.input.len() > REQUEST_LINE_BYTES {
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

    fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting(..))
    }

    fn is_closing(&self) -> bool {
        matches!(self.state, State::Closing | State::Lingering { .. })
    }

    fn close_after_output(&mut self) -> Turn {
        self.state = State::Closing;
        Turn::Wait
    }

    /// Answers the requests in `bytes`, in their order, as far as they are whole and may be answered now. Returns the
    /// bytes used; `unparsed` says whether the rest may be a whole request.
    fn serve(&mut self, bytes: &[u8], requests: &mut usize, ws: &mut Workspace, cx: &Context<'_>) -> usize {
        let mut used = 0;
        self.unparsed = false;
        while used < bytes.len() {
            match &mut self.state {
                State::Idle | State::Head => {
                    if *requests == 0 || ws.output.len() >= OUTPUT_BYTES {
                        self.unparsed = true;
                        break;
                    }
                    match request::parse(&bytes[used..]) {
                        Ok(Parsed::Complete(head)) => {
                            *requests -= 1;
                            used += head.bytes;
                            cx.counters.requests_total.add(1);
                            self.begin(&head, used < bytes.len(), ws, cx);
                        }
                        Ok(Parsed::Partial) => {
                            if matches!(self.state, State::Idle) {
                                self.state = State::Head;
                                self.deadline_ms = cx.now_ms + cx.bounds.header_timeout_ms;
                            }
                            break;
                        }
                        Err(problem) => {
                            cx.counters.malformed_requests_total.add(1);
                            self.refuse(&problem, LAST, ws, cx);
                        }
                    }
                }
                State::Content(incoming) => match incoming.take(&bytes[used..], cx.bounds.max_value_bytes) {
                    Ok(n) => {
                        used += n;
                        if incoming.decoder.is_done() {
                            self.content_whole(ws, cx);
                        }
                    }
                    Err(problem) => {
                        let head_only = incoming.frame.head_only;
                        self.refuse(&problem, Frame { head_only, ..LAST }, ws, cx);
                    }
                },
                State::Waiting(..) => {
                    self.unparsed = true;
                    break;
                }
                State::Closing | State::Lingering { .. } => break,
            }
        }
        used
    }

    /// A head is whole. Decides what is done with it before any content is read.
    fn begin(&mut self, head: &Head<'_>, more_follows: bool, ws: &mut Workspace, cx: &Context<'_>) {
        let reuse = match head.version {
            _ if !head.keep_alive || cx.draining => Reuse::Close,
            Version::Http10 => Reuse::KeepAlive,
            Version::Http11 => Reuse::Silent,
        };
        let frame = Frame { head_only: head.method == "HEAD", reuse };
        let routed = match self.role {
            Role::Data | Role::TurnedAway => api::route(head.method, head.target),
            Role::Admin => admin::route(head.method, head.target),
        };
        let checked =
            routed.and_then(|command| check_length(command, head.framing, cx.bounds.max_value_bytes));
        if !head.framing.has_content() {
            return match checked {
                Ok(Command::Set(key)) => self.set(key.into(), Vec::new(), frame, ws, cx),
                Ok(command) => self.execute(command, frame, ws, cx),
                Err(problem) => self.refuse(&problem, frame, ws, cx),
            };
        }
        // Content that is not wanted is read to keep the connection, if it is small and on its way; else the answer
        // comes first, and the connection ends with it.
        let droppable = matches!(head.framing, Framing::Length(..=DISCARD_BYTES)) && !head.expects_continue;
        let purpose = match checked {
            Ok(Command::Set(key)) => Purpose::Set(key.into()),
            Ok(command) if droppable => Purpose::Drop(Owned::Command(own(command))),
            Err(problem) if droppable && problem.kind != Kind::ValueTooLarge => {
                Purpose::Drop(Owned::Refusal(problem))
            }
            Ok(command) => {
                return self.execute(command, Frame { reuse: Reuse::Close, ..frame }, ws, cx);
            }
            Err(problem) => return self.refuse(&problem, Frame { reuse: Reuse::Close, ..frame }, ws, cx),
        };
        // RFC 9110 section 10.1.1: not needed where the content is on its way already.
        if head.expects_continue && !more_follows {
            ws.output.bytes.extend_from_slice(CONTINUE);
        }
        let decoder = Decoder::new(head.framing);
        self.state =
            State::Content(Box::new(Incoming { purpose, frame, decoder, content: Vec::new(), bytes: 0 }));
        self.deadline_ms = cx.now_ms + cx.bounds.request_timeout_ms;
    }

    fn content_whole(&mut self, ws: &mut Workspace, cx: &Context<'_>) {
        let State::Content(incoming) = std::mem::replace(&mut self.state, State::Idle) else { return };
        let Incoming { purpose, frame, content, .. } = *incoming;
        match purpose {
            Purpose::Set(key) => self.set(key, content, frame, ws, cx),
            Purpose::Drop(Owned::Command(command)) => self.execute(command, frame, ws, cx),
            Purpose::Drop(Owned::Refusal(problem)) => self.refuse(&problem, frame, ws, cx),
        }
    }

    /// Executes a request that has no content, or whose content did not matter.
    fn execute(&mut self, command: Command<'_>, frame: Frame, ws: &mut Workspace, cx: &Context<'_>) {
        match command {
            Command::Get(key) => {
                let ticket = self.ticket(cx);
                let Workspace { output, encoder, .. } = ws;
                match cx.backend.get(&key, ticket, |hit| answer::hit(encoder, output, &hit, frame)) {
                    Asked::Answered(()) => {
                        cx.counters.cache_hits_total.add(1);
                        self.answered(frame, cx);
                    }
                    Asked::Waiting => {
                        cx.counters.cache_misses_total.add(1);
                        self.wait(frame, Job::Read, cx);
                    }
                    Asked::Queued(_) => unreachable!("a read is not queued as a write"),
                    Asked::Refused(refusal) => self.refuse(&answer::refused(refusal), frame, ws, cx),
                }
            }
            Command::Delete(key) => self.write(key.into(), Op::Delete, frame, ws, cx),
            Command::Set(key) => self.set(key.into(), Vec::new(), frame, ws, cx),
            Command::Options(allow) => {
                answer::options(&ws.encoder, &mut ws.output, allow, frame);
                self.answered(frame, cx);
            }
            Command::Admin(page) => {
                admin::page(&ws.encoder, &mut ws.output, page, cx.status, frame);
                self.answered(frame, cx);
            }
        }
    }

    fn set(&mut self, key: Box<str>, content: Vec<u8>, frame: Frame, ws: &mut Workspace, cx: &Context<'_>) {
        let value = String::from_utf8(content).ok().filter(|value| memchr(0, value.as_bytes()).is_none());
        match value {
            Some(value) => self.write(key, Op::Set(value.into()), frame, ws, cx),
            None => {
                let detail = "a value is UTF-8 text without U+0000: PostgreSQL's text holds nothing else";
                self.refuse(&Problem::new(Kind::ValueNotText, detail), frame, ws, cx);
            }
        }
    }

    fn write(&mut self, key: Box<str>, op: Op, frame: Frame, ws: &mut Workspace, cx: &Context<'_>) {
        let (ticket, deadline_ms) = (self.ticket(cx), cx.now_ms + cx.bounds.request_timeout_ms);
        match cx.backend.write(key, op, ticket, deadline_ms) {
            Asked::Queued(claim) => {
                cx.counters.writes_total.add(1);
                self.wait(frame, Job::Write(claim), cx);
            }
            Asked::Answered(()) | Asked::Waiting => unreachable!("a write is queued or refused"),
            Asked::Refused(refusal) => self.refuse(&answer::refused(refusal), frame, ws, cx),
        }
    }

    /// The ticket of the next job.
    fn ticket(&self, cx: &Context<'_>) -> Ticket {
        Ticket { event_loop: cx.event_loop, id: self.id, job: self.jobs.wrapping_add(1) }
    }

    fn wait(&mut self, frame: Frame, job: Job, cx: &Context<'_>) {
        self.jobs = self.jobs.wrapping_add(1);
        self.state = State::Waiting(frame, job);
        self.deadline_ms = cx.now_ms + cx.bounds.request_timeout_ms;
    }

    fn take_reply(&mut self, reply: &Answer, ws: &mut Workspace, cx: &Context<'_>) {
        let State::Waiting(frame, _) = std::mem::replace(&mut self.state, State::Idle) else { return };
        // Draining may have begun since the request was taken.
        let frame = if cx.draining { Frame { reuse: Reuse::Close, ..frame } } else { frame };
        answer::answer(&ws.encoder, &mut ws.output, reply, frame);
        self.answered(frame, cx);
    }

    fn refuse(&mut self, problem: &Problem, frame: Frame, ws: &mut Workspace, cx: &Context<'_>) {
        cx.counters.refusals_total.add(1);
        ws.encoder.problem(&mut ws.output, problem, frame);
        self.answered(frame, cx);
    }

    /// An answer has been encoded.
    fn answered(&mut self, frame: Frame, cx: &Context<'_>) {
        self.state = match frame.reuse {
            Reuse::Silent | Reuse::KeepAlive => State::Idle,
            Reuse::Close => State::Closing,
        };
        self.deadline_ms = cx.now_ms + cx.bounds.idle_timeout_ms;
    }

    /// Sends what this turn has encoded; what the socket does not take becomes this connection's backlog.
    fn flush(&mut self, io: &mut impl Socket, ws: &mut Workspace, cx: &Context<'_>) -> Flush {
        if ws.output.is_empty() {
            return Flush::Done;
        }
        debug_assert!(self.backlog.is_none(), "the backlog leaves first");
        let flush = ws.output.flush(io);
        match flush {
            Flush::WouldBlock => {
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
        self.input = Vec::new();
        self.unparsed = false;
        self.readable = true;
        self.state = State::Lingering { left: LINGER_BYTES };
        self.deadline_ms = cx.now_ms + LINGER_MS;
        Some(Turn::Again)
    }
}

/// The frame of an answer after which the connection cannot go on.
const LAST: Frame = Frame { head_only: false, reuse: Reuse::Close };

impl Incoming {
    /// Takes content from the front of `bytes`; returns how much.
    fn take(&mut self, bytes: &[u8], max_value_bytes: usize) -> Result<usize, Problem> {
        let Incoming { purpose, decoder, content, bytes: total, .. } = self;
        decoder.decode(bytes, |piece| {
            *total += piece.len() as u64;
            if let Purpose::Set(_) = purpose {
                if *total > max_value_bytes as u64 {
                    return Err(too_large(max_value_bytes));
                }
                content.extend_from_slice(piece);
            }
            Ok(())
        })
    }
}

/// A write needs a length, and one that fits.
fn check_length(
    command: Command<'_>,
    framing: Framing,
    max_value_bytes: usize,
) -> Result<Command<'_>, Problem> {
    match (&command, framing) {
        (Command::Set(_), Framing::None) => {
            let detail = "a write needs Content-Length or Transfer-Encoding: chunked; an empty value has Content-Length: 0";
            Err(Problem::new(Kind::LengthRequired, detail))
        }
        (Command::Set(_), Framing::Length(bytes)) if bytes > max_value_bytes as u64 => {
            Err(too_large(max_value_bytes))
        }
        _ => Ok(command),
    }
}

fn too_large(max_value_bytes: usize) -> Problem {
    let detail = format!("a value has at most {max_value_bytes} bytes (--max-value-bytes)");
    Problem::new(Kind::ValueTooLarge, detail)
}

fn own(command: Command<'_>) -> Command<'static> {
    match command {
        Command::Get(key) => Command::Get(key.into_owned().into()),
        Command::Set(key) => Command::Set(key.into_owned().into()),
        Command::Delete(key) => Command::Delete(key.into_owned().into()),
        Command::Options(allow) => Command::Options(allow),
        Command::Admin(page) => Command::Admin(page),
    }
}

#[cfg(test)]
mod tests;
