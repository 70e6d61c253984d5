"""Trains over two hosts that are network namespaces, cuts the link between them, and goes on: needs root and iproute2.

    scripts/prove hosts

Each host has a name, an address and a file of hosts of its own; what they share is the disk, as on a cluster. The toy
mixture of experts is trained on one host, on two whose experts are spread over both, and on two whose link is cut.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import load_file

from finetune.demo_base import make_pico_base

ROWS = Path(__file__).parents[2] / "data_templates" / "demo" / "train.jsonl"
HOSTS, PORT = ("ft1", "ft2"), 29541
SPREAD = ("--set", "parallel.zero=2", "--set", "parallel.expert=2")


def main() -> int:
    """Prints what happened; 0 if all adapters are the same."""
    with tempfile.TemporaryDirectory() as folder, namespaces():
        work = Path(folder)
        make_pico_base(work / "base", moe=True)
        (work / "r.yaml").write_text(
            f"base: {work / 'base'}\ndata: {{train: {ROWS}, max_length: 512}}\nlora: {{rank: 8}}\n"
            "train: {batch_size: 8, max_steps: 8, save_every: 2, learning_rate: 0.003}\n"
        )
        alone = [sys.executable, "-m", "finetune", "train", "r.yaml", "--runs", "alone"]
        subprocess.run(alone, cwd=work, check=True, capture_output=True)
        began = time.monotonic()
        ends = finish(start(work, "r.yaml", "--runs", "two", *SPREAD))
        told = f"{time.monotonic() - began:.0f} s, exit codes {ends}"
        print(f"two hosts: {told}; adapter {apart(work, 'alone', 'two'):.1e} from that of one process")
        running = start(work, "r.yaml", "--runs", "cut", *SPREAD)
        wait_for(work / "cut" / "r-0001" / "checkpoints" / "checkpoint-2")
        run("ip", "-n", HOSTS[0], "link", "set", f"v-{HOSTS[0]}", "down")
        began = time.monotonic()
        ends = finish(running, patience=120)
        print(f"link cut after step 2: exit codes {ends}, {time.monotonic() - began:.0f} s after the cut")
        for host in HOSTS:
            lines = (work / f"{host}.log").read_text().splitlines()
            print(*[f"  {host}: {line}" for line in lines if line.startswith(("error:", "  why"))][-2:], sep="\n")
        run("ip", "-n", HOSTS[0], "link", "set", f"v-{HOSTS[0]}", "up")
        ends = finish(start(work, "--resume", "cut/r-0001"))
        same = apart(work, "two", "cut")
        print(f"resumed over both hosts: exit codes {ends}; adapter {same:.1e} from the uninterrupted one")
        return int(same != 0 or apart(work, "alone", "two") > 2e-3)


@contextmanager
def namespaces() -> Iterator[None]:
    """Makes both hosts and the cable between them, and removes them."""
    one, two = HOSTS
    try:
        for host in HOSTS:
            run("ip", "netns", "add", host)
        run("ip", "link", "add", f"v-{one}", "type", "veth", "peer", "name", f"v-{two}")
        for number, host in enumerate(HOSTS, start=1):
            run("ip", "link", "set", f"v-{host}", "netns", host)
            run("ip", "-n", host, "addr", "add", f"10.78.0.{number}/24", "dev", f"v-{host}")
            run("ip", "-n", host, "link", "set", "lo", "up")
            run("ip", "-n", host, "link", "set", f"v-{host}", "up")
            etc = Path("/etc/netns") / host
            etc.mkdir(parents=True, exist_ok=True)
            (etc / "hosts").write_text(f"127.0.0.1 localhost\n10.78.0.1 {one}\n10.78.0.2 {two}\n")
            (etc / "nsswitch.conf").write_text("hosts: files\n")
        yield
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "del", host], check=False)
            for file in (Path("/etc/netns") / host).glob("*"):
                file.unlink()
            (Path("/etc/netns") / host).rmdir()


def start(work: Path, *words: str) -> list[subprocess.Popen[str]]:
    """Starts torchrun on both hosts."""
    running = []
    for place, host in enumerate(HOSTS):
        launcher = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", f"--node-rank={place}"]
        rendezvous = ["--master-addr=10.78.0.1", f"--master-port={PORT}"]
        words_of_host = [sys.executable, *launcher, *rendezvous, "-m", "finetune", "train", *words]
        inside = ["unshare", "--uts", "bash", "-c", 'hostname "$0"; exec "$@"', host, *words_of_host]
        environment = os.environ | {
            "GLOO_SOCKET_IFNAME": f"v-{host}",
            "DS_ACCELERATOR": "cpu",
            "FINETUNE_STEP_PATIENCE": "20",
        }
        with (work / f"{host}.log").open("a") as log:
            running.append(
                subprocess.Popen(
                    ["ip", "netns", "exec", host, *inside],
                    cwd=work,
                    env=environment,
                    stdout=log,
                    stderr=log,
                    text=True,
                    start_new_session=True,
                )
            )
    return running


def finish(running: list[subprocess.Popen[str]], patience: float = 300) -> list[int]:
    """Waits for both hosts, and ends what does not end by itself."""
    deadline = time.monotonic() + patience
    for process in running:
        try:
            process.wait(max(1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
    return [process.returncode for process in running]


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 240
    while not path.is_dir() and time.monotonic() < deadline:
        time.sleep(0.05)


def apart(work: Path, one: str, other: str) -> float:
    """The largest distance of two adapters, as a share of a tensor's norm."""
    a, b = (load_file(work / name / "r-0001" / "adapter" / "adapter_model.safetensors") for name in (one, other))
    return max(((a[name] - b[name]).norm() / a[name].norm()).item() for name in a)


def run(*words: str) -> None:
    subprocess.run(words, check=True)


if __name__ == "__main__":
    raise SystemExit(main())
