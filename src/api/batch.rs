//! `POST /batch`: operations on many keys as JSON, and what became of each. Pure. The content is one array, or a line
//! for each operation (NDJSON):
//!
//! ```text
//!  {"op":"set","key":"a","value":"1"}                       {"items":[{"key":"a","status":201,"etag":"\"7\""},
//!  {"op":"incr","key":"a","by":2}                     ──►             {"key":"a","status":200,"value":"3","etag":"\"7\""},
//!  {"op":"delete","key":"b","if_match":"\"5\""}                       {"key":"b","status":412,"problem":…}]}
//! ```
//!
//! Called by [`super::route`] for its query, and by [`crate::connection`].

use super::json::{self, Object};
use super::list::NDJSON;
use super::{collection, key, query, refusals, value};
use crate::access_log::RequestId;
use crate::http::conditional::Preconditions;
use crate::http::problem::{Kind, Problem};
use crate::http::request::Extras;
use crate::http::response::{Encoder, Frame, JSON, Lent};
use crate::limits::{BATCH_STEPS, ITEM_DETAIL_BYTES};
use crate::output::Output;
use crate::store::{Answer, NO_VERSION, Op};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// Where it is.
pub const PATH: &str = "/batch";
/// Its methods.
pub const METHODS: &str = "POST, OPTIONS";

/// One operation: key, what to do, and under which conditions.
pub type Step = (Box<str>, Op, Option<Box<Preconditions>>);

/// How the operations of a content are parted from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON array.
    Array,
    /// A line of JSON for each.
    Lines,
}

impl Form {
    /// What the request says of its content.
    pub fn of(extras: &Extras<'_>) -> Result<Form, Problem> {
        match extras.media_type().unwrap_or(b"application/json") {
            name if name.eq_ignore_ascii_case(b"application/json") => Ok(Form::Array),
            name if name.eq_ignore_ascii_case(NDJSON.as_bytes()) => Ok(Form::Lines),
            _ => {
                let detail = "a batch is application/json (an array) or application/x-ndjson (a line each)";
                Err(Problem::new(Kind::UnsupportedMediaType, detail))
            }
        }
    }
}

/// `?atomic=true`.
pub fn all_or_nothing(query: &str) -> Result<bool, Problem> {
    let [atomic] = query::known(query, ["atomic"])?;
    query::flag("atomic", atomic.as_deref())
}

/// One operation, as it is sent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    op: Verb,
    key: Box<str>,
    value: Option<Box<str>>,
    if_match: Option<Box<str>>,
    if_none_match: Option<Box<str>>,
    #[serde(default, deserialize_with = "json::whole")]
    ttl: Option<i64>,
    #[serde(default, deserialize_with = "json::whole")]
    by: Option<i64>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Verb {
    Get,
    Set,
    Delete,
    Incr,
}

/// The operations of a content, in their order. One that is wrong refuses them all: nothing was done.
pub fn steps(content: &[u8], form: Form, max_value_bytes: usize) -> Result<Vec<Step>, Problem> {
    let text = std::str::from_utf8(content).map_err(|_| bad("a batch is UTF-8".into()))?;
    // Empty lines are skipped, and count.
    let lines = || (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let sent: Vec<Object<Sent>> = match form {
        Form::Array => array(text)?,
        Form::Lines => {
            let parse = |(number, line): (usize, &str)| {
                serde_json::from_str(line).map_err(|error| {
                    bad(format!("line {number} is no operation: {}", json::without_place(&error)))
                })
            };
            lines().take(BATCH_STEPS + 1).map(parse).collect::<Result<_, _>>()?
        }
    };
    match sent.len() {
        0 => return Err(bad("a batch has at least one operation".into())),
        n if n > BATCH_STEPS => return Err(bad(format!("a batch has at most {BATCH_STEPS} operations"))),
        _ => {}
    }
    let step = |(at, Object(sent)): (usize, Object<Sent>)| {
        sent.into_step(max_value_bytes).map_err(|problem| {
            let place = match form {
                Form::Array => format!("operation {}", at + 1),
                Form::Lines => format!("line {}", lines().nth(at).map_or(0, |(number, _)| number)),
            };
            let detail = format!("{place}: {}", problem.detail);
            Problem { detail: detail.into(), ..problem }
        })
    };
    sent.into_iter().enumerate().map(step).collect()
}

/// The operations of an array, and one more than there may be at most: then the rest is not looked at.
fn array(text: &str) -> Result<Vec<Object<Sent>>, Problem> {
    struct Operations<'o>(&'o mut Vec<Object<Sent>>);
    impl<'de> Visitor<'de> for Operations<'_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a sequence")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut operations: A) -> Result<(), A::Error> {
            while self.0.len() <= BATCH_STEPS
                && let Some(operation) = operations.next_element()?
            {
                self.0.push(operation);
            }
            Ok(())
        }
    }
    let mut sent = Vec::new();
    let mut json = serde_json::Deserializer::from_str(text);
    let read = json.deserialize_seq(Operations(&mut sent)).and_then(|()| json.end());
    match read {
        // What stands behind one operation too many is wrong in any case.
        Err(error) if sent.len() <= BATCH_STEPS => {
            let (what, line, column) = (json::without_place(&error), error.line(), error.column());
            Err(bad(format!("this is no array of operations: {what} at line {line} column {column}")))
        }
        _ => Ok(sent),
    }
}

