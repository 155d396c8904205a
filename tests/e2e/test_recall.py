"""Facts spread over a long context, asked through prefill, UCX and decode.

tests/golden/recall/NAME.json: {"context": ids, "questions": [{"tokens", "answer", "fact_position",
"fact_tokens", "right"}]}; the answers are those of transformers (tools/make_model_goldens.py)."""

import json

import pytest

from fleet import ROOT, SLOW, Fleet, metric, wait_until

OPTIONS = ("--local-prefill-max-tokens", 0, "--chunk-tokens", 512)
BLOCK = 64


def golden(name):
    return json.loads((ROOT / "tests" / "golden" / "recall" / f"{name}.json").read_text())


def ask(fleet, known, question):
    return fleet.tokens(known["context"] + question["tokens"], len(question["answer"]))


def test_sixty_facts_over_sixteen_thousand_tokens(recall):
    known = golden("16k")
    assert len(known["context"]) > 15000 and len(known["questions"]) == 60
    assert sum(q["right"] for q in known["questions"]) >= 57, "the oracle itself must know its facts"
    with Fleet(recall, kv_blocks=600, options=OPTIONS) as fleet:
        wrong = [q["text"] for q in known["questions"] if ask(fleet, known, q) != q["answer"]]
        assert not wrong, "other answers than those of transformers"
        fleet.settled()


@pytest.mark.parametrize("verify", [False, True], ids=["unverified", "verified"])
def test_a_spoilt_block_shows(recall, verify):
    """Bytes of the landed block of a fact are changed before it is used: without digests the answer is
    wrong, with them the stream is refused and the request still ends right, from a clean copy."""
    known = golden("1k")
    changed = asked = 0
    for question in [q for q in known["questions"] if q["right"]][:6 if verify else 10]:
        block = (question["fact_position"] + question["fact_tokens"] // 2) // BLOCK
        options = (*OPTIONS, "--transfer-layers", 1, *(("--transfer-verify",) if verify else ()))
        with Fleet(recall, kv_blocks=64, options=options,
                   env={"SLUICE_FAULT": f"transfer_spoil@{block}={'fail:1' if verify else 'always'}"}) as fleet:
            answer = ask(fleet, known, question)
            asked += 1
            changed += answer != question["answer"]
            if verify:
                assert answer == question["answer"], "a block that fails its digest must never be used"
                wait_until(lambda: metric(fleet.metrics(), "sluice_kv_transfer_failures_total",
                                          reason="corrupt") > 0, 5 * SLOW, "the failure is counted")
                fleet.settled(15 * SLOW)
    if not verify:
        assert changed >= asked * 0.7, f"only {changed} of {asked} answers noticed"
