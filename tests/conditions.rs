//! Requests that ask for more than a key: conditions, directives about the cache, preferences, times to live, counters,
//! and waiting for a change. The plain ones are in `data_path.rs`.

use crate::support::client::Response;
use crate::support::process::connections_allowed;
use crate::support::{Client, Server, wait_until};
use postgres::types::ToSql;
use std::thread;

const CLIENTS: usize = 64;

fn cache_status(response: &Response) -> &str {
    response.field("Cache-Status").expect("every answer to a read says where it is from")
}

/// A GET with these field lines.
fn get(client: &mut Client, key: &str, fields: &str) -> Response {
    client.request("GET", &format!("/kv/{key}"), fields, b"")
}

/// The tag of a key as it is cached.
fn tag(client: &mut Client, key: &str) -> String {
    format!("\"{}\"", client.get(key).version())
}

#[test]
fn a_client_that_has_the_row_is_told_so_and_gets_no_copy() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.put("k", "value");
    let tag = tag(&mut client, "k");
    for fields in [
        format!("If-None-Match: {tag}\r\n"),
        format!("If-None-Match: \"other\", W/{tag}\r\n"),
        format!("If-None-Match: \"other\"\r\nIf-None-Match: {tag}\r\n"),
        "If-None-Match: *\r\n".to_owned(),
        format!("If-Match: {tag}\r\nIf-None-Match: {tag}\r\n"),
    ] {
        for method in ["GET", "HEAD"] {
            let answer = client.request(method, "/kv/k", &fields, b"");
            assert_eq!((answer.status, answer.body.as_slice()), (304, &b""[..]), "{fields}");
            assert_eq!((answer.field("ETag"), cache_status(&answer)), (Some(tag.as_str()), "hotrow; hit"));
            assert_eq!(answer.field("Content-Length"), None);
        }
    }
    for (fields, outcome) in [
        ("If-None-Match: \"1\"\r\n".to_owned(), "200"),
        (format!("If-Match: {tag}\r\n"), "200"),
        ("If-Match: *\r\n".to_owned(), "200"),
        ("If-Match: \"1\"\r\n".to_owned(), "412 precondition-failed"),
        (format!("If-Match: W/{tag}\r\n"), "412 precondition-failed"),
        ("If-None-Match: 5\r\n".to_owned(), "400 bad-condition"),
        ("If-Match: *, \"5\"\r\n".to_owned(), "400 bad-condition"),
    ] {
        assert_eq!(get(&mut client, "k", &fields).outcome(), outcome, "{fields}");
    }
    assert_eq!(get(&mut client, "none", "If-None-Match: \"1\"\r\n").outcome(), "404 key-not-found");
    assert_eq!(get(&mut client, "none", "If-Match: *\r\n").outcome(), "412 precondition-failed");
    // Read from the database, the same: another server's client put it there.
    let server = Server::start_on(server.database(), &[]);
    let answer = get(&mut server.connect(), "k", &format!("If-None-Match: {tag}\r\n"));
    assert_eq!((answer.status, cache_status(&answer)), (304, "hotrow; fwd=miss"));
}

/// RFC 9110 section 13.2.1: where nothing is selected by it, a condition is ignored, whatever it says.
#[test]
fn a_condition_of_what_has_none_is_ignored() {
    let server = Server::start(&[]);
    let (mut data, mut admin) = (server.connect(), server.connect_admin());
    data.put("k", "v");
    for (operations, method, target, status) in [
        (false, "OPTIONS", "/kv/k", 204),
        (false, "OPTIONS", "*", 204),
        (false, "GET", "/kv?prefix=", 200),
        (false, "GET", "/kv?key=k&key=none", 200),
        (false, "GET", "/openapi.json", 200),
        (true, "GET", "/livez", 200),
        (true, "OPTIONS", "*", 204),
    ] {
        let client = if operations { &mut admin } else { &mut data };
        for fields in ["If-None-Match: 5\r\n", "If-Match: *, \"5\"\r\n", "If-None-Match: *\r\n", ""] {
            assert_eq!(
                client.request(method, target, fields, b"").status,
                status,
                "{method} {target} {fields}"
            );
        }
    }
    // Where it counts, one that makes no sense is refused: the write would go through without it.
    for (method, target, content) in [
        ("PUT", "/kv/k", "w"),
        ("DELETE", "/kv/k", ""),
        ("POST", "/kv/k?op=incr", ""),
        ("POST", "/batch", "[]"),
    ] {
        let refused = data.request(method, target, "If-None-Match: 5\r\n", content.as_bytes());
        assert_eq!(refused.outcome(), "400 bad-condition", "{method} {target}");
    }
    assert_eq!(data.get("k").text(), "v");
}

