//! What PostgreSQL refuses, be it one row, every write or a whole statement: its client is told why, the others do not suffer
//! for it, and when the reason is gone nobody has to help.

use crate::support::client::{Client, request};
use crate::support::database::Database;
use crate::support::postgresql::Postgresql;
use crate::support::{Server, left_out, put_in_the_end, wait_until};
use hotrow::limits::BATCH_OUTCOME_BYTES;
use serde_json::{Value, json};
use std::process::Command;
use std::time::Instant;

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
        assert_eq!(server.metric("hotrow_database_up"), 1);
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

/// A cast says all of what it was given.
#[test]
fn what_postgresql_says_of_a_row_is_short_whatever_is_in_it() {
    const STEPS: usize = 100;
    let server = Server::start(&["--db-writers", "1"]);
    let mut client = server.connect();
    server.database().execute("ALTER TABLE kv_store ADD CHECK (value::int > 0)", &[]);
    let long = "x\n".repeat(50_000);
    for fields in ["", "If-None-Match: *\r\n"] {
        let refused = client.request("PUT", "/kv/k", fields, long.as_bytes());
        assert_eq!(refused.outcome(), "503 database-refused");
        let detail = refused.detail();
        assert!(detail.contains("invalid input syntax for type integer: \"x x"), "{detail:.200}");
        assert!(detail.ends_with("(SQLSTATE 22P02)") && !detail.contains('\n'), "{detail:.200}");
        assert!(refused.body.len() < 2_000, "{} bytes", refused.body.len());
    }
    // Each of these is two bytes in JSON.
    let long = "\"".repeat(100_000);
    let steps: Vec<_> = (0..STEPS)
        .map(|step| {
            let value = if step == 0 { &long } else { "1" };
            serde_json::json!({"op": "set", "key": format!("k{step}"), "value": value})
        })
        .collect();
    for query in ["", "?atomic=true"] {
        let content = serde_json::to_vec(&steps).unwrap();
        let answer = client.request("POST", &format!("/batch{query}"), "", &content);
        assert!(answer.text().contains("invalid input syntax for type integer"), "{:.200}", answer.text());
        assert!(answer.body.len() < STEPS * BATCH_OUTCOME_BYTES, "{} bytes", answer.body.len());
    }
    assert!(server.stderr().len() < 20_000, "{} bytes are logged", server.stderr().len());
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
    // Another session may take writes. But none is made for each of them.
    let others = || server.stderr().matches("a writer's session had ended").count();
    let (before, began) = (others(), Instant::now());
    for _ in 0..100 {
        assert_eq!(client.put("k", "other").outcome(), "503 database-refused");
    }
    let made = others() - before;
    assert!(made as u64 <= began.elapsed().as_secs() + 1, "{made} in {:?}", began.elapsed());
    let expired =
        "INSERT INTO kv_store (key, value, expires_at) VALUES ('expired', '', now() - interval '1 hour')";
    sql.batch_execute(expired).unwrap();
    wait_until("the sweeper is refused, too", || {
        server.stderr().contains("PostgreSQL refuses the deletion of a row past its time")
    });
    sql.batch_execute("SET default_transaction_read_only = off").unwrap();
    sql.batch_execute("ALTER DATABASE postgres RESET default_transaction_read_only").unwrap();
    wait_until("it is written again", || client.put("k", "other").status == 200);
    assert_eq!(client.get("k").text(), "other");
    wait_until("it is swept", || server.metric("hotrow_rows_swept_total") == 1);
}

