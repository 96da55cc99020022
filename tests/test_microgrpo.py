"""microgrpo: advantages, the KL estimate, the loss of an answer, training, and gradient noise."""

import itertools
import math
import random
import statistics

import pytest
from support.numbers import adam, flat, gradient_of, lift, lower, pick, places_of_each, slopes
from support.preference import all_completions, kl, next_probs, probability, tiny_models

AB = ["a", "b"]
TOKENS = [2, 0, 1, 0]


def small_models(script, monkeypatch, count=2):
    """Float models that write names of the letters a and b, of which some have the taste."""
    monkeypatch.setattr(script, "min_letters", 2)
    return tiny_models(script, monkeypatch, count)


def shaped(numbers, like):
    """A list of numbers as a model of the shapes of another."""
    rest = iter(numbers)
    return {name: [[next(rest) for _ in row] for row in matrix] for name, matrix in like.items()}


def answer_probs(script, model, tokens):
    """The probability of each token after the prompt."""
    probs = next_probs(script, model, tokens)
    return [p[token] for p, token in zip(probs, tokens[2:], strict=True)]


def answer_of(script, model, reference, factors, advantage):
    """An answer that was written when its tokens were `factors` times as probable as now."""
    return {
        "tokens": TOKENS,
        "old_probs": [p * f for p, f in zip(answer_probs(script, model, TOKENS), factors)],
        "ref_probs": answer_probs(script, reference, TOKENS),
        "advantage": advantage,
    }


# --- advantages ---


def test_advantages(script):
    rng = random.Random(1)
    for size in (2, 5, 8):
        rewards = [rng.gauss(3, 2) for _ in range(size)]
        found = script.sibling_advantages(rewards)
        assert math.fsum(found) == pytest.approx(0, abs=1e-12)
        for i, advantage in enumerate(found):  # the others' mean, but for the scale
            others = statistics.fmean(rewards[:i] + rewards[i + 1 :])
            assert advantage == pytest.approx((1 - 1 / size) * (rewards[i] - others), abs=1e-12)
        std = statistics.pstdev(rewards)
        divided = script.divided_advantages(rewards)
        assert divided == pytest.approx([a / std for a in found], rel=1e-6)
        assert script.plain_advantages(rewards) == rewards
    for equal in ([0.0] * 8, [1.0] * 8):
        assert script.sibling_advantages(equal) == script.divided_advantages(equal) == [0.0] * 8


def test_the_tables_in_the_docstrings(script):
    columns = {"sibling_advantages": statistics.fmean, "divided_advantages": statistics.pstdev}
    for name, statistic in columns.items():
        function = getattr(script, name)
        rows = [line.split() for line in function.__doc__.splitlines()]
        rows = [row for row in rows if len(row) == 4 and row[0] in "147"]
        assert len(rows) == 3
        for preferred, *numbers in rows:
            rewards = [1.0] * int(preferred) + [0.0] * (8 - int(preferred))
            found = function(rewards)
            shown = [statistic(rewards), found[0], found[-1]]
            assert list(map(float, numbers)) == pytest.approx(shown, abs=5e-4)


# --- the KL estimate ---

PI, REF = [0.5, 0.3, 0.15, 0.05], [0.1, 0.4, 0.2, 0.3]


def test_mean_of_the_kl_estimate_is_the_kl(script):
    for pi, ref in ((PI, REF), ([0.5, 0.5], [0.25, 0.75])):
        estimates = [script.kl_estimate(p, q) for p, q in zip(pi, ref)]
        found = math.fsum(p * estimate for p, estimate in zip(pi, estimates))
        assert found == pytest.approx(kl(pi, ref), rel=1e-12)
    assert estimates == pytest.approx([0.193, 0.095], abs=5e-4)  # as in the docstring
    assert found == pytest.approx(0.144, abs=5e-4)


def test_kl_estimate_is_never_negative(script):
    rng = random.Random(3)
    for _ in range(500):
        p, q = rng.random() ** 4 + 1e-9, rng.random() ** 4 + 1e-9
        assert script.kl_estimate(p, q) >= -1e-12 * (q / p + 1)
    assert script.kl_estimate(0.3, 0.3) == 0.0


def test_gradient_of_the_kl_estimate_is_on_average_that_of_the_other_kl(script):
    """Over samples of pi it is the gradient of KL(ref || pi), not that of KL(pi || ref)."""
    logits = [0.3, -0.2, 0.9, 0.1]
    leaves = [script.Value(x) for x in logits]
    found = [0.0] * 4
    for i, q in enumerate(REF):
        probs = script.softmax(leaves)
        script.kl_estimate(probs[i], q).backward()
        found = [f + probs[i].data * leaf.grad for f, leaf in zip(found, leaves)]
        for leaf in leaves:
            leaf.grad = 0.0
    pi = script.softmax(logits)
    # d KL(ref || pi) / d logit = pi - ref
    assert found == pytest.approx([p - q for p, q in zip(pi, REF)], abs=1e-12)
    other = [p * (math.log(p / q) - kl(pi, REF)) for p, q in zip(pi, REF)]
    assert max(abs(a - b) for a, b in zip(found, other)) > 0.02


