//! The pages of the admin socket. Called by [`crate::connection`] for connections that came in there.

use super::{Command, Verb, exposition, not_allowed, unknown_method};
use crate::access_log::AccessLog;
use crate::engine::Engine;
use crate::http::problem::{Kind, Problem};
use crate::http::response::{Encoder, Frame, Lent, TEXT};
use crate::metrics::{Counters, Workers};
use crate::output::Output;
use crate::process::Process;
use crate::store::backend::Backend;
use crate::store::health::Health;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// The process is alive.
    Livez,
    /// The process can serve what is not cached, and will go on to.
    Readyz,
    /// Counters, as Prometheus reads them.
    Metrics,
    /// Version of hotrow and of PostgreSQL.
    Version,
    /// Every flag's value, and where it came from.
    Config,
}

const METHODS: &str = "GET, HEAD, OPTIONS";
const ALIVE: &str = "alive\n";

/// What a method and a target on the admin socket ask for.
pub fn route<'b>(method: &str, target: &str) -> Result<Command<'b>, Problem> {
    if Verb::of(method) == Verb::Unknown {
        return Err(unknown_method(method));
    }
    let page = match target.split_once('?').map_or(target, |(path, _)| path) {
        "*" => return Ok(Command::Options(METHODS)),
        "/livez" => Page::Livez,
        "/readyz" => Page::Readyz,
        "/metrics" => Page::Metrics,
        "/version" => Page::Version,
        "/config" => Page::Config,
        _ => {
            let detail = "the admin socket has /livez, /readyz, /metrics, /config and /version";
            return Err(Problem::new(Kind::PathNotFound, detail));
        }
    };
    match method {
        "GET" | "HEAD" => Ok(Command::Admin(page)),
        "OPTIONS" => Ok(Command::Options(METHODS)),
        _ => Err(not_allowed(method, METHODS)),
    }
}

/// What the pages tell about.
#[derive(Debug)]
pub struct Status {
    /// The cache and what is in flight.
    pub engine: Arc<Engine>,
    /// Which workers have a database.
    pub health: Arc<Health>,
    /// The counters of all loops.
    pub counters: Vec<Arc<Counters>>,
    /// The counters of all workers.
    pub workers: Arc<Workers>,
    /// What the kernel knows of this process.
    pub process: Arc<Process>,
    /// The server has been told to stop.
    pub draining: AtomicBool,
    /// What does not change while it runs.
    pub about: About,
}

/// What is known when the server starts.
#[derive(Debug, Default)]
pub struct About {
    /// `/version`, as it is sent.
    pub version: String,
    /// `/config`, as it is sent.
    pub config: String,
    /// The commit that it was built from.
    pub commit: String,
    /// The version of PostgreSQL.
    pub postgresql: String,
    /// Where answers are logged, if they are.
    pub access_log: Option<Arc<AccessLog>>,
    /// `--cache-bytes`.
    pub cache_bytes: usize,
    /// `--max-connections`.
    pub max_connections: usize,
}

impl Status {
    /// Why the server cannot serve what is not cached, or will not go on to, a reason a line: where there is none, it is ready.
    pub fn unready(&self) -> String {
        let mut reasons = String::new();
        if self.draining.load(Ordering::Relaxed) {
            reasons.push_str("draining\n");
        }
        if let Some([readers, writers]) = self.health.outage() {
            let all = |of: usize, down: usize| format!("{} of {of}", of - down.min(of));
            let (readers, writers) =
                (all(self.workers.readers.len(), readers), all(self.workers.writers.len(), writers));
            reasons
                .push_str(&format!("database down: {readers} readers and {writers} writers can reach it\n"));
        }
        reasons
    }
}

/// Writes a page of a server that is starting: there is nothing to tell yet, but that it lives.
pub fn page_at_start(encoder: &Encoder, out: &mut Output, page: Page, frame: Frame) {
    let (code, text) = if page == Page::Livez { (200, ALIVE) } else { (503, "starting\n") };
    let mut fields = encoder.start(out, code, frame);
    if code == 503 {
        fields.field("Retry-After", "1");
    }
    fields.field("Content-Type", TEXT);
    fields.field("Cache-Control", "no-store");
    fields.content(Lent::Bytes(text.as_bytes()));
}

/// Writes a page.
pub fn page(
    encoder: &Encoder,
    out: &mut Output,
    page: Page,
    status: &Status,
    backend: &Backend,
    frame: Frame,
) {
    let (code, content_type, text) = match page {
        Page::Livez => (200, TEXT, ALIVE.to_owned()),
        Page::Readyz => match status.unready() {
            none if none.is_empty() => (200, TEXT, "ready\n".to_owned()),
            reasons => (503, TEXT, reasons),
        },
        Page::Metrics => {
            (200, "text/plain; version=0.0.4; charset=utf-8", exposition::metrics(status, backend))
        }
        Page::Config => (200, "application/json", status.about.config.clone()),
        Page::Version => (200, TEXT, status.about.version.clone()),
    };
    let mut fields = encoder.start(out, code, frame);
    fields.field("Content-Type", content_type);
    fields.field("Cache-Control", "no-store");
    fields.content(Lent::Bytes(text.as_bytes()));
}
