//! Many keys at once, as users see it: several in one answer, lists, export and bulk load.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::client::Response;
use support::{Client, Server, random_text};

/// One member of every item.
fn of(response: &Response, name: &str) -> Vec<Value> {
    assert_eq!((response.status, response.field("Content-Type")), (200, Some("application/json")));
    let json: Value = serde_json::from_slice(&response.body).unwrap();
    json["items"].as_array().unwrap().iter().map(|item| item[name].clone()).collect()
}

fn get(client: &mut Client, target: &str) -> Response {
    client.request("GET", target, "", b"")
}

#[test]
fn several_keys_are_answered_in_the_order_of_the_request() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let put = client.put("cached", "in memory\n\"");
    server.database().insert("a b/ä", "by SQL");
    server.database().insert("c", "");
    let target = "/kv?key=none&key=cached&key=a%20b%2F%C3%A4&key=c&key=cached";
    for round in 0..2 {
        let answer = get(&mut client, target);
        assert_eq!(of(&answer, "key"), ["none", "cached", "a b/ä", "c", "cached"]);
        assert_eq!(of(&answer, "status"), [404, 200, 200, 200, 200]);
        let cached = json!("in memory\n\"");
        assert_eq!(of(&answer, "problem")[0], "urn:hotrow:problem:key-not-found");
        assert_eq!(of(&answer, "value"), [json!(null), cached.clone(), json!("by SQL"), json!(""), cached]);
        assert_eq!(of(&answer, "etag")[1], put.field("ETag").unwrap());
        let reads = server.metric(r#"hotrow_cache_requests_total{result="miss"}"#);
        assert_eq!(reads, 3, "round {round}");
        let head = client.request("HEAD", target, "", b"");
        assert_eq!(head.field("Content-Length").unwrap(), answer.body.len().to_string());
    }
    // What one request has read, another finds.
    assert_eq!(client.get("c").field("Cache-Status"), Some("hotrow; hit"));
}

#[test]
fn the_misses_of_one_request_are_read_by_one_statement() {
    let server = Server::start(&["--db-readers=2"]);
    let keys: Vec<String> = (0..100).map(|i| format!("k{i}")).collect();
    for key in &keys {
        server.database().insert(key, &key.repeat(20));
    }
    let query: Vec<String> = keys.iter().rev().map(|key| format!("key={key}")).collect();
    let answer = get(&mut server.connect(), &format!("/kv?{}", query.join("&")));
    let values: Vec<String> = keys.iter().rev().map(|key| key.repeat(20)).collect();
    assert_eq!(of(&answer, "value"), values);
    let statements = server.metric(r#"hotrow_database_batch_jobs_count{worker="reader"}"#);
    assert_eq!(statements, 1);
}

#[test]
fn what_does_not_fit_into_one_answer_is_to_be_got_alone() {
    let server = Server::start(&["--max-value-bytes=256KiB"]);
    let mut client = server.connect();
    for key in ["a", "b", "c"] {
        client.put(key, random_text(200 * 1024, 7));
    }
    let answer = get(&mut client, "/kv?key=a&key=b&key=c&key=d");
    assert_eq!(of(&answer, "status"), [200, 200, 413, 404]);
    assert!(of(&answer, "detail")[2].as_str().unwrap().contains("alone"));
}

#[test]
fn a_request_for_several_keys_is_refused_where_it_makes_no_sense() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let many = format!("/kv?{}", vec!["key=k"; 101].join("&"));
    for (method, target, outcome) in [
        ("GET", many.as_str(), "400 too-many-keys"),
        ("GET", "/kv?key=", "400 bad-key"),
        ("GET", "/kv?key=%00", "400 bad-key"),
        ("GET", "/kv?keys=a", "400 bad-query"),
        ("GET", "/kv", "400 bad-query"),
        ("DELETE", "/kv?key=a", "405 method-not-allowed"),
        ("OPTIONS", "/kv", "204"),
    ] {
        assert_eq!(client.request(method, target, "", b"").outcome(), outcome, "{method} {target}");
    }
}
