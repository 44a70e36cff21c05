"""Builds small lesson sources for the tests."""

HEADER = "---\njupyter:\n  kernelspec:\n    display_name: Rust\n    language: rust\n    name: rust\n{more}---\n\n"


def prose(english: str, portuguese: str = None) -> str:
    text = f'<!-- #region {{"lang": "en"}} -->\n{english}\n<!-- #endregion -->\n\n'
    if portuguese is not None:
        text += f'<!-- #region {{"lang": "pt-BR"}} -->\n{portuguese}\n<!-- #endregion -->\n\n'
    return text


def code(text: str, *tags: str) -> str:
    marks = "" if not tags else " tags=[" + ", ".join(f'"{tag}"' for tag in tags) + "]"
    return f"```rust{marks}\n{text}\n```\n\n"


def lesson(*parts: str, more: str = "") -> str:
    return HEADER.format(more=more) + "".join(parts)
