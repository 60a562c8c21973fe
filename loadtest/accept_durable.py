#!/usr/bin/env python3
"""Durable accepts, Ringpost beside Postfix: same load, same disk, same run, in turns.

    loadtest/accept_durable.py --ringpost PATH [--turns 3] [--messages 30000] [--dir FOLDER]

The load is Debian's `smtp-source -d -s 100 -m N -l 4096`. Both servers keep their queue in FOLDER, so
on one file system; both only accept: Ringpost with delivery off, Postfix runs without its queue
manager, so that mail stays in `incoming`. Both sync before they answer 250: Postfix each queue
file, Ringpost each commit batch. CPU is user+sys of the whole process (Ringpost) or of the whole
process tree, counted by its cgroup-less sum over /proc (Postfix, a lower bound: processes that
ended are counted through their parent).

Needs root, Debian's postfix package, and nothing else on the machine that makes noise.
"""

import argparse
import os
import signal
import subprocess
import time

from side_by_side import (arguments, cpu_seconds, free_port, tree_cpu, turns, wait_for_banner,
                          write_main_cf, written_bytes)


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
[delivery]
enabled = false
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
    etc, spool = write_main_cf(folder, "default_process_limit = 200")
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
    arguments(parse)
    args = parse.parse_args()
    runs = {"ringpost": ringpost, "postfix": postfix}
    about = {"messages": args.messages, "sessions": args.sessions, "bytes": args.size}
    turns(args, "accept", lambda name, folder: runs[name](args, folder), about)


if __name__ == "__main__":
    main()
