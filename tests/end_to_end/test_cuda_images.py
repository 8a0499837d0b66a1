"""Image models on GPUs: the same bits on any number of ranks, over every transport, with and without graphs, by cuDNN or by
kernels of our own, and near to what a CPU computes.

Skips (77) where runtime.device=cuda says that there is no GPU. Small, for the emulated one.
"""

import json
import random
import re

import harness
from test_cuda import EMULATED, Gpu, main, only_emulated
from test_image_bits import write_split

# Augmentation, averaged weights, a maximum pool (12 x 12 pixels are 3 x 3 behind it); 4 channels at first.
CONFIG = """\
model: {kind: resnet, depth: 18, stem: imagenet, width_multiplier: 0.0625}
data: {path: images.h5, crop_padding: 2, flip: true}
train: {batch: 16, lanes: 4, max_steps: 4, label_smoothing: 0.1}
optimizer: {kind: sgd, lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 0.0005, average: 0.5}
schedule: {kind: cosine, warmup_steps: 1}
eval: {every: 2, batch: 8}
checkpoint: {every: 2, keep_last: 100}
log: {every: 1}
runtime: {device: cuda, precision: fp32}
collectives: {timeout: 60, bucket_mb: 0.0625}
"""


class Images(Gpu):
    def setUp(self):
        harness.Case.setUp(self)
        rng = random.Random(1)
        files = [*write_split(self, "train", 60, rng), *write_split(self, "t10k", 12, rng)]
        self.run_lockstep("data", "import", "idx", *files, "-o", "images.h5")
        self.write("config.yaml", CONFIG)

    def bits(self, run):
        """All that a run computed: state, loss of every step, evaluations."""
        evaluations = [{key: event[key] for key in ("step", "loss", "accuracy")} for event in self.events(run, "eval")]
        return self.hash(run), self.losses(run), evaluations

    def test_ranks_transports_and_resume(self):
        self.train("alone")
        expected = self.bits("alone")
        self.assertEqual(sorted(expected[1]), [1, 2, 3, 4])
        ways = [(3, "mpi", 1)] + ([(2, "nccl", 2), (3, "nccl", 3)] if EMULATED else [(2, "mpi", 1)])
        for ranks, backend, count in ways:
            with self.subTest(ranks=ranks, backend=backend):
                self.train(f"{backend}-{ranks}", f"collectives.backend={backend}", ranks=ranks,
                           env={"EMULATED_GPUS": str(count)})
                self.assertEqual(self.bits(f"{backend}-{ranks}"), expected)
        self.train("mpi-3", ranks=2, arguments=["--resume", "mpi-3/checkpoints/step-00000002"])
        self.assertEqual(self.bits("mpi-3")[:2], expected[:2])

    def test_graphs_and_orders(self):
        """Nothing of how the work is launched reaches a bit; two microbatches of a lane are added up, in BF16."""
        settings = ["runtime.precision=bf16", "train.lanes=2", "train.accumulation=2"]
        self.train("graphs", *settings)
        expected = self.bits("graphs")
        ways = {"launches": (["runtime.graphs=false"], 0, {})}
        if EMULATED:
            ways["order"] = ([], 2, {"EMULATED_GPU_SEED": "7"})
        for name, (more, ranks, env) in ways.items():
            with self.subTest(name=name):
                self.train(name, *settings, *more, ranks=ranks, env=env)
                self.assertEqual(self.bits(name), expected)

    # The small stem, behind which normalisations are over enough places to be well conditioned.
    SMALL = ["model.stem=small", "train.batch=8", "train.lanes=2", "train.max_steps=2", "eval.every=0"]

    def near(self, found, expected, delta, steps=2):
        found, expected = ([float(loss) for loss in self.losses(run).values()] for run in (found, expected))
        self.assertEqual((len(found), len(expected)), (2, 2))
        for ours, other in zip(found[:steps], expected):
            self.assertAlmostEqual(ours, other, delta=delta)

    def test_near_a_cpu(self):
        """Losses of training, and those of one checkpoint evaluated on both."""
        self.train("cpu", *self.SMALL, "runtime.device=cpu")
        self.train("fp32", *self.SMALL)
        # Sums of FP32 in another order are off by some 1e-7; normalisations and an update make ten times that of it.
        self.near("fp32", "cpu", delta=1e-5)
        evaluated = [json.loads(self.run_lockstep("eval", "--checkpoint", "fp32", "--set", f"runtime.device={device}").stdout)
                     for device in ("cuda", "cpu")]
        self.assertAlmostEqual(evaluated[0]["loss"], evaluated[1]["loss"], delta=1e-5)
        # BF16 rounds each activation to 2^-9 of it, FP16 to 2^-12; errors of 18 layers add up in quadrature, to four times that.
        for precision, delta in (("bf16", 4 / 512), ("fp16", 4 / 4096)):
            self.train(precision, *self.SMALL, f"runtime.precision={precision}", "train.loss_scale=1024")
            self.near(precision, "cpu", delta, steps=1)

    @only_emulated
    def test_kernels_of_our_own(self):
        """Where cuDNN has no plan: sums in another order, losses as near, and the same bits on two ranks."""
        env = {"EMULATED_CUDNN": "none"}
        library = self.train("library", *self.SMALL)
        ours = self.train("ours", *self.SMALL, env=env)
        self.assertNotEqual(ours, library)
        self.near("ours", "library", delta=1e-5)
        self.assertEqual(self.train("ranks", *self.SMALL, ranks=2, env=env), ours)

    @only_emulated
    def test_estimate_bounds_what_is_allocated(self):
        """With the workspace of convolutions, which is allocated when a shape first comes, by cuDNN or without it."""
        output = self.run_lockstep("train", "-c", "config.yaml", "--dry-run").stdout
        row = re.search(r"(?m)^ +0 +0-3.*$", output).group(0).split()
        workspace, estimate = map(float, row[-3:-1])
        self.assertGreaterEqual(workspace, 64 + 256)  # MiB: of products, and of a convolution at most
        memory = str(int((estimate + 4) * (1 << 20)))  # beside it, what test_cuda.py says
        for library in ("", "none"):
            self.train(f"fits-{library}", "train.max_steps=1", "schedule.warmup_steps=0", "eval.every=0",
                       env={"EMULATED_GPU_MEMORY": memory, "EMULATED_CUDNN": library})


if __name__ == "__main__":
    main()
