"""The exercises of a lesson, and the order in which a run tries what may be written into them."""

from dataclasses import dataclass

from . import paths, words
from .source import Code, Lesson


@dataclass
class Step:
    """A cell to run, and what its check has to say."""

    text: str
    tags: list
    # The cell in question, if the notebook shows it.
    cell: Code = None
    # "red" or "green": what a check must show; "" for any other cell.
    expected: str = ""
    hint: str = ""
    # Whose answer a check judges.
    answer: str = ""

    def problem(self, written: str) -> str:
        """Why the printed text is not what was expected; empty if it is."""
        if not self.expected:
            return ""
        red = "✗" in written
        if self.expected == "green" and (red or "✓" not in written):
            return f"the check is not green on {self.answer}:\n\n{written.strip()}"
        if self.expected == "red" and not red:
            return f"the check does not find what is wrong with {self.answer}:\n\n{written.strip()}"
        if self.hint not in written:
            return f"the check is red on {self.answer}, but does not say “{self.hint}”:\n\n{written.strip()}"
        return ""


def steps(lesson: Lesson, answers: str = "solutions", language: str = paths.LANGUAGES[0]) -> list:
    """The cells in the order of a run, with the words of `language`.

    `answers` says what stands in the exercises: `solutions`; `stubs`, as they are; or `all`, which shows
    each check the stub and the wrong answers, which it must find, before the solution, which it must pass.
    """
    found, pending = [], []
    for cell in words.localised(lesson, language):
        if "solution" in cell.tags or "wrong" in cell.tags:
            pending.append(cell)
        elif "check" in cell.tags:
            found += judged(cell, pending, answers)
            pending = []
        else:
            found.append(Step(cell.text, cell.tags, cell))
    return found


def judged(check: Code, pending: list, answers: str) -> list:
    """The check, before which the answers stand."""
    solution = next(cell for cell in pending if "solution" in cell.tags)
    found = []
    if answers in ("stubs", "all"):
        found.append(Step(check.text, check.tags, check if answers == "stubs" else None, "red", answer="the stub"))
    if answers == "stubs":
        return found
    if answers == "all":
        for number, wrong in enumerate((cell for cell in pending if "wrong" in cell.tags), 1):
            found.append(Step(wrong.text, wrong.tags))
            found.append(Step(check.text, check.tags, None, "red", wrong.hint, f"wrong answer {number}"))
    found.append(Step(solution.text, solution.tags))
    found.append(Step(check.text, check.tags, check, "green", answer="the solution"))
    return found
