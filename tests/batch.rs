//! `POST /batch`: operations on many keys in one request, one statement and one commit.

use crate::support::client::Response;
use crate::support::database::has_met_a_lock;
use crate::support::{Client, Server, wait_until};
use serde_json::{Value, json};
use std::thread;

fn post(client: &mut Client, query: &str, operations: &Value) -> Response {
    client.request("POST", &format!("/batch{query}"), "", operations.to_string().as_bytes())
}

fn items(response: &Response) -> Vec<Value> {
    assert_eq!(response.field("Content-Type"), Some("application/json"), "{}", response.text());
    let json: Value = serde_json::from_slice(&response.body).unwrap();
    json["items"].as_array().unwrap().clone()
}

fn statuses(response: &Response) -> Vec<u64> {
    items(response).iter().map(|item| item["status"].as_u64().unwrap()).collect()
}

#[test]
fn operations_are_done_in_their_order_and_each_is_answered() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.put("old", "before");
    client.put("n", "41");
    client.get("old");
    let operations = json!([
        {"op": "get", "key": "old"},
        {"op": "set", "key": "old", "value": "after"},
        {"op": "get", "key": "old"},
        {"op": "set", "key": "new", "value": "x", "if_none_match": "*", "ttl": 3600},
        {"op": "set", "key": "new", "value": "y", "if_none_match": "*"},
        {"op": "incr", "key": "n"},
        {"op": "incr", "key": "old"},
        {"op": "delete", "key": "none"},
        {"op": "get", "key": "none"},
        {"op": "set", "key": "gone", "value": "z"},
        {"op": "delete", "key": "gone"},
        {"op": "delete", "key": "n", "if_match": "\"1\""},
    ]);
    let answer = post(&mut client, "", &operations);
    assert_eq!(answer.status, 200);
    assert_eq!(statuses(&answer), [200, 200, 200, 201, 412, 200, 409, 404, 404, 201, 204, 412]);
    let items = items(&answer);
    assert_eq!(
        (&items[0]["value"], &items[2]["value"], &items[5]["value"]),
        (&json!("before"), &json!("after"), &json!("42"))
    );
    assert_eq!(items[1]["etag"], items[2]["etag"], "the row that was written is the row that was read");
    assert_eq!(items[4]["problem"], "urn:hotrow:problem:precondition-failed");
    assert_eq!((&items[9]["etag"], &items[9]["key"]), (&Value::Null, &json!("gone")));
    for (at, key, value) in [(2, "old", "after"), (3, "new", "x"), (5, "n", "42")] {
        let read = client.get(key);
        assert_eq!(
            (read.text().as_str(), format!("\"{}\"", read.version())),
            (value, items[at]["etag"].as_str().unwrap().to_owned())
        );
        assert_eq!(server.database().value(key).as_deref(), Some(value));
    }
    assert!(client.get("new").field("Expires").is_some());
    assert_eq!(client.get("gone").status, 404);

    // The same as lines.
    let lines = "{\"op\":\"set\",\"key\":\"l\",\"value\":\"1\"}\n{\"op\":\"get\",\"key\":\"l\"}\n";
    let answer = client.request("POST", "/batch", "Content-Type: application/x-ndjson\r\n", lines.as_bytes());
    assert_eq!(statuses(&answer), [201, 200]);
}

