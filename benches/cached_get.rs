//! The user-space path of a cached GET, without a kernel: a real connection on a socket made of memory. Run under
//! callgrind it gives instruction counts that repeat to the last digit, whatever else the machine does:
//!
//! ```sh
//! tools/instructions
//! ```
//!
//! Arguments: how many turns, how many pipelined requests in each, and how many Hosts they name in turn: with one, the
//! fields repeat from request to request as a client's do; with two, none is like the one before it.

mod memory;

use memory::{World, get};

const KEYS: usize = 1_000;
const VALUE_BYTES: usize = 100;

fn main() {
    let mut numbers = std::env::args().skip(1).map(|argument| argument.parse().expect("a number"));
    let (turns, depth) = (numbers.next().unwrap_or(1_000), numbers.next().unwrap_or(16));
    let hosts = numbers.next().unwrap_or(1);

    let keys: Vec<String> = (0..KEYS).map(|i| format!("key:{i:06}")).collect();
    let mut world = World::knowing(keys.iter().map(String::as_str), VALUE_BYTES);
    // Made before the first turn, so that what is counted is the server's and not this program's.
    let inputs: Vec<Vec<u8>> = (0..64)
        .map(|turn| {
            let request = |i: usize| {
                let number = turn * depth + i;
                get(&keys[number * 7_919 % KEYS]).replace("127.0.0.1", &format!("127.0.0.{}", number % hosts))
            };
            (0..depth).map(request).collect::<String>().into_bytes()
        })
        .collect();
    let written: usize = (0..turns).map(|turn| world.turn(&inputs[turn % inputs.len()])).sum();
    assert_eq!(world.hits(), (turns * depth) as u64);
    println!("{} hits, {written} bytes written", turns * depth);
}
