"""From a net as declared to one that can be built: choose the layers of a state, insert splits, plan the gradients."""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from google.protobuf import text_format

from ..proto import brew_pb2 as pb
from .errors import fail, nearest, require
from .layer import Layer


def merged_state(*states: pb.NetState) -> pb.NetState:
    """Several NetStates as one: later ones win, stages add up."""
    result = pb.NetState()
    for state in states:
        result.MergeFrom(state)
    return result


def meets(state: pb.NetState, rule: pb.NetStateRule) -> bool:
    """Whether every part of `rule` that is given holds for `state`."""
    return ((not rule.HasField("phase") or rule.phase == state.phase)
            and (not rule.HasField("min_level") or state.level >= rule.min_level)
            and (not rule.HasField("max_level") or state.level <= rule.max_level)
            and all(stage in state.stage for stage in rule.stage)
            and not any(stage in state.stage for stage in rule.not_stage))


def filter_layers(net: pb.NetParameter) -> pb.NetParameter:
    """A copy of `net` with the layers that its `state` keeps, each with its phase."""
    kept = pb.NetParameter()
    kept.CopyFrom(net)
    kept.ClearField("layer")
    for layer in net.layer:
        require(not (layer.include and layer.exclude), layer, "has either include or exclude rules, not both", "include")
        keep = any(meets(net.state, r) for r in layer.include) if layer.include else not any(meets(net.state, r) for r in layer.exclude)
        if keep:
            new = kept.layer.add()
            new.CopyFrom(layer)
            if not new.HasField("phase"):
                new.phase = net.state.phase
    return kept


def left_out(net: pb.NetParameter) -> dict[str, str]:
    """{blob: the layer that would make it, and the rules for which it is not there} of the layers that filter_layers
    leaves out of `net`."""
    kept = {layer.name for layer in filter_layers(net).layer}
    found: dict[str, str] = {}
    for layer in net.layer:
        if layer.name not in kept:
            rules, kind = (layer.include, "include") if layer.include else (layer.exclude, "exclude")
            text = " ".join(f"{kind} {{ {text_format.MessageToString(rule, as_one_line=True)} }}" for rule in rules)
            found.update(dict.fromkeys(layer.top, f'layer "{layer.name}" makes it, and is left out here: {text}'))
    return found


def check_connections(net: pb.NetParameter, elsewhere: Mapping[str, str] = {}) -> list[Any]:
    """What is wrong between layers, each as (layer, message, field, blob): bottoms nobody makes, tops that two make.
    `elsewhere`: left_out() of the whole net."""
    problems: list[Any] = []
    made: dict[str, str | None] = {}
    for layer in net.layer:
        for i, name in enumerate(layer.bottom):
            if name not in made:
                hint = elsewhere.get(name) or f'blobs made so far: {", ".join(made) or "none"}{nearest(name, made)}'
                problems.append((layer, f'reads blob "{name}" (bottom {i}), which no layer above it makes\n  {hint}',
                                 f"bottom[{i}]", name))
                made[name] = None
        for i, name in enumerate(layer.top):
            in_place = i < len(layer.bottom) and layer.bottom[i] == name
            if name in made and not in_place and name != "(automatic)":
                other = f' "{made[name]}"' if made[name] else ""
                problems.append((layer, f'makes blob "{name}", which layer{other} above makes too'
                                 "\n  only a layer that reads a blob as the same bottom may write it in place", f"top[{i}]", name))
            made[name] = layer.name
    return problems