impl Sent {
    fn into_step(self, max_value_bytes: usize) -> Result<Step, Problem> {
        let Sent { op, key, value, if_match, if_none_match, ttl, by } = self;
        key::check(&key)?;
        let of = |name: &str| bad(format!("{name} does not belong to this op"));
        if value.is_some() && op != Verb::Set {
            return Err(of("value"));
        }
        if ttl.is_some() && op != Verb::Set {
            return Err(of("ttl"));
        }
        if by.is_some() && op != Verb::Incr {
            return Err(of("by"));
        }
        let op = match op {
            Verb::Get => Op::Read,
            Verb::Delete => Op::Delete,
            Verb::Incr => Op::Add(by.unwrap_or(1)),
            Verb::Set => {
                let value = value.ok_or_else(|| bad("set needs a value".into()))?;
                value::check(&value, max_value_bytes)?;
                let ttl_s = ttl.map(value::ttl).transpose().map_err(bad)?;
                Op::Set { value: value.into(), ttl_s }
            }
        };
        Ok((key, op, Preconditions::from_text(if_match.as_deref(), if_none_match.as_deref())?))
    }
}

/// What became of one operation, as it is told.
#[derive(Serialize)]
struct Item<'a> {
    key: &'a str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// A batch has more bytes than one may have, as far as is known.
pub fn too_large(bytes: u64, max_value_bytes: usize) -> Problem {
    let detail = format!(
        "a batch has at most as many bytes as a value, {max_value_bytes} (--max-value-bytes); this one has {bytes} at least"
    );
    Problem::new(Kind::ValueTooLarge, detail)
}

/// What is remembered of the operations until their answers come.
#[derive(Debug)]
pub struct Asked {
    /// The key of each, and whether its answer repeats the value: it is not the client's own.
    steps: Box<[(Box<str>, bool)]>,
    all_or_nothing: bool,
}

impl Asked {
    /// Of these operations.
    pub fn new(steps: &[Step], all_or_nothing: bool) -> Asked {
        let remember = |(key, op, _): &Step| (key.clone(), !matches!(op, Op::Set { .. }));
        Asked { steps: steps.iter().map(remember).collect(), all_or_nothing }
    }

    /// It was to be done as a whole, and the server could not.
    pub fn has_failed(&self, answers: &[Answer]) -> bool {
        self.all_or_nothing && answers.iter().any(|answer| matches!(answer, Answer::Failed(_)))
    }

    /// `{"items":[…]}`, an item for each operation, in their order. 200, unless a batch that was to be done as a whole
    /// could not: then the status of the operation that could not. Keys, and values that were read, make at most `most_bytes`, as
    /// JSON; an item that would pass that has 413 in place of its value.
    /// Of a failure, its name.
    pub fn answer(
        &self,
        encoder: &Encoder,
        out: &mut Output,
        answers: &[Answer],
        most_bytes: usize,
        (frame, request_id): (Frame, Option<RequestId>),
    ) {
        // The keys are told in any case. They are in the content, and so no more than that: some room is left.
        let keys: usize = self.steps.iter().map(|(key, _)| json::string_bytes(key)).sum();
        let room = most_bytes.saturating_sub(keys);
        let mut left = room;
        let items: Vec<Item<'_>> = self
            .steps
            .iter()
            .zip(answers)
            .map(|((key, tells), answer)| match answer {
                Answer::Found(Some(found)) => match left.checked_sub(json::string_bytes(&found.value)) {
                    Some(rest) => {
                        left = rest;
                        item(key, *tells, answer)
                    }
                    None => refused(key, collection::too_much(room)),
                },
                answer => item(key, *tells, answer),
            })
            .collect();
        let could_not = |answer: &Answer| {
            matches!(answer, Answer::PreconditionFailed | Answer::NotANumber | Answer::Failed(_))
        };
        let failed = answers.iter().position(could_not).filter(|_| self.all_or_nothing);
        let status = failed.map_or(200, |at| items[at].status);
        #[derive(Serialize)]
        struct Body<'a> {
            items: Vec<Item<'a>>,
        }
        let mut json = serde_json::to_vec(&Body { items }).expect("strings and numbers always serialize");
        json.push(b'\n');
        let retry_after_seconds = answers.iter().filter_map(retry_after).max();
        let mut fields = encoder.start(out, status, frame);
        if let Some(id) = request_id {
            fields.field("X-Request-Id", id.as_str());
        }
        if let Some(seconds) = retry_after_seconds {
            fields.field("Retry-After", &seconds.to_string());
        }
        fields.field("Content-Type", JSON);
        fields.content(Lent::Shared(&collection::lent(json)));
    }
}

