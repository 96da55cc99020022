"""micrornn against both cells written as equations, and their gradients by finite differences."""

import itertools
import math
import random

import pytest
from support.numbers import (
    central_differences,
    flat,
    gaussian,
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
PARTS = {"rnn": "h", "gru": "hzr"}
each_cell = pytest.mark.parametrize("kind", PARTS)


def test_both_have_learned(run):
    for kind in PARTS:
        assert run.metrics[f"{kind}_final_loss"] < 2.6
        assert run.metrics[f"{kind}_heldout_loss"] < 2.6


def weights_of(kind, vocab_size=27):
    """A float model with biases that are not zero and gates half open, so every part matters."""
    model = {"w_hy": gaussian(vocab_size, 32, 0.3, "w_hy"), "b_y": gaussian(1, vocab_size, 0.5)}
    for part in PARTS[kind]:
        model[f"w_x{part}"] = gaussian(vocab_size, 32, 0.3, f"x{part}")
        model[f"w_h{part}"] = gaussian(32, 32, 0.3, f"h{part}")
        model[f"b_{part}"] = gaussian(1, 32, 0.5, f"b{part}")
    return model


def logistic(x):
    return 1 / (1 + math.exp(-x))


def reference_state(w, token, h):
    """One step as in the papers: matrices times a one-hot vector and times h, plus a bias."""
    one_hot = [float(i == token) for i in range(len(w["w_hy"]))]

    def pre(part, past):
        from_x = matvec(zip(*w[f"w_x{part}"]), one_hot)
        from_h = matvec(w[f"w_h{part}"], past)
        return [x + p + b for x, p, b in zip(from_x, from_h, w[f"b_{part}"][0])]

    if "w_xz" not in w:
        return [math.tanh(a) for a in pre("h", h)]
    z = [logistic(a) for a in pre("z", h)]
    r = [logistic(a) for a in pre("r", h)]
    c = [math.tanh(a) for a in pre("h", [ri * hi for ri, hi in zip(r, h)])]
    return [(1 - zi) * hi + zi * ci for zi, hi, ci in zip(z, h, c)]


def reference_surprise(w, h, target):
    """-log p(target) after state h."""
    scores = [a + b for a, b in zip(matvec(w["w_hy"], h), w["b_y"][0])]
    return -math.log(softmax(scores)[target])


def reference_loss(w, tokens):
    """Mean of -log p(next token) over at most 16 steps."""
    h, losses = [0.0] * 32, []
    for token, target in list(zip(tokens, tokens[1:]))[:16]:
        h = reference_state(w, token, h)
        losses.append(reference_surprise(w, h, target))
    return math.fsum(losses) / len(losses)


@each_cell
@pytest.mark.parametrize("name", ["anna", "z", "bartholomewjames"])
def test_loss_equals_the_reference(script, kind, name):
    w, tokens = weights_of(kind), script.encode(name, CHARS)
    loss = script.name_loss(w, tokens)
    assert loss == pytest.approx(reference_loss(w, tokens), abs=1e-12)
    graph = script.name_loss(lift(script, w), tokens)
    assert graph.data == pytest.approx(loss, abs=1e-13)


@each_cell
def test_gradient_through_time_equals_finite_differences(script, kind):
    """Every group of parameters of both cells, on tokens that all come back."""
    weights, tokens = weights_of(kind, vocab_size=3), [2, 0, 1, 2, 0, 1]
    model = lift(script, weights)
    script.name_loss(model, tokens).backward()
    grads, where = gradients(model), places_of_each(weights, 3)
    expected = slopes(lambda w: script.name_loss(w, tokens), weights, where)
    assert all(expected)
    found = [grads[name][i][j] for name, i, j in where]
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-8)


