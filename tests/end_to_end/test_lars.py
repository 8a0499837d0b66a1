"""optimizer.kind lars: the same bits on any number of ranks and across resumes, steps as long as the trust ratio says, and options that
do not fit."""

import json
import math
import struct
import unittest

import harness
from harness import CONFIG, Case, import_images

TRUST = 0.02
SETTINGS = ["optimizer.kind=lars", f"optimizer.trust={TRUST}", "optimizer.lr=1", "optimizer.weight_decay=0.0005", "model.hidden=[200,30]",
            "collectives.bucket_mb=0.0625", "optimizer.clip_norm=1", "checkpoint.every=10", "schedule.kind=constant",
            "schedule.warmup_steps=0", "train.max_steps=20"]


def tensors(directory):
    """{path: numbers} of a checkpoint."""
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    data = (directory / "state.h5").read_bytes()
    return {f"{tensor['group']}/{tensor['name']}": struct.unpack_from(f"<{math.prod(tensor['shape'])}f", data, tensor["offset"])
            for tensor in manifest["tensors"]}


def norm(numbers):
    return math.sqrt(sum(number * number for number in numbers))


class Lars(Case):
    def setUp(self):
        super().setUp()
        import_images(self)
        self.write("config.yaml", CONFIG)

    def train(self, run, ranks, *options, **more):
        """Steps 1 to 20, or on from where the run is."""
        settings = (word for setting in [*SETTINGS, *options] for word in ("--set", setting))
        return self.run_lockstep("train", "-c", "config.yaml", "--run-dir", run, *settings, ranks=ranks, **more)

    def test_ranks_and_modes(self):
        self.train("alone", 1)
        expected = self.hash("alone"), self.losses("alone")
        for ranks, mode in ((2, "state"), (3, "state"), (5, "state"), (2, "none"), (3, "state+gradients")):
            with self.subTest(ranks=ranks, mode=mode):
                self.train(f"{mode}-{ranks}", ranks, f"optimizer.shard={mode}")
                self.assertEqual((self.hash(f"{mode}-{ranks}"), self.losses(f"{mode}-{ranks}")), expected)
        self.train("checked", 3, "guard.recompute_every=3")
        self.assertEqual(self.hash("checked"), expected[0])
        self.assertLess(float(self.losses("alone")[20]), float(self.losses("alone")[1]) / 2)

    def test_resume(self):
        """With FP16, whose loss scale is taken out of the norms, a frozen layer and averages."""
        options = ("runtime.precision=fp16", "train.freeze=layers.1.*", "optimizer.average=0.9")
        self.train("whole", 2, *options)
        for steps, ranks in ((5, 3), (11, 1), (20, 5)):
            self.train("part", ranks, *options, f"train.max_steps={steps}")
        self.assertEqual(self.hash("part"), self.hash("whole"))

    def test_length_of_a_step(self):
        """Without decay the first step changes each weight tensor by lr * trust of its norm, whatever its gradient; biases are
        changed by lr times their gradient, which clipping bounds."""
        for scale in (1, 1024):
            self.train(f"run-{scale}", 2, "train.max_steps=1", "optimizer.weight_decay=0", "optimizer.clip_norm=0.5",
                       "runtime.precision=fp16", f"train.loss_scale={scale}")
            state, lengths = tensors(self.dir / f"run-{scale}" / "checkpoints" / "step-00000001"), []
            for layer in range(3):
                after = state[f"parameters/layers.{layer}.weight"]
                step = state[f"optimizer/moment1/layers.{layer}.weight"]
                before = [weight + change for weight, change in zip(after, step)]  # the learning rate is 1
                # In FP32 but for the sums; epsilon, 1e-8, is nothing beside gradients' norms of 0.01 and more.
                self.assertAlmostEqual(norm(step) / norm(before), TRUST, delta=1e-5 * TRUST)
                lengths.append(norm(state[f"optimizer/moment1/layers.{layer}.bias"]))
            self.assertLess(norm(lengths), 0.5)
            self.assertGreater(norm(lengths), 0.001)

    def test_bad_input(self):
        for options, word in ((["optimizer.trust=0"], "optimizer.trust"), (["optimizer.trust=nan"], "optimizer.trust"),
                              (["optimizer.nesterov=true", "optimizer.momentum=0"], "optimizer.momentum"),
                              (["optimizer.nesterov=true", "optimizer.kind=adamw"], "sgd or lars")):
            self.assert_refused(self.train("run", 0, *options, code=78), word)
        self.assertFalse((self.dir / "run").exists())

    def test_another_kind_is_another_run(self):
        self.train("run", 2, "train.max_steps=2")
        self.assert_refused(self.train("run", 2, "optimizer.kind=sgd", code=76), "optimizer.kind")


if __name__ == "__main__":
    harness.main()
