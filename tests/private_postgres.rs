//! The private PostgreSQL: made, kept, recovered, guarded, stopped. With real kills of real processes.

use crate::support::process::has_ended;
use crate::support::{Client, Server, ending, left_out, put_in_the_end, wait_until};
use hotrow::store::managed::binaries::Binaries;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::fs;
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// For a server that is not to start, and takes nobody's place.
const QUIET: [&str; 4] = ["--listen", "127.0.0.1:0", "--admin-listen", "off"];

/// A folder that PostgreSQL's user can get to, and the data folder in it.
fn folder() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let data = dir.path().join("data");
    (dir, data)
}

fn command(data: &Path, flags: &[&str]) -> Command {
    let mut command = Server::command(env!("CARGO_BIN_EXE_hotrow"));
    command.arg("--data-dir").arg(data).args(flags);
    command
}

/// The process of the PostgreSQL that lives there.
fn postmaster(data: &Path) -> Pid {
    let text = fs::read_to_string(data.join("postgres/postmaster.pid")).expect("PostgreSQL runs");
    text.lines().next().and_then(|line| Pid::from_raw(line.parse().ok()?)).expect("the first line is its pid")
}

fn is_alive(pid: Pid) -> bool {
    !has_ended(pid.as_raw_nonzero().get() as u32)
}

fn put(client: &mut Client, key: &str, value: &str) -> u16 {
    client.put(key, value).status
}

#[test]
fn what_was_acknowledged_is_there_after_hotrow_was_killed() {
    let (_dir, data) = folder();
    let server = Server::spawn(command(&data, &[]));
    let mut client = server.connect();
    for i in 0..100 {
        assert_eq!(put(&mut client, &format!("k{i}"), &format!("v{i}")), 201);
    }
    let left = postmaster(&data);
    server.kill();
    assert!(is_alive(left), "PostgreSQL is not hotrow's to take along when it is killed");
    // The next one ends what was left, and starts its own.
    let server = Server::spawn(command(&data, &[]));
    assert!(postmaster(&data) != left);
    let mut client = server.connect();
    for i in 0..100 {
        assert_eq!(client.get(&format!("k{i}")).text(), format!("v{i}"));
    }
    let (status, _) = server.stop();
    assert!(status.success());
}

#[test]
fn a_killed_postgresql_is_brought_back_and_has_lost_nothing() {
    let (_dir, data) = folder();
    let server = Server::spawn(command(&data, &[]));
    let mut client = server.connect();
    assert_eq!(put(&mut client, "before", "value"), 201);
    assert_eq!(client.get("before").field("Cache-Status"), Some("hotrow; hit"));
    kill_process(postmaster(&data), Signal::KILL).unwrap();
    let hit = client.get("before");
    assert_eq!(
        (hit.status, hit.field("Cache-Status")),
        (200, Some("hotrow; hit")),
        "hits go on being served"
    );
    // Refused at once while it is down, or caught and settled; in the end it works without anybody's help.
    wait_until("a write succeeds again", || matches!(put(&mut client, "after", "value"), 200 | 201));
    wait_until("it is ready again", || {
        server.connect_admin().request("GET", "/readyz", "", b"").status == 200
    });
    // The server that has cached nothing of it reads it from the table.
    let (status, stderr) = server.stop();
    assert!(status.success() && stderr.contains("starting it again"), "{stderr}");
    let server = Server::spawn(command(&data, &[]));
    let mut client = server.connect();
    assert_eq!((client.get("before").text(), client.get("after").text()), ("value".into(), "value".into()));
}

/// As on a full disk.
#[test]
fn a_postgresql_that_ends_each_time_is_asked_why_and_comes_back_when_that_is_mended() {
    let (_dir, data) = folder();
    let server = Server::spawn(command(&data, &[]));
    let settings = data.join("postgres/postgresql.conf");
    let good = fs::read(&settings).unwrap();
    fs::write(&settings, "what_is_this = 1\n").unwrap();
    kill_process(postmaster(&data), Signal::KILL).unwrap();
    let log = data.join("postgres.log").display().to_string();
    wait_until("it is said why", || {
        let stderr = server.stderr();
        let mut lines = stderr.lines().filter(|line| line.contains("starting it again"));
        lines.any(|line| {
            ["exit status", "FATAL", "contains errors", &log].iter().all(|part| line.contains(part))
        })
    });
    fs::write(&settings, good).unwrap();
    wait_until("it is ready again", || {
        server.connect_admin().request("GET", "/readyz", "", b"").status == 200
    });
    put_in_the_end(&mut server.connect(), "k", "v");
}

