"""microdpo: the loss and its gradient in closed form, and the training against Adam."""

import itertools
import math
import random

import pytest
from support.numbers import (
    adam,
    flat,
    gpt_matrices,
    gradient_of,
    gradients,
    lift,
    lower,
    pick,
    places_of_each,
    slopes,
)
from support.preference import probability, tiny_models, tokens_of

PAIR = (tokens_of("milena"), tokens_of("max"))
OTHER_PAIR = (tokens_of("rory"), tokens_of("rhys"))


def policy_and_reference():
    """Two float models in the script's shapes, with weights five times those at the start."""
    return [gpt_matrices(27, 8, 8, std=0.4, seed=seed) for seed in (3, 4)]


def loss_of(script, policy, reference, pair, beta):
    return script.dpo_loss(policy, reference, *pair, beta)


def sigmoid(x):
    """1 / (1 + exp(-x)) where neither side can overflow."""
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def exact_margin(script, policy, reference, pair):
    """log(pi(c) / ref(c)) - log(pi(r) / ref(r)), by the chain rule and the tests' softmax."""
    ratios = []
    for tokens in pair:
        p, q = (probability(script, model, tokens) for model in (policy, reference))
        ratios.append(math.log(p / q))
    return ratios[0] - ratios[1]


# --- the loss ---


def test_minus_log_sigmoid_and_its_slope(script):
    """Value and gradient in closed form; at 0, where every policy starts, -1/2 and not 0."""
    for x in (0.0, 1e-9, -1e-9, 0.3, -0.3, 5.0, -5.0, 30.0, -30.0, 700.0, 1e3, -1e3):
        expected = math.log1p(math.exp(-x)) if x > -700 else -x
        leaf = script.Value(x)
        result = script.minus_log_sigmoid(leaf)
        assert result.data == pytest.approx(expected, abs=1e-12)
        result.backward()
        assert leaf.grad == pytest.approx(-sigmoid(-x), rel=1e-9, abs=1e-300), x


def test_loss_is_stable_for_log_ratios_of_a_thousand(script, monkeypatch):
    for chosen, rejected in itertools.product((-1000.0, 0.0, 1000.0), repeat=2):
        leaves = {"chosen": script.Value(chosen), "rejected": script.Value(rejected)}
        monkeypatch.setattr(
            script, "log_ratio", lambda policy, reference, tokens, of=leaves: of[tokens]
        )
        loss = script.dpo_loss({}, {}, "chosen", "rejected", 0.5)
        loss.backward()
        x = 0.5 * (chosen - rejected)
        expected = max(-x, 0.0) + math.log1p(math.exp(-abs(x)))
        assert loss.data == pytest.approx(expected, abs=1e-12)
        slope = -0.5 * sigmoid(-x)
        found = [leaf.grad for leaf in leaves.values()]
        assert found == pytest.approx([slope, -slope], abs=1e-12)


def test_the_table_in_the_docstring(script, monkeypatch):
    """Margin, loss and strength of the push, with beta = 0.5."""
    rows = [line.split() for line in script.dpo_loss.__doc__.splitlines()]
    rows = [row for row in rows if row and row[0] in ("-6", "0", "6")]
    assert len(rows) == 3
    for margin, loss, strength, *_ in rows:
        assert float(loss) == pytest.approx(-math.log(sigmoid(0.5 * int(margin))), abs=5e-4)
        assert float(strength) == pytest.approx(0.5 * sigmoid(-0.5 * int(margin)), abs=5e-4)


def test_log_prob_is_the_log_of_the_product(script):
    """It takes the probabilities of the letters after the prompt and of the end."""
    model, _ = policy_and_reference()
    for name in ("milena", "jo", "abcdefg"):
        tokens = tokens_of(name)
        expected = math.log(probability(script, model, tokens))
        found = script.log_prob(model, tokens)
        assert found == pytest.approx(expected, rel=1e-12)
        assert script.log_prob(lift(script, model), tokens).data == found


def test_log_ratio(script):
    policy, reference = policy_and_reference()
    for tokens in PAIR:
        p, q = (probability(script, model, tokens) for model in (policy, reference))
        ratio = script.log_ratio(policy, reference, tokens)
        assert ratio == pytest.approx(math.log(p / q), rel=1e-9)
        assert abs(ratio) > 0.01
        assert script.log_ratio(reference, reference, tokens) == 0.0


def test_a_policy_equal_to_the_reference_loses_log_2(script):
    reference, _ = policy_and_reference()
    for beta in (0.01, 0.5, 10.0):
        assert loss_of(script, lift(script, reference), reference, PAIR, beta).data == math.log(2)


