"""What every script has to obey, checked on each of them: a new script needs no change here."""

import ast
import inspect
import io
import re
import tokenize
from types import SimpleNamespace

import pytest
from harness import QUICK, ROOT, SCRIPTS, load, parse, python, without_times
from mutations import BREAKS

ALLOWED_IMPORTS = set(
    "os math random json struct urllib collections itertools functools string hashlib time".split()
)
# Line ranges of the plan; blocks that all scripts repeat may add up to a third.
LINES = {
    "microgpt": (220, 280),
    "micrornn": (350, 400),
    "microtokenizer": (150, 200),
    "microembedding": (200, 250),
    "microrag": (350, 400),
    "microdiffusion": (250, 300),
    "microvae": (200, 250),
    "microlora": (350, 400),
    "microdpo": (350, 400),
    "microppo": (550, 600),
    "microgrpo": (350, 400),
    "micromoe": (350, 400),
    "microattention": (250, 300),
    "microkv": (200, 250),
    "microquant": (300, 350),
    "microflash": (300, 350),
    "microbeam": (450, 500),
}
SECTIONS = "CONSTANTS DATA AUTOGRAD MODEL TRAINING INFERENCE OUTPUT MAIN".split()
# Same name, same code: in every script, or in every script that has a Value.
SHARED = {"load_names", "show_progress", "mean", "draw_curve", "print_results"}
SHARED_WITH_VALUE = {"exp", "log", "relu", "floats", "dot", "softmax", "linear", "adam_step"}
# DPO, PPO and GRPO teach one taste to one model of microgpt's making and judge it alike.
SHARED_GPT = set("encode rmsnorm attend gpt init_model name_loss train".split())
SHARED_TASK = set(
    "spell is_preferred make_pairs complete completion_probs kl_divergence judge as_floats"
    " show_names least_kl".split()
)
KOREAN = ROOT / "docs" / "README.ko.md"
MAY_PRINT = re.compile(r"main|load_names|(draw|print|show)_\w+")

