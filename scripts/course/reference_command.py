"""`scripts/reference [part …]`: writes the values of other libraries that the crate's tests compare with."""

import argparse
import sys

from . import paths, source

DATA = paths.CRATE / "tests" / "data"
# A part, its script's name, and which of the script's own parts it is.
PARTS = {
    "ops": ("reference_ops", ()),
    "losses": ("reference_losses", ()),
    "metrics": ("reference_metrics", ()),
    "optim": ("reference_optim", ("optimizers", "schedules", "nn", "networks")),
    "optimizers": ("reference_optim", ("optimizers",)),
    "schedules": ("reference_optim", ("schedules",)),
    "nn": ("reference_optim", ("nn",)),
    "networks": ("reference_optim", ("networks",)),
}


def main(arguments: list) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/reference",
        description="Writes what PyTorch, torchvision, scikit-learn and torchmetrics compute to candle_course/tests/data.",
        epilog="CANDLE_COURSE_REFERENCE_PYTHON may name an interpreter that has them; else a throwaway environment is made (some GB).",
    )
    parser.add_argument("parts", nargs="*", help=f"only these: {', '.join(PARTS)}")
    chosen = parser.parse_args(arguments).parts or ["ops", "losses", "metrics", "optim"]
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
