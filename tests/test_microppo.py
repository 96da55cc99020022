import inspect
import itertools
import math
import random
import re

import pytest
from harness import meets

CRITERIA = {
    "policy_params": "== 1264",
    "reward_params": "== 504",
    "value_params": "== 216",
    "reward_accuracy": "> 0.7",
    "objective_rose": "> 0.9",
    "clip_fraction": "> 0",
    "runtime_seconds": "< 420",
}
CHARS = list("abcdefghijklmnopqrstuvwxyz")


@pytest.mark.parametrize("metric", CRITERIA)
def test_criterion(run, metric):
    assert meets(run.metrics[metric], CRITERIA[metric])
    assert run.criteria[metric] in (CRITERIA[metric], "")


def test_preferred_rate_and_learned_reward_are_up(run):
    m = run.metrics
    assert m["preferred_rate"] > m["base_preferred_rate"] + 0.1
    assert m["reward"] > m["base_reward"] + 0.5
    for metric in ("preferred_rate", "reward"):
        assert meets(m[metric], run.criteria[metric])


def test_objective_rises_within_the_inner_epochs(run):
    assert run.metrics["objective_after"] > run.metrics["objective_before"] + 0.03


def test_kl_grows_along_training_and_stays_moderate(run):
    m = run.metrics
    assert m["base_kl"] == 0
    assert 0 < m["kl_first_10_steps"] < m["kl_last_10_steps"]
    assert 0.2 < m["kl"] < 2.5


def test_without_the_penalty_the_policy_leaves_for_the_reward(run):
    m = run.metrics
    assert m["no_penalty_kl"] > 2 * m["kl"]
    assert m["no_penalty_reward"] > m["reward"]
    assert m["no_penalty_unique_share"] < m["unique_share"] - 0.1


def test_output_shows_neighbours_training_and_samples(run):
    lines = run.stdout.splitlines()
    pairs = int(re.search(r"(\d+) pairs to learn from, \d+ held out", run.stdout)[1])
    assert pairs == run.metrics["training_pairs"]
    assert "".join(line[0] for line in lines if re.match(r"[a-z]  [ .:=+*#%@-]+$", line)) == (
        "aeiouybcdfghjklmnpqrstvwxz"
    )
    table = [line.split() for line in lines if re.match(r" +\d+/100 ", line)]
    assert [row[0] for row in table] == 2 * [f"{10 * i}/100" for i in range(1, 11)]
    for start in (0, 10):  # with the penalty, without it
        assert float(table[start][1]) < float(table[start + 9][1])
    assert float(table[0][2]) == pytest.approx(run.metrics["kl_first_10_steps"], abs=0.006)
    assert float(table[9][2]) == pytest.approx(run.metrics["kl_last_10_steps"], abs=0.006)
    first = lines.index("base        PPO         no penalty") + 1
    assert all(
        re.fullmatch(r"([a-zAEIOUY]+ +){2}[a-zAEIOUY]+", x) for x in lines[first : first + 8]
    )


def test_kl_is_above_what_the_rates_ask_for(run):
    """Of names with the rule and without it alone, by the definition."""
    m = run.metrics
    p, q = m["preferred_rate"], m["base_preferred_rate"]
    least = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert m["kl_least"] == pytest.approx(least, abs=1e-3)
    assert m["kl"] > m["kl_least"]


def test_drawing_tells_who_takes_turns(script, capsys):
    """A round trip: what one direction gains and the other loses is not seen."""
    weights = reward_model(script)
    for row in weights["hidden"]:
        row[:] = [0.0] * len(row)
    weights["embed"] = [[1.0 if c in "aeiouy" else -1.0] + [0.0] * 7 for c in CHARS] + [[0.0] * 8]
    weights["hidden"][0][0], weights["hidden"][0][8] = 1.0, -1.0  # tanh(first - second)
    weights["hidden"][1][0], weights["hidden"][1][8] = 1.0, 1.0  # tanh(first + second)
    weights["out"] = [[5.0, -1.0] + [0.0] * 14]
    script.draw_turns(weights, CHARS)
    head, *rows = capsys.readouterr().out.splitlines()
    assert head == "   " + " ".join("aeiouybcdfghjklmnpqrstvwxz")
    assert [row[0] for row in rows] == list("aeiouybcdfghjklmnpqrstvwxz")
    cells = [row[3:].ljust(52)[::2] for row in rows]
    # The first unit, 5 one way and -5 back, cancels: VV -2 tanh 2, VC and CV 0, CC 2 tanh 2.
    assert cells[0] == " " * 6 + cells[0][6] * 20
    assert cells[6] == cells[0][6] * 6 + cells[6][6] * 20
    assert len({" ", cells[0][6], cells[6][6]}) == 3
    assert all(cells[i][j] == cells[j][i] for i in range(26) for j in range(26))


