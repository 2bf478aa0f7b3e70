//! The event loop: the only place that polls. Owns sockets and connections, and decides nothing about what they say.
//! One thread each, started by [`crate::server`].
//!
//! One turn:
//!
//! ```text
//!  poll ─► mark what is ready ─► drain the inbox ─► accept ─► turn every ready connection ─► look at deadlines ─► poll
//! ```
//!
//! Readiness is edge-triggered: it is told once. That there is something to read is remembered until a read gives less than it was
//! offered, or "would block"; that there is room to write is not: a connection with something left over tries in each of its turns.
//! What a socket is polled for is said once, when it is opened, and never changed.
//!
//! Whatever stops before that, for the sake of others, goes on the ready list, and then poll does not sleep.

mod accept;
mod drain;
pub mod inbox;
pub mod listener;
pub mod places;
pub mod stream;
pub mod timers;
pub mod tls;

use crate::access_log::AccessLog;
use crate::api::admin::Status;
use crate::api::auth::Tokens;
use crate::clock::{Clock, seconds};
use crate::connection::context::{Bounds, Context, Workspace};
use crate::connection::{Connection, Role, Turn};
use crate::http::cors::Audiences;
use crate::http::response::Encoder;
use crate::limits::{
    DEADLINES_A_TURN, DEADLINES_PUT_OFF_TURNS, DRAIN_LOOK_MS, EVENTS_A_TURN, REPLIES_A_TURN,
};
use crate::metrics::{Counters, Phase};
use crate::store::backend::Backend;
use crate::store::{Answer, Reply};
use crate::token::Id;
use inbox::{Inbox, Mail};
use listener::Listener;
use mio::event::Event;
use mio::{Events, Interest, Poll, Token};
use places::{Place, Places};
use rustls::ServerConfig;
use slab::Slab;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};
use stream::Stream;
use timers::Wheel;

/// The token of the waker. Connections' tokens do not reach up to these: no slot does.
pub const WAKER: Token = Token(usize::MAX);
/// The token of the data listener.
pub const DATA_LISTENER: Token = Token(usize::MAX - 1);
/// The token of the admin listener.
pub const ADMIN_LISTENER: Token = Token(usize::MAX - 2);

/// Nanoseconds in a millisecond.
const NS_A_MS: u64 = 1_000_000;

/// What all loops share.
#[derive(Debug)]
pub struct Shared {
    /// The engine and the queues.
    pub backend: Backend,
    /// What the admin socket tells about.
    pub status: Arc<Status>,
    /// The bounds that are flags.
    pub bounds: Bounds,
    /// Connections to the data socket at a time, over all loops.
    pub max_connections: usize,
    /// Connections to the data socket, over all loops.
    pub connections: AtomicUsize,
    /// Those of each client address, if they are bounded.
    pub places: Option<Places>,
    /// Connections of every kind at a time: the file descriptors that they may take.
    pub max_sockets: usize,
    /// Connections of every kind, over all loops.
    pub sockets: AtomicUsize,
    /// Where answers are logged, if they are.
    pub access_log: Option<Arc<AccessLog>>,
    /// Whose scripts may read answers.
    pub audiences: Audiences,
    /// How long connections may take to end once draining has begun.
    pub drain_timeout_ms: u64,
    /// The clock of all deadlines.
    pub clock: Clock,
}

impl Shared {
    /// A connection to the data socket has ended.
    fn leave(&self, place: Option<&Place>) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
        if let (Some(places), Some(place)) = (&self.places, place) {
            places.leave(place);
        }
    }
}

/// What can be renewed while the server runs.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Who may do what; none: everyone everything.
    pub tokens: Option<Arc<Tokens>>,
    /// Certificate and key of new connections to the data socket; none: no TLS.
    pub tls: Option<Arc<ServerConfig>>,
}

