import collections
import functools
import itertools
import math
import random
from types import SimpleNamespace

import float_gpt
import pytest
from harness import load, meets

CRITERIA = {
    "invalid_outputs": "== 0",
    "top_k_unique": "> 2",
    "top_p_unique": "> 2",
    "speculative_changes": "== 0",
    "acceptance_rate": "> 0.5",
    "tokens_per_target_call": "> 1.5",
    "sampling_tokens_per_call": "> 1.5",
    "draft_distance": "> 0.05",
    "rejection_distance": "< 0.03",
    "runtime_seconds": "< 420",
}
CHARS = list("abcdefghijklmnopqrstuvwxyz")


@pytest.mark.parametrize("metric", CRITERIA)
def test_criterion(run, metric):
    assert meets(run.metrics[metric], CRITERIA[metric])
    assert run.criteria[metric] == CRITERIA[metric]


def test_two_models_that_have_learned(run):
    m = run.metrics
    assert (m["target_params"], m["draft_params"]) == (4192, 1328)
    assert m["target_heldout_loss"] < m["draft_heldout_loss"] < 2.5


def test_beam_search_finds_likelier_names_than_greedy(run):
    m = run.metrics
    assert m["beam_log_prob"] > m["greedy_log_prob"] + 0.2
    assert meets(m["beam_log_prob"], run.criteria["beam_log_prob"])
    assert m["beam_losses"] < 10  # of 100 prompts


def test_top_k_and_top_p_say_more_than_greedy(run):
    m = run.metrics
    for metric in ("top_k_unique", "top_p_unique"):
        assert 2.5 < m[metric] <= 3  # different completions of a prompt; greedy has one


def test_the_distances_of_the_draws_tell_right_from_wrong(run):
    m = run.metrics
    assert m["direct_distance"] < 0.03
    assert m["naive_distance"] > 1.5 * m["rejection_distance"]
    assert m["draft_distance"] > 3 * m["rejection_distance"]


def table(run):
    """{strategy: [log-prob, below, unique, real, tokens/call, accepted or nan, gain]}."""
    lines = run.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("strategy "))
    rows = itertools.takewhile(bool, lines[start + 1 :])
    cells = {row[:16].strip(): row[16:].split()[:7] for row in rows}
    return {
        title: [math.nan if x == "-" else float(x) for x in row] for title, row in cells.items()
    }


def test_the_table_shows_each_strategy(run):
    rows, m = table(run), run.metrics
    assert list(rows) == [
        *("greedy", "plain", "temperature 0.5", "top-k 5", "top-p 0.8"),
        *("beam 2", "beam 4", "beam 8"),
        *("greedy, draft 1", "greedy, draft 2", "greedy, draft 4", "plain, draft 2"),
    ]
    assert rows["greedy"][0] == pytest.approx(m["greedy_log_prob"], abs=6e-3)
    assert rows["beam 8"][0] == pytest.approx(m["beam_log_prob"], abs=6e-3)
    assert rows["beam 8"][1] == pytest.approx(m["beam_losses"] / 100, abs=6e-3)
    assert rows["greedy"][1] == 0
    assert rows["plain"][0] < rows["top-p 0.8"][0] < rows["greedy"][0] < rows["beam 8"][0]
    assert [row[2] > 1 for row in rows.values()] == [False, *[True] * 4, *[False] * 6, True]
    assert [math.isnan(row[5]) for row in rows.values()] == [True] * 8 + [False] * 4
    for title in ("greedy", "plain", "temperature 0.5", "top-k 5", "top-p 0.8"):
        assert rows[title][4] == rows[title][6] == 1.0  # a call is a token
    for title in ("greedy, draft 1", "greedy, draft 2", "greedy, draft 4"):
        assert rows[title][:4] == rows["greedy"][:4]
        k = int(title[-1])
        assert rows[title][4] / (1 + k * 1328 / 4192) - 0.01 < rows[title][6] < rows[title][4]
    assert rows["greedy, draft 2"][4:6] == pytest.approx(
        [m["tokens_per_target_call"], m["acceptance_rate"]], abs=6e-3
    )
    # Speculative sampling is as likely as sampling: both are means of 300, of a spread of about 4.
    assert rows["plain, draft 2"][0] == pytest.approx(rows["plain"][0], abs=1.2)


