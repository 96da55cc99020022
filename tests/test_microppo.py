"""microppo: the steps of a round and the reward model, each by its definition."""

import itertools
import math
import random
import statistics

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


def test_the_kl_is_more_than_the_rates_alone_ask_for(run):
    """No policy has this preferred rate for less than the KL of its yes and no to the base's."""
    m = run.metrics
    p, q = m["preferred_rate"], m["base_preferred_rate"]
    assert kl([p, 1 - p], [q, 1 - q]) < m["kl"] < 2.5
    assert m["objective_gain"] > 0.03


# --- steps 1 to 3: episodes and the value function ---


def test_value_is_linear_and_its_step_is_the_gradient(script):
    """Of the squared error of each prefix, one after the other."""
    table = gaussian(8, 27)
    assert script.expected_reward(table, [26, 3, 3]) == pytest.approx(
        table[0][26] + table[1][3] + table[2][3]
    )
    weights = {"v": [list(row) for row in table]}
    tokens = [26, 3, 5, 26]
    script.learn_to_expect(table, script.Episode(tokens, 0.8, None, None, None))
    where = [("v", i, token) for i, token in enumerate(tokens)] + [("v", 1, 5), ("v", 0, 3)]
    for t in (2, 3):

        def loss(w, t=t):
            return 0.5 * (0.8 - script.expected_reward(w["v"], tokens[:t])) ** 2

        for (_, i, j), slope in zip(where, slopes(loss, weights, where), strict=True):
            weights["v"][i][j] -= script.value_rate * slope
    assert flat(table) == pytest.approx(flat(weights), abs=1e-9)


def episodes_of(script, policy, reference, size=6):
    """Episodes with each prompt in turn, and the value table."""
    table = gaussian(script.block_size, 4, 0.3, seed=9)
    random.seed(9)
    episodes = [
        script.sample_episode(policy, reference, by_length, table, i % 3) for i in range(size)
    ]
    return episodes, table


def test_an_episode_holds_what_it_says(script, monkeypatch):
    policy, reference = policies(script, monkeypatch)
    complete, writers = script.complete, []
    monkeypatch.setattr(script, "complete", lambda m, p: writers.append(m) or complete(m, p))
    episodes, table = episodes_of(script, policy, reference)
    assert all(writer is policy for writer in writers)
    assert [e.tokens[1] for e in episodes] == [0, 1, 2, 0, 1, 2]
    for episode in episodes:
        tokens = episode.tokens
        probs, ref = (next_probs(script, m, tokens) for m in (policy, reference))
        assert episode.reward == by_length(tokens)
        ref_logs = [math.log(p) for row in ref for p in row]
        assert flat(episode.ref_log_probs) == pytest.approx(ref_logs, rel=1e-12)
        drawn = [p[t] for p, t in zip(probs, tokens[2:], strict=True)]
        assert episode.old_probs == pytest.approx(drawn, rel=1e-12)
        # What is expected before a token comes from the tokens before it, never from the token.
        before = [table[0][3] + table[1][tokens[1]]]
        for t, token in enumerate(tokens[2:-1], 2):
            before.append(before[-1] + table[t][token])
        expected = [episode.reward - b for b in before]
        assert episode.advantages == pytest.approx(expected, abs=1e-12)


# --- steps 4 and 5: the objective ---


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "slope"),
    [
        (1.0, 2.0, 2.0, 2.0),  # nothing has moved: the policy gradient
        (1.0, -2.0, -2.0, -2.0),
        (1.1, 2.0, 2.2, 2.0),
        (1.3, 2.0, 2.4, 0.0),  # more probable by more than a fifth, as it should: cut
        (0.7, 2.0, 1.4, 2.0),  # it moved the wrong way: free to come back
        (0.7, -2.0, -1.6, 0.0),  # less probable by more than a fifth, as it should: cut
        (1.3, -2.0, -2.6, -2.0),
        (0.9, -2.0, -1.8, -2.0),
        (1.3, 0.0, 0.0, 0.0),
    ],
)
def test_clipped_objective(script, ratio, advantage, objective, slope):
    for r in (ratio, script.Value(ratio)):
        found, is_cut = script.clipped_objective(r, advantage)
        assert script.floats([found])[0] == pytest.approx(objective)
        assert is_cut == (slope == 0 and advantage != 0)
    if isinstance(found, script.Value):
        (found + 0.0).backward()
    assert r.grad == slope


