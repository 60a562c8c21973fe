#!/usr/bin/env python3
"""What one message costs the server, with one shard and with two: the terms of tuning/CAPACITY.md.

    loadtest/capacity.py --ringpost PATH --load PATH [--turns 5] [--messages 30000] [--dir FOLDER]
    loadtest/capacity.py --ringpost PATH --load PATH --calls [--messages 4000]
    loadtest/capacity.py --ringpost PATH --load PATH --instructions [--messages 2000]

Two kinds of work: `accept` (delivery off), and `relay` to a sink that has 16 addresses, so that destinations
have different owners. Two places: `1` has the server with all its threads on core 0 and the
generator on core 1; `2` has two shards on both cores, which they share with the generator. So the
figure to compare is the CPU of the server's process for each message, not the rate.

Each turn starts a server anew, in turns, sends a tenth of the messages to warm it up, and then
reads the counts of its threads (/proc/PID/task: schedstat, status, io) and its own metrics before
and after. The default prints medians of all. `--calls` runs the server under `strace -f -c`, which
slows it: counts of batches are then other than those of a free run. `--instructions` runs it under
callgrind, which also counts what the shards do while they wait; what a server without load does in
the same time is measured too, and taken off.

Needs taskset, and nothing else on the machine that makes noise; strace and valgrind for their parts.
"""

import argparse
import collections
import glob
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

from side_by_side import cpu_seconds, free_port, wait_for_banner, written_bytes

ADDRESSES = 16
SETTLE_SECONDS = 400

CONFIG = """
[server]
hostname = "mail.example.org"
spool = "{folder}/spool"
cores = "{cores}"
[delivery]
enabled = {delivers}
[[listener]]
address = "127.0.0.1:{port}"
[relay]
networks = ["127.0.0.0/8"]
[destination_defaults]
connections_max = 20
window_start = 20
messages_per_connection = 1000
{routes}
[monitor]
listen = "127.0.0.1:{http}"
[log]
output = "{folder}/ringpost.log"
"""


def pinned(words, cores):
    return ["taskset", "-c", cores, *words]


class Place:
    """Where server and generator run."""

    def __init__(self, shards):
        self.cores = "0" if shards == 1 else "0-1"
        self.load = "1" if shards == 1 else "0-1"


class Sink:
    def __init__(self, args, place):
        self.port = free_port()
        listen = [f"127.0.1.{number + 1}:{self.port}" for number in range(ADDRESSES)]
        self.process = subprocess.Popen(
            pinned([args.load, "sink", *listen, "1000"], place.load), stdout=subprocess.DEVNULL)
        wait_for_port(listen[0])

    def routes(self):
        return "".join(
            f'[[route]]\nname = "s{number}"\nrecipient_domain = ["{number}.test"]\n'
            f'next = "smtp:127.0.1.{number + 1}:{self.port}"\n' for number in range(ADDRESSES))

    def end(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)


def wait_for_port(place):
    host, port = place.rsplit(":", 1)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            with socket.create_connection((host, int(port)), timeout=2) as peer:
                peer.recv(200)
                peer.sendall(b"QUIT\r\n")
                return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nobody listens at {place}")


