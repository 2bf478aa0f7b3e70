"""What of tools/bench/run needs no server: parsers, ratios, plots, the page, and that nothing started stays behind.

    python3 -m unittest discover --start-directory tools/bench/tests
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import unittest
from unittest import mock
from xml.etree import ElementTree

sys.dont_write_bytecode = True
BENCH = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(BENCH))

from bench import build, cases, database, loads, machine, main, measure, plot, processes, report, servers, targets  # noqa: E402


def case(kind="closed", **peers):
    rounds = {peer.replace("_", "-"): [{"rate": rate} for rate in rates] for peer, rates in peers.items()}
    return {"title": "some case", "kind": kind, "peers": rounds}


def verdict(results, what):
    return next(v for v in targets.judge(results) if v.target.what.startswith(what))


class Parsers(unittest.TestCase):
    def test_the_last_line_of_json_counts(self):
        seen = loads.parse_json('Running 1s test\n{"requests":500,"seconds":2.0,"errors":0,"p50":1.5}\n')
        self.assertEqual((seen["rate"], seen["p50"]), (250, 1.5))
        self.assertRaises(processes.Failed, loads.parse_json, "unable to connect\n")

    def test_redis_benchmark(self):
        output = (
            '"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"\n'
            '"GET key:__rand_int__","86956.52","0.30","0.10","0.287","0.4","0.511","1.0"\n'
        )
        self.assertEqual(loads.parse_redis_csv(output), {"rate": 86956.52, "p50": 287.0, "p99": 511.0})
        self.assertRaises(processes.Failed, loads.parse_redis_csv, "Could not connect\n")

    def test_pgbench_counts_the_seconds_after_the_first(self):
        output = (
            "progress: 1.0 s, 100.0 tps, lat 9.120 ms stddev 4.905, 3 failed\n"
            "progress: 2.1 s, 2000.0 tps, lat 9.440 ms stddev 4.987, 0 failed\n"
            "progress: 3.0 s, 3000.0 tps, lat 8.324 ms stddev 4.045, 0 failed\n"
            "progress: 4.0 s, 9000.0 tps, lat 8.324 ms stddev 4.045, 0 failed\n"
            "number of transactions actually processed: 14000\n"
            "number of failed transactions: 3 (0.021%)\n"
            "tps = 3500.000000 (without initial connection time)\n"
        )
        found = loads.parse_pgbench(output, 2)
        self.assertEqual((found["rate"], found["requests"], found["seconds"], found["errors"]), (2450, 4900, 2, 3))
        # Without failures older ones say nothing of them, and the last second may be without a line.
        found = loads.parse_pgbench("progress: 1.0 s, 10.0 tps, lat 1\nprogress: 2.0 s, 20.0 tps, lat 1\n", 2)
        self.assertEqual((found["rate"], found["requests"], found["errors"]), (20, 20, 0))
        for useless in ("connection refused\n", "progress: 1.0 s, 100.0 tps, lat 9.120 ms stddev 4.905\n"):
            self.assertRaises(processes.Failed, loads.parse_pgbench, useless, 2)

    def test_latencies_of_pgbench_are_those_of_the_same_seconds(self):
        ended = [10.9, 11.8, 12.0, 12.5, 13.8, 14.0]
        log = "".join(f"0 {i} {i * 100} 0 {int(at)} {round(at % 1 * 1e6):06}\n" for i, at in enumerate(ended))
        self.assertEqual(loads.parse_pgbench_log(log, 2), {"p50": 300, "p99": 400})
        for useless in ("", "0 1 100 0 10 900000\n"):
            self.assertRaises(processes.Failed, loads.parse_pgbench_log, useless, 2)


class Processor(unittest.TestCase):
    def test_cores_are_those_of_the_seconds_that_the_load_counted(self):
        found = measure._cpu((1.0, 2.0), (1.5, 3.0), {"requests": 30_000, "seconds": 2.0})
        self.assertEqual(found["server_cores"], 0.75)
        self.assertEqual(found["per_core"], 20_000)
        self.assertAlmostEqual(found["user_us"] + found["system_us"], 50)

    def test_without_ticks_nothing_is_said_of_a_core(self):
        self.assertIsNone(measure._cpu((1, 2), (1, 2), {"requests": 10, "seconds": 2.0})["per_core"])


class Ratios(unittest.TestCase):
    def test_a_ratio_is_the_median_of_those_of_the_rounds(self):
        # The second round was slow for both.
        results = {"get-64": case(hotrow=[100, 50, 99], epoll=[100, 50, 100])}
        found = verdict(results, "cached GET / C epoll")
        self.assertEqual((found.value, found.low, found.high), (1.0, 0.99, 1.0))
        self.assertEqual(found.words, "reached, and the next bound too")

    def test_the_bounds_are_bounds(self):
        for rate, words in [(96.9, "NOT reached"), (97, "reached"), (99.9, "reached"), (100, "reached, and")]:
            found = verdict({"get-64": case(hotrow=[rate], epoll=[100])}, "cached GET / C epoll")
            self.assertTrue(found.words.startswith(words), (rate, found.words))
        for count, words in [(65, "NOT reached"), (64, "reached"), (40, "reached, and")]:
            results = {"entries": {"title": "", "kind": "entries", "peers": {"hotrow": [{"bytes": count}]}}}
            self.assertTrue(verdict(results, "memory of a cached entry").words.startswith(words), count)

    def test_a_round_that_failed_is_left_out_and_a_peer_that_is_missing_too(self):
        results = {"get-64": case(hotrow=[100, 100], epoll=[200])}
        results["get-64"]["peers"]["epoll"].insert(0, {"failed": "it fell over"})
        self.assertEqual(verdict(results, "cached GET / C epoll").value, 0.5)
        self.assertEqual(verdict({}, "cached GET / C epoll").words, "not measured")

    def test_reads_are_compared_by_core_second_too_for_the_load_may_be_the_limit(self):
        results = {"get-64": case(hotrow=[100, 100], epoll=[100, 100])}
        for peer, cores in (("hotrow", 0.95), ("epoll", 0.6)):
            for seen in results["get-64"]["peers"][peer]:
                seen.update({"server_cores": cores, "per_core": seen["rate"] / cores})
        found = verdict(results, "cached GET / C epoll")
        self.assertEqual((found.value, found.words), (1.0, "reached, and the next bound too"))
        self.assertAlmostEqual(found.per_core, 0.6 / 0.95)
        shown = {row[0]: row[5] for row in report._verdict_rows(results)[1]}
        self.assertEqual(shown["cached GET / C epoll limit, requests a second"], "0.63")
        self.assertEqual(shown["cached GET, 16 pipelined / C epoll limit"], "", "not measured")
        self.assertEqual({shown[target.what] for target in targets.TARGETS if not target.pinned}, {"-"})
        self.assertEqual(report._limited(results), "in `get-64` of epoll (0.60)")
        self.assertIsNone(verdict({"get-64": case(hotrow=[1], epoll=[1])}, "cached GET / C epoll").per_core)
        self.assertEqual(report._limited({"get-64": case(hotrow=[1], epoll=[1])}), "of none")

    def test_the_ratio_of_user_times_is_that_of_all_rounds_together(self):
        # Rounds of one and of three million requests: 4 s of user time in 40 s, and 2 s in 20.
        hotrow = [{"user_us": 2.5, "system_us": 7.5, "requests": 1_000_000}, {"user_us": 0.5, "system_us": 9.5, "requests": 3_000_000}]
        may = [{"user_us": 1, "system_us": 9, "requests": 1_000_000}] * 2
        results = {"get-64": {"title": "", "kind": "closed", "peers": {"hotrow": hotrow, "may": may}}}
        found = verdict(results, "user time")
        self.assertEqual((found.value, found.low, found.high), (1.0, 0.5, 2.5))
        # 400 and 200 ticks of user time, nine times as many of system time.
        self.assertAlmostEqual(found.deviation, (0.9 / 400 + 0.9 / 200) ** 0.5)
        self.assertIn(f"1.00, a standard deviation of up to {found.deviation:.2f}", "".join(report._caveats(results)))
        self.assertNotIn("deviation", "".join(report._caveats({})))
        for seen in hotrow:
            seen["user_us"] = 0
        self.assertEqual(verdict(results, "user time").value, 0)

    def test_a_ratio_of_two_cases(self):
        results = {"bulk": case(hotrow=[100, 120]), "put-64": case(hotrow=[20, 20])}
        self.assertEqual(verdict(results, "bulk load").value, 5.5)

    def test_what_counts_instructions_is_understood(self):
        # The words of the tool itself.
        words = (BENCH.parents[0] / "instructions").read_text()
        line = re.search(r'echo "(cached GET, .*)"', words)[1]
        line = line.replace("$depth", "1").replace("$kind", "the same fields").replace("$each", "1013")
        self.assertEqual(re.search(main.INSTRUCTIONS, line)[1], "1013")

    def test_the_limit_is_judged_in_the_place_of_hotrow(self):
        results = {"put-64": case(hotrow=[30, 30], libpq=[33, 36], axum=[10, 12], pgbench=[11, 12])}
        found = dict(zip((target.what for target in targets.TARGETS), targets.limits(results)))
        self.assertEqual((found["durable PUT / axum stack"], found["durable PUT / pgbench upsert"]), (3.15, 3))
        self.assertIsNone(found["durable PUT / Redis `appendfsync always`"], "not measured")
        results = {"get-64": case(hotrow=[1], epoll=[1])}
        self.assertEqual(set(targets.limits(results)), {None}, "it is no limit of itself")
        for limit in targets.LIMITS:
            self.assertIn(limit, servers.PEERS)

    def test_every_target_has_its_case_and_every_case_its_peers(self):
        for target in targets.TARGETS:
            if target.case != "instructions":
                self.assertIn(target.peer or "hotrow", cases.BY_NAME[target.peer_case or target.case].peers, target.what)
        for one in cases.CASES:
            self.assertLessEqual(set(one.peers), set(servers.PEERS), one.name)
            self.assertEqual(len(one.prefix), 4, "all keys have 16 bytes")
        for heading, plots, names in report.SECTIONS:
            self.assertLessEqual(set(plots), set(report.PLOTS), heading)
        self.assertEqual([n for _, _, names in report.SECTIONS for n in names], [c.name for c in cases.CASES])


class Page(unittest.TestCase):
    RUN = {
        "started": "2026-01-02T03:04:05+00:00",
        "whole": True,
        "rounds": 2,
        "seconds": 2,
        "machine": {
            "cpu": "some processor", "cores": 2, "virtual": True, "memory_gib": 4, "kernel": "6", "file_system": "ext4",
            "fdatasync_8k_us": 100.0, "load_average_before": 0.1, "measured_seconds": 61, "hotrow": "abc",
        },
        "versions": {"wrk": "wrk 4"},
        "left_out": {"webdis": "not found"},
        "cases": {
            "get-1": case(hotrow=[10, 20], nginx=[5, 6]),
            "get-64": case(hotrow=[100, 90], epoll=[100, 100], nginx=[50, 60]),
            "put-64": case(hotrow=[30, 20], redis_aof=[10, 10]),
        },
    }  # fmt: skip

    def test_the_page_has_its_figures_and_its_plots(self):
        run = json.loads(json.dumps(self.RUN))
        run["cases"]["get-64"]["peers"]["axum"] = [{"failed": "no such luck"}] * 2
        with tempfile.TemporaryDirectory() as folder:
            written = report.write(run, pathlib.Path(folder))
            text = written[0].read_text()
            for plotted in written[2:]:
                ElementTree.parse(plotted)
                self.assertIn(f"(plots/{plotted.name})", text)
        self.assertEqual([path.name for path in written[2:]], ["connections.svg", "writes.svg"])
        for expected in ["| **hotrow** | **95** | **90-100** |", "no such luck", "- `webdis`: not found", "0.95 | 0.90-1.00"]:
            self.assertIn(expected, text)
        self.assertIn("2 rounds of 2 s; each", text)
        run["cases"]["get-64"]["seconds"] = 10
        self.assertIn("2 rounds of 2 s, `get-64` of 10 s; each", report.page(run, {}))
        self.assertNotIn("not a whole one", text)
        self.assertIn("not a whole one", report.page({**run, "whole": False}, {}))

    def test_rates_that_were_asked_for_are_not_compared(self):
        self.assertIn("hotrow / it", report.table(case(hotrow=[2], nginx=[1])))
        self.assertNotIn("hotrow / it", report.table(case("open", hotrow=[2], nginx=[1])))

    def test_numbers(self):
        shown = [plot.number(value) for value in (1234567.8, 100, 99.5, 0.0123)]
        self.assertEqual(shown, ["1,234,568", "100", "99.5", "0.0123"])

    def test_plots_are_whole_however_odd_the_numbers(self):
        for value in (0.001, 1, 99.9, 3e9):
            ElementTree.fromstring(plot.bars("a < b", "&", [("", [("hotrow", value, value / 2, value)])]))
            ElementTree.fromstring(plot.lines("a", "b", ["x", "y"], [("hotrow", [value, None]), ("epoll", [1, value])], True))


class Building(unittest.TestCase):
    def test_who_is_not_root_and_has_no_sudo_goes_without(self):
        tools, said = build.Tools(), []
        with mock.patch.object(os, "geteuid", return_value=1000), mock.patch.dict(os.environ, {"PATH": ""}):
            # As where apt-get is there, and nothing else.
            there = lambda name, path=None: name if name == "apt-get" else None  # noqa: E731
            with mock.patch.object(build.shutil, "which", side_effect=there):
                build._others(tools, said.append)
        self.assertEqual((set(tools.missing), tools.paths), (set(build.PACKAGES), {}))
        self.assertIn("wrk", said[0])
        self.assertIn("apt-get install wrk", tools.missing["wrk"])

    def test_folders_that_are_told_are_the_same_from_everywhere(self):
        with mock.patch.dict(os.environ, {"CARGO_TARGET_DIR": "target/here", "PG_BINDIR": "/usr/bin"}):
            build._absolute_folders()
            found = [os.environ["CARGO_TARGET_DIR"], os.environ["PG_BINDIR"]]
        self.assertEqual(found, [f"{os.getcwd()}/target/here", "/usr/bin"])


class Runs(unittest.TestCase):
    def test_only_a_run_of_everything_and_of_the_tree_is_whole(self):
        whole = lambda *argv, on="ext4": main._whole(main._options(argv, ""), {"file_system": on})  # noqa: E731
        for argv in ([], ["--rounds", "5"], ["--seconds", "4"], ["--before", sys.executable]):
            self.assertTrue(whole(*argv), argv)
            self.assertFalse(whole(*argv, on="tmpfs"), argv)
        for argv in (["--rounds", "2"], ["--seconds", "1"]):
            self.assertFalse(whole(*argv), argv)
        for argv in (["--quick"], ["--case", "get-64"], ["--peer", "nginx"], ["--hotrow", sys.executable]):
            self.assertFalse(whole(*argv), argv)


    def test_the_time_that_was_taken_away_is_kept_with_each_turn(self):
        bench = measure.Bench(None, None, None, lambda words: said.append(words), 1, 1, False)
        for stolen, failed in ((0.0, False), (3.0, True)):
            said, times = [], iter([(1.0, 10.0), (1.0 + stolen, 20.0)])
            turn = {"failed": "no luck"} if failed else {"rate": 7}
            with mock.patch.object(machine, "stolen_seconds", lambda: next(times)), mock.patch.object(bench, "_turn", lambda *_: turn):
                self.assertEqual(bench._cell(cases.BY_NAME["bulk"], "hotrow"), {**turn, "stolen_seconds": stolen})
            self.assertEqual(len(said), 1 if stolen else 0)

    def test_a_bulk_load_finds_a_settled_table_and_a_session_that_was_used(self):
        done, one = [], cases.BY_NAME["bulk"]
        table = mock.Mock()
        table.settle.side_effect = lambda case: done.append("settled")
        table.sql.side_effect = lambda statement, _: done.append(statement)
        load = lambda server, case: done.append((case.prefix, case.keys)) or {"requests": 1, "seconds": 1}  # noqa: E731
        server, world = servers.Server(1, []), mock.Mock(children=[])
        peer = servers.Peer(lambda start: server, (), "")
        bench = measure.Bench(world, None, table, None, 1, 1, False)
        with mock.patch.object(loads, "bulk", load), mock.patch.dict(servers.PEERS, {"hotrow": peer}):
            self.assertEqual(bench._turn(one, "hotrow")["requests"], 1)
        self.assertEqual(done[:3], ["settled", ("wrm:", measure.WARM_LINES), (one.prefix, one.keys)])
        self.assertEqual([statement.split("'")[1] for statement in done[3:]], ["blk:%", "wrm:%"])

    def test_the_load_has_two_threads_where_nothing_is_pinned(self):
        threads = {}
        for name in ("get-1", "get-64", "get-2-loops", "miss-64", "mix-95", "put-1"):
            world, tools = mock.Mock(), mock.Mock(paths={"wrk": "wrk"})
            world.run.return_value = '{"requests":5,"seconds":1.0,"errors":0}'
            loads.wrk(world, tools, servers.Server(1, []), cases.BY_NAME[name], 1, None)
            argv = world.run.call_args[0][0]
            threads[name] = argv[argv.index("-t") + 1]
        self.assertEqual(threads, {"get-1": 1, "get-64": 1, "get-2-loops": 2, "miss-64": 2, "mix-95": 2, "put-1": 1})


class Machine(unittest.TestCase):
    def test_two_threads_of_one_core_are_taken_only_where_there_is_no_other(self):
        for found, siblings, pins, shared in (
            ([3], {3: {3, 7}}, (None, None), False),
            ([0, 1], {0: {0}}, ({0}, {1}), False),
            ([0, 1], {0: {0, 1}}, ({0}, {1}), True),
            ([0, 1, 2, 3], {0: {0, 1}}, ({0}, {2}), False),
        ):
            with mock.patch.object(machine, "cores", lambda: found), mock.patch.object(machine, "_siblings", siblings.get):
                self.assertEqual((machine.pins(), machine.pins_share_a_core()), (pins, shared), found)

    def test_lists_of_threads_are_read(self):
        with tempfile.TemporaryDirectory() as folder:
            for text, expected in (("0,4\n", {0, 4}), ("0-1\n", {0, 1}), ("0\n", {0}), ("0-1,8-9\n", {0, 1, 8, 9})):
                listed = pathlib.Path(folder, "cpu0", "topology", "thread_siblings_list")
                listed.parent.mkdir(parents=True, exist_ok=True)
                listed.write_text(text)
                self.assertEqual(machine._siblings(0, folder), expected)
            self.assertEqual(machine._siblings(5, folder), {5}, "a kernel that says nothing")

    def test_a_folder_below_one_that_is_closed_cannot_be_entered(self):
        with tempfile.TemporaryDirectory() as folder:
            inner = pathlib.Path(folder, "inner")
            inner.mkdir()
            self.assertFalse(machine.can_be_entered(inner))
            pathlib.Path(folder).chmod(0o755)
            self.assertTrue(machine.can_be_entered(inner))

    def test_nothing_vacuums_within_a_turn(self):
        self.assertIn("autovacuum=off", database.SETTINGS)
        statements = []
        table = database.Database.__new__(database.Database)
        with mock.patch.object(table, "sql", lambda statement, *_: statements.append(statement.split(" kv_store")[0])):
            table.settle(cases.BY_NAME["miss-64"])
            table.settle(cases.BY_NAME["put-64"])
        self.assertEqual(statements, ["CHECKPOINT", "VACUUM ANALYZE", "CHECKPOINT", "UPDATE", "VACUUM ANALYZE"])


class Endings(unittest.TestCase):
    def test_nothing_that_was_started_stays(self):
        with tempfile.TemporaryDirectory() as disk:
            with processes.World(disk) as world:
                child = world.start("sleep", ["sleep", "1000"])
                folder, data = world.dir, world.folder("data", on_disk=True)
                self.assertIsNone(child.process.poll())
                self.assertTrue(data.is_dir() and data.parent.parent == pathlib.Path(disk))
            self.assertEqual(child.process.returncode, -signal.SIGTERM)
            self.assertFalse(folder.exists())
            self.assertEqual(os.listdir(disk), [])
        with processes.World() as world:
            self.assertEqual(world.folder("data", on_disk=True).parent, world.dir)

    def test_a_child_ends_with_a_run_that_is_killed_outright(self):
        program = (
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "from bench import processes\n"
            "world = processes.World().__enter__()\n"
            "print(world.dir, world.start('sleep', ['sleep', '1000']).process.pid, flush=True)\n"
            "sys.stdin.read()\n"
        )
        argv = [sys.executable, "-B", "-c", program, str(BENCH)]
        run = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        folder, pid = run.stdout.readline().split()
        run.kill()
        run.communicate()
        ended = lambda: not pathlib.Path(f"/proc/{pid}").exists() or "\nState:\tZ" in pathlib.Path(f"/proc/{pid}/status").read_text()  # noqa: E731
        processes.until(ended, "the child does not end", seconds=20)
        pathlib.Path(folder, "sleep-1.log").unlink()
        pathlib.Path(folder).rmdir()

    def test_a_server_that_ends_says_why(self):
        with processes.World() as world:
            child = world.start("sh", ["sh", "-c", "echo no luck >&2; exit 3"])
            with self.assertRaisesRegex(processes.Failed, "no luck"):
                processes.until(lambda: False, "it does not start", child, seconds=20)

    def test_a_program_that_fails_says_why(self):
        with processes.World() as world:
            self.assertEqual(world.run(["echo", "yes"]), "yes\n")
            self.assertRaisesRegex(processes.Failed, "no luck", world.run, ["sh", "-c", "echo no luck >&2; exit 3"])
            both = ["sh", "-c", "echo yes; echo no luck >&2; exit $0"]
            self.assertEqual(world.run([*both, "0"], both=True), "yes\nno luck\n")
            self.assertRaisesRegex(processes.Failed, "no luck", world.run, [*both, "3"], both=True)
            self.assertRaisesRegex(processes.Failed, "within", world.run, ["sleep", "1000"], seconds=0.1)


if __name__ == "__main__":
    unittest.main()
