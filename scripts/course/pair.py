"""Checks that the two languages of a prose cell say the same, as far as a program can see."""

import re
from collections import Counter

from .source import Lesson, Prose

FENCE = re.compile(r"^(```|~~~)(.*?)\n.*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
DISPLAY_FORMULA = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
INLINE_CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
INLINE_FORMULA = re.compile(r"(?<![\\$])\$(?!\s)([^$\n]+?)(?<!\s)\$(?!\d)")
LINK = re.compile(r"\]\(\s*<?([^\s)>]+)>?[^)]*\)|<(https?://[^>\s]+)>")
HEADING = re.compile(r"^(#{1,6})\s", re.MULTILINE)
TABLE_ROW = re.compile(r"^\s*\|.*\|\s*$", re.MULTILINE)
NUMBER = re.compile(r"(?<![\w.,])\d+(?:[.,\u00a0\u202f]\d+)*(?![\w])")
# Words inside a formula belong to the language; its mathematics does not.
FORMULA_WORDS = re.compile(r"\\(text|textbf|textit|mathrm|operatorname\*?)\{[^{}]*\}")


def problems(lesson: Lesson) -> list:
    """Every difference between the languages, with its place."""
    return [f"{lesson.path.name}: {cell.where()}: {problem}" for cell in lesson.prose for problem in compare(cell)]


def compare(cell: Prose) -> list:
    (_, first), (other, second) = sorted(cell.text.items(), key=lambda item: item[0] != "en")
    left, right = parts(first), parts(second)
    found = []
    for name in left:
        if name == "numbers":
            lost, extra = unmatched(left[name], right[name], other)
        else:
            lost = list((Counter(left[name]) - Counter(right[name])).elements())
            extra = list((Counter(right[name]) - Counter(left[name])).elements())
            if name == "headings" and left[name] != right[name] and not lost and not extra:
                found.append(f"headings differ in order: {left[name]} and {right[name]}")
        if lost:
            found.append(f"{name} only in en: {', '.join(map(str, lost))}")
        if extra:
            found.append(f"{name} only in {other}: {', '.join(map(str, extra))}")
    return found


def parts(text: str) -> dict:
    """What both languages must share."""
    fences = [match.group(2).strip() or "plain" for match in FENCE.finditer(text)]
    text = FENCE.sub("\n", text)
    codes = [match.group(2).strip() for match in INLINE_CODE.finditer(text)]
    text = INLINE_CODE.sub(" ", text)
    formulas = [formula(match.group(1)) for match in DISPLAY_FORMULA.finditer(text)]
    text = DISPLAY_FORMULA.sub(" ", text)
    formulas += [formula(match.group(1)) for match in INLINE_FORMULA.finditer(text)]
    text = INLINE_FORMULA.sub(" ", text)
    links = [link(match.group(1) or match.group(2)) for match in LINK.finditer(text)]
    text = LINK.sub("] ", text)
    return {
        "headings": [match.group(1) for match in HEADING.finditer(text)],
        "formulas": formulas,
        "inline code": codes,
        "links": links,
        "fenced blocks": fences,
        "table columns": [row.count("|") - 1 for row in TABLE_ROW.findall(text)],
        "numbers": NUMBER.findall(text),
    }


def formula(text: str) -> str:
    return re.sub(r"\s+", " ", FORMULA_WORDS.sub(r"\\\1{}", text)).strip()


def link(target: str) -> str:
    """An encyclopedia's article has another name in another language; its site counts."""
    return re.sub(r"^https?://[a-z-]+\.(wikipedia|wikibooks)\.org/.*", r"https://\1.org", target)


def values(token: str, language: str) -> set:
    """The values a written number may have: `60,000` in English; `60.000` or `0,5` in Portuguese.

    Portuguese text may also use the point of the code for decimals.
    """
    token = re.sub("[\u00a0\u202f]", "", token)
    grouped = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?$" if language == "en" else r"\d{1,3}(?:\.\d{3})+(?:,\d+)?$")
    found = set()
    if grouped.match(token):
        found.add(token.replace(",", "") if language == "en" else token.replace(".", "").replace(",", "."))
    if re.fullmatch(r"\d+(\.\d+)?", token):
        found.add(token)
    if language != "en" and re.fullmatch(r"\d+,\d+", token):
        found.add(token.replace(",", "."))
    return {float(value) for value in found} or {token}


def unmatched(left: list, right: list, other: str) -> tuple:
    """Numbers of each side without a partner on the other."""
    rest, lost = list(right), []
    # Unambiguous ones first, so that they do not lose their partner to an ambiguous one.
    for token in sorted(left, key=lambda token: len(values(token, "en"))):
        partners = [candidate for candidate in rest if values(token, "en") & values(candidate, other)]
        if partners:
            rest.remove(min(partners, key=lambda candidate: len(values(candidate, other))))
        else:
            lost.append(token)
    return lost, rest
