"""microgrpo: advantages, the KL estimate, the loss of an answer, and the variance of gradients."""

import itertools
import math
import random
import statistics

import pytest
from support.numbers import (
    adam,
    flat,
    gradient_of,
    lift,
    lower,
    pick,
    places_of_each,
    slopes,
)
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


# --- the run ---


def test_a_baseline_matters_once_most_answers_are_right(run):
    m = run.metrics
    assert m["grad_variance_batch_after"] < m["grad_variance_none_after"] / 2
    ratio = m["grad_variance_group_after"] / m["grad_variance_none_after"]
    assert m["variance_ratio_after"] == pytest.approx(ratio, abs=1e-3)
    assert m["grad_variance_group"] < m["grad_variance_none"] * 1.05  # there, not by much
    ratio = m["grad_variance_group_after"] / m["grad_variance_batch_after"]
    assert m["group_to_batch_after"] == pytest.approx(ratio, abs=1e-3)
    assert 1 < ratio < 1.3  # the noise of seven siblings: about 8 / 7


def test_what_was_asked_for_is_counted(run):
    m = run.metrics
    assert m["verdicts"] == 40 * 4 * 8
    assert 3 * m["verdicts"] < m["generated_tokens"] < 7 * m["verdicts"]
    assert 0 < m["silent_share"] < 0.6  # the rest taught something
    assert 0 < m["reward_variance_last"] < m["reward_variance_first"] <= 0.25


# --- advantages ---


def test_advantages_add_up_to_zero(script):
    rng = random.Random(1)
    for size in (2, 5, 8):
        rewards = [rng.gauss(3, 2) for _ in range(size)]
        found = script.advantages(rewards)
        assert math.fsum(found) == pytest.approx(0, abs=1e-12)
        assert found == pytest.approx([r - statistics.fmean(rewards) for r in rewards])
    assert script.advantages([1.0, 0.0, 0.0, 0.0]) == [0.75, -0.25, -0.25, -0.25]


def test_advantages_are_those_of_leaving_oneself_out_but_for_the_scale(script):
    rng = random.Random(2)
    rewards = [rng.random() for _ in range(6)]
    for i, advantage in enumerate(script.advantages(rewards)):
        others = statistics.fmean(rewards[:i] + rewards[i + 1 :])
        assert advantage == pytest.approx((1 - 1 / 6) * (rewards[i] - others), abs=1e-12)


def test_equal_rewards_give_no_advantage(script):
    for reward in (0.0, 1.0):
        assert script.advantages([reward] * 8) == [0.0] * 8


# --- the KL estimate ---

PI, REF = [0.5, 0.3, 0.15, 0.05], [0.1, 0.4, 0.2, 0.3]


def test_mean_of_the_kl_estimate_is_the_kl(script):
    estimates = [script.kl_estimate(p, q) for p, q in zip(PI, REF)]
    found = math.fsum(p * estimate for p, estimate in zip(PI, estimates))
    assert found == pytest.approx(kl(PI, REF), rel=1e-12)


def test_kl_estimate_is_never_negative(script):
    rng = random.Random(3)
    for _ in range(500):
        p, q = rng.random() ** 4 + 1e-9, rng.random() ** 4 + 1e-9
        assert script.kl_estimate(p, q) >= -1e-12 * (q / p + 1)
    assert script.kl_estimate(0.3, 0.3) == 0.0
    assert script.kl_estimate(0.5, 0.1) == pytest.approx(0.2 - math.log(0.2) - 1)
    assert script.kl_estimate(0.1, 0.5) == pytest.approx(5 - math.log(5) - 1)


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


def answer_probs(script, model, tokens):
    """The probability of each token after the prompt."""
    probs = next_probs(script, model, tokens)
    return [p[token] for p, token in zip(probs, tokens[2:], strict=True)]


