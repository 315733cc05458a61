"""The patch tool on copies of the real installed openrlhf, with small series made here."""

import json
import os
import py_compile
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from patch_kit import HEADER, ROOT, Series, command, contents, leftovers, tool

from rft import patch_swap, patches
from rft.errors import RftError
from rft.patch_series import build, parse_patch, read_series, series_digest, sha256

LOSS, ACTOR, UTILS = "openrlhf/models/loss.py", "openrlhf/models/actor.py", "openrlhf/utils/utils.py"


@pytest.fixture
def series(tmp_path: Path, pristine_site: Path) -> Series:
    """Three patches: one file; two files, stacked on the first; a new package."""
    series = Series(tmp_path / "repo", pristine_site)
    series.add("one", {"models/loss.py": lambda text: "import abc  # one\n" + text})
    series.add(
        "two",
        {
            "models/loss.py": lambda text: text.replace("import abc  # one\n", "import abc  # two\n"),
            "utils/utils.py": lambda text: text + "\nTWO = 2\n",
        },
    )
    series.add("three", {"extra/part.py": "THREE = 3\n", "models/actor.py": lambda text: text + "\nTHREE = 3\n"})
    return series


def test_apply_and_reverse(pristine_site: Path, series: Series) -> None:
    before = contents(pristine_site)
    assert tool("status", pristine_site, series.dir).stdout.split()[0] == "pristine"
    assert tool("verify", pristine_site, series.dir).returncode == 1

    done = tool("apply", pristine_site, series.dir)
    assert (done.returncode, done.stderr) == (0, "")
    after = contents(pristine_site)
    assert after[LOSS].startswith(b"import abc  # two\n") and after["openrlhf/extra/part.py"] == b"THREE = 3\n"
    assert {path for path in after if after[path] != before.get(path)} == {
        LOSS, ACTOR, UTILS, "openrlhf/extra/part.py",
    }  # fmt: skip
    verified = tool("verify", pristine_site, series.dir)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    assert patches.applied_series_id(pristine_site) == patches.series_id(series.dir)

    again = tool("apply", pristine_site, series.dir)
    assert again.returncode == 0 and "already applied" in again.stdout
    assert tool("apply", pristine_site, series.dir, "-q").stdout == ""

    assert tool("reverse", pristine_site, series.dir).returncode == 0
    assert contents(pristine_site) == before and not (pristine_site / "openrlhf/extra").exists()
    assert leftovers(pristine_site) == []
    again = tool("reverse", pristine_site, series.dir)
    assert again.returncode == 0 and "already pristine" in again.stdout


def test_status_words_and_json(pristine_site: Path, series: Series) -> None:
    def report() -> dict:
        done = tool("status", pristine_site, series.dir, "--json")
        assert done.returncode == 0
        return json.loads(done.stdout)

    assert report()["status"] == "pristine"
    patches.apply(pristine_site, series.dir)
    now = report()
    assert now["status"] == "applied" and now["series_id"] == now["applied_series_id"] == patches.series_id(series.dir)
    assert now["patches"] == ["one.patch", "two.patch", "three.patch"]
    series.names.remove("three.patch")
    series.write()
    now = report()
    assert now["status"] == "stale" and now["details"] == ["to drop: three.patch"]
    (pristine_site / LOSS).write_text("x = 1\n")
    now = report()
    assert now["status"] == "drifted" and now["applied_series_id"] is None
    assert str(pristine_site / LOSS) in now["details"][0] and sha256(b"x = 1\n") in now["details"][0]


def test_empty_series_is_applied_to_a_pristine_tree(pristine_site: Path, tmp_path: Path) -> None:
    empty = Series(tmp_path / "empty", pristine_site)
    assert tool("status", pristine_site, empty.dir).stdout.split()[0] == "applied"
    assert "already applied" in tool("apply", pristine_site, empty.dir).stdout
    assert tool("verify", pristine_site, empty.dir).returncode == 0
    assert "ok: 0 patches" in tool("check", pristine_site, empty.dir).stdout


