//! Rows that another program has locked: whoever writes them waits, and nobody else does.

use crate::support::client::request;
use crate::support::database::{has_met_a_lock, waiting_for_locks};
use crate::support::{Client, Server, put_in_the_end, wait_until};
use serde_json::json;
use std::fmt::Write as _;

const LINES: &str = "Content-Type: application/x-ndjson\r\n";

/// Writes of other keys, by so many clients, and all of them answered.
struct Others(Vec<Client>);

impl Others {
    fn new(server: &Server) -> Others {
        Others((0..4).map(|_| server.connect()).collect())
    }

    fn are_served(&mut self, round: usize) {
        for (n, client) in self.0.iter_mut().enumerate() {
            client.send(request("PUT", &format!("/kv/other-{n}"), "", format!("{round}").as_bytes()));
        }
        for client in &mut self.0 {
            assert!(matches!(client.response().status, 200 | 201));
        }
    }
}

/// Sends writes, one for each client, of what somebody has locked, and waits until all of them are queued and a lock was met: what an
/// earlier one has met says nothing of these. What is asked of the same writer from now on is behind them.
fn meet_a_lock<'c>(
    server: &Server,
    observer: &mut postgres::Client,
    writes: impl IntoIterator<Item = (&'c mut Client, Vec<u8>)>,
) {
    let queued = || server.metric("hotrow_writes_total");
    let mut expected = queued();
    for (client, write) in writes {
        client.send(write);
        expected += 1;
    }
    wait_until("they are queued", || queued() == expected);
    wait_until("a lock was met", || has_met_a_lock(observer));
}

#[test]
fn a_row_that_somebody_else_has_locked_keeps_no_other_writes_from_being_done() {
    let server = Server::start(&["--db-writers", "1"]);
    server.database().insert("held", "old");
    let mut sql = server.database().connect();
    let mut holder = sql.transaction().unwrap();
    holder.execute("SELECT FROM kv_store WHERE key = 'held' FOR UPDATE", &[]).unwrap();
    // Several writes of it, which keep their order whatever they wait for.
    let mut observer = server.database().connect();
    let mut waiting: Vec<Client> = (0..3).map(|_| server.connect()).collect();
    let mut others: Vec<Client> = (0..6).map(|_| server.connect()).collect();
    for (round, client) in waiting.iter_mut().enumerate() {
        let write = request("PUT", "/kv/held", "", format!("new {round}").as_bytes());
        meet_a_lock(&server, &mut observer, [(client, write)]);
        for (n, other) in others.iter_mut().enumerate() {
            other.send(request("PUT", &format!("/kv/other-{n}"), "", format!("{round}").as_bytes()));
        }
        for other in &mut others {
            assert!(matches!(other.response().status, 200 | 201));
        }
    }
    // Writes that depend on their rows, too.
    let added = others[0].request("POST", "/kv/counter?op=incr", "", b"");
    assert_eq!((added.status, added.text().as_str()), (201, "1"));
    assert!(
        waiting.iter_mut().all(|client| !client.has_something()),
        "nothing is acknowledged before it is done"
    );
    holder.rollback().unwrap();
    for (round, client) in waiting.iter_mut().enumerate() {
        let stored = client.response();
        assert_eq!((stored.status, stored.text()), (200, format!("new {round}")));
    }
    assert_eq!(others[0].get("held").text(), "new 2");
    assert_eq!(server.database().value("held").as_deref(), Some("new 2"));
}

