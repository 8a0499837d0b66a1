"""What the end-to-end tests share: running lockstep alone or under mpirun, and synthetic data sets.

Each test program runs alone with /usr/bin/python3; LOCKSTEP names the binary (default: build/lockstep) and MPIRUN the
launcher. Every test has a temporary directory of its own, and every run a deadline after which all its processes are
killed.
"""

import gzip
import json
import os
import pathlib
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOCKSTEP = os.environ.get("LOCKSTEP", str(ROOT / "build" / "lockstep"))
MPIRUN = os.environ.get("MPIRUN", "mpirun")
SLOW_STEPS = os.environ.get("SLOW_STEPS_LIBRARY", str(ROOT / "build" / "tests" / "libslow_steps.so"))

# A generous deadline: it tells a hang from a busy machine and measures nothing.
DEADLINE = 90


class Result:
    """How a run ended."""

    def __init__(self, code, stdout, stderr):
        self.code, self.stdout, self.stderr = code, stdout, stderr

    @property
    def failures(self):
        """The lines that state a failure."""
        return [line for line in self.stderr.splitlines() if line.startswith("lockstep: ")]

    def __str__(self):
        return f"exit code {self.code}\n--- stdout\n{self.stdout[-2000:]}\n--- stderr\n{self.stderr[-4000:]}"


def environment(extra=None):
    """The environment of a run: no LOCKSTEP_* options of whoever runs the tests, mpirun allowed for root."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("LOCKSTEP")}
    env.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", LC_ALL="C")
    env.update(extra or {})
    return env


def command(arguments, ranks=0):
    """ranks 0: without mpirun."""
    launcher = [MPIRUN, "--oversubscribe", "--bind-to", "none", "-np", str(ranks)] if ranks else []
    return launcher + [LOCKSTEP] + [str(argument) for argument in arguments]


def start(arguments, ranks=0, cwd=None, env=None):
    """Starts a run in a session of its own."""
    return subprocess.Popen(
        command(arguments, ranks), cwd=cwd, env=environment(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True)


def finish(process, deadline=DEADLINE):
    """Waits for a run; one that hangs is killed with all its ranks, and is a failure of the test."""
    try:
        stdout, stderr = process.communicate(timeout=deadline)
    except subprocess.TimeoutExpired:
        kill_family(process.pid)
        stdout, stderr = process.communicate()
        raise AssertionError(f"hung for {deadline} s: {process.args}\n{Result(None, stdout, stderr)}") from None
    return Result(process.returncode, stdout, stderr)


def children(pid):
    """Process ids of the direct children."""
    try:
        return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def alive(pid):
    """Whether a process runs (a dead one that nobody has waited for does not)."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def kill_family(pid):
    """Kills a process and all below it (mpirun's ranks have process groups of their own)."""
    for child in children(pid):
        kill_family(child)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Case(unittest.TestCase):
    """A test with a temporary directory, in which its runs have their current directory."""

    maxDiff = 2000

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="lockstep-test-")
        self.addCleanup(folder.cleanup)
        self.dir = pathlib.Path(folder.name)

    def run_lockstep(self, *arguments, ranks=0, code=0, env=None, deadline=DEADLINE):
        """Runs the program and checks its exit code."""
        result = finish(start(arguments, ranks, self.dir, env), deadline)
        self.assertEqual(result.code, code, f"{' '.join(map(str, arguments))} at {ranks} ranks: {result}")
        return result

    def assert_refused(self, result, *words):
        """One line that says what is wrong, and nothing else that looks like one."""
        self.assertEqual(len(result.failures), 1, str(result))
        for word in words:
            self.assertIn(word, result.failures[0])

    def slow(self):
        """The environment of a run that takes the time that take_time() says: see slow_steps.c."""
        asan = os.environ.get("ASAN_OPTIONS", "")  # of a sanitized build
        return {"LD_PRELOAD": SLOW_STEPS, "SLOW_STEPS": str(self.dir / "pace"),
                "ASAN_OPTIONS": f"{asan}:verify_asan_link_order=0"}

    def take_time(self, step=0, since=0, save=0, product=0, event=0):
        """How many milliseconds slow() runs need from now on, at least: for a step, from step `since` on, an fsync of a
        checkpoint, a product from there on, after the event of an evaluation. Runs that are on their way notice. So a
        test acts on a run in its midst, however fast the machine is; without arguments it hurries on."""
        self.write("pace.new", f"{step} {since} {save} {product} {event}\n").rename(self.dir / "pace")

    def wait_until(self, what, condition, process=None, deadline=DEADLINE):
        """Waits for a condition, which must come before a process's end."""
        end = time.monotonic() + deadline
        while not condition():
            if process and process.poll() is not None and not condition():
                self.fail(f"ended before this: {what}\n{finish(process)}")
            if time.monotonic() > end:
                if process:
                    kill_family(process.pid)
                self.fail(f"not within {deadline} s: {what}\n{finish(process) if process else ''}")
            time.sleep(0.005)

    def write(self, name, content):
        """Writes a file below the test's directory and returns its path."""
        path = self.dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content, encoding="utf-8")
        return path

    def hash(self, checkpoint):
        """The hash of a checkpoint, or of a run's newest one."""
        return self.run_lockstep("checkpoint", "hash", checkpoint).stdout.strip()

    def status(self, run):
        """status.json of a run."""
        return json.loads((self.dir / run / "status.json").read_text(encoding="utf-8"))

    def losses(self, run):
        """The loss column as text, by step: what must be the same to the last bit."""
        lines = (self.dir / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line, parse_float=str) for line in lines]
        return {record["step"]: record["loss"] for record in records}

    def events(self, run, kind):
        """Events of a kind, oldest first."""
        lines = (self.dir / run / "events.jsonl").read_text(encoding="utf-8").splitlines()
        return [event for event in map(json.loads, lines) if event.get("event", event.get("kind")) == kind]

    def assert_no_leftovers(self, folder=None):
        """No temporary file or unfinished checkpoint is left."""
        left = [str(path) for path in (folder or self.dir).rglob("*")
                if ".tmp-" in path.name or (path.parent.name == "checkpoints" and path.name.startswith("."))]
        self.assertEqual(left, [])


