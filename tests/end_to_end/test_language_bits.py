"""Language models have the same bits on one to eight ranks: with dropout, stopped, resumed on other numbers, recomputed."""

import signal
import unittest

import harness
from harness import Case

# As small as it can be, since eight ranks share the machine's cores. A window is not a multiple of a block of attention,
# and 257 tokens are padded inside. FP32, so that every CPU computes it; test_cuda_language.py has GPUs.
CONFIG = """\
model: {kind: gpt, layers: 2, heads: 2, width: 16, context: 18, dropout: 0.1}
data: {path: text.h5}
train: {batch: 16, lanes: 8, max_steps: 30}
optimizer: {lr: 0.01, clip_norm: 1.0}
schedule: {kind: cosine, warmup_steps: 5}
eval: {every: 15, quick_samples: 8, batch: 12}
checkpoint: {every: 10, keep_last: 100}
log: {every: 1}
runtime: {device: cpu, precision: fp32}
collectives: {timeout: 60}
"""


class SameBits(Case):
    def setUp(self):
        super().setUp()
        self.write("text.txt", "".join(f"Lane {i % 7} of rank {i * i % 11} keeps Größe {i % 5}.\n" for i in range(400)))
        self.run_lockstep("data", "import", "text", "text.txt", "-o", "text.h5", "--validation", "0.1")
        self.write("config.yaml", CONFIG)

    def train(self, run, ranks, *settings, arguments=()):
        options = [part for setting in settings for part in ("--set", setting)]
        self.run_lockstep("train", "-q", "-c", "config.yaml", "--run-dir", run, *options, *arguments, ranks=ranks)
        return self.bits(run)

    def bits(self, run):
        """All that a run computed: state, loss of every step, evaluations."""
        keep = ("step", "loss", "perplexity", "bits_per_byte", "samples")
        evaluations = [{key: event.get(key) for key in keep} for event in self.events(run, "eval")]
        return self.hash(run), self.losses(run), evaluations

    def test_one_to_eight_ranks(self):
        expected = self.train("alone", 0)
        self.assertEqual(sorted(expected[1]), list(range(1, 31)))
        self.assertEqual([event["step"] for event in expected[2]], [15, 30, 30])
        for ranks in range(2, 9):
            with self.subTest(ranks=ranks):
                self.assertEqual(self.train(f"ranks-{ranks}", ranks), expected)

    def test_recomputation_changes_nothing(self):
        expected = self.train("none", 0)
        for ranks, kind in ((1, "cheap"), (4, "cheap"), (6, "block"), (2, "block")):
            with self.subTest(kind=kind, ranks=ranks):
                self.assertEqual(self.train(f"{kind}-{ranks}", ranks, f"model.recompute={kind}"), expected)

    def test_resumed_on_other_numbers(self):
        """From a checkpoint on the way, each time also with another recomputation."""
        expected = self.train("run", 3)
        for step, ranks, kind in ((20, 7, "block"), (10, 1, "cheap"), (20, 5, "none")):
            with self.subTest(step=step, ranks=ranks):
                got = self.train("run", ranks, f"model.recompute={kind}",
                                 arguments=("--resume", f"run/checkpoints/step-{step:08d}"))
                self.assertEqual(got[:2], expected[:2])

    def test_stopped_on_the_way(self):
        steps = ("train.max_steps=60", "eval.every=0", "checkpoint.every=0")
        expected = self.train("undisturbed", 0, *steps)
        options = [part for setting in steps for part in ("--set", setting)]
        for attempt, (ranks, step) in enumerate(((8, 10), (5, 20), (1, 30), (6, 40)), 1):
            self.take_time(step=200, since=step)
            process = harness.start(["train", "-q", "-c", "config.yaml", "--run-dir", "run", *options], ranks, self.dir,
                                    self.slow())
            harness.wait_for_step(self, process, "run", step, attempt)
            process.send_signal(signal.SIGUSR1)
            result = harness.finish(process)
            self.assertEqual(result.code, 75, str(result))
        self.assertEqual(self.train("run", 3, *steps)[:2], expected[:2])

    def test_lanes_and_accumulation(self):
        """Sixteen lanes over numbers of ranks that do not divide them, and microbatches of one window."""
        settings = ("train.lanes=16", "train.batch=32", "train.accumulation=2", "train.max_steps=10", "eval.every=0")
        expected = self.train("alone", 0, *settings)
        for ranks in (3, 5):
            self.assertEqual(self.train(f"ranks-{ranks}", ranks, *settings), expected)

    def test_fp16(self):
        """The loss scale comes down in the same steps."""
        settings = ("runtime.precision=fp16", "train.loss_scale=16777216", "eval.every=30")
        expected = self.train("alone", 0, *settings)
        skipped = [event["step"] for event in self.events("alone", "skip")]
        self.assertGreater(len(skipped), 0)
        for ranks in (2, 3):
            self.assertEqual(self.train(f"ranks-{ranks}", ranks, *settings), expected)
            self.assertEqual([event["step"] for event in self.events(f"ranks-{ranks}", "skip")], skipped)
        # What an FP16 checkpoint is asked needs no other settings.
        self.run_lockstep("eval", "--checkpoint", "alone", "--split", "validation")
        text = self.run_lockstep("generate", "--checkpoint", "alone", "--prompt", "Lane", "--max-tokens", "5").stdout
        self.assertTrue(text.startswith("Lane"))


if __name__ == "__main__":
    unittest.main()
