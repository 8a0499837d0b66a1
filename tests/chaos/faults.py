"""The faults: each a function that does it to a running job, and returns what it did in a few words, or None when there
was nothing to do it to. `strikes.run` is the session, `strikes.job` the job that is meant to go on.
"""

import os
import pathlib
import signal
import time

import harness
import power
import session as chaos

FAULTS = {}
NEEDS_LAUNCH = set()  # to strike `lockstep launch` itself, or what it alone can mend
MENDED = set()        # by `lockstep launch`, which goes on without anybody's help


def fault(name, mended=False, launch=False):
    def register(function):
        FAULTS[name] = function
        if mended:
            MENDED.add(name)
        if launch:
            NEEDS_LAUNCH.add(name)
        return function
    return register


def some_rank(strikes):
    ranks = strikes.run.ranks(strikes.job.number)
    if not ranks:
        return None, None
    rank = strikes.rng.choice(sorted(ranks))
    return rank, ranks[rank]


def signal_rank(strikes, what, text):
    rank, pid = some_rank(strikes)
    if pid is None:
        return None
    strikes.run.send([pid], what)
    return f"{text} rank {rank}"


def signal_launcher(strikes, names, what, text):
    pids = strikes.run.launchers(names, strikes.job.number)
    if not pids:
        return None
    strikes.run.send(pids, what)
    return text


# ---- Processes -------------------------------------------------------------------------------------------------------

@fault("kill-rank", mended=True)
def kill_rank(strikes):
    return signal_rank(strikes, signal.SIGKILL, "killed")


MPIRUN = ("mpirun", "orterun", "mpiexec")


@fault("kill-mpirun", mended=True)
def kill_mpirun(strikes):
    return signal_launcher(strikes, MPIRUN, signal.SIGKILL, "killed mpirun")


@fault("stop-mpirun", mended=True, launch=True)
def stop_mpirun(strikes):
    return signal_launcher(strikes, MPIRUN, signal.SIGSTOP, "stopped mpirun for good")


@fault("kill-launch", launch=True)
def kill_launch(strikes):
    return signal_launcher(strikes, ("lockstep",), signal.SIGKILL, "killed the supervisor")


@fault("pause-launch", mended=True, launch=True)
def pause_launch(strikes):
    """It must not take what it slept through for silence of the ranks."""
    pids = strikes.run.launchers(("lockstep",), strikes.job.number)
    if not pids:
        return None
    strikes.run.send(pids, signal.SIGSTOP)
    time.sleep(strikes.rng.uniform(0.05, 4.5))
    strikes.run.send(pids, signal.SIGCONT)
    return "paused the supervisor"


@fault("kill-all")
def kill_all(strikes):
    if strikes.job.code() is not None:
        return None
    strikes.run.kill_all()
    return "killed everything"


@fault("stop-rank", mended=True)
def stop_rank(strikes):
    if strikes.run.how == "mpirun" and strikes.job.ranks == 1:
        return None  # nobody waits for it, and nobody watches it
    return signal_rank(strikes, signal.SIGSTOP, "stopped for good")


@fault("pause-rank", mended=True)
def pause_rank(strikes):
    rank, pid = some_rank(strikes)
    if pid is None:
        return None
    strikes.run.send([pid], signal.SIGSTOP)
    time.sleep(strikes.rng.uniform(0.05, 1.2))
    strikes.run.send([pid], signal.SIGCONT)
    return f"paused rank {rank}"


@fault("slow-rank", mended=True)
def slow_rank(strikes):
    rank, pid = some_rank(strikes)
    if pid is None:
        return None
    for _ in range(12):
        strikes.run.send([pid], signal.SIGSTOP)
        time.sleep(0.03)
        strikes.run.send([pid], signal.SIGCONT)
        time.sleep(0.02)
    return f"slowed rank {rank}"


@fault("usr1", mended=True)
def usr1(strikes):
    return signal_rank(strikes, signal.SIGUSR1, "asked to stop:")


@fault("term-rank", mended=True)
def term_rank(strikes):
    return signal_rank(strikes, signal.SIGTERM, "terminated")


