//! HTTP over TLS, with clients of three makes: rustls, OpenSSL and curl; and with what is no TLS, or not whole.

use crate::support::certificates::Certificates;
use crate::support::postgresql::stand_still;
use crate::support::{Client, DEADLINE, Server, ending, left_out, random_text, wait_until};
use rcgen::KeyPair;
use rustix::process::Signal;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// A client on TLS.
struct Session {
    stream: StreamOwned<ClientConnection, TcpStream>,
    received: Vec<u8>,
}

fn tcp(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.set_write_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn client_side(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("localhost").unwrap();
    ClientConnection::new(Arc::clone(config), name).unwrap()
}

impl Session {
    fn open(config: &Arc<ClientConfig>, address: SocketAddr) -> Session {
        Session { stream: StreamOwned::new(client_side(config), tcp(address)), received: Vec::new() }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
        self.stream.flush().unwrap();
    }

    fn receive(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 16 * 1024];
        let n = self.stream.read(&mut buffer)?;
        self.received.extend_from_slice(&buffer[..n]);
        Ok(n)
    }

    /// Status, head and body of the next answer that has a length.
    fn response(&mut self) -> (u16, String, Vec<u8>) {
        let end = loop {
            match self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => assert!(self.receive().unwrap() > 0, "the end instead of an answer"),
            }
        };
        let head = String::from_utf8(self.received[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        while self.received.len() < end + length {
            assert!(self.receive().unwrap() > 0, "the end instead of a body");
        }
        let body = self.received[end..end + length].to_vec();
        self.received.drain(..end + length);
        (status, head, body)
    }

    fn request(&mut self, method: &str, target: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        self.send(&crate::support::client::request(method, target, "", body));
        self.response()
    }

    /// The end, in good order: with a farewell of TLS, not with the end of the stream alone.
    fn expect_farewell(&mut self) {
        assert!(self.received.is_empty());
        assert_eq!(self.receive().expect("a farewell"), 0);
    }

    fn certificate(&self) -> CertificateDer<'static> {
        self.stream.conn.peer_certificates().unwrap()[0].clone().into_owned()
    }
}

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

