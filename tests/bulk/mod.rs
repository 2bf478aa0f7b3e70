//! `PUT /kv`: rows without end in one request, stored by pieces. Here are lines and those who send them.

mod ends;
mod lines;
mod refused;

use crate::support::client::Response;
use crate::support::{Client, Server};
use serde_json::{Value, json};
use std::fmt::Write as _;

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
