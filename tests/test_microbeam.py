"""microbeam: strategies against brute force on models made by hand, and every path of chance."""

import collections
import functools
import itertools
import math
import random

import pytest
from support import float_gpt
from support.numbers import gpt_matrices, softmax

CHARS = list("abcdefghijklmnopqrstuvwxyz")
END = 2  # the boundary of the toy models, which have two letters


def test_what_the_run_shows(run):
    m = run.metrics
    assert m["beam_losses"] < 10  # of 100 prompts
    assert m["draft_distance"] > 3 * m["speculative_distance"]


def toy(seed, vocab_size=3, power=1):
    """next_probs of a model made by hand: for every text another distribution drawn at random."""

    def next_probs(tokens):
        rng = random.Random(f"{seed} {list(tokens)}")
        numbers = [rng.random() ** power + 1e-3 for _ in range(vocab_size)]
        return [x / math.fsum(numbers) for x in numbers]

    return next_probs


def peaked(tokens_to_take):
    """next_probs of 6 tokens that are sure: for each length of a text, which token comes next."""
    return lambda tokens: [float(i == tokens_to_take[len(tokens)]) for i in range(6)]


@pytest.fixture
def short(script, monkeypatch):
    """Texts of at most 5 tokens, so that all of them can be listed."""
    monkeypatch.setattr(script, "block_size", 5)


def all_texts(next_probs, prompt, block_size=5):
    """{text: probability} of every finished text, by the chain rule."""
    found = {}
    still_open = [(tuple(prompt), 1.0)]
    for tokens, p in still_open:  # the list grows while we walk it
        if tokens[0] in tokens[1:] or len(tokens) == block_size:
            found[tokens] = p
            continue
        still_open += [((*tokens, i), p * q) for i, q in enumerate(next_probs(tokens)) if q]
    return found


# --- the models that are asked ---


@pytest.mark.parametrize("n", [16, 8])
def test_reader_gives_the_probabilities_of_a_gpt_without_a_cache(script, n):
    """-log p summed over a text is the loss of the hand-written GPT, for each beginning of it."""
    model = gpt_matrices(27, n)
    reader = script.Reader(model)
    for name in ("anna", "bartholomewjam"):
        tokens = script.encode(name, CHARS)
        for end in range(2, len(tokens) + 1):
            loss, _ = float_gpt.loss_and_grads(model, tokens[:end])
            found = script.log_prob(reader.next_probs, tokens[:end], 1)
            assert -found == pytest.approx(loss * (end - 1), abs=1e-11)


def test_reader_answers_the_same_in_any_order_and_reads_no_position_twice(script, monkeypatch):
    model, reads, real = gpt_matrices(27, 8), [], script.gpt
    texts = [[26], [26, 1], [26, 1, 2], [26, 1, 3], [26, 1, 2, 4], [26, 5, 2], [26, 1, 2, 5]]
    expected = [script.Reader(model).next_probs(tokens) for tokens in texts]
    assert math.fsum(expected[2]) == pytest.approx(1)
    monkeypatch.setattr(script, "gpt", lambda *args: reads.append(args[2]) or real(*args))
    for step in (1, -1):
        reads.clear()
        reader = script.Reader(model)
        for _ in range(2):
            assert [reader.next_probs(tokens) for tokens in texts[::step]] == expected[::step]
        assert sorted(reads) == [0, 1, 1, 2, 2, 2, 3, 3]  # positions; [26, 5] is read as well


def test_log_prob_is_the_chain_rule(script):
    model, tokens = toy(1), [END, 0, 1, 1, END]
    logs = [math.log(model(tokens[:i])[tokens[i]]) for i in range(1, 5)]
    for given in (1, 2, 4):
        expected = math.fsum(logs[given - 1 :])
        assert script.log_prob(model, tokens, given) == pytest.approx(expected, abs=1e-12)
    texts = [tokens, [END, 0, 1, END]]
    expected = [script.log_prob(model, text, 3) for text in texts]  # a boundary and two letters
    assert script.log_probs_of(model, texts) == expected


