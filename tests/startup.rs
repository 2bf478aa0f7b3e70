//! What cannot work is refused at once: one line that names the cause and the remedy, and the right exit code. Never a
//! panic, never a hang.

use crate::support::database::Database;
use crate::support::postgresql::{Postgresql, free_port};
use crate::support::{Client, Server, ending, left_out, put_in_the_end, wait_until};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Stdio};
use std::thread;

/// Runs hotrow to its end. Returns its exit code and the line that says why.
pub(crate) fn run(flags: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    ending::refusal(command(flags).envs(environment.iter().copied()))
}

/// Runs hotrow, which must end with this code and one line that has all these parts.
pub(crate) fn refused(flags: &[&str], environment: &[(&str, &str)], code: i32, parts: &[&str]) {
    ending::refused(command(flags).envs(environment.iter().copied()), code, parts);
}

fn command(flags: &[&str]) -> Command {
    let mut command = Server::command(env!("CARGO_BIN_EXE_hotrow"));
    command.args(flags);
    command
}

const ANY: [&str; 4] = ["--listen", "127.0.0.1:0", "--admin-listen", "off"];

pub(crate) fn with_database(url: &str) -> Vec<&str> {
    [&ANY[..], &["--database-url", url]].concat()
}

#[test]
fn a_bad_flag_is_named_with_its_rule() {
    refused(&["--cache-bytes", "much"], &[], 2, &["--cache-bytes", "KiB, MiB or GiB"]);
    refused(&["--event-loops", "-1"], &[], 2, &["--event-loops", "from 1 to 64, or auto"]);
    refused(&["--idle-timeout", "-5s"], &[], 2, &["--idle-timeout", "ms, s or m"]);
    refused(&["--log-level", "-1"], &[], 2, &["--log-level", "'-1'"]);
    refused(&["config", "--access-log-format", "-1"], &[], 2, &["--access-log-format", "'-1'"]);
    refused(&["--cors-allow-origin", "-1"], &[], 2, &["--cors-allow-origin", "'-1'"]);
    refused(&["--lissten", "127.0.0.1:0"], &[], 2, &["--lissten"]);
    refused(&["sreve"], &[], 2, &["sreve"]);
    let without = "postgresql://me@127.0.0.1/db";
    for second in [without, "postgresql://me:secret@127.0.0.1/db"] {
        let twice = ["config", "--database-url", without, "--database-url", second];
        refused(&twice, &[], 2, &["--database-url", "multiple times"]);
        let without_one = ["config", "--database-url", second, "--database-url"];
        refused(&without_one, &[], 2, &["--database-url", "value is required"]);
    }
}

#[test]
fn a_bad_environment_variable_is_a_bad_flag_and_a_flag_wins() {
    refused(
        &[],
        &[("HOTROW_IDLE_TIMEOUT", "soon")],
        2,
        &["--idle-timeout", "ms, s or m", "(it is in HOTROW_IDLE_TIMEOUT)"],
    );
    let (_, line) = run(&["--idle-timeout=now"], &[("HOTROW_IDLE_TIMEOUT", "soon")]);
    assert!(line.contains("'now'") && !line.contains("HOTROW_"), "{line}");
    // Behind a command, too.
    let bad = [("HOTROW_CACHE_BYTES", "1GB"), ("HOTROW_TLS_CERT", "/cert")];
    let good = ["config", "--cache-bytes", "1GiB", "--tls-cert", "/c", "--tls-key", "/k"];
    assert_eq!(run(&good, &bad), (Some(0), String::new()));
    refused(&["config", "--cache-bytes", "1GiB"], &bad, 2, &["--tls-key"]);
    refused(&["serve"], &bad[..1], 2, &["--cache-bytes", "(it is in HOTROW_CACHE_BYTES)"]);
    let mut command = Server::command(env!("CARGO_BIN_EXE_hotrow"));
    let database = Database::new();
    command.args(["--database-url", &database.url, "--listen", "127.0.0.1:0"]);
    command.env("HOTROW_LISTEN", "192.0.2.1:80").env("HOTROW_EVENT_LOOPS", "2");
    assert!(Server::spawn(command).address.ip().is_loopback());
}

