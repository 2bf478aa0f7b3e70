//! Puts a real data set into hotrow and holds against it every byte that comes back: what Debian's package lists say
//! about every package, tens of thousands of UTF-8 texts from a few hundred bytes to some ten thousand.
//!
//! The key is the package's name, the value its whole stanza in `apt-cache dumpavail`; the long descriptions are not
//! in there, so the stanza is the richest text to be had. Everything is put, the server is started anew so that its
//! cache is cold, everything is read twice (misses, then hits), and the table is read by SQL. With `--url` it is a
//! server that somebody else has started: its cache is warm from the writes. Run by `tools/load-packages`.
//!
//! Exit code: 0 when all is the same, 1 when something differs, 2 when it could not be done.

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use postgres::NoTls;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::{HashMap, HashSet};
use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use ureq::{Agent, Body, http};

/// How long one request may take; the slowest waits for a commit.
const REQUEST: Duration = Duration::from_secs(60);
/// How long a server may take to stop; its own time-outs are shorter.
const STOP: Duration = Duration::from_secs(60);
/// The cache of the server that is started here: everything has to fit.
const CACHE: &str = "1GiB";
/// Differences that are told one by one; the rest is counted.
const TOLD: usize = 20;
/// What a package's name is made of goes into a path as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'+').remove(b'-').remove(b'.').remove(b'_');

/// Puts the stanzas of `apt-cache dumpavail` into a hotrow, reads them back, and compares every byte.
#[derive(Parser)]
struct Flags {
    /// Keep-alive connections, each with one request at a time
    #[arg(long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,

    /// A running hotrow to use instead of one started here; keys named like packages are overwritten
    #[arg(long, value_name = "URL")]
    url: Option<String>,

    /// The database of that hotrow, to compare its table too
    #[arg(long, value_name = "URL", requires = "url")]
    database_url: Option<String>,

    /// The hotrow to start
    #[arg(long, value_name = "PATH", default_value = "target/release/hotrow")]
    server: PathBuf,
}

struct Package {
    name: String,
    stanza: String,
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(0) => {
            println!("everything is the same");
            ExitCode::SUCCESS
        }
        Ok(differences) => {
            println!("{differences} DIFFERENCES");
            ExitCode::from(1)
        }
        Err(line) => {
            eprintln!("load-packages: {line}");
            ExitCode::from(2)
        }
    }
}

/// Does it all; the number of differences.
fn run(flags: &Flags) -> Result<usize, String> {
    // Asked to stop, the way out is the usual one: the server is stopped and its folder removed.
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|e| format!("cannot catch signals: {e}"))?;
    }
    let packages = packages()?;
    let work = |base: &str, name: &'static str, kind: Kind| {
        let load =
            Load { packages: &packages, base, connections: usize::from(flags.connections), stop: &stop };
        load.phase(name, kind)
    };

    if let Some(url) = &flags.url {
        let url = url.trim_end_matches('/');
        let mut differences = work(url, "PUT", Kind::Put)?.differences;
        differences += work(url, "GET", Kind::Get)?.differences;
        differences += work(url, "GET again", Kind::Get)?.differences;
        match &flags.database_url {
            Some(database) => differences += compare_table(database, &packages, false)?,
            None => println!("SQL        not compared: no --database-url"),
        }
        return Ok(differences);
    }

    // A folder that PostgreSQL's user may enter, where this runs as root.
    let mut folder = tempfile::Builder::new();
    let folder = folder.prefix("hotrow-packages-").permissions(Permissions::from_mode(0o755));
    let folder = folder.tempdir().map_err(|e| format!("cannot make a temporary folder: {e}"))?;
    let server = Server::start(&flags.server, &folder)?;
    let mut differences = work(&server.url, "PUT", Kind::Put)?.differences;
    server.stop()?;

    let server = Server::start(&flags.server, &folder)?;
    let cold = work(&server.url, "GET, cold", Kind::Get)?;
    let warm = work(&server.url, "GET, warm", Kind::Get)?;
    differences += cold.differences + warm.differences;
    for (tally, expected, what) in
        [(cold.misses, packages.len(), "misses, cold"), (warm.hits, packages.len(), "hits, warm")]
    {
        if tally != expected {
            println!("DIFFERENT: {tally} {what}, and it should be {expected}");
            differences += 1;
        }
    }
    let socket = folder.path().join("run");
    differences +=
        compare_table(&format!("host='{}' user=hotrow dbname=hotrow", socket.display()), &packages, true)?;
    server.stop()?;
    Ok(differences)
}

