#!/usr/bin/python3
"""Writes mlp_fixtures.json: what PyTorch computes, in float64, for small MLPs.

Run by hand when a case changes (Debian's python3-torch); the tests only read the file. Weights, inputs and
targets are bfloat16 numbers, so that devices of both precisions start from exactly the same values, and few
digits suffice to print them.
"""
import json
import math
import os
import sys

import torch
from torch.nn import functional as F

ROWS, FEATURES, OUTPUTS = 5, 9, 4
CASES = [
    dict(name="relu", hidden=[11, 7], activation="relu", residual=False, loss="cross_entropy", smoothing=0.0),
    dict(name="gelu", hidden=[11, 7], activation="gelu", residual=False, loss="cross_entropy", smoothing=0.0),
    dict(name="residual relu", hidden=[9, 9, 8], activation="relu", residual=True, loss="cross_entropy",
         smoothing=0.0),
    dict(name="residual gelu", hidden=[12, 12], activation="gelu", residual=True, loss="cross_entropy",
         smoothing=0.0),
    dict(name="smoothing", hidden=[10], activation="relu", residual=False, loss="cross_entropy", smoothing=0.1),
    dict(name="binary cross-entropy", hidden=[8], activation="relu", residual=False,
         loss="binary_cross_entropy", smoothing=0.0),
    dict(name="mean squared error", hidden=[8, 8], activation="gelu", residual=True, loss="mse", smoothing=0.0),
    dict(name="linear", hidden=[], activation="relu", residual=False, loss="cross_entropy", smoothing=0.0),
]
ADAMW = dict(lr=0.01, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1, clip_norm=0.75, steps=10)


def rounded(tensor):
    return tensor.to(torch.bfloat16).to(torch.float64)


def outputs_of(case):
    return {"cross_entropy": OUTPUTS, "binary_cross_entropy": 1, "mse": 3}[case["loss"]]


def make_parameters(case):
    widths = [FEATURES] + case["hidden"] + [outputs_of(case)]
    parameters = {}
    for n, (fan_in, fan_out) in enumerate(zip(widths, widths[1:])):
        parameters["layers.%d.weight" % n] = rounded(torch.randn(fan_out, fan_in) * math.sqrt(1.5 / fan_in))
        parameters["layers.%d.bias" % n] = rounded(torch.randn(fan_out) * 0.3)
    return {name: p.requires_grad_() for name, p in parameters.items()}


def forward(case, parameters, h):
    activation = F.relu if case["activation"] == "relu" else lambda z: F.gelu(z, approximate="tanh")
    last = len(case["hidden"])
    for n in range(last):
        f = activation(F.linear(h, parameters["layers.%d.weight" % n], parameters["layers.%d.bias" % n]))
        h = h + f if case["residual"] and f.shape == h.shape else f
    return F.linear(h, parameters["layers.%d.weight" % last], parameters["layers.%d.bias" % last])


def make_data(case):
    x = rounded(torch.randn(ROWS, FEATURES))
    if case["loss"] == "cross_entropy":
        return x, torch.randint(OUTPUTS, (ROWS,))
    if case["loss"] == "binary_cross_entropy":
        return x, torch.randint(2, (ROWS, 1)).to(torch.float64)
    return x, rounded(torch.randn(ROWS, outputs_of(case)))


def row_losses(case, logits, y):
    if case["loss"] == "cross_entropy":
        return F.cross_entropy(logits, y, reduction="none", label_smoothing=case["smoothing"])
    if case["loss"] == "binary_cross_entropy":
        return F.binary_cross_entropy_with_logits(logits, y, reduction="none").mean(1)
    return F.mse_loss(logits, y, reduction="none").mean(1)


def numbers(tensor, digits=9):
    return [float("%.*g" % (digits, v)) for v in tensor.detach().flatten().tolist()]


def run(case):
    parameters, (x, y) = make_parameters(case), make_data(case)
    logits = forward(case, parameters, x)
    losses = row_losses(case, logits, y)
    losses.mean().backward()
    return dict(case, rows=ROWS, features=FEATURES, outputs=outputs_of(case), x=numbers(x), y=numbers(y),
                logits=numbers(logits), row_losses=numbers(losses),
                parameters=[dict(name=n, value=numbers(p), gradient=numbers(p.grad))
                            for n, p in parameters.items()])


def train(case):
    """Ten steps of AdamW, weights decayed and biases not, gradients clipped at a global norm."""
    parameters, (x, y) = make_parameters(case), make_data(case)
    groups = [dict(params=[p for n, p in parameters.items() if n.endswith("weight")],
                   weight_decay=ADAMW["weight_decay"]),
              dict(params=[p for n, p in parameters.items() if n.endswith("bias")], weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=ADAMW["lr"], betas=(ADAMW["beta1"], ADAMW["beta2"]),
                                  eps=ADAMW["epsilon"])
    start = [dict(name=n, value=numbers(p)) for n, p in parameters.items()]
    losses, norms = [], []
    for _ in range(ADAMW["steps"]):
        optimizer.zero_grad()
        loss = row_losses(case, forward(case, parameters, x), y).mean()
        loss.backward()
        norm = math.sqrt(sum(float((p.grad ** 2).sum()) for p in parameters.values()))
        for p in parameters.values():
            p.grad *= min(1.0, ADAMW["clip_norm"] / norm)
        optimizer.step()
        losses.append(loss.item())
        norms.append(norm)
    end = [dict(name=n, value=numbers(p)) for n, p in parameters.items()]
    return dict(case, **ADAMW, rows=ROWS, features=FEATURES, outputs=outputs_of(case), x=numbers(x),
                y=numbers(y), parameters=start, trained=end, losses=numbers(torch.tensor(losses, dtype=torch.float64)),
                norms=numbers(torch.tensor(norms, dtype=torch.float64)))


def main():
    torch.manual_seed(20240607)
    fixtures = dict(torch=torch.__version__, cases=[run(c) for c in CASES], training=train(CASES[3]))
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "mlp_fixtures.json")
    with open(path, "w") as out:
        json.dump(fixtures, out, separators=(",", ":"))
        out.write("\n")
    print(path, os.path.getsize(path), "bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
