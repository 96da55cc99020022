"""microbeam: decoding without a cache as reference, and distributions by every path of chance."""

import collections
import functools
import itertools
import math
import random
from types import SimpleNamespace

import pytest
from support import float_gpt
from support.numbers import adam, flat, gpt_matrices, gradients, lift, lower, softmax

CHARS = list("abcdefghijklmnopqrstuvwxyz")


def test_two_models_that_have_learned(run):
    m = run.metrics
    assert (m["target_params"], m["draft_params"]) == (4192, 1328)
    assert m["target_heldout_loss"] < m["draft_heldout_loss"] < 2.5


def test_beam_search_seldom_loses_to_greedy(run):
    assert run.metrics["beam_losses"] < 10  # of 100 prompts
    assert run.metrics["beam_log_prob"] > run.metrics["greedy_log_prob"] + 0.2


def test_the_distances_of_the_draws_tell_right_from_wrong(run):
    m = run.metrics
    assert m["direct_distance"] < 0.03
    assert m["naive_distance"] > 1.5 * m["rejection_distance"]
    assert m["draft_distance"] > 3 * m["rejection_distance"]


def weights(n=16, vocab_size=27, seed=3, scale=3):
    """A float model of width n, `scale` times as large as at the start: every part matters."""
    model = gpt_matrices(vocab_size, n, std=0.08 * scale, seed=seed)
    return {name.removeprefix("layer0."): matrix for name, matrix in model.items()}


@pytest.fixture
def tiny(script, monkeypatch):
    """Two letters and a boundary (id 2), at most 4 tokens after it; a target and a draft."""
    monkeypatch.setattr(script, "block_size", 4)
    target, draft = (weights(4, 3, seed, 4) for seed in (5, 6))
    return SimpleNamespace(target=target, draft=draft, prompt=[2])


def uncached_probs(script, model, tokens):
    return softmax(script.read(model, tokens, {})[-1])


def all_sequences(script, model, prompt, shape=softmax):
    """{tokens: probability} of every finished sequence, by the chain rule and without a cache."""
    found, open_ones = {}, [(tuple(prompt), 1.0)]
    for tokens, p in open_ones:  # the list grows while we walk it
        if len(tokens) > 1 and tokens[-1] == tokens[0] or len(tokens) > script.block_size:
            found[tokens] = p
            continue
        probs = shape(script.read(model, tokens, {})[-1])
        open_ones += [((*tokens, i), p * q) for i, q in enumerate(probs) if q]
    return found


# --- the models ---