/// A number of a process outlives the process in a file, and another process may have it then.
#[test]
fn whoever_has_the_number_of_a_postgresql_that_is_gone_is_left_alone() {
    let (_dir, data) = folder();
    let server = Server::spawn(command(&data, &[]));
    assert_eq!(put(&mut server.connect(), "k", "v"), 201);
    let left = postmaster(&data);
    server.kill();
    let file = data.join("postgres/postmaster.pid");
    let text = fs::read_to_string(&file).unwrap();
    kill_process(left, Signal::QUIT).unwrap();
    wait_until("PostgreSQL has ended", || !is_alive(left));
    // A stranger who may be signalled by it.
    let mut stranger = Command::new("sleep");
    if let Some(owner) = hotrow::store::managed::binaries::owner().unwrap() {
        stranger.uid(owner.uid).gid(owner.gid);
    }
    let mut stranger = stranger.arg("600").current_dir("/").spawn().unwrap();
    let rest = text.split_once('\n').unwrap().1;
    let owner = fs::metadata(data.join("postgres")).unwrap();
    fs::write(&file, format!("{}\n{rest}", stranger.id())).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    chown(&file, Some(owner.uid()), Some(owner.gid())).unwrap();
    // PostgreSQL takes no risk with its data, and says what is the matter.
    ending::refused(&mut command(&data, &QUIET), 1, &["postmaster.pid"]);
    assert!(stranger.try_wait().unwrap().is_none(), "it was signalled");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    let server = Server::spawn(command(&data, &[]));
    assert_eq!(server.connect().get("k").text(), "v");
}

