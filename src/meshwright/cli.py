"""The command line."""


def main() -> None:
    """Runs the command that the user typed."""
