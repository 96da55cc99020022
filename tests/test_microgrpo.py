import copy
import itertools
import math
import random
import statistics
import string

import pytest
from harness import meets
from test_preference import all_completions, probability

CRITERIA = {
    "unique_share": "> 0.85",
    "kl": "< 2",
    "clip_fraction": "> 0",
    "variance_ratio_after": "< 0.5",
    "runtime_seconds": "< 420",
}
CHARS = list(string.ascii_lowercase)
AB = ["a", "b"]


@pytest.mark.parametrize("metric", CRITERIA)
def test_criterion(run, metric):
    assert meets(run.metrics[metric], CRITERIA[metric])
    assert run.criteria[metric] == CRITERIA[metric]


def test_preferred_rate_is_up(run):
    m = run.metrics
    assert m["preferred_rate"] > m["base_preferred_rate"] + 0.3
    assert meets(m["preferred_rate"], run.criteria["preferred_rate"])


def test_reward_is_up(run):
    m = run.metrics
    assert m["reward_last"] > m["reward_first"] + 0.3
    assert meets(m["reward_last"], run.criteria["reward_last"])


def test_names_keep_their_length(run):
    m = run.metrics
    assert abs(m["mean_length"] - m["base_mean_length"]) < 0.9
    assert meets(m["mean_length"], run.criteria["mean_length"])


def test_a_baseline_matters_once_most_answers_are_right(run):
    m = run.metrics
    assert m["grad_variance_group_after"] < m["grad_variance_none_after"] / 2
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


def test_output_shows_the_course_of_training_and_samples(run):
    lines = run.stdout.splitlines()
    start = lines.index("GRPO step  silent groups  clipped tokens  KL (nats)  mean reward")
    table = [line.split() for line in lines[start + 1 : start + 41]]
    assert [int(row[0]) for row in table] == list(range(1, 41))
    assert all(len(row[5]) == pytest.approx(40 * float(row[4]), abs=0.71) for row in table)
    assert table[0][3] == "0.00"  # at first the policy is the reference
    assert all(float(row[3]) > 0 for row in table[1:])
    rewards = [float(row[4]) for row in table]
    m = run.metrics
    assert statistics.fmean(rewards[:5]) == pytest.approx(m["reward_first"], abs=6e-3)
    assert statistics.fmean(rewards[-5:]) == pytest.approx(m["reward_last"], abs=6e-3)
    silent = statistics.fmean(float(row[1]) for row in table)
    assert silent == pytest.approx(m["silent_share"], abs=6e-3)
    base, policy = (next(x for x in lines if x.startswith(key)) for key in ("base  ", "policy  "))
    pairs = list(zip(base.split()[1:], policy.split()[1:], strict=True))
    assert len(pairs) > 9
    assert all(a[0] == b[0] for a, b in pairs)  # one prompt
    written = "".join(map("".join, pairs))
    assert all(c.isupper() == (c in "AEIOUY") for c in written)


def small_models(script, monkeypatch, count=2):
    """Float models of two letters and a boundary, of names of at most three letters."""
    for key, value in {"n_embd": 4, "block_size": 4, "min_letters": 2, "vowels": "a"}.items():
        monkeypatch.setattr(script, key, value)
    random.seed(5)
    models = [script.init_model(3) for _ in range(count)]
    return [{k: [[4 * p.data for p in r] for r in rows] for k, rows in m.items()} for m in models]


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


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_equal_rewards_give_no_advantage(script, reward):
    assert script.advantages([reward] * 8) == [0.0] * 8