/// As if it were not there, hotrow would serve an empty PostgreSQL of its own.
#[test]
fn a_variable_that_is_no_text_is_refused_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let no_text = |front: &[u8]| OsString::from_vec([front, b"\xff"].concat());
    let database = with_database("postgresql://me@127.0.0.1:1/db");
    for (flags, name, value, named) in [
        (&ANY[..], "DATABASE_URL", no_text(b"postgresql://me:p@127.0.0.1/db"), "DATABASE_URL"),
        (&["config"], "DATABASE_URL", no_text(b""), "DATABASE_URL"),
        (&["migrate"], "DATABASE_URL", no_text(b""), "DATABASE_URL"),
        (&ANY, "HOTROW_DATABASE_URL", no_text(b""), "UTF-8"),
        (&database, "PGSSLMODE", no_text(b"require"), "sslmode"),
        (&["export", "-"], "HOTROW_LISTEN", no_text(b"127.0.0.1:80"), "HOTROW_LISTEN"),
    ] {
        let mut command: Command = Server::command(env!("CARGO_BIN_EXE_hotrow"));
        let output = ending::run(command.args(flags).env(name, value).current_dir(&dir));
        let stderr = String::from_utf8(output.stderr).expect("stderr is text");
        assert_eq!((output.status.code(), stderr.lines().count()), (Some(2), 1), "{name}: {stderr}");
        assert!(stderr.contains(named) && !stderr.contains("me:p"), "{name}: {stderr}");
    }
    // Whoever is told of another one minds it not.
    let mut command: Command = Server::command(env!("CARGO_BIN_EXE_hotrow"));
    command.args(["config", "--database-url", "postgresql://me@h/db"]).env("DATABASE_URL", no_text(b""));
    assert_eq!(ending::run(&mut command).status.code(), Some(0));
}

#[test]
fn a_url_in_a_flag_wins_over_a_file_in_a_variable_with_a_password_too() {
    let elsewhere = [("HOTROW_DATABASE_URL_FILE", "/nowhere")];
    for url in ["postgresql://me@127.0.0.1/db", "postgresql://me:secret@127.0.0.1/db"] {
        assert_eq!(run(&["config", "--database-url", url], &elsewhere), (Some(0), String::new()));
    }
    refused(&["config"], &elsewhere, 2, &["--database-url-file /nowhere"]);
}

#[test]
fn whoever_asks_for_operations_while_it_starts_is_told_so() {
    // A database that takes connections and says nothing.
    let database = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgresql://nobody@{}/none", database.local_addr().unwrap());
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut command: Command = Server::command(env!("CARGO_BIN_EXE_hotrow"));
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", &admin.to_string(), "--database-url", &url]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    wait_until("the admin socket is there", || TcpStream::connect(admin).is_ok());
    for (page, status, text) in
        [("/livez", 200, "alive\n"), ("/readyz", 503, "starting\n"), ("/version", 503, "starting\n")]
    {
        let mut answer = None;
        // Where this machine stands still for longer than somebody may take to ask, there is none.
        wait_until("it is answered", || {
            answer = Client::connect(admin).try_request("GET", page, "", b"").ok();
            answer.is_some()
        });
        let answer = answer.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (status, text), "{page}");
        assert!(answer.says_close());
    }
    let output = ending::of(child);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no answer within"));
}

/// What hotrow says goes there; it ends as it would have with anybody, or serves.
fn speaks_to(stderr: &std::io::PipeWriter, flags: &[&str]) -> Command {
    let mut command: Command = Server::command(env!("CARGO_BIN_EXE_hotrow"));
    command.args(flags).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr.try_clone().unwrap());
    Server::be_patient(&mut command);
    command
}

