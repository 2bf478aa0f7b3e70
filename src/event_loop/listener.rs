//! Listening sockets, one for each event loop on the same address (`SO_REUSEPORT`) or handed over, and taking connections
//! from them. Called by [`crate::server`] to open them and by [`super`] to accept.

use crate::connection::Role;
use crate::limits::{ACCEPT_DEFER_MS, ACCEPT_PAUSE_MS, LISTEN_BACKLOG};
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, SockAddr, Type};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};

/// A listening socket of one loop.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: TcpListener,
    /// Names it in poll's events.
    pub token: Token,
    /// What connections from it are.
    pub role: Role,
    /// There may be more to accept: edge-triggered readiness is told once.
    pub ready: bool,
    /// Whose connections in its queue are.
    pub queue: Queue,
    /// No file descriptor left for connections: not before this time.
    pub paused_until_ms: u64,
    /// There was no file descriptor left, and poll was asked whether anybody waits for one.
    asked: bool,
    /// It has paused and not caught up since: said once, not at every pause.
    starved: bool,
    /// Accepting has failed and not succeeded since: said once.
    failing: bool,
    /// The others were given a chance just now.
    deferred: bool,
}

/// Whose the connections are that wait in a listener's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// This loop's, and lost when the process ends.
    Own,
    /// This loop's, and the next process's: it was handed over.
    Kept,
    /// Any loop's, and the next process's.
    Shared,
}

/// What accepting gave.
#[derive(Debug)]
pub enum Accept {
    /// A connection, and where it comes from.
    Stream(TcpStream, IpAddr),
    /// None, for now.
    None,
    /// Who came has gone again: there may be another one.
    Gone,
    /// Connections have all file descriptors that they may have, or the machine has none left. Whoever comes stays in
    /// the kernel's queue.
    OutOfDescriptors,
}

impl Listener {
    /// A listener for one loop out of a bound socket.
    pub fn new(socket: std::net::TcpListener, token: Token, role: Role, queue: Queue) -> Listener {
        Listener {
            socket: TcpListener::from_std(socket),
            token,
            role,
            ready: true,
            queue,
            paused_until_ms: 0,
            asked: false,
            starved: false,
            failing: false,
            deferred: false,
        }
    }

    /// Leaves the next connection of a shared queue to loops that have fewer, if `has_many` says that this one has more
    /// than its share. Only for a moment: they may be busy. Without this one loop can get all of them, for whoever is awake
    /// takes them before the others have woken up.
    pub fn defers(&mut self, now_ms: u64, has_many: bool) -> bool {
        self.deferred = self.queue == Queue::Shared && has_many && !self.deferred;
        if self.deferred {
            self.paused_until_ms = now_ms + ACCEPT_DEFER_MS;
        }
        self.deferred
    }

    /// No file descriptor is left. If somebody waits for one, leaves the kernel's queue alone for a while, and says so.
    ///
    /// Whether somebody does cannot be told without taking a connection: accept(2) looks for a descriptor first, and
    /// readiness that was told before may have been about those who are in. So poll is asked to tell it anew (a socket that
    /// is registered again is reported if it is ready at that time, or once it is): if it does, somebody waits. Without this
    /// a server that is exactly full would say ten times a second that it lets nobody in.
    pub fn starve(&mut self, registry: &Registry, now_ms: u64) -> bool {
        if !std::mem::replace(&mut self.asked, true)
            && registry.reregister(&mut self.socket, self.token, Interest::READABLE).is_ok()
        {
            self.ready = false;
            return false;
        }
        self.asked = false;
        self.paused_until_ms = now_ms + ACCEPT_PAUSE_MS;
        if !std::mem::replace(&mut self.starved, true) {
            log::warn!("no file descriptor left for a new connection (ulimit -n): accepting pauses");
        }
        true
    }

    /// Takes one connection from the kernel's queue.
    pub fn accept(&mut self, now_ms: u64) -> Accept {
        let result = self.socket.accept();
        self.take(result, now_ms)
    }

