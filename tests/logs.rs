//! What is written down: a line for every answer, a line for every change of state, and the name of a request in both
//! its log line and its failure.

use crate::support::client::request;
use crate::support::database::Database;
use crate::support::{Server, ending, wait_until};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::path::Path;
use std::process::Command;

const DROPPED: &str = r#"hotrow_log_lines_dropped_total{log="access"}"#;

fn server_logging_to(path: &Path, flags: &[&str]) -> Server {
    Server::start(&[&["--access-log", path.to_str().unwrap()], flags].concat())
}

/// The lines of a file, once there are so many.
fn lines(path: &Path, number: usize) -> Vec<String> {
    let read = || fs::read_to_string(path).unwrap_or_default();
    wait_until(&format!("{} has {number} lines", path.display()), || read().lines().count() >= number);
    let text = read();
    assert!(text.ends_with('\n') && text.lines().count() == number, "{text}");
    text.lines().map(str::to_owned).collect()
}

/// Requests of every kind: answered at once, by the database, after a content; refused; no request at all.
fn ask_everything(server: &Server) {
    let mut client = server.connect();
    assert_eq!(client.request("PUT", "/kv/k", "X-Request-Id: put-1\r\n", b"value").status, 201);
    assert_eq!(client.request("GET", "/kv/k", "X-Request-Id: hit-1\r\n", b"").status, 200);
    assert_eq!(client.get("k").status, 200);
    assert_eq!(client.request("GET", "/kv/absent", "X-Request-Id: miss-1\r\n", b"").status, 404);
    assert_eq!(client.request("BREW", "/kv/a%22b", "X-Request-Id: brew-1\r\n", b"").status, 501);
    assert_eq!(client.request("DELETE", "/kv/k", "X-Request-Id: has blanks\r\n", b"").status, 204);
    client.send("broken\r\n\r\n");
    assert_eq!(client.response().status, 400);
}

#[test]
fn every_answer_is_a_line_of_the_common_log_format() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let server = server_logging_to(&path, &[]);
    ask_everything(&server);
    server.admin_page("/livez");
    let lines = lines(&path, 7);
    for (line, (request, status, id)) in lines.iter().zip([
        ("PUT /kv/k HTTP/1.1", "201", "put-1"),
        ("GET /kv/k HTTP/1.1", "200", "hit-1"),
        ("GET /kv/k HTTP/1.1", "200", ""),
        ("GET /kv/absent HTTP/1.1", "404", "miss-1"),
        ("BREW /kv/a%22b HTTP/1.1", "501", "brew-1"),
        ("DELETE /kv/k HTTP/1.1", "204", ""),
        ("-", "400", ""),
    ]) {
        let parts: Vec<&str> = line.split('"').collect();
        let [before, found, numbers, name, duration] = parts.as_slice() else { panic!("{line}") };
        let date = before.strip_prefix("127.0.0.1 - - [").and_then(|rest| rest.strip_suffix("] "));
        assert!(date.is_some_and(|date| date.len() == 26 && date.ends_with(" +0000")), "{line}");
        assert_eq!(*found, request);
        let (code, bytes) = numbers.trim().split_once(' ').unwrap();
        assert!(code == status && bytes.parse::<usize>().unwrap() > 50, "{line}");
        // A name that may not be sent back, or none at all: one is made.
        if id.is_empty() {
            assert!(name.len() == 16 && name.bytes().all(|b| b.is_ascii_hexdigit()), "{line}");
        } else {
            assert_eq!(*name, id);
        }
        assert!(duration.trim().parse::<f64>().is_ok_and(|seconds| (0.0..60.0).contains(&seconds)), "{line}");
    }
    assert_eq!(server.metric(DROPPED), 0);
}

/// Whatever has left has been told of: also where nobody stayed for the end of it.
#[test]
fn an_export_that_its_client_leaves_is_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let server = server_logging_to(&path, &[]);
    let rows = "INSERT INTO kv_store (key, value)
                SELECT 'k' || i, repeat(md5(i::text), 3000) FROM generate_series(1, 300) AS i";
    server.database().execute(rows, &[]);
    let mut client = server.connect();
    client.send(request("GET", "/kv", "Accept: application/x-ndjson\r\n", b""));
    wait_until("rows are on their way", || client.has_something());
    client.reset();
    let line = lines(&path, 1).remove(0);
    assert!(line.contains("\"GET /kv HTTP/1.1\" 200 "), "{line}");
    assert_eq!(server.metric("hotrow_requests_total{method=\"GET\",status=\"200\"}"), 1);
}