#[test]
fn a_write_under_a_condition_is_judged_by_the_table_and_not_by_the_cache() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let put = |client: &mut Client, fields: &str, value: &str| {
        client.request("PUT", "/kv/k", fields, value.as_bytes()).outcome()
    };
    assert_eq!(put(&mut client, "If-Match: *\r\n", "a"), "412 precondition-failed");
    assert_eq!(put(&mut client, "If-None-Match: *\r\n", "a"), "201");
    assert_eq!(put(&mut client, "If-None-Match: *\r\n", "b"), "412 precondition-failed");
    assert_eq!(client.get("k").text(), "a");
    let old = tag(&mut client, "k");
    assert_eq!(put(&mut client, &format!("If-Match: {old}\r\n"), "c"), "200");
    assert_eq!(put(&mut client, &format!("If-Match: {old}\r\n"), "d"), "412 precondition-failed");
    assert_eq!(put(&mut client, &format!("If-None-Match: {old}\r\n"), "e"), "200");
    assert_eq!(put(&mut client, "If-Match: *\r\n", "f"), "200");
    // Another program writes the row: what is cached is old, and no condition is met by it.
    let cached = tag(&mut client, "k");
    server.database().execute("UPDATE kv_store SET value = 'theirs' WHERE key = 'k'", &[]);
    assert_eq!(tag(&mut client, "k"), cached, "it is cached");
    assert_eq!(put(&mut client, &format!("If-Match: {cached}\r\n"), "g"), "412 precondition-failed");
    let delete = |client: &mut Client, fields: &str| client.request("DELETE", "/kv/k", fields, b"").outcome();
    assert_eq!(delete(&mut client, &format!("If-Match: {cached}\r\n")), "412 precondition-failed");
    assert_eq!(server.database().value("k").as_deref(), Some("theirs"));
    let theirs = get(&mut client, "k", "Cache-Control: no-cache\r\n");
    assert_eq!(theirs.text(), "theirs");
    assert_eq!(delete(&mut client, &format!("If-Match: \"{}\"\r\n", theirs.version())), "204");
    assert_eq!(delete(&mut client, "If-Match: *\r\n"), "412 precondition-failed");
    assert_eq!((client.get("k").status, server.database().value("k")), (404, None));
}

/// A client that is refused reads the row again, takes its tag and tries with that: it must not be refused for ever.
#[test]
fn a_write_that_was_refused_for_another_programs_row_does_not_leave_the_old_one_cached() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let sql = |sql: &str| server.database().execute(sql, &[]);
    client.put("k", "ours");
    let cached = tag(&mut client, "k");
    sql("UPDATE kv_store SET value = 'theirs' WHERE key = 'k'");
    let put = |client: &mut Client, tag: &str| {
        client.request("PUT", "/kv/k", &format!("If-Match: {tag}\r\n"), b"new").outcome()
    };
    assert_eq!(put(&mut client, &cached), "412 precondition-failed");
    let read = client.get("k");
    assert_eq!((read.text().as_str(), cache_status(&read)), ("theirs", "hotrow; fwd=miss"));
    let theirs = tag(&mut client, "k");
    assert_eq!(put(&mut client, "\"1\""), "412 precondition-failed");
    assert_eq!(cache_status(&client.get("k")), "hotrow; hit", "the row that was found is the cached one");
    assert_eq!(put(&mut client, &theirs), "200");
    // What is known to be absent, and is not, is the same.
    assert_eq!(client.get("other").status, 404);
    sql("INSERT INTO kv_store (key, value) VALUES ('other', 'no number')");
    assert_eq!(client.request("PUT", "/kv/other", "If-None-Match: *\r\n", b"").status, 412);
    assert_eq!(client.get("other").text(), "no number");
    // And so is a row that is gone, and one that cannot be added to, or is only read in a batch.
    sql("DELETE FROM kv_store WHERE key = 'other'");
    assert_eq!(client.request("PUT", "/kv/other", "If-Match: *\r\n", b"").status, 412);
    assert_eq!(client.get("other").status, 404);
    client.put("n", "1");
    sql("UPDATE kv_store SET value = 'one' WHERE key = 'n'");
    assert_eq!(client.request("POST", "/kv/n?op=incr", "", b"").status, 409);
    assert_eq!(client.get("n").text(), "one");
    sql("UPDATE kv_store SET value = 'two' WHERE key = 'n'");
    let batch = client.request("POST", "/batch", "", br#"[{"op":"get","key":"n"}]"#);
    assert!(batch.text().contains("two"), "{}", batch.text());
    assert_eq!(client.get("n").text(), "two");
}

