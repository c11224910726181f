#!/usr/bin/env python3
"""Runs a command, and kills what it has left running when it ends; a line tells what that was.

usage: contained.py COMMAND [ARG]...

Whatever the command starts becomes a child of this process when its own parent is gone, also in a
session of its own. It ends in the same way when it is told to end, and when its parent dies.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
PATIENCE = 10


def descendants():
    """The pids of all that run below this process, parents first."""
    children = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
                state, parent = stat.read().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            children.setdefault(int(parent), []).append(int(pid))
    found = [os.getpid()]
    for pid in found:
        found.extend(children.get(pid, []))
    return found[1:]


def command_line(pid):
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            return file.read().replace("\0", " ").strip()[:200]
    except OSError:
        return "gone"


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError:
        # A test has it from sudo.
        subprocess.run(["sudo", "-n", "kill", "-KILL", str(pid)], check=False)


def collect():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def end_all():
    """What is killed leaves its children here, so that it takes several rounds."""
    deadline = time.monotonic() + PATIENCE
    while (left := descendants()) and time.monotonic() < deadline:
        for pid in left:
            kill(pid)
        time.sleep(0.01)
        collect()
    return left


def main():
    if len(sys.argv) < 2:
        sys.exit("usage: contained.py COMMAND [ARG]...")
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    # Tests need signals that are not blocked, as whatever started this may have them.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    try:
        try:
            command = subprocess.Popen(sys.argv[1:])
        except OSError as error:
            print(f"contained.py: {error}", file=sys.stderr)
            sys.exit(127)
        # Others that end meanwhile are collected here, too.
        while True:
            pid, status = os.wait()
            if pid == command.pid:
                break
        code = os.waitstatus_to_exitcode(status)
        # Some may be about to end.
        deadline = time.monotonic() + 1
        while (left := descendants()) and time.monotonic() < deadline:
            time.sleep(0.01)
            collect()
        for pid in left:
            print(f"contained.py: still runs, and is killed: {pid} {command_line(pid)}",
                  file=sys.stderr)
        sys.exit(code if code >= 0 else 128 - code)
    finally:
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        for pid in end_all():
            print(f"contained.py: cannot be killed: {pid} {command_line(pid)}",
                  file=sys.stderr)


main()
