"""The command line without a process of its own: words, config files, fields, models, workdirs, what is printed."""

import os
import pathlib
import sys
import types

import pytest

from latent_audit import __version__
from latent_audit.commandline import arguments, command, config_files, doctor, pages, process, workdirs
from latent_audit.errors import InputError
from latent_audit.experiments import tasks
from latent_audit.runtime import ends, runlog, start

ROOT = pathlib.Path(__file__).parents[1]
OK = "from configs import lvs\n\ndef get_config():\n    return lvs.get_config()\n"


@pytest.fixture
def typed(monkeypatch, tmp_path):
    """typed(words) does what they say in an empty directory; runs end before the first write, and say what they got."""
    monkeypatch.chdir(tmp_path)
    for name in ("start_logging", "join_processes"):
        monkeypatch.setattr(start, name, lambda *a: None)
    monkeypatch.setattr(start, "start_jax", lambda *a: None)
    monkeypatch.setattr(tasks, "check", lambda config, workdir: None)
    monkeypatch.setattr(runlog, "prepare_workdir", lambda *a: pytest.fail("written"))
    monkeypatch.setattr(
        tasks,
        "outline",
        lambda config, workdir, plan: [f"{config.task} {workdir.as_posix()}", config.to_json_best_effort()],
    )
    return lambda *words: command.run(words, ends.Run())


