#!/usr/bin/env python3
"""What a checkpoint costs training, and how fast it is written, for a state of about 500 MB (AdamW in FP32).

Each round runs in turn: training that saves every few steps (from one rank and from two), torch.save with fsync of the same tensors, and
the same bytes written past the page cache by as many processes as there are ranks, in portions of 4 MiB and synced.

stall: the steps with a save in flight, less the median step without one; its part of torch.save's time is the first figure. `all` is the
same over every step from one save to the next, in which retention reads checkpoints back and removes old ones, too.
write: the file's bytes over the time from a save's first write to its last rank's sync as rank 0 sees it; its part of the direct write's
speed is the second figure.

  benchmarks/checkpoint.py --lockstep build/lockstep [--python PYTHON] [--rounds 5] [--saves 5] [--folder DIR] [--json FILE]
"""
import argparse
import json
import math
import mmap
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import interleaved  # noqa: E402
import mlp  # noqa: E402

PEER = os.path.join(HERE, "peers", "save_torch.py")
PORTION = 4 << 20
SETTLED = 0.6  # behind this part of the steps between two saves nothing of the first one is left


def config(a, data):
    """Three layers of equal width whose parameters with both moments, 12 bytes each, are the state."""
    width = int((math.sqrt(mlp.INPUTS ** 2 + 8 * a.megabytes * 1e6 / 12) - mlp.INPUTS) / 4)
    return f"""
model: {{kind: mlp, hidden: [{width}, {width}, {width}], activation: relu}}
data: {{path: "{data}"}}
train: {{batch: {a.batch}, lanes: 2, max_steps: {a.every * (a.saves + 1)}}}
optimizer: {{kind: adamw, lr: 0.0001}}
checkpoint: {{every: {a.every}, keep_last: 2}}
eval: {{every: 0}}
log: {{every: 1}}
runtime: {{device: cpu}}
"""


