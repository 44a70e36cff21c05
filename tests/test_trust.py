"""What `scripts/lab` signs: the notebooks that the build has written, and nothing else."""

import json
import os

import nbformat
import pytest
from course import build_command, check, lab_command, paths, reliability, render, source, stored
from lesson_text import code, lesson, prose
from nbformat.sign import MemorySignatureStore, NotebookNotary

SCRIPT = {"output_type": "display_data", "metadata": {}, "data": {"text/html": "<script>fetch('/api/contents')</script>"}}


@pytest.fixture
def built(project, monkeypatch):
    """A lesson built in both languages, as the command does it; its outputs are given."""
    path = project / "lessons" / "1.1-example.md"
    path.write_text(lesson(prose("# Loss", "# Perda"), code("let a = 1;")), encoding="utf-8")
    outputs = [[{"output_type": "display_data", "data": {"image/svg+xml": "<svg/>"}, "metadata": {}}]]
    monkeypatch.setattr(check, "stored_outputs", lambda *_: outputs)
    build_command.build(path, prose_only=True)
    return path


@pytest.fixture
def notary(tmp_path, monkeypatch):
    """The signatures of one user."""
    store = MemorySignatureStore()

    def make(*_, **options):
        made = NotebookNotary(data_dir=str(tmp_path), store_factory=lambda: store)
        made.secret = b"a secret"
        return made

    monkeypatch.setattr("nbformat.sign.NotebookNotary", make)
    return make()


def signed(notary):
    """The places of the notebooks that JupyterLab would trust."""
    found = []
    for path in sorted(paths.NOTEBOOKS.rglob("*.ipynb")):
        try:
            if notary.check_signature(nbformat.read(path, as_version=4)):
                found.append(str(path.relative_to(paths.NOTEBOOKS)))
        except Exception:
            continue
    return found


PROMISE = "JupyterLab trusts only notebooks that the build has written"
OWN = ["en/1.1-example.ipynb", "pt-BR/1.1-example.ipynb"]


def test_what_the_build_has_written_is_signed_without_a_word(built, notary, capsys):
    lab_command.trust()
    assert signed(notary) == OWN
    assert capsys.readouterr().err.count("not as the project built it") == 0


def stranger(path, output=SCRIPT):
    cell = nbformat.v4.new_code_cell("1", outputs=[nbformat.from_dict(output)])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)


def test_strangers_and_what_somebody_changed_are_passed_over(built, notary, project, capsys):
    stranger(project / "notebooks" / "en" / "0.0-welcome.ipynb")
    # A copy of a lesson in a place where the build writes none: only its content is known, once it is signed.
    (project / "notebooks" / "de").mkdir()
    (project / "notebooks" / "de" / "1.1-example.ipynb").write_bytes((project / "notebooks" / "en" / "1.1-example.ipynb").read_bytes())
    # A lesson with another output, its code and text as they were.
    changed = project / "notebooks" / "pt-BR" / "1.1-example.ipynb"
    notebook = nbformat.read(changed, as_version=4)
    notebook.cells[1].outputs = [nbformat.from_dict(SCRIPT)]
    changed.write_text(render.text_of(notebook), encoding="utf-8")
    lab_command.trust()
    assert set(signed(notary)) == {"en/1.1-example.ipynb", "de/1.1-example.ipynb"}
    notes = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in notes if "not as the project built it" in line] == ["de/1.1-example.ipynb", "en/0.0-welcome.ipynb", "pt-BR/1.1-example.ipynb"]
    reliability.tried(PROMISE, "a notebook of somebody else, or with another output", 2)


def test_what_the_user_has_trusted_stays_so_and_is_not_mentioned(built, notary, project, capsys):
    path = project / "notebooks" / "en" / "mine.ipynb"
    stranger(path)
    notary.sign(nbformat.read(path, as_version=4))
    capsys.readouterr()
    lab_command.trust()
    assert signed(notary) == ["en/1.1-example.ipynb", "en/mine.ipynb", "pt-BR/1.1-example.ipynb"]
    assert capsys.readouterr().err == ""


