"""Comparisons of compressed steps with exact ones, in a sentence."""

import json

from meshwright.report._exchange_checks import checks_sentence


def test_the_worst_and_the_last_are_told(tmp_path):
    """Shortfalls of 60 % and 20 %, and half a line."""
    records = [{"shortfall": 0.6, "refined": True}, {"shortfall": 0.2, "refined": False}]
    text = "\n".join(map(json.dumps, records)) + '\n{"shortf'
    (tmp_path / "exchange.jsonl").write_text(text, encoding="utf-8")
    assert checks_sentence(tmp_path) == (
        "Compressed steps were compared with exact ones 2 times: the worst gained 60% less, the last 20% less; "
        "more was sent after 1 of them."
    )


def test_a_run_without_compression_says_nothing(tmp_path):
    assert checks_sentence(tmp_path) == ""
