"""launch/slurm/train.sbatch under a real Slurm: whatever happens to the job, it ends with the undisturbed run's bits."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import cluster

cluster.enter()
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "end_to_end"))

import harness  # noqa: E402 pylint: disable=wrong-import-position
from harness import CONFIG, LOCKSTEP, ROOT, SLOW_STEPS, Case, import_images  # noqa: E402 pylint: disable=wrong-import-position

SCRIPT = ROOT / "launch" / "slurm" / "train.sbatch"
STEP = 200  # milliseconds of a step until what a test does to its jobs is done
STEPS = 240
DEADLINE = 240  # of a job with all its attempts: tells a lost job from a slow machine
MARGIN = ("--set", "stop.margin=5")  # seconds; limits are a minute here, which is the margin otherwise
SENDS_SIGNALS = "SlurmctldParameters=preempt_send_user_signal"


class SlurmCase(Case):
    """A cluster of its own and one small model, whose undisturbed run's hash is known."""

    site = {}  # what the cluster has instead of cluster.DEFAULTS

    def setUp(self):
        super().setUp()
        import_images(self)
        self.write("config.yaml", CONFIG.replace("max_steps: 60", f"max_steps: {STEPS}"))
        self.run_lockstep("train", "-c", "config.yaml", "--run-dir", "undisturbed")
        self.expected = self.hash("undisturbed"), self.losses("undisturbed")
        # Jobs see the program through this: the same, but its steps take a while.
        self.slow = self.write("slow-lockstep", f'#!/bin/sh\nexport LD_PRELOAD={SLOW_STEPS}\nexec {LOCKSTEP} "$@"\n')
        self.slow.chmod(0o755)
        self.take_time(STEP)
        self.start_cluster(**self.site)

    def start_cluster(self, **site):
        self.cluster = cluster.Cluster(self.dir / "cluster", **site)
        self.addCleanup(self.cluster.stop)
        env = harness.environment({"SLURM_CONF": self.cluster.environment["SLURM_CONF"], "SLOW_STEPS": str(self.dir / "pace")})
        self.cluster.environment = env

    # ---- Jobs ----

    def script(self, way, **edits):
        """train.sbatch as a user would have edited it."""
        text = SCRIPT.read_text(encoding="utf-8")
        supervised = "yes" if way.endswith("supervised") else "no"
        for name, value in {"launcher": way.split()[0], "supervised": supervised, "lockstep": self.slow, **edits}.items():
            text, count = re.subn(rf"(?m)^{name}=\S+", f"{name}={value}", text)
            self.assertEqual(count, 1, name)
        return self.write(f"{way}.sbatch", re.sub(r"(?m)^#SBATCH --(gpus|cpus|nodes|ntasks|time|signal).*\n", "", text))

    def submit(self, way, *options, train=(), **edits):
        """Submits the script, as 4 ranks on two nodes for 5 minutes unless options say otherwise; the job's number."""
        return self.cluster.command(
            "sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=2", "--time=5", "--signal=B:USR1@30", *options,
            self.script(way, **edits), "-c", "config.yaml", *MARGIN, *train, cwd=self.dir)

    def run_dir(self, job):
        return f"runs/lockstep-{job}"

    def log(self, job):
        path = self.dir / f"lockstep-{job}.out"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def story(self, job):
        """What the messages of a failed test show."""
        logs = [f"--- {path.parent.name}\n{path.read_text(encoding='utf-8')[-2000:]}"
                for path in sorted((self.dir / "cluster").glob("node*/slurmd.log"))]
        told = [line for line in self.log(job).splitlines() if not line.startswith("step ")]
        return "\n".join([f"\n--- job {job}: {self.cluster.job(job)}", *told[-80:], *logs])

    def wait(self, what, job, condition, seconds=DEADLINE):
        try:
            return cluster.wait_until(what, condition, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}{self.story(job)}") from None

    def state(self, job):
        return self.cluster.job(job).get("JobState", "")

    def wait_for_step(self, job, step, attempt=1):
        """Waits until an attempt of the job's run has logged a step."""
        path = self.dir / self.run_dir(job) / "metrics.jsonl"
        mark = re.compile(rf'"step": ?(\d+).*"attempt": ?{attempt}\b')

        def reached():
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            return any(int(step_) >= step for step_ in mark.findall(text)) or self.state(job) == "FAILED"

        self.wait(f"step {step} of attempt {attempt}", job, reached)

    def wait_for_end(self, job):
        ends = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
        return self.wait("the job's end", job, lambda: self.state(job) in ends and self.state(job))

    def assert_undisturbed(self, job, attempts, run=None):
        """The job completes, after at least so many attempts of its run, with the bits of the undisturbed run."""
        self.take_time(0)
        self.assertEqual(self.wait_for_end(job), "COMPLETED", self.story(job))
        run = run or self.run_dir(job)
        self.assertGreaterEqual(self.status(run)["attempt"], attempts, self.story(job))
        self.assertEqual(self.status(run)["state"], "completed")
        self.assertEqual(self.hash(run), self.expected[0])
        self.assertEqual(self.losses(run), self.expected[1])
        self.assert_no_leftovers(self.dir / run)

    def assert_saved_each_time(self, job):
        """Every attempt but the last saved its newest step and ended by itself: no step was computed twice."""
        early = self.status(self.run_dir(job))["attempt"] - 1
        self.assertEqual(len(self.events(self.run_dir(job), "preempt")), early, self.story(job))
        self.assertEqual(self.log(job).count("the ranks have ended with exit code 75"), early, self.story(job))

    def wait_for_restart(self, job, count=1):
        """Waits until Slurm has queued the job again, for so many times in all."""
        self.wait(f"restart {count}", job, lambda: int(self.cluster.job(job).get("Restarts", "0")) >= count)

    def nodes(self, job):
        """The batch node of a job and its other node."""
        record = self.cluster.job(job)
        names = self.cluster.command("scontrol", "show", "hostnames", record["NodeList"]).split()
        return record["BatchHost"], next(name for name in names if name != record["BatchHost"])

    def ranks(self, job):
        """Process ids of a job's ranks."""
        mark = f"SLURM_JOB_ID={job}".encode()
        return sorted(pid for pid in cluster.processes() if mark in cluster.environ(pid).split(b"\0")
                      and cluster.program(pid) == LOCKSTEP and cluster.arguments(pid)[1:2] == [b"train"])

    def srun(self, *arguments):
        """Runs srun as a user does at a prompt."""
        process = subprocess.Popen([str(a) for a in arguments], cwd=self.dir, env=self.cluster.environment,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return harness.finish(process)

    def preempt(self):
        """Has a job of the high partition take all nodes for a second."""
        self.cluster.command("sbatch", "--partition=high", f"--nodes={cluster.NODES}", "--exclusive", "--time=1",
                             "--output=/dev/null", "--wrap=sleep 1", cwd=self.dir)


class TrainsOn(SlurmCase):
    """The events of every day, for the default suite: a preemption and a time limit, one job."""

    site = {"more": SENDS_SIGNALS}

    def test_preempted_and_out_of_time(self):
        # 60 s at the most; Slurm warns up to a minute early, so USR1 comes within half a minute.
        job = self.submit("srun supervised", "--time=1", "--signal=B:USR1@50")
        self.wait_for_step(job, 5)
        self.preempt()
        self.wait_for_restart(job)
        self.started_directly()
        self.wait_for_restart(job, 2)
        self.assert_undisturbed(job, 3)
        self.assert_saved_each_time(job)

    def started_directly(self):
        """srun without the script: ranks find each other, and their exit code comes back."""
        srun = ["srun", "--partition=high", "--nodes=2", "--ntasks-per-node=1"]
        run = self.srun(*srun, "--mpi=pmix", LOCKSTEP, "train", "-c", "config.yaml", "--run-dir", "direct")
        self.assertEqual(run.code, 0, str(run))
        self.assertEqual(self.status("direct")["world_size"], 2)
        self.assertEqual(self.hash("direct"), self.expected[0])
        run = self.srun(*srun, "--mpi=pmix", LOCKSTEP, "train", "-c", "config.yaml", "--set", "train.lanes=1")
        self.assertEqual(run.code, 78, str(run))
        self.assert_refused(run, "2 ranks cannot share")
        run = self.srun(*srun, LOCKSTEP, "train", "-c", "config.yaml", "--run-dir", "apart")
        self.assertEqual(run.code, 78, str(run))
        self.assertIn("srun --mpi=pmix", run.stderr)
        self.assertFalse((self.dir / "apart").exists())


class EveryEvent(SlurmCase):
    """Each row of the table in docs/slurm.md, for each way to start the ranks at the same time."""

    site = {"more": SENDS_SIGNALS}
    ways = ("srun", "mpirun", "srun supervised", "mpirun supervised")

    def each(self, *options, step=5, **edits):
        """Submits a job for each way and waits until all train."""
        jobs = [self.submit(way, *options, **edits) for way in self.ways]
        for job in jobs:
            self.wait_for_step(job, step)
        return jobs

    def assert_all_undisturbed(self, jobs):
        """What happened to the jobs has them queued again, once at least; then they end with the right bits."""
        for job in jobs:
            self.wait_for_restart(job)
        for job in jobs:
            self.assert_undisturbed(job, 2)

    def test_preempted(self):
        jobs = self.each()
        self.preempt()
        self.assert_all_undisturbed(jobs)
        for job in jobs:
            self.assert_saved_each_time(job)

    def test_requeued(self):
        jobs = self.each()
        for job in jobs:
            self.cluster.command("scontrol", "requeue", job)
        self.assert_all_undisturbed(jobs)

    def test_out_of_time(self):
        jobs = self.each("--time=1", "--signal=B:USR1@50")
        self.assert_all_undisturbed(jobs)
        for job in jobs:
            self.assert_saved_each_time(job)

    def test_out_of_time_without_warning(self):
        """Slurm sends TERM when the time is over, and kills after KillWait."""
        jobs = self.each("--time=1", "--signal=B:URG@1", train=("--set", "stop.margin=0"))
        self.take_time(1000)  # a limit of a minute can last one and a half
        self.assert_all_undisturbed(jobs)

    def assert_killed_when_preempted(self, jobs):
        """The ranks have not saved when the grace is over."""
        ranks = [pid for job in jobs for pid in self.ranks(job)]
        self.preempt()
        for job in jobs:
            self.wait_for_restart(job)
        # Slurm may count a restart before the last of them is dead; then nothing must let them go on.
        self.wait("the ranks' end", jobs[-1], lambda: not any(harness.alive(pid) for pid in ranks))
        self.assert_all_undisturbed(jobs)
        for job in jobs:
            self.assertEqual(self.events(self.run_dir(job), "preempt"), [])

    def test_hung_when_preempted(self):
        """Ranks that do not come to the end of a step, whatever signal they get, are killed when the grace is over."""
        jobs = self.each(step=25)
        self.take_time(step=10 * 60 * 1000)
        self.assert_killed_when_preempted(jobs)

    def test_save_longer_than_grace(self):
        """A save that Slurm does not wait for leaves the checkpoint before it."""
        jobs = self.each(step=25)
        self.take_time(STEP, save=10 * 60 * 1000)
        self.assert_killed_when_preempted(jobs)

    def kill_nodes(self, which):
        """Kills one node of each job: their batch nodes, or their others. They come back when Slurm has seen it."""
        jobs = self.each(step=25)
        nodes = [self.nodes(job) for job in jobs]
        self.assertFalse({batch for batch, _ in nodes} & {other for _, other in nodes})
        killed = sorted({pair[which] for pair in nodes})
        for node in killed:
            self.cluster.kill_node(node)
        for job in jobs:
            self.wait_for_restart(job)
        for node in killed:
            self.cluster.start_node(node)
        self.assert_all_undisturbed(jobs)

    def test_batch_node_dies(self):
        self.kill_nodes(0)

    def test_other_node_dies(self):
        self.kill_nodes(1)

    def test_rank_killed(self):
        jobs = self.each(step=25)
        for job in jobs:
            os.kill(self.ranks(job)[-1], signal.SIGKILL)
        for job, way in zip(jobs, self.ways):
            if way.endswith("supervised"):  # that is what it is for
                self.wait("another attempt", job, lambda job=job: self.status(self.run_dir(job))["attempt"] > 1)
            else:
                self.wait_for_restart(job)
        for job, way in zip(jobs, self.ways):
            self.assert_undisturbed(job, 2)
            self.assertEqual(self.cluster.job(job)["Restarts"], "0" if way.endswith("supervised") else "1")

    def test_array(self):
        """Tasks of an array have a run each, and one that is queued again leaves the others alone."""
        array = self.submit("srun", "--array=0-1", "--output=%x-%A_%a.out")
        tasks = [f"{array}_0", f"{array}_1"]
        for task in tasks:
            self.wait_for_step(task, 5)
        # Slurm gives the array's number to one of its tasks as well: that is the one to ask.
        named = [task for task in tasks if self.cluster.job(task)["JobId"] == array]
        self.assertEqual(len(named), 1)
        self.cluster.command("scancel", "--batch", "--signal=USR1", named[0])
        self.wait_for_restart(named[0])
        for task in tasks:
            self.assert_undisturbed(task, 1)
        self.assertEqual({task: self.cluster.job(task)["Restarts"] for task in tasks},
                         {task: "1" if task in named else "0" for task in tasks})

    def test_cancelled(self):
        jobs = self.each()
        self.cluster.command("scancel", *jobs)
        for job in jobs:
            self.assertEqual(self.wait_for_end(job), "CANCELLED", self.story(job))
        time.sleep(12)  # longer than a requeue takes
        for job in jobs:
            self.assertEqual(self.state(job), "CANCELLED", self.story(job))
            self.assertEqual(self.cluster.job(job)["Restarts"], "0")

    def test_mistakes_are_not_repeated(self):
        jobs = [self.submit(way, train=("--set", "train.lanes=2")) for way in self.ways]
        for job in jobs:
            self.assertEqual(self.wait_for_end(job), "FAILED", self.story(job))
            self.assertEqual(self.cluster.job(job)["ExitCode"], "78:0", self.story(job))
            self.assertEqual(self.cluster.job(job)["Restarts"], "0")

    def test_gives_up_without_progress(self):
        crash = self.write("crash", '#!/bin/sh\n[ "$1" != train ] || kill -SEGV $$\n')
        crash.chmod(0o755)
        job = self.submit("srun", lockstep=crash, max_stalls=2)
        self.assertEqual(self.wait_for_end(job), "FAILED", self.story(job))
        self.assertEqual(self.cluster.job(job)["Restarts"], "1", self.story(job))
        self.assertIn("giving up", self.log(job))

    def test_may_not_be_requeued(self):
        """Then it ends with 75, and another job with the same run_dir goes on."""
        jobs = self.each("--no-requeue")
        self.preempt()
        for job, way in zip(jobs, self.ways):
            self.assertIn(self.wait_for_end(job), ("FAILED", "PREEMPTED"), self.story(job))
            self.assertEqual(self.cluster.job(job)["ExitCode"], "75:0", self.story(job))
            self.assertIn("submit it once more with the same run_dir", self.log(job))
            run = self.run_dir(job)
            self.assertEqual(self.status(run)["state"], "preempted")
            self.assert_undisturbed(self.submit(way, run_dir=run), 2, run)

    def test_gpus(self):
        """Each rank sees the GPUs of its node that are the job's, whoever starts it."""
        seen = self.write("seen", '#!/bin/sh\n[ "$1" != train ] || echo "gpus=$CUDA_VISIBLE_DEVICES" >&2\n')
        seen.chmod(0o755)
        for way in ("srun", "mpirun"):
            job = self.submit(way, "--gpus-per-node=2", lockstep=seen)
            self.assertEqual(self.wait_for_end(job), "COMPLETED", self.story(job))
            self.assertEqual(self.log(job).count("gpus=0,1\n"), 4, self.story(job))


class SparingSite(EveryEvent):
    """A site that says nothing to the script at a preemption: ranks and daemons get SIGTERM at once."""

    site = {}

    def test_preempted(self):
        """Whether or not there was time for a first checkpoint: that is not held against the job."""
        jobs = self.each(max_stalls=1)
        self.preempt()
        self.assert_all_undisturbed(jobs)


class RequeuingSite(EveryEvent):
    """A site that queues jobs again by itself when they end with 75."""

    site = {"more": f"{SENDS_SIGNALS}\nRequeueExit=75"}


# What does not depend on the site is tested once.
def only(case, *names):
    """Leaves only these inherited tests in a class."""
    for name in dir(EveryEvent):
        if name.startswith("test_") and name not in names:
            setattr(case, name, None)


only(SparingSite, "test_preempted")
only(RequeuingSite, "test_preempted", "test_out_of_time", "test_cancelled")


if __name__ == "__main__":
    harness.main()
