#!/usr/bin/env python3
"""Durable accepts, Ringpost beside Postfix: same load, same disk, same run, in turns.

    loadtest/accept_durable.py --ringpost PATH [--turns 3] [--messages 30000] [--dir FOLDER]

The load is Debian's `smtp-source -d -s 100 -m N -l 4096`. Both servers keep their queue in FOLDER, so
on one file system; both only accept: Ringpost delivers nothing yet, Postfix runs without its queue
manager, so that mail stays in `incoming`. Both sync before they answer 250: Postfix each queue
file, Ringpost each commit batch. CPU is user+sys of the whole process (Ringpost) or of the whole
process tree, counted by its cgroup-less sum over /proc (Postfix, a lower bound: processes that
ended are counted through their parent).

Needs root, Debian's postfix package, and nothing else on the machine that makes noise.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

TICK = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_banner(port, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as peer:
                if peer.recv(200).startswith(b"220"):
                    peer.sendall(b"QUIT\r\n")
                    peer.recv(200)
                    return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"no banner on port {port} within {seconds} s")


def cpu_seconds(pid, with_children=False):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    count = 4 if with_children else 2
    return sum(int(x) for x in fields[11:11 + count]) / TICK


def tree(pid):
    pids, todo = [], [pid]
    while todo:
        one = todo.pop()
        pids.append(one)
        for task in os.listdir(f"/proc/{one}/task"):
            try:
                todo += [int(x) for x in open(f"/proc/{one}/task/{task}/children").read().split()]
            except FileNotFoundError:
                pass
    return pids


def tree_cpu(pid):
    total = 0.0
    for one in tree(pid):
        try:
            total += cpu_seconds(one, with_children=True)
        except FileNotFoundError:
            pass
    return total


def written_bytes(pid):
    for line in open(f"/proc/{pid}/io"):
        if line.startswith("write_bytes"):
            return int(line.split()[1])
    return 0


def load(port, args, messages):
    start = time.monotonic()
    subprocess.run(
        ["smtp-source", "-d", "-s", str(args.sessions), "-m", str(messages), "-l", str(args.size),
         "-f", "sender@example.org", "-t", "rcpt@example.net", f"127.0.0.1:{port}"],
        check=True, timeout=600)
    return time.monotonic() - start


def ringpost(args, folder):
    port = free_port()
    config = os.path.join(folder, "ringpost.toml")
    with open(config, "w") as out:
        out.write(f"""
[server]
hostname = "mail.example.org"
spool = "{folder}/spool"
[[listener]]
address = "127.0.0.1:{port}"
[relay]
networks = ["127.0.0.0/8"]
[control]
http = "off"
[log]
output = "{folder}/ringpost.log"
""")
    server = subprocess.Popen([args.ringpost, "serve", "--config", config],
                              stdout=open(os.path.join(folder, "out"), "w"))
    try:
        wait_for_banner(port)
        before, disk = cpu_seconds(server.pid), written_bytes(server.pid)
        wall = load(port, args, args.messages)
        cpu = cpu_seconds(server.pid) - before
        disk = written_bytes(server.pid) - disk
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    return {"rate": args.messages / wall, "cpu_us": cpu * 1e6 / args.messages,
            "disk": disk / args.messages}


def postfix(args, folder):
    port = free_port()
    etc, spool, data = (os.path.join(folder, name) for name in ("etc", "spool", "data"))
    for path in (etc, spool, data):
        os.makedirs(path)
    os.chmod(folder, 0o755)
    shutil.chown(data, "postfix", "postfix")
    with open(os.path.join(etc, "main.cf"), "w") as out:
        out.write(f"""
compatibility_level = 3.6
queue_directory = {spool}
data_directory = {data}
maillog_file = {folder}/maillog
maillog_file_prefixes = {folder}
myhostname = mail.example.org
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_peername_lookup = no
default_process_limit = 200
alias_maps =
alias_database =
local_recipient_maps =
in_flow_delay = 0
""")
    with open(os.path.join(etc, "master.cf"), "w") as out:
        out.write(f"""
127.0.0.1:{port} inet n - n - - smtpd
cleanup   unix  n - n - 0 cleanup
rewrite   unix  - - n - - trivial-rewrite
anvil     unix  - - n - 1 anvil
postlog   unix-dgram n - n - 1 postlogd
""")
    subprocess.run(["postfix", "-c", etc, "start"], check=True, stderr=subprocess.DEVNULL)
    try:
        wait_for_banner(port)
        master = int(open(os.path.join(spool, "pid", "master.pid")).read())
        before = tree_cpu(master)
        messages = max(args.messages // 5, 1000)
        wall = load(port, args, messages)
        cpu = tree_cpu(master) - before
    finally:
        subprocess.run(["postfix", "-c", etc, "stop"], stderr=subprocess.DEVNULL)
    return {"rate": messages / wall, "cpu_us": cpu * 1e6 / messages}


def main():
    parse = argparse.ArgumentParser(description=__doc__,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--ringpost", required=True)
    parse.add_argument("--turns", type=int, default=3)
    parse.add_argument("--messages", type=int, default=30000)
    parse.add_argument("--sessions", type=int, default=100)
    parse.add_argument("--size", type=int, default=4096)
    parse.add_argument("--dir", default="/var/tmp")
    parse.add_argument("--only", choices=["ringpost", "postfix"])
    args = parse.parse_args()
    figures = {"ringpost": [], "postfix": []}
    for turn in range(args.turns):
        for name, run in (("ringpost", ringpost), ("postfix", postfix)):
            if args.only in (None, name):
                folder = tempfile.mkdtemp(prefix=f"accept-{name}-", dir=args.dir)
                try:
                    one = run(args, folder)
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
                figures[name].append(one)
                print(f"turn {turn + 1} {name:9} " +
                      "  ".join(f"{key} {value:,.0f}" for key, value in one.items()), flush=True)
    medians = {name: {key: statistics.median(one[key] for one in runs) for key in runs[0]}
               for name, runs in figures.items() if runs}
    if len(medians) == 2:
        medians["ratio"] = medians["ringpost"]["rate"] / medians["postfix"]["rate"]
    print(json.dumps({"messages": args.messages, "sessions": args.sessions, "bytes": args.size,
                      "cores": os.cpu_count(), **medians}, indent=1))


if __name__ == "__main__":
    main()