def test_train_model_trains_on_the_first_names(script, monkeypatch):
    monkeypatch.setattr(script, "num_steps", 2)
    names = ["emma", "bo", "zoe"]
    random.seed(4)
    model = script.as_values(script.init_model(27, 8))
    for _ in script.train(model, names[:2], CHARS):
        pass
    random.seed(4)
    assert script.train_model("draft", 8, names, CHARS) == script.as_floats(model)
    assert script.count_params(model) == 1328


def test_held_out_names_and_prompts(script, monkeypatch):
    monkeypatch.setattr(script, "num_steps", 3)
    monkeypatch.setattr(script, "num_heldout", 2)
    names = ["emma", "bo", "bo", "zoe", "bo", "zoe", "emil", "zora", "emma"]
    heldout = script.heldout_names(names)
    assert heldout == ["zoe", "emil", "zora"]
    assert script.make_prompts(heldout, CHARS) == [[26, 25, 14], [26, 4, 12]]
    model = gpt_matrices(27, 8)
    losses = [float_gpt.loss_and_grads(model, script.encode(name, CHARS))[0] for name in heldout]
    expected = math.fsum(losses[:2]) / 2
    assert script.heldout_loss(model, heldout, CHARS) == pytest.approx(expected, abs=1e-12)


# --- greedy, and the distributions to draw from ---


PROBS = [0.05, 0.4, 0.1, 0.25, 0.2]


def test_is_finished(script):
    for tokens, finished in (([2], 0), ([2, 0, 1], 0), ([2, 2], 1), ([2, 0, 2], 1)):
        assert script.is_finished(tokens) == bool(finished)
    assert not script.is_finished([26] + [0] * 14)
    assert script.is_finished([26] + [0] * 15)


def test_greedy_takes_the_most_probable_token_each_time(script):
    for seed in range(6):
        model, prompt = toy(seed, 6), [5, seed % 5]
        tokens = [*prompt]
        while len(tokens) < 16 and tokens[-1] != 5:
            probs = model(tokens)
            tokens.append(max(range(6), key=lambda i, probs=probs: probs[i]))
        assert script.greedy(model, prompt) == tokens
        assert prompt == [5, seed % 5]
    assert script.most_probable([0.2, 0.4, 0.4]) == 1  # of equals, the first


def test_the_tiny_tree(script):
    """The texts and probabilities of its docstring: greedy loses, and a beam of 2 wins."""
    texts = {tokens: p for tokens, p in all_texts(script.tiny_tree, [5]).items() if p}
    expected = {"ac": 0.24, "ad": 0.18, "ae": 0.18, "bc": 0.36, "bd": 0.04}
    found = {script.spell(tokens, "abcde"): p for tokens, p in texts.items()}
    assert found == pytest.approx(expected)
    assert script.greedy(script.tiny_tree, [5]) == [5, 0, 2, 5]
    assert script.beam_search(script.tiny_tree, [5], 2) == [5, 1, 2, 5]


def test_temperature(script):
    powers = [p**2 for p in PROBS]
    expected = [p / math.fsum(powers) for p in powers]
    assert script.with_temperature(PROBS, 0.5) == pytest.approx(expected)
    assert script.with_temperature(PROBS, 1) == pytest.approx(PROBS)
    assert script.with_temperature(PROBS, 1e-3) == pytest.approx([0, 1, 0, 0, 0])
    assert script.with_temperature(PROBS, 1e6) == pytest.approx([0.2] * 5, abs=1e-5)
    logits = [3.0, -1.0, 0.5]
    of_logits = softmax([x / 0.7 for x in logits])
    assert script.with_temperature(softmax(logits), 0.7) == pytest.approx(of_logits)


def test_top_k(script):
    assert script.top_k(PROBS, 2) == pytest.approx([0, 0.4 / 0.65, 0, 0.25 / 0.65, 0])
    assert script.top_k(PROBS, 3) == pytest.approx([0, 0.4 / 0.85, 0, 0.25 / 0.85, 0.2 / 0.85])
    assert script.top_k(PROBS, 1) == [0.0, 1.0, 0.0, 0.0, 0.0]
    assert script.top_k([0.25, 0.5, 0.25], 2) == pytest.approx([1 / 3, 2 / 3, 0])
    assert script.top_k(PROBS, 9) == pytest.approx(PROBS)


