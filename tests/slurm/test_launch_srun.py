"""`lockstep launch --launcher srun` under a real Slurm: in a job's allocation it starts steps, names what is wrong, and goes on."""

import os
import pathlib
import signal
import sys
import unittest

import cluster

cluster.enter()
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "end_to_end"))

import harness  # noqa: E402 pylint: disable=wrong-import-position
from harness import CONFIG, LOCKSTEP, Case, import_images  # noqa: E402 pylint: disable=wrong-import-position

DEADLINE = 240


class LaunchSrun(Case):
    def setUp(self):
        super().setUp()
        import_images(self)
        self.write("config.yaml", CONFIG)
        self.run_lockstep("train", "-c", "config.yaml", "--run-dir", "undisturbed", "-q")
        self.expected = self.hash("undisturbed"), self.losses("undisturbed")
        self.cluster = cluster.Cluster(self.dir / "cluster")
        self.addCleanup(self.cluster.stop)
        self.cluster.environment = harness.environment({"SLURM_CONF": self.cluster.environment["SLURM_CONF"]})

    def submit(self, *options):
        """Four tasks on two nodes, and the launch on the first of them. Steps take a while from the twentieth on."""
        self.take_time(step=500, since=20)
        self.write("job", f"""\
#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=2 --time=10 --output=out.txt
trap 'kill -TERM $launch' TERM
export {' '.join(f'{name}={value}' for name, value in self.slow().items())}
{LOCKSTEP} launch --launcher srun --ranks 4 --interface {cluster.ADDRESS} {' '.join(options)} -- train -c config.yaml --run-dir run -q &
launch=$!
while kill -0 $launch 2>/dev/null; do wait $launch; code=$?; done
echo "code $code"
""")
        return self.cluster.command("sbatch", "--parsable", "job", cwd=self.dir)

    def out(self):
        path = self.dir / "out.txt"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def wait_for_step(self, step, attempt=1):
        def reached():
            try:
                lines = (self.dir / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
            except OSError:
                return False
            records = [harness.json.loads(line) for line in lines if line.endswith("\n")]
            return any(r["attempt"] == attempt and r["step"] >= step for r in records)

        cluster.wait_until(f"step {step} of attempt {attempt}", reached, DEADLINE,
                           lambda: self.out() if "code " in self.out().splitlines()[-1:] else None)

    def ranks(self):
        """{rank: process}."""
        found = {}
        for pid in cluster.processes():
            variables = dict(v.partition(b"=")[::2] for v in cluster.environ(pid).split(b"\0"))
            if cluster.program(pid) == os.path.realpath(LOCKSTEP) and b"PMIX_RANK" in variables:
                found[int(variables[b"PMIX_RANK"])] = pid
        return found

    def wait_for_end(self, code):
        cluster.wait_until("the job's end", lambda: f"code {code}\n" in self.out(), DEADLINE)

    def test_ranks_killed_and_stopped(self):
        self.submit()
        self.wait_for_step(20)
        os.kill(self.ranks()[1], signal.SIGKILL)
        self.wait_for_step(22, attempt=2)
        stopped = self.ranks()[3]
        os.kill(stopped, signal.SIGSTOP)
        self.take_time()
        self.wait_for_end(0)
        self.assertRegex(self.out(), r"rank 1 on \S+ \(process \d+\) died")
        self.assertRegex(self.out(), r"rank 3 on \S+ \(process \d+\) gives no sign of life")
        cluster.wait_until("the stopped rank's end", lambda: not harness.alive(stopped))
        self.assertEqual((self.hash("run"), self.losses("run")), self.expected)

    def test_hosts_and_stop(self):
        """A list of hosts inside the allocation says where tasks are; TERM to the launch saves."""
        self.write("hosts", "node1:1\nnode2:2\n")
        job = self.submit("--discover", "'cat hosts'")
        self.wait_for_step(20)
        self.assertEqual(self.status("run")["world_size"], 3)
        self.cluster.command("scancel", "--batch", "--signal=TERM", job)
        self.wait_for_end(75)
        self.assertEqual(self.status("run")["state"], "preempted")
        self.assertEqual(self.events("run", "restart"), [])


if __name__ == "__main__":
    unittest.main(verbosity=1)
