"""The programs that make load, run once each. A function takes a server, a case and seconds, and gives what it saw as
a dictionary: `rate` in requests a second, `requests`, the `seconds` in which those were counted, `errors`, and latencies
`p50`, `p99`, `p999` in microseconds as far as the program says them. Parsers are apart from running, for the tests."""

import concurrent.futures
import csv
import http.client
import json
import re
import time

from .build import BENCH
from .processes import Failed

# The statements of pgbench, as plain as they can be for one row: hotrow's own do more (they know of rows that expire).
# It draws numbers; PostgreSQL makes the key of them.
PGBENCH_KEY = "'{prefix}' || lpad(:k::text, 12, '0')"
PGBENCH_GET = "SELECT key, value, xmin::text FROM kv_store WHERE key = {key};"
PGBENCH_PUT = (
    "INSERT INTO kv_store (key, value) VALUES ({key}, lpad(:v::text, {bytes}, 'w')) "
    "ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value RETURNING key, xmin::text, (xmax = 0) AS created;"
)
# How long its connections are used before they are counted, as those of hotrow and of the axum stack have been used: a
# backend that is new has to plan its statement, and to learn of the table.
PGBENCH_WARM_SECONDS = 1


def _errors_matter(seen):
    # A few may be a race at the end; more means that something else was measured.
    if seen["errors"] > seen["requests"] / 1000:
        raise Failed(f"{seen['errors']} errors in {seen['requests']} answers")
    return seen


def wrk(world, tools, server, case, seconds, cores):
    # With a core of its own one thread has all of it; where nothing is pinned, one alone may be the limit of two loops.
    threads = min(1 if case.pinned else 2, case.connections)
    options = {"get": server.get, "put": server.put, "prefix": case.prefix, "keys": case.keys, "draw": case.draw}
    options.update({"writes": case.writes, "bytes": case.value_bytes, "pipeline": case.pipeline})
    argv = [tools.paths["wrk"], "-t", threads, "-c", case.connections, "-d", f"{seconds}s", "--timeout", "10s"]
    argv += ["-s", BENCH / "wrk.lua", f"http://127.0.0.1:{server.port}", "--"]
    argv += [f"{name}={value}" for name, value in options.items()]
    seen = _errors_matter(parse_json(world.run(argv, cores, seconds + 60)))
    if case.pipeline > 1:
        # It counts a batch as one wait and its requests as many, and then mends the one by the other.
        seen = {name: value for name, value in seen.items() if not name.startswith("p")}
    return seen


def parse_json(output):
    """The last line that is JSON, with the rate."""
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise Failed(f"the load said nothing: {output[-200:]!r}")
    seen = json.loads(lines[-1])
    seen["rate"] = seen["requests"] / seen["seconds"]
    return seen


def redis_benchmark(world, tools, server, case, seconds, cores):
    key = f"{case.prefix}__rand_int__"
    command = ["SET", key, "w" * case.value_bytes] if case.writes else ["GET", key]

    def run(count):
        argv = [tools.paths["redis-benchmark"], "-p", server.port, "-c", case.connections, "-P", case.pipeline]
        argv += ["-n", count, "-r", case.keys, "--csv", "--precision", 3, *command]
        seen = parse_redis_csv(world.run(argv, cores, seconds * 10 + 60))
        return {**seen, "requests": count, "seconds": count / seen["rate"], "errors": 0}

    # It takes a number of requests, not a time: a small run tells how many.
    trial = run(1000 * min(case.connections, 20) * case.pipeline)
    cpu = server.cpu()
    return {**run(max(int(trial["rate"] * seconds), 1000)), "cpu_before": cpu}


def parse_redis_csv(output):
    lines = [line for line in output.splitlines() if line.startswith('"')]
    rows = list(csv.DictReader(lines))
    if not rows:
        raise Failed(f"redis-benchmark said nothing: {output[-200:]!r}")
    row = rows[-1]
    milliseconds = {"p50": "p50_latency_ms", "p99": "p99_latency_ms"}
    return {"rate": float(row["rps"]), **{name: float(row[column]) * 1000 for name, column in milliseconds.items()}}


