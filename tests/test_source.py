"""Reading lesson sources."""

import re

import pytest
from course import source
from course.say import Failure
from lesson_text import code, exercise, lesson, prose


def read(tmp_path, text):
    path = tmp_path / "1.1-example.md"
    path.write_text(text, encoding="utf-8")
    return source.read(path)


def test_prose_is_paired_and_code_keeps_its_tags(tmp_path):
    found = read(tmp_path, lesson(prose("# Loss\n\nText", "# Perda\n\nTexto"), code("let a = 1;\n\n\nlet b = 2;", "setup", "long"), code("a"), prose("End", "Fim")))
    assert [type(cell).__name__ for cell in found.cells] == ["Prose", "Code", "Code", "Prose"]
    assert found.prose[0].text == {"en": "# Loss\n\nText", "pt-BR": "# Perda\n\nTexto"}
    assert found.code[0].text == "let a = 1;\n\n\nlet b = 2;"
    assert found.code[0].tags == ["setup", "long"]
    assert found.code[1].tags == []


def test_two_pairs_in_a_row_stay_two_cells(tmp_path):
    found = read(tmp_path, lesson(prose("one", "um"), prose("two", "dois")))
    assert [cell.text["pt-BR"] for cell in found.prose] == ["um", "dois"]


def test_a_fence_inside_prose_is_not_a_cell(tmp_path):
    fence = "```rust\nlet x = 1;\n```"
    found = read(tmp_path, lesson(prose(f"See\n\n{fence}", f"Veja\n\n{fence}")))
    assert found.code == []
    assert fence in found.prose[0].text["en"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lesson(prose("Only English here")), "“Only English here” lacks its other language, pt-BR"),
        (lesson(prose("one"), code("a"), prose("two", "dois")), "“one” lacks its other language"),
        (lesson(prose("um", "one").replace('"en"', '"xx"')), "unknown language 'xx'"),
        (lesson("Loose text\n\n", prose("one", "um")), "text outside a language region: “Loose text”"),
        (lesson(code("a", "exercize")), "unknown tag exercize"),
        (lesson("```bash\nls\n```\n"), "code cell 1 is not Rust"),
        (lesson(prose("a", "b")).replace("name: rust", "name: python3"), "must name the kernel `rust`"),
    ],
)
def test_a_mistake_is_named(tmp_path, text, message):
    with pytest.raises(Failure) as failure:
        read(tmp_path, text)
    assert message in str(failure.value)
    assert "1.1-example.md" in str(failure.value)


@pytest.mark.parametrize("text", [b"---\njupyter: [\n---\n", b"\x00", b"", b"---\n- a\n---\n", b"\xff\xfe", b"---\njupyter:\n  - 1\n---\n", b"---\njupyter: text\n---\n", lesson().replace("kernelspec:", "kernelspec: 7\n  x:").encode()])
def test_what_is_no_lesson_is_named(tmp_path, text):
    path = tmp_path / "2.1-broken.md"
    path.write_bytes(text)
    with pytest.raises(Failure, match="2.1-broken.md"):
        source.read(path)
    with pytest.raises(Failure, match="gone.md cannot be read"):
        source.read(tmp_path / "gone.md")


def test_a_misspelt_lesson_is_guessed(project):
    for name in ("3.1-training-loop", "3.2-datasets", "3.3-losses"):
        (project / "lessons" / f"{name}.md").write_text(lesson(), encoding="utf-8")
    for wrong, meant in (("3.1-trainig-loop", "3.1-training-loop"), ("datasest", "3.2-datasets"), ("Losses", "3.3-losses"), ("3,3", "3.3-losses")):
        with pytest.raises(Failure, match=f"did you mean .*{meant}"):
            source.find([wrong])
    with pytest.raises(Failure) as failure:
        source.find(["nothing like it"])
    assert "did you mean" not in str(failure.value)


def test_lessons_are_found_by_number_name_and_path(project):
    for name in ("3.1-loop", "3.2-data", "glossary"):
        (project / "lessons" / f"{name}.md").write_text(lesson(), encoding="utf-8")
    assert [path.stem for path in source.find([])] == ["3.1-loop", "3.2-data"]
    for name in ("3.2", "3.2-data", "3.2-data.md", "notebooks/en/3.2-data.ipynb", str(project / "lessons" / "3.2-data.md")):
        assert [path.stem for path in source.find([name])] == ["3.2-data"]
    with pytest.raises(Failure, match="no lesson is called '3'; there are: 3.1-loop, 3.2-data"):
        source.find(["3"])


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (' hint="add them"\nlet c = a * b', "\nlet c = a * b", "`hint` belongs to a wrong answer"),
        ('["check"]', '["check"] hint="x"', "`hint` belongs to a wrong answer"),
        ('["exercise"]', '["long"]', "a solution without an exercise"),
        ('["solution"]', '["long"]', "here are 0 and 2"),
        ('["wrong"] hint="add them"\nlet c = a * b', '["long"]\nlet c = a * b', "here are 1 and 1"),
        ('["check"]', '["long"]', "the last exercise has no check"),
    ],
)
def test_an_exercise_is_whole(tmp_path, old, new, problem):
    text = lesson(exercise())
    assert text.count(old) == 1
    with pytest.raises(Failure, match=re.escape(problem)):
        read(tmp_path, text.replace(old, new))
