"""`scripts/tensorboard-picture <runs>`: TensorBoard as it looks, on the runs of a lesson, for docs and site."""

import argparse
import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from . import environment, paths, say

SECONDS = 60
SIZE = {"width": 1280, "height": 760}


def main(arguments: list) -> int:
    parser = argparse.ArgumentParser(prog="scripts/tensorboard-picture", description="Opens TensorBoard on a folder of runs in a browser and takes a picture of its scalars.")
    parser.add_argument("runs", type=Path, help="for example notebooks/en/runs, which lesson 3.6 writes")
    parser.add_argument("picture", nargs="?", type=Path, default=paths.PROJECT / "docs" / "tensorboard.png")
    chosen = parser.parse_args(arguments)
    environment.set_up(environment.ensure_venv)
    # The page names the folder: as it is called, not where it stands.
    chosen.runs = chosen.runs.resolve()
    if not any(chosen.runs.rglob("*tfevents*")):
        raise say.Failure(f"{chosen.runs} holds no run; lesson 3.6 writes some into `runs` beside its notebook")
    with served(chosen.runs) as address:
        data = picture(address)
    chosen.picture.write_bytes(data)
    print(f"{chosen.picture}: {len(data) // 1000} KB")
    return 0


@contextlib.contextmanager
def served(runs: Path):
    """The address of a TensorBoard that has loaded the runs, for as long as it is needed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", runs.name, "--port", str(port), "--load_fast=false"]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=runs.parent)
    try:
        end = time.monotonic() + SECONDS
        while not loaded(address):
            if server.poll() is not None or time.monotonic() > end:
                raise say.Failure(f"TensorBoard shows no run of {runs}")
            time.sleep(0.5)
        yield address
    finally:
        say.end(server)


def loaded(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/data/runs", timeout=5) as answer:
            return bool(json.load(answer))
    except OSError:
        return False


def picture(address: str) -> bytes:
    """The page of the scalars as a PNG with few colours."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    from .test_command import BROWSERS

    executable = next((found for found in map(shutil.which, BROWSERS) if found), None)
    if executable is None:
        raise say.Failure("a picture needs Chromium or Chrome: `sudo apt install chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, headless=True, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        page = browser.new_page(viewport=SIZE)
        page.goto(f"{address}/#scalars")
        page.locator("vz-line-chart2 path.line").nth(1).wait_for(state="attached", timeout=SECONDS * 1000)
        # The lines move to their places.
        page.wait_for_timeout(2000)
        taken = page.screenshot()
        browser.close()
    small = io.BytesIO()
    Image.open(io.BytesIO(taken)).convert("RGB").quantize(128).save(small, "PNG", optimize=True)
    return small.getvalue()
