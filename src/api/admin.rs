//! The pages of the admin socket. Called by [`crate::connection`] for connections that came in there.

use super::{Command, Verb, not_allowed, unknown_method};
use crate::engine::Engine;
use crate::http::problem::{Kind, Problem};
use crate::http::response::{Encoder, Frame, Lent, TEXT};
use crate::metrics::Counters;
use crate::output::Output;
use crate::store::health::Health;
use std::fmt::Write;
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
}

const METHODS: &str = "GET, HEAD, OPTIONS";

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
        _ => {
            let detail = "the admin socket has /livez, /readyz, /metrics and /version";
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
    /// The server has been told to stop.
    pub draining: AtomicBool,
    /// `/version`, as it is sent.
    pub version: String,
}

impl Status {
    fn unready(&self) -> Option<&'static str> {
        if self.draining.load(Ordering::Relaxed) {
            Some("draining")
        } else if self.health.any_down() {
            Some("database down")
        } else {
            None
        }
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, value: u64| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        };
        let values: Vec<Vec<u64>> = self.counters.iter().map(|counters| counters.values()).collect();
        for (at, (name, kind, help)) in Counters::FACTS.iter().enumerate() {
            metric(name, kind, help, values.iter().map(|values| values[at]).sum());
        }
        let stats = self.engine.stats();
        for (name, kind, help, value) in [
            (
                "hotrow_cache_entries",
                "gauge",
                "Keys in the cache, absent ones included.",
                stats.entries as u64,
            ),
            (
                "hotrow_cache_bytes",
                "gauge",
                "Bytes of keys, values and overhead in the cache.",
                stats.bytes as u64,
            ),
            (
                "hotrow_cache_evictions_total",
                "counter",
                "Entries pushed out of the cache by others.",
                stats.evicted,
            ),
            (
                "hotrow_late_fills_total",
                "counter",
                "Reads not cached because a write had overtaken them.",
                stats.late_fills,
            ),
            (
                "hotrow_keys_in_flight",
                "gauge",
                "Keys with a read or a write under way.",
                stats.in_flight as u64,
            ),
            (
                "hotrow_keys_in_doubt",
                "gauge",
                "Keys whose last write has an unknown outcome.",
                stats.in_doubt as u64,
            ),
            (
                "hotrow_database_up",
                "gauge",
                "1 while every worker can reach PostgreSQL.",
                u64::from(!self.health.any_down()),
            ),
            (
                "hotrow_database_reconnects_total",
                "counter",
                "Workers that reached PostgreSQL again.",
                self.health.reconnects(),
            ),
        ] {
            metric(name, kind, help, value);
        }
        text
    }
}

/// Writes a page.
pub fn page(encoder: &Encoder, out: &mut Output, page: Page, status: &Status, frame: Frame) {
    let (code, content_type, text) = match page {
        Page::Livez => (200, TEXT, "alive\n".to_owned()),
        Page::Readyz => match status.unready() {
            None => (200, TEXT, "ready\n".to_owned()),
            Some(reason) => (503, TEXT, format!("{reason}\n")),
        },
        Page::Metrics => (200, "text/plain; version=0.0.4; charset=utf-8", status.metrics()),
        Page::Version => (200, TEXT, status.version.clone()),
    };
    let mut fields = encoder.start(out, code, frame);
    fields.field("Content-Type", content_type);
    fields.field("Cache-Control", "no-store");
    fields.content(Lent::Bytes(text.as_bytes()));
}