/// A full disk refuses every row, and each by itself would be as many statements as there are rows.
#[test]
fn what_the_server_refuses_to_sweep_is_not_tried_for_each() {
    let server = Server::start(&[]);
    let rows = "CREATE SEQUENCE times;
        CREATE FUNCTION mind() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF OLD.value = 'full' THEN
                PERFORM nextval('times');
                RAISE disk_full USING MESSAGE = 'no room';
            END IF;
            RETURN OLD;
        END $$;
        CREATE TRIGGER mind BEFORE DELETE ON kv_store FOR EACH ROW EXECUTE FUNCTION mind();
        INSERT INTO kv_store (key, value, expires_at)
            SELECT 'full' || i, 'full', now() - interval '2 h' + i * interval '1 ms' FROM generate_series(1, 500) AS i
            UNION ALL SELECT 'free' || i, '', now() - interval '1 h' FROM generate_series(1, 10) AS i";
    server.database().connect().batch_execute(rows).unwrap();
    wait_until("the others are swept", || server.metric("hotrow_rows_swept_total") == 10);
    // Together, and two alone; then the last of them once more, with the others and alone.
    let times = server.database().text("SELECT last_value::text FROM times", &[]).unwrap();
    assert!(times.parse::<u32>().unwrap() <= 8, "{times} statements");
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
    // One row that the policy refuses is that row's matter alone.
    let lines: String =
        ["a", "forbidden", "z"].map(|key| format!("{{\"key\":\"{key}\",\"value\":\"v\"}}\n")).concat();
    let loaded = client.request("PUT", "/kv", "Content-Type: application/x-ndjson\r\n", lines.as_bytes());
    assert_eq!(loaded.status, 200, "{}", loaded.text());
    assert!(
        loaded.text().contains("\"written\":2,\"failed\":1,\"errors\":[{\"line\":2"),
        "{}",
        loaded.text()
    );
    assert_eq!(["a", "forbidden", "z"].map(|key| client.get(key).status), [200, 404, 200]);
    sql.batch_execute("DELETE FROM kv_store WHERE key = 'a'").unwrap();
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
        return left_out("a full disk", "only root may mount a small one, and not everywhere");
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
    let mut first = server.ask("PUT", "first", "value");
    wait_until("it is under way", || server.metric("hotrow_keys_in_flight") == 1);
    let mut others: Vec<Client> = (0..6).map(|n| server.ask("PUT", &format!("boom-{n}"), "value")).collect();
    let mut deleting = server.ask("DELETE", "gone", "");
    let mut killing = server.ask("PUT", "boom-3-and-a-half", "boom");
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

#[test]
fn a_row_that_the_server_refuses_is_refused_alone() {
    let server = Server::start(&["--db-writers", "1"]);
    refused_alone(&server, "internal_error");
    let warned = || server.stderr().matches("PostgreSQL refuses writes: not this one").count();
    wait_until("it is logged", || warned() > 0);
    assert_eq!(warned(), 1, "once: {}", server.stderr());
}

/// Who sees to it by a trigger that nobody overwrites what he has not read says so, and to try again does not help.
#[test]
fn a_row_that_is_broken_off_each_time_is_refused_alone() {
    let server = Server::start(&["--db-writers", "1"]);
    refused_alone(&server, "serialization_failure");
    assert!(!server.stderr().contains("PostgreSQL refuses writes"), "{}", server.stderr());
}

/// So are many of them in a batch. To try each as often as one that may be done at another try would take all the time of a request.
#[test]
fn many_rows_that_are_broken_off_each_time_cost_a_batch_few_statements() {
    let server = Server::start(&["--db-writers", "1"]);
    mind(&server, "serialization_failure");
    let set = |at| json!({"op": "set", "key": format!("{at:03}"), "value": if at % 2 == 0 { "good" } else { "bad" }});
    let operations: Value = (0..256).map(set).collect();
    let answer = server.connect().request("POST", "/batch", "", operations.to_string().as_bytes());
    let items: Value = serde_json::from_slice(&answer.body).unwrap();
    let statuses: Vec<u64> =
        items["items"].as_array().unwrap().iter().map(|item| item["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [201, 503].repeat(128));
    let cost = server.metric("hotrow_database_statement_seconds_count{worker=\"writer\"}");
    assert!(cost < 500, "{cost} statements");
}

/// Rows that are bad a trigger raises this for.
fn mind(server: &Server, condition: &str) {
    let trigger = format!(
        "CREATE FUNCTION mind() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.value = 'bad' THEN RAISE {condition} USING MESSAGE = 'not this one'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER mind BEFORE INSERT OR UPDATE ON kv_store FOR EACH ROW EXECUTE FUNCTION mind()"
    );
    server.database().connect().batch_execute(&trigger).unwrap();
}

/// Puts some rows that a trigger raises this for among others.
fn refused_alone(server: &Server, condition: &str) {
    mind(server, condition);
    // Plain writes, and those that are judged first: what waits behind one that is held is one batch.
    for fields in ["", "If-None-Match: *\r\n"] {
        let mut writes = server.database().hold_writes();
        let put = |key: &str, value: &str| {
            let mut client = server.connect();
            client.send(request("PUT", &format!("/kv/{key}-{}", fields.len()), fields, value.as_bytes()));
            client
        };
        let mut first = put("first", "good");
        wait_until("it was sent", || writes.waiting() == 1);
        // In the middle, and two at the end.
        let values = ["good", "good", "bad", "good", "good", "good", "bad", "bad"];
        let mut clients: Vec<Client> =
            values.iter().enumerate().map(|(at, value)| put(&at.to_string(), value)).collect();
        wait_until("they wait", || server.metric("hotrow_keys_in_flight") == 9);
        writes.release();
        assert_eq!(first.response().status, 201);
        for (client, value) in clients.iter_mut().zip(values) {
            let response = client.response();
            if value == "good" {
                assert_eq!(response.status, 201, "{}", response.text());
            } else {
                assert_eq!(response.outcome(), "503 database-refused");
                assert!(response.detail().contains("not this one"), "{}", response.detail());
            }
        }
    }
}

/// Each by itself would be as many statements as there are rows, all for nothing.
#[test]
fn what_the_server_refuses_of_everybody_is_not_tried_for_each() {
    let server = Server::start(&["--db-writers", "1"]);
    let trigger = "CREATE SEQUENCE times;
        CREATE FUNCTION mind() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.value = 'held' THEN RETURN NEW; END IF;
            PERFORM nextval('times');
            RAISE disk_full USING MESSAGE = 'no room';
        END $$;
        CREATE TRIGGER mind BEFORE INSERT OR UPDATE ON kv_store FOR EACH ROW EXECUTE FUNCTION mind()";
    server.database().connect().batch_execute(trigger).unwrap();
    let mut writes = server.database().hold_writes();
    let mut first = server.ask("PUT", "first", "held");
    wait_until("it was sent", || writes.waiting() == 1);
    let mut others: Vec<Client> = (0..8).map(|n| server.ask("PUT", &n.to_string(), "value")).collect();
    wait_until("they wait", || server.metric("hotrow_keys_in_flight") == 9);
    writes.release();
    assert_eq!(first.response().status, 201);
    for other in &mut others {
        let refused = other.response();
        assert_eq!(refused.outcome(), "503 database-refused");
        assert!(refused.detail().contains("no room"), "{}", refused.detail());
    }
    // Numbers of a sequence are used up, whatever becomes of their transaction.
    let times = server.database().text("SELECT last_value::text FROM times", &[]).unwrap();
    assert_eq!(times, "3", "once together, and two alone");
}

/// What is acknowledged is judged by rows as they are, and not as they were when a transaction began.
#[test]
fn the_isolation_that_a_database_is_set_to_is_not_that_of_our_sessions() {
    let database = Database::new();
    let name = database.text("SELECT current_database()::text", &[]).unwrap();
    let set = format!("ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'");
    database.connect().batch_execute(&set).unwrap();
    let server = Server::start_on(&database, &[]);
    let tell = "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN NEW.value := current_setting('transaction_isolation'); RETURN NEW; END $$;
        CREATE TRIGGER tell BEFORE INSERT ON kv_store FOR EACH ROW EXECUTE FUNCTION tell()";
    database.connect().batch_execute(tell).unwrap();
    assert_eq!(server.connect().put("k", "").status, 201);
    assert_eq!(database.value("k").as_deref(), Some("read committed"));
}