@pytest.mark.parametrize("beta", [0.1, 0.7])
@pytest.mark.parametrize("start", [True, False])
def test_gradient_is_the_closed_form(script, start, beta):
    """-beta sigmoid(-beta m) (grad log pi(c) - grad log pi(r)); the factor starts as -beta/2."""
    policy, reference = policy_and_reference()
    if start:
        policy = reference
    up, down = (
        flat(gradient_of(script, lambda values, y=tokens: script.log_prob(values, y), policy))
        for tokens in PAIR
    )
    margin = exact_margin(script, policy, reference, PAIR)
    factor = -beta * sigmoid(-beta * margin)
    assert (factor == -beta / 2) == start
    loss = gradient_of(script, lambda v: loss_of(script, v, reference, PAIR, beta), policy)
    found = flat(loss)
    assert found == pytest.approx([factor * (a - b) for a, b in zip(up, down)], abs=1e-11)
    assert max(map(abs, found)) > 0.01


def test_gradient_of_the_loss_equals_finite_differences(script, monkeypatch):
    """The loss is written out by the definition, from probabilities of whole completions."""
    policy, reference = tiny_models(script, monkeypatch)
    pair, beta = ([2, 0, 1, 0, 2], [2, 0, 0, 2]), 0.7
    where = places_of_each(policy, 8)
    expected = slopes(
        lambda m: -math.log(sigmoid(beta * exact_margin(script, m, reference, pair))),
        policy,
        where,
    )
    loss = gradient_of(script, lambda m: loss_of(script, m, reference, pair, beta), policy)
    assert pick(loss, where) == pytest.approx(expected, rel=1e-5, abs=1e-8)
    assert sum(abs(slope) > 1e-3 for slope in expected) > 40


def test_swapping_chosen_and_rejected_flips_the_margin(script):
    """-log s(x) + log s(-x) = -x."""
    policy, reference = policy_and_reference()
    beta = 0.7
    policy_values = lift(script, policy)
    there = loss_of(script, policy_values, reference, PAIR, beta).data
    back = loss_of(script, policy_values, reference, PAIR[::-1], beta).data
    margin = exact_margin(script, policy, reference, PAIR)
    assert there - back == pytest.approx(-beta * margin, abs=1e-12)
    assert math.exp(-there) + math.exp(-back) == pytest.approx(1)


def normalized(weights):
    total = math.fsum(weights)
    return [w / total for w in weights]


@pytest.mark.parametrize("beta", [0.2, 1.5])
def test_the_optimum_under_a_reward_predicts_its_preferences(script, monkeypatch, beta):
    """Eq. 4 by enumeration: pi = ref exp(r / beta) / Z. Then eq. 7 is -log sigmoid(r1 - r2)."""
    rng = random.Random(1)
    ref = normalized([rng.random() for _ in range(12)])
    rewards = [rng.gauss(0, 1) for _ in ref]
    pi = normalized([p * math.exp(r / beta) for p, r in zip(ref, rewards)])
    for i, j in itertools.permutations(range(12), 2):
        ratios = {k: script.Value(math.log(pi[k] / ref[k])) for k in (i, j)}
        monkeypatch.setattr(script, "log_ratio", lambda policy, reference, k, of=ratios: of[k])
        p = math.exp(-script.dpo_loss({}, {}, i, j, beta).data)
        assert p == pytest.approx(sigmoid(rewards[i] - rewards[j]), rel=1e-9)


# --- the training ---


def test_training_leaves_the_reference_as_it_is_bit_for_bit(script):
    reference, _ = policy_and_reference()
    start = {name: [list(row) for row in matrix] for name, matrix in reference.items()}
    policy = lift(script, reference)
    losses = list(script.train_dpo(policy, reference, [PAIR, OTHER_PAIR] * 3, 0.5))
    assert len(losses) == 6
    assert reference == start
    assert losses[0] == pytest.approx(math.log(2), abs=1e-12)
    assert losses[-1] < math.log(2) - 0.05
    for name, matrix in lower(policy).items():
        assert matrix != start[name], name


def test_steps_of_training_are_adam_on_one_pair_after_the_other(script):
    """The rate stays. The weights are compared with those of the tests' own Adam."""
    policy, reference = policy_and_reference()
    pairs = [PAIR, OTHER_PAIR] * 2
    values = lift(script, policy)
    training = script.train_dpo(values, reference, pairs, 0.5)
    params = flat(policy)
    m, v = [0.0] * len(params), [0.0] * len(params)
    for step, pair in enumerate(pairs, 1):
        model = lift(script, lower(values))
        loss = loss_of(script, model, reference, pair, 0.5)
        loss.backward()
        assert next(training) == loss.data
        params, m, v = adam(params, flat(gradients(model)), m, v, step, 0.0015)
        assert flat(lower(values)) == pytest.approx(params, abs=1e-9)
        assert not any(flat(gradients(values)))
    assert next(training, None) is None


def test_training_raises_the_margin_and_more_so_for_a_small_beta(script, monkeypatch):
    reference, _ = tiny_models(script, monkeypatch)
    pair, margins = ([2, 0, 1, 0, 2], [2, 0, 0, 2]), []
    monkeypatch.setattr(script, "dpo_learning_rate", 0.02)
    for beta in (0.1, 2.0):
        policy = lift(script, reference)
        losses = list(script.train_dpo(policy, reference, [pair] * 30, beta))
        assert losses[-1] < losses[15] < losses[0]
        margins.append(exact_margin(script, lower(policy), reference, pair))
    assert margins[0] > margins[1] + 1 > 1


