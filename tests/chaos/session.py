"""One run under faults: its directory, its processes, the control file of shim.c, and what the watcher saw of its steps."""

import json
import mmap
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "end_to_end"))
import harness  # noqa: E402

SHIM = os.environ.get("CHAOS_SHIM", str(harness.ROOT / "build" / "tests" / "libchaos_shim.so"))
LANES, BATCH, STEPS, SAMPLES = 8, 64, 100, 600
ROW = (4, 11)  # a sample is 44 bytes, as shim.c expects
MAGIC = bytes((0xC5, 0x5C, 0xA3, 0x3A))

# Small and in FP32, so that every CPU computes it. The limit on waiting is what finds a stopped rank under mpirun.
CONFIG = f"""\
model: {{hidden: [32, 16], dropout: 0.2}}
data: {{path: DATA, workers: 1}}
train: {{batch: {BATCH}, lanes: {LANES}, max_steps: {STEPS}}}
optimizer: {{lr: 0.01, clip_norm: 0.5}}
schedule: {{kind: cosine, warmup_steps: 5}}
eval: {{every: 25, quick_samples: 100, batch: 40}}
checkpoint: {{every: 5, keep_last: 3}}
log: {{every: 1}}
runtime: {{precision: fp32, device: cpu}}
collectives: {{timeout: 4}}
"""


LIVE = set()  # sessions; what ends this program ends them


def end(*_):
    """For a signal that asks this program to end: nothing of its sessions goes on or stays."""
    for run in list(LIVE):
        run.send(run.processes(), signal.SIGKILL)
        shutil.rmtree(run.folder, ignore_errors=True)
    os._exit(143)


class Control:
    """The file that shim.c maps; its fields by name, in its order."""

    LAYOUT = [("clock_offset", "q"), ("sequence", "q"), ("fault", "i"), ("fault_rank", "i"), ("fault_skip", "i"),
              ("fault_count", "i"), ("fault_hits", "i"), ("step_delay", "i"), ("sync_delay", "i"), ("write_delay", "i"),
              ("lock_lies", "i"), ("crash_after", "i"), ("dead", "i")]
    FAULTS = {"none": 0, "space": 1, "io": 2, "short": 3, "sync": 4, "read": 5}

    def __init__(self, path):
        path.write_bytes(bytes(4096))
        with open(path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), 4096)
        self.place, offset = {}, 0
        for name, code in self.LAYOUT:
            self.place[name] = offset, "<" + code
            offset += struct.calcsize("<" + code)

    def get(self, name):
        offset, code = self.place[name]
        return struct.unpack_from(code, self.map, offset)[0]

    def set(self, **values):
        for name, value in values.items():
            offset, code = self.place[name]
            struct.pack_into(code, self.map, offset, value)