#[test]
fn every_answer_is_an_object_where_json_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let server = server_logging_to(&path, &["--access-log-format", "json", "--event-loops", "2"]);
    ask_everything(&server);
    let lines: Vec<serde_json::Value> =
        lines(&path, 7).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let statuses: Vec<u64> = lines.iter().map(|line| line["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [201, 200, 200, 404, 501, 204, 400]);
    let get = &lines[1];
    assert_eq!((get["method"].as_str(), get["target"].as_str()), (Some("GET"), Some("/kv/k")));
    assert_eq!((get["client"].as_str(), get["request_id"].as_str()), (Some("127.0.0.1"), Some("hit-1")));
    assert!(get["time"].as_str().unwrap().ends_with('Z') && get["duration_us"].is_u64());
    assert!(lines[6]["method"].is_null() && lines[6]["target"].is_null());
    // What is logged of an answer's length is its length: the stream's end tells how long it was.
    let mut client = server.connect();
    client.send("GET /kv/absent HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    (&mut client.stream()).read_to_end(&mut answer).unwrap();
    let last: serde_json::Value = serde_json::from_str(&self::lines(&path, 8)[7]).unwrap();
    assert_eq!(last["bytes"].as_u64(), Some(answer.len() as u64));
}

#[test]
fn an_answer_that_many_jobs_were_made_for_is_one_line_with_its_own_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let server = server_logging_to(&path, &["--access-log-format", "json"]);
    let mut client = server.connect();
    for key in ["a", "b", "c"] {
        client.put(key, "x".repeat(300_000));
    }
    let several = client.request("GET", "/kv?key=miss-1&key=miss-2", "X-Request-Id: several\r\n", b"");
    assert_eq!(several.status, 200);
    let fields = "X-Request-Id: export\r\nAccept: application/x-ndjson\r\n";
    assert_eq!(client.request("GET", "/kv", fields, b"").body.len(), 3 * (300_000 + 23));
    // What is asked next is answered under its own name, and so is what waits and has none.
    assert_eq!(client.request("PUT", "/kv/d", "X-Request-Id: put\r\n", b"value").status, 201);
    assert_eq!(client.request("DELETE", "/kv/d", "", b"").status, 204);
    let lines: Vec<serde_json::Value> =
        lines(&path, 7).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |line: &serde_json::Value| {
        ["method", "target", "request_id"].map(|name| line[name].as_str().unwrap().to_owned())
    };
    assert_eq!(of(&lines[3]), ["GET", "/kv?key=miss-1&key=miss-2", "several"]);
    assert_eq!(of(&lines[4]), ["GET", "/kv", "export"]);
    assert_eq!(of(&lines[5]), ["PUT", "/kv/d", "put"]);
    let [method, target, made] = of(&lines[6]);
    assert_eq!((method.as_str(), target.as_str(), made.len()), ("DELETE", "/kv/d", 16));
    // An export leaves in pieces, and all of them are its answer.
    assert_eq!(lines[4]["status"], 200);
    assert!(lines[4]["bytes"].as_u64().unwrap() > 3 * 300_000, "{}", lines[4]);
}

#[test]
fn sighup_goes_on_in_a_new_file_and_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let server = server_logging_to(&path, &[]);
    let mut client = server.connect();
    client.put("first", "1");
    lines(&path, 1);
    for round in 0..3 {
        fs::rename(&path, &old).unwrap();
        server.signal(Signal::HUP);
        wait_until("there is a new file", || path.exists());
        client.get("first");
        assert!(lines(&path, 1)[0].contains("GET /kv/first"), "round {round}");
        lines(&old, 1);
    }
    wait_until("each is logged", || server.stderr().matches("goes on in a new").count() == 3);
    let (status, _) = server.stop();
    assert!(status.success());
}

#[test]
fn a_log_that_nobody_reads_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Held open so that the server can open it, and never read.
    let reader = OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let server = server_logging_to(&pipe, &[]);
    let mut client = server.connect();
    client.put("k", "v");
    let gets: Vec<u8> = (0..100).flat_map(|_| request("GET", "/kv/k", "", b"")).collect();
    // The pipe is full, then the queue; and everybody is served meanwhile.
    wait_until("lines are dropped", || {
        client.send(&gets);
        (0..100).for_each(|_| assert_eq!(client.response().status, 200));
        server.metric(DROPPED) > 0
    });
    assert_eq!(client.put("k", "w").status, 200);
    // Nor does it hold up the end.
    let (status, _) = server.stop();
    assert!(status.success());
    drop(reader);
}

