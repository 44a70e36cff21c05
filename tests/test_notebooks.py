"""Rendering and checking notebooks, without a kernel."""

import json

import nbformat
import pytest
from course import check, exercises, paths, render, source, words
from course.say import Failure
from lesson_text import code, exercise, lesson, prose

TEXT = lesson(
    prose("# Loss\n\nThe rate is 0.5.", "# Perda\n\nA taxa é 0,5."),
    code("let a = 1;"),
    code("let b = a + 1; // one more than a", "long"),
    code("b"),
    exercise(),
    more="  lesson:\n    previous: 1.0-start\n    next: 1.2-end\n",
)
WORDS = "en: Exercise 1\npt: Exercício 1\n\nen: add them\npt: some os dois\n\nen: one more than a\npt: um a mais que a\n"
OUTPUTS = [[], [], [{"output_type": "display_data", "data": {"text/plain": "2"}, "metadata": {}}], [], []]


@pytest.fixture
def built(project):
    """A lesson with its two notebooks, as the build leaves them."""
    path = project / "lessons" / "1.1-example.md"
    path.write_text(TEXT, encoding="utf-8")
    (project / "lessons" / "pt-BR").mkdir()
    (project / "lessons" / "pt-BR" / "1.1-example.txt").write_text(WORDS, encoding="utf-8")
    read = source.read(path)
    for language in paths.LANGUAGES:
        text = render.text_of(render.notebook(read, language, OUTPUTS))
        (project / "notebooks" / language / "1.1-example.ipynb").write_text(text, encoding="utf-8")
        colab = project / "notebooks" / "colab" / language / "1.1-example.ipynb"
        colab.parent.mkdir(parents=True)
        colab.write_text(render.text_of(render.colab(read, language)), encoding="utf-8")
    return path


def change(project, language, edit):
    path = project / "notebooks" / language / "1.1-example.ipynb"
    stored = nbformat.read(path, as_version=4)
    edit(stored)
    path.write_text(render.text_of(stored), encoding="utf-8")


def test_what_was_built_passes(built):
    assert check.lesson(built) == []


def test_each_language_gets_its_prose_and_its_words_in_the_code(built, project):
    english, portuguese = (nbformat.read(project / "notebooks" / language / "1.1-example.ipynb", as_version=4) for language in paths.LANGUAGES)
    nbformat.validate(english)
    assert english.cells[0].source == "# Loss\n\nThe rate is 0.5."
    assert portuguese.cells[0].source == "# Perda\n\nA taxa é 0,5."
    assert english.cells[2].source == "let b = a + 1; // one more than a"
    assert portuguese.cells[2].source == "let b = a + 1; // um a mais que a"
    assert '"Exercício 1").equal("c", a + b, c, "some os dois")' in portuguese.cells[5].source
    assert english.cells[2].metadata == {"tags": ["long"]}
    assert english.cells[-1].source == "---\n← [Previous](1.0-start.ipynb) · [Em português](../pt-BR/1.1-example.ipynb) · [Next](1.2-end.ipynb) →"
    assert len({cell.id for cell in english.cells}) == len(english.cells)
    assert english.metadata.kernelspec.name == "rust"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("The rate is 0.5.", "The rate is now 0.5.", "en/1.1-example.ipynb is stale (the text of cell 1"),
        ("A taxa é", "Uma taxa é", "pt-BR/1.1-example.ipynb is stale"),
        ("let a = 1;", "let a = 3;", "is stale"),
        ('["long"]', '["stderr"]', "the metadata of cell 3 differs"),
        ("next: 1.2-end", "next: 1.3-end", "is stale"),
        ("A taxa é 0,5.", "A taxa é 0,6.", "numbers only in en: 0.5"),
    ],
)
def test_a_changed_source_makes_the_notebook_stale(built, old, new, message):
    text = built.read_text(encoding="utf-8")
    assert old in text
    built.write_text(text.replace(old, new), encoding="utf-8")
    assert message in "\n".join(check.lesson(built))


