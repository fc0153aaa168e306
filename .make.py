"""Starts a command of the Makefile with its settings, which it takes from the environment: no shell reads them.

    python .make.py builder plan --data=DATA --all:ALL OUT ARGS

The words after the module are passed on, except for those that name a setting; one that is empty is left out.

    --data=DATA   an option with the value of a setting
    --all:ALL     an option without a value, if the setting is 1
    --test+TEST   an option with the values of a setting, one or several; a path with spaces that exists is one
    OUT           an argument
    ARGS          options and arguments

Settings that were given to make, listed in GIVEN, but that the command does not name are refused. The rest is run by
any Python 3 of the system, also by one that the project does not support, such as the 3.6 of older servers:

    --set-up .venv/builder.ok .[builder] mediapipe   make the environment if need be, install packages; once
    --check .venv                                    with the environment's Python: fail if it cannot be used
    --nearest NAME --of SETTINGS                     explain an unknown setting
    --list [TARGET]                                  list the targets, or what one of them takes
"""

import difflib
import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

#: Settings with several values, separated by spaces and quoted as for a shell: `CLIP="'a b.mp4' c.mp4"`.
WORDS = frozenset({"ARGS", "CLIP", "COLUMNS", "FOLD", "LOGGER", "OPTION", "SPEAKER", "SPLIT", "STRATEGY"})
#: Of these, options that are repeated for each value.
REPEATED = frozenset({"COLUMNS", "OPTION"})
#: Settings that most commands take one value of, a name or a folder.
ONE_CORPUS = ("DATASET", "SHARDS")
#: What to write where a setting of builds is refused.
INSTEAD = {"NAME": "; finished shards of NAME=mine are DATASET=mine"}
#: Extras with packages that take minutes to download.
MANY_PACKAGES = frozenset({"core", "builder", "train", "test"})
#: Used by make itself.
OF_MAKE = frozenset({"PYTHON"})
#: Prints version and folder of an interpreter, and fails for one that cannot make environments, as in Debian.
_PROBE = """import os, sys
print("%d.%d.%d" % sys.version_info[:3])
print(os.path.realpath(sys.base_prefix))
import ensurepip, venv"""
_SETTING = re.compile(r"(?P<option>--[a-z-]+)?(?P<kind>[=:+]|)(?P<name>[A-Z][A-Z_]*)")


def expand(template: "Sequence[str]") -> "list[str]":
    """The arguments of a command. Raises ValueError for quotes that are not closed, and flags other than 0 and 1."""
    arguments: list[str] = []
    for word in template:
        found = _SETTING.fullmatch(word)
        values = read_values(found["name"], several=found["kind"] == "+") if found else []
        if not found:
            arguments.append(word)
        elif found["kind"] == ":":
            if values not in ([], ["0"], ["1"]):
                raise ValueError(f"{found['name']}: found {values[0]!r}, expected 1, or 0 to leave it off")
            arguments += [found["option"]] if values == ["1"] else []
        elif found["option"] is None:
            arguments += [f"./{value}" if value.startswith("-") and word != "ARGS" else value for value in values]
        elif found["name"] in WORDS - REPEATED or (found["kind"] == "+" and len(values) > 1):
            arguments += [found["option"], *values] if values else []
        else:
            arguments += [f"{found['option']}={value}" for value in values]
    return arguments


def read_values(name: str, several: bool = False) -> "list[str]":
    """Values of a setting, none if it is empty. Raises ValueError for quotes that are not closed."""
    text = os.environ.get(name, "")
    if not (name in WORDS or several) or ((several or name == "CLIP") and is_path(text)):
        return [text] if text else []
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{name}: found {text!r}, expected values separated by spaces, each quote closed") from error


def is_path(text: str) -> bool:
    """Whether a setting is the name of an existing file or folder, which may have spaces and quotes."""
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False


def settings_of(template: "Sequence[str]") -> "dict[str, str]":
    """Setting -> option of the command, or "" for an argument, in the order of the template."""
    found = {setting["name"]: setting["option"] or "" for setting in map(_SETTING.fullmatch, template) if setting}
    of_out = {"DATASET": "shards/DATASET is the default of OUT"} if "OUT" in found else {}
    return {**of_out, **{re.sub("^GIVEN_", "", name): option for name, option in found.items()}}


