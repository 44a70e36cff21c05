"""The site: what stands on its pages, that nothing is missing or fetched, and that it can be read by everyone.

One build serves all tests. The browser opens the pages from the folder, as a reader without a server does.
"""

import json
import os
import re
import shutil
import socket
from html.parser import HTMLParser
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import PROJECT
from course import paths, say, site_lesson, site_pages, site_slides, site_teaching, site_text
from course.test_command import BROWSERS
from playwright.sync_api import sync_playwright

PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1400, "height": 900}
LESSONS = sorted(path.stem for path in (PROJECT / "notebooks" / "en").glob("*.ipynb"))
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Page(HTMLParser):
    """What a page holds: its places, where it links to, what it loads, and the folds around its code."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids, self.links, self.loads, self.folds, self.text = [], [], [], [], []
        self.language, self.open, self.counts = "", [], {}
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        for name in (values.get("class") or "").split():
            self.counts[name] = self.counts.get(name, 0) + 1
        self.counts[f"<{tag}>"] = self.counts.get(f"<{tag}>", 0) + 1
        if tag == "html":
            self.language = values["lang"]
        if values.get("id"):
            self.ids.append(values["id"])
        if tag in ("a", "form"):
            self.links.append(values.get("href") or values.get("action"))
        self.loads += [values[key] for key in ("src", "srcset", "data", "poster") if values.get(key)]
        if tag == "link" and values.get("rel") != "alternate" or tag in ("image", "use"):
            self.loads.append(values.get("href") or values.get("xlink:href"))
        if tag == "details":
            self.folds.append("open" in values)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        if not {"script", "style", "code", "pre"} & set(self.open):
            self.text.append(data)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of a site that was built without a network."""
    folder = tmp_path_factory.mktemp("site")
    target, documentation = folder / "site", folder / "doc" / "candle_course"
    documentation.mkdir(parents=True)
    (documentation / "index.html").write_text("<p>the crate</p>")

    def refuse(*_):
        raise AssertionError("the build asks the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        count = site_pages.build(target, folder / "doc")
    assert count == len(list(target.rglob("*.html"))) - 1 > 60
    return target


@pytest.fixture(scope="session")
def pages(site):
    return {str(path.relative_to(site)): Page(path) for path in sorted(site.rglob("*.html")) if path.parent.parent.name != "api"}


@pytest.fixture(scope="session")
def browser():
    executable = next((found for found in map(shutil.which, BROWSERS) if found), None)
    if executable is None:
        pytest.skip("no Chromium on this machine: scripts/test installs it when run as root")
    with sync_playwright() as playwright:
        flags = ["--disable-gpu"] + (["--no-sandbox"] if os.geteuid() == 0 else [])
        made = playwright.chromium.launch(executable_path=executable, headless=True, args=flags)
        yield made
        made.close()


@pytest.fixture
def tab(browser, site):
    """Opens a page of the site; afterwards nothing may have been asked of any host, nor gone wrong in a script."""
    contexts, requests, errors = [], [], []

    def opened(name, viewport=DESKTOP, theme="light"):
        context = browser.new_context(viewport=viewport, color_scheme=theme)
        # A busy machine is slow, not wrong.
        context.set_default_timeout(120_000)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto((site / name.partition("#")[0].partition("?")[0]).as_uri() + re.sub(r"^[^#?]*", "", name))
        return page

    yield opened
    for context in contexts:
        context.close()
    assert requests and not [url for url in requests if not url.startswith(("file:", "data:"))], requests
    assert not errors, errors


def notebook(language, name):
    return json.loads((PROJECT / "notebooks" / language / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


# --- What stands on the pages.


@pytest.mark.parametrize("language", paths.LANGUAGES)
@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_page_holds_what_its_notebook_holds(pages, language, name):
    cells, page = notebook(language, name), pages[f"{language}/{name}.html"]
    tags = [tag for cell in cells for tag in cell["metadata"].get("tags", [])]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    svgs = sum("image/svg+xml" in output.get("data", {}) or "<svg" in "".join(output.get("data", {}).get("text/html", "")) for output in outputs)
    assert page.language == language
    assert page.counts["cell"] == sum(cell["cell_type"] == "code" for cell in cells)
    assert page.counts.get("exercise", 0) == tags.count("exercise") and page.counts.get("check", 0) == tags.count("check")
    assert page.counts.get("figure", 0) == svgs
    folds = sum("".join(cell["source"]).count("<details>") for cell in cells)
    # The contents are open, the questions of the overview are folded; so are solutions and answers of the quiz.
    assert page.folds.count(True) == 1
    assert page.folds.count(False) == folds + (4 if name.startswith("3.0") else 0)
    assert page.counts["objectives"] == 1


@pytest.mark.parametrize("language", paths.LANGUAGES)
def test_the_day_is_told_alike_by_the_overview_and_the_menu(site, language):
    """The minutes of the lessons' own first lines, the table of lesson 3.0 and the breaks."""
    table = "".join("".join(cell["source"]) for cell in notebook(language, LESSONS[0]))
    rows = re.findall(r"^\| (?:\[(3\.\d)[^|]*|\*[^|]*) \| (\d+) \|", table, re.MULTILINE)
    html = (site / language / "index.html").read_text(encoding="utf-8")
    menu = re.findall(r'<li(?: class="pause" data-pause="\D*(\d+)\D*")?><a href="(3\.\d)[^"]*"[^>]*>.*?</li>', html)
    minutes = dict(re.findall(r'<b>(3\.\d)</b> <span>[^<]*</span> <small>(\d+) min', html))
    expected = []
    for number, length in rows:
        if number:
            expected.append([number, length, ""])
        else:
            expected[-1][2] = length
    assert [[number, minutes[number], pause] for pause, number in menu if number != "3.0"] == expected
    assert sum(int(length) for _, length, _ in expected) > 300



@pytest.mark.parametrize("language", paths.LANGUAGES)
def test_a_lesson_opens_elsewhere_where_the_project_has_an_address(pages, language, tmp_path, monkeypatch):
    assert "badge" not in pages[f"{language}/{LESSONS[1]}.html"].counts
    monkeypatch.setenv("CANDLE_COURSE_REPOSITORY", "https://github.com/owner/course.git")
    site_pages.build(tmp_path / "site")
    for lesson in LESSONS:
        page = Page(tmp_path / "site" / language / f"{lesson}.html")
        assert page.counts["badge"] == 3
        colab = next(link for link in page.links if "colab.research" in link)
        name = colab.partition("/owner/course/blob/main/")[2]
        assert (PROJECT / name).is_file() and language in name and lesson in name
        assert any(f"/owner/course/main?urlpath=lab/tree/notebooks/{language}/{lesson}.ipynb" in link for link in page.links)


def test_no_formula_is_left_unset(pages):
    for name, page in pages.items():
        text = " ".join(page.text)
        left = re.search(r".{0,20}(?:[$]|\\[a-zA-Z]{2,}).{0,20}", text)
        assert not left, f"{name}: {left.group()}"
    assert pages["en/3.3-losses.html"].counts["<math>"] > 60
    assert "<mtext>fan_in</mtext>" in site_text.mathematics(r"\text{fan\_in}", False, "here")


def test_words_in_a_formula_stand_apart_from_its_signs():
    # Between words alone a browser would take the sign for the whole.
    written = site_text.mathematics(r"\frac{\text{near infrared} - \text{red}}{2}", True, "here")
    assert "<mi>near&#x000A0;infrared</mi><mo>&#x02212;</mo><mtext>red</mtext>" in written


def test_a_minus_belongs_to_its_number():
    assert '<mo form="prefix">&#x02212;</mo>' in site_text.mathematics("s(-z)", False, "here")
    assert '<mo form="prefix">&#x02212;</mo>' in site_text.mathematics(r"l = -\ln p", False, "here")
    assert 'form="prefix"' not in site_text.mathematics("(a - b) = c - d", False, "here")


def test_no_line_begins_with_the_stop_after_a_formula(site):
    formula = site_text.mathematics("x - y", False, "here")
    assert site_text.held(f"{formula}). And {formula} again") == f'<span class="held">{formula}).</span> And {formula} again'
    assert site_text.held(f"Here ({formula} at most)") == f'Here <span class="held">({formula}</span> at most)'
    for path in site.glob("*/*.html"):
        html = path.read_text(encoding="utf-8")
        assert not re.search(r"</math>[.,;:!?)]+(?!</span>)", html), path.name
    assert ".held { white-space: nowrap; }" in (site / "assets" / "style.css").read_text(encoding="utf-8")


def test_formulas_side_by_side_may_stand_below_each_other():
    two = site_text.mathematics(r"a = \frac{1}{2} \qquad b = 3", True, "here")
    assert two.startswith('<div class="formula scroll parts"><math') and two.count("<math") == 2
    # Not where that would tear a bracket apart.
    one = site_text.mathematics(r"\left( a \qquad b \right)", True, "here")
    assert one.count("<math") == 1 and "parts" not in one


def test_a_long_line_of_code_goes_on_further_in():
    long = "    " + 100 * "x"
    html = site_text.code(f"{{\n{long}\n}}", "text")
    assert f'\n<span class="long" style="--inward:8ch">{long}</span>\n}}' in html and html.count("<span") == 1


def test_printed_sentences_are_broken_and_columns_are_not():
    broken = '<pre class="output scroll broken">'
    assert site_lesson.printed("a sentence that " + 20 * "goes on ").startswith(broken)
    assert site_lesson.printed("by hand: 0.5\ncrate:   0.5") == '<pre class="output scroll">by hand: 0.5\ncrate:   0.5</pre>'
    # No page is wide enough for such columns.
    assert site_lesson.printed("name:   " + 120 * "x").startswith(broken)


def test_numbers_of_a_table_stand_below_each_other():
    row = lambda tag, *cells: "<tr>" + "".join(f'<{tag} style="text-align:left">{cell}</{tag}>' for cell in cells) + "</tr>"  # noqa: E731
    numbers, others = ("−0.5", "2.1·10^−5", "91.2 %", "0.892 ± 0.003", "–", "NaN"), ("3.1 of 5", "−", "B02", "[1, 3]", "")
    table = row("th", "number", "other") + "".join(row("td", number, other) for number, other in zip(numbers, others))
    placed = site_lesson.aligned(table)
    assert re.findall(r'text-align:(\w+)">', placed) == ["right", "left"] * (1 + len(others))
    assert "2.1·10<sup>−5</sup>" in placed
    assert re.sub(r"<[^>]*>", "", placed) == re.sub(r"<[^>]*>", "", table).replace("[1, 3]", "[1,\N{NO-BREAK SPACE}3]").replace("^", "")
    # Two columns of bits are wider than a page.
    assert re.search(r'<td style="text-align:right">01000000<wbr>00010110<wbr>01000101<wbr>11110001</td>', site_lesson.aligned(row("th", "bits") + row("td", "01000000000101100100010111110001")))
    # A column without a number, and rows of different lengths, stay as they are.
    assert "right" not in site_lesson.aligned(row("th", "a") + row("td", "–"))
    uneven = row("th", "a") + row("td", "1", "2")
    assert site_lesson.aligned(uneven) == uneven


@pytest.mark.parametrize("language", paths.LANGUAGES)
def test_what_is_said_of_a_cell_is_kept_apart(site, language):
    """A cell that trains long and is timed, as that of lesson 3.1."""
    words = site_pages.tomllib.loads((site_pages.SOURCE / "course.toml").read_text())["words"][language]
    html = (site / language / f"{LESSONS[1]}.html").read_text(encoding="utf-8")
    assert f'<p class="label"><span>{words["long_cell"]}</span> · <span>{words["timed_cell"]}</span></p>' in html


def test_a_slide_says_a_whole_sentence():
    assert site_slides.first_sentence("<p>Write <code>f</code>: how many. With <code>g</code>, fewer.</p>") == "<p>Write <code>f</code>: how many.</p>"
    assert site_slides.first_sentence('<p>It is one:</p>') == "<p>It is one</p>"
    assert site_slides.first_sentence('<p>It is <code>a. b</code> now! Then</p>') == "<p>It is <code>a. b</code> now!</p>"


def test_a_slide_holds_one_thing_that_fills_it(site):
    for path in sorted(site.glob("*/*.slides.html")):
        for slide in re.findall(r'<section class="slide slide-(\w+)".*?<div class="body">(.*?)(?:<div class="notes"|</section>)', path.read_text(encoding="utf-8"), re.DOTALL):
            kind, body = slide
            things = body.count("<table") + len(re.findall(r"(?<!<li>)<ul>|<ol>", body)) + body.count("<blockquote")
            # A box may hold a table of its own; the answers of a quiz are folded.
            assert things <= 1 + ("<blockquote" in body) or "<details" in body, f"{path.name}: {body[:200]}"
            assert kind != "figure" or things == 0, f"{path.name}: {body[:200]}"


def test_lessons_are_chained_and_lead_to_the_modules_before_and_after(site):
    for language, words in site_pages.tomllib.loads((site_pages.SOURCE / "course.toml").read_text())["words"].items():
        for before, name, after in zip([None, *LESSONS], LESSONS, [*LESSONS[1:], None]):
            html = (site / language / f"{name}.html").read_text(encoding="utf-8")
            turn = html[html.index('<nav class="turn"'):]
            assert (f'<a rel="prev" href="{before}.html">' in turn) == (before is not None)
            assert (f'<a rel="next" href="{after}.html">' in turn) == (after is not None)
            assert words["previous"] in turn
        first, last = (site / language / f"{LESSONS[0]}.html").read_text(), (site / language / f"{LESSONS[-1]}.html").read_text()
        assert re.search(r"<span><small>[^<]*</small>M[oó]dul[eo] 2", first) and re.search(r"<span><small>[^<]*</small>M[oó]dul[eo] 4", last)


def test_summaries_and_slides_are_drawn_from_the_notebooks(site, pages):
    for language in paths.LANGUAGES:
        for name in LESSONS:
            slides = pages[f"{language}/{name}.slides.html"]
            shown = pages[f"{language}/{name}.html"].counts.get("figure", 0)
            assert slides.counts.get("slide-figure", 0) == shown and slides.counts["slide"] > shown + 3
        for name in LESSONS[1:]:
            summary = (site / language / f"{name}.summary.html").read_text(encoding="utf-8")
            text = "".join("".join(cell["source"]) for cell in notebook(language, name) if cell["cell_type"] == "markdown")
            assert summary.count("<section>") >= 3
            for question in re.findall(r"<summary>(.*?)</summary>", text):
                assert question in summary or question.startswith(("A solution", "Uma solução"))


def test_the_teachers_page_shares_out_the_minutes_and_names_the_usual_mistakes(site):
    for language in paths.LANGUAGES:
        rows = 0
        for name in LESSONS[1:]:
            lesson = site_lesson.read(name, language, [])
            parts = site_teaching.plan(lesson)
            assert sum(part.minutes for part in parts) == lesson.minutes and all((part.minutes >= 1) != part.optional for part in parts)
            mistakes = site_teaching.mistakes(name, language)
            assert len(mistakes) >= 2 * lesson.exercises > 0
            assert all(mistake.code and mistake.hint and mistake.exercise for mistake in mistakes)
            rows += len(mistakes)
        html = (site / language / "teachers.html").read_text(encoding="utf-8")
        assert html.count('<td><pre class="code') == rows


def test_mistakes_speak_the_readers_language():
    english, portuguese = (site_teaching.mistakes(LESSONS[1], language) for language in paths.LANGUAGES)
    assert english[0].hint == "did you forget the last, smaller batch?" and portuguese[0].hint == "você esqueceu o último batch, que é menor?"
    assert len(english) == len(portuguese)


def test_the_glossary_is_complete_in_both_languages(pages, site):
    terms = [line.split("|")[1].strip() for line in (PROJECT / "lessons" / "glossary.md").read_text(encoding="utf-8").split("## The parts")[1].splitlines() if line.startswith("| ")]
    terms = [term for term in terms if term not in ("English", "---")]
    for language, column in (("en", 0), ("pt-BR", 1)):
        html = (site / language / "glossary.html").read_text(encoding="utf-8")
        rows = re.findall(r"<tr>(<td>.*?)</tr>", html, re.DOTALL)
        assert len(rows) == len(terms) > 120
        assert [re.findall(r"<td>(.*?)</td>", row)[column] for row in rows] == terms


# --- Links.


def test_every_link_leads_somewhere(site, pages):
    for name, page in pages.items():
        for link in filter(None, page.links):
            if re.match(r"\w+:", link):
                assert re.fullmatch(r"https?://[\w.-]+(:\d+)?(/\S*)?", link), f"{name} links to {link}"
                continue
            target, _, place = link.partition("#")
            path = Path(os.path.normpath(Path(name).parent / target)) if target else Path(name)
            assert (site / path).is_file(), f"{name} links to {link}, which does not exist"
            assert not place or place in pages[str(path)].ids, f"{name} links to {link}, where no such place is"


def test_nothing_is_loaded_from_elsewhere(site, pages):
    for name, page in pages.items():
        for load in page.loads:
            assert load.startswith("data:image/") or (site / Path(name).parent / load).is_file(), f"{name} loads {load[:80]}"
    for path in (site / "assets").iterdir():
        if path.suffix == ".png":
            continue
        text = path.read_text(encoding="utf-8")
        # The search looks through texts, which may name a page of the web.
        if not path.name.startswith("search-"):
            assert not re.search(r"@import|url\((?!.?data:)|https?://(?!www\.w3\.org)", text), path.name


def test_places_are_named_once(pages):
    for name, page in pages.items():
        assert len(page.ids) == len(set(page.ids)), f"{name}: {[place for place in page.ids if page.ids.count(place) > 1]}"


def test_every_page_has_a_twin_with_the_same_places(site, pages):
    for name, page in pages.items():
        if name == "index.html":
            continue
        language, _, rest = name.partition("/")
        other = next(other for other in paths.LANGUAGES if other != language)
        assert f"../{other}/{rest}" in page.links
        assert page.ids == pages[f"{other}/{rest}"].ids


# --- In a browser.


# Every kind of page in both languages, and every lesson in one, on a phone in the dark or on a desk in the
# light, in turns.
KINDS = [f"{language}/{page}.html" for language in paths.LANGUAGES for page in ("index", "topics", "glossary", "teachers", "search?q=loss", f"{LESSONS[4]}.summary", f"{LESSONS[5]}.slides")]
TURNS = [f"{paths.LANGUAGES[number % 2]}/{name}.html" for number, name in enumerate(LESSONS)]
AXE = [(name.replace("?q=loss.html", ".html?q=loss"), number % 2 == 0) for number, name in enumerate(["index.html", *KINDS, *TURNS])]

# What comes many times on a page is looked at once: the colours of code, and the inside of figures.
ONCE = """() => {
  document.querySelectorAll('details').forEach(fold => fold.open = true);
  [...document.querySelectorAll('pre code')].slice(6).forEach(code => code.textContent = code.textContent.slice(0, 200));
  [...document.querySelectorAll('.figure svg')].slice(2).forEach(svg => svg.replaceChildren());
  dispatchEvent(new Event('resize'));
}"""


@pytest.mark.parametrize(("name", "phone"), AXE)
def test_pages_are_accessible(tab, name, phone):
    page = tab(name, PHONE if phone else DESKTOP, "dark" if phone else "light")
    if ".slides" in name:
        # All slides at once, with their notes.
        page.evaluate("document.body.classList.remove('running')")
    page.evaluate(ONCE)
    found = Axe().run(page, options={"resultTypes": ["violations"], "preload": False}).response["violations"]
    told = [f"{problem['impact']}: {problem['id']}: {problem['nodes'][0]['html'][:200]} ({len(problem['nodes'])})" for problem in found if problem["impact"] != "minor"]
    assert not told, "\n".join(told)


def test_pages_fit_a_phone(tab, pages):
    page = tab("index.html", PHONE)
    folder = page.url.removesuffix("index.html")
    wide = []
    for name in pages:
        page.goto(folder + name)
        page.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            wide.append(name)
    assert not wide


def focused(page):
    return page.evaluate("(() => { const e = document.activeElement; return e.id || e.getAttribute('href') || e.tagName; })()")


def press(page, key, until, most=60):
    for _ in range(most):
        page.keyboard.press(key)
        if until(focused(page)):
            return
    raise AssertionError(f"{key} pressed {most} times, and the focus is on {focused(page)}")


def test_the_keyboard_alone_leads_from_the_start_through_a_lesson(tab):
    page = tab("en/index.html", PHONE)
    page.keyboard.press("Tab")
    assert focused(page) == "#text" and page.locator(".skip").bounding_box()["x"] == 0
    page.keyboard.press("Tab")
    assert focused(page) == "menu"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "what has the focus is not shown"
    assert not page.locator("#lessons").is_visible()
    page.keyboard.press("Enter")
    assert page.locator("#lessons").is_visible() and page.locator("#menu").get_attribute("aria-expanded") == "true"
    page.keyboard.press("Escape")
    assert not page.locator("#lessons").is_visible() and focused(page) == "menu"
    page.keyboard.press("Space")
    press(page, "Tab", lambda at: at == f"{LESSONS[1]}.html")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/en/{LESSONS[1]}.html")
    # Into the text, past the menu.
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert focused(page) == "text"
    press(page, "Tab", lambda at: at == "SUMMARY", 80)
    fold = page.locator("details:focus-within")
    assert fold.get_attribute("open") is None
    page.keyboard.press("Enter")
    assert fold.get_attribute("open") is not None
    page.keyboard.press("Enter")
    # Code that is wider than the screen can be reached, and moved with the arrows.
    press(page, "Shift+Tab", lambda at: at in ("PRE", "DIV"))
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("document.activeElement.scrollLeft > 0")
    press(page, "Tab", lambda at: page.evaluate("document.activeElement.rel") == "next", 200)
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/en/{LESSONS[2]}.html")


def test_the_keyboard_alone_searches(tab):
    page = tab("pt-BR/index.html")
    press(page, "Tab", lambda at: at == "find")
    page.keyboard.type("acumulacao de gradientes")
    page.keyboard.press("Enter")
    page.wait_for_url("**/pt-BR/search.html?q=*")
    first = page.locator("#results a").first
    assert "Acumulação de gradientes" in first.text_content()
    press(page, "Tab", lambda at: at.startswith("3.7-regularisation.html#"))
    page.keyboard.press("Enter")
    page.wait_for_url("**/3.7-regularisation.html#*")
    place = page.url.partition("#")[2]
    assert page.locator(f"[id='{place}']").is_visible()


@pytest.mark.parametrize(
    ("language", "query", "title", "count"),
    [
        ("en", "weighted sampler", "sampler", 3),
        ("en", "OneCycleLR", "One cycle", 1),
        ("pt-BR", "retropropagacao", "", 1),
        ("pt-BR", "entropia cruzada", "ntropia cruzada", 3),
        ("pt-BR", "porque", "", 5),
        ("en", "porque", None, 0),
        ("pt-BR", "xyzzy", None, 0),
    ],
)
def test_search_finds_words_in_its_own_language(tab, language, query, title, count):
    page = tab(f"{language}/search.html")
    page.fill("#query", query)
    results = page.locator("#results li")
    if not count:
        assert results.count() == 0 and page.locator("#found").text_content() in ("Nothing found. Try fewer or shorter words.", "Nada encontrado. Tente menos palavras, ou mais curtas.")
        return
    assert results.count() >= count
    assert title.lower() in " ".join(results.locator("a").all_text_contents()).lower()
    assert page.locator("#results mark").count() >= count
    assert re.match(r"\d+ ", page.locator("#found").text_content())


def test_a_link_to_the_other_language_keeps_the_place(tab):
    page = tab("en/3.3-losses.html#5-several-losses-at-once")
    page.click("#twin")
    page.wait_for_url("**/pt-BR/3.3-losses.html#5-several-losses-at-once")
    heading = page.locator("[id='5-several-losses-at-once']")
    assert heading.text_content().startswith("5. Várias perdas") and abs(heading.bounding_box()["y"]) < 150


def test_a_link_to_a_folded_question_opens_it(tab):
    page = tab("en/3.0-overview.html#which-regularisation-and-when")
    question = page.locator("[id='which-regularisation-and-when']")
    assert question.get_attribute("open") is not None and "decoupled weight decay" in question.text_content()


def colour(page, selector, key):
    return page.locator(selector).first.evaluate("(element, key) => getComputedStyle(element)[key]", key)


def test_figures_follow_the_theme_and_colours_that_mean_a_value_stay(tab):
    page = tab("en/3.2-datasets-and-loaders.html", theme="dark")
    paper, plain = ".inked svg > rect", ".valued svg > rect"
    assert colour(page, paper, "fill") == "rgb(28, 34, 41)" and colour(page, plain, "fill") == "rgb(255, 255, 255)"
    assert colour(page, ".inked svg text", "fill") == "rgb(230, 233, 236)"
    page.click("#theme")
    assert colour(page, paper, "fill") == "rgb(255, 255, 255)" and colour(page, ".inked svg text", "fill") == "rgb(34, 34, 34)"
    # The choice stays on the next page.
    page.click('#lessons a[href="3.4-schedulers.html"]')
    page.wait_for_url("**/3.4-schedulers.html")
    assert colour(page, paper, "fill") == "rgb(255, 255, 255)"


def test_formulas_are_set_in_their_own_font(tab):
    page = tab("en/3.3-losses.html")
    assert page.evaluate("document.fonts.ready.then(() => document.fonts.check('16px Formulas') && [...document.fonts].some(font => font.family.includes('Formulas') && font.status === 'loaded'))")
    box = page.locator(".formula math").first.bounding_box()
    assert box["height"] > 35, "a fraction is higher than a line"


def test_ticks_stay(tab):
    page = tab("pt-BR/3.0-overview.html")
    boxes = page.locator("input.task-list-item-checkbox")
    assert boxes.count() == 8
    boxes.nth(2).check()
    page.reload()
    assert [boxes.nth(number).is_checked() for number in range(8)] == [number == 2 for number in range(8)]


def test_code_is_read_without_moving_it(tab):
    """On the screen of a laptop, solutions too; and no word of a table is broken."""
    page = tab("en/3.2-datasets-and-loaders.html", {"width": 1280, "height": 800})
    for name in LESSONS:
        page.goto(page.url.rpartition("/")[0] + f"/{name}.html")
        page.evaluate("document.fonts.ready")
        page.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
        moved = page.evaluate("""() => [...document.querySelectorAll("article pre.code")].filter(box => box.scrollWidth > box.clientWidth + 1).map(box => box.textContent)""")
        assert not moved, f"{name}: {moved[:1]}"
        torn = page.evaluate("""() => [...document.querySelectorAll("td > code")].filter(code => /^\\w+$/.test(code.textContent) && code.getClientRects().length > 1).map(code => code.textContent)""")
        assert not torn, f"{name}: {torn}"
        cut = page.evaluate("""() => [...document.querySelectorAll("pre.broken")].filter(box => box.scrollWidth > box.clientWidth + 1).map(box => box.textContent)""")
        assert not cut, f"{name}: {cut[:1]}"


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP])
def test_code_in_a_table_is_wide_enough_to_be_read(tab, viewport):
    """The wrong answers that teachers meet; on a phone such a table is moved sideways."""
    page = tab("pt-BR/teachers.html", viewport)
    widths = page.evaluate("() => [...document.querySelectorAll('td pre.code')].map(code => code.clientWidth)")
    assert len(widths) > 50 and min(widths) > min(240, viewport["width"] * 0.6)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_slides_are_turned_by_keys_and_buttons(tab):
    page = tab("en/3.1-training-loop.slides.html")
    total = page.locator(".slide").count()
    now = lambda: page.locator(".slide:visible").get_attribute("id")  # noqa: E731
    assert now() == "1" and page.locator("#where").text_content() == f"Slide 1 of {total}"
    for key, expected in [("ArrowRight", 2), ("Space", 3), ("ArrowLeft", 2), ("End", total), ("ArrowRight", total), ("Home", 1), ("PageDown", 2)]:
        page.keyboard.press(key)
        page.wait_for_function("at => document.querySelector('.slide.now').id === at", arg=str(expected))
        assert now() == str(expected)
    assert page.locator(".slide.now .notes").count() == 1 and not page.locator(".slide.now .notes").is_visible()
    page.keyboard.press("n")
    assert page.locator(".slide.now .notes").is_visible()
    page.click("#forth")
    page.wait_for_function("document.querySelector('.slide.now').id === '3'")
    page.keyboard.press("Escape")
    page.wait_for_url("**/en/3.1-training-loop.html")


def test_a_slide_shows_its_figure_whole(tab):
    page = tab("en/3.4-schedulers.slides.html")
    for slide in page.locator(".slide-figure").all():
        page.evaluate("at => { location.hash = at }", slide.get_attribute("id"))
        page.wait_for_function("at => document.querySelector('.slide.now').id === at", arg=slide.get_attribute("id"))
        box, bar = slide.locator("svg").first.bounding_box(), page.locator(".controls").bounding_box()
        assert box["width"] > 500 and box["y"] >= 0 and box["y"] + box["height"] <= bar["y"] + 1


@pytest.mark.parametrize("name", LESSONS)
def test_a_slide_is_seen_whole_on_a_laptop(tab, name):
    """Nothing behind the bar of controls, and no code to be moved sideways; Portuguese takes more room."""
    page = tab(f"pt-BR/{name}.slides.html", {"width": 1280, "height": 720})
    page.evaluate("document.fonts.ready")
    cut = page.evaluate("""() => {
      const bar = document.querySelector(".controls");
      return [...document.querySelectorAll(".slide")].filter(slide => {
        location.hash = slide.id;
        dispatchEvent(new HashChangeEvent("hashchange"));
        const body = slide.querySelector(".body");
        return body.getBoundingClientRect().bottom + scrollY > innerHeight - bar.offsetHeight
          || [...body.querySelectorAll("pre")].some(code => code.scrollWidth > code.clientWidth + 1);
      }).map(slide => slide.id + ": " + slide.textContent.trim().slice(0, 80));
    }""")
    assert not cut


def test_a_slide_without_more_than_a_sentence_shows_the_paragraph():
    made = lambda *blocks: site_slides.slides(site_lesson.Lesson("3.9-x", "en", "X", 0, [site_lesson.Section("A", "A", 2, "a", list(blocks))]))  # noqa: E731
    said = site_text.Block("paragraph", "<p>One. Two.</p>", "One. Two.")
    (_, slide) = made(said)
    assert slide.body == ["<p>One. Two.</p>"] and not slide.notes
    code = site_lesson.code_cell("a\nb", [], [], "here")
    (_, slide) = made(said, code, code)
    assert slide.kind == "code" and slide.body == ["<p>One.</p>", code.html, code.html] and slide.notes == ["<p>One. Two.</p>"]
    # An exercise is said whole; what follows is not part of it.
    stub = site_lesson.code_cell("a", [], ["exercise"], "here")
    (_, slide) = made(said, said, stub, site_text.Block("paragraph", "<p>Three.</p>", "Three."))
    assert slide.body == ["<p>One. Two.</p>", "<p>One. Two.</p>", stub.html] and slide.notes == ["<p>Three.</p>"]
    # What leads over to a result stands above it.
    result = site_lesson.code_cell("a", [{"output_type": "stream", "text": ["b"]}], [], "here")
    for text, shown in [("Then. More.", "Then. More."), (f"Then. {'more ' * 50}.", "Then."), (f"Then {'more ' * 50}. At last:", "At last:")]:
        then = site_text.Block("paragraph", f"<p>{text}</p>", text)
        (_, first, second) = made(said, code, then, result)
        assert first.notes == ["<p>One. Two.</p>"] and second.notes == [then.html]
        assert second.body == [f"<p>{shown}</p>", result.html, result.outputs[0].html]
    # So does what leads over to a formula, after which the slide goes on.
    formula = site_text.Block("formula", '<div class="formula">x</div>')
    (_, _, slide) = made(said, code, then, formula, result)
    assert slide.body == ["<p>At last:</p>", formula.html, result.html, result.outputs[0].html]
    # What is too much for one slide stands on two.
    long = site_lesson.code_cell("a\n" * 17, [], [], "here")
    assert [slide.kind for slide in made(said, long, long)] == ["title", "code", "code"]
    drawn = site_lesson.code_cell("a", [{"output_type": "display_data", "data": {"image/svg+xml": '<svg width="9"></svg>'}}], [], "here")
    (_, _, figure) = made(said, drawn)
    assert figure.kind == "figure" and figure.notes == [drawn.html]


@pytest.mark.parametrize("name", LESSONS[1:])
def test_a_summary_is_printed_on_one_page(tab, name):
    # Portuguese takes more room.
    page = tab(f"pt-BR/{name}.summary.html")
    printed = page.pdf(format="A4", prefer_css_page_size=False)
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 1
    for media, width in [("screen", DESKTOP["width"]), ("print", 688)]:
        page.emulate_media(media=media)
        page.set_viewport_size({"width": width, "height": 1000})
        assert page.evaluate("[...document.querySelectorAll('.formula')].every(box => box.scrollWidth <= box.clientWidth + 1)"), f"a formula is cut on {media}"


def test_without_scripts_everything_can_be_read(browser, site):
    context = browser.new_context(viewport=PHONE, java_script_enabled=False)
    page = context.new_page()
    page.goto((site / "en" / "3.1-training-loop.html").as_uri())
    assert page.locator("#lessons").is_visible() and page.locator("article .cell").count() > 30
    page.goto((site / "en" / "3.1-training-loop.slides.html").as_uri())
    assert page.locator(".slide").last.is_visible() and page.locator(".notes").first.is_visible()
    context.close()


# --- What the build refuses.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (r"$\undefinedcommand{x}$", "is not understood"),
        (r"$$\left( x$$", "is not understood"),
        ("[a file](../../Cargo.toml)", "leads nowhere on a site"),
        ("![a picture](picture.png)", "that no cell has made"),
        ("<details>\n<summary>q</summary>\n\nanswer", "is not closed"),
    ],
)
def test_what_cannot_be_shown_is_named_with_its_place(text, message):
    with pytest.raises(say.Failure, match=message) as failure:
        site_text.markdown(text, "en/3.1, cell 7")
    assert "en/3.1, cell 7" in str(failure.value)


