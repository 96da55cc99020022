"""The engine of microgpt, which the other scripts repeat.

It is tried against finite differences, against the vectors of docs/autograd-interface.md, and
against graphs that are composed of multiplications and additions.
"""

import math
import random
import re

import pytest
from support.numbers import central_differences
from support.scripts import ROOT, load

OPS = {
    "Value + Value": (lambda m, x, y: x + y, (1.5, -2.0)),
    "Value + float": (lambda m, x: x + 2.5, (1.5,)),
    "float + Value": (lambda m, x: 2.5 + x, (1.5,)),
    "Value - Value": (lambda m, x, y: x - y, (1.5, -2.0)),
    "Value - float": (lambda m, x: x - 2.5, (1.5,)),
    "float - Value": (lambda m, x: 2.5 - x, (1.5,)),
    "Value * Value": (lambda m, x, y: x * y, (1.5, -2.0)),
    "Value * float": (lambda m, x: x * 2.5, (1.5,)),
    "float * Value": (lambda m, x: 2.5 * x, (1.5,)),
    "Value / Value": (lambda m, x, y: x / y, (1.5, -2.0)),
    "Value / float": (lambda m, x: x / 2.5, (1.5,)),
    "float / Value": (lambda m, x: 2.5 / x, (-1.5,)),
    "Value ** int": (lambda m, x: x**3, (-1.5,)),
    "Value ** float": (lambda m, x: x**-0.5, (1.5,)),
    "float ** Value": (lambda m, x: 2.5**x, (1.5,)),
    "-Value": (lambda m, x: -x, (1.5,)),
    "exp": (lambda m, x: x.exp(), (0.7,)),
    "log": (lambda m, x: x.log(), (0.7,)),
    "tanh": (lambda m, x: x.tanh(), (0.7,)),
    "relu above 0": (lambda m, x: x.relu(), (0.7,)),
    "relu below 0": (lambda m, x: x.relu(), (-0.7,)),
    "dot": (lambda m, a, b, c, d: m.dot([a, b], [c, d]), (0.7, -1.2, 2.0, 0.3)),
    "dot with floats": (lambda m, a, b: m.dot([a, b], [2.0, 0.3]), (0.7, -1.2)),
    "dot of floats with": (lambda m, a, b: m.dot([2.0, 0.3], [a, b]), (0.7, -1.2)),
    "dot with itself": (lambda m, a, b: m.dot([a, b], [a, b]), (0.7, -1.2)),
    "softmax": (lambda m, a, b, c: m.softmax([a, b, c])[1], (0.7, -1.2, 2.0)),
    "a node used twice": (lambda m, x, y: (x * y) * (x * y + x), (0.7, -1.2)),
    "a graph of all": (
        lambda m, x, y: ((x * y).tanh() + (x / y).exp() - 2.0**x).relu() + (y * y).log() * 3.0,
        (0.7, -1.2),
    ),
}


@pytest.fixture
def module():
    return load("microgpt")


@pytest.mark.parametrize("op", OPS)
def test_gradient_equals_finite_differences(module, op):
    f, inputs = OPS[op]
    values = [module.Value(x) for x in inputs]
    f(module, *values).backward()
    expected = central_differences(lambda xs: f(module, *map(module.Value, xs)).data, inputs)
    assert [v.grad for v in values] == pytest.approx(expected, rel=1e-6, abs=1e-8)


def document_vectors():
    """Rows of the test vector table: expression, inputs, value, gradients."""
    text = (ROOT / "docs" / "autograd-interface.md").read_text(encoding="utf-8")
    cells = r"\| `(?P<expression>.+)` \| (?P<inputs>.+) \| (?P<data>.+) \| (?P<grads>.+) \|"
    row = re.compile(f"^{cells}$", flags=re.MULTILINE)
    rows = [match.groupdict() for match in row.finditer(text)]
    assert len(rows) > 15
    return rows


def assignments(text):
    return {k.strip(): float(v) for k, v in (part.split("=") for part in text.split(","))}


@pytest.mark.parametrize("row", document_vectors(), ids=lambda row: row["expression"])
def test_vectors_of_the_document(module, row):
    values = {key: module.Value(x) for key, x in assignments(row["inputs"]).items()}
    result = eval(row["expression"], {**vars(module), **values})
    result.backward()
    assert result.data == pytest.approx(float(row["data"]), rel=1e-9, abs=1e-12)
    grads = {key: values[key].grad for key in assignments(row["grads"])}
    assert grads == pytest.approx(assignments(row["grads"]), rel=1e-9, abs=1e-12)
    assert set(grads) == set(values)


def test_dot_equals_the_composed_graph(module):
    rng = random.Random(1)
    for size in (1, 2, 16, 64):
        data = [[rng.gauss(0, 1) for _ in range(size)] for _ in range(2)]
        (a, b), (c, d) = ([[module.Value(x) for x in row] for row in data] for _ in range(2))
        composed = c[0] * d[0]
        for x, y in zip(c[1:], d[1:]):
            composed = composed + x * y
        fused = module.dot(a, b)
        assert fused.data == composed.data
        (fused * fused).backward()
        (composed * composed).backward()
        assert [v.grad for v in a + b] == [v.grad for v in c + d]