    fn take(&mut self, result: io::Result<(TcpStream, SocketAddr)>, now_ms: u64) -> Accept {
        match result {
            Ok((stream, address)) => {
                (self.asked, self.failing) = (false, false);
                // Answers are written whole: waiting for more to send with them only delays them.
                match stream.set_nodelay(true) {
                    Ok(()) => Accept::Stream(stream, address.ip()),
                    Err(_) => Accept::Gone,
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                (self.ready, self.asked) = (false, false);
                if std::mem::take(&mut self.starved) {
                    log::info!("there are file descriptors again: everybody who waited has been accepted");
                }
                Accept::None
            }
            Err(e) if is_out_of_descriptors(&e) => Accept::OutOfDescriptors,
            // accept(2): errors of the new connection itself are reported here too; try the next.
            Err(e) if e.kind() == ErrorKind::Interrupted || is_of_the_connection(&e) => Accept::Gone,
            // One that stays, such as a policy of the machine's, would be met again at once, and for ever.
            Err(e) => {
                self.paused_until_ms = now_ms + ACCEPT_PAUSE_MS;
                if !std::mem::replace(&mut self.failing, true) {
                    log::warn!("connections cannot be accepted, it is tried again and again: {e}");
                }
                Accept::None
            }
        }
    }
}

/// ECONNABORTED, and what the network has said of it meanwhile: ENONET, EPROTO, ENOPROTOOPT, EOPNOTSUPP, ENETDOWN, ENETUNREACH,
/// EHOSTDOWN, EHOSTUNREACH.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(103 | 64 | 71 | 92 | 95 | 100 | 101 | 112 | 113))
}

/// EMFILE, ENFILE, ENOBUFS, ENOMEM: the same connection will be offered again.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(24 | 23 | 105 | 12))
}

/// Opens `count` sockets that listen on the same address and share its connections. Port 0 picks one for all.
pub fn open(address: SocketAddr, count: usize) -> io::Result<Vec<std::net::TcpListener>> {
    // SO_REUSEPORT would let a second server of the same user share the address in silence. A socket without it finds
    // out whether somebody listens there.
    let probe = bind(address, false)?;
    let address = match probe.local_addr()?.as_socket() {
        Some(bound) if address.port() == 0 => bound,
        _ => address,
    };
    drop(probe);
    (0..count)
        .map(|_| {
            let socket = bind(address, true)?;
            socket.listen(LISTEN_BACKLOG)?;
            Ok(socket.into())
        })
        .collect()
}

/// Makes a socket that somebody else has opened fit to be polled. One that does not listen is an error.
pub fn take_over(socket: &std::net::TcpListener) -> io::Result<()> {
    if !socket2::SockRef::from(socket).is_listener()? {
        return Err(io::Error::other("it does not listen (Accept=yes hands over connections)"));
    }
    // It may have been made for a program that waits for one client at a time.
    socket.set_nonblocking(true)
}

fn bind(address: SocketAddr, share: bool) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_many_leaves_the_next_one_to_the_others_for_a_moment() {
        let own = |queue| {
            let socket = open("127.0.0.1:0".parse().unwrap(), 1).unwrap().pop().unwrap();
            Listener::new(socket, Token(0), Role::Data, queue)
        };
        let mut shared = own(Queue::Shared);
        assert!(!shared.defers(5, false) && shared.paused_until_ms == 0);
        assert!(shared.defers(5, true) && shared.paused_until_ms == 5 + ACCEPT_DEFER_MS);
        // Nobody else has come: it is taken after all.
        assert!(!shared.defers(6, true));
        assert!(shared.defers(6, true));
        for queue in [Queue::Own, Queue::Kept] {
            assert!(!own(queue).defers(5, true), "nobody else could take it");
        }
    }

    #[test]
    fn an_error_that_stays_is_not_met_at_once_again() {
        let socket = open("127.0.0.1:0".parse().unwrap(), 1).unwrap().pop().unwrap();
        let mut listener = Listener::new(socket, Token(0), Role::Data, Queue::Own);
        let gone = Err(io::Error::from_raw_os_error(103));
        assert!(matches!(listener.take(gone, 5), Accept::Gone) && listener.paused_until_ms == 0);
        let forbidden = Err(io::Error::from(ErrorKind::PermissionDenied));
        assert!(matches!(listener.take(forbidden, 5), Accept::None));
        assert!(listener.ready && listener.paused_until_ms == 5 + ACCEPT_PAUSE_MS);
        let none = Err(io::Error::from(ErrorKind::WouldBlock));
        assert!(matches!(listener.take(none, 200), Accept::None) && !listener.ready);
    }
}
