"""microembedding against the definition of its loss, finite differences and brute force."""

import collections
import itertools
import math
import random

import pytest
from support.numbers import flat, gaussian, slopes, softmax


def test_training_helps_to_find_a_name_again(run):
    assert run.metrics["recall_at_1"] > run.metrics["recall_at_1_untrained"] + 0.1


def some_weights(script, names):
    """{n-gram: vector} for every n-gram of the names."""
    runs = sorted({run for name in names for run in script.ngrams(name)})
    return dict(zip(runs, gaussian(len(runs), script.n_embd, 0.1)))


def test_ngrams(script):
    assert script.ngrams("ann") == {
        "a": 1,
        "n": 2,
        "^a": 1,
        "an": 1,
        "nn": 1,
        "n$": 1,
        "^an": 1,
        "ann": 1,
        "nn$": 1,
    }
    assert script.ngrams("") == {"^$": 1}


def test_every_ngram_of_the_names_starts_at_random(script):
    random.seed(1)
    weights = script.init_model(["anna", "hannah", "bob"])
    assert weights.keys() == some_weights(script, ["anna", "hannah", "bob"]).keys()
    numbers = flat([*weights.values()])
    assert math.fsum(x * x for x in numbers) / len(numbers) == pytest.approx(0.01, rel=0.1)
    assert len(set(numbers)) == len(numbers) == script.n_embd * len(weights)


def test_corrupt_loses_one_character_or_swaps_two_neighbours(script):
    random.seed(1)
    name = "abcdef"
    lost = {name[:i] + name[i + 1 :] for i in range(6)}
    swapped = {name[:i] + name[i + 1] + name[i] + name[i + 2 :] for i in range(5)}
    drawn = collections.Counter(script.corrupt(name) for _ in range(3000))
    assert set(drawn) == lost | swapped
    assert sum(drawn[x] for x in lost) == pytest.approx(1500, abs=150)
    assert {script.corrupt("ab") for _ in range(50)} == {"a", "b", "ba"}
    assert [script.corrupt(name) for name in ("", "a")] == ["", "a"]


def test_loss_against_its_definition(script):
    """The loss is the mean of -log of the share of the own pair."""
    rows = gaussian(8, script.n_embd)
    vectors = [script.normalize(row)[0] for row in rows]
    anchors, positives = vectors[:4], vectors[4:]
    expected = 0.0
    for i, a in enumerate(anchors):
        scores = [math.fsum(x * y for x, y in zip(a, p)) / 0.1 for p in positives]
        expected -= math.log(softmax(scores)[i]) / 4
    assert script.info_nce(anchors, positives)[0] == pytest.approx(expected, rel=1e-12)


def test_gradient_of_info_nce_equals_finite_differences(script):
    batch = {"a": gaussian(3, script.n_embd, 0.2, 3), "p": gaussian(3, script.n_embd, 0.2, 4)}
    _, of_anchors, of_positives = script.info_nce(batch["a"], batch["p"])
    grads = {"a": of_anchors, "p": of_positives}
    where = list(itertools.product("ap", range(3), (0, 7, 47)))
    expected = slopes(lambda both: script.info_nce(both["a"], both["p"])[0], batch, where, h=1e-6)
    found = [grads[side][i][j] for side, i, j in where]
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_gradient_of_a_batch_equals_finite_differences(script):
    """Through n-grams that occur twice, in both versions, in several names, or are unknown."""
    weights = some_weights(script, ["anna", "hannah", "bob"])
    anchors, positives = ["anna", "hannah", "bobx"], ["ana", "hanah", "obb"]
    _, grads = script.batch_gradient(weights, anchors, positives)
    assert set(grads) <= set(weights)
    where = list(itertools.product(["w"], ["n", "an", "^a", "bob", "b", "nna"], (0, 13)))
    expected = slopes(
        lambda model: script.batch_gradient(model["w"], anchors, positives)[0],
        {"w": weights},
        where,
        h=1e-6,
    )
    found = [grads[run][j] for _, run, j in where]
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_a_batch_of_one_teaches_nothing(script):
    weights = some_weights(script, ["anna"])
    loss, grads = script.batch_gradient(weights, ["anna"], ["ana"])
    assert loss == 0.0
    assert all(abs(g) < 1e-12 for grad in grads.values() for g in grad)


def test_names_without_a_known_ngram(script):
    weights = some_weights(script, ["anna"])
    for name in ("", "xyz", "\ud55c\uae00"):
        assert script.embed(weights, name) == [0.0] * script.n_embd
    vectors = [script.embed(weights, name) for name in ("xyz", "anna")]
    assert script.dot(*vectors) == 0.0
    loss, grads = script.batch_gradient(weights, ["xyz", "anna"], ["", "ana"])
    assert math.isfinite(loss)
    assert all(math.isfinite(g) for grad in grads.values() for g in grad)
    assert script.count_vector("", lambda run: 0.0) == {"^$": 0.0}


def test_embeddings_have_length_one(script):
    weights = some_weights(script, ["anna", "zoe"])
    for name in ("anna", "ann", "zoe"):
        e = script.embed(weights, name)
        assert math.fsum(x * x for x in e) == pytest.approx(1.0)


def test_encoder_is_linear_in_the_counts(script):
    weights = some_weights(script, ["anna", "zoe"])
    expected = [0.0] * script.n_embd
    for run, count in script.ngrams("anna").items():
        expected = [x + count * w for x, w in zip(expected, weights[run])]
    assert script.project(weights, "anna") == pytest.approx(expected, abs=1e-12)


