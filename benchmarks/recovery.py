#!/usr/bin/env python3
"""From the death of a rank to the next step: `lockstep launch` against `torchrun --max-restarts` with DDP over gloo.

The same multilayer perceptron, batch and optimizer on two ranks of one machine; both save every --every steps. At a random moment
a random rank is killed (SIGKILL), again and again. What counts: the seconds from the kill to the end of the first step that is
done afterwards, and the steps that had been done and were done once more. Lockstep and each PyTorch take turns, --rounds times.

  benchmarks/recovery.py --lockstep build/lockstep [--python PYTHON] [--kills 20] [--rounds 3] [--json FILE]
"""
import argparse
import datetime
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import interleaved  # noqa: E402
import mlp  # noqa: E402

PEER = os.path.join(HERE, "peers", "recovery_torch.py")
RANKS, BATCH, WIDTH, LAYERS = 2, 512, 256, 3
FOREVER = 10**7  # steps
DEADLINE = 300   # seconds from a kill to the next step: then the benchmark fails


class Progress:
    """A file to which rank 0 appends a line of JSON for each step, with its attempt."""

    def __init__(self, path):
        self.path, self.size = path, -1

    def newest(self, seen):
        """(attempt, step) of the last whole line; `seen` when nothing has changed."""
        try:
            size = os.stat(self.path).st_size
            if size == self.size:
                return seen
            with open(self.path, "rb") as file:
                file.seek(max(0, size - 4096))
                lines = file.read().split(b"\n")[:-1]
            record = json.loads(lines[-1])
        except (OSError, ValueError, IndexError):
            return seen
        self.size = size
        return record["attempt"], record["step"]

    def wait(self, process, seen, attempt):
        """Waits for the first line of an attempt, or a later one."""
        end = time.monotonic() + DEADLINE
        while seen[0] < attempt:
            time.sleep(0.0005)
            seen = self.newest(seen)
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{process.args}: no step of attempt {attempt}, exit code {process.poll()}")
        return seen


def children(pid):
    """Also those that other threads than the first have started."""
    found = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += [int(child) for child in file.read().split()]
    except OSError:
        pass
    return found


def descendants(pid):
    return [each for child in children(pid) for each in [child, *descendants(child)]]


def ranks_of(process, variable):
    """{rank: process id}, by a variable of their environment."""
    found = {}
    for pid in descendants(process.pid):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                values = [v for v in file.read().split(b"\0") if v.startswith(variable.encode() + b"=")]
        except OSError:
            continue
        if values and not any(pid in children(other) for other in found.values()):
            found[int(values[0].split(b"=")[1])] = pid
    return found


def kill_ranks(process, progress, variable, kills, rng):
    """Kills ranks of a running job; what each death cost."""
    costs, seen = [], progress.wait(process, (-1, 0), 0)
    for _ in range(kills):
        time.sleep(rng.uniform(0.7, 2.2))
        while len(ranks := ranks_of(process, variable)) < RANKS and process.poll() is None:
            time.sleep(0.1)  # it restarts once more, by itself
        victim = rng.choice(sorted(ranks.values()))
        seen = progress.newest(seen)
        killed, wall = time.monotonic(), time.time()
        os.kill(victim, signal.SIGKILL)
        after = progress.wait(process, seen, seen[0] + 1)
        costs.append({"seconds": time.monotonic() - killed, "steps": max(0, seen[1] - after[1] + 1), "killed": wall,
                      "attempt": after[0]})
        seen = after
    return costs