def test_top_p(script):
    nuclei = {0.3: {1}, 0.41: {1, 3}, 0.64: {1, 3}, 0.84: {1, 3, 4}, 0.9: {1, 2, 3, 4}}
    for p, tokens in nuclei.items():
        probs = script.top_p(PROBS, p)
        assert {i for i, x in enumerate(probs) if x} == tokens
        assert math.fsum(probs) == pytest.approx(1)
    assert script.top_p([0.5, 0.5], 0.5) == [1.0, 0.0]  # reached exactly: enough
    assert script.top_p(PROBS, 1e-9) == [0.0, 1.0, 0.0, 0.0, 0.0]


def test_all_ways_to_change_and_what_is_written(script, monkeypatch):
    """Each title is its strategy, with the constants of the script, for every prompt."""
    monkeypatch.setattr(script, "block_size", 6)
    monkeypatch.setattr(script, "repeats", 2)
    model, prompts = toy(3, 8, power=3), [[7, 1], [7, 2], [7, 4]]
    probs = model([7])
    ways = script.ways_to_change()
    assert ways["plain"](probs) == probs
    assert ways["temperature"](probs) == script.with_temperature(probs, 0.5)
    assert ways["top-k"](probs) == script.top_k(probs, 5)
    assert ways["top-p"](probs) == script.top_p(probs, 0.8)
    random.seed(1)
    texts = script.write_all(model, prompts)
    random.seed(1)
    expected = {"greedy": [script.greedy(model, prompt) for prompt in prompts]}
    for title in ("plain", "temperature", "top-k", "top-p"):
        expected[title] = [script.sampling(model, t, ways[title]) for t in prompts + prompts]
    for width in (2, 8, 27):
        expected[f"beam {width}"] = [script.beam_search(model, t, width) for t in prompts]
    every = [all_texts(model, prompt, 6) for prompt in prompts]
    expected["exact"] = [list(max(found, key=found.get)) for found in every]
    assert texts == expected
    random.seed(1)
    results = script.speculate_all(model, toy(4, 8), prompts)
    random.seed(1)
    for gamma in (1, 2, 4):
        expected = [script.speculative_sampling(model, toy(4, 8), t, gamma) for t in prompts]
        assert results[gamma] == expected
    assert script.count_invalid(texts, results, prompts, 8) == 0


# --- search ---


def reference_beam(script, next_probs, prompt, width):
    """Whole texts, scored anew each time; stops when all are finished."""
    beam = [tuple(prompt)]

    def score(tokens):
        places = range(len(prompt), len(tokens))
        return math.fsum(math.log(next_probs(tokens[:i])[tokens[i]]) for i in places)

    while not all(map(script.is_finished, beam)):
        grown = []
        for t in beam:
            finished = script.is_finished(t)
            grown += [t] if finished else [(*t, i) for i in range(len(next_probs(t)))]
        beam = sorted(grown, key=score, reverse=True)[:width]
    return list(beam[0])


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_beam_search_equals_a_reference(script, short, width):
    for seed in range(12):
        model, prompt = toy(seed, 4, power=3), [3, seed % 3]
        expected = reference_beam(script, model, prompt, width)
        assert script.beam_search(model, prompt, width) == expected
        assert prompt == [3, seed % 3]
        if width == 1:
            assert script.beam_search(model, prompt, 1) == script.greedy(model, prompt)


def test_searches_against_the_list_of_all_texts(script, short):
    """A beam as wide as the tree, and the exact search from any text, find the best text."""
    better = 0
    for seed in range(20):
        model, prompt = toy(seed, power=3), [END]
        texts = all_texts(model, prompt)
        best = max(texts, key=texts.get)
        assert script.beam_search(model, prompt, 3**4) == list(best)
        greedy_texts = [script.greedy(model, prompt)]
        for start in (greedy_texts[0], list(min(texts, key=texts.get)), list(best)):
            assert script.exact_search(model, prompt, start) == list(best)
        better += greedy_texts[0] != list(best)
    assert better > 3  # or the test says nothing


