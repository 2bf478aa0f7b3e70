//! Rows as the text that COPY takes, and when it is worth a try. COPY stores new rows fastest, and fails where one is
//! there; then the piece has to be stored once more by an upsert. Pure. Called by [`super::session`].

use crate::limits::{COPY_PAUSE, COPY_SPOILT_MS};
use crate::store::load::{End, Row};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whether the next piece may be all new rows: every refusal doubles the pause until the next try.
#[derive(Debug, Default)]
pub(super) struct Hope {
    /// Pieces until then.
    left: u32,
    pause: u32,
}

impl Hope {
    /// For this piece, is there any?
    pub(super) fn any(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left == 0
    }

    /// There were only new rows.
    pub(super) fn fulfilled(&mut self) {
        *self = Hope::default();
    }

    /// There were others.
    pub(super) fn disappointed(&mut self) {
        self.pause = (2 * self.pause).clamp(2, COPY_PAUSE);
        self.left = self.pause;
    }
}

/// When a COPY has last ended its session, whoever's: the load is tried again, and not by another one.
#[derive(Clone, Debug, Default)]
pub(super) struct Spoilt(Arc<Mutex<Option<Instant>>>);

impl Spoilt {
    pub(super) fn now(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    pub(super) fn lately(&self) -> bool {
        self.0.lock().is_some_and(|at| at.elapsed() < Duration::from_millis(COPY_SPOILT_MS))
    }
}

/// Key, value and end of each row, as COPY's text format has them. None where one has a time to live, which only a statement can
/// add to the server's clock.
pub(super) fn text(rows: &[&Row<'_>]) -> Option<Vec<u8>> {
    let bytes = rows.iter().map(|row| row.key.len() + row.value.len() + 40).sum();
    let mut text = Vec::with_capacity(bytes);
    for row in rows {
        escape(&mut text, &row.key);
        text.push(b'\t');
        escape(&mut text, &row.value);
        text.push(b'\t');
        match &row.end {
            End::Never => text.extend_from_slice(b"\\N"),
            End::At(time) => escape(&mut text, time),
            End::After(_) => return None,
        }
        text.push(b'\n');
    }
    Some(text)
}

fn escape(text: &mut Vec<u8>, field: &str) {
    let mut rest = field.as_bytes();
    while let Some(at) = rest.iter().position(|b| matches!(b, b'\\' | b'\n' | b'\r' | b'\t')) {
        text.extend_from_slice(&rest[..at]);
        let letter = match rest[at] {
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            other => other,
        };
        text.extend_from_slice(&[b'\\', letter]);
        rest = &rest[at + 1..];
    }
    text.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_a_field_or_a_row_is_escaped() {
        let row = |key, value, end| Row {
            key: std::borrow::Cow::Borrowed(key),
            value: std::borrow::Cow::Borrowed(value),
            end,
        };
        let rows = [
            row("a", "", End::Never),
            row("\\N", "\\.", End::Never),
            row("t\tn\n", "\r\n\u{1}ä", End::At("2030-01-01T00:00:00Z".into())),
        ];
        let text = text(&rows.each_ref()).unwrap();
        let expected = "a\t\t\\N\n\\\\N\t\\\\.\t\\N\nt\\tn\\n\t\\r\\n\u{1}ä\t2030-01-01T00:00:00Z\n";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
        assert!(super::text(&[&row("a", "", End::After(1))]).is_none());
    }

    #[test]
    fn hope_comes_back_less_and_less_often() {
        let mut hope = Hope::default();
        let mut tries = Vec::new();
        for piece in 0..300 {
            if hope.any() {
                tries.push(piece);
                hope.disappointed();
            }
        }
        assert_eq!(tries, [0, 2, 6, 14, 30, 62, 126, 190, 254]);
        hope.fulfilled();
        assert!(hope.any() && hope.any());
    }
}
