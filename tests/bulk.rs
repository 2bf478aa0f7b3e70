//! `PUT /kv`: rows without end in one request, stored by pieces.

use crate::support::client::{Response, request};
use crate::support::postgresql::Postgresql;
use crate::support::process::peak_rss_bytes;
use crate::support::{Client, Server, get_in_the_end, put_in_the_end, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

const LINES: &str = "Content-Type: application/x-ndjson\r\n";

fn load(client: &mut Client, lines: &str) -> Response {
    client.request("PUT", "/kv", LINES, lines.as_bytes())
}

/// Lines, written and failed, and line and problem of each error.
fn told(response: &Response) -> ([u64; 3], Vec<(u64, String)>) {
    let json: Value = serde_json::from_slice(&response.body).unwrap();
    let count = |name: &str| json[name].as_u64().unwrap_or_else(|| panic!("{json}"));
    let error = |error: &Value| {
        let name = error["problem"].as_str().unwrap().trim_start_matches("urn:hotrow:problem:").to_owned();
        (error["line"].as_u64().unwrap(), name)
    };
    let errors = json["errors"].as_array().unwrap().iter().map(error).collect();
    (["lines", "written", "failed"].map(count), errors)
}

fn line(key: &str, value: &str) -> String {
    json!({"key": key, "value": value}).to_string() + "\n"
}

/// Lines of keys `k{n}`, padded so that they are as long as asked for.
fn rows(numbers: std::ops::Range<usize>, bytes: usize) -> String {
    let mut lines = String::new();
    for n in numbers {
        let _ = writeln!(lines, r#"{{"key":"k{n}","value":"{n:0>bytes$}"}}"#);
    }
    lines
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// A client that has begun to load, in chunks.
fn begin(server: &Server) -> Client {
    let mut client = server.connect();
    client.send(format!("PUT /kv HTTP/1.1\r\nHost: h\r\n{LINES}Transfer-Encoding: chunked\r\n\r\n"));
    client
}

fn count(server: &Server) -> String {
    server.database().text("SELECT count(*)::text FROM kv_store", &[]).unwrap()
}

#[test]
fn good_lines_are_stored_and_bad_ones_are_named() {
    let server = Server::start(&["--max-value-bytes", "1000"]);
    server.database().execute("ALTER TABLE kv_store ADD CONSTRAINT no_bad CHECK (value <> 'bad')", &[]);
    let mut client = server.connect();
    let long = line("long", &"\u{1}".repeat(1001));
    let longer = line("longer", &"x".repeat(30_000));
    let most = line("most", &"\u{1}".repeat(1000));
    let lines = [
        r#"{"key":"a","value":"1"}"#,
        "\n\n  \r\n",
        r#"{"key":"a","value":"2"}"#,
        "\r\n",
        r#"{"key":"b"}"#,
        "\n",
        &long,
        &longer,
        &most,
        r#"{"key":"c","value":"bad"}"#,
        "\n",
        r#"{"key":"d","value":"\u0000"}"#,
        "\n",
        r#"{"key":"","value":"x"}"#,
        "\n",
        r#"{"key":"over","value":"x","expires_at":"2001-01-01T00:00:00Z"}"#,
        "\n",
        r#"{"key":"short","value":"x","ttl":1000}"#,
    ]
    .concat();
    let answer = load(&mut client, &lines);
    assert_eq!((answer.status, answer.field("Content-Type")), (200, Some("application/json")));
    let (counts, errors) = told(&answer);
    let errors: Vec<(u64, &str)> = errors.iter().map(|(line, name)| (*line, name.as_str())).collect();
    assert_eq!(counts, [13, 5, 6]);
    assert_eq!(
        errors,
        [
            (5, "bad-line"),
            (6, "value-too-large"),
            (7, "value-too-large"),
            (9, "database-refused"),
            (10, "value-not-text"),
            (11, "bad-key"),
        ]
    );
    assert_eq!((client.get("a").text().as_str(), client.get("most").body.len()), ("2", 1000));
    assert_eq!(["b", "c", "d", "long", "longer", "over"].map(|key| client.get(key).status), [404; 6]);
    assert!(client.get("short").field("Expires").is_some());
    assert_eq!(server.metric("hotrow_rows_loaded_total"), 5);
    assert_eq!(server.metric("hotrow_load_lines_failed_total"), 6);
    // More errors than are told.
    let (counts, errors) = told(&load(&mut client, &"no\n".repeat(150)));
    assert_eq!((counts, errors.len(), errors[99].0), ([150, 0, 150], 100, 100));
}

#[test]
fn what_is_no_load_is_refused_and_what_is_one_has_its_methods() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    for (fields, expected) in [
        ("", "415 unsupported-media-type"),
        ("Content-Type: application/json\r\n", "415 unsupported-media-type"),
        ("Content-Type: application/x-ndjson\r\nIf-Match: \"1\"\r\n", "412 precondition-failed"),
        ("Content-Type: application/x-ndjson\r\nIf-None-Match: *\r\n", "412 precondition-failed"),
        ("Content-Type: application/x-ndjson\r\nIf-Match: 1\r\n", "400 bad-condition"),
    ] {
        let answer = client.request("PUT", "/kv", fields, line("k", "v").as_bytes());
        assert_eq!(answer.outcome(), expected, "{fields}");
    }
    assert_eq!(client.request("PUT", "/kv?ttl=1", LINES, b"x").outcome(), "400 bad-query");
    assert_eq!(client.request("SET", "/kv", LINES, b"x").outcome(), "405 method-not-allowed");
    assert_eq!(client.request("OPTIONS", "/kv", "", b"").field("Allow"), Some("GET, HEAD, PUT, OPTIONS"));
    for empty in ["", "\n", " \n\n"] {
        let (counts, errors) = told(&load(&mut client, empty));
        assert_eq!((counts, errors), ([empty.matches('\n').count() as u64, 0, 0], vec![]));
    }
    client.send(format!("PUT /kv HTTP/1.1\r\nHost: h\r\n{LINES}\r\n"));
    assert_eq!(client.response().outcome(), "411 length-required");
    // Who waits to be asked for the content.
    let mut client = server.connect();
    let lines = line("k", "v");
    let head = format!(
        "PUT /kv HTTP/1.1\r\nHost: h\r\n{LINES}Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        lines.len()
    );
    client.send(head);
    assert_eq!(client.response().status, 100);
    client.send(&lines);
    assert_eq!(told(&client.response()).0, [1, 1, 0]);
    assert_eq!(client.get("k").text(), "v");
    assert_eq!(count(&server), "1");
}

#[test]
fn a_content_may_be_cut_anywhere_and_requests_follow_it() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let lines = line("a\n\"ä", "🔥\\") + "\n" + &line("b", "\t") + "no\n" + line("c", "").trim_end();
    let get = request("GET", "/kv/b", "", b"");
    for step in [1, 2, 3, 7, 30, 1_000] {
        server.database().execute("DELETE FROM kv_store", &[]);
        let chunked: Vec<u8> = lines.as_bytes().chunks(step).flat_map(chunk).chain(*b"0\r\n\r\n").collect();
        let head = format!("PUT /kv HTTP/1.1\r\nHost: h\r\n{LINES}Transfer-Encoding: chunked\r\n\r\n");
        for bytes in [
            [head.as_bytes(), &chunked, &get].concat(),
            [request("PUT", "/kv", LINES, lines.as_bytes()), get.clone()].concat(),
        ] {
            for piece in bytes.chunks(step.max(2)) {
                client.send(piece);
            }
            assert_eq!(told(&client.response()), ([5, 3, 1], vec![(4, "bad-line".into())]), "{step}");
            assert_eq!(client.response().text(), "\t");
        }
        assert_eq!(server.database().value("a\n\"ä").as_deref(), Some("🔥\\"));
    }
    // A framing that is none ends it, and what was stored is said.
    let mut client = begin(&server);
    client.send([chunk(rows(0..5_000, 10).as_bytes()), b"x".to_vec()].concat());
    let answer = client.response();
    assert_eq!(answer.outcome(), "400 malformed-request");
    client.expect_closed();
}

#[test]
fn later_lines_win_and_what_was_cached_is_seen_no_more() {
    let server = Server::start(&["--event-loops", "2", "--db-writers", "3"]);
    let (mut client, mut other) = (server.connect(), server.connect());
    client.put("k1", "cached");
    client.put("k2", "cached");
    assert_eq!(client.get("k3").status, 404);
    let created =
        |key: &str| server.database().text("SELECT created_at::text FROM kv_store WHERE key = $1", &[&key]);
    let before = created("k1");
    let version = client.get("k1").version().to_owned();
    other.send(request(
        "GET",
        "/kv/k1",
        &format!("If-None-Match: \"{version}\"\r\nPrefer: wait=60\r\n"),
        b"",
    ));
    wait_until("somebody waits", || server.metric("hotrow_watchers") == 1);
    // In one piece, and over several.
    let mut lines = line("k1", "first") + &line("k1", "second");
    for round in 0..30_000 {
        lines += &line(&format!("k{}", round % 7), &round.to_string());
    }
    let (counts, _) = told(&load(&mut client, &lines));
    assert_eq!(counts, [30_002, 30_002, 0]);
    let told = other.response();
    assert!(told.status == 200 && told.text() != "cached", "{told:?}");
    for key in 0..7 {
        let last = (0..30_000).rev().find(|round| round % 7 == key).unwrap().to_string();
        assert_eq!(client.get(&format!("k{key}")).text(), last);
        assert_eq!(other.get(&format!("k{key}")).text(), last);
    }
    assert_eq!(created("k1"), before, "a row that was replaced is as old as it was");
}

#[test]
fn an_export_can_be_loaded_and_exported_again() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let mut lines = String::new();
    for (at, value) in
        ["", "plain", "\t\n\r\\\"", "\\N", "\\.", "\u{1}\u{1f}\u{7f}", "ä🔥\u{2028}"].into_iter().enumerate()
    {
        lines += &line(&format!("v{at}"), value);
        lines += &line(&format!("key {value}"), "v");
    }
    lines += "{\"key\":\"end\",\"value\":\"v\",\"expires_at\":\"2099-02-03T04:05:06.070809Z\"}\n";
    lines += "{\"key\":\"far\",\"value\":\"v\",\"expires_at\":\"12099-02-03T04:05:06Z\"}\n";
    lines += "{\"key\":\"offset\",\"value\":\"v\",\"expires_at\":\"2099-02-03t04:05:06.5-07:30\"}\n";
    assert_eq!(load(&mut client, &lines).status, 200);
    let mut export = || client.request("GET", "/kv", "Accept: application/x-ndjson\r\n", b"").text();
    let first = export();
    assert_eq!(first.lines().count(), 17);
    assert!(first.contains("\"expires_at\":\"2099-02-03T04:05:06.070809Z\""), "{first}");
    assert!(first.contains("\"expires_at\":\"2099-02-03T11:35:06.500000Z\""), "{first}");
    // Over rows that are there, and over none.
    for statement in
        ["SELECT 1", "DELETE FROM kv_store", "UPDATE kv_store SET value = 'other', expires_at = NULL"]
    {
        server.database().execute(statement, &[]);
        assert_eq!(told(&load(&mut server.connect(), &first)).0, [17, 17, 0]);
        assert_eq!(export(), first);
    }
}