class Server:
    def __init__(self, args, work, shards, folder, under=()):
        self.place = Place(shards)
        self.source_us = 0.0
        self.sink = Sink(args, self.place) if work == "relay" else None
        self.port, self.http = free_port(), free_port()
        config = os.path.join(folder, "ringpost.toml")
        with open(config, "w") as out:
            out.write(CONFIG.format(
                folder=folder, port=self.port, http=self.http, cores=self.place.cores,
                delivers=str(work == "relay").lower(),
                routes=self.sink.routes() if self.sink else ""))
        words = [*under, args.ringpost, "serve", "--config", config]
        self.out = os.path.join(folder, "out")
        self.process = subprocess.Popen(pinned(words, self.place.cores), stdout=open(self.out, "w"),
                                        stderr=subprocess.STDOUT)
        wait_for_banner(self.port, 180)
        # taskset and callgrind become the server, and leave no process of their own.
        self.pid = self.process.pid

    def metrics(self):
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.http}/metrics", timeout=60).read()
        sums = collections.Counter()
        for name, labels, value in re.findall(r"^ringpost_(\w+)(?:\{([^}]*)\})? (\d+)$",
                                              text.decode(), re.M):
            kind = re.search(r'(?:kind|outcome)="(\w+)"', labels)
            sums[name + (":" + kind[1] if kind else "")] += int(value)
        return sums

    def load(self, args, messages):
        """Sends, and waits until all is where it belongs."""
        before = self.metrics()
        words = [args.load, "source", "-d", "-s", str(args.sessions), "-m", str(messages), "-l",
                 str(args.size), "-t", "r@test", "--domains", str(ADDRESSES)]
        began = time.monotonic()
        with tempfile.TemporaryFile() as said:
            source = subprocess.Popen(pinned(words + [f"127.0.0.1:{self.port}"], self.place.load),
                                      stdout=said, stderr=said)
            _, status, used = os.wait4(source.pid, 0)
            source.returncode = os.waitstatus_to_exitcode(status)
            if status != 0:
                said.seek(0)
                sys.exit(f"the source ended with {source.returncode}:\n{said.read().decode()}")
        self.source_us += (used.ru_utime + used.ru_stime) * 1e6
        name = "attempts_total:delivered" if self.sink else "messages_accepted_total"
        while self.metrics()[name] - before[name] < messages:
            if time.monotonic() - began > SETTLE_SECONDS:
                sys.exit(f"after {SETTLE_SECONDS} s not all of it has come through")
            time.sleep(0.02)
        return time.monotonic() - began

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(120)
        if self.sink:
            self.sink.end()


def kind_of(name):
    if name.startswith("shard"):
        return "shards"
    if name.startswith("commit"):
        return "commit"
    return "other"


def threads(pid):
    """CPU in microseconds by kind of thread, and switches of context."""
    sums = collections.Counter()
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            root = f"/proc/{pid}/task/{task}"
            name = open(f"{root}/comm").read().strip()
            ran, waited = open(f"{root}/schedstat").read().split()[:2]
            sums["us " + kind_of(name)] += int(ran) / 1e3
            sums["waited for a core"] += int(waited) / 1e3
            for line in open(f"{root}/status"):
                if "ctxt_switches" in line:
                    key = "switches forced" if line.startswith("non") else "switches"
                    sums[key] += int(line.split()[1])
        except FileNotFoundError:
            continue
    sums["us"] = sum(value for key, value in sums.items() if key.startswith("us "))
    return sums


HANDOFFS = ("deliver", "settle", "recall", "commit")


def counts(server):
    sums, metrics = threads(server.pid), server.metrics()
    for kind in HANDOFFS:
        sums["handoffs " + kind] = metrics["handoffs_total:" + kind]
    sums["syncs"] = metrics["commit_syncs_total"]
    sums["batches"] = metrics["commit_batches_total"]
    sums["us of the load"] = server.source_us
    if server.sink:
        sums["us of the load"] += cpu_seconds(server.sink.process.pid) * 1e6
    sums["disk bytes"] = written_bytes(server.pid)
    return sums


def free_run(args, work, shards, folder):
    server = warmed(args, work, shards, folder)
    try:
        before, began = counts(server), time.monotonic()
        took = server.load(args, args.messages)
        after = counts(server)
        seconds = time.monotonic() - began
    finally:
        server.end()
    each = {key: (after[key] - before[key]) / args.messages for key in after}
    return {"per_second": args.messages / took,
            "cores used": each["us"] * args.messages / seconds / 1e6, **each}


