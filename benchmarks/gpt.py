#!/usr/bin/env python3
"""GPT training on two CPU cores, Lockstep against PyTorch and llm.c: same shape, global batch and optimizer, in turn on one machine
(interleaved.py says how).

  benchmarks/gpt.py --lockstep build/lockstep --python /usr/bin/python3 [--python OTHER] [--shape small|124m] [--rounds 5] [--json FILE]

Two independent runs of one rank each, at once, show what two ranks lose to working together. Where neighbours take most of the machine,
--cores 1 compares one rank with one thread by processor time, which they disturb less. With --llmc, a directory with llm.c's sources,
its trainer on CPUs takes part as well (124m).
"""
import argparse
import datetime
import json
import os
import platform
import random
import statistics
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import interleaved  # noqa: E402

PEERS = os.path.join(HERE, "peers")
SHAPES = {
    "small": {"layers": 6, "heads": 6, "width": 384, "window": 256, "vocabulary": 257, "rows": 8},
    "124m": {"layers": 12, "heads": 12, "width": 768, "window": 256, "vocabulary": 50257, "rows": 2},
}  # rows: windows of a rank


def write_data(folder, lockstep, shape):
    """Random tokens as one of llm.c's shards, imported."""
    rng, count = random.Random(1), 1 << 19
    tokens = struct.pack(f"<{count}H", *(rng.randrange(shape["vocabulary"]) for _ in range(count)))
    shard, out = os.path.join(folder, "tokens.bin"), os.path.join(folder, "tokens.h5")
    with open(shard, "wb") as f:
        f.write(struct.pack("<256i", 20240520, 1, count, *[0] * 253) + tokens)
    subprocess.run([lockstep, "data", "import", "tokens", shard, "--vocab", str(shape["vocabulary"]), "-o", out], check=True,
                   stdout=subprocess.DEVNULL)
    return out


def configure(a, data, ranks):
    shape = a.shape
    return f"""
model: {{kind: gpt, layers: {shape['layers']}, heads: {shape['heads']}, width: {shape['width']}, context: {shape['window']}}}
data: {{path: "{data}"}}
train: {{batch: {shape['rows'] * ranks}, lanes: {ranks}, max_steps: {a.steps + interleaved.WARM_UP}}}
optimizer: {{kind: adamw, lr: 0.001}}
checkpoint: {{every: 0}}
eval: {{every: 0}}
log: {{every: 1}}
runtime: {{device: cpu, precision: {a.precision}}}
"""


def run_lockstep(a, folder, data):
    result = interleaved.run_lockstep(a.lockstep, folder, configure(a, data, 2), 2)
    result["processor_seconds"] = result["run_processor_seconds"] / (a.steps + interleaved.WARM_UP)  # start-up is in it
    return result


