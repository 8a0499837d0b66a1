#!/usr/bin/env python3
"""MLP training, Lockstep against PyTorch: same shapes, global batch, precision and optimizer, in turn on one machine.

Every round runs each contender once, one after the other (A B C A B C …); the figure is the median over the rounds of each run's
median step time, its spread the lowest and highest of them. A ratio is taken within a round, then its median.

  benchmarks/mlp.py --lockstep build/lockstep --python /usr/bin/python3 [--python OTHER] [--rounds 5] [--json FILE]
"""
import argparse
import json
import os
import platform
import random
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import interleaved  # noqa: E402

PEER = os.path.join(HERE, "peers", "mlp_torch.py")
INPUTS, WIDTH, LAYERS, CLASSES, BATCH, ROWS = 128, 1024, 3, 10, 2048, 32768


def write_data(folder, lockstep):
    """Random float features and labels as IDX files, imported."""
    rng = random.Random(1)
    pool = struct.pack(">65536f", *(rng.gauss(0, 1) for _ in range(65536)))
    images, labels = os.path.join(folder, "train-x-idx2"), os.path.join(folder, "train-y-idx1")
    with open(images, "wb") as f:
        f.write(bytes([0, 0, 0x0D, 2]) + struct.pack(">II", ROWS, INPUTS))
        for _ in range(ROWS):
            start = 4 * rng.randrange(65536 - INPUTS)
            f.write(pool[start:start + 4 * INPUTS])
    with open(labels, "wb") as f:
        f.write(bytes([0, 0, 8, 1]) + struct.pack(">I", ROWS) + bytes(rng.randrange(CLASSES) for _ in range(ROWS)))
    out = os.path.join(folder, "data.h5")
    subprocess.run([lockstep, "data", "import", "idx", images, labels, "-o", out], check=True,
                   stdout=subprocess.DEVNULL)
    return out


def run_lockstep(a, folder, data, lanes, ranks):
    return interleaved.run_lockstep(a.lockstep, folder, f"""
model: {{kind: mlp, hidden: [{', '.join([str(WIDTH)] * LAYERS)}], activation: relu}}
data: {{path: "{data}"}}
train: {{batch: {BATCH}, lanes: {lanes}, max_steps: {a.steps + interleaved.WARM_UP}}}
optimizer: {{kind: adamw, lr: 0.001}}
checkpoint: {{every: 0}}
eval: {{every: 0}}
log: {{every: 1}}
runtime: {{device: cpu, precision: {a.precision}}}
""", ranks)


def run_torch(a, python, ranks):
    words = ["--steps", str(a.steps), "--precision", a.precision, "--threads", str(2 if ranks == 1 else 1),
             "--batch", str(BATCH)]
    return interleaved.run_peer([python, PEER] + words, ranks)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lockstep", default="build/lockstep")
    p.add_argument("--python", action="append", help="a Python with PyTorch; may be repeated")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--steps", type=int, default=30)
    p.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    p.add_argument("--json")
    a = p.parse_args()
    a.lockstep = os.path.abspath(a.lockstep)

    with tempfile.TemporaryDirectory() as folder:
        data = write_data(folder, a.lockstep)
        contenders = {f"lockstep L={lanes} W=2": lambda lanes=lanes: run_lockstep(a, folder, data, lanes, 2)
                      for lanes in (2, 8)}
        for python in a.python or []:
            version = interleaved.torch_version(python)
            contenders[f"torch {version} 1 process x 2 threads"] = lambda py=python: run_torch(a, py, 1)
            contenders[f"torch {version} DDP gloo x 2"] = lambda py=python: run_torch(a, py, 2)
        rounds = interleaved.run_rounds(contenders, a.rounds)

    print(f"MLP {LAYERS} x {WIDTH} on {INPUTS} inputs, batch {BATCH}, {a.precision}, AdamW, two cores")
    report = {"machine": platform.processor() or platform.machine(), "precision": a.precision, "steps": a.steps,
              "rounds": a.rounds, "command": " ".join(sys.argv), "contenders": interleaved.compare(rounds)}
    if a.json:
        with open(a.json, "w") as f:
            json.dump(report, f, indent=1)


if __name__ == "__main__":
    main()
