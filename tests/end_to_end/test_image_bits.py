"""Image models have the same bits on one to eight ranks: with batch normalisation's running statistics, augmentation and averaged
weights, stopped, resumed on other numbers."""

import random
import signal
import unittest

import harness
from harness import Case

# As small as it can be: 4 channels at first, images of 12 x 12 in colour. FP32, so that every CPU computes it.
SIDE, CLASSES = 12, 3
CONFIG = """\
model: {kind: resnet, depth: 18, stem: small, width_multiplier: 0.0625, zero_gamma: true}
data: {path: images.h5, crop_padding: 2, flip: true}
train: {batch: 32, lanes: 8, max_steps: 12, label_smoothing: 0.1}
optimizer: {kind: sgd, lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 0.0005, average: 0.9}
schedule: {kind: cosine, warmup_steps: 3}
eval: {every: 6}
checkpoint: {every: 4, keep_last: 100}
log: {every: 1}
runtime: {device: cpu, precision: fp32}
collectives: {timeout: 60}
"""


def write_split(case, name, count, rng):
    """Noise in which every class has a colour of its own in some places."""
    labels, pixels = [i % CLASSES for i in range(count)], bytearray()
    for label in labels:
        image = bytearray(rng.randbytes(SIDE * SIDE * 3))
        for place in rng.sample(range(SIDE * SIDE), 40):
            image[3 * place + label] = 255
        pixels += image
    return [case.write(f"{name}-images-idx4-ubyte", harness.idx((count, SIDE, SIDE, 3), pixels)),
            case.write(f"{name}-labels-idx1-ubyte", harness.idx((count,), labels))]


class SameBits(Case):
    def setUp(self):
        super().setUp()
        rng = random.Random(1)
        files = [*write_split(self, "train", 200, rng), *write_split(self, "t10k", 50, rng)]
        self.run_lockstep("data", "import", "idx", *files, "-o", "images.h5")
        self.write("config.yaml", CONFIG)

    def train(self, run, ranks, *settings, arguments=()):
        options = [part for setting in settings for part in ("--set", setting)]
        self.run_lockstep("train", "-q", "-c", "config.yaml", "--run-dir", run, *options, *arguments, ranks=ranks)
        return self.bits(run)

    def bits(self, run):
        """All that a run computed: state, loss of every step, evaluations."""
        evaluations = [{key: event.get(key) for key in ("step", "loss", "accuracy", "samples")} for event in self.events(run, "eval")]
        return self.hash(run), self.losses(run), evaluations

    def test_one_to_eight_ranks(self):
        expected = self.train("alone", 0)
        self.assertEqual(sorted(expected[1]), list(range(1, 13)))
        for ranks in range(2, 9):
            with self.subTest(ranks=ranks):
                self.assertEqual(self.train(f"ranks-{ranks}", ranks), expected)

    def test_what_is_on_decides_bits(self):
        """Augmentation, statistics and averages are not there for show: each changes the hash."""
        hashes = [self.train(name, 2, *settings)[0] for name, settings in (
            ("as-is", ()), ("no-flip", ("data.flip=false",)), ("no-crop", ("data.crop_padding=0",)),
            ("no-average", ("optimizer.average=0",)), ("slow-statistics", ("model.batch_norm_momentum=0.01",)))]
        self.assertEqual(len(set(hashes)), len(hashes))

    def test_accumulation(self):
        settings = ("train.accumulation=2", "train.max_steps=6", "train.lanes=4")
        expected = self.train("alone", 0, *settings)
        for ranks in (2, 3):
            self.assertEqual(self.train(f"ranks-{ranks}", ranks, *settings), expected)

    def test_sharding(self):
        settings = ("train.max_steps=6", "train.lanes=4")
        expected = self.train("alone", 0, *settings)
        for shard, ranks in (("state", 3), ("state+gradients", 4), ("none", 2)):
            with self.subTest(shard=shard, ranks=ranks):
                self.assertEqual(self.train(f"{shard}-{ranks}", ranks, *settings, f"optimizer.shard={shard}"), expected)

    def test_lars(self):
        """Trust ratios of filters, which are long vectors cut over ranks, and none of normalisations."""
        settings = ("optimizer.kind=lars", "optimizer.trust=0.02", "optimizer.lr=1", "train.max_steps=8")
        expected = self.train("lars-1", 1, *settings)
        self.assertLess(float(expected[1][8]), float(expected[1][1]))
        for ranks in (2, 5):
            with self.subTest(ranks=ranks):
                self.assertEqual(self.train(f"lars-{ranks}", ranks, *settings), expected)
        resumed = self.train("lars-5", 2, *settings, arguments=("--resume", "lars-5/checkpoints/step-00000004"))
        self.assertEqual(resumed[:2], expected[:2])
        hashes = [self.train(name, 2, *settings, *more)[0] for name, more in (
            ("sgd", ("optimizer.kind=sgd",)), ("trust", ("optimizer.trust=0.01",)))]
        self.assertEqual(len({expected[0], *hashes}), 3)

    def test_resumed_on_other_numbers(self):
        expected = self.train("run", 3)
        for step, ranks in ((8, 7), (4, 1), (8, 5)):
            with self.subTest(step=step, ranks=ranks):
                got = self.train("run", ranks, arguments=("--resume", f"run/checkpoints/step-{step:08d}"))
                self.assertEqual(got[:2], expected[:2])

    def test_stopped_on_the_way(self):
        steps = ("train.max_steps=24", "eval.every=0", "checkpoint.every=0")
        expected = self.train("undisturbed", 0, *steps)
        options = [part for setting in steps for part in ("--set", setting)]
        for attempt, (ranks, step) in enumerate(((8, 4), (5, 8), (1, 12), (6, 16)), 1):
            self.take_time(step=200, since=step)
            process = harness.start(["train", "-q", "-c", "config.yaml", "--run-dir", "run", *options], ranks, self.dir, self.slow())
            harness.wait_for_step(self, process, "run", step, attempt)
            process.send_signal(signal.SIGUSR1)
            result = harness.finish(process)
            self.assertEqual(result.code, 75, str(result))
        self.assertEqual(self.train("run", 3, *steps)[:2], expected[:2])


if __name__ == "__main__":
    unittest.main()
