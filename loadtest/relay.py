#!/usr/bin/env python3
"""Relayed end to end, Ringpost beside Postfix: same load, same sink, same disk, same run, in turns.

    loadtest/relay.py --ringpost PATH [--turns 3] [--messages 30000] [--many] [--dir FOLDER]
                      [--load PATH [--rate N]]

The load is Debian's `smtp-source -d -s 100 -m N -l 4096`, or with `--load` that of ringpost-load with
the same flags, which may send at a rate of its own; the sink is Debian's `smtp-sink`; both share
the machine's cores with the server. The clock runs from the first connection until the sink has the
last message. Both servers sync before they answer 250 and remove mail only when the sink has it.
`--many`: 1,000 recipient domains, routed to 50 addresses of the sink (which listens on all there
are). smtp-source takes one process for each domain then, of which 100 run at a time.
CPU is user and system time of the whole process (Ringpost) or process tree (Postfix, a lower bound). Bytes written are those of /proc/PID/io (Ringpost only).

Needs root, Debian's postfix package, and nothing else on the machine that makes noise.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request

from side_by_side import (arguments, cpu_seconds, free_port, tree_cpu, turns, wait_for_banner,
                          write_main_cf, written_bytes)

DOMAINS = 1000
ADDRESSES = 50


def sink_address(number):
    return f"127.0.1.{number + 1}"


class Sink:
    """smtp-sink, and how many messages it has taken."""

    def __init__(self, folder, many):
        self.port = free_port()
        self.out = os.path.join(folder, "sink.out")
        host = "0.0.0.0" if many else "127.0.0.1"
        with open(self.out, "w") as out:
            self.process = subprocess.Popen(
                ["smtp-sink", "-u", "nobody", "-m", "2000", "-c", f"{host}:{self.port}", "1000"], stdout=out)
        time.sleep(0.5)

    def count(self):
        with open(self.out, "rb") as out:
            out.seek(max(0, os.path.getsize(self.out) - 200))
            found = re.findall(rb"mesg=(\d+)", out.read())
        return int(found[-1]) if found else 0

    def wait_for(self, messages, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.count() >= messages:
                return True
            time.sleep(0.02)
        return False

    def stop(self):
        self.process.kill()
        self.process.wait()


def load(port, args, messages):
    """Starts the generators; answers their processes and how many messages they send."""
    if args.load:
        words = [args.load, "source", "-d", "-l", str(args.size), "-f", "sender@example.org", "-s",
                 str(args.sessions), "-m", str(messages), "--no-chunking", "-t", "r@test"]
        words += ["--domains", str(DOMAINS)] if args.many else []
        words += ["--rate", str(args.rate)] if args.rate else []
        return [subprocess.Popen(words + [f"127.0.0.1:{port}"])], messages
    base = ["smtp-source", "-d", "-l", str(args.size), "-f", "sender@example.org"]
    if not args.many:
        words = ["-s", str(args.sessions), "-m", str(messages), "-t", "rcpt@example.net"]
        return [subprocess.Popen(base + words + [f"127.0.0.1:{port}"])], messages
    each = max(messages // DOMAINS, 1)
    processes = []
    for part in range(args.sessions):
        own = range(part, DOMAINS, args.sessions)
        lines = [" ".join(base + ["-s", "1", "-m", str(each), "-t", f"r@{n}.test",
                                  f"127.0.0.1:{port}"]) for n in own]
        processes.append(subprocess.Popen(["sh", "-c", "; ".join(lines)]))
    return processes, each * DOMAINS


def measure(port, args, messages, folder, sink, cpu):
    began, before = time.monotonic(), cpu()
    processes, sent = load(port, args, messages)
    for process in processes:
        if process.wait(900) != 0:
            sys.exit("a generator failed")
    accepted = time.monotonic() - began
    if not sink.wait_for(sent, 900):
        sys.exit(f"the sink has {sink.count()} of {sent} messages")
    wall = time.monotonic() - began
    return {"rate": sent / wall, "accept_rate": sent / accepted,
            "cpu_us": (cpu() - before) * 1e6 / sent, "messages": sent}


def ringpost(args, folder, sink):
    port, http = free_port(), free_port()
    config = os.path.join(folder, "ringpost.toml")
    if args.many:
        routes = "".join(
            f'[[route]]\nname = "s{a}"\nrecipient_domain = '
            + json.dumps([f"{n}.test" for n in range(a, DOMAINS, ADDRESSES)])
            + f'\nnext = "smtp:{sink_address(a)}:{sink.port}"\n' for a in range(ADDRESSES))
    else:
        routes = f'[[route]]\nname = "sink"\nrecipient_domain = ["*"]\n' \
                 f'next = "smtp:127.0.0.1:{sink.port}"\n'
    with open(config, "w") as out:
        out.write(f"""
