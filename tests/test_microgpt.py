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


def test_samples_are_names_and_random_strings_are_not(run):
    rates = run.metrics
    assert rates["random_pronounceable_rate"] < 0.3 < rates["pronounceable_rate"] - 0.3
    assert 0.8 < rates["real_pronounceable_rate"] < 0.95
    assert 0.4 < rates["novel_rate"] < 1.0  # neither copies nor a list without a match


# The model and its gradient


def test_gradient_equals_the_hand_derived_one(script):
    weights = gpt_matrices()
    for name in ("anna", "z", "bartholomewjames"):
        tokens = script.encode(name, CHARS)
        model = lift(script, weights)
        loss = script.name_loss(model, tokens, {})
        loss.backward()
        expected_loss, expected = float_gpt.loss_and_grads(weights, tokens)
        assert loss.data == pytest.approx(expected_loss, abs=1e-12)
        assert flat(gradients(model)) == pytest.approx(flat(expected), abs=1e-11)


def test_gradient_equals_finite_differences(script):
    """On a name that uses every row of both tables."""
    weights = gpt_matrices(vocab_size=3, block_size=4)
    tokens = [2, 0, 1, 1, 2]
    model = lift(script, weights)
    script.name_loss(model, tokens, {}).backward()
    where = places_of_each(weights, 4)
    expected = slopes(lambda w: script.name_loss(w, tokens, {}), weights, where)
    grads = gradients(model)
    found = [grads[name][i][j] for name, i, j in where]
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_floats_and_values_give_the_same_loss(script):
    weights = gpt_matrices()
    tokens = script.encode("isabella", CHARS)
    on_values = script.name_loss(lift(script, weights), tokens, {})
    assert script.name_loss(weights, tokens, {}) == on_values.data


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
        out, weights = script.attend(q[i], k[: i + 1], v[: i + 1])
        assert out == pytest.approx(expected, abs=1e-12)
        assert weights == pytest.approx(p[: i + 1], abs=1e-12)


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
    model = script.init_model(27)
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
    assert flat(lower(model)) == [random.gauss(0, 0.08) for _ in range(4192)]


# Tokens and training


def test_encode(script):
    assert script.encode("cab", CHARS) == [26, 2, 0, 1, 26]
    assert script.encode("", CHARS) == [26, 26]
    for name in ("zo\u00eb", "Anna", "a b"):
        with pytest.raises(ValueError):
            script.encode(name, CHARS)


def test_a_name_longer_than_the_context_loses_its_tail(script):
    weights = gpt_matrices()
    long, longer = (script.encode("".join(CHARS[:n]), CHARS) for n in (16, 26))
    loss = script.name_loss(weights, longer, {})
    assert loss == script.name_loss(weights, long[:-1], {})
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
    ours = script.train(script.init_model(27), names, CHARS)
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
    assert script.sample(weights, ["a", "b"]) == "a" * 16
    weights["lm_head"] = [[0.0] * 16, [0.0] * 16, [1.0] * 16]
    assert script.sample(weights, ["a", "b"]) == ""


def test_sampling_follows_the_tempered_distribution(script, monkeypatch):
    scores = [0.2, -0.4, 0.3]
    monkeypatch.setattr(script, "gpt", lambda *args: scores)
    monkeypatch.setattr(script, "block_size", 1)
    random.seed(7)
    n = 4000
    drawn = [script.sample({}, ["a", "b"]) for _ in range(n)]
    for name, p in zip(["a", "b", ""], softmax([x / 0.5 for x in scores])):
        assert abs(drawn.count(name) / n - p) < 5 * math.sqrt(p * (1 - p) / n)


def test_each_token_is_sampled_after_those_before_it(script, monkeypatch):
    """The model is asked about each token at its position, with one cache for the whole name."""
    asked = []
    spelled = [1, 0, 2]  # "ba" and the boundary

    def gpt(model, token, position, cache):
        asked.append((token, position, id(cache)))
        return [100.0 * (i == spelled[position]) for i in range(3)]

    monkeypatch.setattr(script, "gpt", gpt)
    assert script.sample({}, ["a", "b"]) == "ba"
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


# Output


def test_drawings(script, capsys):
    script.draw_curve([float(x) for x in range(100, 0, -1)])
    curve = capsys.readouterr().out
    script.draw_curve([2.0, 2.0, 2.0])  # flat, and shorter than it is wide
    flat_curve = capsys.readouterr().out
    cache = {}
    script.name_loss(gpt_matrices(), script.encode("anna", CHARS), cache)
    script.draw_attention("anna", cache[0][2])
    attention = capsys.readouterr().out
    assert curve.count("*") >= 60
    assert flat_curve.count("*") == 3
    assert attention.count("@") > 0
    assert (curve + flat_curve + attention).isascii()


def test_progress_rewrites_its_line_on_a_terminal(script, capsys, monkeypatch):
    monkeypatch.setattr(script.os, "isatty", lambda fd: True)
    for step in (7, 1000):
        script.show_progress(step, 1000, 2.5, script.time.perf_counter())
    out = capsys.readouterr().out
    assert out.count("\r") == 2
    assert out.count("\n") == 1
    assert out.endswith("\n")