/// What the system's package lists say: name and stanza of every package, the first where one occurs twice.
fn packages() -> Result<Vec<Package>, String> {
    let output = Command::new("apt-cache").arg("dumpavail").output();
    let output =
        output.map_err(|e| format!("cannot run apt-cache: {e}; the texts are Debian's package lists"))?;
    let (mut seen, mut packages) = (HashSet::new(), Vec::new());
    let (mut bytes, mut not_ascii, mut twice, mut not_text) = (0, 0, 0, 0);
    for stanza in split_stanzas(&output.stdout) {
        let Ok(stanza) = std::str::from_utf8(stanza) else {
            not_text += 1;
            continue;
        };
        let Some(name) = stanza.lines().find_map(|line| line.strip_prefix("Package: ")) else { continue };
        if !seen.insert(name.to_owned()) {
            twice += 1;
            continue;
        }
        bytes += stanza.len();
        not_ascii += usize::from(!stanza.is_ascii());
        packages.push(Package { name: name.to_owned(), stanza: stanza.to_owned() });
    }
    if packages.is_empty() {
        return Err("apt-cache dumpavail knows no package: run apt-get update first".into());
    }
    println!(
        "packages   {} ({bytes} bytes; {not_ascii} with more than ASCII; left out: {twice} named twice, {not_text} not \
         UTF-8)",
        packages.len()
    );
    Ok(packages)
}

/// Stanzas are parted by empty lines.
fn split_stanzas(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let end = bytes.windows(2).position(|pair| pair == b"\n\n").map_or(bytes.len(), |at| at + 1);
        let (stanza, rest) = bytes.split_at(end);
        bytes = rest.strip_prefix(b"\n").unwrap_or(rest);
        Some(stanza)
    })
}

#[derive(Clone, Copy)]
enum Kind {
    Put,
    Get,
}

/// What one phase has found.
#[derive(Default)]
struct Tally {
    hits: usize,
    misses: usize,
    differences: usize,
}

/// All packages, against one server.
struct Load<'a> {
    packages: &'a [Package],
    base: &'a str,
    connections: usize,
    stop: &'a AtomicBool,
}

impl Load<'_> {
    /// One request for every package. An error is a request without an answer.
    fn phase(&self, name: &'static str, kind: Kind) -> Result<Tally, String> {
        let started = Instant::now();
        let progress = Progress::new(name, self.packages.len());
        let next = AtomicUsize::new(0);
        let total = Mutex::new(Tally::default());
        thread::scope(|scope| {
            let run = || self.connection(kind, &next, &progress, &total);
            let threads: Vec<_> = (0..self.connections).map(|_| scope.spawn(run)).collect();
            // All are waited for, also when the first has failed.
            let results: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
            results
                .into_iter()
                .try_for_each(|result| result.map_err(|_| "a thread has panicked".to_owned())?)
        })?;
        progress.end();
        if self.stop.load(Ordering::Relaxed) {
            return Err("stopped by a signal".into());
        }
        let tally = total.into_inner().map_err(|_| "a thread has panicked")?;
        let counts = match kind {
            Kind::Put => String::new(),
            Kind::Get => format!(", {} hits, {} misses", tally.hits, tally.misses),
        };
        print_phase(
            name,
            started.elapsed(),
            self.packages,
            &format!("{counts}, {} differences", tally.differences),
        );
        Ok(tally)
    }

    /// What one connection does: the next package, until there is none.
    fn connection(
        &self,
        kind: Kind,
        next: &AtomicUsize,
        progress: &Progress,
        total: &Mutex<Tally>,
    ) -> Result<(), String> {
        // An agent keeps its connection; nothing in between may answer in the server's place.
        let config =
            Agent::config_builder().http_status_as_error(false).timeout_global(Some(REQUEST)).proxy(None);
        let agent: Agent = config.build().into();
        let mut tally = Tally::default();
        while !self.stop.load(Ordering::Relaxed) {
            let Some(package) = self.packages.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            let url = format!("{}/kv/{}", self.base, utf8_percent_encode(&package.name, ESCAPED));
            let answer = match kind {
                Kind::Put => agent.put(&url).send(package.stanza.as_str()),
                Kind::Get => agent.get(&url).call(),
            };
            let result = answer.and_then(|answer| compare(package, kind, answer, &mut tally));
            if let Err(error) = result {
                self.stop.store(true, Ordering::Relaxed);
                return Err(format!("no answer for {url}: {error}"));
            }
            progress.one_more();
        }
        if let Ok(mut total) = total.lock() {
            total.hits += tally.hits;
            total.misses += tally.misses;
            total.differences += tally.differences;
        }
        Ok(())
    }
}

/// Holds an answer against what was sent. Both a PUT's and a GET's content is the value.
fn compare(
    package: &Package,
    kind: Kind,
    mut answer: http::Response<Body>,
    tally: &mut Tally,
) -> Result<(), ureq::Error> {
    let status = answer.status().as_u16();
    let expected: &[u16] = match kind {
        Kind::Put => &[200, 201],
        Kind::Get => &[200],
    };
    match answer.headers().get("Cache-Status").map(http::HeaderValue::as_bytes) {
        Some(b"hotrow; hit") => tally.hits += 1,
        Some(b"hotrow; fwd=miss") => tally.misses += 1,
        _ => {}
    }
    let content = answer.body_mut().with_config().limit(u64::MAX).read_to_vec()?;
    if !expected.contains(&status) {
        let content = String::from_utf8_lossy(&content);
        different(&mut tally.differences, &package.name, &format!("{status} {}", content.trim_end()));
    } else if content != package.stanza.as_bytes() {
        different(&mut tally.differences, &package.name, &format!("{} bytes that are others", content.len()));
    }
    Ok(())
}