def pgbench(world, tools, database, case, seconds):
    folder = world.folder("pgbench")
    key = PGBENCH_KEY.format(prefix=case.prefix)
    statement = (PGBENCH_PUT if case.writes else PGBENCH_GET).format(key=key, bytes=case.value_bytes)
    lines = [f"\\set k random(0, {case.keys - 1})", "\\set v random(0, 99999999)", statement]
    script = folder / "script.sql"
    script.write_text("\n".join(lines) + "\n")
    argv = [tools.paths["pgbench"], "-n", "-M", "prepared", "-c", case.connections, "-j", min(2, case.connections)]
    # Its words on its progress, one a second, tell what is to be counted; the last second may end before its own.
    argv += ["-T", PGBENCH_WARM_SECONDS + seconds + 1, "-P", 1, "-f", script]
    if case.connections == 1:
        # The time of every transaction: a median, beside that of the others. It costs a write a transaction.
        argv += ["-l", "--log-prefix", folder / "log"]
    output = world.run([*argv, database.url(case.database)], seconds=seconds + 60, cwd=folder, both=True)
    seen = parse_pgbench(output, seconds)
    for log in folder.glob("log.*"):
        seen.update(parse_pgbench_log(log.read_text(), seconds))
    return seen


def parse_pgbench(output, seconds):
    """The seconds after those in which it got warm."""
    said = re.findall(r"^progress: ([\d.]+) s, ([\d.]+) tps", output, re.MULTILINE)
    said = [(float(at), float(rate)) for at, rate in said][PGBENCH_WARM_SECONDS - 1 :][: seconds + 1]
    failed = re.search(r"failed transactions: (\d+)", output)
    if len(said) < 2:
        raise Failed(f"pgbench said nothing: {output[-200:]!r}")
    counted = said[-1][0] - said[0][0]
    requests = sum(rate * (at - before) for (before, _), (at, rate) in zip(said, said[1:]))
    errors = int(failed[1]) if failed else 0
    return {"rate": requests / counted, "requests": round(requests), "seconds": counted, "errors": errors}


def parse_pgbench_log(text, seconds):
    """Latencies in the same seconds, of one connection. A line has a transaction's microseconds, and when it ended."""
    lines = [[int(field) for field in line.split()] for line in text.splitlines()]
    ended = [line[4] + line[5] / 1e6 for line in lines]
    late = [end - ended[0] - PGBENCH_WARM_SECONDS for end in ended]
    times = sorted(line[2] for line, at in zip(lines, late) if 0 < at <= seconds)
    if not times:
        raise Failed("pgbench has logged nothing")
    return {"p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100]}


def bulk(server, case):
    """Rows in the order of their keys, in one request on each connection."""
    share = case.keys // case.connections
    value = "w" * case.value_bytes

    def body(number):
        keys = range(number * share, (number + 1) * share)
        return "".join(f'{{"key":"{case.prefix}{key:012}","value":"{value}"}}\n' for key in keys).encode()

    bodies = [body(number) for number in range(case.connections)]
    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(case.connections) as pool:
        written = sum(pool.map(lambda content: _load(server, content), bodies))
    seconds = time.monotonic() - started
    if written != share * case.connections:
        raise Failed(f"{written} of {share * case.connections} rows were stored")
    return {"rate": written / seconds, "requests": written, "seconds": seconds, "errors": 0}


def _load(server, content):
    link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    try:
        link.request("PUT", "/kv", content, {"Content-Type": "application/x-ndjson"})
        answer = link.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise Failed(f"a load was answered {answer.status}: {text[:200]!r}")
        return json.loads(text)["written"]
    finally:
        link.close()


def own(world, tools, server, case, seconds, cores, rate):
    """Our own load: at a fixed rate; at rate 0 a closed one, for 0 seconds every key once."""
    options = {"port": server.port, "connections": case.connections, "keys": case.keys, "prefix": case.prefix}
    options.update({"method": "PUT" if case.writes == 100 else "GET", "bytes": case.value_bytes})
    options.update({"rate": rate, "seconds": seconds, "wait": "spin" if cores else "sleep"})
    argv = [tools.paths["load"], *(f"{name}={value}" for name, value in options.items())]
    return _errors_matter(parse_json(world.run(argv, cores, seconds + 660)))