def warmed(args, work, shards, folder, under=()):
    server = Server(args, work, shards, folder, under)
    server.load(args, max(args.messages // 10, 500))
    return server


def traced_run(args, work, shards, folder):
    table = os.path.join(folder, "strace")
    server = warmed(args, work, shards, folder)
    try:
        strace = subprocess.Popen(["strace", "-f", "-c", "-p", str(server.pid), "-o", table],
                                  stderr=subprocess.DEVNULL)
        time.sleep(1)
        server.load(args, args.messages)
        strace.send_signal(signal.SIGINT)
        strace.wait(60)
    finally:
        server.end()
    calls = {}
    for line in open(table):
        words = line.split()
        if len(words) >= 5 and words[3].isdigit() and words[-1] != "total":
            calls[words[-1]] = int(words[3]) / args.messages
            if len(words) == 6:
                calls[words[-1] + " in vain"] = int(words[4]) / args.messages
    return {key: each for key, each in calls.items() if each >= 0.01}


def counted_run(args, work, shards, folder):
    """The load, and then the idle server for the same time."""
    out = os.path.join(folder, "callgrind")
    server = warmed(args, work, shards, folder,
                    ("valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"))

    def during(what):
        for option, act in (("-z", what), ("-d", lambda: None)):
            subprocess.run(["callgrind_control", option, str(server.pid)], check=True,
                           stdout=subprocess.DEVNULL)
            act()
        # Each dump has a file of its own, and says first what it holds in all.
        written = max(glob.glob(out + ".*"), key=os.path.getmtime)
        found = re.search(r"^(?:summary|totals): (\d+)", open(written).read(), re.M)
        return int(found[1]), written

    try:
        began = time.monotonic()
        loaded, written = during(lambda: server.load(args, args.messages))
        took = time.monotonic() - began
        if args.keep:
            shutil.copy(written, f"{args.keep}-{work}-{shards}")
        idle, _ = during(lambda: time.sleep(took))
    finally:
        server.end()
    return {"instructions": (loaded - idle) / args.messages, "idle, taken off": idle / args.messages,
            "seconds": took}


def main():
    parse = argparse.ArgumentParser(description=__doc__,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--ringpost", required=True)
    parse.add_argument("--load", required=True, help="the binary ringpost-load")
    parse.add_argument("--turns", type=int, default=1)
    parse.add_argument("--messages", type=int, default=30000)
    parse.add_argument("--sessions", type=int, default=200)
    parse.add_argument("--size", type=int, default=4096)
    parse.add_argument("--dir", default="/var/tmp")
    parse.add_argument("--work", choices=["accept", "relay"])
    parse.add_argument("--shards", type=int, choices=[1, 2])
    parse.add_argument("--calls", action="store_true")
    parse.add_argument("--instructions", action="store_true")
    parse.add_argument("--keep", help="where callgrind's files are kept: this, and -WORK-SHARDS")
    args = parse.parse_args()
    run = traced_run if args.calls else counted_run if args.instructions else free_run
    cases = [(work, shards) for work in ("accept", "relay") for shards in (1, 2)
             if args.work in (None, work) and args.shards in (None, shards)
             # callgrind runs one thread at a time, and two shards then starve one another.
             and not (args.instructions and shards == 2)]
    figures = {case: [] for case in cases}
    for turn in range(args.turns):
        for case in cases:
            folder = tempfile.mkdtemp(prefix="capacity-", dir=args.dir)
            try:
                figures[case].append(run(args, *case, folder))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            print(f"turn {turn + 1} {case[0]} {case[1]}  " + "  ".join(
                f"{key} {value:,.2f}" for key, value in figures[case][-1].items()), flush=True)
    medians = {f"{work} {shards}": {
        key: round(statistics.median(one.get(key, 0.0) for one in runs), 3) for key in runs[0]}
        for (work, shards), runs in figures.items()}
    print(json.dumps({"messages": args.messages, "sessions": args.sessions, "bytes": args.size,
                      "turns": args.turns, "cores": os.cpu_count(), **medians}, indent=1))


if __name__ == "__main__":
    main()
