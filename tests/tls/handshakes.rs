//! How a session begins: in either version, anew or taken up again, in time, or not at all.

use super::{Session, client_side, tcp};
use crate::support::certificates::Certificates;
use crate::support::postgresql::stand_still;
use crate::support::{Client, random_text, wait_until};
use rustix::process::Signal;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;

#[test]
fn requests_are_answered_in_both_versions_and_sessions_are_taken_up_again() {
    let certificates = Certificates::new();
    let server = certificates.server(&["--event-loops", "2"]);
    let large = random_text(1 << 20, 7);
    for (name, version) in [("1.2", &TLS12), ("1.3", &TLS13)] {
        let config = certificates.config(version);
        let mut session = Session::open(&config, server.address);
        let key = format!("/kv/{name}");
        assert_eq!(session.request("PUT", &key, b"value").0, 201);
        assert_eq!(session.request("GET", &key, b"").2, b"value");
        assert_eq!(session.stream.conn.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(session.stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(session.stream.conn.protocol_version(), Some(version.version));
        assert_eq!(session.request("PUT", &key, large.as_bytes()).0, 200);
        assert!(session.request("GET", &key, b"").2 == large.as_bytes(), "a large value comes back whole");
        assert_eq!(session.request("PUT", &key, b"small").0, 200);
        // Many in one record, and in many.
        let many: Vec<u8> = crate::support::client::request("GET", &key, "", b"").repeat(500);
        session.send(&many);
        assert!((0..500).all(|_| session.response().2 == b"small"));
        session.send(format!("GET {key} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").as_bytes());
        assert_eq!(session.response().0, 200);
        session.expect_farewell();
        // On any loop: tickets are good for all of them.
        for _ in 0..4 {
            let mut again = Session::open(&config, server.address);
            assert_eq!(again.request("GET", &key, b"").2, b"small");
            assert_eq!(again.stream.conn.handshake_kind(), Some(HandshakeKind::Resumed), "{name}");
        }
    }
    // Counted at the end of a turn: the answer may be here before.
    wait_until("all are counted", || server.metric("hotrow_tls_handshakes_total") == 10);
    assert_eq!(server.metric("hotrow_tls_failures_total"), 0);
}

#[test]
fn a_handshake_has_its_time_and_an_established_session_its_own() {
    let certificates = Certificates::new();
    let server = certificates.server(&["--event-loops", "1", "--header-timeout", "2s"]);
    let mut established = Session::open(&certificates.config(&TLS13), server.address);
    // Where this machine stands still for as long as a handshake may take, with the next one.
    wait_until("a handshake is done in its time", || {
        let done = established.stream.conn.complete_io(&mut established.stream.sock).is_ok();
        if !done {
            established = Session::open(&certificates.config(&TLS13), server.address);
        }
        done
    });
    let mut silent = Client::connect(server.address);
    let mut hello = Vec::new();
    client_side(&certificates.config(&TLS13)).write_tls(&mut hello).unwrap();
    let mut half = Client::connect(server.address);
    half.send(&hello[..hello.len() / 2]);
    assert!(silent.read_to_end().is_empty());
    assert!(half.read_to_end().is_empty());
    // Silent for as long as the two of them, and longer.
    assert_eq!(established.request("GET", "/kv/k", b"").0, 404);
    // Its requests have their time, too.
    established.send(b"GET /kv/k HTT");
    assert_eq!(established.response().0, 408);
    established.expect_farewell();
}

#[test]
fn who_is_turned_away_is_told_so_in_tls() {
    let certificates = Certificates::new();
    let server = certificates.server(&["--event-loops", "1", "--max-connections", "1"]);
    let mut first = Session::open(&certificates.config(&TLS13), server.address);
    assert_eq!(first.request("GET", "/kv/k", b"").0, 404);
    for version in [&TLS12, &TLS13] {
        let mut second = Session::open(&certificates.config(version), server.address);
        let (status, _, body) = second.response();
        assert!(status == 503 && String::from_utf8(body).unwrap().contains("too-many-connections"));
        second.expect_farewell();
    }
    // Somebody who goes as soon as he is there is no trouble.
    drop(tcp(server.address));
    assert_eq!(first.request("GET", "/kv/k", b"").0, 404);
}

#[test]
fn what_is_no_tls_gets_an_alert_and_a_clean_close() {
    let certificates = Certificates::new();
    let server = certificates.server(&["--event-loops", "1"]);
    for bytes in [
        b"GET /kv/k HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(),
        crate::support::client::request("PUT", "/kv/k", "", &[b'v'; 900_000]),
        b"\0".repeat(30_000),
    ] {
        let mut client = Client::connect(server.address);
        client.send(&bytes);
        let mut answer = Vec::new();
        let mut stream = client.stream().try_clone().unwrap();
        // A reset would be an error here.
        stream.read_to_end(&mut answer).expect("a clean close");
        assert!(answer.first() == Some(&21) && answer.len() == 7, "an alert record, and not {answer:?}");
    }
    // A client that insists on another protocol.
    let config = certificates.config(&TLS13);
    let mut only_h2 = ClientConfig::clone(&config);
    only_h2.alpn_protocols = vec![b"h2".to_vec()];
    let mut session = Session::open(&Arc::new(only_h2), server.address);
    assert!(session.stream.conn.complete_io(&mut session.stream.sock).is_err());
    // The admin socket needs none of it.
    wait_until("all are counted", || server.metric("hotrow_tls_failures_total") == 4);
}

#[test]
fn a_handshake_that_is_cut_is_a_failure_and_one_that_is_done_is_counted_whatever_follows() {
    let certificates = Certificates::new();
    // However slow this machine is, in time.
    let server = certificates.server(&["--event-loops", "1", "--header-timeout", "10m"]);
    let config = certificates.config(&TLS13);
    let (failures, done) = ("hotrow_tls_failures_total", "hotrow_tls_handshakes_total");
    let idle = r#"hotrow_connections_closed_total{reason="idle"}"#;
    let mut hello = Vec::new();
    client_side(&config).write_tls(&mut hello).unwrap();
    let mut cut = tcp(server.address);
    cut.write_all(&hello[..100]).unwrap();
    drop(cut);
    wait_until("a handshake that its client has cut is counted", || server.metric(failures) == 1);
    // Who says nothing has begun no handshake.
    drop(tcp(server.address));
    // The last flight of a handshake, and the end, come as one event.
    let (mut socket, mut session) = (tcp(server.address), client_side(&config));
    session.write_tls(&mut socket).unwrap();
    while session.is_handshaking() {
        assert!(session.read_tls(&mut socket).unwrap() > 0, "the server has closed it");
        session.process_new_packets().unwrap();
    }
    session.send_close_notify();
    let mut flight = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut flight).unwrap();
    }
    stand_still(server.pid());
    socket.write_all(&flight).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    server.signal(Signal::CONT);
    wait_until("a session that ends at once is counted", || server.metric(done) == 1);
    assert_eq!((server.metric(failures), server.metric(idle)), (1, 0));
}

