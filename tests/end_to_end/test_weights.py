"""Weights out and in: safetensors read and written by hand here, fine-tuning from them, frozen parameters."""

import array
import json
import pathlib
import struct
import unittest

import harness
import test_language
from harness import Case, import_images, import_table
from test_language import text

# Runs here are shorter than the warm-up.
CONFIG, IMAGES = (module.CONFIG.replace("warmup_steps: 5", "warmup_steps: 0") for module in (test_language, harness))

LAYERS, HEADS, WIDTH, CONTEXT, VOCABULARY = 2, 2, 32, 24, 257

# Linear layers of a block: ours, Hugging Face's, which are [in][out].
LINEAR = {"attention.qkv": "attn.c_attn", "attention.projection": "attn.c_proj", "mlp.up": "mlp.c_fc",
          "mlp.down": "mlp.c_proj"}


def read_safetensors(path):
    """(metadata, {name: (dtype, shape, bytes)}) of a file, and a check of all that the format asks for."""
    content = pathlib.Path(path).read_bytes()
    length = struct.unpack_from("<Q", content)[0]
    header, data = json.loads(content[8:8 + length]), content[8 + length:]
    assert length % 8 == 0 and content[8:9] == b"{", "not in the usual form"
    metadata, tensors, end = header.pop("__metadata__", {}), {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = entry["data_offsets"]
        assert begin == end, f"{name} is not behind the tensor before it"
        tensors[name], end = (entry["dtype"], entry["shape"], data[begin:stop]), stop
    assert end == len(data), "bytes behind the last tensor"
    return metadata, tensors


def write_safetensors(path, tensors, metadata=None):
    """Writes {name: (dtype, shape, bytes)} in the order of the dictionary."""
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    if metadata:
        header["__metadata__"] = metadata
    head = json.dumps(header).encode()
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(head)) + head + data)


def transposed(shape, content):
    """A float32 matrix with rows and columns changed, as bytes."""
    rows, columns = shape
    values = array.array("f", content)
    return array.array("f", (values[r * columns + c] for c in range(columns) for r in range(rows))).tobytes()


def read_checkpoint(directory):
    """{path: (shape, bytes)} of a checkpoint's tensors, and its manifest."""
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    state = (directory / "state.h5").read_bytes()
    tensors = {}
    for tensor in manifest["tensors"]:
        count = 1
        for size in tensor["shape"]:
            count *= size
        tensors[f"{tensor['group']}/{tensor['name']}"] = (
            tensor["shape"], state[tensor["offset"]:tensor["offset"] + 4 * count])
    return tensors, manifest


def expected_layout(tensors):
    """What a checkpoint's parameters are in Hugging Face's layout."""
    expected = {}
    for path, (shape, content) in tensors.items():
        group, name = path.rsplit("/", 1)
        if group != "parameters":
            continue
        if name in ("wte", "wpe"):
            name += ".weight"
        name = name.replace("blocks.", "h.", 1).replace(".ln1.", ".ln_1.").replace(".ln2.", ".ln_2.")
        for ours, theirs in LINEAR.items():
            if f".{ours}." in name:
                name = name.replace(ours, theirs)
                if name.endswith(".weight"):
                    shape, content = shape[::-1], transposed(shape, content)
        expected[name] = ("F32", shape, content)
    return expected


class Weights(Case):
    def setUp(self):
        super().setUp()
        self.write("text.txt", text())
        self.write("config.yaml", CONFIG)

    def import_text(self, *arguments, name="text.h5"):
        self.run_lockstep("data", "import", "text", "text.txt", "-o", name, "--validation", "0.1", *arguments)

    def train(self, run, *settings, ranks=0, code=0, config="config.yaml"):
        options = [part for setting in settings for part in ("--set", setting)]
        return self.run_lockstep("train", "-c", config, "--run-dir", run, *options, ranks=ranks, code=code)

    def train_first(self):
        """A run of a few steps and its weights."""
        self.import_text()
        self.train("run", "train.max_steps=10", "eval.every=0")
        self.export("run", "weights.safetensors")
        return read_safetensors(self.dir / "weights.safetensors")

    def export(self, checkpoint, output, *arguments, code=0):
        return self.run_lockstep("export", "--checkpoint", checkpoint, "-o", output, *arguments, code=code)

    def import_weights(self, source, run, *arguments, code=0):
        return self.run_lockstep("import", source, "-o", run, *arguments, code=code)

    def generate(self, run):
        return self.run_lockstep("generate", "--checkpoint", run, "--prompt", "The rank", "--max-tokens", "30",
                                 "--temperature", "0", "--set", "runtime.precision=fp32").stdout

    def assert_same_file(self, first, second):
        self.assertTrue((self.dir / first).read_bytes() == (self.dir / second).read_bytes(), f"{first}, {second}")

    def assert_same_tensor(self, found, expected, name):
        """Type and shape, then bytes, of which unittest would print the differences for minutes."""
        self.assertEqual(found[:-1], expected[:-1], name)
        self.assertTrue(found[-1] == expected[-1], f"the values of {name} differ")


