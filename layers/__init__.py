"""The layers, one file for each family. Importing this package registers them all: this list is what there is."""
from __future__ import annotations

from . import accuracy as accuracy
from . import batch_norm as batch_norm
from . import clip as clip
from . import concat as concat
from . import convolution as convolution
from . import data as data
from . import dropout as dropout
from . import dummy_data as dummy_data
from . import eltwise as eltwise
from . import elu as elu
from . import euclidean_loss as euclidean_loss
from . import hdf5_data as hdf5_data
from . import image_data as image_data
from . import inner_product as inner_product
from . import input as input
from . import lrn as lrn
from . import memory_data as memory_data
from . import neuron as neuron
from . import pooling as pooling
from . import power as power
from . import prelu as prelu
from . import python as python
from . import reshape as reshape
from . import scale as scale
from . import silence as silence
from . import softmax as softmax
from . import split as split
