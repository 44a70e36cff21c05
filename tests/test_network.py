"""Downloads from servers that stall, drip, cut, lie or lead in circles."""

import contextlib
import hashlib
import io
import json
import re
import socket
import tarfile
import threading

import pytest
from course import evcxr, network, paths, reliability, say

BODY = bytes(range(256)) * 40
DIGEST = hashlib.sha256(BODY).hexdigest()
# As the limits of the module, made short enough to be waited for.
STALL, TOTAL = 0.3, 2.0


class Server:
    """Answers every connection with `answer(send, path)`, byte by byte as that likes; counts the requests."""

    def __init__(self, answer):
        self.answer, self.requests, self.over = answer, [], threading.Event()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection):
        with contextlib.suppress(OSError), connection:
            request = b""
            while b"\r\n\r\n" not in request:
                received = connection.recv(65536)
                if not received:
                    return  # Who called has given up.
                request += received
            path = request.split()[1].decode()
            self.requests.append(path)
            self.answer(self, connection.sendall, path)

    def stop(self):
        self.over.set()
        self.socket.close()


@pytest.fixture
def serve():
    servers = []

    def start(answer):
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def head(length=len(BODY), status="200 OK", more=""):
    announced = "" if length is None else f"Content-Length: {length}\r\n"
    return f"HTTP/1.1 {status}\r\n{announced}{more}Connection: close\r\n\r\n".encode()


def silent(server, send, path):
    server.over.wait(60)


def stalled(server, send, path):
    send(head() + BODY[:100])
    server.over.wait(60)


def dripping(server, send, path):
    send(head())
    for byte in BODY:
        send(bytes([byte]))
        if server.over.wait(0.05):
            return