BROKEN = {
    "empty": b"", "blank": b" \n", "list": b"[]", "null": b"null", "number": b"7", "text": b'"x"', "bytes": b"\xff\xfe\x00\x01", "cut": b'{"cells": [',
    "conflict": b'{\n<<<<<<< HEAD\n"cells": []\n=======\n"cells": [1]\n>>>>>>> theirs\n}', "deep": b"[" * 200_000, "cells": b'{"cells": {}, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
    "version": b'{"nbformat": "four"}', "future": b'{"nbformat": 99, "nbformat_minor": 0, "cells": [], "metadata": {}}', "ancient": b'{"nbformat": 1}',
}


@pytest.mark.parametrize("name", [*BROKEN, "dangling", "circle", "folder", "fifo", "denied"])
def test_one_unreadable_notebook_costs_one_note(built, notary, project, capsys, monkeypatch, name):
    path = project / "notebooks" / "en" / f"0-{name}.ipynb"
    if name == "dangling":
        path.symlink_to(project / "nowhere")
    elif name == "circle":
        path.symlink_to(path)
    elif name == "folder":
        path.mkdir()
    elif name == "fifo":
        os.mkfifo(path)
    elif name == "denied":
        stranger(path)
        whole = type(path).read_bytes

        def read_bytes(this):
            if this == path:
                raise PermissionError(13, "Permission denied")
            return whole(this)

        monkeypatch.setattr(type(path), "read_bytes", read_bytes)
    else:
        path.write_bytes(BROKEN[name])
    capsys.readouterr()
    lab_command.trust()
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 1 and f"en/0-{name}.ipynb" in notes[0] and len(notes[0]) < 300, notes
    reliability.tried(PROMISE, "a file that is no notebook: one note, and the others are signed", 1)
    monkeypatch.undo()
    if name != "fifo":
        assert json.loads((project / "notebooks" / "en" / "1.1-example.ipynb").read_text())


def test_a_name_cannot_write_on_the_terminal(built, notary, project, capsys):
    for name in ("two\nlines", "\x1b[2Jclear", "\x1b]0;title\x07", "broken-\x1b[31m"):
        path = project / "notebooks" / "en" / f"{name}.ipynb"
        stranger(path) if "broken" not in name else path.write_bytes(b"[]")
    capsys.readouterr()
    lab_command.trust()
    notes = capsys.readouterr().err
    assert len(notes.splitlines()) == 4 and all(line.startswith("• ") and line.isprintable() for line in notes.splitlines())
    assert all(problem.isprintable() for problem in check.strangers([built]))


def test_the_others_are_signed_beside_unreadable_ones(built, notary, project, capsys):
    for name, content in BROKEN.items():
        (project / "notebooks" / "en" / f"0-{name}.ipynb").write_bytes(content)
    lab_command.trust()
    assert signed(notary) == OWN


def test_a_damaged_record_signs_nothing_and_says_so(built, notary, project, capsys):
    stored.manifest().write_text("<<<<<<< HEAD\n")
    lab_command.trust()
    assert signed(notary) == []
    assert "notebooks.sha256 is damaged in line 1" in capsys.readouterr().err
    build_command.build(built, prose_only=True)
    lab_command.trust()
    assert signed(notary) == OWN


def test_without_a_record_nothing_is_signed(built, notary):
    stored.manifest().unlink()
    lab_command.trust()
    assert signed(notary) == []


def test_the_check_compares_the_record(built, project):
    every = [built]
    assert check.unrecorded(every) == []
    path = project / "notebooks" / "en" / "1.1-example.ipynb"
    path.write_text(path.read_text().replace("<svg/>", "<svg></svg>"))
    assert check.unrecorded(every) == ["en/1.1-example.ipynb is not recorded in notebooks.sha256 as it stands; run scripts/build-notebooks 1.1-example (with --prose if its outputs are right)"]


def test_a_lesson_that_is_gone_is_forgotten(built, project):
    (project / "lessons" / "1.2-next.md").write_text(built.read_text(), encoding="utf-8")
    build_command.build(project / "lessons" / "1.2-next.md", prose_only=True)
    assert len(stored.built()) == 4
    built.unlink()
    build_command.build(project / "lessons" / "1.2-next.md", prose_only=True)
    assert list(stored.built()) == ["en/1.2-next.ipynb", "pt-BR/1.2-next.ipynb"]


def test_the_projects_own_notebooks_are_recorded_as_they_stand():
    assert check.unrecorded(source.find([])) == []
    assert len(stored.built()) == 2 * len(source.find([]))