# --- the loss of an answer ---


def plain_loss(script, model, answer):
    """The loss written out for floats: PPO's objective by min and clip, the KL by u - log u - 1."""
    total, a = 0.0, answer["advantage"]
    probs = answer_probs(script, model, answer["tokens"])
    for p, old, ref in zip(probs, answer["old_probs"], answer["ref_probs"], strict=True):
        r, u = p / old, ref / p
        total -= min(r * a, min(max(r, 0.8), 1.2) * a)
        total += 0.1 * (u - math.log(u) - 1)
    return total


@pytest.mark.parametrize("factors", [(1.0, 1.0), (0.95, 1.1), (0.6, 1.5), (1.5, 0.6)])
def test_loss_and_gradient_against_finite_differences(script, monkeypatch, factors):
    """Fresh answers (ratio 1), stale ones within the clip, and stale ones beyond it either way."""
    model, reference = small_models(script, monkeypatch)
    where = places_of_each(model, 5)
    for advantage in (0.75, -0.25, 0.0):
        answer = answer_of(script, model, reference, factors, advantage)
        loss, num_cut = script.answer_loss(lift(script, model), answer)
        assert loss.data == pytest.approx(plain_loss(script, model, answer), rel=1e-12)
        assert num_cut == (advantage != 0 and max(factors) == 1.5)
        grads = gradient_of(script, lambda m, a=answer: script.answer_loss(m, a)[0], model)
        expected = slopes(lambda m, a=answer: plain_loss(script, m, a), model, where)
        assert pick(grads, where) == pytest.approx(expected, rel=1e-4, abs=1e-7)
        assert max(map(abs, expected)) > 1e-3


def test_at_ratio_1_the_gradient_is_the_policy_gradient_and_the_kls(script, monkeypatch):
    """With an advantage of 0, as in a group with equal rewards, it is that of the KL alone."""
    model, reference = small_models(script, monkeypatch)
    where = places_of_each(model, 8)
    found = {}
    for a, kl_coef in ((0.0, 0.0), (0.0, 0.1), (0.6, 0.1)):
        monkeypatch.setattr(script, "kl_coef", kl_coef)
        answer = answer_of(script, model, reference, (1.0, 1.0), a)
        grads = gradient_of(script, lambda m, x=answer: script.answer_loss(m, x)[0], model)
        found[a, kl_coef] = pick(grads, where)
    assert not any(found[0.0, 0.0])
    assert max(map(abs, found[0.0, 0.1])) > 1e-3
    expected = slopes(lambda m: -0.6 * math.log(probability(script, m, TOKENS)), model, where)
    difference = [both - price for both, price in zip(found[0.6, 0.1], found[0.0, 0.1])]
    assert difference == pytest.approx(expected, rel=1e-5, abs=1e-8)


# --- the group and its reward ---


def test_reward_is_the_verdict_of_the_rule_and_of_nothing_else(script, monkeypatch):
    model, reference = small_models(script, monkeypatch)
    verdicts, asked = itertools.cycle([True, False, False]), []

    def rule(tokens, chars):
        asked.append((list(tokens), chars, next(verdicts)))
        return asked[-1][2]

    monkeypatch.setattr(script, "is_preferred", rule)
    random.seed(4)
    group = script.sample_group(model, reference, 1, AB)
    assert len(group) == len(asked) == 8
    for answer, (seen, chars, verdict) in zip(group, asked, strict=True):
        tokens = answer["tokens"]
        assert (tokens, chars) == (seen, AB)
        assert tokens[:2] == [2, 1]  # boundary and prompt
        assert answer["reward"] == (1.0 if verdict else 0.0)
        for key, judge in (("old_probs", model), ("ref_probs", reference)):
            expected = answer_probs(script, judge, tokens)
            assert answer[key] == pytest.approx(expected, rel=1e-12)
            assert all(type(p) is float for p in answer[key])


# --- training ---


def training(script, model, reference, advantages_of, prompts=(0, 1)):
    return script.train_grpo(model, reference, itertools.cycle(prompts), AB, advantages_of)


def test_reference_is_frozen(script, monkeypatch):
    reference, _ = small_models(script, monkeypatch)
    kept = repr(reference)
    model = lift(script, reference)
    random.seed(5)
    steps = training(script, model, reference, script.sibling_advantages)
    first = next(steps)
    assert [len(group) for group in first["groups"]] == [8] * 4
    assert script.summarize([first])["kl"] == 0  # written by the reference itself
    assert script.summarize([next(steps)])["kl"] > 0
    assert repr(reference) == kept


