"""The manifests of launch/kubernetes: fields and types, what refers to what, kubectl's opinion where there is one."""

import copy
import os
import pathlib
import shutil
import subprocess
import sys
import unittest

try:
    import yaml
except ImportError:
    print("skipped: needs python3-yaml")
    sys.exit(77)

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "end_to_end")]

import client_models  # noqa: E402
import harness  # noqa: E402
import manifests  # noqa: E402
import schema  # noqa: E402

CLOUDS = ["eks", "gke", "aks"]
OVERLAYS = [f"overlays/{cloud}{kind}" for cloud in CLOUDS for kind in ["", "-gpu"]]


def pods_of(objects):
    """(what it is, pod specification) for all pods."""
    for item in objects:
        if item["kind"] == "MPIJob":
            for role, replica in item["spec"]["mpiReplicaSpecs"].items():
                yield role, replica["template"]["spec"]
        elif item["kind"] == "CronJob":
            yield "CronJob", item["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        elif item["kind"] == "Deployment":
            yield item["metadata"]["name"], item["spec"]["template"]["spec"]


class Sweep(harness.Case):
    """benchmarks/scaling.yaml: the MPIJob that measures how training scales."""

    def setUp(self):
        super().setUp()
        self.objects = manifests.render(harness.ROOT / "benchmarks")
        self.job = next(item for item in self.objects if item["kind"] == "MPIJob")

    def test_schema(self):
        for item in self.objects:
            self.assertEqual(schema.errors(item), [])

    def test_references(self):
        """It uses what launch/kubernetes makes, and brings the script itself."""
        there = manifests.render("overlays/eks") + self.objects
        named = {(item["kind"], item["metadata"]["name"], item["metadata"].get("namespace")) for item in there}
        for what, spec in pods_of(self.objects):
            self.assertTrue(spec["securityContext"]["runAsNonRoot"], what)
            for volume in spec["volumes"]:
                if "configMap" in volume:
                    self.assertIn(("ConfigMap", volume["configMap"]["name"], "lockstep"), named)
                if "persistentVolumeClaim" in volume:
                    self.assertIn(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"], "lockstep"), named)

    def test_numbers_agree(self):
        """The script is told as many nodes and ranks as the operator starts."""
        roles = self.job["spec"]["mpiReplicaSpecs"]
        launcher, workers, each, _, _ = roles["Launcher"]["template"]["spec"]["containers"][0]["args"]
        self.assertEqual(launcher, "mpirun")
        self.assertEqual(int(workers), roles["Worker"]["replicas"])
        self.assertEqual(int(each), self.job["spec"]["slotsPerWorker"])


class Manifests(harness.Case):
    """What is submitted, for every overlay."""

    def each(self):
        """Every overlay, with and without GPUs."""
        for folder in OVERLAYS:
            with self.subTest(folder):
                yield manifests.render(folder)

    def test_schema(self):
        for objects in self.each():
            for item in objects:
                self.assertEqual(schema.errors(item), [])

    def test_schema_finds_mistakes(self):
        job = manifests.render("overlays/eks", "MPIJob")

        def errors(change):
            changed = copy.deepcopy(job)
            change(changed["spec"], changed["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"])
            return schema.errors(changed)

        self.assertIn("no such field", errors(lambda spec, pod: pod.update(terminationGracePeriod=5))[0])
        self.assertIn("is no integer", errors(lambda spec, pod: pod.update(terminationGracePeriodSeconds="5"))[0])
        self.assertIn("is missing", errors(lambda spec, pod: pod["containers"][0].pop("image"))[0])
        self.assertIn("a list is needed", errors(lambda spec, pod: pod.update(tolerations={"key": "spot"}))[0])
        self.assertIn("is none of", errors(lambda spec, pod: spec["runPolicy"].update(cleanPodPolicy="Runing"))[0])
        self.assertIn("is no quantity",
                      errors(lambda spec, pod: pod["volumes"][2]["emptyDir"].update(sizeLimit="1GB"))[0])
        self.assertEqual(schema.errors({"apiVersion": "v1", "kind": "MPIJob"}), ["v1/MPIJob: no such kind"])

    def test_client_library_agrees(self):
        if not client_models.available():
            self.skipTest("no python3-kubernetes here")
        for objects in self.each():
            checked = {item["kind"]: client_models.errors(item) for item in objects}
            self.assertEqual([error for found in checked.values() for error in found or []], [])
            self.assertTrue({"MPIJob", "Deployment", "Role"} <= {kind for kind, found in checked.items() if found == []})
        job = manifests.render("overlays/eks", "MPIJob")
        job["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]["lifecycle"]["prestop"] = {}
        self.assertIn("prestop: no such field", client_models.errors(job)[0])

    def test_references(self):
        for objects in self.each():
            named = {(item["kind"], item["metadata"]["name"]) for item in objects}
            for what, spec in pods_of(objects):
                volumes = {volume["name"]: volume for volume in spec["volumes"]}
                for volume in volumes.values():
                    if "configMap" in volume:
                        self.assertIn(("ConfigMap", volume["configMap"]["name"]), named)
                    if "persistentVolumeClaim" in volume:
                        self.assertIn(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]), named)
                for mount in spec["containers"][0]["volumeMounts"]:
                    self.assertIn(mount["name"], volumes, what)
                if "serviceAccountName" in spec:
                    self.assertIn(("ServiceAccount", spec["serviceAccountName"]), named)
            by_kind = {item["kind"]: item for item in objects}
            self.assertEqual(by_kind["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0][
                "command"][-1], by_kind["MPIJob"]["metadata"]["name"])
            self.assertIn(("Role", by_kind["RoleBinding"]["roleRef"]["name"]), named)
            self.assertEqual(by_kind["RoleBinding"]["subjects"][0]["namespace"],
                             by_kind["ServiceAccount"]["metadata"]["namespace"])

    def test_nobody_is_root(self):
        for objects in self.each():
            for what, spec in pods_of(objects):
                self.assertTrue(spec["securityContext"]["runAsNonRoot"], what)
                for container in spec["containers"]:
                    self.assertFalse(container["securityContext"]["allowPrivilegeEscalation"], what)
                    self.assertEqual(container["securityContext"]["capabilities"], {"drop": ["ALL"]}, what)

    def test_workers_are_asked_to_save(self):
        for objects in self.each():
            pods = dict(pods_of(objects))
            worker = pods["Worker"]["containers"][0]
            hook = worker["lifecycle"]["preStop"]["exec"]["command"]
            self.assertTrue((manifests.HERE / "image" / hook[0]).exists())
            launcher = pods["Launcher"]["containers"][0]
            options = dict(word[2:].split("=") for word in launcher["args"][:launcher["args"].index("--")])
            self.assertTrue((manifests.HERE / "image" / options["discover"]).exists())
            self.assertLess(float(options["grace"]), pods["Launcher"]["terminationGracePeriodSeconds"])
            self.assertNotIn("lifecycle", pods["Launcher"]["containers"][0], "its first process takes SIGTERM itself")
            shm = next(volume for volume in pods["Worker"]["volumes"] if volume["name"] == "shm")
            self.assertEqual(shm["emptyDir"]["medium"], "Memory")
            port = f"Port {worker['readinessProbe']['tcpSocket']['port']}"
            for file in ["sshd_config", "ssh_config"]:
                lines = (manifests.HERE / "image" / file).read_text(encoding="ascii").splitlines()
                self.assertIn(port, [line.strip() for line in lines])

    def test_spot(self):
        for objects in self.each():
            pods = dict(pods_of(objects))
            self.assertIn("spot", str(pods["Worker"]["nodeSelector"]).lower())
            self.assertIn("spot", str(pods["Worker"]["tolerations"]).lower())
            self.assertNotIn("tolerations", pods["Launcher"])
            where = pods["Launcher"].get("nodeSelector") or pods["Launcher"]["affinity"]
            self.assertRegex(str(where), "ON_DEMAND|DoesNotExist")

    def test_gpus(self):
        for cloud in CLOUDS:
            job = manifests.render(f"overlays/{cloud}-gpu", "MPIJob")
            worker = job["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"]
            self.assertEqual(worker["containers"][0]["resources"]["limits"]["nvidia.com/gpu"],
                             job["spec"]["slotsPerWorker"])
            self.assertIn("nvidia.com/gpu", str(worker["tolerations"]))

    def test_configuration(self):
        job = manifests.render("overlays/eks", "MPIJob")
        config = manifests.HERE / "base" / "train.yaml"
        self.run_lockstep("config", "validate", "-c", config)
        workers = job["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"]
        lanes = yaml.safe_load(config.read_text(encoding="utf-8"))["train"]["lanes"]
        self.assertLessEqual(workers * job["spec"]["slotsPerWorker"], lanes)

    def test_grace(self):
        notice = {"overlays/eks": 120, "overlays/gke": 15, "overlays/aks": 30} # what a spot node leaves to pods
        for folder, seconds in notice.items():
            for role, replica in manifests.render(folder, "MPIJob")["spec"]["mpiReplicaSpecs"].items():
                grace = replica["template"]["spec"]["terminationGracePeriodSeconds"]
                self.assertTrue(role == "Launcher" or 10 < grace <= seconds, f"{folder}: {grace} s")

    def test_kubectl_agrees(self):
        if not shutil.which("kubectl"):
            self.skipTest("no kubectl here")
        for folder in ["base", *OVERLAYS]:
            with self.subTest(folder):
                done = subprocess.run(["kubectl", "kustomize", str(manifests.HERE / folder)], check=False,
                                      capture_output=True, text=True)
                self.assertEqual(done.returncode, 0, done.stderr)
                theirs = {(item["kind"], item["metadata"]["name"]): item for item in yaml.safe_load_all(done.stdout)}
                ours = {(item["kind"], item["metadata"]["name"]): item for item in manifests.render(folder)}
                self.assertEqual(ours, theirs)


KUBECTL = """\
#!/bin/sh
# Stands in for kubectl: says what the job's conditions are, and notes what it is told to do.
case $* in
get*Succeeded*) printf '%s' "$SUCCEEDED" ;;
get*Failed*) printf '%s' "$FAILED" ;;
get*configmap*) printf '%s' "$KEPT" ;;
get*last-applied*) printf '%s' "$APPLIED" ;;
create*) printf '%s %s %s\\n' "$1" "$2" "$(cat "${4#*job.json=}")" >>"$LOG" ;;
apply*) printf 'apply %s\\n' "$(cat "$3")" >>"$LOG" ;;
*) printf '%s\\n' "$*" >>"$LOG" ;;
esac
"""


class Resubmit(harness.Case):
    """What resubmit.sh tells kubectl, for each state of a job."""

    def resubmit(self, code=0, **state):
        """Runs the script and returns what was done, and what was said."""
        tool = self.write("bin/kubectl", KUBECTL)
        tool.chmod(0o755)
        log = self.dir / "log"
        log.write_text("", encoding="ascii")
        done = subprocess.run(
            ["sh", str(manifests.HERE / "base" / "resubmit.sh"), "train"], check=False, capture_output=True, text=True,
            env={"PATH": f"{tool.parent}:{os.environ['PATH']}", "LOG": str(log), "SUCCEEDED": "", "FAILED": "",
                 "APPLIED": "", "KEPT": "", "TMPDIR": str(self.dir), **state})
        self.assertEqual(done.returncode, code, done.stderr)
        return log.read_text(encoding="ascii").splitlines(), done.stdout + done.stderr

    @staticmethod
    def anew(job):
        """What is done to replace the job."""
        return ["delete mpijob train --ignore-not-found --cascade=foreground --wait --timeout=10m", f"apply {job}",
                "delete configmap train-resubmitted"]

    def test_running(self):
        done, _ = self.resubmit(FAILED="False Whatever")
        self.assertEqual(len(done), 1)
        self.assertIn("delete pods --field-selector=status.phase=Failed", done[0])
        self.assertIn("training.kubeflow.org/job-name=train", done[0])

    def test_evicted(self):
        done, _ = self.resubmit(FAILED="True MPIJobEvicted", APPLIED='{"kind":"MPIJob"}')
        self.assertEqual(done, ['create configmap {"kind":"MPIJob"}', *self.anew('{"kind":"MPIJob"}')])

    def test_interrupted(self):
        """The job has been deleted, and whoever did it was gone before it was created again."""
        done, _ = self.resubmit(KEPT='{"kept":1}', APPLIED='{"not":1}')
        self.assertEqual(done, self.anew('{"kept":1}'))

    def test_evicted_but_created_otherwise(self):
        done, said = self.resubmit(FAILED="True MPIJobEvicted", code=1)
        self.assertEqual(done, [])
        self.assertIn("not created by kubectl apply", said)

    def test_failed_for_good(self):
        done, said = self.resubmit(FAILED="True BackoffLimitExceeded")
        self.assertEqual(done, [])
        self.assertIn("failed for good", said)

    def test_succeeded(self):
        self.assertEqual(self.resubmit(SUCCEEDED="True MPIJobSucceeded", FAILED="True MPIJobEvicted")[0], [])


class GracePeriod(harness.Case):
    """What image/grace-period makes of a run's events."""

    def grace(self, code, *events):
        """Runs the script on a run with these lines."""
        self.write("run/events.jsonl", "".join(f"{event}\n" for event in events))
        done = subprocess.run(["sh", str(manifests.HERE / "image" / "grace-period"), str(self.dir / "run")], check=False,
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stdout + done.stderr

    def test_longest_counts(self):
        said = self.grace(0, '{"event":"preempt","message":"\\"seconds\\": 9","seconds":1.5}',
                          '{"event": "checkpoint", "seconds": 50}', '{"event": "preempt", "seconds": 2.25e1, "rank": 0}')
        self.assertIn("stops: 2; from being asked to a durable checkpoint at most 22.5 s", said)
        self.assertIn("terminationGracePeriodSeconds: 50 or more", said)

    def test_never_stopped(self):
        self.assertIn("delete a worker", self.grace(66, '{"event": "checkpoint", "seconds": 50}'))


if __name__ == "__main__":
    unittest.main()