def test_exact_search_keeps_what_cannot_be_beaten_and_asks_for_nothing_else(script, short):
    model, asked = toy(4, power=3), []
    texts = all_texts(model, [END])
    best = max(texts, key=texts.get)

    def watched(tokens):
        asked.append(tuple(tokens))
        return model(tokens)

    bound = math.log(texts[best])
    known = list(best)
    assert script.exact_search(watched, [END], known) is known
    probability = {(END,): 1.0}
    for tokens, p in zip(asked, map(model, asked)):
        probability |= {(*tokens, i): probability[tokens] * q for i, q in enumerate(p)}
        assert math.log(probability[tokens]) > bound


def test_exact_search_drops_what_is_only_equal(script, short):
    """[END, 1, 0] is as probable as the known text, so the model is not asked about it."""
    start = [END, 1, END]
    probs = {(END,): [0.0, 1.0, 0.0], (END, 1): [0.5, 0.0, 0.5]}
    assert script.exact_search(lambda tokens: probs[tuple(tokens)], [END], start) is start


def test_a_beam_can_lose_to_greedy(script):
    """Greedy's beginning "a" is dropped for "bc" and "bd", which come to nothing."""

    following = {
        "": [0.4, 0.35, 0.25, 0, 0, 0, 0],
        "a": [0, 0, 0.25, 0.25, 0.25, 0.25, 0],
        "b": [0, 0, 0.5, 0.5, 0, 0, 0],
        "bc": [0.2, 0.2, 0.2, 0.2, 0.2, 0, 0],
        "bd": [0.2, 0.2, 0.2, 0.2, 0.2, 0, 0],
    }

    def trap(tokens):
        return following.get(script.spell(tokens, "abcdef"), [0] * 6 + [1.0])

    found = [script.greedy(trap, [6]), script.beam_search(trap, [6], 2)]
    log_probs = [script.log_prob(trap, tokens, 1) for tokens in found]
    assert log_probs == pytest.approx([math.log(0.4 * 0.25), math.log(0.35 * 0.5 * 0.2)])


# --- speculative decoding ---


def reference_greedy_speculation(script, target, draft, prompt, gamma):
    """The text and the calls with argmax alone, in the words of the plan."""

    def best(model, tokens):
        probs = model(tokens)
        return max(range(len(probs)), key=lambda i: probs[i])

    tokens, calls = [*prompt], []
    while not script.is_finished(tokens):
        before, drafted = len(tokens), []
        while len(drafted) < gamma and not script.is_finished(tokens + drafted):
            drafted.append(best(draft, tokens + drafted))
        accepted = 0
        while accepted < len(drafted) and best(target, tokens) == drafted[accepted]:
            tokens.append(drafted[accepted])
            accepted += 1
        if not script.is_finished(tokens):
            tokens.append(best(target, tokens))
        calls.append((drafted, accepted, tokens[before:]))
    return tokens, calls


@pytest.mark.parametrize("gamma", [0, 1, 2, 5])
def test_greedy_speculation_is_greedy_whatever_the_draft(script, monkeypatch, gamma):
    monkeypatch.setattr(script, "block_size", 9)
    agreed = rejected = 0
    for seed in range(8):
        target = toy(seed, 6)
        for draft in (toy(seed + 50, 6), toy(seed, 6, power=1.5), target):
            prompt = [5, seed % 5]
            found, calls = script.speculative_greedy(target, draft, prompt, gamma)
            assert found == script.greedy(target, prompt)
            expected = reference_greedy_speculation(script, target, draft, prompt, gamma)
            assert (found, calls) == expected
            agreed += sum(call.accepted for call in calls)
            rejected += sum(len(call.drafted) - call.accepted for call in calls)
    assert gamma == 0 or agreed > 10 < rejected


def test_one_call_judges_every_drafted_token_and_one_more(script):
    answers = script.call_target(tuple, [5, 1], [2, 3])
    assert answers == [(5, 1), (5, 1, 2), (5, 1, 2, 3)]
    assert script.call_target(tuple, [5], []) == [(5,)]