@each_cell
def test_state_gradients_equal_finite_differences(script, kind):
    """dL/dh_t: nudge the state after step t, run on, and look at the loss of the last step."""
    w, tokens = weights_of(kind), script.encode("olivia", CHARS)
    found = script.state_gradients(w, tokens)
    assert (len(found), len(found[0])) == (7, 32)

    def loss_after(state, rest):
        (h,) = state["h"]
        for token in rest[:-1]:
            h = reference_state(w, token, h)
        return reference_surprise(w, h, rest[-1])

    h, units = [0.0] * 32, (0, 5, 31)
    for t, token in enumerate(tokens[:-1]):
        h = reference_state(w, token, h)
        where = [("h", 0, i) for i in units]
        expected = slopes(lambda s, t=t: loss_after(s, tokens[t + 1 :]), {"h": [h]}, where)
        assert [found[t][i] for i in units] == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_rnn_cell_worked_by_hand(script):
    w = {"w_xh": [[0.5, -1.0], [0.0, 2.0]], "w_hh": [[1.0, 0.0], [2.0, -1.0]], "b_h": [[0.1, 0.2]]}
    h = script.rnn_cell(w, 0, [0.25, -0.5])
    # 0.5 + 0.1 + 0.25 = 0.85; -1 + 0.2 + 0.5 + 0.5 = 0.2
    assert h == pytest.approx([0.69106946983, 0.19737532022], abs=1e-10)


def test_gru_cell_worked_by_hand(script):
    """One unit of state 0.5, with round numbers for both gates."""
    log3 = math.log(3)
    w = {
        "w_xz": [[0.0], [log3]],  # sigmoid(log 3) = 3/4
        "w_hz": [[2 * log3]],
        "b_z": [[-log3]],
        "w_xr": [[0.0], [-log3]],
        "w_hr": [[2 * log3]],
        "b_r": [[-log3]],
        "w_xh": [[0.0], [1.0]],
        "w_hh": [[4.0]],
        "b_h": [[-1.0]],
    }
    # Token 1: z = sigmoid(log3 + log3 - log3) = 3/4, r = sigmoid(-log3 + log3 - log3) = 1/4,
    # c = tanh(1 + 4 * (1/4 * 0.5) - 1) = tanh(0.5), h = 1/4 * 0.5 + 3/4 * tanh(0.5)
    assert script.gru_cell(w, 1, [0.5]) == pytest.approx([0.125 + 0.75 * 0.46211715726], abs=1e-11)
    # Token 0: z = 1/2, r = 1/2, c = tanh(4 * 0.25 - 1) = 0
    assert script.gru_cell(w, 0, [0.5]) == pytest.approx([0.25], abs=1e-12)


def test_a_gate_that_copies_passes_the_gradient_unchanged(script):
    w = weights_of("gru")
    w["b_z"] = [[-1000.0] * 32]  # z = 0
    steps = script.state_gradients(w, script.encode("annabella", CHARS))
    assert any(steps[-1])
    assert all(step == steps[-1] for step in steps)
    assert script.grad_ratio([steps]) == 1.0


def test_a_gate_that_replaces_makes_an_rnn(script):
    """z = 1 and r = 1: the GRU's equations are then the RNN's."""
    w = weights_of("gru")
    w["b_z"], w["b_r"] = [[1000.0] * 32], [[1000.0] * 32]
    tokens = script.encode("anna", CHARS)
    plain = {name: w[name] for name in ("w_xh", "w_hh", "b_h", "w_hy", "b_y")}
    loss = script.name_loss(plain, tokens)
    assert script.name_loss(w, tokens) == pytest.approx(loss, abs=1e-13)


def test_blend_equals_its_composed_graph(script):
    for z, h, c in ((0.3, -0.5, 0.8), (0.0, 0.4, -0.9), (1.0, 0.4, -0.9)):
        ours, theirs = ([script.Value(x) for x in (z, h, c)] for _ in range(2))
        fused = script.blend(*ours)
        composed = (1.0 - theirs[0]) * theirs[1] + theirs[0] * theirs[2]
        assert fused.data == pytest.approx(composed.data, abs=1e-15)
        assert script.blend(z, h, c) == pytest.approx((1 - z) * h + z * c, abs=1e-15)
        (fused * fused).backward()
        (composed * composed).backward()
        for a, b in zip(ours, theirs):
            assert a.grad == pytest.approx(b.grad, abs=1e-15)
    gate, candidate = script.Value(0.25), script.Value(0.8)
    out = script.blend(gate, 0.4, candidate)  # the first state is of floats
    out.backward()
    assert (out.data, gate.grad, candidate.grad) == pytest.approx((0.5, 0.4, 0.25))


