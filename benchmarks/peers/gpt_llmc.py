"""llm.c's CPU trainer (train_gpt2.c, FP32 with OpenMP) as a peer of benchmarks/gpt.py: GPT-2 124M from random weights on random tokens.

  gpt_llmc.py SOURCES [--batch 4] [--window 256] [--steps 1] [--threads 2]

SOURCES is a checkout of github.com/karpathy/llm.c. The trainer is built with the flags of its Makefile; batch and window, which it has as
constants, are replaced in a copy. Prints one line of JSON with the median step time; the first step allocates and is left out.
"""
import argparse
import array
import json
import os
import random
import re
import statistics
import struct
import subprocess
import sys
import tempfile

CONTEXT, VOCABULARY, PADDED, LAYERS, HEADS, WIDTH = 1024, 50257, 50304, 12, 12, 768
# Of its Makefile, with OpenMP.
FLAGS = ["-Ofast", "-Wno-unused-result", "-Wno-ignored-pragmas", "-Wno-unknown-attributes", "-march=native", "-fopenmp", "-DOMP"]
STEP = re.compile(r"step \d+: train loss \S+ \(took (\S+) ms\)")


def build(a, folder):
    with open(os.path.join(a.sources, "train_gpt2.c"), encoding="utf-8") as f:
        text = f.read()
    for old, new in (("int B = 4;", f"int B = {a.batch};"), ("int T = 64;", f"int T = {a.window};"),
                     ("int val_num_batches = 5;", "int val_num_batches = 1;")):
        if text.count(old) != 1:
            sys.exit(f"{a.sources}/train_gpt2.c has no single `{old}`: another version than this script knows")
        text = text.replace(old, new)
    with open(os.path.join(folder, "train_gpt2.c"), "w", encoding="utf-8") as f:
        f.write(text)
    subprocess.run(["gcc", *FLAGS, "-I", a.sources, "train_gpt2.c", "-lm", "-o", "train_gpt2"], cwd=folder, check=True)


# Tensors in the trainer's order: values, and what they are drawn from (1: ones, 0: zeros, else normal with this deviation).
TENSORS = [(PADDED * WIDTH, 0.02), (CONTEXT * WIDTH, 0.02)]
for into, out in ((1, 3), (1, 1), (1, 4), (4, 1)):  # queries, keys and values; projection; up; down
    if (into, out) in ((1, 3), (1, 4)):
        TENSORS += [(LAYERS * WIDTH, 1), (LAYERS * WIDTH, 0)]
    TENSORS += [(LAYERS * WIDTH * WIDTH * into * out, 0.02), (LAYERS * WIDTH * out, 0)]
TENSORS += [(WIDTH, 1), (WIDTH, 0)]


def write_weights(folder, rng):
    normal = array.array("f", (rng.gauss(0, 1) for _ in range(65536)))
    with open(os.path.join(folder, "gpt2_124M.bin"), "wb") as f:
        f.write(struct.pack("<256i", 20240326, 3, CONTEXT, VOCABULARY, LAYERS, HEADS, WIDTH, PADDED, *[0] * 248))
        for count, kind in TENSORS:
            block = array.array("f", [kind] * 65536 if kind in (0, 1) else [kind * x for x in normal])
            for first in range(0, count, len(block)):
                block[:count - first].tofile(f)


def write_tokens(folder, rng, count):
    data = os.path.join(folder, "dev", "data", "tinyshakespeare")
    os.makedirs(data)
    for split in ("train", "val"):
        with open(os.path.join(data, f"tiny_shakespeare_{split}.bin"), "wb") as f:
            f.write(struct.pack("<256i", 20240520, 1, count, *[0] * 253))
            array.array("H", (rng.randrange(VOCABULARY) for _ in range(count))).tofile(f)


def processor_seconds(process):
    """Of a process that runs."""
    with open(f"/proc/{process}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def train(a, folder):
    """The steps' seconds and processor seconds; the trainer is ended when it has done them."""
    times, processor = [], []
    with subprocess.Popen(["stdbuf", "-oL", "./train_gpt2"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          text=True, env=dict(os.environ, OMP_NUM_THREADS=str(a.threads))) as trainer:
        for line in trainer.stdout:
            took = STEP.match(line)
            if not took:
                continue
            times.append(float(took.group(1)) / 1e3)
            processor.append(processor_seconds(trainer.pid))
            if len(times) > a.steps:
                trainer.kill()
                break
    return times[1:], [after - before for before, after in zip(processor, processor[1:])]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("sources")
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--window", type=int, default=256)
    p.add_argument("--steps", type=int, default=1)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    a.sources, rng = os.path.abspath(a.sources), random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        build(a, folder)
        write_weights(folder, rng)
        write_tokens(folder, rng, 1 + 64 * a.batch * a.window)
        times, processor = train(a, folder)
    if not times:
        sys.exit("llm.c's trainer did no step")
    print(json.dumps({"peer": "llm.c", "threads": a.threads, "step_seconds": statistics.median(times),
                      "processor_seconds": statistics.median(processor)}))


if __name__ == "__main__":
    main()
