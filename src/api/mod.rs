//! What a request means: its method and target as a [`Command`], and the answers as HTTP. Knows no socket and no
//! thread. Called by [`crate::connection`].

pub mod admin;
pub mod answer;
pub mod auth;
pub mod batch;
pub mod collection;
pub mod exposition;
mod json;
pub mod key;
pub mod list;
pub mod load;
pub mod openapi;
pub mod query;
pub mod refusals;
pub mod value;
pub mod wishes;

use crate::http::problem::{Kind, Problem};
use crate::limits::KEY_CHARS;
use std::borrow::Cow;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'b> {
    /// GET and HEAD of a key.
    Get(Cow<'b, str>),
    /// GET and HEAD of several keys.
    GetMany(Vec<Box<str>>),
    /// GET and HEAD of a list of keys.
    List(list::List),
    /// PUT and SET of a key; the value is the content, and lives so many seconds, if not for ever.
    Set(Cow<'b, str>, Option<u32>),
    /// DELETE of a key.
    Delete(Cow<'b, str>),
    /// POST of a key with `op=incr`: adds to the number that its value is.
    Add(Cow<'b, str>, i64),
    /// POST of a batch; the operations are the content. True: all of them, or none.
    Batch(bool),
    /// PUT of rows without end; they are the content.
    Load,
    /// OPTIONS: these methods.
    Options(&'static str),
    /// GET and HEAD of what all this is.
    Description,
    /// GET and HEAD of a page of the admin socket.
    Admin(admin::Page),
}

impl Command<'_> {
    /// True where it may change a row.
    pub fn changes(&self) -> bool {
        match self {
            Command::Set(..) | Command::Delete(_) | Command::Add(..) | Command::Batch(_) | Command::Load => {
                true
            }
            Command::Get(_)
            | Command::GetMany(_)
            | Command::List(_)
            | Command::Options(_)
            | Command::Description
            | Command::Admin(_) => false,
        }
    }

    /// True where conditions, directives about the cache and preferences say something of it. Elsewhere they are ignored, whatever
    /// stands in them (RFC 9110 section 13.2.1).
    pub fn takes_wishes(&self) -> bool {
        match self {
            Command::Get(_) => true,
            Command::GetMany(_)
            | Command::List(_)
            | Command::Options(_)
            | Command::Description
            | Command::Admin(_) => false,
            Command::Set(..) | Command::Delete(_) | Command::Add(..) | Command::Batch(_) | Command::Load => {
                true
            }
        }
    }
}

/// The methods of a key.
pub const KEY_METHODS: &str = "GET, HEAD, PUT, SET, DELETE, OPTIONS";
/// What there is to a key as a counter, by a query of its own.
const COUNTER_METHODS: &str = "POST, OPTIONS";

/// What the path of every key begins with.
pub const KEYS: &str = "/kv/";

/// The key that a GET of this literal path asks for: one that stands for itself as text, without escape or query. Where
/// it says nothing, [`route`] has the word; where it says a key, [`route`] would say the same.
#[inline(always)]
pub fn literal_key(path: &[u8]) -> Option<&[u8]> {
    path.strip_prefix(KEYS.as_bytes()).filter(|key| !key.is_empty() && key.len() <= KEY_CHARS)
}

/// What a method and a target on the data socket ask for.
pub fn route<'b>(method: &str, target: &'b str) -> Result<Command<'b>, Problem> {
    let verb = Verb::of(method);
    if verb == Verb::Unknown {
        return Err(unknown_method(method));
    }
    if target == "*" {
        return Ok(Command::Options(KEY_METHODS));
    }
    let Some(rest) = target.strip_prefix(KEYS) else {
        return route_other(verb, method, target);
    };
    route_key(verb, method, rest).map_err(|problem| match problem.kind {
        // Where OPTIONS names no such method, that is what is wrong, and not the query.
        Kind::BadQuery if verb != Verb::Post && methods_of(rest) == COUNTER_METHODS => {
            not_allowed(method, COUNTER_METHODS)
        }
        _ => problem,
    })
}

/// The same for what stands behind `/kv/`.
fn route_key<'b>(verb: Verb, method: &str, rest: &'b str) -> Result<Command<'b>, Problem> {
    match verb {
        Verb::Get => Ok(Command::Get(key_of(rest)?)),
        Verb::Set => {
            let (key, [ttl]) = key_and_query(rest, ["ttl"])?;
            Ok(Command::Set(key, ttl.as_deref().map(query::ttl).transpose()?))
        }
        Verb::Delete => Ok(Command::Delete(key_of(rest)?)),
        Verb::Options => Ok(Command::Options(methods_of(rest))),
        Verb::Post if rest.contains('?') => {
            let (key, [op, by]) = key_and_query(rest, ["op", "by"])?;
            Ok(Command::Add(key, addend(op.as_deref(), by.as_deref())?))
        }
        Verb::Post | Verb::Unknown | Verb::Other => Err(not_allowed(method, methods_of(rest))),
    }
}

/// The methods of what stands behind `/kv/`. What there is to POST to has a query, and so is another resource.
fn methods_of(rest: &str) -> &'static str {
    let query = rest.split_once('?').map_or("", |(_, query)| query);
    if query::names(query, "op") { COUNTER_METHODS } else { KEY_METHODS }
}

