"""The Portuguese notebooks speak Portuguese: what they show holds English only where the field does.

No dictionary is asked. A word counts as English if the lessons' English prose has it, their Portuguese
prose hasn't, and the glossary does not let Portuguese texts use it.
"""

import functools
import html
import json
import re

import pytest
from course import paths, source, words

WORD = re.compile(r"(?<![\w./:`\"\\-])[A-Za-zÀ-ÿ]{2,}(?![\w`(]|[./:]\w)")
CODE = re.compile(r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\]\([^)]*\)|<[^>]*>", re.DOTALL)
# Foreign words and titles of papers stand in italics.
ITALIC = re.compile(r"\*+[^*]+\*+|<em>.*?</em>")

# Words of both languages, and names that are the same in both: of classes and bands in a data set, of values in Rust, of functions
# and of whoever they are named after, of units, of operators in a file.
NAMES = {
    "resume", "total", "drive", "cache", "ln", "conv",
    "true", "false", "nan", "gb", "ha", "red", "nir", "dtype", "sigmoid", "huber", "fashion", "mnist",
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    "shirt", "trouser", "pullover", "dress", "coat", "sandal", "sneaker", "bag", "ankle", "boot",
    "forest", "crops", "urban", "road", "cloud", "shadow", "water",
}
# Errors are in English, as the compiler's are: lines that are one, and the rest of a line that tells its cause.
ERROR = re.compile(r"^(?:the input of example|cannot use the weights) .*|\bcaused by: .*|`\w+`: expected .*", re.MULTILINE)


def vocabulary(text: str) -> set:
    return {word.lower() for word in re.findall(r"[A-Za-zÀ-ÿ]{2,}", text)}


@functools.cache
def lessons() -> tuple:
    return tuple(source.read(path) for path in source.lesson_paths())


@functools.cache
def allowed() -> set:
    """Words that a Portuguese text may use: the glossary's Portuguese, its types, and the names above."""
    found, titles = set(NAMES), []
    for line in (paths.LESSONS / "glossary.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if cells and ("Português" in cells):
            titles = cells
            continue
        for title, cell in zip(titles, cells):
            if title == "Português":
                found |= vocabulary(cell)
            elif title == "code":
                # `CrossEntropy` is a name in any language; `loss` is a word.
                found |= {word.lower() for word in re.findall(r"[A-Z]\w+", cell)}
    return found


@functools.cache
def english() -> set:
    """Words of the English prose and of the code's English words that no Portuguese sentence has."""
    prose = {language: "\n".join(cell.text[language] for lesson in lessons() for cell in lesson.prose) for language in paths.LANGUAGES}
    portuguese = ITALIC.sub(" ", CODE.sub(" ", prose["pt-BR"]))
    spoken = "\n".join(text for lesson in lessons() for text in words.read_by_learners(lesson))
    written = CODE.sub(" ", f"{prose['en']}\n{words.PLACEHOLDER.sub(' ', spoken)}")
    # What a check says by itself.
    return (vocabulary(ITALIC.sub(" ", written)) | {"expected", "got", "hint"}) - vocabulary(portuguese) - allowed()


def foreign(text: str) -> list:
    """The English words of a text that a Portuguese learner reads."""
    found = WORD.findall(re.sub(r"`[^`]*`", "", ERROR.sub("", text)))
    # `StepLR`, `KB`: names and units.
    return [word for word in found if word.lower() in english() and word[1:] == word[1:].lower()]


def shown(output: dict) -> str:
    """What a learner reads of an output: printed lines, the words of a table or of a figure."""
    data = {kind: "".join(text) for kind, text in output.get("data", {}).items()}
    texts = ["".join(output.get("text", ""))]
    for kind in ("text/html", "image/svg+xml"):
        markup = re.sub(r"<(style|script)\b.*?</\1>", " ", data.get(kind, ""), flags=re.DOTALL)
        texts += [html.unescape(text) for text in re.findall(r">([^<>]+)<", markup)]
    if len(data) == 1:
        texts.append(data.get("text/plain", ""))
    return "\n".join(texts)


def test_english_is_told_from_portuguese():
    assert foreign("value 4: expected 2, got 3\n  hint: train more") == ["value", "expected", "got", "hint", "more"]
    assert foreign("esperado: 4, obtido: 3\n  dica: arredonde o batch para cima, com early stopping") == []
    assert foreign("the weights of `fc1.weight`, loss/train") == ["weights"]


@pytest.mark.parametrize("lesson", lessons(), ids=lambda lesson: lesson.name)
def test_the_words_of_the_code_are_portuguese(lesson):
    problems = []
    for cell in words.localised(lesson, "pt-BR"):
        read = [piece.text for piece in words.pieces(cell.text) if piece.read and "wrong" not in cell.tags]
        problems += [f"“{text[:90]}”: {', '.join(found)}" for text in read if (found := foreign(words.PLACEHOLDER.sub(" ", text)))]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("lesson", lessons(), ids=lambda lesson: lesson.name)
def test_the_outputs_are_portuguese(lesson):
    notebook = json.loads((paths.NOTEBOOKS / "pt-BR" / f"{lesson.name}.ipynb").read_text(encoding="utf-8"))
    problems = []
    for number, cell in enumerate((cell for cell in notebook["cells"] if cell["cell_type"] == "code"), 1):
        for output in cell["outputs"]:
            for line in shown(output).splitlines():
                if found := foreign(line):
                    problems.append(f"code cell {number}, “{line.strip()[:90]}”: {', '.join(found)}")
    assert not problems, "\n".join(dict.fromkeys(problems))
