//! The real binary, on ports of its own. Started by tests, stopped when its [`Server`] is dropped.

use super::client::{Client, request};
use super::database::Database;
use super::{DEADLINE, process, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A running hotrow.
#[derive(Debug)]
pub struct Server {
    /// Where its data is.
    pub address: SocketAddr,
    /// Where its operations are, unless it was started with `--admin-listen off`.
    pub admin_address: Option<SocketAddr>,
    /// Its database; empty for a server that was started with another one.
    pub database: Option<Database>,
    child: Child,
    stderr: Arc<Mutex<String>>,
    collector: Option<JoinHandle<()>>,
    /// Kept open, so that looking at the metrics neither adds connections nor needs a descriptor.
    admin: Mutex<Option<Client>>,
    ended: bool,
}

impl Server {
    /// A server with these flags and a fresh database.
    pub fn start(flags: &[&str]) -> Server {
        Server::start_on(&Database::new(), flags)
    }

    /// A server with these flags on a database that is there.
    pub fn start_on(database: &Database, flags: &[&str]) -> Server {
        Server::spawn_on(database, Server::command(env!("CARGO_BIN_EXE_hotrow")), flags)
    }

    /// A server that may have so many file descriptors and no more, soft and hard.
    pub fn start_with_descriptors(limit: usize, flags: &[&str]) -> Server {
        let mut command = Server::command("/bin/sh");
        command.args(["-c", r#"ulimit -n "$1" && shift && exec "$@""#, "sh", &limit.to_string()]);
        command.arg(env!("CARGO_BIN_EXE_hotrow"));
        Server::spawn_on(&Database::new(), command, flags)
    }

    fn spawn_on(database: &Database, mut command: Command, flags: &[&str]) -> Server {
        command.args(["--database-url", &database.url]).args(flags);
        let mut server = Server::spawn(command);
        server.database = Some(database.clone());
        server
    }

    /// That a busy machine is slow is no verdict: a test that is about this limit gives the flag, which wins. All that
    /// are started here have it, but for [`Server::start_as_it_is`].
    pub fn be_patient(command: &mut Command) {
        command.env("HOTROW_REQUEST_TIMEOUT", "1m");
    }

    /// One with the defaults that its users have: for what measures, or lives for long.
    pub fn start_as_it_is(database: &Database, flags: &[&str]) -> Server {
        let mut command = Server::command(env!("CARGO_BIN_EXE_hotrow"));
        command.args(["--database-url", &database.url]).args(flags);
        let mut server = Server::spawn_with(command, Stdio::null(), Stdio::null());
        server.database = Some(database.clone());
        server
    }

    /// A command in a clean environment: nobody's `HOTROW_` and `PG` variables.
    pub fn command(program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("HOTROW_")
                || name.starts_with("PG") && name != "PG_BINDIR"
                || name == "DATABASE_URL"
            {
                command.env_remove(name);
            }
        }
        command
    }

    /// Runs a command that becomes hotrow, and waits until it says that it is listening: on free ports, unless the
    /// command says where.
    pub fn spawn(mut command: Command) -> Server {
        Server::be_patient(&mut command);
        Server::spawn_with(command, Stdio::null(), Stdio::null())
    }

    /// Hands it sockets over, as a service manager does: to listen for the data, and for operations.
    pub fn start_with_sockets(
        database: &Database,
        data: &TcpListener,
        admin: &TcpListener,
        flags: &[&str],
    ) -> Server {
        Server::start_with_sockets_of("$$", database, data, admin, flags)
    }

    /// The same, but they are said to be for the process with this number; `$$` is its own.
    pub fn start_with_sockets_of(
        pid: &str,
        database: &Database,
        data: &TcpListener,
        admin: &TcpListener,
        flags: &[&str],
    ) -> Server {
        let mut command = Server::command("/bin/sh");
        // The sockets come in the places of stdin and stdout, which need no unsafe code to be passed on.
        let script = format!(
            "exec 3<&0 4<&1 </dev/null >/dev/null; export LISTEN_PID={pid} LISTEN_FDS=2 LISTEN_FDNAMES=http:admin
            exec \"$@\""
        );
        command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_hotrow"), "--database-url", &database.url]);
        command.args(flags);
        Server::be_patient(&mut command);
        let pass =
            |socket: &TcpListener| OwnedFd::from(socket.try_clone().expect("there are descriptors")).into();
        let mut server = Server::spawn_with(command, pass(data), pass(admin));
        server.database = Some(database.clone());
        server
    }

    fn spawn_with(mut command: Command, stdin: Stdio, stdout: Stdio) -> Server {
        for flag in ["--listen", "--admin-listen"] {
            if !command.get_args().any(|argument| argument == flag) {
                command.args([flag, "127.0.0.1:0"]);
            }
        }
        command.stdin(stdin).stdout(stdout).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        let pipe = BufReader::new(child.stderr.take().expect("it is piped"));
        let stderr = Arc::new(Mutex::new(String::new()));
        let lines = Arc::clone(&stderr);
        // To its end: a server whose stderr nobody reads would be another test.
        let collector = thread::spawn(move || {
            for line in pipe.lines().map_while(Result::ok) {
                let mut lines = lines.lock().expect("nobody panics with it");
                lines.push_str(&line);
                lines.push('\n');
            }
        });
        let deadline = Instant::now() + 2 * DEADLINE;
        let (address, admin_address) = loop {
            let text = stderr.lock().expect("nobody panics with it").clone();
            if let Some(addresses) = text.lines().find_map(addresses) {
                break addresses;
            }
            let ended = child.try_wait().expect("it is our child");
            if ended.is_some() || Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the server does not get ready ({ended:?}):\n{text}");
            }
            thread::sleep(Duration::from_millis(2));
        };
        let (collector, admin) = (Some(collector), Mutex::new(None));
        Server { address, admin_address, database: None, child, stderr, collector, admin, ended: false }
    }

    /// A connection to its data.
    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// Sends a request about a key, on a connection of its own, and does not wait for its answer.
    pub fn ask(&self, method: &str, key: &str, body: &str) -> Client {
        let mut client = self.connect();
        client.send(request(method, &format!("/kv/{key}"), "", body.as_bytes()));
        client
    }

    /// A connection to its operations.
    pub fn connect_admin(&self) -> Client {
        Client::connect(self.admin_address.expect("it was not started with --admin-listen off"))
    }

    /// Its database.
    pub fn database(&self) -> &Database {
        self.database.as_ref().expect("it was started with one of ours")
    }

    /// A page of the admin socket, which must be there.
    pub fn admin_page(&self, path: &str) -> String {
        let mut admin = self.admin.lock().expect("nobody panics with it");
        // The kept connection may have been closed for its silence: then a new one.
        for _ in 0..2 {
            let client = admin.get_or_insert_with(|| self.connect_admin());
            if let Ok(response) = client.try_request("GET", path, "", b"") {
                assert_eq!(response.status, 200, "{path}");
                return response.text();
            }
            *admin = None;
        }
        panic!("the admin socket does not answer");
    }

    /// A number of `/metrics`: of one series, named with its labels as they stand there; or, named without, the sum of
    /// all that the metric has. A series that nothing was counted in yet is 0.
    pub fn metric(&self, name: &str) -> u64 {
        let page = self.admin_page("/metrics");
        let family = name.split('{').next().expect("it has a beginning");
        let family = ["_count", "_sum"].iter().find_map(|part| family.strip_suffix(part)).unwrap_or(family);
        assert!(page.contains(&format!("# TYPE {family} ")), "no metric {name} in\n{page}");
        let values = page.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            (series == name || series.strip_prefix(name).is_some_and(|labels| labels.starts_with('{')))
                .then(|| value.parse::<u64>().expect("a count is a whole number"))
        });
        values.sum()
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().expect("nobody panics with it").clone()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its memory in RAM, in bytes.
    pub fn rss_bytes(&self) -> usize {
        process::rss_bytes(self.pid())
    }

    /// Waits until all its workers have sessions: two readers, two writers, and the sweeper, which begins a second later.
    pub fn is_settled(&self) {
        let sessions = "SELECT (count(*) = 5)::text FROM pg_stat_activity
            WHERE application_name LIKE 'hotrow%' AND datname = current_database()";
        let database = self.database();
        wait_until("all workers have sessions", || database.text(sessions, &[]).as_deref() == Some("true"));
    }

    /// Its open file descriptors.
    pub fn descriptors(&self) -> usize {
        process::descriptors(self.pid())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a pid is a positive number");
        kill_process(pid, signal).expect("it is our child and was not waited for");
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(mut self) -> (ExitStatus, String) {
        self.signal(Signal::TERM);
        let status = self.wait();
        (status.expect("it ends when it is told to"), self.stderr())
    }

    /// `kill -9`: no destructor, no farewell.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        let _ = self.wait();
    }

    /// Waits for the end; `None`: it had to be killed after the deadline.
    pub fn wait(&mut self) -> Option<ExitStatus> {
        let deadline = Instant::now() + DEADLINE;
        let status = loop {
            match self.child.try_wait().expect("it is our child") {
                Some(status) => break Some(status),
                None if Instant::now() > deadline => {
                    let _ = self.child.kill();
                    let _ = self.child.wait();
                    break None;
                }
                None => thread::sleep(Duration::from_millis(2)),
            }
        };
        self.ended = true;
        if let Some(collector) = self.collector.take() {
            let _ = collector.join();
        }
        status
    }
}

