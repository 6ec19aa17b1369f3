"""What `import maskbatch` gives."""

import subprocess
import sys
from importlib import resources

import pytest

import maskbatch


def test_every_public_name_is_there_and_documented() -> None:
    assert sorted(maskbatch.__all__) == maskbatch.__all__
    for name in maskbatch.__all__:
        assert getattr(maskbatch, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = maskbatch.nothing


def test_the_import_alone_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'ray', 'pandas', 'pyarrow', 'numpy', 'PIL', 'fsspec'}"
    code = f"import sys, maskbatch; print({heavy} & set(sys.modules)); maskbatch.PlanConfig"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_package_says_that_it_is_typed() -> None:
    assert (resources.files("maskbatch") / "py.typed").is_file()
