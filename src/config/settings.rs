//! Every flag's value and where it came from, with secrets masked: for `/config` and `hotrow config`. Made by
//! [`super::read`].

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use serde::Serialize;

/// What stands for a secret.
const MASK: &str = "***";

/// One flag as it is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its name, without dashes.
    pub name: String,
    /// Its value as it was given, secrets masked; none where it is unset.
    pub value: Option<String>,
    /// Where the value came from.
    pub origin: Origin,
    /// The environment variable that it came from, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variable: Option<String>,
}

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// The command line.
    Flag,
    /// An environment variable.
    Environment,
}

/// All flags of a command that was parsed.
pub(super) fn gather(command: &Command, matches: &ArgMatches) -> Vec<Setting> {
    // Asking for one that the command does not have would be a bug of ours.
    let has = |id: &str| matches.ids().any(|known| known == id) || matches.value_source(id).is_some();
    let flags = command.get_arguments().filter(|arg| arg.get_env().is_some());
    let setting = |arg: &clap::Arg| {
        let id = arg.get_id().as_str();
        let raw = if has(id) { matches.get_raw(id) } else { None };
        let value = raw.map(|values| {
            values.map(|value| value.to_string_lossy().into_owned()).collect::<Vec<_>>().join(",")
        });
        let origin = match if has(id) { matches.value_source(id) } else { None } {
            Some(ValueSource::CommandLine) => Origin::Flag,
            Some(ValueSource::EnvVariable) => Origin::Environment,
            _ => Origin::Default,
        };
        let variable = arg.get_env().filter(|_| origin == Origin::Environment);
        Setting {
            name: arg.get_long().unwrap_or(id).to_owned(),
            value: value.filter(|value| !value.is_empty()).map(|value| masked(id, value)),
            origin,
            variable: variable.map(|name| name.to_string_lossy().into_owned()),
        }
    };
    flags.map(setting).collect()
}

fn masked(id: &str, value: String) -> String {
    if id == "database_url" { mask_url(&value) } else { value }
}

/// The URL of a database, `postgresql://…` or `key=value …`, without the password in it. What cannot be understood is
/// masked altogether: a password that is not found would be shown.
pub fn mask_url(url: &str) -> String {
    let Some((scheme, rest)) =
        url.split_once("://").filter(|(scheme, _)| ["postgresql", "postgres"].contains(scheme))
    else {
        return mask_pairs(url);
    };
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, Some(query)),
        None => (rest, None),
    };
    // A password may have any byte in it, if its owner forgot to encode it: the last @ ends it.
    let rest = match rest.rsplit_once('@') {
        Some((user, hosts)) => match user.split_once(':') {
            Some((name, _)) => format!("{name}:{MASK}@{hosts}"),
            None => format!("{user}@{hosts}"),
        },
        None => rest.to_owned(),
    };
    let query = query.map_or_else(String::new, |query| {
        let pair = |pair: &str| match pair.split_once('=') {
            Some((name, _)) if is_secret(name) => format!("{name}={MASK}"),
            _ => pair.to_owned(),
        };
        format!("?{}", query.split('&').map(pair).collect::<Vec<_>>().join("&"))
    });
    // A ? in a password would have cut it in two: then an @ follows where none may be.
    if query.contains('@') { format!("{scheme}://{MASK}") } else { format!("{scheme}://{rest}{query}") }
}

/// `host=/run user=me password='it''s \' secret' dbname=x`
fn mask_pairs(text: &str) -> String {
    let mut masked = String::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let Some((name, value)) = rest.split_once('=') else { return MASK.to_owned() };
        let (name, value) = (name.trim(), value.trim_start());
        let quoted = value.starts_with('\'');
        let mut escaped = false;
        let end = value.char_indices().skip(usize::from(quoted)).find(|(_, c)| {
            let ends = !escaped && if quoted { *c == '\'' } else { c.is_whitespace() };
            escaped = *c == '\\' && !escaped;
            ends
        });
        let end = match end {
            Some((at, _)) => at + usize::from(quoted),
            None if quoted => return MASK.to_owned(),
            None => value.len(),
        };
        let shown = if is_secret(name) { MASK } else { &value[..end] };
        masked.push_str(&format!("{}{name}={shown}", if masked.is_empty() { "" } else { " " }));
        rest = value[end..].trim_start();
    }
    masked
}

/// libpq's names of secrets: `password`, `sslpassword`.
fn is_secret(name: &str) -> bool {
    name.to_ascii_lowercase().contains("password")
}

/// As `/config` has them.
pub fn to_json(settings: &[Setting]) -> String {
    let mut json = serde_json::to_string_pretty(settings).expect("strings always serialize");
    json.push('\n');
    json
}

/// As `hotrow config` prints them: a flag a line.
pub fn to_text(settings: &[Setting]) -> String {
    let width = settings.iter().map(|setting| setting.name.len()).max().unwrap_or(0);
    let line = |setting: &Setting| {
        let Setting { name, value, origin, variable } = setting;
        let value = value.as_deref().unwrap_or("unset");
        let origin = match (origin, variable) {
            (Origin::Default, _) => "default".to_owned(),
            (Origin::Flag, _) => "flag".to_owned(),
            (Origin::Environment, None) => "environment".to_owned(),
            (Origin::Environment, Some(variable)) => format!("environment, {variable}"),
        };
        format!("--{name:width$}  {value}  ({origin})\n")
    };
    settings.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_ever_shown() {
        for (url, expected) in [
            ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
            ("postgres://me@host/db", "postgres://me@host/db"),
            ("postgresql://host/db", "postgresql://host/db"),
            (
                "postgresql://me:se:cr@et/x@a,b:1/db?sslmode=disable",
                "postgresql://me:***@a,b:1/db?sslmode=disable",
            ),
            (
                "postgresql:///db?host=/run&user=me&password=secret",
                "postgresql:///db?host=/run&user=me&password=***",
            ),
            ("postgresql://h/db?sslpassword=secret&x", "postgresql://h/db?sslpassword=***&x"),
            ("postgresql://me:sec?ret@host/db", "postgresql://***"),
            ("host=h user=me password=secret dbname=d", "host=h user=me password=*** dbname=d"),
            ("password = 'a secret' host = h", "password=*** host=h"),
            (r"host=h PASSWORD='it\'s a secret'", "host=h PASSWORD=***"),
            (r"password=a\ secret host=h", "password=*** host=h"),
            // Only a URL is one.
            ("host=h user=me password=secret://b dbname=d", "host=h user=me password=*** dbname=d"),
            ("http://me:secret@h", "***"),
            ("password='secret", "***"),
            ("secret", "***"),
        ] {
            let masked = mask_url(url);
            assert_eq!(masked, expected);
            assert!(!masked.contains("secret"), "{masked}");
        }
    }
}
