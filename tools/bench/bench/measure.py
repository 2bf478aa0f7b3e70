"""Runs cases: in every round each peer in its turn is started, filled, checked, loaded and stopped, so that no two are
ever loaded at once, and all have shared the machine's good and bad minutes alike. A peer that fails costs its own
figure, with the reason in its place."""

import dataclasses
import http.client
import socket
import statistics
import time

from . import cases, loads, machine, servers
from .processes import Failed

# Keys that are written, or read, before a case with the database: connections are open then, statements prepared.
WARM_KEYS = 2000
# Lines that are loaded before a bulk load is counted, as the connections of others have been used before.
WARM_LINES = 64
WARM_PREFIX = "wrm:"
# How long a server may take to let go of what it needed for opening connections.
SETTLE_SECONDS = 0.5


@dataclasses.dataclass
class Bench:
    world: object
    tools: object
    database: object
    say: object
    rounds: int
    seconds: int
    quick: bool

    def __post_init__(self):
        self.hits, self.results = {}, {}

    def prepare(self, chosen):
        """The table's rows, and what hotrow answers to a hit of each size."""
        needed = [case for case in chosen if case.kind != "entries"]
        self.say("filling the table")
        # hotrow makes the table itself.
        self._once(dataclasses.replace(cases.BY_NAME["get-1"], pinned=False), lambda server: None)
        self.database.insert("key:", cases.ROWS, cases.VALUE_BYTES, "postgres")
        filled = [case for case in needed if case.prefix != "key:" and case.kind != "bulk"]
        for case in {case.prefix: case for case in filled}.values():
            self.database.insert(case.prefix, case.keys, case.value_bytes, "postgres")
        self.database.settle(cases.BY_NAME["get-1"])
        for case in {case.value_bytes: case for case in needed if case.kind != "bulk"}.values():
            self.hits[case.value_bytes] = self._once(dataclasses.replace(case, cached=True), lambda s: _hit(s, case))
        if any(case.kind == "entries" for case in chosen):
            self.database.sql("CREATE DATABASE memory")
            case = cases.BY_NAME["entries"]
            self._once(case, lambda server: None)
            self.database.insert(case.prefix, self._scaled(case).keys, case.value_bytes, "memory")
            self.database.settle(case)

    def run(self, case, peers):
        """All rounds of a case, in an order that turns from round to round."""
        case = self._scaled(case)
        # Memory does not waver: one round is enough, and fills are long.
        rounds = 1 if case.kind in ("entries", "idle") else self.rounds
        found = {peer: [] for peer in peers}
        for number in range(rounds):
            turned = peers[number % len(peers) :] + peers[: number % len(peers)]
            for peer in turned:
                self.say(f"{case.name}: {peer}, round {number + 1} of {rounds}")
                found[peer].append(self._cell(case, peer))
        self.results[case.name] = {"title": case.title, "kind": case.kind, "seconds": self._seconds(case), "peers": found}
        return self.results[case.name]

    def _seconds(self, case):
        return self.seconds * (1 if self.quick else case.times_as_long)

    def _scaled(self, case):
        """The case as it is, or with less to fill and to open."""
        less = {
            "entries": ("keys", cases.QUICK_ENTRIES),
            "idle": ("connections", cases.QUICK_IDLE),
            "bulk": ("keys", cases.QUICK_BULK),
        }.get(case.kind)
        if not self.quick or less is None:
            return case
        field, count = less
        title = case.title.replace(f"{getattr(case, field):,}", f"{count:,}")
        return dataclasses.replace(case, title=title, **{field: count})

    def _cell(self, case, peer):
        stolen, all_time = machine.stolen_seconds()
        seen = self._turn(case, peer)
        now_stolen, now = machine.stolen_seconds()
        if now_stolen - stolen > 0.02 * (now - all_time):
            self.say(f"{case.name}: the hypervisor took {now_stolen - stolen:.1f} s away meanwhile")
        return {**seen, "stolen_seconds": round(now_stolen - stolen, 2)}

    def _turn(self, case, peer):
        mark = len(self.world.children)
        try:
            if case.writes or not case.cached or case.kind == "bulk":
                self.database.settle(case)
            server_core, load_core = machine.pins() if case.pinned else (None, None)
            start = servers.Start(self.world, self.tools, self.database, case, server_core, self.hits)
            if case.kind == "open":
                rate = self._half_of_capacity(case, peer)
                return self._open(servers.PEERS[peer].start(start), case, load_core, rate)
            measure = {"closed": self._closed, "lone": self._closed, "bulk": self._bulk}
            measure.update({"entries": self._memory, "idle": self._idle})
            return measure[case.kind](servers.PEERS[peer].start(start), case, load_core)
        except (Failed, OSError, http.client.HTTPException) as error:
            self.say(f"{case.name}: {peer} FAILED: {error}")
            return {"failed": str(error) or type(error).__name__}
        finally:
            self.world.end_since(mark)

    def _once(self, case, use):
        """Does something with a hotrow that is there for it alone."""
        mark = len(self.world.children)
        try:
            server = servers.hotrow(servers.Start(self.world, self.tools, self.database, case, None, {}))
            return use(server)
        except Failed as error:
            raise SystemExit(f"hotrow does not do what it should: {error}") from None
        finally:
            self.world.end_since(mark)

    # How each kind of case is measured.

    def _ready(self, server, case):
        """Fills, and looks at one answer: a peer that answers nonsense quickly is no peer."""
        if server.fills:
            # What a case does not keep cached, or writes, has its connections to the database opened by this.
            warm = case.keys if case.cached and case.writes < 100 else min(case.keys, WARM_KEYS)
            plan = dataclasses.replace(case, keys=warm, connections=64)
            loads.own(self.world, self.tools, server, plan, 0, None, 0)
        if server.speaks == "http" and case.writes < 100:
            status, value = _get(server, case, 0)
            if status != 200 or len(value) != case.value_bytes:
                raise Failed(f"it answered {status} and {len(value)} bytes to a GET of {case.value_bytes}")

    def _closed(self, server, case, load_core):
        seconds = self._seconds(case)
        if server.speaks == "postgres":
            return loads.pgbench(self.world, self.tools, self.database, case, seconds)
        self._ready(server, case)
        cpu = server.cpu()
        if server.speaks == "redis":
            seen = loads.redis_benchmark(self.world, self.tools, server, case, seconds, load_core)
            # There was a trial run before the one that counts.
            cpu = seen.pop("cpu_before")
        elif case.kind == "lone":
            # wrk mends its percentiles for whom it left out, and so shifts them; pgbench does not.
            seen = loads.own(self.world, self.tools, server, case, seconds, load_core, 0)
        else:
            seen = loads.wrk(self.world, self.tools, server, case, seconds, load_core)
        return {**seen, **_cpu(cpu, server.cpu(), seen)}

    def _bulk(self, server, case, _):
        try:
            loads.bulk(server, dataclasses.replace(case, keys=WARM_LINES, prefix=WARM_PREFIX))
            cpu = server.cpu()
            seen = loads.bulk(server, case)
            return {**seen, **_cpu(cpu, server.cpu(), seen)}
        finally:
            # The next one's rows are to be new, too.
            for prefix in (case.prefix, WARM_PREFIX):
                self.database.sql(f"DELETE FROM kv_store WHERE key LIKE '{prefix}%'", case.database)

    def _open(self, server, case, load_core, rate):
        self._ready(server, case)
        cpu = server.cpu()
        seen = loads.own(self.world, self.tools, server, case, self.seconds, load_core, rate)
        return {**seen, "wanted_rate": rate, **_cpu(cpu, server.cpu(), seen)}

    def _half_of_capacity(self, case, peer):
        name = cases.CAPACITY[case.name]
        capacity = self.results.get(name, {}).get("peers", {}).get(peer)
        if capacity is None:
            capacity = [self._cell(cases.BY_NAME[name], peer)]
            self.results[name] = self.results.get(name) or {"title": "", "kind": "hidden", "peers": {}}
            self.results[name]["peers"][peer] = capacity
        rates = [seen["rate"] for seen in capacity if "rate" in seen]
        if not rates:
            raise Failed("its capacity is not known")
        return int(statistics.median(rates) / 2)

    def _memory(self, server, case, _):
        before = 0
        if server.speaks == "redis":
            # It was filled when it was started: it is emptied by starting another.
            empty = servers.Start(self.world, self.tools, self.database, dataclasses.replace(case, keys=0), None, {})
            before = servers.redis(empty).resident_bytes()
        else:
            # What comes with the first requests is not the entries'.
            warm = dataclasses.replace(case, keys=WARM_KEYS)
            loads.own(self.world, self.tools, server, warm, 0, None, 0)
            before = server.resident_bytes()
            loads.own(self.world, self.tools, server, case, 0, None, 0)
        grown = server.resident_bytes() - before
        key_and_value = len(case.prefix) + 12 + case.value_bytes
        counted = case.keys - (WARM_KEYS if server.fills else 0)
        return {"bytes": grown / counted - key_and_value, "count": case.keys}

    def _idle(self, server, case, _):
        links = []
        try:
            # The first ones bring what is there once, however many come.
            links += [_keep_alive(server) for _ in range(100)]
            before = server.resident_bytes()
            links += [_keep_alive(server) for _ in range(case.connections)]
            time.sleep(SETTLE_SECONDS)
            return {"bytes": (server.resident_bytes() - before) / case.connections, "count": case.connections}
        finally:
            for link in links:
                link.close()


