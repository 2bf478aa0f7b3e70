//! What nothing else checks, drifts: the documents against the code, and the code's own rules of order. Reads files,
//! and asks the program for its `--help`; starts no server.

use crate::support::ending;
use hotrow::http::problem::Kind;
use hotrow::metrics::families;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who may use whom: a module uses itself and those of lines above it. `store` is on two lines, for it is two things:
/// the words that jobs and their answers are spoken in, and the threads that do the jobs. A module that is not named
/// here belongs to the nearest one above it in the tree.
const LAYERS: &[&[&str]] = &[
    &["limits", "token", "clock", "output", "process"],
    &["secrets"],
    &["http", "config", "metrics"],
    &["engine", "access_log"],
    &[
        "store",
        "store::backend",
        "store::batch",
        "store::health",
        "store::list",
        "store::load",
        "store::pace",
    ],
    &[
        "api",
        "store::managed",
        "store::migrations",
        "store::patience",
        "store::pool",
        "store::postgres",
        "store::reader",
        "store::writer",
    ],
    &["connection"],
    &["event_loop"],
    &["memory", "transfer"],
    &["server", "logging", "commands", "service"],
    &["main", "signals"],
];

/// The longest file, in lines.
const FILE_LINES: usize = 700;

#[test]
fn the_readme_has_every_flag_with_its_default_and_no_other() {
    let readme = read("README.md");
    let flags = flags_of_help();
    assert!(flags.len() > 10, "--help has only {flags:?}");
    for (flag, default) in &flags {
        let mut lines = lines_with(&readme, flag).peekable();
        assert!(lines.peek().is_some(), "README.md does not have `{flag}`");
        if let Some(default) = default {
            let found = lines.any(|line| quoted(line).any(|text| text == default));
            assert!(found, "README.md has no line with `{flag}` and its default `{default}`");
        }
    }
    let known = |flag: &str| flags.contains_key(flag) || ["--help", "--version"].contains(&flag);
    for line in readme.lines() {
        let own = quoted(line).filter(|text| text.starts_with("--"));
        for text in own.chain(arguments_of_hotrow(line)) {
            let flag = text.split([' ', '=']).next().unwrap();
            assert!(known(flag), "README.md has {flag}, which --help does not have: {line}");
        }
    }
}

#[test]
fn the_readme_has_every_problem_with_its_status() {
    let readme = read("README.md");
    for kind in Kind::ALL {
        let (status, name, _) = kind.facts();
        let found = lines_with(&readme, name).any(|line| words(line).any(|word| word == status.to_string()));
        assert!(found, "README.md has no line with `{name}` and {status}");
    }
}

#[test]
fn the_readme_has_every_metric_and_no_other() {
    let readme = read("README.md");
    let rows: Vec<String> =
        readme.lines().filter(|line| line.starts_with("| `")).map(|row| row.replace('`', "")).collect();
    assert!(families::ALL.len() > 30);
    for family in families::ALL {
        let (name, kind, labels) = (family.name, family.kind.as_str(), family.labels.join(", "));
        let row = format!("| {name} | {kind} | {labels} | {} |", family.help);
        assert!(rows.contains(&row), "README.md does not have this row, in whatever backticks:\n{row}");
    }
    let is_ours = |text: &str| text.starts_with("hotrow_") || text.starts_with("process_");
    for name in readme.lines().flat_map(quoted).map(|text| text.split('{').next().unwrap()) {
        let known = families::ALL.iter().any(|family| family.name == name);
        assert!(!is_ours(name) || !is_word(name) || known, "README.md has the metric {name}, which is none");
    }
    // Names stand in the list and nowhere else, so that no other can be sent.
    for source in sources().iter().filter(|source| source.module != "metrics::families") {
        let code = source.code();
        let other = code.split('"').find(|text| text.starts_with("hotrow_") && text.ends_with("_total"));
        assert_eq!(other, None, "{} names a metric of its own", source.path.display());
    }
}

#[test]
fn the_threat_model_names_tests_that_there_are() {
    // What is in force has tests: each row of that table names at least one.
    let rows = table("README.md", "## Threat model", "against");
    let named: usize = rows.iter().map(|row| tests_named_in(row)).sum();
    assert!(named > 40, "only {named} tests are named");
}

