//! `hotrow export`: one stream of lines into a file. Where it breaks off it goes on behind the last whole line: by itself
//! as long as it has patience, and when it is called again (`--continue`), for until all is there the lines are in
//! `FILE.part`, which ends with a whole line or is cut back to one. Called by [`crate::commands`].

use super::lines::Whole;
use super::progress::Progress;
use super::remote::{Remote, Trouble};
use super::{Patience, when_stopped};
use crate::api::list::cursor;
use crate::config::transfer::{Export, is_dash};
use crate::process::say;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, IsTerminal, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

/// What every line of an export begins with.
const LINE_BEGIN: &[u8] = b"{\"key\":";
/// Read at once.
const READ_BYTES: usize = 64 * 1024;

/// Where lines go.
#[derive(Debug)]
enum Target {
    Stdout,
    /// To a file beside the one that they are meant for.
    File {
        part: PathBuf,
        path: PathBuf,
        file: File,
        is_new: bool,
    },
}

/// Fetches what the flags say. Returns rows and bytes, those of an export that this one goes on with among them.
pub fn run(export: &Export) -> Result<(u64, u64), String> {
    let remote = Remote::new(&export.remote)?;
    let mut whole = Whole::default();
    let mut target = Target::open(export, &mut whole)?;
    let on_screen = matches!(target, Target::Stdout) && io::stdout().is_terminal();
    let progress = if on_screen { Progress::hidden() } else { Progress::start(None) };
    if whole.rows > 0 {
        progress.say(&format!("going on behind {} rows, {} bytes", whole.rows, whole.bytes));
    }
    progress.begin_at(whole.bytes);
    let again = target.again(export);
    let stopped = again.clone();
    when_stopped(move || stopped.clone().unwrap_or_else(|| "what is on stdout is not all".into()))?;
    let fetched = fetch(export, &remote, &mut whole, &mut target, &progress);
    progress.end();
    match fetched.and_then(|()| target.finish()) {
        Ok(()) => Ok((whole.rows, whole.bytes)),
        Err(line) => {
            // Behind a line that is no row nobody can go on.
            let goes_on = target.give_up(whole.bytes) && whole.last_key().is_ok();
            Err(match again.filter(|_| goes_on) {
                Some(again) => format!("{line}; {again}"),
                None => line,
            })
        }
    }
}

fn fetch(
    export: &Export,
    remote: &Remote,
    whole: &mut Whole,
    target: &mut Target,
    progress: &Progress,
) -> Result<(), String> {
    let mut patience = Patience::new(export.remote.retry_for, Instant::now());
    let mut said = String::new();
    loop {
        let before = whole.rows;
        let behind = whole.last_key().map_err(|reason| target.no_export(&reason))?;
        let trouble = match remote.rows(&query(&export.prefix, behind.as_deref())) {
            Ok(mut rows) => match copy(&mut rows, whole, target, progress)? {
                None => return Ok(()),
                Some(reason) => Trouble::MayPass(remote.about(&reason), None),
            },
            Err(trouble) => trouble,
        };
        let (reason, wish) = match trouble {
            Trouble::MayPass(reason, wish) => (reason, wish),
            Trouble::Stays(reason) => return Err(reason),
        };
        if whole.rows > before {
            patience.renew(Instant::now());
        }
        let Some(pause) = patience.pause(wish, Instant::now()) else { return Err(reason) };
        if said != reason || whole.rows > before {
            progress.say(&format!("hotrow: {reason}; trying again behind {} rows", whole.rows));
            said = reason;
        }
        thread::sleep(pause);
    }
}

/// Takes all lines of one answer. Returns why they are not all that there are, if they are not; an error is one of the
/// file's.
fn copy(
    rows: &mut impl Read,
    whole: &mut Whole,
    target: &mut Target,
    progress: &Progress,
) -> Result<Option<String>, String> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match rows.read(&mut buffer) {
            Ok(0) if whole.end() => return Ok(None),
            Ok(0) => return Ok(Some("the answer ends within a line".into())),
            Ok(n) => {
                whole.take(&buffer[..n], target).map_err(|e| target.cannot_write(&e))?;
                progress.at(whole.bytes, whole.rows);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                whole.end();
                return Ok(Some(format!("the answer has broken off: {error}")));
            }
        }
    }
}

fn query(prefix: &str, behind: Option<&str>) -> String {
    let prefix = format!("prefix={}", utf8_percent_encode(prefix, NON_ALPHANUMERIC));
    match behind {
        Some(key) => format!("{prefix}&cursor={}", cursor(key)),
        None => prefix,
    }
}

