"""What the scripts in this directory share: servers of their own, a command that says when it runs,
and how numbers are put together. Nothing here knows what is measured."""
import atexit, json, os, select, shutil, signal, socket, statistics, subprocess, sys, tempfile, time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SEMRUN = os.path.join(TOP, "target/release/semrun")
KEY = "a-key-for-measuring"

# Nothing of the caller's may change what is measured: no settings, and a PATH of the usual length,
# which every program here searches for its command.
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": os.environ.get("HOME", "/"),
    "LC_ALL": "C",
    "SEMRUN_API_KEY": KEY,
}

# Says when it starts, ends when there is a byte or the end of its input, and says when that was.
# Static, because a dynamic linker would be a constant in every figure, and make ratios look better.
TICK = r"""
#include <stdio.h>
#include <time.h>
#include <unistd.h>
static void say(const char *what, const char *who) {
    struct timespec now;
    char line[128];
    clock_gettime(CLOCK_MONOTONIC, &now);
    int length = snprintf(line, sizeof line, "%s %s %lld\n", what, who, now.tv_sec * 1000000000LL + now.tv_nsec);
    if (write(1, line, length) != length) _exit(1);
}
int main(int count, char **words) {
    const char *who = count > 1 ? words[1] : "-";
    char byte;
    say("start", who);
    if (read(0, &byte, 1) < 0) _exit(1);
    say("end", who);
    _exit(0);
}
"""


class Trouble(Exception):
    pass