def check_used(target: str, given: "Sequence[str]", template: "Sequence[str]") -> None:
    """Raise ValueError for a setting that the command would not read."""
    known = settings_of(template)
    for name in given:
        if name not in known and name not in OF_MAKE:
            instead = INSTEAD.get(name, f"; make help TARGET={target} lists them")
            instead = "; the file to write is TO=" if name == "OUT" and "TO" in known else instead
            raise ValueError(f"make {target}: {explain_unknown(name, known)}{instead}")
        several = name in ONE_CORPUS and len(os.environ[name].split()) > 1 and not is_path(os.environ[name])
        if several and not {f"--dataset+GIVEN_{name}", f"--shards+{name}"} & {*template}:
            raise ValueError(f"make {target}: {name}: found {os.environ[name]!r}, expected one corpus at a time")


def explain_unknown(name: str, known: "Sequence[str]") -> str:
    """What is wrong with a setting, and the one that may have been meant."""
    nearest = difflib.get_close_matches(name, known, 1)
    return f"{name} is not a setting here{f', the nearest is {nearest[0]}' if nearest else ''}"


def template_of(target: str, makefile: str) -> "list[str]":
    """Words of the command of a target, its variables put in; [] if it starts none of the project's commands."""
    variables = dict(re.findall(r"^([A-Z]+) *:?= *((?:.*\\\n)*.*)$", makefile, re.MULTILINE))
    recipe = re.search(rf"^{re.escape(target)}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    words = recipe[1].partition("$(START)")[2] if recipe else ""
    for _ in range(3):
        words = re.sub(r"\$\(([A-Z]+)\)", lambda found: variables.get(found[1], ""), words)
    return re.sub(r"\$\(if|[$(),\\]", " ", words).split()


def list_settings(target: str, makefile: str) -> "list[str]":
    """Lines about the targets of a Makefile, or about the settings of one of them."""
    if not target:
        return sorted(
            f"{name:<18}{text}" for name, text in re.findall("^([a-z-]+):[^#]*## (.*)", makefile, re.MULTILINE)
        )
    found = settings_of(template_of(target, makefile))
    lines = [f"{name:<24}{option or 'an argument'}" for name, option in sorted(found.items()) if name != "ARGS"]
    if "ARGS" in found:
        lines.append("ARGS=--help             explains these options, and lists further ones for ARGS=")
    return lines or [f"make {target} takes no settings"]


def supported_versions() -> "list[str]":
    """Versions of Python that pyproject.toml names, the oldest first, such as 3.11."""
    found = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', Path("pyproject.toml").read_text("utf-8"))
    return [f"3.{minor}" for minor in range(int(found[1]), int(found[2]))]


def probe(python: str) -> "tuple[list[str], str]":
    """Version and folder of an interpreter, as far as it prints them, and why it cannot make an environment, or ""."""
    try:
        done = subprocess.run([python, "-ES", "-c", _PROBE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError as error:
        return [], f"cannot be started ({error.strerror})"
    found, versions = done.stdout.decode(errors="replace").splitlines(), supported_versions()
    if not found or not re.fullmatch(r"\d+\.\d+\.\d+", found[0]):
        return [], "found a program that is not Python"
    if found[0].rpartition(".")[0] not in versions:
        return found, f"found Python {found[0]}"
    return found, f"found no module ensurepip (apt install python{found[0][:4]}-venv)" if done.returncode else ""


def find_python() -> str:
    """The interpreter for the environment: PYTHON, or the first of the system that fits. Raises ValueError."""
    given, versions = os.environ.get("PYTHON", ""), supported_versions()
    for python in [given] if given else [*(f"python{each}" for each in versions), sys.executable]:
        problem = probe(python)[1]
        if not problem:
            return python
    raise ValueError(
        f"{'PYTHON=' if given else ''}{python}: {problem}, expected Python {' or '.join(versions)}; install it, or set "
        f"PYTHON=/path/to/python{versions[0]} (with conda: see README.md)"
    )


def check_environment(venv: Path) -> str:
    """Why an environment cannot be used, "" if it can. Called by its own Python, at each make: takes 30 ms."""
    version = "{}.{}".format(*sys.version_info)
    if version not in supported_versions():
        return f"found Python {version}, expected {' or '.join(supported_versions())}"
    if not (venv / "pyvenv.cfg").is_file():
        return ""  # made by other tools
    if not (venv / "lib" / f"python{version}" / "site-packages").is_dir():
        return f"found Python {version}, expected the version that the environment was made with"
    pip = venv / "bin" / "pip"
    if not pip.is_file():
        return "found no pip, expected a complete environment"
    found = re.search("(/.*/bin)/python", pip.read_text("utf-8", "replace"))
    if found and not (Path(found[1]).is_dir() and pip.parent.samefile(found[1])):
        return f"found programs that use {found[1]}, expected this folder; it was moved or copied"
    return ""


def find_fault(venv: Path) -> str:
    """Why an existing environment must be made again; "" if it can be used. Raises ValueError if PYTHON cannot be."""
    own = str(venv / "bin" / "python")
    try:
        done = subprocess.run(
            [own, "-IS", __file__, "--check", str(venv)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError as error:
        return f"its Python cannot be started ({error.strerror})"
    if done.returncode:
        return done.stdout.decode(errors="replace").strip() or "its Python fails"
    if "PYTHON" in os.environ.get("GIVEN", "").split() and probe(find_python())[0] != probe(own)[0]:
        return f"found another Python than PYTHON={os.environ['PYTHON']}"
    return ""


def make_environment(venv: Path) -> None:
    """Make an environment unless there is one that can be used. Raises ValueError, before anything is changed."""
    if os.path.lexists(str(venv)):
        fault = find_fault(venv)
        if not fault:
            return
        config = venv / "pyvenv.cfg"
        made_by_venv = config.is_file() and "uv = " not in config.read_text("utf-8", "replace")
        if venv.is_symlink() or not venv.is_dir() or (any(venv.iterdir()) and not made_by_venv):
            kind = "a link" if venv.is_symlink() else "no environment that venv made"
            raise ValueError(f"{venv}: {fault}; it is {kind} and therefore not replaced: remove or rename it")
        python = find_python()
        sys.stdout.write(f"{venv} is made again: {fault}\n")
        for path in list(venv.iterdir()):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(str(path))
            elif path.name != "pyvenv.cfg":  # replaced below; until then it shows what the folder is
                path.unlink()
    else:
        python = find_python()
    sys.stdout.flush()
    subprocess.run([python, "-m", "venv", str(venv)], check=True)


def set_up(done: Path, extras: str, *without_dependencies: str) -> None:
    """Install the project with extras into its environment, once: `done` is a file that is newer than what it needs.

    Commands that are started at the same time wait for each other. Raises ValueError, OSError, CalledProcessError.
    """
    venv, needs = done.parent, [Path("pyproject.toml"), Path("constraints.txt")]
    with Path("Makefile").open("r+") as lock:
        with suppress(OSError):  # file systems without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        make_environment(venv)
        if done.exists() and all(done.stat().st_mtime_ns >= each.stat().st_mtime_ns for each in needs):
            return
        many = "packages are downloaded, once, which takes minutes"
        what = many if done.stem in MANY_PACKAGES else "a few more packages are downloaded, once"
        sys.stdout.write(f"setting up {venv} for {done.stem}: {what}\n")
        sys.stdout.flush()
        pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        pip += ["--constraint", "constraints.txt"]
        subprocess.run([*pip, "--editable", extras], check=True)
        if without_dependencies:
            subprocess.run([*pip, "--no-deps", *without_dependencies], check=True)
        done.touch()


def main(arguments: "Sequence[str]") -> int:
    """Start a command, which takes the place of this process, or do what an option says; the exit status."""
    first, *words = arguments
    if first == "--nearest":
        option = '; options of a command are given with ARGS, as in ARGS="--set class_weights=balanced"'
        explained = explain_unknown(words[0][:80], words[words.index("--of") + 1 :])
        sys.stdout.write(explained + (option if words[0].islower() else ""))
    elif first == "--list":
        sys.stdout.write("\n".join(list_settings("".join(words), Path("Makefile").read_text("utf-8"))) + "\n")
    elif first == "--check":
        fault = check_environment(Path(words[0]))
        sys.stdout.write(fault)
        return 1 if fault else 0
    elif first == "--set-up":
        set_up(Path(words[0]), *words[1:])
    else:
        check_used(os.environ.get("GOAL", ""), os.environ.get("GIVEN", "").split(), words)
        command = [sys.executable, "-m", first, *expand(words)]
        os.execv(command[0], command)  # noqa: S606 - no shell
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ValueError, OSError) as problem:
        sys.stderr.write(f"error: {problem}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except subprocess.CalledProcessError as problem:
        sys.exit(problem.returncode)  # it has said why
