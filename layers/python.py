"""Python: layers that users write in Python."""
from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..engine.blob import Blob, BlobVec
from ..engine.exclusive import resting
from ..engine.layer import Layer, at_least, register
from ..proto.text import locate


class UserLayer:
    """The base class of layers that users write; exported as `brew.Layer`.

    Fill in setup(bottom, top), reshape(bottom, top), forward(bottom, top) and backward(top, propagate_down, bottom);
    bottom and top are lists of Blobs with data, diff, shape and reshape. `param_str` is the text from the prototxt, `phase`
    the number 0 in TRAIN and 1 in TEST, as in Caffe; parameters are made in setup with `self.blobs.add_blob(shape...)`. Arrays of bottoms and tops may
    be kept from one call to the next while their shapes stay; those of parameters move when a solver is built, so take them
    in each call.

    A layer that changes from batch to batch also defines snapshot_state(), which returns its state, and restore_state(state):
    see the documentation of Python.
    """

    type, param_str, phase = "Python", "", 0

    def __init__(self) -> None:
        self.blobs = BlobVec()

    @property
    def param_str_(self) -> str:
        """param_str, as the first layers in Python knew it."""
        return self.param_str

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None: ...
    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None: ...
    def forward(self, bottom: list[Blob], top: list[Blob]) -> None: ...
    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None: ...

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if hasattr(cls, "snapshot_state") != hasattr(cls, "restore_state"):
            raise TypeError(f"{cls.__name__} must define both snapshot_state() and restore_state(state), or neither")


lent: dict[str, int] = {}                # folder that was put on sys.path -> how many imports need it there
lending = threading.Lock()


@contextmanager
def working_directory_on_path() -> Iterator[None]:
    """Within, the working directory is the first place where modules are looked for; several threads may be within."""
    here = os.getcwd()
    with lending:
        added = here in lent or here not in sys.path and "" not in sys.path
        if added:
            lent[here] = lent.get(here, 0) + 1
            if lent[here] == 1:
                sys.path.insert(0, here)
    try:
        yield
    finally:
        with lending:
            if added:
                lent[here] -= 1
            if added and not lent[here]:
                del lent[here]
                if here in sys.path:
                    sys.path.remove(here)


def import_class(layer: Layer) -> type[UserLayer]:
    """The class that a layer's python_param names. Raises NetError, before importing anything, for modules of the
    standard library and for programs; and for anything but a subclass of brew.Layer."""
    p = layer.param.python_param
    parts, field = p.module.split("."), "python_param.module"
    layer.require(all(part.isidentifier() for part in parts), f'"{p.module}" is not the name of a Python module', field)
    layer.require(parts[0] not in sys.stdlib_module_names, f'the module "{p.module}" belongs to Python\'s standard '
                  "library\n  a layer must be in a module of your own: give its file another name", field)
    layer.require("__main__" not in parts or parts == ["__main__"],
                  f'the module "{p.module}" is a program: importing it would run it', field)
    try:
        with working_directory_on_path():
            module = importlib.import_module(p.module)
    except ModuleNotFoundError as e:
        if e.name not in (parts[0], p.module):
            raise
        layer.require(False, f'there is no Python module "{p.module}"; '
                      "it must lie in the working directory or on PYTHONPATH", field)
    except SystemExit:
        layer.require(False, f'the module "{p.module}" ends the process when it is imported (SystemExit)', field)
    layer.require(hasattr(module, p.layer), f'the module "{p.module}" has no class "{p.layer}"', "python_param.layer")
    found = getattr(module, p.layer)
    layer.require(isinstance(found, type) and issubclass(found, UserLayer), f'"{p.layer}" of the module "{p.module}" '
                  "is not a subclass of brew.Layer (caffe.Layer)", "python_param.layer")
    return found  # type: ignore[no-any-return]


