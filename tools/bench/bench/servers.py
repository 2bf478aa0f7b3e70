"""hotrow and its peers: how each is started for a case, and filled. A peer is a function that takes a `Start` and gives
a `Server`; `PEERS` has them all, with what each needs to be there. Knows no load and no result."""

import dataclasses
import json
import os
import socket

from .build import ROOT
from .processes import Failed, accepts, free_port, until

# Connections of the axum stack to PostgreSQL. Of 4, 8, 16, 32 and 64, 16 was the best for misses on 2 cores; 32 and 64
# wrote a tenth more, within the noise. fewer were slower at both.
POOL = 16
# nginx's configuration takes no longer string.
NGINX_STRING_BYTES = 2048
NO_LIMIT = 1_000_000_000
# Threads of rows-limit, each with a connection: hotrow's own default. On 2 cores one thread was slower at misses and no faster
# at writes, and three were slower at writes.
LIMIT_THREADS = 2


@dataclasses.dataclass
class Start:
    """What a server is to be started for. `hits` has hotrow's own answer to a hit, by the bytes of the value."""

    world: object
    tools: object
    database: object
    case: object
    cores: object
    hits: dict


@dataclasses.dataclass
class Server:
    port: int
    children: list
    # What it speaks: http, redis, or postgres (then nothing was started: pgbench is the client of the database).
    speaks: str = "http"
    get: str = "/kv/%s"
    put: str = "/kv/%s"
    # It has to be asked for every key once before it has them all in its memory.
    fills: bool = False

    def cpu(self):
        times = [child.cpu() for child in self.children]
        return sum(user for user, _ in times), sum(system for _, system in times)

    def resident_bytes(self):
        return sum(child.resident_bytes() for child in self.children)


def _ready(start, name, argv, port, **how):
    child = start.world.start(name, argv, **how)
    until(accepts(port), f"{name} does not start", child)
    return child


def hotrow(start, program="hotrow"):
    case, port = start.case, free_port()
    argv = [start.tools.paths[program], "--listen", f"127.0.0.1:{port}", "--admin-listen", "off", "--log-level", "warn"]
    argv += ["--database-url", start.database.url(case.database)]
    # Ten thousand idle connections are to stay.
    argv += ["--idle-timeout", "30m", "--cache-bytes", "1GiB" if case.cached else "0"]
    if case.threads:
        argv += ["--event-loops", case.threads]
    child = _ready(start, program, argv, port, cores=start.cores)
    return Server(port, [child], fills=True)


def before(start):
    return hotrow(start, "before")


def axum(start):
    case, port = start.case, free_port()
    threads = case.threads or os.cpu_count()
    cache = 1 << 30 if case.cached else 0
    argv = [start.tools.paths["axum-stack"], port, start.database.url(case.database), threads, POOL, cache]
    return Server(port, [_ready(start, "axum", argv, port, cores=start.cores)], fills=True)


def epoll(start):
    port = free_port()
    answer = start.world.folder("epoll") / "answer"
    answer.write_bytes(start.hits[start.case.value_bytes])
    argv = [start.tools.paths["epoll-limit"], port, answer]
    return Server(port, [_ready(start, "epoll", argv, port, cores=start.cores)])


def libpq(start):
    case, port = start.case, free_port()
    answer = start.world.folder("libpq") / "answer"
    answer.write_bytes(start.hits[case.value_bytes])
    statement, session = ROOT / "sql" / ("set.sql" if case.writes else "read.sql"), ROOT / "sql" / "session.sql"
    url = start.database.url(case.database)
    argv = [start.tools.paths["rows-limit"], port, answer, url, LIMIT_THREADS, session, statement]
    return Server(port, [_ready(start, "libpq", argv, port)], fills=True)


def may(start):
    port = free_port()
    argv = [start.tools.paths["may-static"], port, start.case.value_bytes]
    return Server(port, [_ready(start, "may", argv, port, cores=start.cores)])