def test_no_token_is_drafted_behind_the_end(script):
    """Not behind a boundary, and not beyond the context."""
    sure, endless = peaked([5, 1, 2, 5, 5]), peaked([5] + [1] * 16)
    for strategy in (script.speculative_greedy, script.speculative_sampling):
        expected = [5, 1, 2, 5], [([1, 2, 5], 3, [1, 2, 5])]
        assert strategy(sure, sure, [5], 8) == expected
        for gamma in (3, 4, 9):  # 12 tokens of 16 are there
            tokens, calls = strategy(endless, endless, [5] + [1] * 11, gamma)
            assert tokens == [5] + [1] * 15
            n = min(gamma, 4)
            assert calls == [([1] * n, n, [1] * 4)]


@pytest.mark.parametrize("name", ["speculative_greedy", "speculative_sampling"])
def test_a_draft_equal_to_the_target_is_always_accepted(script, name):
    target = script.Reader(gpt_matrices(27, 8)).next_probs
    random.seed(1)
    for _ in range(5):
        tokens, calls = getattr(script, name)(target, target, [26], 3)
        assert all(len(call.drafted) == call.accepted for call in calls)
        assert len(calls) == math.ceil((len(tokens) - 1) / 4)
        assert list(itertools.chain(*(call.written for call in calls))) == tokens[1:]


class Paths:
    """A stand-in for `random` that goes down every path, and knows how probable each one is.

    random() is a number of which only its comparison with a probability is decided.
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
            def __lt__(self, bound):
                return paths.branch([bound, 1 - bound]) == 0

        return Uniform()

    def distribution(self, run):
        """{result: probability} of run(), over all paths."""
        found = collections.Counter()
        while self.pending:
            self.script, self.place, self.probability = self.pending.pop(), 0, 1.0
            result = run()
            found[result] += self.probability
        return found


@pytest.fixture
def exactly(script, monkeypatch):
    """A function: run -> {result: probability}, over all paths of the script's chance."""

    def distribution(run):
        paths = Paths()
        with monkeypatch.context() as patch:
            patch.setattr(script, "random", paths)
            return paths.distribution(run)

    return distribution


def close(found, expected):
    assert set(found) == set(expected)
    for key, p in expected.items():
        assert found[key] == pytest.approx(p, abs=1e-12), key


def test_sampling_draws_from_the_changed_distribution_exactly(script, short, exactly):
    model = toy(7)
    for change in (script.unchanged, functools.partial(script.with_temperature, t=0.5)):
        found = exactly(lambda change=change: tuple(script.sampling(model, [END], change)))
        expected = all_texts(lambda tokens, change=change: change(model(tokens)), [END])
        assert math.fsum(expected.values()) == pytest.approx(1)
        close(found, expected)


@pytest.mark.parametrize("gamma, cut", [(1, None), (2, None), (3, None), (1, 2), (3, 2)])
def test_speculation_draws_from_the_targets_distribution_exactly(
    script, short, exactly, gamma, cut
):
    """Every path of drafts, acceptances and replacements, summed up: whole texts, no samples."""
    models = [toy(3), toy(1)]
    if cut:
        models = [lambda tokens, m=m: script.top_k(m(tokens), cut) for m in models]
    target, draft = models

    def run():
        tokens, calls = script.speculative_sampling(target, draft, [END], gamma)
        assert list(itertools.chain(*(call.written for call in calls))) == tokens[1:]
        for call in calls:
            assert call.drafted[: call.accepted] == call.written[: call.accepted]
            rejected = call.drafted[call.accepted :]
            assert not rejected or rejected[0] != call.written[call.accepted]
        return tuple(tokens)

    expected = all_texts(target, [END])
    drafts = all_texts(draft, [END])
    difference = [p - drafts.get(key, 0.0) for key, p in expected.items()]
    assert math.fsum(map(abs, difference)) > 0.4  # the draft would say something else
    assert max(expected.values()) < 0.7  # and there is more than one thing to say
    close(exactly(run), expected)