# Snippets that print the first numbers of a script whose whole run is too long to repeat.
FIRST_STEPS = {
    "microgpt": """
        names = load_names()
        random.shuffle(names)
        chars = sorted(set("".join(names)))
        model = init_model(len(chars) + 1)
        for loss in itertools.islice(train(model, names, chars), 5):
            print(repr(loss))
        model = {name: [floats(row) for row in matrix] for name, matrix in model.items()}
        print([sample(model, chars) for _ in range(5)])
    """,
    "microembedding": """
        names = load_names()[:5000]
        weights = init_model(names)
        for loss in itertools.islice(train(weights, names, set(names[:9])), 5):
            print(repr(loss))
        vectors = [embed(weights, name) for name in names[:200]]
        print([nearest(vector, vectors, 3, dot) for vector in vectors[:5]])
    """,
    "microdiffusion": """
        points, curve, gap = make_data(200)
        betas, alpha_bars = make_schedule()
        model = init_model()
        for loss in itertools.islice(train(model, points, alpha_bars), 5):
            print(repr(loss))
        model = {name: [floats(row) for row in matrix] for name, matrix in model.items()}
        samples = [sample(model, betas, alpha_bars)[-1] for _ in range(5)]
        print(samples, near_rate(samples, curve, gap), gaussian_like(points)[:3])
    """,
    "micrornn": """
        names = list(dict.fromkeys(load_names()))
        random.shuffle(names)
        chars = sorted(set("".join(names)))
        for cell, parts in ((rnn_cell, "h"), (gru_cell, "hzr")):
            model = init_model(parts, len(chars) + 1)
            for loss in itertools.islice(train(cell, model, names, chars), 5):
                print(repr(loss))
            model = as_floats(model)
            print([sample(cell, model, chars) for _ in range(5)])
            print(mean_norms([state_gradients(cell, model, encode(names[0], chars))]))
    """,
    "microvae": """
        points = make_data(100)
        start = init_model()
        model = {key: [[Value(w) for w in row] for row in rows] for key, rows in start.items()}
        for loss in itertools.islice(train(model, points, 1.0), 5):
            print(repr(loss))
        model = {key: [floats(row) for row in rows] for key, rows in model.items()}
        print(evaluate(model, points), [decode(model, draw_noise()) for _ in range(5)])
    """,
    "microrag": """
        paragraphs = make_paragraphs(num_documents, set())
        examples, queries = make_examples(paragraphs), make_queries(paragraphs)
        model = init_model(examples)
        for loss in itertools.islice(train(model, examples), 20):
            print(repr(loss))
        model = {t: {key: floats(row) for key, row in rows.items()} for t, rows in model.items()}
        index = build_index([p["text"] for p in paragraphs])
        print(search(index, queries[0][0], 9), evaluate(model, index, paragraphs, queries[:20]))
    """,
    "microlora": """
        names = load_names()
        random.shuffle(names)
        chars = sorted(set("".join(names)))
        (_, a_names), (b_heldout, b_names) = split(names)
        base = init_model(len(chars) + 1)
        for loss in train(base, [*base], a_names[:3], chars, base_rate):
            print(repr(loss))
        before, adapter = as_floats(base), init_adapter(base, 1)
        for loss in train(base | adapter, [*adapter], b_names[:3], chars, adapter_rate):
            print(repr(loss))
        model = as_floats(base | adapter)
        print(evaluate(model, b_heldout[:5], chars), [sample(model, chars) for _ in range(5)])
        print(change_shares(before, merge(model)))
    """,
    "micromoe": """
        names = load_names()[:2000]
        chars = sorted(set("".join(names)))
        weights = init_model(len(chars) + 1, num_experts, n_hidden)
        model = as_values(weights)
        for losses in itertools.islice(train(model, names, chars, balance_weight), 5):
            print(losses)
        model = as_floats(model)
        print(evaluate(model, windows(names[0], chars)), [sample(model, chars) for _ in range(5)])
    """,
    "microdpo": """
        names = [name for name in dict.fromkeys(load_names()) if len(name) < block_size][:3000]
        chars = sorted(set("".join(names)))
        model = init_model(len(chars) + 1)
        base = {key: [floats(row) for row in rows] for key, rows in model.items()}
        pairs = make_pairs(names, chars)[:20]
        for loss in itertools.islice(train_dpo(model, base, pairs, betas[1]), 5):
            print(repr(loss))
        policy = {key: [floats(row) for row in rows] for key, rows in model.items()}
        print(judge_pairs(policy, base, pairs), judge(policy, base, range(20), chars))
    """,
    "microgrpo": """
        chars = list("abcdefghijklmnopqrstuvwxyz")
        model = init_model(27)
        base = {key: [floats(row) for row in rows] for key, rows in model.items()}
        steps = train_policy(model, base, itertools.cycle([0, 9]), chars)
        for record in itertools.islice(steps, 2):
            print(record)
        policy = {key: [floats(row) for row in rows] for key, rows in model.items()}
        print(judge(policy, base, [0, 4, 9], chars))
        print(compare_baselines(policy, [0, 9], chars))
    """,
    "microppo": """
        names = [name for name in dict.fromkeys(load_names()) if len(name) < block_size]
        random.shuffle(names)
        chars = sorted(set("".join(names)))
        pairs = make_pairs(names[:500], chars)
        weights = init_reward_model(len(chars) + 1)
        for loss in itertools.islice(train_reward_model(weights, pairs), 5):
            print(repr(loss))
        reward = freeze_reward(weights, [tokens for pair in pairs for tokens in pair])
        policy = init_model(len(chars) + 1)
        base, values = as_floats(policy), [[0.0] * (len(chars) + 1) for _ in range(block_size)]
        for step in itertools.islice(ppo_train(policy, base, reward, values, [0, 3, 8], 0.3), 3):
            print(step["before"], step["after"], step["batch"][0])
        print(judge(as_floats(policy), base, [0, 3, 8], chars))
    """,
    "microkv": """
        names = random.sample(load_names(), 50)
        chars = sorted(set("".join(names)))
        texts = [[len(chars), *map(chars.index, name), len(chars)] for name in names]
        model = init_model(len(chars) + 1)
        for loss in itertools.islice(train(model, texts), 5):
            print(repr(loss))
        model = {name: [floats(row) for row in matrix] for name, matrix in model.items()}
        print(list(itertools.islice(write(model, texts[0]), 5)))
        print(list(serve([len(text) for text in texts], 4)))
    """,
    "microquant": """
        names = load_names()
        random.shuffle(names)
        chars = sorted(set("".join(names)))
        model = init_model(len(chars) + 1)
        for loss in itertools.islice(train(model, names, chars), 5):
            print(repr(loss))
        model = {name: [floats(row) for row in matrix] for name, matrix in model.items()}
        q = quantize_model(model, 4, zero_point, True)
        print(q["errors"], q["all_bytes"], all_losses(q["model"], [encode(names[0], chars)]))
        print([sample(q["model"], chars) for _ in range(5)])
    """,
    "microbeam": """
        names = load_names()
        chars = sorted(set("".join(names)))
        models = [init_model(len(chars) + 1, n) for n in (target_embd, draft_embd)]
        for model in models:
            for loss in itertools.islice(train(model, names, chars), 5):
                print(repr(loss))
        models = [{key: [floats(row) for row in w] for key, w in m.items()} for m in models]
        for title, (strategy, _) in ways_to_ask(*models)[1].items():
            print(title, strategy(encode("an", chars)[:-1]))
        print(try_out(*(softmax(read(model, [0], {})[-1]) for model in models), 100))
    """,
}


