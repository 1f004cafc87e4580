"""The hash of a job's code follows exactly the modules that the job uses."""

from pathlib import Path

import pytest

from scgpt_bench import sources

SCRIPTS = Path(__file__).parents[2] / "workflow" / "scripts"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package's idea: a script uses `a`, `a` uses `b`; nobody uses `c`."""
    folder = tmp_path / "scgpt_bench"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "a.py").write_text("from scgpt_bench.b import x\n")
    (folder / "b.py").write_text("import scgpt_bench.errors\nx = 1\n")
    (folder / "c.py").write_text("y = 1\n")
    (tmp_path / "script.py").write_text("def f():\n    from scgpt_bench import a\n")
    monkeypatch.setattr(sources, "PACKAGE", folder)
    return folder


def test_modules_are_found_through_each_other_and_inside_functions(package):
    assert [path.name for path in sources.modules_used(package.parent / "script.py")] == ["__init__.py", "a.py", "b.py"]


def test_the_hash_changes_with_a_module_that_is_used_and_no_other(package):
    script = package.parent / "script.py"
    before = sources.content_hashes(script)
    (package / "c.py").write_text("y = 2\n")
    assert sources.content_hashes(script) == before
    (package / "b.py").write_text("x = 2\n")
    after = sources.content_hashes(script)
    assert [name for name in after if after[name] != before[name]] == ["b.py"]


def test_plumbing_is_left_out_where_it_does_not_count(package, monkeypatch):
    script = package.parent / "script.py"
    assert set(sources.content_hashes(script)) == {"script.py", "__init__.py", "a.py", "b.py"}
    monkeypatch.setattr(sources, "PLUMBING", {"__init__.py", "b.py"})
    assert set(sources.content_hashes(script, plumbing=False)) == {"script.py", "a.py"}


def test_what_is_left_out_are_modules_that_exist():
    assert all((sources.PACKAGE / name).is_file() for name in sources.PLUMBING | sources.PARAMETERS)


def test_what_only_plumbing_imports_is_plumbing(monkeypatch):
    """Or an edit of it would train and predict again, though no code of a prediction uses it."""
    left_out = {sources.PACKAGE / name for name in sources.PLUMBING | sources.PARAMETERS}
    code_of_plumbing, imports = {path.read_text() for path in left_out}, sources._imports
    counted = {script: sources.content_hashes(script, plumbing=False) for script in SCRIPTS.glob("*.py")}
    monkeypatch.setattr(
        sources, "_imports", lambda code, package: set() if code in code_of_plumbing else imports(code, package)
    )
    assert {script: sources.content_hashes(script, plumbing=False) for script in counted} == counted


@pytest.mark.parametrize(
    ("script", "others"),
    [
        ("predict_gears.py", {"methods/baselines.py", "methods/tuning.py"}),
        ("predict_by_script.py", {"methods/imported.py"}),
        ("initialize_checkpoint.py", {"data/containers.py", "data/tenx_files.py", "data/file_kinds.py"}),
        ("predict_scgpt.py", {"data/containers.py", "data/tenx_files.py", "data/file_kinds.py"}),
    ],
)
def test_no_training_or_prediction_follows_code_that_only_others_use(script, others):
    assert all((sources.PACKAGE / name).is_file() for name in others)
    assert not others & set(sources.content_hashes(SCRIPTS / script, plumbing=False))


def test_no_job_follows_the_code_of_options_which_are_parameters():
    script = SCRIPTS / "finetune.py"
    assert sources.PACKAGE / "options.py" in sources.modules_used(script)
    assert "options.py" not in sources.content_hashes(script)


def hash_of(package, text):
    (package.parent / "script.py").write_text(text)
    return sources.content_hashes(package.parent / "script.py")["script.py"]


CODE = 'class A:\n    x = "# no comment"\n\n    def f(self):\n        return """a\n\nb"""\n'


@pytest.mark.parametrize(
    "same",
    [
        "# why\n" + CODE,
        '"""What it is."""\n\n\n' + CODE,
        CODE.replace("class A:\n", 'class A:\n    """Hold x.\n\n    And more.\n    """\n\n'),
        CODE.replace("(self):\n", '(self):  # why\n        r"Return it."  # noqa\n'),
    ],
)
def test_comments_docstrings_and_blank_lines_change_no_hash(package, same):
    assert same != CODE
    assert hash_of(package, same) == hash_of(package, CODE)


@pytest.mark.parametrize(
    "other",
    [
        CODE.replace("# no comment", "# a comment"),
        CODE.replace("b", "c"),
        CODE.replace("a\n\nb", "a\nb"),
        CODE.replace("return ", ""),
        CODE.replace("    def f(self):\n        return", "def f(self):\n        return"),
        '"""Doc."""; y = 1\n' + CODE,
    ],
)
def test_every_change_of_code_changes_the_hash(package, other):
    assert hash_of(package, other) != hash_of(package, CODE)


def test_compiled_modules_change_no_hash_of_a_folder(package):
    """They appear when a job imports a module for the first time: the second run would differ from the first."""
    before = sources.folder_hash(package)
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "a.pyc").touch()
    assert sources.folder_hash(package) == before
    (package / "page.html").touch()
    assert sources.folder_hash(package) != before


def test_evaluation_does_not_depend_on_the_model():
    used = {path.stem for path in sources.modules_used(SCRIPTS / "evaluate.py")}
    assert "metrics" in used
    assert not used & {"model", "inference", "engine", "transformer", "training", "finetuning", "baselines"}
