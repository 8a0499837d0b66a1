#!/usr/bin/env python3
"""Benchmarks on one GPU: the ops against the machine's own ceilings, and training of MLPs and GPT-2 against PyTorch and llm.c.

  benchmarks/gpu.py --build build-cuda --out benchmarks/results [--python PYTHON_WITH_TORCH] [--llmc DIR] [--rounds 3] [--quick]
                    [--only ops mlp gpt] [--sizes 124m 350m 774m] [--modes none default reduce-overhead max-autotune]

Contenders of training run in turn, round after round (A B C A B C ...). Writes <gpu>-<date>.json with machine, versions and commands,
after each part, so that what was measured is kept when the rest is cut off; parts that another call of the same day wrote stay. Prints
tables. Without PyTorch and llm.c the ops and our own times are still measured.
"""
import argparse
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import gpu_gpt  # noqa: E402
import mlp  # noqa: E402  the data of the CPU benchmark

PARTS = ("ops", "mlp", "gpt")


def output(command, **options):
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    except FileNotFoundError:  # no nvidia-smi: an emulated GPU, or a container without the tool
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def machine(lockstep):
    query = output(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])
    doctor = output([lockstep, "doctor"])
    named = re.search(r"^ok +cuda +cuda \w+, ([^,]+),", doctor, re.MULTILINE)
    return {"gpu": query.splitlines()[0] if query else named.group(1) if named else "none", "doctor": doctor,
            "version": output([lockstep, "version", "--json"]), "processors": os.cpu_count()}


def our_mlp(a, folder, data, batch, lanes):
    config, run = os.path.join(folder, "bench.yaml"), os.path.join(folder, "run")
    with open(config, "w", encoding="utf-8") as f:
        f.write(f"""
model: {{kind: mlp, hidden: [1024, 1024, 1024], activation: relu}}
data: {{path: "{data}", workers: {max(1, min(8, (os.cpu_count() or 2) - 2))}, prefetch: 32}}
train: {{batch: {batch}, lanes: {lanes}, max_steps: {a.window * (a.windows + 1)}}}
optimizer: {{kind: adamw, lr: 0.001}}
checkpoint: {{every: 0}}
eval: {{every: 0}}
log: {{every: {a.window}}}
runtime: {{device: {a.device}, precision: {a.precision}, autotune: true}}
""")
    subprocess.run([a.lockstep, "train", "-c", config, "--run-dir", run, "--resume", "never", "-q"], check=True,
                   env=mlp.interleaved.ENVIRONMENT, stdout=subprocess.DEVNULL)
    with open(os.path.join(run, "metrics.jsonl"), encoding="utf-8") as f:
        records = [json.loads(line) for line in f][1:]
    return {"step_seconds": statistics.median(r["step_seconds"] for r in records),
            "data_seconds": statistics.median(r["data_seconds"] for r in records)}


def torch_mlp(a, batch, mode):
    command = [a.python, os.path.join(HERE, "peers", "mlp_torch_gpu.py"), "--compile", mode, "--batch", str(batch),
               "--precision", a.precision, "--window", str(a.window), "--windows", str(a.windows)]
    text = output(command)
    lines = [line for line in text.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else None


def compare_mlp(a, folder, data, batch):
    contenders = {f"lockstep L={lanes}": lambda lanes=lanes: our_mlp(a, folder, data, batch, lanes) for lanes in (1, 8)}
    if a.python:
        contenders.update({f"torch {mode}": lambda mode=mode: torch_mlp(a, batch, mode) for mode in a.modes})
    rounds = []
    for number in range(a.rounds):
        rounds.append({name: run() for name, run in contenders.items()})
        print(f"batch {batch}: round {number + 1}/{a.rounds}", file=sys.stderr, flush=True)
    names = [n for n in contenders if all(r[n] for r in rounds)]
    peers = [n for n in names if n.startswith("torch")]
    rows = {}
    for name in names:
        times = [r[name]["step_seconds"] for r in rounds]
        rows[name] = {"median": statistics.median(times), "lowest": min(times), "highest": max(times)}
        if name.startswith("lockstep"):
            rows[name]["data_seconds"] = statistics.median(r[name]["data_seconds"] for r in rounds)
            if peers:
                rows[name]["times_faster_than_best_torch"] = statistics.median(
                    min(r[p]["step_seconds"] for p in peers) / r[name]["step_seconds"] for r in rounds)
    for name in sorted(set(contenders) - set(names)):
        rows[name] = {"failed": True}
    return rows


def print_mlp(batch, rows):
    print(f"MLP 3 x 1024 on 128 inputs, batch {batch}, AdamW")
    for name, row in rows.items():
        if "failed" in row:
            print(f"  {name:28s} failed to run")
            continue
        ratio = row.get("times_faster_than_best_torch")
        print(f"  {name:28s} {1e6 * row['median']:9.1f} us  ({1e6 * row['lowest']:.1f} to {1e6 * row['highest']:.1f})"
              + (f"  {ratio:.2f}x the best PyTorch" if ratio else ""))


def bench_ops(a):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "ops.json")  # bench_ops puts a new file in place
        command = [os.path.join(a.build, "benchmarks", "device", "bench_ops"), "--device", a.device, "--json", path]
        done = subprocess.run(command + (["--quick"] if a.quick else []), check=False)
        if done.returncode != 0:
            return None
        with open(path, encoding="utf-8") as f:
            return json.load(f)


