"""optimizer.average: the moving average of the weights is what its definition says, has the same bits on any number of ranks and
across resumes, is what evaluations and other commands use, and no evaluation changes a bit of training."""

import json
import re
import struct
import unittest

import harness
from harness import CONFIG, Case, import_images

DECAY = 0.875
SETTINGS = [f"optimizer.average={DECAY}", "collectives.bucket_mb=0.0625", "model.hidden=[200,30]", "model.dropout=0.1",
            "optimizer.clip_norm=1", "checkpoint.every=10", "schedule.kind=constant", "schedule.warmup_steps=0",
            "train.max_steps=20", "eval.every=5"]


def tensors(directory):
    """{path: numbers} of a checkpoint."""
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    data = (directory / "state.h5").read_bytes()
    result = {}
    for tensor in manifest["tensors"]:
        count = 1
        for size in tensor["shape"]:
            count *= size
        result[f"{tensor['group']}/{tensor['name']}"] = struct.unpack_from(f"<{count}f", data, tensor["offset"])
    return result


class Average(Case):
    def setUp(self):
        super().setUp()
        import_images(self)
        self.write("config.yaml", CONFIG)

    def train(self, run, ranks, *options, **more):
        """Steps 1 to 20, or on from where the run is."""
        settings = (word for setting in [*SETTINGS, *options] for word in ("--set", setting))
        return self.run_lockstep("train", "-c", "config.yaml", "--run-dir", run, *settings, ranks=ranks, **more)

    def step(self, run, step):
        return self.dir / run / "checkpoints" / f"step-{step:08}"

    def assert_same(self, one, other):
        """The same tensors; of thousands of numbers that differ nobody reads a list."""
        self.assertEqual(set(one), set(other))
        self.assertEqual([path for path in one if one[path] != other[path]], [])

    def evaluations(self, run):
        """The numbers of all evaluations, in order."""
        return [{key: event[key] for key in ("step", "split", "loss", "accuracy")} for event in self.events(run, "eval")]

    def test_ranks_and_modes(self):
        """FP32, where weights are their own masters and wait for their return elsewhere, and FP16, where they are copies."""
        for precision in ("fp32", "fp16"):
            self.train(precision, 1, f"runtime.precision={precision}")
            expected = self.hash(precision), self.losses(precision), self.evaluations(precision)
            cases = [(2, "state"), (3, "state"), (5, "state")] if precision == "fp32" else [(3, "state")]
            for ranks, mode in cases + [(2, "none"), (3, "state+gradients")]:
                with self.subTest(precision=precision, mode=mode, ranks=ranks):
                    run = f"{precision}-{mode}-{ranks}"
                    self.train(run, ranks, f"runtime.precision={precision}", f"optimizer.shard={mode}")
                    self.assertEqual((self.hash(run), self.losses(run), self.evaluations(run)), expected)

    def test_resume(self):
        self.train("whole", 2)
        for steps, ranks in ((5, 3), (11, 1), (20, 5)):
            self.train("part", ranks, f"train.max_steps={steps}")
        self.assertEqual(self.hash("part"), self.hash("whole"))

    def test_evaluation_leaves_training_alone(self):
        """Whatever is evaluated, and with saves of the live state on their way."""
        for precision in ("fp32", "fp16"):
            options = [f"runtime.precision={precision}", "checkpoint.every=1"]
            self.train(f"{precision}-average", 3, *options, "eval.every=1")
            self.train(f"{precision}-newest", 3, *options, "eval.every=1", "eval.average=false")
            self.train(f"{precision}-seldom", 2, *options, "eval.every=0")
            last = [self.step(f"{precision}-{name}", 20) for name in ("average", "newest", "seldom")]
            self.assert_same(tensors(last[0]), tensors(last[1]))
            self.assert_same(tensors(last[0]), tensors(last[2]))
            for step in (1, 7):
                self.assert_same(*(tensors(self.step(f"{precision}-{name}", step)) for name in ("average", "seldom")))
            self.assertNotEqual(*(self.evaluations(f"{precision}-{name}") for name in ("average", "newest")))

    def test_follows_its_definition(self):
        self.train("run", 2, "checkpoint.every=1")
        first = tensors(self.step("run", 1))
        names = [path.split("/", 1)[1] for path in first if path.startswith("average/")]
        self.assertEqual(len(names), 6)
        expected = {name: first[f"average/{name}"] for name in names}
        for step in range(2, 21):
            now = tensors(self.step("run", step))
            for name in names:
                expected[name] = [DECAY * old + (1 - DECAY) * new for old, new in zip(expected[name], now[f"parameters/{name}"])]
                for ours, theirs in zip(now[f"average/{name}"], expected[name]):
                    # Of each step three roundings of numbers below 1; what came before is forgotten at 7/8 a step.
                    self.assertLessEqual(abs(ours - theirs), 8 * 3 * 2**-24)
        self.assertGreater(max(abs(a - b) for a, b in zip(now["average/layers.0.weight"], now["parameters/layers.0.weight"])), 1e-3)

    def test_what_uses_it(self):
        """The last evaluation again, from the checkpoint; and the same numbers from what was exported."""
        self.train("run", 2)
        last = self.evaluations("run")[-1]
        averaged = json.loads(self.run_lockstep("eval", "--checkpoint", "run", ranks=3).stdout)
        newest = json.loads(self.run_lockstep("eval", "--checkpoint", "run", "--set", "eval.average=false").stdout)
        self.assertEqual((averaged["loss"], averaged["accuracy"]), (last["loss"], last["accuracy"]))
        self.assertNotEqual(averaged["loss"], newest["loss"])
        for setting, group in (("true", "average"), ("false", "parameters")):
            name = f"{group}.safetensors"
            self.run_lockstep("export", "--checkpoint", "run", "-o", name, "--set", f"eval.average={setting}")
            data = (self.dir / name).read_bytes()
            size = struct.unpack_from("<Q", data)[0]
            header, state = json.loads(data[8:8 + size]), tensors(self.step("run", 20))
            for tensor, place in header.items():
                if tensor != "__metadata__":
                    begin, end = (8 + size + at for at in place["data_offsets"])
                    self.assertTrue(struct.unpack(f"<{(end - begin) // 4}f", data[begin:end]) == state[f"{group}/{tensor}"], tensor)
        self.run_lockstep("import", "average.safetensors", "-o", "imported")
        same = [word for setting in ("data.path=images.h5", "runtime.precision=fp32", "eval.batch=40")
                for word in ("--set", setting)]
        again = json.loads(self.run_lockstep("eval", "--checkpoint", "imported", *same).stdout)
        self.assertEqual(again, averaged)
        self.train("next", 1, "train.init_from=run", "optimizer.lr=0", "optimizer.weight_decay=0", "train.max_steps=1")
        self.assertTrue(tensors(self.step("next", 1))["parameters/layers.0.weight"] ==
                        tensors(self.step("run", 20))["average/layers.0.weight"])

    def test_begins_at_the_weights(self):
        """Of a run that had none, and of weights that are frozen, as soon as they are."""
        self.train("run", 2, "optimizer.average=0", "train.max_steps=10")
        self.assertFalse(any(path.startswith("average/") for path in tensors(self.step("run", 10))))
        before = tensors(self.step("run", 10))
        self.train("run", 3, "optimizer.lr=0", "optimizer.weight_decay=0", "train.max_steps=11")
        after = tensors(self.step("run", 11))
        self.assertTrue(after["average/layers.0.weight"] == before["parameters/layers.0.weight"])
        self.train("run", 2, "train.max_steps=15")
        self.train("run", 2, "train.max_steps=20", "train.freeze=layers.0.*")
        state = tensors(self.step("run", 20))
        self.assertTrue(state["average/layers.0.weight"] == state["parameters/layers.0.weight"])
        self.assertFalse(state["average/layers.1.weight"] == state["parameters/layers.1.weight"])
        self.train("run", 1, "optimizer.average=0", "train.max_steps=21")
        self.assertFalse(any(path.startswith("average/") for path in tensors(self.step("run", 21))))

    def test_memory_is_counted(self):
        """One more model in FP32, split over the ranks, and of the host one more array of each save."""
        def columns(average):
            arguments = ["--dry-run", "--ranks", "1", "-c", "config.yaml", "--set", "model.hidden=[2000,2000]", "--set",
                         f"optimizer.average={average}"]
            out = self.run_lockstep("train", *arguments).stdout
            head = re.search(r"^rank .*$", out, re.M).group().replace("(MiB)", "").split()[-9:]
            return dict(zip(head, map(float, re.search(r"^ +0 .*$", out, re.M).group().split()[-9:])))
        without, with_one = columns(0), columns(0.9)
        # MiB with one digit behind the point; of the weights there is one copy, and a page more of each array on the host.
        self.assertAlmostEqual(with_one["optimizer"] - without["optimizer"], without["weights"], delta=0.15)
        self.assertAlmostEqual(with_one["host"] - without["host"], 2 * without["weights"], delta=0.2)

    def test_bad_input(self):
        for value in ("1", "-0.1", "nan", "much"):
            result = self.train("run", 0, f"optimizer.average={value}", code=78)
            self.assert_refused(result, "optimizer.average")
        self.assertFalse((self.dir / "run").exists())


if __name__ == "__main__":
    harness.main()