@pytest.mark.parametrize("n", [16, 8])
def test_gradient_equals_the_hand_derived_one(script, n):
    floats = weights(n)
    for name in ("anna", "bartholomewjames"):
        tokens = script.encode(name, CHARS)
        model = lift(script, floats)
        loss = script.cross_entropy(model, tokens)
        loss.backward()
        expected, grads = float_gpt.loss_and_grads(floats, tokens, n_head=n // 4)
        assert loss.data == pytest.approx(expected, abs=1e-12)
        assert flat(gradients(model)) == pytest.approx(flat(grads), abs=1e-10)


def test_training_is_adam_on_the_hand_derived_gradient(script, monkeypatch):
    """Three names in turn, at a rate that falls to 0."""
    monkeypatch.setattr(script, "num_steps", 4)
    names, model = ["emma", "bo", "bartholomewjamess"], lift(script, weights(8))
    m, v = [0.0] * 1328, [0.0] * 1328
    training = script.train(model, names, CHARS)
    for step in range(4):
        before = lower(model)
        tokens = script.encode(names[step % 3], CHARS)
        expected, grads = float_gpt.loss_and_grads(before, tokens, n_head=2)
        assert next(training) == pytest.approx(expected, abs=1e-12)
        rate = 0.01 * (1 - step / 4)
        params, m, v = adam(flat(before), flat(grads), m, v, step + 1, rate)
        assert max(abs(a - b) for a, b in zip(flat(lower(model)), params)) < 1e-9
    assert next(training, None) is None


def test_log_prob_is_the_chain_rule(script):
    model, tokens = weights(), [26, 3, 0, 17, 26]
    logs = [
        math.log(uncached_probs(script, model, tokens[:i])[tokens[i]])
        for i in range(1, len(tokens))
    ]
    for given in (1, 2, 4):
        expected = math.fsum(logs[given - 1 :])
        assert script.log_prob(model, tokens, given) == pytest.approx(expected, abs=1e-12)
    assert script.cross_entropy(model, tokens) == pytest.approx(-math.fsum(logs) / 4, abs=1e-12)


def test_reading_at_once_equals_reading_one_by_one(script):
    model, tokens = weights(8), [26, 1, 2, 3, 4, 5]
    at_once, cache = {}, {}
    expected = script.read(model, tokens, at_once)
    assert len(expected) == 6
    found = [script.read(model, tokens[:n], cache) for n in (1, 2, 5, 6)]
    assert [len(part) for part in found] == [1, 1, 3, 1]
    assert list(itertools.chain(*found)) == expected
    assert cache == at_once


def test_rewinding_forgets_what_was_read(script):
    model, cache, fresh = weights(8), {}, {}
    script.read(model, [26, 1, 2, 3, 4], cache)
    script.rewind(cache, 3)
    script.read(model, [26, 1, 2], fresh)
    assert cache == fresh
    expected = script.read(model, [26, 1, 2, 9, 9], fresh)
    assert script.read(model, [26, 1, 2, 9, 9], cache) == expected
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
    model = weights(8, scale=4)
    outputs = []
    for shape in (
        script.softmax,
        functools.partial(script.top_k, k=27),
        functools.partial(script.top_p, p=1.0),
        functools.partial(script.tempered, t=1.0),
    ):
        random.seed(9)
        outputs.append([script.decode(model, [26], shape)[0] for _ in range(12)])
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
        model, prompt = weights(4, 6, seed), [5, seed % 5]
        tokens = [*prompt]
        while len(tokens) < 17 and tokens[-1] != 5:
            probs = uncached_probs(script, model, tokens)
            tokens.append(probs.index(max(probs)))
        found, calls = script.decode(model, prompt, script.greedy)
        assert found == tokens
        assert calls == [([], 0)] * (len(tokens) - 2)
        assert prompt == [5, seed % 5]


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
    for seed in (3, 4, 6, 7, 12):
        model = weights(4, 3, seed, 4)
        sequences = all_sequences(script, model, [2])
        best = max(sequences, key=sequences.get)
        assert script.beam_search(model, [2], 3**4)[0] == list(best)
        better += script.decode(model, [2], script.greedy)[0] != list(best)
    assert better > 1  # or the test says nothing


def test_a_beam_of_one_is_greedy(script):
    for seed in range(4):
        model = weights(8, seed=seed)
        assert script.beam_search(model, [26], 1)[0] == script.decode(model, [26], script.greedy)[0]


@pytest.mark.parametrize("width", [2, 3, 5])
def test_beam_search_equals_a_reference_without_cache(script, monkeypatch, width):
    monkeypatch.setattr(script, "block_size", 5)
    for seed in (0, 3, 6, 7):
        model, prompt = weights(4, 4, seed, 6), [3, seed % 3]
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
        room = script.block_size - len(tokens)
        while len(drafted) < min(k, room) and prompt[0] not in drafted:
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
def test_greedy_speculation_is_greedy_whatever_the_draft(script, monkeypatch, k):
    monkeypatch.setattr(script, "block_size", 9)
    agreed = 0
    for seed in range(4):
        target = weights(4, 6, seed, 4)
        near = {key: [[w + 0.1 for w in r] for r in rows] for key, rows in target.items()}
        for draft in (weights(4, 6, seed + 50, 4), near, target):
            found, calls = script.speculate(target, draft, [5, seed], script.greedy, k)
            assert found == script.decode(target, [5, seed], script.greedy)[0]
            expected = reference_greedy_speculation(script, target, draft, [5, seed], k)
            assert (found, calls) == expected
            agreed += sum(accepted for _, accepted in calls)
    assert agreed > 10 or k == 0


@pytest.mark.parametrize("shape", ["greedy", "softmax"])
def test_a_draft_equal_to_the_target_is_always_accepted(script, shape):
    target = weights(8, scale=4)
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


@pytest.mark.parametrize(
    "k, cut", [(1, None), (2, None), pytest.param(3, None, marks=pytest.mark.slow), (1, 2), (3, 2)]
)
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
def test_caches_always_hold_what_a_fresh_reading_would(script, monkeypatch, shape):
    """Before each call of either model: keys and values of the tokens it has read, no others."""
    monkeypatch.setattr(script, "block_size", 12)
    target, draft = (weights(n, 6, seed=7, scale=4) for n in (8, 4))
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
        _, calls = script.speculate(target, draft, [5, letter], getattr(script, shape), 3)
        read_now = lengths["target"][before:]
        assert len(read_now) == len(calls)  # one call scores them all
        assert read_now[0] == 2 + len(calls[0][0])
        assert read_now[1:] == [1 + len(drafted) for drafted, _ in calls[1:]]
    assert set(lengths["draft"]) == {1, 2}  # the prompt, or after all were accepted; else one


def test_propose_stops_at_the_boundary_and_before_the_end_of_the_context(script):
    draft = weights(4, 6, scale=4)
    random.seed(5)
    for length in (1, 2, 9, 13, 14, 15, 16):
        tokens = [5] + [3] * (length - 1)
        for _ in range(5):
            drafted, q = script.propose(draft, tokens, {}, script.softmax, 3)
            assert len(drafted) == len(q) <= min(3, 16 - length)
            assert 5 not in drafted[:-1]
            assert len(drafted) == min(3, 16 - length) or drafted[-1] == 5
            for i, probs in enumerate(q):
                expected = uncached_probs(script, draft, tokens + drafted[:i])
                assert probs == pytest.approx(expected, abs=1e-12)


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
    model = weights(8)
    answers = {1: ([26, 1, 5, 26], [([5, 7], 1)]), 2: ([26, 2, 4], [([4], 0), ([], 0)])}
    result = script.evaluate(model, lambda prompt: answers[prompt[1]], [[26, 1], [26, 2], [26, 1]])
    assert result["outputs"] == tuple(answers[i][0] for i in (1, 2, 1))
    assert (result["unique"], result["invalid"]) == (1.0, 1)  # the same prompt twice
    assert result["acceptance"] == 2 / 5
    assert result["tokens_per_call"] == 5 / 4
    assert result["drafts_per_call"] == 5 / 4
    assert result["log_probs"][0] == script.log_prob(model, [26, 1, 5, 26], 2)


def test_ways_to_ask(script):
    target, draft = (weights(n, seed=7, scale=4) for n in (8, 4))
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


def test_drawings(script, capsys):
    tokens = script.encode("maria", CHARS)
    calls = [(tokens[2:4] + [25], 2), ([0, 26], 2)]
    script.draw_calls(tokens[:2], tokens[:5] + [0, 26], calls, CHARS)
    assert "| ar(z)I | a." in capsys.readouterr().out
    model, logits = weights(8, scale=4), [-float(i) for i in range(27)]
    script.draw_cost("title", model, tokens, 2, CHARS)
    title, name, log_prob, bar = capsys.readouterr().out.split()
    assert (title, name) == ("title", "maria")
    assert float(log_prob) == pytest.approx(script.log_prob(model, tokens, 2), abs=6e-3)
    assert set(bar) == set("aria.") - {"m"}
    probs = softmax(logits)
    script.show_ways({"plain": script.softmax, "one": script.greedy}, logits, CHARS)
    script.draw_distributions({"target": probs, "draft": probs[::-1]}, CHARS)
    drawn = capsys.readouterr().out
    assert drawn.isascii()
    assert drawn.count("one ") == 1
    assert "****" in drawn