/// Every server must end well, and must not have panicked on its way: whatever a test has looked at.
impl Drop for Server {
    fn drop(&mut self) {
        self.admin.clear_poison();
        *self.admin.lock().expect("it is not poisoned now") = None;
        if !self.ended {
            self.signal(Signal::TERM);
            let status = self.wait();
            if !thread::panicking() {
                assert!(
                    status.is_some_and(|s| s.success()),
                    "the server ended with {status:?}:\n{}",
                    self.stderr()
                );
            }
        }
        let stderr = self.stderr();
        if thread::panicking() {
            // What went wrong stands at the end.
            let end = stderr.lines().count().saturating_sub(40);
            let lines: Vec<&str> = stderr.lines().skip(end).collect();
            eprintln!("the end of the server's stderr:\n{}", lines.join("\n"));
        } else {
            assert!(!stderr.contains("panicked"), "the server has panicked:\n{stderr}");
        }
    }
}

/// `listening on http://127.0.0.1:8080 (admin http://127.0.0.1:9090, PostgreSQL …)`
fn addresses(line: &str) -> Option<(SocketAddr, Option<SocketAddr>)> {
    let (address, rest) = line.strip_prefix("listening on http")?.split_once(" (admin ")?;
    let address = address.trim_start_matches("s").trim_start_matches("://");
    let admin = rest.split(',').next()?.strip_prefix("http://");
    Some((address.parse().ok()?, admin.and_then(|admin| admin.parse().ok())))
}