@fault("term")
def term(strikes):
    if strikes.job.code() is not None:
        return None
    strikes.run.send([strikes.job.process.pid], signal.SIGTERM)
    return "terminated the launcher"


@fault("resize")
def resize(strikes):
    if strikes.job.code() is not None:
        return None
    strikes.ranks = strikes.rng.randint(1, chaos.LANES)
    strikes.run.send([strikes.job.process.pid], signal.SIGUSR1)
    return f"asked to stop, to go on with {strikes.ranks} ranks"


@fault("hosts", mended=True, launch=True)
def hosts(strikes):
    """Slots come or go; the supervisor sees it when it looks, and what strikes next may come before or after that."""
    if strikes.job.code() is not None:
        return None
    strikes.ranks = strikes.rng.randint(1, chaos.LANES)
    strikes.run.set_hosts(strikes.ranks)
    return f"slots for {strikes.ranks} ranks"


# ---- Storage ---------------------------------------------------------------------------------------------------------

def storage(strikes, kind, most):
    control, rng = strikes.run.control, strikes.rng
    if strikes.job.code() is not None:
        return None
    rank = rng.choice((-1, -1, 0, rng.randrange(strikes.job.ranks)))
    skip = rng.randrange(25)
    control.set(fault_hits=0, fault_rank=rank, fault_skip=skip, fault_count=rng.choice((1, most)),
                fault=chaos.Control.FAULTS[kind])
    end = time.monotonic() + 1.5
    while time.monotonic() < end and strikes.job.code() is None and control.get("fault_count") > 0:
        time.sleep(0.005)
    control.set(fault=0)
    hits = control.get("fault_hits")
    return f"{kind}: {hits} operations failed, {skip} before them not, rank {rank}" if hits else None


@fault("disk-full")
def disk_full(strikes):
    return storage(strikes, "space", 1000)


@fault("io-error")
def io_error(strikes):
    return storage(strikes, "io", 3)


@fault("short-write")
def short_write(strikes):
    return storage(strikes, "short", 1000)


@fault("sync-error")
def sync_error(strikes):
    return storage(strikes, "sync", 3)


@fault("read-error")
def read_error(strikes):
    """Reads fail while a new attempt looks for its checkpoint."""
    if kill_all(strikes) is None:
        return None
    rng = strikes.rng
    strikes.run.control.set(fault_hits=0, fault_rank=rng.choice((-1, 0)), fault_skip=rng.randrange(8), fault_count=1,
                            fault=chaos.Control.FAULTS["read"])
    return "a read fails at the next start"


@fault("power-loss")
def power_loss(strikes):
    control = strikes.run.control
    if strikes.job.code() is not None:
        return None
    control.set(crash_after=strikes.rng.randint(1, 60))
    end = time.monotonic() + 3
    while not control.get("dead") and strikes.job.code() is None and time.monotonic() < end:
        time.sleep(0.002)
    died = control.get("dead")
    if died:
        time.sleep(0.02)  # who was in the middle of something has come to its end
        strikes.run.kill_all()
    control.set(crash_after=0, dead=0)
    if not died:
        return None
    for entry in strikes.run.tmp.iterdir():  # not on the disk that counts
        power.shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return "power lost: " + power.fail(strikes.run, strikes.rng)


# ---- Checkpoints -----------------------------------------------------------------------------------------------------

def intact(run):
    return [path for path in run.checkpoints() if run.lockstep("checkpoint", "verify", path).returncode == 0]


def damage(strikes, how):
    """To the newest intact checkpoint, while there is one to fall back to."""
    if kill_all(strikes) is None or strikes.job.code() == 0:
        return None  # or was done, and nothing will look at its checkpoints any more
    good = intact(strikes.run)
    if len(good) < 2:
        return "killed everything"
    path = good[-1] / strikes.rng.choice(("state.h5", "state.h5", "manifest.json"))
    data = bytearray(path.read_bytes())
    how(data, strikes.rng)
    path.write_bytes(data)
    strikes.damaged.add(good[-1])
    return f"damaged {good[-1].name}/{path.name}"