# --- the clipped objective ---


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
    [
        (1.0, 2.0, 2.0, 2.0),
        (1.0, -2.0, -2.0, -2.0),
        (1.1, 2.0, 2.2, 2.0),
        (0.9, -2.0, -1.8, -2.0),
        (1.3, 2.0, 2.4, 0.0),  # far enough the right way: nothing more to gain
        (0.7, -2.0, -1.6, 0.0),
        (0.7, 2.0, 1.4, 2.0),  # far the wrong way: it comes back
        (1.3, -2.0, -2.6, -2.0),
        (1.3, 0.0, 0.0, 0.0),
    ],
)
def test_clipped_objective(script, ratio, advantage, value, slope):
    leaf = script.Value(ratio)
    objective, is_clipped = script.clipped_objective(leaf * 1.0, advantage)
    assert is_clipped == isinstance(objective, float)
    assert getattr(objective, "data", objective) == pytest.approx(value)
    assert isinstance(objective, float) == (slope == 0.0 and advantage != 0.0)
    if not isinstance(objective, float):
        objective.backward()
    assert leaf.grad == slope


# --- the KL estimate ---

PI, REF = [0.5, 0.3, 0.15, 0.05], [0.1, 0.4, 0.2, 0.3]


def test_mean_of_the_kl_estimate_is_the_kl(script):
    exact = math.fsum(p * math.log(p / q) for p, q in zip(PI, REF))
    estimates = [script.kl_estimate(p, q) for p, q in zip(PI, REF)]
    assert math.fsum(p * e for p, e in zip(PI, estimates)) == pytest.approx(exact, rel=1e-12)
    assert script.kl_divergence([PI], [REF]) == pytest.approx(exact, rel=1e-12)


def test_kl_estimate_is_never_negative(script):
    rng = random.Random(3)
    for _ in range(2000):
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
    reverse = math.fsum(p * math.log(p / q) for p, q in zip(pi, REF))
    other = [p * (math.log(p / q) - reverse) for p, q in zip(pi, REF)]
    assert max(abs(a - b) for a, b in zip(found, other)) > 0.02


# --- the loss of an answer ---


def as_values(script, weights):
    return {name: [[script.Value(x) for x in row] for row in m] for name, m in weights.items()}


def gradient(script, weights, loss):
    """d loss(model) / d weights, as one list, by backward()."""
    model = as_values(script, weights)
    loss(model).backward()
    return [p.grad for matrix in model.values() for row in matrix for p in row]


def finite_differences(weights, loss, h=1e-5):
    slopes = []
    for matrix in weights.values():
        for row in matrix:
            for j, kept in enumerate(row):
                row[j] = kept + h
                up = loss(weights)
                row[j] = kept - h
                slopes.append((up - loss(weights)) / (2 * h))
                row[j] = kept
    return slopes


def plain_loss(script, weights, tokens, advantage, old, ref):
    """The loss written out for floats: PPO's objective by min and clip, the KL by u - log u - 1."""
    cache, total = {}, 0.0
    for i, token in enumerate(tokens[:-1]):
        logits = script.gpt(weights, token, i, cache)
        if i > 0:
            p = math.exp(logits[tokens[i + 1]]) / math.fsum(map(math.exp, logits))
            r, u = p / old[i - 1], ref[i - 1] / p
            total -= min(r * advantage, min(max(r, 0.8), 1.2) * advantage)
            total += 0.1 * (u - math.log(u) - 1)
    return total


def log_prob(script, weights, tokens):
    return math.log(probability(script, weights, tokens))


TOKENS = [2, 0, 1, 0]


@pytest.mark.parametrize("advantage", [0.75, -0.25, 0.0])
@pytest.mark.parametrize("factors", [(1.0, 1.0), (0.95, 1.1), (0.6, 1.5), (1.5, 0.6)])
def test_loss_and_gradient_against_finite_differences(script, monkeypatch, advantage, factors):
    """Fresh answers (ratio 1), stale ones within the clip, and stale ones beyond it either way."""
    weights, reference = small_models(script, monkeypatch)
    probs = script.token_probs(weights, TOKENS)
    old = [p * f for p, f in zip(probs, factors, strict=True)]
    ref = script.token_probs(reference, TOKENS)
    args = (TOKENS, advantage, old, ref)
    model = as_values(script, weights)
    loss, clipped = script.answer_loss(model, *args)
    assert loss.data == pytest.approx(plain_loss(script, weights, *args), rel=1e-12)
    beyond = 0 if advantage == 0 else int(max(factors) == 1.5)
    assert clipped == beyond
    found = gradient(script, weights, lambda m: script.answer_loss(m, *args)[0])
    expected = finite_differences(weights, lambda m: plain_loss(script, m, *args))
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert max(map(abs, expected)) > 1e-3


