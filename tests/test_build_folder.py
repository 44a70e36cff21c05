"""The copies of the prebuilt build folder."""

import os
import subprocess
import sys

import pytest
from conftest import PROJECT
from course import build_folder

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KERNEL_BIN = PROJECT / "scripts" / "course" / "kernel-bin"

HOLD = """
import sys
sys.path.insert(0, {scripts!r})
from pathlib import Path
from course.build_folder import BuildFolder
folder = BuildFolder(Path({project!r}), Path({home!r}))
folder._prepare = lambda: None
print(folder.copy(), flush=True)
import os
os.execvp("sleep", ["sleep", "60"])
"""


def template(folder):
    deps = folder / "target" / "debug" / "deps"
    deps.mkdir(parents=True)
    for name in ("libother-1.rlib", "libcandle_course-2.so", "other-1.d"):
        (deps / name).write_text(name)
    os.link(deps / "libcandle_course-2.so", folder / "target" / "debug" / "libcandle_course.so")
    os.utime(deps / "other-1.d", (1_000_000, 1_000_000))
    return deps


def test_a_copy_shares_only_what_never_changes(tmp_path):
    deps = template(tmp_path / "template")
    build_folder.copy_tree(tmp_path / "template", tmp_path / "copy")
    copied = tmp_path / "copy" / "target" / "debug" / "deps"
    assert os.path.samefile(copied / "libother-1.rlib", deps / "libother-1.rlib")
    assert not os.path.samefile(copied / "libcandle_course-2.so", deps / "libcandle_course-2.so")
    assert os.path.samefile(copied / "libcandle_course-2.so", tmp_path / "copy" / "target" / "debug" / "libcandle_course.so")
    assert (copied / "other-1.d").stat().st_mtime == 1_000_000
    (copied / "other-1.d").write_text("rewritten")
    assert (deps / "other-1.d").read_text() == "other-1.d"


def test_a_new_clone_takes_over_the_third_party_libraries(tmp_path):
    deps = template(tmp_path / "kernels" / "first" / "template")
    for name, text in (("built", ""), ("project", str(tmp_path))):
        (tmp_path / "kernels" / "first" / name).write_text(text)
    folder = build_folder.BuildFolder(tmp_path, tmp_path / "kernels" / "second")
    folder.template.mkdir(parents=True)
    folder._seed()
    taken = sorted(path.name for path in (folder.template / "target").rglob("*") if path.is_file())
    assert taken == ["libother-1.rlib", "other-1.d"]
    assert os.path.samefile(folder.template / "target" / "debug" / "deps" / "libother-1.rlib", deps / "libother-1.rlib")


def test_features_reach_the_template_with_the_workspaces_versions(tmp_path, monkeypatch):
    (tmp_path / "Cargo.lock").write_text("all versions")
    folder = build_folder.BuildFolder(tmp_path, tmp_path / "kernels" / "one")
    locked = []

    def build():
        locked.append((folder.template / "Cargo.lock").read_text())
        (folder.template / "Cargo.lock").write_text("the versions in use")

    monkeypatch.setattr(folder, "_build", build)
    for named in ("", "", "cudnn, cuda"):
        monkeypatch.setenv("CANDLE_COURSE_FEATURES", named)
        folder.prepare()
    assert locked == ["all versions", "the versions in use", "all versions"]
    assert f'path = "{tmp_path}/candle_course/notebook", package = "candle_course_notebook", features = ["cuda", "cudnn"] }}' in (folder.template / "Cargo.toml").read_text()


def test_a_copy_lives_as_long_as_its_kernel(tmp_path):
    home = tmp_path / "kernels" / "one"
    template(home / "template")
    folder = build_folder.BuildFolder(tmp_path, home)
    code = HOLD.format(scripts=str(PROJECT / "scripts"), project=str(tmp_path), home=str(home))
    holders = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        copies = [holder.stdout.readline().strip() for holder in holders]
        assert len(set(copies)) == 2
        folder.clean()
        assert all(os.path.isdir(copy) for copy in copies), "a running kernel lost its folder"
        holders[0].kill()
        holders[0].wait()
        folder.clean()
        assert [os.path.isdir(copy) for copy in copies] == [False, True]
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
            holder.stdout.close()
    folder.clean()
    assert list(folder.copies.iterdir()) == []


