//! Who is let in: tokens and their renewal, addresses that are open to strangers, and places for each client.

use crate::support::{Client, Server, ending, wait_until, write_secret};
use hotrow::limits::ADMIN_CONNECTIONS;
use rustix::process::Signal;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

const READER: &str = "Authorization: Bearer reader-token\r\n";
const WRITER: &str = "Authorization: Bearer writer-token\r\n";

#[test]
fn a_token_opens_what_it_is_good_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens");
    write_secret(&file, "# who reads\nro reader-token\nrw writer-token\n");
    let server = Server::start(&["--auth-tokens-file", file.to_str().unwrap()]);
    let mut client = server.connect();
    assert_eq!(client.request("PUT", "/kv/k", WRITER, b"v").status, 201);
    // From the cache and from the database alike, and on a connection that has just shown a good one.
    for key in ["k", "absent"] {
        // RFC 6750 section 3.1: why a token is refused is told to whoever has sent one.
        for (fields, why) in [
            ("", ""),
            ("Authorization: Basic wrong\r\n", ""),
            ("Authorization: Bearer wrong\r\n", ", error=\"invalid_token\""),
            (&format!("{READER}{WRITER}"), ""),
        ] {
            let refused = client.request("GET", &format!("/kv/{key}"), fields, b"");
            assert_eq!((refused.status, refused.problem()), (401, "unauthorized".to_owned()), "{fields:?}");
            let challenge = format!("Bearer realm=\"hotrow\"{why}");
            assert_eq!(refused.field("WWW-Authenticate"), Some(&*challenge), "{fields:?}");
        }
    }
    assert_eq!(client.request("GET", "/kv/k", READER, b"").text(), "v");
    for method in ["PUT", "SET", "DELETE"] {
        let refused = client.request(method, "/kv/k", READER, b"");
        assert_eq!((refused.status, refused.problem()), (403, "forbidden".to_owned()));
        let challenge = refused.field("WWW-Authenticate").unwrap();
        assert!(challenge.starts_with("Bearer ") && challenge.contains("insufficient_scope"), "{challenge}");
    }
    assert_eq!(client.request("GET", "/kv/k", WRITER, b"").text(), "v");
    assert_eq!(client.request("PUT", "/kv/k", "", b"stolen").status, 401);
    // What a browser asks for before it shows its token.
    assert_eq!(client.request("OPTIONS", "/kv/k", "", b"").status, 204);
    // Requests one behind the other: each is judged by its own fields.
    client.send(
        [
            crate::support::client::request("GET", "/kv/k", READER, b""),
            crate::support::client::request("GET", "/kv/k", "", b""),
            crate::support::client::request("GET", "/kv/k", WRITER, b""),
        ]
        .concat(),
    );
    let statuses: Vec<u16> = (0..3).map(|_| client.response().status).collect();
    assert_eq!(statuses, [200, 401, 200]);
    // An upload that nobody may send is refused before it is read.
    client.send("PUT /kv/k HTTP/1.1\r\nHost: h\r\nContent-Length: 500000\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.response().status, 401);
    let stderr = server.stderr();
    assert!(!stderr.contains("-token"), "a token is in the log: {stderr}");
}

#[test]
fn tokens_are_renewed_and_a_bad_file_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens");
    write_secret(&file, "rw writer-token\n");
    let server = Server::start(&["--event-loops", "2", "--auth-tokens-file", file.to_str().unwrap()]);
    let mut client = server.connect();
    assert_eq!(client.request("PUT", "/kv/k", WRITER, b"v").status, 201);
    let mut status = |fields: &str| client.request("GET", "/kv/k", fields, b"").status;
    assert_eq!((status(WRITER), status(READER)), (200, 401));
    write_secret(&file, "ro reader-token\n");
    server.signal(Signal::HUP);
    wait_until("the new token is in force", || status(READER) == 200);
    assert_eq!(status(WRITER), 401);
    for bad in ["rx writer-token\n", ""] {
        let errors = server.stderr().matches("stay in force").count();
        write_secret(&file, bad);
        server.signal(Signal::HUP);
        wait_until("the bad file is logged", || server.stderr().matches("stay in force").count() > errors);
        assert_eq!((status(READER), status(WRITER)), (200, 401), "{bad:?}");
    }
    assert!(!server.stderr().contains("writer-token"), "{}", server.stderr());
}

/// As with a file on a server that is gone.
#[test]
fn a_file_whose_reading_has_no_end_holds_up_no_stop() {
    let dir = tempfile::tempdir().unwrap();
    let (pipe, log) = (dir.path().join("tokens"), dir.path().join("log"));
    assert!(Command::new("mkfifo").args(["-m", "600"]).arg(&pipe).status().unwrap().success());
    let writer = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::write(pipe, "rw writer-token\n").unwrap()
    });
    let flags = ["--auth-tokens-file", pipe.to_str().unwrap(), "--access-log", log.to_str().unwrap()];
    let server = Server::start(&flags);
    writer.join().unwrap();
    server.signal(Signal::HUP);
    wait_until("it has heard it", || server.stderr().contains("goes on in a new"));
    assert_eq!(server.connect().request("PUT", "/kv/k", WRITER, b"v").status, 201);
    let (status, stderr) = server.stop();
    assert!(status.success(), "{stderr}");
}

