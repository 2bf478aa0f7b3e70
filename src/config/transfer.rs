//! The flags of `hotrow import` and `hotrow export`: which server, which file. Read by [`crate::transfer`].

use super::{reachable, values};
use clap::Args;
use std::ffi::OsStr;
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
        let listen = std::env::var_os("HOTROW_LISTEN").filter(|address| !address.is_empty());
        // What is no text is no address either, and is refused as that.
        self.complete_with(listen.as_deref().map(OsStr::to_string_lossy).as_deref())
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
        let mut flags = flag("--url", self.base());
        for (name, path) in [("--cacert", &self.cacert), ("--token-file", &self.token_file)] {
            if let Some(path) = path {
                flags += &flag(name, &path.to_string_lossy());
            }
        }
        flags
    }
}

impl Import {
    /// The command that goes on behind this line.
    pub fn command_behind(&self, line: u64) -> String {
        let (flags, next) = (self.remote.flags(), line.saturating_add(1));
        format!("hotrow import{flags} --from-line {next} {}", operand(&self.file))
    }
}

impl Export {
    /// The command that goes on.
    pub fn command_again(&self) -> String {
        let mut flags = self.remote.flags();
        if !self.prefix.is_empty() {
            flags += &flag("--prefix", &self.prefix);
        }
        format!("hotrow export{flags} --continue {}", operand(&self.file))
    }
}

/// True for `-`: stdin or stdout.
pub fn is_dash(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// A flag with its value, and a blank before it. A value that begins like a flag is none only where it is of one word with its flag.
fn flag(name: &str, value: &str) -> String {
    let between = if value.starts_with('-') { '=' } else { ' ' };
    format!(" {name}{between}{}", quoted(value))
}

/// A file, as a word that is no flag.
fn operand(file: &Path) -> String {
    let name = file.to_string_lossy();
    let is_like_a_flag = name.starts_with('-') && !is_dash(file);
    quoted(&if is_like_a_flag { format!("./{name}") } else { name.into_owned() })
}

/// As a shell takes it for one word: brackets are a pattern of other files' names to it, and to zsh a `=` in front is a program's.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:@%+,".contains(c);
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
    use crate::config::Invocation;

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
            ("http://kv", Ok("http://kv")),
            ("https://kv/", Ok("https://kv")),
            ("http://kv:80/kv", Err("without the /kv")),
            ("http://kv//kv/", Err("without the /kv")),
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

    /// The words that a shell makes of a command, in a folder with a file that a pattern could be of.
    fn words(command: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("rows1.ndjson"), "").unwrap();
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &format!("printf '%s\\n' {command}")]).current_dir(&folder);
        let said = String::from_utf8(shell.output().unwrap().stdout).unwrap();
        said.lines().map(str::to_owned).collect()
    }

    /// What hotrow reads of a command, as a shell gives it to it.
    fn read_again(command: &str) -> Invocation {
        crate::config::read(words(command).into_iter().map(Into::into))
            .unwrap_or_else(|stop| panic!("{command}: {stop:?}"))
    }

    #[test]
    fn what_goes_on_is_a_command_for_a_shell() {
        let at = |url, cacert: Option<&str>| Remote { cacert: cacert.map(Into::into), ..remote(Some(url)) };
        let spaced = at("http://h:1", Some("/etc/a ca.pem"));
        let by_address = at("http://[::1]:80", Some("-ca"));
        for (file, remote, expected) in [
            (
                "it's",
                &spaced,
                r"hotrow import --url http://h:1 --cacert '/etc/a ca.pem' --from-line 18 'it'\''s'",
            ),
            (
                "rows[1].ndjson",
                &by_address,
                "hotrow import --url 'http://[::1]:80' --cacert=-ca --from-line 18 'rows[1].ndjson'",
            ),
            ("-x", &spaced, "hotrow import --url http://h:1 --cacert '/etc/a ca.pem' --from-line 18 ./-x"),
            ("-", &spaced, "hotrow import --url http://h:1 --cacert '/etc/a ca.pem' --from-line 18 -"),
        ] {
            let import = Import { file: file.into(), from_line: NonZeroU64::MIN, remote: remote.clone() };
            let command = import.command_behind(17);
            assert_eq!(command, expected);
            let Invocation::Import(again) = read_again(&command) else { panic!("{command} is no import") };
            let file = if file == "-x" { "./-x" } else { file };
            assert_eq!((again.file.as_path(), again.from_line.get()), (Path::new(file), 18));
            assert_eq!((again.remote.base(), &again.remote.cacert), (remote.base(), &remote.cacert));
        }
        for (file, prefix, expected) in [
            ("rows", "a*", "--prefix 'a*' --continue rows"),
            ("rows", "-x", "--prefix=-x --continue rows"),
            ("rows[1].ndjson", "-- it's", r"--prefix='-- it'\''s' --continue 'rows[1].ndjson'"),
            ("=rows", "", "--continue '=rows'"),
        ] {
            let remote = spaced.clone();
            let export = Export { file: file.into(), prefix: prefix.into(), goes_on: false, remote };
            let command = export.command_again();
            let front = "hotrow export --url http://h:1 --cacert '/etc/a ca.pem'";
            assert_eq!(command, format!("{front} {expected}"));
            let Invocation::Export(again) = read_again(&command) else { panic!("{command} is no export") };
            assert_eq!((again.file.as_path(), again.prefix.as_str()), (Path::new(file), prefix));
            assert!(again.goes_on);
        }
    }
}
