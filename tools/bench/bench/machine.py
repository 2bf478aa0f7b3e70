"""What this machine is, and which of its cores are used for what. Asks the kernel; starts nothing but `--version`s."""

import os
import pathlib
import platform
import re
import subprocess
import time

PROBE_WRITES = 200
# The load average of a machine that does nothing else. Over it, figures are not to be relied on.
QUIET = 0.3


def cores():
    return sorted(os.sched_getaffinity(0))


def pins():
    """The core of the server and that of the load where reads are measured; None and None if there is only one. Not two threads
    of one core, if there is another: what the load does would slow the server."""
    found = cores()
    if len(found) < 2:
        return None, None
    others = [core for core in found[1:] if core not in _siblings(found[0])]
    return {found[0]}, {others[0] if others else found[1]}


def pins_share_a_core():
    """Are the two of them threads of one core?"""
    server, load = pins()
    return bool(server) and not load.isdisjoint(_siblings(min(server)))


def _siblings(core, topology="/sys/devices/system/cpu"):
    """The threads of a core, itself included: `0,4` or `0-1` in the kernel's list."""
    listed = _first(f"{topology}/cpu{core}/topology/thread_siblings_list", r"^([\d,-]+)$", str(core))
    found = set()
    for part in listed.split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def can_be_entered(folder):
    """By everybody, at every step?"""
    folder = pathlib.Path(folder).resolve()
    return all(step.stat().st_mode & 0o001 for step in (folder, *folder.parents))


IN_MEMORY = ("tmpfs", "ramfs")


def _first(path, pattern, otherwise="unknown"):
    try:
        match = re.search(pattern, pathlib.Path(path).read_text(errors="replace"), re.MULTILINE)
    except OSError:
        return otherwise
    return match.group(1).strip() if match else otherwise


def version(argv):
    """The first line with a number that a program says about itself."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    lines = (done.stdout + done.stderr).splitlines()
    return next((line.strip() for line in lines if re.search(r"\d\.\d", line)), "unknown")


def fsync_us(folder):
    """The median time of writing 8 KiB and fdatasync: what a commit waits for at least."""
    path, times = pathlib.Path(folder) / "fsync-probe", []
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(handle, bytes(1 << 20), 0)
        os.fsync(handle)
        for i in range(PROBE_WRITES):
            started = time.perf_counter()
            os.pwrite(handle, os.urandom(8192), (i % 128) * 8192)
            os.fdatasync(handle)
            times.append(time.perf_counter() - started)
    finally:
        os.close(handle)
        path.unlink()
    return round(sorted(times)[len(times) // 2] * 1e6, 1)


def filesystem(folder):
    """The type of the file system that a folder is on: that of the longest mount point above it."""
    best = ("", "unknown")
    for line in pathlib.Path("/proc/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if os.path.commonpath([point, folder]) == point and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


def stolen_seconds():
    """Time that the hypervisor gave to others while we wanted to run, and time of everything on this machine."""
    fields = [int(field) for field in _first("/proc/stat", r"^cpu +(.*)$", "0 0 0 0 0 0 0 0").split()]
    ticks = os.sysconf("SC_CLK_TCK")
    return fields[7] / ticks, sum(fields[:8]) / ticks


def facts(root, folder):
    def git(*argv):
        done = subprocess.run(["git", "-C", root, *argv], capture_output=True, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "src", "Cargo.toml", "Cargo.lock", "sql")
    return {
        "cpu": _first("/proc/cpuinfo", r"^model name\s*: (.*)$", platform.machine()),
        "cores": len(cores()),
        "pins_share_a_core": pins_share_a_core(),
        "virtual": "hypervisor" in _first("/proc/cpuinfo", r"^flags\s*: (.*)$", ""),
        "memory_gib": round(int(_first("/proc/meminfo", r"^MemTotal:\s+(\d+)", "0")) / (1 << 20), 1),
        "kernel": platform.release(),
        "file_system": filesystem(str(folder)),
        "fdatasync_8k_us": fsync_us(folder),
        "hotrow": git("rev-parse", "--short", "HEAD") + (" and changes not committed" if changed else ""),
    }
