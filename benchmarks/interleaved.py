"""What benchmarks of training on CPU ranks share: contenders that run in turn, round after round (A B C A B C ...), so that all see the
same neighbours. Ratios are taken within a round; medians and spreads are over the rounds.
"""
import json
import os
import resource
import socket
import statistics
import subprocess
import sys

ENVIRONMENT = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMP_NUM_THREADS="1")
WARM_UP = 5  # steps that are not counted


def train_command(lockstep, folder, config, ranks, name="run"):
    """Writes the configuration; returns the command and the run's directory."""
    path, run = os.path.join(folder, f"{name}.yaml"), os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as f:
        f.write(config)
    command = [lockstep, "train", "-c", path, "--run-dir", run, "--resume", "never", "-q"]
    return (["mpirun", "-np", str(ranks), "--bind-to", "core"] if ranks > 1 else []) + command, run


def read_steps(run):
    """Medians over the steps behind the first ones."""
    with open(os.path.join(run, "metrics.jsonl"), encoding="utf-8") as f:
        records = [json.loads(line) for line in f][WARM_UP:]
    return {key: statistics.median(r[key] for r in records) for key in ("step_seconds", "comm_seconds")}


def processor_seconds():
    """Of all processes that have ended and been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_lockstep(lockstep, folder, config, ranks):
    command, run = train_command(lockstep, folder, config, ranks)
    before = processor_seconds()
    subprocess.run(command, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    return dict(read_steps(run), run_processor_seconds=processor_seconds() - before)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def run_peer(command, ranks):
    """A peer's ranks, started by hand, since Debian's torch has no working launcher; what rank 0 prints, or None."""
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    if ranks > 1:
        environment.update(WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port())
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                  env=dict(environment, RANK=str(r))) for r in range(ranks)]
    outputs = [p.communicate()[0] for p in processes]
    lines = [line for line in outputs[0].splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if all(p.returncode == 0 for p in processes) and lines else None


def torch_version(python):
    return subprocess.run([python, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True,
                          check=True).stdout.strip()


def run_rounds(contenders, count):
    """Contenders by name, each a function without arguments; a list of their results by name, one for each whole round.
    An interrupt (SIGINT) ends it with the rounds that there are."""
    rounds = []
    try:
        for number in range(count):
            rounds.append({name: run() for name, run in contenders.items()})
            print(f"round {number + 1}/{count}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        if not rounds:
            raise
    return rounds


def compare(rounds):
    """Prints and returns medians and spreads, and for each of our contenders how many times faster than the best torch it is."""
    names = [n for n in rounds[0] if all(r[n] for r in rounds)]
    for name in sorted(set(rounds[0]) - set(names)):
        print(f"{name}: failed to run")
    peers, rows = [n for n in names if n.startswith("torch")], {}
    for name in names:
        times = [r[name]["step_seconds"] for r in rounds]
        row = rows[name] = {"median": statistics.median(times), "lowest": min(times), "highest": max(times)}
        if all("processor_seconds" in r[name] for r in rounds):
            row["processor_seconds"] = statistics.median(r[name]["processor_seconds"] for r in rounds)
        ratio = ""
        if name.startswith("lockstep") and peers:
            row["times_faster_than_best_torch"] = statistics.median(
                min(r[p]["step_seconds"] for p in peers) / r[name]["step_seconds"] for r in rounds)
            ratio = f"  {row['times_faster_than_best_torch']:.2f}x the best PyTorch"
        print(f"{name:46s} {1e3 * row['median']:9.1f} ms  ({1e3 * row['lowest']:.1f} to {1e3 * row['highest']:.1f}){ratio}")
    return rows
