"""Markdown and code of the notebooks as HTML that needs nothing from outside: formulas become MathML."""

import html
import re
import unicodedata
from dataclasses import dataclass, field

import latex2mathml.converter
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.tasklists import tasklists_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_by_name
from pygments.util import ClassNotFound

from . import say

# Names of functions in MathML, which browsers set without the little space around them.
FUNCTION = re.compile(r"<mi>[a-z]{2,}</mi>")
THIN = '<mspace width="0.167em"/>'
# Signs of code that fit on a line of a laptop's page, in a box and in a fold, too.
CODE_WIDTH = 80
LINK = re.compile(r"(?P<page>[^#:]*)\.ipynb(?P<place>#.*)?")


@dataclass
class Block:
    """A piece of a page: a paragraph, a list, a table, a formula, a fold, a cell of code."""

    kind: str
    html: str
    # What a search finds, and what is counted as words to read.
    text: str = ""
    # Of a heading.
    level: int = 0
    tags: list = field(default_factory=list)
    # Of a cell: what it has shown.
    outputs: list = field(default_factory=list)


def markdown(text: str, where: str) -> list:
    """The blocks of a Markdown text; `where` says in a message where it stands."""
    parser = parser_of(where)
    blocks, pending = [], []
    for group in groups(parser.parse(text)):
        pending += group
        # An unfolding text is written as an opening tag, what is in it, and a closing tag.
        opened = sum(token.content.count("<details") - token.content.count("</details") for token in pending if token.type == "html_block")
        if opened > 0:
            continue
        blocks.append(block(pending, parser))
        pending = []
    if pending:
        raise say.Failure(f"{where}: a <details> is not closed")
    return blocks


def groups(tokens: list):
    """Tokens of the outermost level, each with what it encloses."""
    group, depth = [], 0
    for token in tokens:
        group.append(token)
        depth += token.nesting
        if depth == 0:
            yield group
            group = []


def block(tokens: list, parser: MarkdownIt) -> Block:
    first = tokens[0]
    rendered = parser.renderer.render(tokens, parser.options, {})
    kind = {"paragraph_open": "paragraph", "bullet_list_open": "list", "ordered_list_open": "list", "math_block": "formula",
            "table_open": "table", "fence": "code", "blockquote_open": "box", "html_block": "fold", "hr": "rule"}.get(first.type, "other")
    if first.type == "heading_open":
        title = parser.renderer.render(tokens[1:-1], parser.options, {})
        return Block("heading", title, plain(tokens), int(first.tag[1]))
    # The corner of a table is no heading of anything.
    rendered = re.sub(r"<th([^>]*)></th>", r"<td\1></td>", rendered)
    rendered = re.sub(r"<table>.*?</table>", r'<div class="scroll">\g<0></div>', rendered, flags=re.DOTALL)
    if kind == "fold" and "<details" not in first.content:
        kind = "other"
    return Block(kind, rendered, plain(tokens))


def plain(tokens: list) -> str:
    """The words of tokens, without marks; of formulas only those that read like words."""
    parts = []
    for token in tokens:
        for part in token.children or [token]:
            if part.type in ("text", "code_inline", "fence") or part.type == "math_inline" and "\\" not in part.content:
                parts.append(part.content)
            elif part.type in ("softbreak", "hardbreak", "paragraph_close", "td_close", "th_close"):
                parts.append(" ")
            elif part.type in ("html_block", "html_inline"):
                parts.append(html.unescape(re.sub(r"<[^>]*>", " ", part.content)))
        if token.type in ("inline", "html_block"):
            parts.append(" ")
    return " ".join("".join(parts).split())


def parser_of(where: str) -> MarkdownIt:
    """Markdown as JupyterLab takes it, with formulas and links as a page needs them."""
    parser = MarkdownIt("commonmark").enable("table")
    dollarmath_plugin(parser, allow_digits=True, double_inline=True)
    tasklists_plugin(parser, enabled=True, label=True)

    def formula(display: bool):
        return lambda self, tokens, index, options, env: mathematics(tokens[index].content, display, where)

    def fence(self, tokens, index, options, env):
        return code(tokens[index].content, tokens[index].info.split()[0] if tokens[index].info else "")

    def link(self, tokens, index, options, env):
        token = tokens[index]
        target = token.attrs.get("href", "")
        notebook = LINK.fullmatch(target)
        if notebook:
            token.attrs["href"] = f"{notebook['page']}.html{notebook['place'] or ''}"
        elif not re.match(r"https?://|mailto:|#", target):
            raise say.Failure(f"{where}: the link to {target!r} leads nowhere on a site; name the file in code instead")
        return self.renderToken(tokens, index, options, env)

    def image(self, tokens, index, options, env):
        raise say.Failure(f"{where}: a figure that no cell has made: {tokens[index].attrs.get('src')!r}")

    parser.add_render_rule("math_inline", formula(False))
    parser.add_render_rule("math_inline_double", formula(True))
    parser.add_render_rule("math_block", formula(True))
    parser.add_render_rule("fence", fence)
    parser.add_render_rule("link_open", link)
    parser.add_render_rule("image", image)
    return parser


