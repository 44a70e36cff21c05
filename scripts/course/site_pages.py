"""The pages of the site, in both languages, into a folder that a browser opens without a server."""

import base64
import html
import json
import os
import re
import shutil
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from . import paths, say, site_lesson, site_map, site_slides, site_teaching, site_text
from .site_lesson import Section

try:
    import tomllib
except ModuleNotFoundError:
    import tomli as tomllib

SOURCE = Path(__file__).resolve().parents[2] / "site"
# Figures are laid out by the widths of the crate's own font.
PLOT_FONTS = paths.CRATE / "src" / "plot" / "fonts"
FONTS = [("Formulas", "normal", SOURCE / "fonts" / "stix-two-math.woff2"), ("Figures", "normal", PLOT_FONTS / "PlotSans-Regular.ttf"), ("Figures", "bold", PLOT_FONTS / "PlotSans-Bold.ttf")]
# In a folder that holds nothing but a site; whatever else is in a folder is not deleted.
MARK = ".made-by-scripts-site"
# Where the glossary says, for the authors of lessons, how things are written.
FOR_AUTHORS = ("House style",)


def build(target: Path, reference: Path = None) -> int:
    """Writes the site into `target`, which is emptied first, and returns how many pages it has.

    `reference` is the folder of the crate's documentation, which is put beside the lessons.
    """
    course = tomllib.loads((SOURCE / "course.toml").read_text(encoding="utf-8"))
    names = sorted(path.stem for path in (paths.NOTEBOOKS / paths.LANGUAGES[0]).glob("*.ipynb"))
    if not names:
        raise say.Failure("there are no notebooks; scripts/build-notebooks writes them")
    lessons = {language: [site_lesson.read(name, language, course["folds"]) for name in names] for language in paths.LANGUAGES}
    for other in paths.LANGUAGES[1:]:
        for first, twin in zip(lessons[paths.LANGUAGES[0]], lessons[other]):
            site_lesson.pair_places(first, twin)
    pages = {}
    for picture in course["pictures"]:
        pages |= hang(picture, lessons)
    for language in paths.LANGUAGES:
        pages |= Pages(course, language, lessons[language], reference is not None).all()
    pages["index.html"] = templates().get_template("chooser.html").render(words=course["words"])
    write(target, pages, reference)
    return sum(page.endswith(".html") for page in pages)


def hang(picture: dict, lessons: dict) -> dict:
    """Puts a picture into its section, in every language; its file under the name that the pages use."""
    file = paths.PROJECT / picture["file"]
    if not file.is_file():
        say.note(f"  without the picture {picture['file']}: {picture['made']} makes it")
        return {}
    data = file.read_bytes()
    # The size stands in the head of a PNG.
    width, height = (int.from_bytes(data[at:at + 4], "big") for at in (16, 20))
    for language, every in lessons.items():
        section = next((section for lesson in every if lesson.number == picture["lesson"] for section in lesson.sections if section.place == picture["section"]), None)
        if section is None:
            raise say.Failure(f"site/course.toml hangs {picture['file']} into {picture['section']!r}, which lesson {picture['lesson']} does not have")
        text = html.escape(picture[language])
        section.blocks.append(site_text.Block(
            "picture", f'<figure class="picture"><img src="../assets/{file.name}" alt="{html.escape(picture["name"])}" width="{width}" height="{height}" loading="lazy"><figcaption>{text}</figcaption></figure>'))
    return {f"assets/{file.name}": data}


