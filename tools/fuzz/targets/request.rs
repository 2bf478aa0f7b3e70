//! `http::request::parse` on any bytes.
//!
//! - It never panics.
//! - What is not `Partial` stays as it is, whatever follows: the answer does not depend on how the bytes arrived.
//! - `Partial` is an answer for less than `HEAD_BYTES` only.
//! - A head that is complete is within its limits and within what was given, ends in an empty line, has no LF without
//!   CR, and its parts are what the bytes say.
//! - A parser that remembers fields says the same of every head of a pipeline.

#![no_main]

use hotrow::http::problem::Kind;
use hotrow::http::request::{Framing, Head, Parsed, Repeat, Version, literal_path, parse, parse_next};
use hotrow::limits::{FIELDS, HEAD_BYTES, REQUEST_LINE_BYTES};
use hotrow_fuzz::expand;
use libfuzzer_sys::fuzz_target;

/// Inputs up to this long are cut everywhere, longer ones where it matters.
const CUT_EVERYWHERE_BYTES: usize = 192;
/// Cuts behind the one with which the answer is there; the whole is always tried.
const AFTER_FINISH: usize = 8;

fuzz_target!(|data: &[u8]| {
    let bytes = expand(data, HEAD_BYTES + 512);
    let mut finished = None;
    let mut after_finish = 0;
    for cut in cuts(&bytes) {
        if after_finish > AFTER_FINISH && cut < bytes.len() {
            continue;
        }
        let answer = parse(&bytes[..cut]).map_err(|problem| problem.kind);
        match (&finished, answer) {
            (None, Ok(Parsed::Partial)) => assert!(cut < HEAD_BYTES, "partial with {cut} bytes"),
            (None, answer) => {
                check(&answer, &bytes[..cut]);
                finished = Some((cut, answer));
            }
            (Some((at, first)), answer) => {
                assert_eq!(*first, answer, "finished with {at} bytes, and something else with {cut}");
                after_finish += 1;
            }
        }
    }
    check_repeats(&bytes);
});

fn check_repeats(bytes: &[u8]) {
    let (mut repeat, mut rest) = (Repeat::default(), bytes);
    loop {
        let answer = parse(rest);
        // Twice: the second time its own fields are remembered.
        for _ in 0..2 {
            let path = literal_path(rest);
            if let (Some(path), Ok(Parsed::Complete(head))) = (path, &answer) {
                assert!(head.method == "GET" && head.target.as_bytes().starts_with(path));
            }
            if let Some(path) = path
                && let Some(get) = repeat.known(path, rest)
            {
                let Ok(Parsed::Complete(head)) = &answer else { panic!("the short way alone knows it") };
                assert_eq!((head.method, head.target.as_bytes()), ("GET", path));
                assert_eq!((head.framing, head.version), (Framing::None, Version::Http11));
                assert_eq!((head.keep_alive, head.bytes), (get.keep_alive, get.bytes));
            }
            assert_eq!(parse_next(rest, &mut repeat), answer);
        }
        match answer {
            Ok(Parsed::Complete(head)) => rest = &rest[head.bytes..],
            Ok(Parsed::Partial) | Err(_) => break,
        }
    }
}

fn check(answer: &Result<Parsed<'_>, Kind>, bytes: &[u8]) {
    let Ok(Parsed::Complete(head)) = answer else { return };
    let Head { method, target, version, framing, expects_continue, bytes: used, .. } = head;
    assert!(*used <= bytes.len() && *used <= HEAD_BYTES);
    let head = &bytes[..*used];
    assert!(head.ends_with(b"\r\n\r\n"));
    assert!((0..*used).all(|at| head[at] != b'\n' || (at > 0 && head[at - 1] == b'\r')), "an LF without CR");
    let text = String::from_utf8_lossy(head);
    let mut lines = text.trim_start_matches(['\r', '\n']).split("\r\n");
    let line = lines.next().expect("there is always a first");
    assert!(line.len() <= REQUEST_LINE_BYTES);
    let [sent_method, sent_target, sent_version] = line.split(' ').collect::<Vec<_>>()[..] else {
        panic!("not three parts: {line:?}")
    };
    assert_eq!(*method, sent_method);
    // CONNECT and URLs without a path stand for these.
    assert!(
        sent_target.ends_with(target) || *target == "/" || *target == "*",
        "{sent_target:?} as {target:?}"
    );
    assert!(target.is_ascii() && (target.starts_with('/') || *target == "*"));
    assert_eq!(sent_version, if *version == Version::Http11 { "HTTP/1.1" } else { "HTTP/1.0" });
    let fields: Vec<(String, &str)> = lines
        .take_while(|line| !line.is_empty())
        .map(|line| line.split_once(':').expect("a field has a colon"))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim_matches([' ', '\t'])))
        .collect();
    assert!(fields.len() <= FIELDS);
    let all =
        |name| fields.iter().filter(move |field| field.0 == name).map(|field| field.1).collect::<Vec<_>>();
    assert!(all("host").len() <= 1 && (*version == Version::Http10 || all("host").len() == 1));
    assert!(
        !expects_continue || all("expect").iter().any(|value| value.eq_ignore_ascii_case("100-continue"))
    );
    match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => assert_eq!(*framing, Framing::None),
        ([length], []) => assert_eq!(length.parse().map(Framing::Length), Ok(*framing)),
        ([], [coding]) => assert!(*framing == Framing::Chunked && coding.eq_ignore_ascii_case("chunked")),
        ambiguous => panic!("taken in spite of {ambiguous:?}"),
    }
}

/// Lengths to try, growing, the last being all.
fn cuts(bytes: &[u8]) -> Vec<usize> {
    let len = bytes.len();
    if len <= CUT_EVERYWHERE_BYTES {
        return (0..=len).collect();
    }
    let line_ends = (0..len).filter(|at| bytes[*at] == b'\n').take(8).flat_map(|at| at..=at + 2);
    let limits = [REQUEST_LINE_BYTES, HEAD_BYTES].into_iter().flat_map(|limit| limit - 2..=limit + 3);
    let evenly = (0..4).map(|part| len * part / 4);
    let mut cuts: Vec<usize> = line_ends.chain(limits).chain(evenly).filter(|cut| *cut < len).collect();
    cuts.push(len);
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}