def test_output_draws_distributions_costs_and_calls(run):
    lines = run.stdout.splitlines()
    percents = [
        line for line in lines if line.startswith(("greedy          ", "top-k 5         "))
    ][:2]
    assert percents[0].split()[1] == "100"
    assert percents[1].split().count("-") == 7
    assert sum(line.startswith(("greedy  ", "beam 8  ")) and ".." in line for line in lines) == 2
    assert sum(" | " in line and line.startswith("  ") for line in lines) == 6
    start = next(i for i, line in enumerate(lines) if line.startswith("   target "))
    assert all(line.count("0.") == 5 and "*" in line for line in lines[start + 1 : start + 9])


def weights(script, n=16, vocab_size=27, seed=3, scale=3):
    """A float model, larger than at the start, so that every part matters."""
    random.seed(seed)
    model = script.init_model(vocab_size, n)
    return {key: [[scale * p.data for p in row] for row in rows] for key, rows in model.items()}


def as_values(script, model):
    return {key: [[script.Value(x) for x in row] for row in rows] for key, rows in model.items()}


def named_as_in_microgpt(model):
    return {f"layer0.{k}" if k[:3] in ("att", "mlp") else k: rows for k, rows in model.items()}


@pytest.fixture
def tiny(script, monkeypatch):
    """Two letters and a boundary (id 2), at most 4 tokens after it; a target and a draft."""
    monkeypatch.setattr(script, "block_size", 4)
    target, draft = (weights(script, 4, 3, seed, 4) for seed in (5, 6))
    return SimpleNamespace(target=target, draft=draft, prompt=[2])


def uncached_probs(script, model, tokens):
    return script.softmax(script.read(model, tokens, {})[-1])


def all_sequences(script, model, prompt, shape=None):
    """{tokens: probability} of every finished sequence, by the chain rule and without a cache."""
    found, open_ones = {}, [(tuple(prompt), 1.0)]
    for tokens, p in open_ones:  # the list grows while we walk it
        if len(tokens) > 1 and tokens[-1] == tokens[0] or len(tokens) > script.block_size:
            found[tokens] = p
            continue
        logits = script.read(model, tokens, {})[-1]
        probs = (shape or script.softmax)(logits)
        open_ones += [((*tokens, i), p * q) for i, q in enumerate(probs) if q]
    return found


# --- the models ---


