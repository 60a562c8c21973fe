#!/usr/bin/env python3
"""Memory of the server: idle connections, many large bodies at once, one huge body.

    loadtest/memory.py --ringpost PATH [--idle 10000] [--sessions 200] [--dir FOLDER]

Each part starts a server of its own on loopback, looks at VmRSS in /proc, and prints the rise over
the server at rest. `working` is one session that sends 4 KB messages, alone and beside the idle
ones. Run as root or with a limit of open files above twice the idle connections.
"""

import argparse
import os
import resource
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile
import threading
import time

CONFIG = """
[delivery]
enabled = false
[server]
hostname = "mail.example.org"
spool = "{folder}/spool"
shutdown_timeout = "5s"
[[listener]]
address = "127.0.0.1:{port}"
[limits]
connections = 50000
message_size = "{size}"
[monitor]
listen = "off"
[log]
output = "{folder}/log"
"""


class Server:
    def __init__(self, args, size="30MB"):
        self.folder = tempfile.mkdtemp(prefix="memory-", dir=args.dir)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        path = os.path.join(self.folder, "ringpost.toml")
        with open(path, "w") as out:
            out.write(CONFIG.format(folder=self.folder, port=self.port, size=size))
        self.process = subprocess.Popen([args.ringpost, "serve", "--config", path],
                                        stderr=subprocess.DEVNULL)
        end = time.monotonic() + 30
        while True:
            try:
                smtplib.SMTP("127.0.0.1", self.port).quit()
                break
            except OSError:
                if time.monotonic() > end:
                    sys.exit("the server does not listen")
                time.sleep(0.05)
        time.sleep(0.5)
        self.at_rest = self.rss()
        self.peak = 0

    def rss(self):
        for line in open(f"/proc/{self.process.pid}/status"):
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024
        return 0

    def watch(self, stop):
        while not stop.wait(0.05):
            self.peak = max(self.peak, self.rss())

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        if not os.environ.get("KEEP"):
            shutil.rmtree(self.folder, ignore_errors=True)


def working(port, messages=1500):
    """p50 and p99 of whole transactions in milliseconds."""
    body = ("Subject: x\r\n\r\n" + ("x" * 76 + "\r\n") * 52).encode()
    times = []
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.ehlo()
        for _ in range(messages):
            began = time.perf_counter()
            client.sendmail("a@example.org", ["b@example.net"], body)
            times.append((time.perf_counter() - began) * 1000)
    times.sort()
    return times[len(times) // 2], times[len(times) * 99 // 100]


def idle(args):
    server = Server(args)
    try:
        working(server.port, 300)
        alone = working(server.port)
        before = server.rss()
        peers = []
        for number in range(args.idle):
            peer = socket.socket()
            peer.bind((f"127.0.0.{2 + number % 100}", 0))
            peer.connect(("127.0.0.1", server.port))
            peer.recv(200)
            peer.sendall(b"EHLO idle.example.org\r\n")
            peer.recv(1000)
            peers.append(peer)
        time.sleep(1)
        rise = server.rss() - before
        beside = working(server.port)
        print(f"idle: {args.idle} connections, {rise / args.idle:,.0f} bytes of RSS each; working "
              f"session p50/p99 alone {alone[0]:.2f}/{alone[1]:.2f} ms, beside them "
              f"{beside[0]:.2f}/{beside[1]:.2f} ms")
    finally:
        server.end()


def send(port, megabytes):
    line = b"x" * 998 + b"\r\n"
    block = line * 1000
    with socket.create_connection(("127.0.0.1", port)) as peer:
        replies = peer.makefile("rb")

        def ask(command, code):
            peer.sendall(command)
            while True:
                reply = replies.readline()
                if reply[3:4] != b"-":
                    break
            assert reply.startswith(code), reply

        replies.readline()
        ask(b"EHLO big.example.org\r\n", b"250")
        ask(b"MAIL FROM:<a@example.org>\r\n", b"250")
        ask(b"RCPT TO:<b@example.net>\r\n", b"250")
        ask(b"DATA\r\n", b"354")
        for _ in range(megabytes):
            peer.sendall(block)
        ask(b".\r\n", b"250")


def sent(port, megabytes, failed):
    try:
        send(port, megabytes)
    except (OSError, AssertionError) as fault:
        failed.append(str(fault))


def large(args, sessions, megabytes, size):
    server = Server(args, size)
    stop = threading.Event()
    watcher = threading.Thread(target=server.watch, args=(stop,))
    watcher.start()
    began = time.monotonic()
    failed = []
    try:
        senders = [threading.Thread(target=sent, args=(server.port, megabytes, failed))
                   for _ in range(sessions)]
        for one in senders:
            one.start()
        for one in senders:
            one.join()
        seconds = time.monotonic() - began
        stop.set()
        watcher.join()
        print(f"large: {sessions} x {megabytes} MB at once, RSS at rest "
              f"{server.at_rest / 1e6:,.0f} MB, peak rise {(server.peak - server.at_rest) / 1e6:,.0f} "
              f"MB, {sessions * megabytes / seconds:,.0f} MB/s, {len(failed)} failed")
        if failed:
            sys.exit(f"failed: {sorted(set(failed))[:3]}")
    finally:
        stop.set()
        server.end()


def main():
    parse = argparse.ArgumentParser(description=__doc__,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--ringpost", required=True)
    parse.add_argument("--idle", type=int, default=10000)
    parse.add_argument("--sessions", type=int, default=200)
    parse.add_argument("--dir", default="/var/tmp")
    parse.add_argument("--only", choices=["idle", "many", "huge"])
    args = parse.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if args.only in (None, "idle"):
        idle(args)
    if args.only in (None, "many"):
        large(args, args.sessions, 25, "30MB")
    if args.only in (None, "huge"):
        large(args, 1, 1000, "1200MB")


if __name__ == "__main__":
    main()
