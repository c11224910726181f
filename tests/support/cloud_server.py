"""A double of the original cloud-semaphore server, with its weak points: what the Node program
does in a case that its wire protocol describes, this does. One thread, all state in memory.

Usage: cloud_server.py [HOST:]PORT KEY... [--tls CERT KEY]
"""

import asyncio
import json
import os
import ssl
import sys
import urllib.parse
import uuid

REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found",
           413: "Payload Too Large", 422: "Unprocessable Entity",
           431: "Request Header Fields Too Large", 500: "Requesting client closed connection."}
KEEP_ALIVE, SLOW_REQUEST = 5, 60
LONGEST_HEAD, LONGEST_BODY = 16 * 1024, 100 * 1024

keys = set()
semaphores = {}
logged = {
    "server": {"info": True, "alert": True, "sem_events": False, "sem_transition": False,
               "debug": False},
    "client": {"network_status": False, "network_errors": True, "usage_errors": False},
    "test": {"harness_info": False, "info": False, "flaw": True, "results": True, "summary": True},
}


def log(event, text):
    if logged["server"][event]:
        print("server:", text, flush=True)


def crash(why):
    """What an exception in a handler does to the original."""
    print("crashed:", why, file=sys.stderr, flush=True)
    os._exit(70)


class Refused(Exception):
    """A request that cannot be understood; the connection ends with the answer."""


class Request:
    """A request, and how to answer it: at once, or much later."""

    def __init__(self, writer, head):
        lines = head.decode("latin-1").split("\r\n")
        parts = lines[0].split(" ")
        if len(parts) != 3 or not parts[1].startswith("/") or parts[2][:7] != "HTTP/1.":
            raise Refused(400)
        self.method, target, version = parts
        path, _, query = target.partition("?")
        self.path = path.lower().removesuffix("/")
        self.query = urllib.parse.parse_qsl(query, keep_blank_values=True)
        if any(":" not in line for line in lines[1:]):
            raise Refused(400)
        fields = (line.split(":", 1) for line in lines[1:])
        self.headers = {field.lower(): value.strip() for field, value in fields}
        connection = self.headers.get("connection", "").lower()
        self.lasting = version == "HTTP/1.1" and connection != "close"
        self.writer, self.body, self.data = writer, b"", {}
        self.answered = asyncio.get_running_loop().create_future()
        self.on_close = lambda: None

    def name(self):
        values = [value for key, value in self.query if key == "name"]
        return ",".join(values) if values else "undefined"

    def id(self):
        return self.headers.get("x-client-uuid")

    def answer(self, status, body="", kind="text/html; charset=utf-8"):
        if self.answered.done():
            return
        body = body.encode()
        head = [f"HTTP/1.1 {status} {REASONS[status]}", f"Content-Length: {len(body)}"]
        if body:
            head.append(f"Content-Type: {kind}")
        head.append("Connection: " + ("keep-alive" if self.lasting else "close"))
        text = "\r\n".join(head).encode() + b"\r\n\r\n"
        self.writer.write(text if self.method == "HEAD" else text + body)
        self.answered.set_result(None)


class Client:
    def __init__(self):
        self.id = str(uuid.uuid4())
        self.monitor = self.wait = None  # the requests, while they are attached
        self.arrived = {"monitor": False, "wait": False}

    def attach(self, which, request):
        setattr(self, which, request)
        self.arrived[which] = True

    def end(self, which, status):
        request = getattr(self, which)
        setattr(self, which, None)
        if request:
            request.answer(status)

    def shown(self):
        return {"id": self.id, "monitor": self.arrived["monitor"], "waiter": self.arrived["wait"],
                "error": None, "refCount": bool(self.monitor) + bool(self.wait)}


class Semaphore:
    def __init__(self, name):
        self.name, self.clients, self.waiting, self.running = name, {}, [], None

    def log(self, id, action):
        log("sem_transition", f"[{self.name}:{id}:server] {action}")

    def attach(self, which, request):
        client = self.clients.get(request.id())
        if client is None:
            crash(f"a {which} of {request.id()}, who is not known")
        if all(client.arrived.values()):
            # The wait ends, and yet the client stays in the queue.
            client.end("wait", 500)
            return request.answer(404)
        client.attach(which, request)
        request.on_close = lambda: self.closed(which, client, request)
        if all(client.arrived.values()):
            self.waiting.append(client.id)
            self.log(client.id, "waiting")
            self.grant()

    def grant(self):
        if self.running is None and self.waiting:
            self.running = self.waiting.pop(0)
            self.log(self.running, "holding")
            self.clients[self.running].end("wait", 200)

    def remove(self, id):
        """Takes a client out, whatever it is at, and grants to the next."""
        client = self.clients.pop(id)
        if id in self.waiting:
            self.waiting.remove(id)
        if self.running == id:
            self.running = None
            self.log(id, "releasing")
            self.grant()
        return client

    def closed(self, which, client, request):
        if getattr(client, which) is request:
            setattr(client, which, None)
        if which == "monitor" and client.id in self.clients:
            self.remove(client.id).end("wait", 500)

    def signal(self, request):
        id = request.id()
        if id is None or id != self.running:
            if id in self.clients:
                self.clients[id].end("wait", 500)  # and stays in the queue
            return request.answer(422)
        client = self.remove(id)
        request.answer(200)
        client.end("monitor", 200)

    def shown(self):
        clients = {id: client.shown() for id, client in self.clients.items()}
        document = {"nodes": clients, "waiting": self.waiting, "running": self.running,
                    "name": self.name}
        return json.dumps(document, indent=4, ensure_ascii=False)