#[test]
fn a_load_of_any_length_takes_bounded_memory() {
    const ROWS: usize = 200_000;
    let server = Server::start(&["--max-value-bytes", "16KiB", "--cache-bytes", "1MiB"]);
    let mut client = begin(&server);
    client.send(chunk(rows(0..20_000, 500).as_bytes()));
    wait_until("it has begun", || server.metric("hotrow_rows_loaded_total") > 8_000);
    let before = peak_rss_bytes(server.pid());
    let mut bytes = 0;
    for from in (20_000..ROWS).step_by(2_000) {
        let lines = rows(from..from + 2_000, 500);
        bytes += lines.len();
        client.send(chunk(lines.as_bytes()));
    }
    client.send("0\r\n\r\n");
    assert_eq!(told(&client.response()).0, [ROWS as u64, ROWS as u64, 0]);
    assert_eq!(count(&server), ROWS.to_string());
    let grown = peak_rss_bytes(server.pid()) - before;
    assert!(bytes > 90_000_000 && grown < 16 << 20, "{grown} bytes more for {bytes}");
    assert_eq!(client.get("k199999").body.len(), 500);
}

#[test]
fn a_load_that_meets_the_end_of_the_database_says_how_far_it_has_got() {
    let mut postgresql = Postgresql::start_new();
    let server = Server::start_on(&postgresql.database(), &["--db-writers", "1"]);
    let mut client = begin(&server);
    client.send(chunk(rows(0..15_000, 10).as_bytes()));
    wait_until("some are stored", || server.metric("hotrow_rows_loaded_total") > 0);
    postgresql.stop_immediately();
    // The rest may find that the server does not listen any more.
    let _ = client.try_send(chunk(rows(15_000..30_000, 10).as_bytes()));
    let answer = client.response();
    assert!(["503 database-down", "504 outcome-unknown"].contains(&answer.outcome().as_str()), "{answer:?}");
    let ([lines, written, failed], errors) = told(&answer);
    assert!(lines > 0 && lines < 30_000 && (written, failed, errors.len()) == (lines, 0, 0), "{answer:?}");
    client.expect_closed();
    postgresql.start();
    wait_until("it is back", || server.metric("hotrow_database_up") == 1);
    let done: i64 = postgresql.connect().query_one("SELECT count(*) FROM kv_store", &[]).unwrap().get(0);
    assert!(done as u64 >= lines, "{done} of {lines}");
    let mut client = server.connect();
    let rest = rows(lines as usize..30_000, 10);
    assert_eq!(told(&load(&mut client, &rest)).0, [30_000 - lines, 30_000 - lines, 0]);
    assert_eq!(count(&server), "30000");
    // And one that is not there from the beginning.
    postgresql.stop_immediately();
    wait_until("that is known", || client.put("k", "v").status == 503);
    let answer = load(&mut client, &rows(0..10, 10));
    assert_eq!((answer.outcome().as_str(), told(&answer).0), ("503 database-down", [0, 0, 0]));
    assert!(answer.field("Retry-After").is_some());
    assert_eq!(client.get("k0").status, 503, "the connection goes on");
}

