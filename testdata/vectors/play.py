#!/usr/bin/env python3
"""Play the conformance vectors of a tracker from outside: over TCP, in real time.

    play.py --start 'ntrack serve {options}'                    all of testdata/vectors/tracker
    play.py --start 'ntrack serve {options}' leave 'stream-*'   some, by name

COMMAND is a line for /bin/sh. It runs once for each vector, and is killed after it. {options}
stands for what the tracker has to do then, in the words of ntrack serve:

    --listen 127.0.0.1:PORT     listen there, and nowhere else
    --proxy 127.0.0.1           believe the header X-Forwarded-For of this host
    --interval SECONDSs         the announce interval, as in 60s
    --max-rate N                no --interval: it follows the load, for N announces a second
    --index                     the index is on
    --page                      visitors get a page
    --token-file FILE           clients need the token in FILE
    --deny FILE                 refuse the keys and networks in FILE
    --proxy NETWORK             believe a network, too, such as 10.0.0.0/8
    --max-per-addr N            at most N peers of one address, of all keys together

The first two are always there, and so is one of the next two. The others are there if the vector
asks for them. A tracker with other options needs a script before it, as README.md beside this file
shows. A command that cannot do what the options say ends with status 77.

A command that ends, or does not listen within ten seconds, is run once more, on another port.

Many vectors are played at a time. A vector is left out, and named, if it lasts longer than
--max-time, if no option gives what it needs, or if its command ends with status 77. A vector that
fails is named with the first step that went wrong. The last line counts:

    N passed, N failed, N left out

The exit status is 0 if no vector failed, 1 if one did, and 2 if nothing could be played.
"""
import argparse
import asyncio
import datetime
import email.utils
import fnmatch
import json
import os
import pathlib
import re
import shlex
import signal
import socket
import sys
import tempfile

TOGETHER = 32  # vectors that are played at a time
PATIENCE = 10  # seconds for a tracker to listen, to reply, and to close a connection
LATE = 2  # seconds for what is due on a stream: the tracker or this host may be slow
QUIET = 0.3  # seconds in which a stream sends nothing more
SILENCE = 15 + LATE  # seconds in which a stream sends something, if only a heartbeat
LARGEST = 16 << 20  # bytes of a reply

PRINTABLE = re.compile(rb"[^\x00-\x1f\x7f]*")
HEARTBEAT = re.compile(rb"(?m)^:\n\n")
NUMBER = re.compile(rb"(?:0|[1-9][0-9]{0,17})(?![0-9])")

HERE = pathlib.Path(__file__).resolve().parent
SETUP = {"interval", "max_rate", "index", "token", "deny", "proxies", "max_want",
         "max_per_addr", "page"}
STEP = {"at", "from", "send", "reuse", "repeat", "in_pieces", "half_close", "status", "headers",
        "body", "closed", "stream", "hang_up"}


class Wrong(Exception):
    """The tracker did not do what the vector says."""


class NoTracker(Exception):
    """The command did not start a tracker."""


class LeftOut(Exception):
    """The tracker cannot do what the vector needs."""


# Bodies. A body is a string, or a list of parts. "texts" has what each "as" stands for.


def octets(text):
    return text.encode("latin-1")  # each character of a vector is one byte


def parts_of(body):
    return [body] if isinstance(body, str) else body


def match(body, got, texts):
    """Say whether got is what body says. If it is, add to texts what is new."""
    for learned in matches(parts_of(body), got, 0, texts):
        texts.update(learned)
        return True
    return False


def matches(parts, got, at, texts):
    """Yield the texts of each way in which got, from the byte at on, is parts."""
    if not parts:
        if at == len(got):
            yield texts
        return
    part, rest, name = parts[0], parts[1:], None
    if isinstance(part, str):
        ends = literal(octets(part), got, at)
    elif "pick" in part:
        ends = pick(part, got, at)
    elif "number" in part:
        ends = number(part["number"], got, at)
    elif "either" in part:
        for body in part["either"]:
            yield from matches(parts_of(body) + rest, got, at, texts)
        return
    elif part.get("as") in texts:
        ends = literal(texts[part["as"]], got, at)
    else:  # "any", or an "as" that is new
        name = part.get("as")
        ends = range(at + 1, PRINTABLE.match(got, at).end() + 1)
    for end in ends:
        yield from matches(rest, got, end, {**texts, name: got[at:end]} if name else texts)