def functions_of(name):
    tree = ast.parse(SCRIPTS[name].read_text(encoding="utf-8"))
    return {node.name: ast.dump(node) for node in tree.body if isinstance(node, ast.FunctionDef)}


REFERENCE = functions_of("microgpt"), functions_of("microdpo")  # the latter of the shared task
each_script = pytest.mark.parametrize("name", SCRIPTS)


@pytest.fixture
def source(name):
    """The script's text and syntax tree, its module-level functions and classes by name."""
    text = SCRIPTS[name].read_text(encoding="utf-8")
    tree = ast.parse(text)
    definitions = {
        node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    }
    return SimpleNamespace(text=text, lines=text.splitlines(), tree=tree, definitions=definitions)


def comment_lines(source):
    """Numbers of the lines that carry a comment or belong to a docstring."""
    tokens = tokenize.generate_tokens(io.StringIO(source.text).readline)
    found = {token.start[0] for token in tokens if token.type == tokenize.COMMENT}
    for node in ast.walk(source.tree):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(
            node, clean=False
        ):
            found |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return found


@each_script
def test_imports_only_what_is_allowed(name, source):
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= ALLOWED_IMPORTS
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module.split(".")[0] in ALLOWED_IMPORTS
        elif isinstance(node, ast.Name):
            assert node.id not in ("__import__", "exec", "eval", "input")


@each_script
def test_length_is_in_the_plans_range(name, source):
    low, high = LINES[name]
    assert len(source.lines) <= high * 4 / 3


@each_script
def test_the_plan_states_the_length(name, source):
    plan = (ROOT / "docs" / "implementation.md").read_text(encoding="utf-8")
    differs = plan.partition("\n## Where this differs from the plan\n")[2]
    section = re.split(r"\n##+ ", differs.partition(f"\n### {name}\n")[2])[0]
    assert section
    stated = re.findall(r"- Length: (\d+) lines", section)
    assert stated in ([], [str(len(source.lines))])  # none where the plan's range is kept


@each_script
def test_comment_density(name, source):
    full = [i for i, line in enumerate(source.lines, 1) if line.strip()]
    commented = comment_lines(source)
    assert 0.30 <= sum(i in commented for i in full) / len(full) <= 0.40


@each_script
def test_first_line_is_a_thesis(name, source):
    first = ast.get_docstring(source.tree).splitlines()[0]
    assert source.lines[0] == f'"""{first}'
    assert first.endswith(".")
    assert name not in first, "a claim, not a title"


@each_script
def test_sections_stand_in_the_common_order(name, source):
    headers = re.findall(r"(?m)^# === ([A-Z]+)(: [^=]+)? ===$", source.text)
    found = [word for word, _ in headers]
    assert found == [word for word in SECTIONS if word in found]
    assert {"CONSTANTS", "MAIN"} <= set(found)
    assert all(subject for word, subject in headers if word != "MAIN"), "say what happens there"


@each_script
def test_public_functions_have_docstrings(name, source):
    for node in source.definitions.values():
        if node.name != "main" and node.end_lineno - node.lineno > 1:
            assert ast.get_docstring(node), node.name


@each_script
def test_no_function_is_longer_than_a_screen(name, source):
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 56, node.name