fn retry_after(answer: &Answer) -> Option<u32> {
    match answer {
        Answer::Failed(failure) => refusals::failed(failure).retry_after_seconds,
        _ => None,
    }
}

fn plain(key: &str, status: u16) -> Item<'_> {
    Item { key, status, value: None, etag: None, problem: None, detail: None }
}

fn refused(key: &str, problem: Problem) -> Item<'_> {
    // There may be as many as there are operations.
    let problem = problem.said_within(ITEM_DETAIL_BYTES);
    Item {
        problem: Some(problem.kind.urn()),
        detail: Some(problem.detail.into_owned()),
        ..plain(key, problem.kind.facts().0)
    }
}

fn item<'a>(key: &'a str, tells: bool, answer: &'a Answer) -> Item<'a> {
    let plain = |status| plain(key, status);
    let refused = |problem| refused(key, problem);
    let record = |status, record: &'a crate::engine::Record| Item {
        value: tells.then_some(&*record.value),
        etag: (record.version != NO_VERSION).then(|| format!("\"{}\"", record.version)),
        ..plain(status)
    };
    match answer {
        Answer::Found(Some(found)) => record(200, found),
        Answer::Found(None) | Answer::Deleted { existed: false } => refused(refusals::key_not_found()),
        Answer::Stored { record: stored, created, .. } => record(if *created { 201 } else { 200 }, stored),
        Answer::Deleted { existed: true } => plain(204),
        Answer::PreconditionFailed => refused(refusals::precondition_failed()),
        Answer::NotANumber => refused(refusals::not_a_number()),
        Answer::Failed(failure) => refused(refusals::failed(failure)),
        Answer::NotDone | Answer::Many(_) | Answer::Page(_) | Answer::Changed | Answer::Loaded(_) => {
            refused(not_done())
        }
    }
}

fn not_done() -> Problem {
    Problem::new(Kind::NotDone, "not done, because another operation of the same atomic batch could not be")
}