/// A container that is started again counts its processes from 1 anew, and kill(2) finds threads, too.
#[test]
fn a_thread_of_hotrow_s_own_with_that_number_is_not_taken_for_postgresql() {
    let (dir, data) = folder();
    // As an ordinary user: what root runs PostgreSQL may not signal, and passes over.
    let owner = hotrow::store::managed::binaries::owner().unwrap();
    let program = dir.path().join("hotrow");
    fs::copy(env!("CARGO_BIN_EXE_hotrow"), &program).unwrap();
    fs::create_dir(&data).unwrap();
    if let Some(owner) = &owner {
        chown(&data, Some(owner.uid), Some(owner.gid)).unwrap();
    }
    let command = || {
        let mut command = Server::command(&program);
        command.arg("--data-dir").arg(&data).current_dir(&data);
        if let Some(owner) = &owner {
            command.uid(owner.uid).gid(owner.gid);
        }
        Server::be_patient(&mut command);
        command
    };
    let server = Server::spawn(command());
    assert_eq!(put(&mut server.connect(), "k", "v"), 201);
    let left = postmaster(&data);
    server.kill();
    let file = data.join("postgres/postmaster.pid");
    let text = fs::read_to_string(&file).unwrap();
    kill_process(left, Signal::QUIT).unwrap();
    wait_until("PostgreSQL has ended", || !is_alive(left));
    // hotrow asks for its version before it looks for one that was left: it has threads by then.
    let programs = Binaries::find(&data.join("postgres")).unwrap();
    let fake = dir.path().join("bin");
    fs::create_dir(&fake).unwrap();
    for program in ["initdb", "pg_ctl"] {
        std::os::unix::fs::symlink(programs.path(program), fake.join(program)).unwrap();
    }
    let script = format!(
        r#"#!/bin/sh
        if [ "$1" = --version ]; then
            for task in /proc/$PPID/task/*; do
                [ "${{task##*/}}" = $PPID ] || break
            done
            {{ echo "${{task##*/}}"; cat '{data}/rest'; }} >'{data}/postgres/postmaster.pid'
            echo "${{task##*/}} of $PPID" >'{data}/thread'
        fi
        exec '{postgres}' "$@"
        "#,
        data = data.display(),
        postgres = programs.path("postgres").display()
    );
    fs::write(data.join("rest"), text.split_once('\n').unwrap().1).unwrap();
    fs::write(fake.join("postgres"), script).unwrap();
    fs::set_permissions(fake.join("postgres"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = command();
    command.env("PG_BINDIR", &fake);
    let server = Server::spawn(command);
    assert_eq!(server.connect().get("k").text(), "v");
    let thread = fs::read_to_string(data.join("thread")).unwrap();
    let (thread, process) = thread.trim().split_once(" of ").unwrap();
    assert!(thread != process && process == server.pid().to_string(), "{thread} of {process}");
}

#[test]
fn a_second_server_on_the_same_folder_is_refused() {
    let (_dir, data) = folder();
    let server = Server::spawn(command(&data, &[]));
    let pid = format!("(process {})", server.pid());
    ending::refused(&mut command(&data, &QUIET), 1, &["another hotrow", &pid, "--data-dir"]);
    assert_eq!(put(&mut server.connect(), "k", "the first goes on"), 201);
}

#[test]
fn ctrl_c_stops_both_and_a_second_one_at_once() {
    let (_dir, data) = folder();
    // What PostgreSQL says at its start of the end before it.
    let recovers = || {
        let log = fs::read_to_string(data.join("postgres.log")).unwrap();
        log.contains("was not properly shut down")
    };
    for signals in [1, 2] {
        let mut server = Server::spawn(command(&data, &[]));
        assert!(!recovers(), "it was stopped in good order before");
        assert!(matches!(put(&mut server.connect(), "k", "v"), 200 | 201));
        let postgres = postmaster(&data);
        // A request under way keeps the server draining, so that there is something for a second signal to end.
        let mut slow = server.connect();
        slow.send("GET /kv/");
        for _ in 0..signals {
            server.signal(Signal::INT);
            wait_until("it has heard it", || TcpStream::connect(server.address).is_err());
        }
        if signals == 1 {
            slow.send("k HTTP/1.1\r\nHost: h\r\n\r\n");
            let response = slow.response();
            assert!(response.status == 200 && response.says_close());
        }
        let status = server.wait().expect("it ends");
        assert_eq!(status.code(), Some(signals - 1));
        wait_until("PostgreSQL has ended", || !is_alive(postgres));
    }
    // Ended at once is like a crash: the next start recovers.
    let server = Server::spawn(command(&data, &[]));
    assert!(recovers());
    assert_eq!(server.connect().get("k").text(), "v");
}

#[test]
fn an_interrupted_making_of_the_cluster_is_made_good() {
    let (_dir, data) = folder();
    fs::create_dir_all(data.join("postgres.new/base")).unwrap();
    fs::write(data.join("postgres.new/PG_VERSION"), "15\n").unwrap();
    let server = Server::spawn(command(&data, &[]));
    assert_eq!(put(&mut server.connect(), "k", "v"), 201);
    assert!(!data.join("postgres.new").exists());
}

#[test]
fn a_folder_too_deep_for_a_socket_works_too() {
    let (_dir, data) = folder();
    has_its_socket_elsewhere(&data.join("x".repeat(100)));
}

/// Both sides take a comma for the end of a path, and a connection string is UTF-8.
#[test]
fn a_folder_whose_path_no_socket_can_have_works_too() {
    let (_dir, data) = folder();
    has_its_socket_elsewhere(&data.join(OsStr::from_bytes(b"a,b \xff")));
}

#[test]
fn a_folder_without_a_place_for_its_socket_is_refused() {
    let (dir, data) = folder();
    let data = data.join("x".repeat(100));
    for elsewhere in ["y".repeat(100), "a,b".into()] {
        let elsewhere = dir.path().join(elsewhere);
        fs::create_dir(&elsewhere).unwrap();
        let mut command = command(&data, &["--listen", "127.0.0.1:0", "--admin-listen", "off"]);
        let output = ending::run(command.env("TMPDIR", &elsewhere));
        let stderr = String::from_utf8(output.stderr).unwrap();
        let line = stderr.lines().last().unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(line.contains("TMPDIR") && line.contains("--data-dir") && line.contains("socket"), "{line}");
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    }
}

fn has_its_socket_elsewhere(data: &Path) {
    let server = Server::spawn(command(data, &[]));
    assert_eq!(put(&mut server.connect(), "k", "v"), 201);
    let inode = fs::metadata(data).unwrap();
    let socket = std::env::temp_dir().join(format!("hotrow-{}-{}", inode.dev(), inode.ino()));
    assert!(socket.is_dir());
    assert!(server.stop().0.success());
    assert!(!socket.exists(), "nobody else would ever remove it");
}

/// What is not hotrow's does not become so by asking again.
#[test]
fn a_cluster_that_hotrow_is_not_let_into_is_refused_at_once() {
    let (_dir, data) = folder();
    let owner = hotrow::store::managed::binaries::owner().unwrap();
    fs::create_dir(&data).unwrap();
    let cluster = data.join("postgres");
    fs::create_dir(&cluster).unwrap();
    let mut initdb = Binaries::find(&cluster).unwrap().command("initdb");
    if let Some(owner) = &owner {
        chown(&cluster, Some(owner.uid), Some(owner.gid)).unwrap();
        initdb.uid(owner.uid).gid(owner.gid);
    }
    let initdb = initdb.args(["--username=other", "--auth=trust", "-D"]).arg(&cluster).current_dir("/");
    assert!(ending::run(initdb).status.success());
    let output = ending::run(&mut command(&data, &["--listen", "127.0.0.1:0", "--admin-listen", "off"]));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let line = stderr.lines().last().unwrap();
    for part in ["role \"hotrow\" does not exist", "--data-dir", cluster.to_str().unwrap()] {
        assert!(line.contains(part), "{line}");
    }
    let log = fs::read_to_string(data.join("postgres.log")).unwrap();
    assert_eq!(log.matches("does not exist").count(), 1, "{log}");
}

/// A PostgreSQL that never gets ready, nor ends before it is killed.
#[test]
fn a_start_hears_a_signal_and_a_second_one_ends_it_at_once() {
    let (dir, data) = folder();
    let programs = Binaries::find(Path::new("")).unwrap();
    let fake = dir.path().join("bin");
    fs::create_dir(&fake).unwrap();
    for program in ["initdb", "pg_ctl"] {
        std::os::unix::fs::symlink(programs.path(program), fake.join(program)).unwrap();
    }
    // initdb looks for its postgres beside itself; what is no start is not for this test.
    let script = format!(
        r#"#!/bin/sh
        case "$*" in *unix_socket_directories*) ;; *) exec '{}' "$@" ;; esac
        cluster=$2
        trap 'echo INT >>"$cluster/told"' INT
        trap 'echo QUIT >>"$cluster/told"; exit 0' QUIT
        echo >"$cluster/started"
        while :; do sleep 0.05; done
        "#,
        programs.path("postgres").display()
    );
    fs::write(fake.join("postgres"), script).unwrap();
    fs::set_permissions(fake.join("postgres"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = command(&data, &["--listen", "127.0.0.1:0", "--admin-listen", "off"]);
    command.env("PG_BINDIR", &fake).stderr(Stdio::piped());
    let hotrow = command.spawn().unwrap();
    let cluster = data.join("postgres");
    let told = || fs::read_to_string(cluster.join("told")).unwrap_or_default();
    let signal = || kill_process(Pid::from_child(&hotrow), Signal::INT).unwrap();
    wait_until("PostgreSQL starts", || cluster.join("started").exists());
    signal();
    wait_until("PostgreSQL is told to stop", || told() == "INT\n");
    signal();
    let output = ending::of(hotrow);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    wait_until("PostgreSQL is told to stop at once", || told() == "INT\nQUIT\n");
    assert!(!stderr.contains("has not stopped within"), "the second signal was not heard: {stderr}");
}

/// Nobody is asked for a password there.
#[test]
fn it_needs_no_password_file_and_minds_none() {
    let (dir, data) = folder();
    let file = dir.path().join(".pgpass");
    for (text, mode) in [(&b"*:*:*:*:\xff"[..], 0o600), (b"*:*:*:*:word", 0o644)] {
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let mut command = command(&data, &[]);
        command.env("HOME", dir.path()).env("PGSSLCERT", "/nowhere").env("PGPASSFILE", &file);
        let (status, stderr) = Server::spawn(command).stop();
        assert!(status.success() && !stderr.contains("password"), "{stderr}");
    }
}

#[test]
fn what_keeps_it_from_starting_is_said_in_its_own_words() {
    let (_dir, data) = folder();
    drop(Server::spawn(command(&data, &[])));
    // What it said at an earlier start is no cause of this one.
    let log = data.join("postgres.log");
    let mut text = fs::read(&log).unwrap();
    text.extend_from_slice(b"2026-01-01 00:00:00.000 UTC [1] FATAL:  what was the matter then\n");
    fs::write(&log, text).unwrap();
    for (file, words) in [
        ("global/pg_control", "could not open file"),
        ("postgresql.conf", "could not access the server configuration file"),
    ] {
        fs::remove_file(data.join("postgres").join(file)).unwrap();
        ending::refused(&mut command(&data, &QUIET), 1, &[words, file, "postgres.log"]);
    }
}

/// What a killed PostgreSQL leaves behind ends by itself as soon as it looks up.
#[test]
fn backends_that_have_outlived_their_postgresql_are_waited_for() {
    let (_dir, data) = folder();
    let server = Server::spawn(command(&data, &[]));
    assert_eq!(put(&mut server.connect(), "k", "v"), 201);
    let url =
        format!("host='{}' user=hotrow dbname=hotrow", data.canonicalize().unwrap().join("run").display());
    let mut sql = postgres::Client::connect(&url, postgres::NoTls).unwrap();
    let one = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'hotrow%' LIMIT 1";
    let backend = Pid::from_raw(sql.query_one(one, &[]).unwrap().get(0)).unwrap();
    drop(sql);
    kill_process(backend, Signal::STOP).unwrap();
    let dead = postmaster(&data);
    server.kill();
    kill_process(dead, Signal::KILL).unwrap();
    wait_until("PostgreSQL is dead", || !is_alive(dead));
    // Its number is a process's until whoever is its parent now has waited for it; that of this one is free.
    let mut other = Command::new("true").spawn().unwrap();
    other.wait().unwrap();
    let file = data.join("postgres/postmaster.pid");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{}\n{}", other.id(), text.split_once('\n').unwrap().1)).unwrap();
    let log = data.join("postgres.log");
    let next = std::thread::spawn(move || {
        let in_use = "pre-existing shared memory block";
        wait_until("it is in the way", || String::from_utf8_lossy(&fs::read(&log).unwrap()).contains(in_use));
        kill_process(backend, Signal::CONT).unwrap();
    });
    let server = Server::spawn(command(&data, &[]));
    next.join().unwrap();
    assert_eq!(server.connect().get("k").text(), "v");
    let said = server.stderr();
    assert_eq!(said.matches("pre-existing shared memory block").count(), 1, "{said}");
}

/// What root makes with such a mask is root's alone, and PostgreSQL runs as another user.
#[test]
fn a_data_folder_that_is_made_can_be_entered_whatever_the_umask_says() {
    if !rustix::process::geteuid().is_root() {
        left_out("a data folder that root makes", "hotrow runs PostgreSQL as itself");
        return;
    }
    let (dir, _) = folder();
    let data = dir.path().join("deep/er/data");
    let mut command = Server::command("sh");
    command.args(["-c", "umask 077; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_hotrow"), "--data-dir"]);
    command.arg(&data);
    let server = Server::spawn(command);
    assert_eq!(put(&mut server.connect(), "k", "v"), 201);
    for made in ["deep", "deep/er", "deep/er/data"] {
        let mode = fs::metadata(dir.path().join(made)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o711, "{made}");
    }
}

