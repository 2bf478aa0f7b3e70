//! Lists of keys: `GET /kv?prefix=…`, page by page as JSON, or all that there is as lines (NDJSON). Pure. Routed by
//! [`super::collection`], driven by [`crate::connection`].

use super::collection::{lent, too_much};
use super::json;
use super::wishes::parts;
use super::{key, query};
use crate::http::problem::Problem;
use crate::http::request::{Extras, List as FieldList, Version};
use crate::http::response::{Encoder, Frame, JSON, Lent};
use crate::limits::{ITEMS_BYTES, LIST_ROWS, LIST_ROWS_DEFAULT};
use crate::output::Output;
use crate::store::list::{Page, PageRow, Range};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// The media type of lines of JSON.
pub const NDJSON: &str = "application/x-ndjson";

/// What is to be listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    prefix: Box<str>,
    /// Behind this key, which is the last of the page before.
    after: Option<Box<str>>,
    limit: Option<u32>,
    values: bool,
    /// How it is told.
    pub form: Form,
}

/// How a list is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One page, as JSON.
    Page,
    /// All of it, a line for each row, and the client's version of HTTP: 1.0 does not know chunks.
    Lines(Version),
}

/// The parameters of a list.
pub const PARAMETERS: [&str; 4] = ["prefix", "limit", "cursor", "values"];

impl List {
    /// What a query asks for.
    pub fn parse(query: &str) -> Result<List, Problem> {
        let [prefix, limit, cursor, values] = query::known(query, PARAMETERS)?;
        let prefix = prefix.unwrap_or_default();
        if !prefix.is_empty() {
            key::check(&prefix)?;
        }
        let limit = limit.as_deref().map(parse_limit).transpose()?;
        let after = cursor.as_deref().map(|cursor| parse_cursor(cursor, &prefix)).transpose()?;
        let values = query::flag("values", values.as_deref())?;
        Ok(List { prefix: prefix.into(), after, limit, values, form: Form::Page })
    }

    /// What the client takes, as far as it matters here: lines where it names them, and else a page.
    pub fn negotiate(&mut self, extras: &Extras<'_>, version: Version) {
        if extras.accept.into_iter().chain(extras.lines(FieldList::Accept)).any(takes_lines) {
            self.form = Form::Lines(version);
        }
    }

    /// The first page.
    pub fn first(&self) -> Range {
        let (rows, values) = match self.form {
            Form::Page => (self.limit.unwrap_or(LIST_ROWS_DEFAULT), self.values),
            Form::Lines(_) => (self.limit.unwrap_or(LIST_ROWS), true),
        };
        Range::new(&self.prefix, self.after.as_deref(), rows, ITEMS_BYTES, values)
    }

    /// The page behind this key, if that many rows are not enough.
    pub fn next(&self, last: &str, rows: u32) -> Option<Range> {
        let left = self.limit.map_or(LIST_ROWS, |limit| limit.saturating_sub(rows));
        (left > 0).then(|| Range::new(&self.prefix, Some(last), left.min(LIST_ROWS), ITEMS_BYTES, true))
    }

    /// The target of the page behind this key.
    fn link(&self, cursor: &str) -> String {
        let mut link = format!("</kv?prefix={}", utf8_percent_encode(&self.prefix, NON_ALPHANUMERIC));
        if let Some(limit) = self.limit {
            link += &format!("&limit={limit}");
        }
        if self.values {
            link += "&values=true";
        }
        link + &format!("&cursor={cursor}>; rel=\"next\"")
    }

