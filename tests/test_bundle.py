"""Ready-made parts: what a release's server may do wrong, and what cargo's compiler is handed."""

import hashlib
import http.server
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading

import pytest
import zstandard
from conftest import PROJECT
from course import build_folder, bundle, evcxr, paths, reliability, say

WRAPPER = PROJECT / "scripts" / "course" / "bundle-bin" / "rustc"
COMPILER = "rustc 1.95.0\nhost: x86_64-unknown-linux-gnu\nrelease: 1.95.0"
HASH = "0123456789abcdef"
LIBRARIES = {f"libserde-{HASH}.rlib": b"library", f"libserde-{HASH}.rmeta": b"metadata", f"serde-{HASH}.d": b"@template@/x: @registry@/serde-1.0/src/lib.rs\n"}


def archive(files: dict, **changes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o755
            for key, value in changes.items():
                setattr(entry, key, value)
            tar.addfile(entry, io.BytesIO(text) if entry.isfile() else None)
    return zstandard.compress(packed.getvalue())


@pytest.fixture
def release(tmp_path, monkeypatch):
    """A release on a server of this machine, with the parts for this compiler; its files may be changed."""
    served = tmp_path / "release"
    served.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CARGO_HOME", str(tmp_path / "cargo"))
    monkeypatch.delenv("CARGO_NET_OFFLINE", raising=False)
    monkeypatch.setattr(build_folder, "compiler", lambda: COMPILER)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(served))

        def log_message(self, *_):
            pass

    class Release:
        folder = served

        def write(self, **files):
            """Lists all that is there, with its checksum."""
            for path in served.glob("*.zst"):
                files.setdefault(path.name, path.read_bytes())
            (served / "SHA256SUMS").write_text("".join(f"{hashlib.sha256(text).hexdigest()}  {name}\n" for name, text in files.items()))

    (served / bundle.kernel_name()).write_bytes(archive({"evcxr_jupyter": b"#!/bin/sh\nexit 0\n"}))
    (served / bundle.libraries_name()).write_bytes(archive(LIBRARIES))
    made = Release()
    made.write()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("CANDLE_COURSE_BUNDLES", f"http://127.0.0.1:{server.server_port}")
        yield made
        server.shutdown()


def ready():
    return sorted(path.name for path in build_folder.BuildFolder().ready_made.glob("*"))


def test_what_a_release_has_is_taken(release, capsys):
    waited = []
    bundle.take(lambda: waited.append(1))
    assert ready() == sorted(LIBRARIES) and waited
    assert evcxr.find() == evcxr.install_root() / "bin" / "evcxr_jupyter" and os.access(evcxr.find(), os.X_OK)
    assert capsys.readouterr().err.count("taken, its checksum is right") == 2
    assert not list(paths.user_cache().glob("bundle-*"))


def spoil_list(release):
    (release.folder / "SHA256SUMS").write_text("<html>")


def other_compiler(release):
    (release.folder / bundle.libraries_name()).rename(release.folder / bundle.libraries_name().replace("1.95.0", "1.94.0"))
    release.write()


def other_lock(release):
    name = bundle.libraries_name()
    (release.folder / name).rename(release.folder / re.sub(r"[0-9a-f]{12}(?=\.tar)", "0" * 12, name))
    release.write()


def other_machine(release):
    (release.folder / bundle.libraries_name()).unlink()
    (release.folder / "SHA256SUMS").unlink()
    release.write()


def wrong_checksum(release):
    (release.folder / bundle.libraries_name()).write_bytes(archive({f"libserde-{HASH}.rlib": b"malice"}))


def truncated(release):
    path = release.folder / bundle.libraries_name()
    path.write_bytes(path.read_bytes()[:-20])


def damaged(release):
    path = release.folder / bundle.libraries_name()
    path.write_bytes(path.read_bytes()[:-20])
    release.write()


