"""Which sample was used in which step, from what shim.c saw the loaders read and from what the run itself wrote.

A rank's loader reads the rows of its lanes in the order in which the rank computes them, some steps ahead. So the n-th
row of a rank belongs to a step of its attempt and to a lane; `train --dry-run` says which lanes a rank has. The steps
that count are those of metrics.jsonl, each with the attempt that computed it.
"""

import json
import re
import struct

import session as chaos


class Ledger:
    """Shares of the ranks, asked once for each number of ranks."""

    def __init__(self):
        self.shares = {}

    def share(self, run, ranks):
        """Lanes of each rank."""
        if ranks not in self.shares:
            text = run.lockstep("train", "-c", run.config, "--dry-run", "--ranks", ranks).stdout
            found = re.findall(r"^ *\d+ +(\d+)-(\d+) ", text, re.MULTILINE)
            assert len(found) == ranks, text
            self.shares[ranks] = [int(last) - int(first) + 1 for first, last in found]
        return self.shares[ranks]

    def check(self, run):
        """Raises AssertionError unless each sample came once in each epoch; returns the number of samples used."""
        attempts = read_attempts(run)
        first = first_steps(run)
        used = []
        for step, attempt in kept_steps(run):
            assert attempt in attempts, f"ledger: no process of attempt {attempt} was seen, which computed step {step}"
            ranks = attempts[attempt]
            rows = chaos.BATCH // chaos.LANES
            batch = []
            for rank, lanes in enumerate(self.share(run, ranks["size"])):
                count = lanes * rows
                start = (step - 1 - first[attempt]) * count
                batch += ranks[rank][start:start + count]
            assert len(batch) == chaos.BATCH, f"ledger: step {step} of attempt {attempt} used {len(batch)} samples"
            used += batch
        for start in range(0, len(used), chaos.SAMPLES):
            epoch = used[start:start + chaos.SAMPLES]
            assert len(set(epoch)) == len(epoch), f"ledger: a sample came twice in epoch {start // chaos.SAMPLES}"
        assert max(used) < chaos.SAMPLES, "ledger: a sample that is none"
        return len(used)


def read_attempts(run):
    """{attempt: {rank: rows, "size": ranks}}; of two jobs that had the same number, the later one."""
    jobs = {}
    for file in run.journal.glob("*.rows"):
        data = file.read_bytes()
        count, rank, size, attempt, started = struct.unpack_from("<Iiiiq", data)
        job = data[24:88].rstrip(b"\0").decode()
        entry = jobs.setdefault(job, {"size": size, "attempt": 0, "time": 0})
        entry[rank] = struct.unpack_from(f"<{count}I", data, 4096)
        if rank == 0:
            entry["attempt"], entry["time"] = attempt, started
    return {entry["attempt"]: entry for entry in sorted(jobs.values(), key=lambda entry: entry["time"]) if 0 in entry}


def lines(path):
    return [json.loads(line, parse_float=str) for line in path.read_text(encoding="utf-8").splitlines()]


def first_steps(run):
    """The step from which each attempt went on."""
    return {event["attempt"]: event["step"] for event in lines(run.run / "events.jsonl") if event["event"] in ("start", "resume")}


def kept_steps(run):
    return [(record["step"], record["attempt"]) for record in lines(run.run / "metrics.jsonl")]
