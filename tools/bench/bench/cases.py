"""What is measured: one `Case` each. Reads from memory have a core for the server and one for the load; where there is
a database nothing is pinned, all share the cores."""

import dataclasses

# Rows of the table, and the bytes of their values.
ROWS = 1_000_000
VALUE_BYTES = 100
READERS = ("epoll", "hotrow", "before", "may", "nginx", "axum", "redis")


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    title: str
    peers: tuple
    # closed: as many requests as get answers; lone: the same from one connection, for the latency; open: a fixed rate;
    # bulk: new rows in one request a connection; entries, idle: memory.
    kind: str = "closed"
    connections: int = 64
    pipeline: int = 1
    # How many of a hundred requests are PUTs.
    writes: int = 0
    keys: int = 10_000
    prefix: str = "key:"
    draw: str = "uniform"
    value_bytes: int = VALUE_BYTES
    database: str = "postgres"
    cached: bool = True
    # A core for the server and one for the load.
    pinned: bool = False
    # Of the server; 0 leaves the choice to it.
    threads: int = 0
    # How many times as long as others a turn takes.
    times_as_long: int = 1

    @property
    def durable(self):
        return self.writes > 0


def _reads(connections, peers=READERS, **more):
    name = f"get-{connections}"
    title = f"cached GET, {connections:,} connection{'s' if connections > 1 else ''}"
    return dict(name=name, title=title, peers=peers, connections=connections, pinned=True, threads=1, **more)


def _size(name, value_bytes, keys, prefix):
    return Case(
        f"get-{name.replace(' ', '')}",
        f"cached GET of {name}, 64 connections",
        ("epoll", "hotrow", "before", "nginx", "axum", "redis"),
        keys=keys,
        prefix=prefix,
        value_bytes=value_bytes,
        pinned=True,
        threads=1,
    )


CASES = [
    Case(**_reads(1)),
    # Its user time is counted by the ticks that fall into it, a seventh of all: two seconds have too few.
    Case(**_reads(64, (*READERS, "webdis"), times_as_long=5)),
    Case(**_reads(256)),
    Case(**_reads(1000)),
    Case(**{**_reads(64), "name": "get-64-p16", "title": "cached GET, 64 connections, 16 pipelined"}, pipeline=16),
    Case("get-2-loops", "cached GET, two threads, nothing pinned", ("hotrow", "before", "nginx"), threads=2),
    _size("16 B", 16, 1000, "16B:"),
    _size("1 KiB", 1 << 10, 1000, "1Ki:"),
    _size("16 KiB", 16 << 10, 1000, "16K:"),
    _size("256 KiB", 256 << 10, 64, "256:"),
    Case(
        "put-64",
        "PUT, 100,000 keys, 64 connections",
        ("libpq", "hotrow", "before", "axum", "pgbench", "redis-aof", "webdis-aof"),
        writes=100,
        keys=100_000,
    ),
    Case(
        "put-hot",
        "PUT, one key, 64 connections",
        ("libpq", "hotrow", "before", "axum", "pgbench", "redis-aof"),
        writes=100,
        keys=1,
    ),
    Case(
        "put-1",
        "PUT, 100,000 keys, 1 connection",
        ("libpq", "hotrow", "before", "axum", "pgbench", "redis-aof"),
        kind="lone",
        writes=100,
        keys=100_000,
        connections=1,
    ),
    Case(
        "bulk",
        "bulk load of 300,000 new rows on 2 connections (PUT /kv)",
        ("hotrow", "before"),
        kind="bulk",
        connections=2,
        keys=300_000,
        prefix="blk:",
    ),
    Case(
        "miss-64",
        "uncached GET of 1,000,000 rows, 64 connections",
        ("libpq", "hotrow", "before", "axum", "pgbench"),
        keys=ROWS,
        cached=False,
    ),
    Case(
        "mix-95",
        "95 % GET, 5 % PUT, zipf 0.99 of 20,000 keys, 64 connections",
        ("libpq", "hotrow", "before", "axum"),
        writes=5,
        keys=20_000,
        draw="zipf:0.99",
    ),
    Case(
        "mix-50",
        "50 % GET, 50 % PUT, zipf 0.99 of 20,000 keys, 64 connections",
        ("libpq", "hotrow", "before", "axum"),
        writes=50,
        keys=20_000,
        draw="zipf:0.99",
    ),
    Case(
        "open-get",
        "cached GET at half of each one's capacity, open load",
        ("epoll", "hotrow", "before", "may", "nginx", "axum"),
        kind="open",
        pinned=True,
        threads=1,
    ),
    Case(
        "open-put",
        "PUT at half of each one's capacity, open load",
        ("hotrow", "before", "axum"),
        kind="open",
        writes=100,
        keys=100_000,
    ),
    Case(
        "entries",
        "memory of 1,000,000 cached entries of 16 + 64 bytes",
        ("hotrow", "before", "redis"),
        kind="entries",
        keys=ROWS,
        prefix="mem:",
        value_bytes=64,
        database="memory",
        threads=1,
    ),
    Case(
        "idle",
        "memory of 10,000 idle keep-alive connections",
        ("hotrow", "before", "nginx", "redis"),
        kind="idle",
        connections=10_000,
        threads=1,
    ),
]
BY_NAME = {case.name: case for case in CASES}
# Where the capacity that an open load takes half of is measured.
CAPACITY = {"open-get": "get-64", "open-put": "put-64"}
# --quick has less to fill and to open.
QUICK_ENTRIES = 100_000
QUICK_IDLE = 2_000
QUICK_BULK = 40_000
