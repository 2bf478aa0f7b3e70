//! Who may do what: bearer tokens (RFC 6750), and the commands that each kind of them is good for. Pure: the file is
//! read by [`crate::server`]. Called by [`crate::connection`] for requests on the data socket while there are tokens.

use super::{Command, route};
use crate::http::problem::{Kind, Problem};
use crate::limits::{TOKEN_BYTES, TOKENS};
use std::fmt;
use std::num::NonZeroU32;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
}

impl Access {
    fn allow(self, changes: bool) -> Result<(), Problem> {
        match self {
            Access::ReadOnly if changes => {
                Err(Problem::new(Kind::Forbidden, "this token is good for reading only"))
            }
            Access::ReadOnly | Access::ReadWrite => Ok(()),
        }
    }
}

/// All tokens that are good.
pub struct Tokens {
    known: Vec<Token>,
    /// The number of the next one that is new.
    next: Id,
}

struct Token {
    access: Access,
    secret: Box<[u8]>,
    id: Id,
}

/// Which token it was, without the token: what a request that takes long is asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(NonZeroU32);

impl Id {
    /// One that nothing has for a long time to come: there are few tokens at a time.
    fn next(self) -> Id {
        Id(self.0.checked_add(1).unwrap_or(NonZeroU32::MIN))
    }
}

/// Without the tokens: they would be read in a log.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens", self.known.len())
    }
}

impl Tokens {
    /// The tokens of a file: `ro TOKEN` or `rw TOKEN`, one a line; empty lines and those that begin with # say nothing.
    /// An error names the line, and not what is in it.
    pub fn parse(text: &str) -> Result<Tokens, String> {
        let (mut known, mut next) = (Vec::<Token>::new(), Id(NonZeroU32::MIN));
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
            if known.iter().any(|other| other.access != access && *other.secret == *token.as_bytes()) {
                return Err(format!("the token in line {number} stands above with other rights"));
            }
            known.push(Token { access, secret: token.as_bytes().into(), id: next });
            next = next.next();
        }
        match known.len() {
            0 => Err("there is no token in it: nobody would be let in".into()),
            1..=TOKENS => Ok(Tokens { known, next }),
            n => Err(format!("there are {n} tokens in it, and {TOKENS} is the most")),
        }
    }

    /// The same, with those that were there before by the number that they had. One that was taken away and is there again is
    /// a new one.
    pub fn after(mut self, before: &Tokens) -> Tokens {
        self.next = before.next;
        for token in &mut self.known {
            // Of lines that say the same the last one counts, as for a request.
            let same = before.known.iter().rfind(|other| other.secret == token.secret);
            token.id = same.map_or(self.next, |same| same.id);
            self.next = if same.is_none() { self.next.next() } else { self.next };
        }
        self
    }

    /// Whether a token is still good: for changing something, or for reading.
    pub fn stands(&self, id: Option<Id>, changes: bool) -> Result<(), Problem> {
        match self.known.iter().find(|token| Some(token.id) == id) {
            Some(token) => token.access.allow(changes),
            None => Err(invalid("this token was taken away meanwhile")),
        }
    }

    /// What a method and a target ask for, and by which token, if whoever asks may have it. Without a token nobody learns what there is;
    /// but a browser asks for the methods of a resource before it sends its token.
    pub fn route<'b>(
        &self,
        method: &str,
        target: &'b str,
        authorization: Option<&[u8]>,
    ) -> Result<(Command<'b>, Option<Id>), Problem> {
        if method == "OPTIONS" {
            return Ok((route(method, target)?, None));
        }
        let (access, id) = self.access(authorization)?;
        let command = route(method, target)?;
        access.allow(command.changes())?;
        Ok((command, Some(id)))
    }

    fn access(&self, authorization: Option<&[u8]>) -> Result<(Access, Id), Problem> {
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
        let (mut found, mut writes, mut id) = (Choice::from(0), 0u8, 0u32);
        for known in &self.known {
            let same = known.secret.ct_eq(token);
            writes.conditional_assign(&u8::from(known.access == Access::ReadWrite), same);
            id.conditional_assign(&known.id.0.get(), same);
            found |= same;
        }
        match NonZeroU32::new(id).filter(|_| bool::from(found)) {
            None => Err(invalid("this token is not known here")),
            Some(id) => Ok((if writes == 0 { Access::ReadOnly } else { Access::ReadWrite }, Id(id))),
        }
    }
}

/// The token that was sent is not good.
fn invalid(detail: &'static str) -> Problem {
    Problem { field: Some("invalid_token"), ..Problem::new(Kind::Unauthorized, detail) }
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
    fn a_token_is_known_again_in_the_next_file_as_long_as_it_is_in_every_one() {
        let ids = |tokens: &Tokens| {
            ["reader", "writer", "other"].map(|token| {
                let field = format!("Bearer {token}");
                tokens.route("GET", "/kv/a", Some(field.as_bytes())).ok().and_then(|(_, id)| id)
            })
        };
        let first = Tokens::parse("ro reader\nrw writer\nrw writer").unwrap();
        let [reader, writer, none] = ids(&first);
        assert!(reader.is_some() && writer.is_some() && reader != writer && none.is_none());
        let second = Tokens::parse("ro other\nro writer").unwrap().after(&first);
        let [_, writer_then, other] = ids(&second);
        assert!(writer_then == writer && other.is_some() && other != reader && other != writer);
        let third = Tokens::parse("rw writer\nro reader\nro other").unwrap().after(&second);
        let [reader_then, writer_then, other_then] = ids(&third);
        assert!(
            writer_then == writer && other_then == other && ![reader, writer, other].contains(&reader_then)
        );
        let status =
            |tokens: &Tokens, id, changes| tokens.stands(id, changes).map_err(|problem| problem.status());
        assert_eq!((status(&first, writer, true), status(&first, reader, true)), (Ok(()), Err(403)));
        assert_eq!((status(&second, writer, false), status(&second, writer, true)), (Ok(()), Err(403)));
        assert_eq!((status(&second, reader, false), status(&third, reader, false)), (Err(401), Err(401)));
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