def test_at_ratio_1_the_gradient_is_the_policy_gradient_and_the_kls(script, monkeypatch):
    weights, reference = small_models(script, monkeypatch)
    old, ref = (script.token_probs(m, TOKENS) for m in (weights, reference))
    loss = lambda a: lambda m: script.answer_loss(m, TOKENS, a, old, ref)[0]  # noqa: E731
    silent, taught = (gradient(script, weights, loss(a)) for a in (0.0, 0.6))
    slopes = finite_differences(weights, lambda m: log_prob(script, m, TOKENS))
    assert [t - s for t, s in zip(taught, silent)] == pytest.approx(
        [-0.6 * g for g in slopes], rel=1e-5, abs=1e-8
    )


def test_a_silent_group_teaches_nothing_but_the_kl(script, monkeypatch):
    weights, reference = small_models(script, monkeypatch)
    monkeypatch.setattr(script, "is_preferred", lambda tokens, chars: True)
    random.seed(1)
    rewards, answers = script.sample_group(weights, reference, 0, AB)
    assert rewards == [1.0] * script.group_size
    monkeypatch.setattr(script, "kl_coef", 0.0)
    for answer in answers:
        found = gradient(script, weights, lambda m, a=answer: script.answer_loss(m, *a)[0])
        assert found == [0.0] * len(found)
    monkeypatch.setattr(script, "kl_coef", 0.1)
    found = gradient(script, weights, lambda m: script.answer_loss(m, *answers[0])[0])
    assert max(map(abs, found)) > 1e-3


# --- the group, and the reward ---


def test_reward_is_the_verdict_of_the_rule_and_of_nothing_else(script, monkeypatch):
    weights, reference = small_models(script, monkeypatch)
    verdicts, asked = itertools.cycle([True, False, False]), []

    def rule(tokens, chars):
        asked.append((tuple(tokens), next(verdicts)))
        return asked[-1][1]

    monkeypatch.setattr(script, "is_preferred", rule)
    random.seed(4)
    rewards, answers = script.sample_group(weights, reference, 1, AB)
    assert len(rewards) == len(answers) == len(asked) == script.group_size
    assert rewards == [float(verdict) for _, verdict in asked]
    share = sum(rewards) / len(rewards)
    for (tokens, advantage, old, ref), (seen, verdict) in zip(answers, asked, strict=True):
        assert tuple(tokens) == seen
        assert tokens[:2] == [2, 1]  # boundary and prompt
        assert advantage == pytest.approx(verdict - share)
        assert math.prod(old) == pytest.approx(probability(script, weights, tokens))
        assert math.prod(ref) == pytest.approx(probability(script, reference, tokens))
        assert all(type(p) is float for p in old + ref)


def test_the_rule_judges_what_the_group_wrote(script):
    random.seed(3)
    model = {k: [script.floats(r) for r in rows] for k, rows in script.init_model(27).items()}
    seen = []
    for prompt in range(12):
        rewards, answers = script.sample_group(model, model, prompt, CHARS)
        for reward, (tokens, *_) in zip(rewards, answers):
            name = script.spell(tokens, CHARS)
            kinds = [c in "aeiouy" for c in name]
            turns = all(a != b for a, b in zip(kinds, kinds[1:]))
            assert reward == float(turns and len(name) >= 4 and tokens[-1] == 26)
            seen.append(reward)
    assert 0 < sum(seen) < len(seen)


def test_token_probs(script, monkeypatch):
    (weights,) = small_models(script, monkeypatch, 1)
    probs = script.token_probs(weights, TOKENS)
    assert len(probs) == 2
    assert probs[0] == pytest.approx(
        probability(script, weights, [2, 0, 1, 0]) / probs[1], rel=1e-12
    )
    assert probs[0] == script.completion_probs(weights, TOKENS)[0][1]