def listed_only(release):
    (release.folder / bundle.libraries_name()).unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_compiler, "compiled here instead: the bundle is for Rust 1.94.0, and this is 1.95.0"),
        (other_lock, "compiled here instead: the bundle is for another state of Cargo.lock"),
        (other_machine, "compiled here instead: there is no bundle for x86_64-unknown-linux-gnu"),
        (wrong_checksum, "compiled here instead: .* has the SHA-256 .* where .* was expected; it is not used"),
        (truncated, "compiled here instead: .* has the SHA-256 .* where .* was expected; it is not used"),
        (damaged, "compiled here instead: the archive is damaged"),
        (listed_only, "compiled here instead: .*[Nn]ot [Ff]ound"),
    ],
)
def test_libraries_that_cannot_be_used_are_compiled_instead(release, capsys, spoil, message):
    spoil(release)
    bundle.take()
    said = capsys.readouterr().err
    assert re.search(message, said), said
    assert ready() == [] and evcxr.find() and len(said.splitlines()) == 3
    reliability.tried("What is downloaded is what was meant, or is not used", "a bundle of compiled libraries with another checksum, compiler or archive", 1)


@pytest.mark.parametrize("spoil", [spoil_list, lambda release: (release.folder / "SHA256SUMS").unlink(), lambda release: os.environ.update(CANDLE_COURSE_BUNDLES="http://127.0.0.1:9")])
def test_without_a_release_all_is_compiled(release, capsys, spoil):
    spoil(release)
    bundle.take()
    said = capsys.readouterr().err
    assert "none could be had, and all is compiled here: " in said and len(said.splitlines()) == 2
    assert ready() == [] and evcxr.find() is None


