"""lockstep bench: every benchmark from end to end on small inputs, what its JSON has, and what it says to mistakes. No time is
asserted, only that there is one."""

import html.parser
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import unittest
import xml.etree.ElementTree

import harness
from harness import CONFIG, Case, import_images


ONE_RANK = f"{harness.MPIRUN} -np 1"


def need_emulated_gpu(test):
    doctor = json.loads(harness.finish(harness.start(["doctor", "--json"])).stdout)
    if not any("Emulated GPU" in check["found"] for check in doctor["checks"]):
        test.skipTest("needs the emulated GPU")


class Balanced(html.parser.HTMLParser):
    """Refuses a page whose tags do not match."""

    EMPTY = ("meta",)

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> in {self.open}"

    def check(self, page):
        self.feed(page)
        self.close()
        assert not self.open, self.open


class Bench(Case):
    def check_spread(self, spread, least=0.0):
        self.assertGreaterEqual(spread["lowest"], least)
        self.assertLessEqual(spread["lowest"], spread["median"])
        self.assertLessEqual(spread["median"], spread["highest"])
        self.assertGreaterEqual(spread["windows"], 1)

    def report(self):
        return json.loads((self.dir / "out.json").read_text(encoding="utf-8"))

    def make_page(self, *files, code=0):
        """The HTML page of benchmarks/report."""
        result = subprocess.run([sys.executable, "-B", harness.ROOT / "benchmarks" / "report", *files, "-o", "out.html"],
                                cwd=self.dir, capture_output=True, text=True, timeout=harness.DEADLINE, check=False)
        self.assertEqual(result.returncode, code, result.stderr)
        return (self.dir / "out.html").read_text(encoding="utf-8") if code == 0 else result.stderr

    def check_page(self, charts):
        """The page of the newest report: whole, with so many charts, and with nothing from elsewhere."""
        page = self.make_page("out.json")
        Balanced().check(page)
        found = re.findall(r"<svg.*?</svg>", page, re.S)
        self.assertEqual(len(found), charts)
        for chart in found:
            texts = xml.etree.ElementTree.fromstring(chart).iter("{http://www.w3.org/2000/svg}text")
            self.assertNotIn("nan", "".join(text.text or "" for text in texts))
        self.assertEqual(set(re.findall(r"https?://[^\"]*", page)), {"http://www.w3.org/2000/svg"} if charts else set())

    def assert_nothing_left(self):
        self.assertEqual(list(self.dir.glob("lockstep-bench-*")), [])


