//! The lines that the README shows to type, typed into a fresh server: each must be answered as it is written there.
//! `HOTROW_UPDATE_README=1 cargo test --test server readme` writes the answers down.

use crate::support::postgresql::Postgresql;
use crate::support::{Server, ending, left_out};
use std::process::Command;

const BEGIN: &str = "```console by-hand\n";
const END: &str = "```\n";
const ADDRESS: &str = "127.0.0.1:8080";
/// Stands between the answers; no answer has it.
const MARK: &str = "\u{1}";

/// What differs from run to run, made alike: dates, ages, versions, names of requests.
fn alike(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        let line = line.trim_end();
        let name = ["Date", "Expires", "Age", "X-Request-Id"]
            .into_iter()
            .find(|name| line.starts_with(&format!("{name}: ")));
        lines.push(match name {
            Some(name) => format!("{name}: some"),
            None => without_versions(line),
        });
    }
    lines.join("\n").trim_end().to_owned()
}

/// Digits in double quotes are a version, and so are those in escaped ones.
fn without_versions(line: &str) -> String {
    let mut parts: Vec<&str> = line.split('"').collect();
    for part in &mut parts {
        let digits = part.trim_end_matches('\\');
        let is_version = digits.len() > 1 && digits.bytes().all(|b| b.is_ascii_digit());
        let is_request_id = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        if is_version || is_request_id {
            *part = "some";
        }
    }
    parts.join("\"")
}

#[test]
fn what_the_readme_shows_is_what_happens() {
    let modern = Command::new("curl").arg("--version").output().is_ok_and(|version| {
        let text = String::from_utf8_lossy(&version.stdout).into_owned();
        let number = text.split(' ').nth(1).unwrap_or_default();
        let mut parts = number.split('.').filter_map(|part| part.parse::<u32>().ok());
        (parts.next(), parts.next()) >= (Some(7), Some(84))
    });
    if !modern {
        return left_out("the lines that the README shows to type", "there is no curl of 7.84 or newer");
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("there is a block of lines to type");
    let (block, after) = rest.split_once(END).expect("it ends");
    // Versions have as many digits as transactions were before, and the lengths of answers tell how many.
    let postgresql = Postgresql::start_new();
    let server = Server::start_on(&postgresql.database(), &[]);
    let address = server.address.to_string();
    let commands: Vec<&str> = block.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
    let script: String = commands
        .iter()
        .map(|command| format!("{}\nprintf '\\001'\n", command.replace(ADDRESS, &address)))
        .collect();
    // As it is, whatever somebody's settings and proxies are.
    let script = script.replace("curl ", "curl -q -sS --noproxy '*' ");
    let output = ending::run(Command::new("bash").arg("-c").arg(script));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers = String::from_utf8(output.stdout).unwrap().replace(&address, ADDRESS).replace('\r', "");
    let mut shown = String::new();
    for (command, answer) in commands.iter().zip(answers.split(MARK)) {
        shown += &format!("$ {command}\n{}", if answer.is_empty() { "" } else { answer.trim_end() });
        shown += if answer.is_empty() { "" } else { "\n" };
    }
    if std::env::var_os("HOTROW_UPDATE_README").is_some() {
        std::fs::write(path, format!("{before}{BEGIN}{shown}{END}{after}")).unwrap();
        return;
    }
    let (shown, written) = (alike(&shown), alike(block));
    let different = shown.lines().zip(written.lines()).find(|(shown, written)| shown != written);
    assert_eq!(different, None, "HOTROW_UPDATE_README=1 cargo test --test server readme writes it anew");
    assert_eq!(shown.lines().count(), written.lines().count());
}
