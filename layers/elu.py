"""ELU, Swish and BNLL: smooth relatives of ReLU."""
from __future__ import annotations

from ..engine.layer import register
from .neuron import FunctionLayer


@register("ELU")
class ELULayer(FunctionLayer):
    """x where it is positive, else alpha (e^x - 1) (Clevert et al. 2016).

        layer { name: "elu1" type: "ELU" bottom: "conv1" top: "conv1" elu_param { alpha: 1 } }

    Bottom, top:  any shape.      alpha   default 1.
    """

    function = "elu"

    def constants(self) -> tuple[float, float, float]:
        return self.param.elu_param.alpha, 0.0, 0.0


@register("Swish")
class SwishLayer(FunctionLayer):
    """x sigmoid(beta x) (Ramachandran et al. 2017).

        layer { name: "swish1" type: "Swish" bottom: "conv1" top: "conv1" swish_param { beta: 1 } }

    Bottom, top:  any shape.      beta   default 1.
    """

    function = "swish"

    def constants(self) -> tuple[float, float, float]:
        return self.param.swish_param.beta, 0.0, 0.0


@register("BNLL")
class BNLLLayer(FunctionLayer):
    """log(1 + e^x), the binomial normal log likelihood, also called softplus.

        layer { name: "bnll1" type: "BNLL" bottom: "x" top: "y" }

    Bottom, top:  any shape.
    """

    function, keeps_zero = "bnll", False
