"""microembedding against the definition of its loss, finite differences and brute force."""

import collections
import functools
import itertools
import math
import random

import pytest
from support.numbers import flat, gaussian, slopes, softmax


def some_model(script, names):
    """{n-gram: vector} for every n-gram of the names."""
    ngrams = sorted({ngram for name in names for ngram in script.ngrams(name)})
    return dict(zip(ngrams, gaussian(len(ngrams), script.n_embd, 0.1)))


def product(a, b):
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def test_ngrams(script):
    assert script.ngrams("ann") == "a n n ^a an nn n$ ^an ann nn$".split()
    assert script.ngrams("") == ["^$"]


def test_every_ngram_of_the_names_starts_at_random(script):
    random.seed(1)
    model = script.init_model(["anna", "hannah", "bob"])
    assert model.keys() == some_model(script, ["anna", "hannah", "bob"]).keys()
    numbers = flat([*model.values()])
    assert product(numbers, numbers) / len(numbers) == pytest.approx(0.01, rel=0.1)
    assert abs(math.fsum(numbers) / len(numbers)) < 0.01
    assert len(set(numbers)) == len(numbers) == script.n_embd * len(model)


def test_each_ngram_gets_its_vector_when_it_is_first_seen(script):
    random.seed(4)
    model = script.init_model(["aa", "ab"])
    random.seed(4)
    assert list(model) == "a ^a aa a$ ^aa aa$ b ab b$ ^ab ab$".split()
    for vector in model.values():
        assert vector == [random.gauss(0, 0.1) for _ in range(script.n_embd)]


def test_corrupt_loses_one_letter_or_swaps_two_neighbors(script):
    random.seed(1)
    name = "abcdef"
    lost = {name[:i] + name[i + 1 :] for i in range(6)}
    swapped = {name[:i] + name[i + 1] + name[i] + name[i + 2 :] for i in range(5)}
    drawn = collections.Counter(script.corrupt(name) for _ in range(3000))
    assert set(drawn) == lost | swapped
    assert all(abs(count - 3000 / 11) < 80 for count in drawn.values())
    assert {script.corrupt("ab") for _ in range(50)} == {"a", "b", "ba"}
    assert script.corrupt("a") == ""


def test_corrupt_always_changes_the_name(script):
    random.seed(1)
    assert {script.corrupt("anna") for _ in range(100)} == {"nna", "ana", "ann", "nana", "anan"}
    assert {script.corrupt("aaa") for _ in range(9)} == {"aa"}


def test_embedding_is_the_scaled_sum_of_the_vectors(script):
    model = some_model(script, ["anna", "zoe"])
    u = [0.0] * script.n_embd
    for ngram in "a n n a ^a an nn na a$ ^an ann nna na$".split():
        u = [x + y for x, y in zip(u, model[ngram])]
    assert script.sum_ngrams(model, "anna") == pytest.approx(u, abs=1e-12)
    length = math.sqrt(product(u, u))
    assert script.embed_name(model, "anna") == pytest.approx([x / length for x in u], abs=1e-12)


def test_embeddings_have_length_one(script):
    model = some_model(script, ["anna", "zoe"])
    for name in ("anna", "ann", "zoe"):
        e = script.embed_name(model, name)
        assert product(e, e) == pytest.approx(1.0)


def test_names_without_a_known_ngram(script):
    model = some_model(script, ["anna"])
    for name in ("", "xyz", "\ud55c\uae00"):
        assert script.embed_name(model, name) == [0.0] * script.n_embd
    assert script.dot(script.embed_name(model, "xyz"), script.embed_name(model, "anna")) == 0.0
    for loss_of in (script.info_nce, script.attract_only):
        loss, grads = script.batch_gradient(model, ["xyz", "anna"], ["", "ana"], loss_of)
        assert math.isfinite(loss)
        assert all(math.isfinite(g) for grad in grads.values() for g in grad)


def test_dot_and_softmax(script):
    assert script.dot([1.0, 2.0, 3.0], [4.0, -5.0, 6.0]) == 12.0
    with pytest.raises(ValueError):
        script.dot([1.0], [1.0, 2.0])
    assert script.softmax([1.0, 3.0, -2.0]) == pytest.approx(softmax([1.0, 3.0, -2.0]), rel=1e-12)
    assert script.softmax([1000.0, 1000.0]) == [0.5, 0.5]


def test_shares_of_the_comment(script):
    """The table above info_nce(): the cosines 0.8, 0.6 and 0.0 at two temperatures."""
    cosines = [0.8, 0.6, 0.0]
    assert script.softmax(cosines) == pytest.approx([0.44, 0.36, 0.20], abs=0.005)
    tenfold = script.softmax([c / 0.1 for c in cosines])
    assert tenfold == pytest.approx([0.88, 0.12, 0.00], abs=0.005)
    best = [1.0] + [-1.0] * 23
    assert script.softmax(best)[0] == pytest.approx(0.24, abs=0.005)


