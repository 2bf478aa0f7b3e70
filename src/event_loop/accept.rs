//! How connections come in: taken from the listeners, so many a turn, counted, and given a slot or turned away.

use super::listener::Accept;
use super::stream::Stream;
use super::tls::TlsStream;
use super::{Client, EventLoop};
use crate::connection::{Connection, Crowd, Role};
use crate::limits::{ACCEPTS_A_TURN, ADMIN_CONNECTIONS, ADMIN_DESCRIPTORS, TURNED_AWAY};
use crate::metrics::Phase;
use crate::token::Id;
use mio::net::TcpStream;
use mio::{Interest, Token};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl EventLoop {
    /// Takes new connections, so many a turn.
    pub(super) fn accept(&mut self) {
        for at in 0..self.listeners.len() {
            for _ in 0..ACCEPTS_A_TURN {
                let has_many = self.has_many();
                let listener = &mut self.listeners[at];
                if !listener.ready || listener.paused_until_ms > self.here.now_ms {
                    break;
                }
                if listener.defers(self.here.now_ms, has_many) {
                    break;
                }
                let role = listener.role;
                let reserve = if role == Role::Admin { ADMIN_DESCRIPTORS } else { 0 };
                let accept = if self.here.shared.sockets.load(Ordering::Relaxed)
                    < self.here.shared.max_sockets + reserve
                {
                    listener.accept(self.here.now_ms)
                } else {
                    Accept::OutOfDescriptors
                };
                match accept {
                    Accept::Stream(stream, address) => self.open(stream, address, role),
                    Accept::Gone => {}
                    Accept::None => break,
                    Accept::OutOfDescriptors => {
                        let pauses = listener.starve(self.poll.registry(), self.here.now_ms);
                        self.here.counters.accept_pauses.add(u64::from(pauses));
                        break;
                    }
                }
            }
        }
    }

    /// It has more connections than the average of all loops, by more than one.
    fn has_many(&self) -> bool {
        let loops = self.here.shared.status.counters.len();
        (self.clients.len() - self.admin) * loops
            > self.here.shared.connections.load(Ordering::Relaxed) + loops
    }

    /// Gives a new connection its slot, or turns it away.
    fn open(&mut self, socket: TcpStream, address: IpAddr, role: Role) {
        let mut place = None;
        // Counted first, and given back where that is too many: two loops cannot both take the last place.
        let crowd = match role {
            Role::Data
                if self.here.shared.connections.fetch_add(1, Ordering::Relaxed)
                    >= self.here.shared.max_connections =>
            {
                self.here.shared.connections.fetch_sub(1, Ordering::Relaxed);
                Some(Crowd::Server)
            }
            Role::Admin if self.admin >= ADMIN_CONNECTIONS => Some(Crowd::Admin),
            Role::Data if let Some(places) = &self.here.shared.places => {
                place = places.enter(address);
                place.is_none().then(|| {
                    self.here.shared.connections.fetch_sub(1, Ordering::Relaxed);
                    Crowd::Address
                })
            }
            Role::Data | Role::Admin => None,
        };
        // It counts among the connections, until it leaves.
        let is_counted = role == Role::Data && crowd.is_none();
        if crowd.is_some() {
            self.here.counters.connections_refused.add(1);
            if self.turned_away >= TURNED_AWAY {
                return;
            }
        }
        let mut stream = match &self.here.credentials.tls {
            Some(config) if role != Role::Admin => {
                let until_ms = self.here.now_ms + self.here.shared.bounds.header_timeout_ms;
                match TlsStream::new(socket, Arc::clone(config), until_ms) {
                    Ok(stream) => Stream::Tls(Box::new(stream)),
                    Err(error) => {
                        if is_counted {
                            self.here.shared.leave(place.as_ref());
                        }
                        return log::warn!("a TLS session cannot begin: {error}");
                    }
                }
            }
            _ => Stream::Plain(socket),
        };
        let entry = self.clients.vacant_entry();
        let slot = u32::try_from(entry.key()).expect("descriptors are bounded far below 2^32");
        let id = Id { slot, generation: self.next_generation };
        self.next_generation = self.next_generation.wrapping_add(1);
        let registered = self.poll.registry().register(
            stream.source(),
            Token(id.to_token()),
            Interest::READABLE | Interest::WRITABLE,
        );
        if let Err(error) = registered {
            if is_counted {
                self.here.shared.leave(place.as_ref());
            }
            log::warn!("a connection cannot be polled: {error}");
            return;
        }
        let cx = self.here.context();
        let mut connection = Connection::new(id, role, &cx);
        if cx.access_log.is_some() {
            connection.set_peer(Some(address));
        }
        let turned_away = crowd.is_some();
        entry.insert(Client { stream, connection, place, turned_away, queued: false, phase: Phase::Idle });
        self.here.shared.sockets.fetch_add(1, Ordering::Relaxed);
        self.here.counters.connections_accepted.add(1);
        self.here.counters.phase(None, Some(Phase::Idle));
        match role {
            _ if turned_away => self.turned_away += 1,
            Role::Data => {}
            Role::Admin => self.admin += 1,
        }
        // Often the first request is here already.
        self.enqueue(id);
        if let Some(crowd) = crowd {
            let cx = self.here.context();
            let Client { stream, connection, .. } = &mut self.clients[slot as usize];
            let turn = connection.turn_away(stream, crowd, &mut self.ws, &cx);
            self.settle(id, turn);
        }
    }
}
