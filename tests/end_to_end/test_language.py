"""A language model from text to text: import, training, evaluation, generation; test_language_bits.py has the bits.

On the CPU, wherever the tests run: test_cuda_language.py has GPUs.
"""

import json
import math
import os
import random
import re
import subprocess
import unittest

import harness
from harness import Case

# Small and in FP32, so that every CPU computes it; 257 tokens are padded inside.
CONFIG = """\
model: {kind: gpt, layers: 2, heads: 2, width: 32, context: 24, dropout: 0.1}
data: {path: text.h5}
train: {batch: 16, lanes: 8, max_steps: 40}
optimizer: {lr: 0.01, clip_norm: 1.0}
schedule: {kind: cosine, warmup_steps: 5}
eval: {every: 20, quick_samples: 20, batch: 40}
checkpoint: {every: 20, keep_last: 100}
log: {every: 1}
runtime: {device: cpu, precision: fp32}
collectives: {timeout: 60}
"""


def text(sentences=1500, seed=1):
    """Sentences that say little, with letters outside ASCII."""
    rng = random.Random(seed)
    nouns, verbs = ["rank", "lane", "Größe", "bucket", "naïve mind"], ["adds", "sends", "keeps", "loses"]
    return "".join(f"The {rng.choice(nouns)} {rng.choice(verbs)} a {rng.choice(nouns)}.\n" for _ in range(sentences))


