"""The verbs, and how every failure becomes text and an exit code."""

import os
import sys
from collections.abc import Collection, Sequence

from cyclopts import App
from cyclopts.exceptions import CycloptsError, UnknownCommandError, UnknownOptionError

from meshwright import __version__
from meshwright.cli._output import print_error
from meshwright.cli._tokens import misspelt, own_tokens, shadowed, with_script_separated, with_target_first
from meshwright.errors import MeshwrightError, UsageError, suggestion

INTERRUPTED = 130

VERBS = {
    "hardware": (
        "What is here, measured: cores, memory, matrix rates, collectives between processes. Measured once.",
        "meshwright hardware --fresh --save cluster.toml",
    ),
    "plan": (
        "The plans for a script, each with its price and why it was not chosen; writes the chosen one.",
        "meshwright plan --memory 4GiB train.py --epochs 3",
    ),
    "explain": (
        "Why a plan was chosen: what binds, where time and memory go, what would flip it. Or how two plans differ.",
        "meshwright explain plan.toml",
    ),
    "run": (
        "Plan a script, start the workers that the plan asks for, show progress, and write a report.",
        "meshwright run --set workers=2 train.py --epochs 3",
    ),
    "verify": (
        "Compare a script's plan with the one-device program on the same batches: loss, gradients, parameters.",
        "meshwright verify --steps 3 train.py",
    ),
    "report": (
        "One page about a run, or about two compared: an HTML file that needs no network.",
        "meshwright report outputs/train-20261122-140000",
    ),
    "examples": (
        "List the examples, or copy one here.",
        "meshwright examples character_gpt",
    ),
}
SCRIPT_VERBS = ("plan", "run", "verify")
# What a plan is for; taken wherever they stand, because no plan here is meant where they are typed.
TARGET_OPTIONS = ("--cluster", "--minimize", "--deadline", "--budget", "--tokens", "--set", "--allow")


def make_app() -> App:
    """The command line; the files of the verbs are not loaded yet."""
    app = App(
        name="meshwright",
        help="Makes an ordinary single-device PyTorch program train as fast as the hardware allows.",
        help_epilogue="For example: meshwright run --steps 1000 train.py --epochs 3\n\n"
        "Meshwright's own options stand before the script, the script's after it.",
        help_format="plaintext",
        version=__version__,
    )
    for name, (summary, example) in VERBS.items():
        app.command(
            f"meshwright.cli._{name}:{name}",
            name=name,
            help=summary,
            help_epilogue=f"For example: {example}",
            help_format="plaintext",
        )
    return app


def run_command(tokens: Sequence[str]) -> int:
    """Runs what the user typed.

    Args:
        tokens: everything after `meshwright`.

    Returns:
        The exit code: 0, a `MeshwrightError`'s, or 130 after Ctrl-C.
    """
    app = make_app()
    verb = tokens[0] if tokens and tokens[0] in VERBS else ""
    separated = list(tokens)
    try:
        if verb in SCRIPT_VERBS:
            collection = app[verb].assemble_argument_collection(parse_docstring=False)
            takes_value = {name: argument.token_count()[0] > 0 for argument in collection for name in argument.names}
            typed = with_target_first(tokens[1:], options=TARGET_OPTIONS) if verb == "plan" else tokens[1:]
            separated = [verb, *with_script_separated(typed, takes_value=takes_value)]
            _note_script_options(separated, options=takes_value)
        code = app(separated, exit_on_error=False, print_error=False, result_action="return_value")
        return code if isinstance(code, int) else 0
    except CycloptsError as error:
        return _fail(usage_error(error, verb=verb), tokens=separated)
    except MeshwrightError as error:
        return _fail(error, tokens=separated)
    except KeyboardInterrupt:
        print("interrupted; every process that was started has ended", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output is gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _note_script_options(tokens: Sequence[str], *, options: Collection[str]) -> None:
    """Says which of the script's arguments the user may have meant for Meshwright."""
    for name in shadowed(tokens, options=options):
        print(f"note: {name} stands after the script and goes to it; Meshwright's own stand before", file=sys.stderr)
    for name, near in misspelt(tokens, options=options).items():
        print(f"note: {name} goes to the script; for Meshwright's {near} put it before the script", file=sys.stderr)


def usage_error(error: CycloptsError, *, verb: str) -> UsageError:
    """A refusal by the parser in the form of every other error."""
    command = f"meshwright {verb} --help" if verb else "meshwright --help"
    if isinstance(error, UnknownCommandError):
        wrong = (error.unused_tokens or [""])[0]
        return UsageError(
            f"unknown command {wrong!r}",
            cause=suggestion(wrong, list(VERBS)),
            alternatives=[f"commands: {', '.join(VERBS)}"],
            command=command,
        )
    if isinstance(error, UnknownOptionError):
        wrong = (error.token.keyword or error.token.value).partition("=")[0]
        legal = [name for argument in error.argument_collection for name in argument.names if name.startswith("--")]
        return UsageError(
            f"unknown option {wrong!r} of meshwright {verb}".rstrip(),
            cause=suggestion(wrong, legal),
            alternatives=[f"options: {', '.join(legal)}"] if legal else [],
            command=command,
        )
    return UsageError(str(error), command=command)


def _fail(error: MeshwrightError, *, tokens: Sequence[str]) -> int:
    print_error(error, as_json="--json" in own_tokens(tokens))
    return error.exit_code