/// The same for resources that are no key.
fn route_other<'b>(verb: Verb, method: &str, target: &'b str) -> Result<Command<'b>, Problem> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    match (path, verb) {
        (collection::PATH, Verb::Get) => collection::get(query),
        (collection::PATH, Verb::Set) if method == "PUT" => query::known(query, []).map(|[]| Command::Load),
        (collection::PATH, Verb::Options) => Ok(Command::Options(collection::METHODS)),
        (collection::PATH, _) => Err(not_allowed(method, collection::METHODS)),
        (batch::PATH, Verb::Post) => Ok(Command::Batch(batch::all_or_nothing(query)?)),
        (batch::PATH, Verb::Options) => Ok(Command::Options(batch::METHODS)),
        (batch::PATH, _) => Err(not_allowed(method, batch::METHODS)),
        (openapi::PATH, Verb::Get) => query::known(query, []).map(|[]| Command::Description),
        (openapi::PATH, Verb::Options) => Ok(Command::Options(openapi::METHODS)),
        (openapi::PATH, _) => Err(not_allowed(method, openapi::METHODS)),
        _ => {
            let detail = "values live at /kv/{key}, several at /kv, batches at /batch; /openapi.json describes it all; operations \
                listen on the admin socket";
            Err(Problem::new(Kind::PathNotFound, detail))
        }
    }
}

/// What a method asks for, whatever its target.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Get,
    Set,
    Delete,
    Options,
    Post,
    /// A method that resources may have, and that none here has.
    Other,
    Unknown,
}

impl Verb {
    /// RFC 9110 section 15.6.2: 501 is for methods that no resource has; 405 for those that this one has not.
    fn of(method: &str) -> Verb {
        match method {
            "GET" | "HEAD" => Verb::Get,
            "PUT" | "SET" => Verb::Set,
            "DELETE" => Verb::Delete,
            "OPTIONS" => Verb::Options,
            "POST" => Verb::Post,
            "PATCH" | "TRACE" | "QUERY" => Verb::Other,
            _ => Verb::Unknown,
        }
    }
}

/// The key that stands behind `/kv/`.
fn key_of(rest: &str) -> Result<Cow<'_, str>, Problem> {
    Ok(key_and_query(rest, [])?.0)
}

/// The key that stands behind `/kv/`, and the parameters that its query may have.
fn key_and_query<'b, const N: usize>(
    rest: &'b str,
    names: [&str; N],
) -> Result<(Cow<'b, str>, query::Values<'b, N>), Problem> {
    let (raw, query) = rest.split_once('?').unwrap_or((rest, ""));
    Ok((key::decode(raw)?, query::known(query, names)?))
}

/// What `op=incr` adds: 1, or `by`.
fn addend(op: Option<&str>, by: Option<&str>) -> Result<i64, Problem> {
    if op != Some("incr") {
        return Err(query::bad("what a POST does to a key is op=incr".into()));
    }
    match by {
        None => Ok(1),
        Some(by) if !by.starts_with('+') => by.parse().map_err(|_| ()),
        Some(_) => Err(()),
    }
    .map_err(|()| query::bad("by is a whole number of 64 bits".into()))
}

fn unknown_method(method: &str) -> Problem {
    Problem::new(Kind::UnknownMethod, format!("no resource here has the method {}", excerpt(method)))
}

fn not_allowed(method: &str, allow: &'static str) -> Problem {
    let detail = format!("this resource does not have {}; it has {allow}", excerpt(method));
    Problem { field: Some(allow), ..Problem::new(Kind::MethodNotAllowed, detail) }
}

