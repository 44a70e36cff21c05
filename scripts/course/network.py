"""Downloads a file: nothing here waits for ever, and what came is compared with what was announced."""

import hashlib
import json
import queue
import threading
import time
import urllib.request
from pathlib import Path

from . import say

# Without a byte for so long, a server is taken for dead; a whole download may take so long.
STALL_SECONDS = 30
TOTAL_SECONDS = 600
LARGEST = 200 << 20
REDIRECTIONS = 5


class Redirections(urllib.request.HTTPRedirectHandler):
    max_redirections = REDIRECTIONS
    max_repeats = 2

    def redirect_request(self, request, *others):
        following = super().redirect_request(request, *others)
        if following is not None and request.type == "https" and following.type != "https":
            raise say.Failure(f"{request.full_url} leads to {following.full_url}, which is not encrypted")
        return following


def chunks(url: str, stall: float, total: float, largest: int):
    """The bytes of `url`, piece by piece; `Failure` says why they do not come.

    They are read in a thread: a name that nobody resolves and a header that comes byte by byte know
    no time limit of their own.
    """
    pieces, given_up = queue.SimpleQueue(), threading.Event()

    def read() -> None:
        try:
            receive(url, stall, largest, pieces.put, given_up)
            pieces.put(None)
        except Exception as error:
            pieces.put(error if isinstance(error, say.Failure) else say.Failure(f"{url}: {type(error).__name__}: {error}"))

    threading.Thread(target=read, daemon=True).start()
    until, came = time.monotonic() + total, 0
    try:
        while True:
            try:
                piece = pieces.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise say.Failure(f"{url} sent only {came} bytes in {say.seconds(total)}") from None
            if piece is None:
                return
            if isinstance(piece, Exception):
                raise piece
            came += len(piece)
            yield piece
    finally:
        given_up.set()


def receive(url: str, stall: float, largest: int, each, given_up: threading.Event) -> None:
    if not url.startswith(("https://", "http://")):
        raise say.Failure(f"{url!r} is no address of a web server")
    request = urllib.request.Request(url, headers={"User-Agent": "candle_course", "Accept-Encoding": "identity"})
    try:
        with urllib.request.build_opener(Redirections).open(request, timeout=stall) as reply:
            announced = int(reply.headers.get("Content-Length") or -1)
            if announced > largest:
                raise say.Failure(f"{url} announces {announced} bytes; at most {largest} were expected")
            came = 0
            # What the connection has, not a whole buffer, which would wait for the last of its bytes.
            while not given_up.is_set() and (piece := reply.read1(1 << 16)):
                came += len(piece)
                if came > largest:
                    raise say.Failure(f"{url} sends more than {largest} bytes")
                each(piece)
            if came < announced:
                raise say.Failure(f"{url} broke off after {came} of {announced} bytes")
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, TimeoutError):
            raise say.Failure(f"no byte came from {url} for {say.seconds(stall)}") from None
        raise say.Failure(f"{url}: {reason}") from None


def download(url: str, sha256: str, target: Path, stall: float = STALL_SECONDS, total: float = TOTAL_SECONDS, largest: int = LARGEST) -> None:
    """Writes `url` to `target` if its SHA-256 is `sha256` (in hexadecimal); else `Failure`, and no file."""
    digest = hashlib.sha256()
    try:
        with open(target, "wb") as file:
            for piece in chunks(url, stall, total, largest):
                digest.update(piece)
                file.write(piece)
        if digest.hexdigest() != sha256.lower():
            raise say.Failure(f"{url} has the SHA-256 {digest.hexdigest()} where {sha256} was expected; it is not used")
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def read_json(url: str, stall: float = STALL_SECONDS, total: float = 60, largest: int = 4 << 20):
    text = b"".join(chunks(url, stall, total, largest))
    try:
        return json.loads(text)
    except ValueError:
        raise say.Failure(f"{url} sent no JSON but {text[:40]!r} …") from None
