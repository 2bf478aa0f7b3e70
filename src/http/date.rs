//! The `Date` field: IMF-fixdate (RFC 9110 section 5.6.7), rendered once a second and copied from then on.

use std::time::{Duration, SystemTime};

/// Length of an IMF-fixdate: `Sun, 06 Nov 1994 08:49:37 GMT`.
pub const DATE_BYTES: usize = 29;

/// The date as text, valid for one second.
#[derive(Debug)]
pub struct DateCache {
    text: [u8; DATE_BYTES],
    /// The time, in milliseconds of the caller's clock, at which the text is out of date.
    stale_at_ms: u64,
}

impl DateCache {
    /// Renders `wall` at `now_ms` of the caller's clock.
    pub fn new(now_ms: u64, wall: SystemTime) -> DateCache {
        let mut cache = DateCache { text: [0; DATE_BYTES], stale_at_ms: 0 };
        cache.render(now_ms, wall);
        cache
    }

    /// True when the second has passed; ask for the wall clock only then.
    pub fn is_stale(&self, now_ms: u64) -> bool {
        now_ms >= self.stale_at_ms
    }

    /// Renders `wall` again.
    pub fn render(&mut self, now_ms: u64, wall: SystemTime) {
        let since = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let text = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + since);
        self.text.copy_from_slice(text.as_bytes());
        self.stale_at_ms = now_ms + 1_000 - u64::from(since.subsec_millis());
    }

    /// The text.
    pub fn text(&self) -> &[u8; DATE_BYTES] {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_rendered_in_imf_fixdate_and_lasts_to_the_end_of_its_second() {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_250);
        let mut date = DateCache::new(5_000, wall);
        assert_eq!(date.text(), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert!(!date.is_stale(5_749));
        assert!(date.is_stale(5_750));
        date.render(5_750, wall + Duration::from_millis(750));
        assert_eq!(date.text(), b"Sun, 06 Nov 1994 08:49:38 GMT");
    }
}
