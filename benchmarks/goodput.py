#!/usr/bin/env python3
"""Goodput under faults: the share of the time that goes into steps that count while something dies every minute.

Trains the MLP of mlp.py under `lockstep launch`, strikes it again and again, asks it to stop in the end, and prints what
status.json says: the ratio, and the seconds lost by cause. Goal: 90 % with a fault every 60 s for 30 minutes.

  benchmarks/goodput.py --lockstep build/lockstep [--minutes 30] [--every 60] [--kinds kill-rank,stop-rank] [--json FILE]

  kill-rank         kill -9 of a rank drawn at random (the default)
  stop-rank         SIGSTOP of one, for good
  kill-mpirun       kill -9 of the launcher of the ranks
  kill-supervisor   kill -9 of lockstep launch, which is started again at once, as an init system would
"""
import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import interleaved  # noqa: E402
import mlp  # noqa: E402

GOAL = 0.9
KINDS = ("kill-rank", "stop-rank", "kill-mpirun", "kill-supervisor")
CONFIG = """
model: {{kind: mlp, hidden: [{width}, {width}, {width}], activation: relu}}
data: {{path: "{data}"}}
train: {{batch: {batch}, max_steps: 1000000000}}
optimizer: {{kind: adamw, lr: 0.001}}
checkpoint: {{policy: auto, mtbf: {mtbf}}}
eval: {{every: 0}}
log: {{every: 1}}
runtime: {{device: cpu}}
"""


# ---- Processes -------------------------------------------------------------------------------------------------------

def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
            return [int(child) for child in f.read().split()]
    except OSError:
        return []


def name(pid):
    try:
        with open(f"/proc/{pid}/comm", encoding="ascii") as f:
            return f.read().strip()
    except OSError:
        return ""


def find_mpirun(supervisor):
    return [pid for pid in children(supervisor.pid) if name(pid) in ("mpirun", "orterun", "mpiexec")]


def find_ranks(supervisor):
    return [pid for launcher in find_mpirun(supervisor) for pid in children(launcher) if name(pid) == "lockstep"]


# ---- The run ---------------------------------------------------------------------------------------------------------

class Run:
    def __init__(self, a, folder):
        config = os.path.join(folder, "run.yaml")
        with open(config, "w", encoding="utf-8") as f:
            f.write(CONFIG.format(width=a.width, data=mlp.write_data(folder, a.lockstep), batch=mlp.BATCH,
                                  mtbf=a.every / 3600))
        self.directory = os.path.join(folder, "run")
        self.output = os.path.join(folder, "output.txt")
        self.command = [a.lockstep, "launch", "--ranks", str(a.ranks), "--max-restarts", "20", "--", "train", "-c", config,
                        "--run-dir", self.directory, "-q"]
        self.supervisor = None

    def start(self):
        with open(self.output, "ab") as output:
            self.supervisor = subprocess.Popen(self.command, env=interleaved.ENVIRONMENT, stdin=subprocess.DEVNULL,
                                               stdout=output, stderr=output, start_new_session=True)

    def attempt(self):
        """The attempt that has made the newest step, 0 before the first."""
        try:
            with open(os.path.join(self.directory, "metrics.jsonl"), "rb") as f:
                f.seek(max(0, f.seek(0, os.SEEK_END) - 4096))
                lines = f.read().split(b"\n")
            return json.loads(lines[-2])["attempt"]
        except (OSError, ValueError, IndexError):
            return 0

    def strike(self, kind, rng):
        """Returns whether there was something to strike."""
        if kind == "kill-supervisor":
            self.supervisor.kill()
            self.supervisor.wait()
            self.start()
            return True
        pids = find_mpirun(self.supervisor) if kind == "kill-mpirun" else find_ranks(self.supervisor)
        if pids:
            os.kill(rng.choice(pids), signal.SIGSTOP if kind == "stop-rank" else signal.SIGKILL)
        return bool(pids)

    def stop(self):
        self.supervisor.send_signal(signal.SIGTERM)
        code = self.supervisor.wait(timeout=120)
        with open(self.output, encoding="utf-8", errors="replace") as f:
            assert code == 75, f"lockstep launch ended with {code}:\n{f.read()[-4000:]}"
        with open(os.path.join(self.directory, "status.json"), encoding="utf-8") as f:
            return json.load(f)

    def tail(self):
        with open(self.output, encoding="utf-8", errors="replace") as f:
            return f.read()[-4000:]