def test_going_to_the_empty_series_restores_the_pristine_files(pristine_site: Path, series: Series) -> None:
    before = contents(pristine_site)
    patches.apply(pristine_site, series.dir)
    series.names, series.pins = [], {}
    series.write()
    patches.apply(pristine_site, series.dir)
    assert contents(pristine_site) == before
    assert tool("verify", pristine_site, series.dir).returncode == 0


def test_a_changed_series_is_applied_from_the_kept_base(pristine_site: Path, series: Series, tmp_path: Path) -> None:
    pristine = Series(tmp_path / "other", pristine_site)
    before = contents(pristine_site)
    patches.apply(pristine_site, series.dir)
    pristine.add("four", {"models/loss.py": lambda text: "import abc  # four\n" + text})
    patches.apply(pristine_site, pristine.dir)
    after = contents(pristine_site)
    assert after == {**before, LOSS: b"import abc  # four\n" + before[LOSS]}
    assert [path.name for path in (pristine_site / patch_swap.WORK / "base").rglob("*.py")] == ["loss.py"]
    assert patches.verify(pristine_site, pristine.dir) == ""
    patches.reverse(pristine_site)
    assert contents(pristine_site) == before


def test_check_changes_nothing_and_works_when_applied(pristine_site: Path, series: Series) -> None:
    before = contents(pristine_site)
    assert "ok: 3 patches" in tool("check", pristine_site, series.dir).stdout
    assert contents(pristine_site) == before and not (pristine_site / patch_swap.WORK).exists()
    patches.apply(pristine_site, series.dir)
    assert "ok: 3 patches" in tool("check", pristine_site, series.dir).stdout


def test_hard_links_of_pristine_files_keep_their_bytes(pristine_site: Path, series: Series, tmp_path: Path) -> None:
    """uv's cache is such a hard link: writing in place would change it, and every other environment."""
    link = tmp_path / "cache.py"
    os.link(pristine_site / LOSS, link)
    pristine = link.read_bytes()
    patches.apply(pristine_site, series.dir)
    assert link.read_bytes() == pristine
    patched_link = tmp_path / "patched.py"
    os.link(pristine_site / LOSS, patched_link)
    patched = patched_link.read_bytes()
    patches.reverse(pristine_site)
    assert link.read_bytes() == pristine and patched_link.read_bytes() == patched != pristine
    assert (pristine_site / LOSS).read_bytes() == pristine
    assert (pristine_site / LOSS).stat().st_ino not in (link.stat().st_ino, patched_link.stat().st_ino)


def test_file_modes_survive(pristine_site: Path, series: Series) -> None:
    (pristine_site / LOSS).chmod(0o664)
    patches.apply(pristine_site, series.dir)
    assert (pristine_site / LOSS).stat().st_mode & 0o777 == 0o664
    assert (pristine_site / "openrlhf/extra/part.py").stat().st_mode & 0o777 == 0o644
    patches.reverse(pristine_site)
    assert (pristine_site / LOSS).stat().st_mode & 0o777 == 0o664


def test_stale_bytecode_of_touched_files_goes(pristine_site: Path, series: Series) -> None:
    compiled = [
        Path(py_compile.compile(str(pristine_site / path), doraise=True)) for path in (LOSS, "openrlhf/utils/agent.py")
    ]
    patches.apply(pristine_site, series.dir)
    assert not compiled[0].exists() and compiled[1].exists()
    pyc = Path(py_compile.compile(str(pristine_site / LOSS), doraise=True))
    patches.reverse(pristine_site)
    assert not pyc.exists()