def test_folders_of_deleted_clones_are_removed(tmp_path):
    for name, project in (("alive", tmp_path), ("dead", tmp_path / "gone")):
        (tmp_path / "kernels" / name).mkdir(parents=True)
        (tmp_path / "kernels" / name / "project").write_text(f"{project}\n")
    build_folder.remove_orphans(tmp_path / "kernels")
    assert [path.name for path in (tmp_path / "kernels").iterdir()] == ["alive"]


def kernel_cargo(folder, cargo):
    environment = dict(os.environ, CANDLE_COURSE_CARGO=cargo, CANDLE_COURSE_PATH=os.environ["PATH"], CANDLE_COURSE_CARGO_HOME="")
    return subprocess.run([KERNEL_BIN / "cargo", "build"], cwd=folder, env=environment).returncode


# Writes a library where it is told to, in place of the compiler; shows its arguments and what cargo sets.
COMPILER = """\
#!/bin/sh
out= previous=
echo "$CARGO_PKG_NAME" > compiled
for argument in "$@"; do
    echo "$argument" >> compiled
    [ "$previous" != --out-dir ] || out=$argument
    previous=$argument
done
[ -f fails ] && { echo '{"message": "broken"}' >&2; exit 1; }
echo library > "$out/libctx.so"
"""


@pytest.fixture
def kernel_folder(tmp_path, monkeypatch):
    """A kernel's folder, whose template was compiled by a stand-in, in a path with signs in it."""
    (tmp_path / "Cargo.lock").write_text("versions")
    compiler = tmp_path / "it's a compiler"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    folder = build_folder.BuildFolder(tmp_path, tmp_path / "kernels" / "one")
    target = folder.template / "target" / "a-b-c" / "debug" / "deps"

    def build():
        target.mkdir(parents=True, exist_ok=True)
        (target / "libcandle_course_notebook-1.so").write_text("ours")
        (target / "libother-1.rlib").write_text("theirs")
        (folder.template / "target" / ".rustc_info.json").touch()
        arguments = ["--crate-name", "ctx", "src/lib.rs", "--emit=dep-info,link", "--out-dir", target, "-L", f"dependency={target}", "--extern", f"candle_course={target}/libcandle_course_notebook-1.so"]
        environment = dict(os.environ, CANDLE_COURSE_RECORD=str(folder.template / "quick" / "rustc"), CARGO_PKG_NAME="ctx")
        subprocess.run([KERNEL_BIN / "record", compiler, *arguments], env=environment, cwd=folder.template, check=True)
        (folder.template / "compiled").unlink()

    monkeypatch.setattr(folder, "_build", build)
    monkeypatch.setattr(build_folder.paths, "PROJECT", tmp_path)
    return folder, folder.copy()


