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


def test_the_open_gate_makes_the_difference_and_not_the_gate(run):
    """Untrained, the GRU's gradient dies like the RNN's if its biases do not keep units slow."""
    m = run.metrics
    assert m["rnn_untrained_grad_ratio"] < 0.01
    assert m["gru_zero_bias_grad_ratio"] < 0.01
    assert 0.1 < m["gru_untrained_grad_ratio"] < 10


def test_the_direct_path_explains_the_ratio(run):
    assert run.metrics["gru_direct_grad_ratio"] == pytest.approx(
        run.metrics["gru_grad_ratio"], rel=0.25
    )


def test_both_have_learned(run):
    for kind in PARTS:
        assert run.metrics[f"{kind}_final_loss"] < 2.6
        assert run.metrics[f"{kind}_heldout_loss"] < 2.6
        assert run.metrics[f"{kind}_pronounceable_rate"] >= 0.8


def weights_of(kind, vocab_size=27):
    """A float model with biases that are not zero and gates half open, so every part matters."""
    model = {"w_hy": gaussian(vocab_size, 32, 0.3, "w_hy"), "b_y": gaussian(1, vocab_size, 0.5)}
    for part in PARTS[kind]:
        model[f"w_x{part}"] = gaussian(vocab_size, 32, 0.3, f"x{part}")
        model[f"w_h{part}"] = gaussian(32, 32, 0.3, f"h{part}")
        model[f"b_{part}"] = gaussian(1, 32, 0.5, f"b{part}")
    return model


def cell_of(script, kind):
    return {"rnn": script.rnn_cell, "gru": script.gru_cell}[kind]


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
    loss = script.name_loss(cell_of(script, kind), w, tokens)
    assert loss == pytest.approx(reference_loss(w, tokens), abs=1e-12)
    graph = script.name_loss(cell_of(script, kind), lift(script, w), tokens)
    assert graph.data == pytest.approx(loss, abs=1e-13)


@each_cell
def test_gradient_through_time_equals_finite_differences(script, kind):
    """Every group of parameters of both cells, on tokens that all come back."""
    weights, tokens = weights_of(kind, vocab_size=3), [2, 0, 1, 2, 0, 1]
    cell, model = cell_of(script, kind), lift(script, weights)
    script.name_loss(cell, model, tokens).backward()
    grads, where = gradients(model), places_of_each(weights, 3)
    expected = slopes(lambda w: script.name_loss(cell, w, tokens), weights, where)
    assert all(expected)
    found = [grads[name][i][j] for name, i, j in where]
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-8)


@each_cell
def test_state_gradients_equal_finite_differences(script, kind):
    """dL/dh_t: nudge the state after step t, run on, and look at the loss of the last step."""
    w, tokens = weights_of(kind), script.encode("olivia", CHARS)
    found = script.state_gradients(cell_of(script, kind), w, tokens)
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
    steps = script.state_gradients(script.gru_cell, w, script.encode("annabella", CHARS))
    assert any(steps[-1])
    assert all(step == steps[-1] for step in steps)
    assert script.grad_ratio([steps]) == 1.0


def test_a_gate_that_replaces_makes_an_rnn(script):
    """z = 1 and r = 1: the GRU's equations are then the RNN's."""
    w = weights_of("gru")
    w["b_z"], w["b_r"] = [[1000.0] * 32], [[1000.0] * 32]
    tokens = script.encode("anna", CHARS)
    assert script.name_loss(script.gru_cell, w, tokens) == pytest.approx(
        script.name_loss(script.rnn_cell, w, tokens), abs=1e-13
    )


def test_blend_equals_its_composed_graph(script):
    for z, h, c in ((0.3, -0.5, 0.8), (0.0, 0.4, -0.9), (1.0, 0.4, -0.9)):
        ours, theirs = ([script.Value(x) for x in (z, h, c)] for _ in range(2))
        fused = script.blend(*ours)
        composed = (1.0 - theirs[0]) * theirs[1] + theirs[0] * theirs[2]
        assert fused.data == pytest.approx(composed.data, abs=1e-15)
        assert script.blend(z, h, c) == fused.data
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
        y = v.sigmoid()
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


def test_kept_shares_are_one_minus_z(script):
    w, tokens = weights_of("gru"), script.encode("mia", CHARS)
    kept, h = script.kept_shares(w, tokens), [0.0] * 32
    assert (len(kept), len(kept[0])) == (4, 32)
    for token, shares in zip(tokens, kept):
        terms = zip(w["w_xz"][token], matvec(w["w_hz"], h), w["b_z"][0])
        expected = [1 - logistic(x + past + b) for x, past, b in terms]
        assert shares == pytest.approx(expected, abs=1e-12)
        h = reference_state(w, token, h)


def test_norms_are_averaged_over_sequences(script):
    two_sequences = [[[3.0, 4.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, -7.0]]]
    assert script.mean_norms(two_sequences) == [3.0, 4.0]
    assert script.grad_ratio(two_sequences) == 0.75


