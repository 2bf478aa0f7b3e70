//! Log lines on stderr, written by a thread of their own: a terminal that takes no more stops that thread and no
//! other. Lines that find no room meanwhile are dropped and counted. Set up by `main`.

use crate::limits::LOG_LINES;
use crate::metrics::LOG_LINES_DROPPED;
use crossbeam_channel::{Receiver, Sender, bounded};
use log::{LevelFilter, Log, Metadata, Record};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

struct Logger {
    lines: Sender<Line>,
    dropped: Arc<AtomicU64>,
}

enum Line {
    Text(String),
    /// Everything before is written: tell whoever waits for it.
    Flushed(Sender<()>),
}

/// Starts logging at this level. The second call in a process changes nothing.
pub fn start(level: LevelFilter) {
    let (lines, queue) = bounded(LOG_LINES);
    let dropped = Arc::new(AtomicU64::new(0));
    let for_thread = Arc::clone(&dropped);
    let spawned = std::thread::Builder::new().name("log".into()).spawn(move || write(&queue, &for_thread));
    if spawned.is_ok() && log::set_boxed_logger(Box::new(Logger { lines, dropped })).is_ok() {
        log::set_max_level(level);
    }
}

fn write(queue: &Receiver<Line>, dropped: &AtomicU64) {
    for line in queue {
        let mut stderr = std::io::stderr().lock();
        // A stderr that is gone is no reason to stop serving.
        match line {
            Line::Text(text) => {
                let _ = stderr.write_all(text.as_bytes());
            }
            Line::Flushed(done) => {
                let _ = done.send(());
            }
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(stderr, "{lost} log lines were dropped");
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("hotrow") || metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = httpdate::fmt_http_date(SystemTime::now());
        let text = format!("{now} {:5} {}\n", record.level(), record.args());
        if self.lines.try_send(Line::Text(text)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            LOG_LINES_DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {
        let (done, wait) = bounded(1);
        if self.lines.try_send(Line::Flushed(done)).is_ok() {
            // At the end of the process; a stuck terminal must not hold it up.
            let _ = wait.recv_timeout(Duration::from_secs(1));
        }
    }
}
