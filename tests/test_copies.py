"""What several scripts repeat is the same everywhere, and BORROWED names what a script borrows."""

import builtins
import re

import pytest
import sync
from support.blocks import (
    BORROWED,
    CALLOUT,
    REPEATED,
    TASK,
    blocks_of,
    defined,
    globals_used,
    part,
    without,
)
from support.scripts import ROOT, SCRIPTS

BORROWERS = [name for name in SCRIPTS if name != "microgpt"]
# A reader needs no introduction to these.
PLAIN = set("load_names mean print show_progress show_training draw_curve print_results".split())
READ_BY_COPIES = "# the following are read by the code that is repeated from microgpt, near the end"


def text_of(name):
    return SCRIPTS[name].read_text(encoding="utf-8")


def lines_of(text, header):
    found = part(text, header)
    return "\n".join(text.splitlines()[slice(*found)]) if found else ""


def test_every_copy_is_its_owners_code():
    assert [str(path.relative_to(ROOT)) for path in sync.differences()] == [], (
        "run: python tests/sync.py"
    )


def test_microgpt_has_and_uses_every_block_that_it_owns():
    text = text_of("microgpt")
    blocks = sync.owned(text, sync.GPT)
    assert set(blocks) == sync.GPT
    for name, block in blocks.items():
        rest = without(text, (block.start, block.end))
        assert set(block.names) & globals_used(rest), f"nothing uses {name}"


@pytest.mark.parametrize("name", BORROWERS)
def test_borrowed_names_what_is_borrowed(name):
    """Every repeated name that is used above DRAWING stands in BORROWED, as a word."""
    text = text_of(name)
    repeated = {n for b in blocks_of(lines_of(text, REPEATED)) for n in b.names}
    above = text[: text.index("\n# === DRAWING")] if "\n# === DRAWING" in text else text
    above = without(above, part(above, TASK), part(above, REPEATED))
    used = repeated & globals_used(above) - PLAIN
    borrowed = lines_of(text, BORROWED).strip()
    words = set(re.findall(r"\w+", borrowed))
    assert used <= words
    assert bool(used) == bool(borrowed), "a script that borrows nothing else has no BORROWED"
    called = set(re.findall(r"(?<![.\w])(\w\w+)\(", borrowed)) - set(dir(builtins))
    if "Value" in words:
        called.add("Value")
    assert called <= defined(text)
    assert len(borrowed.splitlines()) <= 15


@pytest.mark.parametrize("name", BORROWERS)
def test_constants_that_copies_read_stand_apart(name):
    """They are the last group of CONSTANTS, so that the others are those of the subject."""
    text = text_of(name)
    constants = lines_of(text, "# === CONSTANTS ===")
    repeated = lines_of(text, REPEATED) + "\n\n" + lines_of(text, TASK)
    own, _, apart = constants.partition(f"\n{READ_BY_COPIES}")
    read = globals_used(lines_of(text, REPEATED))
    assert not defined(own) & read
    assert defined(apart) <= globals_used(repeated)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_callout_lists_functions_that_the_script_has(name):
    text = text_of(name)
    assert ("class Value" in text) == (CALLOUT in text)
    listed = sync.callout(text) if CALLOUT in text else ""
    assert set(re.findall(r"(\w+)\(", listed)) <= defined(text)


OWNER = """
# === TOOLS ===
# Half of a number.
def half(x):
    return x / 2


def quarter(x):
    return half(half(x))


def other(x):
    return x


print = min


if __name__ == "__main__":
    quarter(1)
"""
SCRIPT = """
def main():
    half = 3
    return half, {used}(1)


# === REPEATED from microgpt.py, word for word ===
def stale():
    return 0


if __name__ == "__main__":
    main()
"""


def test_sync_adds_what_is_needed_and_drops_what_is_not():
    blocks = sync.owned(OWNER, {"half", "quarter", "other", "print"})
    guard = blocks_of(OWNER)[-1].text
    result = sync.synced(SCRIPT.format(used="quarter"), blocks, guard=guard)
    assert defined(result) == {"main", "half", "quarter"}
    assert "# Half of a number.\ndef half" in result
    assert "TOOLS" not in result
    assert result.index("def half") < result.index("def quarter")
    assert result.endswith(guard + "\n")
    assert sync.synced(result, blocks, guard=guard) == result


def test_sync_leaves_out_what_the_script_defines_itself():
    blocks = sync.owned(OWNER, {"half", "quarter"})
    script = "def half(x):\n    return 1\n\n\n" + SCRIPT.format(used="quarter")
    result = sync.synced(script, blocks)
    assert [b.name for b in blocks_of(lines_of(result, REPEATED))] == ["quarter"]
    assert "return 1" in result


def test_sync_replaces_a_block_where_it_stands():
    script = SCRIPT.format(used="half") + "\n\ndef scale(x):\n    return 1\n"
    result = sync.synced(script, {}, in_place={"scale": "def scale(x):\n    return 2"})
    assert "return 2" in result
    assert "return 1" not in result


def test_sync_fills_the_document():
    blocks = sync.owned(OWNER, {"half", "quarter"})
    text = "before\n<!-- copied from microgpt: half -->\n```python\nold\n```\nafter\n"
    assert sync.documented(text, blocks) == text.replace("old", blocks["half"].text)