#[test]
fn an_atomic_batch_is_done_as_a_whole_or_not_at_all() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.put("a", "1");
    let operations = json!([
        {"op": "set", "key": "b", "value": "2"},
        {"op": "incr", "key": "a"},
        {"op": "set", "key": "a", "value": "3", "if_none_match": "*"},
        {"op": "get", "key": "a"},
    ]);
    let answer = post(&mut client, "?atomic=true", &operations);
    assert_eq!((answer.status, statuses(&answer)), (412, vec![424, 424, 412, 424]));
    assert_eq!((client.get("a").text().as_str(), client.get("b").status), ("1", 404));
    assert_eq!((server.database().value("a").as_deref(), server.database().value("b")), (Some("1"), None));
    let operations = json!([{"op": "set", "key": "b", "value": "2"}, {"op": "incr", "key": "a"}]);
    let answer = post(&mut client, "?atomic=true", &operations);
    assert_eq!((answer.status, statuses(&answer)), (200, vec![201, 200]));
    assert_eq!((client.get("a").text().as_str(), client.get("b").text().as_str()), ("2", "2"));
    // One operation alone is a whole, too.
    for (operation, expected) in [
        (json!([{"op": "set", "key": "a", "value": "3", "if_none_match": "*"}]), 412),
        (json!([{"op": "get", "key": "a", "if_match": "\"1\""}]), 412),
        (json!([{"op": "get", "key": "none"}]), 200),
        (json!([{"op": "delete", "key": "none"}]), 200),
    ] {
        assert_eq!(post(&mut client, "?atomic=true", &operation).status, expected, "{operation}");
        assert_eq!(post(&mut client, "", &operation).status, 200, "{operation}");
    }
    // Of which key would a condition on all of them be?
    let operation = br#"[{"op": "set", "key": "e", "value": "5"}]"#;
    let conditional = client.request("POST", "/batch", "If-Match: *\r\n", operation);
    assert_eq!(conditional.outcome(), "412 precondition-failed");
    assert_eq!(client.get("e").status, 404);
    // What PostgreSQL refuses of one row, it refuses of all.
    let sql = "ALTER TABLE kv_store ADD CONSTRAINT no_bad CHECK (value <> 'bad')";
    server.database().execute(sql, &[]);
    let operations =
        json!([{"op": "set", "key": "c", "value": "good"}, {"op": "set", "key": "d", "value": "bad"}]);
    let refused = post(&mut client, "?atomic=true", &operations);
    assert_eq!((refused.status, statuses(&refused)), (503, vec![503, 503]));
    assert!(refused.field("X-Request-Id").is_some_and(|id| !id.is_empty()));
    assert_eq!((client.get("c").status, client.get("d").status), (404, 404));
    assert_eq!(statuses(&post(&mut client, "", &operations)), [201, 503]);
    assert_eq!((client.get("c").text().as_str(), client.get("d").status), ("good", 404));
}

/// Money moves between accounts, in both directions and by two writers at once: it is neither made nor lost, and what is
/// cached at the end is what is in the table.
#[test]
fn atomic_batches_and_single_writes_of_the_same_keys_leave_one_truth() {
    const ACCOUNTS: usize = 8;
    const EACH: usize = 60;
    let server = Server::start(&["--event-loops", "2", "--db-writers", "4"]);
    let account = |at: usize| format!("account{at}");
    let mut client = server.connect();
    for at in 0..ACCOUNTS {
        client.put(&account(at), "1000");
    }
    thread::scope(|scope| {
        for teller in 0..8 {
            let server = &server;
            scope.spawn(move || {
                let (mut client, mut random) = (server.connect(), fastrand::Rng::with_seed(teller));
                for _ in 0..EACH {
                    let (from, to, sum) =
                        (random.usize(..ACCOUNTS), random.usize(..ACCOUNTS), random.i64(1..50));
                    let transfer = json!([
                        {"op": "incr", "key": account(from), "by": -sum},
                        {"op": "incr", "key": account(to), "by": sum},
                    ]);
                    // One that was overtaken again and again has changed nothing.
                    loop {
                        let answer = post(&mut client, "?atomic=true", &transfer);
                        if answer.status == 200 {
                            break;
                        }
                        assert_eq!(statuses(&answer), [503, 503]);
                        assert_eq!(answer.status, 503);
                    }
                }
            });
        }
        // Beside them, single additions that cancel out, and reads that keep the keys in the cache.
        for _ in 0..4 {
            scope.spawn(|| {
                let (mut client, mut random) = (server.connect(), fastrand::Rng::with_seed(99));
                for at in 0..2 * EACH {
                    let key = account(random.usize(..ACCOUNTS));
                    for by in [7, -7] {
                        let target = format!("/kv/{key}?op=incr&by={by}");
                        assert_eq!(client.request("POST", &target, "", b"").status, 200);
                    }
                    client.get(&account(at % ACCOUNTS));
                }
            });
        }
    });
    let mut total = 0;
    for at in 0..ACCOUNTS {
        let (cached, stored) = (client.get(&account(at)), server.database().value(&account(at)).unwrap());
        assert_eq!(cached.text(), stored);
        assert_eq!(client.get(&account(at)).text(), stored);
        total += stored.parse::<i64>().unwrap();
    }
    assert_eq!(total, 1_000 * ACCOUNTS as i64);
    assert_eq!(server.metric("hotrow_keys_in_flight"), 0);
}