fn bad(detail: String) -> Problem {
    Problem::new(Kind::BadBatch, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::cors::Audience;

    fn kind_of(content: &str, form: Form) -> Result<usize, Kind> {
        steps(content.as_bytes(), form, 10).map(|steps| steps.len()).map_err(|problem| problem.kind)
    }

    #[test]
    fn every_content_is_taken_or_refused_as_its_row_says() {
        let array = |operation: &str| format!("[{{{operation}}}]");
        for (operation, expected) in [
            (r#""op":"get","key":"a""#, Ok(1)),
            (r#""op":"set","key":"a","value":"""#, Ok(1)),
            (r#""op":"set","key":"a","value":"v","ttl":5,"if_none_match":"*""#, Ok(1)),
            (r#""op":"delete","key":"a","if_match":"\"1\"""#, Ok(1)),
            (r#""op":"incr","key":"a","by":-9"#, Ok(1)),
            (r#""op":"incr","key":"a","by":1.5"#, Err(Kind::BadBatch)),
            (r#""op":"incr","key":"a","by":-5.0"#, Ok(1)),
            (r#""op":"incr","key":"a","by":null"#, Ok(1)),
            (r#""op":"incr","key":"a","by":-9223372036854775808"#, Ok(1)),
            (r#""op":"incr","key":"a","by":9223372036854775808"#, Err(Kind::BadBatch)),
            (r#""op":"incr","key":"a","by":1e300"#, Err(Kind::BadBatch)),
            (r#""op":"incr","key":"a","by":"1""#, Err(Kind::BadBatch)),
            (r#""op":"set","key":"a","value":"v","ttl":6e1"#, Ok(1)),
            (r#""op":"set","key":"a","value":"v","ttl":3155760001"#, Err(Kind::BadBatch)),
            (r#""op":"set","key":"a","value":"v","ttl":-1"#, Err(Kind::BadBatch)),
            (r#""op":"set","key":"a""#, Err(Kind::BadBatch)),
            (r#""op":"get","key":"a","value":"v""#, Err(Kind::BadBatch)),
            (r#""op":"delete","key":"a","ttl":5"#, Err(Kind::BadBatch)),
            (r#""op":"set","key":"a","value":"v","by":5"#, Err(Kind::BadBatch)),
            (r#""op":"set","key":"a","value":"v","ttl":0"#, Err(Kind::BadBatch)),
            (r#""op":"get","key":"a","colour":"red""#, Err(Kind::BadBatch)),
            (r#""op":"drop","key":"a""#, Err(Kind::BadBatch)),
            (r#""key":"a""#, Err(Kind::BadBatch)),
            (r#""op":"get","key":"""#, Err(Kind::BadKey)),
            (r#""op":"get","key":"a\u0000""#, Err(Kind::BadKey)),
            (r#""op":"set","key":"a","value":"\u0000""#, Err(Kind::ValueNotText)),
            (r#""op":"set","key":"a","value":"12345678901""#, Err(Kind::ValueTooLarge)),
            (r#""op":"get","key":"a","if_match":"1""#, Err(Kind::BadCondition)),
        ] {
            assert_eq!(kind_of(&array(operation), Form::Array), expected, "{operation}");
            assert_eq!(kind_of(&format!("{{{operation}}}\n"), Form::Lines), expected, "{operation}");
        }
        let get = r#"{"op":"get","key":"a"}"#;
        assert_eq!(kind_of(&format!("{get}\n\n{get}\r\n{get}"), Form::Lines), Ok(3));
        for content in ["", "[]", "{}", "[", "null", "[[]]", r#"[["get","a"]]"#] {
            assert_eq!(kind_of(content, Form::Array), Err(Kind::BadBatch), "{content}");
        }
        assert_eq!(kind_of(r#"["delete","a"]"#, Form::Lines), Err(Kind::BadBatch));
        for (count, expected) in [(BATCH_STEPS, Ok(BATCH_STEPS)), (BATCH_STEPS + 1, Err(Kind::BadBatch))] {
            assert_eq!(kind_of(&vec![get; count].join("\n"), Form::Lines), expected);
            assert_eq!(kind_of(&format!("[{}]", vec![get; count].join(",")), Form::Array), expected);
        }
        // Where there are too many, what comes behind is not looked at.
        for (form, content) in [
            (Form::Array, format!("[{},no JSON", vec![get; BATCH_STEPS + 1].join(","))),
            (Form::Lines, format!("{}\nno JSON", vec![get; BATCH_STEPS + 1].join("\n"))),
        ] {
            let problem = steps(content.as_bytes(), form, 10).unwrap_err();
            assert_eq!(problem.detail, format!("a batch has at most {BATCH_STEPS} operations"));
        }
        // And where there are not, it is.
        for end in [",no JSON", "", "]]", "] []"] {
            let content = format!("[{}{end}", vec![get; BATCH_STEPS].join(","));
            let problem = steps(content.as_bytes(), Form::Array, 10).unwrap_err();
            assert!(problem.detail.starts_with("this is no array of operations: "), "{}", problem.detail);
        }
    }

    #[test]
    fn the_first_thing_wrong_is_named_by_its_place() {
        let content = r#"[{"op":"get","key":"a"},{"op":"get","key":""}]"#;
        let problem = steps(content.as_bytes(), Form::Array, 10).unwrap_err();
        assert!(problem.detail.starts_with("operation 2: "), "{}", problem.detail);
        // A line is named by its number whatever is wrong with it, and empty ones count.
        for (content, place) in [
            ("{}\nx", "line 1 "),
            ("\n{\"op\":\"get\",\"key\":\"a\"}\r\n \nx", "line 4 "),
            ("\n{\"op\":\"get\",\"key\":\"a\"}\r\n \n{\"op\":\"get\",\"key\":\"\"}", "line 4: "),
            ("{\"op\":\"get\",\"key\":\"\"}", "line 1: "),
        ] {
            let problem = steps(content.as_bytes(), Form::Lines, 10).unwrap_err();
            assert!(problem.detail.starts_with(place), "{content:?}: {}", problem.detail);
        }
    }

    /// What the parser says has in it what it was given, escaped.
    #[test]
    fn what_is_said_of_a_batch_is_short_whatever_is_in_it() {
        for sent in ["x", "\u{7f}"].map(|text| text.repeat(100_000)) {
            for (operation, says) in [
                (format!(r#"{{"op":"incr","key":"a","by":"{sent}"}}"#), "invalid type: string"),
                (format!(r#"{{"op":"{sent}","key":"a"}}"#), "unknown variant"),
                (format!(r#"{{"op":"get","key":"a","{sent}":1}}"#), "unknown field"),
                (format!(r#""{sent}""#), "invalid type: string"),
            ] {
                let array = format!("[{operation}]");
                for (form, content, place) in
                    [(Form::Lines, &operation, "line 1 "), (Form::Array, &array, " at line 1 column ")]
                {
                    let problem = steps(content.as_bytes(), form, 10).unwrap_err();
                    assert_eq!(problem.kind, Kind::BadBatch);
                    assert!(problem.detail.len() < 400, "{} bytes", problem.detail.len());
                    assert!(
                        problem.detail.contains(says) && problem.detail.contains(place),
                        "{}",
                        problem.detail
                    );
                }
            }
        }
    }

    /// What a batch of reads is answered: the bytes, and the items' statuses.
    fn told(keys: &[&str], values: &[&str], most_bytes: usize) -> (Vec<u8>, Vec<u64>) {
        let read = |key: &&str| (Box::from(*key), Op::Read, None);
        let steps: Vec<Step> = keys.iter().map(read).collect();
        let found = |value: &&str| {
            Answer::Found(Some(crate::engine::Record {
                value: (*value).into(),
                version: u32::MAX,
                expires_s: crate::engine::NEVER,
            }))
        };
        let answers: Vec<Answer> = values.iter().map(found).collect();
        let (encoder, mut out) = (Encoder::new(0, std::time::SystemTime::UNIX_EPOCH), Output::default());
        let frame =
            Frame { head_only: false, reuse: crate::http::response::Reuse::Silent, audience: Audience::NONE };
        Asked::new(&steps, false).answer(&encoder, &mut out, &answers, most_bytes, (frame, None));
        assert!(out.bytes.len() < 1_000, "lent, not copied to where it would take room for ever");
        let mut sent = Vec::new();
        out.flush(&mut sent, usize::MAX);
        let content = sent.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
        let json: serde_json::Value = serde_json::from_slice(&sent[content..]).unwrap();
        let items = json["items"].as_array().unwrap();
        let of = |name: &str| items.iter().map(|item| item[name].clone()).collect::<Vec<_>>();
        assert_eq!(of("key"), keys);
        assert!(
            items.iter().all(|item| item["status"] == 200 || item["problem"] == Kind::ValueTooLarge.urn())
        );
        (sent, of("status").iter().map(|status| status.as_u64().unwrap()).collect())
    }

    #[test]
    fn values_that_were_read_are_told_as_far_as_there_is_room() {
        // Of 18 bytes of room (as JSON) the keys take 5, the first value 8, the second would take 6, and the third takes the rest.
        let values = ["\u{1}\"", "123456", "12345", ""];
        assert_eq!(told(&["a", "b", "\"", "d"], &values, 18).1, [200, 413, 200, 200]);
        assert_eq!(told(&["a"], &["v"], 1).1, [413]);
    }

    /// [`crate::memory`] has this much for an answer that is not read.
    #[test]
    fn an_answer_is_bounded_however_long_its_keys_and_values_are() {
        let max_value_bytes = 1 << 20;
        for key in
            ["\u{10ffff}", "\u{1}", "\t", "\"", "k"].map(|c| c.repeat(255)).into_iter().chain(["k".into()])
        {
            let operation = serde_json::json!({"op": "get", "key": key}).to_string();
            let count = BATCH_STEPS.min(max_value_bytes / (operation.len() + 1));
            let content = vec![operation; count].join("\n");
            assert_eq!(steps(content.as_bytes(), Form::Lines, max_value_bytes).unwrap().len(), count);
            let (values, most_bytes) = ("v".repeat(3_000), crate::limits::ITEMS_BYTES + max_value_bytes);
            let (sent, statuses) = told(&vec![&*key; count], &vec![&*values; count], most_bytes);
            let bound = most_bytes + count * crate::limits::BATCH_OUTCOME_BYTES;
            assert!(sent.len() < bound, "{} of {bound} bytes", sent.len());
            let read = statuses.iter().filter(|status| **status == 200).count();
            assert!(0 < read && read < count, "{read} of {count} have room");
        }
    }
}