def reward_model(script, seed=3):
    """A reward model whose hidden units are neither idle nor saturated."""
    random.seed(seed)
    weights = script.init_reward_model(27)
    return {name: [[1.5 * w for w in row] for row in rows] for name, rows in weights.items()}


def zeros_like(weights):
    return {name: [[0.0] * len(row) for row in rows] for name, rows in weights.items()}


def slopes(weights, f, places):
    """d f / d weights[name][i][j] by central differences, for each place (name, i, j)."""
    for name, i, j in places:
        kept, slope = weights[name][i][j], 0.0
        for sign in (1, -1):
            weights[name][i][j] = kept + sign * 1e-5
            slope += sign * f() / 2e-5
        weights[name][i][j] = kept
        yield slope


def places_of(weights):
    return [
        (k, i, j) for k, rows in weights.items() for i, r in enumerate(rows) for j in range(len(r))
    ]


def test_reward_model_has_about_500_parameters(script):
    assert len(places_of(script.init_reward_model(27))) == 27 * 8 + 16 * 17 + 16


def test_score_written_out(script):
    weights = reward_model(script)
    total = 0.0
    for a, b in [(26, 0), (0, 13), (13, 13), (13, 0), (0, 26)]:  # .anna.
        x = weights["embed"][a] + weights["embed"][b] + [1.0]
        for row, out in zip(weights["hidden"], weights["out"][0], strict=True):
            total += out * math.tanh(math.fsum(w * xi for w, xi in zip(row, x, strict=True)))
    assert script.score(weights, script.encode("anna", CHARS)) == pytest.approx(total, abs=1e-12)


def test_score_gradient_equals_finite_differences(script):
    weights = reward_model(script)
    tokens = script.encode("anna", CHARS)  # letters and a pair of neighbours more than once
    grads = zeros_like(weights)
    script.add_score_gradient(weights, tokens, -0.7, grads)
    places = places_of(weights)
    expected = list(slopes(weights, lambda: -0.7 * script.score(weights, tokens), places))
    assert [grads[k][i][j] for k, i, j in places] == pytest.approx(expected, rel=1e-6, abs=1e-8)
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


def test_a_training_step_goes_down_the_pairs_gradient(script, monkeypatch):
    """One SGD step, against finite differences of the loss of the pair."""
    monkeypatch.setattr(script, "reward_rate", 0.01)
    monkeypatch.setattr(script, "reward_epochs", 1)
    pair = script.encode("milena", CHARS), script.encode("marianna", CHARS)
    weights, trained = reward_model(script), reward_model(script)

    def loss():
        return -math.log(
            1 / (1 + math.exp(script.score(weights, pair[1]) - script.score(weights, pair[0])))
        )

    assert next(script.train_reward_model(trained, [pair])) == pytest.approx(loss())
    places = places_of(weights)
    for (k, i, j), slope in zip(places, slopes(weights, loss, places), strict=True):
        expected = weights[k][i][j] - 0.01 * slope
        assert trained[k][i][j] == pytest.approx(expected, rel=1e-9, abs=1e-8)


