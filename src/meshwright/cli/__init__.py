"""The command line: `meshwright VERB`.

In: what the user typed. Out: text, or with `--json` one JSON object; an exit code (`errors`), 130 after Ctrl-C.
Reading order: `_app` (verbs, help, errors as text), `_tokens` (where the script's own arguments begin), `_options` and
`_settings` (default < file < command line), then a file per verb: `_hardware`, `_plan`, `_explain`, `_run`, `_verify`,
`_report`, `_examples`. A verb's file is loaded when the verb is used.
"""

import signal
import sys

from meshwright.cli._app import run_command


def main() -> None:
    """Runs the command that the user typed, and exits with its code."""
    # Between the parts that handle it themselves, SIGTERM ends the command as Ctrl-C does: tidily.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run_command(sys.argv[1:]))
