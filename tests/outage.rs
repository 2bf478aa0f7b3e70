//! Service while PostgreSQL is away, or stands still: hits go on, the rest is refused at once and in words that help,
//! and when it is back everything works without anybody's help. What clients are told of writes that the outage
//! caught is held against the table. `faults.rs` does all this under load; `refusals.rs` has what PostgreSQL refuses while it is there.

use crate::support::client::{Client, Response, request};
use crate::support::database::{Database, has_met_a_lock};
use crate::support::postgresql::{Postgresql, stand_still, url_at};
use crate::support::proxy::Proxy;
use crate::support::{Server, get_in_the_end, put_in_the_end, wait_until};
use std::time::{Duration, Instant};

fn is_hit(response: &Response) -> bool {
    response.field("Cache-Status") == Some("hotrow; hit")
}

/// Asks until a write was sent, and says how that one ended. Where this machine stands still for longer than a request may take, it
/// is withdrawn before a writer has taken it.
fn outcome_once_sent(client: &mut Client, method: &str, key: &str, fields: &str, body: &str) -> String {
    let mut outcome = String::new();
    wait_until("the write was sent", || {
        outcome = client.request(method, &format!("/kv/{key}"), fields, body.as_bytes()).outcome();
        outcome != "503 not-started"
    });
    outcome
}

/// A miss that meets a server which does not answer. Where this machine stands still, its reader, which waits for a second longer than
/// the client, may give it up before the client is told that it has waited for long enough.
fn is_read_in_vain(client: &mut Client, key: &str) {
    let asked = Instant::now();
    let outcome = client.get(key).outcome();
    let is_late = asked.elapsed() >= Duration::from_secs(2);
    assert!(outcome == "504 deadline-exceeded" || is_late && outcome == "503 database-down", "{outcome}");
}

/// Some worker has no database, and knows it.
fn is_down(server: &Server) -> bool {
    server.metric("hotrow_database_up") == 0
}

#[test]
fn hits_are_served_and_the_rest_is_refused_until_it_is_back() {
    let mut postgresql = Postgresql::start_new();
    let flags = ["--event-loops", "2", "--db-readers", "1", "--db-writers", "1"];
    let server = Server::start_on(&postgresql.database(), &flags);
    let mut client = server.connect();
    assert_eq!(client.put("hot", "value").status, 201);
    assert_eq!(client.get("absent").status, 404);
    postgresql.stop_immediately();

    // The outage becomes known to each worker by the first statement that it cannot send.
    assert_eq!(client.get("cold").outcome(), "503 database-down");
    let mut caught = server.ask("PUT", "caught", "value");
    wait_until("the outage is known", || {
        ["a reader has no database", "a writer has no database"]
            .iter()
            .all(|line| server.stderr().contains(line))
    });
    for i in 0..50 {
        let hit = client.get("hot");
        assert!(hit.status == 200 && hit.text() == "value" && is_hit(&hit));
        let absent = client.get("absent");
        assert!(absent.status == 404 && is_hit(&absent), "that there is none is known, too");
        // The client checks that there is a `Retry-After` of at least a second.
        for refused in [client.get(&format!("new-{i}")), client.put("hot", "other"), client.delete("hot")] {
            assert_eq!(refused.outcome(), "503 database-down");
            assert!(refused.field("Retry-After").unwrap().parse::<u32>().unwrap() <= 2);
        }
    }
    let ready = server.connect_admin().request("GET", "/readyz", "", b"");
    let reason = "database down: 0 of 1 readers and 0 of 1 writers can reach it\n";
    assert_eq!((ready.status, ready.text().as_str()), (503, reason));
    assert_eq!(server.connect_admin().request("GET", "/livez", "", b"").status, 200);

    postgresql.start();
    wait_until("every worker has its database again", || !is_down(&server));
    // Whether it was caught by the outage or refused because of it: it says the truth.
    match caught.response().outcome().as_str() {
        "200" | "201" => assert_eq!(client.get("caught").text(), "value"),
        "503 database-down" => assert_eq!(client.get("caught").status, 404),
        "504 outcome-unknown" => {}
        other => panic!("{other}"),
    }
    for i in 0..8 {
        assert_eq!(client.put(&format!("after-{i}"), "v").status, 201);
    }
    assert_eq!(client.get("new-1").status, 404, "what was refused has not happened");
    assert_eq!(client.get("hot").text(), "value");
    assert_eq!(client.delete("hot").status, 204);
    assert_eq!(server.connect_admin().request("GET", "/readyz", "", b"").status, 200);
}