def test_drift_of_a_touched_file_is_refused(pristine_site: Path, series: Series) -> None:
    pristine = sha256((pristine_site / LOSS).read_bytes())
    (pristine_site / LOSS).write_text("x = 1\n")
    before = contents(pristine_site)
    for verb in ("apply", "check"):
        done = tool(verb, pristine_site, series.dir)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        for word in (str(pristine_site / LOSS), pristine, sha256(b"x = 1\n"), "uv pip install", "openrlhf==0.9.3"):
            assert word in done.stderr
    assert contents(pristine_site) == before
    done = tool("verify", pristine_site, series.dir)
    assert done.returncode == 1 and "drifted" in done.stderr and done.stderr.count("\n") == 1


def test_drift_of_any_other_file_of_the_package_is_refused(pristine_site: Path, series: Series) -> None:
    (pristine_site / "openrlhf/utils/agent.py").write_text("x = 1\n")
    assert "openrlhf/utils/agent.py" in tool("apply", pristine_site, series.dir).stderr
    (pristine_site / "openrlhf/utils/agent.py").unlink()
    assert "no such file" in tool("apply", pristine_site, series.dir).stderr


def test_drift_of_a_patched_file_is_refused_by_every_change(pristine_site: Path, series: Series) -> None:
    patches.apply(pristine_site, series.dir)
    with (pristine_site / UTILS).open("a") as file:
        file.write("MINE = 1\n")
    before = contents(pristine_site)
    for verb in ("apply", "reverse"):
        done = tool(verb, pristine_site, series.dir)
        assert done.returncode == 2 and str(pristine_site / UTILS) in done.stderr
    assert contents(pristine_site) == before


def test_reinstalling_the_package_over_a_patched_tree(
    pristine_master: Path, pristine_site: Path, series: Series
) -> None:
    """The remedy that is named works: all files again as in the wheel, or only some, with the old state beside them."""
    patches.apply(pristine_site, series.dir)
    shutil.copyfile(pristine_master / LOSS, pristine_site / "new") and os.replace(
        pristine_site / "new", pristine_site / LOSS
    )
    assert patches.status(pristine_site, series.dir)[0].status == "stale"
    patches.apply(pristine_site, series.dir)
    assert patches.verify(pristine_site, series.dir) == ""
    shutil.rmtree(pristine_site / "openrlhf")
    shutil.copytree(pristine_master / "openrlhf", pristine_site / "openrlhf")
    assert patches.status(pristine_site, series.dir)[0].status == "pristine"
    assert patches.reverse(pristine_site) == "already pristine"
    patches.apply(pristine_site, series.dir)
    assert patches.verify(pristine_site, series.dir) == ""


def test_another_version_is_refused(pristine_site: Path, series: Series) -> None:
    metadata = pristine_site / "openrlhf-0.9.3.dist-info/METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 0.9.3\n", "Version: 0.9.4\n", 1))
    before = contents(pristine_site)
    for verb in ("apply", "check", "verify", "status", "reverse", "regen"):
        done = tool(verb, pristine_site, series.dir)
        assert done.returncode == 2 and "openrlhf is 0.9.4, the patches are for 0.9.3" in done.stderr, verb
        assert done.stderr.count("\n") == 1 and done.stdout == ""
    assert contents(pristine_site) == before


def test_a_missing_package_is_one_line(tmp_path: Path, pristine_site: Path, series: Series) -> None:
    done = tool("apply", tmp_path / "nowhere", series.dir)
    assert done.returncode == 2 and "no openrlhf in it" in done.stderr and done.stderr.count("\n") == 1


def test_fuzz_is_refused_and_named(pristine_site: Path, series: Series) -> None:
    """GNU patch would accept this patch: one outer context line of its second hunk differs."""
    target = "models/model.py"
    text = (pristine_site / "openrlhf" / target).read_text().split("\n")

    def edit(_: str) -> str:
        return "\n".join(["import abc", *text[:-3], "import abc", *text[-3:]])

    path = series.add("fuzzy", {target: edit})
    patch = path.read_text()
    second = patch.rindex("\n@@ ")
    context = patch.index("\n ", second) + 2
    path.write_text(patch[:context] + "x" + patch[context:])
    before = contents(pristine_site)
    for verb in ("check", "apply"):
        done = tool(verb, pristine_site, series.dir)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert "fuzzy.patch" in done.stderr and f"openrlhf/{target}, hunk 2 (@@" in done.stderr
    assert contents(pristine_site) == before