def objective_of(script, policy, episodes, price):
    """The objective of a batch, as the loop computes it."""
    return script.batch_objective([script.token_terms(policy, e) for e in episodes], price)


def test_first_gradient_is_the_policy_gradient(script, monkeypatch):
    """Nothing has moved: d objective = mean of sum_t A_t d log pi_t, and no token is cut."""
    policy, reference = policies(script, monkeypatch)
    episodes, _ = episodes_of(script, policy, reference)
    model = lift(script, policy)
    terms = [script.token_terms(model, e) for e in episodes]
    assert not any(term.is_cut for row in terms for term in row)
    objective = script.batch_objective(terms, 0.0)
    sums = [math.fsum(e.advantages) for e in episodes]
    assert objective.data == pytest.approx(math.fsum(sums) / len(episodes), abs=1e-12)
    objective.backward()

    def weighted_log_probs(m):
        total = 0.0
        for e in episodes:
            probs = script.completion_probs(m, e.tokens)
            for p, token, a in zip(probs, e.tokens[2:], e.advantages, strict=True):
                total = total + a / len(episodes) * script.log(p[token])
        return total

    expected = flat(gradient_of(script, weighted_log_probs, policy))
    assert flat(gradients(model)) == pytest.approx(expected, abs=1e-12)
    assert max(map(abs, expected)) > 0.01


def moved(policy, by):
    rng = random.Random(2)
    return {k: [[w + rng.gauss(0, by) for w in row] for row in rows] for k, rows in policy.items()}


def test_terms_written_out_after_a_move(script, monkeypatch):
    """Ratio, clip and KL of a policy that has left the old one, by the definitions."""
    policy, reference = policies(script, monkeypatch)
    episodes, _ = episodes_of(script, policy, reference)
    later = moved(policy, 0.15)
    total, cut, seen = 0.0, 0, 0
    for e in episodes:
        new, old, ref = (next_probs(script, m, e.tokens) for m in (later, policy, reference))
        terms = script.token_terms(later, e)
        places = zip(new, old, ref, e.tokens[2:], e.advantages, terms, strict=True)
        for p, o, q, token, a, term in places:
            ratio = p[token] / o[token]
            gain = min(ratio * a, min(max(ratio, 0.8), 1.2) * a)
            is_cut = (a > 0 and ratio > 1.2) or (a < 0 and ratio < 0.8)
            assert term == (
                pytest.approx(ratio),
                pytest.approx(gain),
                is_cut,
                pytest.approx(kl(p, q), rel=1e-9),
            )
            total += gain - 0.3 * kl(p, q)
            cut += is_cut
            seen += 1
    assert 0 < cut < seen
    for model in (later, lift(script, later)):
        found = objective_of(script, model, episodes, 0.3)
        assert script.floats([found])[0] == pytest.approx(total / len(episodes), abs=1e-12)


@pytest.mark.parametrize("price", [0.0, 0.7])
def test_policy_gradient_equals_finite_differences(script, monkeypatch, price):
    policy, reference = policies(script, monkeypatch)
    episodes, _ = episodes_of(script, policy, reference, size=3)
    later = moved(policy, 0.1)

    def objective(model):
        return objective_of(script, model, episodes, price)

    where = places_of_each(later, 4)
    found = pick(gradient_of(script, objective, later), where)
    assert found == pytest.approx(slopes(objective, later, where), rel=1e-5, abs=1e-7)
    assert sum(abs(g) > 1e-3 for g in found) > 10


def episode_of(script, monkeypatch, tokens, policy, reference, table):
    """The episode of a given completion."""
    monkeypatch.setattr(script, "complete", lambda model, prompt: tokens)
    return script.sample_episode(policy, reference, by_length, table, tokens[1])


