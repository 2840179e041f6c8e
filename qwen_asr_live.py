"""Entry points of the console scripts: checks which `qwen_asr` is installed, then runs its command line.

Qwen's own distribution, `qwen-asr`, installs a folder of the same name. Whichever of the two is installed last replaces
`qwen_asr/__init__.py` of the other, and uninstalling one deletes that file of both. This module is outside the folder,
so it runs in either case and can report it.
"""

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

OTHER_DISTRIBUTION = "qwen-asr"
REINSTALL = 'pip install ".[server]" in the folder of qwen-asr-live'


def main() -> int:
    """`qwen-asr-serve-websocket`; returns the exit code."""
    return _run("main")


def run_subcommand() -> int:
    """`qwen-asr`; returns the exit code."""
    return _run("run_subcommand")


def demo() -> int:
    """`qwen-asr-demo`; returns the exit code."""
    return _run("demo")


def demo_streaming() -> int:
    """`qwen-asr-demo-streaming`; returns the exit code."""
    return _run("demo_streaming")


def serve_model() -> int:
    """`qwen-asr-serve`; returns the exit code."""
    return _run("serve_model")


def conflict() -> str | None:
    """One sentence about what is wrong with the installed `qwen_asr` and what to do. None where nothing is wrong."""
    spec = importlib.util.find_spec("qwen_asr")
    folders = [Path(folder).resolve() for folder in (spec and spec.submodule_search_locations) or ()]
    for distribution in importlib.metadata.distributions(name=OTHER_DISTRIBUTION):
        # Elsewhere on the search path it does no harm: a checkout, for one, comes before what is installed.
        if Path(str(distribution.locate_file("qwen_asr"))).resolve() in folders:
            return (
                f"The packages {OTHER_DISTRIBUTION} and qwen-asr-live are both installed, but use the same folder "
                f"({folders[0]}) and overwrite each other's files: run pip uninstall {OTHER_DISTRIBUTION} "
                f"qwen-asr-live, then {REINSTALL}."
            )
    if spec is None or spec.origin is None:
        return (
            "The package qwen-asr-live is incomplete: qwen_asr/__init__.py is missing, as after uninstalling "
            f"{OTHER_DISTRIBUTION}, which has a file of that name. Run pip uninstall qwen-asr-live, then {REINSTALL}."
        )
    return None


def _run(function: str) -> int:
    if found := conflict():
        print(f"{Path(sys.argv[0]).name}: error: {found}", file=sys.stderr)  # noqa: T201 - errors go to stderr
        return 1
    command_line = importlib.import_module("qwen_asr.cli.main")
    return int(getattr(command_line, function)())
