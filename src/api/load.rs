//! `PUT /kv`: rows without end, a line of JSON for each, as the export of `GET /kv` writes them. Pure.
//!
//! ```text
//!  {"key":"a","value":"1"}                                            {"lines":3,"written":2,"failed":1,"errors":[
//!  {"key":"b","value":"2","expires_at":"2030-01-01T00:00:00.5Z"}  ──►   {"line":3,"status":400,"problem":…,"detail":…}]}
//!  {"key":"","value":"3","ttl":60}
//! ```
//!
//! Called by [`crate::connection`]; the writers call [`parse`] for each line.

use super::list::NDJSON;
use super::{json, key, value};
use crate::http::problem::{Kind, Problem};
use crate::http::request::Extras;
use crate::http::response::{Encoder, Frame, JSON, Lent};
use crate::output::Output;
use crate::store::load::{End, Loaded, Row};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::ops::RangeInclusive;

/// Whether the content is what can be loaded, by what the request says of it.
pub fn check(extras: &Extras<'_>) -> Result<(), Problem> {
    if extras.media_type().is_some_and(|name| name.eq_ignore_ascii_case(NDJSON.as_bytes())) {
        return Ok(());
    }
    let detail = "what is loaded is application/x-ndjson: a line {\"key\":…,\"value\":…} for each row";
    Err(Problem::new(Kind::UnsupportedMediaType, detail))
}

/// The server goes away, and a load may have no end.
pub fn draining() -> Problem {
    let detail = "the server is going away and waits for no more lines; nothing was changed";
    Problem::new(Kind::Draining, detail).retry_after(1)
}

/// As many rows are being loaded as may be.
pub fn too_many() -> Problem {
    let detail = "the server is busy with as many loads as it takes at once; nothing was changed";
    Problem::new(Kind::QueueFull, detail).retry_after(1)
}

/// A line, as it is sent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'l> {
    #[serde(borrow)]
    key: Cow<'l, str>,
    #[serde(borrow)]
    value: Cow<'l, str>,
    #[serde(default, deserialize_with = "json::whole")]
    ttl: Option<i64>,
    #[serde(default, borrow)]
    expires_at: Option<Cow<'l, str>>,
}

/// The row of a line.
pub fn parse(line: &str, max_value_bytes: usize) -> Result<Row<'_>, Problem> {
    // An array of the members in their order would do, too.
    if !line.trim_ascii_start().starts_with('{') {
        return Err(bad("a line is {\"key\":…,\"value\":…}".into()));
    }
    let Line { key, value, ttl, expires_at } =
        serde_json::from_str(line).map_err(|error| bad(json::without_place(&error)))?;
    key::check(&key)?;
    value::check(&value, max_value_bytes)?;
    let end = match (ttl, expires_at) {
        (None, None) => End::Never,
        (Some(ttl), None) => End::After(value::ttl(ttl).map_err(bad)?),
        (None, Some(at)) if time(&at).is_some() => End::At(at),
        (None, Some(_)) => {
            return Err(bad("expires_at is a time as 2030-12-31T23:59:59.5Z (RFC 3339)".into()));
        }
        (Some(_), Some(_)) => return Err(bad("a row has ttl or expires_at, not both".into())),
    };
    Ok(Row { key, value, end })
}

fn bad(detail: String) -> Problem {
    Problem::new(Kind::BadLine, detail)
}

/// RFC 3339 section 5.6, as far as PostgreSQL follows: it has no year 0 and no offsets of 16 hours and more. But it has years
/// of five digits and more, and an export says when rows end that live so long. Its last time is the end of 294276: what
/// leads behind that from its last day, as a leap second may, is none.
fn time(text: &str) -> Option<()> {
    let (date, time) = text.split_once(['T', 't'])?;
    let [year, month, day] = numbers(date, '-', [4..=6, 2..=2, 2..=2])?;
    let (clock, offset) = match time.strip_suffix(['Z', 'z']) {
        Some(clock) => (clock, None),
        None => {
            time.split_at_checked(time.len().checked_sub(6)?).map(|(clock, offset)| (clock, Some(offset)))?
        }
    };
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let [hour, minute, second] = numbers(clock, ':', [2..=2, 2..=2, 2..=2])?;
    let [_] = numbers(fraction, '.', [1..=9])?;
    let [hours, minutes] = match offset {
        Some(offset) => numbers(offset.strip_prefix(['+', '-'])?, ':', [2..=2, 2..=2])?,
        None => [0, 0],
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let date = (1..=294_276).contains(&year) && (1..=12).contains(&month) && (1..=days).contains(&day);
    // A leap second is the first of the next minute to PostgreSQL.
    let time = hour < 24 && minute < 60 && second <= 60 && hours < 16 && minutes < 60;
    let is_west = offset.is_some_and(|offset| offset.starts_with('-'));
    let past_all = (year, month, day) == (294_276, 12, 31) && (second == 60 || fraction.len() > 6 || is_west);
    (date && time && !past_all).then_some(())
}

/// Numbers with so many digits each, and this between them.
fn numbers<const N: usize>(
    text: &str,
    between: char,
    digits: [RangeInclusive<usize>; N],
) -> Option<[u32; N]> {
    let mut parts = text.split(between);
    let mut numbers = [0; N];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part = parts.next().filter(|part| digits.contains(&part.len()))?;
        *number = part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())??;
    }
    parts.next().is_none().then_some(numbers)
}