@each_script
def test_only_output_functions_print(name, source):
    for function in ast.walk(source.tree):
        if isinstance(function, ast.FunctionDef) and not MAY_PRINT.fullmatch(function.name):
            for node in ast.walk(function):
                assert not (isinstance(node, ast.Name) and node.id == "print"), function.name


@each_script
def test_no_function_rewrites_a_global(name, source):
    assert not any(isinstance(node, ast.Global) for node in ast.walk(source.tree))


@each_script
def test_main_starts_with_the_seed(name, source):
    start = [ast.unparse(node) for node in source.definitions["main"].body[:2]]
    assert "random.seed(42)" in start
    assert source.text.count("random.seed(") == 1


@each_script
def test_shared_blocks_are_the_same_code(name, source):
    shared = set(SHARED)
    if "Value" in source.definitions:
        shared |= SHARED_WITH_VALUE | {"as_floats"}
    if "is_preferred" in source.definitions:
        shared |= SHARED_GPT | SHARED_TASK
    for function in sorted(shared & set(source.definitions)):
        reference = REFERENCE[function in SHARED_TASK]
        assert ast.dump(source.definitions[function]) == reference[function], function


def test_ppo_and_grpo_clip_alike():
    ppo, grpo = (functions_of(name)["clipped_objective"] for name in ("microppo", "microgrpo"))
    assert ppo == grpo


@each_script
def test_value_is_the_documented_class(name, source):
    """Base class and dot() are the document's; further methods are named in the callout."""
    if "Value" not in source.definitions:
        assert "AUTOGRAD" not in source.text
        return
    document = (ROOT / "docs" / "autograd-interface.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", document, flags=re.DOTALL))
    canonical = {n.name: n for n in ast.parse(code).body if hasattr(n, "name")}
    assert {"Value", "dot", "floats"} <= set(canonical)
    for function in set(canonical) - {"Value"}:
        if function in source.definitions:
            assert ast.dump(source.definitions[function]) == ast.dump(canonical[function])
    base = [ast.dump(node) for node in canonical["Value"].body]
    members = [(node, ast.dump(node)) for node in source.definitions["Value"].body]
    assert [dump for _, dump in members if dump in base] == base
    callout = re.search(
        r"(?m)^# --- AUTOGRAD DIFFERENCES IN THIS SCRIPT ---\n((?:# .*\n)+)", source.text
    )
    assert callout, "no callout block"
    assert source.text.index("class Value") < callout.start()
    for node, dump in members:
        if dump not in base:
            assert f"{node.name}()" in callout[1], f"{node.name} is not in the callout"
    assert "docs/autograd-interface.md" in callout[1]


def rows_of(name):
    """Cells of the rows that list the script: in the main README, its section's, the Korean one."""
    for readme in (ROOT / "README.md", SCRIPTS[name].parent / "README.md", KOREAN):
        rows = re.findall(rf"(?m)^\| \[{name}\.py\].*$", readme.read_text(encoding="utf-8"))
        assert len(rows) == 1, f"{len(rows)} rows for {name} in {readme}"
        yield readme, [cell.strip() for cell in rows[0].strip("|").split("|")]


@each_script
def test_readmes_tell_the_thesis_and_the_paper(name, source):
    thesis = source.lines[0].removeprefix('"""').removesuffix(".")
    for readme, (link, claim, *_, paper) in rows_of(name):
        assert claim == thesis or readme == KOREAN
        assert re.search(r"\b(19|20)\d\d\b", paper), f"no paper of {name} in {readme}"
        target = re.search(r"\((.*?)\)", link)[1]
        assert (readme.parent / target).resolve() == SCRIPTS[name]


@each_script
def test_readmes_show_the_figures_of_this_run(name, source, run):
    """`metric` value pairs and line counts in the script's rows are what it prints today."""
    for _, cells in rows_of(name):
        figures = re.findall(r"`([a-z0-9_]+)` (-?\d+(?:\.\d+)?)", " ".join(cells))
        assert figures
        for metric, value in figures:
            assert float(value) == pytest.approx(run.metrics[metric], rel=0.05), metric
        assert str(len(source.lines)) in cells


