"""Copy what several scripts repeat from the script that owns it.

    python tests/sync.py            write every copy anew
    python tests/sync.py --check    write nothing; name the files that differ, and exit with 1

In each script, the part under REPEATED is made of the blocks of microgpt that the script needs:
those that it names and does not define itself, and those that these need in turn. They stand in
microgpt's order. So a block that is no longer used goes, and one that is newly used comes. The part
under THE TASK is made of microdpo's blocks in the same way. A few blocks are replaced where they
stand. The code in docs/autograd-interface.md is copied between its HTML comments.

The imports and the constants that a copied block reads are the script's own business: ruff and the
tests notice what is missing.
"""

import argparse
import re
import sys

from support.blocks import (
    CALLOUT,
    GUARD,
    NO_DIFFERENCES,
    REPEATED,
    TASK,
    blocks_of,
    defined,
    globals_used,
    part,
    without,
)
from support.scripts import ROOT, SCRIPTS

# microgpt owns these blocks. Its other functions are its own.
ENGINE = set("Value exp log relu floats dot".split())
MODEL = set("softmax linear rmsnorm attention_weights attend embed gpt".split())
COPIES = set("init_model as_values as_floats".split())
TRAINING = set("encode spell name_loss adam_step train sample".split())
JUDGING = set("trigrams common_trigrams is_pronounceable mean".split())
DATA = set("NAMES print load_names download_names".split())
OUTPUT = set("show_progress show_training draw_curve print_results".split())
GPT = ENGINE | MODEL | COPIES | TRAINING | JUDGING | OUTPUT | DATA
# microdpo owns what DPO, PPO and GRPO share.
TASK_BLOCKS = "is_preferred split_names make_pairs completion_probs complete"
PREFERENCE = set(f"{TASK_BLOCKS} kl_divergence judge judge_models show_names".split())
# Blocks that are replaced where they stand: {block: (owner, scripts that repeat it)}
IN_PLACE = {
    "clipped_objective": ("microppo", {"microgrpo"}),
    "dot": ("microattention", {"microembedding", "microflash"}),
    "softmax": ("microattention", {"microembedding", "microflash"}),
}
DOCUMENT = ROOT / "docs" / "autograd-interface.md"
COPIED = re.compile(r"(<!-- copied from microgpt: (.+?) -->\n```python\n)(.*?)(```\n)", re.DOTALL)


def owned(text, names):
    """{name: block} of an owner's text, in its order, for the blocks among `names`."""
    return {block.name: block for block in blocks_of(text) if block.name in names}


def needed(text, blocks, taken):
    """The names of the blocks that a text needs, in their owner's order.

    A block is needed if one of its names is used and is not among `taken`, the names that the
    script defines itself. What a needed block uses is needed as well.
    """
    by_name = {name: block for block in blocks.values() for name in block.names}
    found, waiting = set(), globals_used(text) - taken
    while waiting:
        name = waiting.pop()
        if name in by_name and by_name[name].name not in found:
            block = by_name[name]
            found.add(block.name)
            waiting |= globals_used(block.text) - taken
    return [name for name in blocks if name in found]


def callout(text):
    """The comment lines of the callout under Value, or the one that says that nothing differs."""
    if CALLOUT not in text:
        return NO_DIFFERENCES
    start = text.index(CALLOUT)
    return text[start : text.index("\n\n", start)]


def section(header, blocks, names, note=None):
    """The lines of a part: its header, then the blocks named, then two blank lines."""
    out = header
    previous = None
    for name in names:
        block = blocks[name]
        apart = previous is not None and (block.is_code() or previous.is_code())
        out += ("\n\n\n" if apart else "\n") + block.text
        if name == "Value" and note:
            out += f"\n\n\n{note}"
        previous = block
    return [*out.split("\n"), "", ""]


def synced(text, gpt, task=None, in_place=None, guard=None):
    """The text of a script with every copied block as its owner has it.

    gpt, task: {name: block} of the owners, in their order. in_place: {name: text}. guard: text.
    """
    in_place = in_place or {}
    lines = text.splitlines()
    for block in reversed(blocks_of(text)):
        if block.name in in_place:
            lines[block.start : block.end] = in_place[block.name].split("\n")
        elif block.name == GUARD and guard:
            lines[block.start : block.end] = guard.split("\n")
    for header, blocks in ((TASK, task), (REPEATED, gpt)):
        text = "\n".join(lines) + "\n"
        found = part(text, header)
        if found and blocks:
            # THE TASK may use microgpt's blocks, so REPEATED is made after it.
            other = part(text, REPEATED) if header == TASK else None
            own = without(text, found, other)
            names = needed(own, blocks, defined(own))
            lines[slice(*found)] = section(header, blocks, names, callout(text))
    return "\n".join(lines) + "\n"


def documented(text, gpt):
    """The text of the interface document with its code as microgpt has it."""

    def fill(match):
        wanted = match[2].split()
        code = "\n\n\n".join(gpt[name].text for name in wanted)
        return f"{match[1]}{code}\n{match[4]}"

    return COPIED.sub(fill, text)


def differences():
    """{path: text as it should be} of each file that differs from its owners."""
    texts = {name: path.read_text(encoding="utf-8") for name, path in SCRIPTS.items()}
    found = {}
    gpt = owned(texts["microgpt"], GPT)
    (guard,) = (block.text for block in blocks_of(texts["microgpt"]) if block.name == GUARD)
    task = owned(texts["microdpo"], PREFERENCE)
    for name in texts:
        in_place = {
            block: owned(texts[owner], {block})[block].text
            for block, (owner, scripts) in IN_PLACE.items()
            if name in scripts
        }
        others = task if name != "microdpo" else None
        wanted = synced(texts[name], gpt, others, in_place, guard)
        if name != "microgpt" and wanted != texts[name]:
            found[SCRIPTS[name]] = wanted
    text = DOCUMENT.read_text(encoding="utf-8")
    if documented(text, gpt) != text:
        found[DOCUMENT] = documented(text, gpt)
    return found


def main(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args(arguments).check
    found = differences()
    for path, text in found.items():
        if not check:
            path.write_text(text, encoding="utf-8", newline="\n")
        print(f"{path.relative_to(ROOT)} {'differs' if check else 'written'}")
    return 1 if check and found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