def test_price_is_charged_on_the_kl_of_whole_names(script, monkeypatch):
    """Its mean over all names, weighted by the policy, is sum p log(p / ref) over all names."""
    policy, reference = policies(script, monkeypatch, block_size=4)
    table, charged, brute = [[0.0] * 4] * 4, 0.0, 0.0
    for tokens in all_completions(1, letters=3, block_size=4):
        episode = episode_of(script, monkeypatch, tokens, policy, reference, table)
        p, q = (probability(script, m, tokens) for m in (policy, reference))
        free, priced = (objective_of(script, policy, [episode], price) for price in (0.0, 1.0))
        charged += p * (free - priced)
        brute += p * math.log(p / q)
    assert charged == pytest.approx(brute, rel=1e-9)
    assert brute > 0.05


def test_value_function_leaves_the_mean_gradient(script, monkeypatch):
    """Exact over all names: with V or without, it is the gradient of the expected reward."""
    policy, reference = tiny_models(script, monkeypatch)
    completions = list(all_completions(0))
    where = places_of_each(policy, 1)
    totals = []
    for table in ([[0.0] * 3] * 4, gaussian(4, 3)):
        total = [0.0] * len(where)
        for tokens in completions:
            episode = episode_of(script, monkeypatch, tokens, policy, reference, table)
            weight = probability(script, policy, tokens)
            grads = gradient_of(
                script, lambda m, e=episode: objective_of(script, m, [e], 0.0), policy
            )
            total = [a + weight * g for a, g in zip(total, pick(grads, where), strict=True)]
        totals.append(total)
    assert totals[1] == pytest.approx(totals[0], abs=1e-9)

    def mean_reward(model):
        return math.fsum(probability(script, model, t) * by_length(t) for t in completions)

    expected = slopes(mean_reward, policy, where)
    assert totals[0] == pytest.approx(expected, rel=1e-5, abs=1e-8)
    assert max(map(abs, expected)) > 1e-3


# --- the loop ---


def a_little_ppo(script, monkeypatch, price):
    """Three rounds. Returns them, the reference, the policy and the value table.

    The rule is out of reach: what the loop learns is the reward alone.
    """
    monkeypatch.setattr(script, "num_rounds", 3)
    monkeypatch.setattr(script, "is_preferred", None)
    (base,) = tiny_models(script, monkeypatch, 1)
    kept = repr(base)
    policy, table = lift(script, base), [[0.0] * 3 for _ in range(4)]
    random.seed(7)
    rounds = list(script.train_ppo(policy, base, by_length, table, [1], price))
    assert repr(base) == kept, "the reference has moved"
    return rounds, base, policy, table


def test_ppo_moves_policy_and_values(script, monkeypatch):
    rounds, base, policy, table = a_little_ppo(script, monkeypatch, 0.3)
    assert len(rounds) == 3
    assert lower(policy) != base
    assert any(map(any, table))
    for episodes, after in rounds:
        assert len(episodes) == script.batch_size
        assert len(after) == 3
        for episode in episodes:
            assert episode.reward == by_length(episode.tokens)
            assert episode.tokens[1] == 1
    # In the first round the old policy is the base, in the second it is not.
    for tokens_of_base, (episodes, _) in ((True, rounds[0]), (False, rounds[1])):
        for e in episodes:
            probs = zip(next_probs(script, base, e.tokens), e.tokens[2:], strict=True)
            same = e.old_probs == pytest.approx([p[token] for p, token in probs], rel=1e-9)
            assert same == tokens_of_base


def test_updates_of_a_round(script, monkeypatch):
    """Two updates with the same names, at a rate that falls to 0 over the rounds."""
    adam_step, updates = script.adam_step, []

    def spy(params, m, v, step, rate):
        assert any(m) == any(v) == (step > 1)  # Adam's memory begins empty
        updates.append((step, rate))
        adam_step(params, m, v, step, rate)

    monkeypatch.setattr(script, "adam_step", spy)
    monkeypatch.setattr(script, "epsilon", 0.02)
    rounds, *_ = a_little_ppo(script, monkeypatch, 0.3)
    assert [step for step, _ in updates] == [1, 2, 3, 4, 5, 6]
    rates = [0.01 * share for share in (1, 1, 2 / 3, 2 / 3, 1 / 3, 1 / 3)]
    assert [rate for _, rate in updates] == pytest.approx(rates)
    assert script.clip_fraction(rounds) > 0