#[test]
fn its_durability_is_full_and_it_is_not_on_the_network() {
    let (_dir, data) = folder();
    let server = Server::spawn(command(&data, &[]));
    let url =
        format!("host='{}' user=hotrow dbname=hotrow", data.canonicalize().unwrap().join("run").display());
    let mut sql = postgres::Client::connect(&url, postgres::NoTls).unwrap();
    for (setting, expected) in
        [("fsync", "on"), ("synchronous_commit", "on"), ("full_page_writes", "on"), ("listen_addresses", "")]
    {
        let value: String = sql.query_one(&format!("SHOW {setting}"), &[]).unwrap().get(0);
        assert_eq!(value, expected, "{setting}");
    }
    let encoding: String = sql.query_one("SHOW server_encoding", &[]).unwrap().get(0);
    assert_eq!(encoding, "UTF8");
    let log = fs::metadata(data.join("postgres.log")).unwrap().permissions().mode();
    assert_eq!(log & 0o777, 0o600, "it repeats keys and values");
    let mode = fs::metadata(data.join("run")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "nobody else gets to the socket");
    let lock = data.join("hotrow.lock");
    let mode = || fs::metadata(&lock).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600, "whoever can open it can hold it");
    drop(server);
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o644)).unwrap();
    // What has become long is put beside at the next start.
    let log = data.join("postgres.log");
    fs::File::options().write(true).open(&log).unwrap().set_len(17 << 20).unwrap();
    drop(Server::spawn(command(&data, &[])));
    assert_eq!(mode(), 0o600, "one of an earlier release, too");
    let bytes = |name: &str| fs::metadata(data.join(name)).unwrap().len();
    assert_eq!(bytes("postgres.log.old"), 17 << 20);
    assert!(bytes("postgres.log") < 1 << 20);
}

