"""A run's results for people: tables on the terminal, and benches/REPORT.md with its plots on one page. Reads results;
measures nothing."""

import datetime
import json

from . import cases, plot, targets
from .machine import QUIET
from .servers import PEERS

# What a column shows, from what figure, and how.
COLUMNS = [
    ("p50 us", "p50", lambda value: plot.number(value)),
    ("p99 us", "p99", lambda value: plot.number(value)),
    ("p99.9 us", "p999", lambda value: plot.number(value)),
    ("user us", "user_us", lambda value: f"{value:.2f}"),
    ("system us", "system_us", lambda value: f"{value:.2f}"),
    ("its cores", "server_cores", lambda value: f"{value:.2f}"),
    ("per core s", "per_core", lambda value: plot.number(value)),
]
CLIENT_BOUND = 0.9


def _rows(case):
    """Heads and rows of one case, and the peers that failed."""
    results = {"case": case}
    own = targets.median(results, "case", "hotrow")
    memory = case["kind"] in ("entries", "idle")
    # Where each is asked for half of what it can, rates are no result.
    compared = ["hotrow / it"] if case["kind"] != "open" else []
    heads = ["peer", "bytes each"] if memory else ["peer", "requests/s", "lowest-highest", *compared]
    columns = [] if memory else COLUMNS
    columns = [c for c in columns if any(targets.median(results, "case", p, c[1]) is not None for p in case["peers"])]
    rows, failed = [], []
    for peer, rounds in case["peers"].items():
        failed += [(peer, seen["failed"]) for seen in rounds if "failed" in seen]
        figure = "bytes" if memory else "rate"
        found = [value for value in targets.figures(results, "case", peer, figure) if value is not None]
        if not found:
            continue
        middle = targets.median(results, "case", peer, figure)
        if memory:
            rows.append([peer, plot.number(middle)])
            continue
        row = [peer, f"{middle:,.0f}", f"{min(found):,.0f}-{max(found):,.0f}"]
        row += [f"{own / middle:.2f}" if own else ""] if compared else []
        for _, name, show in columns:
            value = targets.median(results, "case", peer, name)
            row.append("" if value is None else show(value))
        rows.append(row)
    return heads + [head for head, _, _ in columns], rows, failed


def _aligned(heads, rows):
    widths = [max(len(line[i]) for line in [heads, *rows]) for i in range(len(heads))]
    lines = [[cell.ljust(widths[0]) if i == 0 else cell.rjust(widths[i]) for i, cell in enumerate(line)]
             for line in [heads, *rows]]
    return ["  ".join(line).rstrip() for line in lines]