#[test]
fn no_update_is_lost_between_compare_and_swaps() {
    const EACH: usize = 4;
    let server = Server::start(&["--event-loops", "2"]);
    server.connect().put("n", "0");
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = server.connect();
                for _ in 0..EACH {
                    loop {
                        let read = client.get("n");
                        let next = read.text().parse::<u64>().unwrap() + 1;
                        let fields = format!("If-Match: \"{}\"\r\n", read.version());
                        match client.request("PUT", "/kv/n", &fields, next.to_string().as_bytes()).status {
                            200 => break,
                            412 => {}
                            other => panic!("{other}"),
                        }
                    }
                }
            });
        }
    });
    let total = (CLIENTS * EACH).to_string();
    assert_eq!(server.database().value("n"), Some(total.clone()));
    assert_eq!(server.connect().get("n").text(), total);
}

#[test]
fn no_count_is_lost_between_additions() {
    const EACH: usize = 50;
    let server = Server::start(&["--event-loops", "2"]);
    let add = |client: &mut Client, key: &str, by: &str| {
        client.request("POST", &format!("/kv/{key}?op=incr{by}"), "", b"")
    };
    let mut numbers = Vec::new();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = server.connect();
                    let mut one = || add(&mut client, "n", "").text().parse::<u64>().unwrap();
                    (0..EACH).map(|_| one()).collect::<Vec<u64>>()
                })
            })
            .collect();
        numbers.extend(clients.into_iter().flat_map(|client| client.join().unwrap()));
    });
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=(CLIENTS * EACH) as u64).collect::<Vec<_>>(), "every number once");
    assert_eq!(server.database().value("n"), Some(numbers.len().to_string()));

    let mut client = server.connect();
    assert_eq!(client.get("n").text(), numbers.len().to_string());
    let created = add(&mut client, "new", "&by=-5");
    assert_eq!(
        (created.status, created.text().as_str(), created.field("Location")),
        (201, "-5", Some("/kv/new"))
    );
    assert_eq!(created.version(), client.get("new").version());
    let added = add(&mut client, "new", "&by=9223372036854775807");
    assert_eq!((added.status, added.text().as_str()), (200, "9223372036854775802"));
    assert_eq!(add(&mut client, "new", "&by=9223372036854775807").outcome(), "409 not-a-number");
    client.put("text", "seven");
    assert_eq!(add(&mut client, "text", "").outcome(), "409 not-a-number");
    assert_eq!(client.get("text").text(), "seven");
    for query in ["?op=decr", "?op=incr&by=1.5", "?op=incr&by=", "?by=2", "?op=incr&op=incr"] {
        let answer = client.request("POST", &format!("/kv/n{query}"), "", b"");
        assert_eq!(answer.outcome(), "400 bad-query", "{query}");
    }
    assert_eq!(client.request("POST", "/kv/n", "", b"").outcome(), "405 method-not-allowed");
    let tag = tag(&mut client, "new");
    let stale = client.request("POST", "/kv/new?op=incr", "If-Match: \"1\"\r\n", b"");
    assert_eq!(stale.outcome(), "412 precondition-failed");
    let fresh = client.request("POST", "/kv/new?op=incr", &format!("If-Match: {tag}\r\n"), b"");
    assert_eq!((fresh.status, fresh.text().as_str()), (200, "9223372036854775803"));
}