def _cpu(before, after, seen):
    """What a server took of the processor between two looks at it, for what the load has seen."""
    user, system = after[0] - before[0], after[1] - before[1]
    per_request = 1e6 / max(seen["requests"], 1)
    return {
        "user_us": user * per_request,
        "system_us": system * per_request,
        # Of the seconds that the load has counted: before them it prepares its requests, and the server has nothing to do.
        "server_cores": (user + system) / seen["seconds"],
        # What it would be if the load, or another program, had not been in the way.
        "per_core": seen["requests"] / (user + system) if user + system else None,
    }


def _request(server, case, number):
    path = server.get % f"{case.prefix}{number:012}"
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode()


def _get(server, case, number):
    link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        link.request("GET", server.get % f"{case.prefix}{number:012}")
        answer = link.getresponse()
        return answer.status, answer.read()
    finally:
        link.close()


def _hit(server, case):
    """The very bytes that hotrow answers to a hit."""
    if _get(server, case, 0)[0] != 200:
        raise Failed(f"there is no row {case.prefix}000000000000")
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as link:
        link.sendall(_request(server, case, 0))
        return _receive(link, case.value_bytes)


def _receive(link, value_bytes=None):
    """One answer. Without a length it is small, and comes in one piece or two."""
    got = b""
    while b"\r\n\r\n" not in got or (value_bytes and len(got.partition(b"\r\n\r\n")[2]) < value_bytes):
        more = link.recv(1 << 20)
        if not more:
            raise Failed("the server has closed the connection")
        got += more
    return got


def _keep_alive(server):
    """A connection that has had one answer and stays."""
    link = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    if server.speaks == "redis":
        link.sendall(b"PING\r\n")
        link.recv(64)
    else:
        link.sendall(_request(server, cases.BY_NAME["idle"], 0))
        _receive(link)
    return link