    /// Writes one page: `{"items":[…],"cursor":…}`. Encoded, its rows are as many as begin before [`ITEMS_BYTES`], whatever was
    /// read, and values get no further than `bytes`.
    pub fn answer(&self, encoder: &Encoder, out: &mut Output, page: &Page, bytes: usize, frame: Frame) {
        let mut json = b"{\"items\":[".to_vec();
        let mut told = 0;
        for (at, row) in page.rows.iter().enumerate() {
            if json.len() >= ITEMS_BYTES {
                break;
            }
            told = at + 1;
            json.extend_from_slice(if at == 0 { b"{\"key\":" } else { b",{\"key\":" });
            json::string(&mut json, &row.key);
            json.extend_from_slice(format!(",\"etag\":\"\\\"{}\\\"\"", row.version).as_bytes());
            if let Some(value) = &row.value {
                let before = json.len();
                json.extend_from_slice(b",\"value\":");
                if !json::string_within(&mut json, value, bytes) {
                    json.truncate(before);
                    json.extend_from_slice(b",\"detail\":");
                    json::string(&mut json, &too_much(bytes).detail);
                }
            }
            json.push(b'}');
        }
        let more = page.more || told < page.rows.len();
        let last = page.rows[..told].last().filter(|_| more);
        let cursor = last.map(|row| cursor(&row.key));
        json.extend_from_slice(b"],\"cursor\":");
        match &cursor {
            Some(cursor) => json::string(&mut json, cursor),
            None => json.extend_from_slice(b"null"),
        }
        json.extend_from_slice(b"}\n");
        let mut fields = encoder.start_by_accept(out, 200, frame);
        fields.field("Content-Type", JSON);
        fields.field("Cache-Status", BYPASS);
        if let Some(cursor) = &cursor {
            fields.field("Link", &self.link(cursor));
        }
        fields.content(Lent::Shared(&lent(json)));
    }

    /// The head of the answer with lines. Without chunks its end is the end of the connection.
    pub fn start_lines(encoder: &Encoder, out: &mut Output, chunked: bool, frame: Frame) {
        let mut fields = encoder.start_by_accept(out, LINES_STATUS, frame);
        fields.field("Content-Type", NDJSON);
        fields.field("Cache-Status", BYPASS);
        if chunked {
            fields.field("Transfer-Encoding", "chunked");
        }
        fields.no_content();
    }
}

/// The cursor of what stands behind this key.
pub fn cursor(key: &str) -> String {
    URL_SAFE_NO_PAD.encode(key)
}

/// The status of an answer with lines, however it ends.
pub const LINES_STATUS: u16 = 200;
/// A list is read in the table, whatever is cached.
const BYPASS: &str = "hotrow; fwd=bypass";

/// Rows on their way out as lines, piece by piece: a value may be larger than what is sent at once.
#[derive(Debug)]
pub struct Lines {
    rows: std::vec::IntoIter<PageRow>,
    /// The row that is being written, and how much of its value is.
    row: Option<(PageRow, usize)>,
}

/// So much of a value is written at once: in JSON a character may take six bytes.
const PIECE_BYTES: usize = 16 * 1024;

impl Lines {
    /// The rows of a page.
    pub fn new(rows: Vec<PageRow>) -> Lines {
        Lines { rows: rows.into_iter(), row: None }
    }

    /// Writes until there are `bytes` or nothing is left. True: nothing is.
    pub fn write(&mut self, out: &mut Vec<u8>, bytes: usize) -> bool {
        while out.len() < bytes {
            let Some((row, written)) = &mut self.row else {
                let Some(row) = self.rows.next() else { return true };
                out.extend_from_slice(b"{\"key\":");
                json::string(out, &row.key);
                out.extend_from_slice(b",\"value\":\"");
                self.row = Some((row, 0));
                continue;
            };
            let rest = &row.value.as_deref().unwrap_or_default()[*written..];
            let mut end = rest.len().min(PIECE_BYTES);
            while !rest.is_char_boundary(end) {
                end += 1;
            }
            // The quotes of the piece are not those of the value.
            let at = out.len();
            json::string(out, &rest[..end]);
            out.pop();
            out.remove(at);
            *written += end;
            if end == rest.len() {
                out.push(b'"');
                if let Some(expires_at) = &row.expires_at {
                    out.extend_from_slice(b",\"expires_at\":");
                    json::string(out, expires_at);
                }
                out.extend_from_slice(b"}\n");
                self.row = None;
            }
        }
        self.row.is_none() && self.rows.as_slice().is_empty()
    }
}

fn parse_limit(text: &str) -> Result<u32, Problem> {
    match text.parse() {
        Ok(limit @ 1..=LIST_ROWS) if !text.starts_with('+') => Ok(limit),
        _ => Err(query::bad(format!("limit is a whole number from 1 to {LIST_ROWS}"))),
    }
}

fn parse_cursor(text: &str, prefix: &str) -> Result<Box<str>, Problem> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    // The table may have longer keys than a request may name: whoever lists them goes on behind them.
    let may_be = |key: &String| !key.is_empty() && !key.contains('\0');
    match bytes.and_then(|bytes| String::from_utf8(bytes).ok()).filter(may_be) {
        Some(key) if key.starts_with(prefix) => Ok(key.into()),
        Some(_) => Err(query::bad("the cursor is of a list with another prefix".into())),
        None => Err(query::bad("the cursor is none that an answer has given".into())),
    }
}