/// It can speak to service managers, too: in hotrow's name it must not.
#[test]
fn what_a_service_manager_says_is_not_passed_on_to_postgresql() {
    let (_dir, data) = folder();
    let ours = [
        ("NOTIFY_SOCKET", "/no/such/socket"),
        ("WATCHDOG_USEC", "1000000"),
        ("LISTEN_FDS", "0"),
        ("LISTEN_FDNAMES", "http"),
        // Nor are secrets of hotrow's, and what would have PostgreSQL do something else.
        ("DATABASE_URL", "postgresql://me:secret@h/db"),
        ("HOTROW_DATABASE_URL", ""),
        ("PGPASSWORD", "secret"),
        ("PGDATA", "/nowhere"),
        ("PGPORT", "1"),
        ("PGOPTIONS", "-c statement_timeout=1"),
        ("PGCLIENTENCODING", "LATIN1"),
    ];
    let mut command = command(&data, &[]);
    command.envs(ours);
    let server = Server::spawn(command);
    let environment = |pid: i32| {
        let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap();
        String::from_utf8_lossy(&bytes).split('\0').map(str::to_owned).collect::<Vec<_>>()
    };
    let (own, postgres) =
        (environment(server.pid() as i32), environment(postmaster(&data).as_raw_nonzero().get()));
    let secret = postgres.iter().find(|line| line.contains("secret"));
    assert_eq!(secret, None);
    assert!(postgres.iter().any(|line| line.starts_with("LC_ALL=")), "{postgres:?}");
    for (name, value) in ours {
        assert!(own.contains(&format!("{name}={value}")));
        assert!(!postgres.iter().any(|line| line.starts_with(&format!("{name}="))), "{postgres:?}");
    }
}