def mathematics(formula: str, display: bool, where: str) -> str:
    """A formula as MathML, which browsers set by themselves, and which screen readers read aloud."""
    if not display:
        return set_in_mathml(formula, "inline", where)
    # What stands side by side in one line may stand below each other where the page is narrow.
    parts = formula.split(r"\qquad")
    if all(part.count("{") == part.count("}") and part.count(r"\left") == part.count(r"\right") for part in parts) and len(parts) > 1:
        side_by_side = "".join(set_in_mathml(part, "block", where).replace('display="block"', 'display="inline" displaystyle="true"', 1) for part in parts)
        return f'<div class="formula scroll parts">{side_by_side}</div>'
    return f'<div class="formula scroll">{set_in_mathml(formula, "block", where)}</div>'


def set_in_mathml(formula: str, display: str, where: str) -> str:
    try:
        written = latex2mathml.converter.convert(formula.strip(), display=display)
    except Exception as error:
        raise say.Failure(f"{where}: the formula {formula.strip()!r} is not understood: {type(error).__name__}: {error}") from None
    # What the converter does not know stands in its output as a command.
    unknown = re.search(r"\\[A-Za-z]+", written)
    if unknown:
        raise say.Failure(f"{where}: {unknown.group()} in the formula {formula.strip()!r} is not understood")
    # Within \text the converter leaves the escapes of LaTeX's own signs.
    return re.sub(r"\\([_%#&$])", r"\1", spaced(written))


def held(page: str) -> str:
    """A page in which no line begins with the stop that follows a formula, or ends with the bracket before it."""
    hold = lambda match: f'<span class="held">{match[0]}</span>' if match[1] or match[3] else match[0]  # noqa: E731
    return re.sub(r"(\(?)(<math [^>]*>(?:(?!</math>).)*</math>)([.,;:!?)]*)", hold, page, flags=re.DOTALL)


def spaced(written: str) -> str:
    """A thin space between a function's name and what is not an operator or a bracket."""
    # Written out names of operators, as max: by themselves browsers take them for a sign like =.
    written = re.sub(r"<mo>([A-Za-z]{2,})</mo>(?=<mo)", r'<mo lspace="0" rspace="0">\1</mo>', written)
    written = re.sub(r"<mo>([A-Za-z]{2,})</mo>", r'<mo lspace="0" rspace="0.167em">\1</mo>', written)
    # Words are space to a browser: a sign between words alone would stand for the whole, and close to them.
    written = re.sub(r"<mtext>([^<]{2,})</mtext>(?=<mo>(?:\+|−|=|·|&#x0002B;|&#x02212;|&#x0003D;|&#x022C5;|&#x000B7;)</mo>)", r"<mi>\1</mi>", written)
    # After a bracket or a sign like = a minus belongs to its number.
    written = re.sub(r"(<mo[^>]*>(?:&#x00028;|&#x0003D;|\(|=)</mo>)<mo>(&#x02212;|−)</mo>", r'\1<mo form="prefix">\2</mo>', written)
    # A bar encloses; browsers take it for a relation.
    written = re.sub(r"<mo[^>]*>(\||&#x0007C;)</mo>", r'<mo lspace="0" rspace="0" stretchy="false">\1</mo>', written)
    written = re.sub(rf"({FUNCTION.pattern})(?!<mo|</|<mspace)", rf"\1{THIN}", written)
    return re.sub(rf"(</mi>|</mn>|</msub>|</msup>|</msubsup>)(?={FUNCTION.pattern})", rf"\1{THIN}", written)


def code(text: str, language: str) -> str:
    try:
        lexer = get_lexer_by_name(language or "text")
    except ClassNotFound:
        lexer = TextLexer()
    lines = highlight(text.rstrip(), lexer, HtmlFormatter(nowrap=True)).rstrip().split("\n")
    return '<pre class="code scroll"><code>' + "\n".join(map(hung, lines)) + "</code></pre>"


def hung(line: str) -> str:
    """A line of code that, where it is longer than a page is wide, goes on below, further in than it began."""
    text = html.unescape(re.sub(r"<[^>]*>", "", line))
    inward = len(text) - len(text.lstrip()) + 4
    return f'<span class="long" style="--inward:{inward}ch">{line}</span>' if len(text) > CODE_WIDTH else line


def slug(text: str) -> str:
    """The name of a place on a page."""
    letters = unicodedata.normalize("NFD", text.lower())
    words = re.sub(r"[^a-z0-9]+", "-", "".join(letter for letter in letters if not unicodedata.combining(letter)))
    return words.strip("-") or "section"