class Language(Case):
    def setUp(self):
        super().setUp()
        self.write("text.txt", text())
        self.run_lockstep("data", "import", "text", "text.txt", "-o", "text.h5", "--validation", "0.1")
        self.write("config.yaml", CONFIG)

    def train(self, run, ranks, *arguments, code=0):
        return self.run_lockstep("train", "-c", "config.yaml", "--run-dir", run, *arguments, ranks=ranks, code=code)

    def generate(self, *arguments, checkpoint="run"):
        return self.run_lockstep("generate", "--checkpoint", checkpoint, *arguments).stdout

    def test_learns_and_reports(self):
        self.train("run", 2, "--set", "train.max_steps=150", "--set", "eval.every=150")
        status = self.status("run")
        evaluation = status["eval"]
        # A byte of this text has under 2 bits once the few words are known, and 8 before.
        self.assertLess(evaluation["bits_per_byte"], 2.0)
        self.assertAlmostEqual(evaluation["perplexity"], math.exp(evaluation["loss"]), delta=1e-9)
        self.assertAlmostEqual(evaluation["bits_per_byte"], evaluation["loss"] / math.log(2), delta=0.01)
        self.assertAlmostEqual(status["tokens_per_second"] / status["samples_per_second"], 24, delta=1e-6)
        again = json.loads(self.run_lockstep("eval", "--checkpoint", "run", "--split", "validation", ranks=3).stdout)
        self.assertEqual(again["samples"], evaluation["samples"])
        for key in ("loss", "perplexity", "bits_per_byte"):  # printed with nine digits here
            self.assertAlmostEqual(again[key] / evaluation[key], 1, delta=1e-8)

    def test_generates(self):
        self.train("run", 2, "--set", "train.max_steps=500", "--set", "eval.every=0")
        greedy = self.generate("--prompt", "The rank", "--max-tokens", "100", "--temperature", "0")
        # Longer than the window of 24 tokens: it slides. What was learned are whole words.
        self.assertTrue(greedy.startswith("The rank"), greedy)
        self.assertGreater(len(greedy.encode()), 100)
        self.assertEqual(greedy, self.generate("--prompt", "The rank", "--max-tokens", "100", "--temperature", "0"))
        self.assertEqual(greedy, self.generate("--prompt", "The rank", "--max-tokens", "100", "--top-k", "1"))
        words = {word.strip(".") for word in greedy.split()[:-1]}
        known = {word.strip(".") for word in text().split()}
        self.assertGreater(len(words & known), len(words - known), greedy)
        # Token by token on what earlier ones left is the same as from the beginning, within the window.
        for length in (9, 12, 16):
            prompt = greedy[:length]
            self.assertEqual(self.generate("--prompt", prompt, "--max-tokens", "1", "--temperature", "0").rstrip("\n"),
                             greedy[:length + 1].rstrip("\n"))
        first = self.generate("--max-tokens", "60", "--seed", "7")
        self.assertEqual(first, self.generate("--max-tokens", "60", "--seed", "7"))
        self.assertNotEqual(first, self.generate("--max-tokens", "60", "--seed", "8"))
        # All that is needed is in the checkpoint.
        (self.dir / "text.h5").rename(self.dir / "away.h5")
        self.assertEqual(first, self.generate("--max-tokens", "60", "--seed", "7"))
        # The likeliest token alone, by whatever name; and what is left out does change the text.
        for few in (("--top-p", "0"), ("--top-k", "5", "--top-p", "1e-9"), ("--temperature", "1e-9")):
            self.assertEqual(greedy, self.generate("--prompt", "The rank", "--max-tokens", "100", *few), few)
        daring = ("--max-tokens", "60", "--seed", "7", "--temperature", "5")
        texts = {self.generate(*daring, *few) for few in ((), ("--top-k", "3"), ("--top-p", "0.3"))}
        self.assertEqual(len(texts), 3, texts)
        # A prompt longer than the window.
        long = "The lane keeps a bucket. " * 5
        self.assertTrue(self.generate("--prompt", long, "--max-tokens", "5").startswith(long))

    def test_streams_whole_characters(self):
        """A model that has learnt nothing writes any bytes; what is printed is text all the same, at every moment."""
        self.train("run", 0, "--set", "train.max_steps=6", "--set", "eval.every=0")
        command = harness.command(["generate", "--checkpoint", "run", "--prompt", "Größe", "--max-tokens", "300",
                                   "--temperature", "2"])
        with subprocess.Popen(command, cwd=self.dir, env=harness.environment(), stdout=subprocess.PIPE) as process:
            parts = []
            while part := os.read(process.stdout.fileno(), 4096):
                parts.append(part)
        self.assertEqual(process.returncode, 0)
        self.assertGreater(len(parts), 1)
        text = "".join(part.decode() for part in parts)
        self.assertTrue(text.startswith("Größe"))
        self.assertIn("\ufffd", text)

    def test_dry_run_counts_attention_on_gpus(self):
        """In 16 bits cuDNN keeps the gradients of scores; in FP32 our own kernels work, and keep nothing of that size."""
        for precision, mebibytes in (("bf16", 2 * 2 * (512 * 512 * 2 + 512 * 4) / 2**20 + 1), ("fp32", 0)):
            output = self.run_lockstep("train", "-c", "config.yaml", "--dry-run", "--set", "runtime.device=cuda", "--set",
                                       f"runtime.precision={precision}", "--set", "model.context=512").stdout
            numbers = re.search(r"(?m)^ +0 +0-7.*$", output).group(0).split()[4:]
            self.assertAlmostEqual(float(numbers[6]), 64 + mebibytes, delta=0.051, msg=output)

    def test_what_does_not_fit(self):
        self.assert_refused(self.train("run", 2, "--set", "model.kind=mlp", code=78), "model.kind", "gpt")
        self.assert_refused(self.train("run", 2, "--set", "model.context=1000000", code=65), "1000001")
        self.assert_refused(self.train("run", 0, "--set", "model.heads=5", code=78), "model.heads")
        self.train("run", 0, "--set", "train.max_steps=6", "--set", "eval.every=0")
        result = self.run_lockstep("generate", "--checkpoint", "run", "--prompt", "\udcff", code=65)
        self.assert_refused(result, "UTF-8")
        self.assert_refused(self.train("run", 0, "--set", "model.context=12", code=76), "model.context")
        self.run_lockstep("generate", "--checkpoint", "nowhere", code=66)
        self.run_lockstep("generate", "--checkpoint", "run", "--top-p", "1.5", code=2)
        self.run_lockstep("generate", code=2)


if __name__ == "__main__":
    unittest.main()
