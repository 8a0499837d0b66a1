"""Predicted steps against SimGrid, which plays their messages one by one: see step.c.

  test_simgrid.py          a few clusters
  test_simgrid.py long     more of them: programs of up to 256 ranks, traces of up to 4,096
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

LOCKSTEP = os.environ["LOCKSTEP"]
ROOT = pathlib.Path(__file__).resolve().parents[2]
STEP = ROOT / "tests" / "simgrid" / "step.c"
TOLERANCE = 0.03  # of the step's time, what the prediction promises
DEADLINE = 900  # seconds for one simulation; generous

# Every message takes latency and bytes / bandwidth, on full-duplex links without protocols' side effects; only
# what computes in the simulation takes time to compute.
OPTIONS = ("smpi/bw-factor:0:1", "smpi/lat-factor:0:1", "network/crosstraffic:0", "network/TCP-gamma:0",
           "network/weight-S:0", "network/loopback-lat:0", "network/loopback-bw:1e15",
           "smpi/async-small-thresh:0", "smpi/send-is-detached-thresh:0")
# A program's own computing is not what is simulated; a trace has none.
LIVE = ("--cfg=smpi/simulate-computation:no",)
QUIET = ("--log=root.threshold:critical",)


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=DEADLINE,
                          **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done


def link(name, figures, latency):
    return (f'<link id="{name}" bandwidth="{figures["bandwidth"]:.0f}Bps" latency="{latency:.12f}s" '
            'sharing_policy="SPLITDUPLEX"/>\n')


def cluster(name, hosts, figures):
    """Hosts around a switch; a message goes up one link and down another, so each has half of the latency."""
    return (f'<cluster id="{name}" prefix="{name}-" suffix="" radical="0-{hosts - 1}" speed="1Gf" '
            f'bw="{figures["bandwidth"]:.0f}Bps" lat="{figures["latency"] / 2:.12f}s" '
            f'sharing_policy="SPLITDUPLEX" router_id="{name}-router"/>\n')


def write_platform(path, nodes, ranks, inside, between):
    """One rank is one host. A node is a cluster of them whose way out is a link that they share."""
    with open(path, "w", encoding="utf-8") as out:
        out.write('<?xml version="1.0"?>\n<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">\n'
                  '<platform version="4.1">\n')
        if nodes == 1 or ranks == 1:
            out.write(cluster("n0", nodes * ranks, inside if nodes == 1 else between))
        else:
            out.write('<zone id="all" routing="Full">\n')
            for node in range(nodes):
                out.write(cluster(f"n{node}", ranks, inside))
            rest = max(between["latency"] - inside["latency"], 0) / 2  # the ways to and from the switch are inside
            for node in range(nodes):
                out.write(link(f"up{node}", between, rest))
            for a in range(nodes):
                for b in range(nodes):
                    if a != b:
                        out.write(f'<zoneRoute src="n{a}" dst="n{b}" gw_src="n{a}-router" gw_dst="n{b}-router" '
                                  f'symmetrical="NO"><link_ctn id="up{a}" direction="UP"/>'
                                  f'<link_ctn id="up{b}" direction="DOWN"/></zoneRoute>\n')
            out.write("</zone>\n")
        out.write("</platform>\n")


def host_names(nodes, ranks):
    if nodes == 1 or ranks == 1:
        return [f"n0-{r}" for r in range(nodes * ranks)]
    return [f"n{node}-{r}" for node in range(nodes) for r in range(ranks)]


def write_step(path, assumptions, row, lanes):
    line = row["timeline"]
    optimizer = line["optimizer"][1] - line["optimizer"][0]
    with open(path, "w", encoding="utf-8") as out:
        print(row["algorithm"], row["nodes"], assumptions["ranks_per_node"], lanes, assumptions["gradient_bytes"],
              assumptions["weight_bytes"], row["exchange_bytes"], line["backward"][1], optimizer, file=out)
        for blocks, bucket in zip(assumptions["bucket_blocks"], line["buckets"]):
            print(blocks, bucket["ready"], file=out)


class Checker:
    """Builds step.c in both ways and compares one prediction after the other."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.failed = self.compared = 0
        sources = [STEP, *sorted((ROOT / "collectives").glob("plan*.c")),
                   *(ROOT / "runtime" / "base" / name for name in ("memory.c", "status.c", "text.c"))]
        words = ["-D_GNU_SOURCE", "-std=gnu11", "-O2", "-Wall", "-I", ROOT / "collectives" / "include", "-I",
                 ROOT / "runtime" / "base" / "include", *sources, "-lm"]
        run("smpicc", *words, "-o", self.folder / "live")
        run("cc", "-DWRITE_TRACES", *words, "-o", self.folder / "traces")

    def predict(self, nodes, ranks, words):
        path = self.folder / "prediction.json"
        run(LOCKSTEP, "bench", "scaling", "--predict", "--nodes", nodes, "--ranks-per-node", ranks, "--json", path, *words)
        return json.loads(path.read_text(encoding="utf-8"))

    def smpirun(self, processes, message, *words):
        options = [f"--cfg={option}" for option in (*OPTIONS, f"smpi/ois:0:{message}:0", f"smpi/os:0:{message}:0")]
        hosts = self.folder / "hosts"
        return run("smpirun", "-np", processes, "-platform", self.folder / "platform.xml", "-hostfile", hosts,
                   *words, *options, cwd=self.folder)

    def live(self, row, message):
        done = self.smpirun(row["ranks"], message, self.folder / "live", self.folder / "step", *LIVE, *QUIET)
        return float(done.stdout.split("step ")[1].split()[0])

    def replay(self, row, message):
        """The same messages as traces: for each rank one process that communicates and one that computes."""
        traces, ranks = self.folder / "traces.d", row["ranks"]
        shutil.rmtree(traces, ignore_errors=True)
        traces.mkdir()
        run(self.folder / "traces", self.folder / "step", traces)
        (self.folder / "list").write_text("".join(f"{traces}/{p}\n" for p in range(2 * ranks)), encoding="utf-8")
        done = self.smpirun(2 * ranks, message, "-replay", self.folder / "list")
        return float(re.search(r"Simulation time ([0-9.e+-]+)", done.stdout + done.stderr).group(1))

    def compare(self, nodes, ranks, words, algorithms=None, play=None):
        prediction = self.predict(nodes, ranks, words)
        assumptions = prediction["assumptions"]
        inside, between = assumptions["inside"]["reduce"], assumptions["between"]["reduce"]
        write_platform(self.folder / "platform.xml", nodes, ranks, inside, between)
        (self.folder / "hosts").write_text("\n".join(2 * host_names(nodes, ranks)) + "\n", encoding="utf-8")
        for row in prediction["rows"]:
            if algorithms and row["algorithm"] not in algorithms:
                continue
            write_step(self.folder / "step", assumptions, row, row["lanes"])
            start = time.monotonic()
            simulated = (play or self.live)(row, between["message"])
            self.report(row, simulated, time.monotonic() - start)

    def report(self, row, simulated, seconds):
        predicted = row["step_seconds"]
        error = predicted / simulated - 1
        exposed = simulated - row["computing_seconds"]
        verdict = "ok" if abs(error) <= TOLERANCE else "WRONG"
        self.failed += verdict != "ok"
        self.compared += 1
        print(f"{row['nodes']:5d} nodes {row['ranks']:5d} ranks {row['algorithm']:12s} predicted {1e3 * predicted:9.3f} ms, "
              f"simulated {1e3 * simulated:9.3f} ({100 * error:+.2f} %), exposed {1e3 * row['exposed_seconds']:9.3f} and "
              f"{1e3 * exposed:9.3f}  {verdict}  [{seconds:.1f} s]", flush=True)


