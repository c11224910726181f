#!/usr/bin/env python3
"""Draws docs/two-terminals.svg: a real session in two terminals.

    cargo build --release && docs/two-terminals.py

Each terminal is a shell on a host name of its own, so this needs root. What they show is what
semrun prints; only the cursor's movements are replayed here, as a terminal does it.
"""

import html
import os
import pathlib
import pty
import re
import select
import subprocess
import sys
import tempfile
import time

HOUSE = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = HOUSE / "target" / "release"
COLUMNS, ROWS = 78, 9
WIDTH, LINE, MARGIN, BAR = 8.4, 19, 14, 26
JOB = """#!/bin/sh
echo "migrating, with fencing token $SEMRUN_FENCING_TOKEN"
until [ -e done ]; do sleep 0.1; done
rm done
echo "migrated"
"""


class Terminal:
    """A shell on a terminal, and what is to be seen there."""

    def __init__(self, host, directory):
        environment = {
            "PATH": f"{PROGRAM}:{os.environ['PATH']}",
            "TERM": "xterm",
            "PS1": f"{host}$ ",
            "LC_ALL": "C.UTF-8",
            "SEMRUN_BACKEND": f"file://{directory}/permits",
        }
        shell = f"hostname {host}; stty cols {COLUMNS} rows {ROWS}; exec bash --norc --noprofile -i"
        ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            ["unshare", "--uts", "sh", "-c", shell],
            stdin=theirs, stdout=theirs, stderr=theirs,
            cwd=directory, env=environment, start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
        )
        os.close(theirs)
        self.fd, self.host = ours, host
        self.lines, self.row, self.column = [""], 0, 0
        self.shows(f"{host}$ ")

    def read(self, seconds):
        if select.select([self.fd], [], [], seconds)[0]:
            try:
                self.take(os.read(self.fd, 65536).decode())
            except OSError:
                pass

    def shows(self, text):
        """Waits until the screen has a text."""
        end = time.monotonic() + 20
        while not any(text in line for line in self.lines):
            if time.monotonic() > end:
                sys.exit(f"{self.host} does not show {text!r}: {self.lines}")
            self.read(0.1)

    def types(self, line):
        os.write(self.fd, f"{line}\n".encode())

    def take(self, text):
        for part in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|\x1b.|[\r\n\a]|[^\x1b\r\n\a]+", text):
            if part == "\n":
                self.row += 1
                self.lines += [""] * (self.row + 1 - len(self.lines))
            elif part == "\r":
                self.column = 0
            elif part.endswith("K") and part.startswith("\x1b["):
                self.lines[self.row] = "" if "2" in part else self.lines[self.row][: self.column]
            elif part[0] not in "\x1b\a":
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + part + line[self.column + len(part):]
                self.column += len(part)

    def end(self):
        os.close(self.fd)
        self.process.wait(timeout=20)


def panel(title, lines, top):
    """One terminal at one moment."""
    height = BAR + ROWS * LINE + MARGIN
    wide = COLUMNS * WIDTH + 2 * MARGIN
    yield f'<rect x="0" y="{top}" width="{wide:.0f}" height="{height}" rx="8" class="screen"/>'
    yield f'<text x="{MARGIN}" y="{top + 18}" class="title">{html.escape(title)}</text>'
    for number, line in enumerate(lines[-ROWS:]):
        y = top + BAR + (number + 1) * LINE - 4
        prompt = re.match(r"(\w+\$ )(.*)", line)
        text = html.escape(line)
        if prompt:
            first, rest = map(html.escape, prompt.groups())
            text = f'<tspan class="prompt">{first}</tspan><tspan class="typed">{rest}</tspan>'
        elif line.startswith("semrun:"):
            text = f'<tspan class="semrun">{text}</tspan>'
        yield f'<text x="{MARGIN}" y="{y}" xml:space="preserve">{text}</text>'


def picture(panels):
    height = BAR + ROWS * LINE + MARGIN
    whole = len(panels) * (height + MARGIN) - MARGIN
    yield (
        '<svg xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 {COLUMNS * WIDTH + 2 * MARGIN:.0f} {whole}" '
        'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="14">'
    )
    yield "<title>Two terminals: the second semrun waits until the first one has ended</title>"
    yield (
        "<style>.screen{fill:#1d2330}text{fill:#d8dee9}.title{fill:#8a94a6;font-size:12px}"
        ".prompt{fill:#88c070}.typed{fill:#ffffff}.semrun{fill:#ebcb8b}</style>"
    )
    for number, (title, lines) in enumerate(panels):
        yield from panel(title, lines, number * (height + MARGIN))
    yield "</svg>"


def main():
    with tempfile.TemporaryDirectory() as directory:
        here = pathlib.Path(directory)
        job = here / "migrate.sh"
        job.write_text(JOB)
        job.chmod(0o755)
        first, second = Terminal("web1", directory), Terminal("web2", directory)
        first.types("semrun --name deploy -- ./migrate.sh")
        first.shows("migrating, ")
        time.sleep(2)
        second.types("semrun --name deploy -- ./migrate.sh")
        second.shows("semrun: wait")
        for _ in range(30):
            second.read(0.1)
        waiting = list(second.lines)
        (here / "done").touch()
        first.shows("migrated")
        first.read(0.2)
        second.shows("migrating, ")
        time.sleep(2)
        first.types("semrun status deploy")
        first.shows("deploy: ")
        for _ in range(5):
            first.read(0.1)
        lines = [line.rstrip() for line in first.lines]
        shown = [line for line in lines if line and line != "web1$"]
        drawn = [("web1", shown), ("web2, meanwhile", waiting)]
        (here / "done").touch()
        second.shows("migrated")
        first.end()
        second.end()
    target = HOUSE / "docs" / "two-terminals.svg"
    target.write_text("\n".join(picture(drawn)) + "\n")


main()