/// What is always true, in the order of the design.
const INVARIANTS: [&str; 8] = [
    "a reply goes to the connection that asked",
    "the cache never lies",
    "a write has three endings",
    "acknowledged means committed",
    "replies leave in request order, one each",
    "everything has a bound",
    "the loop never blocks",
    "the database may go away",
];

#[test]
fn what_is_always_true_names_tests_that_there_are() {
    let rows = table("tests/README.md", "## The invariants, and their tests", "always true");
    let first = |row: &String| row.trim_start_matches("| ").split(" |").next().unwrap().to_owned();
    assert_eq!(rows.iter().map(first).collect::<Vec<_>>(), INVARIANTS);
    let named: usize = rows.iter().map(|row| tests_named_in(row)).sum();
    assert!(named > 20, "only {named} tests are named");
}

#[test]
fn conformance_is_shown_by_tests_that_there_are() {
    let all: BTreeSet<String> = files("src").chain(files("tests")).flat_map(|path| tests_of(&path)).collect();
    assert!(all.len() > 500, "only {} tests were found", all.len());
    let rows = table("tests/README.md", "## Conformance: RFC 9110 and 9112", "the RFC");
    assert!(rows.len() > 30, "only {rows:?}");
    let mut named = 0;
    for (at, row) in rows.iter().enumerate() {
        let names = conformance_shown_by(row, at > 0);
        let names = names.unwrap_or_else(|| panic!("no test shows this: {row}"));
        named += names.len();
        for name in names {
            assert!(all.contains(name), "there is no test {name}: {row}");
        }
    }
    assert!(named > 30, "only {named} tests are named");
    // It can fail.
    for (row, has_rows_above, expected) in [
        ("| 1 `a` | so | `b`, and `c` of `d/` |", false, Some(vec!["b", "c"])),
        ("| 1 | so | as above |", true, Some(vec![])),
        ("| 1 | so | as above |", false, None),
        ("| 1 `a` | `b` | so |", true, None),
        ("| 1 | so | `tests/` |", true, None),
    ] {
        assert_eq!(conformance_shown_by(row, has_rows_above), expected, "{row}");
    }
}

/// The tests that the last column of a row names; `None` where it names none, and refers neither to those above nor to all.
fn conformance_shown_by(row: &str, has_rows_above: bool) -> Option<Vec<&str>> {
    let shown_by = row.trim_end_matches(" |").rsplit("| ").next()?;
    let names: Vec<&str> = quoted(shown_by).filter(|name| is_word(name)).collect();
    let refers = has_rows_above && shown_by == "as above" || shown_by.starts_with("every test: ");
    (refers || !names.is_empty()).then_some(names)
}

#[test]
fn the_map_names_every_dependency() {
    let (manifest, map) = (read("Cargo.toml"), read("src/README.md"));
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let crates: Vec<&str> = section
        .lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| Some(l.split_once(" = ")?.0))
        .collect();
    assert!(crates.len() > 6, "Cargo.toml has only {crates:?}");
    for name in crates {
        assert!(
            lines_with(&map, name).next().is_some(),
            "src/README.md does not say what `{name}` does for us"
        );
    }
}