def test_sigmoid(script):
    for x in (-6.0, -0.7, 0.0, 0.7, 6.0):
        v = script.Value(x)
        y = script.sigmoid(v)
        y.backward()
        assert y.data == script.sigmoid(x) == pytest.approx(logistic(x), rel=1e-12)
        expected = central_differences(lambda xs: logistic(*xs), [x])
        assert [v.grad] == pytest.approx(expected, rel=1e-6)
    for x, limit in ((1000.0, 1.0), (-1000.0, 0.0)):
        v = script.Value(x)
        y = script.sigmoid(v)
        y.backward()
        assert (y.data, v.grad, script.sigmoid(x)) == (limit, 0.0, limit)


def test_direct_gradient_multiplies_what_later_steps_keep(script):
    kept = [[9.0, 9.0], [0.5, 0.1], [0.5, 1.0]]  # step 1 comes before h_1: it does not count
    assert script.direct_gradient([2.0, -3.0], kept) == pytest.approx([0.5, -0.3])


def test_direct_ratio_of_two_sequences(script):
    """Per sequence: the last gradient times 1 - z of tokens 2 and 3; then the mean norms."""
    gradients = [[[9.0, 9.0], [9.0, 9.0], [3.0, 4.0]], [[9.0, 9.0], [9.0, 9.0], [0.0, 5.0]]]
    kept = [[[0.1, 0.1], [0.5, 0.5], [1.0, 0.5]], [[0.1, 0.1], [1.0, 0.2], [1.0, 0.5]]]
    # [3 * 0.5, 4 * 0.25] and [0, 0.5]; both last norms are 5
    expected = (math.hypot(1.5, 1.0) + 0.5) / 10
    assert script.direct_ratio(gradients, kept) == pytest.approx(expected, abs=1e-12)


def test_add_is_one_value_per_sum(script):
    a, b = [script.Value(1.5), script.Value(2.0)], [0.25, -3.0]
    c = [script.Value(4.0), script.Value(5.0)]
    sums = script.add(a, b, c)
    assert [s.data for s in sums] == [5.75, 4.0]
    (sums[0] * 3.0 + sums[1] * a[1]).backward()
    assert [x.grad for x in a] == [3.0, 2.0 + 4.0]
    assert [x.grad for x in c] == [3.0, 2.0]
    assert script.add(b, [1.0, 1.0]) == [1.25, -2.0]
    with pytest.raises(ValueError):
        script.add([1.0, 2.0], [1.0])


def test_tanh_of_both_kinds(script):
    v = script.Value(0.7)
    y = script.tanh(v)
    y.backward()
    assert y.data == script.tanh(0.7) == math.tanh(0.7)
    assert v.grad == pytest.approx(1 - math.tanh(0.7) ** 2, abs=1e-15)


def test_the_cell_is_the_one_that_the_model_has_matrices_for(script):
    h = gaussian(1, 32, 0.5)[0]
    for kind in PARTS:
        w = weights_of(kind)
        assert script.next_state(w, 4, h) == pytest.approx(reference_state(w, 4, h), abs=1e-12)


def test_kept_shares_are_one_minus_z(script):
    w, tokens = weights_of("gru"), script.encode("mia", CHARS)
    kept, h = script.kept_shares(w, tokens), [0.0] * 32
    assert (len(kept), len(kept[0])) == (4, 32)
    for token, shares in zip(tokens, kept):
        terms = zip(w["w_xz"][token], matvec(w["w_hz"], h), w["b_z"][0])
        expected = [1 - logistic(x + past + b) for x, past, b in terms]
        assert shares == pytest.approx(expected, abs=1e-12)
        assert script.update_gate(w, token, h) == pytest.approx([1 - x for x in expected])
        h = reference_state(w, token, h)


