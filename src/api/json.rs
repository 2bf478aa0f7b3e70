//! JSON beyond what `serde_json` does by itself: what clients may send, and strings that are told. Pure. Used by
//! [`super::batch`], [`super::load`], [`super::list`] and [`super::collection`].

use crate::http::problem::cut;
use crate::limits::ITEM_DETAIL_BYTES;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::io;
use std::marker::PhantomData;

/// What is an object, and no array of its members in the order in which a struct of ours happens to have them.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members))
            }
        }
        deserializer.deserialize_map(Members(PhantomData)).map(Object)
    }
}

/// A whole number, however it is written: to JSON 5, 5.0 and 0.5e1 are the same.
pub(super) fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(deserializer)? else { return Ok(None) };
    // Below this size every whole number is one in floating point, too, and no other becomes it; a fraction that is too small for
    // floating point is none.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let rounded = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < EXACT);
    let number = number.as_i64().or(rounded.map(|float| float as i64));
    number.map(Some).ok_or_else(|| D::Error::custom("ttl and by are whole numbers of 64 bits"))
}

/// What is wrong with a line of JSON, without where: it has a number of its own, and the parser knows of one line only. In a few words,
/// though the parser repeats what it was given.
pub(super) fn without_place(error: &serde_json::Error) -> String {
    let mut text = error.to_string();
    if let Some(at) = text.rfind(" at line ") {
        text.truncate(at);
    }
    cut(&mut text, ITEM_DETAIL_BYTES);
    text
}

/// Appends a string as JSON.
pub(super) fn string(json: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(json, text).expect("a string always serializes, and a vector takes everything");
}

/// The same, as long as the whole gets no longer than this: else nothing, for a value that is all control characters
/// takes six times its size.
pub(super) fn string_within(json: &mut Vec<u8>, text: &str, bytes: usize) -> bool {
    struct Within<'j>(&'j mut Vec<u8>, usize);
    impl io::Write for Within<'_> {
        fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
            if self.0.len() + piece.len() > self.1 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0.extend_from_slice(piece);
            Ok(piece.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let before = json.len();
    let fits = serde_json::to_writer(Within(json, bytes), text).is_ok();
    if !fits {
        json.truncate(before);
    }
    fits
}

/// What a string takes: characters below a blank can take six times what they take here, and those with a name of their own take twice.
pub(super) fn string_bytes(text: &str) -> usize {
    let bytes = |byte| match byte {
        8 | b'\t' | b'\n' | 12 | b'\r' => 2,
        0..b' ' => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    };
    text.bytes().map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_string_takes_is_known_before_it_is_written() {
        for text in ('\0'..='\u{100}').chain(['\u{ffff}', '\u{10ffff}']).map(|c| format!("a{c}{c}")) {
            let mut json = Vec::new();
            string(&mut json, &text);
            // The quotes are not counted.
            assert_eq!(string_bytes(&text) + 2, json.len(), "{text:?}");
        }
    }

    #[test]
    fn a_whole_number_is_the_one_that_was_written_or_refused() {
        let read = |text: &str| {
            whole(&mut serde_json::Deserializer::from_str(text)).map_err(|_: serde_json::Error| ())
        };
        for (text, expected) in [
            ("5", Ok(Some(5))),
            ("-5.0", Ok(Some(-5))),
            ("0.5e1", Ok(Some(5))),
            ("null", Ok(None)),
            ("5.5", Err(())),
            ("9223372036854775807", Ok(Some(i64::MAX))),
            ("9223372036854775808", Err(())),
            ("8000000000000001.0", Ok(Some(8_000_000_000_000_001))),
            ("2251799813685247.0", Ok(Some(2_251_799_813_685_247))),
            ("-9007199254740991.0", Ok(Some(-9_007_199_254_740_991))),
            ("9007199254740992.0", Err(())),
            ("9007199254740993.0", Err(())),
            ("1e400", Err(())),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }
}