# --- training ---


@pytest.mark.slow
def test_reference_is_frozen(script, monkeypatch):
    monkeypatch.setattr(script, "step_prompts", 2)
    random.seed(5)
    model = script.init_model(27)
    reference = {key: [script.floats(row) for row in rows] for key, rows in model.items()}
    kept = copy.deepcopy(reference)
    steps = script.train_policy(model, reference, itertools.cycle([0, 4, 12]), CHARS)
    record = next(steps)
    assert reference == kept
    assert {key: [script.floats(row) for row in rows] for key, rows in model.items()} != kept
    assert [len(rewards) for rewards in record["rewards"]] == [8] * 2
    assert record["kl"] == 0  # the answers were written by the reference itself
    assert 16 <= record["tokens"] <= 16 * 7
    assert 0 <= record["clipped"] <= record["tokens"]
    assert next(steps)["kl"] > 0
    assert reference == kept


def test_a_step_is_adam_on_the_mean_loss_of_answers_that_keep_their_old_probabilities(
    script, monkeypatch
):
    """Two steps of two epochs, against Adam and the losses written out."""
    weights, reference = small_models(script, monkeypatch)
    for key, value in {"group_size": 4, "step_prompts": 2, "clip_eps": 0.02}.items():
        monkeypatch.setattr(script, key, value)
    flat = lambda m: [getattr(p, "data", p) for rows in m.values() for r in rows for p in r]  # noqa: E731
    model = as_values(script, weights)
    random.seed(1)
    steps = script.train_policy(model, reference, itertools.cycle([0, 1]), AB)
    records, states = [], []
    for _ in range(2):
        records.append(next(steps))
        states.append(flat(model))
    random.seed(1)
    m, v = [0.0] * len(states[0]), [0.0] * len(states[0])
    t = 0
    for step, (record, state) in enumerate(zip(records, states)):
        groups = [script.sample_group(weights, reference, prompt, AB) for prompt in (0, 1)]
        assert record["rewards"] == [rewards for rewards, _ in groups]
        answers = [answer for _, group in groups for answer in group]
        us = [[q / p for p, q in zip(*probs)] for _, _, *probs in answers]
        kls = [math.fsum(u - math.log(u) - 1 for u in row) for row in us]
        assert record["kl"] == pytest.approx(statistics.fmean(kls))
        assert record["tokens"] == sum(len(tokens) - 2 for tokens, *_ in answers)
        for _ in range(2):
            t += 1
            clipped = 0
            for tokens, a, old, _ in answers:
                ratios = [p / q for p, q in zip(script.token_probs(weights, tokens), old)]
                clipped += sum(r > 1.02 and a > 0 or r < 0.98 and a < 0 for r in ratios)
            grads = [
                statistics.fmean(column)
                for column in zip(
                    *(
                        gradient(script, weights, lambda w, x=x: script.answer_loss(w, *x)[0])
                        for x in answers
                    )
                )
            ]
            lr, places = 0.01 * (1 - step / 40), iter(range(len(grads)))
            for row in [row for matrix in weights.values() for row in matrix]:
                for j in range(len(row)):
                    i = next(places)
                    m[i] = 0.85 * m[i] + 0.15 * grads[i]
                    v[i] = 0.99 * v[i] + 0.01 * grads[i] ** 2
                    size = math.sqrt(v[i] / (1 - 0.99**t)) + 1e-8
                    row[j] -= lr * m[i] / (1 - 0.85**t) / size
        assert record["clipped"] == clipped > 0  # in the last epoch
        assert flat(weights) == pytest.approx(state, abs=1e-6)


@pytest.mark.slow
def test_training_raises_the_exact_probability_of_what_is_preferred(script, monkeypatch):
    weights, _ = small_models(script, monkeypatch)

    def rate(model):
        return math.fsum(
            probability(script, model, tokens) * script.is_preferred(tokens, AB) / 2
            for prompt in (0, 1)
            for tokens in all_completions(prompt)
        )

    before, model = rate(weights), as_values(script, weights)
    random.seed(6)
    steps = script.train_policy(model, weights, itertools.cycle([0, 1]), AB)
    for _ in itertools.islice(steps, 8):
        pass
    assert rate({key: [script.floats(row) for row in m] for key, m in model.items()}) > before + 0.1


