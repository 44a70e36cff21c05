"""`scripts/reference [part …]`: writes the values of other libraries that the crate's tests compare with."""

import argparse
import ast
import sys

from . import paths, source

DATA = paths.CRATE / "tests" / "data"


def parts_of(script: str) -> list:
    """The names in a script's own table `PARTS`, read without what the script imports."""
    tree = ast.parse((paths.PROJECT / "scripts" / f"{script}.py").read_text(encoding="utf-8"))
    tables = [node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PARTS"]
    return [key.value for table in tables for key in table.keys]


OPTIM = parts_of("reference_optim")
# A part, its script's name, and which of the script's own parts it is.
PARTS = {name: (f"reference_{name}", ()) for name in ("ops", "losses", "metrics", "nn", "foreign")}
PARTS |= {"optim": ("reference_optim", OPTIM)} | {part: ("reference_optim", [part]) for part in OPTIM}


def main(arguments: list) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/reference",
        description="Writes what PyTorch, torchvision, scikit-learn and torchmetrics compute to candle_course/tests/data. "
        "The part foreign (not by default) writes what models of transformers and timm compute to tests/candle-transformers/data, "
        "by an interpreter that has scripts/reference-foreign-requirements.txt, too.",
        epilog="CANDLE_COURSE_REFERENCE_PYTHON may name an interpreter that has them; else a throwaway environment is made (some GB).",
    )
    parser.add_argument("parts", nargs="*", help=f"only these: {', '.join(PARTS)}")
    chosen = parser.parse_args(arguments).parts or ["ops", "losses", "metrics", "nn", "optim"]
    for part in chosen:
        if part not in PARTS:
            parser.error(f"no part is called {part!r}; there are: {', '.join(PARTS)}{source.nearest(part, list(PARTS))}")

    import reference_environment

    reference_environment.enter()
    sys.dont_write_bytecode = True
    for part in chosen:
        name, own = PARTS[part]
        module = __import__(name)
        if own:
            for each in own:
                module.PARTS[each]()
        elif hasattr(module, "write"):
            folder = DATA / part
            folder.mkdir(parents=True, exist_ok=True)
            module.write(folder)
        else:
            module.main()
    return 0
