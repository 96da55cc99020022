"""microppo: the reward model, the value function and the objective, each by its definition."""

import math
import random

import pytest
from support.numbers import (
    flat,
    gaussian,
    gradient_of,
    gradients,
    lift,
    lower,
    pick,
    places_of_each,
    slopes,
)
from support.preference import (
    CHARS,
    all_completions,
    kl,
    next_probs,
    probability,
    tiny_models,
    tokens_of,
)


def reward_matrices(vocab_size=27):
    """A reward model whose hidden units are neither idle nor saturated."""
    return {
        "embed": gaussian(vocab_size, 8, 0.45),
        "hidden": gaussian(16, 17, 0.45, seed=4),
        "out": gaussian(1, 16, 0.45, seed=5),
    }


def zeros_like(model):
    return {name: [[0.0] * len(row) for row in matrix] for name, matrix in model.items()}


def policies(script, monkeypatch, block_size=5):
    """A policy and a reference of three letters and a boundary, in floats."""
    return tiny_models(script, monkeypatch, letters=3, block_size=block_size)


def by_length(tokens):
    """A reward that tells completions apart."""
    return 0.5 * len(tokens) - 1.0


# --- the run ---


def test_the_kl_is_moderate_and_above_what_the_rates_ask_for(run):
    """The least KL is that of names with the rule and without it alone."""
    m = run.metrics
    p, q = m["preferred_rate"], m["base_preferred_rate"]
    assert m["kl_least"] == pytest.approx(kl([p, 1 - p], [q, 1 - q]), abs=1e-3)
    assert m["kl_least"] < m["kl"] < 2.5
    assert m["base_kl"] == 0
    assert m["objective_after"] > m["objective_before"] + 0.03


# --- the reward model ---


def test_reward_model_has_about_500_parameters(script):
    shapes = {name: (len(m), len(m[0])) for name, m in script.init_reward_model(27).items()}
    assert shapes == {"embed": (27, 8), "hidden": (16, 17), "out": (1, 16)}


def test_score_written_out(script):
    weights = reward_matrices()
    total = 0.0
    for a, b in [(26, 0), (0, 13), (13, 13), (13, 0), (0, 26)]:  # .anna.
        x = weights["embed"][a] + weights["embed"][b] + [1.0]
        for row, out in zip(weights["hidden"], weights["out"][0], strict=True):
            total += out * math.tanh(math.fsum(w * xi for w, xi in zip(row, x, strict=True)))
    assert script.score(weights, tokens_of("anna")) == pytest.approx(total, abs=1e-12)


def test_score_gradient_equals_finite_differences(script):
    weights = reward_matrices(4)
    tokens = [3, 0, 1, 1, 0, 3]  # letters and a pair of neighbours more than once
    grads = zeros_like(weights)
    script.add_score_gradient(weights, tokens, -0.7, grads)
    where = places_of_each(weights, 20)
    expected = slopes(lambda w: -0.7 * script.score(w, tokens), weights, where)
    assert pick(grads, where) == pytest.approx(expected, rel=1e-6, abs=1e-8)
    before = grads["out"][0][0]
    script.add_score_gradient(weights, tokens, -0.7, grads)
    assert grads["out"][0][0] == pytest.approx(2 * before)  # it adds


def test_ranking_loss_in_closed_form(script):
    loss, slope = script.ranking_loss(0.0)
    assert (loss, slope) == (pytest.approx(math.log(2)), -0.5)
    for margin in (-3.0, -0.2, 0.7, 5.0):
        loss, slope = script.ranking_loss(margin)
        assert loss == pytest.approx(-math.log(1 / (1 + math.exp(-margin))), rel=1e-12)
        assert slope == pytest.approx(1 / (1 + math.exp(-margin)) - 1, rel=1e-9)
    assert script.ranking_loss(1000.0) == (0.0, 0.0)
    assert script.ranking_loss(-1000.0) == (1000.0, -1.0)


