"""The PyTorch side of benchmarks/gpu_gpt.py: GPT-2 on one GPU. Stays alive, so that what torch.compile does happens once.

  python3 gpt_torch_gpu.py --layers 12 --heads 12 --width 768 --context 1024 --vocabulary 50257 --tokens SHARD
                           [--compile none|default|reduce-overhead|max-autotune] [--attention auto|cudnn] [--precision bf16]

Reads lines "ROWS ACCUMULATION STEPS" and answers each with one line of JSON: the seconds of an optimizer step that takes ACCUMULATION
microbatches of ROWS windows, over STEPS of them, or "error". The first steps of a new size, which compile, are not timed. Then it
gives back the memory that it can do without, so that others can run in turn with it.

Weights are FP32 under autocast, TF32 is allowed, attention is scaled_dot_product_attention, AdamW is fused, gradients are clipped as
Lockstep does, and the tokens lie on the device before anything is timed.
"""
import argparse
import contextlib
import gc
import json
import sys
import time

import torch

from gpt_torch_model import GPT, adamw

HEADER = 1024  # bytes of a shard before its tokens
WARM_UP = 3  # optimizer steps of a new size: compiling, recording of graphs, replay


def parse():
    p = argparse.ArgumentParser()
    for name in ("layers", "heads", "width", "context", "vocabulary"):
        p.add_argument(f"--{name}", type=int, required=True)
    p.add_argument("--tokens", required=True, help="a shard as llm.c reads them")
    p.add_argument("--compile", default="none", choices=["none", "default", "reduce-overhead", "max-autotune"])
    p.add_argument("--attention", default="auto", choices=["auto", "cudnn"])
    p.add_argument("--precision", default="bf16", choices=["bf16", "fp16", "fp32"])
    p.add_argument("--device", default="cuda", help="cpu: to try this program")
    return p.parse_args()


def read_tokens(path, device):
    with open(path, "rb") as f:
        words = torch.frombuffer(bytearray(f.read()[HEADER:]), dtype=torch.int16)
    return (words.to(torch.int64) & 0xffff).to(device)


class Trainer:
    def __init__(self, a):
        self.a, self.cuda = a, a.device == "cuda"
        torch.manual_seed(1)
        torch.set_float32_matmul_precision("high")
        if a.attention == "cudnn":  # and no other
            for kind, on in (("flash", False), ("mem_efficient", False), ("math", False), ("cudnn", True)):
                getattr(torch.backends.cuda, f"enable_{kind}_sdp")(on)
        self.model = GPT(a.layers, a.heads, a.width, a.context, a.vocabulary).to(a.device)
        self.optimizer = adamw(self.model)
        scaler = getattr(torch.amp, "GradScaler", torch.cuda.amp.GradScaler)  # where it is depends on the version
        self.scaler = scaler(enabled=a.precision == "fp16")
        # Sizes come one after the other, each compiled for itself.
        self.compiled = self.model if a.compile == "none" else torch.compile(self.model, mode=a.compile, dynamic=False)
        self.graphs = a.compile in ("reduce-overhead", "max-autotune")
        self.tokens = read_tokens(a.tokens, a.device)
        self.place, self.known = 0, set()

    def batch(self, rows):
        count = rows * self.a.context
        if self.place + count + 1 > len(self.tokens):
            self.place = 0
        part = self.tokens[self.place:self.place + count + 1]
        self.place += count
        return part[:-1].view(rows, -1), part[1:].view(rows, -1)

    def autocast(self):
        if self.a.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.a.device, dtype=torch.float16 if self.a.precision == "fp16" else torch.bfloat16)

    def step(self, rows, accumulation):
        for _ in range(accumulation):
            x, y = self.batch(rows)
            with self.autocast():
                loss = self.compiled(x, y) / accumulation
            self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # The memory of a recorded graph is reused by its next replay: gradients that live on are kept outside of it.
        self.optimizer.zero_grad(set_to_none=not (self.graphs and accumulation > 1))

    def synchronize(self):
        if self.cuda:
            torch.cuda.synchronize()

    def keep_gradients_outside(self):
        for p in self.model.parameters():
            p.grad = torch.zeros_like(p)

    def measure(self, rows, accumulation, steps):
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        if self.graphs and accumulation > 1:
            self.keep_gradients_outside()
        for _ in range(1 if (rows, accumulation) in self.known else WARM_UP):
            self.step(rows, accumulation)
        self.known.add((rows, accumulation))
        self.synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            self.step(rows, accumulation)
        self.synchronize()
        seconds = (time.perf_counter() - start) / steps
        return {"step_seconds": seconds, "tokens_per_second": rows * accumulation * self.a.context / seconds,
                "memory_bytes": torch.cuda.max_memory_reserved() if self.cuda else None}

    def give_back(self):
        self.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()


def answer(trainer, line):
    try:
        return trainer.measure(*[int(word) for word in line.split()])
    except Exception as error:  # memory that is not there, and whatever compilers throw
        return {"error": str(error).splitlines()[0] if str(error) else type(error).__name__}


def main():
    trainer = Trainer(parse())
    for line in sys.stdin:
        result = answer(trainer, line)
        trainer.give_back()  # also what a failure held, which ended with answer()
        print(json.dumps(dict(result, peer=f"torch {torch.__version__}")), flush=True)


if __name__ == "__main__":
    main()
