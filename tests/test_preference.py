"""The preference task that microdpo, microppo and microgrpo share: rule, pairs and evaluation.

The shared functions are the same code in all three scripts, so they are tried in one of them.
"""

import collections
import math
import random

import pytest
from support.preference import (
    CHARS,
    all_completions,
    alternates,
    kl,
    next_probs,
    probability,
    tiny_models,
    tokens_of,
)
from support.scripts import load

SHARING = ("microdpo", "microppo", "microgrpo")


@pytest.fixture
def script():
    return load("microdpo")


def names_within_the_context(script):
    """Each name once, of those that the scripts use."""
    return [name for name in dict.fromkeys(script.load_names()) if len(name) < 8]


# --- the runs ---


@pytest.mark.runs(*SHARING)
def test_the_base_model_is_the_same_in_all(runs):
    assert len({run.metrics["base_preferred_rate"] for run in runs}) == 1


@pytest.mark.runs(*SHARING)
def test_names_stay_as_long_and_as_diverse_as_they_were(runs):
    """A policy that wrote a few short names again and again could raise its rate as well."""
    for run in runs:
        metrics = run.metrics
        assert 0.15 < metrics["base_preferred_rate"] < 0.35
        assert 4.5 < metrics["mean_length"] < 7
        assert metrics["unique_share"] > 0.75
        assert 0.01 < metrics["kl"] < 5


def test_the_scripts_are_judged_alike():
    """They have the same names, prompts and base model, and differ in what they do to it."""
    constants = ["n_embd", "n_head", "n_layer", "block_size", "num_steps", "learning_rate"]
    constants += ["num_pair_names", "num_prompts", "vowels", "min_letters"]
    modules = [load(name) for name in SHARING]
    for constant in constants:
        assert len({getattr(module, constant) for module in modules}) == 1, constant
    assert modules[0].num_prompts >= 500


# --- the rule and the pairs ---


def test_rule(script):
    for name in ("milena", "amir", "rory"):  # y is a vowel
        assert script.is_preferred(tokens_of(name), CHARS) is True, name
    for name in ("anna", "leona", "yael", "ana", "", "aaaaaaa", "zzzz"):
        assert script.is_preferred(tokens_of(name), CHARS) is False, name


def test_rule_asks_for_an_end(script):
    tokens = tokens_of("milenas")
    assert script.is_preferred(tokens, CHARS)
    assert not script.is_preferred(tokens[:-1], CHARS)


def test_real_names_meet_the_rule_sometimes(script):
    names = names_within_the_context(script)[::10]
    kept = 0
    for name in names:
        expected = len(name) >= 4 and alternates(name)
        assert script.is_preferred(tokens_of(name), CHARS) == expected, name
        kept += expected
    assert 0.15 < kept / len(names) < 0.3


def test_spell(script):
    assert script.spell(tokens_of("rory"), CHARS) == "rory"
    assert script.spell([26, 0], CHARS) == "a"


def test_pairs_share_a_prompt_and_differ_in_the_rule(script):
    names = names_within_the_context(script)[:3000]
    random.seed(1)
    pairs = script.make_pairs(names, CHARS)
    counts = collections.Counter()
    for chosen, rejected in pairs:
        assert chosen[:2] == rejected[:2]
        assert script.is_preferred(chosen, CHARS)
        assert not script.is_preferred(rejected, CHARS)
        counts[CHARS[chosen[1]]] += 1
    used = [script.spell(tokens, CHARS) for pair in pairs for tokens in pair]
    assert len(used) == len(set(used))
    assert set(used) <= set(names)
    for letter in CHARS:
        own = [name for name in names if name[0] == letter]
        kept = sum(len(name) >= 4 and alternates(name) for name in own)
        assert counts[letter] == min(kept, len(own) - kept), letter


def test_every_name_may_be_in_a_pair(script):
    assert script.make_pairs(["max", "milena"], CHARS) == [(tokens_of("milena"), tokens_of("max"))]


def test_pairs_come_in_random_order(script):
    names = names_within_the_context(script)[:300]
    random.seed(1)
    one = script.make_pairs(names, CHARS)
    other = script.make_pairs(names, CHARS)
    assert one != other
    assert sorted(one) == sorted(other)


# --- what a model writes ---


def test_completions_have_the_models_distribution(script, monkeypatch):
    """Over many draws. The logits are looked up in a table, to be quick."""
    (model,) = tiny_models(script, monkeypatch, 1)
    table, exact = {}, {}
    for tokens in all_completions(0):
        cache = {}
        for i, token in enumerate(tokens[:-1]):
            table[tuple(tokens[: i + 1])] = script.gpt(model, token, i, cache)
        exact[tuple(tokens)] = probability(script, model, tokens)
    assert math.fsum(exact.values()) == pytest.approx(1, abs=1e-12)

    def look_up(model, token, position, cache):
        past = cache.setdefault("tokens", [])
        assert position == len(past)
        past.append(token)
        return table[tuple(past)]

    monkeypatch.setattr(script, "gpt", look_up)
    random.seed(1)
    n = 4000
    counts = collections.Counter(tuple(script.complete(model, 0)) for _ in range(n))
    assert set(counts) <= set(exact)
    for tokens, p in exact.items():
        assert abs(counts[tokens] - n * p) < 4.5 * math.sqrt(n * p * (1 - p)) + 1


def test_completion_probs_are_those_of_the_letters_after_the_prompt(script, monkeypatch):
    (model,) = tiny_models(script, monkeypatch, 1)
    for tokens in all_completions(1):
        found = script.completion_probs(model, tokens)
        assert len(found) == len(tokens) - 2
        for row, expected in zip(found, next_probs(script, model, tokens), strict=True):
            assert row == pytest.approx(expected, rel=1e-12)


# --- how far it is from the reference ---


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


def test_judge_counts_what_the_model_writes(script, monkeypatch):
    """Its figures are those of the same completions, drawn again and judged here."""
    monkeypatch.setattr(script, "min_letters", 2)
    model, reference = tiny_models(script, monkeypatch)
    prompts = [0, 1, 1] * 20
    random.seed(2)
    names, figures = script.judge(model, reference, prompts, ["a", "b"])
    random.seed(2)
    spelled, preferred, kls = [], [], []
    for prompt in prompts:
        tokens = script.complete(model, prompt)
        name = "".join("ab"[token] for token in tokens if token < 2)
        spelled.append(name)
        preferred.append(tokens[-1] == 2 and len(name) >= 2 and alternates(name))
        both = zip(next_probs(script, model, tokens), next_probs(script, reference, tokens))
        kls.append(math.fsum(kl(p, q) for p, q in both))
    assert names == spelled
    assert 0 < sum(preferred) < 60
    expected = {
        "preferred_rate": sum(preferred) / 60,
        "mean_length": sum(map(len, spelled)) / 60,
        "unique_share": len(set(spelled)) / 60,
        "kl": math.fsum(kls) / 60,
    }
    assert figures == pytest.approx(expected, rel=1e-12)
    assert script.judge(model, model, [0], ["a", "b"])[1]["kl"] == 0


def test_split_names_leaves_no_name_in_two_lists(script):
    random.seed(4)
    names = script.load_names()
    parts = script.split_names(names)
    assert [len(part) for part in parts[:2]] == [script.num_steps, script.num_pair_names]
    everything = [name for part in parts for name in part]
    assert len(everything) == len(set(everything))
    assert set(everything) == {name for name in names if len(name) <= 7}
    in_file_order = [name for name in dict.fromkeys(names) if len(name) <= 7]
    assert everything != in_file_order
    random.seed(5)
    assert script.split_names(names) != parts
