"""Networks cut into stages that run one after another, on different machines if need be.

The network is traced (`graphs`) and its operators, in the order in which they run, are cut into stretches. Whatever is
computed before a cut and used after it crosses as a named tensor: a residual connection over a cut is one tensor more.
A node cuts the network that it built itself; what both ends compare is the digest of a stage's description and state.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from decentral.errors import Untraceable, UserError
from decentral.models.attention import WRITTEN_OUT
from decentral.models.balance import Observation, Shown, balanced, observe
from decentral.models.description import describe
from decentral.models.graphs import (
    check_hooks,
    check_same,
    keeping_buffers,
    saved_state,
    saved_tensors,
    surrounded,
    trace,
)
from decentral.registry import nearest


@dataclass(frozen=True, slots=True)
class Port:
    """A tensor that a stage takes or gives, as it was for the example inputs; other batches have other sizes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class Stage(nn.Module):
    """A stretch of a network. Takes and gives one tensor, or several in the order of its ports.

    The last stage gives what the network gives. `description` is a text that is equal for equal graphs; `shared` names
    the tensors of its state that other stages hold too, each its own copy once they are on different machines.
    """

    def __init__(self, network: fx.GraphModule, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
        super().__init__()
        self.network = network
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.description = describe(network, [port.name for port in outputs])
        self.shared: frozenset[str] = frozenset()

    def forward(self, *values: Any) -> Any:
        """Tensors in the order of the ports, or one tuple of them, as the stage before gives it."""
        if len(values) == 1 and isinstance(values[0], tuple):
            values = values[0]
        return self.network(*values)

    def run(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same by names. Raises ValueError if these are not the stage's inputs."""
        names = [port.name for port in self.inputs]
        if set(tensors) != set(names):
            raise ValueError(f"the inputs are {', '.join(names)}, not {', '.join(sorted(tensors)) or 'nothing'}")
        found = [tensor for _, tensor in leaves(self.network(*(tensors[name] for name in names)))]
        return dict(zip((port.name for port in self.outputs), found, strict=True))

    def exact(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same in float64, for disputes. Raises UserError where it cannot be, ValueError for other inputs."""
        twin = copy.deepcopy(self).double()
        doubled = {name: each.double() if each.is_floating_point() else each for name, each in tensors.items()}
        try:
            with torch.no_grad():
                return twin.run(doubled)
        except RuntimeError as error:
            raise UserError(f"this part cannot be computed in float64 ({error})") from error

    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers under the names that they have in the whole network; fit for safetensors.

        Of tied ones, those after the first are copies, since no memory may stand in a file twice.
        """
        met: set[int] = set()
        state = saved_state(self.network)
        for name, tensor in state.items():
            if tensor.numel() and tensor.data_ptr() in met:
                state[name] = tensor.clone()
            met.add(tensor.data_ptr())
        return state

    def load(self, state: Mapping[str, Tensor]) -> None:
        """From a state of this stage or of the whole network. Raises ValueError for what is missing or misshapen."""
        own = saved_state(self.network)
        if missing := sorted(own.keys() - state.keys()):
            raise ValueError(f"the state lacks {missing[0]}")
        for name, tensor in own.items():
            if (tensor.shape, tensor.dtype) != (state[name].shape, state[name].dtype):
                given = f"{state[name].dtype} {list(state[name].shape)}"
                raise ValueError(f"{name} is {given}, not {tensor.dtype} {list(tensor.shape)}")
        for name, tensor in own.items():
            tensor.copy_(state[name])


def split(
    model: nn.Module,
    cuts: int | Sequence[str],
    *example_inputs: Tensor,
    single: bool = False,
    measured: bool = False,
) -> list[Stage]:
    """The network, as it is in evaluation mode, in stages; it is not changed, and they share its memory.

    `cuts`: names of modules, each the last that its stage computes (after its last call, where it is called more than
    once), in any order; or so many stages, balanced by cost (`balance`), `measured` on the example inputs or estimated
    from the graph. `single`: only one tensor may cross a cut. The stages are run on the example inputs, each on copies
    of what the one before gave, and must come to the same bits as the network (where torch's transformer encoders are
    written out: as its trace). Raises UserError for cuts that cannot be, Untraceable for networks that cannot be read.
    """
    if isinstance(cuts, str):
        raise UserError(f"cuts are a list of modules, or how many stages there are to be: [{cuts!r}]?")
    with torch.inference_mode(False), torch.no_grad(), keeping_buffers(model):
        twin = _twin(model)
        whole = trace(twin, len(example_inputs))
        check_same(whole.graph, trace(twin, len(example_inputs)).graph)
        course = _Course(whole, observe(whole, example_inputs, measured))
        if isinstance(cuts, int):
            ends = course.balanced(cuts, single)
        else:
            ends = course.named(cuts, {name for name, _ in model.named_modules() if name}, single)
        stages, answer = course.stages(ends, example_inputs)
        written_out = any(type(module) in WRITTEN_OUT for module in twin.modules())
        expected = (whole if written_out else twin)(*(example.clone() for example in example_inputs))
    if not _same_bits(expected, answer):
        raise Untraceable(
            f"{type(model).__name__}: its stages do not compute what it computes: it draws at random, or changes in "
            "place what another stage has a copy of"
        )
    held = [saved_tensors(stage.network) for stage in stages]
    holders = Counter(key for tensors in held for key in {id(tensor) for tensor in tensors.values()})
    for stage, tensors in zip(stages, held, strict=True):
        stage.shared = frozenset(name for name, tensor in tensors.items() if holders[id(tensor)] > 1)
    return stages


def leaves(structure: Any, name: str = "output") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a network's answer: `output`, or `output.0`, `output.logits` where it has parts."""
    if isinstance(structure, Tensor):
        yield name, structure
    elif isinstance(structure, Mapping):
        for key, part in structure.items():
            yield from leaves(part, f"{name}.{key}")
    elif isinstance(structure, tuple | list):
        for place, part in enumerate(structure):
            yield from leaves(part, f"{name}.{place}")
    elif structure is not None and not isinstance(structure, str | int | float | bool):
        raise Untraceable(f"the network answers with a {type(structure).__name__}, whose tensors have no names")


def _twin(model: nn.Module) -> nn.Module:
    """Modules of its own over the memory of the model's tensors. Raises Untraceable for what no trace would show."""
    check_hooks(model)
    for name, module in model.named_modules():
        if surrounded(module) and not any(
            map(is_lazy, module.parameters(recurse=False))
        ):  # those have hooks until built
            raise Untraceable(f"{name}: has hooks or a forward of its own, which may compute anything")
    own = {id(tensor): _beside(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, own).eval()


def _beside(tensor: Tensor) -> Tensor:
    """Another tensor over the same memory, which may go to another device or become another type by itself."""
    if is_lazy(tensor):
        return tensor
    view = tensor.detach()
    return nn.Parameter(view, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else view


class _Course:
    """The operators of a network in order, and what crosses between any two of them."""

    def __init__(self, whole: fx.GraphModule, seen: Mapping[fx.Node, Observation]) -> None:
        self._whole, self._seen = whole, seen
        self._parts_beside_their_whole()
        self._inputs = [node for node in whole.graph.nodes if node.op == "placeholder"]
        self._steps = [n for n in whole.graph.nodes if n.op not in ("placeholder", "get_attr", "output")]
        place = {node: number for number, node in enumerate(self._steps, 1)}
        self._values = [*self._inputs, *self._steps]
        self._made = {node: place.get(node, 0) for node in self._values}
        """After how many steps a value is there ..."""
        self._needed = {
            node: max((place.get(user, len(place) + 1) for user in node.users), default=0) for node in self._values
        }
        """... and the step that needs it last: one more than there are for what the network answers."""

    def _parts_beside_their_whole(self) -> None:
        """A part of a structure is taken right after it was computed: then it crosses cuts, and not the whole."""
        for node in list(self._whole.graph.nodes):
            if node.target is getitem and isinstance(node.args[0], fx.Node) and isinstance(node.args[1], int):
                source = node.args[0]
                if source.op not in ("placeholder", "get_attr") and not isinstance(self._seen[source].value, Shown):
                    source.append(node)

    def crossing(self, end: int) -> list[fx.Node]:
        """Values that cross a cut after so many steps, in the order in which they are made."""
        return [node for node in self._values if self._made[node] <= end < self._needed[node]]

    # ---- where to cut ---------------------------------------------------------------------------------------------

    def named(self, cuts: Sequence[str], known: Set[str], single: bool) -> list[int]:
        """After how many steps each stage ends; `known`: modules of the network. Raises UserError."""
        reached = self._reached()
        ends: dict[int, str] = {}
        for cut in cuts:
            if cut not in reached:
                why = "is never reached in evaluation mode" if cut in known else "is no module of this network"
                raise UserError(f"the cut {cut!r} {why}; {nearest(cut, reached)}")
            end = reached[cut]
            if end in ends:
                raise UserError(f"the cuts {ends[end]!r} and {cut!r} are at the same place")
            if end == len(self._steps):
                raise UserError(f"the cut {cut!r}: nothing is computed after it")
            self._check(cut, end, reached, single)
            ends[end] = cut
        return [*sorted(ends), len(self._steps)]

    def balanced(self, count: int, single: bool) -> list[int]:
        """The same for so many stages of equal cost. Raises UserError."""
        crossing = [self.crossing(end) for end in range(len(self._steps) + 1)]
        possible = [
            (len(nodes) == 1 if single else nodes != []) and all(_portable(self._seen[node].value) for node in nodes)
            for nodes in crossing
        ]
        sizes = [sum(self._seen[node].bytes for node in nodes) for nodes in crossing]
        return balanced(count, [self._seen[node].seconds for node in self._steps], sizes, possible)

    def _check(self, cut: str, end: int, reached: Mapping[str, int], single: bool) -> None:
        crossing = self.crossing(end)
        if not crossing:
            raise UserError(f"the cut {cut!r}: nothing crosses there, since what comes after depends on no input")
        for node in crossing:
            if not _portable(value := self._seen[node].value):
                raise UserError(f"the cut {cut!r}: {node.name} crosses there, a {type(value).__name__} of tensors")
        if single and len(crossing) > 1:
            names = ", ".join(node.name for node in crossing)
            alone = [name for name, at in reached.items() if at < len(self._steps) and len(self.crossing(at)) == 1]
            near = sorted(alone, key=lambda name: (abs(reached[name] - end), name))[:2]
            offer = f"one does after {' and after '.join(map(repr, near))}" if near else "nowhere does one alone"
            raise UserError(
                f"the cut {cut!r}: {len(crossing)} tensors cross there ({names}), as in the middle of a residual "
                f"connection, and only one may; {offer}"
            )

    def _reached(self) -> dict[str, int]:
        """After how many steps each module has computed all that it does."""
        ends: dict[str, int] = {}
        for number, node in enumerate(self._steps, 1):
            calls = {path.partition("@")[0] for path in node.meta.get("nn_module_stack") or {}}
            for path in calls | ({str(node.target)} if node.op == "call_module" else set()):
                parts = path.split(".")
                ends |= {".".join(parts[:depth]): number for depth in range(1, len(parts) + 1)}
        return ends

    # ---- cutting --------------------------------------------------------------------------------------------------

    def stages(self, ends: Sequence[int], inputs: Sequence[Tensor]) -> tuple[list[Stage], Any]:
        """A stage for each end, and what comes of the inputs. A stage copies those of its inputs that it overwrites."""
        stages: list[Stage] = []
        passed: Any = tuple(inputs)
        for start, end in pairwise([0, *ends]):
            given = passed if isinstance(passed, tuple) else (passed,)
            stage, copies = self._stage(start, end), [_arrived(tensor) for tensor in given]
            passed = stage(*copies)
            if changed := {port.name for port, one in zip(stage.inputs, copies, strict=True) if one._version}:
                stage = self._stage(start, end, changed)
                passed = stage(*map(_arrived, given))
            stages.append(stage)
        return stages, passed

    def _stage(self, start: int, end: int, copied: Set[str] = frozenset()) -> Stage:
        """The steps after `start` up to `end`."""
        graph, here = fx.Graph(), dict[fx.Node, fx.Node]()
        taken = self.crossing(start) if start else self._inputs
        for node in taken:
            given = graph.placeholder(node.name)
            if node.name in copied:
                given = graph.call_method("clone", (given,))
            here[node] = _received(graph, given, self._seen[node].value) if start else given

        def local(node: fx.Node) -> fx.Node:
            if node not in here:  # a tensor of the network: every stage has those that it uses
                here[node] = graph.node_copy(node)
            return here[node]

        for node in self._steps[start:end]:
            here[node] = graph.node_copy(node, local)
        if end < len(self._steps):
            crossing = self.crossing(end)
            sent = tuple(_sent(graph, local(node), self._seen[node].value) for node in crossing)
            outputs = [self._port(node) for node in crossing]
            graph.output(sent if len(sent) > 1 else sent[0])
        else:
            answer = next(node.args[0] for node in self._whole.graph.nodes if node.op == "output")
            shown = fx.node.map_arg(answer, lambda node: fx.node.map_aggregate(self._seen[node].value, _like))
            outputs = [Port(name, like.dtype, tuple(like.shape)) for name, like in leaves(shown)]
            graph.output(fx.node.map_arg(answer, local))
        network = fx.GraphModule(self._whole, graph, "Stage")
        return Stage(network, [self._port(node) for node in taken], outputs).eval()

    def _port(self, node: fx.Node) -> Port:
        like = _like(self._seen[node].value)
        like = like if isinstance(like, Tensor) else torch.tensor(like)
        return Port(node.name, like.dtype, tuple(like.shape))


def _portable(value: Any) -> bool:
    """Whether it can cross: a tensor, or numbers that fit into one."""
    if isinstance(value, tuple | list):
        return all(type(part) is int for part in value)
    return isinstance(value, Shown | bool | int | float)


def _sent(graph: fx.Graph, node: fx.Node, value: Any) -> fx.Node:
    """What crosses is a tensor."""
    return node if isinstance(value, Shown) else graph.call_function(torch.tensor, (node,))


def _received(graph: fx.Graph, node: fx.Node, value: Any) -> fx.Node:
    """What it was before it was sent."""
    if isinstance(value, Shown):
        return node
    if not isinstance(value, tuple | list):
        return graph.call_method("item", (node,))
    numbers = graph.call_method("tolist", (node,))
    return graph.call_function(torch.Size, (numbers,)) if isinstance(value, tuple) else numbers


def _arrived(tensor: Tensor) -> Tensor:
    """A copy as it comes over the wire."""
    return tensor.clone(memory_format=torch.contiguous_format)


def _like(value: Any) -> Any:
    return torch.empty(value.shape, dtype=value.dtype, device="meta") if isinstance(value, Shown) else value


def _same_bits(expected: Any, found: Any) -> bool:
    """Of all tensors; those that are not numbers are equal to themselves."""
    one, other = dict(leaves(expected)), dict(leaves(found))
    return one.keys() == other.keys() and all(
        torch.equal(tensor.isnan(), other[name].isnan()) and torch.equal(tensor.nan_to_num(), other[name].nan_to_num())
        for name, tensor in one.items()
    )