def test_a_round_keeps_the_policy_after_each_update(script, monkeypatch):
    """The first is the one that wrote the names, and the last is the one of the next round."""
    for updates in (1, 2):
        monkeypatch.setattr(script, "updates_per_round", updates)
        rounds, base, policy, _ = a_little_ppo(script, monkeypatch, 0.3)
        assert rounds[0][1][0] == base
        assert rounds[-1][1][-1] == lower(policy)
        for (_, earlier), (_, later) in itertools.pairwise(rounds):
            assert earlier[-1] == later[0]
        for episodes, policies in rounds:
            assert len(policies) == updates + 1
            for k, kept in enumerate(policies):
                assert all(isinstance(x, float) for x in flat(kept["wte"]))
                for episode in episodes:
                    for term, advantage in zip(
                        script.token_terms(kept, episode), episode.advantages, strict=True
                    ):
                        assert (term.ratio == pytest.approx(1, abs=1e-12)) == (k == 0)
                        expected = script.clipped_objective(term.ratio, advantage)
                        assert (term.added, term.is_cut) == expected


def test_each_round_raises_its_objective(script, monkeypatch):
    """It begins as the mean of the sums of advantages: in round 1, there is no KL to the base."""
    rounds, base, policy, _ = a_little_ppo(script, monkeypatch, 0.3)
    first, last = rounds[0], rounds[-1]
    sums = [math.fsum(e.advantages) for e in first[0]]
    before = objective_of(script, base, first[0], 0.3)
    assert before == pytest.approx(math.fsum(sums) / len(sums), abs=1e-9)
    assert all(script.objective_gain([one], 0.3) > 0 for one in rounds)
    gain = objective_of(script, lower(policy), last[0], 0.3)
    gain -= objective_of(script, last[1][0], last[0], 0.3)
    assert script.objective_gain([last], 0.3) == pytest.approx(gain, abs=1e-12)


def test_values_are_taught_the_rewards_after_the_advantages(script, monkeypatch):
    """The advantages of each round come from the table that the rounds before have left."""
    rounds, _, _, table = a_little_ppo(script, monkeypatch, 0.0)
    replayed = [[0.0] * 3 for _ in range(4)]
    for episodes, _ in rounds:
        for e in episodes:
            expected = e.reward - script.expected_reward(replayed, e.tokens[:-1])
            assert e.advantages[-1] == pytest.approx(expected, abs=1e-12)
        for e in episodes:
            script.learn_to_expect(replayed, e)
    assert replayed == table


# --- what judges it, and what is drawn ---


def some_rounds(script, monkeypatch):
    """Two rounds of two names each, with made-up figures that differ after each update.

    A policy is here only the number of the updates that it has had, and its terms are made up.
    """
    names = [[26, 12, 8, 11, 14, 26], [26, 0, 13, 13, 0, 26]]  # milo, anna
    rounds = []
    made_up = {}
    for number in (0, 1):
        episodes = [
            script.Episode(tokens, reward + number, [0.5, 0.25], None, [0.5, 0.75])
            for tokens, reward in zip(names, (2.0, -1.0))
        ]
        for k in (0, 1, 2):
            # The KL of the names is 0.5 + k + number and 1 + k + number, and each name adds k.
            one = [(k, k == 1 and number == 0, 0.5 + number), (0.0, False, float(k))]
            other = [(k, k == 0, 1.0), (0.0, k == 2, float(k) + number)]
            for episode, name in zip(episodes, (one, other)):
                made_up[k, episode.reward] = [script.Term(1.0, *term) for term in name]
        rounds.append((episodes, [0, 1, 2]))
    monkeypatch.setattr(script, "token_terms", lambda k, episode: made_up[k, episode.reward])
    return rounds


def test_figures_of_rounds(script, monkeypatch):
    """The KL before the updates, the clip of the last one, and the objective before and after."""
    rounds = some_rounds(script, monkeypatch)
    assert script.judge_rounds(rounds, CHARS) == pytest.approx(
        {"reward": 1.0, "kl": 1.25, "preferred_rate": 0.5}
    )
    assert script.clip_fraction(rounds) == pytest.approx(1 / 8)
    assert script.objective_gain(rounds, 0.25) == pytest.approx(2 - 0.25 * 2)


