//! What a request means: its method and target as a [`Command`], and the answers as HTTP. Knows no socket and no
//! thread. Called by [`crate::connection`].

pub mod admin;
pub mod answer;
pub mod exposition;
pub mod key;

use crate::http::problem::{Kind, Problem};
use std::borrow::Cow;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'b> {
    /// GET and HEAD of a key.
    Get(Cow<'b, str>),
    /// PUT and SET of a key; the value is the content.
    Set(Cow<'b, str>),
    /// DELETE of a key.
    Delete(Cow<'b, str>),
    /// OPTIONS: these methods.
    Options(&'static str),
    /// GET and HEAD of a page of the admin socket.
    Admin(admin::Page),
}

/// The methods of a key.
pub const KEY_METHODS: &str = "GET, HEAD, PUT, SET, DELETE, OPTIONS";

/// What a method and a target on the data socket ask for.
#[inline]
pub fn route<'b>(method: &str, target: &'b str) -> Result<Command<'b>, Problem> {
    let verb = Verb::of(method);
    if verb == Verb::Unknown {
        return Err(unknown_method(method));
    }
    if target == "*" {
        return Ok(Command::Options(KEY_METHODS));
    }
    let Some(rest) = target.strip_prefix("/kv/") else {
        let detail = "values live at /kv/{key}; operations listen on the admin socket";
        return Err(Problem::new(Kind::PathNotFound, detail));
    };
    match verb {
        Verb::Get => Ok(Command::Get(key_of(rest)?)),
        Verb::Set => Ok(Command::Set(key_of(rest)?)),
        Verb::Delete => Ok(Command::Delete(key_of(rest)?)),
        Verb::Options => Ok(Command::Options(KEY_METHODS)),
        Verb::Unknown | Verb::Other => Err(not_allowed(method, KEY_METHODS)),
    }
}

/// What a method asks for, whatever its target.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Get,
    Set,
    Delete,
    Options,
    /// A method that resources may have, and that a key has not.
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
            "POST" | "PATCH" | "TRACE" => Verb::Other,
            _ => Verb::Unknown,
        }
    }
}

/// The key that stands behind `/kv/`.
#[inline]
fn key_of(rest: &str) -> Result<Cow<'_, str>, Problem> {
    // Most keys are what they stand for: one look finds that there is neither a query nor anything to decode.
    if key::is_plain(rest) {
        return key::plain(rest);
    }
    match rest.split_once('?') {
        Some((_, query)) if !query.is_empty() => {
            let detail = "a key has no query parameters; a ? in a key is sent as %3F";
            Err(Problem::new(Kind::BadQuery, detail))
        }
        Some((raw, _)) => key::decode(raw),
        None => key::decode(rest),
    }
}

fn unknown_method(method: &str) -> Problem {
    Problem::new(Kind::UnknownMethod, format!("no resource here has the method {}", excerpt(method)))
}

fn not_allowed(method: &str, allow: &'static str) -> Problem {
    let detail = format!("this resource does not have {}; it has {allow}", excerpt(method));
    Problem { allow: Some(allow), ..Problem::new(Kind::MethodNotAllowed, detail) }
}

/// The beginning of something that a client sent, short enough to be sent back.
fn excerpt(text: &str) -> &str {
    text.get(..32).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_and_target_has_its_meaning() {
        let get = |key: &'static str| Ok(Command::Get(key.into()));
        for (method, target, expected) in [
            ("GET", "/kv/a", get("a")),
            ("HEAD", "/kv/a", get("a")),
            ("GET", "/kv/a/b/../c//", get("a/b/../c//")),
            ("GET", "/kv/a%2Fb", get("a/b")),
            ("GET", "/kv/a?", get("a")),
            ("PUT", "/kv/a", Ok(Command::Set("a".into()))),
            ("SET", "/kv/a", Ok(Command::Set("a".into()))),
            ("DELETE", "/kv/a", Ok(Command::Delete("a".into()))),
            ("OPTIONS", "/kv/a", Ok(Command::Options(KEY_METHODS))),
            ("OPTIONS", "*", Ok(Command::Options(KEY_METHODS))),
            ("GET", "/kv/", Err(400)),
            ("GET", "/kv/a?b=c", Err(400)),
            ("GET", "/kv/%zz", Err(400)),
            ("GET", "/kv", Err(404)),
            ("GET", "/", Err(404)),
            ("GET", "/KV/a", Err(404)),
            ("GET", "//kv/a", Err(404)),
            ("GET", "/metrics", Err(404)),
            ("POST", "/kv/a", Err(405)),
            ("PATCH", "/kv/a", Err(405)),
            ("TRACE", "/kv/a", Err(405)),
            ("get", "/kv/a", Err(501)),
            ("BREW", "/kv/a", Err(501)),
            ("CONNECT", "/", Err(501)),
        ] {
            let got = route(method, target).map_err(|problem| problem.status());
            assert_eq!(got, expected, "{method} {target}");
        }
        assert_eq!(route("POST", "/kv/a").unwrap_err().allow, Some(KEY_METHODS));
    }
}
