//! The commands beside `serve`: what they print, and their exit codes.

use crate::support::database::Database;
use crate::support::{Server, ending, wait_until};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

fn hotrow(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Server::command(env!("CARGO_BIN_EXE_hotrow"));
    ending::run(command.args(arguments).envs(environment.iter().copied()))
}

/// Exit code and what was printed, on stdout where it ended well, on stderr else; nothing on the other.
fn said(output: Output) -> (i32, String) {
    let code = output.status.code().unwrap();
    let (said, other) =
        if code == 0 { (output.stdout, output.stderr) } else { (output.stderr, output.stdout) };
    assert_eq!(String::from_utf8(other).unwrap(), "");
    (code, String::from_utf8(said).unwrap())
}

#[test]
fn ready_asks_the_admin_socket() {
    let mut server = Server::start(&[]);
    let admin = server.admin_address.unwrap().to_string();
    assert_eq!(said(hotrow(&["ready", "--admin-listen", &admin], &[])), (0, "ready\n".to_owned()));
    assert_eq!(said(hotrow(&["ready"], &[("HOTROW_ADMIN_LISTEN", &admin)])).0, 0);
    // On every address of this machine: asked on loopback.
    let everywhere = format!("0.0.0.0:{}", server.admin_address.unwrap().port());
    assert_eq!(said(hotrow(&["ready", "--admin-listen", &everywhere], &[])).0, 0);
    // Its data socket is no admin socket.
    let (code, line) = said(hotrow(&["ready", "--admin-listen", &server.address.to_string()], &[]));
    assert!(code == 1 && line.contains("gives no answer that hotrow gives"), "{line}");
    server.database = None;
    drop(server);
    let (code, line) = said(hotrow(&["ready", "--admin-listen", &admin], &[]));
    assert!(code == 1 && line.starts_with("hotrow: cannot ask ") && line.lines().count() == 1, "{line}");
}

#[test]
fn ready_gives_up_and_says_why() {
    // Takes connections, says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let (code, line) = said(hotrow(&["ready", "--admin-listen", &address, "--timeout", "50ms"], &[]));
    assert!(code == 1 && line.contains(&address), "{line}");
    let (code, line) = said(hotrow(&["ready", "--admin-listen", "off"], &[]));
    assert!(code == 1 && line.contains("nobody to ask"), "{line}");
    assert_eq!(hotrow(&["ready", "--admin-listen", "here"], &[]).status.code(), Some(2));
}

#[test]
fn migrate_makes_the_schema_once() {
    let database = Database::new();
    let arguments = ["migrate", "--database-url", &database.url];
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/migrations")).unwrap().count();
    let applied = format!("applied {files} migration{}\n", if files == 1 { "" } else { "s" });
    assert_eq!(said(hotrow(&arguments, &[])), (0, applied));
    let again = said(hotrow(&["migrate"], &[("DATABASE_URL", &database.url)]));
    assert_eq!(again, (0, "nothing to do: every migration is applied\n".to_owned()));
    let (code, line) = said(hotrow(&["migrate"], &[]));
    assert!(code == 1 && line.contains("--database-url"), "{line}");
    let (code, line) = said(hotrow(&["migrate", "--database-url", "postgresql://127.0.0.1:1/db"], &[]));
    assert!(code == 1 && line.lines().count() == 1 && line.contains("cannot migrate"), "{line}");
}