def kernel_build(copy, command="build", cargo="false"):
    environment = dict(os.environ, CANDLE_COURSE_CARGO=cargo, CANDLE_COURSE_PATH=os.environ["PATH"], CANDLE_COURSE_CARGO_HOME="", CANDLE_COURSE_PYTHON="true", EVCXR_EXECUTION_SO_PATH=str(copy / "so"))
    return subprocess.run([KERNEL_BIN / "cargo", command, "--target", "a-b-c", "--message-format=json"], cwd=copy, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("manifest", ["crate", "empty"])
def test_a_cell_is_compiled_without_cargo(kernel_folder, manifest):
    folder, copy = kernel_folder
    (copy / "Cargo.toml").write_text((copy / "quick" / f"{manifest}.toml").read_text())
    result = kernel_build(copy)
    assert result.returncode == 0, result.stderr
    library = copy / "target" / "a-b-c" / "debug" / "deps" / "libctx.so"
    assert (copy / "so").read_text() == str(library) and library.exists()
    name, *arguments = (copy / "compiled").read_text().splitlines()
    snapshot = (copy / "snapshot").read_text().strip()
    assert name == "ctx" and "--emit=link" in arguments
    assert f"candle_course={snapshot}/libcandle_course_notebook-1.so" in arguments
    assert f"dependency={folder.template}/target/a-b-c/debug/deps" in arguments and f"dependency={snapshot}" in arguments
    (copy / "fails").touch()
    result = kernel_build(copy, "check")
    assert result.returncode == 1 and "broken" in result.stderr
    assert "--emit=metadata" in (copy / "compiled").read_text().splitlines()


def test_a_kernel_copies_no_library(kernel_folder):
    folder, copy = kernel_folder
    assert not [path for path in copy.rglob("*") if path.suffix in build_folder.LIBRARIES]
    assert sum(path.stat().st_size for path in copy.rglob("*") if path.is_file()) < 20_000


def test_other_dependencies_are_cargos_business(kernel_folder):
    folder, copy = kernel_folder
    with open(copy / "Cargo.toml", "a") as manifest:
        manifest.write('hex = "1"\n')
    assert kernel_build(copy, cargo="true").returncode == 0 and kernel_build(copy, cargo="false").returncode == 1
    assert not (copy / "compiled").exists()
    (copy / "Cargo.toml").write_text((copy / "quick" / "validation.toml").read_text())
    assert kernel_build(copy, "metadata", cargo="false").returncode == 0
    (copy / "Cargo.toml").write_text((copy / "quick" / "validation.toml").read_text().replace("notebook", "other"))
    assert kernel_build(copy, "metadata", cargo="false").returncode == 1


def test_a_filled_copy_has_the_very_library_that_the_kernel_has_loaded(kernel_folder):
    folder, copy = kernel_folder
    # Cargo was asked something before, and left this.
    (copy / "target").mkdir(exist_ok=True)
    (copy / "target" / ".rustc_info.json").write_text("asked")
    folder.fill(copy)
    assert (copy / "target" / ".rustc_info.json").read_text() != "asked"
    deps = copy / "target" / "a-b-c" / "debug" / "deps"
    snapshot = next((folder.home / "snapshots").iterdir())
    assert os.path.samefile(deps / "libcandle_course_notebook-1.so", snapshot / "libcandle_course_notebook-1.so")
    assert os.path.samefile(deps / "libother-1.rlib", folder.template / "target/a-b-c/debug/deps/libother-1.rlib")
    assert not os.path.samefile(snapshot / "libcandle_course_notebook-1.so", folder.template / "target/a-b-c/debug/deps/libcandle_course_notebook-1.so")


def test_a_new_build_changes_nothing_for_a_kernel_that_runs(kernel_folder, monkeypatch):
    folder, copy = kernel_folder
    old = (copy / "snapshot").read_text().strip()
    library = folder.template / "target/a-b-c/debug/deps/libcandle_course_notebook-1.so"
    library.write_text("ours, rebuilt")
    monkeypatch.setattr(folder, "_build", lambda: None)
    new = (folder.copy() / "snapshot").read_text().strip()
    assert new != old and open(f"{old}/{library.name}").read() == "ours" and open(f"{new}/{library.name}").read() == "ours, rebuilt"
    folder.clean()
    assert os.path.isdir(old), "a running kernel lost its library"
    with pytest.raises(build_folder.say.Failure, match="restart the kernel"):
        folder.fill(copy)


def test_cargo_is_asked_only_when_something_has_changed(kernel_folder, tmp_path, monkeypatch):
    folder, _ = kernel_folder
    source, library = tmp_path / "candle_course" / "src" / "lib.rs", folder.template / "target/a-b-c/debug/deps/libother-1.rlib"
    make, built, meanwhile = folder._build, [], []

    def build():
        built.append(True)
        make()
        if meanwhile:
            source.write_text(meanwhile.pop())

    monkeypatch.setattr(folder, "_build", build)

    def builds():
        built.clear()
        folder.prepare()
        return len(built)

    assert builds() == 0
    source.parent.mkdir(parents=True)
    source.write_text("mod a;")
    meanwhile.append("mod a; mod b;")
    assert [builds(), builds(), builds()] == [1, 1, 0], "a change during a build"
    source.unlink()
    assert [builds(), builds()] == [1, 0]
    library.unlink()
    assert [builds(), builds()] == [1, 0]
    monkeypatch.setenv("RUSTFLAGS", "-Ctarget-cpu=native")
    assert [builds(), builds()] == [1, 0]
    monkeypatch.setenv("CANDLE_COURSE_FEATURES", "cuda")
    assert [builds(), builds()] == [1, 0]


@pytest.mark.parametrize(("manifest", "arguments", "answer"), [
    ("empty", ["--print", "sysroot"], "/nonexistent"), ("crate", ["--print", "sysroot"], "real --print sysroot"), ("empty", ["-vV"], "real -vV"),
])
def test_rusts_library_is_read_once(kernel_folder, tmp_path, manifest, arguments, answer):
    _, copy = kernel_folder
    (copy / "Cargo.toml").write_text((copy / "quick" / f"{manifest}.toml").read_text())
    real = tmp_path / "bin" / "rustc"
    real.parent.mkdir()
    real.write_text('#!/bin/sh\necho "real $*"\n')
    real.chmod(0o755)
    environment = dict(os.environ, CANDLE_COURSE_PATH=f"{real.parent}:{os.environ['PATH']}", CANDLE_COURSE_CARGO_HOME="")
    result = subprocess.run([KERNEL_BIN / "rustc", *arguments], cwd=copy, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == answer


def test_the_kernels_cargo_puts_the_pinned_versions_back(tmp_path):
    pinned = '[[package]]\nname = "candle_course"\n\n[[package]]\nname = "half"\nversion = "2.6.0"\n'
    emptied = '[[package]]\nname = "ctx"\n'
    (tmp_path / "pinned.lock").write_text(pinned)
    for before, after in ((emptied, pinned), (pinned + "# a learner's own dependency\n", pinned + "# a learner's own dependency\n")):
        (tmp_path / "Cargo.lock").write_text(before)
        assert kernel_cargo(tmp_path, "true") == 0
        assert (tmp_path / "Cargo.lock").read_text() == after
    assert kernel_cargo(tmp_path, "false") == 1


def test_evcxr_finds_the_kernels_cargo(tmp_path):
    fake = tmp_path / "rustup"
    fake.write_text('#!/bin/sh\necho "real rustup: $*"\n')
    fake.chmod(0o755)
    environment = dict(os.environ, CANDLE_COURSE_PATH=f"{tmp_path}:{os.environ['PATH']}", CANDLE_COURSE_CARGO_HOME="")

    def ask(*arguments):
        return subprocess.run([KERNEL_BIN / "rustup", *arguments], env=environment, capture_output=True, text=True).stdout.strip()

    assert ask("which", "cargo") == str(KERNEL_BIN / "cargo")
    assert ask("which", "rustc") == "real rustup: which rustc"
    assert ask("component", "add", "cargo") == "real rustup: component add cargo"


def test_another_compiler_clears_what_the_last_one_has_built(tmp_path, monkeypatch):
    (tmp_path / "Cargo.lock").write_text("versions")
    folder = build_folder.BuildFolder(tmp_path, tmp_path / "kernels" / "one")
    version = ["rustc 1.95.0"]
    monkeypatch.setattr(build_folder, "compiler", lambda: version[0])
    built = []

    def build():
        deps = folder.template / "target" / "debug" / "deps"
        deps.mkdir(parents=True, exist_ok=True)
        (deps / f"libother-{version[0][6:]}.rlib").touch()
        built.append(version[0])

    monkeypatch.setattr(folder, "_build", build)

    def libraries():
        return [path.name for path in (folder.template / "target").rglob("*.rlib")]

    folder.prepare()
    folder.copy()
    assert libraries() == ["libother-1.95.0.rlib"]
    version[0] = "rustc 1.96.0"
    folder.prepare()
    assert libraries() == ["libother-1.96.0.rlib"]
    assert not list(folder.home.glob("trash-*"))
    folder.prepare()
    assert libraries() == ["libother-1.96.0.rlib"] and len(built) == 4
    # A template from before there was a record is kept: cargo itself knows what is stale.
    (folder.home / "compiler").unlink()
    folder.prepare()
    assert libraries() == ["libother-1.96.0.rlib"]


def test_an_interrupted_clearing_is_made_good(tmp_path, monkeypatch):
    (tmp_path / "Cargo.lock").write_text("versions")
    folder = build_folder.BuildFolder(tmp_path, tmp_path / "kernels" / "one")
    monkeypatch.setattr(folder, "_build", lambda: (folder.template / "target" / "debug").mkdir(parents=True, exist_ok=True))
    monkeypatch.setattr(build_folder, "compiler", lambda: "rustc 1.95.0")
    folder.prepare()
    monkeypatch.setattr(build_folder, "compiler", lambda: "rustc 1.96.0")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as fault:
        fault.setattr(build_folder.shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            folder.prepare()
    folder.prepare()
    assert (folder.template / "target" / "debug").exists()
    folder.clean()
    assert not list(folder.home.glob("trash-*"))


def test_libraries_of_another_compiler_are_not_taken_over(tmp_path, monkeypatch):
    for name, compiled_by in (("first", "rustc 1.94.0"), ("second", "rustc 1.95.0")):
        template(tmp_path / "kernels" / name / "template")
        for record, text in (("built", ""), ("project", str(tmp_path)), ("compiler", f"{compiled_by}\n")):
            (tmp_path / "kernels" / name / record).write_text(text)
    # The newer one is of the other compiler.
    os.utime(tmp_path / "kernels" / "second" / "built", (1_000_000, 1_000_000))
    folder = build_folder.BuildFolder(tmp_path, tmp_path / "kernels" / "third")
    folder.template.mkdir(parents=True)
    (folder.home / "compiler").write_text("rustc 1.95.0\n")
    folder._seed()
    assert os.path.samefile(folder.template / "target/debug/deps/libother-1.rlib", tmp_path / "kernels/second/template/target/debug/deps/libother-1.rlib")
    for record in (tmp_path / "kernels").glob("*/compiler"):
        record.write_text("rustc 1.93.0\n")
    other = build_folder.BuildFolder(tmp_path, tmp_path / "kernels" / "fourth")
    other.template.mkdir(parents=True)
    (other.home / "compiler").write_text("rustc 1.95.0\n")
    other._seed()
    assert not (other.template / "target").exists()


def test_names_of_all_kinds_are_written_as_toml():
    for name in ("plain", "a b", "🦀 ação", 'quote" and \\ and \'', "tab\tand\x7f and \x01", "line\nbreak", "日本"):
        assert tomllib.loads(f"x = {build_folder.toml(name)}") == {"x": name}


def test_what_is_compiled_for_less_is_a_dependency_and_off_the_hot_path():
    locked = {package["name"] for package in tomllib.loads((PROJECT / "Cargo.lock").read_text())["package"]}
    levels = {name: settings["opt-level"] for name, settings in tomllib.loads(build_folder.cargo_config())["profile"]["dev"]["package"].items()}
    assert levels.pop("*") == 3 and levels.pop("candle-core") == 2 and len(levels) > 100
    assert set(levels) <= locked, set(levels) - locked
    assert not {"image", "image-webp", "snap", "zune-jpeg", "candle-nn", "candle_course", "gemm", "gemm-common", "gemm-f16", "gemm-f32", "gemm-f64", "half", "rand", "rand_chacha", "rayon", "rayon-core", "safetensors", "flate2", "png"} & set(levels)
    listed = [name for names in (build_folder.FOR_THE_BUILD, build_folder.NEVER_RUN, build_folder.DRAWS, build_folder.ASIDE, build_folder.COLD) for name in names.split()]
    assert len(listed) == len(set(listed))