def wait_for_step(run, since, attempt, seconds=120):
    """Seconds from `since` until an attempt behind that one has made a step."""
    while time.monotonic() < since + seconds:
        assert run.supervisor.poll() is None, f"lockstep launch has ended:\n{run.tail()}"
        if run.attempt() > attempt:
            return time.monotonic() - since
        time.sleep(0.01)
    raise AssertionError(f"no step in {seconds:.0f} s:\n{run.tail()}")


def drive(a, run):
    """Strikes until the time is over; returns a list of (seconds, kind, seconds to the next step)."""
    rng, struck = random.Random(a.seed), []
    run.start()
    begin = time.monotonic()
    wait_for_step(run, begin, 0)
    fault = begin + a.every
    while fault < begin + 60 * a.minutes:
        time.sleep(max(0, fault - time.monotonic()))
        assert run.supervisor.poll() is None, f"lockstep launch has ended:\n{run.tail()}"
        kind, when, attempt = rng.choice(a.kinds), time.monotonic(), run.attempt()
        if run.strike(kind, rng):
            struck.append((when - begin, kind, wait_for_step(run, when, attempt)))
            print(f"{struck[-1][0]:7.1f} s  {kind:16s} next step after {struck[-1][2]:.2f} s", file=sys.stderr, flush=True)
        fault += a.every
    time.sleep(max(0, begin + 60 * a.minutes - time.monotonic()))
    return struck


# ---- The report ------------------------------------------------------------------------------------------------------

def report(a, run, struck, status):
    goodput = status["goodput"]
    waits = sorted(wait for _, _, wait in struck)
    print(f"goodput {100 * goodput['ratio']:.1f} % of {goodput['wall_seconds']:.0f} s (goal: {100 * GOAL:.0f} %), "
          f"{status['step']} steps, {len(struck)} faults, {goodput['attempts']} attempts")
    for cause, seconds in goodput["lost"].items():
        print(f"  lost to {cause:10s} {seconds:8.2f} s  {100 * seconds / goodput['wall_seconds']:5.2f} %")
    if waits:
        print(f"  fault to next step: median {waits[len(waits) // 2]:.2f} s, longest {waits[-1]:.2f} s")
    machine = f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, Linux {platform.release()}"
    print(f"  {machine}\n  {' '.join(sys.argv)}\n  {' '.join(run.command)}")
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump({"machine": machine, "command": " ".join(sys.argv), "launch": " ".join(run.command),
                       "steps": status["step"], "goodput": goodput, "goal": GOAL,
                       "faults": [{"seconds": when, "kind": kind, "next_step": wait} for when, kind, wait in struck]},
                      f, indent=1)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lockstep", default="build/lockstep")
    p.add_argument("--minutes", type=float, default=30)
    p.add_argument("--every", type=float, default=60, help="seconds from one fault to the next")
    p.add_argument("--kinds", type=lambda text: text.split(","), default=["kill-rank"])
    p.add_argument("--ranks", type=int, default=2)
    p.add_argument("--width", type=int, default=mlp.WIDTH, help="of the three hidden layers")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--json")
    a = p.parse_args()
    if set(a.kinds) - set(KINDS):
        p.error(f"--kinds: there are {', '.join(KINDS)}")
    a.lockstep = os.path.abspath(a.lockstep)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(a, folder)
        try:
            struck = drive(a, run)
            report(a, run, struck, run.stop())
        finally:
            if run.supervisor and run.supervisor.poll() is None:
                run.supervisor.kill()  # its ranks die with it
                run.supervisor.wait()


if __name__ == "__main__":
    main()
