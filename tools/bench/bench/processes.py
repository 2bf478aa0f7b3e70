"""Starts programs and ends them. Everything that a run starts and every file it makes belongs to one `World`; when
that is left, by whatever way, nothing of it is there any more. Knows nothing of what the programs are."""

import ctypes
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time

TICKS = os.sysconf("SC_CLK_TCK")
PR_SET_PDEATHSIG = 1
STOP_SECONDS = 20
START_SECONDS = 60

libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """A server or a load did not do what it should: this measurement is lost, the run goes on."""


def raise_file_limit():
    """Ten thousand connections need as many descriptors, in every program that is started."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(true, what, child=None, seconds=START_SECONDS):
    """Waits for a condition; fails if the time is over, or the program that is to bring it about has ended."""
    deadline = time.monotonic() + seconds
    while not true():
        if child and child.process.poll() is not None:
            raise Failed(f"{what}: it has ended: {child.last_words()}")
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(0.005)


def accepts(port):
    def connects():
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        except OSError:
            return False

    return connects


def _preparation(cores, stop):
    def prepare():
        # If this program is killed outright, what it has started goes too.
        libc.prctl(PR_SET_PDEATHSIG, stop)
        if cores:
            os.sched_setaffinity(0, cores)

    return prepare


class Child:
    """A server that runs until it is stopped. `cores` may be None: any."""

    def __init__(self, argv, log, cores=None, user=None, stop=signal.SIGTERM, env=None):
        self.stop_signal = stop
        self.log = pathlib.Path(log)
        with open(self.log, "ab") as output:
            self.process = subprocess.Popen(
                [str(part) for part in argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                # Ctrl-C is for us, who then stop everything in good order.
                start_new_session=True,
                preexec_fn=_preparation(cores, stop),
                env={**os.environ, **(env or {})},
                **({"user": user, "group": user, "extra_groups": []} if user else {}),
            )

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def last_words(self):
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return " / ".join(lines[-3:]) or "it said nothing"

    def pids(self):
        """Its own process, and those that it has started."""
        found, parents = [self.process.pid], {}
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                fields = _stat(folder.name)
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(folder.name))
        for pid in found:
            found.extend(parents.get(pid, []))
        return found

    def cpu(self):
        """Seconds of user and of system time."""
        user = system = 0
        for pid in self.pids():
            try:
                fields = _stat(pid)
            except OSError:
                continue
            user += int(fields[11])
            system += int(fields[12])
        return user / TICKS, system / TICKS

    def resident_bytes(self):
        """What it has of memory for itself: its resident pages without those of files."""
        total = 0
        for pid in self.pids():
            try:
                status = pathlib.Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:"))
        return total * 1024


def _stat(pid):
    """The fields of /proc/PID/stat behind the name, which may have blanks in it."""
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


class World:
    """Temporary folders and the programs that run. Use with `with`. What is to be on a disk goes to a folder in `disk`, which everybody
    must be able to enter; without it, to where all goes."""

    def __init__(self, disk=None):
        self.disk_parent = disk

    def __enter__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="hotrow-bench-"))
        # PostgreSQL runs as a user of its own and has a folder in here.
        self.dir.chmod(0o711)
        self.disk = self.dir
        if self.disk_parent:
            self.disk = pathlib.Path(tempfile.mkdtemp(prefix="data-", dir=self.disk_parent))
            self.disk.chmod(0o711)
        self.children = []
        self.count = 0
        return self

    def __exit__(self, *_):
        # A second ctrl-C must not leave half of it behind.
        before = [(number, signal.signal(number, signal.SIG_IGN)) for number in (signal.SIGINT, signal.SIGTERM)]
        self.end_since(0)
        for folder in (self.dir, self.disk):
            shutil.rmtree(folder, ignore_errors=True)
        for number, handler in before:
            signal.signal(number, handler)

    def start(self, name, argv, **how):
        self.count += 1
        child = Child(argv, self.dir / f"{name}-{self.count}.log", **how)
        self.children.append(child)
        return child

    def folder(self, name, on_disk=False):
        self.count += 1
        path = (self.disk if on_disk else self.dir) / f"{name}-{self.count}"
        path.mkdir()
        return path

    def end_since(self, count):
        """Stops what was started after the first so many, the youngest first."""
        while len(self.children) > count:
            self.children.pop().stop()

    def run(self, argv, cores=None, seconds=120, env=None, cwd="/", both=False):
        """Runs a program to its end and gives what it printed, with `both` on stderr too."""
        argv = [str(part) for part in argv]
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if both else subprocess.PIPE,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=_preparation(cores, signal.SIGTERM),
            env={**os.environ, **(env or {})},
        )
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"{argv[0]} did not end within {seconds} s") from None
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
        if process.returncode != 0:
            said = (errors or output).decode(errors="replace").strip().splitlines()[-3:]
            raise Failed(f"{pathlib.Path(argv[0]).name} failed ({process.returncode}): {' / '.join(said)}")
        return output.decode(errors="replace")
