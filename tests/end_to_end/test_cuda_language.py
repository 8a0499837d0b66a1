"""Language models on GPUs: the same bits on any number of ranks, over every transport, with and without graphs.

What they generate and evaluate is what a CPU does. Skips (77) where runtime.device=cuda says that there is no GPU. Small, for the emulated one.
"""

import json
import struct

import harness
from test_cuda import EMULATED, Gpu, main
from test_language import text

# Dropout, clipping and a tied head; tokens are bytes, so that some come in many rows of a microbatch.
CONFIG = """\
model: {kind: gpt, layers: 2, heads: 2, width: 16, context: 16, dropout: 0.1}
data: {path: text.h5}
train: {batch: 8, lanes: 4, max_steps: 8}
optimizer: {lr: 0.01, clip_norm: 1.0}
schedule: {kind: cosine, warmup_steps: 2}
eval: {every: 8, quick_samples: 4, batch: 4}
checkpoint: {every: 4, keep_last: 100}
log: {every: 1000}
runtime: {device: cuda, precision: fp32}
collectives: {timeout: 60, bucket_mb: 0.0625}
"""


class Language(Gpu):
    def setUp(self):
        harness.Case.setUp(self)
        self.write("text.txt", text(sentences=300))
        self.run_lockstep("data", "import", "text", "text.txt", "-o", "text.h5", "--validation", "0.1")
        self.write("config.yaml", CONFIG)

    def test_ranks_and_transports(self):
        expected = self.train("alone")
        ways = [(2, "mpi", 1), (3, "mpi", 1)] + ([(2, "nccl", 2)] if EMULATED else [])
        for ranks, backend, count in ways:
            with self.subTest(ranks=ranks, backend=backend):
                found = self.train(f"{backend}-{ranks}", f"collectives.backend={backend}", ranks=ranks,
                                   env={"EMULATED_GPUS": str(count)})
                self.assertEqual(found, expected)
        found = self.train("mpi-3", ranks=2, arguments=["--resume", "mpi-3/checkpoints/step-00000004"])
        self.assertEqual(found, expected)

    def test_generation_and_evaluation(self):
        """The same checkpoint on a CPU: FP32 sums in another order, through two blocks, are this near to each other."""
        self.train("run")
        found = {}
        for device in ("cuda", "cpu"):
            setting = ("--checkpoint", "run", "--set", f"runtime.device={device}")
            generated = self.run_lockstep("generate", *setting, "--prompt", "The rank", "--max-tokens", "20", "--temperature",
                                          "0", "--logits", f"{device}.bin").stdout  # past the window of 16: it slides
            evaluated = json.loads(self.run_lockstep("eval", *setting, "--split", "validation").stdout)
            logits = (self.dir / f"{device}.bin").read_bytes()
            found[device] = generated, evaluated["loss"], struct.unpack(f"<{len(logits) // 4}f", logits)
        self.assertEqual(found["cuda"][0], found["cpu"][0])
        self.assertAlmostEqual(found["cuda"][1], found["cpu"][1], delta=1e-5)
        self.assertEqual(len(found["cuda"][2]), 20 * 257)
        for ours, other in zip(found["cuda"][2], found["cpu"][2]):
            self.assertAlmostEqual(ours, other, delta=1e-4)

    def test_graphs_orders_and_recomputation(self):
        """Nothing of how the work is launched reaches a bit; two microbatches are added up."""
        settings = ["runtime.precision=bf16", "train.lanes=2", "train.accumulation=2"]
        expected = self.train("graphs", *settings)
        self.assertEqual(self.train("launches", *settings, "runtime.graphs=false"), expected)
        self.assertEqual(self.train("block", *settings, "model.recompute=block"), expected)
        if EMULATED:
            self.assertEqual(self.train("order", *settings, env={"EMULATED_GPU_SEED": "7"}), expected)

    def test_loss_scale(self):
        """The search for a scale that FP16 can hold skips the same steps everywhere."""
        settings = ["runtime.precision=fp16", "train.loss_scale=16777216"]
        expected = self.train("alone", *settings)
        skips = self.skips("alone")
        self.assertGreater(len(skips), 0)
        self.assertEqual(skips, [(i + 1, 2.0 ** (24 - i)) for i in range(len(skips))])
        state = self.manifest("alone", 8)["state"]
        self.assertEqual(state["updates"], 8 - len(skips))
        self.assertGreater(state["updates"], 0)
        self.assertEqual(self.train("two", *settings, ranks=2), expected)
        self.assertEqual(self.skips("two"), skips)


if __name__ == "__main__":
    main()