def test_training_steps_go_down_the_pairs_gradient(script, monkeypatch):
    """Each step is one of SGD, at a rate that falls to 0 over all passes."""
    monkeypatch.setattr(script, "reward_rate", 0.01)
    monkeypatch.setattr(script, "reward_epochs", 2)
    pairs = [([3, 0, 1, 0, 3], [3, 0, 2, 2, 1, 3]), ([3, 1, 2, 3], [3, 1, 1, 3])]
    trained = reward_matrices(4)
    training = script.train_reward_model(trained, pairs)
    where = places_of_each(trained, 20)
    for step in range(4):
        chosen, rejected = pairs[step % 2]

        def loss(w, chosen=chosen, rejected=rejected):
            margin = script.score(w, chosen) - script.score(w, rejected)
            return -math.log(1 / (1 + math.exp(-margin)))

        before = {name: [list(row) for row in matrix] for name, matrix in trained.items()}
        assert next(training) == pytest.approx(loss(before))
        rate = 0.01 * (1 - step / 4)
        steps = zip(pick(before, where), slopes(loss, before, where), strict=True)
        expected = [weight - rate * slope for weight, slope in steps]
        assert pick(trained, where) == pytest.approx(expected, rel=1e-9, abs=1e-8)
    assert next(training, None) is None


def test_frozen_reward_has_mean_0_and_deviation_1(script):
    weights = reward_matrices()
    names = [tokens_of(name) for name in script.load_names()[:100]]
    reward = script.freeze_reward(weights, names)
    rewards, scores = ([f(t) for t in names] for f in (reward, lambda t: script.score(weights, t)))
    assert math.fsum(rewards) == pytest.approx(0, abs=1e-9)
    assert math.fsum(r * r for r in rewards) / 100 == pytest.approx(1)
    ratio = (scores[0] - scores[1]) / (rewards[0] - rewards[1])
    assert ratio > 0
    assert scores[2] - scores[7] == pytest.approx(ratio * (rewards[2] - rewards[7]))


def test_ranking_accuracy(script):
    weights = reward_matrices()
    names = tokens_of("anna"), tokens_of("milo")
    worst, best = sorted(names, key=lambda tokens: script.score(weights, tokens))
    pairs = [(best, worst)] * 3 + [(worst, best)]
    assert script.ranking_accuracy(weights, pairs) == 0.75


def test_sgd_step(script):
    weights = {"a": [[1.0, 2.0]], "b": [[3.0], [4.0]]}
    grads = zeros_like(weights)
    grads["a"][0][1], grads["b"][1][0] = 10.0, -1.0
    script.sgd_step(weights, grads, 0.1)
    assert weights == {"a": [[1.0, 1.0]], "b": [[3.0], [4.1]]}
    assert grads == zeros_like(weights)


# --- the value function ---


def test_value_is_linear_and_its_step_is_the_gradient(script):
    """Of the squared error of each prefix, one after the other."""
    values = gaussian(8, 27)
    assert script.expected_reward(values, [26, 3, 3]) == pytest.approx(
        values[0][26] + values[1][3] + values[2][3]
    )
    weights = {"v": [list(row) for row in values]}
    tokens = [26, 3, 5, 26]
    script.value_step(values, tokens, 0.8)
    where = [("v", i, token) for i, token in enumerate(tokens)] + [("v", 1, 5), ("v", 0, 3)]
    for t in (2, 3):

        def loss(w, t=t):
            return 0.5 * (0.8 - script.expected_reward(w["v"], tokens[:t])) ** 2

        for (_, i, j), slope in zip(where, slopes(loss, weights, where), strict=True):
            weights["v"][i][j] -= script.value_rate * slope
    assert flat(values) == pytest.approx(flat(weights), abs=1e-9)


def test_value_steps_lower_the_squared_error(script):
    values = [[0.0] * 27 for _ in range(8)]
    names = [tokens_of(name) for name in ("anna", "milena", "zoe")]

    def error():
        total = 0.0
        for tokens in names:
            for t in range(2, len(tokens)):
                total += (len(tokens) - script.expected_reward(values, tokens[:t])) ** 2
        return total

    errors = [error()]
    for _ in range(20):
        for tokens in names:
            script.value_step(values, tokens, float(len(tokens)))
        errors.append(error())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 3


# --- the objective ---


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "slope"),
    [
        (1.0, 2.0, 2.0, 2.0),  # nothing has moved: the policy gradient
        (1.0, -2.0, -2.0, -2.0),
        (1.1, 2.0, 2.2, 2.0),
        (1.3, 2.0, 2.4, 0.0),  # likelier by more than a fifth, as it should: clipped
        (0.7, 2.0, 1.4, 2.0),  # it moved the wrong way: free to come back
        (0.7, -2.0, -1.6, 0.0),  # less likely by more than a fifth, as it should: clipped
        (1.3, -2.0, -2.6, -2.0),
        (0.9, -2.0, -1.8, -2.0),
        (1.3, 0.0, 0.0, 0.0),
    ],
)
def test_clipped_objective(script, ratio, advantage, objective, slope):
    for r in (ratio, script.Value(ratio)):
        found, is_clipped = script.clipped_objective(r, advantage)
        assert script.floats([found])[0] == pytest.approx(objective)
        assert is_clipped == (slope == 0 and advantage != 0)
    if isinstance(found, script.Value):
        (found + 0.0).backward()
    assert r.grad == slope