# --- the variance of the gradient ---


def test_score_equals_finite_differences(script, monkeypatch):
    (weights,) = small_models(script, monkeypatch, 1)
    expected = finite_differences(weights, lambda m: log_prob(script, m, TOKENS))
    assert script.score(weights, TOKENS) == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_a_baseline_leaves_the_expected_gradient_as_it_is(script, monkeypatch):
    """Exactly, over all completions: E[r score] is the gradient of E[r], and E[score] is 0."""
    (weights,) = small_models(script, monkeypatch, 1)
    good = {tuple(t): float(len(t) % 2) for t in all_completions(0)}
    parts = {key: weights[key] for key in ("lm_head", "layer0.attn_wv")}
    expected = finite_differences(
        parts,
        lambda _: math.fsum(probability(script, weights, list(t)) * r for t, r in good.items()),
    )
    places = [key for key, rows in weights.items() for row in rows for _ in row]
    places = [i for key in parts for i, place in enumerate(places) if place == key]
    rows = [(probability(script, weights, list(t)), r, script.score(weights, list(t)))
            for t, r in good.items()]  # fmt: skip
    for i, slope in zip(places, expected, strict=True):
        assert math.fsum(p * r * s[i] for p, r, s in rows) == pytest.approx(slope, abs=1e-8)
        assert math.fsum(p * s[i] for p, _, s in rows) == pytest.approx(0, abs=1e-12)


def test_gradient_variance_is_the_trace_of_the_covariance(script):
    rng = random.Random(7)
    scores = [[rng.gauss(1, 2) for _ in range(5)] for _ in range(30)]
    advs = [rng.gauss(0.5, 1) for _ in range(30)]
    columns = zip(*([a * x for x in s] for a, s in zip(advs, scores)))
    expected = math.fsum(map(statistics.variance, columns))
    assert script.gradient_variance(advs, scores) == pytest.approx(expected, rel=1e-12)


def test_compare_baselines(script, monkeypatch):
    """Each kind's weights, written out, on the same answers."""
    weights, _ = small_models(script, monkeypatch)
    random.seed(9)
    found = script.compare_baselines(weights, [0, 1, 0, 1, 0], AB)
    random.seed(9)
    groups = [[script.complete(weights, p) for _ in range(8)] for p in [0, 1, 0, 1, 0]]
    rewards = [[float(script.is_preferred(t, AB)) for t in group] for group in groups]
    flat = [r for rs in rewards for r in rs]
    loo = [r - (sum(rs) - r) / 7 for rs in rewards for r in rs]  # the mean of the other seven
    scores = [script.score(weights, t) for group in groups for t in group]
    center = statistics.fmean(flat)
    kinds = {"none": flat, "batch": [r - center for r in flat], "group": loo}
    assert 0 < center < 1
    assert list(found) == list(kinds)
    for kind, advs in kinds.items():
        columns = zip(*([a * x for x in s] for a, s in zip(advs, scores)))
        expected = math.fsum(map(statistics.variance, columns))
        assert found[kind] == pytest.approx(expected, rel=1e-9)


def test_summary(script):
    groups = [[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0], [0.0] * 4]
    mean, variance, silent = script.summary(groups)
    assert mean == pytest.approx(7 / 16)
    assert variance == pytest.approx((0.25 + 3 / 16) / 4)
    assert silent == 0.5


def test_draw_step(script, capsys):
    record = {"rewards": [[1.0, 0.0], [1.0, 1.0]], "kl": 0.25, "clipped": 1, "tokens": 10}
    script.draw_step(7, record)
    assert capsys.readouterr().out.split() == ["7", "0.50", "0.100", "0.25", "0.75", "#" * 30]