/// The beginning of something that a client sent, short enough to be sent back.
fn excerpt(text: &str) -> &str {
    text.get(..32).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::literal_path;
    use proptest::prelude::*;

    #[test]
    fn every_method_and_target_has_its_meaning() {
        let get = |key: &'static str| Ok(Command::Get(key.into()));
        for (method, target, expected) in [
            ("GET", "/kv/a", get("a")),
            ("HEAD", "/kv/a", get("a")),
            ("GET", "/kv/a/b/../c//", get("a/b/../c//")),
            ("GET", "/kv/a%2Fb", get("a/b")),
            ("GET", "/kv/a?", get("a")),
            ("PUT", "/kv/a", Ok(Command::Set("a".into(), None))),
            ("SET", "/kv/a", Ok(Command::Set("a".into(), None))),
            ("PUT", "/kv/a?ttl=60", Ok(Command::Set("a".into(), Some(60)))),
            ("PUT", "/kv/a?ttl=0", Err(400)),
            ("PUT", "/kv/a?ttl=+5", Err(400)),
            ("PUT", "/kv/a?ttl=5&ttl=6", Err(400)),
            ("PUT", "/kv/a?tll=5", Err(400)),
            ("GET", "/kv/a?&", get("a")),
            ("GET", "/kv/a?op=incr", Err(405)),
            ("GET", "/kv/%zz?op=incr", Err(400)),
            ("POST", "/kv/a?op=incr", Ok(Command::Add("a".into(), 1))),
            ("POST", "/kv/a?op=incr&by=-7", Ok(Command::Add("a".into(), -7))),
            ("POST", "/kv/a?op=incr&by=9223372036854775808", Err(400)),
            ("POST", "/kv/a?op=incr&by=%2B1", Err(400)),
            ("POST", "/kv/a?op=decr", Err(400)),
            ("POST", "/kv/a?by=1", Err(400)),
            ("DELETE", "/kv/a", Ok(Command::Delete("a".into()))),
            ("OPTIONS", "/kv/a", Ok(Command::Options(KEY_METHODS))),
            ("OPTIONS", "*", Ok(Command::Options(KEY_METHODS))),
            ("OPTIONS", "/kv/a?op=incr", Ok(Command::Options(COUNTER_METHODS))),
            ("OPTIONS", "/kv/a?by=2&op=incr", Ok(Command::Options(COUNTER_METHODS))),
            ("OPTIONS", "/kv/a?ttl=5", Ok(Command::Options(KEY_METHODS))),
            ("OPTIONS", "/kv/a?by=op", Ok(Command::Options(KEY_METHODS))),
            ("GET", "/kv/", Err(400)),
            ("GET", "/kv/a?b=c", Err(400)),
            ("GET", "/kv/%zz", Err(400)),
            ("POST", "/batch", Ok(Command::Batch(false))),
            ("POST", "/batch?atomic=true", Ok(Command::Batch(true))),
            ("POST", "/batch?atomic=maybe", Err(400)),
            ("GET", "/batch", Err(405)),
            ("OPTIONS", "/batch", Ok(Command::Options(batch::METHODS))),
            ("GET", "/kv?prefix=a", Ok(Command::List(list::List::parse("prefix=a").unwrap()))),
            ("HEAD", "/kv", Ok(Command::List(list::List::parse("").unwrap()))),
            ("GET", "/kv?key=a&key=b", Ok(Command::GetMany(vec!["a".into(), "b".into()]))),
            ("OPTIONS", "/kv", Ok(Command::Options(collection::METHODS))),
            ("PUT", "/kv", Ok(Command::Load)),
            ("PUT", "/kv?ttl=5", Err(400)),
            ("SET", "/kv", Err(405)),
            ("DELETE", "/kv?key=a", Err(405)),
            ("GET", "/openapi.json", Ok(Command::Description)),
            ("HEAD", "/openapi.json?", Ok(Command::Description)),
            ("GET", "/openapi.json?a=b", Err(400)),
            ("PUT", "/openapi.json", Err(405)),
            ("OPTIONS", "/openapi.json", Ok(Command::Options(openapi::METHODS))),
            ("GET", "/", Err(404)),
            ("GET", "/KV/a", Err(404)),
            ("GET", "//kv/a", Err(404)),
            ("GET", "/metrics", Err(404)),
            ("POST", "/kv/a", Err(405)),
            ("PATCH", "/kv/a", Err(405)),
            ("TRACE", "/kv/a", Err(405)),
            ("QUERY", "/kv/a", Err(405)),
            ("get", "/kv/a", Err(501)),
            ("BREW", "/kv/a", Err(501)),
            ("CONNECT", "/", Err(501)),
        ] {
            let got = route(method, target).map_err(|problem| problem.status());
            assert_eq!(got, expected, "{method} {target}");
        }
        for (method, target, allow) in [
            ("POST", "/kv/a", KEY_METHODS),
            ("PATCH", "/kv/a?ttl=5", KEY_METHODS),
            ("PATCH", "/kv/a?op=incr", COUNTER_METHODS),
            ("GET", "/kv/a?op=incr", COUNTER_METHODS),
            ("HEAD", "/kv/a?op=", COUNTER_METHODS),
            ("PUT", "/kv/a?ttl=5&op=incr", COUNTER_METHODS),
            ("SET", "/kv/a?op=incr&op=incr", COUNTER_METHODS),
            ("DELETE", "/kv/a?by=2&op=decr", COUNTER_METHODS),
            ("TRACE", "/kv/a?by=2&op=incr", COUNTER_METHODS),
        ] {
            let refused = route(method, target).unwrap_err();
            assert_eq!(refused.field, Some(allow), "{method} {target}");
            assert!(refused.detail.contains(allow), "{method} {target}: {}", refused.detail);
        }
    }

    proptest! {
        #[test]
        fn the_short_way_says_what_the_long_one_says(
            target in "(/kv/)?[!-~]{0,12}|/kv/[a-z]{250,260}",
        ) {
            let line = format!("GET {target} HTTP/1.1\r\n");
            let path = literal_path(line.as_bytes()).filter(|path| path.len() == target.len());
            let short = path.and_then(literal_key);
            let long = route("GET", &target);
            let same = |key: &[u8]| long == Ok(Command::Get(String::from_utf8_lossy(key)));
            prop_assert!(short.is_none_or(same), "{:?}", long);
            // It is the way of most requests.
            let is_plain = target.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'/');
            prop_assert!(short.is_some() || !is_plain || !matches!(long, Ok(Command::Get(_))));
        }
    }
}