def test_example_of_normalize_backward(script):
    found = script.normalize_backward([3.0, 4.0], [1.0, 0.0])
    assert found == pytest.approx([0.128, -0.096], abs=1e-12)


def test_loss_against_its_definition(script):
    """The loss is the mean of -log of the share of the own misspelling."""
    rows = gaussian(8, script.n_embd)
    vectors = [script.normalize(row) for row in rows]
    anchors, positives = vectors[:4], vectors[4:]
    expected = 0.0
    attraction = 0.0
    for i, a in enumerate(anchors):
        scores = [product(a, b) / 0.1 for b in positives]
        expected -= math.log(softmax(scores)[i]) / 4
        attraction -= scores[i] / 4
    assert script.info_nce(anchors, positives)[0] == pytest.approx(expected, rel=1e-12)
    assert script.attract_only(anchors, positives)[0] == pytest.approx(attraction, rel=1e-12)


@pytest.mark.parametrize("loss_name", ["info_nce", "attract_only"])
def test_gradient_of_the_loss_equals_finite_differences(script, loss_name):
    loss_of = getattr(script, loss_name)
    batch = {"a": gaussian(3, script.n_embd, 0.2, 3), "b": gaussian(3, script.n_embd, 0.2, 4)}
    _, of_anchors, of_positives = loss_of(batch["a"], batch["b"])
    grads = {"a": of_anchors, "b": of_positives}
    where = list(itertools.product("ab", range(3), (0, 7, 63)))
    expected = slopes(lambda both: loss_of(both["a"], both["b"])[0], batch, where, h=1e-6)
    found = [grads[side][i][j] for side, i, j in where]
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_gradient_of_normalize_equals_finite_differences(script):
    weights = gaussian(1, script.n_embd, seed=8)[0]
    model = {"u": gaussian(1, script.n_embd, 2.0, seed=9)}
    where = [("u", 0, j) for j in range(0, script.n_embd, 5)]
    expected = slopes(lambda m: product(weights, script.normalize(m["u"][0])), model, where)
    found = script.normalize_backward(model["u"][0], weights)
    assert [found[j] for _, _, j in where] == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("loss_name", ["info_nce", "attract_only"])
def test_gradient_of_a_batch_equals_finite_differences(script, loss_name):
    """Through n-grams that occur twice, in both versions, in several names, or are unknown."""
    loss_of = getattr(script, loss_name)
    model = some_model(script, ["anna", "hannah", "bob"])
    names, misspellings = ["anna", "hannah", "bobx"], ["ana", "hanah", "obb"]
    _, grads = script.batch_gradient(model, names, misspellings, loss_of)
    assert set(grads) <= set(model)
    where = list(itertools.product(["w"], ["n", "an", "^a", "bob", "b", "nna"], (0, 13)))
    expected = slopes(
        lambda holder: script.batch_gradient(holder["w"], names, misspellings, loss_of)[0],
        {"w": model},
        where,
        h=1e-6,
    )
    found = [grads[ngram][j] for _, ngram, j in where]
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_a_batch_of_one_teaches_nothing(script):
    model = some_model(script, ["anna"])
    loss, grads = script.batch_gradient(model, ["anna"], ["ana"], script.info_nce)
    assert loss == 0.0
    assert all(abs(g) < 1e-12 for grad in grads.values() for g in grad)


def test_steps_follow_the_gradient_at_a_falling_rate(script, monkeypatch):
    monkeypatch.setattr(script, "batch_size", 3)
    names = ["anna", "bob", "carla"]
    model, expected = some_model(script, names), some_model(script, names)
    random.seed(5)
    losses = list(script.train(model, names, [], 4))
    random.seed(5)
    for rate, loss in zip([3.0, 2.25, 1.5, 0.75], losses, strict=True):
        batch = random.sample(names, 3)
        misspellings = [script.corrupt(name) for name in batch]
        expected_loss, grads = script.batch_gradient(expected, batch, misspellings, script.info_nce)
        assert loss == pytest.approx(expected_loss)
        for ngram, grad in grads.items():
            expected[ngram] = [w - rate * g for w, g in zip(expected[ngram], grad)]
    assert flat([*model.values()]) == pytest.approx(flat([*expected.values()]))


def test_training_leaves_the_vectors_that_it_started_from(script, monkeypatch):
    """main() trains two shallow copies of one model."""
    monkeypatch.setattr(script, "batch_size", 2)
    model = some_model(script, ["anna", "bob"])
    copy = dict(model)
    before = {ngram: list(vector) for ngram, vector in model.items()}
    list(script.train(copy, ["anna", "bob"], [], 2))
    assert copy != before
    assert model == before


