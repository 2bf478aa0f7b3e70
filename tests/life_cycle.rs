//! How a server ends, and what it tells whoever has started it.

#![allow(clippy::unwrap_used)]

mod support;

use rustix::process::Signal;
use std::net::TcpStream;
use std::time::{Duration, Instant};
use support::{Server, wait_until};

/// What `/readyz` says.
fn readiness(server: &Server) -> (u16, String) {
    let response = server.connect_admin().request("GET", "/readyz", "", b"");
    (response.status, response.text())
}

#[test]
fn in_the_drain_delay_everybody_is_served_and_a_second_signal_ends_at_once() {
    let mut server = Server::start(&["--drain-delay", "1440m"]);
    let mut kept = server.connect();
    assert_eq!(kept.put("k", "v").status, 201);
    assert_eq!(readiness(&server), (200, "ready\n".into()));
    server.signal(Signal::TERM);
    wait_until("it says that it drains", || readiness(&server) == (503, "draining\n".into()));
    assert_eq!(server.metric("hotrow_ready"), 0);
    // Who is there already and who comes only now; hits, misses and writes; and nobody is sent away.
    for client in [&mut kept, &mut server.connect()] {
        for response in [client.get("k"), client.get("absent"), client.put("k", "v")] {
            assert!(matches!(response.status, 200 | 404) && !response.says_close(), "{response:?}");
        }
    }
    server.signal(Signal::TERM);
    let status = server.wait().expect("it ends a day before the delay does");
    assert_eq!(status.code(), Some(1));
}

#[test]
fn after_the_drain_delay_it_drains() {
    let delay = Duration::from_millis(300);
    let mut server = Server::start(&["--drain-delay", "300ms"]);
    let mut slow = server.connect();
    slow.put("k", "v");
    slow.send("GET /kv/");
    let told = Instant::now();
    server.signal(Signal::INT);
    wait_until("nobody listens any more", || TcpStream::connect(server.address).is_err());
    assert!(told.elapsed() >= delay);
    slow.send("k HTTP/1.1\r\nHost: h\r\n\r\n");
    let response = slow.response();
    assert!(response.status == 200 && response.says_close(), "{response:?}");
    slow.expect_closed();
    assert_eq!(server.wait().expect("it ends").code(), Some(0));
}