class Harness:
    """A directory in memory, one on the disk, and every process that was started; all of it goes
    when the script ends, however it ends."""

    def __init__(self):
        self.started = []
        atexit.register(self.end)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, _: sys.exit(128 + number))
        if not os.access(SEMRUN, os.X_OK):
            sys.exit(f"{SEMRUN} is missing: cargo build --release")
        self.memory = self.disk = None
        for parent in ("/dev/shm", "/run"):
            if os.access(parent, os.W_OK):
                self.memory = tempfile.mkdtemp(prefix="semrun-bench.", dir=parent)
                break
        self.disk = tempfile.mkdtemp(prefix="bench.", dir=os.path.join(TOP, "target"))
        self.memory = self.memory or self.disk
        self.tick = self.compile(self.write("tick.c", TICK), "-static") or self.compile(f"{self.disk}/tick.c")
        if not self.tick:
            sys.exit("cc does not work: it compiles the command that says when it runs")
        self.null = os.open(os.devnull, os.O_RDWR)

    def write(self, name, text):
        with open(f"{self.disk}/{name}", "w") as file:
            file.write(text)
        return file.name

    def compile(self, source, *how):
        """The path of a program, or None if that cannot be."""
        program = f"{self.disk}/{os.path.basename(source).removesuffix('.c')}"
        command = ["cc", "-O2", *how, "-o", program, source]
        done = subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
        return self.install(program) if done else None

    def install(self, program):
        """A copy, as users have one: the kernel has a file that was written in one piece in large pieces,
        and maps those faster than the small ones of a file that a linker wrote."""
        return shutil.copy(program, f"{tempfile.mkdtemp(dir=self.disk)}/{os.path.basename(program)}")

    def start(self, command, **more):
        more.setdefault("env", ENVIRONMENT)
        more.setdefault("stdin", subprocess.DEVNULL)
        process = subprocess.Popen(command, **more)
        self.started.append(process)
        return process

    def forget(self, processes):
        """Those have ended and were waited for."""
        gone = set(map(id, processes))
        self.started = [process for process in self.started if id(process) not in gone]

    def end(self):
        living = [process for process in reversed(self.started) if process.poll() is None]
        for process in living:
            process.terminate()
        deadline = time.monotonic() + 20
        for process in living:
            try:
                process.wait(max(0.01, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.started = []
        for directory in (self.memory, self.disk):
            if directory:
                shutil.rmtree(directory, ignore_errors=True)

    def run(self, command, busy=False):
        """Seconds from the start of a process to its end, which may say 75 if it may be busy."""
        nulls = [(os.POSIX_SPAWN_DUP2, self.null, 0), (os.POSIX_SPAWN_DUP2, self.null, 1)]
        begin = time.perf_counter_ns()
        pid = os.posix_spawnp(command[0], command, ENVIRONMENT, file_actions=nulls)
        _, status = os.waitpid(pid, 0)
        end = time.perf_counter_ns()
        code = os.waitstatus_to_exitcode(status)
        if code != 0 and not (busy and code == 75):
            raise Trouble(f"{' '.join(command)}: status {code}")
        return (end - begin) / 1e9


def until(what, condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Trouble(f"not in time: {what}")
        time.sleep(0.002)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Store:
    """Where permits live, for `semrun` and for observers."""

    def __init__(self, title, options, program=SEMRUN):
        self.title, self.options, self.program = title, options, program

    def of(self, program):
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, program=program)
        return copy

    def semrun(self, name, *words):
        return [self.program, "-q", *self.options, "--name", name, *words]

    def verb(self, verb, *words):
        return [self.program, verb, *self.options, *words]

    def look(self, name):
        answer = subprocess.run(
            self.verb("status", "--json", name), env=ENVIRONMENT, capture_output=True, text=True
        )
        if answer.returncode not in (0, 75):
            raise Trouble(answer.stderr.strip())
        return json.loads(answer.stdout)["semaphores"][0]

    def queued(self, name):
        return len(self.look(name)["waiters"])

    def acquire(self, name, *words):
        """A permit without a process, which sends nothing while it is held."""
        command = self.verb("acquire", "-q", "--ttl", "1h", "--name", name, *words)
        answer = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
        if answer.returncode != 0:
            raise Trouble(answer.stderr.strip())
        return answer.stdout.strip()


class Local(Store):
    def __init__(self, directory, where):
        super().__init__(f"local, {where}", ["--backend", f"file://{directory}"])


class Redis(Store):
    def __init__(self, harness):
        self.port = free_port()
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--dir", harness.disk]
        self.process = harness.start(command, env=None, stdout=subprocess.DEVNULL)
        self.connection = None
        until("redis-server listens", self.ready, 20)
        options = ["--backend", f"redis://127.0.0.1:{self.port}", "--quarantine", "0"]
        super().__init__("Redis", options)

    def ready(self):
        try:
            self.connection = socket.create_connection(("127.0.0.1", self.port), 5)
            return self.ask("PING") == "PONG"
        except ConnectionRefusedError:
            return False

    def ask(self, *words):
        request = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        self.connection.sendall(request.encode())
        file = self.connection.makefile("rb")
        line = file.readline().decode().strip()
        if line[0] == "$":
            return file.read(int(line[1:]) + 2).decode()
        if line[0] == "-":
            raise Trouble(line)
        return line[1:]

    def queued(self, name):
        return int(self.ask("ZCARD", "{semrun-%s}:queue" % name))

    def monitor(self):
        """From now on, count who sends what."""
        self.watching = socket.create_connection(("127.0.0.1", self.port), 5)
        self.watching.sendall(b"MONITOR\r\n")

    def received(self):
        """Commands that others sent since `monitor`, without those that their scripts call."""
        text = b""
        self.watching.setblocking(False)
        try:
            while block := self.watching.recv(1 << 20):
                text += block
        except BlockingIOError:
            pass
        self.watching.close()
        lines = [line for line in text.decode().splitlines() if line.startswith("+") and line != "+OK"]
        return sum(1 for line in lines if " lua]" not in line and '"INFO"' not in line)

    def commands(self):
        """Commands that have been run for others: those inside of scripts count, INFO does not."""
        lines = [line for line in self.ask("INFO", "commandstats").split() if line.startswith("cmdstat_")]
        calls = {line[8:].split(":")[0]: int(line.split("calls=")[1].split(",")[0]) for line in lines}
        return sum(count for command, count in calls.items() if command not in ("info", "ping"))


class Serve(Store):
    def __init__(self, harness):
        keys = f"{harness.disk}/keys"
        with open(os.open(keys, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(KEY + "\n")
        # A copy, so that no memory is shared with the client, which mostly lives elsewhere.
        program = shutil.copy(SEMRUN, f"{harness.disk}/semrun-serve")
        command = [program, "serve", "--listen", "127.0.0.1:0", "--api-key-file", keys]
        self.process = harness.start(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        line = self.process.stdout.readline()
        if "listening" not in line:
            raise Trouble("semrun serve does not start")
        super().__init__("semrun serve", ["--backend", f"http://127.0.0.1:{line.split()[-1]}"])


class Queue:
    """Runs of one name, each of which ends when it is told to: they share their input and output,
    and one byte ends the run that holds the permit. Nothing reads the output meanwhile."""

    def __init__(self, harness, prefix):
        self.harness, self.prefix, self.running, self.count = harness, prefix, {}, 0
        self.holder = None
        self.input, self.tell = os.pipe()
        self.output, self.into = os.pipe()
        os.set_blocking(self.output, False)
        self.rest = b""

    def add(self, count=1):
        for _ in range(count):
            command = [*self.prefix, self.harness.tick, str(self.count)]
            self.running[self.count] = process = self.harness.start(
                command, stdin=self.input, stdout=self.into, stderr=subprocess.DEVNULL
            )
            self.count += 1
        return process

    def lines(self, count, seconds=30):
        """So many lines: (what, who, nanoseconds)."""
        deadline, found = time.monotonic() + seconds, []
        while len(found) < count:
            try:
                self.rest += os.read(self.output, 65536)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Trouble(f"not in time: {self.prefix[0]} runs the next") from None
                time.sleep(0.002)
            while b"\n" in self.rest and len(found) < count:
                line, self.rest = self.rest.split(b"\n", 1)
                what, who, when = line.decode().split()
                found.append((what, int(who), int(when)))
                if what == "start":
                    self.holder = int(who)
        return found

    def reap(self, number):
        process = self.running.pop(number)
        process.wait(10)
        self.harness.forget([process])

    def pass_on(self):
        """From the end of one command to the start of the next, and from before it was told to
        end. Seconds."""
        begin = time.monotonic_ns()
        os.write(self.tell, b"x")
        time.sleep(0.02)
        (_, ended, end), (what, _, start) = self.lines(2)
        if what != "start":
            raise Trouble("the next one did not start")
        self.reap(ended)
        return (start - end) / 1e9, (start - begin) / 1e9

    def kill(self):
        """From before the holder is killed, with its command, to the start of the next."""
        killed = self.holder
        begin = time.monotonic_ns()
        self.running[killed].kill()
        time.sleep(0.02)
        [(_, _, start)] = self.lines(1)
        self.reap(killed)
        return (start - begin) / 1e9

    def end(self, seconds=60):
        """All that are left run and end."""
        os.close(self.tell)
        os.close(self.into)
        os.close(self.input)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and select.select([self.output], [], [], 1):
            try:
                if not os.read(self.output, 65536):
                    break
            except BlockingIOError:
                pass
        os.close(self.output)
        for process in self.running.values():
            try:
                process.wait(max(0.01, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()
        self.harness.forget(self.running.values())


def quartiles(values):
    if len(values) < 2:
        return values[0], values[0], values[0]
    return tuple(statistics.quantiles(values, n=4, method="inclusive"))


def file_system(path):
    """The type of the file system that has a path."""
    best = ("", "?")
    for line in open("/proc/mounts"):
        _, point, kind, *_ = line.split()
        if (path + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


def machine():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    system = os.uname()
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return f"{date}; {system.sysname} {system.release} {system.machine}; {model}; {os.cpu_count()} cores; load {load}"