def test_white_space_is_not_ignored(pristine_site: Path, series: Series, tmp_path: Path) -> None:
    """A context line with other white space fails, whatever the user's git configuration allows."""
    path = series.dir / "one.patch"
    lines = path.read_text().split("\n")
    first = next(i for i, line in enumerate(lines) if line.startswith((" from ", " import ")))
    lines[first] = lines[first].replace("import", " import", 1)
    path.write_text("\n".join(lines))
    (tmp_path / ".gitconfig").write_text("[apply]\n\tignoreWhitespace = change\n\twhitespace = fix\n")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run(command("check", pristine_site, series.dir), env=env, capture_output=True, text=True)
    assert done.returncode == 2 and "one.patch does not apply to openrlhf/models/loss.py, hunk 1" in done.stderr


def test_a_repository_around_it_does_not_change_what_applies(
    pristine_site: Path, series: Series, tmp_path: Path
) -> None:
    """Inside a repository git apply skips paths outside the current folder, in silence, and follows GIT_DIR."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), "GIT_DIR": str(tmp_path / ".git")}
    done = subprocess.run(command("apply", pristine_site, series.dir), env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert b"# two" in (pristine_site / LOSS).read_bytes()


def test_a_result_that_does_not_compile_is_refused(pristine_site: Path, series: Series) -> None:
    series.add("broken", {"utils/utils.py": lambda text: text + "def broken(:\n"})
    before = contents(pristine_site)
    done = tool("apply", pristine_site, series.dir)
    assert done.returncode == 2 and "does not compile" in done.stderr and "broken.patch" in done.stderr
    assert UTILS in done.stderr and done.stderr.count("\n") == 1
    assert contents(pristine_site) == before


def test_a_created_file_that_exists_is_refused(pristine_site: Path, series: Series) -> None:
    (pristine_site / "openrlhf/extra").mkdir()
    (pristine_site / "openrlhf/extra/part.py").write_text("MINE = 1\n")
    done = tool("apply", pristine_site, series.dir)
    assert done.returncode == 2 and "openrlhf/extra/part.py" in done.stderr
    assert (pristine_site / "openrlhf/extra/part.py").read_text() == "MINE = 1\n"


def test_two_applies_at_once(pristine_site: Path, series: Series) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(command("apply", pristine_site, series.dir), env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = sorted(process.communicate()[0].split(":")[1].strip() for process in started)
    assert [process.returncode for process in started] == [0] * 4
    assert said == ["already applied"] * 3 + ["applied"]
    assert patches.verify(pristine_site, series.dir) == ""


def test_a_reader_waits_for_a_change(pristine_site: Path, series: Series) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with patch_swap.changing(pristine_site):
        reader = subprocess.Popen(command("verify", pristine_site, series.dir), env=env, stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        assert reader.poll() is None
    assert reader.wait(timeout=20) == 1


# A process that dies by SIGKILL at the k-th rename that it makes: the tool's own code, killed where a power cut would.
DYING = """
import os, signal, sys
from rft import patches
real, left = os.replace, int(sys.argv[1])
def replace(source, target):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target)
os.replace, os.fsync = replace, lambda handle: None  # a kill loses no write; 60 runs with fsync are slow on a busy disk
sys.exit(patches.main(sys.argv[2:]))
"""


def die_at(step: int, *argv: str) -> int:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", DYING, str(step), *argv], env=env, capture_output=True).returncode


@pytest.mark.parametrize("verb", ["apply", "reverse", "update"])
def test_an_interrupted_swap_is_finished_or_undone_by_the_next_call(
    verb: str,
    pristine_site: Path,
    series: Series,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed at every rename in turn, the tree is afterwards exactly what it was before or what it was to become."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    series_dir = series.dir
    if verb == "apply":
        before = "pristine"
    else:
        patches.apply(pristine_site, series.dir)
        before = "applied" if verb == "reverse" else "stale"
    start = contents(pristine_site)
    if verb == "update":
        series.names.remove("three.patch")
        series.add("four", {"models/model.py": lambda text: text + "\nFOUR = 4\n", "extra2.py": "FOUR = 4\n"})
    argv = ["reverse" if verb == "reverse" else "apply", "--site-packages", None, "--patches", str(series_dir)]
    finished = shutil.copytree(pristine_site, tmp_path / "finished")
    assert patches.main([str(finished) if word is None else word for word in argv]) == 0
    end, after = contents(finished), "pristine" if verb == "reverse" else "applied"
    seen = set()
    for step in range(100):
        site = shutil.copytree(pristine_site, tmp_path / f"killed{step}")
        code = die_at(step, *[str(site) if word is None else word for word in argv])
        if code == 0:
            break
        assert code == -signal.SIGKILL
        was_interrupted = patch_swap.interrupted(site)
        word = patches.status(site, series_dir)[0].status
        assert (word, contents(site)) in ((before, start), (after, end)), (step, word)
        assert (word == after) == was_interrupted == ("completed" in capsys.readouterr().err)
        assert not patch_swap.interrupted(site)
        seen.add(word)
        assert patches.main([str(site) if word is None else word for word in argv]) == 0
        assert contents(site) == end
        shutil.rmtree(site)
    assert step > 8 and seen == {before, after}


def test_an_interrupted_swap_is_undone_when_its_new_files_are_gone(
    pristine_site: Path, series: Series, tmp_path: Path
) -> None:
    start = contents(pristine_site)
    for step in range(100):
        site = shutil.copytree(pristine_site, tmp_path / f"killed{step}")
        assert die_at(step, "apply", "--site-packages", str(site), "--patches", str(series.dir)) == -signal.SIGKILL
        if patch_swap.interrupted(site) and contents(site) != start:
            break
    shutil.rmtree(site / patch_swap.WORK / "stage" / "new")
    done = tool("status", site, series.dir)
    assert done.stdout.split()[0] == "pristine" and "undone" in done.stderr
    assert contents(site) == start


def test_an_error_in_the_middle_of_a_swap_undoes_it(
    pristine_site: Path, series: Series, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    start, real = contents(pristine_site), os.replace

    def full_disk(source: Path, target: Path) -> None:
        if Path(target) == pristine_site / UTILS and "new" in Path(source).parts:
            raise OSError(28, "No space left on device", str(target))
        real(source, target)

    monkeypatch.setattr(os, "replace", full_disk)
    assert patches.main(["apply", "--site-packages", str(pristine_site), "--patches", str(series.dir)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert contents(pristine_site) == start and not patch_swap.interrupted(pristine_site)
    monkeypatch.undo()
    patches.apply(pristine_site, series.dir)
    assert patches.verify(pristine_site, series.dir) == ""


def as_another_user(argv: list[str]) -> list[str]:
    """Root's writes ignore permission bits, so root hands the command to nobody."""
    if os.geteuid() != 0:
        return argv
    if not shutil.which("setpriv"):
        pytest.skip("running as root without setpriv: no way to be refused a write")
    return ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *argv]


