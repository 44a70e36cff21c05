"""`scripts/build-notebooks [lesson …] [--check] [--prose]`: lesson sources to notebooks."""

import argparse
import tempfile
from pathlib import Path

from . import build_folder, environment, paths, say, source


def main(arguments: list) -> int:
    parser = argparse.ArgumentParser(prog="scripts/build-notebooks", description="Turns lessons/*.md into executed notebooks in both languages.")
    parser.add_argument("lessons", nargs="*", help="a number (3.1), a name or a path; all lessons by default")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="write nothing; fail when sources and notebooks differ or the languages do")
    mode.add_argument("--prose", action="store_true", help="keep the stored outputs; only possible while the code is unchanged")
    mode.add_argument("--words", action="store_true", help="only add the words that the catalogues in lessons/pt-BR lack, to be translated")
    chosen = parser.parse_args(arguments)
    every = source.find(chosen.lessons)
    environment.set_up(environment.ensure_venv if chosen.check or chosen.prose or chosen.words else environment.ensure)

    from . import check, words

    if chosen.words:
        print(f"{sum(words.add_missing(source.read(path)) for path in every)} words to translate")
        return 0
    if chosen.check:
        problems = [problem for path in every for problem in check.lesson(path)] + check.unrecorded(every)
        if not chosen.lessons:
            problems += check.strangers(every) + check.readme()
        if problems:
            raise say.Failure("\n".join(problems))
        print(f"{len(every)} lessons and {len(every) * len(paths.LANGUAGES)} notebooks agree")
        return 0
    for path in every:
        build(path, chosen.prose)
    readme = paths.PROJECT / "README.md"
    if readme.exists():
        say.write_if_changed(readme, check.with_badges(say.read_text(readme)))
    if not chosen.prose:
        build_folder.BuildFolder().clean()
    return 0


def build(path, prose_only: bool) -> None:
    """Writes both notebooks of one lesson, or neither; each is executed with its own words."""
    from . import check, pair, render, stored, words

    lesson = source.read(path)
    problems = pair.problems(lesson) + words.problems(lesson)
    if problems:
        raise say.Failure("\n".join(problems))
    outputs, texts = {}, {}
    for language in paths.LANGUAGES:
        outputs[language] = check.stored_outputs(lesson, language) if prose_only else executed(lesson, language)
        texts[language] = render.text_of(render.notebook(lesson, language, outputs[language]))
    for language, text in texts.items():
        problems += check.contents(f"{language}/{lesson.name}.ipynb", text)
    if problems:
        raise say.Failure("\n".join(problems))
    for language, text in texts.items():
        target = paths.NOTEBOOKS / language / f"{lesson.name}.ipynb"
        say.write_if_changed(target, text)
        say.note(f"  {target.relative_to(paths.PROJECT)}: {len(text.encode()) // 1000} KB")
    stored.record({f"{language}/{lesson.name}.ipynb": text for language, text in texts.items()})
    for language in paths.LANGUAGES:
        say.write_if_changed(paths.NOTEBOOKS / "colab" / language / f"{lesson.name}.ipynb", render.text_of(render.colab(lesson, language)))
    # Said when they are written: a cell that turns out to be `timed` need not be run again.
    differing = check.differing_numbers(lesson, outputs)
    if differing:
        raise say.Failure("\n".join(differing))


def executed(lesson, language: str) -> list:
    """The outputs of the cells that a notebook shows."""
    from . import execute, exercises, render

    folder = paths.NOTEBOOKS / language
    folder.mkdir(parents=True, exist_ok=True)
    steps = exercises.steps(lesson, language=language)
    with say.step(f"Running {lesson.name}, {language}"):
        report = execute.run(lesson.name, steps, folder, progress=execute.show_progress(lesson.name))
    execute.failing([report])
    return [render.tidy_outputs(output, machine_paths()) for step, output in zip(steps, report.outputs) if step.cell]


def machine_paths() -> list:
    """Folders of this machine and what stands for them in a stored output."""
    return [
        (str(build_folder.BuildFolder().home), "…"),
        (str(paths.PROJECT), "…"),
        (tempfile.gettempdir(), "…"),
        (str(Path.home()), "~"),
    ]