def insert_splits(net: pb.NetParameter, elsewhere: Mapping[str, str] = {}) -> pb.NetParameter:
    """A copy of `net` where every blob read more than once has a Split layer, with Caffe's names for it. `elsewhere`:
    left_out() of the whole net, for the errors."""
    for layer, message, field, _ in check_connections(net, elsewhere):
        fail(layer, message, field)
    producer: dict[str, tuple[int, int]] = {}                   # blob -> (layer, top) that made it last
    source: dict[tuple[int, int], tuple[int, int]] = {}         # (layer, bottom) -> what it reads
    uses: Counter[tuple[int, int]] = Counter()
    for i, layer in enumerate(net.layer):
        for j, name in enumerate(layer.bottom):
            source[i, j] = producer[name]
            uses[producer[name]] += 1
        for j, name in enumerate(layer.top):
            producer[name] = (i, j)
        for j, weight in enumerate(layer.loss_weight):          # a loss uses its top, too
            if weight and j < len(layer.top):
                uses[i, j] += 1
    for i, layer in enumerate(net.layer):                       # what is rewritten must have no other reader
        for j, name in enumerate(layer.bottom):
            in_place = j < len(layer.top) and layer.top[j] == name
            writer, number = net.layer[source[i, j][0]], source[i, j][1]
            weighted = number < len(writer.loss_weight) and writer.loss_weight[number]
            reader = (f'the loss counts with loss_weight {weighted:g} of layer "{writer.name}"' if weighted
                      else "another bottom reads as it was")
            require(not in_place or uses[source[i, j]] == 1, layer, f'rewrites blob "{name}" in place, which {reader}'
                    "\n  give the top another name", f"top[{j}]")
    result = pb.NetParameter()
    result.CopyFrom(net)
    result.ClearField("layer")
    next_use: Counter[tuple[int, int]] = Counter()
    for i, layer in enumerate(net.layer):
        new = result.layer.add()
        new.CopyFrom(layer)
        for j, name in enumerate(layer.bottom):
            maker = source[i, j]
            if uses[maker] > 1:
                new.bottom[j] = _split_top(name, net.layer[maker[0]].name, maker[1], next_use[maker])
                next_use[maker] += 1
        for j, name in enumerate(layer.top):
            if uses[i, j] > 1:
                split = result.layer.add(name=f"{name}_{layer.name}_{j}_split", type="Split", bottom=[name], phase=new.phase)
                split.position.CopyFrom(layer.position)
                split.top.extend(_split_top(name, layer.name, j, k) for k in range(uses[i, j]))
                if j < len(layer.loss_weight) and layer.loss_weight[j]:
                    split.loss_weight.extend([layer.loss_weight[j]] + [0] * (uses[i, j] - 1))
                    new.loss_weight[j] = 0
                    next_use[i, j] += 1
    return result


def leave_out_unknown(net: pb.NetParameter, is_unknown: Callable[[pb.LayerParameter], bool]
                      ) -> tuple[pb.NetParameter, list[pb.LayerParameter]]:
    """(a copy of `net` without the layers whose shapes cannot be known, those layers): the ones for which `is_unknown`
    is true, and all that depend on them."""
    known = pb.NetParameter()
    known.CopyFrom(net)
    known.ClearField("layer")
    blobs: set[str] = set()                                     # of unknown shape
    unknown = []
    for layer in net.layer:
        if is_unknown(layer) or blobs.intersection(layer.bottom):
            unknown.append(layer)
            blobs.update(layer.top)
        else:
            known.layer.add().CopyFrom(layer)
    return known, unknown


def _split_top(blob: str, layer: str, top: int, k: int) -> str:
    return f"{blob}_{layer}_{top}_split_{k}"


def plan_backward(layers: Sequence[Layer], bottoms: list[list[int]], tops: list[list[int]], blobs: int,
                  force: bool) -> tuple[list[bool], list[list[bool]]]:
    """(which layers run backward, and for each its propagate_down). Needs `param_specs` of every layer for its rates.

    `bottoms` and `tops` hold blob numbers; a layer in place has the same number in both.
    """
    needs = [False] * blobs
    run = []
    down = []
    for layer, ins, outs in zip(layers, bottoms, tops):
        wanted = list(layer.param.propagate_down)
        require(len(wanted) in (0, len(ins)), layer.param, f"propagate_down is given for each of the {len(ins)} bottoms or not at all, found {len(wanted)}", "propagate_down")
        flags = wanted or [needs[b] and layer.reads_values for b in ins]
        layer.param_propagate_down = [spec.lr_mult != 0 for spec in layer.param_specs]
        need = any(flags) or any(layer.param_propagate_down)
        down.append(flags)
        run.append(need)
        for b in outs:
            needs[b] = need
    # Backwards: what no loss depends on is left out, and what propagate_down: false cuts off.
    contributes, skipped = set(), set()
    for i in reversed(range(len(layers))):
        layer, ins, outs = layers[i], bottoms[i], tops[i]
        loss = any(layer.loss_weights)
        reached = loss or any(b in contributes for b in outs)
        cut = bool(outs) and all(b in skipped for b in outs) and not loss
        if not reached or cut:
            run[i] = run[i] and force
        for j, b in enumerate(ins):
            down[i][j] = down[i][j] and (run[i] or force)
            if reached and not cut and run[i]:
                contributes.add(b)
            if not down[i][j]:
                skipped.add(b)
            else:
                skipped.discard(b)
    if force:
        for i, layer in enumerate(layers):
            run[i] = True
            down[i] = [layer.may_force_backward(j) for j in range(len(bottoms[i]))]
            layer.param_propagate_down = [True] * len(layer.blobs)
    return run, down


