//! The flags of `hotrow import` and `hotrow export`: which server, which file. Read by [`crate::transfer`].

use super::{reachable, values};
use clap::Args;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where a server listens that was told nothing.
const USUAL: &str = "127.0.0.1:8080";

/// The server that is spoken to, and how.
#[derive(Args, Clone, Debug)]
pub struct Remote {
    /// The server: http://ADDR:PORT or https://NAME. Unset: the one on this machine that listens as HOTROW_LISTEN says,
    /// or at 127.0.0.1:8080
    // --help shows it as it stands here: without the <> of a link.
    #[allow(rustdoc::bare_urls)]
    #[arg(long, value_name = "URL", value_parser = url)]
    pub url: Option<String>,

    /// Trusts the certificates in this file, in PEM, and not those that the system trusts
    #[arg(long, value_name = "PATH")]
    pub cacert: Option<PathBuf>,

    /// A file with the token in it that the server asks for
    #[arg(long, value_name = "PATH")]
    pub token_file: Option<PathBuf>,

    /// For how long it is tried again without getting on, where the server or the way to it fails
    #[arg(long, value_name = "D", default_value = "5m", value_parser = values::duration)]
    pub retry_for: Duration,
}

/// Stores rows by a server.
#[derive(Args, Clone, Debug)]
pub struct Import {
    /// Lines of JSON as an export writes them, or - for stdin
    #[arg(value_name = "FILE|-")]
    pub file: PathBuf,

    /// The first line that is stored; those before it are passed over
    #[arg(long, value_name = "N", default_value = "1", value_parser = super::values::line_number)]
    pub from_line: NonZeroU64,

    /// By which server.
    #[command(flatten)]
    pub remote: Remote,
}

/// Fetches rows from a server.
#[derive(Args, Clone, Debug)]
pub struct Export {
    /// Where the lines go, or - for stdout. Until it has all of them, they are in FILE.part
    #[arg(value_name = "FILE|-")]
    pub file: PathBuf,

    /// Rows whose keys begin with this, and no others
    #[arg(long, value_name = "P", default_value = "", hide_default_value = true)]
    pub prefix: String,

    /// Goes on with the FILE.part of an export that was cut off
    #[arg(long = "continue")]
    pub goes_on: bool,

    /// From which server.
    #[command(flatten)]
    pub remote: Remote,
}

impl Remote {
    /// Adds what clap does not know of: the address that the environment says a server here listens at.
    pub(super) fn complete(self) -> Result<Remote, String> {
        let listen = std::env::var("HOTROW_LISTEN").ok().filter(|address| !address.is_empty());
        self.complete_with(listen.as_deref())
    }

    fn complete_with(self, listen: Option<&str>) -> Result<Remote, String> {
        if self.url.is_some() {
            return Ok(self);
        }
        let listen = listen.unwrap_or(USUAL);
        let address: SocketAddr =
            listen.parse().map_err(|_| format!("HOTROW_LISTEN {listen} is no ADDR:PORT; give --url"))?;
        Ok(Remote { url: Some(format!("http://{}", reachable(address))), ..self })
    }

    /// The server's URL, without a slash at its end.
    pub fn base(&self) -> &str {
        self.url.as_deref().unwrap_or_default()
    }

    /// The flags that lead there again, each with a blank before it.
    fn flags(&self) -> String {
        let mut flags = format!(" --url {}", quoted(self.base()));
        for (flag, path) in [("--cacert", &self.cacert), ("--token-file", &self.token_file)] {
            if let Some(path) = path {
                flags += &format!(" {flag} {}", quoted(&path.to_string_lossy()));
            }
        }
        flags
    }
}

impl Import {
    /// The command that goes on behind this line.
    pub fn command_behind(&self, line: u64) -> String {
        let file = quoted(&self.file.to_string_lossy());
        format!("hotrow import{} --from-line {} {file}", self.remote.flags(), line.saturating_add(1))
    }
}

impl Export {
    /// The command that goes on.
    pub fn command_again(&self) -> String {
        let mut flags = self.remote.flags();
        if !self.prefix.is_empty() {
            flags += &format!(" --prefix {}", quoted(&self.prefix));
        }
        format!("hotrow export{flags} --continue {}", quoted(&self.file.to_string_lossy()))
    }
}