def test_a_notebook_edited_by_hand_is_stale(built, project):
    change(project, "en", lambda stored: stored.cells[1].update(source="let a = 100;"))
    assert "en/1.1-example.ipynb is stale" in "\n".join(check.lesson(built))
    change(project, "pt-BR", lambda stored: stored.cells.pop())
    assert "pt-BR/1.1-example.ipynb is stale (7 cells instead of 8)" in "\n".join(check.lesson(built))


def test_outputs_must_be_the_same_in_both_languages(built, project):
    change(project, "pt-BR", lambda stored: stored.cells[3].outputs.clear())
    assert "the outputs of code cell 3 differ between the languages" in "\n".join(check.lesson(built))


def test_missing_and_stray_notebooks_are_named(built, project):
    (project / "notebooks" / "en" / "1.1-example.ipynb").unlink()
    (project / "notebooks" / "en" / "9.9-old.ipynb").write_text("{}", encoding="utf-8")
    assert "en/1.1-example.ipynb does not exist" in "\n".join(check.lesson(built))
    assert check.strangers([built]) == ["en/9.9-old.ipynb has no source in lessons/"]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"output_type": "stream", "name": "stderr", "text": "thread panicked"}, "cell 4 ended with an error"),
        ({"output_type": "error", "ename": "E", "evalue": "", "traceback": []}, "cell 4 ended with an error"),
        ({"output_type": "stream", "name": "stdout", "text": "in /home/ana/data/x.bin"}, "names a folder of this machine, /home/ana/data/x.bin"),
        ({"output_type": "display_data", "data": {"image/png": "A" * render.MAXIMUM_BYTES}, "metadata": {}}, "the limit is 600000"),
    ],
)
def test_unfit_outputs_are_refused(built, project, output, message):
    change(project, "en", lambda stored: stored.cells[3].update(outputs=[nbformat.from_dict(output)]))
    assert message in "\n".join(check.lesson(built))


def test_prose_can_be_rebuilt_while_the_code_stays(built):
    built.write_text(TEXT.replace("# Loss", "# The loss").replace("# Perda", "# A perda"), encoding="utf-8")
    assert json.loads(json.dumps(check.stored_outputs(source.read(built)))) == OUTPUTS
    built.write_text(TEXT.replace("let a = 1;", "let a = 2;"), encoding="utf-8")
    with pytest.raises(Failure, match="the code changed since its outputs were stored"):
        check.stored_outputs(source.read(built))


def test_a_solution_is_folded_text_behind_its_check(built, project):
    for language, summary in (("en", "A solution"), ("pt-BR", "Uma solução")):
        notebook = nbformat.read(project / "notebooks" / language / "1.1-example.ipynb", as_version=4)
        stub, verdict, solution = notebook.cells[4:7]
        assert stub.source == "let c = 0;"
        assert verdict.source.startswith("Check::new") and verdict.outputs == []
        assert solution.cell_type == "markdown" and "```rust\nlet c = a + b;\n```" in solution.source
        assert solution.source.startswith(f"<details>\n<summary>{summary}")
        code_cells = "".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
        assert "let c = a + b" not in code_cells and "let c = a - b" not in code_cells


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("en: add them\npt: some os dois\n\n", "", "pt-BR/1.1-example.txt lacks “add them”"),
        ("pt: some os dois", "pt: some os {}", "the placeholders of “add them” and “some os {}” differ"),
        ("pt: some os dois", 'pt: some "os dois"', "write a quotation mark as"),
        ("en: add them", "en: add both", "“add both” is not in the code any more"),
        ("pt: some os dois\n", "", "expected `en: …` and then `pt: …`"),
        ("en: add them", "add them", "expected `en: …` and then `pt: …`, got “add them”"),
    ],
)
def test_a_catalogue_has_every_word_once(built, project, old, new, message):
    file = project / "lessons" / "pt-BR" / "1.1-example.txt"
    assert old in WORDS
    file.write_text(WORDS.replace(old, new), encoding="utf-8")
    try:
        found = "\n".join(check.lesson(built))
    except Failure as failure:
        found = str(failure)
    assert message in found