def literal(want, got, at):
    return [at + len(want)] if got.startswith(want, at) else []


def number(within, got, at):
    found = NUMBER.match(got, at)
    return [found.end()] if found and within[0] <= int(found.group()) <= within[1] else []


def pick(part, got, at):
    """Where several elements fit, the longest is meant. So there is only one way."""
    left = {}
    for element in part["of"]:
        for text in repeated(element["text"], element) if isinstance(element, dict) else [element]:
            left[octets(text)] = left.get(octets(text), 0) + 1
    lengths = sorted({len(text) for text in left}, reverse=True)
    sep = octets(part.get("sep", ""))
    for i in range(part["pick"]):
        if i > 0:
            if not got.startswith(sep, at):
                return []
            at += len(sep)
        text = next((got[at:at + n] for n in lengths if left.get(got[at:at + n], 0) > 0), None)
        if text is None:
            return []
        left[text] -= 1
        at += len(text)
    return [at]


def repeated(text, of):
    """Return text once for each number of "repeat", which stands for {n}."""
    if "repeat" not in of:
        return [text]
    first, last = of["repeat"]
    return [text.replace("{n}", str(n)) for n in range(first, last + 1)]


# Connections.


class Connection:
    """One connection to the tracker. It reads all the time, whether or not anybody waits."""

    @classmethod
    async def open(cls, port):
        c = cls()
        dial = asyncio.open_connection("127.0.0.1", port)
        c.reader, c.writer = await asyncio.wait_for(dial, PATIENCE)
        c.got, c.ended = b"", False
        c.heard, c.silence = now(), 0  # when something came last, and the longest time without
        c.news = asyncio.Event()
        c.reading = asyncio.create_task(c.read())
        return c

    async def read(self):
        while not self.ended and len(self.got) <= LARGEST:
            try:
                data = await self.reader.read(1 << 16)
            except OSError:
                data = b""
            self.got += data
            self.ended = not data
            self.silence, self.heard = max(self.silence, now() - self.heard), now()
            self.news.set()

    async def more(self, seconds):
        """Wait for bytes, or for the end of the connection. Say whether something came in time."""
        if len(self.got) > LARGEST:
            raise Wrong("the tracker sent more than %d bytes" % LARGEST)
        self.news.clear()
        try:
            await asyncio.wait_for(self.news.wait(), 0 if self.ended else max(0, seconds))
        except asyncio.TimeoutError:
            return False
        return True

    async def until(self, done, seconds):
        """Read until done() is true. Say whether that was in time."""
        deadline = now() + seconds
        while not done():
            if not await self.more(deadline - now()):
                return done()
        return True

    async def quiet(self):
        """Read until nothing has come for a while."""
        deadline = now() + LATE
        while now() < deadline and await self.more(QUIET):
            pass

    def take(self, n):
        data, self.got = self.got[:n], self.got[n:]
        return data

    async def send(self, request, in_pieces, half_close):
        size = 1 if in_pieces else len(request)
        for i in range(0, len(request), size):
            self.writer.write(request[i:i + size])
            await asyncio.sleep(0)
        if half_close:
            self.half_close()

    def half_close(self):
        try:
            self.writer.write_eof()
        except OSError:
            pass  # the tracker has closed the connection, which the next step sees

    async def head(self):
        """Read a status and the headers of a reply, by their names in lower case."""
        if not await self.until(lambda: b"\r\n\r\n" in self.got, PATIENCE):
            raise Wrong("the %s, and no reply has come, but %s" % (
                "connection has ended" if self.ended else "time is up", show(self.got)))
        lines = self.take(self.got.index(b"\r\n\r\n") + 4).decode("latin-1").split("\r\n")
        status = re.fullmatch(r"HTTP/1\.[01] ([0-9]{3})( .*)?", lines[0])
        if not status:
            raise Wrong("the status line is %s" % show(lines[0]))
        headers = {}
        for line in lines[1:-2]:
            name, _, value = line.partition(":")
            headers.setdefault(name.lower(), []).append(value.strip())
        if "transfer-encoding" in headers:
            raise Wrong("the reply is sent in chunks")
        return int(status.group(1)), headers

    def close(self):
        self.reading.cancel()
        self.writer.close()