def test_links_to_notebooks_become_links_to_pages():
    (block,) = site_text.markdown("[b](../pt-BR/3.1-a.ipynb#2-x) and [w](https://example.org/y.ipynb)", "here")
    assert 'href="../pt-BR/3.1-a.html#2-x"' in block.html and 'href="https://example.org/y.ipynb"' in block.html


def cells(*made):
    return json.dumps({"cells": list(made), "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def code_cell(*outputs, count=1):
    return {"cell_type": "code", "source": "1", "metadata": {}, "execution_count": count, "outputs": list(outputs)}


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (code_cell(count=None), "was not executed"),
        (code_cell({"output_type": "display_data", "data": {"text/html": '<img src="https://example.org/a.png">'}}), "from elsewhere"),
        (code_cell({"output_type": "display_data", "data": {"video/mp4": ""}}), "video/mp4 has no place"),
    ],
)
def test_a_notebook_that_is_not_ready_is_refused(project, cell, message):
    (project / "notebooks" / "en" / "3.9-x.ipynb").write_text(cells(cell))
    with pytest.raises(say.Failure, match=message):
        site_lesson.read("3.9-x", "en", [])


def test_a_missing_notebook_is_named(project):
    with pytest.raises(say.Failure, match="scripts/build-notebooks 3.9-x"):
        site_lesson.read("3.9-x", "pt-BR", [])


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(say.Failure, match="holds something other than a site"):
        site_pages.write(tmp_path, {"index.html": ""})
    assert (tmp_path / "thesis.tex").read_text() == "years"