#[test]
fn a_full_disk_is_said_once() {
    let server = server_logging_to(Path::new("/dev/full"), &[]);
    let mut client = server.connect();
    client.put("k", "v");
    let cannot = "the access log cannot be written";
    wait_until("it is said", || server.stderr().contains(cannot));
    for _ in 0..50 {
        assert_eq!(client.get("k").status, 200);
    }
    let (status, stderr) = server.stop();
    assert!(status.success());
    assert_eq!(stderr.matches(cannot).count(), 1, "{stderr}");
}

#[test]
fn a_log_that_cannot_be_opened_is_refused_at_once() {
    let database = Database::new();
    let mut command = Server::command(env!("CARGO_BIN_EXE_hotrow"));
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "off", "--access-log", "/nowhere/at/all"]);
    ending::refused(command.args(["--database-url", &database.url]), 1, &["/nowhere/at/all (--access-log)"]);
    // A pipe without a reader would be waited for.
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut command = Server::command(env!("CARGO_BIN_EXE_hotrow"));
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "off", "--access-log"]).arg(&pipe);
    ending::refused(command.args(["--database-url", &database.url]), 1, &["(--access-log)"]);
}

#[test]
fn the_access_log_may_go_to_stdout() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stdout");
    let mut command = Server::command("/bin/sh");
    command.args(["-c", r#"out=$1 && shift && exec "$@" >"$out""#, "sh", path.to_str().unwrap()]);
    command.arg(env!("CARGO_BIN_EXE_hotrow")).args(["--access-log", "-"]);
    let database = Database::new();
    command.args(["--database-url", &database.url]);
    let server = Server::spawn(command);
    server.connect().put("k", "v");
    assert!(lines(&path, 1)[0].contains("\"PUT /kv/k HTTP/1.1\" 201 "));
}

/// What the disk had no room for is lost; what comes when it has some again begins a line of its own, in a file and on stdout.
#[test]
fn a_line_that_was_cut_is_not_joined_to_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    for to in [path.to_str().unwrap(), "-"] {
        let stdout = dir.path().join("stdout");
        let mut command = Server::command("/bin/sh");
        // A file that may not grow is a signal, too, if it is not ignored.
        let script = r#"trap "" XFSZ && out=$1 && shift && exec "$@" >"$out""#;
        command.args(["-c", script, "sh", stdout.to_str().unwrap()]);
        command.arg(env!("CARGO_BIN_EXE_hotrow")).args(["--access-log", to]);
        let database = Database::new();
        command.args(["--database-url", &database.url]);
        let server = Server::spawn(command);
        let mut client = server.connect();
        let path = if to == "-" { &stdout } else { &path };
        let limit = |current| {
            let pid = Pid::from_raw(server.pid() as i32);
            let limit = Rlimit { current, maximum: None };
            prlimit(pid, Resource::Fsize, limit).unwrap();
        };
        client.put("first", "v");
        let written = lines(path, 1)[0].len() as u64 + 1;
        limit(Some(written + 10));
        client.put("second", "v");
        wait_until("it is said", || server.stderr().contains("the access log cannot be written"));
        limit(None);
        client.put("third", "v");
        let lines = lines(path, 3);
        assert!(
            lines[1].len() == 10 && lines[2].contains("\"PUT /kv/third HTTP/1.1\" 201 "),
            "{to}: {lines:?}"
        );
    }
}

/// Whoever opens a log does not know how it ends: a disk that was full may have room again by a restart, or by a SIGHUP.
#[test]
fn a_line_that_was_cut_is_not_joined_to_one_of_who_opens_the_log_anew() {
    let dir = tempfile::tempdir().unwrap();
    for (round, (to, restarts)) in [("log", false), ("log", true), ("-", true)].into_iter().enumerate() {
        let path = dir.path().join(format!("log-{round}"));
        let to = if to == "-" { to } else { path.to_str().unwrap() };
        let database = Database::new();
        let start = || {
            let mut command = Server::command("/bin/sh");
            // A file that may not grow is a signal, too, if it is not ignored.
            let script = r#"trap "" XFSZ && out=$1 && shift && exec "$@" >>"$out""#;
            command.args(["-c", script, "sh", path.to_str().unwrap(), env!("CARGO_BIN_EXE_hotrow")]);
            command.args([
                "--access-log",
                to,
                "--access-log-format",
                "json",
                "--database-url",
                &database.url,
            ]);
            Server::spawn(command)
        };
        let mut server = start();
        let limit = |server: &Server, current| {
            let limit = Rlimit { current, maximum: None };
            prlimit(Pid::from_raw(server.pid() as i32), Resource::Fsize, limit).unwrap();
        };
        server.connect().put("first", "v");
        let written = lines(&path, 1)[0].len() as u64 + 1;
        limit(&server, Some(written + 10));
        server.connect().put("second", "v");
        wait_until("it is said", || server.stderr().contains("the access log cannot be written"));
        if restarts {
            assert!(server.stop().0.success());
            server = start();
        } else {
            server.signal(Signal::HUP);
            wait_until("it is opened again", || server.stderr().contains("goes on in a new"));
            limit(&server, None);
        }
        for key in ["third", "fourth"] {
            server.connect().put(key, "v");
        }
        let targets: Vec<Option<String>> = lines(&path, 4)
            .iter()
            .map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).ok()?;
                Some(line["target"].as_str()?.to_owned())
            })
            .collect();
        let expected = [Some("/kv/first"), None, Some("/kv/third"), Some("/kv/fourth")];
        assert_eq!(targets, expected.map(|target| target.map(str::to_owned)), "{to}, {restarts}");
    }
}