def test_words_in_code_are_found_and_replaced():
    code = '''/// The mean
/// of all.
fn mean(xs: &[f64]) -> f64 { 1.0 } // not yet
let path = "runs/a.txt";
let c = 'x';
chart.line("train", &values).at("fc1");
table.row(("accuracy", history.values("accuracy")?));
println!("{} of {n} steps \\
    are done", 3);
let raw = r"no words";'''
    read = [piece.text for piece in words.pieces(code) if piece.read]
    assert read == ["The mean of all.", "not yet", "train", "accuracy", "{} of {n} steps are done"]
    changed = words.translated(code, {"The mean of all.": "A média de tudo.", "train": "treino", "accuracy": "acurácia", "{} of {n} steps are done": "{} de {n} passos feitos"})
    assert changed.startswith("/// A média de tudo.\nfn mean")
    assert 'chart.line("treino", &values).at("fc1");' in changed
    assert 'row(("acurácia", history.values("accuracy")?))' in changed
    assert 'println!("{} de {n} passos feitos", 3);' in changed
    assert words.translated(code, {}) == code


@pytest.mark.parametrize(
    ("english", "portuguese", "same"),
    [
        ("loss 0.5 after 3 steps", "perda 0.5 após 3 passos", True),
        ("loss 0.5", "perda 0.6", False),
        ("✓ right", "✗ certo", False),
        ("2e-5 and NaN", "2e-5 e NaN", True),
        ("10,000 ones", "10 mil uns", True),
        ("60,000 images", "60\u202f000 imagens", True),
        ("the model&#39;s 3", "os 3 do modelo", True),
        ("1,234 of 5", "1234 de 5", True),
    ],
)
def test_numbers_are_compared_and_words_are_not(english, portuguese, same):
    first, second = ([{"output_type": "stream", "name": "stdout", "text": text}] for text in (english, portuguese))
    assert (check.numbers(first) == check.numbers(second)) == same


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("solutions", ["let c = 0;", "let c = a + b;", "check green"]),
        ("stubs", ["let c = 0;", "check red"]),
        ("all", ["let c = 0;", "check red", "let c = a - b;", "check red", "let c = a * b;", "check red", "let c = a + b;", "check green"]),
    ],
)
def test_a_run_tries_the_answers_in_order(built, answers, expected):
    steps = exercises.steps(source.read(built), answers)
    assert [f"check {step.expected}" if step.expected else step.text for step in steps][3:] == expected
    # What a notebook shows has one output each.
    assert [step.cell.number for step in steps if step.cell] == [cell.number for cell in source.read(built).shown]


@pytest.mark.parametrize(
    ("expected", "hint", "written", "problem"),
    [
        ("", "", "✗ anything", ""),
        ("green", "", "Exercise\n✓ a\n✓ b", ""),
        ("green", "", "Exercise\n✓ a\n✗ b", "is not green"),
        ("green", "", "Exercise", "is not green"),
        ("red", "", "Exercise\n✓ a\n✗ b", ""),
        ("red", "", "Exercise\n✓ a", "does not find what is wrong"),
        ("red", "the sign", "✗ b\n  hint: the sign?", ""),
        ("red", "the sign", "✗ b\n  hint: the root?", "does not say “the sign”"),
    ],
)
def test_what_a_check_says_is_judged(expected, hint, written, problem):
    found = exercises.Step("", [], None, expected, hint, "the answer").problem(written)
    assert problem in found and bool(problem) == bool(found)


def test_outputs_are_tidied():
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": "one\n"},
        {"output_type": "stream", "name": "stdout", "text": "\x1b[32mtwo\x1b[0m in /work/project/x\n"},
        {"output_type": "execute_result", "execution_count": 7, "data": {"text/plain": "3"}, "metadata": {}},
    ]
    assert render.tidy_outputs(outputs, [("/work/project", "…")]) == [
        {"output_type": "stream", "name": "stdout", "text": "one\ntwo in …/x\n"},
        {"output_type": "display_data", "data": {"text/plain": "3"}, "metadata": {}},
    ]


