//! What travels in a session: records that come late, byte by byte, cut, garbled or forged.

use super::{Session, client_side, tcp};
use crate::support::certificates::Certificates;
use crate::support::postgresql::stand_still;
use crate::support::{random_text, wait_until};
use rustix::process::Signal;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

#[test]
fn a_client_that_reads_late_gets_every_byte() {
    let certificates = Certificates::new();
    let server = certificates.server(&["--event-loops", "1"]);
    let value = random_text(1 << 20, 11);
    let mut session = Session::open(&certificates.config(&TLS13), server.address);
    assert_eq!(session.request("PUT", "/kv/k", value.as_bytes()).0, 201);
    // More than all buffers on the way hold; and others are served meanwhile.
    session.send(&crate::support::client::request("GET", "/kv/k", "", b"").repeat(24));
    let waits = "hotrow_connections{state=\"client\"}";
    wait_until("the server cannot send more", || {
        server.admin_page("/metrics").contains(&format!("{waits} 1"))
    });
    let mut other = Session::open(&certificates.config(&TLS12), server.address);
    assert_eq!(other.request("GET", "/kv/none", b"").0, 404);
    for _ in 0..24 {
        assert!(session.response().2 == value.as_bytes());
    }
    assert_eq!(session.request("DELETE", "/kv/k", b"").0, 204);
}

#[test]
fn records_may_come_byte_by_byte() {
    let certificates = Certificates::new();
    let server = certificates.server(&["--event-loops", "1"]);
    let mut session = client_side(&certificates.config(&TLS13));
    let mut socket = tcp(server.address);
    let mut answer = Vec::new();
    session
        .writer()
        .write_all(&crate::support::client::request("PUT", "/kv/k", "", b"drop by drop"))
        .unwrap();
    session.writer().write_all(&crate::support::client::request("GET", "/kv/k", "", b"")).unwrap();
    // Two answers, each with the value.
    while String::from_utf8_lossy(&answer).matches("drop by drop").count() < 2 {
        while session.wants_write() {
            let mut bytes = Vec::new();
            session.write_tls(&mut bytes).unwrap();
            for byte in bytes {
                socket.write_all(&[byte]).unwrap();
            }
        }
        assert!(session.read_tls(&mut socket).unwrap() > 0);
        session.process_new_packets().unwrap();
        // "Would block" is the end of what there is.
        let _ = session.reader().read_to_end(&mut answer);
    }
    assert!(answer.starts_with(b"HTTP/1.1 201"));
}

/// What a client sends up to and with its first request, cut into the flights that it comes in.
fn flights(config: &Arc<ClientConfig>, address: SocketAddr) -> (TcpStream, ClientConnection) {
    let mut session = client_side(config);
    let mut socket = tcp(address);
    session.complete_io(&mut socket).unwrap();
    (socket, session)
}

