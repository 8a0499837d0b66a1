#!/usr/bin/env python3
"""Exactly shuffled rows per second: Lockstep's loader against torch's DataLoader over h5py, in turn on one machine.

  benchmarks/loader.py DATA.h5 --bench build/benchmarks/loader/bench_loader --python /usr/bin/python3 [--rounds 5]
"""
import argparse
import json
import os
import statistics
import subprocess

PEER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers", "loader_torch.py")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data")
    p.add_argument("--bench", default="build/benchmarks/loader/bench_loader")
    p.add_argument("--python", default="/usr/bin/python3")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--batch", type=int, default=256)
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--json")
    a = p.parse_args()
    common = [a.data, str(a.batch)]
    commands = {
        "lockstep": [a.bench, *common, "4000", str(a.workers)],
        "torch single": [a.python, PEER, *common, "40", str(a.workers), "single"],
        "torch batched": [a.python, PEER, *common, "150", str(a.workers), "batched"],
    }
    rounds = []
    for _ in range(a.rounds):
        rounds.append({name: json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                       ["rows_per_second"] for name, command in commands.items()})
    report = {"rounds": a.rounds, "contenders": {}}
    for name in commands:
        rates = [r[name] for r in rounds]
        ratio = statistics.median(r["lockstep"] / r[name] for r in rounds)
        report["contenders"][name] = {"median": statistics.median(rates), "lowest": min(rates), "highest": max(rates),
                                      "lockstep_times_faster": ratio}
        print(f"{name:16s} {statistics.median(rates):12.0f} rows/s  ({min(rates):.0f} to {max(rates):.0f})  lockstep is {ratio:.1f}x")
    if a.json:
        with open(a.json, "w") as f:
            json.dump(report, f, indent=1)


if __name__ == "__main__":
    main()