#[test]
fn a_write_caught_by_the_outage_succeeds_if_it_is_back_in_time() {
    let mut postgresql = Postgresql::start_new();
    // One writer: one statement is sent, what comes behind it waits in the queue.
    let server = Server::start_on(&postgresql.database(), &["--db-writers", "1"]);
    let mut client = server.connect();
    for (method, body, status) in [("PUT", "new", 200), ("DELETE", "", 204)] {
        assert!(matches!(client.put("sent", "old").status, 200 | 201));
        // What is sent next is the statement, and not its preparation.
        assert_eq!(client.delete("nothing").status, 404);
        let mut writes = postgresql.database().hold_writes();
        let mut sent = server.ask(method, "sent", body);
        wait_until("it was sent", || writes.waiting() == 1);
        let mut queued = server.ask("PUT", "queued", "new");
        wait_until("it is queued", || server.metric("hotrow_keys_in_flight") == 2);
        postgresql.stop_immediately();
        assert_eq!(queued.response().outcome(), "503 database-down");
        postgresql.start();
        // Settled, and done again. For the DELETE: the row was still there.
        assert_eq!(sent.response().status, status);
        assert_eq!(postgresql.database().value("sent").as_deref(), (method == "PUT").then_some("new"));
        assert_eq!(client.get("sent").status, if method == "PUT" { 200 } else { 404 });
        assert_eq!(postgresql.database().value("queued"), None, "what was refused has not happened");
    }
    wait_until("it is logged", || server.stderr().contains("was lost"));
}

#[test]
fn a_write_caught_by_the_outage_says_whether_its_outcome_is_known() {
    let mut postgresql = Postgresql::start_new();
    // One writer: one statement is sent, the next waits in the queue.
    let flags = ["--request-timeout", "5s", "--db-writers", "1"];
    let server = Server::start_on(&postgresql.database(), &flags);
    let mut client = server.connect();
    let mut round = 0;
    wait_until("the outage was known before their time was over", || {
        round += 1;
        let [first, second] = ["sent", "queued"].map(|key| format!("{key}-{round}"));
        put_in_the_end(&mut client, &first, "old");
        let mut writes = postgresql.database().hold_writes();
        let asked = Instant::now();
        let mut sent = server.ask("PUT", &first, "new");
        wait_until("it was sent", || writes.waiting() == 1 || sent.has_something());
        let mut queued = server.ask("PUT", &second, "new");
        let is_queued = || server.metric("hotrow_keys_in_flight") == 2;
        wait_until("it is queued", || is_queued() || sent.has_something());
        postgresql.stop_immediately();
        let queued = queued.response().outcome();
        let in_time = asked.elapsed() < Duration::from_secs(5);
        let sent = sent.response().outcome();
        if in_time {
            assert_eq!(sent, "504 outcome-unknown");
            // Refused when the outage was known: it certainly never happens.
            assert_eq!(queued, "503 database-down");
            // In doubt: not even the old value is served from memory.
            let read = client.get(&first);
            assert!(!is_hit(&read) && read.status >= 500, "{}", read.outcome());
        }
        postgresql.start();
        wait_until("the doubt is over", || server.metric("hotrow_keys_in_doubt") == 0);
        let value = postgresql.database().value(&first).unwrap();
        assert!(["old", "new"].contains(&value.as_str()));
        assert_eq!(get_in_the_end(&mut client, &first).text(), value);
        if in_time {
            assert_eq!(postgresql.database().value(&second), None);
            assert_eq!(get_in_the_end(&mut client, &second).status, 404);
        }
        in_time
    });
}