def test_mean_reward_knows_names_without_an_end(script):
    seen = []

    def reward_of(tokens):
        seen.append(tokens)
        return float(len(tokens))

    assert script.mean_reward(reward_of, ["ana", "abcdefgh"], CHARS) == 7
    assert seen == [[26, 0, 13, 0, 26], [26, 0, 1, 2, 3, 4, 5, 6, 7]]


def test_drawings(script, capsys, monkeypatch):
    monkeypatch.setattr(script, "num_rounds", 2)
    monkeypatch.setattr(script, "watch_every", 2)
    (base,) = tiny_models(script, monkeypatch, 1)
    table = [[0.0] * 3 for _ in range(4)]
    training = script.train_ppo(lift(script, base), base, by_length, table, [0, 1], 0.3)
    script.show_rounds(training, 0.3, ["a", "b"])
    script.show_rewards([(tokens_of("milena"), tokens_of("anna"))], by_length, CHARS)
    out = capsys.readouterr().out
    assert "milena" in out
    assert out.isascii()


# --- the reward model ---


def test_reward_model_has_about_500_parameters(script):
    shapes = {name: (len(m), len(m[0])) for name, m in script.init_reward_model(27).items()}
    assert shapes == {"embed": (27, 8), "hidden": (16, 17), "out": (1, 16)}
    random.seed(1)
    numbers = [x for matrix in script.init_reward_model(27).values() for x in flat(matrix)]
    assert statistics.fmean(numbers) == pytest.approx(0, abs=0.05)
    assert statistics.pstdev(numbers) == pytest.approx(0.3, abs=0.05)


def test_raw_reward_written_out(script):
    weights = reward_matrices()
    total = 0.0
    for a, b in [(26, 0), (0, 13), (13, 13), (13, 0), (0, 26)]:  # .anna.
        x = weights["embed"][a] + weights["embed"][b] + [1.0]
        for row, out in zip(weights["hidden"], weights["out"][0], strict=True):
            total += out * math.tanh(math.fsum(w * xi for w, xi in zip(row, x, strict=True)))
    assert script.raw_reward(weights, tokens_of("anna")) == pytest.approx(total, abs=1e-12)


def test_gradient_equals_finite_differences(script):
    weights = reward_matrices(4)
    tokens = [3, 0, 1, 1, 0, 3]  # letters and a pair of neighbours more than once
    grads = zeros_like(weights)
    script.add_gradient(weights, tokens, -0.7, grads)
    where = places_of_each(weights, 20)
    expected = slopes(lambda w: -0.7 * script.raw_reward(w, tokens), weights, where)
    assert pick(grads, where) == pytest.approx(expected, rel=1e-6, abs=1e-8)
    script.add_gradient(weights, tokens, -0.7, grads)  # it adds
    assert pick(grads, where) == pytest.approx([2 * slope for slope in expected], abs=1e-7)


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
    monkeypatch.setattr(script, "reward_learning_rate", 0.01)
    monkeypatch.setattr(script, "reward_epochs", 2)
    pairs = [([3, 0, 1, 0, 3], [3, 0, 2, 2, 1, 3]), ([3, 1, 2, 3], [3, 1, 1, 3])]
    trained = reward_matrices(4)
    training = script.train_reward_model(trained, pairs)
    where = places_of_each(trained, 20)
    for step in range(4):
        chosen, rejected = pairs[step % 2]

        def loss(w, chosen=chosen, rejected=rejected):
            margin = script.raw_reward(w, chosen) - script.raw_reward(w, rejected)
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
    rewards = [reward(tokens) for tokens in names]
    raw = [script.raw_reward(weights, tokens) for tokens in names]
    assert math.fsum(rewards) == pytest.approx(0, abs=1e-9)
    assert math.fsum(r * r for r in rewards) / 100 == pytest.approx(1)
    ratio = (raw[0] - raw[1]) / (rewards[0] - rewards[1])
    assert raw[2] - raw[7] == pytest.approx(abs(ratio) * (rewards[2] - rewards[7]))


def test_ranking_accuracy(script):
    weights = reward_matrices()
    names = tokens_of("anna"), tokens_of("milo")
    worst, best = sorted(names, key=lambda tokens: script.raw_reward(weights, tokens))
    pairs = [(best, worst)] * 3 + [(worst, best)]
    assert script.ranking_accuracy(weights, pairs) == 0.75
