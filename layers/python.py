"""Python: layers that users write in Python."""
from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..engine.blob import Blob
from ..engine.layer import Layer, at_least, register


class ParameterList(list):  # type: ignore[type-arg]
    """The parameters of a layer, as pycaffe has them."""

    def add_blob(self, *shape: int) -> Blob:
        """Append a parameter of this shape, zeros to begin with."""
        self.append(Blob(shape))
        return self[-1]  # type: ignore[no-any-return]


class UserLayer:
    """The base class of layers that users write; exported as `brew.Layer`.

    Fill in setup(bottom, top), reshape(bottom, top), forward(bottom, top) and backward(top, propagate_down, bottom);
    bottom and top are lists of Blobs with data, diff, shape and reshape. `param_str` is the text from the prototxt, `phase`
    0 in TRAIN and 1 in TEST; parameters are made in setup with `self.blobs.add_blob(shape...)`. Arrays of bottoms and tops may
    be kept from one call to the next while their shapes stay; those of parameters move when a solver is built, so take them
    in each call.
    """

    param_str, phase = "", 0

    def __init__(self) -> None:
        self.blobs = ParameterList()

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None: ...
    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None: ...
    def forward(self, bottom: list[Blob], top: list[Blob]) -> None: ...
    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None: ...


@register("Python")
class PythonLayer(Layer):
    """A layer written in Python: a subclass of brew.Layer in a module that can be imported.

        layer { name: "mine" type: "Python" bottom: "x" top: "y" python_param { module: "my_layers" layer: "Doubler" } }

    Bottoms, tops:  as many as the class wants.
    module, layer   what to import, and the class in it.      param_str   text for the class, as its `param_str`.

    Its exceptions are passed on as they are.
    """

    bottoms, tops = at_least(0), at_least(0)
    reshape_always = True
    writes_all = False

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.python_param
        if "" not in sys.path:
            sys.path.insert(0, "")                              # modules beside the user's working directory
        try:
            module = importlib.import_module(p.module)
        except ModuleNotFoundError as e:
            if e.name != p.module.partition(".")[0] and e.name != p.module:
                raise
            self.require(False, f'there is no Python module "{p.module}"; it must lie in the working directory or on PYTHONPATH', "python_param.module")
        self.require(hasattr(module, p.layer), f'the module "{p.module}" has no class "{p.layer}"', "python_param.layer")
        self.user: Any = getattr(module, p.layer)()
        self.user.param_str, self.user.phase = p.param_str, self.phase
        if not hasattr(self.user, "blobs"):
            self.user.blobs = ParameterList()                   # its __init__ does not call ours
        self.user.setup(bottom, top)
        for i, stored in enumerate(self.param.blobs[:len(self.user.blobs)]):
            self.user.blobs[i].load(stored, f'blob {i} of layer "{self.name}"')

    @property
    def blobs(self) -> Any:
        return self.user.blobs if hasattr(self, "user") else []

    @blobs.setter
    def blobs(self, blobs: Any) -> None:
        if hasattr(self, "user"):
            self.user.blobs[:] = blobs                          # shared parameters replace its own

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.user.reshape(bottom, top)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        with live(*bottom, *top, *self.blobs):
            self.user.forward(bottom, top)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        with live(*bottom, *top, *self.blobs):
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
