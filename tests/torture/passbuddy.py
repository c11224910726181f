"""A process that uses a semaphore as PassBuddy 1.0.2 does: the same commands, on its own clock.

passbuddy.py PORT PREFIX NAME CAPACITY TTL_MS SEED ROUNDS

It takes permits ROUNDS times, works under them, and is its own judge: one of CAPACITY lock files has
to be free then, or there is one too many. Now and then it extends, works for longer than a TTL
without that (PassBuddy's members count for two), or dies with its permit.
"""

import fcntl
import os
import random
import signal
import socket
import sys
import time
import uuid

port, prefix, name, capacity, ttl, seed, rounds = sys.argv[1:]
port, capacity, ttl, rounds = int(port), int(capacity), int(ttl), int(rounds)
chance = random.Random(int(seed))
key = f"{prefix}-{name}"


class Redis:
    def __init__(self):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.file = self.socket.makefile("rb")

    def ask(self, *words):
        words = [str(word).encode() for word in words]
        parts = [b"*%d\r\n" % len(words)]
        parts += [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
        self.socket.sendall(b"".join(parts))
        line = self.file.readline().rstrip()
        if line[:1] == b":":
            return int(line[1:])
        raise RuntimeError(line)


redis = Redis()


def acquire(member):
    """Also extends. The name is pasted into the script, and no key is declared."""
    now = int(time.time() * 1000)
    return redis.ask(
        "EVAL",
        f"""
        redis.call('zremrangebyscore', '{key}', '-inf', {now - ttl})
        redis.call('zadd', '{key}', {now + ttl}, '{member}')
        if redis.call('zcard', '{key}') > {capacity} then
            redis.call('zrem', '{key}', '{member}')
            return 0
        end
        return 1""",
        0,
    )


def judge():
    for number in range(1, capacity + 1):
        file = open(f"judge.{number}", "w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            file.close()
    with open("violations", "a") as violations:
        violations.write(f"passbuddy {os.getpid()}\n")
    return None


for _ in range(rounds):
    member = uuid.UUID(int=chance.getrandbits(128), version=4)
    while not acquire(member):
        time.sleep(chance.uniform(0.005, 0.05))
    lock = judge()
    with open("ran", "a") as ran:
        ran.write("passbuddy\n")
    what = chance.random()
    if what < 0.03:
        time.sleep(1.4 * ttl / 1000)
    elif what < 0.2:
        time.sleep(chance.uniform(0.0, 0.2))
        if not acquire(member):
            # It has lost its permit to an extension above the capacity, and works no more.
            continue
        time.sleep(chance.uniform(0.0, 0.2))
    else:
        time.sleep(chance.uniform(0.0, 0.1))
    if chance.random() < 0.05:
        os.kill(os.getpid(), signal.SIGKILL)
    if lock:
        lock.close()
    redis.ask("ZREM", key, member)
