"""microgpt against a model derived by hand, finite differences and the published training."""

import gc
import itertools
import math
import random

import pytest
from support import float_gpt, reference_gpt
from support.numbers import (
    adam,
    flat,
    gpt_matrices,
    gradients,
    lift,
    lower,
    matvec,
    places_of_each,
    slopes,
    softmax,
)

CHARS = list("abcdefghijklmnopqrstuvwxyz")
BOUNDARY = 26


# The model and its gradient


def test_gradient_equals_the_hand_derived_one(script):
    weights = gpt_matrices()
    for name in ("anna", "z", "bartholomewjames"):
        tokens = script.encode(name, CHARS)
        model = lift(script, weights)
        loss = script.name_loss(model, tokens)
        loss.backward()
        expected_loss, expected = float_gpt.loss_and_grads(weights, tokens)
        assert loss.data == pytest.approx(expected_loss, abs=1e-12)
        assert flat(gradients(model)) == pytest.approx(flat(expected), abs=1e-11)


def test_gradient_equals_finite_differences(script):
    """On a name that uses every row of both tables."""
    weights = gpt_matrices(vocab_size=3, block_size=4)
    tokens = [2, 0, 1, 1, 2]
    model = lift(script, weights)
    script.name_loss(model, tokens).backward()
    where = places_of_each(weights, 4)
    expected = slopes(lambda w: script.name_loss(w, tokens), weights, where)
    grads = gradients(model)
    found = [grads[name][i][j] for name, i, j in where]
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_floats_and_values_give_the_same_loss(script):
    weights = gpt_matrices()
    tokens = script.encode("isabella", CHARS)
    on_values = script.name_loss(lift(script, weights), tokens)
    assert script.name_loss(weights, tokens) == on_values.data


def test_incremental_attention_equals_a_masked_matrix(script):
    """One position at a time with a cache equals all positions at once with a causal mask."""
    rng = random.Random(5)
    n, d = 7, 4
    q, k, v = ([[rng.gauss(0, 2) for _ in range(d)] for _ in range(n)] for _ in range(3))
    for i in range(n):
        scores = [s / math.sqrt(d) for s in matvec(k, q[i])]
        masked = [s if j <= i else -math.inf for j, s in enumerate(scores)]
        p = softmax(masked)
        expected = matvec(zip(*v), p)
        weights = script.attention_weights(q[i], k[: i + 1])
        out = script.attend(q[i], k[: i + 1], v[: i + 1])
        assert weights == pytest.approx(p[: i + 1], abs=1e-12)
        assert out == pytest.approx(expected, abs=1e-12)


def test_embed_adds_token_and_position_and_rescales(script):
    model = {"wte": [[1.0, 0.0], [2.0, -1.0]], "wpe": [[0.0, 0.0], [1.0, -3.0]]}
    scale = math.sqrt(12.5 + 1e-5)
    assert script.embed(model, 1, 1) == pytest.approx([3 / scale, -4 / scale])


def test_the_cache_holds_keys_and_values_of_each_layer(script, monkeypatch):
    """By the definition: the matrix times the normed vector of the position, layer by layer."""
    monkeypatch.setattr(script, "n_layer", 2)
    model = gpt_matrices(vocab_size=3, block_size=4, n_layer=2)
    cache = {}
    for position, token in enumerate([2, 0, 1]):
        script.gpt(model, token, position, cache)
    assert list(cache) == [0, 1]
    assert [len(rows) for layer in cache.values() for rows in layer] == [3] * 4
    h = script.rmsnorm(script.embed(model, 1, 2))
    assert cache[0][0][2] == pytest.approx(matvec(model["layer0.attn_wk"], h), abs=1e-12)
    assert cache[0][1][2] == pytest.approx(matvec(model["layer0.attn_wv"], h), abs=1e-12)


def test_a_later_token_changes_nothing_before_it(script):
    weights = gpt_matrices()
    logits = []
    for last in (3, 9):
        cache = {}
        tokens = [BOUNDARY, 0, 5, last]
        logits.append([script.gpt(weights, t, i, cache) for i, t in enumerate(tokens)])
    assert logits[0][:3] == logits[1][:3]
    assert logits[0][3] != logits[1][3]