def batch_of(script, policy, reference, size=6):
    """Completions of each prompt in turn, and the weights of the value function."""
    values = gaussian(script.block_size, 4, 0.3, seed=9)
    random.seed(9)
    batch = [script.roll_out(policy, reference, by_length, values, i % 3) for i in range(size)]
    return batch, values


def test_roll_out_holds_what_it_says(script, monkeypatch):
    policy, reference = policies(script, monkeypatch)
    complete, writers = script.complete, []
    monkeypatch.setattr(script, "complete", lambda m, p: writers.append(m) or complete(m, p))
    batch, values = batch_of(script, policy, reference)
    assert all(writer is policy for writer in writers)
    assert [e["tokens"][1] for e in batch] == [0, 1, 2, 0, 1, 2]
    for episode in batch:
        tokens = episode["tokens"]
        probs, ref = (next_probs(script, m, tokens) for m in (policy, reference))
        assert episode["reward"] == by_length(tokens)
        assert flat(episode["ref_probs"]) == pytest.approx(flat(ref), rel=1e-12)
        expected = math.fsum(kl(p, q) for p, q in zip(probs, ref, strict=True))
        assert episode["kl"] == pytest.approx(expected, rel=1e-9)
        logs = [math.log(p[t]) for p, t in zip(probs, tokens[2:], strict=True)]
        assert episode["old_log_probs"] == pytest.approx(logs, rel=1e-12)
        # The baseline of a token is the value of what stood before it, never of the token.
        before = [values[0][3] + values[1][tokens[1]]]
        for t, token in enumerate(tokens[2:-1], 2):
            before.append(before[-1] + values[t][token])
        expected = [episode["reward"] - b for b in before]
        assert episode["advantages"] == pytest.approx(expected, abs=1e-12)


def test_first_gradient_is_the_policy_gradient(script, monkeypatch):
    """Nothing has moved: d objective = mean of sum_t A_t d log pi_t, and no token is clipped."""
    policy, reference = policies(script, monkeypatch)
    batch, _ = batch_of(script, policy, reference)
    model = lift(script, policy)
    objective, clip_fraction = script.batch_objective(model, batch, 0.0)
    assert clip_fraction == 0
    # The ratio is 1 exactly, so the objective is the plain mean of the summed advantages.
    sums = [math.fsum(e["advantages"]) for e in batch]
    assert objective.data == pytest.approx(math.fsum(sums) / len(batch), abs=1e-12)
    objective.backward()

    def weighted_log_probs(m):
        total = 0.0
        for e in batch:
            probs = script.completion_probs(m, e["tokens"])
            for p, token, a in zip(probs, e["tokens"][2:], e["advantages"], strict=True):
                total = total + a / len(batch) * script.log(p[token])
        return total

    expected = flat(gradient_of(script, weighted_log_probs, policy))
    assert flat(gradients(model)) == pytest.approx(expected, abs=1e-12)
    assert max(map(abs, expected)) > 0.01


def moved(policy, by):
    rng = random.Random(2)
    return {k: [[w + rng.gauss(0, by) for w in row] for row in rows] for k, rows in policy.items()}


def test_objective_written_out_after_a_move(script, monkeypatch):
    """Ratio, clip, KL and counts of a policy that has left pi_old, by the definitions."""
    policy, reference = policies(script, monkeypatch)
    batch, _ = batch_of(script, policy, reference)
    later = moved(policy, 0.15)
    total, clipped, tokens_seen = 0.0, 0, 0
    for e in batch:
        new, old, ref = (next_probs(script, m, e["tokens"]) for m in (later, policy, reference))
        for p, o, q, token, a in zip(new, old, ref, e["tokens"][2:], e["advantages"], strict=True):
            ratio = p[token] / o[token]
            total += min(ratio * a, min(max(ratio, 0.8), 1.2) * a)
            clipped += (a > 0 and ratio > 1.2) or (a < 0 and ratio < 0.8)
            tokens_seen += 1
            total -= 0.3 * kl(p, q)
    assert 0 < clipped < tokens_seen
    for model in (later, lift(script, later)):
        objective, clip_fraction = script.batch_objective(model, batch, 0.3)
        assert script.floats([objective])[0] == pytest.approx(total / len(batch), abs=1e-12)
        assert clip_fraction == clipped / tokens_seen


