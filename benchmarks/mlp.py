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
import socket
import statistics
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
PEER = os.path.join(HERE, "peers", "mlp_torch.py")
INPUTS, WIDTH, LAYERS, CLASSES, BATCH, ROWS = 128, 1024, 3, 10, 2048, 32768
ENVIRONMENT = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMP_NUM_THREADS="1")


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
    config, run = os.path.join(folder, "bench.yaml"), os.path.join(folder, "run")
    with open(config, "w") as f:
        f.write(f"""
model: {{kind: mlp, hidden: [{', '.join([str(WIDTH)] * LAYERS)}], activation: relu}}
data: {{path: "{data}"}}
train: {{batch: {BATCH}, lanes: {lanes}, max_steps: {a.steps + 5}}}
optimizer: {{kind: adamw, lr: 0.001}}
checkpoint: {{every: 0}}
eval: {{every: 0}}
log: {{every: 1}}
runtime: {{device: cpu, precision: {a.precision}}}
""")
    command = [a.lockstep, "train", "-c", config, "--run-dir", run, "--resume", "never", "-q"]
    if ranks > 1:
        command = ["mpirun", "-np", str(ranks), "--bind-to", "core"] + command
    subprocess.run(command, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    with open(os.path.join(run, "metrics.jsonl")) as f:
        records = [json.loads(line) for line in f][5:]
    exposed = statistics.median(r["comm_seconds"] for r in records)
    return {"step_seconds": statistics.median(r["step_seconds"] for r in records), "comm_seconds": exposed}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def run_torch(a, python, ranks):
    words = ["--steps", str(a.steps), "--precision", a.precision, "--threads", str(2 if ranks == 1 else 1),
             "--batch", str(BATCH)]
    command = [python, PEER] + words
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    if ranks > 1:  # by hand, since Debian's torch has no working launcher
        environment.update(WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port())
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                  env=dict(environment, RANK=str(r))) for r in range(ranks)]
    outputs = [p.communicate()[0] for p in processes]
    lines = [line for line in outputs[0].splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if all(p.returncode == 0 for p in processes) and lines else None


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
            version = subprocess.run([python, "-c", "import torch; print(torch.__version__)"], capture_output=True,
                                     text=True, check=True).stdout.strip()
            contenders[f"torch {version} 1 process x 2 threads"] = lambda py=python: run_torch(a, py, 1)
            contenders[f"torch {version} DDP gloo x 2"] = lambda py=python: run_torch(a, py, 2)
        rounds = []
        for number in range(a.rounds):
            rounds.append({name: run() for name, run in contenders.items()})
            print(f"round {number + 1}/{a.rounds}", file=sys.stderr)

    names = [n for n in contenders if all(r[n] for r in rounds)]
    for name in sorted(set(contenders) - set(names)):
        print(f"{name}: failed to run")
    peers = [n for n in names if n.startswith("torch")]
    report = {"machine": platform.processor() or platform.machine(), "precision": a.precision, "steps": a.steps,
              "rounds": a.rounds, "command": " ".join(sys.argv), "contenders": {}}
    print(f"MLP {LAYERS} x {WIDTH} on {INPUTS} inputs, batch {BATCH}, {a.precision}, AdamW, two cores")
    for name in names:
        times = [r[name]["step_seconds"] for r in rounds]
        row = {"median": statistics.median(times), "lowest": min(times), "highest": max(times)}
        if not name.startswith("torch") and peers:
            row["times_faster_than_best_torch"] = statistics.median(
                min(r[p]["step_seconds"] for p in peers) / r[name]["step_seconds"] for r in rounds)
        report["contenders"][name] = row
        ratio = row.get("times_faster_than_best_torch")
        print(f"{name:42s} {1e3 * row['median']:8.1f} ms  ({1e3 * row['lowest']:.1f} to {1e3 * row['highest']:.1f})"
              + (f"  {ratio:.2f}x the best PyTorch" if ratio else ""))
    if a.json:
        with open(a.json, "w") as f:
            json.dump(report, f, indent=1)


if __name__ == "__main__":
    main()