def test_steps_follow_the_gradient_at_a_falling_rate(script, monkeypatch):
    monkeypatch.setattr(script, "batch_size", 3)
    monkeypatch.setattr(script, "num_steps", 4)
    names = ["anna", "bob", "carla"]
    weights, expected = some_weights(script, names), some_weights(script, names)
    random.seed(5)
    losses = list(script.train(weights, names, set()))
    random.seed(5)
    for rate, loss in zip([3.0, 2.25, 1.5, 0.75], losses, strict=True):
        anchors = random.sample(names, 3)
        positives = [script.corrupt(name) for name in anchors]
        expected_loss, grads = script.batch_gradient(expected, anchors, positives)
        assert loss == pytest.approx(expected_loss)
        for run, grad in grads.items():
            expected[run] = [w - rate * g for w, g in zip(expected[run], grad)]
    assert flat([*weights.values()]) == pytest.approx(flat([*expected.values()]))


def test_a_version_that_spells_a_held_out_name_is_left_out(script, monkeypatch):
    monkeypatch.setattr(script, "batch_size", 2)
    monkeypatch.setattr(script, "corrupt", lambda name: name[:-1])
    weights, expected = (some_weights(script, ["annex", "bobx"]) for _ in range(2))
    next(script.train(weights, ["annex", "bobx"], {"anne"}))
    assert weights == expected  # what is left is a batch of one


@pytest.mark.slow
def test_training_brings_versions_together_and_names_apart(script, monkeypatch):
    monkeypatch.setattr(script, "num_steps", 60)
    names = script.load_names()[:400]
    weights = some_weights(script, names)
    misspelled = [script.corrupt(name) for name in names[:100]]
    before = script.evaluate(weights, names[:100], misspelled)
    losses = list(script.train(weights, names, set()))
    after = script.evaluate(weights, names[:100], misspelled)
    assert script.mean(losses[-10:]) < 0.5 * script.mean(losses[:10])
    assert after[0] > before[0]
    assert after[1] < before[1]
    assert after[2] > before[2]


def test_nearest_against_sorting_by_hand(script):
    vectors = gaussian(20, 3)
    query = [0.3, -1.0, 0.5]
    cosines = {i: math.fsum(a * b for a, b in zip(query, v)) for i, v in enumerate(vectors)}
    expected = sorted(cosines, key=cosines.get, reverse=True)
    assert script.nearest(query, vectors, 5, script.dot) == expected[:5]
    assert script.nearest(query, vectors, 99, script.dot) == expected
    assert script.nearest(query, [], 3, script.dot) == []


def test_recall_at_1(script):
    east, north = [1.0, 0.0], [0.0, 1.0]
    assert script.recall_at_1([east, north], [east, north], script.dot) == 1.0
    assert script.recall_at_1([east, east], [east, north], script.dot) == 0.5


def test_evaluate(script, monkeypatch):
    """Two names at known places, and their misspellings x and y."""
    at = {"a": [1.0, 0.0], "b": [0.6, 0.8], "x": [0.0, -1.0], "y": [0.0, 1.0]}
    monkeypatch.setattr(script, "embed", lambda weights, name: at[name])
    own, other, recall = script.evaluate({}, ["a", "b"], ["x", "y"])
    assert (own, other, recall) == pytest.approx((0.4, 0.6, 1.0))
    assert script.evaluate({}, ["a", "b"], ["y", "x"])[2] == 0.0


def test_count_vectors_against_dense_cosine(script):
    names = ["anna", "hannah", "bob"]
    runs = sorted({run for name in names for run in script.ngrams(name)})
    weigh = {run: 1.0 + i for i, run in enumerate(runs)}.get
    for a, b in itertools.product(names, repeat=2):
        x, y = ([script.ngrams(n)[run] * weigh(run) for run in runs] for n in (a, b))
        cosine = math.fsum(p * q for p, q in zip(x, y))
        cosine /= math.sqrt(math.fsum(p * p for p in x) * math.fsum(q * q for q in y))
        ours = script.sparse_dot(script.count_vector(a, weigh), script.count_vector(b, weigh))
        assert ours == pytest.approx(cosine, abs=1e-12)


def edit_distance_by_recursion(a, b):
    """Fewest insertions, deletions and replacements, from the definition."""
    if not a or not b:
        return len(a) + len(b)
    return min(
        edit_distance_by_recursion(a[1:], b) + 1,
        edit_distance_by_recursion(a, b[1:]) + 1,
        edit_distance_by_recursion(a[1:], b[1:]) + (a[0] != b[0]),
    )


def test_edit_distance(script):
    assert script.edit_distance("kitten", "sitting") == 3
    assert script.edit_distance("", "abc") == 3
    assert script.edit_distance("abc", "") == 3
    rng = random.Random(6)
    for _ in range(60):
        a, b = ("".join(rng.choices("ab", k=rng.randrange(6))) for _ in range(2))
        assert script.edit_distance(a, b) == edit_distance_by_recursion(a, b)


def test_drawings(script, capsys):
    names = ["anna", "anne", "hannah", "bob", "zoe", "carla", "zachary"]
    vectors = [script.embed(some_weights(script, names), name) for name in names]
    script.draw_neighbors(names[:3], vectors, names)
    drawn = capsys.readouterr().out
    assert len(drawn.split()) > 20
    assert drawn.isascii()
