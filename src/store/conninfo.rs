//! Where the database is and who we are there: a connection string, and what libpq reads besides (`PGPASSWORD`,
//! `PGPASSFILE`, `~/.pgpass`, `PGSSL…`). The `postgres` crate knows neither files nor variables, and of TLS only half of
//! the modes: those words are taken out of the string here. Used by [`super::postgres`].

use super::tls::{Mode, Options, Roots};
use crate::secrets;
use ::postgres::Config;
use ::postgres::config::Host;
use percent_encoding::percent_decode_str;
use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What a connection string looks like, for who has given another one.
pub const URL_FORM: &str = "postgresql://user:password@host:5432/name";
/// libpq's port.
const PORT: u16 = 5432;
/// Words of a connection string that are ours to understand.
const OURS: [&str; 5] = ["sslmode", "sslrootcert", "sslcert", "sslkey", "passfile"];

/// What a connection string says.
#[derive(Clone, Debug)]
pub struct Conninfo {
    /// Where, who, and for how long.
    pub config: Config,
    /// What of TLS.
    pub tls: Options,
}

/// Reads a connection string, `postgresql://…` or `key=value …`. `variable` gives the environment's variables. An
/// error is one line, and has no secret in it.
pub fn read(text: &str, variable: impl Fn(&str) -> Option<OsString>) -> Result<Conninfo, String> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    // The crate would take it for key=value, and say so.
    if let Some((scheme, _)) = text.split_once("://")
        && !matches!(scheme, "postgresql" | "postgres")
        && scheme.chars().all(char::is_alphanumeric)
    {
        return Err(format!("{scheme}:// is no scheme of PostgreSQL's"));
    }
    let (rest, mut words) = take_words(text)?;
    let mut config: Config = rest.parse().map_err(|e| describe(&e))?;
    // An address alone is its host's name, too: by that TLS, and whoever looks for a password, knows it.
    if config.get_hosts().is_empty() {
        for address in config.get_hostaddrs().to_vec() {
            config.host(&address.to_string());
        }
    }
    // As with libpq, TLS is not for Unix sockets: nobody can stand in between. What is said of it elsewhere is not for them.
    // An address is one for TCP, whatever its host is.
    let over_tcp = !config.get_hostaddrs().is_empty()
        || config.get_hosts().iter().any(|host| matches!(host, Host::Tcp(_)));
    for (word, name) in [
        ("sslmode", "PGSSLMODE"),
        ("sslrootcert", "PGSSLROOTCERT"),
        ("sslcert", "PGSSLCERT"),
        ("sslkey", "PGSSLKEY"),
        ("passfile", "PGPASSFILE"),
    ] {
        if !words.contains_key(word)
            && (over_tcp || word == "passfile")
            && let Some(value) = variable(name)
        {
            words.insert(word, value);
        }
    }
    let home = variable("HOME").map(PathBuf::from);
    let usual = |name: &str| home.as_ref().map(|home| home.join(name));
    let existing = |name: &str| usual(name).filter(|path| path.exists());
    let existing_tls = |name: &str| existing(name).filter(|_| over_tcp);
    let word = |name: &str| words.get(name).filter(|value| !value.is_empty());

    let mut mode = match word("sslmode") {
        None => Mode::default(),
        Some(name) => name
            .to_str()
            .and_then(Mode::named)
            .ok_or("sslmode is disable, prefer, require, verify-ca or verify-full".to_owned())?,
    };
    let roots = match word("sslrootcert") {
        Some(name) if name == "system" => Some(Roots::System),
        Some(path) => Some(Roots::File(path.into())),
        None => existing_tls(".postgresql/root.crt").map(Roots::File),
    };
    if over_tcp && mode >= Mode::VerifyCa && roots.is_none() {
        return Err(
            "sslmode=verify-ca and verify-full need sslrootcert: a file of certificates, or system".into()
        );
    }
    // A system trusts hundreds of authorities, any of which certifies a name to its owner: the name must count.
    if over_tcp && roots == Some(Roots::System) && mode != Mode::VerifyFull && word("sslrootcert").is_some() {
        return Err("sslrootcert=system needs sslmode=verify-full".into());
    }
    if !over_tcp {
        mode = Mode::Disable;
    }
    // The `postgres` crate is told of TLS once for all hosts: one of the two would go without it, or not be reached at all.
    let is_socket = |host: &Host| matches!(host, Host::Unix(_));
    if mode != Mode::Disable && config.get_hostaddrs().is_empty() && config.get_hosts().iter().any(is_socket)
    {
        return Err("a folder of a Unix socket beside other hosts needs sslmode=disable: TLS is for all hosts of a URL or for none".into());
    }
    let cert = word("sslcert").map(PathBuf::from).or_else(|| existing_tls(".postgresql/postgresql.crt"));
    let key = word("sslkey").map(PathBuf::from).or_else(|| existing_tls(".postgresql/postgresql.key"));
    let identity = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => return Err("sslcert and sslkey go together".into()),
    };
    if config.get_user().is_none()
        && let Ok(user) = whoami::username()
    {
        // As the crate would when it connects: a file of passwords is asked for that user's, and the database has that name.
        config.user(&user);
    }
    if config.get_password().is_none() {
        let file = word("passfile").map(PathBuf::from).or_else(|| existing(".pgpass"));
        if let Some(password) = variable("PGPASSWORD") {
            // In whatever encoding: the server has one of its own.
            config.password(password.as_bytes());
        } else if let Some(file) = file
            && let Some(password) = find_password(&file, &config)?
        {
            config.password(password);
        }
    }
    Ok(Conninfo { config, tls: Options { mode, roots, identity } })
}