#[test]
fn a_directive_says_what_of_the_cache_may_answer() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.put("k", "ours");
    server.database().execute("UPDATE kv_store SET value = 'theirs' WHERE key = 'k'", &[]);
    let mut read = |fields: &str| {
        let answer = get(&mut client, "k", fields);
        (answer.text(), cache_status(&answer).to_owned(), answer.field("Age").map(str::to_owned))
    };
    let (text, status, age) = read("");
    assert_eq!((text.as_str(), status.as_str()), ("ours", "hotrow; hit"));
    assert!(age.is_some_and(|age| age.parse::<u32>().unwrap() < 60));
    let expect = |got: (String, String, Option<String>), text: &str, status: &str| {
        assert_eq!((got.0.as_str(), got.1.as_str()), (text, status));
        assert_eq!(got.2.is_some(), status == "hotrow; hit", "an age is that of what is cached");
    };
    expect(read("Cache-Control: no-store\r\n"), "theirs", "hotrow; fwd=bypass");
    expect(read("Cache-Control: max-age=3600\r\n"), "ours", "hotrow; hit");
    expect(read("Cache-Control: only-if-cached\r\n"), "ours", "hotrow; hit");
    expect(read("Cache-Control: no-cache\r\n"), "theirs", "hotrow; fwd=request");
    expect(read(""), "theirs", "hotrow; hit");
    for fields in ["Cache-Control: only-if-cached\r\n", "Cache-Control: only-if-cached, no-cache\r\n"] {
        assert_eq!(get(&mut client, "other", fields).outcome(), "504 not-cached");
    }
    assert_eq!(client.get("other").status, 404);
    assert_eq!(get(&mut client, "other", "Cache-Control: only-if-cached\r\n").outcome(), "404 key-not-found");
}

#[test]
fn an_answer_to_a_write_may_be_short() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let minimal = "Prefer: return=minimal\r\n";
    let created = client.request("PUT", "/kv/k", minimal, b"one");
    assert_eq!(
        (created.status, created.text().as_str(), created.field("Location")),
        (201, "", Some("/kv/k"))
    );
    let replaced = client.request("PUT", "/kv/k", minimal, b"two");
    assert_eq!((replaced.status, replaced.field("Content-Length")), (204, None));
    for answer in [&created, &replaced] {
        assert_eq!(answer.field("Preference-Applied"), Some("return=minimal"));
    }
    assert_eq!(client.get("k").version(), replaced.version());
    let whole = client.request("PUT", "/kv/k", "Prefer: return=representation\r\n", b"three");
    assert_eq!(
        (whole.status, whole.text().as_str(), whole.field("Preference-Applied")),
        (200, "three", None)
    );
}

#[test]
fn a_row_past_its_time_is_as_good_as_none() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let put = |client: &mut Client, query: &str| client.request("PUT", &format!("/kv/k{query}"), "", b"v");
    let created = put(&mut client, "?ttl=3600");
    let expires = httpdate::parse_http_date(created.field("Expires").unwrap()).unwrap();
    let left = expires.duration_since(std::time::SystemTime::now()).unwrap().as_secs();
    assert!((3_500..=3_600).contains(&left), "{left}");
    for fields in ["", "Cache-Control: no-cache\r\n"] {
        let read = get(&mut client, "k", fields);
        assert!(read.field("Expires").is_some());
        assert_eq!(read.field("Cache-Control"), Some("no-cache"), "it may be written before that");
    }
    // A write without a time to live takes it away; an addition does not.
    assert_eq!(put(&mut client, "").field("Expires"), None);
    let read = client.get("k");
    assert_eq!((read.field("Expires"), read.field("Cache-Control")), (None, None));
    client.request("PUT", "/kv/n?ttl=3600", "", b"1");
    let added = client.request("POST", "/kv/n?op=incr", "", b"");
    assert!(added.text() == "2" && added.field("Expires").is_some());
    assert!(get(&mut client, "n", "Cache-Control: no-cache\r\n").field("Expires").is_some());

    // Past its time, in the table still: no statement sees it, and no cache.
    let keep = "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'";
    server.database().execute(keep, &[]);
    let keep = "CREATE TRIGGER keep BEFORE DELETE ON kv_store FOR EACH ROW EXECUTE FUNCTION keep()";
    server.database().execute(keep, &[]);
    wait_until("it is read before its time is over", || {
        put(&mut client, "?ttl=1");
        client.get("k").status == 200
    });
    wait_until("its time is over", || client.get("k").status == 404);
    assert_eq!(client.get("k").outcome(), "404 key-not-found");
    assert_eq!(get(&mut client, "k", "Cache-Control: no-cache\r\n").status, 404);
    assert_eq!(server.database().value("k").as_deref(), Some("v"), "it is in its place");
    assert_eq!(client.request("PUT", "/kv/k", "If-Match: *\r\n", b"w").outcome(), "412 precondition-failed");
    assert_eq!(client.request("PUT", "/kv/k?ttl=1", "If-None-Match: *\r\n", b"w").status, 201);
    wait_until("its time is over", || client.get("k").status == 404);
    assert_eq!(put(&mut client, "").status, 201, "what takes its place is new");
    // In UTC, whatever the cluster's zone is.
    let age = "abs(extract(epoch FROM (now() AT TIME ZONE 'UTC') - created_at)) < 1800";
    let young = format!("SELECT ({age})::text FROM kv_store WHERE key = 'k'");
    assert_eq!(server.database().text(&young, &[]).as_deref(), Some("true"));
    for query in ["?ttl=0", "?ttl=-1", "?ttl=soon", "?ttl=", "?ttl=3155760001"] {
        assert_eq!(put(&mut client, query).outcome(), "400 bad-query", "{query}");
    }
}