class OutAndIn(Weights):
    def test_layout(self):
        """Names, transposed matrices and the true vocabulary, from the checkpoint's own bytes."""
        metadata, tensors = self.train_first()
        checkpoint, _ = read_checkpoint(self.dir / "run" / "checkpoints" / "step-00000010")
        expected = expected_layout(checkpoint)
        self.assertEqual(sorted(tensors), sorted(expected))
        for name, tensor in tensors.items():
            self.assert_same_tensor(tensor, expected[name], name)
        self.assertEqual(list(tensors), sorted(tensors))
        self.assertEqual(tensors["wte.weight"][1], [VOCABULARY, WIDTH])
        self.assertEqual(tensors["h.1.mlp.c_fc.weight"][1], [WIDTH, 4 * WIDTH])
        self.assertEqual(metadata["format"], "pt")
        self.export("run", "model")
        self.assertEqual(sorted(path.name for path in (self.dir / "model").iterdir()),
                         ["config.json", "model.safetensors"])
        self.assert_same_file("model/model.safetensors", "weights.safetensors")
        config = json.loads((self.dir / "model" / "config.json").read_text(encoding="utf-8"))
        for key, value in {"model_type": "gpt2", "n_layer": LAYERS, "n_head": HEADS, "n_embd": WIDTH,
                           "n_positions": CONTEXT, "vocab_size": VOCABULARY, "activation_function": "gelu_new",
                           "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True, "eos_token_id": 256}.items():
            self.assertEqual(config[key], value)
        self.assert_no_leftovers()

    def test_round_trip(self):
        """Out, in, out: the same file; and the imported run generates and evaluates alike."""
        self.train_first()
        for kind, arguments in (("f32", []), ("bf16", ["--type", "bf16"]), ("f16", ["--type", "f16"])):
            self.export("run", f"{kind}.safetensors", *arguments)
            self.import_weights(f"{kind}.safetensors", f"imported-{kind}")
            self.export(f"imported-{kind}", f"again-{kind}.safetensors", *arguments)
            self.assert_same_file(f"{kind}.safetensors", f"again-{kind}.safetensors")
        self.assertEqual(self.generate("run"), self.generate("imported-f32"))
        evaluation = ["--set", "data.path=text.h5", "--set", "runtime.precision=fp32"]
        ours = json.loads(self.run_lockstep("eval", "--checkpoint", "run", *evaluation).stdout)
        theirs = json.loads(self.run_lockstep("eval", "--checkpoint", "imported-f32", *evaluation).stdout)
        # Windows go through the products in other numbers, and sums in FP32 come out otherwise.
        self.assertAlmostEqual(ours["loss"], theirs["loss"], delta=1e-6)
        self.assertIn("step                 0",
                      self.run_lockstep("checkpoint", "info", "imported-f32").stdout)
        self.run_lockstep("checkpoint", "verify", "imported-f32")
        self.run_lockstep("eval", "--checkpoint", "imported-f32", code=78)
        self.import_text("--tokenizer", self.trained_tokenizer(), name="other.h5")
        result = self.run_lockstep("eval", "--checkpoint", "imported-f32", "--set", "data.path=other.h5", code=76)
        self.assert_refused(result, "other tokens")

    def trained_tokenizer(self):
        self.run_lockstep("tokenizer", "train", "text.txt", "-o", "tokenizer.json", "--vocab", "300")
        return "tokenizer.json"

    def test_rounding(self):
        """BF16 is the nearest number, ties to even."""
        _, exact = self.train_first()
        self.export("run", "rounded.safetensors", "--type", "bf16")
        _, rounded = read_safetensors(self.dir / "rounded.safetensors")
        for name, (_, shape, content) in exact.items():
            bits = [value + 0x7fff + (value >> 16 & 1) >> 16 for value in array.array("I", content)]
            self.assert_same_tensor(rounded[name], ("BF16", shape, array.array("H", bits).tobytes()), name)

    def test_tokenizer_travels(self):
        self.import_text("--tokenizer", self.trained_tokenizer())
        self.train("run", "train.max_steps=20", "eval.every=0")
        self.export("run", "model")
        self.assertEqual(sorted(path.name for path in (self.dir / "model").iterdir()),
                         ["config.json", "merges.txt", "model.safetensors", "vocab.json"])
        vocabulary = json.loads((self.dir / "model" / "vocab.json").read_text(encoding="utf-8"))
        self.assertEqual(sorted(vocabulary.values()), list(range(len(vocabulary))))
        self.import_weights("model", "imported")
        self.import_weights("model/model.safetensors", "of-file")
        self.assertEqual(self.hash("imported"), self.hash("of-file"))
        self.assertEqual(self.generate("run"), self.generate("imported"))
        self.export("imported", "model-2")
        for name in ("config.json", "merges.txt", "model.safetensors", "vocab.json"):
            self.assert_same_file(f"model/{name}", f"model-2/{name}")
        result = self.import_weights("model", "wrong", "--tokenizer", "bytes", code=76)
        self.assert_refused(result, "tokenizer", "257")

    def test_what_others_write(self):
        """A prefix, masks, and the tied head beside the table, as released files have them; heads from several places."""
        _, tensors = self.train_first()
        released = {"lm_head.weight": tensors["wte.weight"]}
        for name, tensor in tensors.items():
            released["transformer." + name] = tensor
        for layer in range(LAYERS):
            released[f"transformer.h.{layer}.attn.bias"] = ("BOOL", [1, 1, 2, 2], b"\1\0\1\1")
            released[f"transformer.h.{layer}.attn.masked_bias"] = ("F32", [], struct.pack("<f", -1e4))
        write_safetensors(self.dir / "released.safetensors", released)
        result = self.import_weights("released.safetensors", "imported", "--heads", "2", "--tokenizer", "bytes")
        self.assertEqual(result.stderr, "")
        self.export("imported", "again.safetensors")
        self.assert_same_file("weights.safetensors", "again.safetensors")
        result = self.import_weights("released.safetensors", "guessed")
        self.assertIn("how many attention heads", result.stderr)
        self.assertIn("without a tokenizer", result.stderr)
        self.assert_refused(self.run_lockstep("generate", "--checkpoint", "guessed", code=65), "tokenizer")
        self.assert_refused(self.import_weights("weights.safetensors", "x", "--heads", "4", code=76), "2 heads")
        self.assert_refused(self.import_weights("released.safetensors", "x", "--heads", "5", code=76), "--heads")
        # Padding of the vocabulary, which other programs write.
        dtype, shape, content = tensors["wte.weight"]
        padded = dict(tensors)
        padded["wte.weight"] = (dtype, [320, WIDTH], content + bytes(4 * WIDTH * (320 - VOCABULARY)))
        write_safetensors(self.dir / "padded.safetensors", padded)
        result = self.import_weights("padded.safetensors", "padded", "--heads", "2", "--tokenizer", "bytes")
        self.assertIn("first 257", result.stderr)
        self.assertEqual(self.hash("padded"), self.hash("imported"))

    def test_logits(self):
        """What a greedy continuation is chosen by: the likeliest token of each row is the one that follows."""
        self.train_first()
        self.run_lockstep("generate", "--checkpoint", "run", "--prompt", "The", "--max-tokens", "9", "--temperature", "0",
                          "--logits", "logits.f32")
        logits = array.array("f", (self.dir / "logits.f32").read_bytes())
        rows = [logits[start:start + VOCABULARY] for start in range(0, len(logits), VOCABULARY)]
        self.assertEqual(len(logits), 9 * VOCABULARY)
        chosen = bytes(max(range(VOCABULARY), key=row.__getitem__) for row in rows)
        again = self.run_lockstep("generate", "--checkpoint", "run", "--prompt", "The", "--max-tokens", "9",
                                  "--temperature", "0").stdout
        self.assertEqual(again, "The" + chosen.decode(errors="replace") + "\n")
        self.run_lockstep("generate", "--checkpoint", "run", "--logits", "missing/x", code=74)
        self.assert_no_leftovers()

    def test_refused_tensors(self):
        _, tensors = self.train_first()

        def refuse(changes, *words):
            changed = {**tensors, **changes}
            changed = {name: tensor for name, tensor in changed.items() if tensor}
            write_safetensors(self.dir / "bad.safetensors", changed, {"n_head": "2"})
            result = self.import_weights("bad.safetensors", "bad", code=76)
            self.assert_refused(result, "bad.safetensors", *words)
            self.assertFalse((self.dir / "bad").exists())

        one = ("F32", [1], bytes(4))
        head = tensors["wte.weight"]
        refuse({"h.1.mlp.c_proj.bias": None}, "h.1.mlp.c_proj.bias")
        refuse({"wpe.weight": None}, "wpe.weight")
        refuse({"h.2.mlp.c_proj.bias": one}, "h.2.mlp.c_proj.bias")
        refuse({"ln_f.bias": one}, "ln_f.bias", "is 1 and")
        refuse({"ln_f.bias": ("F32", [1, WIDTH], bytes(4 * WIDTH))}, "ln_f.bias", "is 1 x 32 and")
        refuse({"h.0.mlp.c_fc.weight": ("F32", [4 * WIDTH, WIDTH], bytes(16 * WIDTH * WIDTH))},
               "h.0.mlp.c_fc.weight", "128 x 32", "32 x 128")
        refuse({"ln_f.bias": ("I32", [WIDTH], bytes(4 * WIDTH))}, "ln_f.bias", "F32")
        refuse({"lm_head.weight": ("F32", head[1], head[2][:-4] + struct.pack("<f", 7))}, "lm_head.weight")
        refuse({"transformer.wpe.weight": tensors["wpe.weight"]}, "wpe.weight", "twice")
        refuse({"wte.weight": ("F32", [VOCABULARY * WIDTH], head[2])}, "wte.weight")
        refuse({"wte.weight": None}, "wte.weight")

    def test_refused_files(self):
        self.train_first()
        content = (self.dir / "weights.safetensors").read_bytes()
        self.write("cut.safetensors", content[:-1])
        self.assert_refused(self.import_weights("cut.safetensors", "x", code=76), "cut.safetensors", "cut off")
        self.write("long.safetensors", content + b"x")
        self.assert_refused(self.import_weights("long.safetensors", "x", code=76), "long.safetensors", "behind")
        self.write("lying.safetensors", b"\xff" * 8 + content[8:])
        self.assert_refused(self.import_weights("lying.safetensors", "x", code=76), "lying.safetensors", "header")
        self.write("empty.safetensors", b"")
        self.import_weights("empty.safetensors", "x", code=76)
        self.import_weights("text.txt", "x", code=76)
        self.import_weights("missing.safetensors", "x", code=66)
        self.write("several/model.safetensors.index.json", "{}")
        self.assert_refused(self.import_weights("several", "x", code=76), "several files")
        self.assert_refused(self.import_weights("weights.safetensors", "run", code=2), "run")
        self.import_weights("weights.safetensors", "x", "--heads", "0", code=2)
        self.run_lockstep("import", "weights.safetensors", code=2)
        self.run_lockstep("export", "--checkpoint", "run", code=2)
        self.export("nowhere", "x.safetensors", code=66)
        self.export("run", "missing/x.safetensors", code=74)
        self.export("run", "x.safetensors", "--type", "f8", code=2)
        self.assertFalse((self.dir / "x").exists())
        self.assert_no_leftovers()

    def test_refused_architectures(self):
        """config.json says what tensors cannot."""
        self.train_first()
        self.export("run", "model")
        path = self.dir / "model" / "config.json"
        good = json.loads(path.read_text(encoding="utf-8"))
        for key, value in {"model_type": "gpt_neo", "activation_function": "relu", "layer_norm_epsilon": 1e-6,
                           "n_layer": 3, "n_embd": 64, "n_positions": 25, "vocab_size": 256, "n_inner": 100,
                           "tie_word_embeddings": False, "scale_attn_by_inverse_layer_idx": True,
                           "n_head": "two"}.items():
            path.write_text(json.dumps({**good, key: value}), encoding="utf-8")
            self.assert_refused(self.import_weights("model", "x", code=76), "config.json", key)
        path.write_text("{", encoding="utf-8")
        self.assert_refused(self.import_weights("model", "x", code=76), "config.json")
        path.write_text(json.dumps({**good, "n_inner": 4 * WIDTH, "n_head": 4}), encoding="utf-8")
        self.import_weights("model", "x")
        _, manifest = read_checkpoint(self.dir / "x" / "checkpoints" / "step-00000000")
        self.assertEqual(manifest["config"]["model.heads"], "4")

    def test_other_models(self):
        """A model that is no GPT-2 keeps its names, and its file says what it is."""
        import_table(self)
        self.write("table.yaml", IMAGES.replace("images.h5", "table.h5"))
        self.train("run", "model.activation=gelu", "model.residual=true", config="table.yaml")
        self.export("run", "table.safetensors")
        metadata, tensors = read_safetensors(self.dir / "table.safetensors")
        checkpoint, _ = read_checkpoint(self.dir / "run" / "checkpoints" / "step-00000060")
        for name, (_, shape, content) in tensors.items():
            self.assert_same_tensor((shape, content), checkpoint[f"parameters/{name}"], name)
        self.import_weights("table.safetensors", "imported")
        self.export("imported", "again.safetensors")
        self.assert_same_file("table.safetensors", "again.safetensors")
        # Products of other shapes may have other bits: AVX2's do.
        new = ["binary.csv", "--set", "runtime.precision=fp32", "--set", "eval.batch=64"]
        self.assertEqual(self.run_lockstep("predict", "--checkpoint", "run", *new).stdout,
                         self.run_lockstep("predict", "--checkpoint", "imported", *new).stdout)
        self.assert_refused(self.import_weights("table.safetensors", "x", "--heads", "1", code=2), "heads")
        write_safetensors(self.dir / "bare.safetensors", tensors)
        self.assert_refused(self.import_weights("bare.safetensors", "x", code=76), "lockstep export")
        write_safetensors(self.dir / "lying.safetensors", tensors,
                          {"lockstep": json.dumps({"config": {"model.hidden": "[]"}, "data": {"format": 1}})})
        self.assert_refused(self.import_weights("lying.safetensors", "x", code=76), "lying.safetensors")
        described = json.loads(metadata["lockstep"])
        for option, value in {"data.path": "elsewhere.h5", "model.hiden": "[4]", "model.hidden": "[-4]"}.items():
            changed = {**described, "config": {**described["config"], option: value}}
            write_safetensors(self.dir / "lying.safetensors", tensors, {"lockstep": json.dumps(changed)})
            self.assert_refused(self.import_weights("lying.safetensors", "x", code=76), "lying.safetensors")


class FineTuning(Weights):
    def test_sources(self):
        """A file, a directory, a run and a checkpoint begin the same training, on any number of ranks."""
        self.train_first()
        self.export("run", "model")
        self.import_weights("model", "imported")
        sources = ["weights.safetensors", "model", "imported", "run/checkpoints/step-00000010"]
        hashes = set()
        for number, source in enumerate(sources):
            self.train(f"tuned-{number}", f"train.init_from={source}", "train.max_steps=5", "eval.every=0",
                       "collectives.bucket_mb=0.0625", ranks=number)
            hashes.add(self.hash(f"tuned-{number}"))
        self.assertEqual(len(hashes), 1)
        self.train("fresh", "train.max_steps=5", "eval.every=0")
        self.assertNotIn(self.hash("fresh"), hashes)

    def test_fewer_positions(self):
        _, tensors = self.train_first()
        result = self.train("short", "train.init_from=weights.safetensors", "model.context=20", "train.max_steps=1",
                            "optimizer.lr=0", "eval.every=0", ranks=2)
        self.assertIn("wpe.weight has 24 rows, of which the model takes the first 20", result.stderr)
        self.export("short", "short.safetensors")
        _, short = read_safetensors(self.dir / "short.safetensors")
        first = ("F32", [20, WIDTH], tensors["wpe.weight"][2][:4 * 20 * WIDTH])
        self.assert_same_tensor(short["wpe.weight"], first, "wpe.weight")
        self.assert_same_tensor(short["wte.weight"], tensors["wte.weight"], "wte.weight")

    def test_refused(self):
        self.train_first()

        def refuse(*settings, code=76, words=()):
            result = self.train("x", *settings, "train.max_steps=1", ranks=2, code=code)
            self.assert_refused(result, *words)

        weights = "train.init_from=weights.safetensors"
        self.import_weights("weights.safetensors", "imported")
        self.assert_refused(self.train("imported", ranks=2, code=76), "imported", "train.init_from")
        refuse(weights, "model.context=25", words=["wpe.weight", "24 x 32", "25 x 32"])
        refuse(weights, "model.heads=4", words=["2 heads", "model.heads is 4"])
        refuse("train.init_from=run", "model.heads=4", words=["model.heads 2", "has 4"])
        refuse(weights, "model.layers=3", words=["h.2.ln_1.weight"])
        refuse(weights, "model.layers=1", words=["h.1."])
        refuse("train.init_from=missing", code=66, words=["missing"])
        refuse("train.init_from=text.txt", words=["text.txt"])
        self.run_lockstep("tokenizer", "train", "text.txt", "-o", "tokenizer.json", "--vocab", "300")
        self.import_text("--tokenizer", "tokenizer.json", name="other.h5")
        refuse(weights, "data.path=other.h5", words=["wte.weight", "vocabulary"])
        # As many tokens, but others: pairs of another text.
        self.train("run-300", "data.path=other.h5", "train.max_steps=1", "eval.every=0")
        self.export("run-300", "model-300")
        self.train("tuned-300", "train.init_from=model-300", "data.path=other.h5", "train.max_steps=1", "eval.every=0")
        self.write("upper.txt", text().upper())
        self.run_lockstep("tokenizer", "train", "upper.txt", "-o", "upper.json", "--vocab", "300")
        self.import_text("--tokenizer", "upper.json", name="upper.h5")
        refuse("train.init_from=model-300", "data.path=upper.h5", words=["tokenizer", "model-300", "upper.h5"])


class Freezing(Weights):
    def moved(self, before, after):
        """Names of the parameters whose bits differ."""
        return {name for name, tensor in after.items()
                if name.startswith("parameters/") and tensor != before[name]}

    def check(self, patterns, frozen, config, *settings):
        """Only what matches keeps its bits; on any number of ranks, and resumed on another one, all have the same."""
        settings = (*settings, f"train.freeze={patterns}", "train.max_steps=12", "checkpoint.every=6", "eval.every=0",
                    "optimizer.weight_decay=0.1", "collectives.bucket_mb=0.0625")
        hashes, losses = set(), []
        for ranks in (0, 2, 3):
            run = f"frozen-{ranks}"
            self.train(run, *settings, ranks=ranks, config=config)
            hashes.add(self.hash(run))
            losses.append(self.losses(run))
        options = [part for setting in settings for part in ("--set", setting)]
        self.run_lockstep("train", "-c", config, "--run-dir", "frozen-3", *options, "--resume",
                          "frozen-3/checkpoints/step-00000006", ranks=2)
        hashes.add(self.hash("frozen-3"))
        losses.append(self.losses("frozen-3"))
        self.assertEqual(len(hashes), 1)
        self.assertEqual(losses, [losses[0]] * 4)
        checkpoint, _ = read_checkpoint(self.dir / "frozen-0" / "checkpoints" / "step-00000012")
        before, _ = read_checkpoint(self.dir / "begin" / "checkpoints" / "step-00000001")
        parameters = {name for name in before if name.startswith("parameters/")}
        self.assertEqual(parameters - self.moved(before, checkpoint), {f"parameters/{name}" for name in frozen})
        for name in frozen:
            for moment in ("moment1", "moment2"):
                self.assertEqual(set(checkpoint[f"optimizer/{moment}/{name}"][1]), {0})
        return checkpoint

    def begin(self, config):
        """The state before the first step: a step of no length."""
        self.train("begin", "train.max_steps=1", "optimizer.lr=0", "eval.every=0", config=config)

    def test_gpt(self):
        self.import_text()
        self.begin("config.yaml")
        names = [name for name in read_checkpoint(self.dir / "begin" / "checkpoints" / "step-00000001")[0]]
        first = [name.rsplit("/", 1)[1] for name in names if name.startswith("parameters/blocks.0.")]
        self.assertEqual(len(first), 12)
        # The token table is the output head too, and neither moves it.
        self.check("wte, blocks.0.*,ln_?.bias", ["wte", "ln_f.bias", *first], "config.yaml")

    def test_mlp(self):
        import_images(self, name="images.h5")
        self.write("images.yaml", IMAGES)
        self.begin("images.yaml")
        frozen = ["layers.0.weight", "layers.0.bias", "layers.2.bias"]
        self.check("layers.0.*,*.2.bias", frozen, "images.yaml")

    def test_norm_and_precision(self):
        """What is frozen counts in no norm; 16-bit working weights of it stay as they were too."""
        self.import_text()
        self.train("all", "train.max_steps=1", "eval.every=0")
        self.train("part", "train.max_steps=1", "eval.every=0", "train.freeze=wte")
        norms = [json.loads((self.dir / run / "metrics.jsonl").read_text(encoding="utf-8"))["grad_norm"]
                 for run in ("all", "part")]
        self.assertLess(norms[1], norms[0])
        self.assertEqual(self.losses("all"), self.losses("part"))
        for run, steps in (("begin", 1), ("later", 5)):
            rate = "0" if run == "begin" else "0.01"
            self.train(run, f"train.max_steps={steps}", "eval.every=0", "train.freeze=w?e", f"optimizer.lr={rate}",
                       "runtime.precision=bf16", "runtime.device=ref", "train.batch=8", ranks=2)
        before, _ = read_checkpoint(self.dir / "begin" / "checkpoints" / "step-00000001")
        after, _ = read_checkpoint(self.dir / "later" / "checkpoints" / "step-00000005")
        moved = self.moved(before, after)
        self.assertEqual(len(moved), 26)
        self.assertFalse(moved & {"parameters/wte", "parameters/wpe"})

    def test_change_on_resume(self):
        """Freezing may change on the way: moments that were there stay as they are, and serve when they are wanted again."""
        self.import_text()
        steps = ["eval.every=0", "checkpoint.every=5"]
        self.train("run", *steps, "train.max_steps=5")
        self.train("run", *steps, "train.max_steps=10", "train.freeze=wpe", ranks=2)
        self.assertIn("train.freeze", self.events("run", "resume")[0]["changes"])
        first, _ = read_checkpoint(self.dir / "run" / "checkpoints" / "step-00000005")
        second, _ = read_checkpoint(self.dir / "run" / "checkpoints" / "step-00000010")
        for group in ("parameters", "optimizer/moment1", "optimizer/moment2"):
            self.assert_same_tensor(first[f"{group}/wpe"], second[f"{group}/wpe"], f"{group}/wpe")
            self.assertTrue(first[f"{group}/wte"] != second[f"{group}/wte"])
        self.train("run", *steps, "train.max_steps=12", ranks=3)
        third, _ = read_checkpoint(self.dir / "run" / "checkpoints" / "step-00000012")
        self.assertTrue(third["parameters/wpe"] != second["parameters/wpe"])

    def test_refused(self):
        self.import_text()
        for patterns, words in {"wte,blocks.0": ["blocks.0.*"], "wtf": ["wte"], "*": ["all parameters"]}.items():
            result = self.train("x", f"train.freeze={patterns}", ranks=2, code=78)
            self.assert_refused(result, "train.freeze", *words)
        plan = self.run_lockstep("train", "-c", "config.yaml", "--set", "train.freeze=wte", "--dry-run").stdout
        self.assertIn(f"{VOCABULARY * WIDTH} parameters", plan)


if __name__ == "__main__":
    unittest.main()