def plain_loss(script, model, tokens, advantage, old, ref):
    """The loss written out for floats: PPO's objective by min and clip, the KL by u - log u - 1."""
    total = 0.0
    for p, old_p, ref_p in zip(answer_probs(script, model, tokens), old, ref, strict=True):
        r, u = p / old_p, ref_p / p
        total -= min(r * advantage, min(max(r, 0.8), 1.2) * advantage)
        total += 0.1 * (u - math.log(u) - 1)
    return total


@pytest.mark.parametrize("factors", [(1.0, 1.0), (0.95, 1.1), (0.6, 1.5), (1.5, 0.6)])
def test_loss_and_gradient_against_finite_differences(script, monkeypatch, factors):
    """Fresh answers (ratio 1), stale ones within the clip, and stale ones beyond it either way."""
    model, reference = small_models(script, monkeypatch)
    where = places_of_each(model, 5)
    old = [p * f for p, f in zip(answer_probs(script, model, TOKENS), factors, strict=True)]
    ref = answer_probs(script, reference, TOKENS)
    for advantage in (0.75, -0.25, 0.0):
        args = (TOKENS, advantage, old, ref)
        loss, clipped = script.answer_loss(lift(script, model), *args)
        assert loss.data == pytest.approx(plain_loss(script, model, *args), rel=1e-12)
        assert clipped == (advantage != 0 and max(factors) == 1.5)
        grads = gradient_of(script, lambda m, args=args: script.answer_loss(m, *args)[0], model)
        expected = slopes(lambda m, args=args: plain_loss(script, m, *args), model, where)
        assert pick(grads, where) == pytest.approx(expected, rel=1e-4, abs=1e-7)
        assert max(map(abs, expected)) > 1e-3


def test_at_ratio_1_the_gradient_is_the_policy_gradient_and_the_kls(script, monkeypatch):
    model, reference = small_models(script, monkeypatch)
    where = places_of_each(model, 8)
    old, ref = (answer_probs(script, m, TOKENS) for m in (model, reference))
    found = {}
    for a in (0.0, 0.6):
        args = (TOKENS, a, old, ref)
        grads = gradient_of(script, lambda m, args=args: script.answer_loss(m, *args)[0], model)
        found[a] = pick(grads, where)
    expected = slopes(lambda m: -0.6 * math.log(probability(script, m, TOKENS)), model, where)
    difference = [taught - silent for taught, silent in zip(found[0.6], found[0.0])]
    assert difference == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_a_silent_group_teaches_nothing_but_the_kl(script, monkeypatch):
    model, reference = small_models(script, monkeypatch)
    monkeypatch.setattr(script, "is_preferred", lambda tokens, chars: True)
    random.seed(1)
    rewards, answers = script.sample_group(model, reference, 0, AB)
    assert rewards == [1.0] * script.group_size
    for kl_coef in (0.0, 0.1):
        monkeypatch.setattr(script, "kl_coef", kl_coef)
        for answer in answers:
            grads = gradient_of(script, lambda m, a=answer: script.answer_loss(m, *a)[0], model)
            steepest = max(map(abs, flat(grads)))
            assert steepest > 1e-3 if kl_coef else steepest == 0


def test_token_probs(script, monkeypatch):
    (model,) = small_models(script, monkeypatch, 1)
    expected = answer_probs(script, model, TOKENS)
    assert script.token_probs(model, TOKENS) == pytest.approx(expected, rel=1e-12)


# --- the group and its reward ---


def test_reward_is_the_verdict_of_the_rule_and_of_nothing_else(script, monkeypatch):
    model, reference = small_models(script, monkeypatch)
    verdicts, asked = itertools.cycle([True, False, False]), []

    def rule(tokens, chars):
        asked.append((list(tokens), chars, next(verdicts)))
        return asked[-1][2]

    monkeypatch.setattr(script, "is_preferred", rule)
    random.seed(4)
    rewards, answers = script.sample_group(model, reference, 1, AB)
    assert len(rewards) == len(answers) == len(asked) == script.group_size
    assert rewards == [float(verdict) for _, _, verdict in asked]
    share = sum(rewards) / len(rewards)
    for (tokens, advantage, old, ref), (seen, chars, verdict) in zip(answers, asked, strict=True):
        assert (tokens, chars) == (seen, AB)
        assert tokens[:2] == [2, 1]  # boundary and prompt
        assert advantage == pytest.approx(verdict - share)
        assert old == pytest.approx(answer_probs(script, model, tokens), rel=1e-12)
        assert ref == pytest.approx(answer_probs(script, reference, tokens), rel=1e-12)
        assert all(type(p) is float for p in old + ref)