def test_a_step_is_adam_on_the_mean_loss_of_all_answers(script, monkeypatch):
    """Two steps of two updates, with advantages of the test's own. Losses are the test's, too."""
    start, reference = small_models(script, monkeypatch)
    sizes = {"answers_per_group": 4, "groups_per_step": 2, "epsilon": 0.02, "grpo_steps": 10}
    for name, value in sizes.items():
        monkeypatch.setattr(script, name, value)

    def advantages_of(rewards):
        return [reward + 0.1 * i - 0.3 for i, reward in enumerate(rewards)]

    model = lift(script, start)
    random.seed(1)
    steps = training(script, model, reference, advantages_of)
    after = [(next(steps), flat(lower(model))) for _ in range(2)]

    random.seed(1)
    params = flat(start)
    m, v = [0.0] * len(params), [0.0] * len(params)
    for step, (record, expected) in enumerate(after):
        old_model = shaped(params, start)
        groups = [script.sample_group(old_model, reference, prompt, AB) for prompt in (0, 1)]
        answers = []
        for group, found in zip(groups, record["groups"], strict=True):
            advantages = advantages_of([answer["reward"] for answer in group])
            answers += [{**a, "advantage": b} for a, b in zip(group, advantages)]
            assert [a["tokens"] for a in found] == [a["tokens"] for a in group]
        for update in (1, 2):
            now, num_cut, total = shaped(params, start), 0, [0.0] * len(params)
            for answer in answers:
                a = answer["advantage"]
                probs = answer_probs(script, now, answer["tokens"])
                for p, q in zip(probs, answer["old_probs"], strict=True):
                    num_cut += (p / q > 1.02 and a > 0) or (p / q < 0.98 and a < 0)
                grads = gradient_of(script, lambda w, x=answer: script.answer_loss(w, x)[0], now)
                total = [t + g / len(answers) for t, g in zip(total, flat(grads))]
            params, m, v = adam(params, total, m, v, 2 * step + update, 0.01 * (1 - step / 10))
        assert record["num_cut"] == num_cut > 0  # in the last update
        assert params == pytest.approx(expected, abs=1e-6)


def test_probabilities_after_one_update_by_one_group(script, monkeypatch):
    """Against a gradient by differences. The KL adds none to it, as the model is the reference."""
    model, _ = small_models(script, monkeypatch)
    random.seed(8)
    group = script.sample_group(model, model, 0, AB)
    center = statistics.fmean(answer["reward"] for answer in group)
    assert 0 < center < 1

    def loss(m):
        pushes = [(answer["reward"] - center, answer["tokens"]) for answer in group]
        return -statistics.fmean(a * math.log(probability(script, m, t)) for a, t in pushes)

    params = flat(model)
    zeros = [0.0] * len(params)
    moved, _, _ = adam(params, slopes(loss, model), zeros, zeros, 1, 0.01)
    after = shaped(moved, model)
    expected = [probability(script, after, answer["tokens"]) for answer in group]
    assert script.probs_after_update(model, group) == pytest.approx(expected, rel=1e-3)
    assert not any("advantage" in answer for answer in group)


@pytest.mark.parametrize("name", ["sibling_advantages", "divided_advantages", "plain_advantages"])
def test_training_raises_the_exact_probability_of_what_is_preferred(script, monkeypatch, name):
    start, _ = small_models(script, monkeypatch)
    monkeypatch.setattr(script, "groups_per_step", 2)

    def rate(model):
        return math.fsum(
            probability(script, model, tokens) * script.is_preferred(tokens, AB) / 2
            for prompt in (0, 1)
            for tokens in all_completions(prompt)
        )

    model = lift(script, start)
    random.seed(6)
    steps = training(script, model, start, getattr(script, name))
    for _ in itertools.islice(steps, 3):
        pass
    assert rate(lower(model)) > rate(start) + 0.15


def test_three_policies_are_trained_alike(script, monkeypatch, capsys):
    start, _ = small_models(script, monkeypatch)
    for name, value in {"groups_per_step": 1, "grpo_steps": 4, "show_every": 2}.items():
        monkeypatch.setattr(script, name, value)
    random.seed(7)
    policies, records = script.train_policies(start, [0, 1, 0, 1], AB)
    lines = capsys.readouterr().out.splitlines()
    shown = [line.split() for line in lines if " to " in line]
    assert [line[:3] for line in shown] == [["1", "to", "2"], ["3", "to", "4"]] * 3
    assert [line for line in lines if "divided" in line]  # the titles
    random.seed(7)
    for i, title in enumerate(("sibling", "divided", "plain")):
        model, advantages_of = lift(script, start), getattr(script, f"{title}_advantages")
        expected = list(training(script, model, start, advantages_of))
        assert list(records.values())[i] == expected
        assert list(policies.values())[i] == lower(model)
        assert f"{script.summarize(expected[2:])['reward']:.2f}" == shown[2 * i + 1][6]