/// What is left out would otherwise be found by nobody: the server says at most that a password is missing.
#[test]
fn migrate_warns_of_what_it_does_not_use() {
    let database = Database::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("passwords");
    std::fs::write(&file, "*:*:*:*:word\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let environment = [("PGPASSFILE", file.to_str().unwrap()), ("DATABASE_URL", &database.url)];
    let output = hotrow(&["migrate"], &environment);
    assert_eq!(output.status.code(), Some(0));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let line = stderr.lines().next().unwrap_or_default();
    assert!(line.contains(" WARN ") && line.contains(environment[0].1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(hotrow(&["migrate", "--print"], &environment).stderr.is_empty());
}

#[test]
fn what_migrate_prints_is_the_schema() {
    let (by_hand, by_server) = (Database::new(), Database::new());
    let (code, script) = said(hotrow(&["migrate", "--print"], &[]));
    assert_eq!(code, 0);
    by_hand.connect().batch_execute(&script).unwrap();
    // Twice is refused as a whole, and breaks nothing.
    let mut sql = by_hand.connect();
    assert!(sql.batch_execute(&script).is_err());
    drop(sql);
    assert_eq!(said(hotrow(&["migrate", "--database-url", &by_server.url], &[])).0, 0);
    let schema = "SELECT string_agg(format('%s.%s %s %s %s', table_name, column_name, data_type, is_nullable, \
        character_maximum_length), E'\\n' ORDER BY table_name, column_name) \
        FROM information_schema.columns WHERE table_schema = 'public'";
    let columns = by_hand.text(schema, &[]);
    assert!(
        columns.as_ref().is_some_and(|columns| columns.contains("kv_store.value text NO")),
        "{columns:?}"
    );
    assert_eq!(columns, by_server.text(schema, &[]));
    let nothing_to_do = said(hotrow(&["migrate", "--database-url", &by_hand.url], &[]));
    assert_eq!(nothing_to_do.1, "nothing to do: every migration is applied\n");
}

#[test]
fn config_prints_every_flag_with_its_origin_and_no_password() {
    let url = "postgresql://me:secret@localhost/db";
    let environment = [("DATABASE_URL", url), ("HOTROW_IDLE_TIMEOUT", "5m")];
    let (code, text) = said(hotrow(&["config", "--cache-bytes", "1GiB"], &environment));
    assert_eq!(code, 0);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    for expected in [
        "--listen 127.0.0.1:8080 (default)",
        "--cache-bytes 1GiB (flag)",
        "--idle-timeout 5m (environment, HOTROW_IDLE_TIMEOUT)",
        "--database-url postgresql://me:***@localhost/db (environment, DATABASE_URL)",
    ] {
        let words: Vec<&str> = expected.split(' ').collect();
        assert!(lines.contains(&words), "{expected} is not in\n{text}");
    }
    assert!(!text.contains("secret"), "{text}");
    assert_eq!(hotrow(&["config", "--cache-bytes", "much"], &[]).status.code(), Some(2));
}

#[test]
fn what_cannot_be_printed_is_a_failure_and_a_reader_who_has_gone_is_none() {
    for arguments in [&["--help"][..], &["--version"], &["config"], &["migrate", "--print"]] {
        let run = |stdout: Stdio| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_hotrow"));
            command.args(arguments).stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
            let output = ending::of(command.spawn().unwrap());
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        };
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let (code, line) = run(full.into());
        assert_eq!((code, line.lines().count()), (Some(1), 1), "{line}");
        assert!(line.starts_with("hotrow: cannot write to stdout: No space left"), "{line}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(run(writer.into()), (Some(0), String::new()));
    }
}

#[test]
fn completions_are_scripts_for_their_shells() {
    for (shell, part) in
        [("bash", "complete -F _hotrow"), ("zsh", "#compdef hotrow"), ("fish", "complete -c hotrow")]
    {
        let (code, script) = said(hotrow(&["completions", shell], &[]));
        assert!(code == 0 && script.contains(part) && script.contains("cache-bytes"), "{shell}");
    }
    assert_eq!(hotrow(&["completions", "cmd"], &[]).status.code(), Some(2));
}

#[test]
fn the_version_says_what_it_is_built_from() {
    let (code, short) = said(hotrow(&["-V"], &[]));
    let (_, long) = said(hotrow(&["--version"], &[]));
    let number = concat!("hotrow ", env!("CARGO_PKG_VERSION"));
    assert!(code == 0 && short.starts_with(number) && short.lines().count() == 1, "{short}");
    let lines: Vec<&str> = long.lines().collect();
    assert!(lines[0] == number && lines[1].starts_with("commit "), "{long}");
    let client = lines[2].strip_prefix("client postgres 0.").expect("the package that speaks to PostgreSQL");
    assert!(client.starts_with(|c: char| c.is_ascii_digit()), "{long}");
}

#[test]
fn the_admin_socket_tells_the_settings_and_masks_secrets() {
    let database = Database::new();
    // The test's PostgreSQL trusts everybody; a password it is not asked for it does not look at.
    let url = format!("{} password=secret", database.url);
    let mut command = Server::command(env!("CARGO_BIN_EXE_hotrow"));
    command.args(["--database-url", &url, "--queue-depth", "77"]).env("HOTROW_CACHE_BYTES", "3MiB");
    let server = Server::spawn(command);
    let page = server.connect_admin().request("GET", "/config", "", b"");
    assert_eq!((page.status, page.field("Content-Type")), (200, Some("application/json")));
    let json: serde_json::Value = serde_json::from_str(&page.text()).unwrap();
    let setting = |name: &str| {
        let settings = json.as_array().unwrap();
        settings.iter().find(|setting| setting["name"] == name).unwrap().clone()
    };
    for (name, value, origin) in [
        ("queue-depth", "77", "flag"),
        ("cache-bytes", "3MiB", "environment"),
        ("db-readers", "2", "default"),
    ] {
        let setting = setting(name);
        assert_eq!((setting["value"].as_str(), setting["origin"].as_str()), (Some(value), Some(origin)));
    }
    assert_eq!(setting("cache-bytes")["variable"], "HOTROW_CACHE_BYTES");
    assert!(setting("database-url")["value"].as_str().unwrap().ends_with("password=***"));
    assert!(!page.text().contains("secret") && !server.stderr().contains("secret"));
    let version = server.admin_page("/version");
    assert!(version.contains("\ncommit ") && version.contains("\nclient postgres 0."), "{version}");
    wait_until("it serves", || server.connect().put("k", "v").status < 300);
}