@pytest.mark.parametrize("kl_coef", [0.0, 0.7])
def test_policy_gradient_equals_finite_differences(script, monkeypatch, kl_coef):
    policy, reference = policies(script, monkeypatch)
    batch, _ = batch_of(script, policy, reference, size=3)
    later = moved(policy, 0.1)

    def objective(model):
        return script.batch_objective(model, batch, kl_coef)[0]

    where = places_of_each(later, 4)
    found = pick(gradient_of(script, objective, later), where)
    assert found == pytest.approx(slopes(objective, later, where), rel=1e-5, abs=1e-7)
    assert sum(abs(g) > 1e-3 for g in found) > 10


def roll_out_of(script, monkeypatch, tokens, policy, reference, values):
    """The episode of a given completion."""
    monkeypatch.setattr(script, "complete", lambda model, prompt: tokens)
    return script.roll_out(policy, reference, by_length, values, tokens[1])


def test_kl_penalty_is_the_kl_of_whole_names(script, monkeypatch):
    """Its mean over all names, weighted by the policy, is sum p log(p / ref) over all names."""
    policy, reference = policies(script, monkeypatch, block_size=4)
    values, penalty, brute = [[0.0] * 4] * 4, 0.0, 0.0
    for tokens in all_completions(1, letters=3, block_size=4):
        episode = roll_out_of(script, monkeypatch, tokens, policy, reference, values)
        p, q = (probability(script, m, tokens) for m in (policy, reference))
        with_it, without = (script.episode_objective(policy, episode, c)[0] for c in (1.0, 0.0))
        penalty += p * (without - with_it)
        brute += p * math.log(p / q)
    assert penalty == pytest.approx(brute, rel=1e-9)
    assert brute > 0.05


def test_baseline_leaves_the_mean_gradient(script, monkeypatch):
    """Exact over all names: with V or without, it is the gradient of the expected reward."""
    policy, reference = tiny_models(script, monkeypatch)
    completions = list(all_completions(0))
    where = places_of_each(policy, 1)
    totals = []
    for values in ([[0.0] * 3] * 4, gaussian(4, 3)):
        total = [0.0] * len(where)
        for tokens in completions:
            episode = roll_out_of(script, monkeypatch, tokens, policy, reference, values)
            weight = probability(script, policy, tokens)
            grads = gradient_of(
                script, lambda m, e=episode: script.episode_objective(m, e, 0.0)[0], policy
            )
            total = [a + weight * g for a, g in zip(total, pick(grads, where), strict=True)]
        totals.append(total)
    assert totals[1] == pytest.approx(totals[0], abs=1e-9)

    def expected_reward(model):
        return math.fsum(probability(script, model, t) * by_length(t) for t in completions)

    expected = slopes(expected_reward, policy, where)
    assert totals[0] == pytest.approx(expected, rel=1e-5, abs=1e-8)
    assert max(map(abs, expected)) > 1e-3


# --- the loop ---


def a_little_ppo(script, monkeypatch, kl_price):
    """Three steps. Returns their records, the base, the policy and the values.

    The rule is out of reach: what the loop learns is the reward alone.
    """
    monkeypatch.setattr(script, "ppo_steps", 3)
    monkeypatch.setattr(script, "is_preferred", None)
    (base,) = tiny_models(script, monkeypatch, 1)
    kept = repr(base)
    policy, values = lift(script, base), [[0.0] * 3 for _ in range(4)]
    random.seed(7)
    found = list(script.ppo_train(policy, base, by_length, values, [1], kl_price))
    assert repr(base) == kept, "the reference has moved"
    return found, base, policy, values


def test_ppo_moves_policy_and_values(script, monkeypatch):
    found, base, policy, values = a_little_ppo(script, monkeypatch, 0.3)
    assert len(found) == 3
    assert lower(policy) != base
    assert any(map(any, values))
    for step in found:
        assert len(step["batch"]) == script.batch_size
        assert step["after"] > step["before"]
        assert 0 <= step["clip_fraction"] <= 1
        for episode in step["batch"]:
            assert episode["reward"] == by_length(episode["tokens"])
            assert episode["tokens"][1] == 1
    assert all(e["kl"] == pytest.approx(0, abs=1e-12) for e in found[0]["batch"])
    assert all(e["kl"] > 0 for e in found[1]["batch"])


