"""What the side-by-side measurements share: processes, their costs, and turns."""

import json
import os
import shutil
import socket
import statistics
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



def turns(args, prefix, run, about):
    """Runs each server in turns in a folder of its own, and prints the medians."""
    figures = {"ringpost": [], "postfix": []}
    for turn in range(args.turns):
        for name in figures:
            if args.only not in (None, name):
                continue
            folder = tempfile.mkdtemp(prefix=f"{prefix}-{name}-", dir=args.dir)
            os.chmod(folder, 0o755)
            try:
                one = run(name, folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            figures[name].append(one)
            print(f"turn {turn + 1} {name:9} " +
                  "  ".join(f"{key} {value:,.1f}" for key, value in one.items()), flush=True)
    medians = {name: {key: statistics.median(one[key] for one in runs) for key in runs[0]}
               for name, runs in figures.items() if runs}
    if len(medians) == 2:
        medians["ratio"] = medians["ringpost"]["rate"] / medians["postfix"]["rate"]
    print(json.dumps({**about, "cores": os.cpu_count(), **medians}, indent=1))


def arguments(parse):
    """The options that every measurement has."""
    parse.add_argument("--ringpost", required=True)
    parse.add_argument("--turns", type=int, default=3)
    parse.add_argument("--messages", type=int, default=30000)
    parse.add_argument("--sessions", type=int, default=100)
    parse.add_argument("--size", type=int, default=4096)
    parse.add_argument("--dir", default="/var/tmp")
    parse.add_argument("--only", choices=["ringpost", "postfix"])


def write_main_cf(folder, more):
    """A fresh Postfix instance in `folder` that takes mail from loopback; answers its etc and spool."""
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
alias_maps =
alias_database =
local_recipient_maps =
in_flow_delay = 0
{more}
""")
    return etc, spool
