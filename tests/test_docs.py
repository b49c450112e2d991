"""What README and docs say runs, and what they link to is there."""

import inspect
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import regrow.methods

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
BASH = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name_of(page):
    return str(page.relative_to(ROOT))


def with_blocks(pattern):
    """Pages that have blocks of a kind, each with its blocks in order."""
    found = {page: pattern.findall(page.read_text(encoding="utf-8")) for page in PAGES}
    return [pytest.param(p, blocks, id=name_of(p)) for p, blocks in found.items() if blocks]


def regrow_commands():
    """Command lines of regrow in shell blocks; options of the first of ``a && b`` are not b's."""
    lines = []
    for page in PAGES:
        for block in BASH.findall(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                parts = [part.strip() for part in line.partition("  #")[0].split("&&")]
                lines += [part for part in parts if part.startswith("regrow ")]
    return sorted(set(lines))


def test_there_are_snippets():
    assert sum(len(param.values[1]) for param in with_blocks(PYTHON)) >= 50
    assert regrow_commands()


@pytest.mark.parametrize(("page", "blocks"), with_blocks(PYTHON))
def test_snippets_run(page, blocks, tmp_path, monkeypatch):
    """The blocks of a page run one behind the other, in one namespace and an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CIFAR10", raising=False)
    text = page.read_text(encoding="utf-8")
    namespace = {"__name__": "snippet"}
    for block in blocks:
        above = "\n" * text[: text.index(block)].count("\n")  # so that tracebacks name the line
        exec(compile(above + block, name_of(page), "exec"), namespace)
    assert len(namespace) > 2, "the snippets defined nothing"


def run_blocks(blocks):
    """Blocks in a namespace of their own, as a new process would run them."""
    namespace = {"__name__": "snippet"}
    for block in blocks:
        exec(compile(block, "cifar10.md", "exec"), namespace)
    return namespace


def test_cifar10_resumes_in_a_new_process(tmp_path, monkeypatch):
    """What the page says to run again is enough, with nothing left but the checkpoint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CIFAR10", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # compared bit for bit
    text = (DOCS / "tutorials" / "cifar10.md").read_text(encoding="utf-8")
    blocks = PYTHON.findall(text)
    assert "Run the first three blocks of Python again" in text
    set_up = blocks[:3]
    (loop,) = [block for block in blocks if "range(EPOCHS // 2)" in block]
    (resume,) = [block for block in blocks if 'torch.load("cifar10.pt"' in block]
    start = "model, optimizer, schedule, updater = start()\n"

    run_blocks([*set_up, start, loop.replace("EPOCHS // 2", "1")])  # killed after an epoch
    assert [path.name for path in tmp_path.iterdir()] == ["cifar10.pt"]
    resumed = run_blocks([*set_up, resume])
    never_stopped = run_blocks([*set_up, start, loop.replace("EPOCHS // 2", "EPOCHS")])

    for one in (resumed, never_stopped):
        assert one["updater"].steps == one["N_STEPS"]
    history = never_stopped["updater"].history
    assert resumed["updater"].history == history
    assert history[-1].step > never_stopped["N_STEPS"] // 4  # it rewires behind the stop too
    parameters = zip(
        resumed["model"].parameters(), never_stopped["model"].parameters(), strict=True
    )
    assert all(torch.equal(a, b) for a, b in parameters)


@pytest.mark.parametrize("line", regrow_commands())
def test_command_lines_parse(line):
    click = pytest.importorskip("click", reason="the command line needs click")
    from regrow.cli._app import app

    _, name, *words = shlex.split(line)
    if name.startswith("--"):
        return
    command = app.get_command(None, name)
    assert command is not None, f"there is no `regrow {name}`"
    known = {"--help", *(option for parameter in command.params for option in parameter.opts)}
    assert not [word for word in words if word.startswith("--") and word not in known]
    if "--help" in words:
        return
    try:
        command.make_context(name, words)
    except click.UsageError as error:
        assert "does not exist" in error.message  # noqa: PT017  # a page may name any folder


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    broken = [
        link
        for link in links
        if not link.startswith(("http://", "https://")) and not (page.parent / link).exists()
    ]
    assert not broken


def test_readme_has_exactly_the_two_set_up_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [line for line in text.splitlines() if line.startswith("pip install")]
    assert commands == [
        "pip install '.[robustness]' && regrow robustness",
        "pip install '.[test]' && pytest",
    ]


def methods():
    """Names of ``regrow.methods`` that make a model sparse by themselves: they select weights."""
    offered = {name: getattr(regrow.methods, name) for name in regrow.methods.__all__}
    functions = {name: one for name, one in offered.items() if inspect.isfunction(one)}
    wanted = ["model", "optimizer", "select"]
    return [n for n, f in functions.items() if set(wanted) <= set(inspect.signature(f).parameters)]


@pytest.mark.parametrize("name", methods())
def test_every_method_has_a_card(name):
    card = DOCS / "methods" / f"{name}.md"
    assert card.exists(), f"write docs/methods/{name}.md and a row in docs/methods.md"
    text = card.read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == ["Defaults and their sources", "Deviations", "Evidence"]
    assert "**Paper" in text
    assert f"(methods/{name}.md)" in (DOCS / "methods.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", methods())
def test_a_card_gives_the_defaults_of_the_code(name):
    text = (DOCS / "methods" / f"{name}.md").read_text(encoding="utf-8")
    given = dict(re.findall(r"^\| `(\w+)` \| (.+?)(?:, | \||; )", text, re.MULTILINE))
    assert given
    parameters = inspect.signature(getattr(regrow.methods, name)).parameters
    for argument, shown in given.items():
        default = parameters[argument].default
        if isinstance(default, int | float):
            assert float(shown) == default, argument
        elif isinstance(default, str):
            assert shown == f'`"{default}"`', argument
        elif default is not None:  # (what None stands for the text says)
            assert shown.strip("`") == str(default), argument


def test_every_decision_is_listed():
    folder = DOCS / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    pages = [page.name for page in folder.glob("0*.md")]
    assert pages
    assert all(f"({name})" in index for name in pages)


# -- scripts -------------------------------------------------------------------------------------

SCRIPTS = sorted((DOCS / "gallery").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_gallery_scripts_draw(script, tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib", reason="the gallery needs matplotlib")
    matplotlib.use("Agg")
    monkeypatch.setattr(sys, "argv", [script.name, str(tmp_path)])
    runpy.run_path(str(script), run_name="__main__")
    assert [path.name for path in tmp_path.iterdir()] == [f"{script.stem}.svg"]
    picture = (tmp_path / f"{script.stem}.svg").read_text(encoding="utf-8")
    assert picture.count("<path") + picture.count("<image") > 5
    assert len(script.read_text(encoding="utf-8").splitlines()) < 120


def test_gallery_shows_every_script():
    text = (DOCS / "gallery" / "index.md").read_text(encoding="utf-8")
    assert SCRIPTS
    assert sorted(re.findall(r"^:::\{picture\} (\w+)$", text, re.MULTILINE)) == [
        script.stem for script in SCRIPTS
    ]


@pytest.mark.dist
@pytest.mark.slow
def test_ddp_example_runs_on_two_processes(tmp_path):
    script = DOCS / "tutorials" / "ddp_example.py"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [
            *launcher,
            "--nproc-per-node",
            "2",
            str(script),
            "--epochs",
            "2",
            "--folder",
            "out/run",
        ],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "rewirings; nnz" in done.stdout
    losses = [float(loss) for loss in re.findall(r"^epoch \d: loss (\S+)", done.stdout, re.M)]
    assert len(losses) == 2  # rank 0 alone prints
    assert losses[1] < losses[0]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    state = torch.load(tmp_path / "out" / "run" / "checkpoint.pt", weights_only=True)
    weight = state["model"]["0.weight"]
    assert 0 < int((weight != 0).sum()) < 0.2 * weight.numel()


def environment():
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
