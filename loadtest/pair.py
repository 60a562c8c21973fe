#!/usr/bin/env python3
"""The generators themselves: smtp-source with smtp-sink, and ringpost-load's pair, in turns.

    loadtest/pair.py --load target/release/ringpost-load [--turns 7] [--messages 40000]

Each turn has each source send the same to its own sink, with the same flags (`-d -s 50 -m N -l 4096`),
and adds up the processor time of both processes, from their start to their end (`wait4`). Nothing
is stored, so it is the price of generating and taking load: what a generator spends, a server on
the same machine does not have. Both pairs speak SMTP as they do by default: Debian's one command
for each reply, ours with PIPELINING and BDAT.

A turn counts only if its source says that every message was accepted. The ratio is one of
messages per CPU second; where others use the machine it is lower or higher by a third, so that the
median is told. Needs Debian's postfix package.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from side_by_side import free_port, wait_for_banner

PAIRS = ("smtp-source/smtp-sink", "ringpost-load")


def find(name):
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
    return found or sys.exit(f"{name} is not there: install Debian's postfix package")


def start(words, out):
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out)


def end(process):
    """Waits for its end; answers its exit status and its processor time in seconds."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, used.ru_utime + used.ru_stime


def words_of(pair, args, place):
    flags = ["-d", "-s", str(args.sessions), "-m", str(args.messages), "-l", str(args.size)]
    if pair == "ringpost-load":
        return [args.load, "sink", place, "1000"], [args.load, "source", *flags, place]
    as_user = ["-u", "nobody"] if os.geteuid() == 0 else []
    return [find("smtp-sink"), *as_user, place, "1000"], [find("smtp-source"), *flags, place]


def measure(pair, args):
    port = free_port()
    sink_words, source_words = words_of(pair, args, f"127.0.0.1:{port}")
    with tempfile.TemporaryFile("w+") as said:
        sink = start(sink_words, said)
        try:
            wait_for_banner(port)
            began = time.monotonic()
            status, source_cpu = end(start(source_words, said))
            took = time.monotonic() - began
        finally:
            sink.send_signal(signal.SIGINT)
            _, sink_cpu = end(sink)
        if status != 0:
            said.seek(0)
            sys.exit(f"{pair}: the source ended with {status}:\n{said.read()}")
    return {"source_us": source_cpu * 1e6 / args.messages, "sink_us": sink_cpu * 1e6 / args.messages,
            "per_cpu_second": args.messages / (source_cpu + sink_cpu),
            "per_second": args.messages / took}


def main():
    parse = argparse.ArgumentParser(description=__doc__,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--load", required=True, help="the binary ringpost-load")
    parse.add_argument("--turns", type=int, default=7)
    parse.add_argument("--messages", type=int, default=40000)
    parse.add_argument("--sessions", type=int, default=50)
    parse.add_argument("--size", type=int, default=4096)
    args = parse.parse_args()
    figures, ratios = {pair: [] for pair in PAIRS}, []
    for turn in range(args.turns):
        for pair in PAIRS:
            figures[pair].append(measure(pair, args))
        last = [figures[pair][-1] for pair in PAIRS]
        ratios.append(last[1]["per_cpu_second"] / last[0]["per_cpu_second"])
        told = "  ".join(f"{pair}: {one['source_us']:5.1f} + {one['sink_us']:5.1f} us, "
                         f"{one['per_cpu_second']:7,.0f}/CPU s" for pair, one in zip(PAIRS, last))
        print(f"turn {turn + 1}  {told}  ratio {ratios[-1]:.2f}", flush=True)
    medians = {pair: {key: round(statistics.median(one[key] for one in turns), 1)
                      for key in turns[0]} for pair, turns in figures.items()}
    about = {"messages": args.messages, "sessions": args.sessions, "bytes": args.size,
             "turns": args.turns, "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    print(json.dumps({**about, **medians, "ratio": round(statistics.median(ratios), 2),
                      "ratios": [round(one, 2) for one in sorted(ratios)]}, indent=1))


if __name__ == "__main__":
    main()