/// True for `-`: stdin or stdout.
pub fn is_dash(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:@%+=,[]".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

fn url(text: &str) -> Result<String, String> {
    let rule = "it is http://HOST:PORT or https://HOST:PORT, and may have a path behind that";
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).ok_or(rule)?;
    if rest.contains('@') {
        return Err("there is no password in it; a token is read from --token-file".into());
    }
    let is_odd = |c: char| c.is_whitespace() || c.is_control() || "?#\\\"<>".contains(c);
    if rest.is_empty() || rest.starts_with(['/', ':']) || rest.contains(is_odd) {
        return Err(rule.into());
    }
    // A port that is none would be taken for the usual one.
    let authority = rest.split('/').next().unwrap_or_default();
    let behind_host = authority.rsplit_once(']').map_or(authority, |(_, behind)| behind);
    if let Some((_, port)) = behind_host.split_once(':')
        && !port.parse::<u16>().is_ok_and(|port| port > 0)
    {
        return Err(rule.into());
    }
    let base = text.trim_end_matches('/');
    // A host may be called that.
    if rest[authority.len()..].trim_end_matches('/').ends_with("/kv") {
        return Err("it is the server's, without the /kv behind it: that is put there".into());
    }
    Ok(base.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(url: Option<&str>) -> Remote {
        Remote { url: url.map(Into::into), cacert: None, token_file: None, retry_for: Duration::from_secs(1) }
    }

    #[test]
    fn a_url_has_a_row_for_everything_it_may_and_may_not_be() {
        for (text, expected) in [
            ("http://127.0.0.1:8080", Ok("http://127.0.0.1:8080")),
            ("https://kv.example.com/", Ok("https://kv.example.com")),
            ("https://[::1]:8443/hotrow//", Ok("https://[::1]:8443/hotrow")),
            ("127.0.0.1:8080", Err("http://HOST:PORT")),
            ("ftp://host", Err("http://HOST:PORT")),
            ("http://", Err("http://HOST:PORT")),
            ("http:///kv", Err("http://HOST:PORT")),
            ("http://:80", Err("http://HOST:PORT")),
            ("http://host:80800", Err("http://HOST:PORT")),
            ("http://host:", Err("http://HOST:PORT")),
            ("http://host:0/kept", Err("http://HOST:PORT")),
            ("http://[::1]:x", Err("http://HOST:PORT")),
            ("http://[::1]", Ok("http://[::1]")),
            ("http://host/kv", Err("without the /kv")),
            ("http://host/proxied/kv/", Err("without the /kv")),
            ("http://host/kv?prefix=a", Err("http://HOST:PORT")),
            ("http://a b", Err("http://HOST:PORT")),
            ("http://me:secret@host", Err("--token-file")),
        ] {
            match (url(text), expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected),
                (Err(got), Err(part)) => {
                    assert!(got.contains(part) && !got.contains("secret"), "{text}: {got}")
                }
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
            ("http://kv", Ok("http://kv")),
            ("https://kv/", Ok("https://kv")),
            ("http://kv:80/kv", Err("without the /kv")),
            ("http://kv//kv/", Err("without the /kv")),
    }

    #[test]
    fn the_server_is_the_one_that_listens_here_unless_another_is_named() {
        for (url, listen, expected) in [
            (None, None, Some("http://127.0.0.1:8080")),
            (None, Some("0.0.0.0:80"), Some("http://127.0.0.1:80")),
            (None, Some("[::]:81"), Some("http://[::1]:81")),
            (None, Some("192.0.2.1:82"), Some("http://192.0.2.1:82")),
            (None, Some("here"), None),
            (Some("https://there"), Some("here"), Some("https://there")),
        ] {
            let got = remote(url).complete_with(listen);
            assert_eq!(got.as_ref().ok().map(Remote::base), expected, "{url:?} {listen:?}");
        }
    }

    #[test]
    fn what_goes_on_is_a_command_for_a_shell() {
        let remote = Remote { cacert: Some("/etc/a ca.pem".into()), ..remote(Some("http://h:1")) };
        let import = Import { file: "it's".into(), from_line: NonZeroU64::MIN, remote: remote.clone() };
        let expected = r"hotrow import --url http://h:1 --cacert '/etc/a ca.pem' --from-line 18 'it'\''s'";
        assert_eq!(import.command_behind(17), expected);
        let export = Export { file: "rows".into(), prefix: "a*".into(), goes_on: false, remote };
        let expected =
            "hotrow export --url http://h:1 --cacert '/etc/a ca.pem' --prefix 'a*' --continue rows";
        assert_eq!(export.command_again(), expected);
    }
}
