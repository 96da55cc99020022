"""The preference task that the alignment scripts share: the rule, the pairs, the evaluation."""

import collections
import itertools
import math
import random
import re
import string

import pytest
from harness import ROOT, SCRIPTS, load

NAMES = [name for name in SCRIPTS if hasattr(load(name), "is_preferred")]
CHARS = list(string.ascii_lowercase)
SAME_EVALUATION = ["base_preferred_rate", "base_mean_length", "base_unique_share"]


@pytest.fixture(params=NAMES)
def script(request):
    return load(request.param)


def tiny_models(script, monkeypatch, count=2, vocab_size=3):
    """Float models of two letters and a boundary, with names of at most three letters."""
    monkeypatch.setattr(script, "block_size", 4)
    random.seed(5)
    return [
        {
            key: [[6 * p.data for p in row] for row in rows]
            for key, rows in script.init_model(vocab_size).items()
        }
        for _ in range(count)
    ]


def all_completions(prompt, bos=2, block_size=4):
    """Every token sequence that a tiny model can write."""
    for length in range(1, block_size):
        for letters in itertools.product(range(bos), repeat=length - 1):
            yield [bos, prompt, *letters, bos]
    for letters in itertools.product(range(bos), repeat=block_size - 1):
        yield [bos, prompt, *letters]


def probability(script, model, tokens):
    """By the chain rule, from the logits, with a softmax of the test's own."""
    cache, p = {}, 1.0
    for i, token in enumerate(tokens[:-1]):
        logits = script.gpt(model, token, i, cache)
        if i > 0:
            p *= math.exp(logits[tokens[i + 1]]) / math.fsum(map(math.exp, logits))
    return p


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("milena", True),
        ("rory", True),  # y is a vowel
        ("amir", True),
        ("anna", False),  # two consonants
        ("leona", False),  # two vowels
        ("yael", False),
        ("ana", False),  # too short
        ("", False),
        ("aaaaaaa", False),
        ("zzzz", False),
    ],
)
def test_rule(script, name, verdict):
    assert script.is_preferred(script.encode(name, CHARS), CHARS) is verdict


def test_rule_asks_for_an_end(script):
    tokens = script.encode("milenas", CHARS)
    assert script.is_preferred(tokens, CHARS)
    assert not script.is_preferred(tokens[:-1], CHARS)


def test_real_names_meet_the_rule_sometimes(script):
    names = [name for name in script.load_names() if len(name) < script.block_size]
    kept = [script.is_preferred(script.encode(name, CHARS), CHARS) for name in names]
    assert 0.15 < sum(kept) / len(kept) < 0.3


def test_spell(script):
    assert script.spell(script.encode("rory", CHARS), CHARS) == "rory"
    assert script.spell([26, 0], CHARS) == "a"


@pytest.mark.slow
def test_completions_have_the_models_distribution(script, monkeypatch):
    (model,) = tiny_models(script, monkeypatch, 1)
    exact = {tuple(t): probability(script, model, t) for t in all_completions(0)}
    assert math.fsum(exact.values()) == pytest.approx(1, abs=1e-12)
    random.seed(1)
    counts = collections.Counter(tuple(script.complete(model, 0)) for _ in range(4000))
    assert set(counts) <= set(exact)
    for tokens, p in exact.items():
        assert abs(counts[tokens] - 4000 * p) < 4.5 * math.sqrt(4000 * p * (1 - p)) + 1


def test_completion_probs_are_those_of_the_letters_after_the_prompt(script, monkeypatch):
    (model,) = tiny_models(script, monkeypatch, 1)
    for tokens in all_completions(1):
        probs = script.completion_probs(model, tokens)
        assert len(probs) == len(tokens) - 2
        product = math.prod(p[token] for p, token in zip(probs, tokens[2:], strict=True))
        assert product == pytest.approx(probability(script, model, tokens), rel=1e-12)


def test_kl_equals_the_sum_over_all_sequences(script, monkeypatch):
    model, reference = tiny_models(script, monkeypatch)
    for prompt in (0, 1):
        brute, chained = [], []
        for tokens in all_completions(prompt):
            p, q = (probability(script, m, tokens) for m in (model, reference))
            brute.append(p * math.log(p / q))
            both = (script.completion_probs(m, tokens) for m in (model, reference))
            chained.append(p * script.kl_divergence(*both))
        assert math.fsum(chained) == pytest.approx(math.fsum(brute), rel=1e-10)
        assert math.fsum(brute) > 0.05