#[test]
fn a_load_that_does_not_go_on_is_408_and_says_what_is_done() {
    let server = Server::start(&["--request-timeout", "3s"]);
    // Where this machine stands still for longer than a load may, it is answered before all that has come is stored.
    wait_until("all that has come is stored, and then it is answered", || {
        let mut client = begin(&server);
        // So many that a piece is full, whatever comes with one read, and the rest is none: it waits for others, but not for ever.
        let _ = client.try_send(chunk(format!("{}{{", rows(0..8_000, 10)).as_bytes()));
        let answer = client.response();
        client.expect_closed();
        let (outcome, [lines, written, failed]) = (answer.outcome(), told(&answer).0);
        assert!(lines <= 8_000 && (written, failed) == (lines, 0), "{answer:?}");
        if lines == 8_000 {
            assert_eq!(outcome, "408 slow-request");
        }
        lines == 8_000
    });
    assert_eq!(count(&server), "8000");
    // Empty lines are none.
    let mut client = begin(&server);
    client.send(chunk(b"\n \n"));
    let answer = client.response();
    assert_eq!((answer.outcome().as_str(), told(&answer).0), ("408 slow-request", [0, 0, 0]));
}

#[test]
fn a_line_does_not_wait_for_ever_for_those_behind_it() {
    let server = Server::start(&["--request-timeout", "3s"]);
    let stored = || server.metric("hotrow_rows_loaded_total");
    // Where this machine stands still for longer than a load may, that is answered instead.
    wait_until("three lines are stored, each before the next is sent", || {
        let mut client = begin(&server);
        for n in 1..4 {
            let before = stored();
            let _ = client.try_send(chunk(line(&format!("k{n}"), "v").as_bytes()));
            wait_until("it is stored, or answered", || stored() > before || client.has_something());
            if client.has_something() {
                assert_eq!(client.response().outcome(), "408 slow-request");
                return false;
            }
        }
        let _ = client.try_send("0\r\n\r\n");
        let answer = client.response();
        assert_eq!(told(&answer).0, [3, 3, 0]);
        answer.status == 200
    });
}

