"""What a run needs: hotrow and our own peers are built; programs of others are found, or installed where that can be
done, or missing. What is missing is said, and those peers are left out."""

import os
import pathlib
import shutil
import subprocess

from . import machine

ROOT = pathlib.Path(__file__).resolve().parents[3]
BENCH = ROOT / "tools" / "bench"

# Programs of others, and Debian's packages with them. PostgreSQL and Rust are for tools/setup.sh.
PACKAGES = {
    "wrk": "wrk",
    "nginx": "nginx",
    "redis-server": "redis-server",
    "redis-benchmark": "redis-tools",
    "webdis": "webdis",
    "cc": "gcc libc6-dev",
    "pg_config": "libpq-dev",
}
VERSIONS = {
    "wrk": ["-v"],
    "nginx": ["-v"],
    "redis-server": ["--version"],
    "webdis": None,
    "postgres": ["--version"],
    "cc": ["--version"],
    "rustc": ["--version"],
}
# Debian's way to let a package's service not be started when it is installed: ours are started by us alone.
POLICY = pathlib.Path("/usr/sbin/policy-rc.d")


class Tools:
    """Paths by name, and why what is not there is not there."""

    def __init__(self):
        self.paths = {}
        self.missing = {}

    def has(self, *names):
        return all(name in self.paths for name in names)

    def versions(self):
        found = {}
        for name, argv in VERSIONS.items():
            path = self.paths.get(name) or shutil.which(name)
            if path and argv:
                found[name] = machine.version([str(path), *argv])
            elif path:
                found[name] = _package_version(name)
        return found


def _package_version(name):
    done = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", name], capture_output=True, text=True)
    return f"{name} {done.stdout.strip() or 'of unknown version'}"


def prepare(say, before=None, hotrow=None):
    _absolute_folders()
    tools = Tools()
    _setup(tools)
    _others(tools, say)
    _postgresql(tools)
    _own(tools, say, hotrow)
    if before:
        tools.paths["before"] = before
    return tools


def _absolute_folders():
    # They are told relative to where we were called from, but builds run in other folders, and programs in /.
    for name in ("CARGO_TARGET_DIR", "PG_BINDIR"):
        if os.environ.get(name):
            os.environ[name] = os.path.abspath(os.environ[name])


def _setup(tools):
    """Rust and PostgreSQL, by the script that every tool of the project uses."""
    script = f"source '{ROOT}/tools/setup.sh'; require_rust; require_postgresql"
    done = subprocess.run(["bash", "-euc", script], stdout=subprocess.DEVNULL)
    if done.returncode != 0:
        raise SystemExit(1)


def _find(name):
    # Daemons are in folders that are not in everybody's PATH.
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def _others(tools, say):
    wanted = [name for name in PACKAGES if not _find(name)]
    if wanted:
        packages = sorted({package for name in wanted for package in PACKAGES[name].split()})
        say(f"installing {' '.join(packages)}")
        _install(packages)
    for name, package in PACKAGES.items():
        path = _find(name)
        if path:
            tools.paths[name] = path
        else:
            tools.missing[name] = f"not found, and cannot be installed from here: apt-get install {package}"


def _install(packages):
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if not all(shutil.which(program) for program in ["apt-get", *as_root[:1]]):
        return
    if subprocess.run([*as_root, "true"], **quiet).returncode != 0:
        return
    guard = not POLICY.exists()
    try:
        if guard:
            subprocess.run([*as_root, "tee", POLICY], input=b"#!/bin/sh\nexit 101\n", **quiet)
            subprocess.run([*as_root, "chmod", "755", POLICY], **quiet)
        subprocess.run([*as_root, "apt-get", "update"], **quiet)
        # One by one: a package that this system does not have must not keep the others out.
        for package in packages:
            install = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes"]
            subprocess.run([*as_root, *install, "--no-install-recommends", package], **quiet)
    finally:
        if guard:
            subprocess.run([*as_root, "rm", "-f", POLICY], **quiet)


def _postgresql(tools):
    """The newest of those that hotrow itself would find."""
    if "PG_BINDIR" in os.environ:
        folders = [pathlib.Path(os.environ["PG_BINDIR"])]
    else:
        folders = [pathlib.Path(folder) for folder in os.environ.get("PATH", "").split(":")]
        debian = pathlib.Path("/usr/lib/postgresql").glob("*/bin")
        folders += sorted(debian, key=lambda folder: float(folder.parent.name), reverse=True)
        folders += [*pathlib.Path("/usr").glob("pgsql*/bin"), pathlib.Path("/usr/local/pgsql/bin")]
    folder = next((f for f in folders if (f / "postgres").exists() and (f / "initdb").exists()), None)
    for name in ("postgres", "initdb", "psql", "pgbench"):
        path = folder / name if folder and (folder / name).exists() else _find(name)
        if path:
            tools.paths[name] = path
        else:
            tools.missing[name] = "not among the programs of this PostgreSQL"


def _cargo(folder, *argv):
    done = subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", *argv], cwd=folder)
    return done.returncode == 0


def _own(tools, say, hotrow):
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    peers = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", BENCH / "peers" / "target"))
    if hotrow:
        tools.paths["hotrow"] = hotrow
    else:
        say("building hotrow")
        if not _cargo(ROOT, "--bin", "hotrow"):
            raise SystemExit("hotrow cannot be built")
        tools.paths["hotrow"] = target / "release" / "hotrow"
    say("building the peers")
    for name in ("load", "axum-stack", "may-static"):
        if _cargo(BENCH / "peers", "--bin", name):
            tools.paths[name] = peers / "release" / name
        else:
            tools.missing[name] = "not built: its build failed"
    if "load" in tools.missing:
        raise SystemExit("the load generator cannot be built")
    _limit(tools, peers, "epoll-limit")
    _limit(tools, peers, "rows-limit", "-I", _libpq(tools, "--includedir"), "-L", _libpq(tools, "--libdir"), "-lpq", "-pthread")


def _limit(tools, peers, name, *flags):
    """One of our own in C."""
    program, source = peers / "release" / name, BENCH / "peers" / f"{name}.c"
    if tools.has("cc") and subprocess.run([tools.paths["cc"], "-O2", "-o", program, source, *flags]).returncode == 0:
        tools.paths[name] = program
    else:
        tools.missing[name] = "not built: its build failed"


def _libpq(tools, folder):
    if not tools.has("pg_config"):
        return "."
    return subprocess.run([tools.paths["pg_config"], folder], capture_output=True, text=True).stdout.strip()
