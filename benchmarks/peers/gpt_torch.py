"""The PyTorch side of benchmarks/gpt.py: the same GPT, batch, precision and optimizer on CPU cores, timed per step (torch_steps.py)."""
import argparse

import torch

import torch_steps
from gpt_torch_model import GPT, adamw


def parse():
    p = argparse.ArgumentParser()
    p.add_argument("--layers", type=int, default=6)
    p.add_argument("--heads", type=int, default=6)
    p.add_argument("--width", type=int, default=384)
    p.add_argument("--window", type=int, default=256)
    p.add_argument("--vocabulary", type=int, default=257)
    torch_steps.add_arguments(p, batch=16, steps=8, warm_up=3)
    return p.parse_args()


def main():
    a = parse()
    torch_steps.begin(a)
    model = GPT(a.layers, a.heads, a.width, a.window, a.vocabulary)
    tokens = torch.randint(0, a.vocabulary, (16, a.batch // torch_steps.RANKS, a.window + 1))
    torch_steps.run(a, model, adamw(model, lr=1e-3), lambda step: tokens[step % len(tokens)],
                    lambda trained, batch: trained(batch[:, :-1], batch[:, 1:]))


if __name__ == "__main__":
    main()
