"""Tensors in the body of a request, and what else it says: JSON, .npy or safetensors, each bounded and without code.

    application/json            {"inputs": [[...]] or {name: [[...]]}, "dtype": "float32" or "int64", "policy": {...},
                                "receipt": "id" or "base64"}; all but `inputs` may be left out
    application/x-npy           one array, as numpy.save writes it; `policy` (JSON) and `receipt` are in the query
    application/safetensors     named tensors, as safetensors writes them; a single one may have any name

Floats become float32, which models are served in; integers and truth values stay what they are.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from decentral.errors import UserError

JSON, NPY, SAFETENSORS = "application/json", "application/x-npy", "application/safetensors"
MEDIA = (JSON, NPY, SAFETENSORS)
DTYPES = {"float32": np.float32, "int64": np.int64}
ID, BASE64 = "id", "base64"
"""How a receipt is returned: by the name under which it can be had, or beside that whole."""
MOST_HEADER = 10_000
HEADER = re.compile(
    rb"\{'descr': '(\|[biu]1|[<>](?:[iu][248]|f[248]))', 'fortran_order': (True|False), "
    rb"'shape': \(((?:[0-9]{1,18}(?:, ?[0-9]{1,18})*,?)?)\), \}\s*"
)
"""Of a .npy file with truth values, integers or floats, as `numpy.save` writes it (its format, versions 1 and 2)."""


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """What is asked, of whom (`policy`, as it was written), and how the receipt is to come."""

    inputs: Tensor | Mapping[str, Tensor]
    policy: Mapping[str, Any] = field(default_factory=dict)
    receipt: str = ID


def read_body(media: str, content: bytes, query: Mapping[str, str]) -> Body:
    """Raises UserError for what is not of the form above. Blocking, for as long as it takes to read the numbers."""
    if media == JSON:
        return _read_json(content)
    policy = _parsed(query["policy"].encode(), "policy") if "policy" in query else {}
    read = {NPY: _read_npy, SAFETENSORS: _read_safetensors}[media]
    return Body(read(content), _table(policy), _way(query.get("receipt", ID)))


def _read_json(content: bytes) -> Body:
    found = _table(_parsed(content, "the body"), "the body")
    if unknown := found.keys() - {"inputs", "dtype", "policy", "receipt"}:
        raise UserError(f"{min(unknown)}: unknown key; the keys are inputs, dtype, policy and receipt")
    if "inputs" not in found:
        raise UserError("inputs: are missing")
    dtype = found.get("dtype", "float32")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UserError(f"dtype: must be one of {', '.join(DTYPES)}, not {dtype!r}")
    given = found["inputs"]
    if isinstance(given, dict):
        inputs: Tensor | dict[str, Tensor] = {name: _numbers(values, name, dtype) for name, values in given.items()}
    else:
        inputs = _numbers(given, "inputs", dtype)
    return Body(inputs, _table(found.get("policy", {})), _way(found.get("receipt", ID)))


def _parsed(text: bytes, what: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # also what is no UTF-8
        raise UserError(f"{what}: is no JSON that can be read ({error})") from error


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _table(value: object, what: str = "policy") -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{what}: must be an object, not {type(value).__name__}")
    return value


def _way(value: object) -> str:
    if value not in (ID, BASE64):
        raise UserError(f"receipt: must be {ID!r} or {BASE64!r}, not {value!r}")
    return str(value)


def _numbers(values: object, name: str, dtype: str) -> Tensor:
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{name}: is no array ({error})") from error
    whole = DTYPES[dtype] is np.int64
    if array.dtype.kind not in ("iu" if whole else "iuf") or array.dtype == np.uint64:
        raise UserError(f"{name}: must be {'whole ' if whole else ''}numbers, all lists of one length")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=DTYPES[dtype]))


def _read_npy(content: bytes) -> Tensor:
    """What the header announces has to be what there is: numpy itself would make room for anything first."""
    start = 8 + {b"\x93NUMPY\1\0": 2, b"\x93NUMPY\2\0": 4}.get(content[:8], 0)
    end = start + int.from_bytes(content[8:start], "little")
    if not 8 < start < end <= min(len(content), start + MOST_HEADER):
        raise UserError("the body: is no .npy file that can be read")
    if (header := HEADER.fullmatch(content[start:end])) is None:
        raise UserError("the body: its header is not one that numpy.save writes for numbers")
    dtype, shape = np.dtype(header[1].decode()), tuple(map(int, re.findall(rb"[0-9]+", header[3])))
    if dtype.itemsize * math.prod(shape) != len(content) - end:
        raise UserError(f"the body: holds {len(content) - end} bytes, which are no array of {dtype} and shape {shape}")
    array = np.frombuffer(content, dtype, offset=end).reshape(shape, order="F" if header[2] == b"True" else "C")
    return _plain(torch.from_numpy(np.array(array, dtype.newbyteorder("="), order="C")))


def _read_safetensors(content: bytes) -> Tensor | dict[str, Tensor]:
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, TypeError) as error:
        raise UserError(f"the body: is no safetensors file that can be read ({error})") from error
    plain = {name: _plain(tensor) for name, tensor in tensors.items()}
    return next(iter(plain.values())) if len(plain) == 1 else plain


def _plain(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