def now():
    return asyncio.get_running_loop().time()


def show(got):
    text = repr(got)
    return text if len(text) <= 2000 else text[:2000] + "... (%d bytes)" % len(got)


# Vectors.


class Play:
    """One vector, played to one tracker."""

    def __init__(self, vector, port):
        self.steps, self.port = vector["steps"], port
        self.texts, self.streams, self.last = {}, {}, None

    async def run(self):
        began, at = now(), 0
        try:
            for i, step in enumerate(self.steps):
                at = step.get("at", at)
                await asyncio.sleep(began + at - now())
                try:
                    await (self.stream(step) if "stream" in step else self.request(step))
                except (Wrong, OSError, asyncio.TimeoutError) as e:
                    what = step.get("send", "stream " + step.get("stream", "")).split("\r\n")[0]
                    raise Wrong("step %d, %s: %s" % (i + 1, show(what), str(e) or "too slow"))
        finally:
            for c in [*self.streams.values(), self.last]:
                if c:
                    c.close()

    async def request(self, step):
        if not step.get("reuse"):
            self.hang_up()
        for request in repeated(step["send"], step):
            c = self.last = self.last or await Connection.open(self.port)
            status, headers = await self.head(step, request, c)
            await self.rest(step, request, c, status, headers)
            if "repeat" in step and "close" in " ".join(headers.get("connection", [])).lower():
                self.hang_up()

    def hang_up(self):
        """Close the connection of the last request."""
        if self.last:
            self.last.close()
        self.last = None

    async def head(self, step, request, c):
        """Send a request and check the beginning of its reply."""
        await c.send(forwarded(request, step["from"]), step.get("in_pieces"),
                     step.get("half_close") and "stream" not in step)
        status, headers = await c.head()
        if status != step["status"]:
            await c.quiet()
            raise Wrong("status %d, want %d; after it %s" % (status, step["status"], show(c.got)))
        for name, want in step.get("headers", {}).items():
            check_header(name, headers.get(name.lower(), []), want, headers, self.texts)
        return status, headers

    async def rest(self, step, request, c, status, headers):
        """Check the body of a reply, and that nothing follows it."""
        length = 0
        if status == 400 and "body" not in step and "content-length" not in headers:
            # An HTTP server below the tracker has refused the request.
            length = len(c.got) if await c.until(lambda: c.ended, PATIENCE) else LARGEST
        elif status != 204 and not request.startswith("HEAD "):
            if not re.fullmatch("[0-9]{1,9}", headers.get("content-length", [""])[0]):
                raise Wrong("the reply has no Content-Length")
            length = int(headers["content-length"][0])
        elif status == 204 and "content-length" in headers:
            raise Wrong("a reply of status 204 has a Content-Length")
        if not await c.until(lambda: len(c.got) >= length, PATIENCE):
            raise Wrong("the body has %d of %d bytes: %s" % (len(c.got), length, show(c.got)))
        self.check_body(step, c.take(length))
        if step.get("closed") and not await c.until(lambda: c.ended, PATIENCE):
            raise Wrong("the connection is still open")
        if c.got:
            raise Wrong("after the reply came %s" % show(c.got))

    async def stream(self, step):
        name = step["stream"]
        if "send" in step:
            c = self.streams[name] = await Connection.open(self.port)
            if "content-length" in (await self.head(step, step["send"], c))[1]:
                raise Wrong("a stream has no Content-Length")
        c = self.streams[name]
        if "body" in step or step.get("hang_up"):
            await self.check_stream(step, c)
        if step.get("half_close"):
            c.half_close()
        if step.get("hang_up"):
            self.streams.pop(name).close()

    async def check_stream(self, step, c):
        if "body" in step:
            await c.until(lambda: match(step["body"], events(c.got), dict(self.texts)), LATE)
        if step.get("closed"):
            await c.until(lambda: c.ended, PATIENCE)
        else:
            await c.quiet()
        self.check_body(step, events(c.got))
        c.got = b""
        if c.ended and not step.get("closed"):
            raise Wrong("the tracker has closed the stream")
        if step.get("closed") and not c.ended:
            raise Wrong("the stream is still open")
        if max(c.silence, 0 if c.ended else now() - c.heard) > SILENCE:
            raise Wrong("nothing has come for more than %d seconds" % SILENCE)

    def check_body(self, step, got):
        if "body" in step and not match(step["body"], got, self.texts):
            raise Wrong("the body is\n    got  %s\n    want %s" % (show(got), show(step["body"])))