#[test]
fn a_failure_carries_the_name_of_its_request() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let taken = client.request("BREW", "/kv/k", "X-Request-Id: mine/42\r\n", b"");
    assert_eq!((taken.status, taken.field("X-Request-Id")), (501, Some("mine/42")));
    assert!(taken.text().contains("\"request_id\":\"mine/42\""), "{}", taken.text());
    // One is made where none was sent, or none that may be sent back; never twice the same.
    let mut made = Vec::new();
    for field in [
        "",
        "X-Request-Id: two words\r\n",
        "X-Request-Id: \r\n",
        &format!("X-Request-Id: {}\r\n", "x".repeat(65)),
    ] {
        let answer = client.request("BREW", "/kv/k", field, b"");
        made.push(answer.field("X-Request-Id").unwrap().to_owned());
        assert_eq!(made.last().unwrap().len(), 16);
    }
    made.sort_unstable();
    made.dedup();
    assert_eq!(made.len(), 4);
    // A name does not stick to the connection, nor to the next one that is served by the same loop.
    assert_eq!(client.request("GET", "/kv/k", "X-Request-Id: other\r\n", b"").field("X-Request-Id"), None);
    let next = server.connect().request("BREW", "/kv/k", "", b"");
    assert_ne!(next.field("X-Request-Id"), Some("other"));
    // Whoever does nothing that cannot be done is told no name.
    assert_eq!(client.request("GET", "/", "X-Request-Id: four\r\n", b"").field("X-Request-Id"), None);
}

#[test]
fn a_failure_of_the_database_carries_the_name_too() {
    let server = Server::start(&["--request-timeout", "300ms"]);
    let mut client = server.connect();
    let mut sql = server.database().connect();
    let mut transaction = sql.transaction().unwrap();
    transaction.batch_execute("LOCK TABLE kv_store IN ACCESS EXCLUSIVE MODE").unwrap();
    let read = client.request("GET", "/kv/k", "X-Request-Id: read-1\r\n", b"");
    assert!(read.status >= 503 && read.field("X-Request-Id") == Some("read-1"), "{read:?}");
    let written = client.request("PUT", "/kv/k", "X-Request-Id: write-1\r\n", b"v");
    assert!(written.status >= 503 && written.field("X-Request-Id") == Some("write-1"), "{written:?}");
}

#[test]
fn the_log_is_json_where_that_is_asked_for() {
    let database = Database::new();
    let mut command = Server::command("/bin/sh");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stderr");
    command.args(["-c", r#"err=$1 && shift && exec "$@" 2>"$err""#, "sh", path.to_str().unwrap()]);
    command.arg(env!("CARGO_BIN_EXE_hotrow")).args(["--log-format", "json"]);
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "off", "--database-url", &database.url]);
    let child = command.spawn().unwrap();
    let read = || fs::read_to_string(&path).unwrap_or_default();
    wait_until("it listens", || read().contains("listening on "));
    rustix::process::kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(ending::of(child).status.success());
    let text = read();
    let mut objects = 0;
    for line in text.lines().filter(|line| !line.starts_with("listening on ")) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(line["time"].as_str().unwrap().ends_with('Z') && line["level"].is_string(), "{line}");
        assert!(line["target"].as_str().unwrap().starts_with("hotrow") && line["message"].is_string());
        objects += 1;
    }
    assert!(objects >= 2, "a migration was applied, and it was told to stop: {text}");
}