def test_an_old_site_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "site"
    site_pages.write(target, {"index.html": "old", "gone.html": "old"})
    monkeypatch.setattr(site_pages.shutil, "copytree", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises((say.Failure, OSError)):
        site_pages.write(target, {"index.html": "new"})
    assert (target / "index.html").read_text() == "old"
    monkeypatch.undo()
    site_pages.write(target, {"index.html": "new"})
    assert (target / "index.html").read_text() == "new" and not (target / "gone.html").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_the_reference_stands_beside_the_lessons_where_there_is_one(site, pages):
    assert (site / "api" / "candle_course" / "index.html").read_text() == "<p>the crate</p>"
    assert "../api/candle_course/index.html" in pages["pt-BR/index.html"].links
    course = site_pages.tomllib.loads((site_pages.SOURCE / "course.toml").read_text(encoding="utf-8"))
    assert not any("api" in page for page, _ in site_pages.Pages(course, "en", [], reference=False).more)


# A PNG of one pixel.
PIXEL = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c63600000000200015e1fbf280000000049454e44ae426082")
PICTURE = {"lesson": "3.9", "section": "a", "name": "X & Y", "file": "docs/x.png", "made": "scripts/x", "en": "A < B", "pt-BR": "B > A"}


@pytest.fixture
def lessons():
    return {language: [site_lesson.Lesson("3.9-x", language, "", 0, [site_lesson.Section("A", "A", 2, "a")])] for language in paths.LANGUAGES}


def test_a_picture_hangs_in_its_section_in_both_languages(project, lessons):
    (project / "docs").mkdir()
    (project / "docs" / "x.png").write_bytes(PIXEL)
    assert site_pages.hang(PICTURE, lessons) == {"assets/x.png": PIXEL}
    for language, text in (("en", "A &lt; B"), ("pt-BR", "B &gt; A")):
        (block,) = lessons[language][0].sections[0].blocks
        assert f"<figcaption>{text}</figcaption>" in block.html and 'src="../assets/x.png" alt="X &amp; Y" width="1" height="1"' in block.html
    with pytest.raises(say.Failure, match="into 'b', which lesson 3.9 does not have"):
        site_pages.hang(PICTURE | {"section": "b"}, lessons)


def test_a_picture_that_nobody_has_made_yet_is_named(project, lessons, capsys):
    assert site_pages.hang(PICTURE, lessons) == {}
    assert "without the picture docs/x.png: scripts/x makes it" in capsys.readouterr().err


def test_the_place_of_every_picture_exists(pages):
    for picture in site_pages.tomllib.loads((site_pages.SOURCE / "course.toml").read_text(encoding="utf-8"))["pictures"]:
        (name,) = [name for name in LESSONS if name.startswith(f"{picture['lesson']}-")]
        assert picture["section"] in pages[f"en/{name}.html"].ids


@pytest.mark.parametrize(("weights", "total", "expected"), [([1, 1], 10, [5, 5]), ([0, 0, 0], 3, [1, 1, 1]), ([10, 1, 1], 12, [8, 2, 2]), ([1, 2], 1, [0, 0]), ([], 5, [])])
def test_minutes_are_shared_out_whole(weights, total, expected):
    assert site_teaching.shares(weights, total) == expected


def test_what_is_optional_takes_no_minutes(project):
    made = ["# 3.9 X\n\n**10 minutes** · Next: [a](a.ipynb)", "## 1. A\n\nwords", "## 2. B (optional)\n\nwords", "### C\n\nwords", "## 3. D\n\nwords"]
    (project / "notebooks" / "en" / "3.9-x.ipynb").write_text(cells(*({"cell_type": "markdown", "source": text, "metadata": {}} for text in made)))
    lesson = site_lesson.read("3.9-x", "en", [])
    assert [(part.minutes, part.optional) for part in site_teaching.plan(lesson)] == [(1, False), (5, False), (0, True), (4, False)]


def test_what_departs_from_the_solution_is_shown():
    assert site_teaching.departs("a\nc", "a\nb") == "c"
    assert site_teaching.departs("a", "a\nb") == "// – b"
