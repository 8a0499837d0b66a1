"""collectives.bucket_mb: no bit depends on the size of buckets, whether it is given or measured, what is measured, and
what becomes of a rank that fails meanwhile."""

import json
import os
import unittest

from harness import CONFIG, Case, import_images

LIBRARY = os.environ.get("WRONG_PRODUCTS_LIBRARY")
SIZES = [25, 6.25, 1.5625]  # that cut this model into 1, 2 and 3 buckets; 100 MiB are as 25


class Buckets(Case):
    def setUp(self):
        super().setUp()
        import_images(self)
        self.write("config.yaml", CONFIG)

    def train(self, run, ranks, *options, code=0, arguments=(), env=None):
        settings = ["runtime.device=cpu", "model.hidden=[700,700]", "train.max_steps=12", "checkpoint.every=6", "eval.every=0",
                    "schedule.kind=constant", "schedule.warmup_steps=0", "optimizer.lr=0.001", *options]
        return self.run_lockstep("train", "-c", "config.yaml", "--run-dir", run, *arguments,
                                 *(word for setting in settings for word in ("--set", setting)),
                                 ranks=ranks, code=code, env=env)

    def result(self, run):
        return self.hash(run), self.losses(run)

    def size(self, run):
        return json.loads((self.dir / run / "env.json").read_text(encoding="utf-8"))["bucket_mb"]

    def check_choice(self, run, attempts=1):
        """What was measured, and that the run says the same wherever it says it."""
        events = self.events(run, "buckets")
        self.assertEqual([event["attempt"] for event in events], list(range(1, attempts + 1)))
        for event in events:
            self.assertEqual([time["bucket_mb"] for time in event["measured"]], SIZES)
            self.assertIn(event["bucket_mb"], SIZES)
            for time in event["measured"]:
                self.assertGreater(time["seconds"], 0)
                self.assertGreaterEqual(time["spread"], 0)
        self.assertEqual(self.size(run), events[-1]["bucket_mb"])
        log = (self.dir / run / "log/rank-0000.log").read_text(encoding="utf-8")
        self.assertIn(f"buckets of {events[-1]['bucket_mb']:g} MiB", log)
        self.assertIn("bucket_mb: auto", (self.dir / run / "config.yaml").read_text(encoding="utf-8"))

    def test_same_bits(self):
        self.train("alone", 0)
        expected = self.result("alone")
        ways = [(1, "auto", "auto"), (2, "shared", "0.0625"), (3, "mpi", "1"), (2, "mpi", "6.25"), (3, "shared", "1024")]
        ways += [(ranks, backend, "auto") for ranks in (2, 3) for backend in ("shared", "mpi")]
        for ranks, backend, size in ways:
            with self.subTest(ranks=ranks, backend=backend, size=size):
                run = f"{backend}-{ranks}-{size}"
                self.train(run, ranks, f"collectives.backend={backend}", f"collectives.bucket_mb={size}")
                self.assertEqual(self.result(run), expected)
                if size != "auto":
                    self.assertEqual(self.size(run), float(size))
                elif ranks > 1:
                    self.check_choice(run)
                else:
                    self.assertEqual((self.events(run, "buckets"), self.size(run)), ([], 25))

    def test_other_ways_to_reduce(self):
        """Microbatches that are added up, sums rounded on their way, sums gathered instead of weights."""
        options = ("train.accumulation=2", "train.lanes=4", "collectives.wire=bf16", "collectives.bucket_mb=auto")
        self.train("alone", 0, *options)
        self.train("two", 2, "optimizer.shard=none", *options)
        self.train("three", 3, "collectives.backend=mpi", *options)
        self.assertEqual(self.result("two"), self.result("alone"))
        self.assertEqual(self.result("three"), self.result("alone"))
        self.check_choice("two")

    def test_resume(self):
        """Every attempt measures: its ranks may be others."""
        self.train("whole", 2)
        self.train("part", 2, "collectives.bucket_mb=auto", "train.max_steps=6")
        self.train("part", 3, "collectives.bucket_mb=auto")
        self.assertEqual(self.result("part"), self.result("whole"))
        self.check_choice("part", attempts=2)
        result = self.train("part", 2, "train.max_steps=14")
        self.assertNotIn("bucket_mb", result.stderr)  # a resume may change it without a word
        self.assertEqual(self.size("part"), 25)

    def test_where_there_is_no_choice(self):
        """A model that is one bucket in any case; a size that decides how much memory a run takes; and, above, one rank."""
        for name, ranks, options in (("small", 2, ("model.hidden=[32]",)), ("window", 2, ("optimizer.shard=state+gradients",))):
            with self.subTest(name=name):
                self.train(name, ranks, "collectives.bucket_mb=auto", *options)
                self.assertEqual(self.events(name, "buckets"), [])
                self.assertEqual(self.size(name), 25)

    def test_dry_run_assumes_the_default(self):
        plans = [self.train("none", 0, f"collectives.bucket_mb={size}", arguments=("--dry-run", "--ranks", "3")).stdout
                 for size in ("auto", "25")]
        self.assertEqual(plans[0], plans[1])

    @unittest.skipUnless(LIBRARY, "a sanitized build loads no other library first")
    def test_a_rank_that_fails(self):
        """All end, with its sentence."""
        for product, backend in ((0, "shared"), (7, "mpi")):  # in the first pass; in a later one, some buckets have left
            with self.subTest(product=product, backend=backend):
                env = {"LD_PRELOAD": LIBRARY, "WRONG_RANK": "1", "WRONG_FAILURE": str(product)}
                result = self.train(backend, 2, "collectives.bucket_mb=auto", f"collectives.backend={backend}", code=1,
                                    env=env)
                self.assert_refused(result, "rank 1: ", "oneDNN")
                self.assertFalse((self.dir / backend / "env.json").exists())


if __name__ == "__main__":
    unittest.main()