const THE_SWEEPER_LEAVES_ALL: &str = "CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN IF current_query() LIKE '%SKIP LOCKED%' THEN RETURN NULL; END IF; RETURN OLD; END $$;
    CREATE TRIGGER a_sweeper_leaves_it BEFORE DELETE ON kv_store FOR EACH ROW EXECUTE FUNCTION leave()";

/// Whoever has read meanwhile that there is none is not to be told of an old one.
#[test]
fn a_write_that_waits_until_its_row_is_past_its_time_finds_none() {
    let server = Server::start(&["--db-writers", "1"]);
    let mut sql = server.database().connect();
    sql.batch_execute(THE_SWEEPER_LEAVES_ALL).unwrap();
    for (method, status) in [("PUT", 201), ("DELETE", 404)] {
        let mut writes = server.database().hold_writes();
        let row = "SET session_replication_role = replica; DELETE FROM kv_store;
            INSERT INTO kv_store (key, value, expires_at) VALUES ('k', 'old', clock_timestamp() + interval '1 second')";
        sql.batch_execute(row).unwrap();
        let mut client = server.ask(method, "k", "");
        wait_until("it was sent", || writes.waiting() == 1);
        wait_until("its time is over", || {
            get(&mut server.connect(), "k", "Cache-Control: no-cache\r\n").status == 404
        });
        writes.release();
        assert_eq!(client.response().status, status, "{method}");
    }
}

/// The same by the statements alone, for all of them.
#[test]
fn what_is_written_is_judged_by_the_time_of_the_moment() {
    let server = Server::start(&[]);
    let (mut sql, mut other) = (server.database().connect(), server.database().connect());
    sql.batch_execute(THE_SWEEPER_LEAVES_ALL).unwrap();
    sql.batch_execute("SET TimeZone = 'UTC'").unwrap();
    let (a, new, none) = (vec!["a"], vec!["new"], vec!["none"]);
    let (ttl, ttls, end) = (None::<f64>, vec![None::<f64>], vec![None::<&str>]);
    let statements: [(&str, &[&(dyn ToSql + Sync)], &str); 6] = [
        (include_str!("../sql/set_one.sql"), &[&"a", &"new", &ttl], "created"),
        (include_str!("../sql/set.sql"), &[&a, &new, &ttls], "created"),
        (include_str!("../sql/set_and_delete.sql"), &[&a, &new, &ttls, &none], "created"),
        (include_str!("../sql/set_and_delete.sql"), &[&new, &new, &ttls, &a], "expired"),
        (include_str!("../sql/delete.sql"), &[&a], "expired"),
        (include_str!("../sql/load.sql"), &[&a, &new, &ttls, &end], ""),
    ];
    for (statement, arguments, told) in statements {
        let mut transaction = sql.transaction().unwrap();
        transaction.batch_execute("SELECT now()").unwrap();
        // Past its time by now, and not when the transaction began.
        let row = "DELETE FROM kv_store; INSERT INTO kv_store (key, value, created_at, expires_at)
            VALUES ('a', 'old', '2000-01-01', clock_timestamp())";
        other.batch_execute(row).unwrap();
        let rows = transaction.query(statement, arguments).unwrap();
        if told.is_empty() {
            let sql = "SELECT created_at > '2000-01-01' AS is_new FROM kv_store WHERE key = 'a'";
            assert!(transaction.query_one(sql, &[]).unwrap().get::<_, bool>("is_new"), "{statement}");
        } else {
            let row = rows.iter().find(|row| row.get::<_, &str>("key") == "a").unwrap();
            assert!(row.get::<_, bool>(told), "{statement}");
        }
    }
}

