//! Service while PostgreSQL is away, read-only or full: hits go on, the rest is refused at once and in words that help,
//! and when it is back everything works without anybody's help. What clients are told of writes that the outage
//! caught is held against the table. `faults.rs` does all this under load.

use crate::support::client::{Client, Response, request};
use crate::support::database::{Database, has_met_a_lock};
use crate::support::postgresql::{Postgresql, url_at};
use crate::support::proxy::Proxy;
use crate::support::{Server, wait_until};
use std::process::Command;

fn is_hit(response: &Response) -> bool {
    response.field("Cache-Status") == Some("hotrow; hit")
}

/// Sends a request and does not wait for its answer.
fn ask(server: &Server, method: &str, key: &str, body: &str) -> Client {
    let mut client = server.connect();
    client.send(request(method, &format!("/kv/{key}"), "", body.as_bytes()));
    client
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
    let mut caught = ask(&server, "PUT", "caught", "value");
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
    let server = Server::start_on(&postgresql.database(), &["--request-timeout", "25s", "--db-writers", "1"]);
    let mut client = server.connect();
    for (method, body, status) in [("PUT", "new", 200), ("DELETE", "", 204)] {
        assert!(matches!(client.put("sent", "old").status, 200 | 201));
        // What is sent next is the statement, and not its preparation.
        assert_eq!(client.delete("nothing").status, 404);
        let mut writes = postgresql.database().hold_writes();
        let mut sent = ask(&server, method, "sent", body);
        wait_until("it was sent", || writes.waiting() == 1);
        let mut queued = ask(&server, "PUT", "queued", "new");
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
    assert_eq!(server.connect().put("sent", "old").status, 201);
    let mut writes = postgresql.database().hold_writes();
    let mut sent = ask(&server, "PUT", "sent", "new");
    wait_until("it was sent", || writes.waiting() == 1);
    let mut queued = ask(&server, "PUT", "queued", "new");
    wait_until("it is queued", || server.metric("hotrow_keys_in_flight") == 2);
    postgresql.stop_immediately();
    assert_eq!(sent.response().outcome(), "504 outcome-unknown");
    // Refused when the outage was known: it certainly never happens.
    assert_eq!(queued.response().outcome(), "503 database-down");
    // In doubt: not even the old value is served from memory.
    let read = server.connect().get("sent");
    assert!(!is_hit(&read) && read.status >= 500, "{}", read.outcome());

    postgresql.start();
    wait_until("the doubt is over", || server.metric("hotrow_keys_in_doubt") == 0);
    let value = postgresql.database().value("sent").unwrap();
    assert!(["old", "new"].contains(&value.as_str()));
    assert_eq!(server.connect().get("sent").text(), value);
    assert_eq!(postgresql.database().value("queued"), None);
    assert_eq!(server.connect().get("queued").status, 404);
}

#[test]
fn what_an_unknown_write_has_left_is_served_and_not_what_was_before() {
    let postgresql = Postgresql::start_new();
    let proxy = Proxy::start(postgresql.port);
    let database = Database { url: url_at(proxy.port) };
    let server =
        Server::start_on(&database, &["--request-timeout", "5s", "--db-readers", "1", "--db-writers", "1"]);
    let mut client = server.connect();
    for (key, body) in [("put", Some("new")), ("deleted", None)] {
        assert_eq!(client.put(key, "old").status, 201);
        assert!(is_hit(&client.get(key)));
        assert_eq!(client.get(&format!("{key}-other")).status, 404, "the reader has a connection");
        if body.is_none() {
            // What is sent next is the statement, and not its preparation.
            assert_eq!(client.delete("nothing").status, 404);
        }
        // It is committed, the answer is lost, and hotrow cannot come back to ask in time.
        proxy.refuse(true);
        proxy.aim_at(key);
        proxy.cut_answers(1);
        let answer = match body {
            Some(body) => client.put(key, body),
            None => client.delete(key),
        };
        assert_eq!(answer.outcome(), "504 outcome-unknown");
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
    let mut sent = ask(&server, "PUT", "sent", "new");
    wait_until("it was sent", || has_met_a_lock(&mut observer) || sent.has_something());
    let mut queued = ask(&server, "PUT", "queued", "new");
    // PostgreSQL breaks the statement off, or the connection gives up first: both say the truth.
    let outcome = sent.response().outcome();
    assert!(["504 outcome-unknown", "503 database-refused"].contains(&outcome.as_str()), "{outcome}");
    let outcome = queued.response().outcome();
    let possible = ["503 not-started", "504 outcome-unknown", "503 database-refused"];
    assert!(possible.contains(&outcome.as_str()), "{outcome}");
    holder.batch_execute("ROLLBACK").unwrap();
    wait_until("nothing is under way", || server.metric("hotrow_keys_in_flight") == 0);
    for key in ["sent", "queued"] {
        let mut served = server.connect().get(key);
        wait_until("it is read in time", || {
            served = server.connect().get(key);
            served.status < 500
        });
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
    let mut put = ask(&server, "PUT", "k", "new");
    assert_eq!(client.get("cold").outcome(), "504 deadline-exceeded");
    assert_eq!(put.response().outcome(), "504 outcome-unknown");
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
    assert_eq!(client.get("k").text(), postgresql.database().value("k").unwrap());
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

/// A write that has its workers connect first, which may take longer on a busy machine than a request may here.
fn put_in_the_end(client: &mut Client, key: &str, value: &str) {
    wait_until("it is written", || client.put(key, value).status < 300);
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
    let mut put = ask(&server, "PUT", "k", "new");
    assert_eq!(client.get("cold").outcome(), "504 deadline-exceeded");
    assert_eq!(put.response().outcome(), "504 outcome-unknown");
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
    assert_eq!(client.request("PUT", "/kv/k", condition, b"new").status, 200);
    let frozen = postgresql.freeze();
    let outcome = client.request("PUT", "/kv/k", condition, b"newer").outcome();
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

/// What every kind of statement on one row leads to.
fn every_kind(client: &mut Client, key: &str) -> Vec<u16> {
    let target = format!("/kv/{key}");
    let batch = format!(
        r#"[{{"op":"set","key":"{key}","value":"a"}},{{"op":"delete","key":"{key}"}},{{"op":"get","key":"{key}"}}]"#
    );
    [
        client.put(key, "v"),
        client.request("GET", &target, "Cache-Control: no-cache\r\n", b""),
        client.request("PUT", &target, "If-Match: *\r\n", b"w"),
        client.delete(key),
        client.request("POST", "/batch?atomic=true", "Content-Type: application/json\r\n", batch.as_bytes()),
        client.request("GET", "/kv?prefix=", "", b""),
    ]
    .map(|response| response.status)
    .to_vec()
}

#[test]
fn a_statement_that_no_longer_fits_its_table_is_prepared_anew() {
    let server = Server::start(&["--db-readers", "1", "--db-writers", "1"]);
    let mut client = server.connect();
    let before = every_kind(&mut client, "before");
    assert_eq!(before, [201, 200, 200, 204, 200, 200]);
    for type_of_key in ["varchar(255) COLLATE \"C\"", "varchar(255) COLLATE \"default\""] {
        let sql = format!("ALTER TABLE kv_store ALTER COLUMN key TYPE {type_of_key}");
        server.database().execute(&sql, &[]);
        assert_eq!(every_kind(&mut client, "after"), before, "{sql}");
        assert!(!is_down(&server));
    }
    // It has come to that: both had to.
    let says = |worker: &str| server.stderr().contains(&format!("a {worker}'s session had ended"));
    wait_until("both have other sessions", || says("writer") && says("reader"));
    assert!(!server.stderr().contains("PostgreSQL refuse"), "{}", server.stderr());
}

/// A trigger may say of a row what PostgreSQL says of a statement that does not fit any more.
#[test]
fn what_every_session_is_told_of_a_statement_is_a_refusal() {
    let server = Server::start(&["--db-readers", "1", "--db-writers", "1"]);
    let mut client = server.connect();
    assert_eq!(every_kind(&mut client, "before"), [201, 200, 200, 204, 200, 200]);
    let mut sql = server.database().connect();
    sql.batch_execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE feature_not_supported USING MESSAGE = 'not here'; END $$;
         CREATE TRIGGER no BEFORE INSERT OR UPDATE OR DELETE ON kv_store FOR EACH STATEMENT EXECUTE FUNCTION no()",
    )
    .unwrap();
    for conditions in ["", "", "If-None-Match: *\r\n"] {
        let refused = client.request("PUT", "/kv/k", conditions, b"v");
        assert_eq!(refused.outcome(), "503 database-refused");
        assert!(refused.detail().contains("not here"), "{}", refused.detail());
    }
    wait_until("it is logged", || server.stderr().contains("PostgreSQL refuses writes"));
    sql.batch_execute("DROP TRIGGER no ON kv_store").unwrap();
    put_in_the_end(&mut client, "k", "v");
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

#[test]
fn a_read_only_database_is_told_and_recovers() {
    let postgresql = Postgresql::start_new();
    let server = Server::start_on(&postgresql.database(), &[]);
    let mut client = server.connect();
    put_in_the_end(&mut client, "k", "v");
    let mut sql = postgresql.connect();
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'hotrow/%'";
    sql.batch_execute("ALTER DATABASE postgres SET default_transaction_read_only = on").unwrap();
    sql.query_one(end, &[]).unwrap();
    let mut refused = client.put("k", "other");
    wait_until("it is refused for the right reason", || {
        refused = client.put("k", "other");
        refused.outcome() == "503 database-refused"
    });
    let detail = refused.detail();
    assert!(detail.contains("nothing was changed") && detail.contains("read-only"), "{detail}");
    assert_eq!(client.delete("k").outcome(), "503 database-refused");
    assert_eq!(client.get("k").text(), "v");
    sql.batch_execute("SET default_transaction_read_only = off").unwrap();
    sql.batch_execute("ALTER DATABASE postgres RESET default_transaction_read_only").unwrap();
    wait_until("it is written again", || client.put("k", "other").status == 200);
    assert_eq!(client.get("k").text(), "other");
}

/// A table that was there before may have such rows.
#[test]
fn a_row_that_holds_nothing_is_refused_alone() {
    let database = Database::new();
    let table =
        "CREATE TABLE kv_store (key text PRIMARY KEY, value text, created_at timestamp DEFAULT now());
                 INSERT INTO kv_store (key, value) VALUES ('a', 'text'), ('null', NULL), ('z', 'text')";
    database.connect().batch_execute(table).unwrap();
    let server = Server::start_on(&database, &["--db-readers", "1"]);
    let mut client = server.connect();
    for _ in 0..2 {
        let refused = client.get("null");
        assert_eq!(refused.outcome(), "503 database-refused");
        assert!(refused.detail().contains("the column value of kv_store is NULL"), "{}", refused.detail());
        assert_eq!(client.request("GET", "/kv/a", "Cache-Control: no-cache\r\n", b"").text(), "text");
    }
    let count = client.request("POST", "/kv/null?op=incr", "", b"");
    assert_eq!(count.outcome(), "503 database-refused");
    let list = client.request("GET", "/kv?prefix=&values=true", "", b"");
    assert_eq!(list.outcome(), "503 database-refused");
    assert_eq!(client.request("GET", "/kv?prefix=", "", b"").status, 200);
    let warned = || server.stderr().matches("a row cannot be read: the column value").count();
    wait_until("it is logged", || warned() > 0);
    assert_eq!(warned(), 1, "once: {}", server.stderr());
    // A write needs nothing of the row before.
    assert_eq!(client.put("null", "something").status, 200);
    assert_eq!(client.get("null").text(), "something");
    assert_eq!(client.request("GET", "/kv?prefix=&values=true", "", b"").status, 200);
}

#[test]
fn values_that_become_something_else_than_text_are_refused_and_recover() {
    let server = Server::start(&["--db-readers", "1", "--db-writers", "1"]);
    let mut client = server.connect();
    assert_eq!(every_kind(&mut client, "1"), [201, 200, 200, 204, 200, 200]);
    assert_eq!(client.put("k", "1").status, 201);
    let fresh = |client: &mut Client| client.request("GET", "/kv/k", "Cache-Control: no-cache\r\n", b"");
    let mut sql = server.database().connect();
    for kind in ["jsonb", "bytea"] {
        sql.batch_execute(&format!(
            "ALTER TABLE kv_store ALTER COLUMN value TYPE {kind} USING value::{kind}"
        ))
        .unwrap();
        for refused in [
            fresh(&mut client),
            fresh(&mut client),
            client.put("k", "1"),
            client.put("new", "1"),
            client.request("POST", "/kv/k?op=incr", "", b""),
            client.request("PUT", "/kv/k", "If-Match: *\r\n", b"2"),
            client.request("GET", "/kv?prefix=&values=true", "", b""),
        ] {
            assert_eq!(refused.outcome(), "503 database-refused", "{kind}: {}", refused.detail());
        }
        let detail = fresh(&mut client).detail();
        assert!(detail.contains(&format!("the column value of kv_store is of type {kind}")), "{detail}");
        let back = if kind == "jsonb" { "value #>> '{}'" } else { "convert_from(value, 'UTF8')" };
        sql.batch_execute(&format!("ALTER TABLE kv_store ALTER COLUMN value TYPE text USING {back}"))
            .unwrap();
        assert_eq!(fresh(&mut client).text(), "1", "{kind}");
        assert_eq!(client.put("k", "1").status, 200, "{kind}");
    }
    wait_until("it is logged", || server.stderr().contains("PostgreSQL refuses reads: the column value"));
}

#[test]
fn a_missing_right_is_told_and_recovers() {
    let postgresql = Postgresql::start_new();
    let mut sql = postgresql.connect();
    let first = Server::start_on(&postgresql.database(), &[]);
    assert_eq!(first.connect().put("k", "v").status, 201);
    sql.batch_execute("CREATE ROLE weak LOGIN; GRANT SELECT ON kv_store, hotrow_migrations TO weak").unwrap();
    let mut database = postgresql.database();
    database.url = database.url.replace("user=hotrow", "user=weak");
    let server = Server::start_on(&database, &[]);
    let mut client = server.connect();
    assert_eq!(client.get("k").text(), "v");
    for refused in [client.put("k", "other"), client.delete("k")] {
        assert_eq!(refused.outcome(), "503 database-refused");
        assert!(refused.detail().contains("permission denied"), "{}", refused.detail());
    }
    assert_eq!(client.get("k").text(), "v");
    sql.batch_execute("GRANT INSERT, UPDATE, DELETE ON kv_store TO weak").unwrap();
    assert_eq!(client.put("k", "other").status, 200);
}

/// COPY is not for tables with row security, and PostgreSQL says so at a moment that leaves a session out of step.
#[test]
fn loads_go_into_a_table_with_row_security() {
    let postgresql = Postgresql::start_new();
    let mut sql = postgresql.connect();
    let first = Server::start_on(&postgresql.database(), &[]);
    assert_eq!(first.connect().put("k", "v").status, 201);
    let rules = "CREATE ROLE ruled LOGIN; GRANT ALL ON kv_store, hotrow_migrations TO ruled;
                 ALTER TABLE kv_store ENABLE ROW LEVEL SECURITY;
                 CREATE POLICY most ON kv_store USING (true) WITH CHECK (key <> 'forbidden')";
    sql.batch_execute(rules).unwrap();
    let mut database = postgresql.database();
    database.url = database.url.replace("user=hotrow", "user=ruled");
    let server = Server::start_on(&database, &[]);
    let mut client = server.connect();
    for round in 0..3 {
        let lines: String =
            (0..10).map(|i| format!("{{\"key\":\"{round}-{i}\",\"value\":\"v\"}}\n")).collect();
        let loaded = client.request("PUT", "/kv", "Content-Type: application/x-ndjson\r\n", lines.as_bytes());
        assert_eq!(loaded.status, 200, "{}", loaded.text());
        assert!(loaded.text().contains("\"written\":10"), "{}", loaded.text());
        assert_eq!(client.put(&format!("put-{round}"), "v").status, 201);
    }
    // What is refused of the whole statement before it takes a row is a refusal, and the session after it is another one.
    let trigger =
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today'; END $$;
                   ALTER TABLE kv_store DISABLE ROW LEVEL SECURITY;
                   CREATE TRIGGER no BEFORE INSERT ON kv_store FOR EACH STATEMENT EXECUTE FUNCTION no()";
    sql.batch_execute(trigger).unwrap();
    let server = Server::start_on(&database, &[]);
    let mut client = server.connect();
    let line = b"{\"key\":\"a\",\"value\":\"v\"}\n";
    let loaded = client.request("PUT", "/kv", "Content-Type: application/x-ndjson\r\n", line);
    assert!(loaded.text().contains("not today"), "{} {}", loaded.status, loaded.text());
    assert_eq!(client.put("a", "v").outcome(), "503 database-refused");
    sql.batch_execute("DROP TRIGGER no ON kv_store").unwrap();
    assert_eq!(client.put("a", "v").status, 201);
}

/// Unmounts when it is dropped.
struct Mount(std::path::PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        // Even if somebody still has a file of it open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_told_and_recovers() {
    let postgresql = Postgresql::start_new();
    // The table on a disk of its own, a small one.
    let place = postgresql.cluster().parent().unwrap().join("small-disk");
    std::fs::create_dir(&place).unwrap();
    let owner = hotrow::store::managed::binaries::owner().unwrap();
    let options =
        owner.map_or("size=4m".to_owned(), |o| format!("size=4m,mode=700,uid={},gid={}", o.uid, o.gid));
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&place).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        println!("not shown: only root may mount a small disk");
        return;
    }
    let mount = Mount(place.clone());
    let server = Server::start_on(&postgresql.database(), &["--cache-bytes", "0"]);
    let mut sql = postgresql.connect();
    sql.batch_execute(&format!("CREATE TABLESPACE small LOCATION '{}'", place.display())).unwrap();
    sql.batch_execute("ALTER TABLE kv_store SET TABLESPACE small").unwrap();
    // Neither compressed nor small enough to find room in a page that is there.
    sql.batch_execute("ALTER TABLE kv_store ALTER value SET STORAGE EXTERNAL").unwrap();
    let mut client = server.connect();
    let value = crate::support::random_text(100_000, 1);
    let mut stored = 0;
    let refused = loop {
        let response = client.put(&format!("k{stored}"), &value);
        if response.status != 201 {
            break response;
        }
        stored += 1;
        assert!(stored < 100, "the disk is never full");
    };
    assert_eq!(refused.outcome(), "503 database-refused");
    let detail = refused.detail();
    assert!(detail.contains("nothing was changed") && detail.contains("No space left"), "{detail}");
    assert_eq!(client.get(&format!("k{stored}")).status, 404);
    for i in 0..stored {
        assert_eq!(client.get(&format!("k{i}")).text(), value, "what was acknowledged is there");
    }
    // Room is made.
    assert!(Command::new("mount").args(["-o", "remount,size=64m"]).arg(&mount.0).status().unwrap().success());
    assert_eq!(client.put(&format!("k{stored}"), &value).status, 201);
}

#[test]
fn a_write_that_ends_its_backend_is_sent_a_few_times_and_no_more() {
    let server = Server::start(&["--db-writers", "1"]);
    // Numbers of a sequence are used up, whatever becomes of their transaction.
    let trigger = "CREATE SEQUENCE times;
        CREATE FUNCTION kill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.value = 'boom' THEN
                PERFORM nextval('times'), pg_terminate_backend(pg_backend_pid());
                PERFORM pg_sleep(60);
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER kill BEFORE INSERT OR UPDATE ON kv_store FOR EACH ROW EXECUTE FUNCTION kill()";
    server.database().connect().batch_execute(trigger).unwrap();
    server.database().insert("gone", "old");
    let times = || server.database().text("SELECT last_value::text FROM times", &[]).unwrap();
    let mut client = server.connect();
    assert_eq!(client.put("boom", "boom").outcome(), "504 outcome-unknown");
    assert_eq!(times(), "2", "once more, for an outage would have been over");
    // In one statement with others, which do not suffer for it.
    let writes = server.database().hold_writes();
    let mut first = ask(&server, "PUT", "first", "value");
    wait_until("it is under way", || server.metric("hotrow_keys_in_flight") == 1);
    let mut others: Vec<Client> =
        (0..6).map(|n| ask(&server, "PUT", &format!("boom-{n}"), "value")).collect();
    let mut deleting = ask(&server, "DELETE", "gone", "");
    let mut killing = ask(&server, "PUT", "boom-3-and-a-half", "boom");
    wait_until("they wait", || server.metric("hotrow_keys_in_flight") == 9);
    writes.release();
    assert_eq!(first.response().status, 201);
    for other in &mut others {
        assert!(matches!(other.response().status, 200 | 201));
    }
    assert_eq!(deleting.response().status, 204);
    assert_eq!(killing.response().outcome(), "504 outcome-unknown");
    assert_eq!(times(), "5", "twice with the others, and once alone");
    // Nothing is in doubt for longer than it has to be.
    assert_eq!(["boom", "boom-3-and-a-half"].map(|key| client.get(key).status), [404, 404]);
    assert_eq!((server.metric("hotrow_keys_in_doubt"), client.put("boom", "fine").status), (0, 201));
}