#[test]
fn it_works_as_a_user_without_privileges() {
    if !rustix::process::geteuid().is_root() {
        // Then every other test here has shown it.
        return;
    }
    let (dir, data) = folder();
    let owner = hotrow::store::managed::binaries::owner().unwrap().expect("root has somebody to run it");
    // The build folder may be where this user cannot go.
    let binary = dir.path().join("hotrow");
    // By another process: what this one has open for writing, a child that another test starts meanwhile has open too, and
    // nobody can run it then ("Text file busy").
    let copied = ending::run(Command::new("cp").arg(env!("CARGO_BIN_EXE_hotrow")).arg(&binary));
    assert!(copied.status.success(), "{copied:?}");
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(&data).unwrap();
    chown(&data, Some(owner.uid), Some(owner.gid)).unwrap();
    let start = || {
        let mut command = Server::command(&binary);
        command.arg("--data-dir").arg(&data).uid(owner.uid).gid(owner.gid).current_dir("/");
        Server::spawn(command)
    };
    let server = start();
    assert_eq!(put(&mut server.connect(), "k", "v"), 201);
    server.kill();
    assert_eq!(start().connect().get("k").text(), "v");
}

#[test]
fn two_servers_that_start_at_once_on_a_new_database_share_the_migrations() {
    let database = crate::support::database::Database::new();
    let starts: Vec<_> = (0..4)
        .map(|_| {
            let database = database.clone();
            std::thread::spawn(move || Server::start_on(&database, &[]))
        })
        .collect();
    let servers: Vec<Server> = starts.into_iter().map(|start| start.join().unwrap()).collect();
    assert_eq!(put(&mut servers[0].connect(), "k", "v"), 201);
    assert_eq!(servers[3].connect().get("k").text(), "v");
    let applied = "SELECT string_agg(version || ' ' || name, ',' ORDER BY version) FROM hotrow_migrations";
    // `0001_kv_store.sql` is recorded as "1 kv_store".
    let files = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/migrations")).unwrap();
    let mut names: Vec<String> =
        files.map(|file| file.unwrap().file_name().into_string().unwrap().replace(".sql", "")).collect();
    names.sort_unstable();
    let all: Vec<String> =
        names.iter().map(|name| name.trim_start_matches('0').replacen('_', " ", 1)).collect();
    assert_eq!(database.text(applied, &[]), Some(all.join(",")));
}
