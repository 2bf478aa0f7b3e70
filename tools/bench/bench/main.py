"""Arguments in, exit code out: chooses what is to be run, runs it, and writes it down."""

import argparse
import datetime
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

from . import build, cases, database, machine, measure, report, servers
from .processes import World, raise_file_limit

# Each peer's turns in a case, and how long each is loaded.
ROUNDS = 3
SECONDS = 2
RESULTS = build.ROOT / "benches" / "results"
# What tools/instructions says of requests as clients send them.
INSTRUCTIONS = r"1 a turn, the same fields: (\d+) instructions"


def main(argv, usage):
    options = _options(argv, usage)
    if options.list:
        _list()
        return 0
    if options.report is not None:
        return _report(options.report)
    # However a run is told to end, it cleans up. SIGINT too: a shell lets what it runs in the background ignore it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        return _run(options)
    except KeyboardInterrupt:
        say("stopped; nothing is kept")
        return 130


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _options(argv, usage):
    parser = argparse.ArgumentParser("tools/bench/run", description=usage, formatter_class=argparse.RawTextHelpFormatter)
    positive = lambda text: max(1, int(text))  # noqa: E731
    parser.add_argument("--quick", action="store_true", help="one round of one second, less memory to fill")
    parser.add_argument("--case", action="append", choices=list(cases.BY_NAME), metavar="NAME", help="only this; again for more")
    parser.add_argument("--peer", action="append", choices=list(servers.PEERS), metavar="NAME", help="only this; again for more")
    parser.add_argument("--rounds", type=positive, help=f"how often each peer has its turn ({ROUNDS})")
    parser.add_argument("--seconds", type=positive, help=f"how long each turn is loaded ({SECONDS}); five times that in get-64")
    parser.add_argument("--hotrow", type=pathlib.Path, metavar="PROGRAM", help="measure this build instead of the tree's")
    parser.add_argument("--before", type=pathlib.Path, metavar="PROGRAM", help="and this one beside it, as the peer `before`")
    parser.add_argument("--report", nargs="?", const="", metavar="RESULT", help="write benches/REPORT.md; measure nothing")
    parser.add_argument("--list", action="store_true", help="list cases and peers")
    options = parser.parse_args(argv)
    for program in (options.hotrow, options.before):
        if program and not os.access(program, os.X_OK):
            parser.error(f"{program} is no program")
    options.hotrow = options.hotrow and options.hotrow.resolve()
    options.before = options.before and options.before.resolve()
    options.rounds = options.rounds or (1 if options.quick else ROUNDS)
    options.seconds = options.seconds or (1 if options.quick else SECONDS)
    return options


def _list():
    print("cases:")
    for case in cases.CASES:
        print(f"  {case.name:14}{case.title}")
    print("peers:")
    for name, peer in servers.PEERS.items():
        print(f"  {name:14}{peer.what}")


def _run(options):
    started = datetime.datetime.now(datetime.timezone.utc)
    limit = raise_file_limit()
    # Asked before anything is built here: that load is over when the measuring begins, and none of others'.
    load = os.getloadavg()[0]
    tools = build.prepare(say, options.before, options.hotrow)
    chosen = [case for case in cases.CASES if not options.case or case.name in options.case]
    left_out = {}
    with World(_disk()) as world:
        db = database.Database(world, tools)
        bench = measure.Bench(world, tools, db, say, options.rounds, options.seconds, options.quick)
        facts = machine.facts(build.ROOT, world.disk) | {"load_average_before": load}
        if facts["file_system"] in machine.IN_MEMORY:
            say("the databases are in memory and on no disk: this is no whole run")
        if facts["pins_share_a_core"]:
            say("the server and its load are two threads of one core: there is no other")
        if options.hotrow:
            facts["hotrow"] = "unknown (--hotrow)"
        if load > machine.QUIET:
            say(f"the load average was {load:.1f}: others use this machine, and the figures will be noise")
        bench.prepare(chosen)
        begun = time.monotonic()
        for case in chosen:
            peers = [peer for peer in case.peers if _can(peer, case, tools, options, left_out)]
            if case.kind == "idle" and limit < case.connections + 1000:
                left_out[case.name] = f"needs {case.connections} descriptors, and the limit is {limit}"
            elif peers:
                print(report.table(bench.run(case, peers)), flush=True)
        facts["load_average_after"] = os.getloadavg()[0]
        facts["measured_seconds"] = round(time.monotonic() - begun)
    results = {name: case for name, case in bench.results.items() if case["kind"] != "hidden"}
    if not options.case:
        results["instructions"] = _instructions()
    run = {
        "started": started.isoformat(timespec="seconds"),
        "whole": _whole(options, facts),
        "quick": options.quick,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "machine": facts,
        "versions": tools.versions(),
        "left_out": left_out,
        "cases": results,
    }
    print(report.verdicts(results))
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{started:%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(run, indent=1) + "\n")
    print(f"written: {path.relative_to(build.ROOT)}")
    return 0


def _disk():
    """Where the data of databases go: beside what cargo builds, for that is on a disk, and the temporary folder often is not. None where
    PostgreSQL's user cannot get there."""
    folder = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", build.ROOT / "target")).resolve() / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    if database.user() and not machine.can_be_entered(folder):
        say(f"the databases are in the temporary folder: PostgreSQL's user cannot enter {folder}")
        return None
    return folder


def _whole(options, facts):
    """Is the run one for the page? Another build than the tree's is of a commit that we do not know; fewer or shorter rounds are a trial;
    and what is in memory only is not durable."""
    of_a_part = options.quick or options.case or options.peer or options.hotrow
    is_short = options.rounds < ROUNDS or options.seconds < SECONDS
    return not (of_a_part or is_short or facts["file_system"] in machine.IN_MEMORY)


def _can(peer, case, tools, options, left_out):
    if options.peer and peer not in options.peer and peer != "before":
        return False
    if peer == "before" and not options.before:
        return False
    needs = list(servers.PEERS[peer].needs)
    if case.kind == "closed" and peer not in ("redis", "redis-aof", "pgbench"):
        needs.append("wrk")
    missing = [name for name in needs if not tools.has(name)]
    if missing:
        left_out[peer] = "; ".join(f"{name} is {tools.missing.get(name, 'not there')}" for name in missing)
    return not missing


def _instructions():
    """What callgrind counts: the one figure that no other load on the machine changes."""
    entry = {"title": "instructions of a cached GET (callgrind)", "kind": "count", "peers": {}}
    if not shutil.which("valgrind"):
        return entry
    say("counting instructions")
    done = subprocess.run([build.ROOT / "tools" / "instructions"], capture_output=True, text=True, cwd=build.ROOT)
    counted = re.search(INSTRUCTIONS, done.stdout)
    entry["peers"]["hotrow"] = [{"count": int(counted[1])} if counted else {"failed": "tools/instructions failed"}]
    return entry


def _report(path):
    if path:
        chosen = pathlib.Path(path)
    else:
        runs = sorted(RESULTS.glob("*.json"), reverse=True)
        whole = [run for run in runs if json.loads(run.read_text())["whole"]]
        if not runs:
            print("there is no run to report: tools/bench/run makes one", file=sys.stderr)
            return 1
        chosen = (whole or runs)[0]
    written = report.write(json.loads(chosen.read_text()), build.ROOT / "benches")
    print("\n".join(str(path.relative_to(build.ROOT)) for path in written))
    return 0