def test_kl_to_itself_is_zero_and_else_it_is_directed(script):
    p, q = [[0.5, 0.25, 0.25]], [[0.8, 0.1, 0.1]]
    assert script.kl_divergence(p, p) == 0
    expected = 0.5 * math.log(0.5 / 0.8) + 2 * 0.25 * math.log(0.25 / 0.1)
    assert script.kl_divergence(p, q) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError):
        script.kl_divergence(p, q + q)


def test_judge_counts_what_it_returns(script, monkeypatch):
    monkeypatch.setattr(script, "min_letters", 2)
    chars = ["a", "b"]
    model, reference = tiny_models(script, monkeypatch)
    random.seed(2)
    names, judged = script.judge(model, reference, [0, 1] * 300, chars)
    assert [name[0] for name in names] == ["a", "b"] * 300
    assert judged["unique_share"] == len(set(names)) / 600
    assert judged["mean_length"] == pytest.approx(sum(map(len, names)) / 600)
    exact = collections.Counter()
    for tokens in itertools.chain(all_completions(0), all_completions(1)):
        p, q = (probability(script, m, tokens) for m in (model, reference))
        exact["kl"] += p * math.log(p / q) / 2
        name = script.spell(tokens, chars)
        good = len(name) >= 2 and tokens[-1] == 2 and "aa" not in name and "bb" not in name
        exact["preferred_rate"] += p * good / 2
    assert judged["preferred_rate"] == pytest.approx(exact["preferred_rate"], abs=0.08)
    assert judged["kl"] == pytest.approx(exact["kl"], rel=0.2)
    assert script.judge(model, model, [0], chars)[1]["kl"] == 0


def test_pairs_share_a_prompt_and_differ_in_the_rule(script):
    if not hasattr(script, "make_pairs"):
        return
    names = [name for name in dict.fromkeys(script.load_names()) if len(name) < 8][:3000]
    pairs = script.make_pairs(names, CHARS)
    assert len(pairs) > 500
    for chosen, rejected in pairs:
        assert chosen[:2] == rejected[:2]
        assert script.is_preferred(chosen, CHARS)
        assert not script.is_preferred(rejected, CHARS)
    used = [script.spell(tokens, CHARS) for pair in pairs for tokens in pair]
    assert len(used) == len(set(used))
    assert set(used) <= set(names)


def test_the_scripts_are_judged_alike():
    """Same names, same prompts, same base model: what differs is what is done to it."""
    constants = (
        "n_embd n_head n_layer block_size num_steps learning_rate num_pair_names num_prompts"
    )
    constants = [*constants.split(), "vowels", "min_letters"]
    assert len({tuple(getattr(load(name), key) for key in constants) for name in NAMES}) <= 1
    assert all(load(name).num_prompts >= 500 for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_rate_is_up_and_no_cheat(name, run):
    """By 0.10, while names stay as long and as various as names are."""
    metrics = run.metrics
    assert 0.15 < metrics["base_preferred_rate"] < 0.35
    assert metrics["preferred_rate"] > metrics["base_preferred_rate"] + 0.10
    assert metrics["base_mean_length"] - 1.2 < metrics["mean_length"] < 7
    assert metrics["unique_share"] > 0.75 * metrics["base_unique_share"]
    assert 0.01 < metrics["kl"] < 5


@pytest.mark.runs(*NAMES)
@pytest.mark.parametrize("metric", SAME_EVALUATION)
def test_the_base_model_is_the_same_in_all(metric, runs):
    assert len({run.metrics[metric] for run in runs}) == 1


@pytest.mark.runs("microdpo", "microppo", "microgrpo")
def test_the_table_of_the_three_shows_their_runs(runs):
    """02-alignment/README.md: a row per metric, a column for the base and for each script."""
    text = (ROOT / "02-alignment" / "README.md").read_text(encoding="utf-8")
    table = text[text.index("| | base | DPO (beta 0.5) | PPO | GRPO |") :]
    found = [run.metrics for run in runs]
    rows = re.findall(r"(?m)^\| `(\w+)`: [^|]+\|(.+)\|$", table)
    assert len(rows) == 7
    for metric, cells in rows:
        base, *shown = (cell.strip() for cell in cells.split("|"))
        if f"base_{metric}" in found[0]:
            assert float(base) == pytest.approx(found[0][f"base_{metric}"], rel=0.02)
        for cell, metrics in zip(shown, found, strict=True):
            assert float(cell) == pytest.approx(metrics.get(metric, 0), rel=0.02), metric
    least = re.search(r"(?m)^\| the least KL [^|]+\| 0 \|(.+)\|$", table)[1].split("|")
    for cell, metrics in zip(least, found, strict=True):
        p, q = metrics["preferred_rate"], metrics["base_preferred_rate"]
        binary = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        assert float(cell) == pytest.approx(binary, abs=0.006)
        assert binary < metrics["kl"]