def test_a_read_only_tree_is_one_clear_line(series: Series, pristine_site: Path) -> None:
    """In a folder that others may enter (pytest's own are private), with a copy of rft that they may read."""
    with tempfile.TemporaryDirectory() as name:
        open_to_all = Path(name)
        site = shutil.copytree(pristine_site, open_to_all / "site-packages")
        shutil.copytree(series.dir, open_to_all / "patches")
        shutil.copytree(ROOT / "rft", open_to_all / "code" / "rft", ignore=shutil.ignore_patterns("__pycache__"))
        base = ["/usr/bin/env", f"PYTHONPATH={open_to_all / 'code'}", "PYTHONDONTWRITEBYTECODE=1", _any_python()]
        for path in [open_to_all, *open_to_all.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        try:
            for verb, patched in (("apply", False), ("reverse", True)):
                if patched:
                    os.chmod(site, 0o755)
                    patches.apply(site, series.dir)
                    for path in [site, *site.rglob("*")]:
                        path.chmod(0o555 if path.is_dir() else 0o444)
                before = contents(site)
                argv = [*base, "-m", "rft.patches", verb, "--site-packages", str(site)]
                done = subprocess.run(
                    as_another_user([*argv, "--patches", str(open_to_all / "patches")]),
                    capture_output=True,
                    text=True,
                    cwd="/",
                )
                assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
                assert str(site) in done.stderr and "environment" in done.stderr
                assert contents(site) == before
            for verb in ("verify", "apply"):  # nothing to do, so nothing to write
                argv = [*base, "-m", "rft.patches", verb, "--site-packages", str(site)]
                done = subprocess.run(
                    as_another_user([*argv, "--patches", str(open_to_all / "patches")]), capture_output=True, cwd="/"
                )
                assert (done.returncode, done.stderr) == (0, b"")
        finally:
            for path in [open_to_all, *open_to_all.rglob("*")]:
                path.chmod(0o755 if path.is_dir() else 0o644)


def _any_python() -> str:
    """A Python that another user may start: this one, or the system's when this one stands in a private folder."""
    if os.geteuid() != 0:
        return sys.executable
    for python in (sys.executable, "/usr/bin/python3"):
        code = "import json, sys; sys.exit(sys.version_info < (3, 11))"
        probe = as_another_user(["/usr/bin/env", python, "-c", code])
        if subprocess.run(probe, capture_output=True).returncode == 0:
            return python
    pytest.skip("no Python of 3.11 or newer that another user may start")


def test_series_id_covers_names_order_and_bytes_but_no_comments(series: Series) -> None:
    first = patches.series_id(series.dir)
    assert len(first) == 12 and int(first, 16) >= 0
    text = (series.dir / "series").read_text()
    (series.dir / "series").write_text("# more words\n\n" + text.replace("two.patch", "two.patch  # why"))
    assert patches.series_id(series.dir) == first
    read = read_series(series.dir)
    assert series_digest(list(reversed(read))) != first
    with (series.dir / "two.patch").open("a") as file:
        file.write("\n")
    assert patches.series_id(series.dir) != first


def test_a_bad_series_file_is_one_line(series: Series, pristine_site: Path) -> None:
    text = (series.dir / "series").read_text()
    for bad, words in (("gone.patch\n", "gone.patch does not exist"), ("one.patch\n", "one.patch is listed 2 times")):
        (series.dir / "series").write_text(text + bad)
        done = tool("status", pristine_site, series.dir)
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
    (series.dir / "series").unlink()
    assert "no such file" in tool("status", pristine_site, series.dir).stderr


@pytest.mark.parametrize(
    ("diff", "words"),
    [
        ("diff --git a/other/x.py b/other/x.py\n--- a\n", "not one file under openrlhf/"),
        ("diff --git a/openrlhf/../x.py b/openrlhf/../x.py\n--- a\n", "not one file under openrlhf/"),
        ("diff --git a/openrlhf/x.py b/openrlhf/y.py\n", "renames are not supported"),
        ("diff --git a/openrlhf/x.py b/openrlhf/x.py\ndeleted file mode 100644\n", "only changed and new text files"),
        ("diff --git a/openrlhf/x.py b/openrlhf/x.py\nold mode 100644\nnew mode 100755\n", "only changed and new"),
        ("--- x.py\n+++ x.py\n", "wanted 'diff --git"),
        (
            "diff --git a/openrlhf/x.py b/openrlhf/x.py\n@@\ndiff --git b/openrlhf/y.py b/openrlhf/y.py\n",
            "b/openrlhf/y",
        ),
    ],
)
def test_a_patch_of_another_kind_is_refused(diff: str, words: str) -> None:
    with pytest.raises(RftError, match=words):
        parse_patch("odd.patch", (HEADER.format(name="odd") + diff).encode())


def test_a_file_smuggled_in_without_a_diff_line_is_refused(pristine_site: Path, series: Series) -> None:
    with (series.dir / "one.patch").open("a") as file:
        file.write("--- /dev/null\n+++ b/openrlhf/hidden.py\n@@ -0,0 +1 @@\n+x = 1\n")
    done = tool("apply", pristine_site, series.dir)
    assert done.returncode == 2 and "openrlhf/hidden.py without a 'diff --git' line" in done.stderr


def test_regen_pins_pristine_files_also_when_they_are_patched(pristine_site: Path, series: Series) -> None:
    pinned = (series.dir / "base.sha256").read_text()
    (series.dir / "base.sha256").write_text("")
    done = tool("apply", pristine_site, series.dir)
    assert done.returncode == 2 and "not pinned" in done.stderr and "regen" in done.stderr
    assert tool("regen", pristine_site, series.dir).returncode == 0
    assert (series.dir / "base.sha256").read_text() == pinned
    patches.apply(pristine_site, series.dir)
    (series.dir / "base.sha256").write_text("")
    assert tool("regen", pristine_site, series.dir).returncode == 0
    assert (series.dir / "base.sha256").read_text() == pinned
    patches.reverse(pristine_site)
    (pristine_site / LOSS).write_text("x = 1\n")
    assert tool("regen", pristine_site, series.dir).returncode == 2
    assert (series.dir / "base.sha256").read_text() == pinned


def test_table_is_made_from_the_headers(series: Series) -> None:
    rows = patches.table(series.dir).split("\n")
    assert rows[0] == "| patch | upstream files | reason | what it does |"
    assert rows[3] == "| two | models/loss.py, utils/utils.py | bug | two of a test |"


def test_verify_is_quick_and_imports_no_torch(pristine_site: Path, series: Series) -> None:
    patches.apply(pristine_site, series.dir)
    code = "import sys; from rft import patches; r = patches.main(sys.argv[1:]); sys.exit(r or 'torch' in sys.modules)"
    argv = ["verify", "--site-packages", str(pristine_site), "--patches", str(series.dir)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code, *argv], env=env).returncode == 0


def test_build_wants_no_repository_and_no_file_it_does_not_touch(pristine_site: Path, series: Series) -> None:
    read = read_series(series.dir)
    result = build(read, {path: (pristine_site / path).read_bytes() for path in (LOSS, ACTOR, UTILS)})
    assert sorted(result) == ["openrlhf/extra/part.py", ACTOR, LOSS, UTILS]


def test_the_shim_finds_its_python_and_shows_help(tmp_path: Path, pristine_site: Path, series: Series) -> None:
    shim = ["bash", str(ROOT / "apply_patches.sh")]
    done = subprocess.run([*shim, "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "reverse" in done.stdout and "set -e" not in done.stdout
    env = {**os.environ, "PYTHON": sys.executable}
    argv = [*shim, "status", "--site-packages", "site-packages", "--patches", str(series.dir)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=pristine_site.parent, env=env)
    assert done.stdout.startswith("pristine"), done.stderr
    done = subprocess.run([*shim, "status"], capture_output=True, text=True, env={**env, "PYTHON": "/no/python"})
    assert done.returncode == 2 and "error: /no/python" in done.stderr