def test_each_batch_is_used_for_more_than_one_update(script, monkeypatch):
    adam_step, updates = script.adam_step, []

    def spy(params, m, v, step, lr):
        updates.append((step, lr))
        adam_step(params, m, v, step, lr)

    monkeypatch.setattr(script, "adam_step", spy)
    monkeypatch.setattr(script, "clip_eps", 0.02)
    found, *_ = a_little_ppo(script, monkeypatch, 0.3)
    assert script.inner_epochs == 2
    assert [step for step, _ in updates] == [1, 2, 3, 4, 5, 6]
    rates = [0.01 * share for share in (1, 1, 2 / 3, 2 / 3, 1 / 3, 1 / 3)]
    assert [lr for _, lr in updates] == pytest.approx(rates)
    assert any(step["clip_fraction"] > 0 for step in found)


def test_each_batch_is_scored_before_its_first_update(script, monkeypatch):
    """`before` is the objective of pi_old: the mean advantage sum less the price of the KL."""
    found, *_ = a_little_ppo(script, monkeypatch, 0.3)
    for step in found:
        sums = [math.fsum(e["advantages"]) - 0.3 * e["kl"] for e in step["batch"]]
        assert step["before"] == pytest.approx(math.fsum(sums) / len(sums), abs=1e-9)


def test_values_are_taught_the_rewards_after_the_advantages(script, monkeypatch):
    """The advantages of each step come from the values that the steps before have left."""
    found, _, _, values = a_little_ppo(script, monkeypatch, 0.0)
    replayed = [[0.0] * 3 for _ in range(4)]
    for step in found:
        for e in step["batch"]:
            t = len(e["tokens"]) - 1
            expected = e["reward"] - script.expected_reward(replayed, e["tokens"][:t])
            assert e["advantages"][-1] == pytest.approx(expected, abs=1e-12)
        for e in step["batch"]:
            script.value_step(replayed, e["tokens"], e["reward"])
    assert replayed == values


# --- what judges it, and what is drawn ---


def test_explained_share(script):
    perfect = [{"reward": r, "advantages": [0.0, 0.0]} for r in (1.0, 3.0)]
    constant = [{"reward": 1.0, "advantages": [-1.0]}, {"reward": 3.0, "advantages": [1.0]}]
    assert script.explained_share(perfect) == 1
    assert script.explained_share(constant) == 0


def test_mean_reward_knows_names_without_an_end(script):
    seen = []
    script.mean_reward(lambda tokens: seen.append(tokens) or 0.0, ["ana", "abcdefgh"], CHARS)
    assert seen == [[26, 0, 13, 0, 26], [26, 0, 1, 2, 3, 4, 5, 6, 7]]


def test_a_shown_run_trains_a_copy_at_its_price(script, monkeypatch):
    """What show_ppo() returns is ppo_train()'s, from the base and values of zero."""
    monkeypatch.setattr(script, "ppo_steps", 2)
    (base,) = tiny_models(script, monkeypatch, 1)
    kept = repr(base)
    for price in (0.0, 5.0):
        random.seed(3)
        policy, steps = script.show_ppo("here", price, base, by_length, [0, 1], ["a", "b"])
        random.seed(3)
        expected, values = lift(script, base), [[0.0] * 3 for _ in range(4)]
        assert steps == list(script.ppo_train(expected, base, by_length, values, [0, 1], price))
        assert policy == lower(expected) != base
    assert repr(base) == kept


def test_drawings(script, capsys, monkeypatch):
    script.draw_turns(reward_matrices(), CHARS)
    assert "@@" in capsys.readouterr().out
    monkeypatch.setattr(script, "ppo_steps", 2)
    monkeypatch.setattr(script, "report_every", 2)
    (base,) = tiny_models(script, monkeypatch, 1)
    script.show_ppo("here", 0.3, base, by_length, [0, 1], ["a", "b"])
    script.show_names(["base", "PPO"], ["milena"], ["rory"])
    out = capsys.readouterr().out
    assert "2/2" in out
    assert "mIlEnA" in out
    assert out.isascii()


def test_letters_are_drawn_there_and_back(script, monkeypatch):
    """What one direction gains and the other loses is not seen."""
    asked = []
    monkeypatch.setattr(script, "score", lambda weights, tokens: asked.append(tokens) or 0.0)
    script.draw_turns({}, ["a", "b"])
    assert sorted(asked) == [[0, 0, 0], [0, 1, 0], [1, 0, 1], [1, 1, 1]]