/// Starts, is asked for data and for operations, and stops.
fn serves(stderr: &std::io::PipeWriter, database: &Database, ask: impl FnOnce(Client, Client)) {
    let [data, admin] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
    let (listen, admin_listen) = (data.to_string(), admin.to_string());
    let flags = ["--database-url", &database.url, "--listen", &listen, "--admin-listen", &admin_listen];
    let server = speaks_to(stderr, &[&flags[..], &["--log-level", "debug"]].concat()).spawn().unwrap();
    wait_until("it listens", || TcpStream::connect(data).is_ok());
    let mut client = Client::connect(data);
    // Not before: who says nothing on the admin socket of a server that starts is not waited for.
    assert_eq!(client.get("absent").status, 404);
    ask(client, Client::connect(admin));
    kill_process(Pid::from_raw(server.id() as i32).unwrap(), Signal::TERM).unwrap();
    assert_eq!(ending::of(server).status.code(), Some(0));
}

#[test]
fn a_stderr_that_is_gone_changes_nothing() {
    let (reader, stderr) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(ending::of(speaks_to(&stderr, &["--lissten"]).spawn().unwrap()).status.code(), Some(2));
    serves(&stderr, &Database::new(), |mut client, _| put_in_the_end(&mut client, "k", "v"));
}

#[test]
fn a_stderr_that_nobody_reads_holds_nobody_up() {
    let (_reader, mut stderr) = std::io::pipe().unwrap();
    fcntl_setfl(&stderr, OFlags::NONBLOCK).unwrap();
    while stderr.write(&[b'\n'; 4096]).is_ok() {}
    fcntl_setfl(&stderr, OFlags::empty()).unwrap();
    let database = Database::new();
    serves(&stderr, &database, |mut client, mut admin| {
        put_in_the_end(&mut client, "k", "v");
        database.execute("ALTER TABLE kv_store ADD CHECK (value <> 'a line in the log')", &[]);
        let mut dropped = || {
            let page = admin.request("GET", "/metrics", "", b"").text();
            let line =
                page.lines().find(|line| line.starts_with(r#"hotrow_log_lines_dropped_total{log="server"}"#));
            line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok()).unwrap_or(0u64)
        };
        let is_logged = |client: &mut Client| {
            assert_eq!(client.put("refused", "a line in the log").outcome(), "503 database-refused");
        };
        // First what has room finds it.
        wait_until("lines are dropped", || {
            (0..500).for_each(|_| is_logged(&mut client));
            dropped() > 0
        });
        let before = dropped();
        for n in 0..50 {
            let value = n.to_string();
            is_logged(&mut client);
            assert_eq!(client.put("k", &value).status, 200);
            let hit = client.get("k");
            assert_eq!((hit.text(), hit.field("Cache-Status")), (value, Some("hotrow; hit")));
            assert_eq!(client.get(&format!("absent-{n}")).status, 404);
        }
        assert!(dropped() >= before + 50, "{} after {before}", dropped());
    });
}

#[test]
fn help_and_version_are_answers() {
    for flag in ["--help", "--version", "-h", "-V"] {
        assert_eq!(run(&[flag], &[]), (Some(0), String::new()));
    }
}

#[test]
fn an_address_in_use_is_refused() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    refused(&["--listen", &address], &[], 1, &[&address, "--listen", "another program listens there"]);
    let flags = ["--listen", "127.0.0.1:0", "--admin-listen", &address];
    refused(&flags, &[], 1, &[&address, "--admin-listen", "another program listens there"]);
    let free = format!("127.0.0.1:{}", free_port());
    let flags = ["--listen", &free, "--admin-listen", &free];
    refused(&flags, &[], 1, &["--listen", "--admin-listen", &free, "a port each"]);
    // Another hotrow too, though it shares its port between its own loops.
    let server = Server::start(&["--event-loops", "2"]);
    let address = server.address.to_string();
    refused(&["--listen", &address], &[], 1, &[&address, "another program listens there"]);
    let nowhere = ["--listen", "192.0.2.1:80", "--allow-anonymous"];
    refused(&nowhere, &[], 1, &["192.0.2.1:80", "does not have that address"]);
}

