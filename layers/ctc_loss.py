"""CTCLoss and its decoder: sequences with labels that say what comes, but not when."""
from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..engine.blob import Blob
from ..engine.layer import Layer, between, item_rows, register
from .loss import LossLayer
from .whole_numbers import FOREIGN, refuse, whole_numbers


@register("CTCLoss", "CtcLoss", "WarpCTCLoss")
class CTCLossLayer(LossLayer):
    """Connectionist temporal classification: minus the logarithm of the probability of all ways to write the label in T
    steps, with blanks between and symbols repeated; the mean over N sequences (Graves et al. 2006, section 4).

        layer { name: "loss" type: "CTCLoss" bottom: "scores" bottom: "label" top: "loss" ctc_loss_param { blank_label: 0 } }

    Bottoms:  scores (T, N, C) before a softmax, or (T N, ..., C) with time_step T; labels (N, L), padded with the blank or with
              numbers below 0, which get no gradient; optionally how many of the T steps count, (N).
    Tops:     the loss, a scalar; optionally each sequence's loss (N).

    blank_label   the class that means "nothing", default 0.      time_step, alphabet_size   T and C, checked if given.

    A label that does not fit into its steps has the loss 0 and no gradient, as in Baidu's warp-ctc.
    """

    compared = 3
    bottoms = between(2, 3)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        p, shape = self.param.ctc_loss_param, bottom[0].shape
        if p.time_step and len(shape) != 3:
            rows = shape[0] if shape else 0
            self.require(rows % p.time_step == 0, f"time_step {p.time_step} does not divide the {rows} rows of the scores", "ctc_loss_param.time_step")
            shape = (p.time_step, rows // p.time_step, prod(shape[1:]))
        self.require(len(shape) == 3, f"scores need the shape (T, N, C), found {bottom[0].shape}", "bottom")
        self.require(p.time_step in (0, shape[0]), f"time_step is {p.time_step}; the scores have {shape[0]} steps", "ctc_loss_param.time_step")
        self.require(p.alphabet_size in (0, shape[2]), f"alphabet_size is {p.alphabet_size}; the scores have {shape[2]} classes", "ctc_loss_param.alphabet_size")
        self.require(0 <= p.blank_label < shape[2], f"blank_label must be one of the {shape[2]} classes, found {p.blank_label}", "ctc_loss_param.blank_label")
        steps, sequences, _ = self.view = shape
        self.require(bottom[1].shape[:1] == (sequences,), f"labels need the shape ({sequences}, L), found {bottom[1].shape}", "bottom[1]")
        self.require(len(bottom) == 2 or bottom[2].count == sequences, f"there are {sequences} sequences and {bottom[-1].count} numbers of steps", "bottom[2]")
        self.set_items(bottom, top, (sequences,))
        longest = max(prod(bottom[1].shape[1:]), 1)
        self.work = self.device.empty(sequences * 2 * steps * (2 * longest + 1))
        self.gradients = self.device.empty(bottom[0].count).reshape(shape)

    def read_labels(self, bottom: list[Blob]) -> tuple[np.ndarray, np.ndarray]:
        """(labels (N, L) with the symbols at the front, how many there are): on the host, as they are few."""
        steps, sequences, classes = self.view
        values = bottom[1].value.read().reshape(item_rows(bottom[1].shape))
        values = values.get() if hasattr(values, "get") else values
        labels = whole_numbers(np, values)
        symbols = (labels >= 0) & (labels != self.param.ctc_loss_param.blank_label)
        refuse(self, (labels >= classes) | (labels == FOREIGN), values, f"a label has the symbol {{value}}; there are {classes} classes", "bottom[1]")
        order = np.argsort(~symbols, axis=1, kind="stable")
        return np.take_along_axis(labels, order, 1).astype(np.int32), symbols.sum(1).astype(np.int32)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        xp, (steps, sequences, classes) = self.device.xp, self.view
        labels, lengths = self.read_labels(bottom)
        counted = xp.full(sequences, steps, np.int32)
        if len(bottom) > 2:
            values = bottom[2].value.read().reshape(-1)
            counted = whole_numbers(xp, values)
            refuse(self, (counted < 0) | (counted > steps), values, f"a sequence cannot have {{value}} of {steps} steps", "bottom[2]")
            counted = counted.astype(np.int32)
        losses = self.device.empty(sequences)
        self.k.ctc(bottom[0].value.read().reshape(self.view), xp.asarray(labels), xp.asarray(lengths), counted, losses, self.gradients, self.work, self.param.ctc_loss_param.blank_label)
        self.finish(bottom, top, losses, sequences)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.refuse(propagate_down)
        if propagate_down[0]:
            bottom[0].gradient.write().reshape(self.view)[...] = self.gradients * self.slope(bottom, top)


@register("CTCGreedyDecoder", "CTCDecoder")
class CTCGreedyDecoderLayer(Layer):
    """The best class of each step, repetitions merged and blanks left out (Graves et al. 2006, section 3.2).

        layer { name: "result" type: "CTCGreedyDecoder" bottom: "scores" top: "result" ctc_decoder_param { blank_index: 0 } }

    Bottoms:  scores (T, N, C); optionally labels (N, L), padded with the blank or numbers below 0.
    Tops:     symbols (N, T), padded with -1; with labels, optionally the share of sequences that are wholly right.
    blank_index   default 0.      ctc_merge_repeated   default true.
    """

    bottoms, tops, in_place = between(1, 2), between(1, 2), False

    def may_force_backward(self, bottom: int) -> bool:
        return False

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[0].shape
        fits = len(shape) == 3 and shape[2] > 0
        self.require(fits, f"scores need the shape (T, N, C), C at least 1; found {shape}", "bottom")
        self.require(len(top) == 1 or len(bottom) == 2, "the second top compares with labels, a second bottom", "top")
        self.require(len(bottom) == 1 or bottom[1].shape[:1] == (shape[1],), f"labels need the shape ({shape[1]}, L)", "bottom[-1]")
        top[0].reshape(shape[1], shape[0])
        if len(top) > 1:
            top[1].reshape()

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        xp, p = self.device.xp, self.param.ctc_decoder_param
        best = bottom[0].value.read().argmax(2).T                           # (N, T)
        keep = best != p.blank_index
        if p.ctc_merge_repeated:
            keep[:, 1:] &= best[:, 1:] != best[:, :-1]
        found = self._front(best, keep)
        top[0].value.write()[...] = found
        if len(top) > 1:
            labels = whole_numbers(xp, bottom[1].value.read().reshape(item_rows(bottom[1].shape)))
            wanted = self._front(labels, (labels >= 0) & (labels != p.blank_index))
            width = max(found.shape[1], wanted.shape[1])
            padded = [xp.pad(a, ((0, 0), (0, width - a.shape[1])), constant_values=-1) for a in (found, wanted)]
            top[1].value.write()[...] = (padded[0] == padded[1]).all(1).sum() / max(len(found), 1)

    def _front(self, values: Any, keep: Any) -> Any:
        """Kept values at the front of each row, -1 behind."""
        xp = self.device.xp
        rank = xp.where(keep, 0, values.shape[1]) + xp.arange(values.shape[1])
        return xp.take_along_axis(xp.where(keep, values, -1), xp.argsort(rank, axis=1), 1)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.require(not any(propagate_down), "a decoder has no gradient; put propagate_down: false here", "propagate_down")