def _markdown(heads, rows):
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for row in rows:
        cells = [f"**{cell}**" if row[0] == "hotrow" and cell else cell for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def table(case):
    heads, rows, failed = _rows(case)
    lines = ["", case["title"], *("  " + line for line in _aligned(heads, rows))]
    lines += [f"  {peer} FAILED: {reason}" for peer, reason in failed]
    return "\n".join(lines)


def _verdict_rows(results):
    heads = ["what", "at least", "then on to", "measured", "lowest-highest", "per core second", "the limit's", ""]
    rows = []
    for verdict, limit in zip(targets.judge(results), targets.limits(results)):
        target = verdict.target
        sign = "<= " if target.less_is_better else ""
        bounds = [f"{sign}{bound:,g}" for bound in (target.bound, target.then)]
        measured = ["", ""]
        if verdict.value is not None:
            show = (lambda value: f"{value:,.0f}") if target.peer is None else (lambda value: f"{value:.2f}")
            measured = [show(verdict.value), f"{show(verdict.low)}-{show(verdict.high)}"]
        per_core = "" if verdict.per_core is None else f"{verdict.per_core:.2f}"
        rows.append([target.what, *bounds, *measured, per_core if target.pinned else "-", "-" if limit is None else f"{limit:.2f}", verdict.words])
    return heads, rows


def verdicts(results):
    return "\n".join(["", "where hotrow is to be", *("  " + line for line in _aligned(*_verdict_rows(results)))])


# The page.


def write(run, folder):
    """Writes the page, its plots and the results that they show; gives the paths."""
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    drawn = {name: draw(run["cases"]) for name, draw in PLOTS.items()}
    drawn = {name: svg for name, svg in drawn.items() if svg}
    for name in PLOTS:
        (plots / f"{name}.svg").unlink(missing_ok=True)
    for name, svg in drawn.items():
        (plots / f"{name}.svg").write_text(svg)
    (folder / "report.json").write_text(json.dumps(run, indent=1) + "\n")
    (folder / "REPORT.md").write_text(page(run, drawn))
    return [folder / "REPORT.md", folder / "report.json", *(plots / f"{name}.svg" for name in drawn)]


def _bars(results, title, unit, names, figure="rate"):
    groups = []
    for heading, name in names:
        rows = []
        for peer in results.get(name, {}).get("peers", {}):
            found = [value for value in targets.figures(results, name, peer, figure) if value is not None]
            if found:
                rows.append((peer, targets.median(results, name, peer, figure), min(found), max(found)))
        if rows:
            groups.append((heading, sorted(rows, key=lambda row: -row[1])))
    return plot.bars(title, unit, groups) if groups else None


def _lines(results, title, unit, steps, figure="rate", factor=None, logarithmic=False):
    steps = [(label, name) for label, name in steps if name in results]
    peers = dict.fromkeys(peer for _, name in steps for peer in results[name]["peers"])
    series = []
    for peer in peers:
        row = [targets.median(results, name, peer, figure) for _, name in steps]
        if factor:
            row = [value and value * factor(name) for value, (_, name) in zip(row, steps)]
        # One point is no line: that is in the tables.
        if sum(value is not None for value in row) > 1:
            series.append((peer, row))
    labels = [label for label, _ in steps]
    return plot.lines(title, unit, labels, series, logarithmic) if series else None


CONNECTIONS = [(f"{n:,} connections" if n > 1 else "1 connection", f"get-{n}") for n in (1, 64, 256, 1000)]
SIZES = [("16 B", "get-16B"), ("100 B", "get-64"), ("1 KiB", "get-1KiB"), ("16 KiB", "get-16KiB"), ("256 KiB", "get-256KiB")]
WRITES = [("100,000 keys, 64 connections", "put-64"), ("one key, 64 connections", "put-hot")]
MIXES = [("uncached GET of 1,000,000 rows", "miss-64"), ("95 % GET, 5 % PUT", "mix-95"), ("50 % GET, 50 % PUT", "mix-50")]
PIPELINED = [("", "get-64-p16")]
PLOTS = {
    "connections": lambda r: _lines(r, "Cached GET", "requests a second, one core for the server", CONNECTIONS),
    "pipelined": lambda r: _bars(r, "Cached GET, 16 pipelined, 64 connections", "requests a second, one core for the server", PIPELINED),
    "sizes": lambda r: _lines(r, "Cached GET by size of the value, 64 connections", "megabytes of values a second, one core for the server (logarithmic)",
                              SIZES, factor=lambda name: cases.BY_NAME[name].value_bytes / 1e6, logarithmic=True),
    "writes": lambda r: _bars(r, "Durable PUT of 100 bytes", "requests a second, nothing pinned", WRITES),
    "database": lambda r: _bars(r, "Reads of the database, and mixes", "requests a second, nothing pinned, 64 connections", MIXES),
    "latency": lambda r: _bars(r, "Cached GET at half of each one's capacity, open load", "latency from the moment it was due: the 99.9th percentile, microseconds",
                               [("", "open-get")], "p999"),
}
SECTIONS = [
    ("Reads from memory", ["connections", "pipelined"], ["get-1", "get-64", "get-256", "get-1000", "get-64-p16", "get-2-loops"]),
    ("Sizes", ["sizes"], ["get-16B", "get-1KiB", "get-16KiB", "get-256KiB"]),
    ("Writes", ["writes"], ["put-64", "put-hot", "put-1", "bulk"]),
    ("Misses and mixes", ["database"], ["miss-64", "mix-95", "mix-50"]),
    ("Latency", ["latency"], ["open-get", "open-put"]),
    ("Memory", [], ["entries", "idle"]),
]


def page(run, drawn):
    machine, results = run["machine"], run["cases"]
    date = datetime.datetime.fromisoformat(run["started"]).date()
    lines = [
        "# How fast hotrow is, beside its peers",
        "",
        f"Written by `tools/bench/run` from its run of {date} at commit {machine['hotrow']}. Absolute figures belong to this machine; what counts",
        "are the **ratios**: all servers were measured in one run, in turn, and never two at once.",
        "",
    ]
    if not run["whole"]:
        lines += ["**This run was not a whole one: its figures show that the measurement works, not how fast anything is.**", ""]
    if machine["load_average_before"] > QUIET:
        lines += ["**The machine was busy with something else when this run began: its figures are not to be relied on.**", ""]
    lines += ["## Where it is to be", "", *_verdict_page(results), ""]
    for heading, plots, names in SECTIONS:
        names = [name for name in names if name in results]
        if not names:
            continue
        lines += [f"## {heading}", ""]
        lines += [line for name in plots if name in drawn for line in (f"![{name}](plots/{name}.svg)", "")]
        for name in names:
            heads, rows, failed = _rows(results[name])
            lines += [f"{results[name]['title'][0].upper()}{results[name]['title'][1:]} (`{name}`):", ""]
            lines += _markdown(heads, rows) + [""]
            lines += [f"{peer} failed: {reason}\n" for peer, reason in failed]
    lines += _method(run) + _machine(run) + _caveats(results)
    return "\n".join(lines)


def _verdict_page(results):
    heads, rows = _verdict_rows(results)
    lines = ["| " + " | ".join(head or "verdict" for head in heads) + " |", "|---|---:|---:|---:|---:|---:|---:|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return lines + [
        "",
        "A ratio is the median of those of the rounds; \"lowest-highest\" are theirs. Only that of user times is of all rounds together. The hit",
        "ratio and the allocations of a cached GET are no matter of time: they are measured apart from this.",
        "",
        f"Where a server has a core of its own and kept less than {CLIENT_BOUND} of it busy, the load program was the limit, if nobody else took that",
        "core: requests a second are then those that the load could send, and their ratio is none of the two servers. \"Per core second\" is",
        "the ratio of requests in a second of the servers' own processor time: what each takes for a request. It is no verdict, and not exact,",
        "for a server that waits for its load finds fewer requests at a time.",
        "",
        "\"The limit's\" is what `epoll`, or `libpq`, reaches in hotrow's place, in the same rounds: an event loop, and where there is the",
        "database threads that wait for it, with nothing else to do. A bound beyond it is beyond such a server on this machine.",
        "",
        f"In this run the load was the limit {_limited(results)}.",
    ]


def _limited(results):
    """Those of the comparisons above whose load was the limit."""
    found = {}
    for target in (target for target in targets.TARGETS if target.pinned):
        for peer in ("hotrow", target.peer):
            cores = targets.median(results, target.case, peer, "server_cores")
            if cores is not None and cores < CLIENT_BOUND:
                found.setdefault(target.case, {})[peer] = f"{peer} ({cores:.2f})"
    return "; ".join(f"in `{case}` of {', '.join(peers.values())}" for case, peers in found.items()) or "of none"


def _method(run):
    seen = {peer for case in run["cases"].values() for peer in case["peers"]}
    peers = [f"- `{name}`: {peer.what}" for name, peer in PEERS.items() if name in seen]
    left_out = [f"- `{name}`: {reason}" for name, reason in run["left_out"].items()]
    turns = {name: case.get("seconds", run["seconds"]) for name, case in run["cases"].items()}
    longer = "".join(f", `{name}` of {seconds} s" for name, seconds in turns.items() if seconds != run["seconds"])
    return [
        "## Method",
        "",
        f"{run['rounds']} rounds of {run['seconds']} s{longer}; each peer is started, filled, asked for one answer, loaded and stopped, before the next one is;",
        "the order turns from round to round. Figures are medians of the rounds.",
        "",
        "- Reads from memory: the server has one core, the load another; 10,000 keys, drawn at random, values of 100 bytes where nothing else",
        "  is said. `get-2-loops` and all that has to do with the database: nothing is pinned, all share the cores, and wrk has two threads.",
        "- Load: wrk with keys drawn before the start (`tools/bench/wrk.lua`); redis-benchmark and pgbench for those that speak no HTTP. The",
        "  latencies of a closed load are those of a server at its limit, and leave out whoever would have come meanwhile; `open-*` send at a",
        "  fixed rate and count from the moment when a request was due.",
        "- `user us`, `system us`: what the server's processes took of the processor for a request; `its cores`: how many cores that was",
        f"  while it was loaded. Under {CLIENT_BOUND} where it has one core, the load was the limit and not the server; `per core s`, requests in a",
        "  second of its own processor time, then says more than requests a second do.",
        "- Connections to the database have been used before anything is counted: hotrow and axum read or write some keys first, and what",
        "  pgbench does in its first second is left out. A new backend has its statement to plan, and its caches to fill.",
        "- hotrow, axum and pgbench share one PostgreSQL (`fsync=on`, `synchronous_commit=on`, `autovacuum=off`, else its defaults), checkpointed, vacuumed and",
        "  analyzed before each turn; every page that will be written has been written once since, for the first time costs more. hotrow runs with its defaults, but for one event loop where it has one core, and a cache that is large enough, or 0.",
        "",
        *peers,
        *(["", "Left out:", "", *left_out] if left_out else []),
        "",
    ]


def _machine(run):
    facts = run["machine"]
    return [
        "## Machine",
        "",
        f"- {facts['cpu']}, {facts['cores']} cores{', virtual' if facts['virtual'] else ''}, {facts['memory_gib']} GiB; Linux {facts['kernel']}; {facts['file_system']}",
        *(["- the server and its load had two threads of one core: there was no other"] if facts.get("pins_share_a_core") else []),
        f"- `fdatasync` of 8 KiB: {facts['fdatasync_8k_us']} us in the median",
        f"- load average before the run {facts['load_average_before']:.2f}; the run took {facts['measured_seconds'] // 60} min {facts['measured_seconds'] % 60} s",
        *(f"- {name}: {version}" for name, version in run["versions"].items()),
        "",
    ]


def _caveats(results):
    noise = [
        f"  That alone gives the ratio of user times above, {verdict.value:.2f}, a standard deviation of up to {verdict.deviation:.2f}."
        for verdict in targets.judge(results)
        if verdict.deviation is not None
    ]
    return ["## Caveats", "", *CAVEATS, *noise, ""]


CAVEATS = [
    "- A shared virtual machine: absolute figures waver by a tenth and more from minute to minute. Single ratios do so too: see their range.",
    "- Everything is on the loopback. A network would add the same to all, and narrow every ratio.",
    "- `epoll`, `may` and `nginx` do less than hotrow: they look nothing up and can change nothing. So does `libpq`, which reads and writes",
    "  the same rows, but knows nothing of what it has read or written. They are limits, not rivals.",
    "- Redis and pgbench are measured by their own programs in their own protocols, which cost less to speak than HTTP.",
    "- Redis durable and PostgreSQL durable are not the same: one appends to one file, the other keeps a table that SQL can query.",
    "- Anything else that runs on the machine falls on hotrow more than on the others where there is a database: it has a few threads, and the",
    "  scheduler shares the cores out among threads; pgbench and the axum stack have dozens of PostgreSQL's processes run for them.",
    "- A disk that lies about `fdatasync`, as virtual ones may, makes all writes faster, and the processor's share of them larger.",
    "- What part of its processor time a program spends in user space the kernel only samples, at its ticks, 10 ms apart or less.",
]