def read_lines(run, name):
    with open(os.path.join(run, name), encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def in_flight(seconds, begun, lasted):
    """The steps behind `begun` that had begun before so many seconds were over."""
    step, clock = begun, 0.0
    while clock < lasted and step + 1 in seconds:
        step += 1
        clock += seconds[step]
        yield step


def measure(run, every):
    """Of each save but the last, for which the run waits: seconds of stall, over all steps, and of the write; bytes a save."""
    seconds = {line["step"]: line["step_seconds"] for line in read_lines(run, "metrics.jsonl")}
    saves = [event for event in read_lines(run, "events.jsonl") if event["event"] == "checkpoint" and "path" in event][:-1]
    settled = [seconds[event["step"] + i] for event in saves for i in range(int(every * SETTLED), every)]
    plain = statistics.median(settled)
    last = os.path.join(run, "checkpoints", f"step-{max(seconds):08d}")
    return {"plain": plain,
            "stall": [sum(seconds[s] - plain for s in in_flight(seconds, e["step"], e["seconds"])) for e in saves],
            "all": [sum(seconds[e["step"] + i] - plain for i in range(1, every)) for e in saves],
            "waited": [event["stall_seconds"] for event in saves],
            "durable": [event["seconds"] for event in saves],
            "write": [event["write_seconds"] for event in saves],
            "bytes": os.path.getsize(os.path.join(last, "state.h5")), "checkpoint": last}


def train(a, folder, data, ranks):
    command, run = interleaved.train_command(a.lockstep, folder, config(a, data), ranks, f"run-{ranks}")
    shutil.rmtree(run, ignore_errors=True)
    subprocess.run(command, check=True, env=interleaved.ENVIRONMENT, stdout=subprocess.DEVNULL)
    return measure(run, a.every)


def write_part(path, begin, end):
    """A process's part of a direct write, out of memory that was touched before."""
    memory = mmap.mmap(-1, PORTION)
    memory.write(random.Random(begin).randbytes(PORTION))
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    for offset in range(begin, end, PORTION):
        os.pwrite(fd, memoryview(memory)[:min(PORTION, end - offset)], offset)
    os.fsync(fd)


def write_direct(path, size, processes):
    """Seconds for so many bytes by so many processes into a file whose space is reserved, as that of a checkpoint is."""
    size = -(-size // 4096) * 4096
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    os.posix_fallocate(fd, 0, size)
    cuts = [size * i // processes // PORTION * PORTION for i in range(processes)] + [size]
    writers = [subprocess.Popen([sys.executable, os.path.abspath(__file__), "--write", path, str(cuts[i]), str(cuts[i + 1])],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for i in range(processes)]
    for writer in writers:
        writer.stdout.readline()
    begun = time.perf_counter()
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    if any(writer.wait() for writer in writers):
        sys.exit("a direct write failed")
    os.fsync(fd)
    seconds = time.perf_counter() - begun
    os.close(fd)
    os.unlink(path)
    return seconds


def run_round(a, folder, data):
    result = {}
    for ranks in a.ranks:
        ours = result[f"{ranks}"] = train(a, folder, data, ranks)
        ours["direct"] = [write_direct(os.path.join(folder, "direct"), ours["bytes"], ranks) for _ in range(a.saves)]
    peer = subprocess.run([a.python, PEER, ours["checkpoint"], os.path.join(folder, "torch"), str(a.saves)], check=True,
                          capture_output=True, text=True)
    result["torch"] = json.loads(peer.stdout.splitlines()[-1])
    return result


def spread(values, unit=1e3):
    return f"{unit * statistics.median(values):8.1f} ({unit * min(values):.1f} to {unit * max(values):.1f})"


def report(a, rounds):
    torch = [statistics.median(r["torch"]["seconds"]) for r in rounds]
    size = rounds[0][f"{a.ranks[0]}"]["bytes"]
    print(f"{size / 1e6:.0f} MB, {len(rounds)} rounds of {a.saves} saves; medians of rounds (lowest to highest)")
    print(f"torch {rounds[0]['torch']['version']} save and fsync: {spread(torch)} ms")
    out = {"bytes": size, "torch": torch}
    for ranks in a.ranks:
        ours = [r[f"{ranks}"] for r in rounds]
        of = lambda key: [statistics.median(r[key]) for r in ours]
        part = [100 * s / t for s, t in zip(of("stall"), torch)]
        whole = [100 * s / t for s, t in zip(of("all"), torch)]
        speed = [100 * d / w for d, w in zip(of("direct"), of("write"))]
        print(f"{ranks} rank{'s' if ranks > 1 else ''}: step without a save {spread([r['plain'] for r in ours])} ms")
        print(f"  stall          {spread(of('stall'))} ms, {spread(part, 1)} % of torch.save; waited for {spread(of('waited'))} ms")
        print(f"  all            {spread(of('all'))} ms, {spread(whole, 1)} % of torch.save")
        print(f"  write          {spread([size / w / 1e6 for w in of('write')], 1)} MB/s; direct "
              f"{spread([size / d / 1e6 for d in of('direct')], 1)} MB/s; {spread(speed, 1)} % of it; durable after "
              f"{spread(of('durable'))} ms")
        out[f"{ranks}"] = {"stall_percent_of_torch": statistics.median(part), "all_percent_of_torch": statistics.median(whole),
                           "write_percent_of_direct": statistics.median(speed), "rounds": ours}
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lockstep", default="build/lockstep")
    p.add_argument("--python", default="/usr/bin/python3", help="a Python with PyTorch")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--saves", type=int, default=5, help="of a run, without its last")
    p.add_argument("--every", type=int, default=15, help="steps from one save to the next")
    p.add_argument("--batch", type=int, default=256)
    p.add_argument("--megabytes", type=float, default=500)
    p.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    p.add_argument("--folder", help="where checkpoints are written; default: a temporary folder")
    p.add_argument("--json")
    p.add_argument("--write", nargs=3, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.write:
        return write_part(a.write[0], int(a.write[1]), int(a.write[2]))
    a.lockstep = os.path.abspath(a.lockstep)
    with tempfile.TemporaryDirectory(dir=a.folder) as folder:
        data = mlp.write_data(folder, a.lockstep)
        rounds = interleaved.run_rounds({"all": lambda: run_round(a, folder, data)}, a.rounds)
    result = report(a, [r["all"] for r in rounds])
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump({"machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", "command": " ".join(sys.argv),
                       **result}, f, indent=1)
    return None


if __name__ == "__main__":
    main()