#[test]
fn what_is_refused_at_the_commit_is_not_said_to_be_stored() {
    let server = Server::start(&[]);
    let trigger = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF NEW.key LIKE 'bad%' THEN RAISE 'no such keys here'; END IF; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON kv_store DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION refuse()";
    server.database().connect().batch_execute(trigger).unwrap();
    let mut client = server.connect();
    let lines = line("a", "1") + &line("bad", "2") + &line("c", "3");
    let (counts, errors) = told(&load(&mut client, &lines));
    assert_eq!((counts, errors), ([3, 2, 1], vec![(2, "database-refused".into())]));
    assert_eq!(["a", "bad", "c"].map(|key| client.get(key).status), [200, 404, 200]);
}

/// Halving for each of them would be two statements a line, half of them commits: a piece would keep everybody else waiting.
#[test]
fn many_lines_that_are_refused_keep_no_others_out_and_cost_few_statements() {
    let server = Server::start(&["--db-writers", "1"]);
    let refuse = |how: &str| {
        let trigger = format!(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN IF NEW.value = 'bad' THEN {how}; END IF; RETURN NEW; END $$;"
        );
        server.database().connect().batch_execute(&trigger).unwrap();
    };
    refuse("RAISE 'not this one'");
    let before = "CREATE TRIGGER refuse BEFORE INSERT ON kv_store FOR EACH ROW EXECUTE FUNCTION refuse()";
    let at_the_end =
        "DROP TRIGGER refuse ON kv_store; CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON kv_store
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()";
    let statements = || server.metric("hotrow_database_statement_seconds_count{worker=\"writer\"}");
    let mut client = server.connect();
    for (round, (trigger, how)) in [
        (before, "RAISE 'not this one'"),
        // As a bug in a trigger does: of class 42, which may be the server's.
        ("", "PERFORM 1 FROM nowhere"),
        ("", "RETURN NULL"),
        (at_the_end, "RAISE 'not this one'"),
    ]
    .into_iter()
    .enumerate()
    {
        server.database().connect().batch_execute(trigger).unwrap();
        refuse(how);
        let lines: String = (0..2_000)
            .map(|i| line(&format!("{round}-{i:04}"), if i % 2 == 0 { "good" } else { "bad" }))
            .collect();
        let earlier = statements();
        let (counts, errors) = told(&load(&mut client, &lines));
        assert_eq!(counts, [2_000, 1_000, 1_000], "{how}");
        assert!(
            errors.iter().all(|(line, problem)| line % 2 == 0 && problem == "database-refused"),
            "{errors:?}"
        );
        let cost = statements() - earlier;
        assert!(cost < 100, "{how}: {cost} statements");
        let sql =
            format!("SELECT count(*)::text FROM kv_store WHERE key LIKE '{round}-%' AND value = 'good'");
        assert_eq!(server.database().text(&sql, &[]).unwrap(), "1000", "{how}");
    }
    // What is refused of all of them for a reason of the server's ends the load.
    server.database().connect().batch_execute("DROP TRIGGER refuse ON kv_store").unwrap();
    server.database().connect().batch_execute(before).unwrap();
    refuse("RAISE SQLSTATE '53100'");
    let lines: String = (0..2_000).map(|i| line(&format!("full-{i:04}"), "bad")).collect();
    let earlier = statements();
    assert_eq!(load(&mut client, &lines).outcome(), "503 database-refused");
    assert!(statements() - earlier < 20);
}