#[test]
fn whatever_waits_for_a_locked_row_is_done_once_it_is_free() {
    let server = Server::start(&["--db-writers", "1"]);
    server.database().insert("held", "1");
    let mut sql = server.database().connect();
    let mut holder = sql.transaction().unwrap();
    holder.execute("SELECT FROM kv_store WHERE key = 'held' FOR UPDATE", &[]).unwrap();
    let batch =
        json!([{"op": "set", "key": "with", "value": "it"}, {"op": "incr", "key": "held", "by": 100}]);
    let batch = batch.to_string();
    let alone = json!([{"op": "incr", "key": "held", "by": 100}]).to_string();
    let line = json!({"key": "held", "value": "0"}).to_string();
    let (mut others, mut observer) = (Others::new(&server), server.database().connect());
    // A batch and a load alone wait where they are; with others behind them they make room, each as often as it takes.
    for (kind, wanted) in [
        (request("PUT", "/kv/held", "", b"5"), "5"),
        (request("POST", "/kv/held?op=incr", "", b""), "6"),
        (request("POST", "/batch?atomic=true", "", batch.as_bytes()), "106"),
        (request("POST", "/batch", "", alone.as_bytes()), "206"),
        (request("PUT", "/kv", LINES, line.as_bytes()), "0"),
    ] {
        let mut client = server.connect();
        meet_a_lock(&server, &mut observer, [(&mut client, kind)]);
        for round in 0..3 {
            others.are_served(round);
        }
        assert!(!client.has_something(), "nothing is acknowledged before it is done");
        holder.rollback().unwrap();
        let answer = client.response();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(others.0[0].get("held").text(), wanted);
        assert_eq!(server.database().value("held").as_deref(), Some(wanted));
        holder = sql.transaction().unwrap();
        holder.execute("SELECT FROM kv_store WHERE key = 'held' FOR UPDATE", &[]).unwrap();
    }
    holder.rollback().unwrap();
    wait_until("nothing is left", || server.metric("hotrow_keys_in_flight") == 0);
}

#[test]
fn many_locked_rows_keep_no_other_writes_from_being_done() {
    const ROWS: usize = 300;
    let server = Server::start(&["--db-writers", "1"]);
    let fill = format!(
        "INSERT INTO kv_store (key, value) SELECT 'held-' || n, '0' FROM generate_series(1, {ROWS}) AS n"
    );
    server.database().execute(&fill, &[]);
    let mut sql = server.database().connect();
    let mut holder = sql.transaction().unwrap();
    holder.execute("SELECT FROM kv_store WHERE key LIKE 'held-%' FOR UPDATE", &[]).unwrap();
    let all: Vec<_> = (1..=ROWS).map(|n| json!({"op": "incr", "key": format!("held-{n}")})).collect();
    let mut batch = server.connect();
    batch.send(request("POST", "/batch", "", json!(all).to_string().as_bytes()));
    let mut clients: Vec<Client> = (0..2 * ROWS).map(|_| server.connect()).collect();
    for (at, client) in clients.iter_mut().enumerate() {
        let key = format!("/kv/held-{}", at % ROWS + 1);
        client.send(match at < ROWS {
            true => request("PUT", &key, "", b"7"),
            false => request("POST", &format!("{key}?op=incr"), "", b""),
        });
    }
    let mut others = Others::new(&server);
    for round in 0..3 {
        others.are_served(round);
    }
    holder.rollback().unwrap();
    // Some had to go, since there is a bound on what may wait so. What was acknowledged is there.
    assert!(matches!(batch.response().status, 200 | 503));
    let statuses: Vec<u16> = clients.iter_mut().map(|client| client.response().status).collect();
    assert!(statuses.iter().all(|status| matches!(status, 200 | 503)), "{statuses:?}");
    assert!(statuses.contains(&200), "what has waited is done when it can be");
    for n in 1..=ROWS {
        let key = format!("held-{n}");
        assert_eq!(server.database().value(&key), Some(others.0[0].get(&key).text()));
    }
    wait_until("nothing is left", || server.metric("hotrow_keys_in_flight") == 0);
}