def test_both_handles_do_the_same(typed, capsys, tmp_path):
    (tmp_path / "mine.py").write_text(OK)
    said = []
    for words in (
        ("lvs", "some/model"),
        (f"--config={ROOT}/configs/lvs.py", "--config.model.path=some/model"),
        ("--config", "lvs", "some/model"),
        (f"{ROOT}/configs/lvs.py", "some/model"),
        ("mine.py", "some/model"),
        ("--dry-run", "lvs", "--", "some/model"),
    ):
        assert typed(*words, *(() if "--dry-run" in words else ("--dry-run",))) == 0
        said.append(capsys.readouterr().out)
    assert len(set(said)) == 1 and said[0].startswith("lvs runs/lvs-model\n") and '"some/model"' in said[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.py"]


@pytest.mark.parametrize("task", ["lvs", "survey", "ras", "sweep", "sweep:l2", "gcg", "finetune", "abliterate"])
def test_a_model_goes_where_the_task_has_it(task):
    config = config_files.load(task).config
    config_files.set_model(config, "owner/name", {})
    field = {"survey": "models", "ras": "targets", "sweep": "base.model.path"}.get(config.task, "model.path")
    assert config_files.leaves(config)[field] == "owner/name" and config_files.models_of(config) == ["owner/name"]
    with pytest.raises(InputError, match="given twice"):
        config_files.set_model(config, "x", {field: "y"})


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "give a task"),
        (["lsv"], "no task 'lsv'; did you mean 'ls' or 'lvs'"),
        (["doctr"], "did you mean 'doctor'"),
        (["lvs", "a", "b"], "unexpected argument 'b'"),
        (["lvs", ""], "MODEL is empty"),
        (["claims", "a"], "claims takes no MODEL"),
        (["ras_regression", "a"], "--config.before=DIR"),
        (["sweep:lsv"], "did you mean 'lvs'"),
        (["sweep:survey"], "no task that can be swept"),
        (["lvs:x"], "takes 0 positional arguments"),
        (["--config=lvs.py"], "it is called lvs"),
        (["--config="], "--config is empty"),
        (["lvs", "--workdir"], "--workdir is empty"),
        (["lvs", "--workdir=~nosuchuser/x"], "give the whole path"),
        (["lvs", "--workdir=a\nb"], "--workdir holds a control character"),
        (["lvs", "--wrkdir=x"], "did you mean --workdir"),
        (["lvs", "--dry-run=1"], "takes no value"),
        (["lvs", "--workdir=a", "--workdir=b"], "--workdir is given twice"),
        (["--config=lvs", "--config=l2"], "--config is given twice"),
        (["lvs", "--config.task=ras"], "config.task cannot be set"),
        (["lvs", "--config.modle.path=x"], "did you mean config.model.path"),
        (["lvs", "--config.steps=3"], "did you mean config.attack.steps"),
        (["lvs", "--config.attack=3"], "config.attack is a section"),
        (["lvs", "--config.seed"], "config.seed has no value"),
        (["lvs", "--noconfig.seed"], "config.seed has no value"),
        (["lvs", "--config.seed=1.5"], "expected a whole number"),
        (["lvs", "--config.seed=" + "9" * 5000], "expected a whole number"),
        (["lvs", "--config.attack.steps="], "expected a whole number"),
        (["lvs", "--config.attack.controls=maybe"], "expected true or false"),
        (["lvs", "--config.attack.step_fraction=x"], "expected a number"),
        (["lvs", "--config.attack.budgets=(0.1"], "expected values in brackets"),
        (["lvs", "--config.attack.budgets=" + "(" * 3000], "expected values in brackets"),
        (["lvs", "--config.judge.kind=\udcff"], "half a surrogate pair"),
        (["lvs\x1b[2J"], r"\x1b"),
        (["fields", "lvs", "no_such"], "no field of lvs"),
        (["ls", "lvs"], "takes nothing of the kind"),
        (["lvs", "--config.distributed=true", "--config.distributed_coordinator=host"], "expected host:port"),
    ],
)
def test_bad_words_are_one_line(typed, words, message):
    with pytest.raises(InputError) as caught:
        typed(*words)
    assert message in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text, message",
    [
        ("raise RuntimeError('boom\\x1b\\nerror: fine')", "c.py:1 raised RuntimeError: boom\\x1b error: fine"),
        ("def get_config():\n    return {}['k']", "c.py:2 raised KeyError"),
        ("import sys; sys.exit(0)", "raised SystemExit"),
        ("class E(BaseException): pass\nraise E", "c.py:2 raised E"),
        ("def get_config(): return get_config()", "raised RecursionError"),
        ("import no_such_module", "No module named"),
        ("this is no python", "c.py:1 raised SyntaxError"),
        ("x = 1\0", "null bytes"),
        ("(" * 5000, "raised"),
        ("x = 1", "has no function get_config"),
        ("def get_config(): pass", "returned NoneType"),
        ("def get_config(): return {}", "returned dict"),
        ("import ml_collections as m\ndef get_config(): return m.ConfigDict()", "the config has no task"),
        (OK.replace("return lvs.get_config()", "c = lvs.get_config(); c.x = print; return c"), "what no JSON file can"),
        ("#" * 2**21, "more than the 1048576"),
    ],
)
def test_whatever_a_config_file_does_is_one_line(text, message, tmp_path):
    (tmp_path / "c.py").write_text(text)
    with pytest.raises(InputError) as caught:
        config_files.load(str(tmp_path / "c.py"))
    assert message in str(caught.value) and str(caught.value).isprintable()