# ---- Synthetic data ------------------------------------------------------------------------------------------------

def idx(dimensions, values):
    """An IDX file of unsigned bytes."""
    return struct.pack(f">BBBB{len(dimensions)}I", 0, 0, 8, len(dimensions), *dimensions) + bytes(values)


def images(count, classes=4, size=6, seed=1):
    """(images, labels) as IDX bytes: a noisy bright bar for each class."""
    rng = random.Random(seed)
    pixels, labels = bytearray(), []
    for i in range(count):
        label = i % classes
        labels.append(label)
        for row in range(size):
            for _ in range(size):
                pixels.append(min(255, (160 if row == label else 20) + rng.randrange(90)))
    return idx((count, size, size), pixels), idx((count,), labels)


def write_images(case, train=600, test=200, **options):
    """Writes four IDX files, two of them compressed, and returns their paths."""
    train_images, train_labels = images(train, seed=1, **options)
    test_images, test_labels = images(test, seed=2, **options)
    return [case.write("train-images-idx3-ubyte", train_images),
            case.write("train-labels-idx1-ubyte.gz", gzip.compress(train_labels)),
            case.write("t10k-images-idx3-ubyte.gz", gzip.compress(test_images)),
            case.write("t10k-labels-idx1-ubyte", test_labels)]


def import_images(case, name="images.h5", **options):
    """Imports a synthetic image data set and returns its path."""
    case.run_lockstep("data", "import", "idx", *write_images(case, **options), "-o", name)
    return case.dir / name


def table(rows, kind="binary", seed=1):
    """A CSV text: two numbers, a category and a label that depends on all three."""
    rng = random.Random(seed)
    lines = ["width,height,colour,label"]
    for _ in range(rows):
        width, height = rng.gauss(0, 1), rng.gauss(5, 2)
        colour = rng.choice(["red", "green", "blue"])
        score = width - 0.3 * (height - 5) + {"red": 1, "green": 0, "blue": -1}[colour]
        if kind == "binary":
            label = "yes" if score + rng.gauss(0, 0.3) > 0 else "no"
        else:
            label = f"{2 * score:.6f}"
        lines.append(f"{width:.6f},{height:.6f},{colour},{label}")
    return "\n".join(lines) + "\n"


def import_table(case, name="table.h5", kind="binary", rows=800):
    """Imports a synthetic table and returns the data set's path."""
    path = case.write(f"{kind}.csv", table(rows, kind))
    case.run_lockstep("data", "import", "csv", path, "-o", name, "--label", "label", "--validation", "0.2", "--test",
                      "0.2", *(["--regression"] if kind == "regression" else []))
    return case.dir / name


# Small and in FP32, so that every CPU computes it; dropout, clipping and evaluation are on.
CONFIG = """\
model: {hidden: [32, 16], dropout: 0.2}
data: {path: images.h5}
train: {batch: 64, lanes: 8, max_steps: 60}
optimizer: {lr: 0.01, clip_norm: 0.5}
schedule: {kind: cosine, warmup_steps: 5}
eval: {every: 20, quick_samples: 100, batch: 40}
checkpoint: {every: 20, keep_last: 100}
log: {every: 1}
runtime: {precision: fp32}
collectives: {timeout: 60}
"""


def attempts(case, run):
    """How many attempts a run has had."""
    path = case.dir / run / "status.json"
    return json.loads(path.read_text(encoding="utf-8"))["attempt"] if path.exists() else 0


def wait_for_step(case, process, run, step, attempt=1, deadline=DEADLINE):
    """Waits until that attempt of a run has logged a step."""
    path = case.dir / run / "metrics.jsonl"

    def reached():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        return any(record["attempt"] == attempt and record["step"] >= step for record in records)

    case.wait_until(f"{run} comes to step {step} in attempt {attempt}", reached, process, deadline)


def main():
    """Runs the tests of the calling program."""
    unittest.main(module=sys.modules["__main__"], verbosity=1)