def test_the_table_of_speculative_sampling(script, exactly):
    """The example above acceptance(), and what drawing the replacement from p would give."""
    q, p = [0.3, 0.6, 0.1], [0.4, 0.2, 0.4]
    assert [script.acceptance(x, q, p) for x in range(3)] == pytest.approx([1, 1 / 3, 1])
    assert script.residual(q, p) == pytest.approx([0.25, 0, 0.75])
    close(exactly(lambda: script.accept_or_replace(0, q, p)), {(0, True): 1.0})
    of_b = {(0, False): 1 / 6, (1, True): 1 / 3, (2, False): 1 / 2}
    close(exactly(lambda: script.accept_or_replace(1, q, p)), of_b)
    close(exactly(lambda: script.accept_or_replace(script.draw(q), q, p)[0]), dict(enumerate(p)))

    def mistaken():
        x = script.draw(q)
        return x if script.accept_or_replace(x, q, p)[1] else script.draw(p)

    assert exactly(mistaken)[1] == pytest.approx(0.28)


def test_the_rate_of_rejection_is_the_distance(script, exactly):
    for seed in range(5):
        p, q = toy(seed, 5)([0]), toy(seed, 5)([1])

        def rejected(p=p, q=q):
            x = script.draw(q)
            token, accepted = script.accept_or_replace(x, q, p)
            assert accepted == (token == x)
            return not accepted

        assert exactly(rejected)[True] == pytest.approx(script.distance(p, q))
        assert script.distance(p, q) == pytest.approx(1 - math.fsum(map(min, p, q)))
    assert script.distance([1.0, 0.0], [0.0, 1.0]) == 1.0
    target, draft, prompts = toy(1), toy(2), [[END, i, j] for i in (0, 1) for j in (0, 1)]
    rates = {script.distance(target(prompt), draft(prompt)): prompt for prompt in prompts}
    assert script.most_different(target, draft, prompts) == rates[max(rates)]


# --- how good it is ---


def test_savings(script):
    """Of 2 + 3 + 1 + 0 drafted tokens 2 + 1 + 0 + 0 are accepted."""
    results = [
        (None, [script.Call([1, 2], 2, [1, 2, 3]), script.Call([1, 2, 3], 1, [1, 4])]),
        (None, [script.Call([7], 0, [8]), script.Call([], 0, [9])]),
    ]
    found = script.savings_of(results, 0.25)
    assert found.drafts == 6 / 4
    assert found.per_drafted == 3 / 6
    assert found.per_examined == 3 / 5
    assert found.tokens_per_call == 7 / 4
    assert found.gain == pytest.approx(7 / (4 + 0.25 * 6))
    # The formula of Leviathan's theorem 3.8, where every call drafts gamma and accepts all.
    call = script.Call([1, 2, 3], 3, [1, 2, 3, 4])
    assert script.savings_of([(None, [call] * 5)], 0.1).gain == pytest.approx(4 / (3 * 0.1 + 1))


def test_counts_of_texts(script):
    assert script.count_below([-1.0, -4.0, -2.0, -3.0, -2.5, -0.5], [-2.0, -3.0]) == 2
    texts, prompts = [[26, 2, 3, 26], [26, 1, 26], [26, 1, 26], [26, 2, 26]], [[26, 1], [26, 2]]
    assert script.different_per_prompt(texts, prompts) == 3 / 2
    words = [script.encode(word, CHARS) for word in ("bc", "bcd", "ddd", "bcd")]
    assert script.real_share(words, ["bc", "bcd"], CHARS) == 2 / 4  # bc is only a prompt
    wrong = [([1, 2], []), ([3], []), ([9], [])]
    assert script.count_changed(wrong, [[1], [3], [0]]) == 2
    assert script.empty_share([[26, 1, 2, 26], [26, 1, 2, 3, 26], [26, 2, 2, 26]]) == 2 / 3


def test_a_prompt_counts_as_often_as_names_begin_with_it(script):
    """Two names begin with al, four with bo and one with an. al and thrice bo end there."""
    names = ["al", "ala", "bo", "bob", "anna", "bo", "bo"]
    prompts = [script.encode(letters, CHARS)[:-1] for letters in ("al", "bo", "an")]
    ends = dict(zip(map(tuple, prompts), (0.1, 0.2, 0.6)))

    def next_probs(tokens):
        return [0.0] * 26 + [ends[tuple(tokens)]]

    by_model, in_list = script.end_rates(next_probs, names, prompts, CHARS)
    assert by_model == pytest.approx((2 * 0.1 + 4 * 0.2 + 1 * 0.6) / 7)
    assert in_list == 4 / 7