@pytest.mark.parametrize("n", [16, 8])
def test_transformer_is_microgpts_gpt_at_any_width(script, monkeypatch, n):
    gpt = load("microgpt")
    monkeypatch.setattr(gpt, "n_embd", n)
    monkeypatch.setattr(gpt, "n_head", n // 4)
    model, cache, theirs = weights(script, n), {}, {}
    for i, token in enumerate([26, 3, 0, 17, 8]):
        expected = gpt.gpt(named_as_in_microgpt(model), token, i, theirs)
        assert script.transformer(model, token, i, cache) == expected
    assert [cache["keys"], cache["values"]] == [*theirs[0][:2]]


def test_gradient_equals_the_hand_derived_one(script):
    floats = weights(script)
    for name in ("anna", "bartholomewjames"):
        tokens = script.encode(name, CHARS)
        model = as_values(script, floats)
        loss = script.cross_entropy(model, tokens)
        loss.backward()
        expected_loss, expected = float_gpt.loss_and_grads(named_as_in_microgpt(floats), tokens)
        assert loss.data == pytest.approx(expected_loss, abs=1e-12)
        for key, matrix in named_as_in_microgpt(model).items():
            for row, expected_row in zip(matrix, expected[key], strict=True):
                assert [p.grad for p in row] == pytest.approx(expected_row, abs=1e-10)


def test_gradient_of_the_draft_equals_finite_differences(script):
    floats, tokens = weights(script, 8), script.encode("mila", CHARS)
    model = as_values(script, floats)
    script.cross_entropy(model, tokens).backward()
    rng = random.Random(0)
    for key, matrix in floats.items():
        for _ in range(4):
            i = tokens[1] if key == "wte" else rng.randrange(min(4, len(matrix)))
            j = rng.randrange(len(matrix[i]))
            kept, slope = matrix[i][j], 0.0
            for sign in (1, -1):
                matrix[i][j] = kept + sign * 1e-5
                slope += sign * script.cross_entropy(floats, tokens) / 2e-5
            matrix[i][j] = kept
            assert model[key][i][j].grad == pytest.approx(slope, rel=1e-5, abs=1e-8), key


@pytest.mark.slow
def test_training_is_microgpts(script):
    gpt = load("microgpt")
    names = ["emma", "bo", "bartholomewjamess", "q"]
    random.seed(1)
    ours = list(itertools.islice(script.train(script.init_model(27, 16), names, CHARS), 6))
    random.seed(1)
    theirs = list(itertools.islice(gpt.train(gpt.init_model(27), names, CHARS), 6))
    assert ours == pytest.approx(theirs, abs=1e-9)
    random.seed(1)
    small = script.init_model(27, 8)
    assert sum(len(rows) * len(rows[0]) for rows in small.values()) == 1328
    assert all(0 < loss < 5 for loss in itertools.islice(script.train(small, names, CHARS), 6))


def test_adam_follows_its_definition(script):
    p, m, v = script.Value(1.0), [0.0], [0.0]
    theta, m_ref, v_ref = 1.0, 0.0, 0.0
    for t, grad in enumerate([0.5, -2.0, 1e-9, 0.0], 1):
        p.grad = grad
        script.adam_step([p], m, v, t, 0.01)
        m_ref, v_ref = 0.85 * m_ref + 0.15 * grad, 0.99 * v_ref + 0.01 * grad**2
        m_hat, v_hat = m_ref / (1 - 0.85**t), v_ref / (1 - 0.99**t)
        theta -= 0.01 * m_hat / (math.sqrt(v_hat) + 1e-8)
        assert p.data == pytest.approx(theta, abs=1e-15)
        assert p.grad == 0.0


def test_log_prob_is_the_chain_rule(script):
    model, tokens = weights(script), [26, 3, 0, 17, 26]
    logs = [
        math.log(uncached_probs(script, model, tokens[:i])[tokens[i]])
        for i in range(1, len(tokens))
    ]
    for given in (1, 2, 4):
        expected = math.fsum(logs[given - 1 :])
        assert script.log_prob(model, tokens, given) == pytest.approx(expected, abs=1e-12)
    assert script.cross_entropy(model, tokens) == pytest.approx(-math.fsum(logs) / 4, abs=1e-12)


def test_reading_at_once_equals_reading_one_by_one(script):
    model, tokens = weights(script, 8), [26, 1, 2, 3, 4, 5]
    at_once, cache = {}, {}
    expected = script.read(model, tokens, at_once)
    assert len(expected) == 6
    found = [script.read(model, tokens[:n], cache) for n in (1, 2, 5, 6)]
    assert [len(part) for part in found] == [1, 1, 3, 1]
    assert list(itertools.chain(*found)) == expected
    assert cache == at_once


def test_rewinding_forgets_what_was_read(script):
    model, cache, fresh = weights(script, 8), {}, {}
    script.read(model, [26, 1, 2, 3, 4], cache)
    script.rewind(cache, 3)
    script.read(model, [26, 1, 2], fresh)
    assert cache == fresh
    assert script.read(model, [26, 1, 2, 9, 9], cache) == script.read(
        model, [26, 1, 2, 9, 9], fresh
    )
    script.rewind(cache, 9)  # not read that far: nothing to forget
    assert len(cache["keys"]) == len(cache["values"]) == 5
    script.rewind({}, 0)


# --- distributions to draw from ---

LOGITS = [math.log(p) for p in (0.05, 0.4, 0.1, 0.25, 0.2)]


def test_greedy(script):
    assert script.greedy(LOGITS) == [0.0, 1.0, 0.0, 0.0, 0.0]
    assert script.greedy([2.0, 7.0, 7.0]) == [0.0, 1.0, 0.0]  # of equals, the first
    assert script.greedy([-1000.0, 1000.0, 0.0]) == [0.0, 1.0, 0.0]


def test_temperature(script):
    powers = [p**2 for p in (0.05, 0.4, 0.1, 0.25, 0.2)]
    expected = [p / math.fsum(powers) for p in powers]
    assert script.tempered(LOGITS, 0.5) == pytest.approx(expected)
    assert script.tempered(LOGITS, 1) == script.softmax(LOGITS)
    assert script.tempered(LOGITS, 1e-3) == pytest.approx(script.greedy(LOGITS))
    assert script.tempered(LOGITS, 1e6) == pytest.approx([0.2] * 5, abs=1e-5)


def test_top_k(script):
    assert script.top_k(LOGITS, 2) == pytest.approx([0, 0.4 / 0.65, 0, 0.25 / 0.65, 0])
    assert script.top_k(LOGITS, 3) == pytest.approx([0, 0.4 / 0.85, 0, 0.25 / 0.85, 0.2 / 0.85])
    assert script.top_k(LOGITS, 1) == script.greedy(LOGITS)
    assert script.top_k([1.0, 1.0, 1.0], 2) == [0.5, 0.5, 0.0]
    assert script.top_k(LOGITS, 9) == pytest.approx(script.softmax(LOGITS))


def test_top_p(script):
    for p, tokens in (
        (0.3, {1}),
        (0.41, {1, 3}),
        (0.64, {1, 3}),
        (0.84, {1, 3, 4}),
        (0.9, {1, 2, 3, 4}),
    ):
        probs = script.top_p(LOGITS, p)
        assert {i for i, x in enumerate(probs) if x} == tokens
        assert math.fsum(probs) == pytest.approx(1)
    assert script.top_p([0.0, 0.0], 0.5) == [1.0, 0.0]  # reached exactly: enough
    assert script.top_p(LOGITS, 1e-9) == script.greedy(LOGITS)


def test_sampling_without_a_cut_draws_the_same_tokens(script):
    """k = V and p = 1 leave everything: same random stream, same names."""
    model = weights(script, scale=4)
    outputs = []
    for shape in (
        script.softmax,
        functools.partial(script.top_k, k=27),
        functools.partial(script.top_p, p=1.0),
        functools.partial(script.tempered, t=1.0),
    ):
        random.seed(9)
        outputs.append([script.decode(model, [26], shape)[0] for _ in range(20)])
    assert outputs[0] == outputs[1] == outputs[2] == outputs[3]
    assert len(set(map(tuple, outputs[0]))) > 10


def test_draw_follows_its_weights(script):
    random.seed(2)
    counts = collections.Counter(script.draw([1.0, 0.0, 3.0]) for _ in range(4000))
    assert counts[1] == 0
    assert counts[2] / 4000 == pytest.approx(0.75, abs=0.035)


# --- decoding ---


def test_is_finished(script):
    for tokens, finished in (([2], 0), ([2, 0, 1], 0), ([2, 2], 1), ([2, 0, 2], 1)):
        assert script.is_finished(tokens) == bool(finished)
    assert not script.is_finished([26] + [0] * 15)
    assert script.is_finished([26] + [0] * 16)


def test_greedy_decoding_takes_the_most_probable_token_each_time(script):
    for seed in range(6):
        model, prompt = weights(script, 8, seed=seed), [26, seed]
        tokens = [*prompt]
        while len(tokens) < 17 and tokens[-1] != 26:
            probs = uncached_probs(script, model, tokens)
            tokens.append(probs.index(max(probs)))
        found, calls = script.decode(model, prompt, script.greedy)
        assert found == tokens
        assert calls == [([], 0)] * (len(tokens) - 2)
        assert prompt == [26, seed]


def reference_beam(script, model, prompt, width):
    """Whole sequences scored without a cache; stops when all are finished."""
    beam = [tuple(prompt)]

    def score(tokens):
        return script.log_prob(model, [*tokens], 1) if len(tokens) > 1 else 0.0

    while not all(map(script.is_finished, beam)):
        grown = [t for t in beam if script.is_finished(t)]
        for t in beam:
            if not script.is_finished(t):
                grown += [(*t, i) for i in range(len(model["wte"]))]
        beam = sorted(grown, key=score, reverse=True)[:width]
    return list(beam[0])


def test_a_beam_as_wide_as_the_tree_is_exhaustive_search(script, monkeypatch):
    monkeypatch.setattr(script, "block_size", 4)
    better = 0
    for seed in range(4, 9):
        model = weights(script, 4, 3, seed, 4)
        sequences = all_sequences(script, model, [2])
        best = max(sequences, key=sequences.get)
        assert script.beam_search(model, [2], 3**4)[0] == list(best)
        better += script.decode(model, [2], script.greedy)[0] != list(best)
    assert better > 1  # or the test says nothing


def test_a_beam_of_one_is_greedy(script):
    for seed in range(4):
        model = weights(script, 8, seed=seed)
        assert script.beam_search(model, [26], 1)[0] == script.decode(model, [26], script.greedy)[0]


@pytest.mark.parametrize("width", [2, 3, 5])
def test_beam_search_equals_a_reference_without_cache(script, monkeypatch, width):
    monkeypatch.setattr(script, "block_size", 5)
    for seed in (0, 3, 6, 7):
        model, prompt = weights(script, 4, 4, seed, 6), [3, seed % 3]
        found, calls = script.beam_search(model, prompt, width)
        assert found == reference_beam(script, model, prompt, width)
        assert len(calls) >= len(found) - 2
        assert set(map(str, calls)) == {"([], 0)"}
        assert prompt == [3, seed % 3]


# --- speculative decoding ---


def reference_greedy_speculation(script, target, draft, prompt, k):
    """Outputs and counts with argmax alone, without caches: the greedy algorithm of the plan."""

    def best(model, tokens):
        probs = uncached_probs(script, model, tokens)
        return probs.index(max(probs))

    tokens, calls = [*prompt], []
    while not script.is_finished(tokens):
        drafted = []
        while len(drafted) < k and len(tokens + drafted) < script.block_size and 26 not in drafted:
            drafted.append(best(draft, tokens + drafted))
        accepted = 0
        while accepted < len(drafted) and best(target, tokens) == drafted[accepted]:
            tokens.append(drafted[accepted])
            accepted += 1
        if not script.is_finished(tokens):
            tokens.append(best(target, tokens))
        calls.append((drafted, accepted))
    return tokens, calls


@pytest.mark.parametrize("k", [0, 1, 2, 5])
@pytest.mark.slow
def test_greedy_speculation_is_greedy_whatever_the_draft(script, k):
    agreed = 0
    for seed in range(3):
        target = weights(script, 8, seed=seed, scale=4)
        near = {key: [[w + 0.1 for w in r] for r in rows] for key, rows in target.items()}
        for draft in (weights(script, 8, seed=seed + 50), near, target):
            found, calls = script.speculate(target, draft, [26, seed], script.greedy, k)
            assert found == script.decode(target, [26, seed], script.greedy)[0]
            expected = reference_greedy_speculation(script, target, draft, [26, seed], k)
            assert (found, calls) == expected
            agreed += sum(accepted for _, accepted in calls)
    assert agreed > 10 or k == 0


@pytest.mark.parametrize("shape", ["greedy", "softmax"])
def test_a_draft_equal_to_the_target_is_always_accepted(script, shape):
    target = weights(script, 8, scale=4)
    random.seed(1)
    for _ in range(5):
        tokens, calls = script.speculate(target, target, [26], getattr(script, shape), 3)
        assert all(len(drafted) == accepted for drafted, accepted in calls)
        assert len(calls) == math.ceil((len(tokens) - 1) / 4)
        assert sum(accepted for _, accepted in calls) >= len(tokens) - 1 - len(calls)


class Paths:
    """A stand-in for `random` that goes down every path, and knows how probable each one is.

    random() is a number of which only its comparison with another, after scaling, is decided.
    """

    def __init__(self):
        self.pending, self.script, self.place, self.probability = [[]], [], 0, 1.0

    def branch(self, weights):
        """The index of a branch: the one prescribed, or the first while noting the others."""
        likely = [i for i, w in enumerate(weights) if w > 0]
        if self.place == len(self.script):
            self.pending += [[*self.script, i] for i in likely[1:]]
            self.script.append(likely[0])
        i = self.script[self.place]
        self.place += 1
        self.probability *= weights[i] / math.fsum(weights)
        return i

    def choices(self, population, weights):
        return [population[self.branch(weights)]]

    def random(self):
        paths = self

        class Uniform:
            def __mul__(self, scale):
                return Uniform(scale)

            def __init__(self, scale=1.0):
                self.scale = scale

            def __ge__(self, bound):
                below = min(1.0, bound / self.scale)
                return bool(paths.branch([below, 1 - below]))

            def __lt__(self, bound):
                return not self >= bound

        return Uniform()

    def distribution(self, run):
        """{result: probability} of run(), over all paths."""
        found = collections.Counter()
        while self.pending:
            self.script, self.place, self.probability = self.pending.pop(), 0, 1.0
            result = run()
            found[result] += self.probability
        return found


def exactly(script, monkeypatch, run):
    paths = Paths()
    with monkeypatch.context() as patch:
        patch.setattr(script, "random", paths)
        return paths.distribution(run)


def close(found, expected):
    assert set(found) == set(expected)
    for key, p in expected.items():
        assert found[key] == pytest.approx(p, abs=1e-12), key


def test_decoding_draws_from_the_models_distribution_exactly(script, monkeypatch, tiny):
    def run():
        return tuple(script.decode(tiny.target, tiny.prompt, script.softmax)[0])

    expected = all_sequences(script, tiny.target, tiny.prompt)
    assert math.fsum(expected.values()) == pytest.approx(1)
    close(exactly(script, monkeypatch, run), expected)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("cut", [None, 2])
def test_speculation_draws_from_the_targets_distribution_exactly(script, monkeypatch, tiny, k, cut):
    """Every path of drafts, acceptances and residuals, summed up: whole sequences, not a sample."""
    shape = functools.partial(script.top_k, k=cut) if cut else script.softmax

    def run():
        return tuple(script.speculate(tiny.target, tiny.draft, tiny.prompt, shape, k)[0])

    found = exactly(script, monkeypatch, run)
    expected = all_sequences(script, tiny.target, tiny.prompt, shape)
    drafts = all_sequences(script, tiny.draft, tiny.prompt, shape)
    difference = [p - drafts.get(key, 0.0) for key, p in expected.items()]
    assert math.fsum(map(abs, difference)) > 0.4  # the draft would say something else
    assert max(expected.values()) < 0.7  # and there is more than one thing to say
    close(found, expected)


def test_verify_accepts_and_redraws_with_the_stated_probabilities(script, monkeypatch):
    q, p, after = [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.0, 0.25, 0.75]
    # Token 0 stands in 2 cases of 5; the residual is all on token 2.
    found = exactly(script, monkeypatch, lambda: script.verify([0], [q], [p, after]))
    close(found, {(0, 2): 0.6, (1, 1): 0.1, (1, 2): 0.3})
    for x in (1, 2):
        found = exactly(script, monkeypatch, lambda x=x: script.verify([x], [q], [p, after]))
        close(found, {(1, 1): 0.25, (1, 2): 0.75})
    found = exactly(script, monkeypatch, lambda: script.verify([], [], [p]))
    close(found, {(0, 0): 0.2, (0, 1): 0.3, (0, 2): 0.5})
    # The first rejection ends it, however good the later ones would have been.
    found = exactly(script, monkeypatch, lambda: script.verify([0, 1], [q, q], [p, p, after]))
    close(found, {(0, 2): 0.6, (2, 1): 0.1, (2, 2): 0.3})


def test_a_draw_from_p_after_a_rejection_is_not_the_targets_distribution(script, monkeypatch):
    q, p = [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]

    def run():
        x = script.draw(q)
        return x if script.verify([x], [q], [p, p])[0] else script.draw(p)

    found = exactly(script, monkeypatch, run)
    close(found, dict(enumerate(script.redrawn_from_p(p, q))))
    assert found[0] > 0.2 and found[1] > 0.3 and found[2] < 0.5  # 0.2 < (1 - 0.3) * 0.5


def test_the_rate_of_rejection_is_the_distance(script, monkeypatch):
    rng = random.Random(4)
    for _ in range(5):
        p, q = (
            [x / math.fsum(xs) for x in xs]
            for xs in ([rng.random() for _ in range(5)] for _ in "pq")
        )

        def run(p=p, q=q):
            return script.verify([script.draw(q)], [q], [p, p])[0]

        assert exactly(script, monkeypatch, run)[0] == pytest.approx(script.distance(p, q))
        assert script.distance(p, q) == pytest.approx(1 - math.fsum(map(min, p, q)))
    assert script.distance([1.0, 0.0], [0.0, 1.0]) == 1.0


@pytest.mark.parametrize("shape", ["greedy", "softmax"])
@pytest.mark.slow
def test_caches_always_hold_what_a_fresh_reading_would(script, monkeypatch, shape):
    """Before each call of either model: keys and values of the tokens it has read, no others."""
    target, draft = (weights(script, n, seed=7, scale=4) for n in (16, 8))
    real, lengths = script.read, {"target": [], "draft": []}

    def checked(model, tokens, cache):
        seen, fresh = len(cache["keys"]) if cache else 0, {}
        if seen:
            real(model, tokens[:seen], fresh)
        assert cache == fresh
        lengths["target" if model is target else "draft"].append(len(tokens) - seen)
        return real(model, tokens, cache)

    monkeypatch.setattr(script, "read", checked)
    random.seed(3)
    for letter in range(4):
        before = len(lengths["target"])
        _, calls = script.speculate(target, draft, [26, letter], getattr(script, shape), 3)
        read_now = lengths["target"][before:]
        assert len(read_now) == len(calls)  # one call scores them all
        assert read_now[0] == 2 + len(calls[0][0])
        assert read_now[1:] == [1 + len(drafted) for drafted, _ in calls[1:]]
    assert set(lengths["draft"]) <= {1, 2}  # the prompt, or after all were accepted; else one


def test_propose_stops_at_the_boundary_and_before_the_end_of_the_context(script):
    draft = weights(script, 8, scale=4)
    random.seed(5)
    for length in (1, 2, 9, 13, 14, 15, 16):
        tokens = [26] + [3] * (length - 1)
        for _ in range(5):
            drafted, q = script.propose(draft, tokens, {}, script.softmax, 3)
            assert len(drafted) == len(q) <= min(3, 16 - length)
            assert 26 not in drafted[:-1]
            assert len(drafted) == min(3, 16 - length) or drafted[-1] == 26
            for i, probs in enumerate(q):
                assert probs == uncached_probs(script, draft, tokens + drafted[:i])


# --- evaluation and output ---


def test_try_out(script):
    random.seed(6)
    p, q = [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]
    for found in script.try_out(p, q, 4000):
        assert math.fsum(found) == pytest.approx(1)
        assert script.distance(p, found) < 0.03
    assert script.try_out([0.0, 1.0], [1.0, 0.0], 10) == [[0.0, 1.0], [0.0, 1.0]]


def test_is_valid(script):
    assert script.is_valid([26, 1, 2, 26], [26, 1], 27)
    assert script.is_valid([26] + [1] * 16, [26, 1], 27)
    for tokens in ([26, 1, 2], [26, 2, 26], [26, 1, 26, 26], [26, 1, 27, 26], [26, 1] + [0] * 16):
        assert not script.is_valid(tokens, [26, 1], 27)


def test_evaluate(script):
    model = weights(script, 8)
    answers = {1: ([26, 1, 5, 26], [([5, 7], 1)]), 2: ([26, 2, 4], [([4], 0), ([], 0)])}
    result = script.evaluate(model, lambda prompt: answers[prompt[1]], [[26, 1], [26, 2], [26, 1]])
    assert result["outputs"] == tuple(answers[i][0] for i in (1, 2, 1))
    assert (result["unique"], result["invalid"]) == (1.0, 1)  # the same prompt twice
    assert result["acceptance"] == 2 / 5
    assert result["tokens_per_call"] == 5 / 4
    assert result["drafts_per_call"] == 5 / 4
    assert result["log_probs"][0] == script.log_prob(model, [26, 1, 5, 26], 2)


def test_ways_to_ask(script):
    target, draft = (weights(script, n, seed=7, scale=4) for n in (16, 8))
    ways, strategies = script.ways_to_ask(target, draft)
    assert ways["temperature 0.5"](LOGITS) == script.tempered(LOGITS, 0.5)
    assert ways["top-k 5"](LOGITS * 2) == script.top_k(LOGITS * 2, 5)
    assert ways["top-p 0.8"](LOGITS) == script.top_p(LOGITS, 0.8)
    prompt = [26, 4]
    for title, expected in {
        "greedy": lambda: script.decode(target, prompt, script.greedy),
        "top-p 0.8": lambda: script.decode(target, prompt, ways["top-p 0.8"]),
        "beam 4": lambda: script.beam_search(target, prompt, 4),
        "greedy, draft 4": lambda: script.speculate(target, draft, prompt, script.greedy, 4),
        "plain, draft 2": lambda: script.speculate(target, draft, prompt, script.softmax, 2),
    }.items():
        random.seed(8)
        found = strategies[title][0](prompt)
        random.seed(8)
        assert found == expected(), title
    random_ones = [title for title, (_, is_random) in strategies.items() if is_random]
    assert random_ones == ["plain", "temperature 0.5", "top-k 5", "top-p 0.8", "plain, draft 2"]


def test_draw_calls(script, capsys):
    tokens = script.encode("maria", CHARS)
    calls = [(tokens[2:4] + [25], 2), ([0, 26], 2)]
    script.draw_calls(tokens[:2], tokens[:5] + [0, 26], calls, CHARS)
    assert capsys.readouterr().out == "  m | ar(z)I | a.\n"
    script.draw_calls([26], [26, 1, 26], [([3], 0), ([], 0)], CHARS)
    assert capsys.readouterr().out == "   | (d)B | .\n"


def test_draw_cost(script, capsys):
    model, tokens = weights(script, 8, scale=4), script.encode("bo", CHARS)
    script.draw_cost("title", model, tokens, 2, CHARS)
    title, name, log_prob, bar = capsys.readouterr().out.split()
    assert (title, name) == ("title", "bo")
    assert float(log_prob) == pytest.approx(script.log_prob(model, tokens, 2), abs=6e-3)
    assert bar.count("o") == round(-10 * script.log_prob(model, tokens[:3], 2))
    assert bar.count("o") + bar.count(".") == len(bar)


def test_show_ways(script, capsys):
    logits = [-float(i) for i in range(27)]
    script.show_ways({"plain": script.softmax, "one": script.greedy}, logits, CHARS)
    header, plain, one = (line.split() for line in capsys.readouterr().out.splitlines())
    assert header == [*CHARS[:12], "others"]
    assert plain == ["plain", *(f"{100 * p:.0f}" for p in script.softmax(logits)[:12]), "0"]
    assert one == ["one", "100", *"-" * 11, "0"]
