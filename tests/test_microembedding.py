import collections
import itertools
import math
import random

import pytest
from harness import meets

CRITERIA = {
    "positive_cosine": "> 0.8",
    "random_cosine": "< 0.3",
    "runtime_seconds": "< 300",
}


@pytest.mark.parametrize("metric", CRITERIA)
def test_criterion(run, metric):
    assert meets(run.metrics[metric], CRITERIA[metric])
    assert run.criteria[metric] == CRITERIA[metric]


def test_anna_is_nearer_to_anne_than_to_zachary(run):
    assert meets(run.metrics["anna_anne_cosine"], run.criteria["anna_anne_cosine"])
    row = next(line.split() for line in run.stdout.splitlines() if line.startswith("  zachary "))
    assert float(row[1]) < run.metrics["anna_anne_cosine"] - 0.3


def test_neighbors_are_at_most_half_as_far_as_strangers(run):
    assert run.metrics["neighbor_edit_distance"] <= run.metrics["random_edit_distance"] / 2


def test_recall_beats_the_encoder_untrained_and_plain_counts(run):
    m = run.metrics
    assert m["recall_at_1"] > m["recall_at_1_counts"] + 0.01
    assert m["recall_at_1"] > m["recall_at_1_tfidf"] + 0.1
    assert m["recall_at_1"] > m["recall_at_1_untrained"] + 0.1


def test_the_run_tells_how_many_names_were_held_out(run):
    assert run.metrics["heldout_names"] == 5000


def some_weights(script, names, seed=1):
    random.seed(seed)
    return script.init_model(names)


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
    """-log of the share of the own pair, written out."""
    rng = random.Random(2)
    batch = [
        [script.normalize([rng.gauss(0, 1) for _ in range(script.n_embd)])[0] for _ in range(4)]
        for _ in range(2)
    ]
    anchors, positives = batch
    expected = 0.0
    for i, a in enumerate(anchors):
        s = [math.fsum(x * y for x, y in zip(a, p)) / 0.1 for p in positives]
        expected -= math.log(math.exp(s[i]) / math.fsum(map(math.exp, s))) / 4
    assert script.info_nce(anchors, positives)[0] == pytest.approx(expected, rel=1e-12)


def test_gradient_of_info_nce_equals_finite_differences(script):
    rng = random.Random(3)
    anchors, positives = (
        [[rng.gauss(0, 0.2) for _ in range(script.n_embd)] for _ in range(3)] for _ in range(2)
    )
    _, *grads = script.info_nce(anchors, positives)
    for side, grad in zip((anchors, positives), grads):
        for i, j in itertools.product(range(3), (0, 7, 47)):
            kept, slope = side[i][j], 0.0
            for sign in (1, -1):
                side[i][j] = kept + sign * 1e-6
                slope += sign * script.info_nce(anchors, positives)[0] / 2e-6
            side[i][j] = kept
            assert grad[i][j] == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_gradient_of_a_batch_equals_finite_differences(script):
    """Through n-grams that occur twice, in both versions, in several names, or are unknown."""
    weights = some_weights(script, ["anna", "hannah", "bob"])
    anchors, positives = ["anna", "hannah", "bobx"], ["ana", "hanah", "obb"]
    _, grads = script.batch_gradient(weights, anchors, positives)
    assert set(grads) <= set(weights)
    for run in ("n", "an", "^a", "bob", "b", "nna"):
        for j in (0, 13):
            kept, slope = weights[run][j], 0.0
            for sign in (1, -1):
                weights[run][j] = kept + sign * 1e-6
                slope += sign * script.batch_gradient(weights, anchors, positives)[0] / 2e-6
            weights[run][j] = kept
            assert grads[run][j] == pytest.approx(slope, rel=1e-5, abs=1e-7), run


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


def test_a_step_follows_the_gradient(script, monkeypatch):
    monkeypatch.setattr(script, "batch_size", 3)
    names = ["anna", "bob", "carla"]
    weights, expected = some_weights(script, names), some_weights(script, names)
    random.seed(5)
    next(script.train(weights, names, set()))
    random.seed(5)
    anchors = random.sample(names, 3)
    _, grads = script.batch_gradient(expected, anchors, [script.corrupt(n) for n in anchors])
    for run, grad in grads.items():
        expected[run] = [w - script.learning_rate * g for w, g in zip(expected[run], grad)]
    assert weights == expected


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
    rng = random.Random(4)
    vectors = [[rng.gauss(0, 1) for _ in range(3)] for _ in range(20)]
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
