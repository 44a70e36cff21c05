"""Every topic of the syllabus has its cell: `lessons/topics.toml` names a text for each."""

import functools
import re

import pytest
from course import paths, source

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

TOPICS = tomllib.loads((paths.LESSONS / "topics.toml").read_text(encoding="utf-8"))


@functools.cache
def read(path):
    return source.read(path)


def squeezed(text: str) -> str:
    """Without white space: how a line is broken does not matter."""
    return re.sub(r"\s+", "", text)


def places(lesson, text: str) -> list:
    """Where `text` stands, as (cell number, what it is): in code and headings first, then in prose."""
    text = squeezed(text)
    found = {"code": [], "heading": [], "prose": []}
    for number, cell in enumerate(lesson.cells, start=1):
        if isinstance(cell, source.Code):
            if text in squeezed(cell.text):
                found["code"].append((number, "code"))
            continue
        language = next((name for name, prose in cell.text.items() if text in squeezed(prose)), None)
        if language is None:
            continue
        headings = [line for line in cell.text[language].splitlines() if line.startswith("#")]
        kind = "heading" if any(text in squeezed(line) for line in headings) else "prose"
        found[kind].append((number, kind if language == "en" else f"{kind}, {language}"))
    return found["code"] + found["heading"] + found["prose"]


def test_every_lesson_has_its_topics():
    assert list(TOPICS) == [path.stem for path in source.lesson_paths()]
    for name, entry in TOPICS.items():
        topics = [line["topic"] for line in entry["topics"]]
        assert len(topics) == len(set(topics)), f"{name}: a topic is listed twice"


@pytest.mark.parametrize("name", TOPICS)
def test_every_topic_has_a_cell(name):
    lesson = read(paths.LESSONS / f"{name}.md")
    missing = []
    print()
    for line in TOPICS[name]["topics"]:
        found = places(lesson, line["cell"])
        if found:
            print(f"{name[:3]}  {line['topic']:<58} cell {found[0][0]:>3}, {found[0][1]}")
        else:
            missing.append(f"{line['topic']}: no cell has `{line['cell']}`")
    assert not missing, f"{name}: {len(missing)} topics without a cell\n" + "\n".join(missing)


@pytest.mark.parametrize("language", paths.LANGUAGES)
def test_links_carry_the_lessons_titles_and_durations(language):
    texts = {path.stem: [cell.text[language] for cell in read(path).prose] for path in source.lesson_paths()}
    titles = {name: re.search(r"^# (.*)", cells[0], re.MULTILINE).group(1) for name, cells in texts.items()}
    titles["3.0-overview"] = titles["3.0-overview"].split(":")[0]
    problems = []
    for name, cells in texts.items():
        for words, target in re.findall(r"\[(3\.\d [^\]]+)\]\((3\.[^)]+)\.ipynb\)", "\n".join(cells)):
            if titles.get(target) != words:
                problems.append(f"{name} calls {target} “{words}”, its title is “{titles.get(target)}”")
    overview = "\n".join(texts["3.0-overview"])
    for name, cells in texts.items():
        minutes = re.search(r"\*\*(\d+) minut", cells[0])
        if minutes and f"({name}.ipynb) | {minutes.group(1)} |" not in overview:
            problems.append(f"the overview does not give {name} {minutes.group(1)} minutes")
    assert not problems, "\n".join(problems)
