#!/usr/bin/env python3
"""The all-reduce of ranks on several hosts against MPI_Allreduce on the same links, in turn on one machine, FP32.

Hosts are network namespaces joined by a bridge (tests/hosts/network.py), whose links get a rate by tc, and a delay where the kernel has netem.
Contenders: ours in two levels (inside hosts by shared memory, between them by the shards' owners) and in one (--backend mpi), and Open MPI's
all-reduce: default, ring, Rabenseifner, recursive doubling, and on demand the one in levels of its own (HAN). Every round runs each once; a ratio is taken within a
round. Beside each time stand the bytes that the busiest host sends for each byte of the message: as the plan or the algorithm has it, and as
the links have counted them. Where the link bounds both, times are to each other as these bytes.

  benchmarks/hosts.py --lockstep build/lockstep [--hosts 2 2] [--rate 1gbit] [--delay 0.1ms] [--json FILE]      (as root)
"""
import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "hosts")]
import interleaved  # noqa: E402
import network  # noqa: E402


def tuned(number):
    """Open MPI's words for one of its all-reduces."""
    return ["--mca", "coll_tuned_use_dynamic_rules", "1", "--mca", "coll_tuned_allreduce_algorithm", str(number)]


LIBRARY = {"default": [], "ring": tuned(4), "Rabenseifner": tuned(6), "recursive doubling": tuned(3), "HAN": ["--mca", "coll_han_priority", "100"]}
WARM_UP = 1


def sent(net):
    """Bytes that every host has sent."""
    return [int(subprocess.run(["ip", "netns", "exec", f"{net.name}-{host}", "cat", "/sys/class/net/eth0/statistics/tx_bytes"],
                               capture_output=True, text=True, check=True).stdout) for host in net.hosts]


def run_bench(a, net, folder, words, *arguments):
    """Seconds of a call, the bytes that the busiest host sent for each of the message, and the report."""
    out = os.path.join(folder, "bench.json")
    command = [*net.mpirun(a.hosts, *words), a.lockstep, "bench", "allreduce", "-b", str(a.bytes), "-e", str(a.bytes), "-n", str(a.calls), "-w",
               str(WARM_UP), "--windows", str(a.windows), "--json", out, *arguments]
    before = sent(net)
    done = subprocess.run(command, env=interleaved.ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    after = sent(net)
    with open(out, encoding="utf-8") as f:
        report = json.load(f)
    row = report["rows"][0]
    calls = 1 + WARM_UP + a.calls * (row["seconds"]["windows"] + row["seconds"]["discarded"])  # one is checked
    most = max(y - x for x, y in zip(before, after))
    return {"seconds": row["seconds"]["median"], "counted": most / (calls * a.bytes), "report": report}


def find_contenders(a, net, folder):
    contenders = {"lockstep, two levels": lambda: run_bench(a, net, folder, [], "--only", "exact"),
                  "lockstep, one level": lambda: run_bench(a, net, folder, [], "--only", "exact", "--backend", "mpi")}
    for name in a.algorithms:
        contenders[f"Open MPI {name}"] = lambda w=LIBRARY[name]: run_bench(a, net, folder, w, "--only", "library")
    return contenders


def predict(a, name, result):
    """Bytes that the busiest host sends for each byte of the message, or None where the algorithm leaves it open."""
    ranks, hosts = sum(a.hosts), len(a.hosts)
    if name.startswith("lockstep"):
        two = result["report"]["levels"] == 2
        gathered = max(n * (hosts - 1 if two else ranks - n) for n in a.hosts) / ranks
        return result["report"]["sent_ratio_between_hosts"] * (ranks - 1) / ranks + gathered
    equal = len(set(a.hosts)) == 1
    powers = equal and ranks & (ranks - 1) == 0
    if name.endswith("ring"):
        return 2 * (ranks - 1) / ranks
    if name.endswith("Rabenseifner") and powers:  # neighbours first: what is left between hosts is a part of the message
        return 2 * (hosts - 1) / hosts
    if name.endswith("recursive doubling") and powers:
        return a.hosts[0] * (hosts.bit_length() - 1)
    return None


def compare(a, rounds):
    peers = [name for name in rounds[0] if name.startswith("Open MPI")]
    rows = {}
    print(f"{sum(a.hosts)} ranks on hosts of {a.hosts}, {a.rate}{', ' + a.delay if a.delay else ''}, {a.bytes} bytes")
    print(f"{'':30s} {'ms':>9s}  {'(lowest to highest)':21s} {'plan':>6s} {'counted':>7s}")
    for name in rounds[0]:
        times = [r[name]["seconds"] for r in rounds]
        row = rows[name] = {"median": statistics.median(times), "lowest": min(times), "highest": max(times),
                            "sent": predict(a, name, rounds[0][name]), "sent_counted": statistics.median(r[name]["counted"] for r in rounds)}
        ratio = ""
        if name.startswith("lockstep"):
            for other in peers + ["lockstep, one level"] * (name != "lockstep, one level"):
                row[f"times {other}"] = statistics.median(r[other]["seconds"] / r[name]["seconds"] for r in rounds)
            row["times best MPI"] = statistics.median(min(r[p]["seconds"] for p in peers) / r[name]["seconds"] for r in rounds)
            ratio = f"  {row['times Open MPI default']:.2f}x Open MPI's default, {row['times best MPI']:.2f}x the best"
            if "times lockstep, one level" in row:
                ratio += f", {row['times lockstep, one level']:.2f}x one level"
        spread = f"({1e3 * row['lowest']:.1f} to {1e3 * row['highest']:.1f})"
        planned = f"{row['sent']:.2f}" if row["sent"] else "-"
        print(f"{name:30s} {1e3 * row['median']:9.1f}  {spread:21s} {planned:>6s} {row['sent_counted']:7.2f}{ratio}")
    return rows


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lockstep", default="build/lockstep")
    p.add_argument("--hosts", type=int, nargs="+", default=[2, 2], help="ranks of each host")
    p.add_argument("--rate", default="1gbit", help="of every link, each way")
    p.add_argument("--delay", help="of a link, where the kernel has netem")
    p.add_argument("--bytes", type=int, default=25 << 20)
    p.add_argument("--algorithms", nargs="+", default=[n for n in LIBRARY if n != "HAN"], choices=list(LIBRARY),
                   help="of Open MPI; all but HAN, which takes tens of times as long")
    p.add_argument("--calls", type=int, default=2)
    p.add_argument("--windows", type=int, default=3)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--json")
    a = p.parse_args()
    a.lockstep = os.path.abspath(a.lockstep)
    reason = network.missing()
    if reason:
        sys.exit(reason)
    if "default" not in a.algorithms:
        a.algorithms.insert(0, "default")
    with tempfile.TemporaryDirectory() as folder:
        net = network.Network(folder, len(a.hosts), a.rate, a.delay)
        try:
            rounds = interleaved.run_rounds(find_contenders(a, net, folder), a.rounds)
        finally:
            net.close()
    report = {"machine": platform.processor() or platform.machine(), "hosts": a.hosts, "rate": a.rate, "delay": a.delay, "bytes": a.bytes,
              "rounds": len(rounds), "command": " ".join(sys.argv), "contenders": compare(a, rounds)}
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump(report, f, indent=1)


if __name__ == "__main__":
    main()
