//! `/kv` without a key: several keys at once. Its query, and its answers as JSON; lists are in [`super::list`], and rows that are
//! loaded in [`super::load`]. Pure.
//! Called by [`super::route`] and by [`crate::connection`].

use super::list::List;
use super::{Command, json, key, query, refusals};
use crate::engine::Row;
use crate::http::problem::{Kind, Problem};
use crate::http::response::{Encoder, Frame, JSON, Lent};
use crate::limits::{ITEM_DETAIL_BYTES, KEYS_A_REQUEST};
use crate::output::Output;
use std::sync::Arc;

/// Where it is.
pub const PATH: &str = "/kv";
/// Its methods.
pub const METHODS: &str = "GET, HEAD, PUT, OPTIONS";

/// What a GET of this query asks for.
pub fn get<'b>(query: &str) -> Result<Command<'b>, Problem> {
    if query::names(query, "key") {
        Ok(Command::GetMany(keys(query)?))
    } else {
        Ok(Command::List(List::parse(query)?))
    }
}

/// `key=a&key=b…`, in the order of the request.
fn keys(query: &str) -> Result<Vec<Box<str>>, Problem> {
    let mut keys = Vec::new();
    for parameter in query::parameters(query) {
        let (name, value) = parameter?;
        if name != "key" {
            let detail = "either key=, once for each key, or prefix, limit, cursor and values";
            return Err(query::bad(detail.into()));
        }
        key::check(&value)?;
        if keys.len() == KEYS_A_REQUEST {
            let detail =
                format!("one request asks for at most {KEYS_A_REQUEST} keys: ask for the others in another");
            return Err(Problem::new(Kind::TooManyKeys, detail));
        }
        keys.push(value.into());
    }
    Ok(keys)
}

/// What there is to say about one of several keys.
#[derive(Clone, Debug)]
pub enum Item {
    /// The row, or that there is none.
    Found(Row),
    /// Neither is known.
    Failed(Problem),
}

/// Writes `{"items":[…]}`, an item for each key, in their order. The answer is 200 whatever the items say; one that
/// another try may help says when. Encoded, values get no further than `bytes`.
pub fn items<'a>(
    encoder: &Encoder,
    out: &mut Output,
    items: impl Iterator<Item = (&'a str, &'a Item)>,
    bytes: usize,
    frame: Frame,
) {
    let mut json = b"{\"items\":[".to_vec();
    let mut retry_after_seconds = None;
    for (at, (key, item)) in items.enumerate() {
        json.extend_from_slice(if at == 0 { b"{\"key\":" } else { b",{\"key\":" });
        json::string(&mut json, key);
        match item {
            Item::Found(Some(record)) => {
                let before = json.len();
                json.extend_from_slice(b",\"status\":200,\"value\":");
                if json::string_within(&mut json, &record.value, bytes) {
                    let end = format!(",\"etag\":\"\\\"{}\\\"\"}}", record.version);
                    json.extend_from_slice(end.as_bytes());
                } else {
                    json.truncate(before);
                    failed(&mut json, too_much(bytes));
                }
            }
            Item::Found(None) => failed(&mut json, refusals::key_not_found()),
            Item::Failed(problem) => {
                retry_after_seconds = retry_after_seconds.max(problem.retry_after_seconds);
                failed(&mut json, problem.clone());
            }
        }
    }
    json.extend_from_slice(b"]}\n");
    let mut fields = encoder.start(out, 200, frame);
    if let Some(seconds) = retry_after_seconds {
        fields.field("Retry-After", &seconds.to_string());
    }
    fields.field("Content-Type", JSON);
    fields.content(Lent::Shared(&lent(json)));
}

/// An item that there is no room for.
pub fn too_much(bytes: usize) -> Problem {
    let detail =
        format!("an answer about several keys has room for {bytes} bytes of values: get this one alone");
    Problem::new(Kind::ValueTooLarge, detail)
}

fn failed(json: &mut Vec<u8>, problem: Problem) {
    // There may be as many as there are keys.
    let problem = problem.said_within(ITEM_DETAIL_BYTES);
    let kind = problem.kind;
    let start = format!(",\"status\":{},\"problem\":\"{}\",\"detail\":", kind.facts().0, kind.urn());
    json.extend_from_slice(start.as_bytes());
    json::string(json, &problem.detail);
    json.push(b'}');
}