@pytest.mark.slow
def test_reward_model_learns_the_taste_from_pairs(script):
    """A few hundred pairs; accuracy on names that it never saw."""
    names = [n for n in dict.fromkeys(script.load_names()) if len(n) < script.block_size]
    random.seed(1)
    random.shuffle(names)
    pairs, heldout = (script.make_pairs(part, CHARS) for part in (names[:2500], names[2500:3500]))
    weights = script.init_reward_model(27)
    assert 0.2 < script.ranking_accuracy(weights, heldout) < 0.8
    losses = list(script.train_reward_model(weights, pairs))
    assert len(losses) == script.reward_epochs * len(pairs)
    assert script.mean(losses[-200:]) < 0.2 < 0.4 < script.mean(losses[:50])
    assert script.ranking_accuracy(weights, heldout) > 0.9


def test_frozen_reward_has_mean_0_and_deviation_1(script):
    weights = reward_model(script)
    names = [script.encode(name, CHARS) for name in script.load_names()[:200]]
    reward = script.freeze_reward(weights, names)
    rewards, scores = ([f(t) for t in names] for f in (reward, lambda t: script.score(weights, t)))
    assert math.fsum(rewards) == pytest.approx(0, abs=1e-9)
    assert math.fsum(r * r for r in rewards) / 200 == pytest.approx(1)
    ratio = (scores[0] - scores[1]) / (rewards[0] - rewards[1])
    assert ratio > 0
    assert scores[2] - scores[7] == pytest.approx(ratio * (rewards[2] - rewards[7]))


def test_value_is_linear_and_its_step_is_the_gradient(script):
    random.seed(4)
    values = [[random.gauss(0, 1) for _ in range(27)] for _ in range(8)]
    assert script.expected_reward(values, [26, 3, 3]) == pytest.approx(
        values[0][26] + values[1][3] + values[2][3]
    )
    tokens = [26, 3, 26]  # one prefix: [26, 3]
    weights = {"v": [row[:] for row in values]}

    def loss():
        return 0.5 * (0.8 - script.expected_reward(weights["v"], [26, 3])) ** 2

    places = places_of(weights)
    expected = list(slopes(weights, loss, places))
    script.value_step(values, tokens, 0.8)
    for (_, i, j), slope in zip(places, expected, strict=True):
        change = values[i][j] - weights["v"][i][j]
        assert change == pytest.approx(-script.value_rate * slope, abs=1e-9)


def test_value_steps_lower_the_squared_error(script):
    random.seed(4)
    values = [[0.0] * 27 for _ in range(8)]
    names = [script.encode(name, CHARS) for name in ("anna", "milena", "zoe")]

    def error():
        found = [
            (len(n) - script.expected_reward(values, n[:t])) ** 2
            for n in names
            for t in range(2, len(n))
        ]
        return math.fsum(found)

    errors = [error()]
    for _ in range(20):
        for tokens in names:
            script.value_step(values, tokens, float(len(tokens)))
        errors.append(error())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 3


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


def policies(script, monkeypatch, vocab_size=4, names_of=5):
    """Two float policies of a tiny vocabulary, with weights large enough that all matters."""
    monkeypatch.setattr(script, "block_size", names_of)
    random.seed(5)
    return [
        {
            key: [[5 * p.data for p in row] for row in rows]
            for key, rows in script.init_model(vocab_size).items()
        }
        for _ in range(2)
    ]


def as_values(script, model):
    return {key: [[script.Value(w) for w in row] for row in rows] for key, rows in model.items()}


def count_letters(tokens):
    return 0.5 * len(tokens) - 1.0


def batch_of(script, policy, reference, size=6):
    random.seed(9)
    values = [[random.gauss(0, 0.3) for _ in range(4)] for _ in range(script.block_size)]
    batch = [script.roll_out(policy, reference, count_letters, values, i % 3) for i in range(size)]
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
        probs, ref = (script.completion_probs(m, tokens) for m in (policy, reference))
        assert episode["reward"] == count_letters(tokens)
        assert episode["ref_probs"] == ref
        assert episode["kl"] == script.kl_divergence(probs, ref)
        logs = [math.log(p[t]) for p, t in zip(probs, tokens[2:], strict=True)]
        assert episode["old_log_probs"] == pytest.approx(logs, abs=1e-15)
        # The baseline of a token is the value of what stood before it, never of the token.
        before = [values[0][3] + values[1][tokens[1]]]
        for t, token in enumerate(tokens[2:-1], 2):
            before.append(before[-1] + values[t][token])
        expected = [episode["reward"] - b for b in before]
        assert episode["advantages"] == pytest.approx(expected, abs=1e-12)