/// A connection and its socket.
#[derive(Debug)]
struct Client {
    stream: Stream,
    connection: Connection,
    /// Among those of its address.
    place: Option<Place>,
    /// There is no room for it: it is told so, and closed.
    turned_away: bool,
    /// On the ready list.
    queued: bool,
    /// What it is counted to wait for.
    phase: Phase,
}

/// Where and when something happens on a loop: apart from what it happens to, so that both can be borrowed at once.
struct Here {
    shared: Arc<Shared>,
    credentials: Credentials,
    counters: Arc<Counters>,
    number: u16,
    now_ms: u64,
    now_ns: u64,
    /// Draining, and until when.
    draining: Option<u64>,
}

impl Here {
    /// The same, as connections see it.
    fn context(&self) -> Context<'_> {
        Context {
            backend: &self.shared.backend,
            status: &self.shared.status,
            bounds: &self.shared.bounds,
            tokens: self.credentials.tokens.as_deref(),
            counters: &self.counters,
            access_log: self.shared.access_log.as_deref(),
            event_loop: self.number,
            now_ms: self.now_ms,
            now_ns: self.now_ns,
            now_s: seconds(self.now_ms),
            draining: self.draining.is_some(),
        }
    }
}

/// One event loop.
pub struct EventLoop {
    here: Here,
    poll: Poll,
    inbox: Arc<Inbox>,
    listeners: Vec<Listener>,
    clients: Slab<Client>,
    next_generation: u32,
    /// Connections with something to do, each once.
    ready: VecDeque<Id>,
    wheel: Wheel,
    due: Vec<u32>,
    ws: Workspace,
    /// The last turn did not get to the bottom of the inbox.
    mail_left: bool,
    /// So many turns in a row have not looked at deadlines because of that.
    put_off: usize,
    turned_away: usize,
    admin: usize,
}

impl EventLoop {
    /// A loop that serves these listeners.
    pub fn new(
        poll: Poll,
        number: u16,
        shared: Arc<Shared>,
        credentials: Credentials,
        inbox: Arc<Inbox>,
        counters: Arc<Counters>,
        mut listeners: Vec<Listener>,
    ) -> io::Result<EventLoop> {
        for listener in &mut listeners {
            poll.registry().register(&mut listener.socket, listener.token, Interest::READABLE)?;
        }
        let now_ns = shared.clock.now_ns();
        let now_ms = now_ns / NS_A_MS;
        let encoder = Encoder::for_audiences(shared.audiences.clone(), now_ms, SystemTime::now());
        Ok(EventLoop {
            here: Here { shared, credentials, counters, number, now_ms, now_ns, draining: None },
            poll,
            inbox,
            listeners,
            clients: Slab::new(),
            next_generation: 0,
            ready: VecDeque::new(),
            wheel: Wheel::new(now_ms),
            due: Vec::new(),
            ws: Workspace::new(encoder),
            mail_left: false,
            put_off: 0,
            turned_away: 0,
            admin: 0,
        })
    }