def test_texts_of_the_tiny_tree_from_mere_guesses(script, short, exactly):
    def run():
        tokens, _ = script.speculative_sampling(script.tiny_tree, script.blind, [5], 1)
        return script.spell(tokens, "abcde")

    assert math.fsum(script.blind([5])) == pytest.approx(1)
    close(exactly(run), {"ac": 0.24, "ad": 0.18, "ae": 0.18, "bc": 0.36, "bd": 0.04})


def test_text_distance(script):
    texts = all_texts(script.tiny_tree, script.tiny_prompt)
    spelled = {script.spell(tokens, "abcde"): p for tokens, p in texts.items() if p}
    assert script.tiny_probs == pytest.approx(spelled)
    ac, bc, impossible = [5, 0, 2, 5], [5, 1, 2, 5], [5, 3, 5]
    results = {1: [(ac, [])] + [(bc, [])] * 3, 4: [(ac, []), (impossible, [])]}
    found = script.text_shares(results)
    assert found == {"gamma 1": [0.25, 0, 0, 0.75, 0], "gamma 4": [0.5, 0, 0, 0, 0]}
    expected = 0.25 - 0.24 + 0.75 - 0.36
    assert script.text_distance(found["gamma 1"]) == pytest.approx(expected)
    assert script.text_distance(found["gamma 4"]) > 0.3


def test_is_valid(script):
    right = [[26, 1, 2, 26], [26] + [1] * 15]
    assert all(script.is_valid(tokens, [26, 1], 27) for tokens in right)
    wrong = [[26, 1, 2], [26, 2, 26], [26, 1, 26, 26], [26, 1, 27, 26], [26, 1] + [0] * 15]
    assert not any(script.is_valid(tokens, [26, 1], 27) for tokens in wrong)
    texts = {"once": [wrong[2], [26, 2, 26]], "twice": [right[1], right[1], wrong[0], [26, 2, 26]]}
    drawn = {4: [(right[0], []), ([26, 2, 26], []), (wrong[1], [])]}  # the last continues [26, 1]
    assert script.count_invalid(texts, drawn, [[26, 1], [26, 2]], 27) == 4


def test_draws_of_one_token(script):
    random.seed(6)
    p, q = [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]
    for found in (script.speculated_shares(q, p, 4000), script.direct_shares(p, 4000)):
        assert script.distance(p, found) < 0.03
    assert script.speculated_shares([1.0, 0.0], [0.0, 1.0], 1) == [0.0, 1.0]
    assert script.shares([2, 0, 2, 2], 4) == [0.25, 0.0, 0.75, 0.0]
    assert script.direct_shares([1.0, 0.0, 3.0], 4000)[1:] == [0, pytest.approx(0.75, abs=0.035)]


def test_drawings(script, capsys):
    script.show_tiny_tree()
    script.show_tiny_draft()
    out = capsys.readouterr().out
    assert "0.4 * 0.9 = 0.36" in out
    assert "replaced by a with 0.25 or c with 0.75" in out
    a, r, i, z = (CHARS.index(letter) for letter in "ariz")
    calls = [script.Call([a, r, z], 2, [a, r, i]), script.Call([a, 26], 2, [a, 26])]
    script.show_calls([([], calls)], [script.encode("m", CHARS)[:-1]], CHARS)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[-2:] == [["m", "arz", "ar", "i"], ["mari", "a.", "a.", "-"]]
    model, prompts = toy(1, 27), [[26, 1, 2]]
    texts = script.write_all(model, prompts)
    log_probs = {title: script.log_probs_of(model, texts[title]) for title in texts}
    script.show_changes(model([26]), [26], CHARS)
    script.show_strategies(texts, log_probs, prompts, ["anna"], CHARS)
    script.show_ends(0.01, 0.002)
    script.show_tiny_texts({"gamma 1": [0.5, 0.0, 0.0, 0.5, 0.0]})
    script.show_savings({"greedy": {2: [([], calls)]}}, 0.3)
    script.show_distributions([0.5] * 2, [0.4, 0.6], [1.0, 0.0], [0.0, 1.0], [26], CHARS)
    out = capsys.readouterr().out
    assert out.isascii() and "*****" in out