#[test]
fn truncated_and_garbled_records_end_their_own_connection_and_nothing_else() {
    let seed = std::env::var("SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let certificates = Certificates::new();
    let server = certificates.server(&["--event-loops", "2", "--header-timeout", "1m"]);
    let configs = [certificates.config(&TLS12), certificates.config(&TLS13)];
    let mut good = Session::open(&configs[1], server.address);
    assert_eq!(good.request("PUT", "/kv/good", b"v").0, 201);
    server.metric("hotrow_tls_failures_total");
    server.is_settled();
    let before = server.descriptors();
    for round in 0..400 {
        let config = &configs[random.usize(..2)];
        let mut bytes = Vec::new();
        // Harm to the first flight, or to a request in a session that is established.
        let mut socket = if random.bool() {
            client_side(config).write_tls(&mut bytes).unwrap();
            tcp(server.address)
        } else {
            let (socket, mut session) = flights(config, server.address);
            session.writer().write_all(&crate::support::client::request("PUT", "/kv/bad", "", b"w")).unwrap();
            session.write_tls(&mut bytes).unwrap();
            socket
        };
        match random.u8(..4) {
            0 => bytes.truncate(random.usize(..bytes.len())),
            1 => {
                let at = random.usize(..bytes.len());
                bytes[at] ^= 1 << random.u8(..8);
            }
            2 => {
                let (from, to) = (random.usize(..bytes.len()), random.usize(..bytes.len()));
                let stolen = bytes[from.min(to)..from.max(to)].to_vec();
                let at = random.usize(..=bytes.len());
                bytes.splice(at..at, stolen);
            }
            _ => bytes = (0..random.usize(1..2_000)).map(|_| random.u8(..)).collect(),
        }
        let _ = socket.write_all(&bytes);
        match random.u8(..3) {
            0 => {
                // Whatever it says, it ends: by itself, or because we do.
                let _ = socket.shutdown(Shutdown::Write);
                let _ = socket.read_to_end(&mut Vec::new());
            }
            1 => drop(socket2::SockRef::from(&socket).set_linger(Some(std::time::Duration::ZERO))),
            _ => {}
        }
        drop(socket);
        if round % 50 == 0 {
            assert_eq!(good.request("GET", "/kv/good", b"").2, b"v");
        }
    }
    assert_eq!(good.request("GET", "/kv/good", b"").2, b"v");
    wait_until("all bad connections are gone", || server.descriptors() <= before);
    assert!(server.metric("hotrow_tls_failures_total") > 50, "the harm was noticed");
    assert!([200, 404].contains(&good.request("GET", "/kv/bad", b"").0));
}

/// Whoever can cut a connection cannot make half a request out of a whole one: not with the end of the stream alone, and
/// not at the end of a record.
#[test]
fn a_request_that_is_cut_short_anywhere_changes_nothing() {
    let certificates = Certificates::new();
    let server = certificates.server(&["--event-loops", "1"]);
    for (version, name) in [(&TLS12, "two"), (&TLS13, "three")] {
        let config = certificates.config(version);
        let send = |key: &str, length: Option<usize>| {
            let (mut socket, mut session) = flights(&config, server.address);
            // Two records: the first ends where the content, which has a length, has begun.
            let request = crate::support::client::request("PUT", &format!("/kv/{key}"), "", b"value");
            let mut bytes = Vec::new();
            for record in [&request[..request.len() - 3], &request[request.len() - 3..]] {
                session.writer().write_all(record).unwrap();
                session.write_tls(&mut bytes).unwrap();
            }
            socket.write_all(&bytes[..length.unwrap_or(bytes.len())]).unwrap();
            if length.is_some() {
                socket.shutdown(Shutdown::Write).unwrap();
                // It has seen the end; it may have said that it does not like it.
                let _ = socket.read_to_end(&mut Vec::new());
            } else {
                // What comes first may be a ticket.
                let mut answer = [0; 12];
                rustls::Stream::new(&mut session, &mut socket).read_exact(&mut answer).unwrap();
                assert_eq!(&answer, b"HTTP/1.1 201");
            }
            bytes.len()
        };
        let whole = send(&format!("whole-{name}"), None);
        for length in 0..whole {
            send(&format!("cut-{name}-{length}"), Some(length));
        }
    }
    let keys = "SELECT string_agg(key, ' ' ORDER BY key) FROM kv_store";
    assert_eq!(server.database().text(keys, &[]).as_deref(), Some("whole-three whole-two"));
}

/// What follows a record that is not the client's is nobody's plaintext, even where its connection is looked at once more in the
/// same turn, for its end has come with it.
#[test]
fn bytes_behind_a_forged_record_are_no_content() {
    const READ_BYTES: usize = 4096;
    let certificates = Certificates::new();
    let server = certificates.server(&["--event-loops", "1"]);
    for (version, key) in [(&TLS12, "two"), (&TLS13, "three")] {
        let config = certificates.config(version);
        let (mut socket, mut session) = flights(&config, server.address);
        let content = b"not the client's";
        let request = crate::support::client::request("PUT", &format!("/kv/{key}"), "", content);
        let mut bytes = Vec::new();
        session.writer().write_all(&request[..request.len() - content.len()]).unwrap();
        session.write_tls(&mut bytes).unwrap();
        // It ends where rustls has read twice.
        let forged = 2 * READ_BYTES - bytes.len() - 5;
        bytes.extend([0x17, 3, 3, (forged >> 8) as u8, forged as u8]);
        bytes.resize(2 * READ_BYTES, b'x');
        bytes.extend(content);
        // All of it, and the end, come as one event.
        stand_still(server.pid());
        socket.write_all(&bytes).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        server.signal(Signal::CONT);
        let _ = socket.read_to_end(&mut Vec::new());
        drop(socket);
    }
    wait_until("both have failed", || server.metric("hotrow_tls_failures_total") == 2);
    assert_eq!(server.metric("hotrow_writes_total"), 0);
    let rows = server.database().text("SELECT count(*)::text FROM kv_store", &[]);
    assert_eq!(rows.as_deref(), Some("0"));
}

/// An answer that is ready when the session fails is not sent, and the failure is told and counted all the same.
#[test]
fn a_session_that_fails_behind_a_request_ends_in_good_order() {
    let certificates = Certificates::new();
    let server = certificates.server(&["--event-loops", "1"]);
    let config = certificates.config(&TLS13);
    let mut good = Session::open(&config, server.address);
    assert_eq!(good.request("PUT", "/kv/hit", b"v").0, 201);
    let (mut socket, mut session) = flights(&config, server.address);
    let mut bytes = Vec::new();
    session.writer().write_all(&crate::support::client::request("GET", "/kv/hit", "", b"")).unwrap();
    session.write_tls(&mut bytes).unwrap();
    // Whole only with the second of rustls's reads.
    bytes.extend([0x17, 3, 3, 0x10, 0]);
    bytes.resize(bytes.len() + 0x1000, b'x');
    stand_still(server.pid());
    socket.write_all(&bytes).unwrap();
    server.signal(Signal::CONT);
    socket.read_to_end(&mut Vec::new()).expect("an end, and no reset");
    assert_eq!(server.metric("hotrow_tls_failures_total"), 1);
    assert_eq!(good.request("GET", "/kv/hit", b"").0, 200);
}
