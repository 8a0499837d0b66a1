#!/usr/bin/env python3
"""The all-reduce of ranks on one host against MPI libraries and gloo, in turn on one machine, FP32.

Contenders: ours, in the communicator's memory and copied in; Open MPI with each algorithm (default, ring, Rabenseifner), with and without
one process reading another's memory (CMA); MPICH and gloo where they are named. Every round runs each once. A ratio is taken within a round,
against the best of the peers at that size (gloo apart), then its median over the rounds.

  benchmarks/allreduce.py --lockstep build/lockstep [--python PYTHON] [--mpicc mpicc.mpich --mpirun mpiexec.mpich] [--ranks 2] [--json FILE]
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import interleaved  # noqa: E402

ALGORITHMS = {"default": [], "ring": ["4"], "Rabenseifner": ["6"]}
COPIES = {"CMA": [], "no CMA": ["--mca", "btl_vader_single_copy_mechanism", "none"]}


def run_bench(a, folder, words, only):
    """Our benchmark's medians by size."""
    out = os.path.join(folder, "bench.json")
    result = {}
    for size in a.sizes:
        command = ["mpirun", "-np", str(a.ranks), "--bind-to", a.bind, *words, a.lockstep, "bench", "allreduce", "-b", str(size), "-e",
                   str(size), "-n", str(calls(a, size)), "--windows", str(a.windows), "--only", only, "--json", out]
        subprocess.run(command, check=True, env=interleaved.ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(out, encoding="utf-8") as f:
            result[size] = json.load(f)["rows"][0]["seconds"]["median"]
    return result


def calls(a, size):
    """Calls of a window: fewer of large messages."""
    return max(2, min(a.calls, int(a.calls * (1 << 20) / size) + 1))


def by_size(a, run):
    """A peer's medians: a run for each size, since their windows differ."""
    result = {}
    for size in a.sizes:
        found = run([str(calls(a, size)), str(a.windows), str(size)])
        result[size] = found[str(size)]
    return result


def run_mpich(a, program):
    def once(words):
        out = subprocess.run([*a.mpirun.split(), "-n", str(a.ranks), program, *words], check=True, capture_output=True, text=True)
        return json.loads(out.stdout.splitlines()[-1])
    return by_size(a, once)


def run_gloo(a):
    peer = os.path.join(HERE, "peers", "allreduce_torch.py")
    return by_size(a, lambda words: interleaved.run_peer([a.python, peer, *words], a.ranks))


def find_contenders(a, folder):
    contenders = {"lockstep": lambda: run_bench(a, folder, [], "exact"),
                  "lockstep, copied in": lambda: run_bench(a, folder, [], "copied")}
    for name, number in ALGORITHMS.items():
        chosen = ["--mca", "coll_tuned_use_dynamic_rules", "1", "--mca", "coll_tuned_allreduce_algorithm", *number] if number else []
        for copy, words in COPIES.items():
            contenders[f"Open MPI {name}, {copy}"] = lambda w=chosen + words: run_bench(a, folder, w, "library")
    if a.mpicc:
        program = os.path.join(folder, "allreduce_mpi")
        subprocess.run([*a.mpicc.split(), "-O2", os.path.join(HERE, "peers", "allreduce_mpi.c"), "-o", program], check=True)
        contenders["MPICH"] = lambda: run_mpich(a, program)
    if a.python:
        contenders["gloo"] = lambda: run_gloo(a)
    return contenders


def compare(a, rounds):
    rows = []
    for size in a.sizes:
        row = {"bytes": size, "seconds": {}, "times_best_mpi": {}, "times_gloo": {}}
        print(f"{size} bytes")
        for name in rounds[0]:
            times = [r[name][size] for r in rounds]
            row["seconds"][name] = {"median": statistics.median(times), "lowest": min(times), "highest": max(times)}
            ratio = ""
            if name.startswith("lockstep"):
                peers = [n for n in rounds[0] if n.startswith(("Open MPI", "MPICH"))]
                row["times_best_mpi"][name] = statistics.median(min(r[p][size] for p in peers) / r[name][size] for r in rounds)
                ratio = f"  {row['times_best_mpi'][name]:.2f}x the best MPI"
                if "gloo" in rounds[0]:
                    row["times_gloo"][name] = statistics.median(r["gloo"][size] / r[name][size] for r in rounds)
                    ratio += f", {row['times_gloo'][name]:.2f}x gloo"
            print(f"  {name:32s} {1e6 * statistics.median(times):11.1f} us  ({1e6 * min(times):.1f} to {1e6 * max(times):.1f}){ratio}")
        rows.append(row)
    return rows


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lockstep", default="build/lockstep")
    p.add_argument("--python", help="a Python with PyTorch, for gloo")
    p.add_argument("--mpicc", help="MPICH's compiler, with options")
    p.add_argument("--mpirun", default="mpiexec.mpich", help="MPICH's launcher, with options")
    p.add_argument("--ranks", type=int, default=2)
    p.add_argument("--bind", default="core", help="of Open MPI's ranks")
    p.add_argument("--sizes", type=int, nargs="+", default=[4096, 1 << 20, 25 << 20, 100 * 10 ** 6])
    p.add_argument("--calls", type=int, default=20)
    p.add_argument("--windows", type=int, default=7)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--json")
    a = p.parse_args()
    a.lockstep = os.path.abspath(a.lockstep)
    with tempfile.TemporaryDirectory() as folder:
        rounds = interleaved.run_rounds(find_contenders(a, folder), a.rounds)
    report = {"machine": platform.processor() or platform.machine(), "ranks": a.ranks, "rounds": len(rounds), "command": " ".join(sys.argv),
              "rows": compare(a, rounds)}
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump(report, f, indent=1)


if __name__ == "__main__":
    main()
