//! A PostgreSQL of one test's own, to be killed, frozen, filled up and brought back: on a TCP port of 127.0.0.1, which
//! stays the same. Tests that do no harm to theirs share the one in [`super::database`].
//!
//! A shell waits for the end of its input, whose other end this process holds: however this process ends, PostgreSQL
//! is stopped and its folder removed.

use super::database::Database;
use super::process::has_ended;
use super::wait_until;
use hotrow::store::managed::binaries::{self, Binaries, Owner};
use postgres::{Client, NoTls};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// `$1`: our folder. A pid is signalled only if it is the PostgreSQL of that folder.
const GUARD: &str = r#"
    cat >/dev/null
    pid=$(head -n1 "$1/cluster/postmaster.pid" 2>/dev/null)
    if [ -n "$pid" ] && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$1/cluster"; then
        kill -CONT "$pid"; kill -QUIT "$pid"
        # Z: it has ended, and process 1 has not asked how.
        while sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | grep -q '^[^ZX]'; do sleep 0.1; done
    fi
    rm -rf "$1"
"#;

/// Where `free_port` goes on.
static NEXT_PORT: AtomicU32 = AtomicU32::new(0);

/// One PostgreSQL.
#[derive(Debug)]
pub struct Postgresql {
    /// Its port on 127.0.0.1.
    pub port: u16,
    dir: PathBuf,
    programs: Binaries,
    owner: Option<Owner>,
    child: Option<Child>,
    /// Holds the pipe that keeps the folder alive.
    guard: Child,
}

impl Postgresql {
    /// A fresh one, running.
    pub fn start_new() -> Postgresql {
        let mut new = Postgresql::new();
        let mut initdb = new.command("initdb");
        initdb.args([
            "--no-sync",
            "--auth=trust",
            "--username=hotrow",
            "--encoding=UTF8",
            "--locale=C",
            "-D",
        ]);
        run(initdb.arg(new.cluster()));
        new.configure(&[
            "autovacuum=off",
            "max_connections=100",
            // What a test of durability against loss of power would need: the machine is not going to lose its own.
            "fsync=off",
            "full_page_writes=off",
        ]);
        new.start();
        new
    }

    /// A standby of another one, running and streaming.
    pub fn start_standby(primary: &Postgresql) -> Postgresql {
        let mut new = Postgresql::new();
        let mut copy = new.command("pg_basebackup");
        copy.args(["--no-sync", "--checkpoint=fast", "--write-recovery-conf", "-X", "stream", "-D"]);
        run(copy.arg(new.cluster()).args(["-d", &primary.url()]));
        new.configure(&[]);
        new.start();
        new
    }

    /// A folder and nothing in it.
    fn new() -> Postgresql {
        let owner = binaries::owner().expect("somebody can run PostgreSQL");
        let programs = Binaries::find(Path::new("")).expect("PostgreSQL's server programs are installed");
        // Kept here and removed by the guard: this process may end in ways that run no destructor.
        let dir =
            tempfile::Builder::new().prefix("hotrow-faults-").tempdir().expect("a temporary folder").keep();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("the folder is ours");
        if let Some(owner) = &owner {
            chown(&dir, Some(owner.uid), Some(owner.gid)).expect("root may give it away");
        }
        let mut guard = Command::new("/bin/sh");
        if let Some(owner) = &owner {
            guard.uid(owner.uid).gid(owner.gid);
        }
        let guard = guard.args(["-c", GUARD, "guard"]).arg(&dir).current_dir("/");
        // Ctrl-C on the terminal is for the tests; the guard follows by itself.
        let guard = guard.stdin(Stdio::piped()).process_group(0).spawn().expect("a shell runs");
        Postgresql { port: free_port(), dir, programs, owner, child: None, guard }
    }

    /// Adds settings to its configuration, for its next start.
    pub fn configure(&self, settings: &[&str]) {
        let path = self.cluster().join("postgresql.conf");
        let own = [
            "listen_addresses='127.0.0.1'".to_owned(),
            format!("port={}", self.port),
            format!("unix_socket_directories='{}'", self.dir.display()),
        ];
        let mut text = fs::read_to_string(&path).expect("it has a configuration");
        for line in own.iter().map(String::as_str).chain(settings.iter().copied()) {
            text.push_str(line);
            text.push('\n');
        }
        fs::write(&path, text).expect("root or its owner may write it");
    }

    /// Puts a file of its owner's alone into its folder of data.
    pub fn add_file(&self, name: &str, text: &str) {
        let path = self.cluster().join(name);
        fs::write(&path, text).expect("root or its owner may write it");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
        if let Some(owner) = &self.owner {
            chown(&path, Some(owner.uid), Some(owner.gid)).expect("root may give it away");
        }
    }

    /// How to connect to it.
    pub fn url(&self) -> String {
        url_at(self.port)
    }

    /// The same as a database for a server.
    pub fn database(&self) -> Database {
        Database { url: self.url() }
    }

    /// A session.
    pub fn connect(&self) -> Client {
        Client::connect(&self.url(), NoTls).expect("PostgreSQL runs")
    }

    /// Its folder of data.
    pub fn cluster(&self) -> PathBuf {
        self.dir.join("cluster")
    }

