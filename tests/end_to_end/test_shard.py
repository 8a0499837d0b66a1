"""optimizer.shard: the same bits in every mode on any number of ranks, also across a resume in another mode, and the
memory that --dry-run prints."""

import re
import subprocess
import sys
import unittest

import harness
from harness import CONFIG, Case, import_images

MODES = ("none", "state", "state+gradients")

# Runs a command and prints the largest resident set that any of its processes had, in MiB.
MEASURE = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
sys.exit(code)
"""


# The same of the memory of all its ranks together, of which a page that several of them use counts once. Programs and
# libraries are left out: who else has them loaded would count.
MEASURE_ALL = """
import os, re, subprocess, sys, time
run, most = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL), 0
def ranks(of):
    for pid in open(f"/proc/{of}/task/{of}/children").read().split():
        yield from ranks(pid)
        yield pid
while run.poll() is None:
    sizes = []
    try:
        for pid in ranks(run.pid):
            if open(f"/proc/{pid}/comm").read().strip() == "lockstep":
                sizes += map(int, re.findall("(?m)^Pss_(?:Anon|Shmem): +([0-9]+)", open(f"/proc/{pid}/smaps_rollup").read()))
    except OSError:
        continue # it has just ended
    most = max(most, sum(sizes))
    time.sleep(0.02)
print(most / 1024)
sys.exit(run.returncode)
"""


class SameBits(Case):
    def setUp(self):
        super().setUp()
        import_images(self)
        self.write("config.yaml", CONFIG)

    def train(self, run, ranks, mode, *options):
        """Steps 1 to 20, or on from where the run is."""
        settings = ["collectives.bucket_mb=0.0625", "model.hidden=[200,30]", "model.dropout=0.1", "optimizer.clip_norm=1",
                    "checkpoint.every=10", "schedule.kind=constant", "schedule.warmup_steps=0",
                    "train.max_steps=20", f"optimizer.shard={mode}", *options]
        self.run_lockstep("train", "-c", "config.yaml", "--run-dir", run,
                          *(word for setting in settings for word in ("--set", setting)), ranks=ranks)

    def test_modes_and_ranks(self):
        self.train("alone", 1, "state")
        expected = self.hash("alone"), self.losses("alone")
        for mode in MODES:
            for ranks in (3,) if mode == "state" else range(1, 6): # test_bits.py has more of the default
                with self.subTest(mode=mode, ranks=ranks):
                    run = f"{mode}-{ranks}"
                    self.train(run, ranks, mode)
                    self.assertEqual((self.hash(run), self.losses(run)), expected)

    def test_resume_in_another_mode(self):
        self.train("whole", 2, "state")
        expected = self.hash("whole"), self.losses("whole")
        self.train("part", 3, "none", "train.max_steps=5")
        for step, (ranks, mode) in enumerate(((2, "state+gradients"), (1, "none"), (5, "state"), (3, "state+gradients")), 2):
            self.train("part", ranks, mode, f"train.max_steps={5 * step if step < 5 else 20}")
        self.assertEqual((self.hash("part"), self.losses("part")), expected)

    def test_masters_of_their_own(self):
        """Other types than FP32 have master weights besides, momentum has one moment, and a layer may be frozen."""
        options = ("runtime.precision=fp16", "optimizer.kind=sgd", "train.freeze=layers.1.*")
        self.train("alone", 1, "state", *options)
        for ranks, mode in ((1, "none"), (3, "none"), (3, "state"), (3, "state+gradients")):
            run = f"{mode}-{ranks}"
            self.train(run, ranks, mode, *options, "train.max_steps=10")
            self.train(run, ranks, mode, *options)
            self.assertEqual(self.hash(run), self.hash("alone"))


class LanguageModel(Case):
    """Its token table gets gradients from both ends, so that they are final last."""

    CONFIG = """\
