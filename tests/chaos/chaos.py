#!/usr/bin/python3
"""Chaos: a small run under a seeded schedule of faults, again and again.

A schedule starts the run, strikes it, and starts it again whenever it ended before its last step. When it is through,
the hash of its last checkpoint and the loss of every step must be those of a run that nothing happened to, each sample
must have been used once in each epoch, and nothing may be left behind: no process, no temporary file, no shared memory.

    chaos.py --schedules 20                 twenty schedules, from seed 1 on
    chaos.py --seed 17                      one schedule again; its directory is kept when it fails
    chaos.py --total 1000                   schedules until a thousand faults have struck, and the table of them
    chaos.py --kinds power-loss,flip ...    only these faults
    chaos.py --how mpirun|launch            who starts the ranks again: this program, or lockstep launch

The faults and when they come depend on the seed alone; on what they strike there depends on the machine too.
"""

import argparse
import collections
import concurrent.futures
import json
import math
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

import session as chaos
import harness
import faults
import ledger

DEADLINE = 300  # seconds of a schedule on a busy machine
REFUSED = (2, 65, 66, 70, 76, 78)  # exit codes that no fault excuses: there is always a checkpoint that is whole


def describe(pid):
    """What a process is and what it waits for, for messages."""
    folder = pathlib.Path(f"/proc/{pid}")
    try:
        words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        state = (folder / "stat").read_text(encoding="ascii", errors="replace").rsplit(")", 1)[1].split()[0]
        return f"{pid} {words[:80].strip()} (state {state}, in {(folder / 'wchan').read_text(encoding='ascii')})"
    except OSError:
        return f"{pid}, gone by now"


class Strikes:
    """The state of a schedule: what the faults get to see."""

    def __init__(self, run, rng):
        self.run, self.rng, self.ranks = run, rng, rng.randint(1, 4)
        self.job, self.sleepers, self.damaged = None, [], set()


class Struck:
    """A fault that has struck, and what became of it."""

    def __init__(self, kind, text, when, place):
        self.kind, self.text, self.when, self.place = kind, text, when, place
        self.ended = False  # the job did, before the next fault
        self.recovered = False

    def measure(self, seen, until):
        """Seconds to the next step, to where the run had been, and steps that had to be done again. `until`: when the
        next fault struck."""
        attempt, step = self.place
        ended = self.ended or any(self.when < when < until and number > attempt for when, number, _ in seen)
        later = [entry for entry in seen if entry[0] > self.when and (entry[1] > attempt or not ended)]
        self.next = later[0][0] - self.when if later else None
        again = [entry for entry in later if entry[2] > step]
        self.lost_time = again[0][0] - self.when if again else None
        self.lost_steps = max(0, step - later[0][2] + 1) if later and later[0][1] > attempt else 0