def test_dot_is_one_node(module):
    a, b = [[module.Value(1.0) for _ in range(16)] for _ in range(2)]
    before = next(module.Value._created)
    module.dot(a, b)
    assert next(module.Value._created) - before - 1 == 1


def test_floats_give_the_same_numbers_and_no_node(module):
    rng = random.Random(2)
    a, b = [[rng.gauss(0, 1) for _ in range(16)] for _ in range(2)]
    va, vb = [[module.Value(x) for x in row] for row in (a, b)]
    assert type(module.dot(a, b)) is float
    assert module.dot(a, b) == module.dot(va, vb).data == module.dot(a, vb).data
    assert module.dot(va, b).data == module.dot(a, b)
    assert module.dot([], []) == 0.0


def test_dot_does_not_keep_the_callers_lists(module):
    a, b = [module.Value(2.0)], [3.0]
    out = module.dot(a, b)
    a[0], b[0] = module.Value(7.0), 7.0
    first = out._inputs[0]
    out.backward()
    assert (first.data, first.grad) == (2.0, 3.0)


def test_dot_refuses_different_lengths(module):
    for a, b in (([1.0, 2.0], [1.0]), ([module.Value(1.0)], [module.Value(1.0)] * 2)):
        with pytest.raises(ValueError):
            module.dot(a, b)


def test_a_chain_of_100000_nodes(module):
    x = module.Value(1.0)
    y = x
    for _ in range(100_000):
        y = y + 1.0
    y.backward()
    assert (y.data, x.grad) == (100_001.0, 1.0)
    del y  # nor may freeing the chain recurse


def test_an_unused_chain_of_100000_nodes_is_freed(module):
    y = module.Value(1.0)
    for _ in range(100_000):
        y = y + 1.0
    del y


def test_every_use_adds_to_the_gradient(module):
    x = module.Value(3.0)
    (x * x + x * 2.0 + x).backward()
    assert x.grad == 2 * 3.0 + 2.0 + 1.0
    (x * 5.0).backward()  # a second graph on the same leaf adds to it
    assert x.grad == 9.0 + 5.0


def test_a_node_passes_on_its_grad_only_when_it_is_complete(module):
    """A long way round must not arrive after the short one has been passed on."""
    x = module.Value(2.0)
    shared = x * 3.0
    long_way = shared
    for _ in range(10):
        long_way = long_way * 1.0
    (shared + long_way).backward()
    assert x.grad == 6.0
    x = module.Value(2.0)
    shared = x * 3.0
    long_way = shared * 1.0 * 1.0
    (long_way + shared).backward()
    assert x.grad == 6.0


def test_a_used_up_graph_is_refused(module):
    """Never a wrong gradient in silence: what backward() freed cannot be gone through again."""
    x = module.Value(2.0)
    shared = x * 3.0
    first, second = shared * 1.0, shared * 2.0
    first.backward()
    with pytest.raises(AttributeError):
        second.backward()
    with pytest.raises(AttributeError):
        first.backward()
    assert x.grad == 3.0


def test_what_has_no_real_value_is_refused(module):
    with pytest.raises(ValueError):
        module.Value(-1.0) ** 0.5  # Python's ** would make it a complex number
    with pytest.raises(TypeError):
        module.Value(2.0) ** module.Value(2.0)


def test_log_is_clipped_and_keeps_its_gradient_path(module):
    for p in (0.0, 1e-300, 1e-10):
        x = module.Value(p)
        y = x.log()
        y.backward()
        assert (y.data, x.grad) == (math.log(1e-10), 1 / 1e-10)
        assert module.log(p) == math.log(1e-10)
        assert module.log(module.Value(p)).data == math.log(1e-10)


# The scripts that have a softmax of their own. All others repeat one of these.
@pytest.mark.parametrize("name", ["microgpt", "microattention"])
def test_softmax_survives_extreme_logits(name):
    module = load(name)
    kinds = [float] + ([module.Value] if hasattr(module, "Value") else [])
    for kind in kinds:
        for logits in ([1000.0, 0.0, -1000.0], [-1000.0] * 3, [1e308, -1e308], [5.0]):
            probs = [getattr(p, "data", p) for p in module.softmax([kind(x) for x in logits])]
            assert math.fsum(probs) == pytest.approx(1.0)
            peak = max(logits)
            share = 1 / logits.count(peak)
            assert probs == [share if x == peak else 0.0 for x in logits]
        moderate = [0.5, -1.0, 2.0]
        probs = [getattr(p, "data", p) for p in module.softmax([kind(x) for x in moderate])]
        total = math.fsum(map(math.exp, moderate))
        assert probs == pytest.approx([math.exp(x) / total for x in moderate], rel=1e-12)