/// It is said of a statement, too, that does not fit its table any more, and of the session that has it prepared.
#[test]
fn a_row_of_which_a_trigger_says_what_is_said_of_a_statement_is_refused_alone() {
    let server = Server::start(&["--db-writers", "1"]);
    let trigger = "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.value = 'bad' THEN RAISE feature_not_supported USING MESSAGE = 'not here'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER no BEFORE INSERT OR UPDATE ON kv_store FOR EACH ROW EXECUTE FUNCTION no()";
    server.database().connect().batch_execute(trigger).unwrap();
    let mut client = server.connect();
    for round in 0..2 {
        let lines: String = ["good", "bad", "good"]
            .iter()
            .enumerate()
            .map(|(at, value)| line(&format!("{round}-{at}"), value))
            .collect();
        let answer = load(&mut client, &lines);
        assert_eq!(told(&answer), ([3, 2, 1], vec![(2, "database-refused".into())]), "{}", answer.text());
    }
    // So are more of them than are looked for by halves.
    let lines: String =
        (0..300).map(|i| line(&format!("many-{i:03}"), if i % 2 == 0 { "bad" } else { "good" })).collect();
    let answer = load(&mut client, &lines);
    assert_eq!(told(&answer).0, [300, 150, 150], "{}", answer.text());
}