#[test]
fn a_database_that_is_not_there_is_refused() {
    let url = format!("postgresql://nobody@127.0.0.1:{}/nothing", free_port());
    refused(
        &with_database(&url),
        &[],
        1,
        &["--database-url", "onnection refused", "check that PostgreSQL runs there"],
    );
    let url = "postgresql://nobody@no-such-host.invalid/nothing";
    refused(&with_database(url), &[], 1, &["--database-url", "check that PostgreSQL runs there"]);
    refused(&with_database("what is this"), &[], 2, &["--database-url", "postgresql://user:password@host"]);
    refused(&with_database("mysql://u@h/d"), &[], 2, &["--database-url", "mysql://", "postgresql://"]);
    refused(&ANY, &[("DATABASE_URL", "what is this")], 2, &["DATABASE_URL: "]);
    for url in ["what is this", "mysql://u@h/d"] {
        let form = "postgresql://user:password@host";
        refused(&["migrate", "--database-url", url], &[], 2, &["--database-url: ", form]);
        refused(&["migrate"], &[("DATABASE_URL", url)], 2, &["DATABASE_URL: ", form]);
        assert_eq!(run(&["migrate", "--print", "--database-url", url], &[]), (Some(0), String::new()));
    }
}

#[test]
fn a_server_that_takes_the_connection_and_says_nothing_is_no_hang() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgresql://nobody@{}/nothing", silent.local_addr().unwrap());
    let kept = thread::spawn(move || silent.accept());
    refused(&with_database(&url), &[], 1, &["no answer within"]);
    drop(kept.join());
}

/// Each of them is waited for as long as the URL says, one after the other: that is no reason to give the last one up.
#[test]
fn a_database_behind_hosts_that_say_nothing_is_found() {
    let silent = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let postgresql = Postgresql::start_new();
    let [one, two] = silent.each_ref().map(|silent| silent.local_addr().unwrap().port());
    let url = postgresql.url();
    let port = url.split("port=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let url = url.replace("host=127.0.0.1", "host=127.0.0.1,127.0.0.1,127.0.0.1 connect_timeout=6");
    let url = url.replace(&format!("port={port}"), &format!("port={one},{two},{port}"));
    let server = Server::start_on(&Database::at(url), &[]);
    drop(silent);
    put_in_the_end(&mut server.connect(), "k", "v");
}

#[test]
fn a_signal_is_heard_while_a_database_says_nothing() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgresql://me@{}/db?connect_timeout=600", silent.local_addr().unwrap());
    let mut command: Command = Server::command(env!("CARGO_BIN_EXE_hotrow"));
    let hotrow = command.args(with_database(&url)).stderr(Stdio::piped()).spawn().unwrap();
    let connection = silent.accept().unwrap();
    kill_process(Pid::from_child(&hotrow), Signal::TERM).unwrap();
    let output = ending::of(hotrow);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && stderr.contains("told to stop before"), "{stderr}");
    drop(connection);
}

#[test]
fn a_wrong_database_is_refused() {
    let database = Database::new();
    let missing = database.url.replace("dbname=", "dbname=no_such_");
    refused(&with_database(&missing), &[], 1, &["does not exist", "createdb"]);

    database.execute("CREATE DATABASE in_latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0", &[]);
    let (before, _) = database.url.split_once("dbname=").unwrap();
    let latin = format!("{before}dbname=in_latin1");
    refused(&with_database(&latin), &[], 1, &["LATIN1", "UTF8"]);
}

