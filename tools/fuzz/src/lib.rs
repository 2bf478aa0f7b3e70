//! What the fuzz targets in `targets/` share: long inputs from short ones, and for `connection` a world around one
//! connection that follows a script.

pub mod answers;
pub mod database;
pub mod socket;
pub mod world;

/// Starts a repetition in an input. No text has it, so that as a byte of its own it would only be one more of many
/// that are refused alike.
const REPEAT: u8 = 0xff;

/// Writes repetitions out: `0xff`, `times`, `back` stands for the last `back` bytes, `times` more. So a few bytes
/// reach the server's bounds, and what a target is given stays short enough to be mutated well.
pub fn expand(short: &[u8], max_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(short.len());
    let mut rest = short;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match (first, after) {
            (REPEAT, [times, back, after @ ..]) => {
                rest = after;
                let from = bytes.len() - usize::from(*back).min(bytes.len());
                let pattern = bytes[from..].to_vec();
                for _ in 0..*times {
                    bytes.extend_from_slice(&pattern);
                    if bytes.len() > max_bytes {
                        break;
                    }
                }
            }
            _ => bytes.push(first),
        }
    }
    bytes.truncate(max_bytes);
    bytes
}