class Collectives(Bench):
    CALLS = ("allreduce", "reduce_scatter", "all_gather")
    QUICK = ("-n", "2", "-w", "1", "--windows", "1")

    def rows(self, call, *arguments, ranks=2, **options):
        self.run_lockstep("bench", call, *self.QUICK, "--json", "out.json", *arguments, ranks=ranks, **options)
        report = self.report()
        self.assertEqual(report["benchmark"], call)
        self.assertEqual(report["machine"]["ranks"], max(ranks, 1))
        return report, report["rows"]

    def check_row(self, row):
        seconds = row["seconds"]
        self.check_spread(seconds, 1e-12)
        self.assertAlmostEqual(row["algbw"], row["bytes"] / seconds["median"] / 1e9, delta=row["algbw"] * 1e-6)
        self.assertEqual(row["wrong"], 0, row)

    def test_every_call_on_several_ranks(self):
        for call, ranks in zip(self.CALLS, (2, 3, 3)):
            report, rows = self.rows(call, "-b", "1000", "-e", "300K", "-f", "17", "--lanes", "8", ranks=ranks)
            self.assertEqual(report["lanes"], 8)
            self.assertEqual(sorted({row["bytes"] for row in rows}), [1000, 17000, 289000])
            for row in rows:
                self.check_row(row)
            share = (ranks - 1) / ranks * (2 if call == "allreduce" else 1)
            self.assertAlmostEqual(rows[0]["busbw"] / rows[0]["algbw"], share, places=6)
            kinds = [(row["by"], row["memory"]) for row in rows if row["bytes"] == 1000]
            wanted = [("exact", "communicator"), ("library", "ordinary")]
            if call != "all_gather":
                wanted[1:1] = [("exact", "copied in"), ("fast", "communicator")]
            self.assertEqual(kinds, wanted)
            self.check_page(2)

    def test_sums_as_bf16(self):
        """They have the bits of their own tree, and half of the bytes travel."""
        for call, ranks, backend in (("allreduce", 2, "mpi"), ("reduce_scatter", 3, "shared")):
            arguments = ("-b", "1000", "-e", "300K", "-f", "17", "--lanes", "8", "--backend", backend)
            whole, _ = self.rows(call, *arguments, ranks=ranks)
            report, rows = self.rows(call, *arguments, "--set", "collectives.wire=bf16", ranks=ranks)
            self.assertEqual((whole["wire"], report["wire"]), ("float32", "bfloat16"))
            self.assertEqual(report["sent_ratio"], whole["sent_ratio"] / 2)
            for row in rows:
                self.check_row(row)

    def test_alone(self):
        _, rows = self.rows("allreduce", "-b", "4K", "-e", "4K", ranks=0)
        for row in rows:
            self.check_row(row)

    def test_one_contender(self):
        for name, by in (("copied", "exact"), ("fast", "fast")):
            _, rows = self.rows("allreduce", "-b", "4K", "-e", "4K", "--only", name, ranks=0)
            self.assertEqual([(row["by"], row["times_library"]) for row in rows], [(by, None)])
            self.check_page(1)
        self.assert_refused(
            self.run_lockstep("bench", "all_gather", "--only", "fast", code=2), "--only fast", "all_gather")

    def test_the_table(self):
        result = self.run_lockstep("bench", "allreduce", *self.QUICK, "-b", "4K", "-e", "4K", ranks=2)
        self.assertRegex(result.stdout, r"(?m)^# 2 ranks, 2 of them on .* 2 lanes: the busiest rank sends 1\.00 times")
        self.assertRegex(result.stdout, r"(?m)^ +4096 +exact +communicator +\d+\.\d +\(\d")
        self.assertRegex(result.stdout, r"(?m)^ +4096 +library +ordinary ")

    def test_emulated_gpus(self):
        need_emulated_gpu(self)
        for gpus, backend in (("1", "mpi"), ("2", "nccl")):
            for call in self.CALLS:
                report, rows = self.rows(call, "-b", "4K", "-e", "20000", "-f", "4", "--set", "runtime.device=cuda",
                                         env={"EMULATED_GPUS": gpus})
                self.assertEqual(report["backend"], backend)
                for row in rows:
                    self.check_row(row)

    def test_wrong_sums_are_found(self):
        library = os.environ.get("WRONG_SUMS_LIBRARY")
        if not library:
            self.skipTest("not in a build with sanitizers")
        result = self.run_lockstep("bench", "allreduce", *self.QUICK, "-b", "4K", "-e", "4K", "--json", "out.json",
                                   ranks=2, code=1, env={"LD_PRELOAD": library})
        self.assert_refused(result, "1 results were wrong")
        wrong = {row["by"]: row["wrong"] for row in self.report()["rows"]}
        self.assertEqual(wrong, {"exact": 0, "fast": 0, "library": 1})

    def test_mistakes(self):
        for arguments, code, words in (
                (["-b", "8K", "-e", "4K"], 2, ["-e 4K is below -b 8K"]),
                (["-b", "1Q"], 2, ["-b 1Q", "4K"]),
                (["-b", "-4"], 2, ["-b -4"]),
                (["-b", "6"], 2, ["4-byte"]),
                (["-b", "99999999999G"], 2, ["-b 99999999999G"]),
                (["-f", "1"], 2, ["--factor 1", "at least 2"]),
                (["-n", "0"], 2, ["--iterations 0"]),
                (["--windows", "1000000000000"], 2, ["at most"]),
                (["--lanes", "3"], 78, ["power of two"]),
                (["--lanes", "8192"], 78, ["4096"]),
                (["--backend", "tcp"], 78, ["--backend", "mpi"]),
                (["--itertions", "5"], 2, ["did you mean --iterations"]),
                (["--json", "nowhere/out.json", "-b", "4K", "-e", "4K"], 74, ["nowhere"])):
            self.assert_refused(self.run_lockstep("bench", "allreduce", *self.QUICK, *arguments, code=code), *words)

    def test_too_many_ranks(self):
        result = self.run_lockstep("bench", "allreduce", "--lanes", "2", ranks=3, code=78)
        self.assert_refused(result, "3 ranks", "2 lanes")