def test_norms_are_averaged_over_sequences(script):
    two_sequences = [[[3.0, 4.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, -7.0]]]
    assert script.mean_norms(two_sequences) == [3.0, 4.0]
    assert script.grad_ratio(two_sequences) == 0.75
    assert script.mean_norms(two_sequences, slice(1)) == [1.5, 0.0]
    assert script.mean_norms(two_sequences, slice(1, None)) == [2.5, 4.0]


def test_gradients_on_several_sequences(script):
    w, sequences = weights_of("gru"), [[BOUNDARY, 0, 5], [BOUNDARY, 3, 4, 9]]
    expected = [script.state_gradients(w, tokens) for tokens in sequences]
    assert script.gradients_on(sequences, w) == expected


def deviation(matrix):
    numbers = flat(matrix)
    return math.sqrt(math.fsum(x * x for x in numbers) / len(numbers))


@pytest.mark.parametrize("kind", ["rnn", "gru"])
def test_both_cells_start_at_the_same_scales(script, kind):
    random.seed(1)
    w = {"rnn": script.init_rnn, "gru": script.init_gru}[kind](27)
    expected = {"w_hy": ((27, 32), 0.3), "b_y": ((1, 27), 0.0)}
    for part in PARTS[kind]:
        expected[f"w_x{part}"] = ((27, 32), 0.3)
        expected[f"w_h{part}"] = ((32, 32), 0.1)
        expected[f"b_{part}"] = ((1, 32), 0.0)
    assert set(w) == set(expected)
    for name, (shape, std) in expected.items():
        assert (len(w[name]), len(w[name][0])) == shape
        if name == "b_z":
            assert w[name] == [[-4.0] * 6 + [3.0] * 26]
        else:
            assert deviation(w[name]) == pytest.approx(std, rel=0.1)
            assert len(set(flat(w[name]))) == (len(flat(w[name])) if std else 1)


def test_orthogonal_rows_have_length_one_and_right_angles(script):
    matrix = gaussian(32, 32, 0.1)
    rows = script.orthogonal(matrix)
    columns = [list(column) for column in zip(*rows)]
    for vectors in (rows, columns):
        for i, vector in enumerate(vectors):
            expected = [float(i == j) for j in range(32)]
            assert matvec(vectors, vector) == pytest.approx(expected, abs=1e-12)
    # Each row comes from the rows up to its own: it points to their side, and not to later ones.
    for i, row in enumerate(matrix):
        overlaps = matvec(rows, row)
        assert overlaps[i] > 0
        assert overlaps[i + 1 :] == pytest.approx([0.0] * (31 - i), abs=1e-12)
    assert script.orthogonal([[3.0, 4.0], [1.0, 0.0]]) == [
        pytest.approx([0.6, 0.8]),
        pytest.approx([0.8, -0.6]),
    ]


def test_controls_differ_in_one_matrix(script):
    random.seed(2)
    models = script.init_models(27)
    assert list(models) == ["RNN", "RNN, orthogonal", "GRU, half open", "GRU"]
    rnn, orthogonal_rnn, half_open, gru = models.values()
    assert [name for name in rnn if rnn[name] != orthogonal_rnn[name]] == ["w_hh"]
    assert list(rnn) == list(orthogonal_rnn)
    assert orthogonal_rnn["w_hh"] == script.orthogonal(rnn["w_hh"])
    assert [name for name in gru if gru[name] != half_open[name]] == ["b_z"]
    assert list(gru) == list(half_open)
    assert half_open["b_z"] == [[0.0] * 32]
    assert "w_xz" not in rnn
    assert "w_xz" in gru