#[test]
fn layers_point_downward() {
    let mut faults = Vec::new();
    let mut uses = 0;
    for source in sources().iter().filter(|source| source.module != "lib") {
        let own = layer(&source.module);
        let Some((own_name, own_layer)) = own else {
            faults.push(format!("{} has no layer: give it one in tests/tidy.rs", source.path.display()));
            continue;
        };
        for target in source.uses() {
            uses += 1;
            let verdict = match layer(&target) {
                _ if top(&target) == top(&source.module) => continue,
                Some((_, target_layer)) if target_layer < own_layer => continue,
                Some((name, _)) => format!("{own_name} may not use {name}"),
                None => format!("{target} has no layer"),
            };
            faults.push(format!("{}: {verdict}", source.path.display()));
        }
    }
    assert!(uses > 50, "only {uses} uses were found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The rooms that an event loop is in while it serves, and what would keep it waiting there: a file, a name, another thread, a
/// terminal. (What a loop logs goes to a thread of its own, as the access log does.)
const ROOMS_OF_THE_LOOP: [&str; 5] = ["event_loop", "connection", "engine", "api", "http"];
/// And what it calls elsewhere.
const BESIDE_THE_LOOP: [&str; 5] =
    ["output", "store::backend", "store::health", "store::list", "store::load"];
const WAITS: [&str; 16] = [
    "fs",
    "File",
    "OpenOptions",
    "ToSocketAddrs",
    "to_socket_addrs",
    "sleep",
    "park",
    "recv",
    "recv_timeout",
    "Condvar",
    "Barrier",
    "println",
    "eprintln",
    "stdin",
    "stdout",
    "stderr",
];
/// The same, of words that alone may mean something else.
const CALLS_THAT_WAIT: [&str; 3] = [".join()", "Command::new", "TcpStream::connect"];

#[test]
fn nothing_that_waits_is_named_where_a_loop_serves() {
    let waits_in = |code: &str| {
        let call = CALLS_THAT_WAIT.into_iter().find(|call| code.contains(call));
        words(code).find(|word| WAITS.contains(word)).or(call).map(str::to_owned)
    };
    let waits = |source: &Source| waits_in(&source.code());
    let is_of_the_loop =
        |module: &str| ROOMS_OF_THE_LOOP.contains(&top(module)) || BESIDE_THE_LOOP.contains(&module);
    let sources = sources();
    for name in BESIDE_THE_LOOP {
        assert!(sources.iter().any(|source| source.module == name), "there is no {name}");
    }
    let mut looked_at = 0;
    for source in sources.iter().filter(|source| is_of_the_loop(&source.module)) {
        looked_at += 1;
        assert_eq!(waits(source), None, "{}: a loop would wait", source.path.display());
    }
    assert!(looked_at > 50, "only {looked_at} files were found");
    // Of the access log a loop calls this; the rest is its thread's, or comes before and after all loops.
    let log = sources.iter().find(|source| source.module == "access_log").unwrap().code();
    let add = log.split("pub fn add(").nth(1).and_then(|rest| rest.split("\n    }\n").next()).unwrap();
    assert_eq!(waits_in(add), None, "a line of the access log would wait");
    assert!(words(add).any(|word| word == "try_send"), "a line that finds no room is dropped: {add}");
    // It can fail.
    let source = |text: &str| Source { path: "x.rs".into(), module: "http".into(), text: text.into() };
    for (text, word) in [
        ("use std::fs;", "fs"),
        ("    std::thread::sleep(d);", "sleep"),
        ("File::open(p)?", "File"),
        ("thread.join()", ".join()"),
        ("process::Command::new(p)", "Command::new"),
        ("net::TcpStream::connect(a)", "TcpStream::connect"),
    ] {
        assert_eq!(waits(&source(text)).as_deref(), Some(word));
    }
    let harmless = "//! No fs, no File.\nfn time_to_sleep(c: Command<'_>) { path.join(c); mio::net::TcpStream::from_std(s) }";
    assert_eq!(waits(&source(harmless)), None);
}

#[test]
fn files_are_short() {
    for source in sources() {
        let lines = source.text.lines().count();
        assert!(lines <= FILE_LINES, "{} has {lines} lines: it holds two things", source.path.display());
    }
}

#[test]
fn every_limit_is_used() {
    let limits = read("src/limits.rs");
    let names: Vec<&str> =
        limits.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next()).collect();
    assert!(names.len() > 20, "src/limits.rs has only {names:?}");
    let used: BTreeSet<String> = sources()
        .iter()
        .filter(|source| source.module != "limits")
        .flat_map(|source| words(&source.code()).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    for name in names {
        assert!(used.contains(name), "nothing keeps the limit {name}");
    }
}

/// These tests can fail: what finds the faults is given some.
#[test]
fn uses_are_found_wherever_they_stand() {
    let text = "\
//! Called by [`crate::server`].
use crate::limits::A;
use crate::store::{self, Answer, health::Health};
pub(crate) use crate::{http::date, token::Id};
fn f() -> crate::engine::Value { super::super::clock::now() } // crate::config
#[cfg(test)]
mod tests {
    use crate::main;
}
";
    let source = Source { path: "src/store/x.rs".into(), module: "store::x".into(), text: text.into() };
    let uses: BTreeSet<String> = source.uses().into_iter().collect();
    let expected = [
        "clock::now",
        "engine::Value",
        "http::date",
        "limits::A",
        "store",
        "store::Answer",
        "store::health::Health",
        "token::Id",
    ];
    assert_eq!(uses, expected.map(str::to_owned).into());
    assert_eq!(layer("store::health::Health"), Some(("store::health", 4)));
    assert_eq!(layer("store::Answer"), Some(("store", 4)));
    assert_eq!(layer("nothing::at_all"), None);
}

/// A file of `src`.
struct Source {
    path: PathBuf,
    /// Its module's path, without `crate::`.
    module: String,
    text: String,
}

impl Source {
    /// The file without comments and tests.
    fn code(&self) -> String {
        let mut code = String::new();
        let mut lines = self.text.lines().peekable();
        while let Some(line) = lines.next() {
            // Tests are the last thing in a file.
            if line == "#[cfg(test)]" && lines.peek().is_some_and(|next| next.ends_with("mod tests {")) {
                break;
            }
            // A `//` within a word is part of a URL.
            let comment = if line.starts_with("//") { Some(0) } else { line.find(" //") };
            code.push_str(&line[..comment.unwrap_or(line.len())]);
            code.push('\n');
        }
        code
    }

    /// Paths of the modules and items of this crate that it uses.
    fn uses(&self) -> Vec<String> {
        let code = self.code();
        let mut uses = Vec::new();
        for (at, _) in code.match_indices("crate::") {
            let before = code[..at].chars().next_back();
            if !before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                expand("", &code[at + "crate::".len()..], &mut uses);
            }
        }
        // `super` leads out of a module, too: as far as `crate` where there is one for every step.
        let depth = self.module.split("::").count();
        for (at, _) in code.match_indices("super::") {
            let rest = code[at..].trim_start_matches("super::");
            let steps = (code[at..].len() - rest.len()) / "super::".len();
            let preceded = code[..at].ends_with("super::");
            assert!(preceded || steps <= depth, "{} has too many super::", self.path.display());
            if !preceded && steps == depth {
                expand("", rest, &mut uses);
            }
        }
        uses
    }
}

/// Adds every path that text begins with: one, or those of a group in braces.
fn expand(prefix: &str, text: &str, paths: &mut Vec<String>) {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len());
    let path = format!("{prefix}{}", &text[..end]);
    let Some(group) = text[end..].strip_prefix('{') else {
        paths.push(path.trim_end_matches("::self").to_owned());
        return;
    };
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                let member = group[start..at].trim();
                if !member.is_empty() {
                    expand(&path, member, paths);
                }
                if c == '}' {
                    return;
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// The rows of the table in this section of a document whose first column has this head.
fn table(document: &str, section: &str, head: &str) -> Vec<String> {
    let text = read(document);
    let section = text.split(&format!("\n{section}")).nth(1).expect("there is such a section");
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().skip_while(|line| !line.starts_with(&format!("| {head} |")));
    rows.skip(2).take_while(|line| line.starts_with('|')).map(str::to_owned).collect()
}

/// How many tests a row names, each of which there must be: `tests/tls/records.rs: one, another`. At least one.
fn tests_named_in(row: &str) -> usize {
    let mut named = 0;
    for (file, names) in quoted(row).filter_map(|text| text.split_once(".rs: ")) {
        let tests = tests_of(&root().join(format!("{file}.rs")));
        for name in names.split(", ") {
            named += 1;
            assert!(tests.contains(name), "{file}.rs has no test {name}");
        }
    }
    assert!(named > 0, "no test shows this: {row}");
    named
}

/// The names of the tests in a file.
fn tests_of(path: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    let tests = text.split("#[test]\n").skip(1);
    let name = |test: &str| test.split_once("fn ")?.1.split('(').next().map(str::to_owned);
    tests.map(|test| name(test).expect("a test is a function")).collect()
}

/// The module of `LAYERS` that a path belongs to, and the number of its layer.
fn layer(path: &str) -> Option<(&'static str, usize)> {
    let holds =
        |name: &str| path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    let all =
        LAYERS.iter().enumerate().flat_map(|(layer, names)| names.iter().map(move |name| (*name, layer)));
    all.filter(|(name, _)| holds(name)).max_by_key(|(name, _)| name.len())
}

fn top(path: &str) -> &str {
    path.split("::").next().unwrap()
}

/// All files of Rust in a folder of the repository, and in those below it.
fn files(folder: &str) -> impl Iterator<Item = PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.into_iter()
}

/// All files of `src`, without those that are tests altogether.
fn sources() -> Vec<Source> {
    let root = root().join("src");
    let source = |path: PathBuf| {
        let module = path.strip_prefix(&root).unwrap().with_extension("");
        let steps: Vec<&str> = module.iter().map(|step| step.to_str().unwrap()).collect();
        let module = steps.join("::").trim_end_matches("::mod").to_owned();
        Source { module, text: fs::read_to_string(&path).unwrap(), path }
    };
    let mut sources: Vec<Source> = files("src").map(source).collect();
    // `#[cfg(test)] mod simulation;` makes a file, and those below it, a test.
    let mut tests = BTreeSet::new();
    for source in &sources {
        let lines: Vec<&str> = source.text.lines().map(str::trim).collect();
        for pair in lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]") {
            let name = pair[1].split("mod ").nth(1).and_then(|rest| rest.strip_suffix(';'));
            let parent = if source.module == "lib" { String::new() } else { format!("{}::", source.module) };
            tests.extend(name.map(|name| format!("{parent}{name}")));
        }
    }
    let is_test =
        |module: &str| tests.iter().any(|test| module == test || module.starts_with(&format!("{test}::")));
    sources.retain(|source| !is_test(&source.module));
    assert!(sources.len() > 20, "only {} files were found", sources.len());
    sources
}

