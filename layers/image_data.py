"""ImageData: batches of image files named in a list."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from ..engine.blob import Blob
from ..engine.errors import DataError, Position, read_bytes
from ..engine.layer import Layer, exactly, register
from ..engine.random import words
from ..proto import find_file
from .decode import read_image
from .prefetch import BatchLayerState, Prefetcher
from .samplers import Sequential, Shuffled, shuffles
from .transformer import Normalize, Transformer


def read_list(file: str, reader: str = "") -> list[tuple[str, int, int]]:
    """(path, label, number) of each line `path label` of a list; paths may have spaces. Raises DataError with the line that is
    wrong, and who the `reader` is."""
    lines = []
    for number, line in enumerate(read_bytes(file, "this list of images", DataError).decode("utf-8", "surrogateescape").splitlines(), 1):
        path, _, label = line.strip().rpartition(" ")
        try:
            lines += [(path.strip(), int(label), number)] if line.strip() else []
        except ValueError:
            raise DataError(f"a path, a space and a label are needed, found {line.strip()!r}{reader}", Position(file, number)) from None
        if line.strip() and not path.strip():
            raise DataError(f"a label stands alone: {line.strip()!r}{reader}", Position(file, number))
    if not lines:
        raise DataError(f"the list names no images{reader}", Position(file))
    return lines


@register("ImageData")
class ImageDataLayer(BatchLayerState, Layer):
    """Images from files and labels from a list, read ahead by threads.

        layer { name: "data" type: "ImageData" top: "data" top: "label" transform_param { crop_size: 227 }
                image_data_param { source: "train.txt" root_folder: "images/" batch_size: 32 new_height: 256 new_width: 256 } }

    Tops:  (batch_size, C, H, W), or the crop's size; and labels (batch_size).

    source        a text file, on each line a path (spaces allowed), a space and a label.
    root_folder   put before each path.      shuffle    a new order in each epoch.
    new_height, new_width   pixels to resize to (bilinear); both or neither.
    is_color      default true: three channels, BGR; false: one.
    rand_skip     begin at a random line below this.
    """

    bottoms, tops = exactly(0), exactly(2)

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.image_data_param
        self.require((p.new_height > 0) == (p.new_width > 0), "new_height and new_width are given together or not at all", "image_data_param")
        self.require(p.batch_size > 0, "batch_size must be more than 0", "image_data_param.batch_size")
        self.batch_size, self.new_size = p.batch_size, (p.new_width, p.new_height)
        self.source = find_file(p.source, self.param.position.file)
        self.lines = [(p.root_folder + path, label, line) for path, label, line in read_list(self.source, f'\n  read by layer "{self.name}"')]
        self.require(self.skip < len(self.lines), f"rand_skip {p.rand_skip} is more than the {len(self.lines)} lines there are", "image_data_param.rand_skip")
        self.transformer = Transformer(self)
        n = len(self.lines)
        sampler = Shuffled(n, p.batch_size, lambda: self.seed, shuffles(f"{self.name}/shuffle", n),
                           lambda: self.skip) if p.shuffle else Sequential(n, p.batch_size, lambda: self.skip)
        self.prefetcher = Prefetcher(self.shard(sampler), self._make, self.param.data_param.prefetch, workers=2)
        height, width, channels = self._load(int(sampler.draw(0)[0])).shape
        self.transformer.check(channels, height, width)
        top[0].reshape(self.batch_size, channels, *self.transformer.size(height, width))
        top[1].reshape(self.batch_size)

    @property
    def skip(self) -> int:
        """Where the first epoch begins. Not kept from setup(): restoring a snapshot changes the seed."""
        below = self.param.image_data_param.rand_skip
        return int(words(self.seed, f"{self.name}/skip", 0, 1)[0] % below) if below else 0

    def _load(self, number: int) -> np.ndarray:
        """The pixels (H, W, C) of one line's image, resized if asked."""
        import cv2
        path, _, line = self.lines[number]
        flag = cv2.IMREAD_COLOR if self.param.image_data_param.is_color else cv2.IMREAD_GRAYSCALE
        image = read_image(path, flag)
        if image is None:
            what = "is no image that can be read" if Path(path).is_file() else "does not exist"
            raise DataError(f"{path} {what}\n  read by layer \"{self.name}\"", Position(self.source, line))
        if all(self.new_size):
            image = cv2.resize(image, self.new_size, interpolation=cv2.INTER_LINEAR)
        return np.ascontiguousarray(image.reshape(*image.shape[:2], -1))

    def _make(self, batch: int, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, Normalize | None]:
        chosen = numbers.tolist()
        images: np.ndarray | None = None
        shape: tuple[int, ...] = ()
        for i, number in enumerate(chosen):
            image = self._load(number)
            if images is None:
                shape = image.shape
                self.transformer.check(shape[2], *shape[:2])
                kind = np.float32 if self.transformer.augments else np.uint8
                images = np.empty((self.batch_size, shape[2], *self.transformer.size(*shape[:2])), kind)
                crops = self.transformer.crops(self.batch_size, shape[0], shape[1], batch)
            if not self.transformer.alike(image.shape, shape):
                path, _, line = self.lines[number]
                raise DataError(f"{path} has {image.shape[:2]} pixels, the batch began with {shape[:2]}\n  set new_height and new_width, or batch_size: 1", Position(self.source, line))
            self.transformer.image(image, images, i, crops[i], batch)
        assert images is not None
        bytes_only = images.dtype == np.uint8
        normalize = self.transformer.normalize(crops, images, *shape[:2]) if bytes_only else None
        return images, np.array([self.lines[n][1] for n in chosen], np.float32), normalize

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        images, labels, normalize = self.prefetcher.next()
        top[0].reshape(*images.shape)
        top[0].value.adopt(images, normalize)
        top[1].value.adopt(labels)
