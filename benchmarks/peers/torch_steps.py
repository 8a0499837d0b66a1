"""What the PyTorch sides of benchmarks of training on CPU cores share: ranks, steps and their times.

One process:   python3 PEER.py --threads 2
DDP over gloo: RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment (torchrun, or by hand), --threads 1
Prints one line of JSON: median and quartiles of the step time on rank 0, and the processor time of a step over all ranks.
"""
import contextlib
import json
import os
import statistics
import time

import torch
import torch.distributed as dist
import torch.nn as nn

RANKS = int(os.environ.get("WORLD_SIZE", "1"))


def add_arguments(p, batch, steps, warm_up):
    p.add_argument("--batch", type=int, default=batch, help="of a step over all ranks")
    p.add_argument("--steps", type=int, default=steps)
    p.add_argument("--warm-up", type=int, default=warm_up)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    p.add_argument("--compile", action="store_true")


def fastest():
    """The fastest form of an optimizer that this PyTorch has."""
    return {"fused": True} if torch.__version__ >= "2.5" else {"foreach": True}


def begin(a):
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    if RANKS > 1:
        dist.init_process_group("gloo")


def quicken(model, compiled):
    """DDP with gradients in place, compiled inside: torch.compile splits its graph where DDP's buckets end."""
    trained = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True) if RANKS > 1 else model
    return torch.compile(trained) if compiled else trained


def run(a, model, optimizer, batch, loss_of):
    """Times a.steps steps behind a.warm_up ones and prints. batch(step): what loss_of(trained, batch) takes."""
    trained = quicken(model, a.compile)
    cast = torch.autocast("cpu", dtype=torch.bfloat16) if a.precision == "bf16" else contextlib.nullcontext()
    times, processor = [], 0.0
    for step in range(a.warm_up + a.steps):
        start, processor_start = time.perf_counter(), time.process_time()
        taken = batch(step)
        with cast:
            loss = loss_of(trained, taken)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        if step >= a.warm_up:
            times.append(time.perf_counter() - start)
            processor += time.process_time() - processor_start
    report(a, times, processor)


def report(a, times, processor):
    total = torch.tensor(processor / a.steps)
    if RANKS > 1:
        dist.all_reduce(total)
    if int(os.environ.get("RANK", "0")) == 0:
        q = statistics.quantiles(times, n=4)
        print(json.dumps({"peer": f"torch {torch.__version__}", "ranks": RANKS, "threads": a.threads, "precision": a.precision,
                          "compile": a.compile, "step_seconds": q[1], "q1": q[0], "q3": q[2], "processor_seconds": float(total)}), flush=True)
    if RANKS > 1:
        dist.destroy_process_group()