def deviation(matrix):
    numbers = flat(matrix)
    return math.sqrt(math.fsum(x * x for x in numbers) / len(numbers))


@each_cell
def test_both_cells_start_at_the_same_scales(script, kind):
    random.seed(1)
    w = lower(script.init_model(PARTS[kind], 27))
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


@each_cell
def test_training_is_plain_sgd(script, kind, monkeypatch):
    """Three steps against finite differences of the reference loss, at the rate of 0.1."""
    monkeypatch.setattr(script, "num_steps", 3)
    model = lift(script, weights_of(kind, vocab_size=3))
    steps = script.train(cell_of(script, kind), model, ["abba", "b"], ["a", "b"])
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
    assert script.name_loss(script.gru_cell, w, script.encode(longer, CHARS)) == script.name_loss(
        script.gru_cell, w, script.encode(long, CHARS)[:-1]
    )


def test_sequences_are_cut_from_a_stream_of_names(script, monkeypatch):
    monkeypatch.setattr(script, "num_sequences", 2)
    monkeypatch.setattr(script, "seq_len", 4)
    b = 26
    assert script.cut_sequences(["abc", "d", "efgh", "i"], CHARS) == [
        [b, 0, 1, 2, b],
        [b, 3, b, 4, 5],
    ]


def test_no_name_is_both_trained_on_and_held_out(script, monkeypatch):
    """main() on a list with repeats: no name is both in training and among those judged."""
    docs, heldout = [], []
    monkeypatch.setattr(script, "load_names", lambda: NAMES[:2000] * 2 + NAMES)
    monkeypatch.setattr(script, "show_gradients", lambda *args: [[[[1.0]], [[1.0]]]] * 2)
    monkeypatch.setattr(script, "show_gates", lambda *args: 1.0)
    monkeypatch.setattr(script, "show_training", lambda *args: docs.append(args[3]) or [1.0])
    monkeypatch.setattr(script, "encode", lambda name, chars: [name, name])
    monkeypatch.setattr(script, "cut_sequences", lambda names, chars: [])
    monkeypatch.setattr(script, "name_loss", lambda c, w, tokens: heldout.append(tokens[0]) or 1.0)
    monkeypatch.setattr(script, "sample", lambda cell, w, chars: "a")
    state = random.getstate()
    script.main()
    random.setstate(state)
    assert docs[0] == docs[1]
    assert heldout[:1000] == heldout[1000:]
    assert (len(docs[0]), len(heldout)) == (3000, 2000)
    assert len({*docs[0], *heldout}) == 4000


NAMES = ["".join(letters) for letters in itertools.product("abcdefghijklmnop", repeat=3)]


def test_sampling_follows_the_tempered_distribution(script, monkeypatch):
    scores = [0.2, -0.4, 0.3]
    w = {"w_hy": [[0.0] * 32] * 3, "b_y": [scores]}
    monkeypatch.setattr(script, "seq_len", 1)
    random.seed(7)
    n = 4000
    drawn = [script.sample(lambda w, token, h: h, w, ["a", "b"]) for _ in range(n)]
    for name, p in zip(["a", "b", ""], softmax([x / 0.5 for x in scores])):
        assert abs(drawn.count(name) / n - p) < 5 * math.sqrt(p * (1 - p) / n)


def test_each_token_is_sampled_after_those_before_it(script):
    """The cell gets the token drawn last and the state that it returned last."""
    given, spelled = [], [1, 0, 2]  # "ba" and the boundary
    states = [[100.0 * (i == token) for i in range(32)] for token in spelled]

    def cell(w, token, h):
        given.append((token, h))
        return states[len(given) - 1]

    w = {"w_hy": [[float(i == token) for i in range(32)] for token in range(3)], "b_y": [[0.0] * 3]}
    assert script.sample(cell, w, ["a", "b"]) == "ba"
    assert given == [(2, [0.0] * 32), (1, states[0]), (0, states[1])]


def test_sample_ends_at_the_boundary_or_the_longest_name(script):
    w = weights_of("rnn")
    w["w_hy"] = [[0.0] * 32 for _ in range(27)]
    w["b_y"] = [[1000.0 * (i == 2) for i in range(27)]]
    assert script.sample(script.rnn_cell, w, CHARS) == "c" * 16
    w["b_y"] = [[1000.0 * (i == 26) for i in range(27)]]
    assert script.sample(script.rnn_cell, w, CHARS) == ""


def test_drawings(script, capsys):
    gru = weights_of("gru")
    cells = {"RNN": (script.rnn_cell, weights_of("rnn")), "GRU": (script.gru_cell, gru)}
    sequences = [[BOUNDARY, *range(16)], [BOUNDARY, *range(8, 24)]]
    _, of_gru = script.show_gradients("norms", cells, sequences)
    script.show_gates(gru, gru, sequences, of_gru)
    drawn = capsys.readouterr().out
    assert drawn.count("#") > 16
    assert drawn.isascii()
