//! The query of a target: `name=value&name=value`, percent-decoded once. Pure. Used by [`super::route`].

use super::{key, value};
use crate::http::problem::{Kind, Problem};
use percent_encoding::percent_decode_str;
use std::borrow::Cow;

/// The values of known parameters, each `None` where it is not given.
pub type Values<'q, const N: usize> = [Option<Cow<'q, str>>; N];

/// The parameters of a query, in their order. A `+` is a plus sign: this is no form.
pub fn parameters(query: &str) -> impl Iterator<Item = Result<(&str, Cow<'_, str>), Problem>> {
    query.split('&').filter(|part| !part.is_empty()).map(|part| {
        let (name, raw) = part.split_once('=').unwrap_or((part, ""));
        if !key::escapes_are_whole(raw.as_bytes()) {
            return Err(bad(
                "a % in a query needs two hexadecimal digits behind it; a % itself is sent as %25".into(),
            ));
        }
        let value =
            percent_decode_str(raw).decode_utf8().map_err(|_| bad("a parameter must be UTF-8".into()))?;
        Ok((name, value))
    })
}

/// True where a query has a parameter of this name, whatever its value.
pub fn names(query: &str, name: &str) -> bool {
    query.split('&').any(|parameter| parameter.split('=').next() == Some(name))
}

/// The parameters that a resource has, each at most once, in the order of `names`.
pub fn known<'q, const N: usize>(query: &'q str, names: [&str; N]) -> Result<Values<'q, N>, Problem> {
    let mut values = [const { None }; N];
    for parameter in parameters(query) {
        let (name, value) = parameter?;
        let Some(at) = names.iter().position(|known| *known == name) else {
            let known = if N == 0 { "none".to_owned() } else { names.join(", ") };
            return Err(bad(format!(
                "no such query parameter here; there is {known}; a ? in a key is sent as %3F"
            )));
        };
        if values[at].replace(value).is_some() {
            return Err(bad(format!("{name} may be given once")));
        }
    }
    Ok(values)
}

/// `ttl=SECONDS`.
pub fn ttl(text: &str) -> Result<u32, Problem> {
    // What is no number is as wrong as 0 is.
    let seconds = text.parse().ok().filter(|_| !text.starts_with('+')).unwrap_or(0);
    value::ttl(seconds).map_err(bad)
}

/// `true` or `false`.
pub fn flag(name: &str, text: Option<&str>) -> Result<bool, Problem> {
    match text {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(bad(format!("{name} is true or false"))),
    }
}

/// A refusal of a query.
pub fn bad(detail: String) -> Problem {
    Problem::new(Kind::BadQuery, detail)
}
