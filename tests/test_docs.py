"""The READMEs show what docs/runs/ holds, and every link inside the repository leads somewhere."""

import re

import pytest
import update_docs
from support.scripts import ROOT, SCRIPTS, TRANSCRIPTS, parse
from update_docs import MarkerError, filled

each_script = pytest.mark.parametrize("name", SCRIPTS)
MARKDOWN = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("0[123]-*/*.md")]

TOY = '''"""A claim.

More of it.
"""
'''
TOY_TRANSCRIPT = """\
a first line
a second line

=== results ===
params                    4192
loss                      2.3678   < 2.45
runtime_seconds           <time>   < 60
"""


@pytest.mark.parametrize("readme", update_docs.READMES, ids=lambda path: path.parent.name)
def test_readmes_show_the_transcripts(readme):
    text = readme.read_text(encoding="utf-8")
    assert text == filled(text), "run python tests/update_docs.py --no-run"


@each_script
def test_every_script_has_a_transcript(name):
    content = (TRANSCRIPTS / f"{name}.txt").read_bytes()
    assert b"\r" not in content
    metrics, _ = parse(content.decode("ascii"))
    assert "runtime_seconds" in metrics


@each_script
def test_every_script_has_a_row_with_its_figures_in_two_readmes(name):
    for readme in (ROOT / "README.md", SCRIPTS[name].parent / "README.md"):
        rows = re.findall(rf"(?m)^\| \[{name}\.py\].*$", readme.read_text(encoding="utf-8"))
        assert len(rows) == 1, f"{len(rows)} rows in {readme}"
        (row,) = rows
        target = re.search(r"\((.*?)\)", row)[1]
        assert (readme.parent / target).resolve() == SCRIPTS[name]
        assert f"<!--{name}.claim-->" in row
        unmarked = re.findall(r"`[a-z0-9_]+` -?\d\S*", row)
        assert not unmarked, "a figure that is copied by hand: put it between markers"


def anchors(document):
    """The anchors that GitHub gives to the titles of a Markdown file."""
    titles = re.findall(r"(?m)^#+ (.*)$", document.read_text(encoding="utf-8"))
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


@pytest.mark.parametrize("document", MARKDOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


# The filling function, on made-up files


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A collection of one script, microtoy, with a transcript and its CPU seconds."""
    script = tmp_path / "microtoy.py"
    script.write_text(TOY, encoding="utf-8")
    (tmp_path / "microtoy.txt").write_text(TOY_TRANSCRIPT, encoding="utf-8")
    (tmp_path / "cpu-seconds.txt").write_text("# comment\nmicrotoy  12.6  20\n", encoding="utf-8")
    monkeypatch.setattr(update_docs, "SCRIPTS", {"microtoy": script})
    monkeypatch.setattr(update_docs, "TRANSCRIPTS", tmp_path)
    monkeypatch.setattr(update_docs, "READMES", [])
    return tmp_path


@pytest.mark.parametrize(
    ("marker", "value"),
    [
        ("microtoy.params", "4192"),
        ("microtoy.loss", "2.3678"),
        ("microtoy.loss:2", "2.37"),
        ("microtoy.claim", "A claim"),
        ("microtoy.cpu", "13"),
        ("microtoy.limit", "60"),
        ("transcript microtoy 1-2", "\n```\na first line\na second line\n```\n"),
        ("transcript microtoy", f"\n```\n{TOY_TRANSCRIPT}```\n"),
        ("transcript microtoy results", "\n```\n" + TOY_TRANSCRIPT[28:] + "```\n"),
    ],
)
def test_a_marker_is_filled(toy, marker, value):
    text = "<!-- a comment -->| {} <!--{}-->{}<!--/--> | <!--microtoy.params-->1<!--/-->\n"
    done = text.format("before", marker, value).replace("1<!--/-->\n", "4192<!--/-->\n")
    assert filled(text.format("before", marker, "old")) == done
    assert filled(done) == done


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n<!--microtoi.loss-->1<!--/-->", "line 2: there is no script microtoi"),
        ("<!--microtoy.lost-->1<!--/-->", "line 1: microtoy prints no result lost"),
        ("<!--microtoy.params:1-->1<!--/-->", "no 1 decimals"),
        ("<!--microtoy.runtime_seconds-->1<!--/-->", "use cpu or limit"),
        ("<!--transcript microtoy 1-99-->x<!--/-->", "the lines 1-7"),
        ("<!--transcript microtoy all-->x<!--/-->", "no part of a transcript"),
        ("<!--microtoy.loss-->1 <!--microtoy.loss-->1<!--/-->", "no end"),
        ("<!--microtoy.loss-->1", "no end"),
        ("1<!--/-->", "ends no marker"),
    ],
)
def test_what_cannot_be_filled_is_said(toy, text, message):
    with pytest.raises(MarkerError, match=re.escape(message)):
        filled(text)


# The command, on made-up scripts


def record(toy, digest):
    (toy / "machine.txt").write_text(f"math hash: {digest}\n", encoding="ascii")


def test_a_transcript_is_written_with_its_times_masked(toy, capsys):
    record(toy, update_docs.math_hash())
    output = TOY_TRANSCRIPT.replace("<time>  ", "12.3456 ")
    (toy / "microtoy.py").write_text(f"print({output.strip()!r})\n", encoding="utf-8")
    (toy / "microtoy.txt").write_text("old\n", encoding="utf-8")
    assert update_docs.main(["microtoy"]) == 0
    assert (toy / "microtoy.txt").read_bytes() == TOY_TRANSCRIPT.encode("ascii")
    assert update_docs.main(["microtoy"]) == 0
    assert capsys.readouterr().out == "microtoy: changed\nmicrotoy: as before\n"


@pytest.mark.parametrize("code", ["raise SystemExit('no')", "print('no results')"])
@pytest.mark.parametrize("same_machine", [True, False])
def test_a_script_that_fails_keeps_its_transcript(toy, capsys, code, same_machine):
    record(toy, update_docs.math_hash() if same_machine else "another")
    before = sorted(toy.iterdir()), (toy / "machine.txt").read_bytes()
    (toy / "microtoy.py").write_text(code, encoding="utf-8")
    assert update_docs.main([]) == 1
    assert "Its old transcript stays" in capsys.readouterr().err
    assert (toy / "microtoy.txt").read_text(encoding="utf-8") == TOY_TRANSCRIPT
    assert before == (sorted(toy.iterdir()), (toy / "machine.txt").read_bytes())


def test_another_machine_replaces_all_transcripts_or_none(toy, capsys, monkeypatch):
    record(toy, "another")
    both = dict.fromkeys(("microtoy", "microtoi"), toy / "microtoy.py")
    monkeypatch.setattr(update_docs, "SCRIPTS", both)
    assert update_docs.main(["microtoy"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert (toy / "microtoy.txt").read_text(encoding="utf-8") == TOY_TRANSCRIPT
    (toy / "microtoy.py").write_text(f"print({TOY_TRANSCRIPT.strip()!r})\n", encoding="utf-8")
    assert update_docs.main([]) == 0
    assert (toy / "microtoi.txt").read_text(encoding="utf-8") == TOY_TRANSCRIPT
    assert update_docs.math_hash() in (toy / "machine.txt").read_text(encoding="ascii")


@pytest.mark.parametrize("document", [d for d in MARKDOWN if d.name == "README.md"])
def test_no_cell_of_a_table_is_long(document):
    for line in document.read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", re.sub("<!--.*?-->", "", line))
            assert max(map(len, shown.split("|"))) <= 200, shown
