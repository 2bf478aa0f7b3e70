//! A restart refuses nobody. The tests play the service manager: they hold the listening sockets, start hotrow with them,
//! stop it under load, and start the next one as soon as it has ended.

use crate::support::client::request;
use crate::support::database::Database;
use crate::support::{Client, Server, ending, wait_until};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

const RESTARTS: usize = 5;
const READERS: usize = 12;
const WRITERS: usize = 4;

/// The sockets that a service manager would hold.
struct Sockets {
    data: TcpListener,
    admin: TcpListener,
}

impl Sockets {
    fn new() -> Sockets {
        let open = || TcpListener::bind("127.0.0.1:0").unwrap();
        Sockets { data: open(), admin: open() }
    }

    fn address(&self) -> SocketAddr {
        self.data.local_addr().unwrap()
    }

    fn start(&self, database: &Database, flags: &[&str]) -> Server {
        Server::start_with_sockets(database, &self.data, &self.admin, flags)
    }
}

/// What the clients of a test have seen, all together.
#[derive(Debug, Default)]
struct Seen {
    answers: AtomicU64,
    /// Answers that ended their connection.
    last_answers: AtomicU64,
    /// Connections that ended in good order before the first byte of an answer, as those may that were silent for a while:
    /// the request was not looked at, and may be sent again (RFC 9112 section 9.6).
    sent_again: AtomicU64,
    longest_us: AtomicU64,
    enough: AtomicBool,
}

/// A client that keeps its connection for as long as the server does, and asks without a pause.
struct Asker<'a> {
    address: SocketAddr,
    client: Option<Client>,
    seen: &'a Seen,
}

impl Asker<'_> {
    /// The answer to a request. Whatever HTTP does not allow fails the test: a connection that is refused or reset, an
    /// answer that is cut off, an end without an answer after a request that was looked at (which `PUT` finds out).
    fn ask(&mut self, method: &str, target: &str, fields: &str, body: &[u8]) -> u16 {
        let begun = Instant::now();
        loop {
            let client = self.client.get_or_insert_with(|| Client::connect(self.address));
            match ask(client, &request(method, target, fields, body)) {
                Ok((status, is_last)) => {
                    if is_last {
                        self.client.take().unwrap().expect_closed();
                        self.seen.last_answers.fetch_add(1, Ordering::Relaxed);
                    }
                    let us = begun.elapsed().as_micros() as u64;
                    self.seen.longest_us.fetch_max(us, Ordering::Relaxed);
                    self.seen.answers.fetch_add(1, Ordering::Relaxed);
                    return status;
                }
                Err(error) => {
                    let untouched = error.kind() == ErrorKind::UnexpectedEof && !client.has_received();
                    assert!(untouched, "{method} {target}: {error}");
                    self.seen.sent_again.fetch_add(1, Ordering::Relaxed);
                    self.client = None;
                }
            }
        }
    }
}

/// Status, and whether the answer is the last of its connection.
fn ask(client: &mut Client, request: &[u8]) -> io::Result<(u16, bool)> {
    client.try_send(request)?;
    let response = client.try_response_to("GET")?;
    Ok((response.status, response.says_close()))
}

/// Stops a server and starts the next one, as often as is said, once the clients have got on in between. The last one, which
/// clients may still ask.
fn restart(sockets: &Sockets, database: &Database, flags: &[&str], seen: &Seen) -> Server {
    let mut server = sockets.start(database, flags);
    for _ in 0..RESTARTS {
        let before = seen.answers.load(Ordering::Relaxed);
        wait_until("clients get on", || seen.answers.load(Ordering::Relaxed) > before + 1_000);
        let (status, stderr) = server.stop();
        assert!(status.success(), "{stderr}");
        server = sockets.start(database, flags);
    }
    let before = seen.answers.load(Ordering::Relaxed);
    wait_until("clients get on with the last one", || seen.answers.load(Ordering::Relaxed) > before + 1_000);
    seen.enough.store(true, Ordering::Relaxed);
    server
}

#[test]
fn a_restart_under_load_refuses_nobody_and_fails_no_request() {
    for flags in [&["--event-loops", "1"][..], &["--event-loops", "3"]] {
        let (database, sockets, seen) = (Database::new(), Sockets::new(), Seen::default());
        let asker = || Asker { address: sockets.address(), client: None, seen: &seen };
        let enough = || seen.enough.load(Ordering::Relaxed);
        thread::scope(|scope| {
            let manager = scope.spawn(|| {
                // Clients go on without end if it fails.
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    restart(&sockets, &database, flags, &seen)
                }));
                seen.enough.store(true, Ordering::Relaxed);
                result
            });
            for number in 0..READERS {
                let mut asker = asker();
                scope.spawn(move || {
                    // Hits, absences, misses.
                    for round in 0u64.. {
                        let key =
                            if round % 16 == 0 { format!("miss{number}-{round}") } else { "shared".into() };
                        let status = asker.ask("GET", &format!("/kv/{key}"), "", b"");
                        assert!(matches!(status, 200 | 404), "{status}");
                        if enough() {
                            return;
                        }
                    }
                });
            }
            let writers: Vec<_> = (0..WRITERS)
                .map(|number| {
                    let mut asker = asker();
                    scope.spawn(move || {
                        let mut round = 0u64;
                        while !enough() {
                            // A request that was not answered was not looked at: else the row would be there when it is
                            // sent again.
                            let target = format!("/kv/w{number}-{round}");
                            let status = asker.ask("PUT", &target, "If-None-Match: *\r\n", b"value");
                            assert_eq!(status, 201, "{target}");
                            round += 1;
                        }
                        round
                    })
                })
                .collect();
            let written: u64 = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
            manager.join().unwrap().unwrap();
            let rows = "SELECT count(*)::text FROM kv_store WHERE key LIKE 'w%'";
            assert_eq!(database.text(rows, &[]), Some(written.to_string()));
        });
        let last = seen.last_answers.load(Ordering::Relaxed);
        println!("{seen:?}");
        assert!(last >= (READERS + WRITERS) as u64, "only {last} connections ended with an answer");
    }
}