def test_initial_values_decide_what_becomes_of_the_gradient(script):
    """Untrained: only the GRU whose gate is set keeps a tenth. Half open, it is as the RNN."""
    random.seed(3)
    sequences = [[BOUNDARY, *random.choices(range(27), k=16)] for _ in range(2)]
    ratios = {
        title: script.grad_ratio(script.gradients_on(sequences, model))
        for title, model in script.init_models(27).items()
    }
    assert ratios["RNN"] < 0.001
    assert ratios["GRU, half open"] < 0.01
    assert 10 * ratios["RNN"] < ratios["RNN, orthogonal"] < ratios["GRU"]
    assert ratios["GRU"] == pytest.approx(0.33, abs=0.1)  # what init_gru() expects


def test_an_orthogonal_recurrence_loses_gradient_to_tanh_alone(script):
    """With tiny states the derivative of tanh is 1, and the gradient keeps its length."""
    random.seed(4)
    w = script.with_orthogonal_recurrence(script.init_rnn(27))
    w["w_xh"] = [[1e-6 * x for x in row] for row in w["w_xh"]]
    norms = script.mean_norms([script.state_gradients(w, [BOUNDARY, *range(16)])])
    assert norms == pytest.approx([norms[-1]] * 16, rel=1e-6)


@each_cell
def test_training_is_plain_sgd(script, kind, monkeypatch):
    """Three steps against finite differences of the reference loss, at the rate of 0.1."""
    monkeypatch.setattr(script, "num_steps", 3)
    model = lift(script, weights_of(kind, vocab_size=3))
    steps = script.train(model, ["abba", "b"], ["a", "b"])
    where = [("w_hh", 3, 4), ("w_xh", 2, 5), ("w_hy", 1, 2), ("b_h", 0, 7)]
    for tokens in ([2, 0, 1, 1, 0, 2], [2, 1, 2], [2, 0, 1, 1, 0, 2]):
        before = lower(model)
        assert next(steps) == pytest.approx(reference_loss(before, tokens), abs=1e-12)
        after = lower(model)
        expected = slopes(lambda w, tokens=tokens: reference_loss(w, tokens), before, where)
        moved = [after[name][i][j] - before[name][i][j] for name, i, j in where]
        assert moved == pytest.approx([-0.1 * slope for slope in expected], abs=1e-8)
        assert not any(flat(gradients(model)))
    assert next(steps, None) is None


def test_names_longer_than_the_sequence_lose_their_tail(script):
    w = weights_of("gru")
    long, longer = ("abcdefghijklmnopqrstuvwxyz"[:n] for n in (16, 26))
    expected = script.name_loss(w, script.encode(long, CHARS)[:-1])
    assert script.name_loss(w, script.encode(longer, CHARS)) == expected


def test_sequences_are_cut_from_a_stream_of_names(script, monkeypatch):
    monkeypatch.setattr(script, "num_sequences", 2)
    monkeypatch.setattr(script, "seq_len", 4)
    b = 26
    assert script.cut_sequences(["abc", "d", "efgh", "i"], CHARS) == [
        [b, 0, 1, 2, b],
        [b, 3, b, 4, 5],
    ]


def test_no_name_is_both_trained_on_and_held_out(script, monkeypatch, capsys):
    """main() on a list with repeats: no name is both in training and among those judged."""
    trained_on, judged, cut = [], [], []
    monkeypatch.setattr(script, "load_names", lambda: NAMES[:2000] * 2 + NAMES)
    monkeypatch.setattr(script, "gradients_on", lambda *args: [[[1.0], [1.0]]])
    monkeypatch.setattr(script, "seq_len", 2)
    monkeypatch.setattr(script, "kept_shares", lambda *args: [[1.0] * 32] * 2)
    monkeypatch.setattr(
        script, "train", lambda model, names, chars: trained_on.append(names) or [1.0]
    )
    monkeypatch.setattr(script, "cut_sequences", lambda names, chars: cut.append(names) or ["a"])
    monkeypatch.setattr(script, "encode", lambda name, chars: [name, name])
    monkeypatch.setattr(script, "name_loss", lambda model, tokens: judged.append(tokens[0]) or 1.0)
    monkeypatch.setattr(script, "sample", lambda model: [16, 0, 16])
    state = random.getstate()
    script.main()
    random.setstate(state)
    assert all(names == trained_on[0] for names in trained_on)
    assert len(trained_on) == 4
    assert cut == [judged[:1000]]
    assert judged[:1000] == judged[1000:]
    assert (len(trained_on[0]), len(judged)) == (3000, 2000)
    assert len({*trained_on[0], *judged}) == 4000
    assert "=== results ===" in capsys.readouterr().out