/// The names of the commands.
fn commands() -> Vec<String> {
    let all = hotrow::config::command();
    all.get_subcommands().map(|command| command.get_name().to_owned()).collect()
}

/// Every long flag of `hotrow --help`, and of that of each command, with its default.
fn flags_of_help() -> BTreeMap<String, Option<String>> {
    let mut help = String::new();
    for command in commands().into_iter().map(Some).chain([None]) {
        let mut hotrow = Command::new(env!("CARGO_BIN_EXE_hotrow"));
        let output = ending::run(hotrow.args(command).arg("--help").env_clear());
        assert!(output.status.success());
        help += &String::from_utf8(output.stdout).unwrap();
    }
    // A flag begins its line; what is said of it may take several.
    let mut flags: Vec<(String, String)> = Vec::new();
    for line in help.lines() {
        if let Some(flag) = line.trim_start().strip_prefix("--") {
            let name = flag.split_whitespace().next().unwrap();
            flags.push((format!("--{name}"), String::new()));
        }
        if let Some((_, text)) = flags.last_mut() {
            text.push_str(line.trim());
            text.push(' ');
        }
    }
    let default = |text: &str| Some(text.split("[default: ").nth(1)?.split(']').next()?.to_owned());
    flags.into_iter().map(|(flag, text)| (flag, default(&text))).collect()
}

/// The flags on a line that shows how hotrow is run: those behind its name.
fn arguments_of_hotrow(line: &str) -> impl Iterator<Item = &str> {
    let named = commands().into_iter().map(|command| format!("hotrow {command} --"));
    let commands = named.chain(["hotrow --", "tools/run --"].map(str::to_owned));
    let start = commands.filter_map(|command| line.find(&command)).min();
    let arguments = start.map_or("", |start| &line[start..]).split('`').next().unwrap();
    arguments.split_whitespace().filter(|word| word.starts_with("--"))
}

/// Lines that have this text in backticks, alone or with more behind it, like the value of a flag.
fn lines_with<'a>(document: &'a str, text: &'a str) -> impl Iterator<Item = &'a str> {
    document
        .lines()
        .filter(move |line| quoted(line).any(|quoted| quoted.split([' ', '=']).next() == Some(text)))
}

/// What stands in backticks on a line.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_'))
}

fn is_word(text: &str) -> bool {
    words(text).count() == 1
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("cannot read {name}: {e}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
