#!/usr/bin/env python3
"""Compiles a CUDA source for the CPU, into a library that the stand-in driver loads.

    translate.py SOURCE LIBRARY [-DNAME=VALUE | -IFOLDER …]

The text is preprocessed, so that kernels made by macros have their names; shared memory becomes
static (one block runs at a time) or a pointer (where the launch says its size); and every kernel
gets an entry that takes the addresses of its arguments. Prints the kernels' names.
"""

import os
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
MARKS = ["__global__", "__shared__"]


def translate(text):
    """The C++ of a preprocessed CUDA text, and the names of its kernels."""
    # extern __shared__ T name[]; is memory of the launch's size.
    text = re.sub(
        r"extern\s+mark__shared__\s+((?:__align__\s*\([^)]*\)|__attribute__\s*\(\([^)]*\)\)|alignas\s*\([^)]*\))?\s*)"
        r"([\w\s:]+?)\s+(\w+)\s*\[\s*\]\s*;",
        r"\2 *const \3 = (\2 *)emulated_thread->shared;",
        text,
    )
    text = text.replace("mark__shared__", "static")
    names = []
    for match in re.finditer(r"mark__global__\s+(?:__attribute__\s*\(\(.*?\)\)\s*)?(?:static\s+|inline\s+)*void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(", text):
        before = text[: match.start()].rstrip()
        if not re.search(r"(>|\binline|\bstatic)\s*$", before) and match[1] not in names:
            names.append(match[1])
    return text.replace("mark__global__", ""), names


def main():
    source, library, *flags = sys.argv[1:]
    include = os.environ.get("CUDA_HOME", "/usr/local/cuda") + "/include"
    compiler = os.environ.get("CXX", "c++")
    # The headers first, with their own marks; then the marks of the source stay through the preprocessor.
    marks = "\n".join(f"#undef {mark}\n#define {mark} mark{mark}" for mark in MARKS)
    begin = f'#include "{HERE / "device.h"}"\n{marks}\n#line 1 "{source}"\n'
    text = begin + pathlib.Path(source).read_text()
    options = [flag for flag in flags if flag.startswith(("-D", "-I", "-U"))]
    options += [f"-I{pathlib.Path(source).resolve().parent}", f"-I{include}", f"-I{include}/cccl"]
    command = [compiler, "-std=c++17", "-x", "c++", "-E", *options, "-"]
    text = subprocess.run(command, input=text, capture_output=True, text=True)
    if text.returncode:
        sys.exit(text.stderr)
    text, names = translate(text.stdout)
    entry = 'extern "C" __attribute__((visibility("default"))) void emulated_kernel_{0}(void **arguments) {{ emulated_call({0}, arguments); }}\n'
    text += "\n" + "".join(entry.format(name) for name in names)
    # No contraction: a GPU's compiler contracts where it likes, so nothing may depend on it.
    flags = ["-std=c++17", "-O2", "-fPIC", "-shared", "-w", "-fno-gnu-unique", "-fpermissive", "-ffp-contract=off"]
    partial = f"{library}.{os.getpid()}"
    done = subprocess.run([compiler, *flags, "-x", "c++", "-o", partial, "-"], input=text, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    os.replace(partial, library)
    print("\n".join(names))


if __name__ == "__main__":
    main()
