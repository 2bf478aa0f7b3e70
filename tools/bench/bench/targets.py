"""The ratios that hotrow is to reach: what is divided by what, the bound that must hold ("at least") and the next one
("then on to"). Pure: results in, rows out."""

import dataclasses
import math
import statistics

from . import cases


@dataclasses.dataclass(frozen=True)
class Target:
    what: str
    case: str
    # Of hotrow's figure by this peer's; None: hotrow's figure itself.
    peer: str
    bound: float
    then: float
    figure: str = "rate"
    less_is_better: bool = False
    unit: str = ""
    # Where the peer's figure is not this case's.
    peer_case: str = ""

    @property
    def pinned(self):
        """Has each server a core of its own, and the load another, which may be the slower one?"""
        return self.figure == "rate" and self.case in cases.BY_NAME and cases.BY_NAME[self.case].pinned

    @property
    def ticks(self):
        """Is it counted by ticks? They are few: all rounds together give the ratio then."""
        return self.figure == "user_us"


TARGETS = [
    Target("cached GET / C epoll limit, requests a second", "get-64", "epoll", 0.97, 1.00),
    Target("cached GET, 16 pipelined / C epoll limit", "get-64-p16", "epoll", 0.80, 0.90),
    Target("cached GET, 16 pipelined / nginx", "get-64-p16", "nginx", 7, 8),
    Target("cached GET, 16 pipelined / Redis", "get-64-p16", "redis", 1.0, 1.1),
    Target("user time of a cached GET / may_minihttp's static answer", "get-64", "may", 1.0, 0.6, "user_us", True),
    Target("instructions of a cached GET in user space", "instructions", None, 1500, 900, "count", True),
    Target("durable PUT / pgbench upsert", "put-64", "pgbench", 3, 4),
    Target("durable PUT / axum stack", "put-64", "axum", 4, 6),
    Target("durable PUT / Redis `appendfsync always`", "put-64", "redis-aof", 1.0, 1.3),
    Target("bulk load, rows a second / PUT, 64 connections", "bulk", "hotrow", 5, 10, peer_case="put-64"),
    Target("latency of a PUT, 1 connection / pgbench, 1 connection", "put-1", "pgbench", 1.4, 1.2, "p50", True),
    Target("uncached GET / pgbench SELECT", "miss-64", "pgbench", 1.3, 2),
    Target("uncached GET / axum stack", "miss-64", "axum", 1.8, 3),
    Target("95 % reads, 5 % writes (zipf) / axum stack", "mix-95", "axum", 1.5, 2),
    Target("memory of a cached entry over key and value", "entries", None, 64, 40, "bytes", True, "bytes"),
    Target("memory of an idle keep-alive connection", "idle", None, 512, 256, "bytes", True, "bytes"),
]


# At each of its ticks the kernel looks whether a program is in user space. No kernel's are longer than this.
TICK_SECONDS = 0.01


@dataclasses.dataclass(frozen=True)
class Verdict:
    target: Target
    value: float = None
    low: float = None
    high: float = None
    # The standard deviation that comes of its being counted by ticks.
    deviation: float = None
    # The ratio of requests in a second of the servers' own processor time, where they are pinned.
    per_core: float = None

    @property
    def words(self):
        if self.value is None:
            return "not measured"
        if self._holds(self.target.then):
            return "reached, and the next bound too"
        return "reached" if self._holds(self.target.bound) else "NOT reached"

    def _holds(self, bound):
        return self.value <= bound if self.target.less_is_better else self.value >= bound


# Servers of hotrow's shape that do only what such a one must, each the limit of its cases: what none can be far above.
LIMITS = ("epoll", "libpq")


def figures(results, case, peer, figure):
    """A figure in every round; None in the rounds that have none."""
    rounds = results.get(case, {}).get("peers", {}).get(peer, [])
    return [seen.get(figure) for seen in rounds]


def median(results, case, peer, figure="rate"):
    found = [value for value in figures(results, case, peer, figure) if value is not None]
    return statistics.median(found) if found else None


def judge(results, subject="hotrow"):
    return [_verdict(results, target, subject) for target in TARGETS]


def limits(results):
    """What the limit itself reaches at each target: a bound beyond that is beyond servers of its shape on this machine. None where
    it was not measured, or is what hotrow is compared with."""
    return [_limit(results, target) for target in TARGETS]


def _limit(results, target):
    if target.peer is None or target.peer in LIMITS:
        return None
    measured = results.get(target.case, {}).get("peers", {})
    return next((_verdict(results, target, limit).value for limit in LIMITS if limit in measured), None)


def _verdict(results, target, subject):
    found = _ratios(results, target, subject, target.figure)
    if not found:
        return Verdict(target)
    if target.ticks:
        own, other = (_user_time(results, target.case, peer) for peer in (subject, target.peer))
        ratio = own[0] / other[0]
        return Verdict(target, ratio, min(found), max(found), ratio * math.hypot(own[1], other[1]))
    per_core = _ratios(results, target, subject, "per_core") if target.pinned else []
    per_core = statistics.median(per_core) if per_core else None
    return Verdict(target, statistics.median(found), min(found), max(found), per_core=per_core)


def _ratios(results, target, subject, figure):
    """Round by round, where both have shared the same minute of the machine. Without a peer the figures themselves."""
    own = figures(results, target.case, subject, figure)
    if not target.peer:
        return [value for value in own if value is not None]
    other = figures(results, target.peer_case or target.case, target.peer, figure)
    return [a / b for a, b in zip(own, other) if a is not None and b]


def _user_time(results, case, peer):
    """User time a request over all rounds, and its standard deviation as a part of it."""
    rounds = [seen for seen in results[case]["peers"][peer] if "user_us" in seen]
    requests = sum(seen["requests"] for seen in rounds)
    user, system = (sum(seen[name] * seen["requests"] for seen in rounds) / 1e6 for name in ("user_us", "system_us"))
    # Each tick falls into user space with the same chance, so their number there is binomial.
    share = user / (user + system) if user else 0
    return user / requests, math.sqrt((1 - share) / max(user / TICK_SECONDS, 1))
