"""The PyTorch side of benchmarks/resnet: the same network, batch, precision and optimizer, timed per step, from images of 8 bits in memory.

One process:   python3 resnet_torch.py --threads 2
DDP over gloo: RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment
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

from resnet_model import resnet


def train(a, model, ranks):
    trained = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True) if ranks > 1 else model
    if a.compile:
        trained = torch.compile(trained)
    options = {"fused": True} if torch.__version__ >= "2.5" else {"foreach": True}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True, **options)
    rows = a.batch // ranks
    data = torch.randint(0, 256, (4 * rows, 3, a.side, a.side), dtype=torch.uint8)
    labels = torch.randint(0, a.classes, (4 * rows,))
    times = []
    for step in range(a.steps + a.warm_up):
        start = time.perf_counter()
        at = (step % 4) * rows
        x = (data[at:at + rows].float() - 127.5) / 74
        if a.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=a.precision == "bf16"):
            loss = nn.functional.cross_entropy(trained(x), labels[at:at + rows])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        if step >= a.warm_up:
            times.append(time.perf_counter() - start)
    return times


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--depth", type=int, default=18)
    p.add_argument("--stem", default="small", choices=["small", "imagenet"])
    p.add_argument("--side", type=int, default=32)
    p.add_argument("--classes", type=int, default=10)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--steps", type=int, default=10)
    p.add_argument("--warm-up", type=int, default=5)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    p.add_argument("--channels-last", action="store_true")
    p.add_argument("--compile", action="store_true")
    a = p.parse_args()
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    if ranks > 1:
        dist.init_process_group("gloo")
    model = resnet(a.depth, a.stem == "small", 3, a.classes)
    if a.channels_last:
        model = model.to(memory_format=torch.channels_last)
    times = train(a, model, ranks)
    if int(os.environ.get("RANK", "0")) == 0:
        q = statistics.quantiles(times, n=4)
        print(json.dumps({"peer": f"torch {torch.__version__}", "ranks": ranks, "threads": a.threads, "precision": a.precision,
                          "channels_last": a.channels_last, "compile": a.compile, "step_seconds": q[1], "q1": q[0], "q3": q[2]}), flush=True)
    if ranks > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
