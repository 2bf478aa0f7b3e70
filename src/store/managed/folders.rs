//! The folders and files of the private PostgreSQL beside its cluster: made, locked, and closed to others. Knows of PostgreSQL only
//! who runs it. Used by [`super`].

use super::binaries::Owner;
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// A socket's path has at most 107 bytes (unix(7)); this leaves room for the file's name.
const SOCKET_DIR_BYTES: usize = 107 - "/.s.PGSQL.5432".len();

/// The folder that is there already of all that this path goes through, if the last of them is one.
pub(super) fn nearest_folder(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let nearest = path.ancestors().find_map(|step| step.canonicalize().ok())?;
    nearest.is_dir().then_some(nearest)
}

pub(super) fn lock(data_dir: &Path) -> Result<File, String> {
    let path = data_dir.join("hotrow.lock");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|e| unusable(&path, &e))?;
    // Whoever may read it may lock it, too, and keep hotrow out.
    close_to_others(&file, &path);
    match file.try_lock() {
        Ok(()) => {
            let _ = file.set_len(0);
            let _ = writeln!(file, "{}", std::process::id());
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            Err(format!(
                "another hotrow (process {}) uses {}: stop it, or choose another --data-dir",
                holder.trim(),
                data_dir.display()
            ))
        }
        Err(TryLockError::Error(e)) => Err(unusable(&path, &e)),
    }
}

/// Takes a file's rights from all but its owner: it may be one of an earlier release.
pub(super) fn close_to_others(file: &File, path: &Path) {
    let is_open = |file: fs::Metadata| file.is_file() && file.permissions().mode() & 0o077 != 0;
    if file.metadata().is_ok_and(is_open)
        && let Err(error) = file.set_permissions(Permissions::from_mode(0o600))
    {
        log::warn!("other users can read {}, and it stays so: {error}", path.display());
    }
}

/// A folder for the socket: in the data folder, or under the system's temporary folder where that path is too long, or none
/// that can be said. PostgreSQL and the `postgres` crate take a comma for the end of one, and it has to be text.
pub(super) fn socket_dir(data_dir: &Path, owner: Option<&Owner>) -> Result<PathBuf, String> {
    let mut dir = data_dir.join("run");
    let is_unfit = |dir: &Path| {
        dir.as_os_str().len() > SOCKET_DIR_BYTES || dir.to_str().is_none_or(|dir| dir.contains(','))
    };
    if is_unfit(&dir) {
        let inode = fs::metadata(data_dir).map_err(|e| unusable(data_dir, &e))?;
        let elsewhere = std::env::temp_dir().join(format!("hotrow-{}-{}", inode.dev(), inode.ino()));
        if is_unfit(&elsewhere) {
            return Err(format!(
                "no socket can have its place in {}, nor in {} (TMPDIR): paths of up to {SOCKET_DIR_BYTES} bytes, in UTF-8 and \
                 without a comma, can; choose another --data-dir or TMPDIR",
                dir.display(),
                elsewhere.display()
            ));
        }
        dir = elsewhere;
    }
    make_private_dir(&dir, owner)?;
    Ok(dir)
}

/// In a new PID namespace, as in a container that is started again, the number of a PostgreSQL that is gone may be that of a thread of
/// ours. PostgreSQL asks for it by kill(2), which finds threads, too, and would take it for one that runs. Its parent's number, ours, it
/// passes over; by the rest of the file it finds backends that have outlived it.
pub(super) fn replace_own_thread(postmaster_pid: &Path, text: &str) -> Result<(), String> {
    let Some((number, rest)) = text.split_once('\n') else { return Ok(()) };
    let is_ours = number.trim().parse::<u32>().is_ok_and(|number| {
        number != std::process::id() && Path::new("/proc/self/task").join(number.to_string()).exists()
    });
    if !is_ours {
        return Ok(());
    }
    log::info!(
        "{} has the number of a thread of this hotrow: its PostgreSQL is gone",
        postmaster_pid.display()
    );
    let new = postmaster_pid.with_extension("pid.new");
    let mut options = OpenOptions::new();
    let file = options.create(true).write(true).truncate(true).mode(0o600).open(&new);
    let written = file.and_then(|mut file| write!(file, "{}\n{rest}", std::process::id()));
    written.and_then(|()| fs::rename(&new, postmaster_pid)).map_err(|e| unusable(postmaster_pid, &e))
}

/// A folder and those above it that are not there. `to_be_entered` by another user: whatever the umask says; what is in them has rights
/// of its own.
pub(super) fn make_dirs(dir: &Path, to_be_entered: bool) -> std::io::Result<()> {
    let mut steps: Vec<&Path> = dir.ancestors().filter(|step| !step.as_os_str().is_empty()).collect();
    steps.reverse();
    for step in steps {
        match fs::create_dir(step) {
            Ok(()) if to_be_entered => {
                let mode = fs::metadata(step)?.permissions().mode();
                fs::set_permissions(step, Permissions::from_mode(mode | 0o011))?;
            }
            Ok(()) => {}
            Err(_) if step.is_dir() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A folder that only PostgreSQL's user (and root) may enter.
pub(super) fn make_private_dir(dir: &Path, owner: Option<&Owner>) -> Result<(), String> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => {
            if let Some(owner) = owner {
                chown(dir, Some(owner.uid), Some(owner.gid)).map_err(|e| unusable(dir, &e))?;
            }
            Ok(())
        }
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            let meta = fs::symlink_metadata(dir).map_err(|e| unusable(dir, &e))?;
            let user = owner.map_or_else(|| rustix::process::geteuid().as_raw(), |owner| owner.uid);
            if !meta.is_dir() || meta.uid() != user || meta.permissions().mode() & 0o077 != 0 {
                return Err(format!(
                    "{} is not a folder of PostgreSQL's user alone: remove it",
                    dir.display()
                ));
            }
            Ok(())
        }
        Err(e) => Err(unusable(dir, &e)),
    }
}

pub(super) fn unusable(path: &Path, error: &std::io::Error) -> String {
    format!("cannot use {} (--data-dir): {error}; choose a folder that can be written to", path.display())
}