def run_alone(a, folder, data):
    """Two runs at once, each on a core of its own; the step time of two ranks that would lose nothing to each other."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    before, runs, processes = interleaved.processor_seconds(), [], []
    for core in cores:
        command, run = interleaved.train_command(a.lockstep, folder, configure(a, data, 1), 1, f"alone-{core}")
        runs.append(run)
        processes.append(subprocess.Popen(["taskset", "-c", str(core)] + command, env=interleaved.ENVIRONMENT,
                                          stdout=subprocess.DEVNULL))
    if any([p.wait() for p in processes]):
        return None
    rate = sum(1 / interleaved.read_steps(run)["step_seconds"] for run in runs)
    processor = interleaved.processor_seconds() - before
    return {"step_seconds": 2 / rate, "processor_seconds": processor / (a.steps + interleaved.WARM_UP)}


def run_one_rank(a, folder, data):
    """Processor time of a step: what a long run takes more than a short one."""
    short = argparse.Namespace(**vars(a))
    short.steps = 1
    used = [interleaved.run_lockstep(a.lockstep, folder, configure(n, data, 1), 1) for n in (short, a)]
    return {"step_seconds": (used[1]["run_processor_seconds"] - used[0]["run_processor_seconds"]) / (a.steps - 1)}


def run_torch(a, python, ranks, threads, compiled):
    shape = a.shape
    words = ["--steps", str(a.steps), "--precision", a.precision, "--threads", str(threads),
             "--batch", str(a.cores * shape["rows"])] + (["--compile"] if compiled else [])
    for name in ("layers", "heads", "width", "window", "vocabulary"):
        words += [f"--{name}", str(shape[name])]
    result = interleaved.run_peer([python, os.path.join(PEERS, "gpt_torch.py")] + words, ranks)
    if result and a.cores == 1:
        result["step_seconds"] = result["processor_seconds"]
    return result


def run_llmc(a):
    command = [sys.executable, os.path.join(PEERS, "gpt_llmc.py"), a.llmc, "--batch", str(a.cores * a.shape["rows"]),
               "--window", str(a.shape["window"]), "--threads", str(a.cores)]
    result = interleaved.run_peer(command, 1)
    if result and a.cores == 1:
        result["step_seconds"] = result["processor_seconds"]
    return result


def contenders_of(a, folder, data):
    if a.cores == 1:
        contenders = {"lockstep W=1": lambda: run_one_rank(a, folder, data)}
    else:
        contenders = {"lockstep W=2": lambda: run_lockstep(a, folder, data),
                      "lockstep 2 x W=1, independent": lambda: run_alone(a, folder, data)}
    arrangements = {1: {"1 thread": (1, 1)}, 2: {"1 process x 2 threads": (1, 2), "DDP gloo x 2": (2, 1)}}[a.cores]
    for python in a.python or []:
        version = interleaved.torch_version(python)
        for compiled in (False, True) if version >= "2" else (False,):
            for words, (ranks, threads) in arrangements.items():
                name = f"torch {version}{' compiled' if compiled else ''}, {words}"
                contenders[name] = lambda py=python, r=ranks, t=threads, c=compiled: run_torch(a, py, r, t, c)
    if a.only:
        contenders = {name: run for name, run in contenders.items() if any(word in name for word in a.only)}
    if a.llmc:
        contenders[f"llm.c, {a.cores} threads"] = lambda: run_llmc(a)
    return contenders


def ratio(rounds, above, below):
    """The median over the rounds of one contender's step time over another's; None where either is missing."""
    both = [r for r in rounds if r.get(above) and r.get(below)]
    return statistics.median(r[above]["step_seconds"] / r[below]["step_seconds"] for r in both) if both else None


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lockstep", default="build/lockstep")
    p.add_argument("--python", action="append", help="a Python with PyTorch; may be repeated")
    p.add_argument("--llmc", help="llm.c's sources")
    p.add_argument("--only", action="append", help="only contenders with this in their name; may be repeated")
    p.add_argument("--shape", default="small", choices=SHAPES)
    p.add_argument("--cores", type=int, default=2, choices=[1, 2], help="1: processor time of one rank and one thread")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--steps", type=int, default=8, help="2 or more")
    p.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    p.add_argument("--json")
    a = p.parse_args()
    if a.steps < 2:
        p.error("--steps: 2 or more, since a short run's time is taken off a long one's")
    a.lockstep, name, a.shape = os.path.abspath(a.lockstep), a.shape, SHAPES[a.shape]

    with tempfile.TemporaryDirectory() as folder:
        data = write_data(folder, a.lockstep, a.shape)
        rounds = interleaved.run_rounds(contenders_of(a, folder, data), a.rounds)

    tokens = a.cores * a.shape["rows"] * a.shape["window"]
    measure = "processor time of one core" if a.cores == 1 else "wall time on two cores"
    print(f"GPT {name} {a.shape}, {tokens} tokens a step, {a.precision}, AdamW, {measure}")
    report = {"date": datetime.date.today().isoformat(), "machine": platform.processor() or platform.machine(),
              "shape": a.shape, "tokens": tokens, "measure": measure, "precision": a.precision, "steps": a.steps, "rounds": len(rounds),
              "command": " ".join(sys.argv), "contenders": interleaved.compare(rounds)}
    for row in report["contenders"].values():
        row["tokens_per_second"] = tokens / row["median"]
    ours = f"lockstep W={a.cores}"
    report["of_independent"] = ratio(rounds, "lockstep 2 x W=1, independent", ours)
    report["times_faster_than_llmc"] = ratio(rounds, f"llm.c, {a.cores} threads", ours)
    report["each_round"] = rounds
    for key in ("of_independent", "times_faster_than_llmc"):
        if report[key]:
            print(f"{key}: {report[key]:.3f}")
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump(report, f, indent=1)


if __name__ == "__main__":
    main()