#[test]
fn rows_that_cannot_be_swept_keep_no_others() {
    let server = Server::start(&[]);
    let tables = "CREATE TABLE uses (key varchar(255) REFERENCES kv_store);
        CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF OLD.key LIKE 'kept%' THEN RETURN NULL; END IF;
                IF OLD.key LIKE 'used%' THEN PERFORM nextval('tries'); END IF; RETURN OLD; END $$;
        CREATE SEQUENCE tries;
        CREATE TRIGGER keep BEFORE DELETE ON kv_store FOR EACH ROW EXECUTE FUNCTION keep();
        BEGIN;
        INSERT INTO kv_store (key, value, expires_at) SELECT 'kept' || i, '', now() - interval '3 h' FROM generate_series(1, 700) AS i;
        INSERT INTO kv_store (key, value, expires_at) SELECT 'same time' || i, '', now() - interval '3 h' FROM generate_series(1, 7) AS i;
        INSERT INTO kv_store (key, value, expires_at) SELECT 'used' || i, '', now() - interval '2 h' FROM generate_series(1, 3) AS i;
        INSERT INTO kv_store (key, value, expires_at) SELECT 'k' || i, '', now() - interval '1 h' FROM generate_series(1, 800) AS i;
        INSERT INTO uses SELECT key FROM kv_store WHERE key LIKE 'used%';
        COMMIT";
    server.database().connect().batch_execute(tables).unwrap();
    wait_until("the others are swept", || server.metric("hotrow_rows_swept_total") == 807);
    // Others come all the time, and those are passed over all the same.
    for round in 1..=5 {
        let late = "INSERT INTO kv_store (key, value, expires_at) VALUES ('late', '', now())";
        server.database().execute(late, &[]);
        wait_until("it is swept", || server.metric("hotrow_rows_swept_total") == 807 + round);
    }
    let tries = server.database().text("SELECT last_value::text FROM tries", &[]).unwrap();
    assert!(tries.parse::<u32>().unwrap() <= 15, "{tries} tries");
    let left = "SELECT count(*)::text FROM kv_store";
    assert_eq!(server.database().text(left, &[]).unwrap(), "703");
    assert!(server.stderr().contains("foreign key"), "{}", server.stderr());
}

#[test]
fn rows_past_their_time_are_swept_and_others_stay() {
    let server = Server::start(&[]);
    let sql = "INSERT INTO kv_store (key, value, expires_at)
        SELECT 'gone' || i, 'v', now() - INTERVAL '1 hour' FROM generate_series(1, 1200) AS i";
    server.database().execute(sql, &[]);
    server.database().insert("stays", "v");
    server.connect().request("PUT", "/kv/later?ttl=3600", "", b"v");
    wait_until("they are swept", || server.metric("hotrow_rows_swept_total") == 1_200);
    let left = server.database().text("SELECT string_agg(key, ' ' ORDER BY key) FROM kv_store", &[]);
    assert_eq!(left.as_deref(), Some("later stays"));
}