#[test]
fn a_wrong_password_is_refused() {
    let database = Database::new();
    let mut client = database.connect();
    client.batch_execute("CREATE ROLE guarded LOGIN PASSWORD 'right'").unwrap();
    let file: String = client.query_one("SHOW hba_file", &[]).unwrap().get(0);
    let rules = "SELECT 'local all guarded scram-sha-256' UNION ALL SELECT 'local all all trust'";
    client.batch_execute(&format!("COPY ({rules}) TO '{file}'; SELECT pg_reload_conf()")).unwrap();
    let guarded = database.url.replace("user=hotrow", "user=guarded");
    // The new rules are in force as soon as a session without a password is refused.
    wait_until("the rules are in force", || postgres::Client::connect(&guarded, postgres::NoTls).is_err());
    let wrong = format!("{guarded} password=wrong");
    refused(&with_database(&wrong), &[], 1, &["28P01", "check user and password"]);
    refused(&with_database(&guarded), &[], 1, &["password"]);
    let (_, line) = run(&with_database(&wrong), &[]);
    assert!(!line.contains("wrong "), "the password is not repeated: {line}");
}

#[test]
fn a_table_that_may_not_be_made_is_refused() {
    let database = Database::new();
    let mut client = database.connect();
    client.batch_execute("CREATE ROLE guest LOGIN; REVOKE CREATE ON SCHEMA public FROM public").unwrap();
    let guest = database.url.replace("user=hotrow", "user=guest");
    refused(&with_database(&guest), &[], 1, &["permission denied", "grant"]);
}

/// Who acts in another role does not see its own session, and could never make sure that it has ended.
#[test]
fn a_role_that_acts_in_another_one_is_refused() {
    let database = Database::new();
    let mut client = database.connect();
    let roles = "CREATE ROLE the_owner; CREATE ROLE the_login LOGIN IN ROLE the_owner; GRANT CREATE ON SCHEMA public TO the_owner;
                 ALTER ROLE the_login SET role = the_owner";
    client.batch_execute(roles).unwrap();
    let url = database.url.replace("user=hotrow", "user=the_login");
    let parts = ["pg_stat_activity hides", "ALTER ROLE the_login RESET role", "GRANT the_owner TO the_login"];
    refused(&with_database(&url), &[], 1, &parts);
    refused(&["migrate", "--database-url", &url], &[], 1, &parts);
    // As it is told to.
    client.batch_execute("ALTER ROLE the_login RESET role; GRANT the_owner TO the_login").unwrap();
    let server = Server::start_on(&Database::at(url), &[]);
    assert_eq!(server.connect().put("k", "v").status, 201);
}

#[test]
fn a_data_folder_that_cannot_be_used_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "no folder").unwrap();
    let below = file.join("data");
    let flags = [&ANY[..], &["--data-dir", below.to_str().unwrap()]].concat();
    refused(&flags, &[], 1, &["--data-dir", "choose a folder that can be written to"]);
}

/// What is left there would be taken for a folder that somebody has chosen.
#[test]
fn a_data_folder_that_postgresql_cannot_enter_is_refused_before_it_is_made() {
    if !rustix::process::geteuid().is_root() {
        left_out("a folder that PostgreSQL's user cannot enter", "hotrow runs PostgreSQL as itself");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    Command::new("chmod").arg("700").arg(dir.path()).status().unwrap();
    for data in ["data", "deep/er/data"] {
        let data = dir.path().join(data);
        let flags = [&ANY[..], &["--data-dir", data.to_str().unwrap()]].concat();
        refused(&flags, &[], 1, &["may not enter", "choose a --data-dir"]);
    }
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
}

#[test]
fn missing_programs_of_postgresql_are_named_with_the_package() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let flags = [&ANY[..], &["--data-dir", data.to_str().unwrap()]].concat();
    // A temporary folder is its owner's alone: PostgreSQL's user must get in.
    Command::new("chmod").arg("755").arg(dir.path()).status().unwrap();
    let none = [("PG_BINDIR", "/no/such/folder")];
    refused(&flags, &none, 1, &["PG_BINDIR", "apt-get install postgresql", "--database-url"]);
}
