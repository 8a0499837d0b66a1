"""Being asked to stop: by clouds, files, time limits and signals. Exit code 75, a checkpoint, and an event that says why."""

import http.server
import json
import signal
import subprocess
import threading
import time
import unittest

import harness
from harness import CONFIG, Case, import_images


class Cloud:
    """A metadata service on the loopback interface: what it answers to each path, and what it was asked."""

    def __init__(self, case, answers):
        self.answers, self.asked = answers, []
        self.clients, self.spared = [], None  # ports of who is connected, oldest first; the one who is told of nothing
        cloud = self

        class Handler(http.server.BaseHTTPRequestHandler):
            """Answers as the cloud says, on connections that last."""

            protocol_version = "HTTP/1.1"

            def setup(self):
                """One that waited too long for an answer comes again, on another connection."""
                super().setup()
                cloud.clients.append(self.client_address[1])

            def finish(self):
                cloud.clients.remove(self.client_address[1])
                super().finish()

            def answer(self):
                """Any request."""
                path, client = self.path.split("?")[0], self.client_address[1]
                cloud.asked.append((self.command, path, dict(self.headers)))
                code, body = cloud.answers.get(path, (404, ""))
                if cloud.spared not in (None, client):
                    body = "TRUE"
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            do_GET = do_PUT = answer

            def log_message(self, *_):
                """Nothing on the test's output."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=self.server.serve_forever)
        thread.start()
        case.addCleanup(self.server.server_close)
        case.addCleanup(thread.join)
        case.addCleanup(self.server.shutdown)

    def settings(self, kind):
        """Options of a run that asks this cloud."""
        return [f"stop.notices={kind}", f"stop.notice_url=http://127.0.0.1:{self.server.server_port}"]


ACTION = "/latest/meta-data/spot/instance-action"
EVENTS = "/metadata/scheduledevents"


class Preempted(Case):
    def setUp(self):
        super().setUp()
        import_images(self)
        # Far more steps than a test waits for.
        self.write("config.yaml", CONFIG.replace("max_steps: 60", "max_steps: 100000000").replace(
            "eval: {every: 20", "eval: {every: 0").replace("checkpoint: {every: 20", "checkpoint: {every: 0").replace(
                "log: {every: 1}", "log: {every: 20}"))

    def start(self, run, *settings, ranks=2, env=None):
        options = [part for setting in settings for part in ("--set", setting)]
        process = harness.start(["train", "-c", "config.yaml", "--run-dir", run, *options], ranks, self.dir, env)
        self.addCleanup(harness.kill_family, process.pid)
        return process

    def assert_preempted(self, process, run, reason, *words):
        """The run has stopped as asked; returns its event."""
        result = harness.finish(process)
        self.assertEqual(result.code, 75, str(result))
        self.assert_refused(result, "run again", *words)
        status = self.status(run)
        self.assertEqual(status["state"], "preempted")
        self.assertEqual(self.run_lockstep("checkpoint", "list", run).stdout.splitlines()[-1].split()[0],
                         status["checkpoint"])
        self.run_lockstep("checkpoint", "verify", status["checkpoint"])
        event = self.events(run, "preempt")[-1]
        self.assertEqual(event["reason"], reason)
        self.assertEqual(event["step"], status["step"])
        for word in words:
            self.assertIn(word, event["message"])
        self.assertGreaterEqual(event["seconds"], 0)
        self.assertLess(event["seconds"], harness.DEADLINE)
        self.assertTrue(event["host"])
        return event

    def test_clouds(self):
        """A notice comes while the run is under way."""
        token, nothing = (200, "token"), json.dumps({"DocumentIncarnation": 1, "Events": []})
        event = json.dumps({"DocumentIncarnation": 2, "Events": [{
            "EventId": "1", "EventType": "Preempt", "ResourceType": "VirtualMachine", "Resources": ["worker_1"],
            "EventStatus": "Scheduled", "NotBefore": "Mon, 19 Sep 2016 18:29:47 GMT"}]})
        preempted = "/computeMetadata/v1/instance/preempted"
        for kind, before, notice, words in (
            ("ec2", {"/latest/api/token": token},
             {ACTION: (200, '{"action": "terminate", "time": "2017-09-18T08:22:00Z"}')}, ["EC2 will terminate"]),
            ("gcp", {preempted: (200, "FALSE")}, {preempted: (200, "TRUE")}, ["Google Cloud preempts"]),
            ("azure", {"/metadata/instance/compute/name": (200, "worker_1"), EVENTS: (200, nothing)},
             {EVENTS: (200, event)}, ["Preempt of machine worker_1"]),
        ):
            with self.subTest(kind=kind):
                cloud = Cloud(self, before)
                process = self.start(kind, *cloud.settings(kind), ranks=3)
                harness.wait_for_step(self, process, kind, 20)
                cloud.answers.update(notice)
                event_of_run = self.assert_preempted(process, kind, "notice", *words)
                self.assertEqual(event_of_run["rank"], 0)  # one rank of the host asks
                again = self.start(kind, *cloud.settings(kind), ranks=2)  # on the same machine, doomed as it is
                self.assert_preempted(again, kind, "notice", *words)

    def test_one_of_two_hosts_is_taken_away(self):
        """One rank of each host asks; what one host is told stops all ranks of both."""
        own = ["unshare", "--uts", "sh", "-c", 'hostname other-host && exec "$@"', "sh"]
        if subprocess.run([*own, "true"], check=False, stderr=subprocess.DEVNULL).returncode != 0:
            self.skipTest("a host name of its own needs the right to unshare")
        cloud = Cloud(self, {"/computeMetadata/v1/instance/preempted": (200, "FALSE")})
        train = [harness.LOCKSTEP, "train", "-c", "config.yaml", "--run-dir", "run"]
        for setting in cloud.settings("gcp"):
            train += ["--set", setting]
        process = subprocess.Popen(
            [harness.MPIRUN, "--oversubscribe", "--bind-to", "none", "-np", "2", *train, ":", "-np", "2", *own, *train],
            cwd=self.dir, env=harness.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True)
        self.addCleanup(harness.kill_family, process.pid)
        harness.wait_for_step(self, process, "run", 100)
        self.wait_until("a rank of each host asks", lambda: len(cloud.clients) == 2, process)
        cloud.spared = cloud.clients[0]
        event = self.assert_preempted(process, "run", "notice", "Google Cloud preempts")
        self.assertEqual(event["host"] == "other-host", event["rank"] == 2)
        self.assertIn(event["rank"], (0, 2))

    def test_a_cloud_that_does_not_answer_changes_nothing(self):
        cloud = Cloud(self, {"/latest/api/token": (403, "")})
        process = self.start("run", *cloud.settings("ec2"), "train.max_time=3")
        result = harness.finish(process)
        self.assertEqual(result.code, 75, str(result))
        self.assertEqual(self.events("run", "preempt")[0]["reason"], "time")
        self.assertEqual(result.stderr.count("cannot ask for notices"), 1, str(result))
        self.assertGreater(len(cloud.asked), 1)
        self.assertEqual({command for command, _, _ in cloud.asked}, {"PUT"})

    def test_stop_file(self):
        process = self.start("run")
        harness.wait_for_step(self, process, "run", 20)
        stop = self.write("run/stop", "")
        event = self.assert_preempted(process, "run", "file", "file stop")
        self.assertEqual(event["rank"], 0)
        self.assertFalse(stop.exists())
        # One that is there from the beginning is obeyed too, and changes no bit.
        self.write("config.yaml", CONFIG)
        whole = finished = None
        for run in ("whole", "stopped"):
            if run == "stopped":
                self.write("stopped/stop", "")
                self.assert_preempted(self.start(run), run, "file")
            finished = harness.finish(self.start(run))
            self.assertEqual(finished.code, 0, str(finished))
            whole = whole or self.hash(run)
        self.assertEqual(self.hash("stopped"), whole)

    def test_time_limit_of_a_slurm_job(self):
        end = str(int(time.time()) + 63)
        process = self.start("run", env={"SLURM_JOB_END_TIME": end})
        self.assert_preempted(process, "run", "time", "Slurm")
        self.assertGreater(int(end), time.time())  # by stop.margin, 60 s, unless the machine is busy beyond reason
        # What is no time is a warning; without a margin nobody looks.
        for value, margin, warned in (("tomorrow", 60, 1), ("1", 0, 0)):
            process = self.start(f"run-{margin}", f"stop.margin={margin}", "train.max_steps=20",
                                 env={"SLURM_JOB_END_TIME": value})
            result = harness.finish(process)
            self.assertEqual(result.code, 0, str(result))
            self.assertEqual(result.stderr.count("SLURM_JOB_END_TIME"), warned, str(result))

    def test_time_limit_that_has_passed(self):
        """Also longer ago than this machine runs."""
        result = harness.finish(self.start("run", env={"SLURM_JOB_END_TIME": "1"}))
        self.assertEqual(result.code, 75, str(result))
        self.assertIn("this attempt makes one step", result.stderr)
        self.assertEqual(self.status("run")["step"], 1)

    def test_signal(self):
        """SIGCONT, which mpirun sends before SIGTERM and a shell on other occasions, is no reason to stop, but to save."""
        process = self.start("run", ranks=0)
        harness.wait_for_step(self, process, "run", 20)
        self.assertEqual(self.events("run", "checkpoint"), [])
        process.send_signal(signal.SIGCONT)
        self.wait_until("a checkpoint after SIGCONT", lambda: self.status("run")["checkpoint"], process)
        saved = self.events("run", "checkpoint")[0]["step"]
        harness.wait_for_step(self, process, "run", saved + 100)
        self.assertIsNone(process.poll())
        self.assertEqual(len(self.events("run", "checkpoint")), 1)
        process.send_signal(signal.SIGUSR2)
        self.assert_preempted(process, "run", "signal", "SIGUSR2")

    def test_in_evaluation(self):
        """Each evaluation is given up at once when the run is asked to stop in it, and made by a later attempt."""
        self.write("config.yaml", CONFIG.replace("max_steps: 60", "max_steps: 40, early_stopping: 9").replace(
            "checkpoint: {every: 20", "checkpoint: {every: 30").replace(
                "eval: {every: 20, quick_samples: 100, batch: 40}", "eval: {every: 20, quick_samples: 100, batch: 1}"))
        result = harness.finish(self.start("whole", ranks=3))
        self.assertEqual(result.code, 0, str(result))
        # Of three evaluations, of a part at step 20 and step 40 and of all at the end, the first is asked to stop twice.
        self.take_time(product=20, since=20)
        self.stop_in_evaluation(3, 20, [])
        self.take_time(product=20)
        self.stop_in_evaluation(1, 20, [])
        self.take_time(product=20, since=40)
        self.stop_in_evaluation(3, 40, [20])
        self.take_time(event=1000 * harness.DEADLINE)  # after the one at step 40
        self.stop_in_evaluation(1, 40, [20, 40])
        self.take_time()
        result = harness.finish(self.start("run"))
        self.assertEqual(result.code, 0, str(result))
        self.assertEqual(self.hash("run"), self.hash("whole"))
        self.assertEqual(self.losses("run"), self.losses("whole"))
        for kind in ("run", "whole"):
            evaluations = self.events(kind, "eval")
            self.assertEqual([event["step"] for event in evaluations], [20, 40, 40])
            self.assertEqual([event["loss"] for event in evaluations], [event["loss"] for event in self.events("run", "eval")])

    def stop_in_evaluation(self, ranks, step, evaluated):
        """One more attempt, which is asked to stop in its evaluation after a step, behind those of the steps `evaluated`."""
        attempt = harness.attempts(self, "run") + 1
        process = self.start("run", ranks=ranks, env=self.slow())
        self.wait_until("it has come so far", lambda: self.evaluations(attempt) == evaluated, process)
        if evaluated == [20, 40]:
            self.take_time(product=20)
        for _ in range(2):
            (self.dir / "pace.computing").unlink(missing_ok=True)
            self.wait_until("it evaluates", (self.dir / "pace.computing").exists, process)
        process.send_signal(signal.SIGUSR1)
        self.assertEqual(self.assert_preempted(process, "run", "signal", "SIGUSR1")["step"], step)
        self.assertEqual(self.evaluations(attempt), evaluated)

    def evaluations(self, attempt):
        """The steps at which the run has been evaluated, when this attempt of it has begun."""
        path = self.dir / "run/events.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        events = [json.loads(line) for line in lines if line.endswith("\n")]
        begun = any(event["attempt"] == attempt for event in events)
        return [event["step"] for event in events if event["event"] == "eval"] if begun else None

    def test_bad_options(self):
        for setting, words in (("stop.notices=aws", ["stop.notices", "ec2"]),
                               ("stop.notice_url=metadata.example", ["stop.notice_url", "http://"])):
            result = harness.finish(self.start("run", setting, ranks=0))
            self.assertEqual(result.code, 78, str(result))
            self.assert_refused(result, *words)


if __name__ == "__main__":
    unittest.main()
