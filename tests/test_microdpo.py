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
    return script.dpo_loss(*script.log_ratios(policy, reference, pair), beta)


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


# --- the run ---


def test_the_policy_gains_and_ranks_held_out_pairs_better(run):
    m = run.metrics
    assert m["preferred_rate"] > m["base_preferred_rate"] + 0.3
    assert m["unique_share"] > 0.85
    assert m["ranking_accuracy"] > m["base_ranking_accuracy"] + 0.08
    assert m["chosen_log_ratio"] > 0 > m["rejected_log_ratio"]
    assert m["kl"] > 1.2 * m["kl_least"] > 0.3


# --- the loss ---


def test_minus_log_sigmoid_and_its_slope(script):
    """Value and gradient in closed form; at 0, where every policy starts, -1/2 and not 0."""
    for x in (0.0, 1e-9, -1e-9, 0.3, -0.3, 5.0, -5.0, 30.0, -30.0, 1e3, -1e3):
        expected = math.log1p(math.exp(-x)) if x > -700 else -x
        leaf = script.Value(x)
        result = script.minus_log_sigmoid(leaf)
        assert result.data == script.minus_log_sigmoid(x) == pytest.approx(expected, abs=1e-12)
        result.backward()
        assert leaf.grad == pytest.approx(-sigmoid(-x), rel=1e-9, abs=1e-300), x


def test_loss_is_stable_for_log_ratios_of_a_thousand(script):
    for chosen, rejected in itertools.product((-1000.0, 0.0, 1000.0), repeat=2):
        leaves = [script.Value(chosen), script.Value(rejected)]
        loss = script.dpo_loss(*leaves, 0.5)
        loss.backward()
        x = 0.5 * (chosen - rejected)
        expected = max(-x, 0.0) + math.log1p(math.exp(-abs(x)))
        assert loss.data == pytest.approx(expected, abs=1e-12)
        slope = -0.5 * sigmoid(-x)
        assert [leaf.grad for leaf in leaves] == pytest.approx([slope, -slope], abs=1e-12)


def test_log_prob_is_the_log_of_the_product(script):
    """It takes the probabilities of the letters after the prompt and of the end."""
    model, _ = policy_and_reference()
    for name in ("milena", "jo", "abcdefg"):
        tokens = tokens_of(name)
        expected = math.log(probability(script, model, tokens))
        found = script.log_prob(model, tokens)
        assert found == pytest.approx(expected, rel=1e-12)
        assert script.log_prob(lift(script, model), tokens).data == found


def test_log_ratios(script):
    policy, reference = policy_and_reference()
    found = script.log_ratios(policy, reference, PAIR)
    for ratio, tokens in zip(found, PAIR, strict=True):
        p, q = (probability(script, model, tokens) for model in (policy, reference))
        assert ratio == pytest.approx(math.log(p / q), rel=1e-9)
        assert abs(ratio) > 0.01
    assert script.log_ratios(reference, reference, PAIR) == [0.0, 0.0]


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
    there = loss_of(script, policy, reference, PAIR, beta)
    back = loss_of(script, policy, reference, PAIR[::-1], beta)
    margin = exact_margin(script, policy, reference, PAIR)
    assert there - back == pytest.approx(-beta * margin, abs=1e-12)
    assert math.exp(-there) + math.exp(-back) == pytest.approx(1)


def normalized(weights):
    total = math.fsum(weights)
    return [w / total for w in weights]


@pytest.mark.parametrize("beta", [0.2, 1.5])
def test_the_optimum_under_a_reward_predicts_its_preferences(script, beta):
    """Eq. 4 by enumeration: pi = ref exp(r / beta) / Z. Then eq. 7 is -log sigmoid(r1 - r2)."""
    rng = random.Random(1)
    ref = normalized([rng.random() for _ in range(12)])
    rewards = [rng.gauss(0, 1) for _ in ref]
    pi = normalized([p * math.exp(r / beta) for p, r in zip(ref, rewards)])
    for i, j in itertools.permutations(range(12), 2):
        ratios = [math.log(pi[k] / ref[k]) for k in (i, j)]
        p = math.exp(-script.dpo_loss(*ratios, beta))
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
    """Log-probabilities given: margins 3, 0, 2 and 0.5, two pairs ranked right, by the base one."""
    given = {
        "policy": [(-5.0, -6.0), (-7.0, -2.0), (-9.0, -6.0), (-3.0, -4.0)],
        "base": [(-6.0, -4.0), (-6.0, -1.0), (-12.0, -7.0), (-3.0, -3.5)],
    }
    pairs = [((i, 0), (i, 1)) for i in range(4)]
    monkeypatch.setattr(
        script, "log_prob", lambda model, tokens: given[model][tokens[0]][tokens[1]]
    )
    assert script.judge_pairs("policy", "base", pairs) == {
        "pair_accuracy": 0.75,  # a margin of 0 is not ahead
        "ranking_accuracy": 0.5,
        "chosen_log_ratio": (1.0 - 1.0 + 3.0 + 0.0) / 4,
        "rejected_log_ratio": (-2.0 - 1.0 + 1.0 - 0.5) / 4,
    }
    assert script.judge_pairs("base", "base", pairs) == {
        "pair_accuracy": 0.0,
        "ranking_accuracy": 0.25,
        "chosen_log_ratio": 0.0,
        "rejected_log_ratio": 0.0,
    }


def test_least_kl_is_that_of_the_reference_tilted_by_the_rule(script):
    """Eq. 4 with the rule as reward, by enumeration; any other policy of that rate pays more."""
    rng = random.Random(4)
    ref = normalized([rng.random() for _ in range(10)])
    pi = normalized([p * math.exp(2.0 * (i < 3)) for i, p in enumerate(ref)])
    least = script.least_kl(math.fsum(pi[:3]), math.fsum(ref[:3]))
    kl = math.fsum(p * math.log(p / q) for p, q in zip(pi, ref))
    assert kl > 0.1
    assert least == pytest.approx(kl, rel=1e-12)
    other = [pi[1], pi[2], pi[0], *pi[3:]]
    assert math.fsum(p * math.log(p / q) for p, q in zip(other, ref)) > least + 1e-3
    assert script.least_kl(0.3, 0.3) == 0
    assert script.least_kl(1.0, 0.25) == pytest.approx(math.log(4))


def test_drawings(script, capsys):
    script.show_figures(["beta 1", "beta 2"], [{"kl": 0.5}, {"kl": 0.25}])
    script.show_names(["base", "beta 1"], ["milena"] * 20, ["rory"] * 20)
    out = capsys.readouterr().out
    assert "0.500" in out
    assert "mIlEnA" in out
    assert out.isascii()