#[test]
fn what_waits_for_a_table_or_for_a_row_that_nobody_sees_yet_is_done_in_the_end() {
    let server = Server::start(&["--db-writers", "1"]);
    let (mut sql, mut observer) = (server.database().connect(), server.database().connect());
    let mut others = Others::new(&server);
    let operations = |key: &str| json!([{"op": "incr", "key": key}]).to_string();
    for (round, hold, release) in [
        (0, "LOCK TABLE kv_store IN SHARE MODE", "ROLLBACK"),
        (1, "LOCK TABLE kv_store IN ACCESS EXCLUSIVE MODE", "ROLLBACK"),
        (
            2,
            "INSERT INTO kv_store (key, value) SELECT 'k2-' || n, 'x' FROM generate_series(0, 9) AS n",
            "ROLLBACK",
        ),
    ] {
        sql.batch_execute(&format!("BEGIN; {hold}")).unwrap();
        let mut clients: Vec<Client> = (0..10).map(|_| server.connect()).collect();
        let writes = clients.iter_mut().enumerate().map(|(n, client)| {
            let (key, line) =
                (format!("k{round}-{n}"), json!({"key": format!("k{round}-{n}"), "value": "1"}));
            let write = match n % 5 {
                0 => request("PUT", &format!("/kv/{key}"), "", b"1"),
                1 => request("POST", &format!("/kv/{key}?op=incr"), "", b""),
                2 => request("POST", "/batch", "", operations(&key).as_bytes()),
                3 => request("POST", "/batch?atomic=true", "", operations(&key).as_bytes()),
                _ => request("PUT", "/kv", LINES, line.to_string().as_bytes()),
            };
            (client, write)
        });
        meet_a_lock(&server, &mut observer, writes);
        if round == 2 {
            (0..3).for_each(|n| others.are_served(n));
        }
        assert!(clients.iter_mut().all(|client| !client.has_something()));
        sql.batch_execute(release).unwrap();
        for (n, client) in clients.iter_mut().enumerate() {
            let answer = client.response();
            assert!(matches!(answer.status, 200 | 201), "{round}, {n}: {}", answer.text());
            let value = server.database().value(&format!("k{round}-{n}"));
            assert_eq!(value.as_deref(), Some("1"), "{round}, {n}");
        }
    }
}

#[test]
fn one_that_waits_for_a_row_that_nobody_sees_yet_keeps_no_other_such_one_waiting() {
    let server = Server::start(&["--db-writers", "1"]);
    let hold = |key: &str| {
        let mut sql = server.database().connect();
        sql.batch_execute(&format!("BEGIN; INSERT INTO kv_store (key, value) VALUES ('{key}', 'x')"))
            .unwrap();
        sql
    };
    let (a_held, mut b_held) = (hold("a"), hold("b"));
    let (mut a, mut b, mut others) = (server.connect(), server.connect(), Others::new(&server));
    let mut observer = server.database().connect();
    for (client, key) in [(&mut a, "a"), (&mut b, "b")] {
        let write = request("PUT", &format!("/kv/{key}"), "", b"1");
        meet_a_lock(&server, &mut observer, [(client, write)]);
        (0..3).for_each(|round| others.are_served(round));
    }
    b_held.batch_execute("ROLLBACK").unwrap();
    assert_eq!(b.response().status, 201);
    assert!(!a.has_something());
    drop(a_held);
    assert_eq!(a.response().status, 201);
}

#[test]
fn what_changes_nothing_does_not_wait_for_a_lock() {
    let server = Server::start(&["--db-writers", "1"]);
    for key in ["g", "h"] {
        server.database().insert(key, "1");
    }
    let mut sql = server.database().connect();
    let mut holder = sql.transaction().unwrap();
    holder.execute("SELECT FROM kv_store FOR UPDATE", &[]).unwrap();
    // In one batch of a writer with one that waits, whichever comes first; and in one request with it.
    let mut others = Others::new(&server);
    let (mut waiting, mut judged, mut batch) = (server.connect(), server.connect(), server.connect());
    waiting.send(request("POST", "/kv/h?op=incr", "", b""));
    judged.send(request("PUT", "/kv/g", "If-None-Match: *\r\n", b"2"));
    let operations =
        json!([{"op": "get", "key": "g"}, {"op": "incr", "key": "h"}, {"op": "incr", "key": "free"}]);
    batch.send(request("POST", "/batch", "", operations.to_string().as_bytes()));
    assert_eq!(judged.response().status, 412);
    for round in 0.. {
        if batch.has_something() {
            break;
        }
        others.are_served(round);
    }
    let told: serde_json::Value = serde_json::from_slice(&batch.response().body).unwrap();
    assert_eq!(told["items"][0]["status"], 200, "{told}");
    assert_eq!(told["items"][2]["status"], 201, "{told}");
    assert!(!waiting.has_something());
    holder.rollback().unwrap();
    assert_eq!(waiting.response().status, 200);
}