def test_rmsnorm(script):
    out = script.rmsnorm([3.0, -4.0])
    assert out == pytest.approx([3 / math.sqrt(12.5 + 1e-5), -4 / math.sqrt(12.5 + 1e-5)])
    assert script.rmsnorm([0.0, 0.0]) == [0.0, 0.0]


def test_linear(script):
    assert script.linear([1.0, 2.0], [[3.0, 4.0], [5.0, 6.0], [0.0, -1.0]]) == [11.0, 17.0, -2.0]


def test_model_shapes_and_draws(script):
    random.seed(1)
    model = script.init_model(27, 16)
    shapes = {name: (len(matrix), len(matrix[0])) for name, matrix in model.items()}
    assert list(shapes.items()) == [
        ("wte", (27, 16)),
        ("wpe", (16, 16)),
        ("lm_head", (27, 16)),
        *((f"layer0.attn_{w}", (16, 16)) for w in ("wq", "wk", "wv", "wo")),
        ("layer0.mlp_fc1", (64, 16)),
        ("layer0.mlp_fc2", (16, 64)),
    ]
    random.seed(1)
    assert flat(model) == [random.gauss(0, 0.08) for _ in range(4192)]


# Tokens and training


def test_models_can_be_lifted_and_frozen(script):
    weights = gpt_matrices(vocab_size=3, block_size=4)
    values = script.as_values(weights)
    assert lower(values) == weights
    assert len({id(v) for v in flat(values)}) == len(flat(weights))
    frozen = script.as_floats(values)
    assert frozen == weights
    values["wte"][0][0].data += 1.0
    assert frozen == weights


def test_encode(script):
    assert script.encode("cab", CHARS) == [26, 2, 0, 1, 26]
    assert script.encode("", CHARS) == [26, 26]
    for name in ("zo\u00eb", "Anna", "a b"):
        with pytest.raises(ValueError):
            script.encode(name, CHARS)
    assert script.spell([26, 2, 0, 1, 26], CHARS) == "cab"
    assert script.spell([26, 2, 0], CHARS) == "ca"
    assert script.spell([26, 26], CHARS) == ""


def test_a_name_longer_than_the_context_loses_its_tail(script):
    weights = gpt_matrices()
    long, longer = (script.encode("".join(CHARS[:n]), CHARS) for n in (16, 26))
    loss = script.name_loss(weights, longer)
    assert loss == script.name_loss(weights, long[:-1])
    assert loss == pytest.approx(float_gpt.loss_and_grads(weights, longer)[0], abs=1e-12)


def test_adam_follows_its_definition(script):
    p = script.Value(1.0)
    m, v = [0.0], [0.0]
    expected, m_ref, v_ref = [1.0], [0.0], [0.0]
    for step, grad in enumerate([0.5, -2.0, 1e-9, 0.0], 1):
        p.grad = grad
        script.adam_step([p], m, v, step, 0.01)
        expected, m_ref, v_ref = adam(expected, [grad], m_ref, v_ref, step, 0.01)
        assert p.data == pytest.approx(expected[0], abs=1e-15)
        assert p.grad == 0.0


def test_training_takes_steps_of_adam_at_a_falling_rate(script, monkeypatch):
    """Three names, four steps: the first name comes again."""
    monkeypatch.setattr(script, "num_steps", 4)
    weights = gpt_matrices()
    model = lift(script, weights)
    names = ["eve", "bo", "mia"]
    steps = script.train(model, names, CHARS)
    m, v = [0.0] * 4192, [0.0] * 4192
    for step, name in enumerate([*names, "eve"]):
        expected, grads = float_gpt.loss_and_grads(lower(model), script.encode(name, CHARS))
        before = flat(lower(model))
        assert next(steps) == pytest.approx(expected, abs=1e-12)
        rate = 0.01 * (1 - step / 4)
        after, m, v = adam(before, flat(grads), m, v, step + 1, rate)
        assert flat(lower(model)) == pytest.approx(after, abs=1e-9)
    assert next(steps, None) is None