/// What is known of a load: an answer has it, and a problem that has ended one.
#[derive(Serialize)]
struct Report<'a> {
    lines: u64,
    written: u64,
    failed: u64,
    errors: Vec<Refused<'a>>,
}

/// One line that was refused.
#[derive(Serialize)]
struct Refused<'a> {
    line: u64,
    status: u16,
    problem: String,
    detail: &'a str,
}

fn report(lines: u64, loaded: &Loaded) -> String {
    let errors = loaded.errors.iter().map(|(line, problem)| Refused {
        line: *line,
        status: problem.status(),
        problem: problem.kind.urn(),
        detail: &problem.detail,
    });
    let report = Report { lines, written: loaded.written, failed: loaded.failed, errors: errors.collect() };
    serde_json::to_string(&report).expect("strings and numbers always serialize")
}

/// The answer to a load that has come to its end.
pub fn answer(encoder: &Encoder, out: &mut Output, lines: u64, loaded: &Loaded, frame: Frame) {
    let mut json = report(lines, loaded);
    json.push('\n');
    let mut fields = encoder.start(out, 200, frame);
    fields.field("Content-Type", JSON);
    fields.content(Lent::Bytes(json.as_bytes()));
}

/// What has ended a load, and how far it had got: so many leading lines are done, and can be left out of the next try.
pub fn ended(problem: &Problem, lines: u64, loaded: &Loaded) -> Problem {
    let json = report(lines, loaded);
    let members = json[1..json.len() - 1].into();
    // What a problem says was not changed are the lines behind these.
    let detail = match lines {
        0 => problem.detail.clone(),
        _ => format!("the first {lines} lines are done; of the others: {}", problem.detail).into(),
    };
    Problem { detail, members: Some(members), ..problem.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::cors::Audience;
    use crate::http::response::Reuse;
    use std::time::SystemTime;

    #[test]
    fn a_line_has_a_row_for_everything_it_may_and_may_not_be() {
        let (long_key, long_value) = ("k".repeat(256), "v".repeat(9));
        let at = |time: &str| format!(r#"{{"key":"k","value":"v","expires_at":"{time}"}}"#);
        let plain = |key: &str, value: &str| format!(r#"{{"key":"{key}","value":"{value}"}}"#);
        let row = |key: &'static str, value: &'static str, end| {
            Ok(Row { key: key.into(), value: value.into(), end })
        };
        for (line, expected) in [
            (plain("k", "v"), row("k", "v", End::Never)),
            (plain("k", ""), row("k", "", End::Never)),
            (r#" { "value" : "\u00e4\n" , "key" : "a\"b/ä" } "#.into(), row("a\"b/ä", "ä\n", End::Never)),
            (r#"{"key":"k","value":"v","ttl":null,"expires_at":null}"#.into(), row("k", "v", End::Never)),
            (r#"{"key":"k","value":"v","ttl":60}"#.into(), row("k", "v", End::After(60))),
            (r#"{"key":"k","value":"v","ttl":6e1}"#.into(), row("k", "v", End::After(60))),
            (at("2030-01-01T00:00:00.000000Z"), row("k", "v", End::At("2030-01-01T00:00:00.000000Z".into()))),
            (at("1999-02-03t04:05:06-07:30"), row("k", "v", End::At("1999-02-03t04:05:06-07:30".into()))),
            (r#"{"key":"k","value":"v","ttl":0}"#.into(), Err("bad-line")),
            (r#"{"key":"k","value":"v","ttl":0.5}"#.into(), Err("bad-line")),
            (
                r#"{"key":"k","value":"v","ttl":1,"expires_at":"2030-01-01T00:00:00Z"}"#.into(),
                Err("bad-line"),
            ),
            (at("2030-01-01"), Err("bad-line")),
            (plain("", "v"), Err("bad-key")),
            (plain(&long_key, "v"), Err("bad-key")),
            (plain(r"\u0000", "v"), Err("bad-key")),
            (plain("k", &long_value), Err("value-too-large")),
            (plain("k", r"\u0000"), Err("value-not-text")),
            (plain("k", r"\ud800"), Err("bad-line")),
            (r#"{"key":"k"}"#.into(), Err("bad-line")),
            (r#"{"value":"v"}"#.into(), Err("bad-line")),
            (r#"{"key":"k","value":null}"#.into(), Err("bad-line")),
            (r#"{"key":"k","value":1}"#.into(), Err("bad-line")),
            (r#"{"key":"k","value":"v","etag":"1"}"#.into(), Err("bad-line")),
            (r#"{"key":"k","key":"l","value":"v"}"#.into(), Err("bad-line")),
            (r#"{"key":"k","value":"v"}{}"#.into(), Err("bad-line")),
            (r#"["k","v"]"#.into(), Err("bad-line")),
            ("k=v".into(), Err("bad-line")),
        ] {
            assert_eq!(parse(&line, 8).map_err(|problem| problem.kind.facts().1), expected, "{line}");
        }
    }

    #[test]
    fn a_time_is_one_that_there_is() {
        for (text, expected) in [
            ("2030-01-01T00:00:00Z", true),
            ("2030-01-01T00:00:00.5+15:59", true),
            ("2028-02-29T23:59:60z", true),
            ("0001-01-01T00:00:00Z", true),
            ("12030-01-01T00:00:00.123456Z", true),
            ("294276-12-31T23:59:59Z", true),
            ("294276-12-31T23:59:60Z", false),
            ("294276-12-31T23:59:59.9999999Z", false),
            ("294276-12-31T23:59:59-15:59", false),
            ("294277-01-01T00:00:00Z", false),
            ("0000-01-01T00:00:00Z", false),
            ("2030-02-29T00:00:00Z", false),
            ("2030-04-31T00:00:00Z", false),
            ("2030-13-01T00:00:00Z", false),
            ("2030-00-01T00:00:00Z", false),
            ("2030-01-01T24:00:00Z", false),
            ("2030-01-01T00:60:00Z", false),
            ("2030-01-01T00:00:61Z", false),
            ("2030-01-01T00:00:00", false),
            ("2030-01-01T00:00:00.Z", false),
            ("2030-01-01T00:00:00.1234567890Z", false),
            ("2030-01-01T00:00:00+16:00", false),
            ("2030-01-01T00:00:00+0000", false),
            ("2030-01-01T00:00:00 Z", false),
            ("2030-01-01 00:00:00Z", false),
            ("2030-1-1T00:00:00Z", false),
            ("+2030-01-01T00:00:00Z", false),
            ("2030-01-01-01T00:00:00Z", false),
            ("infinity", false),
            ("now", false),
            ("2030-01-01T00:00:0äZ", false),
            ("", false),
        ] {
            assert_eq!(time(text).is_some(), expected, "{text}");
        }
    }

    #[test]
    fn a_load_is_what_says_that_it_is_lines() {
        for (content_type, expected) in [
            (Some("application/x-ndjson"), true),
            (Some("Application/X-NDJSON ; charset=utf-8"), true),
            (Some("application/json"), false),
            (Some("application/x-ndjsonx"), false),
            (None, false),
        ] {
            let extras = Extras { content_type: content_type.map(str::as_bytes), ..Extras::default() };
            assert_eq!(check(&extras).is_ok(), expected, "{content_type:?}");
        }
    }

    #[test]
    fn an_answer_and_a_problem_say_how_far_it_has_got() {
        let encoder = Encoder::new(0, SystemTime::UNIX_EPOCH);
        let mut loaded = Loaded { written: 2, ..Loaded::default() };
        loaded.refuse(3, Problem::new(Kind::BadLine, "no \"row\" {}"));
        let (mut out, mut sent) = (Output::default(), Vec::new());
        let frame = Frame { head_only: false, reuse: Reuse::Silent, audience: Audience::NONE };
        answer(&encoder, &mut out, 3, &loaded, frame);
        out.flush(&mut sent, usize::MAX);
        let sent = String::from_utf8(sent).unwrap();
        let report = r#""lines":3,"written":2,"failed":1,"errors":[{"line":3,"status":400,"problem":"urn:hotrow:problem:bad-line","detail":"no \"row\" {}"}]"#;
        assert!(sent.ends_with(&format!("\r\n\r\n{{{report}}}\n")), "{sent}");
        let problem = ended(&too_many(), 3, &loaded);
        assert!(problem.detail.starts_with("the first 3 lines are done; of the others: "));
        let text = String::from_utf8(problem.to_json()).unwrap();
        assert!(
            text.ends_with(&format!("\"status\":503,\"detail\":\"{}\",{report}}}\n", problem.detail)),
            "{text}"
        );
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
    }
}
