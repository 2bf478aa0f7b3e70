//! The private PostgreSQL: found, made, started, watched, started again, stopped. After this file has given out its
//! address it is a database like any other. Used by [`crate::server`] when no `--database-url` is given.
//!
//! ```text
//!  DATA_DIR/
//!    hotrow.lock     held (flock) by the one hotrow that may use this folder; the kernel lets go when it dies
//!    postgres/       the cluster
//!    postgres.log    what PostgreSQL says, and postgres.log.old what it said before that had become long
//!    run/            its socket: no network, and nobody but its user and root gets in
//! ```
//!
//! A hotrow that is killed leaves its PostgreSQL running. The next one, holding the lock, stops it and starts its own:
//! whatever the old one's sessions had not committed by then never will be.

pub mod binaries;
mod folders;

use crate::limits::POSTGRES_LOG_BYTES;
use binaries::{Binaries, Owner};
use folders::{
    close_to_others, lock, make_dirs, make_private_dir, nearest_folder, replace_own_thread, socket_dir,
    unusable,
};
use postgres::error::{DbError, SqlState};
use postgres::{Config, NoTls};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long PostgreSQL may take to start, if it does not say that it replays its log, as it does after a crash.
const START: Duration = Duration::from_secs(120);
/// How often somebody is asked whether that is to be waited for.
const LOOK: Duration = Duration::from_secs(1);
/// Classes of SQLSTATE that asking again does not mend: no such role or no password, no such database, no right to it.
const NEVER: [&str; 3] = ["28", "3D", "42"];
/// How long PostgreSQL may take to stop before it is told to do so at once.
const STOP: Duration = Duration::from_secs(30);
/// How long it may take then: it gives its children five seconds and kills who is left.
const STOP_AT_ONCE: Duration = Duration::from_secs(15);
/// How long it may take when it is killed.
const KILL: Duration = Duration::from_secs(5);
/// How long [`Managed::stop`] may take.
pub const LONGEST_STOP: Duration = Duration::from_secs(30 + 15 + 5);
/// How long [`Managed::start`] may take: one that was left running is stopped first, gently or not, or the cluster is made.
pub const LONGEST_START: Duration = Duration::from_secs(120 + 2 * 30 + 30);
/// How often it is looked at while something is expected of it, and the shortest pause before it is started again.
const STEP: Duration = Duration::from_millis(20);
/// One that has lived for so long is started again at once.
const LIVED: Duration = Duration::from_secs(10);
/// The longest pause between two attempts to start it again, and the one of those that are made before it was ready.
const RESTART_PAUSE: Duration = Duration::from_secs(2);
/// How much of its log is looked at for why it has ended: hotrow has it say that it is starting, fifty times a second.
const LAST_WORDS_BYTES: u64 = 64 * 1024;

/// A running private PostgreSQL.
#[derive(Debug)]
pub struct Managed {
    shared: Arc<Shared>,
    watcher: Option<JoinHandle<()>>,
    /// Keeps the folder for this process.
    _lock: File,
}

#[derive(Debug)]
struct Shared {
    binaries: Binaries,
    owner: Option<Owner>,
    cluster: PathBuf,
    log: PathBuf,
    socket_dir: PathBuf,
    max_sessions: usize,
    state: Mutex<State>,
    /// How long its log was when it was started last: what stands before that it has said at another time.
    spoke_before: AtomicU64,
}

#[derive(Debug)]
struct State {
    child: Option<Child>,
    stopping: bool,
}

/// Ends the private PostgreSQL at once, from any thread, if there is one by then; the next start will replay its log.
#[derive(Clone, Debug, Default)]
pub struct Killer(Arc<OnceLock<Arc<Shared>>>);

impl Killer {
    /// Does so, and waits for nothing.
    pub fn kill(&self) {
        if let Some(shared) = self.0.get() {
            shared.signal(Signal::QUIT);
        }
    }
}

