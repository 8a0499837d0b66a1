"""The PyTorch side of benchmarks/gpu.py: the MLP of benchmarks/mlp.py on one GPU, every batch from pinned host memory.

  python3 mlp_torch_gpu.py --compile none|default|reduce-overhead|max-autotune [--batch 1024] [--precision bf16]

Forward, loss and backward are compiled as one function where torch.compile is asked for; the optimizer is PyTorch's fused AdamW. Steps
are timed in windows, with one synchronisation at the end of each. Prints one line of JSON.
"""
import argparse
import json
import statistics
import time

import torch
import torch.nn as nn


def build(inputs, width, layers, classes):
    sizes = [inputs] + [width] * layers
    modules = []
    for a, b in zip(sizes, sizes[1:]):
        modules += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*modules, nn.Linear(width, classes))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--compile", default="none", choices=["none", "default", "reduce-overhead", "max-autotune"])
    p.add_argument("--inputs", type=int, default=128)
    p.add_argument("--width", type=int, default=1024)
    p.add_argument("--layers", type=int, default=3)
    p.add_argument("--classes", type=int, default=10)
    p.add_argument("--batch", type=int, default=1024)
    p.add_argument("--precision", default="bf16", choices=["bf16", "fp16", "fp32"])
    p.add_argument("--window", type=int, default=200)
    p.add_argument("--windows", type=int, default=7)
    a = p.parse_args()

    torch.manual_seed(1)
    device = torch.device("cuda")
    model = build(a.inputs, a.width, a.layers, a.classes).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    scaler = torch.amp.GradScaler("cuda", enabled=a.precision == "fp16")
    half = torch.float16 if a.precision == "fp16" else torch.bfloat16

    def loss_of(x, y):
        with torch.autocast("cuda", dtype=half, enabled=a.precision != "fp32"):
            return nn.functional.cross_entropy(model(x), y)

    compiled = loss_of if a.compile == "none" else torch.compile(loss_of, mode=a.compile)
    xs = [torch.randn(a.batch, a.inputs).pin_memory() for _ in range(16)]
    ys = [torch.randint(0, a.classes, (a.batch,)).pin_memory() for _ in range(16)]

    def run(steps):
        for step in range(steps):
            x = xs[step % 16].to(device, non_blocking=True)
            y = ys[step % 16].to(device, non_blocking=True)
            loss = compiled(x, y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)

    run(20)  # compiles
    torch.cuda.synchronize()
    run(a.window)
    torch.cuda.synchronize()
    times = []
    for _ in range(a.windows):
        start = time.perf_counter()
        run(a.window)
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / a.window)
    print(json.dumps({"peer": f"torch {torch.__version__} compile={a.compile}", "batch": a.batch, "precision": a.precision,
                      "step_seconds": statistics.median(times), "lowest": min(times), "highest": max(times)}), flush=True)


if __name__ == "__main__":
    main()