/// Lent to the socket instead of copied to a loop's buffer, which would keep the size of the largest answer for ever.
pub(super) fn lent(json: Vec<u8>) -> Arc<str> {
    String::from_utf8(json).expect("made of strings and ASCII").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{NEVER, Record};
    use crate::http::cors::Audience;
    use crate::http::response::Reuse;
    use std::time::SystemTime;

    #[test]
    fn a_query_has_a_row_for_everything_it_may_and_may_not_be() {
        let many = |count: usize| vec!["key=k"; count].join("&");
        let long = format!("key={}", "x".repeat(256));
        let as_many_as_may_be = vec!["k"; KEYS_A_REQUEST];
        let (most, too_many) = (many(KEYS_A_REQUEST), many(KEYS_A_REQUEST + 1));
        for (query, expected) in [
            ("key=a", Ok(vec!["a"])),
            ("key=b&key=a&key=b", Ok(vec!["b", "a", "b"])),
            ("key=a/b&&key=%C3%A4%2F", Ok(vec!["a/b", "ä/"])),
            ("key=a+b&key=a%2Bb&key=a%20b", Ok(vec!["a+b", "a+b", "a b"])),
            ("key=a=b&key=a%26b", Ok(vec!["a=b", "a&b"])),
            (&most, Ok(as_many_as_may_be)),
            ("key=a&x=y", Err("bad-query")),
            ("k%65y=a", Err("bad-query")),
            ("key=", Err("bad-key")),
            ("key", Err("bad-key")),
            ("key=%0", Err("bad-query")),
            ("key=%zz", Err("bad-query")),
            ("key=%FF", Err("bad-query")),
            ("key=%00", Err("bad-key")),
            (&long, Err("bad-key")),
            (&too_many, Err("too-many-keys")),
        ] {
            let got = keys(query).map_err(|problem| problem.kind.facts().1);
            let expected = expected.map(|keys| keys.into_iter().map(Into::into).collect());
            assert_eq!(got, expected, "{query}");
        }
    }

    #[test]
    fn items_are_json_and_what_would_make_the_answer_too_large_is_left_out() {
        let encoder = Encoder::new(0, SystemTime::UNIX_EPOCH);
        let large = "\u{1}".repeat(10_000);
        let found = |value: &str, version| {
            Item::Found(Some(Record { value: value.into(), version, expires_s: NEVER }))
        };
        let down = Problem::new(Kind::DatabaseDown, "gone \"for\" now").retry_after(3);
        let all = [
            ("a", found("v\n\"", 7)),
            ("\u{1}\"", Item::Found(None)),
            ("b", Item::Failed(down)),
            ("c", found(&large, 8)),
            ("d", found("fits", 9)),
            ("e", Item::Found(None)),
        ];
        let (mut out, mut sent) = (Output::default(), Vec::new());
        let frame = Frame { head_only: false, reuse: Reuse::Silent, audience: Audience::NONE };
        items(&encoder, &mut out, all.iter().map(|(key, item)| (*key, item)), 20_000, frame);
        out.flush(&mut sent, usize::MAX);
        let sent = String::from_utf8(sent).unwrap();
        let (head, content) = sent.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("Retry-After: 3\r\n") && head.contains("Content-Type: application/json\r\n"));
        let json: serde_json::Value = serde_json::from_str(content).unwrap();
        let of = |name: &str| -> Vec<&serde_json::Value> {
            json["items"].as_array().unwrap().iter().map(|item| &item[name]).collect()
        };
        assert_eq!(of("key"), ["a", "\u{1}\"", "b", "c", "d", "e"]);
        assert_eq!(of("status"), [200, 404, 503, 413, 200, 404]);
        assert_eq!((of("value")[0], of("etag")[0]), (&"v\n\"".into(), &"\"7\"".into()));
        assert!(of("value")[3].is_null() && of("detail")[3].as_str().unwrap().contains("alone"));
    }
}
