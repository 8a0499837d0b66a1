"""lockstep launch: whatever happens to ranks, launcher and supervisor, the run ends with the bits of the undisturbed one."""

import ctypes
import fcntl
import hashlib
import hmac
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import time
import unittest

import harness

ABORT = os.environ.get("ABORT_AT_STEP_LIBRARY", str(harness.ROOT / "build" / "tests" / "libabort_at_step.so"))

CONFIG = harness.CONFIG.replace("max_steps: 60", "max_steps: 90").replace("eval: {every: 20,", "eval: {every: 50,")
STEP = 500  # milliseconds of a step from where a run is disturbed on, until that has been done


def start(case, arguments, run, options=(), env=None):
    command = [harness.LOCKSTEP, "launch", *map(str, arguments), "--", "train", "-c", "run.yaml", "--run-dir", run, "-q",
               *options]
    return subprocess.Popen(command, cwd=case.dir, env=harness.environment({**case.slow(), **(env or {})}), stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
                            start_new_session=True)


def name(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def launcher_of(supervisor):
    found = [pid for pid in harness.children(supervisor.pid) if name(pid) in ("mpirun", "orterun")]
    return found[0] if found else 0


def rank_number(pid):
    try:
        variables = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return -1
    values = [v.split(b"=")[1] for v in variables if v.startswith(b"OMPI_COMM_WORLD_RANK=")]
    return int(values[0]) if values else -1


def ranks_of(supervisor):
    """Process ids by rank."""
    return {rank_number(pid): pid for pid in harness.children(launcher_of(supervisor)) if name(pid) == "lockstep"}


class Launch(harness.Case):
    """One undisturbed run for all tests."""

    reference = None

    def setUp(self):
        super().setUp()
        harness.import_images(self)
        self.write("run.yaml", CONFIG)
        if Launch.reference is None:
            self.run_lockstep("train", "-c", "run.yaml", "--run-dir", "undisturbed", "-q")
            Launch.reference = (self.hash("undisturbed"), self.losses("undisturbed"))

    def finish(self, process, code=0, deadline=harness.DEADLINE):
        result = harness.finish(process, deadline)
        self.assertEqual(result.code, code, str(result))
        return result

    def assert_same_bits(self, run):
        self.assertEqual((self.hash(run), self.losses(run)), Launch.reference)
        self.assert_no_leftovers()

    def assert_gone(self, pids, deadline=10):
        end = time.monotonic() + deadline
        while any(harness.alive(pid) for pid in pids):
            self.assertLess(time.monotonic(), end, "a process lives on")
            time.sleep(0.02)

    def begin(self, run, step, *arguments, ranks=2, env=None):
        """A launch that has come to a step, and takes its time from there on."""
        self.take_time(STEP, since=step)
        process = start(self, ["--ranks", ranks, *arguments], run, env=env)
        harness.wait_for_step(self, process, run, step)
        return process


class Ends(Launch):
    def test_undisturbed(self):
        result = self.finish(start(self, ["--ranks", 3], "run"))
        self.assertEqual(result.failures, [])
        self.assert_same_bits("run")
        self.assertEqual(self.events("run", "restart"), [])

    def test_usage(self):
        self.assert_refused(self.run_lockstep("launch", code=2), "what to launch is missing")
        self.assert_refused(self.run_lockstep("launch", "--ranks", "2", "--", "eval", code=2), "what to launch")
        self.assert_refused(self.run_lockstep("launch", "--", "train", code=2), "-c FILE is missing")
        self.assert_refused(self.run_lockstep("launch", "--", "train", "-c", "no.yaml", code=66), "no.yaml")
        self.assert_refused(self.run_lockstep("launch", "--min-ranks", "3", "--ranks", "2", "--", "train", code=2),
                            "--min-ranks")
        self.assert_refused(
            self.run_lockstep("launch", "--interface", "nowhere0", "--", "train", "-c", "run.yaml", code=2), "nowhere0")
        self.assertIn("--hostfile", self.run_lockstep("launch", "--help").stdout)

    def test_a_failure_that_no_restart_cures(self):
        self.write("run.yaml", CONFIG.replace("images.h5", "missing.h5"))
        result = self.finish(start(self, ["--ranks", 2], "run"), 66)
        self.assert_refused(result, "missing.h5")

    def test_too_many_ranks(self):
        result = self.finish(start(self, ["--ranks", 9], "run"), 78)
        self.assert_refused(result, "9 ranks", "train.lanes")
        self.assertEqual(result.stderr.count("\n"), 1, "refused before ranks are started")
        self.assert_refused(self.finish(start(self, ["--ranks", 10**11], "run"), 78), "train.lanes")
        self.assert_refused(self.finish(start(self, ["--min-ranks", 9, "--discover", "echo a"], "run"), 78), "9 ranks")

    def test_max_time_ends_the_launch(self):
        self.take_time(100)
        result = self.finish(start(self, ["--ranks", 2], "run", ["--set", "train.max_time=0.5"]), 75)
        self.assert_refused(result, "train.max_time")
        self.assertEqual(self.status("run")["state"], "preempted")
        self.take_time()
        self.finish(start(self, ["--ranks", 2], "run"))
        self.assert_same_bits("run")


class Disturbed(Launch):
    def restart(self, run, reason):
        """The one restart that there was."""
        events = self.events(run, "restart")
        self.assertEqual([event["reason"] for event in events], [reason], str(events))
        return events[0]

    def test_rank_is_killed(self):
        process = self.begin("run", 30, ranks=3)
        victim = ranks_of(process)[1]
        os.kill(victim, signal.SIGKILL)
        self.take_time()
        result = self.finish(process)
        self.assertIn(f"rank 1 on {socket.gethostname()} (process {victim}) died", result.stderr)
        self.assert_same_bits("run")
        event = self.restart("run", "a rank died")
        self.assertEqual((event["rank"], event["process"], event["attempt"]), (1, victim, 1))
        self.assertEqual(self.status("run")["attempt"], 2)

    def test_rank_is_stopped(self):
        process = self.begin("run", 30)
        victim = ranks_of(process)[0]
        os.kill(victim, signal.SIGSTOP)
        self.take_time()
        result = self.finish(process)
        self.assertIn(f"rank 0 on {socket.gethostname()} (process {victim}) gives no sign of life", result.stderr)
        self.assertEqual(self.restart("run", "a rank stopped")["rank"], 0)
        self.assertFalse(harness.alive(victim))
        self.assert_same_bits("run")

    def test_main_thread_hangs(self):
        """Only the main thread is stopped, by ptrace; the pulse goes on."""
        process = self.begin("run", 30)
        victim = ranks_of(process)[1]
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = [ctypes.c_long] * 4
        seize, interrupt = 0x4206, 0x4207
        if libc.ptrace(seize, victim, 0, 0) != 0 or libc.ptrace(interrupt, victim, 0, 0) != 0:
            harness.kill_family(process.pid)
            process.communicate()
            self.skipTest("no process may be traced here")
        self.take_time()
        result = self.finish(process)
        self.assertIn(f"rank 1 on {socket.gethostname()} (process {victim}) does not come on", result.stderr)
        self.assertEqual(self.restart("run", "a rank hung")["rank"], 1)
        self.assert_same_bits("run")

    def test_storage_stands_still(self):
        """For longer than a step may take: nobody hangs."""
        process = self.begin("run", 30)
        self.take_time(step=20000, since=30)
        time.sleep(7)
        self.take_time()
        self.finish(process)
        self.assertEqual(self.events("run", "restart"), [])
        self.assert_same_bits("run")

    def test_launcher_is_killed(self):
        process = self.begin("run", 30)
        victims = list(ranks_of(process).values())
        os.kill(launcher_of(process), signal.SIGKILL)
        self.assert_gone(victims)
        self.take_time()
        self.finish(process)
        self.assertEqual(len(self.events("run", "restart")), 1)
        self.assert_same_bits("run")

    def test_launcher_stands_still(self):
        """It is not needed any more when its ranks have ended."""
        process = self.begin("run", 30)
        launcher = launcher_of(process)
        os.kill(launcher, signal.SIGSTOP)
        self.take_time()
        self.finish(process)
        self.assert_gone([launcher])
        self.assert_same_bits("run")
        self.assertEqual(self.events("run", "restart"), [])

    def test_supervisor_is_killed(self):
        process = self.begin("run", 30)
        left = [launcher_of(process), *ranks_of(process).values()]
        process.kill()
        again = start(self, ["--ranks", 3], "run")
        process.communicate()
        self.assert_gone(left)
        self.take_time()
        self.finish(again)
        self.assert_same_bits("run")
        self.assertEqual(self.status("run")["attempt"], 2)

    def test_asked_to_stop(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            process = self.begin(f"run-{number}", 30)
            process.send_signal(number)
            self.assert_refused(self.finish(process, 75), "durable")
            self.assertEqual(self.status(f"run-{number}")["state"], "preempted")
        self.take_time()
        self.finish(start(self, ["--ranks", 1], f"run-{signal.SIGTERM}"))
        self.assert_same_bits(f"run-{signal.SIGTERM}")

    def test_ranks_are_asked_to_stop(self):
        """By somebody else, who wants their host: the run goes on."""
        process = self.begin("run", 30)
        os.kill(ranks_of(process)[1], signal.SIGUSR1)
        self.take_time()
        self.finish(process)
        self.restart("run", "ranks were asked to stop")
        self.assert_same_bits("run")

    def test_asked_to_stop_while_waiting(self):
        """For another launch of the run, which may last."""
        lock = self.write("run/launch.lock", "4711 elsewhere 0\n")
        with open(lock, encoding="utf-8") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            process = start(self, ["--ranks", 2], "run")
            end = time.monotonic() + harness.DEADLINE
            while not any(os.path.samefile(fd, lock) for fd in pathlib.Path(f"/proc/{process.pid}/fd").glob("*")
                          if fd.exists()):
                self.assertLess(time.monotonic(), end, "it does not look at the lock")
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            self.assert_refused(self.finish(process, 75), "run", "4711 elsewhere", "run again")

    def test_impatience(self):
        """Another Ctrl-C does not wait for a job that does not save, here because its launcher does not tell it to."""
        process = self.begin("run", 30)
        os.kill(launcher_of(process), signal.SIGSTOP)
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        self.assert_refused(self.finish(process, 124), "second SIGINT")
        self.take_time()
        self.finish(start(self, ["--ranks", 2], "run"))
        self.assert_same_bits("run")

    def test_no_time_to_save(self):
        process = self.begin("run", 30, "--grace", "0")
        os.kill(ranks_of(process)[1], signal.SIGSTOP)
        process.terminate()
        self.assert_refused(self.finish(process, 124), "--grace")
        self.assertEqual(self.status("run")["state"], "failed")
        self.take_time()
        self.finish(start(self, ["--ranks", 2], "run"))
        self.assert_same_bits("run")

    def test_hangs_when_asked_to_stop(self):
        """Not the time that it was given was too short."""
        process = self.begin("run", 30)
        os.kill(ranks_of(process)[1], signal.SIGSTOP)
        process.terminate()
        result = self.finish(process, 124)
        self.assert_refused(result, "a rank stopped: rank 1", "run again")
        self.assertNotIn("--grace", result.stderr)

    def test_fails_twice_at_one_step(self):
        self.write("run.yaml", CONFIG.replace("every: 20, keep_last", "every: 8, keep_last"))
        self.take_time(100, since=8)  # each step is known to the supervisor
        process = start(self, ["--ranks", 2], "run", env={"LD_PRELOAD": f"{harness.SLOW_STEPS}:{ABORT}", "ABORT_AT_STEP": "12"})
        result = self.finish(process, 1)
        self.take_time()
        self.assert_refused(result, "failed twice at one step", f"rank 0 on {socket.gethostname()}")
        # The last pulse may be some steps old.
        steps = re.search(r"in steps (\d+) to (\d+) \(positions (\d+) to (\d+) of the stream", result.failures[0])
        self.assertIsNotNone(steps, str(result))
        first, last, low, high = map(int, steps.groups())
        self.assertTrue(first <= 12 <= last, str(result))
        self.assertEqual((low, high), (64 * (first - 1), 64 * last - 1))
        self.assertEqual(self.restart("run", "a rank died")["rank"], 0)
        self.assertEqual(self.status("run")["state"], "failed")
        self.assertIn("failed twice", self.status("run")["message"])
        self.write("run.yaml", CONFIG)  # once what was wrong has been mended
        self.finish(start(self, ["--ranks", 2], "run"))
        self.assertEqual(self.hash("run"), Launch.reference[0])

    def test_max_restarts(self):
        self.write("run.yaml", CONFIG.replace("every: 20, keep_last", "every: 0, keep_last").replace(
            "max_steps: 90", "max_steps: 100000"))
        process = self.begin("run", 5, "--max-restarts", "1")
        os.kill(ranks_of(process)[1], signal.SIGKILL)
        self.take_time(100, since=5)
        harness.wait_for_step(self, process, "run", 15, attempt=2)  # the supervisor has heard of the fifth, or a later one
        os.kill(ranks_of(process)[0], signal.SIGKILL)
        result = self.finish(process, 1)
        self.assert_refused(result, "--max-restarts", "position")
        self.assertEqual(self.status("run")["state"], "failed")


class Hosts(Launch):
    def test_slots_come_and_go(self):
        """The discovery script says what a file says; all names are this host's."""
        self.write("hosts", "localhost:2\n")
        process = self.begin("run", 10, "--discover", "cat hosts", "--settle", "0.5", ranks=4)
        self.write("hosts.new", "localhost:4\n").rename(self.dir / "hosts")
        harness.wait_for_step(self, process, "run", 11, attempt=2)
        self.write("hosts.new", "localhost:1\n").rename(self.dir / "hosts")
        harness.wait_for_step(self, process, "run", 12, attempt=3)
        self.take_time()
        self.finish(process)
        self.assert_same_bits("run")
        sizes = [event["world_size"] for event in self.events("run", "start") + self.events("run", "resume")]
        self.assertEqual(sizes, [2, 4, 1])

    def test_more_slots_than_lanes(self):
        process = start(self, ["--discover", "echo localhost:100"], "run")
        self.finish(process)
        self.assertEqual(self.status("run")["world_size"], 8)
        self.assert_same_bits("run")

    def test_waits_for_enough(self):
        self.write("hosts", "localhost:1\n")
        process = start(self, ["--min-ranks", 2, "--hostfile", "file"], "run")
        result = self.finish(process, 66)
        self.assert_refused(result, "file")
        self.assertEqual(result.failures[0], result.failures[0].strip())
        self.write("file", "localhost slots=1\n")
        process = start(self, ["--min-ranks", 2, "--hostfile", "file"], "run")
        time.sleep(0.5)
        self.assertFalse((self.dir / "run" / "status.json").exists())
        self.write("file", "localhost slots=2 # two\n")
        result = self.finish(process)
        self.assertIn("waiting for hosts", result.stderr)
        self.assertEqual(self.status("run")["world_size"], 2)
        self.assert_same_bits("run")

    def test_bad_lists(self):
        self.write("file", "a b slots=x\n")
        self.assert_refused(self.finish(start(self, ["--hostfile", "file"], "run"), 2), "file:1")
        self.assert_refused(self.finish(start(self, ["--discover", "echo 'a:b'"], "run"), 2), "host:slots")
        self.assert_refused(self.finish(start(self, ["--discover", "exit 3"], "run"), 69), "code 3")


class Strangers(Launch):
    """Whoever connects to the supervisor without its secret, or lies with it, changes nothing."""

    def address(self, process):
        variables = pathlib.Path(f"/proc/{ranks_of(process)[0]}/environ").read_bytes().split(b"\0")
        found = dict(v.split(b"=", 1) for v in variables if b"=" in v)
        host, port = found[b"LOCKSTEP_SUPERVISOR"].decode().rsplit(":", 1)
        return (host, int(port)), bytes.fromhex(found[b"LOCKSTEP_SECRET"].decode()), int(found[b"LOCKSTEP_INCARNATION"])

    @staticmethod
    def record(key, incarnation, rank=1, sequence=10**6, phase=6):
        body = b"LSPULSE\1" + struct.pack(">8I7Q", incarnation, rank, 2, 1, 1, phase, 0, 0, sequence, 99, 0, 0, 0, 0, 0)
        body = (body + b"liar").ljust(192, b"\0")
        return body + hmac.new(key, body, hashlib.sha256).digest()

    def assert_dropped(self, address, data):
        with socket.create_connection(address, timeout=10) as connection:
            try:
                connection.sendall(data)
                self.assertEqual(connection.recv(1), b"")
            except ConnectionError:
                pass

    def test_strangers(self):
        process = self.begin("run", 5)
        command = pathlib.Path(f"/proc/{launcher_of(process)}/cmdline").read_bytes()
        address, key, incarnation = self.address(process)
        self.assertEqual(address[0], "127.0.0.1")
        self.assertNotIn(key.hex().encode(), command)
        wrong = bytes(32)
        silent = [socket.create_connection(address, timeout=10) for _ in range(100)]  # says nothing
        self.assert_dropped(address, b"GET / HTTP/1.1\r\n\r\n" * 100)
        self.assert_dropped(address, os.urandom(224))
        self.assert_dropped(address, self.record(wrong, incarnation))
        self.assert_dropped(address, self.record(key, incarnation - 1))
        self.assert_dropped(address, self.record(key, incarnation))  # a second connection for a rank
        self.assert_dropped(address, self.record(key, incarnation, rank=7))
        for _ in range(40):
            self.assert_dropped(address, self.record(wrong, incarnation) * 3)
        self.take_time()
        self.finish(process)
        for connection in silent:
            connection.close()
        self.assert_same_bits("run")
        self.assertEqual(self.events("run", "restart"), [])


class Srun(Launch):
    def test_command_line(self):
        """A stand-in for srun, which starts one task."""
        tools = self.dir / "tools"
        tools.mkdir()
        script = self.write("tools/srun", '#!/bin/sh\nprintf "%s " "$@" >srun.txt\nwhile [ "$1" != --kill-on-bad-exit=1 ]; do shift; done\n'
                            'shift\nexec "$@"\n')
        script.chmod(0o755)
        process = start(self, ["--launcher", "srun", "--ranks", 1], "run",
                        env={"PATH": f"{tools}:{os.environ['PATH']}"})
        self.finish(process)
        self.assertRegex((self.dir / "srun.txt").read_text(encoding="utf-8"),
                         re.compile(r"^-n 1 --mpi=pmix --kill-on-bad-exit=1 \S*lockstep train -c run.yaml"))
        self.assert_same_bits("run")



if __name__ == "__main__":
    harness.main()