/// What PostgreSQL breaks off may be done at another try. What it breaks off each time is refused, and keeps no other row out.
#[test]
fn a_row_that_is_broken_off_each_time_keeps_no_other_out() {
    let server = Server::start(&["--db-writers", "1"]);
    let trigger = "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.value = 'bad' THEN RAISE serialization_failure USING MESSAGE = 'not this one'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER no BEFORE INSERT OR UPDATE ON kv_store FOR EACH ROW EXECUTE FUNCTION no()";
    server.database().connect().batch_execute(trigger).unwrap();
    let mut client = server.connect();
    // One alone; some; and more of them than are looked for by halves.
    for (round, bad) in [vec![0], vec![3, 4, 63], (0..64).step_by(2).collect()].into_iter().enumerate() {
        let lines: String = (0..64)
            .map(|i| line(&format!("{round}-{i:02}"), if bad.contains(&i) { "bad" } else { "good" }))
            .collect();
        let answer = load(&mut client, &lines);
        let (counts, errors) = told(&answer);
        assert_eq!(counts, [64, 64 - bad.len() as u64, bad.len() as u64], "{}", answer.text());
        assert!(errors.iter().all(|(line, kind)| bad.contains(&(line - 1)) && kind == "database-refused"));
    }
}

/// Row by row is many statements in one commit. Each is answered in time, so that nobody is to take it for a server that is not there.
#[test]
fn many_slow_rows_are_no_server_that_does_not_answer() {
    let server = Server::start(&["--db-writers", "1", "--request-timeout", "2s"]);
    // Slow are only good rows behind another one in the same transaction. Together they begin with a bad one.
    let trigger = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.value = 'bad' THEN RAISE 'not this one'; END IF;
            IF current_setting('slow.down', true) = 'yes' THEN PERFORM pg_sleep(0.5); END IF;
            PERFORM set_config('slow.down', 'yes', true);
            RETURN NEW;
        END $$;
        CREATE TRIGGER slow BEFORE INSERT OR UPDATE ON kv_store FOR EACH ROW EXECUTE FUNCTION slow()";
    server.database().connect().batch_execute(trigger).unwrap();
    let lines: String =
        (0..64).map(|i| line(&format!("{i:02}"), if i % 2 == 0 { "bad" } else { "good" })).collect();
    let mut loading = server.connect();
    loading.send(request("PUT", "/kv", LINES, lines.as_bytes()));
    wait_until("it is under way", || server.metric("hotrow_keys_in_flight") > 0 || loading.has_something());
    wait_until("it has ended", || {
        let ready = server.connect_admin().request("GET", "/readyz", "", b"");
        assert_eq!((ready.status, server.metric("hotrow_database_up")), (200, 1), "{}", ready.text());
        server.metric("hotrow_keys_in_flight") == 0
    });
    // Whatever of it was done by then is done.
    let answer = loading.response();
    assert!(matches!(answer.status, 200 | 503 | 504), "{}", answer.text());
    put_in_the_end(&mut server.connect(), "other", "value");
}