def grads_of(model):
    return [p.grad for rows in model.values() for row in rows for p in row]


def test_first_gradient_is_the_policy_gradient(script, monkeypatch):
    """Nothing has moved: d objective = mean of sum_t A_t d log pi_t, and no token is clipped."""
    policy, reference = policies(script, monkeypatch)
    batch, _ = batch_of(script, policy, reference)
    model = as_values(script, policy)
    objective, clip_fraction = script.batch_objective(model, batch, 0.0)
    assert clip_fraction == 0
    # The ratio is 1 exactly, so the objective is the plain mean of the summed advantages.
    sums = [math.fsum(e["advantages"]) for e in batch]
    assert objective.data == pytest.approx(math.fsum(sums) / len(batch), abs=1e-12)
    objective.backward()
    plain, total = as_values(script, policy), 0.0
    for e in batch:
        for p, t, a in zip(
            script.completion_probs(plain, e["tokens"]),
            e["tokens"][2:],
            e["advantages"],
            strict=True,
        ):
            total = total + a / len(batch) * script.log(p[t])
    total.backward()
    assert grads_of(model) == pytest.approx(grads_of(plain), abs=1e-12)
    assert max(map(abs, grads_of(model))) > 0.01


def moved(policy, by, seed=2):
    rng = random.Random(seed)
    return {k: [[w + rng.gauss(0, by) for w in row] for row in rows] for k, rows in policy.items()}


def test_objective_written_out_after_a_move(script, monkeypatch):
    """Ratio, clip, KL and counts of a policy that has left pi_old, by the definitions."""
    policy, reference = policies(script, monkeypatch)
    batch, _ = batch_of(script, policy, reference)
    later = moved(policy, 0.15)
    total, clipped, tokens_seen = 0.0, 0, 0
    for e in batch:
        new, old, ref = (
            script.completion_probs(m, e["tokens"]) for m in (later, policy, reference)
        )
        for p, o, q, token, a in zip(new, old, ref, e["tokens"][2:], e["advantages"], strict=True):
            ratio = p[token] / o[token]
            total += min(ratio * a, min(max(ratio, 0.8), 1.2) * a)
            clipped += (a > 0 and ratio > 1.2) or (a < 0 and ratio < 0.8)
            tokens_seen += 1
            total -= 0.3 * math.fsum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
    assert 0 < clipped < tokens_seen
    for model in (later, as_values(script, later)):
        objective, clip_fraction = script.batch_objective(model, batch, 0.3)
        assert script.floats([objective])[0] == pytest.approx(total / len(batch), abs=1e-12)
        assert clip_fraction == clipped / tokens_seen


@pytest.mark.parametrize("kl_coef", [0.0, 0.7])
def test_policy_gradient_equals_finite_differences(script, monkeypatch, kl_coef):
    policy, reference = policies(script, monkeypatch)
    batch, _ = batch_of(script, policy, reference, size=3)
    later = moved(policy, 0.1)
    model = as_values(script, later)
    script.batch_objective(model, batch, kl_coef)[0].backward()
    rng = random.Random(0)
    places = rng.sample(places_of(later), 40)
    expected = slopes(later, lambda: script.batch_objective(later, batch, kl_coef)[0], places)
    found = [model[k][i][j].grad for k, i, j in places]
    assert found == pytest.approx(list(expected), rel=1e-5, abs=1e-7)
    assert sum(abs(g) > 1e-3 for g in found) > 10


def all_completions(prompt, bos=3, block_size=5):
    for length in range(1, block_size):
        for letters in itertools.product(range(bos), repeat=length - 1):
            yield [bos, prompt, *letters, bos]
    for letters in itertools.product(range(bos), repeat=block_size - 1):
        yield [bos, prompt, *letters]


