"""Builds small lesson sources for the tests."""

HEADER = "---\njupyter:\n  kernelspec:\n    display_name: Rust\n    language: rust\n    name: rust\n{more}---\n\n"


def prose(english: str, portuguese: str = None) -> str:
    text = f'<!-- #region {{"lang": "en"}} -->\n{english}\n<!-- #endregion -->\n\n'
    if portuguese is not None:
        text += f'<!-- #region {{"lang": "pt-BR"}} -->\n{portuguese}\n<!-- #endregion -->\n\n'
    return text


def code(text: str, *tags: str, hint: str = "") -> str:
    marks = "" if not tags else " tags=[" + ", ".join(f'"{tag}"' for tag in tags) + "]"
    marks += f' hint="{hint}"' if hint else ""
    return f"```rust{marks}\n{text}\n```\n\n"


def lesson(*parts: str, more: str = "") -> str:
    return HEADER.format(more=more) + "".join(parts)


def exercise() -> str:
    """A stub, a solution, two wrong answers and a check."""
    return (
        code("let c = 0;", "exercise")
        + code("let c = a + b;", "solution")
        + code("let c = a - b;", "wrong", hint="add them")
        + code("let c = a * b;", "wrong", hint="add them")
        + code('Check::new("Exercise 1").equal("c", a + b, c, "add them").finish();', "check")
    )
