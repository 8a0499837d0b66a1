"""collectives.progress: a thread that adds up gradients of the host's ranks beside backward changes no bit, runs only
where it has something to do, and leaves failures as they are."""

import json
import os
import pathlib
import signal
import unittest

from harness import CONFIG, Case, alive, children, finish, import_images, start


class Progress(Case):
    def setUp(self):
        super().setUp()
        import_images(self)
        self.write("config.yaml", CONFIG)

    def arguments(self, run, *options):
        settings = ["collectives.bucket_mb=0.0625", "model.hidden=[200,30]", "model.dropout=0.1", "optimizer.clip_norm=1",
                    "train.max_steps=20", *options]
        return ["train", "-c", "config.yaml", "--run-dir", run,
                *(word for setting in settings for word in ("--set", setting))]

    def train(self, run, ranks, *options):
        """The result of 20 steps; how it was done is in env.json."""
        self.run_lockstep(*self.arguments(run, *options), ranks=ranks)
        return self.hash(run), self.losses(run)

    def has_thread(self, run):
        return json.loads((self.dir / run / "env.json").read_text(encoding="utf-8"))["progress_thread"]

    def test_same_bits(self):
        expected = self.train("alone", 0, "collectives.progress=on")
        self.assertIs(self.has_thread("alone"), False)
        for ranks, mode, progress in ((2, "none", "on"), (2, "state", "on"), (2, "state", "off"), (4, "state", "on"),
                                      (4, "none", "off"), (4, "state+gradients", "on")):
            with self.subTest(ranks=ranks, mode=mode, progress=progress):
                run = f"{ranks}-{mode}-{progress}"
                self.assertEqual(self.train(run, ranks, f"optimizer.shard={mode}", f"collectives.progress={progress}"),
                                 expected)
                # Gradients that are not kept travel as messages.
                self.assertIs(self.has_thread(run), progress == "on" and mode != "state+gradients")

    def test_rounded_sums(self):
        options = "collectives.wire=bf16", "train.accumulation=2", "train.lanes=4"
        expected = self.train("alone", 0, *options)
        for ranks in (2, 4):
            self.assertEqual(self.train(f"ranks-{ranks}", ranks, "collectives.progress=on", *options), expected)
            self.assertIs(self.has_thread(f"ranks-{ranks}"), True)

    def test_nothing_to_do(self):
        """Where ranks receive messages there is nothing for it."""
        self.train("mpi", 2, "collectives.progress=on", "collectives.backend=mpi")
        self.assertIs(self.has_thread("mpi"), False)

    def test_auto_needs_cores(self):
        ranks = len(os.sched_getaffinity(0)) // 2 + 1
        if ranks > 8:
            self.skipTest("too many processors to fill with ranks")
        self.train("full", ranks)
        self.assertIs(self.has_thread("full"), False)

    def test_killed_rank(self):
        """It ends as without threads."""
        self.take_time(step=50, since=3)
        process = start(self.arguments("run", "collectives.progress=on", "train.max_steps=100000", "log.every=1"), 3,
                        self.dir, self.slow())
        metrics = self.dir / "run" / "metrics.jsonl"
        self.wait_until("some steps are done",
                        lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 5, process)
        ranks = [child for child in children(process.pid)
                 if "lockstep" in pathlib.Path(f"/proc/{child}/cmdline").read_text(encoding="utf-8").split("\0")[0]]
        self.assertEqual(len(ranks), 3)
        os.kill(ranks[1], signal.SIGKILL)
        self.assertEqual(finish(process).code, 137)
        self.wait_until("no rank is left", lambda: not any(map(alive, ranks)))


if __name__ == "__main__":
    unittest.main()
