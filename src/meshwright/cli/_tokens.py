"""Where Meshwright's own options end and the script's arguments begin."""

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches

SEPARATOR = "--"
# Likeness of a script's option to one of ours, as difflib counts it: two letters of nine exchanged leave 0.89. Other
# options are often like ours in part (`--batch-size`: 0.74), which is no slip of the finger.
_SLIP = 0.87


def with_script_separated(tokens: Sequence[str], *, takes_value: Mapping[str, bool]) -> list[str]:
    """The tokens with `--` put before the script, so that nothing after it is taken for an option of ours.

    The script is the first token that is neither an option nor an option's value.

    Args:
        tokens: what stands after the verb.
        takes_value: whether each option is followed by a value.
    """
    index = 0
    while index < len(tokens):
        token = tokens[index]
        if token == SEPARATOR:
            return list(tokens)
        if not token.startswith("-"):
            return [*tokens[:index], SEPARATOR, *tokens[index:]]
        follows = takes_value.get(token, False)
        index += 2 if follows else 1
    return list(tokens)


def with_target_first(tokens: Sequence[str], *, options: Collection[str]) -> list[str]:
    """The tokens with options that say what is planned for put before the script, wherever they were typed.

    `plan train.py --cluster h100:8x64` is how people write it. What stands after `--` is left to the script.

    Args:
        tokens: what stands after the verb.
        options: that are taken from the script's arguments, each with a value.
    """
    end = tokens.index(SEPARATOR) if SEPARATOR in tokens else len(tokens)
    taken: list[str] = []
    rest: list[str] = []
    index = 0
    while index < end:
        length = 0
        if tokens[index].partition("=")[0] in options:
            length = 1 if "=" in tokens[index] else 2
        taken += tokens[index : min(end, index + length)]
        rest += tokens[index : index + 1] if not length else []
        index += length or 1
    return [*taken, *rest, *tokens[end:]]


def own_tokens(tokens: Sequence[str]) -> Sequence[str]:
    """Those before the script."""
    return tokens[: tokens.index(SEPARATOR)] if SEPARATOR in tokens else tokens


def shadowed(tokens: Sequence[str], *, options: Collection[str]) -> list[str]:
    """Options of ours that stand among the script's arguments: the user may have meant either."""
    arguments = tokens[len(own_tokens(tokens)) :]
    return [name for name in dict.fromkeys(token.partition("=")[0] for token in arguments) if name in options]


def misspelt(tokens: Sequence[str], *, options: Collection[str]) -> dict[str, str]:
    """Options among the script's arguments that differ from one of ours by a slip of the finger, each with that one."""
    names = [token.partition("=")[0] for token in tokens[len(own_tokens(tokens)) :] if token.startswith(SEPARATOR)]
    near = {name: get_close_matches(name, options, n=1, cutoff=_SLIP) for name in names if name not in options}
    return {name: found[0] for name, found in near.items() if found}
