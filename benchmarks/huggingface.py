#!/usr/bin/env python3
"""Exported models in Hugging Face's transformers, and transformers' models imported: logits compared, both ways.

Needs torch, transformers and safetensors from PyPI, so it is no part of ./check. Models are small or random, prompts short;
what is compared is every logit of a greedy continuation, computed by Lockstep token by token on kept keys and values, and by
transformers in one pass over the same tokens, both in FP32; and the error of each against transformers in FP64.

  benchmarks/huggingface.py --lockstep build/lockstep [--json FILE]        (with a Python that has the packages)
"""
import argparse
import array
import json
import os
import random
import subprocess
import sys
import tempfile

import safetensors.torch
import torch
import transformers

# Of the logits' norm. Both compute in FP32 and sum in different orders; the FP64 errors printed beside it say whose it is.
TOLERANCE = 1e-5

CONFIG = """
model: {kind: gpt, layers: 3, heads: 4, width: 64, context: 48, dropout: 0.1}
data: {path: text.h5}
train: {batch: 16, lanes: 8, max_steps: 100}
optimizer: {lr: 0.01, clip_norm: 1.0}
eval: {every: 0}
runtime: {precision: fp32, device: cpu}
"""


class Check:
    """Runs Lockstep in a folder of its own and keeps what was found."""

    def __init__(self, lockstep, folder):
        self.lockstep, self.folder, self.found = os.path.abspath(lockstep), folder, []

    def path(self, name):
        return os.path.join(self.folder, name)

    def run(self, *arguments):
        result = subprocess.run([self.lockstep, *map(str, arguments)], cwd=self.folder, capture_output=True, check=False)
        if result.returncode:
            sys.exit(f"lockstep {' '.join(map(str, arguments))}: {result.stderr.decode()}")
        return result.stdout

    def encode(self, text, tokenizer):
        with open(self.path("prompt.txt"), "wb") as f:
            f.write(text)
        return [int(token) for token in self.run("tokenizer", "encode", "-t", tokenizer, "prompt.txt").split()]

    def logits(self, run, prompt, tokens):
        """Of a greedy continuation: a tensor [tokens there are][vocabulary]."""
        self.run("generate", "--checkpoint", run, "--prompt", prompt.decode(), "--max-tokens", tokens, "--temperature", 0,
                 "--logits", "logits.f32", "--set", "runtime.precision=fp32", "--set", "runtime.device=cpu")
        values = array.array("f")
        with open(self.path("logits.f32"), "rb") as f:
            values.frombytes(f.read())
        return torch.tensor(values)

    def compare(self, name, model, run, prompt, tokens, tokenizer):
        """All logits of the continuation, and whether transformers would choose the same tokens."""
        prefix = self.encode(prompt, tokenizer)
        ours = self.logits(run, prompt, tokens).view(-1, model.config.vocab_size)
        chosen = ours.argmax(dim=1).tolist()
        tokens = torch.tensor([prefix + chosen[:-1]])
        with torch.no_grad():
            theirs = model(tokens).logits[0, len(prefix) - 1:]
            exact = model.double()(tokens).logits[0, len(prefix) - 1:]

        def error(found, expected):
            return ((found.double() - expected).norm() / expected.norm()).item()

        same = exact.argmax(dim=1).tolist() == chosen
        self.found.append({
            "check": name, "logits": list(ours.shape), "difference": error(ours, theirs.double()),
            "our_error": error(ours, exact), "their_error": error(theirs, exact), "same_tokens": same,
            "good": error(ours, theirs.double()) < TOLERANCE and same})
        print(json.dumps(self.found[-1]), flush=True)

    def state(self, name, good):
        self.found.append({"check": name, "good": bool(good)})
        print(json.dumps(self.found[-1]), flush=True)


def load(path):
    model, report = transformers.GPT2LMHeadModel.from_pretrained(path, output_loading_info=True, dtype=torch.float32)
    clean = not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    return model.eval(), clean


def random_model(**sizes):
    """Weights large enough that logits differ much; eager attention, as the reference."""
    torch.manual_seed(1)
    config = transformers.GPT2Config(bos_token_id=256, eos_token_id=256, initializer_range=0.1, **sizes)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def write_text(check):
    rng = random.Random(1)
    words = ["rank", "lane", "bucket", "Größe", "naïve", "adds", "sends", "keeps", "the", "a", "of", "and"]
    with open(check.path("text.txt"), "w", encoding="utf-8") as f:
        for _ in range(4000):
            f.write(" ".join(rng.choice(words) for _ in range(8)).capitalize() + ".\n")


def out(check, tokenizer):
    """A model trained here, in transformers."""
    name = "bytes" if tokenizer == "bytes" else "bpe"
    check.run("data", "import", "text", "text.txt", "-o", "text.h5", "--tokenizer", tokenizer, "--force")
    with open(check.path("config.yaml"), "w", encoding="utf-8") as f:
        f.write(CONFIG)
    check.run("train", "-c", "config.yaml", "--run-dir", name, "-q")
    check.run("export", "--checkpoint", name, "-o", f"{name}-hf")
    model, clean = load(check.path(f"{name}-hf"))
    check.state(f"out, {name}: every tensor found, none left over", clean)
    check.compare(f"out, {name}", model, name, "The rank keeps".encode(), 30, tokenizer)
    if name == "bpe":
        theirs = transformers.AutoTokenizer.from_pretrained(check.path("bpe-hf"))
        text = "The naïve rank's bucket, 12 of  them:\n\tGröße!"
        check.state("out, bpe: the tokenizer encodes alike", theirs.encode(text) == check.encode(text.encode(), tokenizer))
    check.run("export", "--checkpoint", name, "-o", f"{name}-bf16", "--type", "bf16")
    model, clean = load(check.path(f"{name}-bf16"))
    check.run("import", f"{name}-bf16", "-o", f"{name}-rounded")
    check.compare(f"out and back, {name}, BF16 file", model, f"{name}-rounded", b"A lane", 30, tokenizer)


def back(check, name, tokens, **sizes):
    """A model of transformers, here."""
    model = random_model(**sizes)
    model.save_pretrained(check.path(f"{name}-hf"))
    check.run("import", f"{name}-hf", "-o", name, "--tokenizer", "bytes")
    check.compare(f"in, {name}", model, name, "The rank keeps, Größe".encode(), tokens, "bytes")
    check.run("export", "--checkpoint", name, "-o", f"{name}.safetensors")
    ours = safetensors.torch.load_file(check.path(f"{name}.safetensors"))
    model = random_model(**sizes)  # the comparison has made the first one FP64
    theirs = {key.removeprefix("transformer."): value for key, value in model.state_dict().items() if key != "lm_head.weight"}
    same = ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    check.state(f"in and out, {name}: the same tensors to the bit", same)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lockstep", default="build/lockstep")
    parser.add_argument("--json", help="where to write what was found")
    a = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="lockstep-hf-") as folder:
        check = Check(a.lockstep, folder)
        write_text(check)
        check.run("tokenizer", "train", "text.txt", "-o", "tokenizer.json", "--vocab", 320)
        out(check, "bytes")
        out(check, "tokenizer.json")
        back(check, "small", 40, n_layer=2, n_head=4, n_embd=48, n_positions=64, vocab_size=257)
        back(check, "gpt2-124m-of-bytes", 8, n_layer=12, n_head=12, n_embd=768, n_positions=1024, vocab_size=257)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps(versions))
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump({**versions, "tolerance": TOLERANCE, "checks": check.found}, f, indent=1)
    sys.exit(0 if all(found["good"] for found in check.found) else 1)


if __name__ == "__main__":
    main()
