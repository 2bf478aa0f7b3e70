//! Looks for bytes in short texts, eight at a time and without a branch. A target has a dozen bytes or two: before a
//! search with vectors has begun, this is done (a table and a loop took twice as many instructions). Used for targets
//! and keys.

/// True where `test` finds something in any eight bytes of `text`; it gets them as one word, some of them twice, and a
/// text of less than eight filled up with `a`.
#[inline]
pub fn has(text: &[u8], test: impl Fn(u64) -> u64) -> bool {
    let Some(last) = text.last_chunk() else {
        let mut word = [b'a'; 8];
        for (to, from) in word.iter_mut().zip(text) {
            *to = *from;
        }
        return test(u64::from_ne_bytes(word)) != 0;
    };
    let (words, _) = text.as_chunks();
    let test = |word: &[u8; 8]| test(u64::from_ne_bytes(*word));
    words.iter().fold(test(last), |found, word| found | test(word)) != 0
}

/// How many bytes that stand for themselves in a path, and cannot end it, `text` begins with, if another one follows them in
/// its whole words of eight bytes: those from `&` to `~`, but `?`. The few others that might, as `!` and `$`, are rare.
#[inline(always)]
pub fn literal_start(text: &[u8]) -> Option<usize> {
    let (words, _) = text.as_chunks();
    words.iter().enumerate().find_map(|(word_number, word)| {
        let found = not_literal(u64::from_le_bytes(*word));
        (found != 0).then(|| word_number * 8 + found.trailing_zeros() as usize / 8)
    })
}

#[inline(always)]
fn not_literal(word: u64) -> u64 {
    below(word, b'&') | equal(word, b'?') | above(word, b'~')
}

// Each of these is not 0 if and only if it finds something, and the lowest byte that it marks is one that it has found: what
// is carried from that one may mark those above it.

/// Not 0 if and only if one of the word's bytes is this one (Mycroft's test for a byte that is 0).
#[inline]
pub fn equal(word: u64, byte: u8) -> u64 {
    let word = word ^ u64::from_ne_bytes([byte; 8]);
    word.wrapping_sub(u64::from_ne_bytes([0x01; 8])) & !word & HIGH
}

/// Not 0 if and only if one of the word's bytes is not ASCII.
#[inline]
pub fn not_ascii(word: u64) -> u64 {
    word & HIGH
}

/// Not 0 if and only if one of the word's bytes is less than this one, which is ASCII.
#[inline]
fn below(word: u64, byte: u8) -> u64 {
    word.wrapping_sub(u64::from_ne_bytes([byte; 8])) & !word & HIGH
}

/// Not 0 if and only if one of the word's bytes is greater than this one, which is ASCII.
#[inline]
fn above(word: u64, byte: u8) -> u64 {
    (word.wrapping_add(u64::from_ne_bytes([0x7f - byte; 8])) | word) & HIGH
}

/// The highest bit of each byte.
const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_finds_what_a_loop_finds(text in prop::collection::vec(0x1eu8..0x85, 0..40), byte in 0x1eu8..0x85) {
            // The filler is not looked for.
            prop_assume!(byte != b'a');
            prop_assert_eq!(has(&text, |word| equal(word, byte)), text.contains(&byte));
            prop_assert_eq!(has(&text, not_ascii), !text.is_ascii());
            // Of every ASCII byte that the filler is not itself found by.
            let ascii = byte & 0x7f;
            if ascii <= b'a' {
                prop_assert_eq!(has(&text, |word| below(word, ascii)), text.iter().any(|b| *b < ascii));
            }
            if ascii >= b'a' {
                prop_assert_eq!(has(&text, |word| above(word, ascii)), text.iter().any(|b| *b > ascii));
            }
        }
    }

    proptest! {
        #[test]
        fn a_literal_start_ends_where_a_loop_ends_it(text in prop::collection::vec(any::<u8>(), 0..40), literal in 0..40usize) {
            // A start that is literal, or what follows it would hardly ever be reached.
            let text = [vec![b'k'; literal], text].concat();
            let whole = &text[..text.len() / 8 * 8];
            let expected = whole.iter().position(|byte| !(b'&'..=b'~').contains(byte) || *byte == b'?');
            prop_assert_eq!(literal_start(&text), expected);
        }
    }

    #[test]
    fn every_byte_is_told_from_every_other() {
        for (a, b) in (0..=255u8).flat_map(|a| (0..=255).map(move |b| (a, b))) {
            let word = u64::from_ne_bytes([b, b, b, a, b, b, b, b]);
            assert!(equal(word, a) != 0, "{a} among {b}");
            assert_eq!(equal(u64::from_ne_bytes([b; 8]), a) != 0, a == b, "{a} and {b}");
        }
    }
}