def test_kl_penalty_is_the_kl_of_whole_names(script, monkeypatch):
    """Its mean over all names, weighted by the policy, is sum p log(p / ref) over all names."""
    policy, reference = policies(script, monkeypatch)
    values, penalty, brute = [[0.0] * 4] * 5, 0.0, 0.0
    for tokens in all_completions(1):
        monkeypatch.setattr(script, "complete", lambda model, prompt, t=tokens: t)
        episode = script.roll_out(policy, reference, count_letters, values, 1)
        q = script.completion_probs(reference, tokens)
        log_p = math.fsum(episode["old_log_probs"])
        log_q = math.fsum(math.log(p[t]) for p, t in zip(q, tokens[2:], strict=True))
        with_it, without = (script.episode_objective(policy, episode, c)[0] for c in (1.0, 0.0))
        penalty += math.exp(log_p) * (without - with_it)
        brute += math.exp(log_p) * (log_p - log_q)
    assert penalty == pytest.approx(brute, rel=1e-9)
    assert brute > 0.05


def test_baseline_leaves_the_mean_gradient(script, monkeypatch):
    """Exact over all names: the expected policy gradient with V is the one without."""
    policy, reference = policies(script, monkeypatch, names_of=4)
    random.seed(2)
    zero = [[0.0] * 4] * 4
    some = [[random.gauss(0, 1) for _ in range(4)] for _ in range(4)]
    expected = []
    for values in (zero, some):
        total = [0.0] * 9
        for tokens in all_completions(0, block_size=4):
            monkeypatch.setattr(script, "complete", lambda model, prompt, t=tokens: t)
            episode = script.roll_out(policy, reference, count_letters, values, 0)
            model = as_values(script, policy)
            script.episode_objective(model, episode, 0.0)[0].backward()
            weight = math.exp(math.fsum(episode["old_log_probs"]))
            picked = [model["lm_head"][i][j].grad for i in range(3) for j in range(3)]
            total = [a + weight * g for a, g in zip(total, picked, strict=True)]
        expected.append(total)
    assert expected[1] == pytest.approx(expected[0], abs=1e-9)
    assert max(map(abs, expected[0])) > 1e-3


def a_little_ppo(script, monkeypatch, kl_coef, steps=3):
    monkeypatch.setattr(script, "ppo_steps", steps)
    random.seed(7)
    base = script.as_floats(script.init_model(27))
    base = {key: [[3 * w for w in row] for row in rows] for key, rows in base.items()}
    weights = reward_model(script)
    reward = script.freeze_reward(
        weights, [script.encode(n, CHARS) for n in ("anna", "bo", "milena")]
    )
    kept = repr((base, weights))
    policy, values = as_values(script, base), [[0.0] * 27 for _ in range(8)]
    found = list(script.ppo_train(policy, base, reward, values, [0, 5, 12], kl_coef))
    assert repr((base, weights)) == kept, "reference or reward model has moved"
    return found, base, policy, values, reward


def test_ppo_moves_policy_and_values_and_nothing_else(script, monkeypatch):
    found, base, policy, values, reward = a_little_ppo(script, monkeypatch, 0.3)
    assert len(found) == 3
    assert script.as_floats(policy) != base
    assert any(map(any, values))
    for step in found:
        assert len(step["batch"]) == script.batch_size
        assert step["after"] > step["before"]
        assert 0 <= step["clip_fraction"] <= 1
        for episode in step["batch"]:
            assert episode["reward"] == reward(episode["tokens"])
            assert episode["tokens"][1] in (0, 5, 12)
    assert all(e["kl"] == pytest.approx(0, abs=1e-12) for e in found[0]["batch"])
    assert all(e["kl"] > 0 for e in found[1]["batch"])


def test_each_batch_is_used_for_more_than_one_update(script, monkeypatch):
    adam_step, updates = script.adam_step, []

    def spy(params, m, v, step, lr):
        updates.append((step, lr))
        adam_step(params, m, v, step, lr)

    monkeypatch.setattr(script, "adam_step", spy)
    found, *_ = a_little_ppo(script, monkeypatch, 0.3)
    assert script.inner_epochs >= 2
    assert [step for step, _ in updates] == list(range(1, 3 * script.inner_epochs + 1))
    rates = [script.learning_rate * share for share in (1, 2 / 3, 1 / 3)]
    assert [lr for _, lr in updates] == pytest.approx(
        [rate for rate in rates for _ in range(script.inner_epochs)]
    )
    assert any(step["clip_fraction"] > 0 for step in found)


