"""The PyTorch side of benchmarks/gpt.py: the same GPT, batch, precision and optimizer on CPU cores, timed per step.

One process:   python3 gpt_torch.py --threads 2
DDP over gloo: torchrun --nproc_per_node 2 gpt_torch.py --threads 1 (or RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT by hand)
Prints one line of JSON: median and quartiles of the step time on rank 0, and the processor time of a step over all ranks.
"""
import argparse
import contextlib
import json
import os
import statistics
import time

import torch
import torch.distributed as dist
import torch.nn as nn

from gpt_torch_model import GPT, adamw


def parse():
    p = argparse.ArgumentParser()
    p.add_argument("--layers", type=int, default=6)
    p.add_argument("--heads", type=int, default=6)
    p.add_argument("--width", type=int, default=384)
    p.add_argument("--window", type=int, default=256)
    p.add_argument("--vocabulary", type=int, default=257)
    p.add_argument("--batch", type=int, default=16, help="windows of a step over all ranks")
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--warm-up", type=int, default=3)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    p.add_argument("--compile", action="store_true")
    return p.parse_args()


def quicken(model, ranks, compiled):
    """DDP with gradients in place, compiled inside: torch.compile splits its graph where DDP's buckets end."""
    trained = model
    if ranks > 1:
        trained = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    return torch.compile(trained) if compiled else trained


def main():
    a = parse()
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    if ranks > 1:
        dist.init_process_group("gloo")
    model = GPT(a.layers, a.heads, a.width, a.window, a.vocabulary)
    trained, optimizer = quicken(model, ranks, a.compile), adamw(model, lr=1e-3)
    rows = a.batch // ranks
    tokens = torch.randint(0, a.vocabulary, (16, rows, a.window + 1))
    cast = torch.autocast("cpu", dtype=torch.bfloat16) if a.precision == "bf16" else contextlib.nullcontext()
    times, processor = [], 0.0
    for step in range(a.warm_up + a.steps):
        start, processor_start = time.perf_counter(), time.process_time()
        batch = tokens[step % len(tokens)]
        with cast:
            loss = trained(batch[:, :-1], batch[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        if step >= a.warm_up:
            times.append(time.perf_counter() - start)
            processor += time.process_time() - processor_start
    total = torch.tensor(processor / a.steps)
    if ranks > 1:
        dist.all_reduce(total)
    if int(os.environ.get("RANK", "0")) == 0:
        q = statistics.quantiles(times, n=4)
        print(json.dumps({"peer": f"torch {torch.__version__}", "ranks": ranks, "threads": a.threads, "precision": a.precision,
                          "compile": a.compile, "step_seconds": q[1], "q1": q[0], "q3": q[2],
                          "processor_seconds": float(total)}), flush=True)
    if ranks > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