# --- training ---


def test_reference_is_frozen(script, monkeypatch):
    monkeypatch.setattr(script, "step_prompts", 2)
    reference, _ = small_models(script, monkeypatch)
    kept = repr(reference)
    model = lift(script, reference)
    random.seed(5)
    steps = script.train_policy(model, reference, itertools.cycle([0, 1]), AB)
    record = next(steps)
    assert repr(lower(model)) != kept
    assert [len(rewards) for rewards in record["rewards"]] == [8] * 2
    assert record["kl"] == 0  # the answers were written by the reference itself
    assert 16 <= record["tokens"] <= 16 * 3
    assert 0 <= record["clipped"] <= record["tokens"]
    assert next(steps)["kl"] > 0
    assert repr(reference) == kept


def test_a_step_is_adam_on_the_mean_loss_of_answers_that_keep_their_old_probabilities(
    script, monkeypatch
):
    """Two steps of two epochs. The groups are drawn again; losses and Adam are the tests' own."""
    start, reference = small_models(script, monkeypatch)
    for name, value in {"group_size": 4, "step_prompts": 2, "clip_eps": 0.02}.items():
        monkeypatch.setattr(script, name, value)
    model = lift(script, start)
    random.seed(1)
    steps = script.train_policy(model, reference, itertools.cycle([0, 1]), AB)
    after = []
    for _ in range(2):
        record = next(steps)
        after.append((record, flat(lower(model))))

    random.seed(1)
    params = flat(start)
    m, v = [0.0] * len(params), [0.0] * len(params)
    for step, (record, expected) in enumerate(after):
        old_model = shaped(params, start)
        groups = [script.sample_group(old_model, reference, prompt, AB) for prompt in (0, 1)]
        assert record["rewards"] == [rewards for rewards, _ in groups]
        answers = [answer for _, group in groups for answer in group]
        kls = []
        for _, _, probs, ref in answers:
            us = [q / p for p, q in zip(probs, ref, strict=True)]
            kls.append(math.fsum(u - math.log(u) - 1 for u in us))
        assert record["kl"] == pytest.approx(statistics.fmean(kls))
        assert record["tokens"] == sum(len(tokens) - 2 for tokens, *_ in answers)
        for epoch in (1, 2):
            current, clipped, total = shaped(params, start), 0, [0.0] * len(params)
            for answer in answers:
                tokens, a, old, _ = answer
                for p, q in zip(answer_probs(script, current, tokens), old, strict=True):
                    clipped += p / q > 1.02 and a > 0 or p / q < 0.98 and a < 0
                grads = gradient_of(
                    script, lambda w, x=answer: script.answer_loss(w, *x)[0], current
                )
                total = [t + g / len(answers) for t, g in zip(total, flat(grads))]
            rate = 0.01 * (1 - step / 40)
            params, m, v = adam(params, total, m, v, 2 * step + epoch, rate)
        assert record["clipped"] == clipped > 0  # in the last epoch
        assert params == pytest.approx(expected, abs=1e-6)


def test_training_raises_the_exact_probability_of_what_is_preferred(script, monkeypatch):
    start, _ = small_models(script, monkeypatch)
    monkeypatch.setattr(script, "step_prompts", 2)

    def rate(model):
        return math.fsum(
            probability(script, model, tokens) * script.is_preferred(tokens, AB) / 2
            for prompt in (0, 1)
            for tokens in all_completions(prompt)
        )

    model = lift(script, start)
    random.seed(6)
    steps = script.train_policy(model, start, itertools.cycle([0, 1]), AB)
    for _ in itertools.islice(steps, 3):
        pass
    assert rate(lower(model)) > rate(start) + 0.2


