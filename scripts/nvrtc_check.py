#!/usr/bin/env python3
"""Compiles every kernel file of the crate as the crate does at run time, by NVRTC, which needs no GPU.

    nvrtc_check.py FOLDER ARCHITECTURE …
"""

import ctypes
import os
import pathlib
import sys

from course import command

NUMBERS = {"float": "_f32", "double": "_f64"}


def compile_kernels(nvrtc, name, text, options):
    """The compiler's messages, or None."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), name.encode(), 0, None, None)
    arguments = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    result = nvrtc.nvrtcCompileProgram(program, len(options), arguments)
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return log.value.decode() if result else None


def main():
    folder, *architectures = sys.argv[1:]
    libraries = os.environ["CUDA_HOME"] + "/lib/"
    ctypes.CDLL(libraries + "libnvrtc-builtins.so", ctypes.RTLD_GLOBAL)  # which NVRTC looks for by name
    nvrtc = ctypes.CDLL(libraries + "libnvrtc.so")
    folder = pathlib.Path(folder)
    sources = sorted(folder.glob("*.cu"))
    if not sources:
        sys.exit(f"no kernels in {folder}")
    common, failed = (folder / "common.cuh").read_text(), 0
    for source in sources:
        text = source.read_text().replace('#include "common.cuh"', common)
        for architecture in architectures:
            for word, suffix in NUMBERS.items():
                options = [f"--gpu-architecture=sm_{architecture}", f"-DREAL={word}", f"-DSUFFIX={suffix}", "--std=c++17"]
                log = compile_kernels(nvrtc, source.name, text, options)
                if log is not None:
                    print(f"{source.name}, {word}, sm_{architecture}:\n{log}")
                    failed += 1
    count = len(sources) * len(architectures) * len(NUMBERS)
    print(f"{len(sources)} kernel files by NVRTC for sm_{', sm_'.join(architectures)}: {count - failed} of {count} compiled")
    return 1 if failed else 0


if __name__ == "__main__":
    command.guard()
    if len(sys.argv) < 3 or "CUDA_HOME" not in os.environ:
        sys.exit("usage: CUDA_HOME=<toolkit> nvrtc_check.py FOLDER ARCHITECTURE …")
    sys.exit(main())
