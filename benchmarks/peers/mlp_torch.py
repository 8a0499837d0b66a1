"""The PyTorch side of benchmarks/mlp.py: the same MLP, batch, precision and optimizer on CPU cores, timed per step (torch_steps.py)."""
import argparse

import torch
import torch.nn as nn

import torch_steps


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
    torch_steps.add_arguments(p, batch=2048, steps=30, warm_up=5)
    a = p.parse_args()
    torch_steps.begin(a)
    model = build(a.inputs, a.width, a.layers, a.classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, **torch_steps.fastest())
    rows = a.batch // torch_steps.RANKS
    data = torch.randn(16, rows, a.inputs)
    labels = torch.randint(0, a.classes, (16, rows))
    torch_steps.run(a, model, optimizer, lambda step: (data[step % 16], labels[step % 16]),
                    lambda trained, batch: nn.functional.cross_entropy(trained(batch[0]), batch[1]))


if __name__ == "__main__":
    main()