impl Managed {
    /// Brings the PostgreSQL of `data_dir` up, making it where there is none. `sessions` is how many connections it
    /// must take. An error is one line with the cause and the remedy.
    ///
    /// `takes_longer` is called once a second while it is not ready, be it that it replays its log, which may take any time, or every
    /// other second while backends of one that was killed are in its way, with how long that may take from there, and says whether
    /// it is to be waited for. `killer` is good for it as soon as it runs.
    pub fn start(
        data_dir: &Path,
        sessions: usize,
        killer: &Killer,
        takes_longer: &mut impl FnMut(Duration) -> bool,
    ) -> Result<Managed, String> {
        let owner = binaries::owner()?;
        let check_can_enter = |dir: &Path| owner.as_ref().map_or(Ok(()), |owner| owner.check_can_enter(dir));
        // Before anything is made: what is left there would be taken for a folder that somebody has chosen.
        if let Some(dir) = nearest_folder(data_dir) {
            check_can_enter(&dir)?;
        }
        make_dirs(data_dir, owner.is_some()).map_err(|e| unusable(data_dir, &e))?;
        let data_dir = data_dir.canonicalize().map_err(|e| unusable(data_dir, &e))?;
        check_can_enter(&data_dir)?;
        let lock = lock(&data_dir)?;
        let cluster = data_dir.join("postgres");
        let binaries = Binaries::find(&cluster)?;
        let shared = Shared {
            socket_dir: socket_dir(&data_dir, owner.as_ref())?,
            log: data_dir.join("postgres.log"),
            binaries,
            owner,
            max_sessions: sessions + 10,
            state: Mutex::new(State { child: None, stopping: false }),
            spoke_before: AtomicU64::new(0),
            cluster,
        };
        if !shared.cluster.join("PG_VERSION").exists() {
            // `rename` would refuse to put the new one in its place, after it was made.
            if fs::read_dir(&shared.cluster).is_ok_and(|mut files| files.next().is_some()) {
                return Err(format!(
                    "{} is no PostgreSQL cluster (there is no PG_VERSION in it), and not empty: move it away, or choose another \
                     --data-dir",
                    shared.cluster.display()
                ));
            }
            shared.make_cluster(&data_dir, &lock)?;
        }
        shared.stop_leftover()?;
        let child = shared.spawn()?;
        shared.state().child = Some(child);
        let managed = Managed { shared: Arc::new(shared), watcher: None, _lock: lock };
        // A killer is of one start.
        let _ = killer.0.set(Arc::clone(&managed.shared));
        managed.shared.wait_until_ready(takes_longer)?;
        managed.shared.make_database()?;
        managed.watch()
    }

    /// How to connect to it.
    pub fn url(&self) -> String {
        self.shared.url("hotrow")
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        self.shared.cluster.display().to_string()
    }

    /// Stops it cleanly.
    pub fn stop(mut self) {
        self.end(Signal::INT);
    }

    fn watch(mut self) -> Result<Managed, String> {
        let shared = Arc::clone(&self.shared);
        let watcher = thread::Builder::new().name("postgres".into()).spawn(move || shared.watch());
        self.watcher = Some(watcher.map_err(|e| format!("cannot start a thread: {e}"))?);
        Ok(self)
    }

    fn end(&mut self, signal: Signal) {
        if std::mem::replace(&mut self.shared.state().stopping, true) {
            return;
        }
        for (signal, limit, then) in [
            (signal, STOP, "it is told to stop at once"),
            (Signal::QUIT, STOP_AT_ONCE, "it is killed"),
            // It hangs in the kernel. The next start will meet it.
            (Signal::KILL, KILL, "it is left behind"),
        ] {
            self.shared.signal(signal);
            if self.shared.ends_within(limit) {
                break;
            }
            log::warn!("the private PostgreSQL has not stopped within {limit:?}: {then}");
        }
        // Which waits for the same end.
        if !self.shared.is_running()
            && let Some(watcher) = self.watcher.take()
        {
            let _ = watcher.join();
        }
        // In the system's temporary folder nobody else would remove it; where PostgreSQL runs still, its socket is in there.
        let _ = fs::remove_dir(&self.shared.socket_dir);
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        // After `stop` nothing is left to do; on an error's way out the child must not be left behind.
        self.end(Signal::INT);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a panic of the watcher ends the process")
    }

    /// A command that runs as PostgreSQL's user.
    fn command(&self, program: &str) -> Command {
        let mut command = self.binaries.command(program);
        if let Some(owner) = &self.owner {
            command.uid(owner.uid).gid(owner.gid);
        }
        // The current folder may be one that this user may not enter. A process group of its own: ctrl-C on the terminal is for
        // hotrow, which then stops it in good order.
        command.current_dir("/").stdin(Stdio::null()).env("LC_ALL", "C").process_group(0);
        command
    }

