"""GPT-2 on one GPU, Lockstep against PyTorch and llm.c: the language-model part of benchmarks/gpu.py.

Every contender does the same optimizer steps (--batch windows of the context's length, AdamW, gradients clipped) and takes the microbatch
that a short search found fastest for it. PyTorch's contenders are processes that live through all rounds, so that what torch.compile does
is outside of every time; the others are started anew and leave out their first steps. Ratios are taken within a round.
"""
import json
import math
import os
import random
import re
import select
import statistics
import struct
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
# Layers, heads, width, context, vocabulary; windows of a microbatch that are tried, from many to few.
SIZES = {
    "124m": (12, 12, 768, 1024, 50257, (64, 32, 16, 8, 4)),
    "350m": (24, 16, 1024, 1024, 50257, (32, 16, 8, 4)),
    "774m": (36, 20, 1280, 1024, 50257, (16, 8, 4, 2)),
    "1558m": (48, 25, 1600, 1024, 50257, (16, 8, 4, 2)),
    "tiny": (2, 2, 32, 32, 300, (2, 1)),  # to try this program
}
MODES = ("none", "default", "reduce-overhead", "max-autotune")
GUESS = 2.5e14  # FLOP/s of training, before anything has been measured: how many steps fill a first turn
ENVIRONMENT = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMP_NUM_THREADS="1")


def say(text):
    print(text, file=sys.stderr, flush=True)


def write_tokens(folder, vocabulary):
    """A shard in llm.c's format; token v comes about as often as 1 / v, as words of a text do."""
    rng, distinct, repeats = random.Random(1), 1 << 18, 16
    logarithm = math.log(vocabulary)
    tokens = struct.pack(f"<{distinct}H", *(int(math.exp(rng.random() * logarithm)) - 1 for _ in range(distinct)))
    path = os.path.join(folder, f"tokens-{vocabulary}.bin")
    with open(path, "wb") as f:
        f.write(struct.pack("<256i", 20240520, 1, distinct * repeats, *[0] * 253) + tokens * repeats)
    return path


class MemoryWatch:
    """The GPU's memory that comes into use meanwhile, as nvidia-smi sees it; .bytes is None without one."""

    def __enter__(self):
        self.before, self.most, self.done = self.used(), 0, threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        if self.before is not None:
            self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.bytes = None
        if self.before is not None:
            self.thread.join()
            self.bytes = max(0, self.most - self.before)

    def watch(self):
        while not self.done.wait(0.5):
            self.most = max(self.most, self.used() or 0)

    @staticmethod
    def used():
        try:
            text = subprocess.run(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"],
                                  capture_output=True, text=True, check=True).stdout
            return int(text.strip()) << 20
        except (OSError, subprocess.CalledProcessError, ValueError):
            return None


class Job:
    """What one size is measured with."""

    def __init__(self, a, folder, name):
        self.a, self.folder, self.name = a, folder, name
        *shape, self.candidates = SIZES[name]
        self.layers, self.heads, self.width, self.context, self.vocabulary = shape
        self.candidates = [rows for rows in self.candidates if a.gpt_batch % rows == 0] or [a.gpt_batch]
        self.guess = GUESS / 6 / (self.width * (12 * self.layers * self.width + self.vocabulary))  # tokens/s
        self.deadline = time.monotonic() + a.budget
        self.shard = write_tokens(folder, self.vocabulary)
        self.data = os.path.join(folder, f"tokens-{self.vocabulary}.h5")
        subprocess.run([a.lockstep, "data", "import", "tokens", self.shard, "--vocab", str(self.vocabulary), "-o", self.data],
                       check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)

    def left(self):
        return self.deadline - time.monotonic()

    def steps(self, tokens_per_second):
        """Optimizer steps that fill a turn."""
        return max(2, round(self.a.turn * tokens_per_second / (self.a.gpt_batch * self.context)))

    def result(self, rows, seconds, **more):
        return dict(rows=rows, step_seconds=seconds, tokens_per_second=self.a.gpt_batch * self.context / seconds, **more)