def test_summarize(script):
    def answer(reward, old, ref):
        return {"reward": reward, "old_probs": old, "ref_probs": ref}

    one, other = answer(1.0, [0.5, 0.5], [0.25, 0.5]), answer(0.0, [0.1], [0.1])
    records = [
        {"groups": [[one, other, other, one], [one] * 4], "num_cut": 2},
        {"groups": [[other, other, other, one], [other] * 4], "num_cut": 1},
    ]
    assert script.summarize(records) == {
        "reward": pytest.approx(7 / 16),
        "equal": 0.5,
        "cut": 3 / 23,
        "kl": pytest.approx(7 / 16 * (0.5 - math.log(0.5) - 1)),
    }


# --- the noise of the gradient ---


def test_the_gradient_of_a_log_probability_equals_finite_differences(script, monkeypatch):
    (model,) = small_models(script, monkeypatch, 1)
    where = places_of_each(model, 8)
    expected = slopes(lambda m: math.log(probability(script, m, TOKENS)), model, where)
    found = pick(shaped(script.log_prob_gradient(model, TOKENS), model), where)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_a_baseline_leaves_the_expected_gradient_as_it_is(script, monkeypatch):
    """Exactly, over all completions: E[r dlog p] is the gradient of E[r], and E[dlog p] is 0."""
    (model,) = small_models(script, monkeypatch, 1)
    rewards = {tuple(tokens): float(len(tokens) % 2) for tokens in all_completions(0)}

    def expected_reward(m):
        return math.fsum(probability(script, m, list(t)) * r for t, r in rewards.items())

    where = places_of_each(model, 2)
    expected = slopes(expected_reward, model, where)
    total, center = [0.0] * len(where), [0.0] * len(where)
    for tokens, reward in rewards.items():
        p = probability(script, model, list(tokens))
        gradient = pick(shaped(script.log_prob_gradient(model, list(tokens)), model), where)
        total = [t + p * reward * g for t, g in zip(total, gradient)]
        center = [c + p * g for c, g in zip(center, gradient)]
    assert total == pytest.approx(expected, abs=1e-8)
    assert center == pytest.approx([0.0] * len(where), abs=1e-12)
    assert max(map(abs, expected)) > 1e-3


def noise_of(advantages, gradients):
    """The variance of each number of advantage * gradient, added up."""
    vectors = [[a * x for x in g] for a, g in zip(advantages, gradients, strict=True)]
    return math.fsum(statistics.pvariance(column) for column in zip(*vectors))


def test_compare_baselines(script, monkeypatch):
    """Each kind's advantages, written out, on the same answers."""
    model, _ = small_models(script, monkeypatch)
    monkeypatch.setattr(script, "answers_per_group", 4)
    random.seed(9)
    groups = [script.sample_group(model, model, prompt, AB) for prompt in (0, 1, 0, 1)]
    found = script.compare_baselines(model, groups)
    rewards, others, gradients = [], [], []
    for group in groups:
        own = [answer["reward"] for answer in group]
        rewards += own
        others += [r - (sum(own) - r) / 3 for r in own]  # minus the mean of the other three
        gradients += [script.log_prob_gradient(model, answer["tokens"]) for answer in group]
    center = statistics.fmean(rewards)
    assert 0 < center < 1
    kinds = {"plain": rewards, "constant": [r - center for r in rewards], "others": others}
    assert list(found) == list(kinds)
    for kind, advantages in kinds.items():
        assert found[kind] == pytest.approx(noise_of(advantages, gradients), rel=1e-9)


def test_drawings(script, monkeypatch, capsys):
    model, reference = small_models(script, monkeypatch)
    random.seed(1)
    group = script.sample_group(model, reference, 0, AB)
    script.show_group(group, [0.5] * len(group), AB)
    script.show_header("siblings")
    script.explain_columns()
    figures = {"equal": 0.25, "cut": 0.1, "kl": 0.5, "reward": 0.5}
    script.show_steps(8, figures, 0.0)
    judged = {"preferred_rate": 0.5, "unique_share": 0.25, "mean_length": 5.0, "kl": 0.5}
    script.show_models({"base": ["milena"] * 20}, {"base": judged})
    script.show_noise({"base": dict.fromkeys(("plain", "constant", "others"), 1)})
    out = capsys.readouterr().out
    assert out.count("#") == 10
    assert "mIlEnA" in out
    assert out.isascii()