def events(got):
    """Return what has come on a stream, without heartbeats."""
    return HEARTBEAT.sub(b"", got)


def check_header(name, got, want, headers, texts):
    if isinstance(want, str) and want.startswith("Date+"):
        date = email.utils.parsedate_to_datetime(headers.get("date", [""])[0])
        date += datetime.timedelta(seconds=int(want[len("Date+"):]))
        want = email.utils.format_datetime(date, usegmt=True)
    right = not got if want is None else len(got) == 1 and match(want, octets(got[0]), texts)
    if not right:
        raise Wrong("the header %s: got %r, want %r" % (name, got, want))


def forwarded(request, source):
    """Add a last header that says where the request comes from."""
    head, end, body = request.partition("\r\n\r\n")
    return octets(head + "\r\nX-Forwarded-For: " + source + end + body if end else request)


def duration(vector):
    return max(step.get("at", 0) for step in vector["steps"])


def why_not(vector, most):
    """Say why a vector cannot be played. The answer is empty if it can."""
    if duration(vector) > most:
        return "it lasts %d seconds" % duration(vector)
    if any(step.get("from") == "unix" for step in vector["steps"]):
        return "it needs a Unix socket"
    if "max_want" in vector.get("tracker", {}):
        return "it needs a limit of numwant"
    return ""


def load(file):
    vector = json.loads(file.read_text(encoding="utf-8"))
    unknown = set(vector) - {"about", "tracker", "steps"} | set(vector.get("tracker", {})) - SETUP
    for step in vector["steps"]:
        unknown |= set(step) - STEP
    if unknown:
        raise SystemExit("play.py: %s has unknown fields: %s" % (file, ", ".join(sorted(unknown))))
    return vector


# Trackers.


def options(setup, port, folder):
    """Return the options for a tracker that is set up as a vector asks."""
    words = ["--listen", "127.0.0.1:%d" % port, "--proxy", "127.0.0.1"]
    if "max_rate" in setup:
        words += ["--max-rate", str(setup["max_rate"])]
    else:
        words += ["--interval", "%ds" % setup.get("interval", 60)]
    if setup.get("index"):
        words.append("--index")
    if setup.get("page"):
        words.append("--page")
    if "token" in setup:
        file = pathlib.Path(folder, "token")
        file.write_text(setup["token"], encoding="utf-8")
        words += ["--token-file", str(file)]
    if "deny" in setup:
        file = pathlib.Path(folder, "deny")
        file.write_text("\n".join(setup["deny"]) + "\n", encoding="utf-8")
        words += ["--deny", str(file)]
    for network in setup.get("proxies", []):
        words += ["--proxy", network]
    if "max_per_addr" in setup:
        words += ["--max-per-addr", str(setup["max_per_addr"])]
    return " ".join(map(shlex.quote, words))


