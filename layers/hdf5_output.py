"""HDF5Output: blobs written into a file."""
from __future__ import annotations

from pathlib import Path

from ..engine.blob import Blob
from ..engine.errors import DataError, Position, SnapshotError
from ..engine.files import check_writable
from ..engine.layer import Layer, exactly, register

TO_BEGIN: set[str] = set()               # files to truncate at the next forward: a net that names them has been built


@register("HDF5Output")
class HDF5OutputLayer(Layer):
    """Writes its bottoms into an HDF5 file, as the datasets "data" and "label"; each forward appends its rows.

        layer { name: "out" type: "HDF5Output" bottom: "fc7" bottom: "label" hdf5_output_param { file_name: "features.h5" } }

    Bottoms:  (N, ...) and (N, ...).
    file_name   the file. The first forward after the net was built truncates it; a file that is not HDF5 is refused.
                (Caffe truncates when the net is built, and fails at its second forward.)
    """

    bottoms, tops = exactly(2), exactly(0)
    bound = "it writes a file, which a copy would begin anew"

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        import h5py
        self.path = self.param.hdf5_output_param.file_name
        self.require(self.path, "file_name must be given", "hdf5_output_param")
        try:
            check_writable(self.path)
        except SnapshotError as e:
            raise DataError(f'{e}\n  written by layer "{self.name}"') from None
        if Path(self.path).exists() and not h5py.is_hdf5(self.path):
            raise DataError(f'is not an HDF5 file: layer "{self.name}" does not overwrite it', Position(self.path))
        if not self.dry:
            TO_BEGIN.add(str(Path(self.path).absolute()))

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.require(bool(bottom[0].shape) and bool(bottom[1].shape) and bottom[0].shape[0] == bottom[1].shape[0], f"both bottoms need the same number of items: the shapes are {bottom[0].shape} and {bottom[1].shape}", "bottom")

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        import h5py
        arrays = [blob.value.plain() for blob in bottom]
        place = str(Path(self.path).absolute())
        try:
            with h5py.File(self.path, "w" if place in TO_BEGIN else "a") as file:
                TO_BEGIN.discard(place)
                for name, array in zip(("data", "label"), arrays):
                    if name not in file:
                        file.create_dataset(name, data=array, maxshape=(None, *array.shape[1:]), chunks=True)
                    else:
                        rows, shape = file[name].shape[0], file[name].shape[1:]
                        if array.shape[1:] != shape:                  # h5py would repeat values
                            raise DataError(f'its dataset "{name}" has rows of shape {shape}; '
                                            f'layer "{self.name}" now has {array.shape[1:]}', Position(self.path))
                        file[name].resize(rows + len(array), axis=0)
                        file[name][rows:] = array
        except (OSError, TypeError) as e:
            raise DataError(f"cannot be written by layer \"{self.name}\": {e}", Position(self.path)) from None

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        for blob, down in zip(bottom, propagate_down):
            if down:
                blob.gradient.clear()
