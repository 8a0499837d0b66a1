"""collectives.wire: sums of gradients that travel as BF16 are the same bits on any number of ranks and over every
transport, and what a resume may do with it."""

import re
import unittest

from harness import CONFIG, Case, import_images

BAD_CONFIG = 78


class Wire(Case):
    def setUp(self):
        super().setUp()
        import_images(self)
        self.write("config.yaml", CONFIG)

    def train(self, run, ranks, *options, code=0):
        """Steps 1 to 20, or on from where the run is."""
        settings = ["collectives.wire=bf16", "collectives.bucket_mb=0.0625", "model.hidden=[200,30]", "model.dropout=0.1",
                    "optimizer.clip_norm=1", "checkpoint.every=10", "schedule.kind=constant", "schedule.warmup_steps=0",
                    "train.max_steps=20", *options]
        return self.run_lockstep("train", "-c", "config.yaml", "--run-dir", run,
                                 *(word for setting in settings for word in ("--set", setting)), ranks=ranks, code=code)

    def result(self, run):
        return self.hash(run), self.losses(run)

    def test_ranks_and_transports(self):
        self.train("alone", 0)
        expected = self.result("alone")
        for ranks, backend, mode in ((2, "shared", "state"), (3, "mpi", "state"), (5, "shared", "none"), (8, "mpi", "state"),
                                     (1, "auto", "state+gradients"), (3, "mpi", "state+gradients")):
            with self.subTest(ranks=ranks, backend=backend, mode=mode):
                run = f"{backend}-{ranks}-{mode}"
                self.train(run, ranks, f"collectives.backend={backend}", f"optimizer.shard={mode}")
                self.assertEqual(self.result(run), expected)
        self.train("fp32", 0, "collectives.wire=fp32")
        self.assertNotEqual(self.hash("fp32"), expected[0])

    def test_one_lane_is_not_rounded(self):
        """Nothing is added to it, and nothing is sent."""
        for mode in ("state", "state+gradients"):
            self.train(f"bf16-{mode}", 0, "train.lanes=1", f"optimizer.shard={mode}")
        self.train("fp32", 0, "train.lanes=1", "collectives.wire=fp32")
        self.assertEqual(len({self.hash(run) for run in ("fp32", "bf16-state", "bf16-state+gradients")}), 1)

    def test_masters_of_their_own(self):
        """Microbatches are added up before anything is rounded; a lane computed again has the same bits."""
        options = ("runtime.precision=fp16", "train.accumulation=2", "train.lanes=4", "guard.recompute_every=3")
        self.train("alone", 1, *options)
        for ranks, backend in ((3, "mpi"), (4, "shared")):
            self.train(f"ranks-{ranks}", ranks, f"collectives.backend={backend}", *options)
            self.assertEqual(self.result(f"ranks-{ranks}"), self.result("alone"))
        self.assertFalse(self.events("ranks-3", "guard"))

    def test_overflow_is_seen(self):
        """The same steps of an FP16 run are skipped while the scale comes down."""
        for ranks in (1, 3):
            self.train(f"ranks-{ranks}", ranks, "runtime.device=ref", "runtime.precision=fp16",
                       "train.loss_scale=16777216")
        skipped = [[event["step"] for event in self.events(f"ranks-{ranks}", "skip")] for ranks in (1, 3)]
        self.assertGreater(len(skipped[0]), 0)
        self.assertEqual(skipped[0], skipped[1])
        self.assertEqual(self.hash("ranks-1"), self.hash("ranks-3"))

    def test_resume(self):
        """On any number of ranks it is the same run; with the other value it goes on with other bits, and says so."""
        self.train("whole", 2)
        self.train("part", 3, "train.max_steps=10")
        self.train("other", 3, "train.max_steps=10")
        self.train("part", 1)
        self.assertEqual(self.result("part"), self.result("whole"))
        changed = self.train("other", 1, "collectives.wire=fp32")
        self.assertIn("collectives.wire", changed.stderr)
        self.assertNotEqual(self.hash("other"), self.hash("whole"))

    def test_fast_is_refused(self):
        result = self.train("run", 0, "collectives.reduction=fast", code=BAD_CONFIG)
        self.assert_refused(result, "collectives.wire", "collectives.reduction")

    def test_dry_run_halves_what_is_sent(self):
        sent, staging = {}, {}
        for wire in ("fp32", "bf16"):
            output = self.run_lockstep("train", "-c", "config.yaml", "--dry-run", "--ranks", "2", "--set",
                                       "model.hidden=[2048,1024]", "--set", f"collectives.wire={wire}").stdout
            sent[wire] = float(re.search(r"(?m)^sums +.* sends ([0-9.]+) MiB", output).group(1))
            staging[wire] = float(re.search(r"(?m)^ +0 +0-\d+ .*$", output).group(0).split()[7])
        for mebibytes in (sent, staging):
            self.assertGreater(mebibytes["fp32"], 3)
            self.assertAlmostEqual(mebibytes["bf16"], mebibytes["fp32"] / 2, delta=0.11)  # printed to a tenth


if __name__ == "__main__":
    unittest.main()