def test_base64_is_stored_as_it_came():
    png = "iVBORw0KGgo/tmp/AAAA"
    figure = f'<image href="data:image/png;base64,{png}"/><text>/tmp/x</text>'
    data = {"image/png": png, "image/svg+xml": figure, "text/html": figure, "text/plain": "/tmp/x"}
    (tidied,) = render.tidy_outputs([{"output_type": "display_data", "data": data, "metadata": {}}], [("/tmp", "…")])
    mended = figure.replace("/tmp/x", "…/x")
    assert tidied["data"] == {"image/png": png, "image/svg+xml": mended, "text/html": mended, "text/plain": "…/x"}


def test_ids_follow_from_the_text(built):
    read = source.read(built)
    first, second = (render.text_of(render.notebook(read, "en", OUTPUTS)) for _ in range(2))
    assert first == second


def test_a_colab_notebook_has_the_same_cells_for_a_python_runtime(built, project, monkeypatch):
    monkeypatch.setenv("CANDLE_COURSE_REPOSITORY", "https://github.com/owner/course.git")
    read = source.read(built)
    rust, colab = render.notebook(read, "pt-BR", OUTPUTS), render.colab(read, "pt-BR")
    nbformat.validate(colab)
    assert colab.metadata.kernelspec.name == "python3" and colab.metadata.language_info.name == "python"
    setup, *cells = [cell for cell in colab.cells if cell.cell_type == "code"]
    assert 'colab.start("pt-BR")' in setup.source and "https://github.com/owner/course" in setup.source
    compile(setup.source, "setup", "exec")
    assert [cell.source for cell in cells] == [f"%%rust\n{cell.source}" for cell in rust.cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in cells)
    assert [cell.source for cell in colab.cells if cell.cell_type == "markdown"] == [cell.source for cell in rust.cells if cell.cell_type == "markdown"][1:]


@pytest.mark.parametrize(("name", "count"), [("3.5-checkpoints", 2), ("3.1-training-loop", 1)])
def test_lessons_with_files_to_keep_mount_a_drive(built, project, name, count):
    path = project / "lessons" / f"{name}.md"
    path.write_text(built.read_text(encoding="utf-8"), encoding="utf-8")
    (project / "lessons" / "pt-BR" / f"{name}.txt").write_text(WORDS, encoding="utf-8")
    added = [cell.source for cell in render.colab(source.read(path), "en").cells if "colab" in cell.metadata.get("tags", [])]
    assert len(added) == count and ("mount_drive" in added[-1]) == (count == 2)


def test_badges_stand_where_there_is_an_address(built, monkeypatch):
    read = source.read(built)
    table = "| 1.1 | [A](notebooks/en/1.1-a.ipynb) | [B](notebooks/pt-BR/1.1-a.ipynb) |\n"
    monkeypatch.setenv("CANDLE_COURSE_REPOSITORY", "")
    assert not any("badge" in cell.metadata.get("tags", []) for cell in render.notebook(read, "en").cells)
    assert check.with_badges(table) == table
    monkeypatch.setenv("CANDLE_COURSE_REPOSITORY", "https://github.com/owner/course")
    badge = render.notebook(read, "en").cells[0].source
    assert "https://colab.research.google.com/github/owner/course/blob/main/notebooks/colab/en/1.1-example.ipynb" in badge
    marked = check.with_badges(table)
    assert marked.count("colab-badge.svg") == 2 and check.with_badges(marked) == marked
    monkeypatch.setenv("CANDLE_COURSE_REPOSITORY", "")
    assert check.with_badges(marked) == table


def test_a_stale_colab_notebook_is_named(built, project):
    path = project / "notebooks" / "colab" / "en" / "1.1-example.ipynb"
    path.write_text(path.read_text(encoding="utf-8").replace("%%rust", "%%bash"), encoding="utf-8")
    assert "colab/en/1.1-example.ipynb is stale" in "\n".join(check.lesson(built))
    (project / "notebooks" / "colab" / "en" / "9.9-old.ipynb").write_text("{}", encoding="utf-8")
    assert check.strangers([built]) == ["colab/en/9.9-old.ipynb has no source in lessons/"]