/// Slow rows go by twos. Two that a trigger refuses for what may be the server's reason are no server that takes nothing, where it has
/// taken others.
#[test]
fn slow_rows_that_are_refused_side_by_side_end_no_load_of_which_others_are_stored() {
    const TIMEOUT: Duration = Duration::from_secs(8);
    let server = Server::start(&["--db-writers", "1", "--request-timeout", "8s"]);
    let trigger = "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.value LIKE 'slow%' THEN PERFORM pg_sleep(1.2); END IF;
            IF NEW.value LIKE '%row' THEN RAISE 'not this one'; END IF;
            IF NEW.value LIKE '%server' THEN RAISE insufficient_privilege USING MESSAGE = 'not here'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER no BEFORE INSERT OR UPDATE ON kv_store FOR EACH ROW EXECUTE FUNCTION no()";
    server.database().connect().batch_execute(trigger).unwrap();
    let mut client = server.connect();
    let mut round = 0;
    // More of them than are looked for by halves come first. Then one takes its time, and two of a kind are all of their group.
    for slow in [["slow server"; 3], ["slow row", "slow row", "slow server"]] {
        wait_until("it ends before its time is over", || {
            round += 1;
            let mut lines = String::new();
            for at in 0..128 {
                lines += &line(&format!("{round}-{at:03}"), if at % 2 == 0 { "row" } else { "good" });
            }
            for (at, value) in slow.iter().chain(&["good"; 4]).enumerate() {
                lines += &line(&format!("{round}-x{at}"), value);
            }
            let began = Instant::now();
            let answer = load(&mut client, &lines);
            let in_time = answer.status == 200;
            assert!(in_time || began.elapsed() >= TIMEOUT, "{}", answer.text());
            if in_time {
                assert_eq!(told(&answer).0, [135, 68, 67], "{}", answer.text());
            }
            in_time
        });
    }
}

#[test]
fn a_load_that_ends_among_rows_that_are_kept_out_leaves_no_stale_hit() {
    let server = Server::start(&["--request-timeout", "1s"]);
    // Of many rows PostgreSQL does not say which it has kept out, so that each is tried by itself: then this one takes its time.
    let trigger = "CREATE SEQUENCE times;
        CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.key = 'b' THEN RETURN NEW; END IF;
            IF nextval('times') > 2 THEN PERFORM pg_sleep(60); END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER keep_out BEFORE INSERT ON kv_store FOR EACH ROW EXECUTE FUNCTION keep_out();";
    server.database().connect().batch_execute(trigger).unwrap();
    let mut client = server.connect();
    wait_until("it is written", || client.put("b", "old").status < 300);
    let answer = load(&mut client, &(line("a", "1") + &line("b", "new")));
    assert!(matches!(answer.status, 503 | 504), "{}", answer.text());
    wait_until("it has ended", || server.metric("hotrow_keys_in_flight") == 0);
    // It is cached no more, and whoever asks the table has a second for it here.
    let read = get_in_the_end(&mut server.connect(), "b");
    assert_eq!(Some(read.text()), server.database().value("b"));
}

