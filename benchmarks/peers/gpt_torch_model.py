"""GPT-2 in PyTorch, for the peers of Lockstep's benchmarks: from PyTorch 1.13 to the newest.

The same architecture and arithmetic as models/gpt.c: token and position embeddings, blocks of causal self-attention and an MLP of four
times the width with GELU in its tanh form, each behind a normalisation and added to the stream, a last normalisation, and a head that is
the token table itself. It is written to be fast in PyTorch: one product for queries, keys and values, scaled_dot_product_attention where
PyTorch has it, a vocabulary padded to a multiple of 64 rows.
"""
import inspect
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

SIZES = {"124m": (12, 12, 768), "350m": (24, 16, 1024), "774m": (36, 20, 1280), "1558m": (48, 25, 1600)}  # layers, heads, width


def attend(q, k, v, dropout):
    """Causal attention over [batch, heads, time, size]; with explicit scores where PyTorch is older than 2.0."""
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
    time = q.size(-2)
    later = torch.ones(time, time, dtype=torch.bool, device=q.device).triu(1)
    scores = (q @ k.transpose(-2, -1)) / math.sqrt(q.size(-1))
    weights = F.softmax(scores.masked_fill(later, float("-inf")), dim=-1)
    return F.dropout(weights, dropout, training=dropout > 0) @ v


class Block(nn.Module):
    def __init__(self, heads, width, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def drop(self, x):
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def forward(self, x):
        batch, time, width = x.shape
        q, k, v = (part.view(batch, time, self.heads, width // self.heads).transpose(1, 2)
                   for part in self.qkv(self.ln1(x)).split(width, dim=2))
        out = attend(q, k, v, self.dropout if self.training else 0.0)
        x = x + self.drop(self.projection(out.transpose(1, 2).reshape(batch, time, width)))
        return x + self.drop(self.down(F.gelu(self.up(self.ln2(x)), approximate="tanh")))


class GPT(nn.Module):
    """forward(tokens [batch, time], targets [batch, time]) is the mean cross-entropy; without targets, the logits."""

    def __init__(self, layers=12, heads=12, width=768, context=1024, vocabulary=50257, dropout=0.0):
        super().__init__()
        self.context, self.dropout = context, dropout
        self.wte = nn.Embedding((vocabulary + 63) // 64 * 64, width)
        self.wpe = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(heads, width, dropout) for _ in range(layers))
        self.ln = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                into_stream = name.endswith(("projection.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if into_stream else 0.02)

    def forward(self, tokens, targets=None):
        x = self.wte(tokens) + self.wpe.weight[:tokens.size(1)]
        if self.dropout:
            x = F.dropout(x, self.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln(x), self.wte.weight)
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def adamw(model, lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1):
    """AdamW in the fastest form that this PyTorch has for the model's device; matrices and embeddings decay, the rest does not."""
    parameters = list(model.parameters())
    groups = [{"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
              {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0}]
    forms = [{"fused": True}, {"foreach": True}, {}]
    known = inspect.signature(torch.optim.AdamW.__init__).parameters
    for form in forms:
        if not set(form) <= set(known):
            continue
        try:  # fused exists for a GPU at first, for CPUs later
            return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=1e-8, **form)
        except RuntimeError:
            continue
    raise AssertionError("torch.optim.AdamW refuses its plain form")
