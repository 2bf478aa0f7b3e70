//! Who may do what: bearer tokens (RFC 6750), and the commands that each kind of them is good for. Pure: the file is
//! read by [`crate::server`]. Called by [`crate::connection`] for requests on the data socket while there are tokens.

use super::{Command, route};
use crate::http::problem::{Kind, Problem};
use crate::limits::{TOKEN_BYTES, TOKENS};
use std::fmt;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
}

/// All tokens that are good.
pub struct Tokens(Vec<(Access, Box<[u8]>)>);

/// Without the tokens: they would be read in a log.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens", self.0.len())
    }
}

impl Tokens {
    /// The tokens of a file: `ro TOKEN` or `rw TOKEN`, one a line; empty lines and those that begin with # say nothing.
    /// An error names the line, and not what is in it.
    pub fn parse(text: &str) -> Result<Tokens, String> {
        let mut tokens = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let mut words = line.split_whitespace();
            let access = match words.next() {
                None => continue,
                Some(word) if word.starts_with('#') => continue,
                Some("ro") => Access::ReadOnly,
                Some("rw") => Access::ReadWrite,
                Some(_) => return Err(format!("line {number} begins with neither ro nor rw")),
            };
            let (Some(token), None) = (words.next(), words.next()) else {
                return Err(format!("line {number} is not ro or rw, a blank and one token"));
            };
            if token.len() > TOKEN_BYTES || !token.bytes().all(is_token_byte) {
                return Err(format!(
                    "the token in line {number} has more than {TOKEN_BYTES} characters, or others than letters, digits \
                     and -._~+/="
                ));
            }
            // One of them is left over, and would be the one that counts.
            if tokens
                .iter()
                .any(|(other, known): &(Access, Box<[u8]>)| *other != access && **known == *token.as_bytes())
            {
                return Err(format!("the token in line {number} stands above with other rights"));
            }
            tokens.push((access, token.as_bytes().into()));
        }
        match tokens.len() {
            0 => Err("there is no token in it: nobody would be let in".into()),
            1..=TOKENS => Ok(Tokens(tokens)),
            n => Err(format!("there are {n} tokens in it, and {TOKENS} is the most")),
        }
    }

    /// What a method and a target ask for, if whoever asks may have it. Without a token nobody learns what there is;
    /// but a browser asks for the methods of a resource before it sends its token.
    pub fn route<'b>(
        &self,
        method: &str,
        target: &'b str,
        authorization: Option<&[u8]>,
    ) -> Result<Command<'b>, Problem> {
        let access = if method == "OPTIONS" { Access::ReadOnly } else { self.access(authorization)? };
        let command = route(method, target)?;
        let writes = match command {
            Command::Set(..) | Command::Delete(_) | Command::Add(..) | Command::Batch(_) | Command::Load => {
                true
            }
            Command::Get(_)
            | Command::GetMany(_)
            | Command::List(_)
            | Command::Options(_)
            | Command::Description
            | Command::Admin(_) => false,
        };
        match access {
            Access::ReadOnly if writes => {
                Err(Problem::new(Kind::Forbidden, "this token is good for reading only"))
            }
            Access::ReadOnly | Access::ReadWrite => Ok(command),
        }
    }

    fn access(&self, authorization: Option<&[u8]>) -> Result<Access, Problem> {
        let unauthorized = |detail: &'static str| Problem::new(Kind::Unauthorized, detail);
        let Some(field) = authorization else {
            return Err(unauthorized("a token is needed here: Authorization: Bearer TOKEN"));
        };
        // RFC 9110 section 11.1: the scheme in any letter case, and blanks.
        let token = match field.split_at_checked(6) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer") && rest.starts_with(b" ") => {
                rest.trim_ascii()
            }
            _ => return Err(unauthorized("the scheme of Authorization is Bearer, and a token follows")),
        };
        // Every token is compared, each in a time that does not depend on where they differ.
        let (mut found, mut writes) = (Choice::from(0), 0u8);
        for (access, known) in &self.0 {
            let same = known.ct_eq(token);
            writes.conditional_assign(&u8::from(*access == Access::ReadWrite), same);
            found |= same;
        }
        match (bool::from(found), writes) {
            (false, _) => Err(unauthorized("this token is not known here")),
            (true, 0) => Ok(Access::ReadOnly),
            (true, _) => Ok(Access::ReadWrite),
        }
    }
}

/// RFC 6750 section 2.1, b64token.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_tokens_is_read_line_by_line() {
        let tokens = Tokens::parse("# two\nro abc\n\n  rw\tde+/=f \n").unwrap();
        assert_eq!(format!("{tokens:?}"), "2 tokens");
        for (text, part) in [
            ("", "no token"),
            ("# ro abc", "no token"),
            ("ro abc\nabc", "line 2"),
            ("rx abc", "line 1"),
            ("ro abc\nrw other\nrw abc", "line 3"),
            ("ro", "line 1"),
            ("ro a b", "line 1"),
            ("ro a\u{e4}", "line 1"),
            (&format!("ro {}", "a".repeat(TOKEN_BYTES + 1)), "line 1"),
            (&"ro a\n".repeat(TOKENS + 1), "the most"),
        ] {
            let error = Tokens::parse(text).unwrap_err();
            assert!(error.contains(part) && !error.contains("abc"), "{text:?}: {error}");
        }
    }

    #[test]
    fn every_token_gives_its_own_access_and_no_other_does() {
        let tokens = Tokens::parse("ro reader\nrw writer").unwrap();
        for (method, target, field, status) in [
            ("GET", "/kv/a", Some("Bearer reader"), 200),
            ("HEAD", "/kv/a", Some("bearer  reader "), 200),
            ("GET", "/kv?key=a", Some("BEARER writer"), 200),
            ("PUT", "/kv/a", Some("Bearer writer"), 200),
            ("POST", "/batch", Some("Bearer writer"), 200),
            ("PUT", "/kv", Some("Bearer writer"), 200),
            ("OPTIONS", "/kv/a", None, 200),
            ("OPTIONS", "*", Some("Bearer wrong"), 200),
            ("GET", "/kv/a", None, 401),
            ("GET", "/kv/a", Some(""), 401),
            ("GET", "/kv/a", Some("Bearer"), 401),
            ("GET", "/kv/a", Some("Bearer "), 401),
            ("GET", "/kv/a", Some("Bearer reade"), 401),
            ("GET", "/kv/a", Some("Bearer readers"), 401),
            ("GET", "/kv/a", Some("Bearerreader"), 401),
            ("GET", "/kv/a", Some("Basic reader"), 401),
            ("GET", "/kv/a", Some("reader"), 401),
            ("GET", "/openapi.json", None, 401),
            ("GET", "/openapi.json", Some("Bearer reader"), 200),
            ("GET", "/nothing", None, 401),
            ("BREW", "/kv/a", None, 401),
            ("PUT", "/kv/a", Some("Bearer reader"), 403),
            ("SET", "/kv/a", Some("Bearer reader"), 403),
            ("DELETE", "/kv/a", Some("Bearer reader"), 403),
            ("POST", "/kv/a?op=incr", Some("Bearer reader"), 403),
            ("POST", "/batch", Some("Bearer reader"), 403),
            ("PUT", "/kv", Some("Bearer reader"), 403),
            ("GET", "/nothing", Some("Bearer reader"), 404),
            ("BREW", "/kv/a", Some("Bearer reader"), 501),
        ] {
            let got = tokens.route(method, target, field.map(str::as_bytes));
            let got = got.map_or_else(|problem| problem.status(), |_| 200);
            assert_eq!(got, status, "{method} {target} {field:?}");
        }
    }
}