class Watcher(threading.Thread):
    """Follows metrics.jsonl and notes when each line came: (clock, attempt, step)."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.seen, self.ended = path, [], threading.Event()

    def run(self):
        position, rest = 0, b""
        while not self.ended.is_set():
            try:
                size = self.path.stat().st_size
                if size < position:  # a resume has cut it
                    position, rest = 0, b""
                    continue
                if size > position:
                    with open(self.path, "rb") as file:
                        file.seek(position)
                        part = file.read()
                    position += len(part)
                    *lines, rest = (rest + part).split(b"\n")
                    self.note(lines)
            except OSError:
                pass
            self.ended.wait(0.004)

    def note(self, lines):
        now, known = time.monotonic(), self.seen[-1][1:] if self.seen else (0, 0)
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue  # being written, or lost by the machine's death
            place = record["attempt"], record["step"]
            if place > known:
                self.seen.append((now, *place))
                known = place

    def newest(self):
        """(attempt, step) of the newest line; (0, 0) before the first."""
        return self.seen[-1][1:] if self.seen else (0, 0)


class Job:
    """One start of the run."""

    def __init__(self, process, ranks, number):
        self.process, self.ranks, self.number, self.started = process, ranks, number, time.monotonic()

    def code(self):
        return self.process.poll()


class Session:
    """A run directory with everything around it."""

    def __init__(self, folder, data, how, name, settings=()):
        self.folder, self.how, self.settings, self.started = folder, how, list(settings), time.time()
        self.token = f"{os.getpid()}-{name}-{time.monotonic_ns()}"
        self.root, self.journal, self.tmp, self.shm = (folder / part for part in ("root", "journal", "tmp", "shm"))
        for part in (self.root, self.journal, self.tmp, self.shm):
            part.mkdir(parents=True)
        self.run = self.root / "run"
        self.config, self.hosts = folder / "config.yaml", folder / "hosts"
        self.config.write_text(CONFIG.replace("DATA", str(data)), encoding="utf-8")
        self.control = Control(folder / "control")
        self.control.set(fault_rank=-1, step_delay=6000, sync_delay=2000)
        self.watcher = Watcher(self.run / "metrics.jsonl")
        self.watcher.start()
        self.jobs, self.notes = [], []
        self.swept = False  # what mpirun leaves when it is killed is to be removed here
        LIVE.add(self)

    # ---- Starting ------------------------------------------------------------------------------------------------

    def environment(self):
        return harness.environment({
            "LD_PRELOAD": SHIM, "CHAOS_SESSION": self.token, "CHAOS_CONTROL": str(self.folder / "control"),
            "CHAOS_ROOT": str(self.root), "CHAOS_JOURNAL": str(self.journal), "CHAOS_LAUNCH": str(len(self.jobs)),
            "TMPDIR": str(self.tmp), "OMP_NUM_THREADS": "1"})

    def command(self, ranks, how):
        train = ["train", "-c", str(self.config), "--run-dir", str(self.run), "-q"]
        for setting in self.settings:
            train += ["--set", setting]
        if how == "launch":
            self.set_hosts(ranks)
            return [harness.LOCKSTEP, "launch", "--discover", f"cat {self.hosts}", "--settle", "0.3", "--max-restarts", "30",
                    "--mpi-args", "--oversubscribe --bind-to none", "--"] + train
        return [harness.MPIRUN, "--oversubscribe", "--bind-to", "none", "--mca", "btl_vader_backing_directory",
                str(self.shm), "--mca", "odls_base_sigkill_timeout", "0", "-np", str(ranks), harness.LOCKSTEP] + train

    def set_hosts(self, ranks):
        """What the supervisor finds when it looks for hosts the next time."""
        new = self.hosts.with_suffix(".new")
        new.write_text(f"localhost:{ranks}\n", encoding="ascii")
        new.rename(self.hosts)

    def start(self, ranks, how=None):
        number = len(self.jobs)
        with open(self.folder / f"job-{number:03d}.txt", "wb") as output:
            process = subprocess.Popen(self.command(ranks, how or self.how), env=self.environment(), cwd=self.folder, stdin=subprocess.DEVNULL,
                                       stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        self.swept |= (how or self.how) == "mpirun"
        self.jobs.append(Job(process, ranks, number))
        self.note(f"job {number} started on {ranks} ranks")
        return self.jobs[-1]

    def output(self, job):
        """The sentences of what failed."""
        text = (self.folder / f"job-{job.number:03d}.txt").read_text(encoding="utf-8", errors="replace")
        return " / ".join(line for line in text.splitlines() if line.startswith("lockstep: ")) or "nothing said"

    def note(self, text):
        self.notes.append(f"{time.monotonic() - (self.jobs[0].started if self.jobs else time.monotonic()):7.3f} {text}")

    # ---- Processes -----------------------------------------------------------------------------------------------

    def processes(self, launch=None):
        """{pid: environment} of everything that lives of this session, or of one job of it."""
        found = {}
        mark = f"CHAOS_SESSION={self.token}".encode()
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit():
                continue
            try:
                values = pathlib.Path(entry.path, "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if mark not in values or not harness.alive(int(entry.name)):
                continue
            environment = dict(value.decode(errors="replace").partition("=")[::2] for value in values if b"=" in value)
            if launch is None or environment.get("CHAOS_LAUNCH") == str(launch):
                found[int(entry.name)] = environment
        return found

    def ranks(self, launch=None):
        """{rank: pid} of a job."""
        return {int(environment["OMPI_COMM_WORLD_RANK"]): pid for pid, environment in self.processes(launch).items()
                if "OMPI_COMM_WORLD_RANK" in environment}

    def launchers(self, name, launch=None):
        """Process ids of mpirun or lockstep (launch) of a job, which are no ranks."""
        found = []
        for pid, environment in self.processes(launch).items():
            if "OMPI_COMM_WORLD_RANK" in environment:
                continue
            try:
                words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words and os.path.basename(words[0]).decode() in name:
                found.append(pid)
        return found

    def send(self, pids, what):
        for pid in pids:
            try:
                os.kill(pid, what)
            except ProcessLookupError:
                pass

    def kill_all(self):
        """Kills everything of the session, until nothing is left."""
        while True:
            left = self.processes()
            if not left:
                break
            self.send(left, signal.SIGKILL)
            time.sleep(0.005)
        for job in self.jobs:
            job.process.wait()

    def sweep(self):
        """What mpirun leaves when it is killed. `lockstep launch` has to do that itself for its own."""
        if self.swept and not self.processes():
            for folder in (self.tmp, self.shm):
                for entry in folder.iterdir():
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    # ---- The run -------------------------------------------------------------------------------------------------

    def checkpoints(self):
        """Steps of its checkpoints, oldest first."""
        return sorted(path.parent for path in self.run.glob("checkpoints/step-*/manifest.json"))

    def is_saving(self):
        """Whether a checkpoint is being written: its files lie under a name that begins with a dot."""
        try:
            return any(name.startswith(".") for name in os.listdir(self.run / "checkpoints"))
        except OSError:
            return False

    def lockstep(self, *arguments):
        return subprocess.run([harness.LOCKSTEP, *map(str, arguments)], env=harness.environment(), stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False)

    def close(self):
        self.kill_all()
        LIVE.discard(self)
        self.watcher.ended.set()
        self.watcher.join()
        self.control.map.close()


def import_data(folder):
    """A data set whose training rows say which they are; returns its path."""
    def split(count, magic, seed):
        pixels, labels = harness.images(count, classes=4, size=1, seed=seed)
        labels, rng, rows = labels[8:], harness.random.Random(seed), bytearray()
        for i in range(count):
            row = bytearray(magic + struct.pack("<H", i))
            row += bytes((170 if j % 4 == labels[i] else 20) + rng.randrange(80) for j in range(ROW[0] * ROW[1] - 6))
            rows += row
        del pixels
        return harness.idx((count, *ROW), rows), harness.idx((count,), labels)
    names = []
    for prefix, count, magic, seed in (("train", SAMPLES, MAGIC, 1), ("t10k", 200, bytes(4), 2)):
        images, labels = split(count, magic, seed)
        for kind, content in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{prefix}-{kind}-ubyte"
            path.write_bytes(content)
            names.append(str(path))
    subprocess.run([harness.LOCKSTEP, "data", "import", "idx", *names, "-o", str(folder / "data.h5")], check=True,
                   env=harness.environment(), stdout=subprocess.DEVNULL, timeout=120)
    return folder / "data.h5"