impl Target {
    /// Opens the file. What is in it of an export that was cut off is counted into `whole`.
    fn open(export: &Export, whole: &mut Whole) -> Result<Target, String> {
        let mut path = export.file.clone();
        if is_dash(&path) {
            return match export.goes_on {
                true => Err("stdout cannot be gone on with: give --continue with a file".into()),
                false => Ok(Target::Stdout),
            };
        }
        if fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(format!("{} is no file that could be replaced; - is stdout", path.display()));
        }
        if path.is_symlink() {
            // What it leads to is replaced, not the link: /dev/stdout is one.
            path = fs::canonicalize(&path).map_err(|e| format!("cannot follow {}: {e}", path.display()))?;
        }
        let mut part = path.clone().into_os_string();
        part.push(".part");
        let part = PathBuf::from(part);
        let is_new = !(export.goes_on && part.exists());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(is_new);
        let file = options.open(&part).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => format!(
                "{} is there: an export was cut off, or is under way; go on with --continue, or remove it",
                part.display()
            ),
            _ => format!("cannot write {}: {error}", part.display()),
        })?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(format!("another export is writing {}", part.display()));
        }
        let mut target = Target::File { part, path, file, is_new };
        match target.prepare(whole) {
            Ok(()) => Ok(target),
            Err(line) => {
                target.give_up(0);
                Err(line)
            }
        }
    }

    /// Makes a file that is open ready for what comes.
    fn prepare(&mut self, whole: &mut Whole) -> Result<(), String> {
        let Target::File { part, path, file, is_new } = self else { return Ok(()) };
        if !*is_new {
            let judged = cut_back(file, whole);
            let judged = judged.map_err(|e| format!("cannot go on with {}: {e}", part.display()))?;
            if let Err(reason) = judged {
                return Err(self.no_export(&reason));
            }
        }
        // Who may read what is replaced may read what comes instead of it; not what somebody else has put there.
        if let Ok(old) = fs::metadata(path) {
            file.set_permissions(old.permissions())
                .map_err(|e| format!("cannot write {}: {e}", part.display()))?;
        }
        Ok(())
    }

    /// Everything is there: makes it last, under its own name.
    fn finish(&mut self) -> Result<(), String> {
        match self {
            Target::Stdout => self.flush().map_err(|e| self.cannot_write(&e)),
            Target::File { part, path, file, .. } => {
                let done = file.sync_all().and_then(|()| fs::rename(&*part, &*path));
                done.map_err(|e| format!("cannot make {} of {}: {e}", path.display(), part.display()))?;
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                let folder = folder.unwrap_or(Path::new("."));
                // It is there, and whole; only a power failure now could take its name from it.
                if let Err(error) = File::open(folder).and_then(|folder| folder.sync_all()) {
                    say(format_args!("hotrow: cannot make sure of {}: {error}", folder.display()));
                }
                Ok(())
            }
        }
    }

    /// An export has failed. A file that it has made and put nothing into is taken away. True: there is one to go on with.
    fn give_up(&mut self, bytes: u64) -> bool {
        match self {
            Target::File { part, is_new: true, .. } if bytes == 0 => {
                // What cannot be removed is in the way of the next one, which says so.
                let _ = fs::remove_file(part);
                false
            }
            Target::File { .. } => true,
            Target::Stdout => false,
        }
    }

    /// What to do next where it is cut off, if something can be done.
    fn again(&self, export: &Export) -> Option<String> {
        match self {
            Target::File { .. } => Some(format!("go on with: {}", export.command_again())),
            Target::Stdout => None,
        }
    }

    fn no_export(&self, reason: &str) -> String {
        match self {
            Target::File { part, .. } => format!("{} is no export: {reason}", part.display()),
            Target::Stdout => format!("the server has sent a line that is no row: {reason}"),
        }
    }

    fn cannot_write(&self, error: &io::Error) -> String {
        match self {
            Target::File { part, .. } => format!("cannot write {}: {error}", part.display()),
            Target::Stdout => format!("cannot write to stdout: {error}"),
        }
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            // Lines come by the piece: buffered once more they would only be copied.
            Target::Stdout => io::stdout().lock().write(bytes),
            Target::File { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Target::Stdout => io::stdout().lock().flush(),
            Target::File { file, .. } => file.flush(),
        }
    }
}

/// Cuts a torn last line off, and counts the others: one reading of the file. An error that has a reason within: the file is none
/// of an export, and is left as it is.
fn cut_back(file: &mut File, whole: &mut Whole) -> io::Result<Result<(), String>> {
    let mut buffer = vec![0; READ_BYTES];
    let mut begin = Vec::new();
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                begin.extend_from_slice(&buffer[..n.min(LINE_BEGIN.len() - begin.len())]);
                whole.take(&buffer[..n], &mut io::sink())?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    whole.end();
    if !LINE_BEGIN.starts_with(&begin) {
        return Ok(Err("it does not begin as one does".into()));
    }
    if let Err(reason) = whole.last_key() {
        return Ok(Err(reason));
    }
    file.set_len(whole.bytes)?;
    file.seek(SeekFrom::Start(whole.bytes))?;
    Ok(Ok(()))
}
