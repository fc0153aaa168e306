"""The linter refuses calls that run code from a file or let an archive choose where it writes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DANGEROUS = {
    "a pickle": "import pickle\npickle.loads(b'')",
    "a pickle in a file": "import pickle\npickle.load(open('x', 'rb'))",
    "a pickle by parts": "from pickle import Unpickler\nUnpickler(None).load()",
    "a shelf": "import shelve\nshelve.open('x')",
    "bytecode": "import marshal\nmarshal.loads(b'')",
    "a checkpoint": "import torch\ntorch.load('x', weights_only=False)",
    "a compiled model": "import torch\ntorch.jit.load('x')",
    "a hub of code": "from torch import hub\nhub.load('x', 'y')",
    "an array": "import numpy as np\nnp.load('x', allow_pickle=True)",
    "an archive": "import tarfile\nwith tarfile.open('x') as tar:\n    tar.extractall()",
    "any archive": "import shutil\nshutil.unpack_archive('x')",
    "YAML with tags": "import yaml\nyaml.load('x', Loader=yaml.Loader)",
    "an expression": "eval('1')",
    "a statement": "exec('x = 1')",
    "a shell": "import subprocess\nname = 'x'\nsubprocess.run(f'ls {name}', shell=True, check=True)",
    "an old shell": "import os\nos.system('ls ' + os.getcwd())",
}


@pytest.mark.parametrize("package", ["builder", "manifests", "train"])
@pytest.mark.parametrize("what", DANGEROUS)
def test_dangerous_calls_are_refused(what: str, package: str) -> None:
    ruff = shutil.which("ruff", path=Path(sys.executable).parent)
    command = [str(ruff), "check", "--quiet", "--select", "S,TID251", "--stdin-filename", f"{package}/new.py", "-"]
    done = subprocess.run(command, input=DANGEROUS[what] + "\n", cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done
    assert f"{package}/new.py:" in done.stdout