def templates() -> Environment:
    made = Environment(loader=FileSystemLoader(SOURCE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters["replace"] = lambda text, old, new: str(text).replace(old, str(new))
    return made


class Pages:
    """The pages of one language."""

    def __init__(self, course: dict, language: str, lessons: list, reference: bool):
        self.course, self.language, self.lessons = course, language, lessons
        self.other = next(other for other in paths.LANGUAGES if other != language)
        self.words, self.other_words = course["words"][language], course["words"][self.other]
        self.templates = templates()
        w = self.words
        self.more = [("index.html", w["home"]), ("topics.html", w["tags"]), ("glossary.html", w["glossary"]), ("teachers.html", w["teachers"])]
        if reference:
            self.more.append(("../api/candle_course/index.html", w["reference"]))
        self.menu = [self.entry(lesson) for lesson in lessons]

    def entry(self, lesson) -> dict:
        return {
            "name": lesson.name, "number": lesson.number, "title": lesson.title, "short": re.sub(r"^[\d.]+\s*", "", lesson.title).partition(":")[0],
            "minutes": lesson.minutes, "exercises": lesson.exercises, "description": lesson.description, "tags": self.tags(lesson),
            "break": self.course["breaks"].get(lesson.number),
        }

    def tags(self, lesson) -> list:
        keys = self.course["lessons"].get(lesson.number, {}).get("tags", [])
        unknown = sorted(set(keys) - set(self.course["tags"]))
        if unknown:
            raise say.Failure(f"site/course.toml: lesson {lesson.number} names the tag {unknown[0]!r}, which is not under [tags]")
        return [(key, self.course["tags"][key][self.language]) for key in keys]

    def all(self) -> dict:
        made = {}
        for position, lesson in enumerate(self.lessons):
            made[f"{lesson.name}.html"] = self.lesson(position, lesson)
            made[f"{lesson.name}.slides.html"] = self.templates.get_template("slides.html").render(
                language=self.language, other=self.other, w=self.words, other_w=self.other_words, lesson=lesson, slides=site_slides.slides(lesson)
            )
            if self.has_summary(lesson):
                made[f"{lesson.name}.summary.html"] = self.page(
                    "summary.html", f"{self.words['summary']}: {lesson.title}", f"{lesson.name}.summary.html", lesson=lesson,
                    formulas=site_teaching.key_formulas(lesson), take_away=site_teaching.take_away(lesson), questions=site_teaching.questions(lesson),
                )
        numbers = {lesson.number: f"{lesson.name}.html" for lesson in self.lessons}
        made["index.html"] = self.page("home.html", self.words["site"], "index.html", self.words["tagline"], map=site_map.draw(numbers, self.words))
        made["search.html"] = self.page("search.html", self.words["search"], "search.html")
        glossary, teachers = self.glossary(), self.teachers()
        for name, title, sections in [
            ("topics.html", self.words["tags"], self.topics()), ("glossary.html", self.words["glossary"], glossary), ("teachers.html", self.words["teachers"], teachers),
        ]:
            made[name] = self.page("page.html", title, name, sections=sections)
        index = self.index([(lesson.title, f"{lesson.name}.html", lesson.sections) for lesson in self.lessons]
                           + [(self.words["glossary"], "glossary.html", glossary), (self.words["teachers"], "teachers.html", teachers)])
        return {f"{self.language}/{name}": site_text.held(text) for name, text in made.items()} | {f"assets/search-{self.language}.js": index}

    def page(self, template: str, title: str, twin: str, description: str = "", here: str = None, **more) -> str:
        return self.templates.get_template(template).render(
            language=self.language, other=self.other, w=self.words, other_w=self.other_words, title=title, twin=twin, description=description,
            menu=self.menu, more=self.more, here=here or twin, **more,
        )

    def has_summary(self, lesson) -> bool:
        return bool(lesson.objectives and site_teaching.take_away(lesson))

    def badges(self, lesson) -> list:
        """Where else the lesson opens; nowhere while the project has no address there."""
        project = paths.on_github()
        named = self.course["badges"] if project else []
        return [{"name": badge["name"], "url": badge["url"].format(project=project, language=self.language, lesson=lesson.name)} for badge in named]

    def lesson(self, position: int, lesson) -> str:
        neighbours = {entry["place"]: {"title": entry[self.language], "href": entry["url"]} for entry in self.course["neighbours"]}
        before, after = neighbours.get("before"), neighbours.get("after")
        if position:
            before = {"title": self.lessons[position - 1].title, "href": f"{self.lessons[position - 1].name}.html"}
        if position + 1 < len(self.lessons):
            following = self.lessons[position + 1]
            after = {"title": following.title, "href": f"{following.name}.html", "break": self.course["breaks"].get(lesson.number)}
        return self.page(
            "lesson.html", lesson.title, f"{lesson.name}.html", lesson.description, lesson.name, lesson=lesson, tags=self.tags(lesson),
            has_summary=self.has_summary(lesson), badges=self.badges(lesson), before=before, after=after,
        )

    def topics(self) -> list:
        """Each tag with its lessons."""
        sections = []
        for key, names in self.course["tags"].items():
            found = [lesson for lesson in self.lessons if key in self.course["lessons"].get(lesson.number, {}).get("tags", [])]
            links = "".join(f'<li><a href="{lesson.name}.html">{lesson.title}</a></li>' for lesson in found)
            if links:
                sections.append(Section(names[self.language], names[self.language], 2, key, [site_text.Block("list", f"<ul>{links}</ul>")]))
        return sections

    def glossary(self) -> list:
        """lessons/glossary.md, seen from this language: its column first, its half of the headings."""
        mine = paths.LANGUAGES.index(self.language)
        sections = [Section("", "", 1, "", [site_text.Block("paragraph", f"<p>{self.words['glossary_intro']}</p>")])]
        for part in re.split(r"^## ", say.read_text(paths.LESSONS / "glossary.md"), flags=re.MULTILINE)[1:]:
            heading, _, text = part.partition("\n")
            titles = heading.split(" · ")
            title = titles[mine] if len(titles) > mine else titles[0]
            if titles[0] in FOR_AUTHORS:
                continue
            rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.splitlines() if line.startswith("|")][2:]
            with_code = any(len(row) > 2 for row in rows)
            head = [self.words["language"], self.words["other_word"]] + ([self.words["code_word"]] if with_code else [])
            cells = [[row[mine], row[1 - mine]] + ([row[2] if len(row) > 2 else "–"] if with_code else []) for row in rows]
            shown = [[self.inline(cell) for cell in row] for row in cells]
            block = site_text.Block("table", site_teaching.table(head, shown), " · ".join(re.sub(r"[*`]", "", " – ".join(row)) for row in cells))
            sections.append(Section(title, title, 2, site_text.slug(titles[0]), [block]))
        return sections

    def inline(self, text: str) -> str:
        """A cell of a table, without the paragraph around it."""
        return re.sub(r"^<p>|</p>$", "", "".join(block.html for block in site_text.markdown(text, "lessons/glossary.md")).strip())

    def teachers(self) -> list:
        """site/teachers.<language>.md, with what is drawn from the lessons put in."""
        where = f"teachers.{self.language}.md"
        sections = [Section("", "", 1, "")]
        for block in site_teaching.text_page((SOURCE / where).read_text(encoding="utf-8"), f"site/{where}", self.fill):
            if block.kind == "heading" and block.level > 1:
                sections.append(Section(block.html, block.text, block.level, ""))
            elif block.kind != "heading":
                sections[-1].blocks.append(block)
        # The same places in both languages: the number of the lesson, or the number of the section.
        for number, section in enumerate(sections[1:], 1):
            lesson = re.match(r"\d\.\d", section.text)
            section.place = f"lesson-{lesson.group()}" if lesson and section.level == 2 else f"part-{number}"
        return sections

    def fill(self, kind: str, number: str) -> str:
        lesson = next((lesson for lesson in self.lessons if lesson.number == number), None)
        if lesson is None:
            raise say.Failure(f"site/teachers.{self.language}.md names lesson {number}, which does not exist")
        return {"plan": self.plan, "stuck": self.stuck}[kind](lesson)

    def plan(self, lesson) -> str:
        w, rows = self.words, []
        for part in site_teaching.plan(lesson):
            name = part.section.title or lesson.title
            place = f"{lesson.name}.html" + (f"#{part.section.place}" if part.section.place else "")
            rows.append([f'<a href="{place}">{name}</a>', part.minutes or "–", part.cells, part.exercises or "–"])
        return site_teaching.table([w["plan"], w["minutes"].capitalize(), w["plan_cells"], w["exercises"].capitalize()], rows, (1, 2, 3))

    def stuck(self, lesson) -> str:
        w = self.words
        rows = [[self.inline(mistake.exercise), site_text.code(mistake.code, "rust"), self.inline(mistake.hint)] for mistake in site_teaching.mistakes(lesson.name, self.language)]
        return site_teaching.table([w["exercises"].capitalize(), w["stuck_answer"], w["stuck_hint"]], rows)

    def index(self, pages: list) -> str:
        """What the search looks through: page, place, title and text of every section."""
        entries = []
        for title, page, sections in pages:
            for section in sections:
                text = " ".join(block.text for block in section.blocks if block.text and block.kind != "solution")
                heading = f"{title} › {section.text}" if section.text else title
                entries.append([page, section.place, heading, " ".join(text.split())])
        return f"window.searchIndex = {json.dumps(entries, ensure_ascii=False)};\n"


def face(family: str, weight: str, path: Path) -> str:
    """A font in the style sheet itself: a page from a folder may not be allowed to load one."""
    font = base64.b64encode(path.read_bytes()).decode()
    kind = {".woff2": "woff2", ".ttf": "truetype"}[path.suffix]
    return f'@font-face {{ font-family: "{family}"; font-weight: {weight}; src: url("data:font/{path.suffix[1:]};base64,{font}") format("{kind}"); }}\n'


def write(target: Path, pages: dict, reference: Path = None) -> None:
    """Puts the pages where `target` says: all of them, or the old ones stay."""
    if target.exists() and not target.is_dir() or target.is_dir() and any(target.iterdir()) and not (target / MARK).exists():
        raise say.Failure(f"{target} holds something other than a site; name a folder that is new or empty")
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    with say.writing(target.parent):
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            for name, text in pages.items():
                (fresh / name).parent.mkdir(parents=True, exist_ok=True)
                (fresh / name).write_bytes(text if isinstance(text, bytes) else text.encode())
            shutil.copytree(SOURCE / "assets", fresh / "assets", dirs_exist_ok=True)
            style = fresh / "assets" / "style.css"
            style.write_text("".join(face(*font) for font in FONTS) + style.read_text(encoding="utf-8"), encoding="utf-8")
            if reference:
                shutil.copytree(reference, fresh / "api")
            (fresh / MARK).touch()
            if target.exists():
                shutil.rmtree(target)
            os.replace(fresh, target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
