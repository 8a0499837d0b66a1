"""lockstep bench: every benchmark from end to end on small inputs, what its JSON has, and what it says to mistakes. No time is
asserted, only that there is one."""

import json
import os
import unittest

import harness
from harness import Case


class Collectives(Case):
    CALLS = ("allreduce", "reduce_scatter", "all_gather")
    QUICK = ("-n", "2", "-w", "1", "--windows", "1")

    def rows(self, call, *arguments, ranks=2, **options):
        self.run_lockstep("bench", call, *self.QUICK, "--json", "out.json", *arguments, ranks=ranks, **options)
        report = json.loads((self.dir / "out.json").read_text(encoding="utf-8"))
        self.assertEqual(report["benchmark"], call)
        self.assertEqual(report["machine"]["ranks"], max(ranks, 1))
        return report, report["rows"]

    def check_row(self, row):
        seconds = row["seconds"]
        self.assertGreater(seconds["lowest"], 0)
        self.assertLessEqual(seconds["lowest"], seconds["median"])
        self.assertLessEqual(seconds["median"], seconds["highest"])
        self.assertGreaterEqual(seconds["windows"], 1)
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

    def test_alone(self):
        _, rows = self.rows("allreduce", "-b", "4K", "-e", "4K", ranks=0)
        for row in rows:
            self.check_row(row)

    def test_the_table(self):
        result = self.run_lockstep("bench", "allreduce", *self.QUICK, "-b", "4K", "-e", "4K", ranks=2)
        self.assertRegex(result.stdout, r"(?m)^# 2 ranks, 2 of them on .* 2 lanes: the busiest rank sends 1\.00 times")
        self.assertRegex(result.stdout, r"(?m)^ +4096 +exact +communicator +\d+\.\d +\(\d")
        self.assertRegex(result.stdout, r"(?m)^ +4096 +library +ordinary ")

    def test_emulated_gpus(self):
        doctor = json.loads(harness.finish(harness.start(["doctor", "--json"])).stdout)
        if not any("Emulated GPU" in check["found"] for check in doctor["checks"]):
            self.skipTest("needs the emulated GPU")
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
        wrong = {row["by"]: row["wrong"] for row in json.loads((self.dir / "out.json").read_text())["rows"]}
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


if __name__ == "__main__":
    harness.main()