#[test]
fn the_certificate_is_renewed_without_a_lost_connection() {
    let certificates = Certificates::new();
    let server = certificates.server(&["--event-loops", "2"]);
    let config = certificates.config(&TLS13);
    let mut old = Session::open(&config, server.address);
    assert_eq!(old.request("GET", "/kv/k", b"").0, 404);
    let first = old.certificate();
    // The chain of one and the key of another.
    let good_key = fs::read(certificates.file("key.pem")).unwrap();
    fs::write(certificates.file("key.pem"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    server.signal(Signal::HUP);
    wait_until("the bad pair is logged", || {
        server.stderr().contains("the certificate from before stays in force")
    });
    let fresh = || {
        let mut session = Session::open(&certificates.config(&TLS13), server.address);
        assert_eq!(session.request("GET", "/kv/k", b"").0, 404);
        session.certificate()
    };
    assert!(fresh() == first);
    fs::write(certificates.file("key.pem"), good_key).unwrap();
    certificates.issue();
    server.signal(Signal::HUP);
    wait_until("the new certificate is shown", || fresh() != first);
    assert_eq!(old.request("GET", "/kv/k", b"").0, 404, "an old connection goes on");
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
    let server = certificates.server(&["--event-loops", "1", "--header-timeout", "1s"]);
    let config = certificates.config(&TLS13);
    let (failures, done) = ("hotrow_tls_failures_total", "hotrow_tls_handshakes_total");
    let idle = r#"hotrow_connections_closed_total{reason="idle"}"#;
    let hello = || {
        let mut hello = Vec::new();
        client_side(&config).write_tls(&mut hello).unwrap();
        hello
    };
    let mut cut = tcp(server.address);
    cut.write_all(&hello()[..100]).unwrap();
    drop(cut);
    wait_until("a handshake that its client has cut is counted", || server.metric(failures) == 1);
    let mut late = tcp(server.address);
    late.write_all(&hello()[..100]).unwrap();
    assert_eq!(late.read(&mut [0; 8]).unwrap_or(0), 0);
    assert_eq!((server.metric(failures), server.metric(idle)), (2, 0));
    // Who says nothing has begun no handshake.
    drop(tcp(server.address));
    assert_eq!(tcp(server.address).read(&mut [0; 8]).unwrap(), 0);
    wait_until("silence is counted", || server.metric(idle) == 1);
    assert_eq!((server.metric(failures), server.metric(done)), (2, 0));
    // The last flight of a handshake, and the end, come as one event. However slow this machine is, in time.
    let server = certificates.server(&["--event-loops", "1", "--header-timeout", "10m"]);
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
    assert_eq!(server.metric(failures), 0);
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

#[test]
fn files_that_cannot_be_used_are_refused() {
    let certificates = Certificates::new();
    let [_, cert, _, key] = certificates.flags();
    let other = certificates.file("other.pem");
    fs::write(&other, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let other = other.to_str().unwrap();
    for (flags, code, parts) in [
        (&["--tls-cert", &cert][..], 2, &["--tls-key"][..]),
        (&["--tls-key", &key], 2, &["--tls-cert"]),
        (&["--tls-cert", "/none", "--tls-key", &key], 1, &["--tls-cert /none", "No such file"]),
        (&["--tls-cert", &cert, "--tls-key", "/none"], 1, &["--tls-key /none", "No such file"]),
        (&["--tls-cert", &key, "--tls-key", &key], 1, &["--tls-cert", "no certificate"]),
        (&["--tls-cert", &cert, "--tls-key", &cert], 1, &["--tls-key", "no "]),
        (&["--tls-cert", &cert, "--tls-key", other], 1, &["--tls-cert", "--tls-key"]),
    ] {
        let mut command = Server::command(env!("CARGO_BIN_EXE_hotrow"));
        command.args(["--listen", "127.0.0.1:0", "--admin-listen", "off"]).args(flags);
        ending::refused(&mut command, code, parts);
    }
}

#[test]
fn curl_speaks_with_it() {
    if !is_there("curl") {
        return;
    }
    let certificates = Certificates::new();
    let server = certificates.server(&["--event-loops", "1"]);
    let url = format!("https://localhost:{}/kv/k", server.address.port());
    let root = certificates.file("root.pem");
    for version in ["--tlsv1.2", "--tlsv1.3"] {
        let curl = |arguments: &[&str]| {
            let max = version.trim_start_matches("--tlsv");
            let output = Command::new("curl")
                .args([
                    "-q",
                    "-sS",
                    "--noproxy",
                    "*",
                    "--max-time",
                    "30",
                    version,
                    "--tls-max",
                    max,
                    "--cacert",
                ])
                .arg(&root)
                .args(arguments)
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(curl(&["-X", "PUT", "--data-binary", version, &url]), version);
        assert_eq!(curl(&[&url, &url]), version.repeat(2));
    }
}

#[test]
fn openssl_speaks_with_it_and_takes_sessions_up_again() {
    if !is_there("openssl") {
        return;
    }
    let certificates = Certificates::new();
    let server = certificates.server(&["--event-loops", "1"]);
    let address = server.address.to_string();
    let (root, saved) = (certificates.file("root.pem"), certificates.file("session"));
    for version in ["-tls1_2", "-tls1_3"] {
        let s_client = |how: &str| {
            let mut command = Command::new("openssl");
            command.args(["s_client", "-connect", &address, version, "-verify_return_error", "-ign_eof"]);
            command.args(["-alpn", "http/1.1", "-CAfile"]).arg(&root).arg(how).arg(&saved);
            let mut child =
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let request = b"GET /kv/none HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
            child.stdin.take().unwrap().write_all(request).unwrap();
            let output = ending::of(child);
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
        };
        let first = s_client("-sess_out");
        for part in ["New, TLSv1.", "Verify return code: 0 (ok)", "HTTP/1.1 404", "ALPN protocol: http/1.1"] {
            assert!(first.contains(part), "{version}: {part:?} is not in\n{first}");
        }
        let again = s_client("-sess_in");
        assert!(again.contains("Reused, TLSv1.") && again.contains("HTTP/1.1 404"), "{version}:\n{again}");
    }
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| Path::new(&dir).join(program).is_file());
    if !found {
        left_out(&format!("TLS with {program}"), "it is not installed");
    }
    found
}
