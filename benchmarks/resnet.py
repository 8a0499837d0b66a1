#!/usr/bin/env python3
"""ResNet training on two cores, Lockstep against PyTorch: the same network, global batch, precision and optimizer (SGD with momentum), in
turn on one machine. Images are random, of 8 bits a value; their labels are random as well.

Every round runs each contender once; the figure is the median over the rounds of each run's median step, its spread the lowest and highest of
them. A ratio is taken within a round, then its median. PyTorch runs with and without channels_last, compiled and not, in one process of two
threads and as DDP over gloo on two ranks; --arrangements chooses among them.

  benchmarks/resnet.py --lockstep build/lockstep --python PYTHON [--python OTHER] [--shape cifar|imagenet] [--precision bf16] [--json FILE]
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

PEER = os.path.join(HERE, "peers", "resnet_torch.py")
SHAPES = {"cifar": {"depth": 18, "stem": "small", "side": 32, "classes": 10, "batch": 64},
          "imagenet": {"depth": 50, "stem": "imagenet", "side": 224, "classes": 64, "batch": 16}}
ARRANGEMENTS = {"threads": (1, []), "threads channels_last": (1, ["--channels-last"]), "ddp channels_last": (2, ["--channels-last"]),
                "threads channels_last compiled": (1, ["--channels-last", "--compile"]),
                "ddp channels_last compiled": (2, ["--channels-last", "--compile"])}


def write_data(folder, a):
    """Random images as IDX files of four dimensions, imported."""
    rng, shape, rows = random.Random(1), SHAPES[a.shape], 4 * SHAPES[a.shape]["batch"]
    images, labels = os.path.join(folder, "train-x-idx4"), os.path.join(folder, "train-y-idx1")
    with open(images, "wb") as f:
        f.write(bytes([0, 0, 8, 4]) + struct.pack(">IIII", rows, shape["side"], shape["side"], 3))
        f.write(rng.randbytes(rows * shape["side"] ** 2 * 3))
    with open(labels, "wb") as f:  # every class has a sample
        f.write(bytes([0, 0, 8, 1]) + struct.pack(">I", rows) + bytes(i % shape["classes"] for i in range(rows)))
    out = os.path.join(folder, "data.h5")
    subprocess.run([a.lockstep, "data", "import", "idx", images, labels, "-o", out], check=True, stdout=subprocess.DEVNULL)
    return out


def run_lockstep(a, folder, data):
    shape = SHAPES[a.shape]
    return interleaved.run_lockstep(a.lockstep, folder, f"""
model: {{kind: resnet, depth: {shape['depth']}, stem: {shape['stem']}}}
data: {{path: "{data}"}}
train: {{batch: {shape['batch']}, lanes: 2, max_steps: {a.steps + interleaved.WARM_UP}}}
optimizer: {{kind: sgd, lr: 0.05, momentum: 0.9, nesterov: true, weight_decay: 0.0005}}
checkpoint: {{every: 0}}
eval: {{every: 0}}
log: {{every: 1}}
runtime: {{device: cpu, precision: {a.precision}}}
""", 2)


def run_torch(a, python, name):
    ranks, words = ARRANGEMENTS[name]
    shape = [word for key, value in SHAPES[a.shape].items() for word in (f"--{key}", str(value))]
    return interleaved.run_peer([python, PEER, "--steps", str(a.steps), "--precision", a.precision, "--threads", str(3 - ranks), *shape,
                                 *words], ranks)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lockstep", default="build/lockstep")
    p.add_argument("--python", action="append", default=[], help="a Python with PyTorch; may be repeated")
    p.add_argument("--shape", default="cifar", choices=list(SHAPES))
    p.add_argument("--arrangements", nargs="+", default=list(ARRANGEMENTS), choices=list(ARRANGEMENTS), metavar="NAME",
                   help=", ".join(ARRANGEMENTS))
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    p.add_argument("--json")
    a = p.parse_args()
    a.lockstep = os.path.abspath(a.lockstep)
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(folder, a)
        contenders = {"lockstep W=2": lambda: run_lockstep(a, folder, data)}
        for python in a.python:
            version = interleaved.torch_version(python)
            for name in a.arrangements:
                if "compiled" not in name or version >= "2":
                    contenders[f"torch {version} {name}"] = lambda py=python, n=name: run_torch(a, py, n)
        rounds = interleaved.run_rounds(contenders, a.rounds)
    shape = SHAPES[a.shape]
    print(f"ResNet-{shape['depth']}, {shape['side']} x {shape['side']}, batch {shape['batch']}, {a.precision}, SGD, two cores")
    report = {"machine": platform.processor() or platform.machine(), "shape": a.shape, "precision": a.precision, "steps": a.steps,
              "rounds": len(rounds), "command": " ".join(sys.argv), "contenders": interleaved.compare(rounds)}
    for name, row in report["contenders"].items():
        row["images_per_second"] = shape["batch"] / row["median"]
        print(f"{name:46s} {row['images_per_second']:9.1f} images/s")
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump(report, f, indent=1)


if __name__ == "__main__":
    main()