def test_a_config_file_is_a_regular_file_and_prints_to_stderr(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.py")
    for path, message in (
        (tmp_path / "pipe.py", "a pipe"),
        (tmp_path, "a directory"),
        ("/dev/zero", "a pipe or a dev"),
    ):
        with pytest.raises(InputError, match=message):
            config_files.load(str(path))
    (tmp_path / "c.py").write_text(f"print('hello')\n{OK}")
    assert config_files.load(str(tmp_path / "c.py")).config.task == "lvs"
    assert capsys.readouterr() == ("", "hello\n")


def test_configs_are_the_programs_own_wherever_it_is_started(monkeypatch, tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").write_text("raise SystemExit('foreign')")
    for name in [name for name in sys.modules if name == "configs" or name.startswith("configs.")]:
        monkeypatch.delitem(sys.modules, name)
    foreign = types.ModuleType("configs")
    foreign.__path__ = [str(tmp_path / "configs")]
    monkeypatch.setitem(sys.modules, "configs", foreign)
    monkeypatch.syspath_prepend(tmp_path)
    assert config_files.load("l2").config.experiments == "l2"
    assert pathlib.Path(sys.modules["configs"].__file__) == ROOT / "configs" / "__init__.py"


def test_every_task_is_listed_and_loads():
    names = config_files.tasks()
    assert names == sorted(
        path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in ("__init__", "common")
    )
    assert [line.split()[0] for line in pages.tasks()] == names
    for name in names:
        loaded = config_files.load(name)
        assert loaded.config.task in tasks.TASKS and len(config_files.summary(name)) > 30
        assert (config_files.task_of(name) or loaded.config.task) == loaded.config.task
        assert all(len(line) <= 80 for line in pages.of_task(name, loaded.text) if not line.startswith("    "))


def test_help_fits_a_terminal_and_its_examples_are_understood(typed, capsys):
    assert max(map(len, pages.usage())) <= 80 and not any("\x1b" in line for line in pages.usage())
    assert typed("--help") == 0 and capsys.readouterr().out.splitlines() == pages.usage()
    assert typed("--version") == 0 and capsys.readouterr().out == f"latent_audit {__version__}\n"
    assert typed("lvs", "--help") == 0 and "latent-audit fields lvs" in capsys.readouterr().out
    examples = [
        line for line in pages.usage() if line.startswith("  latent-audit ") and "DIR" in line and "[" not in line
    ]
    assert len(examples) >= 2
    assert typed("fields") == 0 and capsys.readouterr().out.startswith("# Fields")
    assert typed("fields", "lvs", "attack.steps") == 0 and "attack.steps" in capsys.readouterr().out


def test_values_are_read_by_the_type_of_their_field():
    config = config_files.load("audit").config
    given = {
        "seed": "0x10",
        "attack.step_fraction": "1",
        "attack.controls": False,
        "place.layer": "3",
        "chat.date": "1",
    }
    given |= {"attack.budgets": "0.5", "l2.multiples": "[1, 2]", "steer.fractions": "()"}
    config_files.set_fields(config, given)
    found = config_files.leaves(config)
    assert (found["seed"], found["attack.step_fraction"], found["attack.controls"]) == (16, 1.0, False)
    assert (found["place.layer"], found["chat.date"], found["attack.budgets"]) == (3, "1", (0.5,))
    assert (found["l2.multiples"], found["steer.fractions"]) == ((1, 2), ())


@pytest.mark.parametrize(
    "task, models, expected",
    [
        ("lvs", [], "runs/lvs"),
        ("lvs", ["meta-llama/Llama-3.1-8B-Instruct"], "runs/lvs-Llama-3.1-8B-Instruct"),
        ("lvs", ["/a/b c/"], "runs/lvs-b_c"),
        ("ras", ["x/a:0.13", "x/b:0.9", "c"], "runs/ras-a-b-1-more"),
        ("../x", ["..", "\x1b"], "runs/x-_-_"),
        ("lvs", ["a" * 500], "runs/lvs-" + "a" * 76),
    ],
)
def test_default_workdirs_have_the_name_of_task_and_model(task, models, expected, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = workdirs.default(task, models)
    assert found.parts[0] == "runs" and len(found.parts) == 2
    if ".." not in models:
        assert found.as_posix() == expected


def test_workdirs_that_cannot_be_are_refused_without_a_write(tmp_path):
    (tmp_path / "file").touch()
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    (model / "model.safetensors").touch()
    for place, message in (
        (tmp_path / "file", "is no directory"),
        (tmp_path / "file" / "w", "is no directory"),
        (model, "inside of the checkpoint"),
        (model / "runs" / "x", "inside of the checkpoint"),
        (tmp_path / ("a" * 300), "name too long"),
    ):
        with pytest.raises(InputError, match=f"(?i){message}"):
            workdirs.check(place)
    (model / "model.safetensors").unlink()
    for place in (tmp_path, tmp_path / "new" / "deep", model):
        workdirs.check(place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "model"]


def test_words_that_are_no_flags_keep_their_order():
    given = arguments.read(
        ["a", "--workdir", "w", "b", "--config.x=1=2", "--noconfig.y", "-config.z", "--", "--dry-run"]
    )
    assert given.words == ("a", "b", "--dry-run") and given.workdir == "w" and not given.dry_run
    assert given.fields == {"x": "1=2", "y": False, "z": True} and not given.repeated


def test_of_a_field_given_again_the_last_counts_and_it_is_said():
    given = arguments.read(["lvs", "--config.a=1", "--config.b=1", "--config.a=2", "--config.b=1"])
    assert given.fields == {"a": "2", "b": "1"}
    assert given.repeated == ("config.a is given twice: the last, '2', counts, not '1'",)


@pytest.mark.parametrize("limit, fits", [(-1, True), (2**40, True), (2**30, False), (0, False)])
def test_too_little_address_space_is_said_before_anything_is_imported(limit, fits):
    if fits:
        process.check_address_space(limit)
    else:
        with pytest.raises(InputError, match="ulimit -v"):
            process.check_address_space(limit)


def test_the_doctor_names_packages_out_of_bounds():
    there = {"a": "1.5", "b": "3.0"}
    found = doctor.packages(["a>=1,<2", "b>=1,<2", "c>=1"], there.get)
    assert [(line.state, line.what) for line in found] == [("missing", "b"), ("missing", "c")]
    assert 'pip install "c>=1"' in doctor.show(found)[-1]
    assert doctor.packages(["a>=1,<2"], there.get)[0].state == "ok"


def test_the_doctor_sees_the_memory_of_a_container(tmp_path):
    for name, text in (("proc/meminfo", "MemTotal:  1000 kB\n"), ("sys/fs/cgroup/memory.max", "max\n")):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    assert doctor.host_memory(tmp_path) == 1000 * 1024
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("4096\n")
    assert doctor.host_memory(tmp_path) == 4096


def test_the_doctor_chooses_by_the_devices():
    cpu, gpus = doctor.Device("cpu", "cpu", 4, 0), doctor.Device("gpu", "H100", 8, 80 * 10**9)
    assert doctor.choose(cpu) == ["--config.model.dtype=float32"]
    assert doctor.choose(gpus) == ["--config.model.dtype=bfloat16", "--config.mesh.model=8"]
    assert doctor.sizes(80e9) == {"float32": 14.0, "bfloat16": 28.0}
    assert any("112.0 billion in float32, 224.0 in bfloat16" in line.found for line in doctor.devices(gpus, 10**12))
    assert "2.1 billion parameters in float32" in doctor.devices(cpu, 12 * 10**9)[2].found


def test_the_doctor_asks_the_hub_for_a_while_only(tmp_path):
    def never():
        import time

        time.sleep(3)

    def refuse():
        raise OSError("refused\nby\x1b someone")

    assert doctor.hub(lambda: None).state == "ok"
    assert "no answer within 0.2 seconds" in doctor.hub(never, limit=0.2).found
    assert all(line.isprintable() for line in doctor.show([doctor.hub(refuse)]))
    assert "HF_HUB_OFFLINE" in doctor.hub(never, offline=True).found
    assert not doctor.in_cache("owner/judge", tmp_path)
    copy = tmp_path / "models--owner--judge" / "snapshots" / "abc"
    copy.mkdir(parents=True)
    (copy / "config.json").touch()
    assert not doctor.in_cache("owner/judge", tmp_path), "no weights yet"
    (copy / "model.safetensors").touch()
    assert doctor.in_cache("owner/judge", tmp_path) and doctor.in_cache(str(copy), tmp_path / "none")
    assert doctor.scorer("judge", "x", False, False).mend and not doctor.scorer("judge", "x", True, False).mend
    assert doctor.space(tmp_path / "not" / "there").found.endswith("GB free")


def test_the_doctor_says_what_is_optional():
    with_gpu = doctor.extras(lambda name: False, has_gpu=True)
    assert ["note", "note"] == [line.state for line in with_gpu] and 'pip install "jax[cuda12]"' in with_gpu[1].mend
    assert all(line.state == "ok" for line in doctor.extras(lambda name: True, has_gpu=True))
    assert {line.split(">")[0] for line in doctor.requirements()} >= {"jax", "numpy", "transformers"}