@fault("flip")
def flip(strikes):
    def change(data, rng):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return damage(strikes, change)


@fault("zero")
def zero(strikes):
    def change(data, rng):
        while True:
            start = rng.randrange(0, len(data), 512)
            if any(data[start:start + 512]):
                data[start:start + 512] = bytes(len(data[start:start + 512]))
                return
    return damage(strikes, change)


@fault("truncate")
def truncate(strikes):
    def change(data, rng):
        del data[rng.randrange(len(data)):]
    return damage(strikes, change)


# ---- Two at once -----------------------------------------------------------------------------------------------------

@fault("second")
def second(strikes):
    """The run is started again while it runs: the second start is refused and does no harm."""
    run, first = strikes.run, strikes.job
    # Before its first step it may be the other one that gets the run.
    if first.code() is not None or not run.watcher.seen or run.watcher.seen[-1][0] < first.started:
        return None
    if run.how == "launch" and strikes.rng.random() < 0.5:
        strikes.sleepers.append(run.start(strikes.rng.randint(1, 3)))
        return "a second supervisor waits for the run"
    job = run.start(strikes.rng.randint(1, 3), "mpirun")
    end = time.monotonic() + harness.DEADLINE
    while job.code() is None and time.monotonic() < end:
        # Both may run on when the first ends before the second has been refused.
        if first.code() is not None:
            strikes.job = job
            return "started again at its end"
        time.sleep(0.005)
    assert job.code() is not None, "a second start of a run that lives hung"
    # Between two attempts of a supervisor nobody holds the run.
    if first.code() is None and run.how == "mpirun":
        assert job.code() != 0, "a second start of a run that lives said that all is done"
    return f"started again: exit code {job.code()}"


@fault("zombie")
def zombie(strikes):
    """The job is frozen, another takes over since locks do not hold, and then the old one wakes up."""
    run, old = strikes.run, strikes.job
    pids = sorted(run.processes(old.number), reverse=True)
    if old.code() is not None or not pids:
        return None
    run.control.set(lock_lies=1)
    run.send(pids, signal.SIGSTOP)
    strikes.sleepers.append(old)
    reached = run.watcher.newest()
    strikes.job = run.start(strikes.ranks)
    end = time.monotonic() + 20
    while run.watcher.newest()[0] <= reached[0] and strikes.job.code() is None and time.monotonic() < end:
        time.sleep(0.005)
    time.sleep(strikes.rng.uniform(0, 0.3))
    run.send(pids, signal.SIGCONT)
    return "frozen, superseded and woken up"


# ---- The clock -------------------------------------------------------------------------------------------------------

@fault("clock", mended=True)
def clock(strikes):
    seconds = strikes.rng.choice((-1, 1)) * 10 ** strikes.rng.uniform(0, 8)
    strikes.run.control.set(clock_offset=int(seconds * 1e9))
    return f"the clock jumped by {seconds:.0f} s"


def left_behind(run):
    """What a run that is over must not have left: processes, unfinished files, files of mpirun, shared memory."""
    left = [f"process {pid}" for pid in run.processes()]
    for path in run.run.rglob("*"):
        if ".tmp-" in path.name or (path.parent.name == "checkpoints" and path.name.startswith(".")):
            left.append(str(path))
    run.sweep()
    left += [str(path) for folder in (run.tmp, run.shm) for path in folder.iterdir()]
    left += [os.readlink(link) for link in run.journal.glob("*.scratch") if link.exists()]
    jobs = set()
    for file in run.journal.glob("*.rows"):
        name = file.read_bytes()[24:88].rstrip(b"\0").decode().partition(" ")[2].partition("@")[0]
        jobs |= {name, f"{int(name):x}"} if name.isdigit() else set()
    for path in pathlib.Path("/dev/shm").iterdir():
        # Numbers of jobs come again; what another job of that number left is older.
        if jobs & set(path.name.replace("-", ".").split(".")) and path.stat().st_mtime > run.started:
            left.append(str(path))
    return left
