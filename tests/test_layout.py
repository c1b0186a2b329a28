"""The folders are one package, their imports go one way, and no bare name leaks."""
from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ["proto", "engine", "layers", "kernels", "solvers", "models", "tools", "pycaffe"]
MAY_IMPORT = {"proto": set(), "kernels": set(), "models": set(), "engine": {"proto", "kernels"}, "layers": {"engine", "kernels", "proto"},
              "solvers": {"engine", "proto"}, "tools": {"solvers", "engine", "layers", "kernels", "proto", "models", "version"},
              "pycaffe": {"tools", "solvers", "engine", "layers", "proto", "Layer", "layer_type_list", "set_device", "set_mode_cpu", "set_mode_gpu", "set_random_seed", "__version__"}}


def test_no_folder_was_imported_under_its_bare_name() -> None:
    assert not {n for n in FOLDERS if str(ROOT) in str(getattr(sys.modules.get(n), "__path__", ""))}


def test_an_installed_brew_leaks_no_bare_names(tmp_path: Path) -> None:
    code = f"import brew, importlib.util as u; print([n for n in {FOLDERS} if u.find_spec(n)])"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_is_linked(folder: str) -> None:
    assert (ROOT / "src" / "brew" / folder).samefile(ROOT / folder)


def imported(folder: str) -> dict[str, set[str]]:
    """For each file, the other folders of brew that it imports."""
    found = {}
    for path in (ROOT / folder).glob("*.py"):
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 2:
                names |= {node.module.split(".")[0]} if node.module else {a.name for a in node.names}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "brew" and node.level == 0:
                names.add("an absolute import")
        found[path.name] = names
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_go_one_way(folder: str) -> None:
    wrong = {file: names - MAY_IMPORT[folder] for file, names in imported(folder).items() if names - MAY_IMPORT[folder]}
    assert not wrong


def test_every_layer_file_is_in_the_list() -> None:
    listed = {a.name for node in ast.walk(ast.parse((ROOT / "layers" / "__init__.py").read_text())) if isinstance(node, ast.ImportFrom) for a in node.names}
    with_layers = {p.stem for p in (ROOT / "layers").glob("*.py") if "@register" in p.read_text()}
    assert with_layers == listed - {"annotations"}


@pytest.mark.parametrize("folder", ["engine", "solvers"])
def test_no_files_import_each_other_in_a_circle(folder: str) -> None:
    """Not for types either: each file can be read after those that it imports."""
    files = {path.stem: ast.parse(path.read_text()) for path in (ROOT / folder).glob("*.py") if path.stem != "__init__"}
    imports = {name: {module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1
                      for module in ([node.module] if node.module else [a.name for a in node.names])} & set(files)
               for name, tree in files.items()}
    while True:
        ground = {name for name, needed in imports.items() if not needed}
        if not ground:
            break
        imports = {name: needed - ground for name, needed in imports.items() if name not in ground}
    assert not imports
