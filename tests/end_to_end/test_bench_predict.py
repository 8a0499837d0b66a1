"""lockstep bench scaling --predict: what it prints and writes, from a configuration, from a number of parameters and from
reports of other benchmarks, and what it says to mistakes. Whether steps are predicted well is tested in tests/simgrid."""

import json

import harness
from harness import CONFIG, Case, import_images

MODEL = ("--parameters", "124475904", "--samples", "64")
LINKS = {"reduce_scatter": (12e-6, 5e9), "all_gather": (7e-6, 8e9)}  # seconds, bytes a second
TIMED = (*MODEL, "--sample-seconds", "0.0055")


class Predict(Case):
    def predict(self, *arguments, **options):
        result = self.run_lockstep("bench", "scaling", "--predict", "--json", "out.json", *arguments, **options)
        return json.loads((self.dir / "out.json").read_text(encoding="utf-8")) if result.code == 0 else result

    def refused(self, code, words, *arguments):
        self.assert_refused(self.predict(*arguments, code=code), *words)

    def test_default_sweep_reaches_4096_nodes(self):
        report = self.predict(*TIMED)
        rows = report["rows"]
        self.assertEqual(sorted({row["nodes"] for row in rows}), [2 ** i for i in range(3, 13)])
        self.assertEqual({row["algorithm"] for row in rows}, {"ring", "tree", "hierarchical", "exact"})
        for row in rows:
            self.assertEqual(row["ranks"], 8 * row["nodes"])
            if row["algorithm"] == "exact" and row["ranks"] > 4096:
                self.assertIn("4096 lanes", row["impossible"])
                continue
            self.assertAlmostEqual(row["step_seconds"], row["computing_seconds"] + row["exposed_seconds"], places=9)
            self.assertGreaterEqual(row["computing_seconds"], 64 * 0.0055)
            self.assertLess(row["efficiency"], 1)
            self.assertAlmostEqual(row["samples_per_second"] * row["step_seconds"] / row["ranks"], 64, places=6)

    def test_strong_sweep_divides_the_batch(self):
        report = self.predict("--parameters", "1000000", "--sample-seconds", "0.01", "--samples", "48", "--strong", "--nodes",
                              "1,2,3,8,16", "--ranks-per-node", "1", "--algorithm", "exact", "--set", "train.lanes=8")
        computing = [row.get("computing_seconds") for row in report["rows"]]
        self.assertEqual([round(c, 9) for c in computing[:4]], [0.48, 0.24, 0.18, 0.06])  # 8, 4, 3 and 1 of 8 lanes
        self.assertIn("16 ranks cannot share 8 lanes", report["rows"][4]["impossible"])

    def test_failures_and_prices(self):
        report = self.predict(*TIMED, "--nodes", "512", "--algorithm", "tree", "--mtbf", "20000", "--save", "2", "--restart", "60",
                              "--on-demand", "98", "--spot", "40", "--preemptions", "0.02", "--epoch", "1e9", "--stragglers",
                              "normal:0.02")
        row = report["rows"][0]
        self.assertGreater(row["slowdown"], 1.06)  # of 4,096 ranks the slowest is 3.6 deviations behind
        self.assertLess(row["slowdown"], 1.08)
        self.assertTrue(0.8 < row["goodput_spot"] < row["goodput"] < 1)
        hours, cost = row["epoch_hours"], row["epoch_cost"]
        self.assertAlmostEqual(hours[0], 1e9 / row["samples_per_second"] / row["goodput"] / 3600, delta=1e-6 * hours[0])
        for i, price in enumerate((98, 40)):
            self.assertAlmostEqual(cost[i], 512 * price * hours[i], delta=1e-6 * cost[i])

    def test_configuration_says_what_is_trained(self):
        import_images(self)
        self.write("config.yaml", CONFIG)
        report = self.predict("-c", "config.yaml", "--sample-seconds", "1e-5", "--nodes", "4", "--ranks-per-node", "2")
        assumptions = report["assumptions"]
        self.assertEqual(assumptions["model"], "mlp")
        self.assertEqual(assumptions["epoch_samples"], 600)
        self.assertGreaterEqual(4096 * sum(assumptions["bucket_blocks"]), assumptions["parameters"])
        self.assertEqual(assumptions["gradient_bytes"], 4)
        rounded = self.predict("-c", "config.yaml", "--sample-seconds", "1e-5", "--nodes", "4", "--set", "collectives.wire=bf16")
        self.assertEqual(rounded["assumptions"]["gradient_bytes"], 2)

    def measure_link(self, call):
        """A report of two ranks, whose times are replaced by those of a link that is known."""
        self.run_lockstep("bench", call, "-n", "1", "-w", "1", "--windows", "1", "-b", "16K", "-e", "1M", "-f", "4", "--json",
                          "link.json", ranks=2)
        report = json.loads((self.dir / "link.json").read_text(encoding="utf-8"))
        latency, bandwidth = LINKS[call]
        for row in report["rows"]:
            row["seconds"]["median"] = row["seconds"]["lowest"] = latency + row["bytes"] / 2 / bandwidth
            row["busbw"] = row["bytes"] / 2 / row["seconds"]["median"] / 1e9
        self.write(f"{call}.json", json.dumps(report))

    def test_reports_of_other_benchmarks(self):
        import_images(self)
        self.write("config.yaml", CONFIG)
        for call in LINKS:
            self.measure_link(call)
        self.run_lockstep("bench", "step", "-c", "config.yaml", "-n", "3", "--json", "step.json")
        measured = [word for name in ("step", "reduce_scatter", "all_gather") for word in ("--measured", f"{name}.json")]
        report = self.predict("-c", "config.yaml", *measured, "--nodes", "1", "--ranks-per-node", "2", "--overlap", "0")
        assumptions = report["assumptions"]
        step = json.loads((self.dir / "step.json").read_text(encoding="utf-8"))
        batch = float(step["config"]["train.batch"])
        self.assertLess(assumptions["sample_seconds"] * batch, step["step_seconds"]["median"])
        for use, (latency, bandwidth) in zip(("reduce", "gather"), LINKS.values()):
            self.assertAlmostEqual(assumptions["inside"][use]["latency"], latency, places=10)
            self.assertAlmostEqual(assumptions["inside"][use]["bandwidth"] / bandwidth, 1, places=6)
            self.assertNotEqual(assumptions["inside"][use], assumptions["between"][use])
        for row in report["rows"]:
            self.assertAlmostEqual(row["exposed_seconds"], row["communication_seconds"], places=9)  # nothing overlaps
        # The same times for messages of half the bytes are a link of half the bandwidth.
        link = json.loads((self.dir / "reduce_scatter.json").read_text(encoding="utf-8"))
        self.write("narrow.json", json.dumps({**link, "wire": "bfloat16"}))
        narrow = self.predict(*TIMED, "--measured", "narrow.json", "--nodes", "1")["assumptions"]["inside"]["reduce"]
        self.assertAlmostEqual(narrow["bandwidth"] / (LINKS["reduce_scatter"][1] / 2), 1, places=6)
        self.refused(65, ["config.yaml"], *TIMED, "--measured", "config.yaml")
        self.write("other.json", '{"benchmark": "data"}')
        self.refused(65, ["other.json", "reduce_scatter"], *TIMED, "--measured", "other.json")

    def test_timeline(self):
        result = self.run_lockstep("bench", "scaling", "--predict", *TIMED, "--nodes", "8,16", "--algorithm", "tree",
                                   "--timeline", "16")
        self.assertEqual(result.stdout.count("time-line of"), 1)
        self.assertIn("time-line of 16 nodes, tree", result.stdout)

    def test_mistakes(self):
        for words, arguments in (
                (["-c FILE", "--parameters"], ["--sample-seconds", "1"]),
                (["--sample-seconds"], MODEL),
                (["--nodes 8,x"], [*TIMED, "--nodes", "8,x"]),
                (["--nodes 0"], [*TIMED, "--nodes", "0"]),
                (["ranks"], [*TIMED, "--nodes", "65536", "--ranks-per-node", "1000"]),
                (["warp is no link"], [*TIMED, "--between", "warp"]),
                (["gauss:1"], [*TIMED, "--stragglers", "gauss:1"]),
                (["--overlap"], [*TIMED, "--overlap", "1.5"]),
                (["--algorithm", "hierarchical"], [*TIMED, "--algorithm", "star"]),
                (["give one of them"], [*TIMED, "-c", "config.yaml"])):
            with self.subTest(arguments):
                self.refused(2, words, *arguments)


if __name__ == "__main__":
    harness.main()