@pytest.mark.runs("microgpt")
def test_the_readme_shows_a_first_run(runs):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = text.partition("## What the first run prints\n\n```\n")[2].partition("```")[0]
    (run,) = runs
    metrics, criteria = parse(shown)
    assert criteria == run.criteria
    for metric, value in metrics.items():
        if metric != "runtime_seconds":
            assert value == pytest.approx(run.metrics[metric], rel=0.05), metric
    # Letters and drawings hang on the last digits of the machine's exp(); their place does not.
    titles = [re.findall(r"(?m)^[A-Z0-9].*:$", out) for out in (shown, run.stdout)]
    assert len(titles[0]) == len(titles[1]) == 3
    assert shown.splitlines()[0] == run.stdout.splitlines()[0]
    assert len(shown.splitlines()) == len(run.stdout.splitlines())


def test_links_in_the_documents_lead_somewhere():
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("0[123]-*/*.md")]
    for document in documents:
        for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
            path, _, anchor = link.partition("#")
            if not link.startswith("http"):
                target = (document.parent / path).resolve() if path else document
                assert target.exists(), f"{link} in {document}"
                if anchor:
                    titles = re.findall(r"(?m)^#+ (.*)$", target.read_text(encoding="utf-8"))
                    anchors = [re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles]
                    assert anchor in anchors, f"{link} in {document}"


@each_script
def test_breaks_on_purpose_are_listed(name, source):
    """tests/mutations.py applies them, by hand; here, that each has its one place in the script."""
    breaks = BREAKS[name]
    assert len(breaks) >= 5
    for what, code, broken in breaks:
        assert source.text.count(code) == 1, what
        ast.parse(source.text.replace(code, broken))


@each_script
def test_importing_does_nothing(name, tmp_path):
    code = f"""
        import importlib.util, random, sys
        opened = []
        sys.addaudithook(lambda event, args: event == "open" and opened.append(args[:2]))
        state = random.getstate()
        spec = importlib.util.spec_from_file_location("script", {str(SCRIPTS[name])!r})
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert random.getstate() == state, "it used the random stream"
        allowed = (".py", ".pyc", ".so", ".pyd", ".zip", ".cfg")
        stray = [a for a in opened if not str(a[0]).endswith(allowed) or a[1] not in ("r", "rb")]
        assert not stray, stray
    """
    done = python("-c", inspect.cleandoc(code))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@each_script
def test_run_ends_in_its_results(name, run):
    assert run.stderr == ""
    assert run.stdout.isascii()
    assert "\r" not in run.stdout, "only a terminal gets a line that rewrites itself"
    assert run.stdout.rstrip("\n").splitlines()[-1].startswith("runtime_seconds ")
    assert run.criteria["runtime_seconds"].startswith("< ")
    assert all(line == line.rstrip() for line in run.stdout.splitlines())


def short(name):
    """Arguments for Python to run a quick script, or the first steps of another."""
    if name in QUICK:
        return [SCRIPTS[name]]
    return [
        "-c",
        PRELUDE.format(path=str(SCRIPTS[name])) + inspect.cleandoc(FIRST_STEPS.get(name, "")),
    ]


@each_script
def test_output_does_not_depend_on_hash_seed_or_folder(name, seeded_runs):
    one, other = seeded_runs
    assert [one.stderr, other.stderr] == ["", ""]
    assert one.stdout
    assert without_times(one.stdout) == without_times(other.stdout)


@each_script
def test_first_steps_are_known(name):
    assert name in {*QUICK, *FIRST_STEPS}, "add a snippet that prints the first steps of the script"


PRELUDE = """\
import itertools, runpy
globals().update(runpy.run_path({path!r}))
random.seed(42)
"""


def test_no_other_top_level_entries():
    expected = set(
        "README.md CONTRIBUTING.md LICENSE pyproject.toml docs tests"
        " 01-foundations 02-alignment 03-systems".split()
    )
    found = {p.name for p in ROOT.iterdir() if not p.name.startswith(".")}
    assert found - {"build", "no_magic.egg-info"} == expected  # these two are pip's


def test_the_shipped_names_are_the_described_ones():
    names = load("microgpt").load_names()
    assert len(names) == 32178
    assert len(names) - len(set(names)) == 2559
    assert names[:3] == ["emma", "olivia", "ava"]
    assert set("".join(names)) == set("abcdefghijklmnopqrstuvwxyz")
    assert max(map(len, names)) == 15
