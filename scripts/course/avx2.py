"""`--avx2` of the benchmarks: everything that they start sees a processor without AVX-512 (`avx2.c`)."""

import os
import shutil
import subprocess
from pathlib import Path

from . import say

SOURCE = Path(__file__).with_name("avx2.c")
pretended = False


def pretend(folder: Path) -> None:
    """From here on, for what this process starts; `folder` must stay as long as that runs."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if not compiler:
        raise say.Failure("--avx2 needs a C compiler (Debian: `apt install gcc`)")
    library = folder / "avx2.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    # Not every processor and every virtual machine hands its CPUID over.
    for tried, environment in [(command, {}), (["true"], {"LD_PRELOAD": str(library)})]:
        result = subprocess.run(tried, env={**os.environ, **environment}, capture_output=True, text=True)
        if result.returncode != 0:
            raise say.Failure(f"--avx2 needs Linux on an Intel processor with CPUID faulting: {result.stderr.strip() or 'this one has none'}")
    os.environ["LD_PRELOAD"] = str(library)
    global pretended
    pretended = True