def test_each_batch_is_scored_before_its_first_update(script, monkeypatch):
    """`before` is the objective of pi_old: the mean advantage sum less the price of the KL."""
    found, *_ = a_little_ppo(script, monkeypatch, 0.3)
    for step in found:
        sums = [math.fsum(e["advantages"]) - 0.3 * e["kl"] for e in step["batch"]]
        assert step["before"] == pytest.approx(math.fsum(sums) / len(sums), abs=1e-9)


def test_values_are_taught_the_rewards_after_the_advantages(script, monkeypatch):
    """Replay: the advantages of each step come from the values that the steps before have left."""
    found, _, _, values, _ = a_little_ppo(script, monkeypatch, 0.0)
    replayed = [[0.0] * 27 for _ in range(8)]
    for step in found:
        for e in step["batch"]:
            t = len(e["tokens"]) - 1
            expected = e["reward"] - script.expected_reward(replayed, e["tokens"][:t])
            assert e["advantages"][-1] == pytest.approx(expected, abs=1e-12)
        for e in step["batch"]:
            script.value_step(replayed, e["tokens"], e["reward"])
    assert replayed == values


def test_a_shown_run_trains_a_copy_at_its_price(script, monkeypatch, capsys):
    """What show_ppo() returns is ppo_train()'s, from the base, zero values and the price given."""
    monkeypatch.setattr(script, "ppo_steps", 4)
    monkeypatch.setattr(script, "report_every", 2)
    base = script.as_floats(script.init_model(27))
    kept = repr(base)

    def reward(tokens):
        return float(len(tokens))

    for price in (0.0, 5.0):
        random.seed(3)
        policy, steps = script.show_ppo("here", price, base, reward, [0, 5], CHARS)
        random.seed(3)
        expected, values = as_values(script, base), [[0.0] * 27 for _ in range(8)]
        assert steps == list(script.ppo_train(expected, base, reward, values, [0, 5], price))
        assert policy == script.as_floats(expected)
    assert repr(base) == kept
    assert capsys.readouterr().out.count("/4 ") == 4  # two lines a run


def test_the_loop_never_asks_the_rule(script):
    for function in (script.ppo_train, script.roll_out, script.train_reward_model, script.score):
        source = inspect.getsource(function)
        assert "is_preferred" not in source
        assert "vowels" not in source


def test_sgd_step(script):
    weights = {"a": [[1.0, 2.0]], "b": [[3.0], [4.0]]}
    grads = zeros_like(weights)
    grads["a"][0][1], grads["b"][1][0] = 10.0, -1.0
    script.sgd_step(weights, grads, 0.1)
    assert weights == {"a": [[1.0, 1.0]], "b": [[3.0], [4.1]]}
    assert grads == zeros_like(weights)


def test_explained_share(script):
    perfect = [{"reward": r, "advantages": [0.0, 0.0]} for r in (1.0, 3.0)]
    constant = [{"reward": 1.0, "advantages": [-1.0]}, {"reward": 3.0, "advantages": [1.0]}]
    assert script.explained_share(perfect) == 1
    assert script.explained_share(constant) == 0


def test_mean_reward_knows_names_without_an_end(script):
    seen = []
    script.mean_reward(lambda tokens: seen.append(tokens) or 0.0, ["ana", "abcdefgh"], CHARS)
    assert seen == [[26, 0, 13, 0, 26], [26, 0, 1, 2, 3, 4, 5, 6, 7]]


def test_ranking_accuracy(script):
    weights = reward_model(script)
    a, b = script.encode("anna", CHARS), script.encode("milo", CHARS)
    best, worst = sorted([a, b], key=lambda t: -script.score(weights, t))
    pairs = [(best, worst)] * 3 + [(worst, best)]
    assert script.ranking_accuracy(weights, pairs) == 0.75
