"""Every CUDA source compiles with NVIDIA's run-time compiler, which needs no GPU, for every architecture we name."""
from __future__ import annotations

import ctypes
import importlib.metadata
from pathlib import Path

import pytest

from brew.kernels.gpu import CUDA, INCLUDE

SOURCES = sorted(Path(str(CUDA)).glob("*.cu"))


@pytest.fixture(scope="module")
def nvrtc() -> ctypes.CDLL:
    try:
        files = importlib.metadata.files("nvidia-cuda-nvrtc") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("no nvidia-cuda-nvrtc: pip install 'brew[test]'")
    for part in ("libnvrtc-builtins.so", "libnvrtc.so"):       # the second opens the first by its bare name
        library = ctypes.CDLL(str(next(f for f in files if f.name.startswith(part)).locate()), mode=ctypes.RTLD_GLOBAL)
    return library


def compile_source(nvrtc: ctypes.CDLL, path: Path, architecture: int) -> tuple[int, str]:
    """(result code, log) of compiling a source to PTX."""
    program = ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), path.read_bytes(), path.name.encode(), 0, None, None) == 0
    options = [f"--gpu-architecture=compute_{architecture}", "--std=c++17", f"-I{INCLUDE}", f"-I{CUDA}"]
    code = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*(o.encode() for o in options)))
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, text)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return code, text.value.decode()


@pytest.mark.parametrize("architecture", [75, 80, 90, 100])
@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_compiles(source: Path, architecture: int, nvrtc: ctypes.CDLL) -> None:
    code, text = compile_source(nvrtc, source, architecture)
    assert code == 0, text


def test_an_error_is_found(nvrtc: ctypes.CDLL, tmp_path: Path) -> None:
    broken = tmp_path / "broken.cu"
    broken.write_text('extern "C" __global__ void f(float* x) { x[0] = y; }')
    code, text = compile_source(nvrtc, broken, 80)
    assert code != 0 and '"y" is undefined' in text
