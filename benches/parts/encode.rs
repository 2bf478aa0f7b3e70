//! Answers into bytes.

use divan::Bencher;
use hotrow::http::cors::Audience;
use hotrow::http::problem::{Kind, Problem};
use hotrow::http::response::{Encoder, Frame, Lent, Reuse};
use hotrow::output::Output;
use std::hint::black_box;
use std::sync::Arc;
use std::time::SystemTime;

const FRAME: Frame = Frame { head_only: false, reuse: Reuse::Silent, audience: Audience::NONE };

/// Small values are copied, those of 4 KiB and more are lent.
#[divan::bench(args = [16, 100, 1_024, 65_536])]
fn hit(bencher: Bencher, value_bytes: usize) {
    let (encoder, mut out) = (Encoder::new(0, SystemTime::UNIX_EPOCH), Output::default());
    let value: Arc<str> = "v".repeat(value_bytes).into();
    bencher.bench_local(|| {
        out.clear();
        encoder.hit(&mut out, Lent::from(black_box(&value)), black_box((123_456, 7)), FRAME);
        black_box(out.len())
    });
}

#[divan::bench]
fn problem(bencher: Bencher) {
    let (encoder, mut out) = (Encoder::new(0, SystemTime::UNIX_EPOCH), Output::default());
    let problem = Problem::new(Kind::QueueFull, "the queue is full").retry_after(1);
    bencher.bench_local(|| {
        out.clear();
        encoder.problem(&mut out, black_box(&problem), FRAME);
        black_box(out.len())
    });
}
