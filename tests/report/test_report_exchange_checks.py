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


def test_spans_apart_are_told_with_what_was_changed(tmp_path):
    check = {"step": 64, "steps": 16, "shortfall": 0.75, "tolerance": 0.5, "stale": 2.0, "refined": True,
             "change": "the islands meet every 8 steps instead of every 16 steps"}  # fmt: skip
    later = {**check, "step": 128, "steps": 8, "shortfall": 0.1, "change": "", "refined": False}
    (tmp_path / "exchange.jsonl").write_text("\n".join(map(json.dumps, (check, later))))
    assert checks_sentence(tmp_path) == (
        "Spans of 8 steps apart were compared with exact ones 2 times: the worst gained 75% less, the last 10% less, "
        "where 50% is tolerated; after step 64 the islands meet every 8 steps instead of every 16 steps."
    )