/// True where a connection string has a password in it, or may have: what cannot be understood may.
pub fn has_password(text: &str) -> bool {
    let parsed = take_words(text).ok().and_then(|(rest, _)| rest.parse::<Config>().ok());
    parsed.is_none_or(|config| config.get_password().is_some())
}

/// The connection string without the words that are ours, and those.
fn take_words(text: &str) -> Result<(String, HashMap<&'static str, OsString>), String> {
    let ours = |name: &str| OURS.into_iter().find(|word| *word == name);
    let mut words = HashMap::new();
    if text.starts_with("postgresql://") || text.starts_with("postgres://") {
        // Behind the credentials: a password may have one in it, if its owner forgot to encode it.
        // One behind a word of ours is in its value.
        let is_ours = |at: &usize| OURS.iter().any(|word| text[..*at].contains(&format!("{word}=")));
        let credentials = text.find('@').filter(|at| !is_ours(at)).map_or(0, |at| at + 1);
        let Some(at) = text[credentials..].find('?') else { return Ok((text.to_owned(), words)) };
        let (front, query) = (&text[..credentials + at], &text[credentials + at + 1..]);
        let mut others = Vec::new();
        for pair in query.split('&') {
            match pair.split_once('=').and_then(|(name, value)| Some((ours(name)?, value))) {
                Some((word, value)) => {
                    let value = percent_decode_str(value).decode_utf8();
                    let value = value.map_err(|_| format!("{word} is not UTF-8"))?;
                    words.insert(word, value.into_owned().into());
                }
                None => others.push(pair),
            }
        }
        let others = if others.is_empty() { String::new() } else { format!("?{}", others.join("&")) };
        return Ok((format!("{front}{others}"), words));
    }
    let mut others = String::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        // What is no pair is for the `postgres` crate to refuse.
        let Some((name, after)) = rest.split_once('=') else {
            others.push_str(rest);
            break;
        };
        let start = after.trim_start();
        let (value, length) = unquote(start);
        match ours(name.trim()) {
            Some(word) => {
                words.insert(word, value.into());
            }
            None => others.push_str(&format!("{}={} ", name.trim(), &start[..length])),
        }
        rest = start[length..].trim_start();
    }
    Ok((others, words))
}

/// The value at the front of a text, and how long it is there: `'it\'s'`, or up to a blank.
fn unquote(text: &str) -> (String, usize) {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            '\'' if quoted => return (value, at + 1),
            c if !quoted && c.is_whitespace() => return (value, at),
            c => value.push(c),
        }
    }
    (value, text.len())
}

/// Folders of a server's socket for which a password file says "localhost".
const SOCKET_FOLDERS: [&str; 2] = ["/run/postgresql", "/var/run/postgresql"];

