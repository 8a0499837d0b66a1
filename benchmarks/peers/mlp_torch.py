"""The PyTorch side of benchmarks/mlp: the same MLP, batch, precision and optimizer, timed per step.

One process:   python3 mlp_torch.py --threads 2
DDP over gloo: torchrun --nproc_per_node 2 mlp_torch.py --threads 1 (or RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT by hand)
Prints one line of JSON: median and quartiles of the step time on rank 0.
"""
import argparse
import json
import os
import statistics
import time

import torch
import torch.distributed as dist
import torch.nn as nn


def build(inputs, width, layers, classes):
    sizes = [inputs] + [width] * layers
    modules = []
    for a, b in zip(sizes, sizes[1:]):
        modules += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*modules, nn.Linear(width, classes))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--inputs", type=int, default=128)
    p.add_argument("--width", type=int, default=1024)
    p.add_argument("--layers", type=int, default=3)
    p.add_argument("--classes", type=int, default=10)
    p.add_argument("--batch", type=int, default=2048)
    p.add_argument("--steps", type=int, default=30)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    p.add_argument("--compile", action="store_true")
    a = p.parse_args()

    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    if ranks > 1:
        dist.init_process_group("gloo")
    model = build(a.inputs, a.width, a.layers, a.classes)
    trained = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True) if ranks > 1 else model
    if a.compile:
        trained = torch.compile(trained)
    options = {"fused": True} if torch.__version__ >= "2.5" else {"foreach": True}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, **options)
    rows = a.batch // ranks
    data = torch.randn(16 * rows, a.inputs)
    labels = torch.randint(0, a.classes, (16 * rows,))
    times = []
    for step in range(a.steps + 5):
        start = time.perf_counter()
        at = (step % 16) * rows
        x, y = data[at:at + rows], labels[at:at + rows]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=a.precision == "bf16"):
            loss = nn.functional.cross_entropy(trained(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        if step >= 5:
            times.append(time.perf_counter() - start)
    if int(os.environ.get("RANK", "0")) == 0:
        q = statistics.quantiles(times, n=4)
        print(json.dumps({"peer": f"torch {torch.__version__}", "ranks": ranks, "threads": a.threads,
                          "precision": a.precision, "compile": a.compile, "step_seconds": q[1], "q1": q[0],
                          "q3": q[2]}), flush=True)
    if ranks > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