# --- the variance of the gradient ---


def test_score_equals_finite_differences(script, monkeypatch):
    (model,) = small_models(script, monkeypatch, 1)
    where = places_of_each(model, 8)
    expected = slopes(lambda m: math.log(probability(script, m, TOKENS)), model, where)
    found = pick(shaped(script.score(model, TOKENS), model), where)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_a_baseline_leaves_the_expected_gradient_as_it_is(script, monkeypatch):
    """Exactly, over all completions: E[r score] is the gradient of E[r], and E[score] is 0."""
    (model,) = small_models(script, monkeypatch, 1)
    rewards = {tuple(tokens): float(len(tokens) % 2) for tokens in all_completions(0)}

    def expected_reward(m):
        return math.fsum(probability(script, m, list(t)) * r for t, r in rewards.items())

    where = places_of_each(model, 2)
    expected = slopes(expected_reward, model, where)
    total, mean_score = [0.0] * len(where), [0.0] * len(where)
    for tokens, reward in rewards.items():
        p = probability(script, model, list(tokens))
        scores = pick(shaped(script.score(model, list(tokens)), model), where)
        total = [t + p * reward * s for t, s in zip(total, scores)]
        mean_score = [t + p * s for t, s in zip(mean_score, scores)]
    assert total == pytest.approx(expected, abs=1e-8)
    assert mean_score == pytest.approx([0.0] * len(where), abs=1e-12)
    assert max(map(abs, expected)) > 1e-3


def trace_of_covariance(advantages, scores):
    """The variance of each number of advantage * score, added up."""
    vectors = [[a * x for x in score] for a, score in zip(advantages, scores, strict=True)]
    return math.fsum(statistics.variance(column) for column in zip(*vectors))


def test_gradient_variance_is_the_trace_of_the_covariance(script):
    rng = random.Random(7)
    scores = [[rng.gauss(1, 2) for _ in range(5)] for _ in range(30)]
    advantages = [rng.gauss(0.5, 1) for _ in range(30)]
    expected = trace_of_covariance(advantages, scores)
    assert script.gradient_variance(advantages, scores) == pytest.approx(expected, rel=1e-12)


def test_compare_baselines(script, monkeypatch):
    """Each kind's weights, written out, on the same answers."""
    model, _ = small_models(script, monkeypatch)
    monkeypatch.setattr(script, "group_size", 4)
    prompts = [0, 1, 0, 1]
    random.seed(9)
    found = script.compare_baselines(model, prompts, AB)
    random.seed(9)
    rewards, siblings, scores = [], [], []
    for prompt in prompts:
        group = [script.complete(model, prompt) for _ in range(4)]
        own = [float(script.is_preferred(tokens, AB)) for tokens in group]
        rewards += own
        siblings += [r - (sum(own) - r) / 3 for r in own]  # less the mean of the other three
        scores += [script.score(model, tokens) for tokens in group]
    center = statistics.fmean(rewards)
    assert 0 < center < 1
    kinds = {"none": rewards, "batch": [r - center for r in rewards], "group": siblings}
    assert found == {
        kind: pytest.approx(trace_of_covariance(advantages, scores), rel=1e-9)
        for kind, advantages in kinds.items()
    }


def test_summary(script):
    groups = [[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0], [0.0] * 4]
    mean, variance, silent = script.summary(groups)
    assert mean == pytest.approx(7 / 16)
    assert variance == pytest.approx((0.25 + 3 / 16) / 4)
    assert silent == 0.5


def test_drawings(script, capsys):
    record = {"rewards": [[1.0, 0.0], [1.0, 1.0]], "kl": 0.25, "clipped": 1, "tokens": 10}
    script.draw_step(7, record)
    out = capsys.readouterr().out
    assert out.count("#") == 30
    assert out.isascii()
