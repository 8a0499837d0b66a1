#!/usr/bin/env python3
"""What guards cost: the time of a training step with each of them, in turn with that of the same step without.

Every round runs each contender once; a ratio is taken within a round, and medians and spreads are over the rounds. On one rank it is
processor time, which says the same on a busy machine; ranks that wait for each other use theirs up, so with several it is the clock's.

  benchmarks/guard.py --lockstep build/lockstep [--ranks 1] [--rounds 5] [--json FILE]
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import interleaved  # noqa: E402
import mlp  # noqa: E402

CONTENDERS = {
    "without": "slow_ratio: 0",
    "slow ranks": "slow_ratio: 1.5",
    "spikes": "slow_ratio: 0, spike: 20, window: 128",
    "recompute_every 100": "slow_ratio: 0, recompute_every: 100",
    "recompute_every 10": "slow_ratio: 0, recompute_every: 10",
    "recompute_every 1": "slow_ratio: 0, recompute_every: 1",
}


def train(a, folder, data, guard, steps):
    """Processor seconds of a run, and its mean time of a step: a check is in one step of many."""
    command, run = interleaved.train_command(a.lockstep, folder, f"""
model: {{kind: mlp, hidden: [{a.width}, {a.width}, {a.width}], activation: relu}}
data: {{path: "{data}"}}
train: {{batch: {a.batch}, lanes: {a.lanes}, max_steps: {steps}}}
optimizer: {{kind: adamw, lr: 0.001}}
checkpoint: {{every: 0}}
eval: {{every: 0}}
log: {{every: 1}}
guard: {{{guard}}}
runtime: {{device: cpu, precision: {a.precision}}}
""", a.ranks)
    before = interleaved.processor_seconds()
    subprocess.run(command, check=True, env=interleaved.ENVIRONMENT, stdout=subprocess.DEVNULL)
    used = interleaved.processor_seconds() - before
    with open(os.path.join(run, "metrics.jsonl"), encoding="utf-8") as f:
        return used, statistics.mean(json.loads(line)["step_seconds"] for line in list(f)[-a.steps:])


def step_seconds(a, folder, data, guard):
    """Of one step, without what comes before the first ones."""
    if a.ranks > 1:
        return train(a, folder, data, guard, a.steps + interleaved.WARM_UP)[1]
    first = train(a, folder, data, guard, interleaved.WARM_UP)[0]
    return (train(a, folder, data, guard, a.steps + interleaved.WARM_UP)[0] - first) / a.steps


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lockstep", default="build/lockstep")
    p.add_argument("--ranks", type=int, default=1)
    p.add_argument("--lanes", type=int, default=8)
    p.add_argument("--batch", type=int, default=2048)
    p.add_argument("--width", type=int, default=1024)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--steps", type=int, default=100)
    p.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    p.add_argument("--json")
    a = p.parse_args()
    a.lockstep = os.path.abspath(a.lockstep)
    with tempfile.TemporaryDirectory() as folder:
        data = mlp.write_data(folder, a.lockstep)
        rounds = [{name: step_seconds(a, folder, data, guard) for name, guard in CONTENDERS.items()}
                  for _ in range(a.rounds)]
    results = {}
    for name in CONTENDERS:
        seconds = [r[name] for r in rounds]
        added = [100 * (r[name] / r["without"] - 1) for r in rounds]
        results[name] = {"step_ms": 1e3 * statistics.median(seconds), "added_percent": statistics.median(added),
                         "added_spread": [min(added), max(added)]}
        print(f"{name:20} {results[name]['step_ms']:8.2f} ms a step  {results[name]['added_percent']:+6.2f} % "
              f"({min(added):+.2f} to {max(added):+.2f})")
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump(dict(vars(a), results=results), f, indent=2)


if __name__ == "__main__":
    main()