    /// Makes the cluster beside its place and moves it there when it is whole: a crash leaves no half of one. Who makes it holds the
    /// folder's `lock`, too: it outlives a hotrow that is killed meanwhile, and the next one would make its own in the same place.
    fn make_cluster(&self, data_dir: &Path, lock: &File) -> Result<(), String> {
        let unfinished = data_dir.join("postgres.new");
        let _ = fs::remove_dir_all(&unfinished);
        make_private_dir(&unfinished, self.owner.as_ref())?;
        log::info!("making a private PostgreSQL in {}", self.cluster.display());
        let initdb = |locale: &str| {
            let mut command = self.command("initdb");
            command.stdin(lock.try_clone().map_err(|e| unusable(data_dir, &e))?);
            // Nobody but its user and root can reach the socket: a password would have to lie beside it.
            command.args(["--username=hotrow", "--encoding=UTF8", "--auth=trust"]);
            // Keys are compared as bytes: the same order, but without asking the C library for it.
            command.args([locale, "--lc-collate=C", "-D"]);
            run(command.arg(&unfinished))
        };
        // C.UTF-8 is everywhere but on some old or foreign systems.
        initdb("--locale=C.UTF-8").or_else(|_| {
            let _ = fs::remove_dir_all(&unfinished);
            make_private_dir(&unfinished, self.owner.as_ref())?;
            initdb("--locale=C")
        })?;
        fs::rename(&unfinished, &self.cluster).map_err(|e| unusable(&self.cluster, &e))?;
        // Found under its old name after a power failure it would be taken for half of one.
        File::open(data_dir).and_then(|folder| folder.sync_all()).map_err(|e| unusable(data_dir, &e))
    }

    /// Ends the PostgreSQL that a killed hotrow has left running.
    fn stop_leftover(&self) -> Result<(), String> {
        let file = self.cluster.join("postmaster.pid");
        let Ok(text) = fs::read_to_string(&file) else { return Ok(()) };
        let pid = text.lines().next().and_then(|line| line.trim().parse().ok());
        if !pid.is_some_and(|pid| is_postmaster(pid, &self.cluster)) {
            // It was left by a PostgreSQL that has ended in no good order, with all else on this machine perhaps. `pg_ctl` would
            // signal whoever has that number now; PostgreSQL itself judges what it finds.
            log::debug!("{} is of no PostgreSQL that runs", file.display());
            // Of root's threads PostgreSQL's user learns nothing.
            return if self.owner.is_none() { replace_own_thread(&file, &text) } else { Ok(()) };
        }
        if run(self.command("pg_ctl").arg("status").arg("-D").arg(&self.cluster)).is_err() {
            return Ok(());
        }
        log::info!("stopping the PostgreSQL that an earlier hotrow has left in {}", self.cluster.display());
        let stop = |mode: &str| {
            run(self.command("pg_ctl").args(["stop", "-w", "-t", "30", "-m", mode, "-D"]).arg(&self.cluster))
        };
        stop("fast").or_else(|_| stop("immediate"))
    }

    /// A log that has become long is put beside, in place of the one before it. Nobody else does it; a few lines an hour are what
    /// PostgreSQL says where nothing is wrong, and it holds on to the file that it was started with.
    fn part_log(&self) {
        if fs::metadata(&self.log).is_ok_and(|log| log.len() > POSTGRES_LOG_BYTES)
            && let Err(error) = fs::rename(&self.log, self.log.with_extension("log.old"))
        {
            log::warn!("{} is long, and goes on: {error}", self.log.display());
        }
    }