def dripping_header(server, send, path):
    send(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while not server.over.wait(0.05):
        send(b"x")


def cut(server, send, path):
    send(head() + BODY[:5000])


def endless(server, send, path):
    send(head(None))
    while not server.over.is_set():
        send(BODY * 100)


def huge(server, send, path):
    send(head(10**12))


def circle(server, send, path):
    send(head(0, "302 Found", "Location: again\r\n"))


def spiral(server, send, path):
    send(head(0, "302 Found", f"Location: {server.url}/{len(server.requests)}\r\n"))


def nowhere(server, send, path):
    send(head(0, "302 Found"))


def to_a_file(server, send, path):
    send(head(0, "302 Found", "Location: file:///etc/passwd\r\n"))


def missing(server, send, path):
    send(head(4, "404 Not Found") + b"none")


def busy(server, send, path):
    send(head(0, "503 Service Unavailable", "Retry-After: 1000\r\n"))


def noise(server, send, path):
    send(b"\x00\x01\x02 what?\r\n\r\n")


def lying(server, send, path):
    send(head("twelve") + BODY)


def page(server, send, path):
    send(head(13) + b"<html></html>")


def other(server, send, path):
    send(head() + BODY[:-1] + b"!")


ANSWERS = [
    (silent, "no byte came from .* for 0.3 s"), (stalled, "no byte came from .* for 0.3 s"), (dripping, "sent only \\d+ bytes in 2.0 s"),
    (dripping_header, "sent only 0 bytes in 2.0 s"), (cut, "broke off after 5000 of 10240 bytes"), (endless, "sends more than 1000000 bytes"),
    (huge, "announces 1000000000000 bytes; at most 1000000 were expected"), (circle, "infinite loop|redirect"), (spiral, "infinite loop|redirect"),
    (nowhere, "Found"), (to_a_file, "not allowed"), (missing, "Not Found"), (busy, "Service Unavailable"), (noise, "BadStatusLine"), (lying, "ValueError"),
    (page, "has the SHA-256 .* where .* was expected; it is not used"), (other, "has the SHA-256 .* where .* was expected; it is not used"),
]


def download(server, target, digest=DIGEST):
    network.download(f"{server.url}/file", digest, target, stall=STALL, total=TOTAL, largest=1_000_000)


@pytest.mark.parametrize(("answer", "message"), ANSWERS, ids=[answer.__name__ for answer, _ in ANSWERS])
def test_a_bad_server_is_told_and_leaves_no_file(serve, tmp_path, answer, message):
    server = serve(answer)
    with pytest.raises(say.Failure, match=message):
        download(server, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
    assert len(server.requests) <= network.REDIRECTIONS + 1
    reliability.tried("A download ends within its limit, says what happened and leaves nothing half", "a script from a server that stalls, drips, cuts, lies or leads in circles", 1)


def test_no_server_at_all(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(say.Failure, match="[Rr]efused"):
        network.download(url, DIGEST, tmp_path / "file", stall=STALL, total=TOTAL)


def whole(server, send, path):
    if path == "/file":
        send(head(0, "302 Found", "Location: /moved\r\n"))
    else:
        send(head() + BODY)


def test_a_good_server_is_followed(serve, tmp_path):
    download(serve(whole), tmp_path / "file", DIGEST.upper())
    assert (tmp_path / "file").read_bytes() == BODY


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/file", "data:,x", "", "nonsense"])
def test_only_the_web_is_read(tmp_path, url):
    with pytest.raises(say.Failure, match="is no address of a web server"):
        network.download(url, DIGEST, tmp_path / "file", stall=STALL, total=TOTAL)


def test_no_way_leads_from_an_encrypted_server_to_an_open_one():
    request = network.urllib.request.Request("https://one.example/a")
    with pytest.raises(say.Failure, match="not encrypted"):
        network.Redirections().redirect_request(request, None, 302, "Found", {}, "http://two.example/b")
    assert network.Redirections().redirect_request(request, None, 302, "Found", {}, "https://two.example/b").full_url == "https://two.example/b"


NAME = "evcxr_jupyter-v0.22.0-x86_64-unknown-linux-gnu.tar.gz"


def archive(member="evcxr_jupyter-v0.22.0/evcxr_jupyter", text=b"#!/bin/sh\nexit 0\n", kind=tarfile.REGTYPE):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        entry = tarfile.TarInfo(member)
        entry.size, entry.type, entry.linkname, entry.mode = (len(text) if kind == tarfile.REGTYPE else 0), kind, "/etc/passwd", 0o6777
        tar.addfile(entry, io.BytesIO(text))
    return packed.getvalue()


@pytest.fixture
def release(serve, tmp_path, monkeypatch):
    """A release with one file; `release.file` and what it tells of it may be changed."""
    class Release:
        file, told = archive(), {}

    def answer(server, send, path):
        if path == "/release":
            told = {"name": NAME, "browser_download_url": f"{server.url}/file", "digest": "sha256:" + hashlib.sha256(Release.file).hexdigest()} | Release.told
            body = Release.told.get("body") or json.dumps({"assets": [{"name": "other"}, told]}).encode()
        else:
            body = Release.file
        send(head(len(body)) + body)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CARGO_NET_OFFLINE", raising=False)
    monkeypatch.setattr(evcxr, "RELEASE", f"{serve(answer).url}/release")
    monkeypatch.setattr(evcxr.platform, "system", lambda: "Linux")
    monkeypatch.setattr(evcxr.platform, "machine", lambda: "x86_64")
    return Release


def test_the_prebuilt_kernel_is_taken_when_its_checksum_is_right(release):
    assert evcxr.download()
    installed = paths.user_cache() / "evcxr-0.22.0" / "bin" / "evcxr_jupyter"
    assert installed.read_bytes() == b"#!/bin/sh\nexit 0\n" and installed.stat().st_mode & 0o7777 == 0o755
    assert evcxr.find() == installed


@pytest.mark.parametrize(
    ("file", "told", "message"),
    [
        (archive(text=b"#!/bin/sh\necho malice\n"), {"digest": "sha256:" + "0" * 64}, "where 0{64} was expected; it is not used"),
        (archive(), {"digest": None}, "tells no checksum"),
        (archive(), {"digest": "md5:0"}, "tells no checksum"),
        (archive(), {"name": "renamed"}, "the release has no evcxr_jupyter-v0.22.0"),
        (archive(), {"browser_download_url": "file:///bin/true"}, "is no address of a web server"),
        (archive(), {"body": b"<html>"}, "sent no JSON"),
        (archive(), {"body": b"[]"}, "the release has no"),
        (archive(), {"body": b'{"assets": 7}'}, "the release has no"),
        (archive()[:60], {}, "the archive is damaged"),
        (b"no archive", {}, "the archive is damaged"),
        (archive("README"), {}, "holds no evcxr_jupyter"),
        (archive("../../evcxr_jupyter", kind=tarfile.SYMTYPE), {}, "holds no evcxr_jupyter"),
        (archive(text=b"#!/bin/sh\necho 'GLIBC_2.99 not found' >&2; exit 1\n"), {}, "GLIBC_2.99 not found"),
        (archive(text=b"\x7fELF"), {}, "Exec format error"),
    ],
)
def test_another_prebuilt_kernel_is_not_used(release, tmp_path, capsys, file, told, message):
    release.file, release.told = file, told
    assert not evcxr.download()
    said = capsys.readouterr().err
    assert "none could be used here" in said and re.search(message, said), said
    assert not list(tmp_path.rglob("evcxr_jupyter")) and not (tmp_path.parent / "evcxr_jupyter").exists()
    reliability.tried("What is downloaded is what was meant, or is not used", "a release of the kernel with another checksum, archive or address", 1)