def clock(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def take_apart(run, costs):
    """When, after each kill, the job was over and when the new ranks were ready."""
    with open(os.path.join(run, "events.jsonl"), encoding="utf-8") as file:
        events = [json.loads(line) for line in file]
    for cost in costs:
        over = [e for e in events if e["event"] == "restart" and e["attempt"] == cost["attempt"] - 1]
        ready = [e for e in events if e["event"] in ("resume", "start") and e["attempt"] == cost["attempt"]]
        if over and ready:
            cost["over"] = clock(over[0]["time"]) - cost["killed"]
            cost["ready"] = clock(ready[0]["time"]) - cost["killed"]


def finish(process):
    """Ends a job with all its processes."""
    family = [process.pid, *descendants(process.pid)]
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        for pid in family:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.wait()


def run_lockstep(a, folder, data, rng):
    run, path = os.path.join(folder, f"run-{rng.random()}"), os.path.join(folder, "run.yaml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"""
model: {{kind: mlp, hidden: [{', '.join([str(WIDTH)] * LAYERS)}], activation: relu}}
data: {{path: "{data}"}}
train: {{batch: {BATCH}, lanes: {RANKS}, max_steps: {FOREVER}}}
optimizer: {{kind: adamw, lr: 0.001}}
checkpoint: {{every: {a.every}}}
eval: {{every: 0}}
log: {{every: 1}}
runtime: {{device: cpu, precision: fp32}}
""")
    command = [a.lockstep, "launch", "--ranks", str(RANKS), "--max-restarts", "1000", "--", "train", "-c", path, "--run-dir",
               run, "-q"]
    process = subprocess.Popen(command, env=interleaved.ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        costs = kill_ranks(process, Progress(os.path.join(run, "metrics.jsonl")), "OMPI_COMM_WORLD_RANK", a.kills, rng)
    finally:
        finish(process)
    take_apart(run, costs)
    return costs


def run_torch(a, python, folder, rng):
    progress, saved = (os.path.join(folder, f"{name}-{rng.random()}") for name in ("progress", "saved"))
    command = [python, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(RANKS), "--max-restarts", "1000",
               PEER, "--batch", str(BATCH), "--width", str(WIDTH), "--layers", str(LAYERS), "--inputs", str(mlp.INPUTS),
               "--every", str(a.every), "--progress", progress, "--saved", saved]
    process = subprocess.Popen(command, env=interleaved.ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return kill_ranks(process, Progress(progress), "LOCAL_RANK", a.kills, rng)
    finally:
        finish(process)


def percentile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def summary(costs):
    seconds = [cost["seconds"] for cost in costs]
    result = {"kills": len(costs), "p50": statistics.median(seconds), "p99": percentile(seconds, 0.99), "most": max(seconds),
              "steps_lost_p50": statistics.median(cost["steps"] for cost in costs),
              "steps_lost_most": max(cost["steps"] for cost in costs)}
    parts = [cost for cost in costs if "ready" in cost]
    if parts:
        result["parts_p50"] = {
            "until the job is over": statistics.median(cost["over"] for cost in parts),
            "until the ranks are ready": statistics.median(cost["ready"] - cost["over"] for cost in parts),
            "until a step is done": statistics.median(cost["seconds"] - cost["ready"] for cost in parts)}
    return result


def print_table(report):
    print("From the death of a rank to the end of the next step; steps done once more.\n")
    for name, s in report["contenders"].items():
        print(f"{name}: p50 {s['p50']:.2f} s, p99 {s['p99']:.2f} s, most {s['most']:.2f} s of {s['kills']} kills; "
              f"steps lost: p50 {s['steps_lost_p50']:g}, most {s['steps_lost_most']}")
        for part, seconds in s.get("parts_p50", {}).items():
            print(f"    {part}: {seconds:.2f} s")
    print(f"\n{report['machine']}, {report['cores']} cores, load {report['load']:.1f} at the end; {report['command']}")


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lockstep", default="build/lockstep")
    p.add_argument("--python", action="append", help="a Python with PyTorch; may be repeated")
    p.add_argument("--kills", type=int, default=20, help="in each round")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--every", type=int, default=10, help="steps between checkpoints")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--json")
    a = p.parse_args()
    a.lockstep = os.path.abspath(a.lockstep)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that jobs are ended

    rng = random.Random(a.seed)
    with tempfile.TemporaryDirectory() as folder:
        data = mlp.write_data(folder, a.lockstep)
        contenders = {"lockstep launch": lambda: run_lockstep(a, folder, data, rng)}
        for python in a.python or []:
            contenders[f"torchrun {interleaved.torch_version(python)}"] = lambda py=python: run_torch(a, py, folder, rng)
        rounds = interleaved.run_rounds(contenders, a.rounds)
    report = {"machine": machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0], "command": " ".join(sys.argv),
              "contenders": {name: summary([cost for r in rounds for cost in r[name]]) for name in contenders}}
    print_table(report)
    if a.json:
        with open(a.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
