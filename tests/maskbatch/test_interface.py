"""What `import maskbatch` gives."""

import subprocess
import sys
from importlib import resources
from pathlib import Path

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


def test_a_driver_does_not_wait_for_torch_nor_ray() -> None:
    code = "import sys, maskbatch.runner; print({'torch', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_package_says_that_it_is_typed() -> None:
    assert (resources.files("maskbatch") / "py.typed").is_file()


def test_a_single_text_or_path_stands_for_a_list_of_one(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    for archives in (tmp_path, str(tmp_path), [tmp_path]):
        config = maskbatch.PlanConfig(archives=archives, timezone="Europe/Paris", camera="gate-1")
        assert config.archives == (str(tmp_path),)
        assert (config.timezone, config.camera) == (("Europe/Paris",), ("gate-1",))
    assert maskbatch.plan_archive(maskbatch.PlanConfig(archives=tmp_path)).num_images == 1
    assert maskbatch.ReportConfig(exclude="dark").exclude == ("dark",)
    assert maskbatch.ReportConfig(exclude="frozen, dark").exclude == ("frozen", "dark")
    for call in (maskbatch.open_run, maskbatch.verify_run, maskbatch.report_runs):
        with pytest.raises(maskbatch.UsageError, match="no run is there"):
            call(tmp_path / "nowhere")


def test_the_public_names_are_those_that_completion_offers() -> None:
    assert dir(maskbatch) == maskbatch.__all__