def nginx(start):
    case, port, folder = start.case, free_port(), start.world.folder("nginx")
    value = "v" * case.value_bytes
    if case.value_bytes <= NGINX_STRING_BYTES:
        answer = f'return 200 "{value}";'
    else:
        (folder / "value").write_text(value)
        answer = f"root {folder}; try_files /value =404; open_file_cache max=8 inactive=1h; open_file_cache_valid 1h;"
    temporary = [f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")]
    (folder / "nginx.conf").write_text(
        f"""
        {"user root;" if os.geteuid() == 0 else ""}
        daemon off; pid {folder}/pid; error_log stderr error;
        worker_processes {case.threads or 1}; worker_rlimit_nofile 65536;
        events {{ worker_connections 16384; multi_accept on; }}
        http {{
            access_log off; sendfile on; tcp_nopush on; etag off; default_type "text/plain; charset=utf-8";
            keepalive_timeout 1h; keepalive_requests {NO_LIMIT}; {" ".join(temporary)}
            server {{
                listen 127.0.0.1:{port} backlog=4096{" reuseport" if case.threads > 1 else ""};
                add_header Cache-Status "nginx; hit"; add_header ETag '"1234"';
                location / {{ {answer} }}
            }}
        }}
        """
    )
    argv = [start.tools.paths["nginx"], "-e", "stderr", "-p", folder, "-c", folder / "nginx.conf"]
    return Server(port, [_ready(start, "nginx", argv, port, cores=start.cores)])


def redis(start, durable=False):
    case, port, folder = start.case, free_port(), start.world.folder("redis", on_disk=True)
    argv = [start.tools.paths["redis-server"], "--port", port, "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
    argv += ["--maxclients", "12000"]
    argv += ["--appendonly", "yes", "--appendfsync", "always"] if durable else ["--appendonly", "no"]
    child = _ready(start, "redis", argv, port, cores=start.cores)
    server = Server(port, [child], speaks="redis")
    if not durable:
        fill_redis(server, case)
    return server


def redis_aof(start):
    return redis(start, durable=True)


def webdis(start, durable=False):
    behind, port = redis(start, durable), free_port()
    config = {"redis_host": "127.0.0.1", "redis_port": behind.port, "http_host": "127.0.0.1", "http_port": port}
    config.update({"threads": start.case.threads or 2, "pool_size": 20, "daemonize": False, "verbosity": 0})
    config.update({"database": 0, "logfile": "/dev/null", "websockets": False})
    path = start.world.folder("webdis") / "webdis.json"
    path.write_text(json.dumps(config))
    child = _ready(start, "webdis", [start.tools.paths["webdis"], path], port, cores=start.cores)
    return Server(port, [child, *behind.children], get="/GET/%s.txt", put="/SET/%s")


def webdis_aof(start):
    return webdis(start, durable=True)


def pgbench(start):
    return Server(0, [], speaks="postgres")


def fill_redis(server, case):
    """Sets every key of the case, a thousand at a time."""
    value, good = b"v" * case.value_bytes, b"+OK\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as link:
        for first in range(0, case.keys, 1000):
            numbers = range(first, min(first + 1000, case.keys))
            keys = (f"{case.prefix}{number:012}".encode() for number in numbers)
            commands = [
                b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(key), key, len(value), value) for key in keys
            ]
            link.sendall(b"".join(commands))
            answers = b""
            while len(answers) < len(commands) * len(good):
                more = link.recv(65536)
                if not more:
                    raise Failed("redis has closed the connection while it was filled")
                answers += more
            if answers != good * len(commands):
                raise Failed(f"redis refused a key: {answers[:100]!r}")


@dataclasses.dataclass(frozen=True)
class Peer:
    start: object
    needs: tuple
    what: str


PEERS = {
    "hotrow": Peer(hotrow, ("hotrow",), "hotrow"),
    "before": Peer(before, ("before",), "another build of hotrow, given with --before"),
    "epoll": Peer(epoll, ("epoll-limit",), "the kernel's limit: an epoll loop in C that parses nothing, with one answer"),
    "libpq": Peer(libpq, ("rows-limit",), "the limit of what stands before PostgreSQL: such a loop in C, with two threads that send all that waits as hotrow's own statement, by libpq; it parses, keeps and puts in order nothing, has one answer, and where there are writes it takes every GET for a hit"),
    "may": Peer(may, ("may-static",), "may_minihttp, with one answer"),
    "nginx": Peer(nginx, ("nginx",), "nginx, with one answer (`return 200`; above 2 KiB a file)"),
    "axum": Peer(axum, ("axum-stack",), "axum, tokio-postgres with deadpool, moka: what one would write today, with the same routes and the same table"),
    "redis": Peer(redis, ("redis-server", "redis-benchmark"), "Redis in memory, in its own protocol"),
    "redis-aof": Peer(redis_aof, ("redis-server", "redis-benchmark"), "Redis with `appendfsync always`, its own protocol"),
    "webdis": Peer(webdis, ("redis-server", "webdis"), "Redis behind Webdis, over HTTP"),
    "webdis-aof": Peer(webdis_aof, ("redis-server", "webdis"), "Redis with `appendfsync always` behind Webdis, over HTTP"),
    "pgbench": Peer(pgbench, ("pgbench",), "pgbench: the upsert or the SELECT of one row, prepared, straight to PostgreSQL"),
}