/// Plain writes go first of all that was taken from the queue at once.
#[test]
fn what_was_taken_behind_a_lost_write_and_not_sent_has_certainly_not_happened() {
    let postgresql = Postgresql::start_new();
    let proxy = Proxy::start(postgresql.port);
    let flags = ["--request-timeout", "5s", "--db-readers", "1", "--db-writers", "1"];
    let server = Server::start_on(&Database::at(url_at(proxy.port)), &flags);
    let mut round = 0;
    wait_until("it was taken and lost before its time was over", || {
        round += 1;
        put_in_the_end(&mut server.connect(), "first", "old");
        let mut writes = postgresql.database().hold_writes();
        let mut first = server.ask("PUT", "first", "new");
        wait_until("it was sent", || writes.waiting() == 1 || first.has_something());
        proxy.aim_at(&format!("lost-{round}"));
        proxy.cut_answers(1);
        let mut lost = server.ask("PUT", &format!("lost-{round}"), "new");
        let mut judged = server.connect();
        judged.send(request("POST", &format!("/kv/judged-{round}?op=incr"), "", b""));
        let mut many = server.connect();
        let batch = format!(r#"[{{"op":"set","key":"many-{round}","value":"new"}}]"#);
        many.send(request("POST", "/batch", "Content-Type: application/json\r\n", batch.as_bytes()));
        let are_queued = || server.metric("hotrow_keys_in_flight") == 4;
        wait_until("they are queued", || are_queued() || first.has_something());
        proxy.refuse(true);
        writes.release();
        let outcomes =
            [&mut first, &mut lost, &mut judged, &mut many].map(|client| client.response().outcome());
        proxy.refuse(false);
        wait_until("the doubt is over", || server.metric("hotrow_keys_in_doubt") == 0);
        let is_lost = outcomes[0] == "200" && outcomes[1] == "504 outcome-unknown";
        if is_lost {
            assert_eq!(outcomes[2..], ["503 not-started", "503 not-started"]);
            for key in ["judged", "many"] {
                assert_eq!(postgresql.database().value(&format!("{key}-{round}")), None);
            }
        }
        is_lost
    });
}

#[test]
fn what_an_unknown_write_has_left_is_served_and_not_what_was_before() {
    let postgresql = Postgresql::start_new();
    let proxy = Proxy::start(postgresql.port);
    let database = Database::at(url_at(proxy.port));
    let server =
        Server::start_on(&database, &["--request-timeout", "5s", "--db-readers", "1", "--db-writers", "1"]);
    let mut client = server.connect();
    for (key, body) in [("put", Some("new")), ("deleted", None)] {
        put_in_the_end(&mut client, key, "old");
        assert!(is_hit(&client.get(key)));
        let other = get_in_the_end(&mut client, &format!("{key}-other"));
        assert_eq!(other.status, 404, "the reader has a connection");
        if body.is_none() {
            // What is sent next is the statement, and not its preparation.
            wait_until("it is prepared", || client.delete("nothing").status == 404);
        }
        // It is committed, the answer is lost, and hotrow cannot come back to ask in time.
        proxy.refuse(true);
        proxy.aim_at(key);
        proxy.cut_answers(1);
        let method = if body.is_some() { "PUT" } else { "DELETE" };
        let outcome = outcome_once_sent(&mut client, method, key, "", body.unwrap_or_default());
        assert_eq!(outcome, "504 outcome-unknown");
        assert_eq!(postgresql.database().value(key).as_deref(), body);
        // In doubt. Its reader still has a connection: the table is asked, every time.
        let now = |response: Response| (response.status == 200).then(|| response.text());
        for _ in 0..3 {
            let read = client.get(key);
            assert!(!is_hit(&read));
            assert_eq!(now(read).as_deref(), body);
        }
        assert_eq!(server.metric("hotrow_keys_in_doubt"), 1);
        proxy.refuse(false);
        wait_until("the doubt is over", || server.metric("hotrow_keys_in_doubt") == 0);
        assert_eq!(now(client.get(key)).as_deref(), body);
        let again = client.get(key);
        assert!(is_hit(&again));
        assert_eq!(now(again).as_deref(), body);
    }
}

#[test]
fn a_write_that_waits_for_too_long_in_a_living_database_is_settled_too() {
    let postgresql = Postgresql::start_new();
    let server = Server::start_on(&postgresql.database(), &["--request-timeout", "1s", "--db-writers", "1"]);
    let (mut holder, mut observer) = (postgresql.connect(), postgresql.connect());
    holder.batch_execute("BEGIN; LOCK TABLE kv_store IN SHARE MODE").unwrap();
    let (mut outcome, mut queued) = (String::new(), server.connect());
    wait_until("a write was sent", || {
        let mut sent = server.ask("PUT", "sent", "new");
        wait_until("it was sent", || has_met_a_lock(&mut observer) || sent.has_something());
        queued = server.ask("PUT", "queued", "new");
        outcome = sent.response().outcome();
        // Where this machine stood still, it was not.
        outcome != "503 not-started"
    });
    // PostgreSQL breaks the statement off, or the connection gives up first: both say the truth.
    assert!(["504 outcome-unknown", "503 database-refused"].contains(&outcome.as_str()), "{outcome}");
    let outcome = queued.response().outcome();
    let possible = ["503 not-started", "504 outcome-unknown", "503 database-refused"];
    assert!(possible.contains(&outcome.as_str()), "{outcome}");
    holder.batch_execute("ROLLBACK").unwrap();
    wait_until("nothing is under way", || server.metric("hotrow_keys_in_flight") == 0);
    for key in ["sent", "queued"] {
        let served = get_in_the_end(&mut server.connect(), key);
        assert_eq!((served.status == 200).then(|| served.text()), postgresql.database().value(key));
        wait_until("it can be written", || matches!(server.connect().put(key, "again").status, 200 | 201));
    }
}

#[test]
fn a_server_that_does_not_answer_is_given_up_until_it_does() {
    let postgresql = Postgresql::start_new();
    let flags = ["--request-timeout", "1s", "--db-readers", "1", "--db-writers", "1"];
    let server = Server::start_on(&postgresql.database(), &flags);
    let mut client = server.connect();
    put_in_the_end(&mut client, "k", "old");
    // Its kernel acknowledges whatever it is sent.
    let frozen = postgresql.freeze();
    is_read_in_vain(&mut client, "cold");
    assert_eq!(outcome_once_sent(&mut client, "PUT", "k", "", "new"), "504 outcome-unknown");
    wait_until("both workers have given it up", || {
        ["a reader has no database", "a writer has no database"]
            .iter()
            .all(|line| server.stderr().contains(line))
    });
    assert_eq!(client.get("other").outcome(), "503 database-down");
    assert_eq!(client.put("other", "value").outcome(), "503 database-down");
    // In doubt: what was there before may be gone when it wakes up.
    assert!(!is_hit(&client.get("k")));
    drop(frozen);
    wait_until("every worker has its database again", || !is_down(&server));
    wait_until("the doubt is over", || server.metric("hotrow_keys_in_doubt") == 0);
    assert_eq!(get_in_the_end(&mut client, "k").text(), postgresql.database().value("k").unwrap());
    put_in_the_end(&mut client, "k", "last");
    assert_eq!(client.get("k").text(), "last");
}

/// A server with one reader and one writer, whose database is reached through a socket file.
fn start_on_socket_file_of(postgresql: &Postgresql) -> Server {
    let mut database = postgresql.database();
    let folder = postgresql.cluster().parent().unwrap().display().to_string();
    database.url = database.url.replace("host=127.0.0.1", &format!("host='{folder}'"));
    Server::start_on(&database, &["--request-timeout", "1s", "--db-readers", "1", "--db-writers", "1"])
}

/// Waits until neither reads nor writes wait for the database.
fn is_refused_at_once(client: &mut Client) {
    let mut asked = 0;
    wait_until("reads are refused at once", || {
        // Another key each time: a read that is under way would be joined.
        asked += 1;
        client.get(&format!("cold-{asked}")).outcome() == "503 database-down"
    });
    wait_until("writes are refused at once", || client.put("polled", "v").outcome() == "503 database-down");
}

/// Through a socket file nothing ends a wait for a frozen server: but nobody else is made to wait for it.
#[test]
fn a_server_behind_a_socket_file_that_does_not_answer_is_as_good_as_none() {
    let postgresql = Postgresql::start_new();
    let server = start_on_socket_file_of(&postgresql);
    let mut client = server.connect();
    put_in_the_end(&mut client, "k", "old");
    let frozen = postgresql.freeze();
    is_read_in_vain(&mut client, "cold");
    assert_eq!(outcome_once_sent(&mut client, "PUT", "k", "", "new"), "504 outcome-unknown");
    // Reader and writer have not waited equally long.
    is_refused_at_once(&mut client);
    assert!(is_down(&server));
    assert!(is_hit(&client.get("k")), "hits go on");
    drop(frozen);
    wait_until("it is taken for there again", || !is_down(&server));
    put_in_the_end(&mut client, "other", "value");
    wait_until("both are logged", || {
        let log = server.stderr();
        log.contains("has not answered a statement") && log.contains("answers again")
    });
}

/// The look at a row before a write that depends on it is waited for like any statement.
#[test]
fn a_server_behind_a_socket_file_that_does_not_answer_a_look_is_as_good_as_none() {
    let postgresql = Postgresql::start_new();
    let server = start_on_socket_file_of(&postgresql);
    let mut client = server.connect();
    let condition = "If-Match: *\r\n";
    put_in_the_end(&mut client, "k", "old");
    wait_until("it is written", || client.request("PUT", "/kv/k", condition, b"new").status == 200);
    let frozen = postgresql.freeze();
    let outcome = outcome_once_sent(&mut client, "PUT", "k", condition, "newer");
    assert_eq!(outcome, "504 outcome-unknown");
    wait_until("writes are refused at once", || client.put("polled", "v").outcome() == "503 database-down");
    assert!(is_down(&server));
    drop(frozen);
    wait_until("it is taken for there again", || !is_down(&server));
    put_in_the_end(&mut client, "other", "value");
}

/// Ends every session of the server's, and waits until it is gone.
fn end_sessions(postgresql: &Postgresql) {
    let mut sql = postgresql.connect();
    let backends = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'hotrow/%'";
    let pids: Vec<i32> = sql.query(backends, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    sql.query("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", &[&pids]).unwrap();
    let left = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1)";
    wait_until("they are gone", || sql.query_one(left, &[&pids]).unwrap().get::<_, i64>(0) == 0);
}

#[test]
fn a_session_that_ends_is_replaced_without_a_failure_and_the_log_says_so() {
    let postgresql = Postgresql::start_new();
    let server = Server::start_on(&postgresql.database(), &["--db-readers", "1", "--db-writers", "1"]);
    let mut client = server.connect();
    assert_eq!((client.put("k", "v").status, client.get("absent").status), (201, 404));
    end_sessions(&postgresql);
    assert_eq!((client.put("k", "other").status, client.get("another").status), (200, 404));
    assert!(!is_down(&server));
    let says = |worker: &str| server.stderr().contains(&format!("a {worker}'s session had ended"));
    wait_until("both are logged", || says("writer") && says("reader"));
}

/// The kernel takes the connection, and nobody answers.
#[test]
fn a_server_that_freezes_before_a_worker_has_its_session_is_as_good_as_none() {
    let postgresql = Postgresql::start_new();
    let server = start_on_socket_file_of(&postgresql);
    let mut client = server.connect();
    put_in_the_end(&mut client, "k", "v");
    assert_eq!(client.get("absent").status, 404);
    // Both find that their sessions are gone when they are asked next.
    end_sessions(&postgresql);
    let frozen = postgresql.freeze();
    is_refused_at_once(&mut client);
    assert!(is_down(&server) && is_hit(&client.get("k")));
    drop(frozen);
    wait_until("it is taken for there again", || !is_down(&server));
    wait_until("writes are taken again", || client.put("other", "value").status < 300);
}

/// Where commits are acknowledged before they are on the disk, a crash takes the last of them back. The cache is not to keep them.
#[test]
fn what_a_crash_has_taken_back_is_not_served() {
    let postgresql = Postgresql::start_new();
    let server = Server::start_on(&postgresql.database(), &[]);
    let mut client = server.connect();
    // When its sessions are there already. Each by itself: not in a transaction.
    let mut sql = postgresql.connect();
    for setting in ["synchronous_commit = off", "wal_writer_delay = '10s'"] {
        sql.batch_execute(&format!("ALTER SYSTEM SET {setting}")).unwrap();
    }
    sql.batch_execute("SELECT pg_reload_conf()").unwrap();
    let is_behind = "SELECT pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn()";
    wait_until("commits are acknowledged before they are on the disk", || {
        assert!(client.put("kept", "v").status < 300);
        sql.query_one(is_behind, &[]).unwrap().get(0)
    });
    sql.batch_execute("CHECKPOINT").unwrap();
    let writer = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'";
    stand_still(sql.query_one(writer, &[]).unwrap().get::<_, i32>(0) as u32);
    assert_eq!(client.put("lost", "v").status, 201);
    assert!(is_hit(&client.get("lost")));
    assert!(postgresql.kill_a_backend());
    // Until somebody has found that out, hits are served.
    let mut asked = 0;
    wait_until("a reader has a database again", || {
        asked += 1;
        let is_read = client.get(&format!("cold-{asked}")).status == 404;
        is_read && server.stderr().contains("PostgreSQL has crashed and may have lost commits")
    });
    let table = postgresql.database();
    for key in ["lost", "kept"] {
        let served = client.get(key);
        let served = (served.status == 200).then(|| served.text());
        assert_eq!(served, table.value(key), "{key}");
    }
    assert_eq!(table.value("lost"), None, "the crash came too late to show anything");
}

/// FATAL means that a session has ended, and not that its last statement did nothing. Poolers say it in one field alone, or say ERROR
/// there; PostgreSQL has said it in two for long.
#[test]
fn what_a_pooler_says_of_a_server_that_it_has_lost_is_no_refusal() {
    let postgresql = Postgresql::start_new();
    let proxy = Proxy::start(postgresql.port);
    // From the beginning: whatever a worker asked before would be aimed at, too.
    proxy.aim_at("committed and not told");
    let server = Server::start_on(&Database::at(url_at(proxy.port)), &["--db-writers", "1"]);
    let mut client = server.connect();
    assert_eq!(client.put("k", "old").status, 201);
    let said = [
        "SFATAL\0C08P01\0Mserver conn crashed?\0\0",
        "SERROR\0C08006\0Mremote server read/write error\0\0",
        "SERROR\0VERROR\0C40003\0Mnobody knows whether it was done\0\0",
        "SERROR\0VERROR\0C08007\0Mnobody knows whether it was committed\0\0",
    ];
    for (round, fields) in said.into_iter().enumerate() {
        let error = [&b"E"[..], &(fields.len() as u32 + 4).to_be_bytes(), fields.as_bytes()].concat();
        proxy.say_instead(&error);
        proxy.cut_answers(1);
        // Sent again once the old backend is gone.
        let value = format!("committed and not told {round}");
        assert_eq!(client.put("k", &value).status, 200, "{fields:?}");
        assert!(proxy.is_harmless());
        let doubts = || server.stderr().matches("a commit of 1 keys was lost").count();
        wait_until("it was in doubt", || doubts() == round + 1);
        assert_eq!(client.get("k").text(), value);
    }
}

/// Whoever asked for it was told that nobody knows, and may have asked again.
#[test]
fn what_depends_on_its_row_is_not_begun_once_its_time_is_over() {
    let postgresql = Postgresql::start_new();
    let proxy = Proxy::start(postgresql.port);
    let server = Server::start_on(
        &Database::at(url_at(proxy.port)),
        &["--db-writers", "1", "--request-timeout", "1s"],
    );
    let mut client = server.connect();
    let add = |client: &mut Client| client.request("POST", "/kv/n?op=incr", "", b"");
    wait_until("it counts", || add(&mut client).status == 200);
    let counted = client.get("n").text();
    // The writer finds its session cut off, and the next one is not let in for longer than the request may take.
    let frozen = postgresql.freeze();
    proxy.cut_clients();
    let outcome = add(&mut client).outcome();
    assert!(["504 outcome-unknown", "503 not-started"].contains(&outcome.as_str()), "{outcome}");
    drop(frozen);
    wait_until("the writer has another session", || client.put("other", "v").status < 300);
    assert_eq!(postgresql.database().value("n").as_deref(), Some(counted.as_str()));
}

/// Nobody knows what becomes of what is sent; but that its writer looks for a session is no reason to say so.
#[test]
fn what_waits_for_the_session_of_its_writer_has_certainly_not_happened() {
    let postgresql = Postgresql::start_new();
    let proxy = Proxy::start(postgresql.port);
    let server = Server::start_on(
        &Database::at(url_at(proxy.port)),
        &["--db-writers", "1", "--request-timeout", "1s"],
    );
    let mut client = server.connect();
    let batch = br#"[{"op": "set", "key": "k", "value": "v"}]"#;
    let lines = br#"{"key": "k", "value": "v"}"#;
    for (method, target, fields, content) in [
        ("PUT", "/kv/k", "", &b"v"[..]),
        ("POST", "/kv/k?op=incr", "", b""),
        ("POST", "/batch", "", batch),
        ("PUT", "/kv", "Content-Type: application/x-ndjson\r\n", lines),
    ] {
        put_in_the_end(&mut client, "other", "v");
        let since = Instant::now();
        wait_until("the session is looked at before it is used", || {
            since.elapsed() > Duration::from_millis(200)
        });
        // There is none any more, and the next one is not let in for longer than the request may take.
        let frozen = postgresql.freeze();
        proxy.cut_clients();
        let answer = client.request(method, target, fields, content);
        assert_eq!(answer.status, 503, "{target}: {}", answer.text());
        drop(frozen);
    }
    put_in_the_end(&mut client, "other", "v");
    assert_eq!(postgresql.database().value("k"), None);
}

/// What is committed is committed, whatever becomes of the rest of its batch.
#[test]
fn an_addition_that_is_done_is_answered_while_another_write_of_its_batch_is_not() {
    let server = Server::start(&["--db-writers", "1", "--request-timeout", "20s"]);
    let mut client = server.connect();
    assert_eq!(client.request("POST", "/kv/a?op=incr", "", b"").status, 201);
    assert!(["b", "z"].iter().all(|key| client.put(key, "old").status == 201));
    let mut sql = server.database().connect();
    // Together they are refused, and alone one of them takes its time.
    sql.batch_execute(
        "CREATE SEQUENCE tries;
         CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.key = 'b' AND nextval('tries') = 1 THEN RAISE EXCEPTION 'not with others'; END IF;
            WHILE NEW.key <> 'a' AND NOT pg_try_advisory_xact_lock_shared(ascii(NEW.key)) LOOP
                PERFORM pg_sleep(0.005);
            END LOOP;
            RETURN NEW; END $$;
         CREATE TRIGGER hold BEFORE UPDATE ON kv_store FOR EACH ROW EXECUTE FUNCTION hold();
         SELECT pg_advisory_lock(ascii('z')), pg_advisory_lock(ascii('b'))",
    )
    .unwrap();
    let mut before = server.ask("PUT", "z", "new");
    let waits = "SELECT count(*)::text FROM pg_stat_activity
        WHERE wait_event = 'PgSleep' AND datname = current_database()";
    wait_until("the writer is busy", || server.database().text(waits, &[]).as_deref() == Some("1"));
    let (mut added, mut slow) = (server.connect(), server.connect());
    added.send(request("POST", "/kv/a?op=incr", "", b""));
    slow.send(request("PUT", "/kv/b", "If-Match: *\r\n", b"new"));
    wait_until("both are queued", || server.metric("hotrow_keys_in_flight") == 3);
    sql.batch_execute("SELECT pg_advisory_unlock(ascii('z'))").unwrap();
    assert_eq!(before.response().status, 200);
    assert_eq!(added.response().outcome(), "200");
    assert!(!slow.has_something());
    sql.batch_execute("SELECT pg_advisory_unlock(ascii('b'))").unwrap();
    assert_eq!(slow.response().status, 200);
    assert_eq!(client.get("a").text(), "2");
}
