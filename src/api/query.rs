//! The query of a target: `name=value&name=value`, percent-decoded once. Pure. Used by [`super::route`].

use crate::http::problem::{Kind, Problem};
use crate::limits::TTL_SECONDS;
use percent_encoding::percent_decode_str;
use std::borrow::Cow;

/// The values of known parameters, each `None` where it is not given.
pub type Values<'q, const N: usize> = [Option<Cow<'q, str>>; N];

/// The parameters of a query, in their order. A `+` is a plus sign: this is no form.
pub fn parameters(query: &str) -> impl Iterator<Item = Result<(&str, Cow<'_, str>), Problem>> {
    query.split('&').filter(|part| !part.is_empty()).map(|part| {
        let (name, raw) = part.split_once('=').unwrap_or((part, ""));
        let value =
            percent_decode_str(raw).decode_utf8().map_err(|_| bad("a parameter must be UTF-8".into()))?;
        Ok((name, value))
    })
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
    match text.parse() {
        Ok(ttl_s @ 1..=TTL_SECONDS) if !text.starts_with('+') => Ok(ttl_s),
        _ => Err(bad(format!("ttl is a whole number of seconds from 1 to {TTL_SECONDS}"))),
    }
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