def test_a_version_that_spells_a_held_out_name_is_left_out(script, monkeypatch):
    monkeypatch.setattr(script, "batch_size", 2)
    monkeypatch.setattr(script, "corrupt", lambda name: name[:-1])
    model, expected = (some_model(script, ["annex", "bobx"]) for _ in range(2))
    next(script.train(model, ["annex", "bobx"], ["anne"], 1))
    assert model == expected  # what is left is a batch of one


@pytest.mark.slow
def test_training_brings_versions_together_and_names_apart(script):
    random.seed(2)
    names = script.load_names()[:400]
    untrained = some_model(script, names)
    misspellings = [script.corrupt(name) for name in names[:100]]
    after = {}
    for loss_of in (script.info_nce, script.attract_only):
        model = dict(untrained)
        losses = list(script.train(model, names, [], 60, loss_of))
        assert script.mean(losses[-10:]) < script.mean(losses[:10])
        vector_of = functools.partial(script.embed_name, model)
        vectors = [vector_of(name) for name in names[:100]]
        queries = [vector_of(misspelling) for misspelling in misspellings]
        after[loss_of] = [
            script.mean([script.dot(a, b) for a, b in zip(vectors, queries)]),
            script.mean([script.dot(a, b) for a, b in zip(vectors, vectors[1:])]),
            script.judge(vector_of, script.dot, names[:100], misspellings)["recall"],
        ]
    positive, other, recall = after[script.info_nce]
    assert positive > other + 0.6
    assert recall > 0.95
    positive, other, recall = after[script.attract_only]
    assert positive > 0.95  # without negatives everything becomes similar
    assert other > 0.9


def test_nearest_is_the_one_with_the_highest_similarity(script):
    vectors = gaussian(20, 3)
    query = [0.3, -1.0, 0.5]
    cosines = {i: product(query, v) for i, v in enumerate(vectors)}
    assert script.nearest(query, vectors, script.dot) == max(cosines, key=cosines.get)
    assert script.nearest(2.0, [5.0, 1.0, 2.5], lambda a, b: -abs(a - b)) == 2


def test_judge(script):
    """Names at known places, of which the last two have no misspelling."""
    places = {"eva": 0, "ava": 80, "max": 170, "evi": 60, "x": 25, "y": 100, "z": 40}
    circle = {}
    for name, degrees in places.items():
        angle = math.radians(degrees)
        circle[name] = [math.cos(angle), math.sin(angle)]
    names = ["eva", "ava", "max", "evi"]
    figures = script.judge(circle.get, script.dot, names, ["x", "y"])
    steps = [math.cos(math.radians(degrees)) for degrees in (80, 90, 110)]
    positives = [math.cos(math.radians(degrees)) for degrees in (25, 20)]
    assert figures.pop("found") == ["eva", "ava"]
    expected = {"positive": sum(positives) / 2, "random": sum(steps) / 3, "recall": 1.0}
    assert figures == pytest.approx(expected, abs=1e-12)
    figures = script.judge(circle.get, script.dot, names, ["x", "z"])
    assert figures["found"] == ["eva", "evi"]
    assert figures["recall"] == 0.5


def test_count_vectors_against_dense_cosine(script):
    names = ["anna", "hannah", "bob"]
    ngrams = sorted({ngram for name in names for ngram in script.ngrams(name)})
    for a, b in itertools.product(names, repeat=2):
        x, y = ([script.ngrams(n).count(g) for g in ngrams] for n in (a, b))
        cosine = product(x, y) / math.sqrt(product(x, x) * product(y, y))
        ours = script.sparse_dot(script.count_vector(a), script.count_vector(b))
        assert ours == pytest.approx(cosine, abs=1e-12)


def test_the_examples_are_misspellings_of_held_out_names(script, monkeypatch):
    monkeypatch.setattr(script.random, "choice", lambda errors: errors)
    names = set(script.load_names())
    for name, misspelling in script.example:
        assert name in script.probes
        assert misspelling not in names
        assert misspelling in script.corrupt(name)


def test_drawings(script, capsys):
    model = some_model(script, script.probes)
    state = random.getstate()
    script.show_example("Title", model)
    names = ["mia", "johanna", "zoe"]
    figures = {"positive": 0.5, "random": 0.25, "recall": 0.75, "found": names}
    script.show_figures({"way": figures})
    script.show_searches(names, ["mi", "jonna"], ["mia", "mia"], ["mia", "johanna"])
    drawn = capsys.readouterr().out
    assert len(drawn.split()) > 100
    assert "hannh" in drawn
    assert "jonna" in drawn
    assert drawn.isascii()
    assert random.getstate() == state
