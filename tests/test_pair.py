"""The comparison of the two languages of a prose cell."""

import pytest
from course import pair
from course.source import Prose


def compare(english, portuguese):
    return pair.compare(Prose(1, {"en": english, "pt-BR": portuguese}))


@pytest.mark.parametrize(
    ("english", "portuguese"),
    [
        ("# The loss\n\n60,000 images, rate 0.5", "# A perda\n\n60.000 imagens, taxa 0,5"),
        ("rate 0.001 of 1,234,567.5", "taxa 0.001 de 1.234.567,5"),
        ("from 2.5 to 1.234", "de 2,5 a 1,234"),
        ("60,000 examples", "60\u00a0000 exemplos"),
        ("5 epochs, then 3.", "3 depois de 5 épocas."),
        ("the rate $\\eta = 0.1\\ \\text{per step}$", "a taxa $\\eta = 0.1\\ \\text{por passo}$"),
        ("$$\nL = x^2\n$$", "$$ L = x^2 $$"),
        ("see [the loop](3.1-training-loop.ipynb)", "veja [o laço](3.1-training-loop.ipynb)"),
        ("[entropy](https://en.wikipedia.org/wiki/Entropy)", "[entropia](https://pt.wikipedia.org/wiki/Entropia)"),
        ("```text\nhello 3\n```", "```text\nolá 4\n```"),
        ("`train_step` and conv2d of f32", "`train_step` e conv2d de f32"),
        ("| a | b |\n| --- | --- |\n| 1 | 2 |", "| c | d |\n| --- | --- |\n| 1 | 2 |"),
    ],
)
def test_equal_meanings_agree(english, portuguese):
    assert compare(english, portuguese) == []


@pytest.mark.parametrize(
    ("english", "portuguese", "message"),
    [
        ("## A\n### B", "## A\n## B", "headings only in en: ###"),
        ("## A\n### B", "### A\n## B", "headings differ in order"),
        ("60,000 images", "6.000 imagens", "numbers only in en: 60,000"),
        ("rate 0.5", "taxa 0,05", "numbers only in pt-BR: 0,05"),
        ("7 epochs", "épocas", "numbers only in en: 7"),
        ("$x^2$", "$x^3$", "formulas only in en: x^2"),
        ("$$a$$ and $$a$$", "$$a$$", "formulas only in en: a"),
        ("[a](b.ipynb)", "[a](c.ipynb)", "links only in pt-BR: c.ipynb"),
        ("`fit`", "`fti`", "inline code only in en: fit"),
        ("```text\na\n```", "a", "fenced blocks only in en: text"),
        ("| a | b |", "| a |", "table columns only in en: 2"),
    ],
)
def test_a_difference_is_named(english, portuguese, message):
    assert any(message in problem for problem in compare(english, portuguese)), compare(english, portuguese)