/// Whoever is still in the file goes on, on whichever line.
#[test]
fn a_wait_under_way_ends_with_its_token_and_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens");
    write_secret(&file, "ro reader-token\nrw writer-token\n");
    let server = Server::start(&["--event-loops", "1", "--auth-tokens-file", file.to_str().unwrap()]);
    let mut client = server.connect();
    let put = client.request("PUT", "/kv/k", WRITER, b"v");
    let etag = put.field("ETag").unwrap();
    let [mut reader, mut writer] = [READER, WRITER].map(|token| {
        let mut waiting = server.connect();
        let fields = format!("{token}If-None-Match: {etag}\r\nPrefer: wait=60\r\n");
        waiting.send(crate::support::client::request("GET", "/kv/k", &fields, b""));
        waiting
    });
    wait_until("both wait", || server.metric(r#"hotrow_cache_requests_total{result="hit"}"#) == 2);
    write_secret(&file, "rw writer-token\n");
    server.signal(Signal::HUP);
    wait_until("the token is gone", || client.request("GET", "/kv/k", READER, b"").status == 401);
    assert_eq!(client.request("PUT", "/kv/k", WRITER, b"new").status, 200);
    assert_eq!(reader.response().outcome(), "401 unauthorized");
    assert_eq!(writer.response().text(), "new");
}

#[test]
fn a_file_of_tokens_that_cannot_be_used_is_refused_and_an_open_one_is_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens");
    let path = file.to_str().unwrap().to_owned();
    let refused = |part: &str| {
        let (code, line) = run(&["--listen", "127.0.0.1:0", "--auth-tokens-file", &path]);
        assert!(code == Some(1) && line.contains("--auth-tokens-file") && line.contains(part), "{line}");
    };
    refused("No such file");
    write_secret(&file, "# nobody\n");
    refused("nobody would be let in");
    write_secret(&file, "rw writer-token");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let server = Server::start(&["--auth-tokens-file", &path]);
    assert!(server.stderr().contains("chmod 600"), "{}", server.stderr());
}

#[test]
fn nobody_is_let_in_by_mistake() {
    for (flags, part) in [
        (&["--listen", "0.0.0.0:0"][..], "--listen"),
        (&["--listen", "[::]:0"], "--listen"),
        (&["--listen", "127.0.0.1:0", "--admin-listen", "0.0.0.0:0"], "--admin-listen"),
    ] {
        let (code, line) = run(flags);
        assert!(code == Some(2) && line.contains(part) && line.contains("--allow-anonymous"), "{line}");
    }
    let server = Server::start(&["--listen", "0.0.0.0:0", "--allow-anonymous"]);
    let local = SocketAddr::from(([127, 0, 0, 1], server.address.port()));
    assert_eq!(Client::connect(local).get("k").status, 404);
    drop(server);
    // With tokens the data may be anywhere.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens");
    write_secret(&file, "rw writer-token");
    let server = Server::start(&["--listen", "0.0.0.0:0", "--auth-tokens-file", file.to_str().unwrap()]);
    let local = SocketAddr::from(([127, 0, 0, 1], server.address.port()));
    assert_eq!(Client::connect(local).get("k").status, 401);
}

/// The line with which hotrow ends, and its code.
fn run(flags: &[&str]) -> (Option<i32>, String) {
    ending::refusal(Server::command(env!("CARGO_BIN_EXE_hotrow")).args(flags))
}

#[test]
fn a_client_address_has_its_share_of_connections() {
    let server = Server::start(&["--event-loops", "2", "--max-connections-per-ip", "3"]);
    let mut clients: Vec<Client> = (0..3).map(|_| server.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.get("k").status, 404);
    }
    let mut fourth = server.connect();
    let refused = fourth.response();
    assert_eq!((refused.status, refused.problem()), (503, "too-many-connections".to_owned()));
    assert!(refused.text().contains("--max-connections-per-ip"), "{}", refused.text());
    fourth.expect_closed();
    assert_eq!(server.metric("hotrow_connections_refused_total"), 1);
    // Another address has places of its own: all of 127.0.0.0/8 is this machine's.
    let mut other = connect_from([127, 0, 0, 2], server.address);
    assert_eq!(other.get("k").status, 404);
    // A place that is given back is there for the next.
    drop(clients.pop());
    wait_until("there is a place again", || {
        let mut next = server.connect();
        next.try_request("GET", "/kv/k", "", b"").is_ok_and(|response| response.status == 404)
    });
    // The admin socket is not counted.
    assert_eq!(server.connect_admin().request("GET", "/livez", "", b"").status, 200);
}

#[test]
fn the_admin_socket_has_a_number_of_connections_of_its_own() {
    let server = Server::start(&["--event-loops", "1"]);
    let mut clients: Vec<Client> = (0..ADMIN_CONNECTIONS).map(|_| server.connect_admin()).collect();
    for client in &mut clients {
        assert_eq!(client.request("GET", "/livez", "", b"").status, 200);
    }
    let mut another = server.connect_admin();
    let refused = another.response();
    assert_eq!((refused.status, refused.problem()), (503, "too-many-connections".to_owned()));
    assert!(refused.text().contains("the admin socket"), "{}", refused.text());
    another.expect_closed();
    // It was no request to the data socket.
    let metrics = clients[0].request("GET", "/metrics", "", b"").text();
    assert!(!metrics.contains(r#"hotrow_requests_total{method="none",status="503"}"#), "{metrics}");
    assert_eq!(server.connect().get("k").status, 404);
}

/// A connection that comes from this address.
fn connect_from(from: [u8; 4], to: SocketAddr) -> Client {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    Client::over(TcpStream::from(socket))
}

/// It never has privileges under the unit; whoever gives it some nevertheless is told that it needs none.
#[test]
fn as_root_it_says_that_it_need_not_be() {
    let server = Server::start(&[]);
    let warns = || server.stderr().contains("running as root: hotrow needs no privilege");
    if rustix::process::geteuid().is_root() {
        wait_until("it is said", warns);
    } else {
        assert_eq!(server.connect().get("k").status, 404);
        assert!(!warns());
    }
}