model: {kind: gpt, layers: 3, heads: 2, width: 24, context: 18, dropout: 0.1}
data: {path: text.h5}
train: {batch: 16, lanes: 8, max_steps: 15}
optimizer: {lr: 0.01, clip_norm: 1.0}
eval: {every: 0}
log: {every: 1}
runtime: {device: cpu, precision: fp32}
collectives: {timeout: 60, bucket_mb: 0.0625}
"""

    def test_modes(self):
        self.write("text.txt", "".join(f"Lane {i % 7} of rank {i * i % 11} keeps {i % 5}.\n" for i in range(400)))
        self.run_lockstep("data", "import", "text", "text.txt", "-o", "text.h5")
        self.write("config.yaml", self.CONFIG)
        expected = None
        for ranks, mode in ((1, "state"), (2, "none"), (1, "state+gradients"), (3, "state+gradients"),
                            (4, "state+gradients")):
            run = f"{mode}-{ranks}"
            self.run_lockstep("train", "-q", "-c", "config.yaml", "--run-dir", run, "--set", f"optimizer.shard={mode}",
                              ranks=ranks)
            expected = expected or (self.hash(run), self.losses(run))
            self.assertEqual((self.hash(run), self.losses(run)), expected)


class Refusals(Case):
    """What cannot be had together with gradients that are not kept."""

    def test_refusals(self):
        import_images(self)
        self.write("config.yaml", CONFIG)
        for setting, word in (("train.accumulation=2", "train.lanes to 16"), ("collectives.reduction=fast", "exact"),
                              ("guard.recompute_every=5", "guard.recompute_every")):
            result = self.run_lockstep("train", "-c", "config.yaml", "--set", "optimizer.shard=state+gradients", "--set",
                                       setting, code=78)
            self.assert_refused(result, word)


class Memory(Case):
    """What a rank uses is what --dry-run said, within 5 %. A smaller model is taken off: program and libraries. It is
    large enough to need more than the start does, whose memory is given back."""

    def setUp(self):
        super().setUp()
        import_images(self)
        self.write("config.yaml", CONFIG)

    def arguments(self, mode, hidden, backend="mpi"):
        options = (f"model.hidden={hidden}", f"optimizer.shard={mode}", "train.max_steps=6", "eval.every=0", "runtime.device=cpu",
                   "checkpoint.every=0", f"collectives.backend={backend}", "collectives.bucket_mb=4", "runtime.precision=fp32")
        return ["train", "-c", "config.yaml", "--resume", "never", "--run-dir", "run",
                *(word for option in options for word in ("--set", option))]

    def planned(self, arguments, ranks, *more):
        """MiB of each rank."""
        output = self.run_lockstep(*arguments, "--dry-run", "--ranks", ranks, *more).stdout
        rows = [list(map(float, row.split()[4:])) for row in re.findall(r"(?m)^ +\d+ +\d+-\d+.*$", output)]
        self.assertEqual(len(rows), ranks, output)
        return [row[7] + row[8] for row in rows]

    def used(self, arguments, ranks, measure):
        run = subprocess.run([sys.executable, "-c", measure, *harness.command(arguments, ranks)], cwd=self.dir,
                             env=harness.environment(), capture_output=True, text=True, timeout=harness.DEADLINE, check=True)
        return float(run.stdout)

    def compare(self, what, planned, used):
        print(f"{what}: {planned:.1f} MiB planned, {used:.1f} MiB used", file=sys.stderr)
        self.assertLess(abs(used - planned), 0.05 * planned)

    def test_memory_used(self):
        for ranks, mode in enumerate(MODES, 2):
            with self.subTest(mode=mode, ranks=ranks):
                large, small = self.arguments(mode, "[1500,1500,1500]"), self.arguments(mode, "[700,700,700]")
                planned = max(self.planned(large, ranks)) - max(self.planned(small, ranks))
                used = self.used(large, ranks, MEASURE) - self.used(small, ranks, MEASURE)
                self.compare(f"{mode}, {ranks} ranks", planned, used)

    def test_memory_used_by_a_host(self):
        """Ranks that share memory: gradients are read in place, and of the weights there is one copy."""
        for ranks, mode in enumerate(MODES, 2):
            with self.subTest(mode=mode, ranks=ranks):
                large, small = (self.arguments(mode, hidden, "shared") for hidden in ("[1500,1500,1500]", "[700,700,700]"))
                host = ("--ranks-per-host", ranks)
                planned = sum(self.planned(large, ranks, *host)) - sum(self.planned(small, ranks, *host))
                used = self.used(large, ranks, MEASURE_ALL) - self.used(small, ranks, MEASURE_ALL)
                self.compare(f"{mode}, {ranks} ranks of a host", planned, used)


if __name__ == "__main__":
    unittest.main()
