"""The operators of mutate.py, on one small function."""

import mutate

SOURCE = '''
def blend(xs, ys, limit=2):
    """Text that no break touches."""
    total = 0.5
    for x, y in zip(xs[1:], ys):  # \u00e4
        if x < limit and y:
            continue
        total += -x * scale(y, x)
    return max(total, 0.0)
'''
SOME = """blend:2: 2 -> 3
blend:5: for ... in zip(xs[1:], ys) -> without the last item
blend:5: zip(xs[1:], ys) -> zip(xs[2:], ys)
blend:6: if x < limit and y -> if x <= limit and y
blend:6: if x < limit and y -> if x < limit or y
blend:7: continue -> pass
blend:8: total += -x * scale(y, x) -> total += x * scale(y, x)
blend:8: total += -x * scale(y, x) -> total += -x / scale(y, x)
blend:8: total += -x * scale(y, x) -> total += -x * scale(x, y)
blend:8: total += -x * scale(y, x) -> total = -x * scale(y, x)
blend:9: return max(total, 0.0) -> return min(total, 0.0)"""


def test_operators_and_sample():
    tree = mutate.Tree(SOURCE)
    breaks = mutate.find_breaks(mutate.owned_functions("microgpt", SOURCE, tree.module), tree)
    assert set(SOME.splitlines()) <= {change.description for change in breaks}
    chosen = [mutate.choose(SOURCE, breaks, tree, 1000, seed) for seed in (1, 1, 2)]
    assert chosen[0] == chosen[1]
    sources = {source.decode() for _, source in chosen[2]}  # each compiles
    assert len(sources) == len(breaks)
    assert SOURCE not in sources
    assert all("no break touches" in source for source in sources)