/// The password of a file like `~/.pgpass`: `host:port:database:user:password`, a line each, the first that fits.
fn find_password(path: &Path, config: &Config) -> Result<Option<String>, String> {
    if !path.exists() {
        // As libpq has it.
        return Ok(None);
    }
    let bad = |e: std::io::Error| format!("the password file {}: {e}", path.display());
    if secrets::is_exposed(path).map_err(bad)? {
        // As libpq does: it is a warning there, too, and the password is not used.
        log::warn!("the password file {} is not used: other users can read it; chmod 600 it", path.display());
        return Ok(None);
    }
    let text = secrets::read(path).map_err(bad)?;
    let user = config.get_user().unwrap_or_default();
    let database = config.get_dbname().unwrap_or(user);
    let ports = config.get_ports();
    let mut found: Option<Option<String>> = None;
    for (at, host) in config.get_hosts().iter().enumerate() {
        let host = match host {
            Host::Tcp(name) => name.clone(),
            // Where libpq looks, as Debian has it; the one is a link to the other.
            Host::Unix(folder) if SOCKET_FOLDERS.iter().any(|usual| folder.starts_with(usual)) => {
                "localhost".to_owned()
            }
            Host::Unix(folder) => folder.display().to_string(),
        };
        let port = ports.get(at).or(ports.last()).copied().unwrap_or(PORT).to_string();
        let password = text.lines().find_map(|line| password_for(line, [&host, &port, database, user]));
        if found.as_ref().is_some_and(|earlier| *earlier != password) {
            return Err(format!(
                "the password file {} has different passwords for the hosts of one URL: hotrow uses one for all",
                path.display()
            ));
        }
        found = Some(password);
    }
    Ok(found.flatten())
}

/// The password of a line that fits. `\:` and `\\` stand for `:` and `\`, a lone `*` for anything.
fn password_for(line: &str, wanted: [&str; 4]) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut rest = line;
    for wanted in wanted {
        let (mut field, mut chars) = (String::new(), rest.char_indices());
        let end = loop {
            match chars.next()? {
                (_, '\\') => field.push(chars.next()?.1),
                (at, ':') => break at,
                (_, c) => field.push(c),
            }
        };
        if field != wanted && &rest[..end] != "*" {
            return None;
        }
        rest = &rest[end + 1..];
    }
    let mut password = String::new();
    let mut chars = rest.chars();
    while let Some(c) = chars.next() {
        password.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    Some(password)
}