#[test]
fn a_batch_that_makes_no_sense_does_nothing() {
    let server = Server::start(&["--max-value-bytes", "1000"]);
    let mut client = server.connect();
    let good = r#"{"op":"set","key":"a","value":"1"}"#;
    let json = "Content-Type: application/json; charset=utf-8\r\n";
    for (fields, content, outcome) in [
        (json, format!("[{good},{{\"op\":\"set\",\"key\":\"\"}}]"), "400 bad-key"),
        (json, format!("[{good},{{\"op\":\"fly\",\"key\":\"a\"}}]"), "400 bad-batch"),
        (json, format!("{good}\n{good}"), "400 bad-batch"),
        (json, "[]".to_owned(), "400 bad-batch"),
        ("Content-Type: application/x-ndjson\r\n", format!("{good}\n[]"), "400 bad-batch"),
        ("Content-Type: text/plain\r\n", format!("[{good}]"), "415 unsupported-media-type"),
        (json, format!("[{}]", vec![good; 40].join(",")), "413 value-too-large"),
    ] {
        let answer = server.connect().request("POST", "/batch", fields, content.as_bytes());
        assert_eq!(answer.outcome(), outcome, "{content}");
    }
    assert_eq!(client.request("POST", "/batch", "", b"").outcome(), "411 length-required");
    assert_eq!(client.request("POST", "/batch", "Content-Length: 0\r\n", b"").outcome(), "400 bad-batch");
    assert_eq!(client.request("POST", "/batch?atomic=1", "", b"[]").outcome(), "400 bad-query");
    let got = client.request("PUT", "/batch", "", b"[]");
    assert_eq!((got.status, got.field("Allow")), (405, Some("POST, OPTIONS")));
    assert_eq!(server.database().value("a"), None);
}

#[test]
fn what_is_said_of_a_batch_is_short_whatever_is_in_it() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let by = "\u{7f}".repeat(1_000_000);
    let content = format!(r#"[{{"op":"incr","key":"a","by":"{by}"}}]"#);
    let answer = client.request("POST", "/batch", "", content.as_bytes());
    assert_eq!(answer.outcome(), "400 bad-batch");
    assert!(answer.body.len() < 1_000, "{} bytes", answer.body.len());
    assert_eq!(client.get("a").status, 404);
}

#[test]
fn what_an_atomic_batch_is_done_for_stays_true_until_it_is_done() {
    let server = Server::start(&["--db-writers", "1"]);
    let mut client = server.connect();
    client.put("b", "free");
    let guard = client.put("guard", "1").version().to_owned();
    let batch = json!([
        {"op": "set", "key": "b", "value": "guarded"},
        {"op": "get", "key": "guard", "if_match": format!("\"{guard}\"")},
    ]);
    let send = |client: &mut Client| {
        let content = batch.to_string();
        client.send(crate::support::client::request("POST", "/batch?atomic=true", "", content.as_bytes()));
    };
    // Its change takes a while: meanwhile nobody changes the row that it only asks for.
    let mut writes = server.database().hold_writes();
    send(&mut client);
    wait_until("the change is sent", || writes.waiting() == 1);
    let free = "SELECT count(*)::text FROM (SELECT FROM kv_store WHERE key = 'guard' FOR UPDATE SKIP LOCKED) AS free";
    assert_eq!(server.database().text(free, &[]).as_deref(), Some("0"));
    writes.release();
    assert_eq!(client.response().status, 200);
    // The row that it asks for is changed between the look and the change: it is judged anew.
    client.put("b", "free");
    let (mut sql, mut observer) = (server.database().connect(), server.database().connect());
    sql.batch_execute("BEGIN; UPDATE kv_store SET value = '2' WHERE key = 'guard'").unwrap();
    send(&mut client);
    wait_until("it waits for that row", || has_met_a_lock(&mut observer));
    sql.batch_execute("COMMIT").unwrap();
    let answer = client.response();
    assert_eq!((answer.status, statuses(&answer)), (412, vec![424, 412]));
    assert_eq!(client.get("b").text(), "free");
}

#[test]
fn a_step_that_is_refused_costs_a_batch_of_many_a_few_statements() {
    let server = Server::start(&["--db-writers", "1"]);
    let count = "CREATE SEQUENCE statements;
        CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM nextval('statements'); RETURN NULL; END $$;
        CREATE TRIGGER count_it BEFORE INSERT ON kv_store FOR EACH STATEMENT EXECUTE FUNCTION count_it();
        ALTER TABLE kv_store ADD CHECK (key <> 'k777')";
    server.database().connect().batch_execute(count).unwrap();
    let steps: Vec<Value> = (0..1_000).map(|n| json!({"op": "incr", "key": format!("k{n}")})).collect();
    let answers = statuses(&post(&mut server.connect(), "", &json!(steps)));
    let refused: Vec<usize> = (0..1_000).filter(|at| answers[*at] != 201).collect();
    assert_eq!((refused, answers[777]), (vec![777], 503));
    assert_eq!(server.database().text("SELECT count(*)::text FROM kv_store", &[]).as_deref(), Some("999"));
    let statements = server.database().text("SELECT last_value::text FROM statements", &[]).unwrap();
    assert!(statements.parse::<usize>().unwrap() < 64, "{statements} statements");
}