#[test]
fn who_is_silent_is_told_in_good_order_and_who_comes_meanwhile_is_served_by_the_next() {
    let (database, sockets) = (Database::new(), Sockets::new());
    let server = sockets.start(&database, &["--event-loops", "2"]);
    let mut silent: Vec<Client> = (0..8).map(|_| server.connect()).collect();
    for client in &mut silent {
        assert!(matches!(client.put("k", "v").status, 200 | 201));
    }
    let (status, stderr) = server.stop();
    assert!(status.success(), "{stderr}");
    for client in &mut silent {
        client.expect_closed();
    }
    // Nobody accepts now: connections are taken by the kernel, and requests wait there.
    let mut early: Vec<Client> = (0..8).map(|_| Client::connect(sockets.address())).collect();
    for client in &mut early {
        client.send(request("GET", "/kv/k", "", b""));
    }
    let mut admin = Client::connect(sockets.admin.local_addr().unwrap());
    admin.send(request("GET", "/livez", "", b""));
    let server = sockets.start(&database, &["--event-loops", "2"]);
    assert_eq!(server.address, sockets.address());
    assert_eq!(server.admin_address, Some(sockets.admin.local_addr().unwrap()));
    for client in &mut early {
        assert_eq!(client.response().text(), "v");
    }
    assert_eq!(admin.response().text(), "alive\n");
    assert!(server.stderr().contains("handed over"), "{}", server.stderr());
}

/// A server that is started with these descriptors (beside stderr) does not start, and says this.
fn refused(setup: &str, flags: &[&str], parts: &[&str]) {
    let mut command = Server::command("/bin/sh");
    let script = format!("{setup}; export LISTEN_PID=$$; exec \"$@\"");
    command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_hotrow"), "--admin-listen", "off"]).args(flags);
    ending::refused(&mut command, 2, parts);
}

#[test]
fn what_is_handed_over_and_is_no_listening_socket_is_refused() {
    refused("exec 3</dev/null; export LISTEN_FDS=1", &[], &["handed over", "not a socket"]);
    refused("exec 3<&-; export LISTEN_FDS=1 LISTEN_FDNAMES=http", &[], &["\"http\"", "handed over"]);
}

/// Flags say nothing of an address that was handed over: it is looked at itself.
#[test]
fn a_socket_that_strangers_reach_is_refused_without_tokens() {
    let data = TcpListener::bind("0.0.0.0:0").unwrap();
    let mut command = Server::command("/bin/sh");
    let script = "exec 3<&0; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=$1; shift; exec \"$@\"";
    let run = |name: &str, command: &mut Command| {
        command.args(["-c", script, "sh", name, env!("CARGO_BIN_EXE_hotrow"), "--listen", "127.0.0.1:0"]);
        command.stdin(std::os::fd::OwnedFd::from(data.try_clone().unwrap()));
        let output = ending::of(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    let stderr = run("http", &mut command);
    assert!(stderr.contains("everyone who reaches this address could read and change"), "{stderr}");
    let stderr = run("admin", &mut Server::command("/bin/sh"));
    assert!(stderr.contains("could read metrics and settings"), "{stderr}");
    let stderr = run("what", &mut Server::command("/bin/sh"));
    assert!(stderr.contains("\"what\"") && stderr.contains("FileDescriptorName=http"), "{stderr}");
}

/// Who is not meant takes nothing: the sockets may be those of the process that has started it.
#[test]
fn sockets_that_were_handed_to_another_process_are_left_alone() {
    let sockets = Sockets::new();
    let database = Database::new();
    let server = Server::start_with_sockets_of("1", &database, &sockets.data, &sockets.admin, &[]);
    assert_eq!(server.connect().put("k", "v").status, 201);
    assert_eq!(server.connect_admin().request("GET", "/livez", "", b"").status, 200);
    for (fd, socket) in [(3, &sockets.data), (4, &sockets.admin)] {
        // It has them, open as they came, and listens somewhere else.
        let address = socket.local_addr().unwrap();
        assert!(address != server.address && Some(address) != server.admin_address, "{address}");
        let file = std::fs::read_link(format!("/proc/{}/fd/{fd}", server.pid())).unwrap();
        assert!(file.to_str().unwrap().starts_with("socket:"), "{file:?}");
        let client = TcpStream::connect(address).unwrap();
        assert_eq!(socket.accept().unwrap().1, client.local_addr().unwrap());
    }
}