    fn spawn(&self) -> Result<Child, String> {
        self.part_log();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&self.log)
            .map_err(|e| unusable(&self.log, &e))?;
        // What PostgreSQL refuses it repeats there: keys and values, for nobody else.
        close_to_others(&log, &self.log);
        self.spoke_before.store(log.metadata().map_or(0, |log| log.len()), Ordering::Relaxed);
        let log_too = log.try_clone().map_err(|e| unusable(&self.log, &e))?;
        let mut command = self.command("postgres");
        command.arg("-D").arg(&self.cluster);
        for setting in [
            "listen_addresses=".to_owned(),
            format!("unix_socket_directories={}", self.socket_dir.display()),
            "port=5432".to_owned(),
            "fsync=on".to_owned(),
            "synchronous_commit=on".to_owned(),
            "full_page_writes=on".to_owned(),
            "logging_collector=off".to_owned(),
            // No statement of ours is long enough for it, and it needs memory that is written and then executed, which
            // a hardened service may not have.
            "jit=off".to_owned(),
            "log_destination=stderr".to_owned(),
            format!("max_connections={}", self.max_sessions.max(100)),
        ] {
            command.arg("-c").arg(setting);
        }
        command.stdout(log).stderr(log_too);
        command.spawn().map_err(|e| format!("cannot start {}: {e}", self.binaries.path("postgres").display()))
    }

    fn url(&self, database: &str) -> String {
        let path = self.socket_dir.display().to_string().replace('\\', r"\\").replace('\'', r"\'");
        format!("host='{path}' port=5432 user=hotrow dbname={database}")
    }

    fn config(&self, database: &str) -> Result<Config, String> {
        self.url(database).parse().map_err(|e| format!("the socket's path cannot be used: {e}"))
    }

    fn wait_until_ready(&self, takes_longer: &mut impl FnMut(Duration) -> bool) -> Result<(), String> {
        let config = self.config("postgres")?;
        let mut deadline = Instant::now() + START;
        let mut next_look = Instant::now() + LOOK;
        let mut said = false;
        loop {
            let error = match config.connect(NoTls) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let ended = self.state().child.as_mut().map(Child::try_wait);
            if let Some(Ok(Some(status))) = ended {
                let words = self.last_words();
                if words.contains("pre-existing shared memory block") && Instant::now() < deadline {
                    // Backends of one that was killed are going still: as soon as they look up they end.
                    if !std::mem::replace(&mut said, true) {
                        log::info!("waiting for the end of what a killed PostgreSQL has left: {words}");
                    }
                    if !takes_longer(START) {
                        return Err(format!(
                            "told to stop before the private PostgreSQL could start: {words}"
                        ));
                    }
                    thread::sleep(RESTART_PAUSE);
                    let child = self.spawn()?;
                    self.state().child = Some(child);
                    continue;
                }
                // PostgreSQL takes whoever has the number of one that was killed for that one. Nobody but hotrow starts it here, and
                // hotrow has the folder's lock.
                let advice = if words.contains("postmaster.pid") {
                    "; another process has the number of one that was killed: if no postgres works in that folder, delete its \
                     postmaster.pid"
                } else {
                    ""
                };
                return Err(format!("the private PostgreSQL does not start ({status}): {words}{advice}"));
            }
            let code = error.code();
            if let Some(code) = code.filter(|code| NEVER.contains(&&code.code()[..2])) {
                return Err(format!(
                    "the private PostgreSQL in {} does not let hotrow in: {} (SQLSTATE {}); somebody else has made it, or changed it: \
                     mend that, or choose another --data-dir",
                    self.cluster.display(),
                    error.as_db_error().map_or("", DbError::message),
                    code.code()
                ));
            }
            if Instant::now() > next_look {
                next_look = Instant::now() + LOOK;
                if code == Some(&SqlState::CANNOT_CONNECT_NOW) {
                    deadline = Instant::now() + START;
                }
                if !takes_longer(deadline.saturating_duration_since(Instant::now())) {
                    return Err(format!("told to stop before the private PostgreSQL was ready: {error}"));
                }
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "the private PostgreSQL does not get ready: {error}; see {}",
                    self.log.display()
                ));
            }
            thread::sleep(STEP);
        }
    }

    fn make_database(&self) -> Result<(), String> {
        let explain = |e: postgres::Error| format!("the private PostgreSQL does not work: {e}");
        let mut client = self.config("postgres")?.connect(NoTls).map_err(explain)?;
        let exists =
            client.query_opt("SELECT 1 FROM pg_database WHERE datname = 'hotrow'", &[]).map_err(explain)?;
        if exists.is_none() {
            client.batch_execute("CREATE DATABASE hotrow").map_err(explain)?;
        }
        Ok(())
    }

    /// What it has said since it was started, as far as that is the cause of its end.
    fn last_words(&self) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(&self.log) {
            let length = file.metadata().map_or(0, |log| log.len());
            let begin =
                length.saturating_sub(LAST_WORDS_BYTES).max(self.spoke_before.load(Ordering::Relaxed));
            let _ = file.seek(std::io::SeekFrom::Start(begin));
            let _ = file.read_to_end(&mut bytes);
        }
        // The first character may be cut; and what a client has sent stands there as it was sent.
        let text = String::from_utf8_lossy(&bytes);
        format!("{}; see {}", cause(&text).unwrap_or("it said nothing"), self.log.display())
    }

    fn is_running(&self) -> bool {
        matches!(self.state().child.as_mut().map(Child::try_wait), Some(Ok(None)))
    }

    /// Waits for its end, for so long and never with its state locked: a second signal must get at it.
    fn ends_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.is_running() {
            if Instant::now() > deadline {
                return false;
            }
            thread::sleep(STEP);
        }
        true
    }

    fn signal(&self, signal: Signal) {
        let mut state = self.state();
        // Only while it has not been waited for: its pid cannot be another's before that.
        if let Some(child) = state.child.as_mut()
            && matches!(child.try_wait(), Ok(None))
            && let Some(pid) = Pid::from_raw(child.id() as i32)
        {
            let _ = kill_process(pid, signal);
        }
    }

    /// Starts it again whenever it has ended unasked.
    fn watch(&self) {
        let mut pause = STEP;
        let mut started = Instant::now();
        loop {
            self.wait_for_end();
            let mut state = self.state();
            if state.stopping {
                return;
            }
            let ended = match state.child.as_mut().map(Child::try_wait) {
                Some(Ok(None)) => continue,
                ended => ended,
            };
            let how = match ended {
                // Who was killed did not know of it.
                Some(Ok(Some(status))) if status.code().is_some() => {
                    format!("{status}; {}", self.last_words())
                }
                Some(Ok(Some(status))) => status.to_string(),
                Some(Err(error)) => error.to_string(),
                Some(Ok(None)) | None => "it could not be started".to_owned(),
            };
            log::error!("the private PostgreSQL has ended ({how}): starting it again");
            match self.spawn() {
                Ok(child) => state.child = Some(child),
                Err(error) => log::error!("{error}"),
            }
            drop(state);
            // It can fail again at once, as long as backends of the dead one are still going; or a little later, again and again, as on a
            // full disk.
            if started.elapsed() > LIVED {
                pause = STEP;
            }
            thread::sleep(pause);
            pause = (pause * 2).min(RESTART_PAUSE);
            started = Instant::now();
        }
    }

    /// Returns when it has ended, or there is none; asleep until then, and without the lock. Its end is left to be
    /// found by whoever waits for it next.
    fn wait_for_end(&self) {
        let pid = self.state().child.as_ref().and_then(|child| Pid::from_raw(child.id() as i32));
        if let Some(pid) = pid {
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        }
    }
}