#[test]
fn a_row_that_is_held_is_no_row_that_is_refused() {
    let mut postgresql = Postgresql::start_new();
    postgresql.configure(&["lock_timeout = '200ms'"]);
    postgresql.restart_immediately();
    let server = Server::start_on(&postgresql.database(), &["--request-timeout", "2s"]);
    let mut sql_client = postgresql.connect();
    sql_client.batch_execute("INSERT INTO kv_store (key, value) VALUES ('held', 'old')").unwrap();
    let mut holding = sql_client.transaction().unwrap();
    holding.execute("UPDATE kv_store SET value = 'other' WHERE key = 'held'", &[]).unwrap();
    let mut client = server.connect();
    let lines = line("a", "1") + &line("held", "2");
    // Where this machine stands still for longer than a request may take, it is withdrawn before it has met the row.
    wait_until("it has met the row that is held", || {
        let answer = load(&mut client, &lines);
        assert_eq!(told(&answer).0, [0, 0, 0], "{answer:?}");
        answer.outcome() == "503 database-refused"
    });
    holding.rollback().unwrap();
    wait_until("it is stored", || told(&load(&mut client, &lines)).0 == [2, 2, 0]);
}

#[test]
fn what_is_said_of_a_line_is_short_whatever_is_in_it() {
    let server = Server::start(&[]);
    let lines: String = (0..5).map(|_| format!("{{\"{}\":1}}\n", "x".repeat(1_000_000))).collect();
    let answer = load(&mut server.connect(), &lines);
    assert_eq!(told(&answer).0, [5, 0, 5]);
    assert!(answer.body.len() < 5_000, "{} bytes", answer.body.len());
}

#[test]
fn a_server_that_drains_ends_loads_and_says_what_is_done() {
    let mut server = Server::start(&[]);
    let mut client = begin(&server);
    client.send(chunk(rows(0..10_000, 10).as_bytes()));
    wait_until("some are stored", || server.metric("hotrow_rows_loaded_total") >= 4_096);
    server.signal(Signal::TERM);
    let answer = client.response();
    assert_eq!(answer.outcome(), "503 draining");
    let ([lines, ..], _) = told(&answer);
    assert!((4_096..=10_000).contains(&lines), "{answer:?}");
    client.expect_closed();
    assert_eq!(server.wait().expect("it ends").code(), Some(0));
}

#[test]
fn so_many_loads_run_at_once_and_no_more() {
    let server = Server::start(&[]);
    let mut loading: Vec<Client> = (0..8).map(|_| begin(&server)).collect();
    wait_until("all have begun", || server.metric(r#"hotrow_connections{state="content"}"#) == 8);
    let mut client = server.connect();
    let answer = load(&mut client, &line("k", "v"));
    assert_eq!((answer.outcome().as_str(), answer.field("Retry-After")), ("503 queue-full", Some("1")));
    loading.pop();
    wait_until("one has gone", || load(&mut server.connect(), &line("k", "v")).status == 200);
    for client in &mut loading {
        client.send("0\r\n\r\n");
        assert_eq!(told(&client.response()).0, [0, 0, 0]);
    }
}

/// Loads, batches and single writes of the same keys at once: what is cached at the end is what is in the table.
#[test]
fn loads_and_other_writes_of_the_same_keys_leave_one_truth() {
    let server = Server::start(&["--event-loops", "2", "--db-writers", "4"]);
    std::thread::scope(|scope| {
        for writer in 0..6 {
            let server = &server;
            scope.spawn(move || {
                let mut client = server.connect();
                for round in 0..60 {
                    let value = format!("{writer}-{round}");
                    match writer % 3 {
                        0 => {
                            let lines: String = (0..8).map(|at| line(&format!("k{at}"), &value)).collect();
                            assert_eq!(load(&mut client, &lines).status, 200);
                        }
                        1 => assert!(client.put(&format!("k{}", round % 8), &value).status < 300),
                        _ => {
                            let operations = json!([{"op": "delete", "key": "k1"}, {"op": "set", "key": "k2", "value": value}]);
                            assert_eq!(client.request("POST", "/batch", "", operations.to_string().as_bytes()).status, 200);
                        }
                    }
                    client.get(&format!("k{}", round % 8));
                }
            });
        }
    });
    let mut client = server.connect();
    for at in 0..8 {
        let key = format!("k{at}");
        for _ in 0..2 {
            let read = client.get(&key);
            let value = (read.status == 200).then(|| read.text());
            assert_eq!(value, server.database().value(&key));
        }
    }
}