class Report:
    """The file of results, replaced by each part that comes in."""

    def __init__(self, a):
        described = machine(a.lockstep)
        date = datetime.date.today().isoformat()
        name = re.sub(r"[^a-z0-9]+", "-", described["gpu"].split(",")[0].lower().replace("nvidia", "")).strip("-")
        os.makedirs(a.out, exist_ok=True)
        self.path = os.path.join(a.out, f"{name or 'gpu'}-{date}.json")
        self.content = {"date": date, "machine": described, "commands": []}
        if os.path.exists(self.path):
            with open(self.path, encoding="utf-8") as f:
                self.content = json.load(f)
        self.content["commands"].append(" ".join(sys.argv))

    def put(self, *keys_and_value):
        *keys, last, value = keys_and_value
        place = self.content
        for key in keys:
            place = place.setdefault(key, {})
        place[last] = value
        with open(self.path + ".new", "w", encoding="utf-8") as f:
            json.dump(self.content, f, indent=1)
        os.replace(self.path + ".new", self.path)


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build-cuda")
    p.add_argument("--out", default=os.path.join(HERE, "results"))
    p.add_argument("--python", help="a Python with PyTorch for this GPU")
    p.add_argument("--llmc", help="llm.c's folder with train_gpt2cu, built with cuDNN")
    p.add_argument("--only", nargs="+", default=PARTS, choices=PARTS)
    p.add_argument("--sizes", nargs="+", default=["124m", "350m", "774m"], choices=gpu_gpt.SIZES)
    p.add_argument("--modes", nargs="*", default=gpu_gpt.MODES, choices=gpu_gpt.MODES, help="of torch.compile; none is eager")
    p.add_argument("--attention", default="both", choices=["both", "auto"], help="of PyTorch: its choice, or also cuDNN's")
    p.add_argument("--device", default="cuda")
    p.add_argument("--precision", default="bf16", choices=["bf16", "fp16", "fp32"])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--window", type=int, default=400, help="of the MLP: steps between two times")
    p.add_argument("--windows", type=int, default=5)
    p.add_argument("--batches", type=int, nargs="+", default=[256, 1024], help="of the MLP")
    p.add_argument("--gpt-batch", type=int, default=64, help="windows of an optimizer step")
    p.add_argument("--gpt-lanes", type=int, default=8, help="of a second run of ours; 1: none")
    p.add_argument("--turn", type=float, default=4, help="seconds that a contender trains in a round")
    p.add_argument("--budget", type=float, default=500, help="seconds for each size of GPT-2, after which no round begins")
    p.add_argument("--quick", action="store_true", help="tiny sizes, to try the program itself")
    a = p.parse_args()
    a.lockstep = os.path.abspath(os.path.join(a.build, "lockstep"))
    a.peer_device = "cuda"
    if a.quick:
        a.rounds, a.window, a.windows, a.batches = 1, 2, 1, [64]
        a.sizes, a.gpt_batch, a.gpt_lanes, a.turn, a.modes, a.attention = ["tiny"], 2, 2, 0, ["none"], "auto"
        if a.python and output([a.python, "-c", "import torch; print(torch.cuda.is_available())"]) != "True":
            a.peer_device = "cpu"
    return a


def main():
    a = parse()
    sys.stdout.reconfigure(line_buffering=True)  # programs that are run print too
    report, succeeded = Report(a), True
    with tempfile.TemporaryDirectory() as folder:
        if "ops" in a.only:
            ops = bench_ops(a)
            report.put("ops", ops)
            succeeded = ops is not None
        if "mlp" in a.only:
            data = mlp.write_data(folder, a.lockstep)
            for batch in a.batches:
                rows = compare_mlp(a, folder, data, batch)
                report.put("mlp", str(batch), rows)
                print_mlp(batch, rows)
        for size in a.sizes if "gpt" in a.only else []:
            succeeded &= gpu_gpt.measure(a, folder, size, lambda part, result, size=size: report.put("gpt", size, part, result))
    print(f"wrote {report.path}")
    return 0 if succeeded else 1


if __name__ == "__main__":
    sys.exit(main())
