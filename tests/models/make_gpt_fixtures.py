#!/usr/bin/python3
"""Writes gpt_fixtures.json and gpt_fixtures.f32: what PyTorch computes for a small GPT, that the tests compare
ours with.

Run by hand when a case changes (Debian's python3-torch); the tests only read the files. Weights are multiples
of 1/128 of at most 8 bits, which devices of all precisions hold exactly; the JSON file has them in that unit. The
other file has float32 numbers: every tensor's gradient, then every tensor after ten steps. Computed in float64.
"""
import json
import math
import os
import sys

import numpy
import torch
from torch.nn import functional as F

LAYERS, HEADS, WIDTH, WINDOW, VOCABULARY, ROWS = 2, 3, 48, 17, 61, 3
ADAMW = dict(lr=0.003, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1, clip_norm=0.75, steps=10)


UNIT = 128


def rounded(tensor):
    return (tensor * UNIT).round().clamp(1 - 2 * UNIT, 2 * UNIT - 1).to(torch.float64) / UNIT


def make_parameters():
    """In the order of our flat buffer. Biases and normalisations are random, so that each of them matters."""
    c = WIDTH
    shapes = [("wte", (VOCABULARY, c), 0, 0.3), ("wpe", (WINDOW, c), 0, 0.2)]
    for n in range(LAYERS):
        b = "blocks.%d." % n
        shapes += [(b + "ln1.weight", (c,), 1, 0.2), (b + "ln1.bias", (c,), 0, 0.1),
                   (b + "attention.qkv.weight", (3 * c, c), 0, 0.2), (b + "attention.qkv.bias", (3 * c,), 0, 0.1),
                   (b + "attention.projection.weight", (c, c), 0, 0.1),
                   (b + "attention.projection.bias", (c,), 0, 0.1),
                   (b + "ln2.weight", (c,), 1, 0.2), (b + "ln2.bias", (c,), 0, 0.1),
                   (b + "mlp.up.weight", (4 * c, c), 0, 0.15), (b + "mlp.up.bias", (4 * c,), 0, 0.1),
                   (b + "mlp.down.weight", (c, 4 * c), 0, 0.07), (b + "mlp.down.bias", (c,), 0, 0.1)]
    shapes += [("ln_f.weight", (c,), 1, 0.2), ("ln_f.bias", (c,), 0, 0.1)]
    return {name: rounded(mean + deviation * torch.randn(shape)).requires_grad_()
            for name, shape, mean, deviation in shapes}


def attention(x, weight, bias):
    rows, window, c = x.shape
    q, k, v = (part.view(rows, window, HEADS, c // HEADS).transpose(1, 2)
               for part in F.linear(x, weight, bias).split(c, dim=2))
    scores = q @ k.transpose(2, 3) / math.sqrt(c // HEADS)
    mask = torch.tril(torch.ones(window, window, dtype=torch.bool))
    out = scores.masked_fill(~mask, -math.inf).softmax(dim=3) @ v
    return out.transpose(1, 2).reshape(rows, window, c)


def forward(p, tokens):
    def norm(x, name):
        return F.layer_norm(x, (WIDTH,), p[name + ".weight"], p[name + ".bias"], 1e-5)

    def linear(x, name):
        return F.linear(x, p[name + ".weight"], p[name + ".bias"])

    x = p["wte"][tokens] + p["wpe"]
    for n in range(LAYERS):
        b = "blocks.%d." % n
        h = attention(norm(x, b + "ln1"), p[b + "attention.qkv.weight"], p[b + "attention.qkv.bias"])
        x = x + linear(h, b + "attention.projection")
        h = F.gelu(linear(norm(x, b + "ln2"), b + "mlp.up"), approximate="tanh")
        x = x + linear(h, b + "mlp.down")
    return F.linear(norm(x, "ln_f"), p["wte"])


def row_losses(p, tokens, labels):
    logits = forward(p, tokens)
    return logits, F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(1)


def numbers(tensor, digits=9):
    return [float("%.*g" % (digits, v)) for v in tensor.detach().flatten().tolist()]


def train(parameters, tokens, labels):
    """Ten steps of AdamW: matrices and embeddings decay, gradients are clipped at a global norm."""
    groups = [dict(params=[p for p in parameters.values() if p.dim() == 2], weight_decay=ADAMW["weight_decay"]),
              dict(params=[p for p in parameters.values() if p.dim() == 1], weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=ADAMW["lr"], betas=(ADAMW["beta1"], ADAMW["beta2"]),
                                  eps=ADAMW["epsilon"])
    losses, norms = [], []
    for _ in range(ADAMW["steps"]):
        optimizer.zero_grad()
        loss = row_losses(parameters, tokens, labels)[1].mean()
        loss.backward()
        norm = math.sqrt(sum(float((p.grad ** 2).sum()) for p in parameters.values()))
        for p in parameters.values():
            p.grad *= min(1.0, ADAMW["clip_norm"] / norm)
        optimizer.step()
        losses.append(loss.item())
        norms.append(norm)
    return losses, norms


def main():
    torch.manual_seed(20240607)
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "gpt_fixtures")
    parameters = make_parameters()
    text = torch.randint(VOCABULARY, (ROWS, WINDOW + 1))
    text[1, 3:8] = text[1, 2]  # a token that comes again and again
    tokens, labels = text[:, :-1], text[:, 1:]
    logits, losses = row_losses(parameters, tokens, labels)
    losses.mean().backward()
    flat = [p.grad.flatten().clone() for p in parameters.values()]
    fixture = dict(torch=torch.__version__, layers=LAYERS, heads=HEADS, width=WIDTH, window=WINDOW,
                   vocabulary=VOCABULARY, rows=ROWS, unit=UNIT, tokens=tokens.flatten().tolist(),
                   labels=labels.flatten().tolist(), row_losses=numbers(losses), last_logits=numbers(logits[:, -1]),
                   parameters=[dict(name=n, value=(p * UNIT).to(torch.int32).flatten().tolist())
                               for n, p in parameters.items()])
    losses, norms = train(parameters, tokens, labels)
    fixture["training"] = dict(ADAMW, losses=numbers(torch.tensor(losses, dtype=torch.float64)),
                               norms=numbers(torch.tensor(norms, dtype=torch.float64)))
    flat += [p.detach().flatten() for p in parameters.values()]
    with open(path + ".json", "w") as out:
        json.dump(fixture, out, separators=(",", ":"))
        out.write("\n")
    torch.cat(flat).numpy().astype(numpy.dtype("<f4")).tofile(path + ".f32")
    for suffix in (".json", ".f32"):
        print(path + suffix, os.path.getsize(path + suffix), "bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