class Page(Bench):
    def test_predictions(self):
        self.run_lockstep("bench", "scaling", "--predict", "--parameters", "1000000", "--samples", "8", "--sample-seconds",
                          "0.001", "--nodes", "8,4096", "--json", "out.json")
        self.check_page(2)
        page = self.make_page("out.json", "out.json")
        self.assertEqual(page.count("nothing of this was measured"), 2)

    def test_mistakes(self):
        self.write("text.json", "no JSON")
        self.write("list.json", "[]")
        self.write("other.json", '{"benchmark": "speed"}')
        self.write("part.json", '{"benchmark": "step", "step_seconds": {"median": 1}}')
        for name, words in (("missing.json", "No such file"), ("text.json", "Expecting value"), ("list.json", "not a JSON object"),
                            ("other.json", '"speed"'), ("part.json", "not a whole report of bench step")):
            message = self.make_page(name, code=1)
            self.assertIn(words, message)
            self.assertTrue(message.startswith(f"report: {name}: ") and message.count("\n") == 1, message)
        self.assertFalse((self.dir / "out.html").exists())


# Of a step's products: 36 inputs, layers of 32 and 16, 4 classes; there is no gradient of the inputs.
FLOPS = 2 * 64 * (2 * 36 * 32 + 3 * 32 * 16 + 3 * 16 * 4)