/// The line with the cause, of what PostgreSQL has said up to its end: the last one that says that it cannot go on, or, where none says
/// so, as for a file that is missing, just the last one. Which state it was in is no cause: it answers that to whoever asks too
/// early, as hotrow does, and closes with it.
fn cause(said: &str) -> Option<&str> {
    let lines = said.lines().map(str::trim);
    let mut lines = lines.filter(|line| !line.is_empty() && !line.contains("database system is "));
    let is_the_end = |line: &&str| line.contains("FATAL") || line.contains("PANIC");
    lines.clone().rfind(is_the_end).or_else(|| lines.next_back())
}

/// Whether this process is the PostgreSQL of this cluster: a number alone may be another's by now.
fn is_postmaster(pid: u32, cluster: &Path) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let Ok(arguments) = fs::read(process.join("cmdline")) else { return false };
    let mut arguments =
        arguments.split(|byte| *byte == 0).map(|argument| Path::new(OsStr::from_bytes(argument)));
    let program = arguments.next().and_then(Path::file_name);
    if !program.is_some_and(|name| name == "postgres" || name == "postmaster") {
        return false;
    }
    let id = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    match (id(&process.join("cwd")), id(cluster)) {
        // It works in its folder, whatever that was called when it was started.
        (Ok(folder), Ok(cluster)) => folder == cluster,
        // Root without CAP_SYS_PTRACE, as in a container, may not look there (proc(5)): what it was started with it may.
        _ => arguments.any(|argument| argument == cluster),
    }
}

/// Runs a command to its end; an error has what it said.
fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| format!("cannot run {name}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Err(format!("{name} failed ({}): {}", output.status, said.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_found_in_what_was_said() {
        let told = "UTC [9] FATAL:  the database system is starting up";
        for (said, expected) in [
            (vec![], None),
            (vec!["", told, " "], None),
            (
                vec!["LOG:  aborting startup", "LOG:  database system is shut down"],
                Some("LOG:  aborting startup"),
            ),
            (
                vec!["PANIC:  no checkpoint record", told, "LOG:  it was ended"],
                Some("PANIC:  no checkpoint record"),
            ),
            (vec!["FATAL:  one", "FATAL:  two", "HINT:  do", told], Some("FATAL:  two")),
            (vec!["postgres: could not", "but could not", ""], Some("but could not")),
        ] {
            assert_eq!(cause(&said.join("\n")), expected, "{said:?}");
        }
    }
}
