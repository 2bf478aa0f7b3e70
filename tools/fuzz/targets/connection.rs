//! A whole `connection::Connection` with any bytes from a client, arriving and being answered in any pieces. The
//! input is: flags, the length of a script, the script (see `world::Script`), and then what the client sends.
//!
//! - It never panics, and it comes to its end once the client's stream has ended.
//! - Every whole request is answered, in order, with the status and the value that a plain map would give.
//! - The same bytes get the same answers, whatever the pieces they arrive in, whenever writes block, and whenever the
//!   database answers. (`100 Continue` aside: it is sent only if the content has not arrived yet.)
//! - It does not read while a job is out, and has no more than a bound of answers unsent.
//! - With deadlines, resets, lost outcomes and draining it still sends whole answers in order, and ends.

#![no_main]

use hotrow::connection::Role;
use hotrow_fuzz::answers::{Answer, answers, check, check_order, requests};
use hotrow_fuzz::expand;
use hotrow_fuzz::world::{Script, run};
use libfuzzer_sys::fuzz_target;

const MAX_BYTES: usize = 32 * 1024;
const SCRIPT_BYTES: u8 = 64;

const ADMIN: u8 = 1;
const CHAOS: u8 = 2;
const READS_FREELY: u8 = 4;

fuzz_target!(|data: &[u8]| {
    let [flags, length, rest @ ..] = data else { return };
    let (steps, rest) = rest.split_at(usize::from(length % SCRIPT_BYTES).min(rest.len()));
    let role = if flags & ADMIN != 0 { Role::Admin } else { Role::Data };
    let reads_freely = flags & READS_FREELY != 0;
    let input = expand(rest, MAX_BYTES);
    let requests = requests(&input);
    if flags & CHAOS != 0 {
        let sent = run(role, &input, Script::Chaos { steps, reads_freely });
        check_order(&requests, &answers(&requests, &sent, true));
        return;
    }
    let at_once = answers(&requests, &run(role, &input, Script::AtOnce), false);
    check(role, &requests, &at_once);
    // Counters, and the time that the process has had, are others the next time.
    if requests.ask_for("/metrics") {
        return;
    }
    let sums = sums(&at_once);
    let sent = run(role, &input, Script::Steady { steps, reads_freely, sums: &sums });
    let scripted = answers(&requests, &sent, false);
    assert_eq!(at_once.len(), scripted.len(), "answers at once, and by the script");
    for (at, (at_once, scripted)) in at_once.iter().zip(&scripted).enumerate() {
        assert_eq!(at_once, scripted, "answer {at} at once, and by the script");
    }
});

/// What the first answer, the first two, and so on, are long.
fn sums(answers: &[Answer]) -> Vec<usize> {
    let mut sum = 0;
    let add = |answer: &Answer| {
        sum += answer.bytes();
        sum
    };
    answers.iter().map(add).collect()
}