/// Lines are named, and not with a weight of 0 (RFC 9110 section 12.5.1).
fn takes_lines(accept: &[u8]) -> bool {
    parts(accept, b',').any(|range| {
        let mut parts = parts(range, b';').map(<[u8]>::trim_ascii);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(NDJSON.as_bytes()));
        let zero = |weight: &[u8]| {
            let digits = weight.strip_prefix(b"q=").or_else(|| weight.strip_prefix(b"Q="));
            digits.is_some_and(|digits| digits.iter().all(|b| matches!(b, b'0' | b'.')))
        };
        named && !parts.any(zero)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::cors::Audience;
    use crate::http::response::Reuse;
    use proptest::prelude::*;
    use std::time::SystemTime;

    #[test]
    fn a_query_has_a_row_for_everything_it_may_and_may_not_be() {
        let long = format!("prefix={}", "x".repeat(256));
        let (of_ab, of_b, no_key) = (cursor("ab"), cursor("b"), cursor(""));
        // The table may have longer keys than a request.
        let long_key = "x".repeat(300);
        let (of_long, of_null) = (cursor(&long_key), cursor("a\0"));
        for (query, expected) in [
            ("", Ok(("", None, None, false))),
            ("prefix=", Ok(("", None, None, false))),
            ("prefix=a%2Fb", Ok(("a/b", None, None, false))),
            ("limit=1&values=true", Ok(("", None, Some(1), true))),
            ("limit=1000&values=false", Ok(("", None, Some(1000), false))),
            (&format!("prefix=a&cursor={of_ab}"), Ok(("a", Some("ab"), None, false))),
            (&format!("prefix=a&cursor={of_b}"), Err("bad-query")),
            (&format!("cursor={no_key}"), Err("bad-query")),
            (&format!("cursor={of_null}"), Err("bad-query")),
            (&format!("prefix=x&cursor={of_long}"), Ok(("x", Some(&long_key), None, false))),
            ("cursor=!", Err("bad-query")),
            ("cursor=_w", Err("bad-query")),
            ("limit=0", Err("bad-query")),
            ("limit=1001", Err("bad-query")),
            ("limit=+1", Err("bad-query")),
            ("limit=1&limit=2", Err("bad-query")),
            ("values=1", Err("bad-query")),
            ("key=a&prefix=b", Err("bad-query")),
            ("prefix=%00", Err("bad-key")),
            (&long, Err("bad-key")),
        ] {
            let got = List::parse(query).map_err(|problem| problem.kind.facts().1);
            let expected = expected.map(|(prefix, after, limit, values): (&str, Option<&str>, _, _)| List {
                prefix: prefix.into(),
                after: after.map(Into::into),
                limit,
                values,
                form: Form::Page,
            });
            assert_eq!(got, expected, "{query}");
        }
    }

    #[test]
    fn what_is_accepted_may_be_said_in_several_lines() {
        let form = |extras: &Extras<'_>| {
            let mut list = List::parse("").unwrap();
            list.negotiate(extras, Version::Http11);
            list.form
        };
        let mut extras = Extras { accept: Some(b"text/html"), ..Extras::default() };
        assert_eq!(form(&extras), Form::Page);
        extras.lists.push((FieldList::Accept, NDJSON.as_bytes()));
        assert_eq!(form(&extras), Form::Lines(Version::Http11));
    }

    #[test]
    fn lines_are_sent_to_who_names_them() {
        for (accept, expected) in [
            ("application/x-ndjson", true),
            ("application/json, Application/X-NDJSON;q=0.5", true),
            ("application/x-ndjson; q=0", false),
            ("application/x-ndjson;q=0.0, */*", false),
            ("*/*", false),
            ("application/*", false),
            ("application/x-ndjsonx", false),
            ("text/plain;a=\"b, application/x-ndjson, c\"", false),
            ("text/plain;a=\"b, application/x-ndjson", true),
            ("application/x-ndjson;a=\"b;q=0;c\"", true),
            ("application/x-ndjson;a=\"b;q=0", false),
        ] {
            assert_eq!(takes_lines(accept.as_bytes()), expected, "{accept}");
        }
    }

    #[test]
    fn a_page_links_to_the_next_one() {
        let encoder = Encoder::new(0, SystemTime::UNIX_EPOCH);
        let row = |key: &str, value: Option<&str>| PageRow {
            key: key.into(),
            version: 7,
            value: value.map(Into::into),
            expires_at: None,
        };
        let text = |query: &str, page: &Page| {
            let (mut out, mut sent) = (Output::default(), Vec::new());
            let frame = Frame { head_only: false, reuse: Reuse::Silent, audience: Audience::NONE };
            List::parse(query).unwrap().answer(&encoder, &mut out, page, 200, frame);
            out.flush(&mut sent, usize::MAX);
            String::from_utf8(sent).unwrap()
        };
        let more =
            text("prefix=%22&limit=2", &Page { rows: vec![row("\"a", None), row("\"b", None)], more: true });
        let of_b = cursor("\"b");
        let items = r#"{"items":[{"key":"\"a","etag":"\"7\""},{"key":"\"b","etag":"\"7\""}],"cursor":""#;
        assert!(more.ends_with(&format!("\r\n\r\n{items}{of_b}\"}}\n")), "{more}");
        assert!(more.contains(&format!("Link: </kv?prefix=%22&limit=2&cursor={of_b}>; rel=\"next\"\r\n")));
        let large = "\u{1}".repeat(50);
        let last = Page { rows: vec![row("a", Some(&large)), row("b", Some("v"))], more: false };
        let last = text("values=true", &last);
        let json: serde_json::Value = serde_json::from_str(last.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert!(!last.contains("Link:") && json["cursor"].is_null());
        assert!(json["items"][0]["detail"].is_string(), "what there is no room for is said: {json}");
        assert!(json["items"][0].get("value").is_none());
    }

    #[test]
    fn a_page_is_bounded_in_bytes_whatever_its_keys_are() {
        let encoder = Encoder::new(0, SystemTime::UNIX_EPOCH);
        let key = |at: usize| format!("{}{at:03}", "\u{1}".repeat(252));
        let row = |at| PageRow { key: key(at).into(), version: 7, value: None, expires_at: None };
        let page = Page { rows: (0..1_000).map(row).collect(), more: false };
        let (mut out, mut sent) = (Output::default(), Vec::new());
        let frame = Frame { head_only: false, reuse: Reuse::Silent, audience: Audience::NONE };
        let list = List::parse("limit=1000").unwrap();
        list.answer(&encoder, &mut out, &page, 2 * ITEMS_BYTES, frame);
        out.flush(&mut sent, usize::MAX);
        let text = String::from_utf8(sent).unwrap();
        assert!((ITEMS_BYTES..ITEMS_BYTES + 4_096).contains(&text.len()), "{}", text.len());
        let json: serde_json::Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        let told = json["items"].as_array().unwrap().len();
        assert_eq!(json["cursor"], cursor(&key(told - 1)), "the next page begins behind the last row told");
        assert!(text.contains("rel=\"next\""));
    }

    proptest! {
        #[test]
        fn lines_are_whole_whatever_is_written_at_once(
            values in prop::collection::vec("[a\u{0}\"\\\\ä🔥]{0,40}", 0..6), long in 0usize..40_000, bytes in 1usize..30_000)
        {
            let value = |value: &String| if value.is_empty() { "ä\n".repeat(long) } else { value.clone() };
            let values: Vec<String> = values.iter().map(value).collect();
            let expires_at = |at: usize| (at % 2 == 1).then(|| "2030-01-01T00:00:00.000000Z".into());
            let row = |(at, value): (usize, &String)| PageRow {
                key: format!("\"{at}").into(),
                version: 1,
                value: Some(value.as_str().into()),
                expires_at: expires_at(at),
            };
            let mut lines = Lines::new(values.iter().enumerate().map(row).collect());
            let mut sent = Vec::new();
            loop {
                let mut piece = Vec::new();
                let done = lines.write(&mut piece, bytes);
                prop_assert!(piece.len() < bytes + 6 * PIECE_BYTES + 100);
                sent.extend(piece);
                if done { break }
            }
            let text = String::from_utf8(sent).unwrap();
            let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            prop_assert_eq!(rows.len(), values.len());
            for (at, (row, value)) in rows.iter().zip(&values).enumerate() {
                prop_assert_eq!(&row["key"], &format!("\"{at}"));
                prop_assert_eq!(row["value"].as_str(), Some(value.as_str()));
                prop_assert_eq!(row.get("expires_at").is_some(), at % 2 == 1);
            }
        }
    }
}