def register(request):
    client = Client()
    semaphores.setdefault(request.name(), Semaphore(request.name())).clients[client.id] = client
    request.answer(200, client.id)


def observe(request):
    semaphore = semaphores.get(request.name())
    request.answer(200, semaphore.shown() if semaphore else "")


def known(action):
    def route(request):
        semaphore = semaphores.get(request.name())
        return action(semaphore, request) if semaphore else request.answer(404)
    return route


def logconfig(request):
    changes = request.data.items() if isinstance(request.data, dict) else ()
    for component, events in changes:
        if component not in logged:
            return request.answer(200)
        if events is None:
            crash("a component that is null")
        for event, value in events.items() if isinstance(events, dict) else ():
            if event not in logged[component]:
                return request.answer(200)
            logged[component][event] = value
    request.answer(200, json.dumps(logged, indent=2), "application/json; charset=utf-8")


ROUTES = {
    ("GET", "/semaphore/register"): register,
    ("GET", "/semaphore/monitor"): known(lambda s, request: s.attach("monitor", request)),
    ("GET", "/semaphore/wait"): known(lambda s, request: s.attach("wait", request)),
    ("GET", "/semaphore/signal"): known(Semaphore.signal),
    ("GET", "/semaphore/observe"): observe,
    ("PATCH", "/logconfig"): logconfig,
}


def dispatch(request):
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "application/json" and request.body:
        try:
            request.data = json.loads(request.body)
            if not isinstance(request.data, (dict, list)):
                raise ValueError("neither an object nor an array")
        except ValueError:
            return request.answer(400)
    method = "GET" if request.method == "HEAD" else request.method
    route = ROUTES.get((method, request.path))
    if route is None:
        return request.answer(404, "no such route")
    if request.headers.get("x-api-key") not in keys:
        return request.answer(401)
    route(request)


class Connection:
    def __init__(self, reader, writer):
        self.reader, self.writer, self.buffer, self.reading = reader, writer, b"", None

    async def more(self, seconds=None, until=()):
        """Reads on; returns early, with what is being read kept for later, once `until` is done.
        EOFError: the other side has closed, at least its half."""
        self.reading = self.reading or asyncio.ensure_future(self.reader.read(65536))
        done, _ = await asyncio.wait({self.reading, *until}, timeout=seconds,
                                     return_when=asyncio.FIRST_COMPLETED)
        if self.reading in done:
            data, self.reading = self.reading.result(), None
            if not data:
                raise EOFError
            self.buffer += data
        elif not done:
            raise EOFError

    async def up_to(self, mark, most, status):
        while mark not in self.buffer:
            if len(self.buffer) > most:
                raise Refused(status)
            await self.more(SLOW_REQUEST)
        text, _, self.buffer = self.buffer.partition(mark)
        return text

    async def exactly(self, length):
        if length > LONGEST_BODY:
            raise Refused(413)
        while len(self.buffer) < length:
            await self.more(SLOW_REQUEST)
        text, self.buffer = self.buffer[:length], self.buffer[length:]
        return text

    async def body(self, request):
        if request.headers.get("transfer-encoding", "").lower() != "chunked":
            return await self.exactly(int(request.headers.get("content-length", 0)))
        body = b""
        while size := int(await self.up_to(b"\r\n", LONGEST_HEAD, 400), 16):
            body += (await self.exactly(size + 2))[:-2]
        await self.up_to(b"\r\n", LONGEST_HEAD, 400)
        return body

    async def request(self, seconds):
        if not self.buffer:
            await self.more(seconds)
        request = Request(self.writer, await self.up_to(b"\r\n\r\n", LONGEST_HEAD, 431))
        try:
            request.body = await self.body(request)
        except ValueError:
            raise Refused(400) from None
        return request

    async def serve(self):
        request = await self.request(SLOW_REQUEST)
        while True:
            try:
                dispatch(request)
                while not request.answered.done():
                    await self.more(until={request.answered})
            finally:
                if not request.answered.done():
                    request.on_close()
            if not request.lasting:
                return
            request = await self.request(KEEP_ALIVE)


async def accept(reader, writer):
    connection = Connection(reader, writer)
    try:
        await connection.serve()
    except Refused as refusal:
        status = refusal.args[0]
        head = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Length: 0\r\nConnection: close"
        writer.write(head.encode() + b"\r\n\r\n")
    except (EOFError, OSError):
        pass
    finally:
        if connection.reading:
            connection.reading.cancel()
        writer.close()


async def main(address, *words):
    host, _, port = address.rpartition(":")
    tls = None
    if "--tls" in words:
        *words, _, certificate, key = words
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
    if any(len(key) < 10 for key in words):
        sys.exit("a key is too short")
    keys.update(words)
    server = await asyncio.start_server(
        accept, host or "127.0.0.1", int(port), ssl=tls, backlog=511)
    log("info", f"The server is listening on port {server.sockets[0].getsockname()[1]}")
    await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
