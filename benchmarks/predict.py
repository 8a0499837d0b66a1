#!/usr/bin/env python3
"""How well a step of two ranks is predicted from one rank's computing and the link between them, both measured here.

Each round measures, in turn: one rank's step on half of the batch, with half of the lanes (alone, and with a second one that
does the same beside it), the link (reduce_scatter, all_gather on two ranks), and the step of two ranks. Rounds in which any
of them was disturbed all the time are counted and left out, unless all were.

  benchmarks/predict.py --lockstep build/lockstep -c CONFIG [--rounds 5] [--windows 20] [--json FILE]
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

import yaml

ENVIRONMENT = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMP_NUM_THREADS="1")


class Bench:
    def __init__(self, arguments, folder):
        self.lockstep, self.config = os.path.abspath(arguments.lockstep), os.path.abspath(arguments.config)
        self.windows, self.folder, self.settings = str(arguments.windows), folder, arguments.set or []
        with open(self.config, encoding="utf-8") as f:
            train = yaml.safe_load(f)["train"]
        self.batch, self.lanes = train["batch"], train.get("lanes", 8)

    def start(self, name, words, ranks=0, core=None):
        path = os.path.join(self.folder, f"{name}.json")
        launch = ["mpirun", "-np", str(ranks), "--bind-to", "core"] if ranks else ["taskset", "-c", str(core)]
        command = launch + [self.lockstep, "bench", *words, "--json", path]
        return path, subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def finish(self, started):
        path, process = started
        error = process.communicate()[1]
        if process.returncode:
            sys.exit(error)
        with open(path, encoding="utf-8") as f:
            return path, json.load(f)

    def step_words(self, parts):
        settings = [f"train.batch={self.batch // parts}", f"train.lanes={self.lanes // parts}", *self.settings]
        return ["step", "-c", self.config, "-n", self.windows] + [w for s in settings for w in ("--set", s)]

    def predict(self, step, links):
        out = os.path.join(self.folder, "prediction.json")
        measured = [w for path in (step, *links) for w in ("--measured", path)]
        settings = [w for s in self.settings for w in ("--set", s)]
        subprocess.run([self.lockstep, "bench", "scaling", "--predict", "-c", self.config, *settings, "--strong", "--nodes", "1",
                        "--ranks-per-node", "2", "--algorithm", "exact", "--overlap", "0", *measured, "--json", out], check=True,
                       stdout=subprocess.DEVNULL)
        with open(out, encoding="utf-8") as f:
            return json.load(f)["rows"][0]

    def round(self):
        alone = self.finish(self.start("alone", self.step_words(2), core=0))
        both = [self.start(f"beside-{core}", self.step_words(2), core=core) for core in (0, 1)]
        beside = [self.finish(one) for one in both][0]
        links = [self.finish(self.start(call, [call, "-b", "16K", "-e", "16M", "-f", "8", "-n", "5"], ranks=2))
                 for call in ("reduce_scatter", "all_gather")]
        pair = self.finish(self.start("pair", self.step_words(1), ranks=2))[1]
        spread = pair["step_seconds"]
        row = {"measured": spread["median"], "lowest": spread["lowest"], "highest": spread["highest"],
               "exposed": pair["comm_seconds"]["median"],
               "disturbed": any(r["step_seconds"]["disturbed"] for r in (alone[1], beside[1], pair))}
        for name, step in (("alone", alone[0]), ("beside", beside[0])):
            prediction = self.predict(step, [path for path, _ in links])
            row[name] = prediction["step_seconds"]
            row[f"{name}_error"] = prediction["step_seconds"] / row["measured"] - 1
            row["exposed_predicted"] = prediction["exposed_seconds"]
        return row


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lockstep", default="build/lockstep")
    p.add_argument("-c", "--config", required=True)
    p.add_argument("--set", action="append")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--windows", type=int, default=20)
    p.add_argument("--json")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(a, folder)
        rows = []
        for number in range(a.rounds):
            rows.append(bench.round())
            r = rows[-1]
            print(f"round {number + 1}/{a.rounds}: two ranks {1e3 * r['measured']:.2f} ms ({1e3 * r['lowest']:.2f} to "
                  f"{1e3 * r['highest']:.2f}), exposed {1e3 * r['exposed']:.2f}; predicted from one rank alone "
                  f"{1e3 * r['alone']:.2f} ({100 * r['alone_error']:+.1f} %), from one beside another {1e3 * r['beside']:.2f} "
                  f"({100 * r['beside_error']:+.1f} %), exposed {1e3 * r['exposed_predicted']:.2f}"
                  f"{'  disturbed' if r['disturbed'] else ''}", flush=True)
    clean = [r for r in rows if not r["disturbed"]] or rows
    report = {"rounds": rows, "counted": len(clean),
              **{name: statistics.median(r[name] for r in clean) for name in ("measured", "alone_error", "beside_error")}}
    print(f"{len(clean)} of {len(rows)} rounds count; median error {100 * report['alone_error']:+.1f} % from one rank alone, "
          f"{100 * report['beside_error']:+.1f} % from one beside another")
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump(report, f, indent=1)


if __name__ == "__main__":
    main()