#[test]
fn what_is_free_is_written_whatever_is_locked_beside_it() {
    const ROWS: usize = 40;
    let server = Server::start(&["--db-writers", "1"]);
    let fill = format!(
        "INSERT INTO kv_store (key, value) SELECT 'k' || n, '0' FROM generate_series(1, {ROWS}) AS n"
    );
    server.database().execute(&fill, &[]);
    let mut sql = server.database().connect();
    let mut holder = sql.transaction().unwrap();
    holder.execute("SELECT FROM kv_store FOR UPDATE", &[]).unwrap();
    // Free ones between those that are locked, in a batch and each by itself.
    let add = |key: String| json!({"op": "incr", "key": key});
    let operations: Vec<_> =
        (1..=ROWS).flat_map(|n| [add(format!("k{n}")), add(format!("k{n}-free"))]).collect();
    let mut batch = server.connect();
    let mut others = Others::new(&server);
    let mut clients: Vec<(Client, Client)> =
        (0..ROWS).map(|_| (server.connect(), server.connect())).collect();
    for (n, (locked, free)) in (1..).zip(&mut clients) {
        locked.send(request("PUT", &format!("/kv/k{n}"), "", b"7"));
        free.send(request("PUT", &format!("/kv/k{n}-alone"), "", b"7"));
    }
    for (_, free) in &mut clients {
        assert_eq!(free.response().status, 201);
    }
    batch.send(request("POST", "/batch", "", json!(operations).to_string().as_bytes()));
    for round in 0.. {
        if batch.has_something() {
            break;
        }
        others.are_served(round);
    }
    let told: serde_json::Value = serde_json::from_slice(&batch.response().body).unwrap();
    let statuses: Vec<u64> =
        told["items"].as_array().unwrap().iter().map(|item| item["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [503, 201].repeat(ROWS));
    assert!(clients.iter_mut().all(|(locked, _)| !locked.has_something()));
    holder.rollback().unwrap();
    for (locked, _) in &mut clients {
        assert_eq!(locked.response().status, 200);
    }
}

#[test]
fn whoever_waits_for_a_lock_in_vain_is_told_that_nothing_was_changed() {
    let server = Server::start(&["--db-writers", "1", "--request-timeout", "3s"]);
    // It may be that one has just been sent for the first time when its time is over: then nobody knows, and all are asked again.
    wait_until("all of them know how they have ended", || {
        server.database().execute("DELETE FROM kv_store", &[]);
        server.database().insert("held", "1");
        let mut sql = server.database().connect();
        let mut holder = sql.transaction().unwrap();
        holder.execute("LOCK TABLE kv_store IN ACCESS EXCLUSIVE MODE", &[]).unwrap();
        let unknown = ask_in_vain(&server);
        holder.rollback().unwrap();
        wait_until("nothing is left", || server.metric("hotrow_keys_in_flight") == 0);
        let rows = "SELECT string_agg(key || '=' || value, ' ') FROM kv_store HAVING count(*) > 0";
        let rows = server.database().text(rows, &[]);
        assert!(unknown > 0 || rows.as_deref() == Some("held=1"), "{rows:?}");
        unknown == 0
    });
    put_in_the_end(&mut server.connect(), "held", "4");
}

/// One of each kind of write while nothing can be written. How many were told that nobody knows how they have ended; all others
/// were told that nothing was changed.
fn ask_in_vain(server: &Server) -> usize {
    let mut lines = String::new();
    for n in 0..3 {
        let _ = writeln!(lines, "{}", json!({"key": format!("line-{n}"), "value": "v"}));
    }
    let batch = json!([{"op": "set", "key": "held", "value": "batch"}]).to_string();
    let requests = [
        request("PUT", "/kv/held", "", b"2"),
        request("PUT", "/kv/held", "If-Match: *\r\n", b"3"),
        request("POST", "/kv/held?op=incr", "", b""),
        request("DELETE", "/kv/held", "", b""),
        request("POST", "/batch?atomic=true", "", batch.as_bytes()),
        request("POST", "/batch", "", batch.as_bytes()),
        request("PUT", "/kv", LINES, lines.as_bytes()),
    ];
    let mut clients: Vec<Client> = requests.iter().map(|_| server.connect()).collect();
    for (client, request) in clients.iter_mut().zip(requests) {
        client.send(request);
    }
    let mut unknown = 0;
    for client in &mut clients {
        let answer = client.response();
        match answer.status {
            503 => {}
            504 => unknown += 1,
            // Of an operation in a batch.
            200 if answer.text().contains(r#""status":504"#) => unknown += 1,
            200 => assert!(answer.text().contains(r#""status":503"#), "{}", answer.text()),
            other => panic!("{other}: {}", answer.text()),
        }
    }
    unknown
}

#[test]
fn who_watches_what_is_done_is_told_while_the_rest_waits_for_a_lock() {
    let server = Server::start(&["--db-writers", "1"]);
    for key in ["free", "held"] {
        server.database().insert(key, "1");
    }
    let mut sql = server.database().connect();
    let mut holder = sql.transaction().unwrap();
    holder.execute("SELECT FROM kv_store WHERE key = 'held' FOR UPDATE", &[]).unwrap();
    let (mut watcher, mut batch) = (server.connect(), server.connect());
    let version = watcher.get("free").version().to_owned();
    let fields = format!("If-None-Match: \"{version}\"\r\nPrefer: wait=60\r\n");
    watcher.send(request("GET", "/kv/free", &fields, b""));
    wait_until("it waits", || server.metric("hotrow_watchers") == 1);
    let operations = json!([{"op": "incr", "key": "free"}, {"op": "incr", "key": "held"}]);
    batch.send(request("POST", "/batch", "", operations.to_string().as_bytes()));
    assert_eq!(watcher.response().text(), "2");
    // Told only with the batch's own answer, it would be told when that has waited for the lock in vain.
    holder.rollback().unwrap();
    let told: serde_json::Value = serde_json::from_slice(&batch.response().body).unwrap();
    assert_eq!(told["items"][1]["status"], 200, "{told}");
}

/// What waits here is what tests count, and the sweeper comes when it likes.
#[test]
fn the_sweeper_is_none_of_those_that_are_seen_to_wait() {
    let server = Server::start(&[]);
    let sql = &mut server.database().connect();
    let mut writes = server.database().hold_writes();
    let expired = "SET session_replication_role = replica;
        INSERT INTO kv_store (key, value, expires_at) VALUES ('k', '', now() - interval '1 hour')";
    sql.batch_execute(expired).unwrap();
    let holds = |sql: &mut postgres::Client, why: &str| {
        let waiting = format!(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name LIKE 'hotrow/%' AND {why}"
        );
        sql.query_one(&waiting, &[]).unwrap().get::<_, i64>(0) == 1
    };
    wait_until("it waits for the row", || holds(sql, "wait_event = 'PgSleep'"));
    assert_eq!(writes.waiting(), 0);
    writes.release();
    wait_until("it is swept", || server.metric("hotrow_rows_swept_total") == 1);
    sql.batch_execute("BEGIN; LOCK TABLE kv_store IN ACCESS EXCLUSIVE MODE").unwrap();
    wait_until("it waits for the table", || holds(sql, "wait_event_type = 'Lock'"));
    assert_eq!(waiting_for_locks(sql).unwrap(), 0);
    assert!(!has_met_a_lock(sql));
}

/// A short time for a request makes every wait shorter, so that there is time for another one.
#[test]
fn a_locked_row_is_waited_for_aside_within_a_short_time_too() {
    let server = Server::start(&["--db-writers", "1", "--request-timeout", "1s"]);
    server.database().insert("held", "old");
    let (mut sql, mut observer) = (server.database().connect(), server.database().connect());
    let mut client = server.connect();
    // This machine may stand still for longer than that: then once more.
    wait_until("it is done once the row is free", || {
        let mut holder = sql.transaction().unwrap();
        holder.execute("SELECT FROM kv_store WHERE key = 'held' FOR UPDATE", &[]).unwrap();
        client.send(request("PUT", "/kv/held", "", b"new"));
        wait_until("it is aside, or over", || client.has_something() || has_met_a_lock(&mut observer));
        wait_until("it was asked for, or is over", || {
            let asks = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                AND application_name LIKE 'hotrow/%' AND query LIKE '%FOR NO KEY UPDATE SKIP LOCKED%'";
            client.has_something() || observer.query_one(asks, &[]).unwrap().get::<_, i64>(0) > 0
        });
        let was_over = client.has_something();
        holder.rollback().unwrap();
        let outcome = client.response().outcome();
        assert!(!was_over || outcome != "503 database-refused", "it was not put aside");
        outcome == "200"
    });
}
