"""What is found on a machine, and what is said of one that lacks it."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from kerneljudge.building import Toolchain
from kerneljudge.building.toolchain import CudaHeaders

pytestmark = pytest.mark.unit


def test_this_machine_is_described_without_importing_torch() -> None:
    program = (
        "import sys; from kerneljudge.building import Toolchain;"
        "found = Toolchain.detect(); assert found.capabilities(); found.identity();"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_is_found_exists_and_can_be_sent_to_another_process() -> None:
    found = Toolchain.detect()
    assert pickle.loads(pickle.dumps(found)) == found
    for path in (found.cxx, found.nvcc, found.nm, found.cudart, *found.folders):
        assert path is None or path.exists()
    if found.torch is not None:
        assert (found.torch.includes[0] / "torch" / "library.h").is_file()
        assert found.torch.standard.startswith("c++")


def test_a_bare_machine_is_described_truthfully() -> None:
    bare = Toolchain(nvrtc_problem="No module named 'cuda'")
    capabilities = {capability.name: capability for capability in bare.capabilities()}
    assert not any(capability.available for capability in capabilities.values())
    assert "install" in capabilities["g++"].detail
    assert "No module named 'cuda'" in capabilities["NVRTC"].detail
    assert "NVRTC" in capabilities["torch_cuda, fast way"].detail
    assert "nvcc" in capabilities["torch_cuda, as torch builds"].detail
    assert bare.missing_for_nvcc() == ["nvcc", "g++"]


def test_compilers_are_looked_for_where_the_environment_says(tmp_path: Path) -> None:
    home = tmp_path / "cuda"
    for folder in ("bin", "nvvm", "include", "lib64"):
        (home / folder).mkdir(parents=True)
    nvcc = home / "bin" / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 99.1, V99.1.22'\n")
    nvcc.chmod(0o755)
    (home / "include" / "cuda_runtime_api.h").write_text("#define CUDART_VERSION  99010\n")
    (home / "include" / "cuda_fp16.h").touch()
    found = Toolchain.detect({"PATH": "/nowhere", "CUDA_HOME": str(home)})
    assert found.cxx is None
    assert found.nvcc == nvcc
    assert found.nvcc_version == "99.1.22"
    assert found.headers[0].path == home / "include"
    assert found.headers[0].release == (99, 1)
    assert "g++" in found.missing_for_fast()


def test_headers_for_nvrtc_are_of_its_own_version_where_there_are_such() -> None:
    old, new = CudaHeaders(Path("/old"), 12080), CudaHeaders(Path("/new"), 13000)
    found = Toolchain(headers=(old, new), nvrtc_version=(13, 0))
    assert found.device_headers == new
    assert found.host_includes == [Path("/new")]
    assert Toolchain(headers=(old,), nvrtc_version=(13, 0)).device_headers == old
