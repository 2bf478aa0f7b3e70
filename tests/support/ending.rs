//! Runs a program to its end, which must come: one that goes on past the deadline is killed, and what it has said by then is
//! shown. For a hotrow that must refuse to start, and for commands. Of what they say it knows that one line has the cause.

use super::DEADLINE;
use std::io::Read;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Runs it without input to its end.
pub fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    of(command.spawn().expect("the program is there"))
}

/// Runs a hotrow that is to end, or what becomes one: its exit code, and the line that says why it has ended; empty where none does.
/// No other line may say so, and it must not have panicked.
pub fn refusal(command: &mut Command) -> (Option<i32>, String) {
    let output = run(command);
    let stderr = String::from_utf8(output.stderr).expect("stderr is text");
    assert!(!stderr.contains("panicked"), "{stderr}");
    let mut lines = stderr.lines().filter(|line| line.starts_with("hotrow: "));
    let line = lines.next().unwrap_or_default().to_owned();
    assert_eq!(lines.next(), None, "{stderr}");
    (output.status.code(), line)
}

/// The same, which must be this code, and a line with all these parts.
pub fn refused(command: &mut Command, code: i32, parts: &[&str]) {
    let (got, line) = refusal(command);
    assert!(got == Some(code) && !line.is_empty(), "{command:?}: {got:?}, {line:?}");
    for part in parts {
        assert!(line.contains(part), "{command:?}: {part:?} is not in {line:?}");
    }
}

/// The end of a program that runs, and what it has said where that was piped. Its input, where that is, ends here.
pub fn of(mut child: Child) -> Output {
    drop(child.stdin.take());
    let stdout = child.stdout.take().map(Said::collect).unwrap_or_default();
    let stderr = child.stderr.take().map(Said::collect).unwrap_or_default();
    let deadline = Instant::now() + 2 * DEADLINE;
    let mut ended = None;
    loop {
        ended = ended.or(child.try_wait().expect("it is our child"));
        // To the end of its output too: somebody whom it has started may have that still.
        if let Some(status) = ended.filter(|_| stdout.is_whole() && stderr.is_whole()) {
            return Output { status, stdout: stdout.text(), stderr: stderr.text() };
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            let said = stderr.text();
            panic!(
                "it does not end, or its output does not ({ended:?}):\n{}",
                String::from_utf8_lossy(&said)
            );
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// What comes out of a pipe.
#[derive(Default)]
struct Said {
    bytes: Arc<Mutex<Vec<u8>>>,
    collector: Option<thread::JoinHandle<()>>,
}

impl Said {
    fn collect(mut pipe: impl Read + Send + 'static) -> Said {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&bytes);
        let collector = thread::spawn(move || {
            let mut some = [0; 16 * 1024];
            // An end by a failure is one too.
            while let Ok(n @ 1..) = pipe.read(&mut some) {
                all.lock().expect("nobody panics with it").extend_from_slice(&some[..n]);
            }
        });
        Said { bytes, collector: Some(collector) }
    }

    fn is_whole(&self) -> bool {
        self.collector.as_ref().is_none_or(|collector| collector.is_finished())
    }

    fn text(&self) -> Vec<u8> {
        self.bytes.lock().expect("nobody panics with it").clone()
    }
}