# Options of the prediction. A model of 11 million parameters, and one of 40 million whose communication is longer than
# its computing, on links with an overhead for each message.
SMALL = ("--parameters", 11_000_000, "--sample-seconds", 0.002, "--samples", 16, "--optimizer-seconds", 0.004,
         "--set", "collectives.bucket_mb=8")
BOUND = ("--parameters", 40_000_000, "--sample-seconds", 0.001, "--samples", 16, "--set", "collectives.bucket_mb=25",
         "--between", "100:5:1")
NODES = ("--between", "400:5", "--inside", "2960:3")


def compare_short(checker):
    checker.compare(8, 1, (*SMALL, "--between", "20:10"))
    checker.compare(4, 4, (*SMALL, "--between", "20:10", "--inside", "200:2"))
    checker.compare(1, 6, (*SMALL, "--inside", "40:3"))
    checker.compare(33, 1, BOUND, ["exact"])
    checker.compare(12, 1, BOUND, play=checker.replay)


def compare_long(checker):
    for nodes in (16, 33, 64, 128):
        checker.compare(nodes, 1, BOUND)
    checker.compare(256, 1, BOUND, ["tree", "exact"])
    checker.compare(32, 8, (*BOUND, *NODES))
    checker.compare(12, 8, (*BOUND, *NODES))
    checker.compare(512, 1, BOUND, ["tree", "exact"], checker.replay)
    checker.compare(128, 8, (*BOUND, *NODES), ["tree", "hierarchical", "exact"], checker.replay)
    checker.compare(4096, 1, BOUND, ["exact"], checker.replay)


def main():
    if not shutil.which("smpicc"):
        print("skipped: smpicc is missing (package libsimgrid-dev)")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        checker = Checker(folder)
        if sys.argv[1:] == ["long"]:
            compare_long(checker)
        else:
            compare_short(checker)
    print(f"{checker.compared} compared, {checker.failed} wrong")
    sys.exit(1 if checker.failed or not checker.compared else 0)


if __name__ == "__main__":
    main()