@register("Python")
class PythonLayer(Layer):
    """A layer written in Python: a subclass of brew.Layer in a module that can be imported.

        layer { name: "mine" type: "Python" bottom: "x" top: "y" python_param { module: "my_layers" layer: "Doubler" } }

    Bottoms, tops:  as many as the class wants.
    module, layer   what to import, and the class in it.      param_str   text for the class, as its `param_str`.

    Its exceptions are passed on as they are, with a note (from Python 3.11 on) that names the layer and its place in the prototxt.

    Building a net imports the module, which runs it: read it first if it is not yours. `brew check`, `summary` and
    `draw_net` import it only with `-python`, `export` and `surgery` never; the shapes of its tops, and of the layers
    that depend on them, are then unknown. Modules of Python's standard library are refused, and so is a class that is not
    a subclass of brew.Layer.

    The working directory is on `sys.path`, as its first entry, only while the module is imported. Import other modules
    from there at the top of yours: an import within setup or forward finds them only if their folder is on PYTHONPATH.
    Relative imports within a package always work.

    Snapshots hold the layer's parameters. If its next forward depends on more than parameters and bottoms (a position in a
    list, a random generator), the class also defines snapshot_state() and restore_state(state); training that is stopped and
    resumed then ends with the same bits as training that was not. brew warns at the first snapshot if a layer without bottoms
    does not define them.

        class Shuffled(brew.Layer):
            def setup(self, bottom, top):
                self.rng, self.next = np.random.default_rng(1), 0
                self.order = self.rng.permutation(1000)
            def snapshot_state(self):
                return {"rng": self.rng.bit_generator.state, "order": self.order, "next": self.next}
            def restore_state(self, state):
                self.rng.bit_generator.state = state["rng"]
                self.order, self.next = state["order"], state["next"]

    snapshot_state() returns None, bool, int, float, str, bytes, numpy arrays and scalars, and lists, tuples and dicts of these,
    nested at most 32 deep; use arrays for long sequences of numbers. Any other type raises SnapshotError, which names the layer
    and the place within the state. The method is called between iterations and must not change the layer. Binary and HDF5
    snapshots hold the state; Caffe ignores it.

    restore_state(state) receives a copy of what was returned. It is called after setup() and before the weights are restored.
    If it raises, the restore fails with SnapshotError and changes nothing: layers that were called before get their former
    states back.

    If an exception ends an iteration of a solver, brew undoes the iteration: parameters with lr_mult 0, which forward may
    change, get their former values back. What a layer without bottoms, or with snapshot_state(), has done since the
    iteration began cannot be undone; the solver then refuses to continue until restore().
    """

    bottoms, tops = at_least(0), at_least(0)
    reshape_always = True
    writes_all = False
    user_code = True

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.require(self.context.imports, "its shapes are unknown: its module is not imported here",
                     "python_param.module")
        self.user: Any = import_class(self)()
        self.user.param_str, self.user.phase = self.param.python_param.param_str, self.phase
        if not hasattr(self.user, "blobs"):
            self.user.blobs = BlobVec()                   # its __init__ does not call ours
        with self.noted():
            self.user.setup(bottom, top)
        self.statistics = [k for k, spec in enumerate(self.param.param) if not spec.lr_mult]
        self.forwards = 0
        if self.forgets() or self.keeper() is not None:
            self.hidden_counter = "forwards"
        for i, stored in enumerate(self.param.blobs[:len(self.user.blobs)]):
            self.user.blobs[i].load(stored, f'blob {i} of layer "{self.name}"')

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Around the user's methods: exceptions that leave them say of which layer they are."""
        try:
            yield
        except Exception as e:
            place = locate(self.param)
            if hasattr(e, "add_note"):                              # from Python 3.11 on
                e.add_note(f'in layer "{self.name}" (type "Python"){f", {place}" if place else ""}')
            raise

    @property
    def blobs(self) -> Any:
        return self.user.blobs if hasattr(self, "user") else []

    @blobs.setter
    def blobs(self, blobs: Any) -> None:
        if hasattr(self, "user"):
            self.user.blobs[:] = blobs                          # shared parameters replace its own

    @property
    def shown(self) -> Any:
        return getattr(self, "user", self)

    def keeper(self) -> Any:
        user = getattr(self, "user", None)
        return user if hasattr(user, "snapshot_state") else None

    def forgets(self) -> bool:
        return self.keeper() is None and not self.param.bottom

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        with resting(), self.noted():
            self.user.reshape(bottom, top)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.forwards += 1
        with live(*bottom, *top, *self.blobs), resting(), self.noted():
            self.user.forward(bottom, top)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        with live(*bottom, *top, *self.blobs), resting(), self.noted():
            self.user.backward(top, propagate_down, bottom)


@contextmanager
def live(*blobs: Blob) -> Iterator[None]:
    """Within, arrays of these blobs that the user's layer took earlier show the present values, and what it writes to them counts."""
    for blob in blobs:
        blob.value.settle(entering=False)
        blob.gradient.settle(entering=False)
    yield
    for blob in blobs:
        blob.value.settle(entering=True)
        blob.gradient.settle(entering=True)
