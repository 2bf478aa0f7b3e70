//! What a loop does of one kind in one turn, so that nothing of another kind waits for long.

use super::listener::Queue;
use super::*;
use crate::api::admin::About;
use crate::engine::Engine;
use crate::limits::ACCEPTS_A_TURN;
use crate::metrics::Workers;
use crate::store::health::Health;
use crate::store::load::Loads;
use crossbeam_channel::bounded;
use mio::Waker;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::AtomicBool;

/// A loop that nobody turns, and where it listens.
fn event_loop() -> (EventLoop, SocketAddr) {
    let (engine, health) = (Arc::new(Engine::new(1 << 20, 1 << 10)), Arc::new(Health::new(1, 1)));
    let counters = Arc::new(Counters::default());
    let status = Status {
        engine: Arc::clone(&engine),
        health: Arc::clone(&health),
        counters: vec![Arc::clone(&counters)],
        workers: Arc::new(Workers::new(1, 1)),
        process: Arc::default(),
        draining: AtomicBool::new(false),
        about: About::default(),
    };
    let backend = Backend {
        engine,
        health,
        reads: bounded(1).0,
        writes: vec![bounded(1).0],
        loads: Loads::default(),
        planted_any_writer: false,
    };
    let shared = Shared {
        backend,
        status: Arc::new(status),
        bounds: Bounds {
            max_value_bytes: 1_000,
            request_timeout_ms: 5_000,
            header_timeout_ms: 5_000,
            idle_timeout_ms: 60_000,
        },
        max_connections: 10_000,
        connections: AtomicUsize::new(0),
        places: None,
        max_sockets: 10_000,
        sockets: AtomicUsize::new(0),
        access_log: None,
        audiences: Audiences::new(&[]),
        drain_timeout_ms: 0,
        clock: Clock::start(),
    };
    let socket = listener::open("127.0.0.1:0".parse().unwrap(), 1).unwrap().pop().unwrap();
    let address = socket.local_addr().unwrap();
    let listener = Listener::new(socket, DATA_LISTENER, Role::Data, Queue::Own);
    let poll = Poll::new().unwrap();
    let inbox = Arc::new(Inbox::new(Waker::new(poll.registry(), WAKER).unwrap()));
    let credentials = Credentials::default();
    let event_loop =
        EventLoop::new(poll, 0, Arc::new(shared), credentials, inbox, counters, vec![listener]).unwrap();
    (event_loop, address)
}

#[test]
fn so_many_connections_are_taken_a_turn() {
    let (mut event_loop, address) = event_loop();
    let clients: Vec<TcpStream> =
        (0..=ACCEPTS_A_TURN).map(|_| TcpStream::connect(address).unwrap()).collect();
    event_loop.listeners[0].ready = true;
    event_loop.accept();
    assert_eq!(event_loop.clients.len(), ACCEPTS_A_TURN);
    assert!(event_loop.listeners[0].ready, "there may be more");
    event_loop.accept();
    assert_eq!(event_loop.clients.len(), clients.len());
    assert!(!event_loop.listeners[0].ready);
}

#[test]
fn so_much_mail_is_read_a_turn() {
    let (mut event_loop, _) = event_loop();
    for _ in 0..=REPLIES_A_TURN {
        event_loop.inbox.send(Mail::Beat).unwrap();
    }
    event_loop.drain_inbox();
    assert_eq!(event_loop.inbox.beats(), REPLIES_A_TURN as u64);
    assert!(event_loop.mail_left, "there may be more");
    event_loop.drain_inbox();
    assert_eq!(event_loop.inbox.beats(), REPLIES_A_TURN as u64 + 1);
    assert!(!event_loop.mail_left);
}
