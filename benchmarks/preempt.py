#!/usr/bin/env python3
"""From a notice to a durable checkpoint, at random moments of a run whose state is about 500 MB (40 M parameters, AdamW, two ranks).

Each trial starts the run again in the same directory, sends mpirun SIGUSR1 at a random moment (in a step, in the copy or the write of a
periodic checkpoint, between them), and requires exit code 75 and the state preempted. `durable` is the time from sending the signal to
the run's own event that its checkpoint is in its place and synced, `ended` the time until mpirun is gone. The disk's direct write speed,
measured before and after, says what the save itself could take.

  benchmarks/preempt.py --lockstep build/lockstep [--trials 100] [--folder DIR] [--json FILE]
"""
import argparse
import datetime
import json
import math
import mmap
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import interleaved  # noqa: E402
import mlp  # noqa: E402

BATCH = 16
MOMENTS = 4.0  # seconds from an attempt's first step in which the signal comes
DEADLINE = 300


def config(data, megabytes, every):
    """Three layers of equal width whose parameters with both moments, 12 bytes each, are the state."""
    width = int((math.sqrt(mlp.INPUTS ** 2 + 8 * megabytes * 1e6 / 12) - mlp.INPUTS) / 4)
    return f"""
model: {{kind: mlp, hidden: [{width}, {width}, {width}], activation: relu}}
data: {{path: "{data}"}}
train: {{batch: {BATCH}, lanes: 2, max_steps: 1000000000}}
optimizer: {{kind: adamw, lr: 0.0001}}
checkpoint: {{every: {every}, keep_last: 2}}
eval: {{every: 0}}
log: {{every: 1}}
runtime: {{device: cpu}}
"""


def read_lines(path):
    """The whole lines of a file of JSON objects."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.endswith("\n")]


def first_step(process, run, attempt):
    """Waits until an attempt has made a step."""
    end = time.monotonic() + DEADLINE
    while not any(r["attempt"] == attempt for r in read_lines(os.path.join(run, "metrics.jsonl"))[-1:]):
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"attempt {attempt} has made no step: {process.communicate()[1]}")
        time.sleep(0.05)


def trial(command, run, attempt, rng):
    """Seconds from the signal to the durable checkpoint, and to the end of the job."""
    process = subprocess.Popen(command, env=interleaved.ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               text=True)
    try:
        first_step(process, run, attempt)
        time.sleep(rng.uniform(0, MOMENTS))
        sent = time.time()
        process.send_signal(signal.SIGUSR1)
        stderr = process.communicate(timeout=DEADLINE)[1]
        ended = time.time() - sent
    finally:
        process.kill()
    with open(os.path.join(run, "status.json"), encoding="utf-8") as f:
        status = json.load(f)
    if process.returncode != 75 or status["state"] != "preempted":
        raise SystemExit(f"exit code {process.returncode}, state {status['state']}: {stderr}")
    events = read_lines(os.path.join(run, "events.jsonl"))
    event = [e for e in events if e["event"] == "preempt" and e["attempt"] == attempt][-1]
    durable = datetime.datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp() - sent
    return {"durable": durable, "ended": ended, "said": event["seconds"], "step": event["step"]}


def write_speed(folder, megabytes):
    """MB/s of one process that writes random bytes past the page cache and syncs."""
    part = mmap.mmap(-1, 4 << 20)
    part.write(os.urandom(4 << 20))
    path, count = os.path.join(folder, "speed"), max(1, int(megabytes * 1e6) >> 22)
    start = time.monotonic()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o600)
    for _ in range(count):
        os.write(fd, part)
    os.fsync(fd)
    os.close(fd)
    speed = (count << 22) / 1e6 / (time.monotonic() - start)
    os.remove(path)
    return speed


def quantile(values, q):
    """The smallest value that a share q of all is not above."""
    return sorted(values)[max(0, math.ceil(q * len(values)) - 1)]


def processor():
    """The processor's name."""
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        names = [line.split(":", 1)[1].strip() for line in f if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} processors"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lockstep", default="build/lockstep")
    p.add_argument("--trials", type=int, default=100)
    p.add_argument("--ranks", type=int, default=2)
    p.add_argument("--megabytes", type=float, default=500, help="size of the state")
    p.add_argument("--every", type=int, default=10, help="steps between periodic checkpoints")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--folder", help="where the run lies while it is measured: its storage is part of what is measured")
    p.add_argument("--json")
    a = p.parse_args()
    a.lockstep = os.path.abspath(a.lockstep)
    rng, trials = random.Random(a.seed), []
    folder = tempfile.mkdtemp(prefix="preempt-", dir=a.folder)
    try:
        speeds = [write_speed(folder, a.megabytes)]
        data = mlp.write_data(folder, a.lockstep)
        command, run = interleaved.train_command(a.lockstep, folder, config(data, a.megabytes, a.every), a.ranks)
        command[command.index("--resume") + 1] = "auto"
        for attempt in range(1, a.trials + 1):
            trials.append(trial(command, run, attempt, rng))
            print(f"trial {attempt}/{a.trials}: {trials[-1]}", file=sys.stderr, flush=True)
        speeds.append(write_speed(folder, a.megabytes))
        newest = subprocess.run([a.lockstep, "checkpoint", "list", run], check=True, capture_output=True,
                                text=True).stdout.split()
        subprocess.run([a.lockstep, "checkpoint", "verify", run], check=True, stdout=subprocess.DEVNULL)
        size = os.path.getsize(os.path.join([word for word in newest if "step-" in word][-1], "state.h5"))
    finally:
        shutil.rmtree(folder)
    report = {"date": datetime.date.today().isoformat(), "machine": processor(), "command": " ".join(sys.argv),
              "state_megabytes": size / 1e6, "ranks": a.ranks, "direct_write_megabytes_per_second": speeds,
              "trials": trials}
    print(f"notice to durable, state of {size / 1e6:.0f} MB, {a.ranks} ranks, {a.trials} trials, on {report['machine']}; "
          f"direct writes of one process: {speeds[0]:.0f} and {speeds[1]:.0f} MB/s")
    for name in ("durable", "ended"):
        values = [t[name] for t in trials]
        report[name] = {"p50": quantile(values, 0.5), "p99": quantile(values, 0.99), "max": max(values)}
        print(f"{name:8s} p50 {report[name]['p50']:6.2f} s   p99 {report[name]['p99']:6.2f} s   max {max(values):6.2f} s")
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump(report, f, indent=1)


if __name__ == "__main__":
    main()