    /// Turns until the server has drained.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_A_TURN);
        let mut turned_ns = self.here.shared.clock.now_ns();
        while !self.has_drained() {
            match self.poll.poll(&mut events, self.time_to_sleep(turned_ns / NS_A_MS)) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {
                    turned_ns = self.here.shared.clock.now_ns();
                    continue;
                }
                result => result?,
            }
            // The clock is read here, and once more before the next poll: what happens in one turn happens at one time.
            self.here.now_ns = self.here.shared.clock.now_ns();
            self.here.now_ms = self.here.now_ns / NS_A_MS;
            self.here.counters.waiting_ns.add(self.here.now_ns - turned_ns);
            let hits = self.here.counters.cache_answers();
            self.ws.encoder.tick(self.here.now_ms, SystemTime::now);
            self.here.counters.turns.add(1);
            let mut woken = self.mail_left;
            for event in &events {
                self.here.counters.events.add(1);
                match event.token() {
                    WAKER => woken = true,
                    token @ (DATA_LISTENER | ADMIN_LISTENER) => {
                        for listener in self.listeners.iter_mut().filter(|l| l.token == token) {
                            listener.ready = true;
                        }
                    }
                    Token(token) => self.mark(Id::from_token(token), event),
                }
            }
            if woken {
                self.drain_inbox();
            }
            self.accept();
            self.turn_ready();
            if !self.mail_left || !self.puts_deadlines_off() {
                self.look_at_deadlines();
            }
            turned_ns = self.here.shared.clock.now_ns();
            self.count_turn(hits, turned_ns - self.here.now_ns);
        }
        self.abandon_all();
        self.inbox.end();
        Ok(())
    }

    /// A turn has taken so long. Hits are not measured one by one, which would be a clock read each: every hit of a turn
    /// is counted with the whole of it, from the moment that its bytes were known to be there to the moment that all
    /// answers of the turn were sent.
    fn count_turn(&self, hits_before: u64, busy_ns: u64) {
        self.here.counters.busy_ns.add(busy_ns);
        let hits = self.here.counters.cache_answers() - hits_before;
        if hits > 0 {
            self.here.counters.hit_duration.observe(busy_ns, hits);
        }
    }

    /// How long poll may sleep: not at all while something is left to do.
    fn time_to_sleep(&self, now_ms: u64) -> Option<Duration> {
        let accepting = |listener: &&Listener| listener.ready;
        if !self.ready.is_empty() || self.mail_left {
            return Some(Duration::ZERO);
        }
        let mut until_ms = self.wheel.next_ms();
        for listener in self.listeners.iter().filter(accepting) {
            until_ms = Some(until_ms.unwrap_or(u64::MAX).min(listener.paused_until_ms));
        }
        if let Some(drained_ms) = self.here.draining {
            until_ms = Some(until_ms.unwrap_or(u64::MAX).min(drained_ms));
            // The others do not say when they have.
            if self.is_served_out() {
                until_ms = until_ms.map(|until_ms| until_ms.min(now_ms + DRAIN_LOOK_MS));
            }
        }
        // Rounded up by the millisecond: waking just before a deadline would be waking twice.
        until_ms.map(|until_ms| Duration::from_millis(until_ms.saturating_sub(now_ms)))
    }

    /// An event: remember what it says, and turn the connection later in this turn.
    fn mark(&mut self, id: Id, event: &Event) {
        let Some(client) = self.clients.get_mut(id.slot as usize).filter(|c| c.connection.id() == id) else {
            return;
        };
        // Both directions closed is no reason yet: a socket that is closed over unread bytes sends a reset, which takes
        // the end of the answer with it. It is read to its end first.
        if event.is_error() {
            return self.close(id);
        }
        if event.is_readable() || event.is_read_closed() {
            client.connection.set_readable(event.is_read_closed());
        }
        self.enqueue(id);
    }

    fn enqueue(&mut self, id: Id) {
        let client = &mut self.clients[id.slot as usize];
        if !std::mem::replace(&mut client.queued, true) {
            self.ready.push_back(id);
        }
    }

    fn drain_inbox(&mut self) {
        let inbox = Arc::clone(&self.inbox);
        let mut left = REPLIES_A_TURN;
        for mail in inbox.drain().take(REPLIES_A_TURN) {
            left -= 1;
            match mail {
                Mail::Reply(reply) => {
                    let waiting = self.clients.get(reply.ticket.id.slot as usize);
                    if waiting.is_some_and(|client| client.connection.waits_for(reply.ticket)) {
                        self.turn_with(reply);
                    } else {
                        self.here.counters.late_replies.add(1);
                        // Its client is gone, and its rows are stored.
                        if let Answer::Loaded(loaded) = &reply.answer {
                            self.here.counters.loaded(loaded.written, loaded.failed);
                        }
                    }
                }
                Mail::Renew(credentials) => self.here.credentials = credentials,
                Mail::Beat => inbox.beat(),
                Mail::Drain => self.begin_to_drain(),
            }
        }
        self.mail_left = left == 0;
    }

    /// Turns everything that is ready once; what wants another turn goes behind the others.
    fn turn_ready(&mut self) {
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else { break };
            if let Some(client) = self.clients.get_mut(id.slot as usize).filter(|c| c.connection.id() == id) {
                client.queued = false;
                self.turn(id);
            }
        }
    }

    fn turn(&mut self, id: Id) {
        let cx = self.here.context();
        let Client { stream, connection, .. } = &mut self.clients[id.slot as usize];
        if let Stream::Tls(tls) = stream {
            tls.push_pending();
        }
        let turn = connection.turn(stream, &mut self.ws, &cx);
        self.settle(id, turn);
    }

    fn turn_with(&mut self, reply: Reply) {
        let (id, cx) = (reply.ticket.id, self.here.context());
        let Client { stream, connection, .. } = &mut self.clients[id.slot as usize];
        if let Stream::Tls(tls) = stream {
            tls.push_pending();
        }
        let turn = connection.turn_with(reply, stream, &mut self.ws, &cx);
        self.settle(id, turn);
    }

    /// Does what a connection's turn has ended with.
    fn settle(&mut self, id: Id, turn: Turn) {
        if turn == Turn::Close {
            return self.close(id);
        }
        let mut again = turn == Turn::Again;
        let client = &mut self.clients[id.slot as usize];
        if let Stream::Tls(tls) = &mut client.stream {
            let cx = self.here.context();
            again |= tls.tell(&mut client.connection, &mut self.ws, &cx);
        }
        if again {
            self.enqueue(id);
        }
        let client = &mut self.clients[id.slot as usize];
        self.wheel.arm(id.slot, client.connection.deadline_ms());
        let phase = client.connection.phase();
        if phase != client.phase {
            self.here.counters.phase(Some(client.phase), Some(phase));
            client.phase = phase;
        }
    }

    /// An answer that has come in time, and lies in the inbox, is not to be too late because others lie in front of it. Not without
    /// end: replies may come as fast as they are taken.
    #[cold]
    fn puts_deadlines_off(&mut self) -> bool {
        self.put_off += 1;
        self.put_off <= DEADLINES_PUT_OFF_TURNS
    }

    fn look_at_deadlines(&mut self) {
        self.put_off = 0;
        let mut due = std::mem::take(&mut self.due);
        self.wheel.take_due(self.here.now_ms, DEADLINES_A_TURN, &mut due);
        for slot in due.drain(..) {
            let Client { stream, connection, .. } = &mut self.clients[slot as usize];
            let cx = self.here.context();
            if connection.deadline_ms() <= self.here.now_ms
                && let Stream::Tls(tls) = stream
                && tls.push_late()
            {
                connection.has_sent(&cx);
            }
            if connection.deadline_ms() > self.here.now_ms {
                self.wheel.arm(slot, connection.deadline_ms());
                continue;
            }
            let id = connection.id();
            if let Stream::Tls(tls) = stream
                && tls.is_shaking_hands()
                && self.here.draining.is_none()
            {
                // It is no idle connection, and nothing can be said.
                self.close(id);
                continue;
            }
            let turn = connection.expire(stream, &mut self.ws, &cx);
            self.settle(id, turn);
        }
        self.due = due;
    }

    /// Ends a connection. A job that it has out goes on; its reply will find nobody.
    fn close(&mut self, id: Id) {
        let mut client = self.clients.remove(id.slot as usize);
        if let Stream::Tls(tls) = &mut client.stream {
            tls.end(&self.here.counters, self.here.draining.is_some());
        }
        let cx = self.here.context();
        client.connection.leave(&mut self.ws, &cx);
        self.wheel.disarm(id.slot);
        self.here.shared.sockets.fetch_sub(1, Ordering::Relaxed);
        self.here.counters.phase(Some(client.phase), None);
        match client.connection.role() {
            _ if client.turned_away => self.turned_away -= 1,
            Role::Data => self.here.shared.leave(client.place.as_ref()),
            Role::Admin => self.admin -= 1,
        }
    }
}

#[cfg(test)]
mod tests;