/// What the `postgres` crate has against it: names of options, never their values.
fn describe(error: &::postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::fs::PermissionsExt;

    fn with(variables: &[(&str, &str)], text: &str) -> Result<Conninfo, String> {
        read(text, |name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn a_variable_need_not_be_text() {
        let bytes = |name: &str| Some(OsString::from_vec([name.as_bytes(), b"\xff"].concat()));
        let all = read("host=h", |name| if name == "PGSSLMODE" { None } else { bytes(name) }).unwrap();
        assert_eq!(all.config.get_password(), Some(&b"PGPASSWORD\xff"[..]));
        assert_eq!(all.tls.roots, Some(Roots::File(bytes("PGSSLROOTCERT").unwrap().into())));
        let error = read("host=h", |name| bytes(name).filter(|_| name == "PGSSLMODE")).unwrap_err();
        assert!(error.starts_with("sslmode is disable"), "{error}");
    }

    #[test]
    fn words_of_tls_are_understood_in_both_forms() {
        for text in [
            "postgresql://me@h:1/db?sslmode=verify-full&connect_timeout=3&sslrootcert=%2Fa%20b",
            "host=h port=1 user=me dbname=db sslmode = verify-full sslrootcert='/a b' connect_timeout=3",
            r"host=h port=1 user=me dbname=db connect_timeout=3 sslrootcert=/a\ b sslmode='verify-full'",
        ] {
            let Conninfo { config, tls } = with(&[], text).unwrap();
            assert_eq!(tls.mode, Mode::VerifyFull, "{text}");
            assert_eq!(tls.roots, Some(Roots::File("/a b".into())), "{text}");
            assert_eq!((config.get_user(), config.get_dbname()), (Some("me"), Some("db")), "{text}");
            assert_eq!(config.get_connect_timeout().unwrap().as_secs(), 3, "{text}");
        }
        // A ? that belongs to the password begins no words.
        let Conninfo { config, tls } =
            with(&[], "postgresql://me:p?w@h/db?sslmode=verify-full&sslrootcert=/a").unwrap();
        assert_eq!((tls.mode, config.get_password()), (Mode::VerifyFull, Some(&b"p?w"[..])));
        let at_home =
            with(&[], "postgresql://h/db?sslmode=verify-full&sslrootcert=/home/me@corp/ca").unwrap();
        assert_eq!(at_home.tls.mode, Mode::VerifyFull);
        assert_eq!(with(&[], "postgresql://h/db").unwrap().tls.mode, Mode::Prefer);
        assert_eq!(with(&[("PGSSLMODE", "require")], "host=h").unwrap().tls.mode, Mode::Require);
        assert_eq!(
            with(&[("PGSSLMODE", "require")], "host=h sslmode=disable").unwrap().tls.mode,
            Mode::Disable
        );
        assert_eq!(with(&[("PGSSLMODE", "require")], "host=/run").unwrap().tls.mode, Mode::Disable);
        // What the environment says of TLS is not for Unix sockets, whatever it is.
        for variables in [
            &[("PGSSLMODE", "verify-full"), ("PGSSLROOTCERT", "system")][..],
            &[("PGSSLMODE", "allow"), ("PGSSLCERT", "/c")],
        ] {
            assert_eq!(with(variables, "host=/run").unwrap().tls.mode, Mode::Disable);
        }
        for words in ["sslmode=verify-full sslrootcert=system", "sslmode=verify-full", "sslrootcert=system"] {
            let socket = with(&[], &format!("host=/run {words}")).unwrap();
            assert_eq!(socket.tls.mode, Mode::Disable, "{words}");
        }
        let system = with(&[], "host=h sslmode=verify-full sslrootcert=system").unwrap();
        assert_eq!(system.tls.roots, Some(Roots::System));
    }

    #[test]
    fn an_address_alone_is_a_host() {
        let Conninfo { config, tls } = with(&[], "hostaddr=10.0.0.1,::1 port=1,2").unwrap();
        let hosts = [Host::Tcp("10.0.0.1".into()), Host::Tcp("::1".into())];
        assert_eq!((config.get_hosts(), tls.mode), (&hosts[..], Mode::Prefer));
        let named = with(&[], "host=h hostaddr=10.0.0.1").unwrap();
        assert_eq!(named.config.get_hosts(), [Host::Tcp("h".into())]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, part) in [
            ("host=h sslmode=allow", "sslmode is"),
            ("host=h sslmode=verify-ca", "need sslrootcert"),
            ("host=h sslmode=require sslrootcert=system", "needs sslmode=verify-full"),
            ("host=h sslcert=/c", "go together"),
            ("host=/run,h", "sslmode=disable"),
            ("host=h,/run sslmode=require", "sslmode=disable"),
            ("host=h sslcrl=/c", "sslcrl"),
            ("host", "invalid"),
        ] {
            let error = with(&[], text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        for text in ["host=/run,h sslmode=disable", "host=/run,/other", "host=/run,h hostaddr=::1,::1"] {
            assert!(with(&[], text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_password_is_found_where_libpq_looks_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(".pgpass");
        let us = whoami::username().unwrap();
        let lines = "# h:1:db:me:no\nh:2:*:me:two\n*:*:d\\:b:me:colon\nh:1:db:me:a\\:b\\\\c\n";
        fs::write(&file, format!("{lines}h:3:{us}:{us}:ours\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let (home, path) = (dir.path().to_str().unwrap(), file.to_str().unwrap());
        let password = |variables: &[(&str, &str)], text: &str| {
            let config = with(variables, text).unwrap().config;
            config.get_password().map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
        };
        let some = |text: &str| Some(text.to_owned());
        let at_home = [("HOME", home)];
        assert_eq!(password(&at_home, "host=h port=1 user=me dbname=db"), some("a:b\\c"));
        assert_eq!(password(&at_home, "host=h port=2 user=me dbname=other"), some("two"));
        assert_eq!(password(&at_home, "host=x user=me dbname=d:b"), some("colon"));
        assert_eq!(password(&at_home, "host=h port=1 user=you dbname=db"), None);
        assert_eq!(password(&at_home, "host=h port=1 user=me dbname=db password=own"), some("own"));
        assert_eq!(password(&[], &format!("host=h port=2 user=me passfile='{path}'")), some("two"));
        assert_eq!(
            password(&at_home, "host=h port=3"),
            some("ours"),
            "as whom the crate would come, and to that database"
        );
        assert_eq!(password(&[("PGPASSFILE", path)], "host=h port=2 user=me"), some("two"));
        assert_eq!(password(&[("PGPASSFILE", "/none")], "host=h port=2 user=me"), None);
        assert_eq!(password(&[("HOME", home), ("PGPASSWORD", "env")], "host=h port=2 user=me"), some("env"));
        let two = "host=h,h port=1,2 user=me dbname=db";
        assert!(with(&at_home, two).unwrap_err().contains("one for all"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(password(&at_home, "host=h port=2 user=me"), None, "others can read the file");
    }

    #[test]
    fn a_string_that_may_have_a_password_is_told() {
        assert!(has_password("postgresql://me:x@h/db?sslmode=require"));
        assert!(has_password("host=h password=x sslmode=verify-full"));
        assert!(has_password("postgresql://me:x@h:port/db"), "it cannot be understood");
        assert!(!has_password("postgresql://me@h/db?sslmode=verify-full"));
        assert!(!has_password("host=h user=me"));
    }
}