[server]
hostname = "mail.example.org"
spool = "{folder}/spool"
[[listener]]
address = "127.0.0.1:{port}"
[relay]
networks = ["127.0.0.0/8"]
{routes}
[destination_defaults]
connections_max = {20 if args.many else 100}
window_start = 20
messages_per_connection = 1000
[monitor]
listen = "127.0.0.1:{http}"
[log]
output = "{folder}/ringpost.log"
""")
    server = subprocess.Popen([args.ringpost, "serve", "--config", config],
                              stdout=open(os.path.join(folder, "out"), "w"),
                              stderr=subprocess.DEVNULL)
    try:
        wait_for_banner(port)
        disk = written_bytes(server.pid)
        figures = measure(port, args, args.messages, folder, sink, lambda: cpu_seconds(server.pid))
        figures["disk"] = (written_bytes(server.pid) - disk) / figures["messages"]
        url = f"http://127.0.0.1:{http}/stats"
        stages = json.load(urllib.request.urlopen(url))
        stage = stages["stages"]["accept_to_delivered"]
        figures["p50_ms"], figures["p99_ms"] = stage["p50"] / 1000, stage["p99"] / 1000
        for line in open(f"/proc/{server.pid}/status"):
            if line.startswith("VmHWM"):
                figures["peak_mb"] = int(line.split()[1]) / 1024
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    return figures


def postfix(args, folder, sink):
    port = free_port()
    transport = os.path.join(folder, "transport")
    if args.many:
        with open(transport, "w") as out:
            for n in range(DOMAINS):
                out.write(f"{n}.test smtp:[{sink_address(n % ADDRESSES)}]:{sink.port}\n")
        route = f"transport_maps = hash:{transport}"
    else:
        route = f"relayhost = [127.0.0.1]:{sink.port}"
    etc, spool = write_main_cf(folder, f"""
default_process_limit = 300
default_destination_concurrency_limit = {20 if args.many else 100}
initial_destination_concurrency = 20
smtp_connection_cache_on_demand = yes
disable_dns_lookups = yes
smtp_tls_security_level = none
{route}
""")
    with open(os.path.join(etc, "master.cf"), "w") as out:
        out.write(f"""
127.0.0.1:{port} inet n - n - - smtpd
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
smtp      unix  - - n - - smtp
relay     unix  - - n - - smtp
error     unix  - - n - - error
retry     unix  - - n - - error
scache    unix  - - n - 1 scache
anvil     unix  - - n - 1 anvil
postlog   unix-dgram n - n - 1 postlogd
""")
    if args.many:
        subprocess.run(["postmap", "-c", etc, f"hash:{transport}"], check=True)
    subprocess.run(["postfix", "-c", etc, "start"], check=True, stderr=subprocess.DEVNULL)
    try:
        wait_for_banner(port)
        master = int(open(os.path.join(spool, "pid", "master.pid")).read())
        messages = max(args.messages // 10, 1000)
        figures = measure(port, args, messages, folder, sink, lambda: tree_cpu(master))
    finally:
        subprocess.run(["postfix", "-c", etc, "stop"], stderr=subprocess.DEVNULL)
    return figures


def main():
    parse = argparse.ArgumentParser(description=__doc__,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(parse)
    parse.add_argument("--many", action="store_true")
    parse.add_argument("--load", help="ringpost-load, instead of smtp-source")
    parse.add_argument("--rate", type=float, help="messages a second; needs --load")
    args = parse.parse_args()
    runs = {"ringpost": ringpost, "postfix": postfix}

    def run(name, folder):
        sink = Sink(folder, args.many)
        try:
            return runs[name](args, folder, sink)
        finally:
            sink.stop()

    turns(args, "relay", run, {"sessions": args.sessions, "bytes": args.size, "many": args.many})


if __name__ == "__main__":
    main()