# --- what judges it ---


def test_judge_pairs_by_hand(script, monkeypatch):
    """Log probabilities given: margins 3, 0, 2 and 0.5. A margin of 0 is not ranked right."""
    given = {
        "policy": [(-5.0, -6.0), (-7.0, -2.0), (-9.0, -6.0), (-3.0, -4.0)],
        "base": [(-6.0, -4.0), (-6.0, -1.0), (-12.0, -7.0), (-3.0, -3.5)],
    }
    pairs = [((i, 0), (i, 1)) for i in range(4)]
    monkeypatch.setattr(
        script, "log_prob", lambda model, tokens: given[model][tokens[0]][tokens[1]]
    )
    assert script.judge_pairs("policy", "base", pairs) == {
        "accuracy": 0.875,
        "chosen_fell": 0.25,
        "chosen_log_ratio": (1.0 - 1.0 + 3.0 + 0.0) / 4,
        "rejected_log_ratio": (-2.0 - 1.0 + 1.0 - 0.5) / 4,
    }
    assert script.judge_pairs("base", "base", pairs)["accuracy"] == 0.5
    assert script.more_probable_share("policy", pairs) == 0.5
    assert script.more_probable_share("base", pairs) == 0.25


def test_copies_are_kept_along_training_and_judged(script, monkeypatch, capsys):
    reference, _ = tiny_models(script, monkeypatch)
    monkeypatch.setattr(script, "watch_every", 2)
    pair = ([2, 0, 1, 0, 2], [2, 0, 0, 2])
    losses, copies = script.watch_training(reference, [pair] * 5, 0.5)
    assert capsys.readouterr().out.count("/5 ") >= 3
    assert list(copies) == [0, 2, 4, 5]
    assert copies[0] == reference
    again = lift(script, reference)
    expected = list(script.train_dpo(again, reference, [pair] * 5, 0.5))
    assert losses == expected
    assert copies[5] == lower(again)
    monkeypatch.setattr(script, "num_watch_prompts", 3)
    progress = script.judge_copies(copies, reference, [pair], [0, 1, 0, 1], ["a", "b"])
    assert list(progress) == [0, 2, 4, 5]
    random.seed(8)
    alone = script.judge_copies({5: copies[5]}, reference, [pair], [0, 1, 0, 1], ["a", "b"])
    random.seed(8)
    _, figures = script.judge(copies[5], reference, [0, 1, 0], ["a", "b"])
    assert {key: alone[5][key] for key in figures} == figures
    assert progress[0]["kl"] == progress[0]["chosen_log_ratio"] == 0.0
    assert progress[5]["kl"] > 0
    assert progress[5]["accuracy"] == 1.0
    assert 0 <= progress[5]["preferred_rate"] <= 1


def test_judge_models_judges_each_under_its_title(script, monkeypatch):
    model, reference = tiny_models(script, monkeypatch)
    random.seed(9)
    samples, figures = script.judge_models(
        {"one": model, "two": reference}, reference, [0, 1], ["a", "b"]
    )
    random.seed(9)
    for title, judged in (("one", model), ("two", reference)):
        expected = script.judge(judged, reference, [0, 1], ["a", "b"])
        assert (samples[title], figures[title]) == expected


def test_supervised_fine_tuning_sees_the_chosen_names_alone(script):
    policy, _ = policy_and_reference()
    values = lift(script, policy)
    training = script.train_sft(values, [PAIR, OTHER_PAIR])
    params = flat(policy)
    m, v = [0.0] * len(params), [0.0] * len(params)
    for step, (chosen, _) in enumerate([PAIR, OTHER_PAIR], 1):
        model = lift(script, lower(values))
        loss = script.name_loss(model, chosen)
        loss.backward()
        assert next(training) == loss.data
        params, m, v = adam(params, flat(gradients(model)), m, v, step, 0.0015)
        assert flat(lower(values)) == pytest.approx(params, abs=1e-9)
    assert next(training, None) is None


def test_drawings(script, capsys, monkeypatch):
    policy, reference = policy_and_reference()
    script.show_pairs([PAIR, OTHER_PAIR], list("abcdefghijklmnopqrstuvwxyz"))
    script.show_loss("One pair", policy, reference, PAIR, list("abcdefghijklmnopqrstuvwxyz"))
    figures = {"preferred_rate": 0.5, "unique_share": 0.25, "mean_length": 5.0, "kl": 0.5}
    script.show_models({"base": ["milena"] * 20, "SFT": ["rory"] * 20}, {"base": figures})
    way = {"chosen_log_ratio": 1.0, "rejected_log_ratio": -1.0, "chosen_fell": 0.5, **figures}
    script.show_progress_of({0: {**way, "accuracy": 0.5}}, 0.75)
    out = capsys.readouterr().out
    assert "mIlEnA" in out
    assert "##########" in out
    assert out.isascii()
