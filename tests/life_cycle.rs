//! How a server ends, and what it tells whoever has started it.

use crate::support::database::Database;
use crate::support::{DEADLINE, Server, ending, left_out, wait_until};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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

#[test]
fn operations_are_served_as_long_as_any_loop_serves_somebody() {
    // The kernel decides which loop a connection belongs to: after some of them it was not always the one with operations.
    for _ in 0..4 {
        let mut server = Server::start(&["--event-loops", "2"]);
        let mut slow = server.connect();
        slow.send("PUT /kv/k HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nval");
        wait_until("its content is waited for", || {
            server.metric(r#"hotrow_connections{state="content"}"#) == 1
        });
        server.signal(Signal::TERM);
        wait_until("nobody listens any more", || TcpStream::connect(server.address).is_err());
        // Each by a connection of its own: in between the loop with operations has nothing to do, and would have ended.
        for _ in 0..50 {
            assert_eq!(readiness(&server), (503, "draining\n".into()));
        }
        slow.send("ue");
        let response = slow.response();
        assert!(response.status == 201 && response.says_close(), "{response:?}");
        drop(slow);
        assert_eq!(server.wait().expect("it ends").code(), Some(0));
    }
}

#[test]
fn what_takes_longer_than_a_drain_may_is_given_up_and_told_so() {
    // One writer: one write is sent, the next waits in the queue.
    let flags = ["--drain-timeout", "1s", "--db-writers", "1", "--event-loops", "2"];
    let mut server = Server::start(&flags);
    let mut writes = server.database().hold_writes();
    let mut sent = server.ask("PUT", "sent", "v");
    wait_until("it was sent", || writes.waiting() == 1);
    let mut queued = server.ask("PUT", "queued", "v");
    wait_until("it is queued", || server.metric("hotrow_keys_in_flight") == 2);
    let mut half = server.connect();
    half.send("GET /kv/");
    wait_until("its head is waited for", || server.metric(r#"hotrow_connections{state="head"}"#) == 1);
    server.signal(Signal::TERM);
    for (client, outcome) in [(&mut sent, "504 outcome-unknown"), (&mut queued, "503 draining")] {
        let response = client.response();
        assert!(response.says_close());
        assert_eq!(response.outcome(), outcome);
        client.expect_closed();
    }
    half.expect_closed();
    // Its writer still waits for PostgreSQL.
    assert_eq!(server.wait().expect("it ends by itself").code(), Some(0));
    writes.release();
    let database = server.database();
    let sessions = "SELECT count(*)::text FROM pg_stat_activity
        WHERE application_name LIKE 'hotrow/%' AND datname = current_database()";
    wait_until("its sessions are gone", || database.text(sessions, &[]).as_deref() == Some("0"));
    assert_eq!(database.value("queued"), None, "what was refused has not happened");
}

/// The side of a service manager (sd_notify(3)).
struct Manager {
    folder: tempfile::TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Manager {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Manager { folder, socket }
    }

    /// A server that is to pat the watchdog in this period, if it is meant: as with `WatchdogSec=`. With its manager behind it, which
    /// is so dropped first: a server that it has not listened to could not end otherwise.
    fn start(self, watchdog: Option<(Duration, bool)>, flags: &[&str]) -> (Server, Manager) {
        let database = Database::new();
        let mut command = Server::command("/bin/sh");
        let pid = if watchdog.is_none_or(|(_, meant)| meant) { "$$" } else { "1" };
        let script = format!("export WATCHDOG_PID={pid}; exec \"$@\"");
        command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_hotrow"), "--database-url", &database.url]);
        command.args(flags).env("NOTIFY_SOCKET", self.folder.path().join("notify"));
        if let Some((period, _)) = watchdog {
            command.env("WATCHDOG_USEC", period.as_micros().to_string());
        }
        let mut server = Server::spawn(command);
        server.database = Some(database);
        (server, self)
    }

    /// What it is told next, as lines; pats of the watchdog are left out and counted.
    fn told(&self, pats: &mut u32) -> Vec<String> {
        let mut bytes = [0; 4096];
        loop {
            let n = self.socket.recv(&mut bytes).expect("the server says something");
            match std::str::from_utf8(&bytes[..n]).unwrap() {
                "WATCHDOG=1\n" => *pats += 1,
                text => return text.lines().map(str::to_owned).collect(),
            }
        }
    }

    /// Waits for this many pats of the watchdog.
    fn pats(&self, wanted: u32) {
        let mut bytes = [0; 4096];
        for _ in 0..wanted {
            let n = self.socket.recv(&mut bytes).expect("the watchdog is patted");
            assert_eq!(&bytes[..n], b"WATCHDOG=1\n");
        }
    }
}

fn number(line: &str, name: &str) -> u64 {
    line.strip_prefix(name).unwrap_or_else(|| panic!("{line} is no {name}")).parse().unwrap()
}

/// The manager's clock, which does not go on while the machine sleeps.
fn monotonic_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
}

#[test]
fn a_service_manager_is_told_what_goes_on() {
    let flags = ["--drain-delay", "60s", "--drain-timeout", "100s"];
    let (mut server, manager) = Manager::new().start(None, &flags);
    let stderr = server.stderr();
    let listening = stderr.lines().find(|line| line.starts_with("listening on ")).unwrap();
    let mut pats = 0;
    let starting = manager.told(&mut pats);
    assert_eq!(starting[0], "STATUS=starting");
    assert!(number(&starting[1], "EXTEND_TIMEOUT_USEC=") > 10_000_000, "{starting:?}");
    let ready = vec!["READY=1".to_owned(), format!("STATUS={listening}")];
    assert_eq!(manager.told(&mut pats), ready);
    let before = monotonic_us();
    server.signal(Signal::HUP);
    let reloading = manager.told(&mut pats);
    assert_eq!(reloading[0], "RELOADING=1");
    // Of the same clock as the manager's (CLOCK_MONOTONIC), and now.
    let now = monotonic_us();
    let told = number(&reloading[1], "MONOTONIC_USEC=");
    assert!((before..=now).contains(&told), "{told}, between {before} and {now}");
    assert_eq!(manager.told(&mut pats), ready);
    server.signal(Signal::TERM);
    let stopping = manager.told(&mut pats);
    assert_eq!(stopping[0], "STOPPING=1");
    assert!(stopping[1].starts_with("STATUS=draining"), "{stopping:?}");
    // As long as the flags let it take.
    assert!(number(&stopping[2], "EXTEND_TIMEOUT_USEC=") > 160_000_000, "{stopping:?}");
    server.signal(Signal::TERM);
    assert_eq!(server.wait().unwrap().code(), Some(1));
    assert_eq!(pats, 0, "nobody has asked for them");
}

#[test]
fn the_watchdog_is_patted_while_the_loops_turn() {
    let period = Duration::from_millis(200);
    let (server, manager) = Manager::new().start(Some((period, true)), &["--event-loops", "3"]);
    for expected in ["STATUS=starting", "READY=1"] {
        assert_eq!(manager.told(&mut 0)[0], expected);
    }
    manager.pats(5);
    // Stopped altogether it is silent, and lets the manager see it; then it goes on.
    server.signal(Signal::STOP);
    let stat = format!("/proc/{}/stat", server.pid());
    let state = || std::fs::read_to_string(&stat).unwrap().rsplit_once(") ").unwrap().1.to_owned();
    wait_until("it is stopped", || state().starts_with('T'));
    manager.socket.set_nonblocking(true).unwrap();
    while manager.socket.recv(&mut [0; 64]).is_ok() {}
    manager.socket.set_nonblocking(false).unwrap();
    server.signal(Signal::CONT);
    manager.pats(5);
    assert_eq!(server.connect().put("k", "v").status, 201);
}

/// The thread of a process with this name.
fn thread_of(server: &Server, name: &str) -> PathBuf {
    let threads = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let mut threads = threads.map(|thread| thread.unwrap().path());
    // One that ends meanwhile has no name any more.
    let is_named = |thread: &PathBuf| {
        std::fs::read_to_string(thread.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    threads.find(is_named).expect("there is one with this name")
}

/// Stops one loop of two, as a debugger does. Everything else goes on: the thread of the watchdog, too.
#[test]
fn a_loop_that_hangs_stops_the_pats() {
    let watchdog = Some((Duration::from_millis(40), true));
    let (server, manager) = Manager::new().start(watchdog, &["--event-loops", "2"]);
    for expected in ["STATUS=starting", "READY=1"] {
        assert_eq!(manager.told(&mut 0)[0], expected);
    }
    manager.pats(3);
    let (hung, watchdog) = (thread_of(&server, "loop 1"), thread_of(&server, "watchdog"));
    let tid = nix::unistd::Pid::from_raw(hung.file_name().unwrap().to_str().unwrap().parse().unwrap());
    if let Err(error) = ptrace::seize(tid, ptrace::Options::empty()) {
        // Only root, and parents where it is not forbidden altogether.
        return left_out(
            "the watchdog's pats while a loop hangs",
            format!("a thread cannot be stopped here: {error}"),
        );
    }
    ptrace::interrupt(tid).unwrap();
    let stopped = waitpid(tid, Some(WaitPidFlag::__WALL)).unwrap();
    assert!(matches!(stopped, WaitStatus::PtraceEvent(..)), "{stopped:?}");
    // Every look of the watchdog ends with its going to sleep.
    let looks = || {
        let status = std::fs::read_to_string(watchdog.join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    let wait_for_looks = |more: u64, meanwhile: &dyn Fn()| {
        let before = looks();
        wait_until("the watchdog has looked", || {
            meanwhile();
            looks() > before + more
        });
    };
    // What the loop had answered before is taken for a sign of life once. Pats that nobody takes would stop the watchdog.
    manager.socket.set_nonblocking(true).unwrap();
    let take_pats = || while manager.socket.recv(&mut [0; 64]).is_ok() {};
    wait_for_looks(3, &take_pats);
    take_pats();
    wait_for_looks(10, &|| {});
    assert!(manager.socket.recv(&mut [0; 64]).is_err(), "the watchdog was patted for a loop that hangs");
    manager.socket.set_nonblocking(false).unwrap();
    ptrace::detach(tid, None).unwrap();
    manager.pats(3);
}

#[test]
fn a_watchdog_of_another_process_is_left_alone() {
    let (server, manager) = Manager::new().start(Some((Duration::from_millis(1), false)), &[]);
    let mut pats = 0;
    for expected in ["STATUS=starting", "READY=1"] {
        assert_eq!(manager.told(&mut pats)[0], expected);
    }
    server.signal(Signal::HUP);
    for expected in ["RELOADING=1", "READY=1"] {
        assert_eq!(manager.told(&mut pats)[0], expected);
    }
    assert_eq!(pats, 0);
}

#[test]
fn a_start_that_fails_says_why() {
    let manager = Manager::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = Server::command(env!("CARGO_BIN_EXE_hotrow"));
    command.args(["--listen", &taken.local_addr().unwrap().to_string(), "--admin-listen", "off"]);
    let output = ending::run(command.env("NOTIFY_SOCKET", manager.folder.path().join("notify")));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(manager.told(&mut 0)[0], "STATUS=starting");
    let failed = manager.told(&mut 0);
    assert!(failed[0].starts_with("STATUS=cannot listen on "), "{failed:?}");
}

#[test]
fn a_manager_that_is_gone_is_no_reason_not_to_serve() {
    let database = Database::new();
    let mut command = Server::command(env!("CARGO_BIN_EXE_hotrow"));
    command.args(["--database-url", &database.url]).env("NOTIFY_SOCKET", Path::new("/no/such/socket"));
    let server = Server::spawn(command);
    assert_eq!(server.connect().put("k", "v").status, 201);
    wait_until("it is said", || server.stderr().contains("the service manager cannot be told"));
}