NAMES = ["".join(letters) for letters in itertools.product("abcdefghijklmnop", repeat=3)]


def test_a_model_is_judged_by_its_own_figures(script):
    w = weights_of("gru")
    assert (script.num_params(weights_of("rnn")), script.num_params(w)) == (2811, 6651)
    losses = [reference_loss(w, script.encode(name, CHARS)) for name in ["anna", "mia"]]
    expected = math.fsum(losses) / 2
    assert script.mean_loss(w, ["anna", "mia"], CHARS) == pytest.approx(expected, abs=1e-12)


def test_written_names_are_the_samples_in_letters(script):
    w = weights_of("gru")
    random.seed(5)
    written = script.write_names(w, CHARS)
    random.seed(5)
    assert written == [script.spell(script.sample(w), CHARS) for _ in range(script.num_samples)]
    assert len(written) == script.num_samples


def constant_model(scores):
    """A model that gives every next token the same scores, whatever came before."""
    w = weights_of("rnn", vocab_size=len(scores))
    return {**w, "w_hy": [[0.0] * 32 for _ in scores], "b_y": [scores]}


def test_sampling_follows_the_tempered_distribution(script, monkeypatch):
    scores = [0.2, -0.4, 0.3]
    monkeypatch.setattr(script, "seq_len", 1)
    monkeypatch.setattr(script, "next_state", lambda model, token, h: h)
    random.seed(7)
    n, w = 4000, constant_model(scores)
    drawn = [script.sample(w)[1] for _ in range(n)]
    for token, p in enumerate(softmax([x / 0.5 for x in scores])):
        assert abs(drawn.count(token) / n - p) < 5 * math.sqrt(p * (1 - p) / n)


def test_each_token_is_sampled_after_those_before_it(script, monkeypatch):
    """The cell gets the token drawn last and the state that it returned last."""
    given, spelled = [], [1, 0, 2]  # "ba" and the boundary
    states = [[100.0 * (i == token) for i in range(32)] for token in spelled]

    def cell(model, token, h):
        given.append((token, h))
        return states[len(given) - 1]

    monkeypatch.setattr(script, "next_state", cell)
    w = {"w_hy": [[float(i == token) for i in range(32)] for token in range(3)], "b_y": [[0.0] * 3]}
    assert script.sample(w) == [2, 1, 0, 2]
    assert given == [(2, [0.0] * 32), (1, states[0]), (0, states[1])]


def test_sample_ends_at_the_boundary_or_the_longest_name(script):
    w = constant_model([1000.0 * (i == 2) for i in range(27)])
    assert script.sample(w) == [BOUNDARY] + [2] * 16
    w = constant_model([1000.0 * (i == BOUNDARY) for i in range(27)])
    assert script.sample(w) == [BOUNDARY, BOUNDARY]


def test_drawings(script, capsys):
    models = {"RNN": weights_of("rnn"), "GRU": weights_of("gru")}
    sequences = [[BOUNDARY, *range(16)], [BOUNDARY, *range(8, 24)]]
    gradients = {title: script.gradients_on(sequences, model) for title, model in models.items()}
    script.show_fifteen_updates()
    script.show_norms("Norms", gradients)
    kept_on = [script.kept_shares(models["GRU"], tokens) for tokens in sequences]
    script.show_gates(kept_on, gradients["GRU"])
    script.show_comparison({"RNN": 2.5, "GRU": 2.4}, gradients, gradients)
    drawn = capsys.readouterr().out
    assert "slow units" in drawn
    assert drawn.isascii()
