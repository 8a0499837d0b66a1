"""benchmarks/scaling.sbatch under a real Slurm: the whole sweep on two virtual nodes of two ranks, brought back as one JSON."""

import json
import pathlib
import re
import sys

import cluster

cluster.enter()
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "end_to_end"))

import harness  # noqa: E402 pylint: disable=wrong-import-position
from harness import CONFIG, LOCKSTEP, ROOT, Case, import_images  # noqa: E402 pylint: disable=wrong-import-position

SCRIPT = ROOT / "benchmarks" / "scaling.sbatch"
DEADLINE = 1500  # seconds; four ranks of a virtual cluster on a busy machine
PARTS = {"step-1", "weak", "strong", "predicted-weak", "predicted-strong",
         *(f"{call}-{ranks}" for call in ("allreduce", "reduce_scatter", "all_gather") for ranks in (2, 4)),
         "reduce_scatter-between", "all_gather-between"}


class Sweep(Case):
    def setUp(self):
        super().setUp()
        import_images(self)
        self.write("config.yaml", CONFIG)
        self.cluster = cluster.Cluster(self.dir / "cluster")
        self.addCleanup(self.cluster.stop)
        self.cluster.environment = harness.environment({"SLURM_CONF": self.cluster.environment["SLURM_CONF"]})

    def script(self):
        """scaling.sbatch as a user would have edited it."""
        text = SCRIPT.read_text(encoding="utf-8")
        for name, value in {"sweep": ROOT / "benchmarks" / "scaling.sh", "export LOCKSTEP": LOCKSTEP,
                            "export PREDICT": "'--overlap 0'"}.items():
            text, count = re.subn(rf"(?m)^{name}=\S*", f"{name}={value}", text)
            self.assertEqual(count, 1, name)
        text = text.replace("ROUNDS=3 WINDOWS=20", "ROUNDS=1 WINDOWS=1 LARGEST=4M")
        return self.write("scaling.sbatch", re.sub(r"(?m)^#SBATCH --(gpus|cpus|nodes|ntasks|time|exclusive).*\n", "", text))

    def test_sweep(self):
        job = self.cluster.command("sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=2", "--time=30", self.script(),
                                   "-c", "config.yaml", cwd=self.dir)
        ends = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        state = cluster.wait_until("the sweep's end", lambda: (now := self.cluster.job(job).get("JobState")) in ends and now,
                                   DEADLINE)
        log = (self.dir / f"lockstep-scaling-{job}.out").read_text(encoding="utf-8", errors="replace")
        self.assertIn(state, ("COMPLETED", "FAILED"), log[-6000:])
        sweep = json.loads((self.dir / f"scaling-{job}.json").read_text(encoding="utf-8"))
        self.assertEqual((sweep["benchmark"], sweep["nodes"], sweep["ranks_per_node"]), ("sweep", 2, 2))
        # On a busy machine large messages may be faster than small ones, and then there is nothing to predict from.
        failed = {failure["part"] for failure in sweep["failures"]}
        self.assertLessEqual(failed, {name for name in PARTS if name.startswith("predicted")}, log[-6000:])
        self.assertEqual(state == "FAILED", bool(failed), log[-6000:])
        reports = sweep["reports"]
        self.assertEqual(set(reports), PARTS - failed)
        self.assertEqual([row["ranks"] for row in reports["weak"]["rows"]], [2, 4])
        # Ranks were placed as the names say.
        for name, (ranks, local) in {"allreduce-2": (2, 2), "allreduce-4": (4, 2), "all_gather-between": (2, 1)}.items():
            machine = reports[name]["machine"]
            self.assertEqual((machine["ranks"], machine["ranks_of_host"]), (ranks, local), name)
        for name in ("predicted-weak", "predicted-strong"):
            if name in reports:
                self.assertEqual({row["nodes"] for row in reports[name]["rows"]}, {1, 2})
        self.assertEqual([path for path in self.dir.glob("scaling.??????") if path.is_dir()], [])

    def test_mistake(self):
        job = self.cluster.command("sbatch", "--parsable", "--nodes=1", "--time=5", self.script(), cwd=self.dir)
        cluster.wait_until("the job's end", lambda: self.cluster.job(job).get("JobState") == "FAILED", DEADLINE)
        self.assertEqual(self.cluster.job(job)["ExitCode"], "2:0")


if __name__ == "__main__":
    harness.main()
