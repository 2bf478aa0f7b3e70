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
    /// The wall clock at the beginning of the caller's clock, as it is now.
    epoch: SystemTime,
}

impl DateCache {
    /// Renders `wall` at `now_ms` of the caller's clock.
    pub fn new(now_ms: u64, wall: SystemTime) -> DateCache {
        let mut cache = DateCache { text: [0; DATE_BYTES], stale_at_ms: 0, epoch: SystemTime::UNIX_EPOCH };
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
        self.epoch = wall.checked_sub(Duration::from_millis(now_ms)).unwrap_or(SystemTime::UNIX_EPOCH);
    }

    /// A time of the caller's clock, in seconds, as a date.
    pub fn date_of(&self, s: u32) -> String {
        // What a date of four digits cannot say is said as the last that one can.
        let last = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
        httpdate::fmt_http_date((self.epoch + Duration::from_secs(u64::from(s))).min(last))
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
        assert_eq!(date.date_of(6), "Sun, 06 Nov 1994 08:49:38 GMT");
        assert_eq!(date.date_of(u32::MAX), "Wed, 13 Dec 2130 15:17:47 GMT");
        date.render(5_750, wall + Duration::from_millis(750));
        assert_eq!(date.text(), b"Sun, 06 Nov 1994 08:49:38 GMT");
    }
}