#[test]
fn a_handshake_that_takes_too_long_is_a_failure_and_silence_is_none() {
    let certificates = Certificates::new();
    let server = certificates.server(&["--event-loops", "1", "--header-timeout", "1s"]);
    let (failures, done) = ("hotrow_tls_failures_total", "hotrow_tls_handshakes_total");
    let idle = r#"hotrow_connections_closed_total{reason="idle"}"#;
    let mut hello = Vec::new();
    client_side(&certificates.config(&TLS13)).write_tls(&mut hello).unwrap();
    // Where this machine stands still before it has said anything, it is one that says nothing: then once more.
    let mut silent = 0;
    wait_until("a handshake that takes too long is counted", || {
        let mut late = tcp(server.address);
        let _ = late.write_all(&hello[..100]);
        assert_eq!(late.read(&mut [0; 8]).unwrap_or(0), 0);
        wait_until("its end is counted", || server.metric(failures) + server.metric(idle) > silent);
        silent = server.metric(idle);
        server.metric(failures) == 1
    });
    assert_eq!(tcp(server.address).read(&mut [0; 8]).unwrap(), 0);
    wait_until("silence is counted", || server.metric(idle) == silent + 1);
    assert_eq!((server.metric(failures), server.metric(done)), (1, 0));
}

#[test]
fn versions_before_1_2_are_refused() {
    let certificates = Certificates::new();
    let server = certificates.server(&["--event-loops", "1"]);
    for minor in [0, 1, 2] {
        // A client's hello of SSL 3, TLS 1.0 or 1.1 (RFC 4346 section 7.4.1.2): random bytes, no session, a suite that all
        // of them have, no compression.
        let hello = [&[3, minor][..], &[7; 32], &[0, 0, 4, 0xc0, 0x13, 0x00, 0x2f, 1, 0]].concat();
        let handshake = [&[1, 0, 0, hello.len() as u8][..], &hello].concat();
        let record = [&[22, 3, minor, 0, handshake.len() as u8][..], &handshake].concat();
        let mut socket = tcp(server.address);
        socket.write_all(&record).unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).expect("a clean close");
        // A record with an alert: fatal, and never a hello of the server.
        assert!(answer.len() == 7 && answer[0] == 21 && answer[5] == 2, "{answer:?}");
    }
    wait_until("all are counted", || server.metric("hotrow_tls_failures_total") == 3);
}