def test_nothing_is_asked_for_where_nothing_is_missing_or_there_is_no_address(release, capsys, monkeypatch):
    bundle.take()
    say.write_if_changed(build_folder.BuildFolder().home / "built", "built\n")
    capsys.readouterr()
    monkeypatch.setattr(bundle, "listing", lambda: pytest.fail("asked"))
    bundle.take()
    (build_folder.BuildFolder().home / "built").unlink()
    for variable, value in (("CANDLE_COURSE_BUNDLES", ""), ("CARGO_NET_OFFLINE", "true")):
        with monkeypatch.context() as change:
            change.setenv(variable, value)
            bundle.take()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("changes", [{"name": "../escaped"}, {"name": f"/tmp/libserde-{HASH}.rlib"}, {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, {"type": tarfile.LNKTYPE, "linkname": "other"}])
def test_nothing_of_an_archive_leads_out_of_its_folder(release, tmp_path, changes):
    (release.folder / bundle.libraries_name()).write_bytes(archive({f"libserde-{HASH}.rlib": b"x"}, **changes))
    release.write()
    bundle.take()
    assert ready() == [] and not (tmp_path / "cache" / "candle_course" / "escaped").exists() and not os.path.exists(f"/tmp/libserde-{HASH}.rlib")


def test_a_kernel_that_does_not_run_here_is_compiled_instead(release, capsys):
    (release.folder / bundle.kernel_name()).write_bytes(archive({"evcxr_jupyter": b"#!/bin/sh\necho 'GLIBC_2.99 not found' >&2; exit 1\n"}))
    release.write()
    bundle.take()
    assert evcxr.find() is None and "evcxr_jupyter: compiled here instead" in capsys.readouterr().err and ready()


def hand_over(tmp_path, *arguments, files=LIBRARIES, sources=""):
    """Calls the wrapper as cargo does; what the compiler would have done stands in `compiled`."""
    store, out = tmp_path / "store", tmp_path / "out"
    store.mkdir(exist_ok=True)
    out.mkdir(exist_ok=True)
    for name, text in files.items():
        (store / name).write_bytes(text)
        os.utime(store / name, (1_000_000, 1_000_000))
    compiler = tmp_path / "rustc"
    compiler.write_text(f'#!/bin/sh\necho compiled\necho "$*" >> {tmp_path}/compiled\n')
    compiler.chmod(0o755)
    environment = dict(os.environ, CANDLE_COURSE_READY_MADE=str(store), CANDLE_COURSE_LIBRARY="so", CANDLE_COURSE_SOURCES=sources, CANDLE_COURSE_TEMPLATE="/t")
    result = subprocess.run([WRAPPER, compiler, *arguments], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result, out, (tmp_path / "compiled").exists()


def compile_as(tmp_path, name, kind, extra=f"-{HASH}"):
    return ["--crate-name", name, "--edition=2021", "/home/me/.cargo/registry/src/index-2/serde-1.0/src/lib.rs", "--crate-type", kind, "--emit=dep-info,metadata,link", "-C", "opt-level=3", "-C", "metadata=x", "-C", f"extra-filename={extra}", "--out-dir", str(tmp_path / "out")]


def test_a_crate_of_the_bundle_is_handed_over_with_what_cargo_listens_for(tmp_path):
    result, out, compiled = hand_over(tmp_path, *compile_as(tmp_path, "serde", "lib"))
    # What it was made of lies elsewhere here, and cargo compiles anew what is made of files that are gone.
    assert (out / f"serde-{HASH}.d").read_text() == "/t/x: /home/me/.cargo/registry/src/index-2/serde-1.0/src/lib.rs\n"
    assert not compiled and {path.name: path.read_bytes() for path in out.iterdir() if path.suffix != ".d"} == {name: text for name, text in LIBRARIES.items() if not name.endswith(".d")}
    told = [json.loads(line) for line in result.stderr.splitlines()]
    assert [(each["$message_type"], each["emit"], os.path.basename(each["artifact"])) for each in told] == [
        ("artifact", "metadata", f"libserde-{HASH}.rmeta"), ("artifact", "link", f"libserde-{HASH}.rlib")]
    # Newer than what it is made of, which was handed over before it.
    assert all(path.stat().st_mtime > 1_000_000 for path in out.iterdir())
    assert (tmp_path / "store" / "used").read_text() == "serde\n"


@pytest.mark.parametrize(("name", "kind", "file"), [("syn", "proc-macro", "libsyn-{}.so"), ("build_script_build", "bin", "build_script_build-{}")])
def test_plug_ins_and_build_scripts_are_handed_over(tmp_path, name, kind, file):
    files = {file.format(HASH): b"program", f"{name}-{HASH}.d": b""}
    _, out, compiled = hand_over(tmp_path, *compile_as(tmp_path, name, kind), files=files)
    assert not compiled and (out / file.format(HASH)).read_bytes() == b"program"


@pytest.mark.parametrize("arguments", [("serde", "lib", "-fedcba9876543210"), ("serde", "cdylib"), ("serde", "dylib"), ("other", "lib"), ("serde", "proc-macro")])
def test_anything_else_is_compiled(tmp_path, arguments):
    result, out, compiled = hand_over(tmp_path, *compile_as(tmp_path, *arguments))
    assert compiled and result.stdout == "compiled\n" and not list(out.iterdir())


OWN = {
    f"libcandle_course-{HASH}.rlib": b"library", f"libcandle_course-{HASH}.rmeta": b"metadata", f"candle_course-{HASH}.d": b"x: @project@/candle_course/src/lib.rs\n",
    f"libcandle_course_samples-{HASH}.rlib": b"samples", f"libcandle_course_samples-{HASH}.rmeta": b"of samples", f"candle_course_samples-{HASH}.d": b"",
    "libcandle_course_notebook.rlib": b"notebook", "libcandle_course_notebook.so": b"shared", "candle_course_notebook.d": b"",
}


def test_the_crate_itself_is_handed_over_where_its_sources_are_the_same(tmp_path):
    # Cargo asks for it under another name wherever it lies.
    asked = compile_as(tmp_path, "candle_course", "lib", "-fedcba9876543210")
    assert hand_over(tmp_path, *asked, files=OWN)[2]
    (tmp_path / "compiled").unlink()
    result, out, compiled = hand_over(tmp_path, *asked, files=OWN, sources="/home/a/course")
    assert not compiled
    for suffix, text in (("rlib", b"library"), ("rmeta", b"metadata")):
        assert (out / f"libcandle_course-fedcba9876543210.{suffix}").read_bytes() == (out / f"libcandle_course-{HASH}.{suffix}").read_bytes() == text
    assert (out / "candle_course-fedcba9876543210.d").read_text() == "x: /home/a/course/candle_course/src/lib.rs\n"
    told = [json.loads(line) for line in result.stderr.splitlines()]
    assert [(each["emit"], os.path.basename(each["artifact"])) for each in told] == [("metadata", "libcandle_course-fedcba9876543210.rmeta"), ("link", "libcandle_course-fedcba9876543210.rlib")]


def test_the_dynamic_library_is_handed_over(tmp_path):
    result, out, compiled = hand_over(tmp_path, *compile_as(tmp_path, "candle_course_notebook", "dylib", ""), files=OWN, sources="/home/a/course")
    assert not compiled and (out / "libcandle_course_notebook.so").read_bytes() == b"shared" and (out / "libcandle_course_notebook.rlib").read_bytes() == b"notebook"
    assert hand_over(tmp_path, *compile_as(tmp_path, "ctx", "cdylib", ""), files=OWN, sources="/home/a/course")[2]


def test_the_crate_is_named_by_what_is_in_its_files(tmp_path):
    def project(name, text):
        for path in ("candle_course/src/lib.rs", "candle_course/Cargo.toml", "candle_course/samples/images/a.webp", "candle_course/notebook/src/lib.rs", "Cargo.toml"):
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(path)
        (tmp_path / name / "candle_course/src/lib.rs").write_text(text)
        return build_folder.own_sources(tmp_path / name)

    assert project("a", "one") == project("b", "one") != project("b", "two")


def test_questions_go_to_the_compiler(tmp_path):
    assert hand_over(tmp_path, "-vV")[2]
    assert hand_over(tmp_path, "-", "--crate-name", "___", "--print=file-names", "--crate-type", "bin", "--crate-type", "rlib")[2]


def test_an_archive_is_the_same_for_the_same_files(tmp_path):
    files = []
    for name, text in LIBRARIES.items():
        (tmp_path / name).write_bytes(text)
        files.append(tmp_path / name)
    packed = []
    for order in (files, files[::-1]):
        os.utime(files[0], (len(packed), len(packed)))
        bundle.pack(tmp_path / "bundle.tar.zst", order)
        packed.append((tmp_path / "bundle.tar.zst").read_bytes())
    assert packed[0] == packed[1]
    bundle.unpack(tmp_path / "bundle.tar.zst", tmp_path / "unpacked", lambda name: name.endswith(".rlib"))
    assert [path.read_bytes() for path in (tmp_path / "unpacked").iterdir()] == [b"library"]


def test_dependencies_are_packed_and_the_crate_as_it_was_last_compiled(tmp_path, monkeypatch):
    deps, script = tmp_path / "a-b-c/debug/deps", tmp_path / f"debug/build/serde-{HASH}"
    deps.mkdir(parents=True)
    script.mkdir(parents=True)
    for name in (*LIBRARIES, f"libcandle_course-{HASH}.rlib", "libctx.so", f"candle_course-{HASH}.d"):
        (deps / name).touch()
    for name in (f"build_script_build-{HASH}", "build-script-build", f"build_script_build-{HASH}.d"):
        (script / name).touch()
    assert sorted(path.name for path in bundle.compiled(tmp_path)) == sorted([*LIBRARIES, f"build_script_build-{HASH}", f"build_script_build-{HASH}.d"])
    monkeypatch.setattr(paths, "PROJECT", tmp_path / "project")
    (tmp_path / "project/candle_course").mkdir(parents=True)
    (tmp_path / "project/Cargo.toml").touch()
    for name, text in OWN.items():
        (deps / name).write_bytes(text.replace(b"@project@", bytes(tmp_path / "project")))
    older = deps / "libcandle_course-fedcba9876543210.rlib"
    older.touch()
    os.utime(older, (1_000_000, 1_000_000))
    (deps / f"serde-{HASH}.d").write_text(f"{deps}/x: /home/a/.cargo/registry/src/index.crates.io-1/serde-1.0/src/lib.rs {tmp_path}/a-b-c/debug/build/out/a.rs\n")
    (tmp_path / "temporary").mkdir()
    packed = {path.name: path for path in bundle.portable(bundle.compiled(tmp_path) + bundle.own(tmp_path), tmp_path, tmp_path / "temporary")}
    assert {name: path.read_bytes() for name, path in packed.items() if name in OWN} == OWN
    assert set(packed) == {*OWN, *LIBRARIES, f"build_script_build-{HASH}", f"build_script_build-{HASH}.d", f"sources-{build_folder.own_sources(paths.PROJECT)}"}
    assert packed[f"serde-{HASH}.d"].read_text() == "@template@/a-b-c/debug/deps/x: @registry@/serde-1.0/src/lib.rs @template@/a-b-c/debug/build/out/a.rs\n"


def test_the_key_names_what_decides(monkeypatch):
    names = [bundle.libraries_name()]
    with monkeypatch.context() as change:
        change.setattr(build_folder, "cargo_config", lambda: "other settings")
        names.append(bundle.libraries_name())
    monkeypatch.setattr(build_folder, "compiler", lambda: COMPILER.replace("1.95.0", "1.96.0"))
    names.append(bundle.libraries_name())
    assert len(set(names)) == 3 and "rust-1.96.0" in names[2]


MANIFEST = """
[package]
name = "ctx"
version = "1.0.0"
edition = "2024"

[lib]
path = "src/lib.rs"

[dependencies]
serde = { version = "1", features = ["derive"] }
"""


def cargo_home(folder):
    """A home of cargo's at another place, with the crates that were downloaded for this project."""
    folder.mkdir()
    own = os.environ.get("CARGO_HOME") or os.path.expanduser("~/.cargo")
    os.symlink(os.path.join(own, "registry"), folder / "registry")
    return folder


def build_dependencies(folder, home, **variables):
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "lib.rs").write_text("#[derive(serde::Serialize)] pub struct Point { pub x: f64 }\n")
    (folder / "Cargo.toml").write_text(MANIFEST)
    (folder / "Cargo.lock").write_text((PROJECT / "Cargo.lock").read_text())
    environment = dict(os.environ, CARGO_HOME=str(home), CARGO_TARGET_DIR="target", CARGO_TERM_COLOR="never", CARGO_BUILD_JOBS="1", **variables)
    return subprocess.run(["cargo", "build", "--offline", "--target", build_folder.host_target()], cwd=folder, env=environment, capture_output=True, text=True)


def test_cargo_itself_takes_what_another_machine_has_compiled(tmp_path):
    """A library, its plug-in and their build scripts, compiled under one home of cargo's and used under another."""
    first = build_dependencies(tmp_path / "first", cargo_home(tmp_path / "one"))
    if "no matching package" in first.stderr or "attempting to make an HTTP request" in first.stderr:
        pytest.skip("the crates of this project were not downloaded yet")
    assert first.returncode == 0, first.stderr
    files = bundle.compiled(tmp_path / "first" / "target")
    assert {"libserde", "build_script_build"} <= {path.name.split("-")[0] for path in files}
    bundle.pack(tmp_path / "bundle.tar.zst", files)
    bundle.unpack(tmp_path / "bundle.tar.zst", tmp_path / "store", lambda name: True)
    second = tmp_path / "second" / "deeper"
    calls = tmp_path / "compiler"
    calls.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/compiled\nexec {subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True).stdout.strip()}/bin/rustc "$@"\n')
    calls.chmod(0o755)
    result = build_dependencies(second, cargo_home(tmp_path / "two"), RUSTC=str(calls), RUSTC_WRAPPER=str(WRAPPER), CANDLE_COURSE_READY_MADE=str(tmp_path / "store"), CANDLE_COURSE_LIBRARY="dylib" if sys.platform == "darwin" else "so")
    assert result.returncode == 0, result.stderr
    compiled = re.findall(r"--crate-name (\w+)", (tmp_path / "compiled").read_text())
    assert [name for name in compiled if name != "___"] == ["ctx"], compiled
    used = (tmp_path / "store" / "used").read_text().split()
    assert {"serde", "serde_core", "serde_derive", "syn", "build_script_build"} <= set(used)
    again = subprocess.run(["cargo", "build", "--offline", "--target", build_folder.host_target()], cwd=second, env=dict(os.environ, CARGO_HOME=str(tmp_path / "two"), CARGO_TARGET_DIR="target", RUSTC=str(calls)), capture_output=True, text=True)
    assert "Compiling" not in again.stderr, again.stderr