class Training(Bench):
    """What trains needs data, a configuration, and few steps."""

    def setUp(self):
        super().setUp()
        import_images(self)
        self.write("config.yaml", CONFIG.replace("precision: fp32", "precision: fp32, device: cpu"))

    def check_step(self, report, ranks):
        self.assertEqual((report["benchmark"], report["machine"]["ranks"]), ("step", ranks))
        for name in ("step_seconds", "data_seconds", "comm_seconds", "least_comm_seconds"):
            self.check_spread(report[name])
        step = report["step_seconds"]["median"]
        self.assertAlmostEqual(report["samples_per_second"] * step, 64, places=3)
        self.assertLessEqual(report["least_comm_seconds"]["median"], report["comm_seconds"]["median"])
        phases = [phase["name"] for phase in report["phases"]]
        for name in ("data", "forward", "backward", "reduce", "exchange", "optimizer", "gather"):
            self.assertIn(name, phases)
        self.assertEqual(phases[-1], "other")
        for phase in report["phases"][:-1]:
            self.check_spread(phase["seconds"])
        roofline = report["roofline"]
        self.assertGreater(roofline["seconds"], 0)
        self.assertAlmostEqual(roofline["ratio"], roofline["seconds"] / step, delta=roofline["ratio"] * 1e-6)
        self.assertGreater(report["mfu"], 0)
        return roofline

    def test_step(self):
        rooflines = {}
        for ranks in (0, 2):
            result = self.run_lockstep("bench", "step", "-c", "config.yaml", "-n", "3", "-w", "2", "--folder", ".",
                                       "--json", "out.json", ranks=ranks)
            rooflines[ranks] = self.check_step(self.report(), max(ranks, 1))
            self.check_page(1)
            self.assertRegex(result.stdout, r"(?m)^roofline \d")
            self.assertRegex(result.stdout, r"(?m)^  backward +\d")
            self.assert_nothing_left()
        self.assertFalse((self.dir / "runs").exists())
        self.assertEqual(rooflines[0]["flops"], FLOPS)
        self.assertEqual(rooflines[2]["flops"], FLOPS / 2)

    def test_step_of_graphs_on_an_emulated_gpu(self):
        need_emulated_gpu(self)
        self.run_lockstep("bench", "step", "-c", "config.yaml", "--set", "runtime.device=cuda", "-n", "2", "-w", "2",
                          "--every", "2", "--folder", ".", "--json", "out.json")
        report = self.report()
        self.assertIn("replay", [phase["name"] for phase in report["phases"]])
        self.assertEqual(report["roofline"]["flops"], FLOPS)  # listed without graphs

    def test_windows_of_several_steps(self):
        self.run_lockstep("bench", "step", "-c", "config.yaml", "-n", "2", "-w", "2", "--every", "3", "--folder", ".",
                          "--json", "out.json")
        self.assertEqual(self.report()["steps_of_a_window"], 3)
        self.check_step(self.report(), 1)

    def scaling(self, *arguments):
        """Starts several runs, one after the other, which on a machine with other work take their time."""
        result = self.run_lockstep("bench", "scaling", "-c", "config.yaml", "-n", "2", "-w", "2", "--folder", ".", "--json",
                                   "out.json", *arguments, deadline=4 * harness.DEADLINE)
        self.assert_nothing_left()
        return result, self.report()

    def check_row(self, row, rounds):
        self.assertEqual((row["balance"], row["step_seconds"]["windows"]), (1, rounds))
        self.assertGreaterEqual(row["windows"], 1)  # others may have been disturbed
        self.assertGreaterEqual(row["windows"] + row["discarded"], 2)
        for name in ("step_seconds", "samples_per_second", "efficiency"):
            self.check_spread(row[name], 1e-12)

    def test_scaling(self):
        launcher = f"{harness.MPIRUN} -np {{ranks}} --oversubscribe --bind-to none"
        for kind, factor in (("strong", 1), ("weak", 2)):
            result, report = self.scaling("--ranks", "1,2", "--kind", kind, "--rounds", 2, "--launcher", launcher)
            self.assertEqual((report["benchmark"], report["kind"], report["base"]), ("scaling", kind, 1))
            one, two = report["rows"]
            self.assertEqual((one["ranks"], one["batch"], one["lanes"]), (1, 64, 8))
            self.assertEqual((two["ranks"], two["batch"], two["lanes"]), (2, 64 * factor, 8 * factor))
            self.assertEqual((one["efficiency"]["lowest"], one["efficiency"]["highest"]), (1, 1))
            for row in (one, two):
                self.check_row(row, 2)
                self.assertIsNone(row["of_independent"])
            self.assertRegex(result.stdout, r"(?m)^ +2 +\d+ +\d+ +1\.000 ")
            self.check_page(3)

    def test_scaling_beside_independent_runs(self):
        result, report = self.scaling("--ranks", "2", "--rounds", 2, "--independent")
        row, = report["rows"]
        self.check_row(row, 2)
        self.check_spread(row["of_independent"], 1e-12)
        self.assertEqual(row["of_independent"]["windows"], 2)
        self.assertRegex(result.stdout, r"(?m)^ +[0-9.]+ \([0-9.]+ to [0-9.]+\) of the throughput of as many independent runs$")
        self.check_page(3)
        self.assertIn("of independent runs", self.make_page("out.json"))

    def test_data(self):
        for ranks in (0, 2):
            result = self.run_lockstep("bench", "data", "-c", "config.yaml", "-n", "2", "--steps", "10", "--json", "out.json",
                                       ranks=ranks)
            report = self.report()
            self.assertEqual((report["benchmark"], report["machine"]["ranks"]), ("data", max(ranks, 1)))
            self.check_spread(report["batch_seconds"], 1e-12)
            rate = report["samples_per_second"]
            self.assertAlmostEqual(rate * report["batch_seconds"]["median"], 64, places=3)
            self.assertAlmostEqual(report["bytes_per_second"] / rate, 6 * 6 + 4)
            self.assertIsNone(report["tokens_per_second"])
            self.assertRegex(result.stdout, r"(?m)^\d+ samples/s")
            self.check_page(0)

    def test_checkpoint(self):
        for ranks in (0, 2):
            result = self.run_lockstep("bench", "checkpoint", "-c", "config.yaml", "--saves", "2", "--every", "30", "--folder",
                                       ".", "--json", "out.json", ranks=ranks)
            report = self.report()
            self.assertEqual((report["benchmark"], report["every"]), ("checkpoint", 30))
            self.assertEqual(report["saves"], 2)
            self.assertGreater(report["bytes"], 3 * 4 * 36 * 32)
            for name in ("durable_seconds", "write_seconds", "verify_seconds"):
                self.check_spread(report[name], 1e-12)
            self.check_spread(report["waited_seconds"])
            self.check_spread(report["stall_seconds"], float("-inf"))
            rate = report["write_bytes_per_second"] * report["write_seconds"]["median"]
            self.assertAlmostEqual(rate / report["bytes"], 1)
            self.assertRegex(result.stdout, r"(?m)^  verified +\d")
            self.check_page(1)
            self.assert_nothing_left()

    def ranks_in(self, folder):
        """Processes that have the folder in their command lines, the benchmark itself apart."""
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if any(str(folder) in word for word in words) and "scaling" not in words:
                found.append(words)
        return found

    def test_nothing_is_left_of_killed_benchmarks(self):
        """Neither ranks nor folders."""
        for command, number in ((("scaling", "--ranks", "2"), signal.SIGKILL), (("scaling", "--ranks", "2"), signal.SIGTERM),
                                (("step",), signal.SIGTERM), (("checkpoint",), signal.SIGKILL)):
            with self.subTest(command=command[0], signal=number.name):
                folder = self.dir / f"{command[0]}-{number}"
                folder.mkdir()
                endless = ("--saves", "1000") if command[0] == "checkpoint" else ("-n", "3000")
                process = harness.start(["bench", *command, "-c", "config.yaml", "--folder", folder, *endless], cwd=self.dir)
                self.wait_until("the folder", lambda: any(folder.glob("lockstep-bench-*/*")), process)
                process.send_signal(number)
                self.assertEqual(harness.finish(process).code, -number)
                self.wait_until("nothing left", lambda: not any(folder.iterdir()) and not self.ranks_in(folder))

    def test_mistakes(self):
        step, scaling = ["step", "-c", "config.yaml"], ["scaling", "-c", "config.yaml"]
        for arguments, code, words in (
                (["step"], 2, ["-c FILE is missing"]),
                (["scaling"], 2, ["-c FILE is missing"]),
                (["data"], 2, ["-c FILE is missing"]),
                (["checkpoint"], 2, ["-c FILE is missing"]),
                (["data", "-c", "config.yaml", "--set", "data.path=nothing.h5"], 66, ["nothing.h5"]),
                (["checkpoint", "-c", "config.yaml", "--every", "2"], 2, ["--every 2", "at least 5"]),
                (["checkpoint", "-c", "config.yaml", "--saves", "1001"], 2, ["--saves"]),
                (step + ["-w", "1"], 2, ["--warm-up 1"]),
                (step + ["--set", "train.batch=63"], 78, ["train.batch"]),
                (step + ["--set", "data.path=nothing.h5"], 66, ["nothing.h5"]),
                (step + ["--folder", "nowhere"], 66, ["nowhere"]),
                (scaling + ["--ranks", "1,x"], 2, ["--ranks 1,x"]),
                (scaling + ["--ranks", "0"], 2, ["--ranks 0"]),
                (scaling + ["--ranks", "1,2,"], 2, ["--ranks 1,2,"]),
                (scaling + ["--ranks", "1,9"], 78, ["9 ranks", "8 lanes"]),
                (scaling + ["--ranks", "1,3", "--kind", "weak"], 2, ["powers of two", "3"]),
                (scaling + ["--kind", "steady"], 2, ["strong, weak"]),
                (scaling + ["--ranks", "3", "--independent"], 2, ["3 ranks", "8 lanes"]),
                (scaling + ["--independent", "--launcher", "srun"], 2, ["--launcher"]),
                (scaling + ["--ranks", "1,2", "--launcher", ONE_RANK], 2, ["started 1 rank where 2", "{ranks}"]),
                (scaling + ["--launcher", "no-such-program"], 69, ["no-such-program", "--launcher"]),
                (scaling + ["--ranks", "1", "--set", "data.path=nothing.h5"], 66, ["run on 1 rank", "nothing.h5"])):
            self.assert_refused(self.run_lockstep("bench", *arguments, code=code), *words)
        for command in ("step", "data"):
            self.assert_refused(
                self.run_lockstep("bench", command, "-c", "config.yaml", ranks=9, code=78), "9 ranks", "8 lanes")
        self.assert_refused(self.run_lockstep("bench", *scaling, ranks=2, code=2), "without mpirun")


if __name__ == "__main__":
    harness.main()
