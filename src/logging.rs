//! Log lines on stderr, as text or JSON, written by a thread of their own: a terminal that takes no more stops that
//! thread and no other. Lines that find no room meanwhile are dropped and counted. Set up by `main`.

use crate::config::LogFormat;
use crate::limits::LOG_LINES;
use crate::metrics::LOG_LINES_DROPPED;
use crossbeam_channel::{Receiver, Sender, bounded};
use log::{Level, LevelFilter, Log, Metadata, Record};
use serde::Serialize;
use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

struct Logger {
    format: LogFormat,
    lines: Sender<Line>,
    dropped: Arc<AtomicU64>,
}

enum Line {
    Text(String),
    /// Everything before is written: tell whoever waits for it.
    Flushed(Sender<()>),
}

/// Starts logging at this level. The second call in a process changes nothing.
pub fn start(level: LevelFilter, format: LogFormat) {
    let (lines, queue) = bounded(LOG_LINES);
    let dropped = Arc::new(AtomicU64::new(0));
    let for_thread = Arc::clone(&dropped);
    let spawned =
        std::thread::Builder::new().name("log".into()).spawn(move || write(&queue, &for_thread, format));
    if spawned.is_ok() && log::set_boxed_logger(Box::new(Logger { format, lines, dropped })).is_ok() {
        log::set_max_level(level);
    }
}

fn write(queue: &Receiver<Line>, dropped: &AtomicU64, format: LogFormat) {
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
            let words = format_args!("{lost} log lines were dropped");
            let line = render(format, SystemTime::now(), Level::Warn, module_path!(), words);
            let _ = stderr.write_all(line.as_bytes());
        }
    }
}

/// One line, with its end. Its time is RFC 3339's, in UTC.
fn render(
    format: LogFormat,
    at: SystemTime,
    level: Level,
    target: &str,
    words: fmt::Arguments<'_>,
) -> String {
    #[derive(Serialize)]
    struct Json<'a> {
        time: String,
        level: &'a str,
        target: &'a str,
        message: String,
    }
    let time = humantime::format_rfc3339_micros(at);
    match format {
        // A line is a line, whatever is quoted in it.
        LogFormat::Text => format!("{time} {level:5} {}\n", words.to_string().replace(['\n', '\r'], " ")),
        LogFormat::Json => {
            let level = level.as_str();
            let line = Json { time: time.to_string(), level, target, message: words.to_string() };
            let mut json = serde_json::to_string(&line).expect("strings always serialize");
            json.push('\n');
            json
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let (target, level) = (metadata.target(), metadata.level());
        // rustls warns of every alert that a stranger's client sends. What matters of that is counted and told by us.
        target.starts_with("hotrow") || level <= Level::Warn && !target.starts_with("rustls")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = render(self.format, SystemTime::now(), record.level(), record.target(), *record.args());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_time_and_stays_one_line() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(784_111_777_250_001);
        let line =
            |format| render(format, at, Level::Warn, "hotrow::x", format_args!("two\nlines \"quoted\""));
        assert_eq!(line(LogFormat::Text), "1994-11-06T08:49:37.250001Z WARN  two lines \"quoted\"\n");
        assert_eq!(
            line(LogFormat::Json),
            "{\"time\":\"1994-11-06T08:49:37.250001Z\",\"level\":\"WARN\",\"target\":\"hotrow::x\",\
             \"message\":\"two\\nlines \\\"quoted\\\"\"}\n"
        );
    }
}
