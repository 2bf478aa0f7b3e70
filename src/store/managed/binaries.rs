//! Where PostgreSQL's programs are, and who runs them. Used by [`super`].

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What must be there.
const PROGRAMS: [&str; 3] = ["postgres", "initdb", "pg_ctl"];
/// The oldest version that is served.
const OLDEST: u32 = 13;

/// What a service manager says to hotrow alone: PostgreSQL speaks to managers too, and would answer in its name.
const OF_MANAGERS: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// True of a variable that is hotrow's alone. `DATABASE_URL`, `HOTROW_…` and `PGPASSWORD` may hold secrets; and what libpq or
/// PostgreSQL's programs are told by `PGPORT`, `PGOPTIONS` or `PGDATA` is not about this cluster. `PG_OOM_ADJUST_…` is: whom the
/// kernel ends first when there is no memory left.
fn is_kept_back(name: &OsStr) -> bool {
    let begins = |front: &str| name.as_bytes().starts_with(front.as_bytes());
    OF_MANAGERS.iter().any(|other| name == *other)
        || name == "DATABASE_URL"
        || begins("HOTROW_")
        || begins("PG") && !begins("PG_OOM_ADJUST_")
}

/// A folder with PostgreSQL's programs.
#[derive(Clone, Debug)]
pub struct Binaries {
    dir: PathBuf,
}

impl Binaries {
    /// Finds programs that fit the cluster in this folder, or the newest where there is no cluster yet: in `PG_BINDIR`
    /// if it is set, else on the `PATH` and in the usual folders.
    pub fn find(cluster: &Path) -> Result<Binaries, String> {
        let needed: Option<u32> =
            fs::read_to_string(cluster.join("PG_VERSION")).ok().and_then(|text| text.trim().parse().ok());
        let (dirs, where_from) = match std::env::var_os("PG_BINDIR") {
            Some(dir) => (vec![PathBuf::from(dir)], "in PG_BINDIR"),
            None => (usual_dirs(Path::new("/")), "on the PATH and in the usual folders"),
        };
        let mut found: Vec<(u32, PathBuf)> = dirs
            .into_iter()
            // They are run in another folder than this one.
            .filter_map(|dir| std::path::absolute(dir).ok())
            .filter(|dir| PROGRAMS.iter().all(|program| dir.join(program).is_file()))
            .filter_map(|dir| Some((major_version(&dir.join("postgres"))?, dir)))
            .filter(|(version, _)| *version >= OLDEST && needed.is_none_or(|needed| needed == *version))
            .collect();
        found.sort_by_key(|(version, _)| *version);
        match (found.pop(), needed) {
            (Some((_, dir)), _) => Ok(Binaries { dir }),
            (None, Some(version)) => Err(format!(
                "{} was made by PostgreSQL {version}, which was not found {where_from}: install it (Debian: apt-get \
                 install postgresql-{version}), or set PG_BINDIR to the folder with its postgres and initdb",
                cluster.display()
            )),
            (None, None) => Err(format!(
                "no PostgreSQL server {OLDEST} or newer was found {where_from}: install one (Debian: apt-get install \
                 postgresql), set PG_BINDIR to the folder with its postgres and initdb, or give a --database-url"
            )),
        }
    }

    /// The path of a program.
    pub fn path(&self, program: &str) -> PathBuf {
        self.dir.join(program)
    }

    /// A command for a program.
    pub fn command(&self, program: &str) -> Command {
        command(&self.path(program))
    }
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_kept_back(name)) {
        command.env_remove(name);
    }
    command
}

/// The folders of the `PATH`, and those of packagers below the root.
fn usual_dirs(root: &Path) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    // Debian, Red Hat, and a build from source keep them apart from the PATH.
    let versions = |parent: &str, name: &str| -> Vec<PathBuf> {
        let entries = fs::read_dir(root.join(parent)).into_iter().flatten().flatten();
        let named = entries.filter(|entry| entry.file_name().as_bytes().starts_with(name.as_bytes()));
        named.map(|entry| entry.path().join("bin")).collect()
    };
    dirs.extend(versions("usr/lib/postgresql", ""));
    dirs.extend(versions("usr", "pgsql-"));
    dirs.push(root.join("usr/local/pgsql/bin"));
    dirs.push(root.join("usr/libexec/postgresql"));
    dirs
}

/// `postgres (PostgreSQL) 15.18 (Debian …)` → 15.
fn major_version(postgres: &Path) -> Option<u32> {
    let output = command(postgres).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.split("(PostgreSQL) ").nth(1)?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The user that runs PostgreSQL when hotrow runs as root: PostgreSQL refuses to.
#[derive(Clone, Debug)]
pub struct Owner {
    name: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Who runs PostgreSQL: the package's user, or nobody; `None` where hotrow is no root and does it itself.
pub fn owner() -> Result<Option<Owner>, String> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").map_err(|e| format!("cannot read /etc/passwd: {e}"))?;
    let find = |name: &str| {
        users.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let (uid, gid) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
            (fields[0] == name).then(|| Owner { name: name.to_owned(), uid, gid })
        })
    };
    match find("postgres").or_else(|| find("nobody")) {
        Some(owner) => Ok(Some(owner)),
        None => Err("PostgreSQL does not run as root, and there is neither a user postgres nor nobody: run hotrow as \
            another user"
            .into()),
    }
}

impl Owner {
    /// Checks that this user can get to a folder: by its owner's, group's or everybody's right, at every step.
    pub fn check_can_enter(&self, dir: &Path) -> Result<(), String> {
        for step in dir.ancestors() {
            let meta = fs::metadata(step).map_err(|e| format!("cannot look at {}: {e}", step.display()))?;
            let right = match (meta.uid() == self.uid, meta.gid() == self.gid) {
                (true, _) => 0o100,
                (false, true) => 0o010,
                (false, false) => 0o001,
            };
            if meta.mode() & right == 0 {
                return Err(format!(
                    "PostgreSQL runs as user {} and may not enter {}: choose a --data-dir that it can reach, like \
                     /var/lib/hotrow, or run hotrow as another user than root",
                    self.name,
                    step.display()
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_every_packager_are_looked_for() {
        let root = tempfile::tempdir().unwrap();
        let places = [
            "usr/lib/postgresql/15/bin",
            "usr/pgsql-15/bin",
            "usr/local/pgsql/bin",
            "usr/libexec/postgresql",
        ];
        for place in places.iter().chain(&["usr/lib64/bin"]) {
            fs::create_dir_all(root.path().join(place)).unwrap();
        }
        let dirs = usual_dirs(root.path());
        let below: Vec<&Path> = dirs.iter().filter_map(|dir| dir.strip_prefix(root.path()).ok()).collect();
        assert_eq!(below, places.map(Path::new));
    }
}