def test_training_goes_on_over_long_and_empty_names(script):
    model = lift(script, gpt_matrices(std=0.08))
    losses = script.train(model, ["a" * 40, "", "bo"], CHARS)
    assert all(0 < loss < 5 for loss in itertools.islice(losses, 3))


def published_start(script):
    random.seed(42)
    names = script.load_names()
    random.shuffle(names)
    return names


@pytest.mark.slow
def test_losses_follow_the_reference_engine(script):
    """20 steps to 1e-9: initialisation, model, gradient and Adam are all as published."""
    names = published_start(script)
    ours = script.train(script.as_values(script.init_model(27, 16)), names, CHARS)
    published_start(script)
    tokens = [script.encode(name, CHARS) for name in names[:20]]
    theirs = reference_gpt.train(reference_gpt.init(27), tokens, 1000)
    gc.disable()  # Each step has some 200,000 nodes, all of them in use: nothing to collect.
    try:
        pairs = list(zip(itertools.islice(ours, 20), theirs, strict=True))
    finally:
        gc.enable()
    assert [a for a, _ in pairs] == pytest.approx([b for _, b in pairs], abs=1e-9)


# Sampling, and what it is judged by


def test_a_sample_ends_at_the_boundary_or_the_context(script, monkeypatch):
    weights = gpt_matrices(vocab_size=3, std=0.0)
    weights["wte"] = [[1.0] * 16] * 3
    weights["lm_head"] = [[1.0] * 16, [0.0] * 16, [-1.0] * 16]
    monkeypatch.setattr(script, "temperature", 0.01)
    assert script.sample(weights) == [2] + [0] * 16
    weights["lm_head"] = [[0.0] * 16, [0.0] * 16, [1.0] * 16]
    assert script.sample(weights) == [2, 2]


def frequencies_equal(drawn, probs):
    """Whether the shares of 0, 1, ... among the drawn numbers are the probabilities, to 5 sigma."""
    n = len(drawn)
    return all(
        abs(drawn.count(i) / n - p) < 5 * math.sqrt(p * (1 - p) / n) for i, p in enumerate(probs)
    )


def test_sampling_follows_the_tempered_distribution(script, monkeypatch):
    scores = [0.2, -0.4, 0.3]
    monkeypatch.setattr(script, "gpt", lambda *args: scores)
    monkeypatch.setattr(script, "block_size", 1)
    random.seed(7)
    drawn = [script.sample({"wte": [0, 0, 0]})[1] for _ in range(4000)]
    assert frequencies_equal(drawn, softmax([x / 0.5 for x in scores]))


def test_each_token_is_sampled_after_those_before_it(script, monkeypatch):
    """The model is asked about each token at its position, with one cache for the whole name."""
    asked = []
    spelled = [1, 0, 2]  # "ba" and the boundary

    def gpt(model, token, position, cache):
        asked.append((token, position, id(cache)))
        return [100.0 * (i == spelled[position]) for i in range(3)]

    monkeypatch.setattr(script, "gpt", gpt)
    assert script.sample({"wte": [0, 0, 0]}) == [2, 1, 0, 2]
    assert [(token, position) for token, position, _ in asked] == [(2, 0), (1, 1), (0, 2)]
    assert len({cache for *_, cache in asked}) == 1


def test_trigrams(script):
    assert script.trigrams("ann") == {".an", "ann", "nn."}
    assert script.trigrams("a") == {".a."}
    assert script.trigrams("") == set()


def test_is_pronounceable(script):
    known = script.trigrams("maria") | script.trigrams("strngth") | script.trigrams("schwytz")
    assert script.is_pronounceable("maria", known)
    assert not script.is_pronounceable("aria", known)  # .ar is unknown
    assert not script.is_pronounceable("strngth", known)  # no vowel
    assert not script.is_pronounceable("schwytz", known)  # s c h w
    assert not script.is_pronounceable("", known)


def test_common_trigrams_occur_in_five_different_names(script):
    names = ["ana", "anb", "anc", "and", "ane", "xy", "xyz", "xyy", "xyw"] + ["xy"] * 9
    assert script.common_trigrams(names) == {".an"}


