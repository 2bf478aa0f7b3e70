//! The pieces of the way of a request, each alone: `cargo bench --bench parts`, with a name to run only those that have
//! it in theirs. Times for comparing two versions on one machine; `tools/instructions` counts what a gate can compare.

mod batch;
mod cache;
mod encode;
mod lookup;
mod parse;

fn main() {
    divan::main();
}
