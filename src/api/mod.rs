//! What a request means: its method and target as a [`Command`], and the answers as HTTP. Knows no socket and no
//! thread. Called by [`crate::connection`].

pub mod admin;
pub mod answer;
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
pub fn route<'b>(method: &str, target: &'b str) -> Result<Command<'b>, Problem> {
    if !is_known(method) {
        return Err(unknown_method(method));
    }
    if target == "*" {
        return Ok(Command::Options(KEY_METHODS));
    }
    let (path, query) = match target.bytes().position(|b| b == b'?') {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, ""),
    };
    let Some(raw_key) = path.strip_prefix("/kv/") else {
        let detail = "values live at /kv/{key}; operations listen on the admin socket";
        return Err(Problem::new(Kind::PathNotFound, detail));
    };
    match method {
        "GET" | "HEAD" | "PUT" | "SET" | "DELETE" => {}
        "OPTIONS" => return Ok(Command::Options(KEY_METHODS)),
        _ => return Err(not_allowed(method, KEY_METHODS)),
    }
    if !query.is_empty() {
        let detail = "a key has no query parameters; a ? in a key is sent as %3F";
        return Err(Problem::new(Kind::BadQuery, detail));
    }
    let key = key::decode(raw_key)?;
    Ok(match method {
        "GET" | "HEAD" => Command::Get(key),
        "DELETE" => Command::Delete(key),
        _ => Command::Set(key),
    })
}

/// RFC 9110 section 15.6.2: 501 is for methods that no resource has; 405 for those that this one has not.
fn is_known(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "PUT" | "SET" | "DELETE" | "OPTIONS" | "POST" | "PATCH" | "TRACE")
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