def test_novel_rate(script):
    assert script.novel_rate(["ana", "bo", "bo", "eve"], ["ana", "eve", "eve"]) == 0.5


def test_pronounceable_rate(script):
    known = script.trigrams("maria")
    assert script.pronounceable_rate(["maria", "aria", "strng", "maria"], known) == 0.5


# The model that only counts pairs


def test_bigrams_are_counted_from_one(script):
    """By hand: ".ab." and ".aa." over two letters and a boundary, each count plus 1."""
    found = script.count_bigrams(["ab", "aa"], ["a", "b"])
    assert found == [[2 / 6, 2 / 6, 2 / 6], [1 / 4, 1 / 4, 2 / 4], [3 / 5, 1 / 5, 1 / 5]]


def test_bigram_loss(script):
    bigrams = [[0.5, 0.25, 0.25], [0.125, 0.375, 0.5], [0.75, 0.125, 0.125]]
    expected = -(math.log(0.75) + math.log(0.25) + math.log(0.5)) / 3  # .ab.
    assert script.bigram_loss(bigrams, [2, 0, 1, 2]) == pytest.approx(expected, rel=1e-12)


def test_bigram_samples_are_tempered(script):
    rows = [[0.2, 0.3, 0.5], [0.0, 0.0, 1.0], [0.6, 0.3, 0.1]]
    random.seed(8)
    samples = [script.sample_bigrams(rows) for _ in range(4000)]
    squares = [p * p for p in rows[2]]  # 1 / temperature is 2
    first = [p / math.fsum(squares) for p in squares]
    assert frequencies_equal([tokens[1] for tokens in samples], first)
    for tokens in samples:
        assert tokens[0] == 2
        assert 2 not in tokens[1:-1]
        assert tokens[-1] == 2 or len(tokens) == 17
    assert script.sample_bigrams([[1.0, 0.0], [1.0, 0.0]]) == [1] + [0] * 16


# Output


def test_drawings(script, capsys):
    script.draw_curve([float(x) for x in range(100, 0, -1)])
    curve = capsys.readouterr().out
    script.draw_curve([2.0, 2.0, 2.0])  # flat, and shorter than it is wide
    flat_curve = capsys.readouterr().out
    script.draw_attention(gpt_matrices(), script.encode("anna", CHARS), CHARS)
    attention = capsys.readouterr().out
    assert curve.count("*") >= 60
    assert flat_curve.count("*") == 3
    assert attention.count("@") > 0
    assert (curve + flat_curve + attention).isascii()


def test_the_drawn_attention_is_that_of_the_model(script, capsys):
    """The last row has 10 marks per head for "anna", two for each of the five positions."""
    model = gpt_matrices(std=0.6)
    tokens = script.encode("anna", CHARS)
    script.draw_attention(model, tokens, CHARS)
    row = capsys.readouterr().out.splitlines()[-1].ljust(1 + 4 * 12)
    h = [script.rmsnorm(script.embed(model, token, i)) for i, token in enumerate(tokens[:-1])]
    q = matvec(model["layer0.attn_wq"], h[-1])
    keys = [matvec(model["layer0.attn_wk"], x) for x in h]
    for head in range(4):
        part = slice(4 * head, 4 * head + 4)
        weights = softmax([s / 2 for s in matvec([key[part] for key in keys], q[part])])
        drawn = row[3 + 12 * head :][:10:2]
        shades = [" .:-=+*#%@".index(mark) for mark in drawn]
        assert shades == [int(9.99 * weight) for weight in weights]


def test_the_worked_example_is_followed_by_hand(script, capsys):
    script.show_gradients()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["a", "2.0", "64.0000", "64.0000"] in rows
    assert ["b", "3.0", "32.0000", "32.0000"] in rows


def test_progress_rewrites_its_line_on_a_terminal(script, capsys, monkeypatch):
    monkeypatch.setattr(script.os, "isatty", lambda fd: True)
    for step in (7, 1000):
        script.show_progress(step, 1000, 2.5, script.time.perf_counter())
    out = capsys.readouterr().out
    assert out.count("\r") == 2
    assert out.count("\n") == 1
    assert out.endswith("\n")