class Lockstep:
    def __init__(self, job, lanes=1):
        self.job, self.lanes, self.name = job, lanes, f"lockstep L={lanes}"

    def write_config(self, rows, steps):
        job, a = self.job, self.job.a
        window = max(1, steps // 3)
        path = os.path.join(job.folder, "gpt.yaml")
        with open(path, "w", encoding="utf-8") as f:
            f.write(f"""
model: {{kind: gpt, layers: {job.layers}, heads: {job.heads}, width: {job.width}, context: {job.context}}}
data: {{path: "{job.data}"}}
train: {{batch: {a.gpt_batch}, lanes: {self.lanes}, accumulation: {a.gpt_batch // (self.lanes * rows)}, max_steps: {4 * window}}}
optimizer: {{kind: adamw, lr: 0.0006, beta2: 0.95, weight_decay: 0.1, clip_norm: 1.0}}
checkpoint: {{every: 0}}
eval: {{every: 0}}
log: {{every: {window}}}
runtime: {{device: {a.device}, precision: {a.precision}, autotune: true}}
""")
        return path

    def measure(self, rows, steps):
        config, run = self.write_config(rows, steps), os.path.join(self.job.folder, "gpt-run")
        command = [self.job.a.lockstep, "train", "-c", config, "--run-dir", run, "--resume", "never", "-q"]
        with MemoryWatch() as memory:
            done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            say(f"{self.name}: {done.stderr.strip().splitlines()[-1:]}")
            return None
        with open(os.path.join(run, "metrics.jsonl"), encoding="utf-8") as f:
            records = [json.loads(line) for line in f][1:]
        return self.job.result(rows, statistics.median(r["step_seconds"] for r in records), memory_bytes=memory.bytes,
                               mfu=statistics.median(r.get("mfu", 0) for r in records) or None,
                               data_seconds=statistics.median(r["data_seconds"] for r in records))

    def close(self):
        pass


class Torch:
    def __init__(self, job, mode, attention="auto"):
        self.job, self.mode, self.attention, self.process = job, mode, attention, None
        self.name = f"torch {mode}" + ("" if attention == "auto" else f" {attention} attention")

    def start(self):
        job, a = self.job, self.job.a
        command = [a.python, os.path.join(HERE, "peers", "gpt_torch_gpu.py"), "--compile", self.mode, "--precision", a.precision,
                   "--attention", self.attention, "--tokens", job.shard, "--device", a.peer_device]
        for name in ("layers", "heads", "width", "context", "vocabulary"):
            command += [f"--{name}", str(getattr(job, name))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def measure(self, rows, steps):
        if not self.process:
            self.start()
        try:
            self.process.stdin.write(f"{rows} {self.job.a.gpt_batch // rows} {steps}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        ready, _, _ = select.select([self.process.stdout], [], [], max(1, self.job.left()))
        line = self.process.stdout.readline() if ready else ""
        answer = json.loads(line) if line else {"error": "it ended" if ready else "the time is over"}
        if "error" in answer:
            say(f"{self.name}, {rows} windows: {answer['error']}")
            return self.close() if not line else None
        return self.job.result(rows, answer["step_seconds"], memory_bytes=answer["memory_bytes"], version=answer["peer"])

    def close(self):
        if self.process:
            self.process.kill()
            self.process.communicate()


class LlmC:
    DEPTHS = {"124m": "d12", "350m": "d24", "774m": "d36", "1558m": "d48"}

    def __init__(self, job, recompute=1, fusion=0):
        self.job, self.options = job, ["-r", str(recompute), "-ge", str(fusion)]
        self.name = "llm.c"

    def measure(self, rows, steps):
        a, job = self.job.a, self.job
        # Its trainer evaluates before the first step and behind the last one: on one batch.
        command = ["./train_gpt2cu", "-i", job.shard, "-j", job.shard, "-e", self.DEPTHS[job.name], "-b", str(rows), "-t",
                   str(job.context), "-d", str(a.gpt_batch * job.context), "-x", str(steps + 3), "-v", "1000000", "-m", "1", "-s", "0",
                   "-h", "0", "-l", "0.0006", "-c", "0.1"] + self.options
        with MemoryWatch() as memory:
            done = subprocess.run(command, cwd=a.llmc, capture_output=True, text=True, check=False)
        times = [float(ms) for ms in re.findall(r"^step .*?\| ([0-9.]+) ms \|", done.stdout, re.MULTILINE)][3:]
        # Where memory lacks, it goes on with the host's.
        if done.returncode != 0 or not times or "Fell back to cudaMallocManaged" in done.stdout:
            say(f"llm.c, {rows} windows: {(done.stdout + done.stderr).strip().splitlines()[-1:]}")
            return None
        return job.result(rows, statistics.median(times) / 1e3, memory_bytes=memory.bytes, options=" ".join(self.options))

    def close(self):
        pass


def search(job, contender, candidates):
    """The fastest of the microbatches, from many windows to few, for as long as fewer help; None where none runs."""
    best = None
    for rows in candidates:
        guess = best["tokens_per_second"] if best else job.guess
        result = contender.measure(rows, job.steps(guess)) if job.left() > 0 else None
        say(f"{job.name}: {contender.name}, {rows} windows: "
            + (f"{result['tokens_per_second']:,.0f} tokens/s" if result else "does not run"))
        if best and (not result or result["tokens_per_second"] < best["tokens_per_second"]):
            break
        best = result or best
    return best


def settle(job, contender, rows, found):
    """Puts the contender into `found` with the most windows, from `rows` down, that it runs with beside the others."""
    for fewer in [r for r in job.candidates if r <= rows]:
        result = search(job, contender, [fewer])
        if result:
            found.append((contender, result))
            return
    contender.close()


def choose_attention(job, mode, rows):
    """PyTorch's own choice, or cuDNN's where that is faster."""
    rates = {}
    for attention in ("auto", "cudnn"):
        contender = Torch(job, mode, attention)
        result = search(job, contender, [rows])
        contender.close()
        rates[attention] = result["tokens_per_second"] if result else 0
    return "cudnn" if rates["cudnn"] > rates["auto"] else "auto"


def find_torch(job, found):
    """One mode looks for the microbatch that all begin with. Attention is chosen without compiling, which is quick."""
    modes = [m for m in MODES if m in job.a.modes]
    attention = choose_attention(job, "none", job.candidates[len(job.candidates) // 2]) if job.a.attention == "both" else "auto"
    first = "default" if "default" in modes else modes[0]
    scout = Torch(job, first, attention)
    best = search(job, scout, job.candidates)
    if not best:
        return scout.close()
    found.append((scout, best))
    for mode in modes:
        if mode != first:
            settle(job, Torch(job, mode, attention), best["rows"], found)
    return None


def find_llmc(job, found):
    plain = LlmC(job)
    best = search(job, plain, job.candidates)
    if not best:
        return
    choices = [(plain, best)]
    for recompute, fusion in ((0, 0), (0, 2), (1, 2)):
        contender = LlmC(job, recompute, fusion)
        result = search(job, contender, [best["rows"]])
        if result:
            choices.append((contender, result))
    found.append(max(choices, key=lambda choice: choice[1]["tokens_per_second"]))


def find_contenders(job):
    """Each with the result of its best microbatch, ours first."""
    ours, found = Lockstep(job), []
    best = search(job, ours, job.candidates)
    if best:
        found.append((ours, best))
        lanes = job.a.gpt_lanes
        if lanes > 1 and job.a.gpt_batch % lanes == 0:
            settle(job, Lockstep(job, lanes), min(best["rows"], job.a.gpt_batch // lanes), found)
    if job.a.python and job.a.modes:
        find_torch(job, found)
    if job.a.llmc and job.name in LlmC.DEPTHS:
        find_llmc(job, found)
    return found


def run_rounds(job, found):
    rounds = []
    for number in range(job.a.rounds):
        if job.left() < 0 and rounds:
            break
        rounds.append({c.name: c.measure(best["rows"], job.steps(best["tokens_per_second"])) for c, best in found})
        say(f"{job.name}: round {number + 1}/{job.a.rounds}, {job.left():.0f} s left")
    return rounds


def ratio(rounds, ours, peers):
    """How many times as many tokens a second as the best of the peers, in the median over the rounds."""
    both = [(r[ours], [r[p] for p in peers if r[p]]) for r in rounds if r[ours]]
    values = [mine["tokens_per_second"] / max(p["tokens_per_second"] for p in others) for mine, others in both if others]
    return statistics.median(values) if values else None


def summarise(rounds, found):
    rows = {}
    for contender, best in found:
        results = [r[contender.name] for r in rounds if r[contender.name]]
        rates = [r["tokens_per_second"] for r in results]
        if not rates:
            rows[contender.name] = {"failed": True}
            continue
        rows[contender.name] = dict(best, tokens_per_second=statistics.median(rates), lowest=min(rates), highest=max(rates),
                                    step_seconds=statistics.median(r["step_seconds"] for r in results), rounds=len(rates))
    for name in [n for n in rows if n.startswith("lockstep")]:
        rows[name]["times_best_torch"] = ratio(rounds, name, [n for n in rows if n.startswith("torch")])
        rows[name]["times_llmc"] = ratio(rounds, name, [n for n in rows if n == "llm.c"])
    mine = next((r for n, r in rows.items() if n.startswith("lockstep") and r.get("mfu")), None)
    for row in rows.values():  # the same FLOPs of a token over the same peak
        if mine and "failed" not in row:
            row["mfu"] = mine["mfu"] * row["tokens_per_second"] / mine["tokens_per_second"]
    return rows


def print_summary(job, rows):
    print(f"GPT-2 {job.name}, {job.context} tokens a window, {job.a.gpt_batch} windows a step, {job.a.precision}")
    for name, row in rows.items():
        if "failed" in row:
            print(f"  {name:42s} failed to run")
            continue
        text = f"  {name:42s} {row['tokens_per_second']:10,.0f} tokens/s ({row['lowest']:,.0f} to {row['highest']:,.0f})"
        text += f"  {row['rows']:3d} windows"
        text += f"  MFU {100 * row['mfu']:.1f}%" if row.get("mfu") else ""
        text += f"  {row['memory_bytes'] / 2**30:.1f} GiB" if row.get("memory_bytes") else ""
        text += f"  {row['times_best_torch']:.2f}x the best PyTorch" if row.get("times_best_torch") else ""
        text += f"  {row['times_llmc']:.2f}x llm.c" if row.get("times_llmc") else ""
        print(text, flush=True)


def step_table(job, rows):
    """Our step op by op, against the machine's peaks: bench_step's table, printed, and its JSON."""
    path = os.path.join(job.folder, "step.json")
    config = Lockstep(job).write_config(rows, 1)
    command = [os.path.join(job.a.build, "benchmarks", "device", "bench_step"), "-c", config, "--vocabulary", str(job.vocabulary),
               "--set", f"train.batch={rows}", "--set", "train.accumulation=1", "--json", path]
    if subprocess.run(command + (["--steps", "1"] if job.a.quick else []), check=False).returncode != 0:
        return None
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def measure(a, folder, name, save):
    """One size; save(part, result) is called with each part as it is there. False: ours did not run."""
    job = Job(a, folder, name)
    found = find_contenders(job)
    save("search", {c.name: best for c, best in found})
    if found and isinstance(found[0][0], Lockstep):
        save("step", step_table(job, found[0][1]["rows"]))
    rounds = run_rounds(job, found) if found else []
    for contender, _ in found:
        contender.close()
    rows = summarise(rounds, found) if rounds else {}
    rows.setdefault("lockstep L=1", {"failed": True})
    save("rounds", rounds)
    save("contenders", rows)
    print_summary(job, rows)
    return any(n.startswith("lockstep") and "failed" not in row for n, row in rows.items())