class Tracker:
    """A tracker that runs as long as the "async with" block."""

    def __init__(self, start, setup):
        self.start, self.setup = start, setup

    async def __aenter__(self):
        try:
            await self.begin()
        except NoTracker:  # another program may have taken the port
            await self.begin()
        return self

    async def begin(self):
        self.folder = tempfile.TemporaryDirectory()
        self.output = tempfile.TemporaryFile()
        self.reserved, self.port = reserve_port()
        command = self.start.replace("{options}", options(self.setup, self.port, self.folder.name))
        self.process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", command, start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL, stdout=self.output, stderr=self.output)
        try:
            await self.listening(command)
        except BaseException:
            await self.__aexit__()
            raise

    async def __aexit__(self, *error):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended by itself
        await self.process.wait()
        self.reserved.close()
        self.output.close()
        self.folder.cleanup()

    async def listening(self, command):
        deadline = now() + PATIENCE
        while now() < deadline and self.process.returncode is None:
            try:
                (await Connection.open(self.port)).close()
                return
            except OSError:
                await asyncio.sleep(0.02)
        self.output.seek(0)
        wrote = self.output.read(10000).decode(errors="replace").strip() or "nothing"
        if self.process.returncode == 77:
            raise LeftOut(wrote)
        did = "does not listen after %d seconds" % PATIENCE
        if self.process.returncode is not None:
            did = "has ended with status %d" % self.process.returncode
        raise NoTracker("the command %s\n  it was: %s\n  it wrote: %s" % (
            did, command, wrote.replace("\n", "\n  ")))


def reserve_port():
    """Return a socket, and a TCP port that is free. While the socket is open, nobody gets the port
    from this function, not even in another run: it is a UDP socket with the same number."""
    while True:
        with socket.socket() as tcp:
            tcp.bind(("127.0.0.1", 0))
            udp = socket.socket(type=socket.SOCK_DGRAM)
            try:
                udp.bind(tcp.getsockname())
                return udp, tcp.getsockname()[1]
            except OSError:
                udp.close()


# The program.


async def play_all(vectors, start, left_out):
    """Play the vectors, the longest first. Return the names of those that fail."""
    async with Tracker(start, {}):
        pass  # a command that does not start a tracker fails here, once
    print("%d to play; the longest lasts %d seconds" % (
        len(vectors), max(map(duration, vectors.values()), default=0)), file=sys.stderr, flush=True)
    free, failed = asyncio.Semaphore(TOGETHER), []

    async def play(name, vector):
        async with free:
            try:
                async with Tracker(start, vector.get("tracker", {})) as tracker:
                    await Play(vector, tracker.port).run()
            except LeftOut as e:
                left_out(name, e)
            except (Wrong, NoTracker) as e:
                failed.append(name)
                print("FAILED %s: %s\n  %s" % (name, vector["about"], e), flush=True)

    longest = sorted(vectors.items(), key=lambda item: -duration(item[1]))
    await asyncio.gather(*(play(name, vector) for name, vector in longest))
    return failed


def parse_args():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--start", required=True, metavar="COMMAND",
                   help="how to start a tracker, with {options} where its options go")
    p.add_argument("--max-time", type=float, default=160, metavar="SECONDS",
                   help="leave out vectors that last longer (default 160)")
    p.add_argument("name", nargs="*",
                   help="a vector's name, or a pattern such as 'stream-*' (default: all)")
    args = p.parse_args()
    if "{options}" not in args.start:
        p.error("--start needs {options} where the tracker's options go: 'ntrack serve {options}'")
    files = {f.stem: f for f in sorted((HERE / "tracker").glob("*.json"))}
    for pattern in args.name:
        if not fnmatch.filter(files, pattern):
            p.error("no vector in %s is called %s" % (HERE / "tracker", pattern))
    if not files:
        p.error("there is no vector in %s" % (HERE / "tracker"))
    args.vectors = {name: load(file) for name, file in files.items()
                    if not args.name or any(fnmatch.fnmatch(name, p) for p in args.name)}
    return args


async def main():
    args = parse_args()
    # An interrupted run ends its trackers, too.
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(s, task.cancel)

    out = []

    def left_out(name, reason):
        out.append(name)
        print("left out %s: %s" % (name, reason), flush=True)

    for name, vector in args.vectors.items():
        if why_not(vector, args.max_time):
            left_out(name, why_not(vector, args.max_time))
    played = {name: vector for name, vector in args.vectors.items() if name not in out}
    try:
        failed = await play_all(played, args.start, left_out)
    except (NoTracker, LeftOut) as e:
        print("play.py: no tracker with the least of options: %s" % e, file=sys.stderr)
        return 2
    except asyncio.CancelledError:
        print("play.py: interrupted", file=sys.stderr)
        return 2
    print("%d passed, %d failed, %d left out" % (
        len(args.vectors) - len(failed) - len(out), len(failed), len(out)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
