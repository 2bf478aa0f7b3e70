//! What a load is, what becomes of its lines, and what is seen of their keys.

use super::{LINES, begin, chunk, count, line, load, rows, told};
use crate::support::client::request;
use crate::support::{Server, wait_until};
use serde_json::json;

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
fn what_is_said_of_a_line_is_short_whatever_is_in_it() {
    let server = Server::start(&[]);
    let lines: String = (0..5).map(|_| format!("{{\"{}\":1}}\n", "x".repeat(1_000_000))).collect();
    let answer = load(&mut server.connect(), &lines);
    assert_eq!(told(&answer).0, [5, 0, 5]);
    assert!(answer.body.len() < 5_000, "{} bytes", answer.body.len());
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
