//! What a terminal shows meanwhile: a bar on stderr, and nothing where stderr is no terminal. Lines that are said go
//! through here, so that none is drawn over. Used by [`super::import`] and [`super::export`].

use crate::process::say;
use indicatif::{ProgressBar, ProgressStyle};

const KNOWN: &str = "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}";
const UNKNOWN: &str = "{spinner} {bytes} {bytes_per_sec} {elapsed} {msg}";

/// How far it is.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Towards so many bytes, or without a known end.
    pub(super) fn start(bytes: Option<u64>) -> Progress {
        let (bar, template) = match bytes {
            Some(bytes) => (ProgressBar::new(bytes), KNOWN),
            None => (ProgressBar::new_spinner(), UNKNOWN),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Progress { bar }
    }

    /// Where the terminal is full of something else.
    pub(super) fn hidden() -> Progress {
        Progress { bar: ProgressBar::hidden() }
    }

    /// What was there before this began does not count for its rate.
    pub(super) fn begin_at(&self, bytes: u64) {
        self.bar.set_position(bytes);
        self.bar.reset_eta();
    }

    pub(super) fn at(&self, bytes: u64, rows: u64) {
        self.bar.set_position(bytes);
        if !self.bar.is_hidden() {
            self.bar.set_message(format!("{rows} rows"));
        }
    }

    /// A line on stderr.
    pub(super) fn say(&self, line: &str) {
        self.bar.suspend(|| say(line));
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