#[test]
fn whoever_waits_for_a_change_is_told_of_it() {
    let server = Server::start(&["--event-loops", "2"]);
    let mut writer = server.connect();
    writer.put("k", "one");
    let wait = |seconds: u32, tag: &str| format!("If-None-Match: {tag}\r\nPrefer: wait={seconds}\r\n");
    let tag = tag(&mut writer, "k");
    let mut watchers: Vec<Client> = (0..8).map(|_| server.connect()).collect();
    for watcher in &mut watchers {
        watcher.send(crate::support::client::request("GET", "/kv/k", &wait(300, &tag), b""));
    }
    wait_until("all wait", || server.metric("hotrow_watchers") == 8);
    // Another key's writes, and a write that is not done, are no change of this one.
    writer.put("other", "x");
    writer.request("PUT", "/kv/k", "If-Match: \"1\"\r\n", b"x");
    assert!(watchers.iter_mut().all(|watcher| !watcher.has_something()));
    let written = writer.put("k", "two");
    for watcher in &mut watchers {
        let told = watcher.response();
        assert_eq!((told.status, told.text().as_str(), told.version()), (200, "two", written.version()));
    }
    assert_eq!(server.metric("hotrow_watchers"), 0);

    // Nothing changes: 304 when the wait is over. And what has changed already is told at once.
    let tag = format!("\"{}\"", written.version());
    let nothing = get(&mut watchers[0], "k", &wait(1, &tag));
    assert_eq!((nothing.status, nothing.field("ETag")), (304, Some(tag.as_str())));
    assert_eq!(get(&mut watchers[0], "k", &wait(300, "\"1\"")).text(), "two");
    assert_eq!(get(&mut watchers[0], "none", &wait(300, "\"1\"")).status, 404);
    // What others have written in SQL, a wait finds that begins by a look at the table.
    server.database().execute("UPDATE kv_store SET value = 'sql' WHERE key = 'k'", &[]);
    let fresh = wait(300, &tag) + "Cache-Control: no-cache\r\n";
    assert_eq!(get(&mut watchers[0], "k", &fresh).text(), "sql");
    assert_eq!(server.metric("hotrow_late_replies_total"), 0, "nobody is told twice");
    let tag = self::tag(&mut writer, "k");
    // And one that waits already, once hotrow has read it for somebody else.
    watchers[0].send(crate::support::client::request("GET", "/kv/k", &wait(300, &tag), b""));
    wait_until("it waits", || server.metric("hotrow_watchers") == 1);
    server.database().execute("UPDATE kv_store SET value = 'more' WHERE key = 'k'", &[]);
    assert!(!watchers[0].has_something());
    assert_eq!(get(&mut writer, "k", "Cache-Control: no-cache\r\n").text(), "more");
    assert_eq!(watchers[0].response().text(), "more");
    let tag = self::tag(&mut writer, "k");
    // A row whose time ends while somebody waits is a change that no write tells of.
    let mortal = writer.request("PUT", "/kv/mortal?ttl=1", "", b"v");
    let mortal = mortal.field("ETag").unwrap();
    watchers[0].send(crate::support::client::request("GET", "/kv/mortal", &wait(300, mortal), b""));
    assert_eq!(watchers[0].response().outcome(), "404 key-not-found");
    assert_eq!(server.metric("hotrow_watchers"), 0);
    // What is not cached is looked up first.
    let cold = Server::start_on(server.database(), &[]);
    let mut watcher = cold.connect();
    watcher.send(crate::support::client::request("GET", "/kv/k", &wait(300, &tag), b""));
    wait_until("it waits", || {
        cold.metric("hotrow_watchers") == 1 && cold.metric("hotrow_keys_in_flight") == 0
    });
    cold.connect().delete("k");
    assert_eq!(watcher.response().outcome(), "404 key-not-found");
    // Whoever goes home is forgotten.
    watcher.put("k", "three");
    let tag = self::tag(&mut watcher, "k");
    watcher.send(crate::support::client::request("GET", "/kv/k", &wait(300, &tag), b""));
    wait_until("it waits", || cold.metric("hotrow_watchers") == 1);
    drop(watcher);
    wait_until("it is forgotten", || cold.metric("hotrow_watchers") == 0);
}

#[test]
fn thousands_wait_without_a_thread_and_are_let_go_when_the_server_stops() {
    let Some(count) = connections_allowed("connections that wait for a change", 2_000) else { return };
    let server = Server::start(&[]);
    let threads = || std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap().count();
    server.connect().put("k", "v");
    let tag = tag(&mut server.connect(), "k");
    let names = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.collect::<String>()
    };
    wait_until("it has started altogether", || {
        let names = names();
        names.contains("signals\n") && !names.contains("prepare\n") && !names.contains("say\n")
    });
    let before = threads();
    let mut watchers: Vec<Client> = (0..count).map(|_| server.connect()).collect();
    let fields = format!("If-None-Match: {tag}\r\nPrefer: wait=300\r\n");
    for watcher in &mut watchers {
        watcher.send(crate::support::client::request("GET", "/kv/k", &fields, b""));
    }
    wait_until("all wait", || server.metric("hotrow_watchers") == count as u64);
    assert_eq!(threads(), before);
    assert_eq!(server.connect().get("k").text(), "v", "others are served");
    let (status, _) = server.stop();
    assert!(status.success());
    for watcher in &mut watchers {
        let answer = watcher.response();
        assert!(answer.status == 304 && answer.says_close());
    }
}