/// The table, as SQL shows it. `alone`: nothing else may be in it.
fn compare_table(url: &str, packages: &[Package], alone: bool) -> Result<usize, String> {
    let started = Instant::now();
    let explain = |e: postgres::Error| format!("cannot read the table: {e}");
    let mut client = postgres::Client::connect(url, NoTls).map_err(explain)?;
    let mut missing: HashMap<&str, &str> =
        packages.iter().map(|p| (p.name.as_str(), p.stanza.as_str())).collect();
    let mut differences = 0;
    for row in client.query("SELECT key, value FROM kv_store", &[]).map_err(explain)? {
        let (key, value): (&str, &str) = (row.get(0), row.get(1));
        match missing.remove(key) {
            Some(stanza) if stanza == value => {}
            Some(_) => different(&mut differences, key, "the table has another value"),
            None if alone => different(&mut differences, key, "the table has a row that nobody has put"),
            None => {}
        }
    }
    for key in missing.into_keys() {
        different(&mut differences, key, "the table does not have it");
    }
    print_phase("SQL", started.elapsed(), packages, &format!(", {differences} differences"));
    Ok(differences)
}

fn different(differences: &mut usize, key: &str, what: &str) {
    *differences += 1;
    if *differences <= TOLD {
        println!("DIFFERENT: {key}: {what}");
    }
}

fn print_phase(name: &str, time: Duration, packages: &[Package], counts: &str) {
    let seconds = time.as_secs_f64();
    let bytes: usize = packages.iter().map(|package| package.stanza.len()).sum();
    println!(
        "{name:10} {seconds:.2} s, {:.0} values/s, {:.1} MB/s{counts}",
        packages.len() as f64 / seconds,
        bytes as f64 / 1e6 / seconds
    );
}

/// A bar on a terminal, and a line for each tenth elsewhere.
struct Progress {
    name: &'static str,
    bar: ProgressBar,
    done: AtomicUsize,
    all: usize,
}

impl Progress {
    fn new(name: &'static str, all: usize) -> Progress {
        let bar = ProgressBar::new(all as u64).with_prefix(name);
        if let Ok(style) = ProgressStyle::with_template("{prefix:10} {wide_bar} {pos}/{len} {per_sec} {eta}")
        {
            bar.set_style(style);
        }
        Progress { name, bar, done: AtomicUsize::new(0), all }
    }

    fn one_more(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        self.bar.inc(1);
        if self.bar.is_hidden() && done * 10 / self.all != (done - 1) * 10 / self.all {
            eprintln!("{}: {done} of {}", self.name, self.all);
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// A hotrow with a private PostgreSQL, started here.
struct Server {
    url: String,
    child: Child,
}

impl Server {
    fn start(program: &Path, folder: &TempDir) -> Result<Server, String> {
        let mut command = Command::new(program);
        command.args(["--listen", "127.0.0.1:0", "--admin-listen", "off", "--log-level", "warn"]);
        command.args(["--cache-bytes", CACHE, "--data-dir"]).arg(folder.path());
        // What the environment says is meant for another server.
        for (name, _) in std::env::vars_os() {
            if name == "DATABASE_URL" || name.to_string_lossy().starts_with("HOTROW_") {
                command.env_remove(name);
            }
        }
        // A process group of its own: ctrl-C is for this program, which then stops the server in good order.
        command.stdin(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let mut child =
            command.spawn().map_err(|e| format!("cannot start {} (--server): {e}", program.display()))?;
        let lines = child.stderr.take().map(BufReader::new).ok_or("the server has no stderr")?;
        let mut server = Server { url: String::new(), child };
        let mut lines = lines.lines().map_while(Result::ok);
        for line in lines.by_ref() {
            if let Some(url) = line.strip_prefix("listening on ").and_then(|rest| rest.split(' ').next()) {
                server.url = url.to_owned();
                break;
            }
            eprintln!("server: {line}");
        }
        if server.url.is_empty() {
            return Err("the server has not started".into());
        }
        // Somebody has to go on reading, or the server's log comes to a stop.
        thread::spawn(move || lines.for_each(|line| eprintln!("server: {line}")));
        Ok(server)
    }

    /// Stops it, and its PostgreSQL with it.
    fn stop(mut self) -> Result<(), String> {
        self.end()
    }

    fn end(&mut self) -> Result<(), String> {
        if let Ok(None) = self.child.try_wait()
            && let Some(pid) = Pid::from_raw(self.child.id() as i32)
        {
            kill_process(pid, Signal::TERM).map_err(|e| format!("cannot stop the server: {e}"))?;
        }
        let deadline = Instant::now() + STOP;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("the server has ended badly: {status}")),
                Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
                Ok(None) => return Err("the server does not stop".into()),
                Err(error) => return Err(format!("the server cannot be waited for: {error}")),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // On an error's way out, which has its own line already; after `stop` it only looks again.
        let _ = self.end();
    }
}