    /// Starts it, and waits until it takes connections.
    pub fn start(&mut self) {
        self.start_no_wait();
        wait_until("PostgreSQL is ready", || Client::connect(&self.url(), NoTls).is_ok());
    }

    /// Starts it.
    pub fn start_no_wait(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = fs::File::options().create(true).append(true).open(self.dir.join("log"));
        let log = log.expect("the folder is ours");
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.cluster()).process_group(0);
        command.stdout(log.try_clone().expect("a file can be cloned")).stderr(log);
        self.child = Some(command.spawn().expect("postgres runs"));
    }

    /// What `pg_ctl stop -m immediate` does: every process of it quits without a farewell; the next start replays the
    /// log.
    pub fn stop_immediately(&mut self) {
        let mut child = self.child.take().expect("it runs");
        signal(child.id(), Signal::QUIT);
        child.wait().expect("it is our child");
    }

    /// What `pg_ctl stop -m fast` does: every session is ended, what is in memory is written down.
    pub fn stop_fast(&mut self) {
        let mut child = self.child.take().expect("it runs");
        signal(child.id(), Signal::INT);
        child.wait().expect("it is our child");
    }

    /// `kill -9` of every process of it; the next start replays the log.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        // Who stands still starts nobody whom this would miss.
        stand_still(child.id());
        let others = children(child.id());
        for pid in std::iter::once(child.id()).chain(others.iter().copied()) {
            signal(pid, Signal::KILL);
        }
        child.wait().expect("it is our child");
        // Whoever is left would keep its memory, and the next one refuses to start beside it.
        wait_until("all its processes are gone", || others.iter().all(|pid| has_ended(*pid)));
    }

    /// Keeps a copy of its data. It must not run.
    pub fn keep_data(&self) {
        copy(&self.cluster(), &self.dir.join("kept"));
    }

    /// Puts the copy in the place of its data. It must not run.
    pub fn bring_data_back(&self) {
        fs::remove_dir_all(self.cluster()).expect("root or its owner may remove it");
        copy(&self.dir.join("kept"), &self.cluster());
    }

    /// Starts it again after it was stopped.
    pub fn restart_immediately(&mut self) {
        self.stop_immediately();
        self.start();
    }

    /// Freezes it with all its backends, until the result is dropped.
    pub fn freeze(&self) -> Frozen {
        let postmaster = self.child.as_ref().expect("it runs").id();
        // First the one who starts the others, then those who are there.
        stand_still(postmaster);
        let mut pids = vec![postmaster];
        pids.extend(children(postmaster));
        for pid in &pids[1..] {
            signal(*pid, Signal::STOP);
        }
        Frozen { pids }
    }

    /// `kill -9` of one of hotrow's backends: PostgreSQL takes that for a crash, ends all others and starts over.
    pub fn kill_a_backend(&self) -> bool {
        let sql = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'hotrow/%' ORDER BY random() LIMIT 1";
        let pid = Client::connect(&self.url(), NoTls).ok().and_then(|mut sql_client| {
            let row = sql_client.query_opt(sql, &[]).ok()??;
            u32::try_from(row.get::<_, i32>(0)).ok()
        });
        if let Some(pid) = pid {
            signal(pid, Signal::KILL);
        }
        pid.is_some()
    }

    /// Turns a standby into a primary, and waits until it is one.
    pub fn promote(&self) {
        let mut command = self.command("pg_ctl");
        run(command.arg("promote").arg("-w").arg("-D").arg(self.cluster()));
    }

    /// A command of PostgreSQL's that runs as its user.
    fn command(&self, program: &str) -> Command {
        let mut command = self.programs.command(program);
        if let Some(owner) = &self.owner {
            command.uid(owner.uid).gid(owner.gid);
        }
        command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null());
        command
    }
}

impl Drop for Postgresql {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.stop_immediately();
        }
        // The end of its input; then it tidies up.
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// A frozen PostgreSQL.
#[derive(Debug)]
pub struct Frozen {
    pids: Vec<u32>,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in self.pids.iter().rev() {
            signal(*pid, Signal::CONT);
        }
    }
}

/// Stops a process, and waits until it has stopped: until then it may still be making another one.
pub fn stand_still(pid: u32) {
    signal(pid, Signal::STOP);
    let stat = format!("/proc/{pid}/stat");
    wait_until("it stands still", || {
        let text = fs::read_to_string(&stat).expect("it is there");
        // Behind its name, which may have anything in it: proc(5).
        text.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
    });
}

/// How to connect to a PostgreSQL of ours on this port, or to what stands in front of one.
pub fn url_at(port: u16) -> String {
    format!("host=127.0.0.1 port={port} user=hotrow dbname=postgres")
}

/// A port that is free, and stays so while nobody listens there: below those that the system gives to whoever asks
/// for any.
pub fn free_port() -> u16 {
    loop {
        let step = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + (std::process::id().wrapping_mul(97).wrapping_add(step) % 12_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Processes whose parent this is.
fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("there is /proc").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parent_of = |pid: u32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before it, in parentheses, may have blanks: behind it come the state and the parent.
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

/// Signals a process that may have ended.
fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Runs a command that must work.
fn run(command: &mut Command) {
    let output = command.output().expect("the program is there");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Copies a folder, with the owners of what is in it.
fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").args([from, to]));
}
