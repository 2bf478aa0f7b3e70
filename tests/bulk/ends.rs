//! How far a load may go, and what ends one before its last line: the database, time, the server's own end.

use super::{begin, chunk, count, line, load, rows, told};
use crate::support::postgresql::Postgresql;
use crate::support::process::peak_rss_bytes;
use crate::support::{Client, Server, wait_until};
use rustix::process::Signal;

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