def has_launch():
    done = subprocess.run([harness.LOCKSTEP, "launch", "--help"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          env=harness.environment(), check=False)
    return done.returncode == 0


def draw_settings(seed):
    """How the run saves itself: the options, and the microseconds of each write."""
    rng = random.Random(f"settings of {seed}")
    policy = rng.choice(("steps", "steps", "time", "auto"))
    settings = [f"checkpoint.policy={policy}", f"checkpoint.in_flight={rng.randint(1, 2)}"]
    if policy == "time":
        settings.append(f"checkpoint.interval={rng.uniform(0.1, 0.3):.2f}")
    if policy == "auto":
        settings.append("checkpoint.mtbf=0.001")
    return settings, rng.choice((0, 0, 2000, 8000))


class Schedule:
    """One run, its faults and the checks behind them."""

    def __init__(self, campaign, seed, how):
        self.campaign, self.seed, self.how = campaign, seed, how
        self.rng = random.Random(seed)
        kinds = [kind for kind in campaign.kinds or sorted(faults.FAULTS)
                 if how == "launch" or kind not in faults.NEEDS_LAUNCH]
        self.settings, self.write_delay = draw_settings(seed)
        self.plan = [self.draw(kinds) for _ in range(campaign.faults if kinds else 0)]
        self.struck = []
        self.seconds = 0
        self.looked, self.alone = 0, None  # when mpirun's ranks were looked for, since when it has had none

    def draw(self, kinds):
        """A fault: which, after how many steps, or how long after the start of a job, or in the middle of a save."""
        rng = self.rng
        return (rng.choice(kinds), rng.randint(1, 16), rng.uniform(0, 0.8) if rng.random() < 0.15 else None,
                rng.uniform(0, 0.03) if rng.random() < 0.4 else None)

    def command(self):
        kinds = f" --kinds {','.join(self.campaign.kinds)}" if self.campaign.kinds else ""
        return f"{sys.argv[0]} --seed {self.seed} --faults {self.campaign.faults} --how {self.how}{kinds}"

    def run(self):
        """Returns None, or why it failed."""
        begin = time.monotonic()
        folder = pathlib.Path(tempfile.mkdtemp(prefix=f"lockstep-chaos-{self.seed}-"))
        run = chaos.Session(folder, self.campaign.data, self.how, str(self.seed), self.settings)
        run.control.set(write_delay=self.write_delay)
        run.note(f"{' '.join(self.settings)}, a write takes {self.write_delay} microseconds more")
        strikes = Strikes(run, self.rng)
        failure = None
        try:
            self.drive(strikes, begin + DEADLINE)
            self.check(run, strikes.damaged)
        except Exception as problem:  # whatever went wrong is this schedule's result
            failure = f"{problem}" if isinstance(problem, AssertionError) else traceback.format_exc()
            run.note(f"FAILED: {failure}")
        for struck, following in zip(self.struck, self.struck[1:] + [None]):
            struck.measure(run.watcher.seen, following.when if following else math.inf)
            struck.recovered = failure is None
        run.close()
        self.seconds = time.monotonic() - begin
        (folder / "notes.txt").write_text("\n".join(run.notes) + "\n", encoding="utf-8")
        if failure or self.campaign.keep:
            return failure and f"{failure}\n{indent(run.notes)}\n  kept in {folder}; once more: {self.command()}"
        shutil.rmtree(folder)
        return None

    # ---- Faults --------------------------------------------------------------------------------------------------

    def drive(self, strikes, deadline):
        """Until the run is done: starts it, strikes it, starts it again."""
        run, plan = strikes.run, list(self.plan)
        strikes.job, target, looked = run.start(strikes.ranks), None, time.monotonic()
        while True:
            # A machine that stood still has no part in it.
            deadline += max(0, time.monotonic() - looked - 60)
            looked = time.monotonic()
            assert time.monotonic() < deadline, f"not done after {DEADLINE} s"
            self.end_empty_mpirun(strikes)
            code = strikes.job.code()
            if code is not None:
                run.note(f"job {strikes.job.number} ended with {code}")
                if code == 0:
                    break
                self.judge_end(strikes)
                self.again(strikes)
                continue
            if plan:
                target = target or run.watcher.newest()[1] + plan[0][1]
                if self.is_due(strikes, target, *plan[0][2:]):
                    kind = plan.pop(0)[0]
                    target = None
                    self.strike(strikes, kind)
            time.sleep(0.004)
        self.await_sleepers(strikes)
        run.control.set(fault=0)

    def end_empty_mpirun(self, strikes):
        """When a rank is killed while the ranks connect, Open MPI 4.1's mpirun may never return, though none of them is
        left: PMIx_server_finalize waits for a lock. Whoever started it has to end it, as `lockstep launch` does."""
        job, now = strikes.job, time.monotonic()
        if self.how != "mpirun" or now - max(self.looked, job.started) < 5 or job.code() is not None:
            return
        self.looked = now
        empty = not strikes.run.ranks(job.number)
        self.alone = (self.alone or now) if empty else None
        if self.alone and now - max(self.alone, job.started) > 14:
            strikes.run.note("mpirun has had no ranks for 15 s: killed")
            strikes.run.send(strikes.run.launchers(faults.MPIRUN, job.number), signal.SIGKILL)
            self.alone = None

    def is_due(self, strikes, target, early, saving):
        age, step = time.monotonic() - strikes.job.started, strikes.run.watcher.newest()[1]
        if early is not None and early < age < 0.8:
            return True
        if step < target:
            return False
        if saving is None or step > target + 12:
            return True
        if not strikes.run.is_saving():
            return False
        time.sleep(saving)
        return True

    def judge_end(self, strikes):
        """A supervisor ends a run that is not done only for what it cannot mend."""
        code = strikes.job.code()
        assert code not in REFUSED, f"job {strikes.job.number} ended with {code}: {strikes.run.output(strikes.job)}"
        if self.struck:
            self.struck[-1].ended = True
        assert len(strikes.run.jobs) < 20 + 4 * len(self.plan), "it does not come to its end"
        kinds = [struck.kind for struck in self.struck if struck.when > strikes.job.started]
        hangs = sum(kind in ("stop-rank", "stop-mpirun") for kind in kinds)
        mended = kinds and all(kind in faults.MENDED for kind in kinds) and hangs < 2
        if self.how == "launch" and not strikes.sleepers:
            assert not mended, f"the supervisor did not come over {', '.join(kinds)}"

    def strike(self, strikes, kind):
        run = strikes.run
        when, place = time.monotonic(), run.watcher.newest()
        text = faults.FAULTS[kind](strikes)
        if text is None:
            run.note(f"{kind}: nothing to strike")
            return
        run.note(f"{kind} at step {place[1]} of attempt {place[0]}: {text}")
        self.struck.append(Struck(kind, text, when, place))

    def again(self, strikes):
        """Starts the run once more, now and then on another number of ranks."""
        run = strikes.run
        waiting = [job for job in strikes.sleepers if job.code() is None and job.number > strikes.job.number]
        if waiting:
            strikes.job = waiting[0]
            return
        if self.rng.random() < 0.3:
            strikes.ranks = self.rng.randint(1, chaos.LANES)
        if not strikes.sleepers:
            # Ranks of a killed mpirun hold the run until they notice.
            end = time.monotonic() + 0.2
            while run.processes() and time.monotonic() < end:
                time.sleep(0.02)
            run.sweep()
        strikes.job = run.start(strikes.ranks)

    def await_sleepers(self, strikes):
        """What woke up behind its time ends by itself."""
        end = time.monotonic() + 90  # tells a hang from a busy machine
        while strikes.run.processes() and time.monotonic() < end:
            time.sleep(0.01)
        left = [describe(pid) for pid in strikes.run.processes()]
        assert not left, f"still alive when all is done: {left}"
        for job in strikes.sleepers:
            strikes.run.note(f"job {job.number}, which had slept, ended with {job.process.wait()}")

    # ---- Checks --------------------------------------------------------------------------------------------------

    def check(self, run, damaged):
        done = run.lockstep("checkpoint", "hash", run.run)
        assert done.returncode == 0, f"checkpoint hash: {done.stdout}"
        expected = self.campaign.expected
        losses = read_losses(run)
        steps = [step for step, _ in losses]
        assert steps == list(range(1, chaos.STEPS + 1)), f"metrics.jsonl has the steps {steps}"
        wrong = [step for (step, loss), (_, right) in zip(losses, expected[1]) if loss != right]
        assert not wrong, f"the loss differs from step {wrong[0]} on" if wrong else ""
        assert done.stdout == expected[0], "the hash of the last checkpoint is another one"
        for path in run.checkpoints():
            whole = run.lockstep("checkpoint", "verify", path).returncode == 0
            assert whole or path in damaged, f"{path} is not intact"
        status = json.loads((run.run / "status.json").read_text(encoding="utf-8"))
        assert (status["state"], status["step"]) == ("completed", chaos.STEPS), f"status.json says {status}"
        self.campaign.ledger.check(run)
        # Somebody else's launch may be removing a directory of this one at the moment; then it goes by itself.
        end = time.monotonic() + 3
        while (left := faults.left_behind(run)) and time.monotonic() < end:
            time.sleep(0.1)
        assert not left, f"left behind: {', '.join(left)}"


def read_losses(run):
    return [(record["step"], record["loss"]) for record in ledger.lines(run.run / "metrics.jsonl")]


def indent(lines):
    return "\n".join("  " + line for line in lines)


# ---- Many schedules ----------------------------------------------------------------------------------------------------

class Campaign:
    """What schedules share: the data, the undisturbed run, options, and what came of all of them."""

    def __init__(self, options, folder):
        self.kinds, self.faults, self.keep = options.kinds, options.faults, options.keep
        self.folder = folder
        self.data = chaos.import_data(folder)
        self.ledger = ledger.Ledger()
        self.expected = self.undisturbed()
        self.struck, self.failures, self.schedules, self.said = [], [], 0, []

    def undisturbed(self):
        """Hash and losses of a run without faults on one rank, under the shim, whose ledger is checked, too."""
        run = chaos.Session(self.folder / "undisturbed", self.data, "mpirun", "undisturbed")
        run.control.set(step_delay=0, sync_delay=0)
        assert run.start(1).process.wait(timeout=DEADLINE) == 0, (run.folder / "job-000.txt").read_text()
        found = run.lockstep("checkpoint", "hash", run.run).stdout, read_losses(run)
        for ranks in range(1, chaos.LANES + 1):
            self.ledger.share(run, ranks)
        used = self.ledger.check(run)
        assert used == chaos.STEPS * chaos.BATCH, f"the ledger has {used} samples"
        run.close()
        return found

    def take(self, schedule, failure):
        self.schedules += 1
        self.struck += schedule.struck
        struck = ", ".join(struck.kind for struck in schedule.struck)
        print(f"seed {schedule.seed:5d}  {schedule.how:6s} {schedule.seconds:6.1f} s  "
              f"{'FAILED' if failure else 'ok    '}  {struck}", flush=True)
        if failure:
            self.failures.append(schedule.seed)
            print(failure, flush=True)

    def say(self, text):
        print(text)
        self.said.append(text)

    def table(self):
        """Faults by kind: how many, recovered, steps and time lost, time to the next step."""
        by_kind = collections.defaultdict(list)
        for struck in self.struck:
            by_kind[struck.kind].append(struck)
        self.say(f"{'fault':12s} {'struck':>6s} {'recovered':>9s} {'lost steps':>10s} {'lost time':>9s} "
                 f"{'next step p50':>13s} {'p99':>6s}   (steps and seconds; lost: mean)")
        for kind, list_ in sorted(by_kind.items()) + [("all", self.struck)]:
            self.row(kind, list_)

    def row(self, kind, list_):
        if not list_:
            return
        waits = sorted(struck.next for struck in list_ if struck.next is not None)
        lost = [struck.lost_time for struck in list_ if struck.lost_time is not None]
        recovered = sum(struck.recovered for struck in list_)
        mean = lambda values: sum(values) / len(values) if values else 0
        at = lambda share: waits[min(len(waits) - 1, int(share * len(waits)))] if waits else 0
        self.say(f"{kind:12s} {len(list_):6d} {recovered:9d} {mean([struck.lost_steps for struck in list_]):10.1f} "
                 f"{mean(lost):9.2f} {at(0.5):13.2f} {at(0.99):6.2f}")


def seeds(options):
    seed = options.seed
    while options.total or seed < options.seed + options.schedules:
        yield seed
        seed += 1


def work(campaign, options):
    hows = [options.how] if options.how else ["launch", "mpirun"] if has_launch() else ["mpirun"]
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        running = {}
        for seed in seeds(options):
            schedule = Schedule(campaign, seed, hows[seed % len(hows)])
            running[pool.submit(schedule.run)] = schedule
            while len(running) >= options.jobs:
                collect(campaign, running)
            if options.total and len(campaign.struck) >= options.total:
                break
        while running:
            collect(campaign, running)


def collect(campaign, running):
    done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
    for future in done:
        campaign.take(running.pop(future), future.result())


def read_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--schedules", type=int, default=1)
    parser.add_argument("--faults", type=int, default=4, help="of a schedule")
    parser.add_argument("--total", type=int, default=0, help="faults in all, instead of --schedules")
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=None)
    parser.add_argument("--how", choices=("mpirun", "launch"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--table", type=pathlib.Path, help="a file that the table is written to, too")
    parser.add_argument("--keep", action="store_true", help="keep directories of schedules that went well, too")
    options = parser.parse_args()
    unknown = set(options.kinds or ()) - set(faults.FAULTS)
    if unknown:
        parser.error(f"unknown faults {', '.join(unknown)}; there are {', '.join(sorted(faults.FAULTS))}")
    return options


def main():
    options = read_options()
    signal.signal(signal.SIGTERM, chaos.end)
    signal.signal(signal.SIGINT, chaos.end)
    if not os.path.exists(chaos.SHIM):
        print(f"skipped: {chaos.SHIM} is not built")
        return 77
    folder = pathlib.Path(tempfile.mkdtemp(prefix="lockstep-chaos-"))
    begin = time.monotonic()
    try:
        campaign = Campaign(options, folder)
        work(campaign, options)
        campaign.table()
        campaign.say(f"{campaign.schedules} schedules, {len(campaign.struck)} faults, {time.monotonic() - begin:.0f} s, "
                     f"{len(campaign.failures)} failed{': seeds ' if campaign.failures else ''}"
                     f"{' '.join(map(str, campaign.failures))}")
        if options.table:
            options.table.write_text("\n".join(campaign.said) + "\n", encoding="utf-8")
    finally:
        shutil.rmtree(folder)
    return 1 if campaign.failures else 0


if __name__ == "__main__":
    sys.exit(main())
